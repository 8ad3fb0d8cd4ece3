"""The goldfish clock, as Linux's driver uses it."""

from datetime import datetime

import pytest
from lines import Lines, registered

from dbs_device.clock import CountedClock
from dbs_device.devices.goldfish_rtc import GoldfishRtc
from dbs_device.errors import StateError

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH, IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = range(0, 0x20, 4)
NOW = 1_709_208_000 * 10**9


class Machine:
    def __init__(self):
        self.clock = CountedClock(step=0)
        self.lines = Lines(1)
        self.rtc = GoldfishRtc(clock=self.clock, start=datetime(2024, 2, 29, 12), irq=self.lines.sinks()[0])
        self.manager = registered(self.rtc)

    def load(self, offset):
        return self.manager.mmio_load(offset, 4)

    def store(self, offset, value):
        self.manager.mmio_store(offset, 4, value)

    def run(self, duration):
        self.clock.count_work(duration)
        self.clock.now()

    def time(self):
        low = self.load(TIME_LOW)
        return self.load(TIME_HIGH) << 32 | low

    def set_alarm(self, time):
        self.store(ALARM_HIGH, time >> 32)
        self.store(ALARM_LOW, time & 0xFFFF_FFFF)


@pytest.fixture
def machine():
    return Machine()


def test_the_low_half_latches_the_high_half(machine):
    machine.run((1 << 32) - (NOW & 0xFFFF_FFFF) - 1)
    low = machine.load(TIME_LOW)
    machine.run(1)
    assert machine.load(TIME_HIGH) << 32 | low == NOW | 0xFFFF_FFFF
    assert machine.time() == (NOW | 0xFFFF_FFFF) + 1


def test_a_driver_sets_the_time(machine):
    machine.store(TIME_HIGH, 3)
    machine.store(TIME_LOW, 5)
    machine.run(10)
    assert machine.time() == (3 << 32) + 15


def test_the_alarm(machine):
    machine.store(IRQ_ENABLED, 1)
    machine.set_alarm(NOW + 1000)
    assert machine.load(ALARM_STATUS) == 1
    machine.run(999)
    assert machine.lines.levels == [False]
    machine.run(1)
    assert (machine.lines.levels, machine.load(ALARM_STATUS)) == ([True], 0)
    assert machine.load(CLEAR_INTERRUPT) == 0  # write-only
    machine.store(CLEAR_INTERRUPT, 1)
    assert machine.lines.levels == [False]


def test_an_alarm_in_the_past_is_due_and_one_that_is_cleared_is_not(machine):
    machine.set_alarm(NOW + 1000)
    machine.store(CLEAR_ALARM, 1)
    machine.run(2000)
    assert machine.load(ALARM_STATUS) == 0
    machine.store(IRQ_ENABLED, 1)
    assert machine.lines.levels == [False]
    machine.set_alarm(NOW)
    machine.run(0)
    assert machine.lines.levels == [True]
    machine.store(IRQ_ENABLED, 0)
    assert machine.lines.levels == [False]


def test_the_alarm_follows_the_time_when_it_is_set(machine):
    machine.store(IRQ_ENABLED, 1)
    machine.set_alarm(NOW + 10**9)
    machine.store(TIME_HIGH, NOW + 10**9 - 5 >> 32)
    machine.store(TIME_LOW, NOW + 10**9 - 5 & 0xFFFF_FFFF)
    machine.run(5)
    assert machine.lines.levels == [True]


def test_it_goes_on_from_its_state(machine):
    machine.store(TIME_HIGH, 7)
    machine.store(TIME_LOW, 0)
    machine.store(IRQ_ENABLED, 1)
    machine.set_alarm((7 << 32) + 100)
    other = Machine()
    other.rtc.load_state(machine.rtc.save_state())
    other.run(99)
    assert other.lines.levels == [False]
    other.run(1)
    assert other.lines.levels == [True]
    with pytest.raises(StateError, match=r"GoldfishRtc\.offset"):
        machine.rtc.load_state({**machine.rtc.save_state(), "offset": "0"})
