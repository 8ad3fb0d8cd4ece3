"""QEMU's firmware configuration interface, which describes the virtual machine to its firmware.

Specification: QEMU, `docs/specs/fw_cfg.rst` (selector and data port; without the DMA interface).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import PlacedDevice

__all__ = ["FwCfg"]

SIGNATURE, ID, NB_CPUS, MAX_CPUS, FILE_DIR, FILE_FIRST = 0x00, 0x01, 0x05, 0x0F, 0x19, 0x20
TRADITIONAL_INTERFACE = 1  # a bit of the ID item; bit 1 would be the DMA interface
FILE_NAME_SIZE = 56
DATA_PORT = 1


class FwCfg(PlacedDevice):
    """Items behind a selector; some are files, with names in a directory.

    A missing item, and bytes past the end of an item, read as 0. Items are read-only, and not part of the
    state.

    Parameters
    ----------
    base : int
        The selector's port, 16 bits wide; the data port, 8 bits wide, is the next one.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_key": range(0x10000), "_position": range(1 << 32)}

    def __init__(self, *, base: int = 0x510) -> None:
        super().__init__(Resource.PioAddressRange(base, 2))
        self._items: dict[int, bytes] = {}
        self._files: dict[str, int] = {}
        self._key = 0
        self._position = 0
        self.add_item(SIGNATURE, b"QEMU")
        self.add_item(ID, TRADITIONAL_INTERFACE.to_bytes(4, "little"))
        self.add_item(FILE_DIR, bytes(4))

    def add_item(self, key: int, content: bytes) -> None:
        """Set the content of the item with a selector key."""
        self._items[key] = bytes(content)

    def add_file(self, name: str, content: bytes) -> None:
        """Add a named file, or replace its content. `ValueError` if the name is too long for the directory."""
        if len(name.encode("ascii")) >= FILE_NAME_SIZE:
            raise ValueError(f"a file name must have less than {FILE_NAME_SIZE} bytes, not {name!r}")
        key = self._files.setdefault(name, FILE_FIRST + len(self._files))
        self.add_item(key, content)
        self.add_item(FILE_DIR, self._directory())

    def _directory(self) -> bytes:
        # The directory is big-endian whatever the machine is.
        directory = struct.pack(">I", len(self._files))
        for name, key in self._files.items():
            directory += struct.pack(f">IHH{FILE_NAME_SIZE}s", len(self._items[key]), key, 0, name.encode("ascii"))
        return directory

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        if offset != DATA_PORT and size == 2:
            self._key = value
            self._position = 0

    def pio_in(self, base: int, offset: int, size: int) -> int:
        if offset != DATA_PORT:
            return 0
        item = self._items.get(self._key, b"")
        position = self._position
        self._position = position + 1
        return item[position] if position < len(item) else 0
