"""The machine's time, and callbacks at a given time.

Devices read the time by `Clock.now()`, and `Clock.call_at()` schedules callbacks. These run inside `now()`, so that a
device that reads the clock first sees the effects of everything that was due. A callback is passed the time instead of
reading it: no time passes between two reads.
"""

from __future__ import annotations

import heapq
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["NS_PER_SECOND", "Clock", "CountedClock", "Timer", "WallClock"]

NS_PER_SECOND = 1_000_000_000


Callback: TypeAlias = Callable[[int], None]
"""A scheduled function, called with the current time, which may be later than the scheduled one."""


class Timer:
    """A scheduled callback; `cancel()` removes it."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Prevent the callback from being called."""
        self.callback = None


class Clock(ABC):
    """Nanoseconds since power-on, and a queue of callbacks."""

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, Timer]] = []
        self._sequence = itertools.count()  # timers of equal time run in the order in which they were set

    @abstractmethod
    def read(self) -> int:
        """Return the time without running callbacks."""

    @abstractmethod
    def wait_until(self, when: int) -> None:
        """Advance to `when`: the processor is idle until then."""

    @abstractmethod
    def count_work(self, duration: int) -> None:
        """Account for `duration` ns of the processor's own time."""

    def now(self) -> int:
        """Run the callbacks that are due, and return the time."""
        now = self.read()
        while self._queue and self._queue[0][0] <= now:
            timer = heapq.heappop(self._queue)[2]
            if timer.callback is not None:
                timer.callback(now)
        return now

    def call_at(self, when: int, callback: Callback) -> Timer:
        """Call `callback` at the first read of the clock from `when` on."""
        timer = Timer(callback)
        heapq.heappush(self._queue, (when, next(self._sequence), timer))
        return timer

    def next_event(self) -> int | None:
        """Return when the next callback is due, or None if there is none."""
        while self._queue and self._queue[0][2].callback is None:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None


class CountedClock(Clock):
    """Time counted from work: every run of a guest sees the same times.

    It advances as the processor works and, for guests that poll for a time, by `step` ns at every read of the clock:
    about the duration of an access to the ISA bus.
    """

    def __init__(self, step: int = 1000) -> None:
        super().__init__()
        self.step = step
        self._time = 0

    def read(self) -> int:
        self._time += self.step
        return self._time

    def wait_until(self, when: int) -> None:
        self._time = max(self._time, when)

    def count_work(self, duration: int) -> None:
        self._time += duration


class WallClock(Clock):
    """The host's time. Runs of a guest may differ."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic_ns()

    def read(self) -> int:
        return time.monotonic_ns() - self._start

    def wait_until(self, when: int) -> None:
        time.sleep(max(0, when - self.read()) / NS_PER_SECOND)

    def count_work(self, duration: int) -> None:
        """Do nothing: the work itself has taken time."""
