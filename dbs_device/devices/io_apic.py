"""I/O APIC: registers only. Interrupts are delivered by the 8259A pair.

Datasheet: Intel 82093AA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import PlacedDevice

__all__ = ["IoApic"]

SELECT, WINDOW = 0x00, 0x10

ID, VERSION, ARBITRATION, REDIRECTION = 0x00, 0x01, 0x02, 0x10
INPUTS = 24
VERSION_VALUE = 0x11 | INPUTS - 1 << 16
MASKED = 0x0001_0000
ID_WRITABLE = 0x0F00_0000
REDIRECTION_WRITABLE = (0x0001_AFFF, 0xFF00_0000)  # lower and upper half of an entry


class IoApic(PlacedDevice):
    """The select register and the data window.

    Parameters
    ----------
    base : int
        Its address.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_select": range(0x100),
        "_id": range(1 << 32),
        "_redirection": range(1 << 32),
    }

    def __init__(self, *, base: int = 0xFEC0_0000) -> None:
        super().__init__(Resource.MmioAddressRange(base, 0x1000))
        self._select = 0
        self._id = 0
        self._redirection = [MASKED, 0] * INPUTS

    def load(self, base: int, offset: int, size: int) -> int:
        if offset == SELECT:
            return self._select
        return self._read_selected() if offset == WINDOW else 0

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        if offset == SELECT:
            self._select = value & 0xFF
        elif offset == WINDOW:
            self._write_selected(value)

    def _read_selected(self) -> int:
        entry = self._select - REDIRECTION
        if 0 <= entry < len(self._redirection):
            return self._redirection[entry]
        return {ID: self._id, VERSION: VERSION_VALUE, ARBITRATION: self._id}.get(self._select, 0)

    def _write_selected(self, value: int) -> None:
        entry = self._select - REDIRECTION
        if 0 <= entry < len(self._redirection):
            writable = REDIRECTION_WRITABLE[entry & 1]
            self._redirection[entry] = self._redirection[entry] & ~writable | value & writable
        elif self._select == ID:
            self._id = value & ID_WRITABLE
