"""Clocks and timers."""

import gc
import threading
import weakref

import pytest
from helpers import DEADLOCK, Worker
from hypothesis import given
from hypothesis import strategies as st

from dbs_device.clock import NS_PER_SECOND, CountedClock, HostClock, Timer
from dbs_device.state import StateError

MILLISECOND = 1_000_000


@pytest.fixture
def clock():
    """A clock that stands still unless a test advances it."""
    return CountedClock(step=0)


@pytest.fixture(params=[CountedClock, HostClock])
def either_clock(request):
    return request.param()


def noted(calls, name):
    return lambda now: calls.append((name, now))


def test_each_read_takes_a_step_and_work_adds_up():
    clock = CountedClock(step=1000)
    assert [clock.now(), clock.read()] == [1000, 2000]
    clock.count_work(500)
    assert clock.now() == 3500


def test_callbacks_run_in_the_order_of_their_times_when_the_clock_is_read(clock):
    calls = []
    clock.call_at(30, noted(calls, "late"))
    clock.call_at(10, noted(calls, "first"))
    clock.call_at(10, noted(calls, "second"))
    clock.count_work(20)
    assert calls == []
    assert clock.read() == 20
    assert calls == []
    assert clock.now() == 20
    assert calls == [("first", 20), ("second", 20)]
    assert clock.next_event() == 30


def test_a_time_that_has_passed_is_due_at_the_next_read(clock):
    calls = []
    clock.count_work(50)
    clock.call_at(20, noted(calls, "passed"))
    clock.call_at(-5, noted(calls, "before power-on"))
    assert calls == []
    clock.now()
    assert calls == [("before power-on", 50), ("passed", 50)]


def test_a_cancelled_callback_is_not_called(clock):
    calls = []
    timer = clock.call_at(10, calls.append)
    clock.call_at(20, calls.append)
    timer.cancel()
    timer.cancel()
    assert clock.next_event() == 20
    clock.wait_until(50)
    clock.now()
    assert (calls, clock.next_event()) == ([50], None)


def test_a_callback_may_cancel_another_that_is_due(clock):
    calls = []
    clock.call_at(10, lambda now: second.cancel())
    second = clock.call_at(10, calls.append)
    clock.wait_until(10)
    clock.now()
    assert calls == []


def test_a_timer_calls_once_each_time_that_it_is_set(clock):
    calls = []
    timer = clock.timer(calls.append)
    assert timer.when is None
    for when in (10, 20):
        timer.set(when)
        assert timer.when == when
        clock.wait_until(when)
        clock.now()
        assert timer.when is None
        clock.now()
    assert calls == [10, 20]


def test_a_timer_that_is_set_again_is_due_at_the_new_time_only(clock):
    calls = []
    timer = clock.call_at(10, calls.append)
    timer.set(30)
    assert clock.next_event() == 30
    clock.wait_until(20)
    clock.now()
    timer.set(25)
    clock.wait_until(40)
    clock.now()
    assert calls == [40]


def test_a_timer_that_is_set_again_goes_behind_those_of_its_time(clock):
    calls = []
    first = clock.call_at(10, noted(calls, "first"))
    clock.call_at(10, noted(calls, "second"))
    first.set(10)
    clock.wait_until(10)
    clock.now()
    assert [name for name, _ in calls] == ["second", "first"]


def test_a_periodic_timer_sets_itself(clock):
    calls = []

    def tick(now):
        calls.append(timer.when)
        timer.set(100 * (now // 100 + 1))

    timer = clock.call_at(100, tick)
    for _ in range(5):
        clock.wait_until(clock.next_event())
        clock.now()
    assert (calls, clock.next_event()) == ([None] * 5, 600)


def test_a_callback_that_reads_the_clock_runs_no_other_in_the_middle_of_itself(clock):
    calls = []

    def read(now):
        calls.append("begins")
        assert clock.now() == 10
        calls.append("ends")

    clock.call_at(10, read)
    clock.call_at(10, lambda now: calls.append("other"))
    clock.wait_until(10)
    clock.now()
    assert calls == ["begins", "ends", "other"]


def test_an_exception_of_a_callback_comes_out_and_the_others_run_later(clock):
    def fail(now):
        raise OSError("callback")

    calls = []
    clock.call_at(10, fail)
    clock.call_at(10, calls.append)
    clock.wait_until(10)
    with pytest.raises(OSError, match="callback"):
        clock.now()
    assert calls == []
    clock.now()
    assert calls == [10]


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "cancel", "run"]), st.integers(0, 5), st.integers(0, 30)),
        max_size=300,
    )
)
def test_timers_are_those_of_a_sorted_list(steps):
    clock, calls, expected = CountedClock(step=0), [], []
    timers = [clock.timer(noted(calls, name)) for name in range(6)]
    model = []  # (when, order, name) of those that are set
    for order, (action, name, amount) in enumerate(steps):
        if action == "run":
            clock.count_work(amount)
            now = clock.now()
            due = sorted(each for each in model if each[0] <= now)
            expected += [(name, now) for _, _, name in due]
            model = [each for each in model if each[0] > now]
        else:
            model = [each for each in model if each[2] != name]
            if action == "cancel":
                timers[name].cancel()
            else:
                when = clock.read() + amount - 3
                timers[name].set(when)
                model.append((when, order, name))
        assert calls == expected
        assert clock.next_event() == min((when for when, _, _ in model), default=None)


