"""System control port B (0x61): gate and output of the speaker's timer, and the refresh toggle.

Datasheet: Intel 82371AB (PIIX4), "NMISC, NMI status and control"; IBM PC/AT Technical Reference, "Port 61".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..clock import Clock
from ..resources import Resource
from ..state import Saved
from ._isa import IsaDevice
from .pit8254 import Pit8254

__all__ = ["SystemControlPortB"]

TIMER2_GATE = 0x01
WRITABLE = 0x0F
REFRESH_TOGGLE = 0x10
TIMER2_OUT = 0x20
REFRESH_PERIOD = 15_085  # ns: 18 ticks of the timer

SPEAKER_COUNTER = 2


class SystemControlPortB(IsaDevice):
    """The register; its lower four bits are writable.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    pit : Pit8254
        The timer, whose third counter it controls.
    port : int
        Its port.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_control": range(0x10)}

    def __init__(self, *, clock: Clock, pit: Pit8254, port: int = 0x61) -> None:
        super().__init__(Resource.PioAddressRange(port, 1))
        self._clock = clock
        self._counter = pit.counters[SPEAKER_COUNTER]
        self._counter.set_gate(False, clock.now())
        self._control = 0

    def in8(self, base: int, offset: int) -> int:
        now = self._clock.now()
        refresh = REFRESH_TOGGLE if now // REFRESH_PERIOD & 1 else 0
        return self._control | refresh | (TIMER2_OUT if self._counter.out(now) else 0)

    def out8(self, base: int, offset: int, value: int) -> None:
        self._control = value & WRITABLE
        self._counter.set_gate(bool(value & TIMER2_GATE), self._clock.now())
