"""The end of the register map of every PrimeCell of ARM: its identification."""

from __future__ import annotations

from typing import ClassVar

from ..registers import RO, Array, Register, RegisterBank, on_read

__all__ = ["PrimeCell"]


class PrimeCell(RegisterBank, size=0x1000):
    """A bank with identification registers, one byte in each.

    Attributes
    ----------
    identity : tuple of int
        The four bytes of the peripheral's identification and those of the PrimeCell's, as two integers.
    """

    identity: ClassVar[tuple[int, int]]

    ID = Array(Register(0xFE0, access=RO, doc="identification"), 8, stride=4)

    @on_read(ID)
    def _identify(self, index: int, value: int) -> int:
        return self.identity[index // 4] >> 8 * (index % 4) & 0xFF