def test_a_watchdog_that_is_never_due_does_not_fill_the_queue(clock):
    watchdog = clock.timer(pytest.fail)
    others = [clock.call_at(10**9, pytest.fail) for _ in range(100)]
    clock.call_at(5, lambda now: None)
    for when in range(10, 20_000):
        watchdog.set(10**9 + when)
    assert len(clock._queue) < 1000
    del others


def test_waiting_never_turns_the_time_back(clock):
    clock.wait_until(100)
    clock.wait_until(50)
    assert clock.read() == 100


def test_the_hosts_time_advances_by_itself_and_not_by_work():
    clock = HostClock()
    clock.count_work(3600 * NS_PER_SECOND)
    first = clock.read()
    while clock.read() < first + MILLISECOND:
        clock.wait_until(first + MILLISECOND)
    assert first + MILLISECOND <= clock.read() < 3600 * NS_PER_SECOND


@pytest.mark.parametrize("wake", ["wake", "earlier event", "loaded time"])
def test_a_wait_for_the_hosts_time_ends_early(wake):
    clock = HostClock()
    clock.call_at(3600 * NS_PER_SECOND, pytest.fail)
    clock.wait_until(3600 * NS_PER_SECOND)  # the event that has just been set is one to wake for
    waiter = Worker(clock.wait_until, 3600 * NS_PER_SECOND)
    if wake == "wake":
        clock.wake()
    elif wake == "earlier event":
        clock.call_at(10, lambda now: None)
    else:
        clock.load_state({"time": 5, "order": 0})
    waiter.result()


def test_a_wake_that_comes_before_the_wait_is_not_lost():
    clock = HostClock()
    clock.wake()
    clock.wait_until(3600 * NS_PER_SECOND)


def test_waiting_for_counted_time_takes_none_of_the_hosts(clock):
    clock.wake()
    clock.wait_until(10**30)
    assert clock.now() == 10**30


def test_a_listener_hears_of_an_earlier_event_and_of_no_other(either_clock):
    clock, heard = either_clock, []
    remove = clock.on_earlier_event(heard.append)
    later = clock.call_at(10**15, pytest.fail)
    clock.call_at(10**16, pytest.fail)
    clock.call_at(10**15, pytest.fail)  # at the same time: nothing is earlier
    earlier = clock.call_at(10**14, pytest.fail)
    later.set(10**13)
    earlier.cancel()
    assert heard == [10**15, 10**14, 10**13]
    remove()
    remove()
    clock.call_at(10**12, pytest.fail)
    assert heard == [10**15, 10**14, 10**13]


def test_a_listener_that_listens_twice_is_removed_once(clock):
    heard = []
    remove = clock.on_earlier_event(heard.append)
    clock.on_earlier_event(heard.append)
    remove()
    clock.call_at(10, pytest.fail)
    assert heard == [10]


def test_a_listener_may_use_the_clock_from_another_thread(clock):
    clock.on_earlier_event(lambda when: heard.append(Worker(clock.next_event).result()))
    heard = []
    clock.call_at(10, pytest.fail)
    assert heard == [10]


def test_another_thread_reads_the_time_while_a_callback_runs(clock):
    entered, go_on, calls = threading.Event(), threading.Event(), []

    def hold(now):
        entered.set()
        assert go_on.wait(DEADLOCK)
        calls.append("held")

    clock.call_at(10, hold)
    clock.call_at(10, lambda now: calls.append("other"))
    clock.wait_until(10)
    worker = Worker(clock.now)
    assert entered.wait(DEADLOCK)
    assert clock.now() == 10
    clock.call_at(10, lambda now: calls.append("new"))
    assert calls == []
    go_on.set()
    worker.result()
    assert calls == ["held", "other", "new"]


