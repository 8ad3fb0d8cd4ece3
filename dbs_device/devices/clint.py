"""Core-local interruptor of RISC-V machines: software interrupts and the machine timer.

Datasheet: SiFive FU540-C000 manual, chapter 9 (the same layout as RISC-V ACLINT's MSWI and MTIMER in one).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..device import DeviceIo
from ..state import AttributeState
from ._common import Irq, merge, outputs, word_bits

__all__ = ["Clint"]

MSIP, MTIMECMP, MTIME, SIZE = 0x0000, 0x4000, 0xBFF8, 0x10000
MAX_HARTS = (MTIME - MTIMECMP) // 8
ALL_ONES = (1 << 64) - 1
U64_RANGE = range(1 << 64)
NEVER = 1 << 63  # ticks: centuries


class Clint(AttributeState, DeviceIo):
    """The interruptor, for up to 4095 harts. Any thread may access it.

    After power-on, `mtimecmp` is all ones, where the hardware leaves it undefined: the timer does not interrupt before
    software has asked for it.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    harts : int
        How many there are.
    frequency : int
        Of `mtime`, in Hz: what the device tree calls ``timebase-frequency``.
    software_irqs, timer_irqs : sequence of callable
        Of each hart, the lines of its software interrupt (MSIP) and of its timer interrupt (MTIP). Missing ones are not
        connected.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.clock import CountedClock
    >>> clock, manager = CountedClock(step=0), IoManager()
    >>> clint = Clint(clock=clock, timer_irqs=[lambda level: print("MTIP", level)])
    >>> manager.register_device_io(clint, [Resource.MmioAddressRange(0x200_0000, clint.size)])
    >>> manager.mmio_store(0x200_4000, 8, 10)  # 1 us
    >>> clock.count_work(1000)
    >>> clock.now()
    MTIP True
    1000
    """

    size = SIZE
    saved: ClassVar[Mapping[str, Any]] = {
        "_compare": U64_RANGE,
        "_delta": U64_RANGE,
        "_timers": None,
        "_software_irqs": None,
        "_timer_irqs": None,
    }

    def __init__(
        self,
        *,
        clock: Clock,
        harts: int = 1,
        frequency: int = 10_000_000,
        software_irqs: Sequence[Irq] = (),
        timer_irqs: Sequence[Irq] = (),
    ) -> None:
        if not 1 <= harts <= MAX_HARTS:
            raise ValueError(f"a CLINT has 1 to {MAX_HARTS} harts, not {harts}")
        if frequency <= 0:
            raise ValueError(f"mtime counts at {frequency} Hz: it must be positive")
        self.clock = clock
        self.harts = harts
        self.frequency = frequency
        self._software_irqs = outputs(software_irqs, harts, "harts")
        self._timer_irqs = outputs(timer_irqs, harts, "harts")
        self._lock = threading.RLock()
        self._compare = [ALL_ONES] * harts
        self._delta = 0  # what software has added to the ticks since power-on
        self._timers = [clock.timer(partial(self._expire, hart)) for hart in range(harts)]

    @property
    def mtime(self) -> int:
        """The counter, now."""
        return self._mtime_at(self.clock.now())

    def _mtime_at(self, now: int) -> int:
        return self._ticks_at(now) + self._delta & ALL_ONES

    def _ticks_at(self, now: int) -> int:
        return now * self.frequency // NS_PER_SECOND

    def load(self, base: int, offset: int, size: int) -> int:
        """Serve a load, of any size that does not cross 8 bytes."""
        if offset >= MTIMECMP:
            if offset >= MTIME:
                value = self.mtime
            else:
                hart = (offset - MTIMECMP) // 8
                value = self._compare[hart] if hart < self.harts else 0
            return word_bits(value, offset, size, 8)
        value = sum(1 << 32 * i for i, hart in enumerate(self._harts_at(offset)) if self._software_irqs[hart].level)
        return word_bits(value, offset, size, 8)

    def _harts_at(self, offset: int) -> range:
        """Return the harts whose `msip` are in the 8 bytes that contain `offset`."""
        first = offset // 8 * 2
        return range(first, min(first + 2, self.harts))

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        """Serve a store, of any size that does not cross 8 bytes."""
        now = self.clock.now()
        with self._lock:
            if offset >= MTIME:
                before = self._mtime_at(now)
                self._delta = self._delta + merge(before, offset, size, value, 8) - before & ALL_ONES
                for hart in range(self.harts):
                    self._update_timer(hart, now)
            elif offset >= MTIMECMP:
                hart = (offset - MTIMECMP) // 8
                if hart < self.harts:
                    self._compare[hart] = merge(self._compare[hart], offset, size, value, 8)
                    self._update_timer(hart, now)
            else:
                written = value << 8 * (offset % 8)
                mask = (1 << 8 * size) - 1 << 8 * (offset % 8)
                for i, hart in enumerate(self._harts_at(offset)):
                    if mask >> 32 * i & 1:
                        self._software_irqs[hart].set(bool(written >> 32 * i & 1))

    def _update_timer(self, hart: int, now: int) -> None:
        """Set the level of a hart's timer interrupt, and the timer for its next edge."""
        remaining = self._compare[hart] - self._mtime_at(now)
        if 0 < remaining < NEVER:
            # Always later than now, whatever software has made of mtime: the clock would not come to an end otherwise.
            self._timers[hart].set(-(-(self._ticks_at(now) + remaining) * NS_PER_SECOND // self.frequency))
        else:
            self._timers[hart].cancel()
        self._timer_irqs[hart].set(remaining <= 0)

    def _expire(self, hart: int, now: int) -> None:
        with self._lock:
            self._update_timer(hart, now)

    def __repr__(self) -> str:
        return f"<Clint, {self.harts} harts at {self.frequency} Hz>"
