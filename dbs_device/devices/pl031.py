"""Real-time clock: ARM's PrimeCell.

Datasheet: ARM DDI 0224, PrimeCell Real Time Clock (PL031), r1p3.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..registers import RO, WO, Flag, Interrupt, Register, on_read, on_write
from ._common import BankState, Irq, seconds_since_1970
from ._primecell import PrimeCell

__all__ = ["Pl031"]

U32 = 0xFFFF_FFFF


class Enable(Register, access=RO):
    """One flag."""

    RTC = Flag(0)


class Pl031(BankState, PrimeCell, size=0x1000):
    """The chip: a counter of seconds, with an alarm.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    start : datetime, optional
        Date and time at power-on; UTC if it has no time zone. By default, the host's.
    irq : callable, optional
        The interrupt line. `bank.irq` is that line, and can be connected later.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.clock import CountedClock
    >>> clock, manager = CountedClock(), IoManager()
    >>> rtc = Pl031(clock=clock, start=datetime(2024, 2, 29, 12))
    >>> manager.register_device_io(rtc, [Resource.MmioAddressRange(0x901_0000, rtc.size)])
    >>> manager.mmio_load(0x901_0000, 4)
    1709208000
    """

    DR = Register(0x000, access=RO, doc="seconds")
    MR = Register(0x004, doc="match: seconds of the alarm")
    LR = Register(0x008, doc="load: sets the seconds")
    CR = Register(0x00C, reset=1, access=RO, doc="control: started, which a write does not change")
    IMSC = Enable(0x010, doc="interrupt mask")
    RIS = Enable(0x014, access=RO, doc="raw interrupt status")
    MIS = Register(0x018, access=RO, doc="masked interrupt status")
    ICR = Register(0x01C, access=WO, doc="clears the interrupt")
    irq = Interrupt(status=RIS, enable=IMSC)

    identity = 0x0004_1031, 0xB105_F00D

    saved: ClassVar[Mapping[str, Any]] = {"_offset": None, "_alarm": None}

    def __init__(self, *, clock: Clock, start: datetime | None = None, irq: Irq | None = None) -> None:
        self.clock = clock
        self._state_lock = threading.RLock()
        self._offset = seconds_since_1970(start) - clock.read() // NS_PER_SECOND
        self._alarm = clock.timer(self._match)
        self.irq.connect(irq)

    @property
    def seconds(self) -> int:
        """What the counter says, now."""
        return self._seconds_at(self.clock.now())

    def _seconds_at(self, now: int) -> int:
        return now // NS_PER_SECOND + self._offset & U32

    @on_read(DR)
    def _read_data(self, value: int) -> int:
        return self.seconds

    @on_write(LR)
    def _load(self, new: int, old: int) -> None:
        now = self.clock.now()
        with self._state_lock:
            self._offset += new - self._seconds_at(now)
            self._set_alarm(now)

    @on_write(MR)
    def _set_match(self, new: int, old: int) -> None:
        now = self.clock.now()
        with self._state_lock:
            if new == self._seconds_at(now):
                self.RIS.RTC = True
            self._set_alarm(now)

    def _set_alarm(self, now: int) -> None:
        """Set the timer to when the counter will next equal the match register, after this second."""
        ticks = (self.MR.value - self._seconds_at(now) - 1 & U32) + 1
        self._alarm.set((now // NS_PER_SECOND + ticks) * NS_PER_SECOND)

    def _match(self, now: int) -> None:
        with self._state_lock:
            self.RIS.RTC = True
            self._set_alarm(now)

    @on_read(MIS)
    def _read_masked(self, value: int) -> int:
        return self.RIS.value & self.IMSC.value

    @on_write(ICR)
    def _clear(self, new: int, old: int) -> None:
        if new & 1:
            self.RIS.RTC = False
