"""The core-local interruptor, as its manual says, from the side of a hart."""

import json

import pytest
from lines import Lines, registered

from dbs_device.clock import CountedClock
from dbs_device.devices.clint import Clint
from dbs_device.errors import StateError

MSIP, MTIMECMP, MTIME = 0x0, 0x4000, 0xBFF8
US = 1000  # ns; 10 ticks


class ClintMachine:
    def __init__(self, harts=2, **options):
        self.clock = CountedClock(step=0)
        self.software, self.timer = Lines(harts), Lines(harts)
        self.clint = Clint(
            clock=self.clock,
            harts=harts,
            software_irqs=self.software.sinks(),
            timer_irqs=self.timer.sinks(),
            **options,
        )
        self.manager = registered(self.clint)
        self.load, self.store = self.manager.mmio_load, self.manager.mmio_store

    def run(self, duration):
        self.clock.count_work(duration)
        self.clock.now()


@pytest.fixture
def clint():
    return ClintMachine()


def test_a_hart_interrupts_another_by_software(clint):
    clint.store(MSIP + 4, 4, 1)
    assert clint.software.levels == [False, True]
    assert clint.load(MSIP + 4, 4) == 1
    assert clint.load(MSIP, 8) == 1 << 32
    clint.store(MSIP + 4, 4, 0xFFFF_FFFE)  # only bit 0 exists
    assert clint.software.edges == [(1, True), (1, False)]
    clint.store(MSIP, 8, 1 << 32 | 1)
    assert clint.software.levels == [True, True]
    clint.store(MSIP + 6, 1, 0)  # not the byte that has the bit
    assert clint.software.levels == [True, True]


def test_mtime_counts_at_its_frequency(clint):
    clint.run(US)
    assert clint.load(MTIME, 8) == 10
    assert ClintMachine(frequency=32768).load(MTIME, 8) == 0
    slow = ClintMachine(frequency=32768)
    slow.run(10**9)
    assert slow.load(MTIME, 8) == 32768


def test_the_timer_interrupt_comes_at_the_tick_and_stays_until_mtimecmp_moves(clint):
    clint.store(MTIMECMP + 8, 8, 10)
    clint.run(US - 1)
    assert clint.timer.edges == []
    clint.run(1)
    assert clint.timer.edges == [(1, True)]
    clint.run(5 * US)
    clint.store(MTIMECMP + 8, 8, 1000)
    assert clint.timer.edges == [(1, True), (1, False)]
    assert clint.clock.next_event() == 100 * US


def test_a_32_bit_hart_writes_mtimecmp_in_halves_as_the_manual_advises(clint):
    clint.run(US)
    clint.store(MTIMECMP, 4, 0xFFFF_FFFF)
    clint.store(MTIMECMP + 4, 4, 0)
    clint.store(MTIMECMP, 4, 20)
    assert clint.timer.edges == []
    assert clint.load(MTIMECMP, 8) == 20
    clint.run(US)
    assert clint.timer.levels == [True, False]
    assert (clint.load(MTIME, 4), clint.load(MTIME + 4, 4)) == (20, 0)


def test_mtime_is_writable(clint):
    clint.store(MTIMECMP, 8, 1 << 40)
    clint.store(MTIME + 4, 4, 1 << 8)
    assert clint.timer.levels == [True, False]
    clint.store(MTIME, 8, 0)
    assert clint.timer.levels == [False, False]
    clint.run(US)
    assert clint.load(MTIME, 8) == 10


def test_mtime_that_wraps_does_not_stop_the_clock(clint):
    clint.store(MTIME, 8, (1 << 64) - 5)
    clint.store(MTIMECMP, 8, (1 << 64) - 1)
    clint.run(US)
    clint.store(MTIMECMP, 8, 100)
    assert clint.timer.levels == [False, False]
    clint.run(20 * US)
    assert clint.timer.levels == [True, False]


def test_a_timer_in_the_far_future_is_no_event(clint):
    clint.store(MTIMECMP, 8, (1 << 64) - 1)
    assert clint.clock.next_event() is None


def test_harts_that_do_not_exist_read_as_zero(clint):
    clint.store(MTIMECMP + 16, 8, 5)
    clint.store(MSIP + 8, 4, 1)
    assert clint.load(MTIMECMP + 16, 8) == clint.load(MSIP + 8, 4) == 0
    assert clint.load(0x3FFC, 4) == 0


def test_a_clint_goes_on_in_another_machine_from_its_state(clint):
    clint.store(MTIME, 8, 1000)
    clint.store(MTIMECMP, 8, 2000)
    clint.store(MTIMECMP + 8, 8, 500)
    clint.store(MSIP, 4, 1)
    clint.run(10 * US)
    other = ClintMachine()
    other.clock.load_state(clint.clock.save_state())
    other.clint.load_state(json.loads(json.dumps(clint.clint.save_state())))
    assert (other.software.levels, other.timer.levels) == ([True, False], [False, True])
    for machine in (clint, other):
        machine.run(90 * US - 1)
        assert not machine.timer.levels[0]
        machine.run(1)
        assert machine.timer.levels[0]


def test_a_clint_refuses_states_of_others(clint):
    clint.store(MTIMECMP, 8, 77)
    before = clint.clint.save_state()
    for state, part in [
        (None, "a NoneType"),
        ({}, "the state of Clint has compare"),
        (Clint(clock=clint.clock, harts=3).save_state(), r"Clint.compare is a list of 2, not "),
        ({**before, "delta": "5"}, "Clint.delta is in range"),
        ({**before, "compare": [1, True]}, r"Clint.compare\[1\] is in range.*, not True"),
    ]:
        with pytest.raises(StateError, match=part):
            clint.clint.load_state(state)
        assert clint.clint.save_state() == before


def test_a_clint_checks_what_it_is_made_of():
    clock = CountedClock()
    with pytest.raises(ValueError, match="1 to 4095 harts, not 0"):
        Clint(clock=clock, harts=0)
    with pytest.raises(ValueError, match="3 interrupt lines for 2 harts"):
        Clint(clock=clock, harts=2, timer_irqs=[print] * 3)
    with pytest.raises(ValueError, match="-1 Hz"):
        Clint(clock=clock, frequency=-1)
    with pytest.raises(TypeError, match="int"):
        Clint(clock=clock, software_irqs=[5])
