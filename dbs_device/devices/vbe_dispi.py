"""Bochs display interface (VBE DISPI) at ports 0x1CE and 0x1CF, 16 bits wide.

Specification: Bochs, `vbe_display_api.txt`; QEMU, `hw/display/bochs-display.c`.
"""

from __future__ import annotations

from ..address import PioAddress
from ..resources import Resource
from ._isa import PcDevice, load, store

__all__ = ["VbeDispi"]

INDEX = 0  # the port; the next one is the data port
ID = 0  # the register
REGISTERS = 11
NO_VERSION = 0xB000


class VbeDispi(PcDevice):
    """The interface's registers.

    Software requests a version of the interface by writing it to the ID register, and checks whether it reads it back.
    This machine has the registers but no linear framebuffer: it supports no version (0xB0C0 would be the first), and
    firmware falls back to plain VGA.

    Parameters
    ----------
    base : int
        The index port.
    """

    def __init__(self, base: int = 0x1CE) -> None:
        super().__init__(Resource.PioAddressRange(base, 3))  # two 16-bit ports, one apart
        self._index = 0
        self._registers = [0] * REGISTERS
        self._registers[ID] = NO_VERSION

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == INDEX:
            store(data, self._index)
        elif self._index < REGISTERS:
            store(data, self._registers[self._index])

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == INDEX:
            self._index = load(data)
        elif self._index != ID and self._index < REGISTERS:
            self._registers[self._index] = load(data)