def test_callbacks_of_many_threads_run_once_and_one_at_a_time(impatient_interpreter):
    clock, inside, calls = CountedClock(step=1), threading.Lock(), []

    def call(name):
        def callback(now):
            assert inside.acquire(blocking=False), "two callbacks run at once"
            calls.append(name)
            inside.release()

        return callback

    def use(thread):
        times = []
        for number in range(300):
            clock.call_at(clock.now() + number % 7, call((thread, number)))
            clock.call_at(clock.now() + 10**9, pytest.fail).cancel()
            times.append(clock.now())
        assert times == sorted(times)

    for worker in [Worker(use, thread) for thread in range(4)]:
        worker.result()
    clock.count_work(100)
    clock.now()
    assert sorted(calls) == [(thread, number) for thread in range(4) for number in range(300)]
    assert clock.next_event() is None


def test_timers_go_on_in_another_clock_from_the_time_and_in_the_order_of_a_saved_state(clock):
    clock.count_work(5)
    saved = [clock.call_at(when, pytest.fail) for when in (20, 10, 20)]
    unset = clock.timer(pytest.fail)
    state = clock.save_state()
    timer_states = [timer.save_state() for timer in (*saved, unset)]

    other, calls = CountedClock(step=0), []
    restored = [other.timer(noted(calls, name)) for name in "abcd"]
    restored[3].set(1)
    for timer, timer_state in reversed([*zip(restored, timer_states, strict=True)]):
        timer.load_state(timer_state)
    other.load_state(state)
    other.call_at(20, noted(calls, "new"))
    assert (other.read(), other.next_event(), restored[3].when) == (5, 10, None)
    other.wait_until(20)
    other.now()
    assert [name for name, _ in calls] == ["b", "a", "c", "new"]


def test_saving_a_counted_time_takes_no_step():
    clock = CountedClock(step=1000)
    clock.now()
    assert clock.save_state() == clock.save_state() == {"time": 1000, "order": 0}


def test_the_hosts_time_goes_on_from_that_of_a_saved_state():
    clock = HostClock()
    clock.load_state({"time": 3600 * NS_PER_SECOND, "order": 0})
    assert 3600 * NS_PER_SECOND <= clock.read() < 7200 * NS_PER_SECOND
    assert clock.save_state()["time"] >= 3600 * NS_PER_SECOND


BAD_TIMES = [None, -1, "0", 1.0, 1 << 63]
BAD_STATES = [None, {}, {"time": 1}, {"time": 1, "order": -1}, {"time": 1, "order": "0"}]


@pytest.mark.parametrize("state", BAD_STATES + [{"time": wrong, "order": 0} for wrong in BAD_TIMES])
def test_a_state_of_something_else_leaves_the_time(clock, state):
    clock.count_work(7)
    with pytest.raises(StateError, match="the state of a clock"):
        clock.load_state(state)
    assert clock.read() == 7


@pytest.mark.parametrize("state", [[], [1], [1, 2, 3], ["1", 2], [1, None], 5, "12"])
def test_a_state_of_something_else_leaves_a_timer(clock, state):
    timer = clock.call_at(7, pytest.fail)
    with pytest.raises(StateError, match="a Timer is set for"):
        timer.load_state(state)
    assert timer.when == 7


@pytest.mark.parametrize("wrong", [1.5, "10", None])
def test_a_time_is_an_integer(either_clock, wrong):
    with pytest.raises(TypeError):
        either_clock.call_at(wrong, pytest.fail)
    with pytest.raises(TypeError):
        either_clock.wait_until(wrong)
    assert either_clock.next_event() is None


@pytest.mark.parametrize("wrong", [5, None, "now"])
def test_what_is_called_is_callable(clock, wrong):
    for method in (clock.timer, clock.on_earlier_event, lambda callback: clock.call_at(1, callback)):
        with pytest.raises(TypeError):
            method(wrong)
    assert clock.next_event() is None


def test_time_does_not_run_backwards(clock):
    with pytest.raises(ValueError, match="backwards"):
        CountedClock(step=-1)
    with pytest.raises(ValueError, match="backwards"):
        clock.count_work(-1)


def test_a_clock_its_timers_and_their_device_are_collected(either_clock):
    class Device:
        def __init__(self, clock):
            self.timer = clock.call_at(10**15, self.tick)

        def tick(self, now):
            pass

    device = Device(type(either_clock)())
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None


def test_the_repr_of_a_timer_says_when(clock):
    timer = clock.timer(print)
    assert isinstance(timer, Timer)
    assert repr(timer) == "<Timer, not set>"
    timer.set(10)
    assert repr(timer) == "<Timer, at 10 ns>"
