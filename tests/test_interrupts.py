"""Interrupt lines."""

import gc
import threading
import weakref

import pytest
from helpers import Worker

from dbs_device.interrupts import IrqLine


class Sink:
    def __init__(self):
        self.levels = []

    def __call__(self, level):
        self.levels.append(level)


@pytest.fixture
def sink():
    return Sink()


def test_the_sink_is_called_with_each_new_level_once(sink):
    line = IrqLine(sink)
    for level in (False, True, True, False, False, True):
        line.set(level)
        assert line.level is level
    assert sink.levels == [True, False, True]


def test_a_line_is_callable_so_that_it_is_a_sink_itself(sink):
    IrqLine(IrqLine(sink)).set(True)
    assert sink.levels == [True]


def test_the_sink_gets_bools(sink):
    line = IrqLine(sink)
    line(5)
    line(0)
    assert sink.levels == [True, False]
    assert all(type(level) is bool for level in sink.levels)


def test_a_pulse_is_two_edges(sink):
    line = IrqLine(sink)
    line.pulse()
    assert sink.levels == [True, False]
    line.set(True)
    line.pulse()
    assert sink.levels == [True, False, True, False]
    assert not line.level


def test_a_pulse_of_a_line_that_an_input_holds_high_changes_nothing(sink):
    line = IrqLine(sink)
    line.shared().set(True)
    line.pulse()
    assert sink.levels == [True]


def test_shared_inputs_are_ored(sink):
    line = IrqLine(sink)
    first, second = line.shared(), line.shared()
    first.set(True)
    second.set(True)
    first.set(False)
    assert line.level
    assert (first.level, second.level) == (False, True)
    second.set(False)
    assert sink.levels == [True, False]


def test_an_input_counts_once_however_often_it_is_set(sink):
    line = IrqLine(sink)
    first, second = line.shared(), line.shared()
    first.set(True)
    first.set(True)
    first.set(False)
    second.set(False)
    assert sink.levels == [True, False]


def test_the_line_itself_is_one_more_source(sink):
    line = IrqLine(sink)
    line.shared().set(True)
    line.set(True)
    line.set(False)
    assert sink.levels == [True]


def test_a_line_without_a_sink_keeps_its_level_for_one_that_is_connected(sink):
    line = IrqLine()
    line.set(True)
    line.connect(sink)
    assert sink.levels == [True]
    other = Sink()
    line.connect(other)
    line.set(False)
    assert sink.levels == [True]
    assert other.levels == [True, False]
    line.connect(None)
    line.set(True)
    assert other.levels == [True, False]


@pytest.mark.parametrize("wrong", [5, "irq", object()])
def test_a_sink_is_callable(wrong):
    with pytest.raises(TypeError, match="called with its level"):
        IrqLine(wrong)
    with pytest.raises(TypeError, match="called with its level"):
        IrqLine().connect(wrong)


def test_an_exception_of_the_sink_comes_out_and_the_level_stands(sink):
    def fail(level):
        sink(level)
        if level:
            raise OSError("sink")

    line = IrqLine(fail)
    with pytest.raises(OSError, match="sink"):
        line.set(True)
    assert line.level
    line.set(False)
    with pytest.raises(OSError, match="sink"):
        line.pulse()
    assert sink.levels == [True, False, True, False]


def test_a_sink_that_sets_its_own_line_sees_the_edges_in_order():
    seen = []

    def acknowledge(level):
        seen.append(level)
        if level:
            line.set(False)
            seen.append("set")

    line = IrqLine(acknowledge)
    line.set(True)
    assert seen == [True, "set", False]
    assert not line.level


def test_edges_of_many_threads_alternate_and_end_at_the_level():
    levels, inside = [], threading.Lock()

    def sink(level):
        assert inside.acquire(blocking=False), "the sink runs twice at once"
        levels.append(level)
        inside.release()

    line = IrqLine(sink)
    inputs = [line.shared() for _ in range(4)]

    def toggle(source):
        for number in range(2000):
            source.set(number % 2 == 0)

    for worker in [Worker(toggle, source) for source in inputs]:
        worker.result()
    assert not line.level
    assert levels == [index % 2 == 0 for index in range(len(levels))]
    assert not levels[-1]


def test_an_edge_that_comes_while_the_sink_runs_is_passed_on_by_the_call_under_way():
    entered, go_on, seen = threading.Event(), threading.Event(), []

    def sink(level):
        seen.append((level, threading.get_ident()))
        if level:
            entered.set()
            assert go_on.wait(30)

    line = IrqLine(sink)
    worker = Worker(line.set, True)
    assert entered.wait(30)
    line.set(False)  # returns at once
    assert [level for level, _ in seen] == [True]
    go_on.set()
    worker.result()
    assert [level for level, _ in seen] == [True, False]
    assert len({thread for _, thread in seen}) == 1


def test_a_line_and_its_sink_are_collected():
    class Device:
        def __init__(self):
            self.line = IrqLine(self.on_edge)

        def on_edge(self, level):
            pass

    device = Device()
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None


def test_the_repr_says_the_level():
    line = IrqLine()
    assert repr(line) == "<IrqLine, low>"
    line.set(True)
    assert repr(line) == "<IrqLine, high>"
