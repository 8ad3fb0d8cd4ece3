"""QEMU's firmware configuration interface, which describes the virtual machine to its firmware.

Specification: QEMU, `docs/specs/fw_cfg.rst` (selector and data port; without the DMA interface).
"""

from __future__ import annotations

import struct

from ..address import PioAddress
from ..resources import Resource
from ._isa import PcDevice, load

__all__ = ["FwCfg"]

SIGNATURE, ID, NB_CPUS, MAX_CPUS, FILE_DIR, FILE_FIRST = 0x00, 0x01, 0x05, 0x0F, 0x19, 0x20
TRADITIONAL_INTERFACE = 1  # a bit of the ID item; bit 1 would be the DMA interface
FILE_NAME_SIZE = 56
DATA_PORT = 1


class FwCfg(PcDevice):
    """Items behind a selector; some are files, with names in a directory.

    A missing item, and bytes past the end of an item, read as 0. Items are read-only.

    Parameters
    ----------
    base : int
        The selector's port, 16 bits wide; the data port, 8 bits wide, is the next one.
    """

    def __init__(self, base: int = 0x510) -> None:
        super().__init__(Resource.PioAddressRange(base, 2))
        self._items: dict[int, bytes] = {}
        self._files: dict[str, int] = {}
        self._selected = b""
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
        # The directory is big-endian, unlike everything else on this machine.
        directory = struct.pack(">I", len(self._files))
        for name, key in self._files.items():
            directory += struct.pack(f">IHH{FILE_NAME_SIZE}s", len(self._items[key]), key, 0, name.encode("ascii"))
        return directory

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == DATA_PORT or len(data) != 2:
            return
        self._selected = self._items.get(load(data), b"")
        self._position = 0

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset != DATA_PORT:
            return
        position = self._position
        self._position = position + 1
        if position < len(self._selected):
            data[0] = self._selected[position]
