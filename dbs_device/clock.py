"""A machine's time, and callbacks at given times.

A device reads the time by `Clock.now()`, and sets a `Timer` for what it does by itself. Callbacks run inside `now()`:
a device that reads the clock first sees the effects of everything that was due. A callback is passed the time instead
of reading it, so that no time passes between two reads.

Examples
--------
>>> clock = CountedClock(step=0)
>>> timer = clock.call_at(100, lambda now: print("at", now))
>>> clock.count_work(250)
>>> clock.now()
at 250
250
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from operator import index
from typing import Any, ClassVar, TypeAlias

from .errors import StateError

__all__ = ["NS_PER_SECOND", "Callback", "Clock", "CountedClock", "HostClock", "Timer"]

NS_PER_SECOND = 1_000_000_000

Callback: TypeAlias = Callable[[int], object]
"""What a timer calls, with the current time, which may be later than the timer's."""

Entry: TypeAlias = "tuple[int, int, int, Timer]"
"""In the queue: when, the place among equal times, a number that no other entry has, and the timer."""

_END = 1 << 63  # ns: 292 years
_COMPACT_AT = 64  # entries, below which those of cancelled timers may stay in the queue


class Timer:
    """Calls a function once, each time that it is set and due. `Clock.timer` and `Clock.call_at` make timers."""

    __slots__ = ("__weakref__", "_callback", "_clock", "_entry")

    def __init__(self, clock: Clock, callback: Callback) -> None:
        if not callable(callback):
            raise TypeError(f"a timer calls a function of the time, not {type(callback).__name__}")
        self._clock = clock
        self._callback = callback
        self._entry: Entry | None = None  # None while it is not set

    @property
    def when(self) -> int | None:
        """The time in ns for which it is set; None if it is not, or has called."""
        entry = self._entry
        return None if entry is None else entry[0]

    def set(self, when: int) -> None:
        """Call the function at the first read of the clock from `when` on, instead of when it was set for before.

        Parameters
        ----------
        when : int
            In ns. A time that has passed is due at the next read. Timers of equal times call in the order in which
            they were set.
        """
        self._clock._set(self, index(when), None)

    def cancel(self) -> None:
        """Prevent the call. A timer that is not set stays so."""
        self._clock._cancel(self)

    def save_state(self) -> list[int] | None:
        """Return the time and the place among timers of equal times, or None if it is not set."""
        entry = self._entry
        return None if entry is None else [entry[0], entry[1]]

    def check_state(self, state: list[int] | None) -> None:
        """Raise `StateError` for a state that `save_state` does not return."""
        if state is not None and (
            not isinstance(state, list) or len(state) != 2 or any(type(each) is not int for each in state)
        ):
            raise StateError(f"a Timer is set for [when, order], or is None; not {state!r}")

    def load_state(self, state: list[int] | None) -> None:
        """Set or cancel the timer, by a saved state. A `StateError` of `check_state` leaves it unchanged."""
        self.check_state(state)
        if state is None:
            self.cancel()
        else:
            self._clock._set(self, *state)

    def __repr__(self) -> str:
        return f"<Timer, {'not set' if self.when is None else f'at {self.when} ns'}>"


