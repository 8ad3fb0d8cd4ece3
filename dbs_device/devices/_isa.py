"""The common parts of the devices: little-endian integers, fixed resources, and the 8-bit ISA bus."""

from __future__ import annotations

from abc import abstractmethod

from ..address import PioAddress
from ..device import DeviceIo
from ..errors import format_range
from ..resources import DeviceResources, Resource
from ._common import ByteSink

__all__ = ["ByteSink", "IsaDevice", "PcDevice", "load", "store"]


def load(data: memoryview) -> int:
    """Return the little-endian integer in `data`."""
    return int.from_bytes(data, "little")


def store(data: memoryview, value: int) -> None:
    """Fill `data` with the low bytes of `value`, little-endian."""
    size = len(data)
    data[:] = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


class PcDevice(DeviceIo):
    """A device with fixed addresses, which its constructor takes."""

    def __init__(self, *resources: Resource) -> None:
        self._resources = DeviceResources(resources)

    def get_assigned_resources(self) -> DeviceResources:
        return self._resources

    def __repr__(self) -> str:
        ranges = self._resources.get_pio_address_ranges() + self._resources.get_mmio_address_ranges()
        places = (f"{base:#x}" if size == 1 else format_range(base, base + size - 1) for base, size in ranges)
        return f"{type(self).__name__}({', '.join(places)})"


class IsaDevice(PcDevice):
    """A device with 8-bit registers on the ISA bus.

    The bus makes one cycle per byte of a wider access, lowest port first: `OUT DX, AX` to an index port and the
    adjacent data port is the usual way to write an indexed register.
    """

    @abstractmethod
    def in8(self, base: int, offset: int) -> int:
        """Return the byte at a port."""

    @abstractmethod
    def out8(self, base: int, offset: int, value: int) -> None:
        """Write a byte to a port."""

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        data[0] = self.in8(base, offset)
        for position in range(1, len(data)):
            data[position] = self.in8(base, offset + position)

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        self.out8(base, offset, data[0])
        for position in range(1, len(data)):
            self.out8(base, offset + position, data[position])
