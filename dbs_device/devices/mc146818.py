"""Real-time clock and CMOS memory at ports 0x70 and 0x71.

Datasheets: Motorola MC146818; Intel 82371AB (PIIX4), "Real time clock registers", for the ports and the 128 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..resources import Resource
from ..state import Saved
from ._common import TIMES, Irq, no_irq
from ._isa import IsaDevice

__all__ = ["Mc146818"]

INDEX = 0  # the port; the other one is the data port
NMI_DISABLE = 0x80  # shares the index port

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D = range(10, 14)
CENTURY = 0x32

UPDATE_IN_PROGRESS = 0x80  # register A
DIVIDER_RESET = 0x60
RATE_SELECT = 0x0F
SET, PERIODIC_ENABLE, ALARM_ENABLE, UPDATE_ENABLE = 0x80, 0x40, 0x20, 0x10  # register B
BINARY, HOURS_24 = 0x04, 0x02
IRQ_FLAG, PERIODIC_FLAG, ALARM_FLAG, UPDATE_FLAG = 0x80, 0x40, 0x20, 0x10  # register C
VALID_RAM = 0x80  # register D

PM = 0x80  # of an hour, in the 12-hour mode
ANY = 0xC0  # alarm registers from this value on match everything
UPDATE_CYCLE = 244_000 + 1_984_000  # ns: how long UIP is set before the registers change
FIRST_UPDATE = NS_PER_SECOND // 2  # after the divider reset is released
OSCILLATOR = 32_768  # Hz
DAY_SECONDS = 86_400


class Mc146818(IsaDevice):
    """The clock's registers, followed by battery-backed memory.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    irq : callable
        The interrupt line: on a PC, 8.
    start : datetime
        Date and time at power-on.
    base : int
        The index port; the data port is the next one.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_index": range(0x100),
        "_memory": None,
        "_flags_read_at": TIMES,
        "_update_due": TIMES,
        "_update": None,
        "_periodic": None,
    }

    def __init__(self, *, clock: Clock, irq: Irq = no_irq, start: datetime, base: int = 0x70) -> None:
        super().__init__(Resource.PioAddressRange(base, 2))
        self._clock = clock
        self._irq = irq
        self._index = 0
        self._memory = bytearray(128)
        self._memory[REGISTER_A] = 0x26  # divider for 32.768 kHz, 1024 Hz periodic rate
        self._memory[REGISTER_B] = HOURS_24
        self._memory[REGISTER_D] = VALID_RAM
        self._set_date(start)
        self._flags_read_at = clock.now()
        self._update = clock.timer(self._second_passed)
        self._periodic = clock.timer(self._period_passed)
        self._schedule_update(self._flags_read_at + NS_PER_SECOND - 1000 * start.microsecond)

    def __getitem__(self, index: int) -> int:
        """Return a byte of the memory."""
        return self._memory[index]

    def __setitem__(self, index: int, value: int) -> None:
        """Set a byte of the memory."""
        self._memory[index] = value

    def in8(self, base: int, offset: int) -> int:
        if offset == INDEX:  # write-only on some chipsets; here, a guest can save and restore it
            return self._index
        register = self._index & ~NMI_DISABLE
        if register == REGISTER_A:
            remaining = self._update_due - self._clock.now()
            updating = remaining <= UPDATE_CYCLE and not self._memory[REGISTER_B] & SET
            return self._memory[REGISTER_A] | (UPDATE_IN_PROGRESS if updating else 0)
        if register == REGISTER_C:
            return self._read_flags(self._clock.now())
        if register <= YEAR or register == CENTURY:
            self._clock.now()  # a second may have passed
        return self._memory[register]

    def out8(self, base: int, offset: int, value: int) -> None:
        if offset == INDEX:
            self._index = value
            return
        register = self._index & ~NMI_DISABLE
        now = self._clock.now()
        if register == REGISTER_A:
            self._write_a(value & ~UPDATE_IN_PROGRESS, now)
        elif register == REGISTER_B:
            self._memory[REGISTER_B] = value & ~UPDATE_ENABLE if value & SET else value  # SET clears UIE
            self._schedule_periodic(now)
            self._update_irq()
        elif register not in (REGISTER_C, REGISTER_D):
            self._memory[register] = value

    def _write_a(self, value: int, now: int) -> None:
        was_running = self._divider_runs()
        self._memory[REGISTER_A] = value
        if self._divider_runs() and not was_running:
            self._schedule_update(now + FIRST_UPDATE)
        self._schedule_periodic(now)

    def _divider_runs(self) -> bool:
        return self._memory[REGISTER_A] & DIVIDER_RESET != DIVIDER_RESET

    # Time of day

    def _encode(self, value: int) -> int:
        return value if self._memory[REGISTER_B] & BINARY else int(str(value), 16)

    def _decode(self, value: int) -> int:
        """Return the number in a register; `ValueError` if it should be BCD and is not."""
        return value if self._memory[REGISTER_B] & BINARY else int(f"{value:x}")

    def _set_date(self, date: datetime) -> None:
        hour = self._encode(date.hour)
        if not self._memory[REGISTER_B] & HOURS_24:
            hour = self._encode(date.hour % 12 or 12) | (PM if date.hour >= 12 else 0)
        memory = self._memory
        memory[SECONDS], memory[MINUTES], memory[HOURS] = self._encode(date.second), self._encode(date.minute), hour
        memory[WEEKDAY] = self._encode(date.isoweekday() % 7 + 1)  # Sunday is 1
        memory[DAY], memory[MONTH] = self._encode(date.day), self._encode(date.month)
        memory[YEAR], memory[CENTURY] = self._encode(date.year % 100), self._encode(date.year // 100)

    def _date(self) -> datetime:
        """Return the date and time in the registers; `ValueError` if they are not valid."""
        memory = self._memory
        if memory[REGISTER_B] & HOURS_24:
            hour = self._decode(memory[HOURS])
        else:
            hour = self._decode(memory[HOURS] & ~PM) % 12 + (12 if memory[HOURS] & PM else 0)
        year = self._decode(memory[CENTURY]) * 100 + self._decode(memory[YEAR])
        month, day = self._decode(memory[MONTH]), self._decode(memory[DAY])
        return datetime(year, month, day, hour, self._decode(memory[MINUTES]), self._decode(memory[SECONDS]))

    def _schedule_update(self, when: int) -> None:
        self._update_due = when
        self._update.set(when)

    def _second_passed(self, now: int) -> None:
        seconds = (now - self._update_due) // NS_PER_SECOND + 1
        self._schedule_update(self._update_due + seconds * NS_PER_SECOND)
        if self._memory[REGISTER_B] & SET or not self._divider_runs():
            return
        try:
            if seconds > DAY_SECONDS:  # the alarm is due once a day at least
                self._set_date(self._date() + timedelta(seconds=seconds - DAY_SECONDS))
                seconds = DAY_SECONDS
            for _ in range(seconds):
                self._set_date(self._date() + timedelta(seconds=1))
                if self._alarm_matches():
                    self._memory[REGISTER_C] |= ALARM_FLAG
        except (ValueError, OverflowError):
            pass  # not a date: the chip's behaviour is not specified
        self._memory[REGISTER_C] |= UPDATE_FLAG
        self._update_irq()

    def _alarm_matches(self) -> bool:
        return all(
            self._memory[alarm] >= ANY or self._memory[alarm] == self._memory[alarm - 1]
            for alarm in (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM)
        )

    # Interrupts

    def _period(self) -> int | None:
        """Return the time in ns between periodic interrupts, or None if they are off."""
        rate = self._memory[REGISTER_A] & RATE_SELECT
        if not rate or not self._divider_runs():
            return None
        if rate < 3:
            rate += 7  # 256 Hz and 128 Hz, as for 8 and 9
        return NS_PER_SECOND * (1 << rate - 1) // OSCILLATOR

    def _schedule_periodic(self, now: int) -> None:
        period = self._period()
        if period is not None and self._memory[REGISTER_B] & PERIODIC_ENABLE:
            self._periodic.set((now // period + 1) * period)
        else:
            self._periodic.cancel()

    def _period_passed(self, now: int) -> None:
        self._memory[REGISTER_C] |= PERIODIC_FLAG
        self._update_irq()
        self._schedule_periodic(now)

    def state_loaded(self) -> None:
        self._irq(bool(self._memory[REGISTER_C] & IRQ_FLAG))

    def _read_flags(self, now: int) -> int:
        period = self._period()
        if period is not None and now // period != self._flags_read_at // period:
            self._memory[REGISTER_C] |= PERIODIC_FLAG  # set even if the interrupt is disabled
        self._flags_read_at = now
        self._update_irq()
        flags = self._memory[REGISTER_C]
        self._memory[REGISTER_C] = 0
        self._irq(False)
        return flags

    def _update_irq(self) -> None:
        enabled = PERIODIC_ENABLE | ALARM_ENABLE | UPDATE_ENABLE
        if self._memory[REGISTER_B] & self._memory[REGISTER_C] & enabled:
            self._memory[REGISTER_C] |= IRQ_FLAG
            self._irq(True)
        else:
            self._memory[REGISTER_C] &= ~IRQ_FLAG
            self._irq(False)
