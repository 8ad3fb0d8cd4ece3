"""Programmable interval timer: three counters at 1.193182 MHz.

Datasheet: Intel 8254.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..resources import Resource
from ..state import AttributeState, Saved
from ._common import TIMES, Irq
from ._isa import IsaDevice

__all__ = ["PIT_FREQUENCY", "Counter", "Pit8254"]

PIT_FREQUENCY = 1_193_182  # Hz

CONTROL = 3  # the control port follows those of the three counters
READ_BACK = 3  # instead of a counter's number in a control word
READ_BACK_NO_COUNT, READ_BACK_NO_STATUS = 0x20, 0x10

LATCH, LOW_BYTE, HIGH_BYTE, BOTH_BYTES = range(4)
TERMINAL_COUNT, ONE_SHOT, RATE_GENERATOR, SQUARE_WAVE, _SOFTWARE_STROBE, HARDWARE_STROBE = range(6)
PERIODIC_MODES = (RATE_GENERATOR, SQUARE_WAVE)
GATE_TRIGGERED_MODES = (ONE_SHOT, HARDWARE_STROBE)


def _from_bcd(value: int) -> int:
    return sum((value >> 4 * digit & 0xF) * 10**digit for digit in range(4))


def _to_bcd(value: int) -> int:
    return int(str(value), 16)


def _duration(ticks: int) -> int:
    """Return the duration in ns of a number of ticks."""
    return -(-ticks * NS_PER_SECOND // PIT_FREQUENCY)


class Counter(AttributeState):
    """One counter. Its count is computed from the time since it was started.

    A new count takes effect at once, also in the periodic modes, where the chip would finish its period.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    output : callable, optional
        Called at each rising edge of OUT; without it, no timer is set.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "mode": range(6),
        "_access": range(1, 4),
        "_bcd": None,
        "_gate": None,
        "_reload": range(1, 0x10001),
        "_started": (None, TIMES),
        "_held": (None, TIMES),
        "_low_byte": (None, range(0x100)),
        "_latched": [range(0x100)],
        "_latched_status": (None, range(0x100)),
        "_high_byte_next": None,
        "_edge": None,
    }

    def __init__(self, clock: Clock, output: Callable[[], object] | None = None) -> None:
        self._output = output
        self._edge = clock.timer(self._rise)
        self._gate = True
        self._reload = 0x10000
        self.set_mode(BOTH_BYTES << 4 | RATE_GENERATOR << 1)

    def set_mode(self, control: int) -> None:
        """Accept a control word: the counter waits for its count."""
        mode = control >> 1 & 7
        self.mode = mode - 4 if mode > HARDWARE_STROBE else mode  # the top bit of modes 2 and 3 is not decoded
        self._access = control >> 4 & 3
        self._bcd = bool(control & 1)
        self._started: int | None = None  # when it began to count; None before that
        self._held: int | None = None  # the ticks counted so far, while the gate stops the counter
        self._low_byte: int | None = None  # of a half-written count
        self._latched: list[int] = []  # bytes for the next reads
        self._latched_status: int | None = None
        self._high_byte_next = False
        self._edge.cancel()

    def write(self, value: int, now: int) -> None:
        """Accept a byte of the count; after the last one, the counter starts, or waits for its gate."""
        if self._access == LOW_BYTE:
            self._load(value, now)
        elif self._access == HIGH_BYTE:
            self._load(value << 8, now)
        elif self._low_byte is None:
            self._low_byte = value
        else:
            self._load(self._low_byte | value << 8, now)
            self._low_byte = None

    def _load(self, count: int, now: int) -> None:
        self._reload = (_from_bcd(count) or 10_000) if self._bcd else (count or 0x10000)
        if self.mode not in GATE_TRIGGERED_MODES:
            self._started = now
            self._held = None if self._gate else 0
            self._schedule_edge(now)

    def set_gate(self, level: bool, now: int) -> None:
        """Change the GATE input, which stops or restarts the counter, depending on the mode."""
        if level == self._gate:
            return
        self._gate = level
        if self.mode in GATE_TRIGGERED_MODES:
            if level:
                self._started = now
        elif self._started is not None:
            if not level:
                self._held = self._ticks(now)
            elif self.mode in PERIODIC_MODES:
                self._started, self._held = now, None
            else:
                self._started, self._held = now - _duration(self._held or 0), None
        self._schedule_edge(now)

    def _ticks(self, now: int) -> int:
        """Return the ticks since the counter was started."""
        if self._held is not None:
            return self._held
        return 0 if self._started is None else (now - self._started) * PIT_FREQUENCY // NS_PER_SECOND

    def out(self, now: int) -> bool:
        """Return the level of the OUT output."""
        if self._started is None:
            return self.mode != TERMINAL_COUNT
        ticks = self._ticks(now)
        if self.mode in PERIODIC_MODES and not self._gate:
            return True
        if self.mode == RATE_GENERATOR:
            return ticks % self._reload != self._reload - 1
        if self.mode == SQUARE_WAVE:
            return ticks % self._reload < (self._reload + 1) // 2
        if self.mode in (TERMINAL_COUNT, ONE_SHOT):
            return ticks >= self._reload
        return ticks != self._reload  # a one-tick strobe

    def count(self, now: int) -> int:
        """Return the count as it is read: in BCD if the counter counts in BCD."""
        ticks = self._ticks(now)
        if self.mode == SQUARE_WAVE:  # counts down by two, twice per period
            even = self._reload & ~1 or 2
            value = even - 2 * ticks % even
        elif self.mode == RATE_GENERATOR:
            value = self._reload - ticks % self._reload
        else:  # continues below zero
            value = self._reload - ticks
        return _to_bcd(value % 10_000) if self._bcd else value & 0xFFFF

    def latch_count(self, now: int) -> None:
        """Latch the count for the next reads, unless one is latched already."""
        if self._latched:
            return
        count = self.count(now)
        if self._access != HIGH_BYTE:
            self._latched.append(count & 0xFF)
        if self._access != LOW_BYTE:
            self._latched.append(count >> 8)

    def latch_status(self, now: int) -> None:
        """Latch the status byte for the next read, unless one is latched already."""
        if self._latched_status is None:
            null_count = self._started is None
            self._latched_status = self.out(now) << 7 | null_count << 6 | self._access << 4 | self.mode << 1 | self._bcd

    def read(self, now: int) -> int:
        """Return the next byte: the latched status, or a byte of the latched or current count."""
        if self._latched_status is not None:
            status, self._latched_status = self._latched_status, None
            return status
        if self._latched:
            return self._latched.pop(0)
        high = self._access == HIGH_BYTE or self._high_byte_next
        if self._access == BOTH_BYTES:
            self._high_byte_next = not self._high_byte_next
        return self.count(now) >> 8 if high else self.count(now) & 0xFF

    def _schedule_edge(self, now: int) -> None:
        """Set the timer for the next rising edge of OUT."""
        self._edge.cancel()
        if self._output is None or self._started is None or self._held is not None:
            return
        ticks = self._ticks(now)
        if self.mode in PERIODIC_MODES:
            due = (ticks // self._reload + 1) * self._reload
        elif ticks < self._reload:
            due = self._reload
        else:
            return
        self._edge.set(self._started + _duration(due))

    def _rise(self, now: int) -> None:
        # Missed edges are merged with this one: the guest has had no time to see them.
        assert self._output is not None
        self._output()
        self._schedule_edge(now)


class Pit8254(IsaDevice):
    """The chip.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    irq : callable
        The interrupt line, on the first counter's output: at each of its rising edges, the line falls and rises. It
        stays high, since falling before the acknowledge would withdraw the request.
    base : int
        First of its four ports.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"counters": None}

    def __init__(self, *, clock: Clock, irq: Irq | None = None, base: int = 0x40) -> None:
        super().__init__(Resource.PioAddressRange(base, 4))
        self._clock = clock
        self._irq = irq
        self.counters = (Counter(clock, None if irq is None else self._make_edge), Counter(clock), Counter(clock))

    def _make_edge(self) -> None:
        assert self._irq is not None
        self._irq(False)
        self._irq(True)

    def in8(self, base: int, offset: int) -> int:
        return 0xFF if offset == CONTROL else self.counters[offset].read(self._clock.now())

    def out8(self, base: int, offset: int, value: int) -> None:
        now = self._clock.now()
        if offset != CONTROL:
            self.counters[offset].write(value, now)
        elif value >> 6 == READ_BACK:
            for number, counter in enumerate(self.counters):
                if value >> (number + 1) & 1:
                    if not value & READ_BACK_NO_STATUS:
                        counter.latch_status(now)
                    if not value & READ_BACK_NO_COUNT:
                        counter.latch_count(now)
        elif value >> 4 & 3 == LATCH:
            self.counters[value >> 6].latch_count(now)
        else:
            self.counters[value >> 6].set_mode(value)
