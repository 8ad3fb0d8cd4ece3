"""QEMU's firmware configuration interface, which describes the virtual machine to its firmware.

Specification: QEMU, `docs/specs/fw_cfg.rst`. Left out: items that the guest writes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ..device import DeviceIo
from ..errors import NotRamError
from ..memory import GuestMemory
from ..resources import Resource
from ..state import AttributeState
from ._common import ram_views
from ._isa import PlacedDevice

__all__ = ["FwCfg", "FwCfgMmio"]

SIGNATURE, ID, NB_CPUS, MAX_CPUS, FILE_DIR, FILE_FIRST = 0x00, 0x01, 0x05, 0x0F, 0x19, 0x20
TRADITIONAL_INTERFACE, DMA_INTERFACE = 1, 2  # bits of the ID item
FILE_NAME_SIZE = 56
CHUNK = 1 << 16  # bytes of a transfer at once

# Offsets of the ports, and of the registers in memory.
DATA_PORT, DMA_PORTS, PORTS = 1, 4, 12
DATA, SELECTOR, DMA_ADDRESS, SIZE = 0, 8, 16, 24

DMA_SIGNATURE = int.from_bytes(b"QEMU CFG", "big")
DMA_CONTROL = struct.Struct(">IIQ")  # control, length, address
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16


class _Items(AttributeState):
    """Items behind a selector; some are files, with names in a directory.

    A missing item, and bytes past the end of an item, read as 0.
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "_key": range(1 << 16),
        "_position": range(1 << 64),
        "_dma_high": range(1 << 32),
    }

    def __init__(self, memory: GuestMemory | None) -> None:
        self._memory = memory
        self._items: dict[int, bytes] = {}
        self._files: dict[str, int] = {}
        self._key = 0
        self._position = 0
        self._dma_high = 0  # the upper half of the address, which is written first
        interfaces = TRADITIONAL_INTERFACE | (DMA_INTERFACE if memory is not None else 0)
        self.add_item(SIGNATURE, b"QEMU")
        self.add_item(ID, interfaces.to_bytes(4, "little"))
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
        # Big-endian, as the selector in memory and the DMA interface are, unlike everything else.
        directory = struct.pack(">I", len(self._files))
        for name, key in self._files.items():
            directory += struct.pack(f">IHH{FILE_NAME_SIZE}s", len(self._items[key]), key, 0, name.encode("ascii"))
        return directory

    def _select(self, key: int) -> None:
        self._key = key
        self._position = 0

    def _read(self, size: int) -> bytes:
        """Return the next bytes of the selected item."""
        item = self._items.get(self._key, b"")[self._position : self._position + size]
        self._position += size
        return item.ljust(size, b"\0")

    # The DMA interface. Its integers are given in the order of the register, which is big-endian.

    def _load_dma(self, offset: int, size: int) -> int:
        """Return a part of the DMA address register, which tells that the interface exists."""
        if self._memory is None:
            return 0
        return DMA_SIGNATURE >> 8 * (8 - offset - size) & (1 << 8 * size) - 1

    def _store_dma(self, offset: int, size: int, value: int) -> None:
        """Serve a write of the DMA address register; of its lower half, or of all of it, begins the transfer."""
        if self._memory is None:
            return
        if size == 8 and offset == 0:
            self._transfer(self._memory, value)
        elif size == 4 and offset == 0:
            self._dma_high = value
        elif size == 4 and offset == 4:
            high, self._dma_high = self._dma_high, 0
            self._transfer(self._memory, high << 32 | value)

    def _transfer(self, memory: GuestMemory, address: int) -> None:
        """Do what a structure in RAM asks for; without one, nothing can be reported."""
        try:
            descriptor = b"".join(ram_views(memory, address, DMA_CONTROL.size))
        except (NotRamError, OverflowError):
            return
        control, length, target = DMA_CONTROL.unpack(descriptor)
        if control & DMA_SELECT:
            self._select(control >> 16)
        failed = False
        if control & DMA_READ:
            try:
                for view in ram_views(memory, target, length):
                    for start in range(0, len(view), CHUNK):
                        piece = view[start : start + CHUNK]
                        piece[:] = self._read(len(piece))
            except (NotRamError, OverflowError):
                failed = True
        elif control & DMA_SKIP:
            self._position += length
        elif control & DMA_WRITE:
            failed = True  # no item is writable
        self._report(memory, address, DMA_ERROR if failed else 0)

    def _report(self, memory: GuestMemory, address: int, control: int) -> None:
        data = control.to_bytes(4, "big")
        for view in ram_views(memory, address, len(data)):
            view[:], data = data[: len(view)], data[len(view) :]


class FwCfg(_Items, PlacedDevice):
    """The interface on the ports of a PC.

    Items are read-only, and not part of the state. A missing item, and bytes past the end of an item, read as 0.

    Parameters
    ----------
    base : int
        The selector's port, 16 bits wide; the data port, 8 bits wide, is the next one.
    memory : GuestMemory, optional
        The guest's memory: with it, there is the DMA interface, at the ports from ``base + 4`` on.
    """

    byteorder: ClassVar[Literal["little"]] = "little"

    def __init__(self, *, base: int = 0x510, memory: GuestMemory | None = None) -> None:
        _Items.__init__(self, memory)
        PlacedDevice.__init__(self, Resource.PioAddressRange(base, 2 if memory is None else PORTS))

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        if offset >= DMA_PORTS:
            self._store_dma(offset - DMA_PORTS, size, _swapped(value, size))
        elif offset != DATA_PORT and size == 2:
            self._select(value)

    def pio_in(self, base: int, offset: int, size: int) -> int:
        if offset >= DMA_PORTS:
            return _swapped(self._load_dma(offset - DMA_PORTS, size), size)
        return self._read(1)[0] if offset == DATA_PORT else 0


class FwCfgMmio(_Items, DeviceIo):
    """The interface in memory, as on machines of ARM, RISC-V and others (``qemu,fw-cfg-mmio``).

    Items are read-only, and not part of the state. A missing item, and bytes past the end of an item, read as 0.

    Parameters
    ----------
    memory : GuestMemory, optional
        The guest's memory: with it, there is the DMA interface.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager
    >>> fw_cfg, manager = FwCfgMmio(), IoManager()
    >>> manager.register_device_io(fw_cfg, [Resource.MmioAddressRange(0x902_0000, fw_cfg.size)])
    >>> manager.mmio_store(0x902_0008, 2, 0)  # select the signature
    >>> manager.mmio_load(0x902_0000, 4).to_bytes(4, "little")
    b'QEMU'
    """

    byteorder: ClassVar[Literal["little"]] = "little"
    size = SIZE

    def __init__(self, *, memory: GuestMemory | None = None) -> None:
        super().__init__(memory)

    def load(self, base: int, offset: int, size: int) -> int:
        if offset < SELECTOR:
            return int.from_bytes(self._read(size), "little")  # a string keeps its order
        if offset >= DMA_ADDRESS:
            return _swapped(self._load_dma(offset - DMA_ADDRESS, size), size)
        return 0

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        if offset == SELECTOR and size == 2:
            self._select(_swapped(value, size))
        elif offset >= DMA_ADDRESS:
            self._store_dma(offset - DMA_ADDRESS, size, _swapped(value, size))

    def __repr__(self) -> str:
        return f"<FwCfgMmio, {len(self._files)} files>"


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")
