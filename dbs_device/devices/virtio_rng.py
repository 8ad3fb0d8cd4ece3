"""A source of random numbers on virtio.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 5.4.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

from .virtio import VirtioDevice
from .virtqueue import Chain, Virtqueue

__all__ = ["VirtioRng"]

MAX_REQUEST = 1 << 16  # bytes; the driver takes less than it has asked for


class VirtioRng(VirtioDevice):
    """An entropy source.

    Parameters
    ----------
    source : callable, optional
        Called with a number of bytes, up to 65536; returns at most as many. By default `os.urandom`; a seeded
        ``random.Random(0).randbytes`` makes runs that repeat. No bytes: the request waits, for `service` to be called.
    """

    device_id: ClassVar[int] = 4

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(queue_sizes=[16])
        self._source = source

    def serve(self, queue: Virtqueue, chain: Chain) -> int | None:
        if not chain.writable_size:
            return 0
        return chain.write(self._source(min(chain.writable_size, MAX_REQUEST))) or None
