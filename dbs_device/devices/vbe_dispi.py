"""Bochs display interface (VBE DISPI) at ports 0x1CE and 0x1CF, 16 bits wide.

Specification: Bochs, `vbe_display_api.txt`; QEMU, `hw/display/bochs-display.c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import PlacedDevice

__all__ = ["VbeDispi"]

INDEX = 0  # the port; the next one is the data port
ID = 0  # the register
REGISTERS = 11
NO_VERSION = 0xB000


class VbeDispi(PlacedDevice):
    """The interface's registers.

    Software requests a version of the interface by writing it to the ID register, and checks whether it reads it back.
    There are the registers but no linear framebuffer, and no version is supported (0xB0C0 would be the first), and
    firmware falls back to plain VGA.

    Parameters
    ----------
    base : int
        The index port.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_index": range(0x10000), "_registers": range(0x10000)}

    def __init__(self, *, base: int = 0x1CE) -> None:
        super().__init__(Resource.PioAddressRange(base, 3))  # two 16-bit ports, one apart
        self._index = 0
        self._registers = [0] * REGISTERS
        self._registers[ID] = NO_VERSION

    def pio_in(self, base: int, offset: int, size: int) -> int:
        if offset == INDEX:
            return self._index
        return self._registers[self._index] if self._index < REGISTERS else 0

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        if offset == INDEX:
            self._index = value & 0xFFFF
        elif self._index != ID and self._index < REGISTERS:
            self._registers[self._index] = value & 0xFFFF