class Clock(ABC):
    """Nanoseconds since power-on, and a queue of timers.

    Any thread may use it. Callbacks run on the thread that reads the time, one at a time and with no lock held; where
    one thread runs them, the others read the time without waiting for that, and so does a callback that calls `now`.
    Devices that share more than that between threads need the lock that their accesses are under, in their callbacks
    as in their handlers.

    An exception of a callback comes out of `now`; callbacks that were due after it run at the next read.
    """

    version: ClassVar[int] = 1

    def __init__(self) -> None:
        # Re-entrant, since a signal handler or a finaliser may set a timer in the middle of anything.
        self._lock = threading.RLock()
        self._queue: list[Entry] = []
        self._due: float = math.inf  # not after the first entry, for `now` to compare without the lock
        self._entries = 0  # made so far
        self._order = 0  # the next place among timers of equal times
        self._set_timers = 0
        self._running = False
        self._listeners: tuple[Callable[[int], object], ...] = ()

    @abstractmethod
    def read(self) -> int:
        """Return the time in ns without running callbacks."""

    @abstractmethod
    def wait_until(self, when: int) -> None:
        """Let the time pass until `when` (ns), while the processor has nothing to do. May return early."""

    @abstractmethod
    def count_work(self, duration: int) -> None:
        """Account for `duration` ns of the processor's own time."""

    def wake(self) -> None:  # noqa: B027  nothing to do where `wait_until` does not wait
        """Make `wait_until` return, on its thread or as soon as it is called: an interrupt has come, say."""

    def now(self) -> int:
        """Run the callbacks that are due, and return the time in ns."""
        now = self.read()
        if now >= self._due:
            self._run(now)
        return now

    def timer(self, callback: Callback) -> Timer:
        """Return a timer that is not set.

        Parameters
        ----------
        callback : callable
            Called with the time in ns, each time that the timer was set and is due.
        """
        return Timer(self, callback)

    def call_at(self, when: int, callback: Callback) -> Timer:
        """Call a function once, at the first read of the clock from a time on.

        Parameters
        ----------
        when : int
            In ns. A time that has passed is due at the next read.
        callback : callable
            Called with the time in ns, which may be later.

        Returns
        -------
        Timer
            Its `cancel()` prevents the call.
        """
        timer = Timer(self, callback)
        timer.set(when)
        return timer

    def next_event(self) -> int | None:
        """Return when the next timer is due (ns), or None if none is set."""
        with self._lock:
            self._drop_dead_entries()
            return self._queue[0][0] if self._queue else None

    def on_earlier_event(self, listener: Callable[[int], object]) -> Callable[[], None]:
        """Call a function when a timer is set that is due before all others, to wake what sleeps until the next event.

        Parameters
        ----------
        listener : callable
            Called with the new time of the next event (ns), on the thread that set the timer, with no lock held.

        Returns
        -------
        callable
            Ends the calls.
        """
        if not callable(listener):
            raise TypeError(f"a listener is called with a time, which {type(listener).__name__} cannot be")

        def added(when: int) -> object:  # the same function may listen twice
            return listener(when)

        with self._lock:
            self._listeners = (*self._listeners, added)

        def remove() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not added)

        return remove

    def save_state(self) -> dict[str, Any]:
        """Return the time, and the next place among timers of equal times. Devices save their timers themselves."""
        return {"time": self._saved_time(), "order": self._order}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state that is not one of a clock."""
        match state:
            case {"time": int(now), "order": int(order), **rest} if 0 <= now < _END and order >= 0 and not rest:
                return
        raise StateError(f"the state of a clock has a time below 2**63 ns and an order, not {state!r}")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the time of a saved state. Timers that are set stay set.

        Raises
        ------
        StateError
            The state is not one of a clock. Nothing is changed.
        """
        self.check_state(state)
        self._set_time(state["time"])
        self._order = state["order"]
        event = self.next_event()
        if event is not None:
            self._tell(event)

    def _saved_time(self) -> int:
        return self.read()

    @abstractmethod
    def _set_time(self, now: int) -> None:
        """Go on from a time."""

    # The queue. A timer's entry in it is dead from the time at which the timer is cancelled, or has another entry.

    def _set(self, timer: Timer, when: int, order: int | None) -> None:
        with self._lock:
            if order is None:
                order = self._order
            self._order = max(self._order, order + 1)
            self._set_timers += timer._entry is None
            timer._entry = entry = (when, order, self._entries, timer)
            self._entries += 1
            heapq.heappush(self._queue, entry)
            self._drop_dead_entries()
            earlier = self._queue[0] is entry
        if earlier:
            self._tell(when)

    def _tell(self, when: int) -> None:
        for listener in self._listeners:
            listener(when)

    def _cancel(self, timer: Timer) -> None:
        with self._lock:
            if timer._entry is not None:
                timer._entry = None
                self._set_timers -= 1
                self._drop_dead_entries()

    def _drop_dead_entries(self) -> None:
        queue = self._queue
        if len(queue) > max(_COMPACT_AT, 2 * self._set_timers):  # a watchdog is set again and again, far ahead
            queue[:] = [entry for entry in queue if entry[3]._entry is entry]
            heapq.heapify(queue)
        while queue and queue[0][3]._entry is not queue[0]:
            heapq.heappop(queue)
        self._due = queue[0][0] if queue else math.inf

    def _pop(self, now: int) -> Timer | None:
        """Return the next timer that is due, which is then not set any more."""
        with self._lock:
            self._drop_dead_entries()
            if now < self._due:
                return None
            timer = heapq.heappop(self._queue)[3]
            timer._entry = None
            self._set_timers -= 1
            self._drop_dead_entries()
            return timer

    def _run(self, now: int) -> None:
        with self._lock:
            if self._running:
                return
            self._running = True
        try:
            while (timer := self._pop(now)) is not None:
                timer._callback(now)
        finally:
            self._running = False


class CountedClock(Clock):
    """Time counted from work: every run of a guest sees the same times.

    It advances as the processor works and, for guests that poll for a time, by a step at every read.

    Parameters
    ----------
    step : int
        In ns; by default, about the duration of an access to the ISA bus.
    """

    def __init__(self, step: int = 1000) -> None:
        super().__init__()
        if step < 0:
            raise ValueError(f"time does not run backwards: a step of {step} ns")
        self.step = index(step)
        self._time = 0

    def read(self) -> int:
        """Return the time in ns, a step after that of the last read."""
        with self._lock:
            self._time += self.step
            return self._time

    def wait_until(self, when: int) -> None:
        """Advance to `when` (ns) at once; not back."""
        with self._lock:
            self._time = max(self._time, index(when))

    def count_work(self, duration: int) -> None:
        """Advance by `duration` ns."""
        if duration < 0:
            raise ValueError(f"time does not run backwards: work of {duration} ns")
        with self._lock:
            self._time += index(duration)

    def _saved_time(self) -> int:
        return self._time  # without a step

    def _set_time(self, now: int) -> None:
        with self._lock:
            self._time = now


class HostClock(Clock):
    """The host's time (`time.monotonic_ns`) since the clock was made. Runs of a guest may differ."""

    def __init__(self) -> None:
        super().__init__()
        self._woken = woken = threading.Event()
        self.on_earlier_event(lambda when: woken.set())
        self._set_time(0)

    def read(self) -> int:
        """Return the time in ns."""
        return time.monotonic_ns() - self._start

    def wait_until(self, when: int) -> None:
        """Sleep until `when` (ns), or until an earlier event is set, or until `wake`."""
        seconds = (index(when) - self.read()) / NS_PER_SECOND
        if seconds > 0:
            self._woken.wait(min(seconds, threading.TIMEOUT_MAX))
        self._woken.clear()

    def wake(self) -> None:
        """Make `wait_until` return, on its thread or as soon as it is called: an interrupt has come, say."""
        self._woken.set()

    def count_work(self, duration: int) -> None:
        """Do nothing: the work itself has taken time."""

    def _set_time(self, now: int) -> None:
        self._start = time.monotonic_ns() - now
