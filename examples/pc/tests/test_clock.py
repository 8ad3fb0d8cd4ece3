"""The clocks of the example PC."""

from __future__ import annotations

import pytest

from examples.pc.clock import CountedClock, WallClock

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


@pytest.fixture
def clock() -> CountedClock:
    """A clock that stands still unless a test advances it."""
    return CountedClock(step=0)


def test_each_look_costs_a_step_and_work_adds_up() -> None:
    clock = CountedClock(step=1000)
    assert [clock.now(), clock.now()] == [1000, 2000]
    clock.count_work(500)
    assert clock.now() == 3500


def test_callbacks_run_in_order_of_their_times_when_the_clock_is_read(clock: CountedClock) -> None:
    calls: list[tuple[str, int]] = []
    clock.call_at(30, lambda now: calls.append(("late", now)))
    clock.call_at(10, lambda now: calls.append(("first", now)))
    clock.call_at(10, lambda now: calls.append(("second", now)))
    clock.count_work(20)
    assert calls == []
    clock.now()
    assert calls == [("first", 20), ("second", 20)]
    assert clock.next_event() == 30


def test_cancelled_callback_is_not_called(clock: CountedClock) -> None:
    calls: list[int] = []
    timer = clock.call_at(10, calls.append)
    clock.call_at(20, calls.append)
    timer.cancel()
    assert clock.next_event() == 20
    clock.wait_until(50)
    clock.now()
    assert (calls, clock.next_event()) == ([50], None)


def test_waiting_never_turns_the_time_back(clock: CountedClock) -> None:
    clock.wait_until(100)
    clock.wait_until(50)
    assert clock.read() == 100


def test_wall_clock_advances_by_itself_and_not_by_work() -> None:
    clock = WallClock()
    clock.count_work(3600 * SECOND)
    first = clock.read()
    clock.wait_until(first + MILLISECOND)
    assert first + MILLISECOND <= clock.read() < 3600 * SECOND
