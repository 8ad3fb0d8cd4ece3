"""The common parts of PC devices: fixed addresses, and the 8-bit ISA bus."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from ..device import DeviceIo
from ..errors import format_range
from ..resources import DeviceResources, Resource
from ..state import AttributeState

__all__ = ["IsaDevice", "PlacedDevice"]


class PlacedDevice(AttributeState, DeviceIo):
    """A device at fixed addresses, which its constructor takes: `get_trapped_io_resources` returns its ranges."""

    byteorder: ClassVar[Literal["little"]] = "little"

    def __init__(self, *resources: Resource) -> None:
        self._resources = DeviceResources(resources)

    def get_assigned_resources(self) -> DeviceResources:
        return self._resources

    def __repr__(self) -> str:
        ranges = self._resources.get_pio_address_ranges() + self._resources.get_mmio_address_ranges()
        places = (f"{base:#x}" if size == 1 else format_range(base, base + size - 1) for base, size in ranges)
        return f"{type(self).__name__}({', '.join(places)})"


class IsaDevice(PlacedDevice):
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

    def pio_in(self, base: int, offset: int, size: int) -> int:
        value = self.in8(base, offset)
        for position in range(1, size):
            value |= self.in8(base, offset + position) << 8 * position
        return value

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        self.out8(base, offset, value & 0xFF)
        for position in range(1, size):
            self.out8(base, offset + position, value >> 8 * position & 0xFF)
