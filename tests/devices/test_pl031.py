"""ARM's real-time clock, from the side of its driver."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from lines import Lines, registered

from dbs_device.clock import CountedClock, HostClock
from dbs_device.devices.pl031 import Pl031
from dbs_device.errors import StateError

DR, MR, LR, CR, IMSC, RIS, MIS, ICR = range(0, 0x20, 4)
START = datetime(2024, 2, 29, 12)
SECONDS = 1_709_208_000
SECOND = 1_000_000_000


class Machine:
    def __init__(self):
        self.clock = CountedClock(step=0)
        self.lines = Lines(1)
        self.rtc = Pl031(clock=self.clock, start=START, irq=self.lines.sinks()[0])
        self.manager = registered(self.rtc)

    def load(self, offset):
        return self.manager.mmio_load(offset, 4)

    def store(self, offset, value):
        self.manager.mmio_store(offset, 4, value)

    def run(self, seconds):
        self.clock.count_work(int(seconds * SECOND))
        self.clock.now()


@pytest.fixture
def machine():
    return Machine()


def test_it_counts_seconds_from_its_start(machine):
    assert machine.load(DR) == SECONDS
    machine.run(59.9)
    assert machine.load(DR) == SECONDS + 59
    assert machine.load(CR) == 1
    machine.store(CR, 0)
    assert machine.load(CR) == 1


def test_a_driver_sets_the_time(machine):
    machine.run(0.5)
    machine.store(LR, 1000)
    assert (machine.load(DR), machine.load(LR)) == (1000, 1000)
    machine.run(0.5)
    assert machine.load(DR) == 1001
    machine.store(LR, 0xFFFF_FFFF)
    machine.run(2)
    assert machine.load(DR) == 1


def test_the_alarm_interrupts_at_its_second(machine):
    machine.store(IMSC, 1)
    machine.store(MR, SECONDS + 10)
    machine.run(9.9)
    assert machine.lines.levels == [False]
    machine.run(0.1)
    assert machine.lines.levels == [True]
    assert (machine.load(RIS), machine.load(MIS)) == (1, 1)
    machine.store(ICR, 1)
    assert machine.lines.levels == [False]
    assert machine.load(MIS) == 0


def test_an_alarm_that_is_masked_shows_in_the_raw_status(machine):
    machine.store(MR, SECONDS + 1)
    machine.run(1)
    assert (machine.load(RIS), machine.load(MIS), machine.lines.levels) == (1, 0, [False])
    machine.store(IMSC, 1)
    assert machine.lines.levels == [True]


def test_an_alarm_at_this_second_is_due_and_one_in_the_past_waits_for_the_counter_to_wrap(machine):
    machine.store(MR, SECONDS)
    assert machine.load(RIS) == 1
    machine.store(ICR, 1)
    machine.store(MR, SECONDS - 1)
    machine.run(1000)
    assert machine.load(RIS) == 0
    machine.store(LR, SECONDS - 3)  # the time moves below the alarm
    machine.run(2)
    assert machine.load(RIS) == 1


def test_dates_with_a_zone_and_the_host_s_time():
    clock = HostClock()
    east = datetime(2024, 2, 29, 14, tzinfo=timezone(timedelta(hours=2)))
    assert Pl031(clock=clock, start=east).seconds == SECONDS
    assert abs(Pl031(clock=clock).seconds - datetime.now(UTC).timestamp()) < 60


def test_a_driver_recognises_it(machine):
    assert [machine.load(0xFE0 + 4 * i) for i in range(4)] == [0x31, 0x10, 0x04, 0x00]


def test_it_goes_on_from_its_state(machine):
    machine.run(5)
    machine.store(LR, 500)
    machine.store(MR, 510)
    machine.store(IMSC, 1)
    other = Machine()
    other.clock.load_state(machine.clock.save_state())
    other.rtc.load_state(machine.rtc.save_state())
    for each in (machine, other):
        each.run(9)
        assert each.lines.levels == [False]
        each.run(1)
        assert each.lines.levels == [True]
    with pytest.raises(StateError, match=r"Pl031\.offset"):
        machine.rtc.load_state({**machine.rtc.save_state(), "offset": None})
