"""The record of unowned accesses on an open bus."""

from __future__ import annotations

import logging
import threading

from ..address import Space
from ..errors import format_count

__all__ = ["UnownedAccesses"]

_logger = logging.getLogger("dbs_device")

# A guest can make as many unowned addresses as it likes: the host's memory for them is bounded.
_MAX_ADDRESSES = 4096


class UnownedAccesses:
    """Counts unowned accesses, and logs each address once.

    Attributes
    ----------
    count : int
        Number of accesses.
    """

    __slots__ = ("_addresses", "_lock", "count")

    def __init__(self) -> None:
        self.count = 0
        self._addresses: set[tuple[Space, int]] = set()
        self._lock = threading.Lock()

    def add(self, space: Space, address: int, size: int, is_write: bool) -> None:
        """Count an access; log it if it is the first at its address."""
        with self._lock:
            self.count += 1
            if (space, address) in self._addresses or len(self._addresses) >= _MAX_ADDRESSES:
                return
            self._addresses.add((space, address))
            is_last = len(self._addresses) == _MAX_ADDRESSES
        direction = "write" if is_write else "read"
        _logger.warning("unowned %s %s of %s at %#x", space, direction, format_count(size, "byte"), address)
        if is_last:
            _logger.warning("%d unowned addresses have been logged; others are only counted", _MAX_ADDRESSES)
