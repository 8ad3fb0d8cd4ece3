"""The machine's time, and what is to happen when it has come.

Devices ask for the time by `Clock.now()` and are called back through `Clock.call_at()`. Callbacks run inside `now()`,
so a device that looks at the clock first sees everything that was due before. A callback is given the time, and does
not ask for it: between two looks no time passes.
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
"""What is called when a time has come: with the time that it is by then, which may be later."""


class Timer:
    """A callback that waits for its time; `cancel()` takes it back."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Make sure that the callback is not called any more."""
        self.callback = None


class Clock(ABC):
    """Nanoseconds since power-on, and a queue of callbacks."""

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, Timer]] = []
        self._sequence = itertools.count()  # timers of the same time run in the order in which they were set

    @abstractmethod
    def read(self) -> int:
        """Return the time without running any callback."""

    @abstractmethod
    def wait_until(self, when: int) -> None:
        """Let the time pass until `when`, because the processor has nothing to do before."""

    @abstractmethod
    def count_work(self, duration: int) -> None:
        """Take note that the processor has worked as long as `duration` ns of its own time."""

    def now(self) -> int:
        """Return the time, after the callbacks that were due by then."""
        now = self.read()
        while self._queue and self._queue[0][0] <= now:
            timer = heapq.heappop(self._queue)[2]
            if timer.callback is not None:
                timer.callback(now)
        return now

    def call_at(self, when: int, callback: Callback) -> Timer:
        """Have `callback` called at the first look at the clock from `when` on."""
        timer = Timer(callback)
        heapq.heappush(self._queue, (when, next(self._sequence), timer))
        return timer

    def next_event(self) -> int | None:
        """Return when the next callback is due, or None if there is none."""
        while self._queue and self._queue[0][2].callback is None:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None


class CountedClock(Clock):
    """Time that is counted from work: two runs of the same guest see the same times.

    It passes as the processor works and, so that a guest which polls for a time to come sees it come, by `step` ns at
    every look at the clock: about as long as an access to the ISA bus takes.
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
    """The host's time. Two runs differ in what depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic_ns()

    def read(self) -> int:
        return time.monotonic_ns() - self._start

    def wait_until(self, when: int) -> None:
        time.sleep(max(0, when - self.read()) / NS_PER_SECOND)

    def count_work(self, duration: int) -> None:
        """Do nothing: the work has taken its time."""
