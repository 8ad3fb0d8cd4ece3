"""The system timer of M-profile processors, as the architecture manual says."""

import pytest
from lines import Lines, registered

from dbs_device.clock import CountedClock
from dbs_device.devices.systick import SysTick
from dbs_device.errors import StateError

CSR, RVR, CVR, CALIB = 0x0, 0x4, 0x8, 0xC
ENABLE, TICKINT, CLKSOURCE, COUNTFLAG = 1, 2, 4, 1 << 16
US = 1000


class Machine:
    def __init__(self, **options):
        self.clock = CountedClock(step=0)
        self.lines = Lines(1)
        self.timer = SysTick(clock=self.clock, irq=self.lines.sinks()[0], frequency=1_000_000, **options)
        self.manager = registered(self.timer)

    def load(self, offset):
        return self.manager.mmio_load(offset, 4)

    def store(self, offset, value):
        self.manager.mmio_store(offset, 4, value)

    def run(self, cycles):
        self.clock.count_work(cycles * US)
        self.clock.now()

    @property
    def ticks(self):
        return self.lines.edges.count((0, True))

    def start(self, reload, control=ENABLE | TICKINT | CLKSOURCE):
        """As the manual says: reload, clear, enable."""
        self.store(RVR, reload)
        self.store(CVR, 0)
        self.store(CSR, control)


@pytest.fixture
def machine():
    return Machine()


def test_it_ticks_every_reload_plus_one_cycles(machine):
    machine.start(9)
    machine.run(9)
    assert machine.ticks == 0
    for tick in range(1, 5):
        machine.run(1 if tick == 1 else 10)
        assert machine.ticks == tick
    assert machine.lines.levels == [False]  # an edge each


def test_the_counter_counts_down(machine):
    machine.start(9)
    machine.run(1)
    assert [machine.load(CVR)] + [machine.run(1) or machine.load(CVR) for _ in range(10)] == [
        9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9,
    ]  # fmt: skip


def test_the_flag_is_cleared_by_a_read_and_by_a_write_of_the_counter(machine):
    machine.start(9, ENABLE | CLKSOURCE)
    machine.run(25)
    assert machine.load(CSR) == ENABLE | CLKSOURCE | COUNTFLAG
    assert machine.load(CSR) == ENABLE | CLKSOURCE
    machine.run(10)
    machine.store(CVR, 77)
    assert machine.load(CSR) == ENABLE | CLKSOURCE
    assert machine.load(CVR) == 0
    assert machine.ticks == 0


def test_a_delay_loop_that_polls_the_flag():
    machine = Machine()
    machine.clock.step = 100
    machine.start(99, ENABLE | CLKSOURCE)
    polls = 0
    while not machine.load(CSR) & COUNTFLAG:
        polls += 1
    assert polls == pytest.approx(1000, abs=30)


def test_a_new_reload_value_counts_from_the_next_time(machine):
    machine.start(9)
    machine.run(5)
    machine.store(RVR, 99)
    machine.run(5)
    assert machine.ticks == 1
    machine.run(99)
    assert machine.ticks == 1
    machine.run(1)
    assert machine.ticks == 2


def test_it_stands_still_while_it_is_disabled(machine):
    machine.start(99)
    machine.run(50)
    machine.store(CSR, TICKINT | CLKSOURCE)
    value = machine.load(CVR)
    machine.run(500)
    assert (machine.load(CVR), machine.ticks) == (value, 0)
    machine.store(CSR, ENABLE | TICKINT | CLKSOURCE)
    machine.run(value)
    assert machine.ticks == 1


def test_a_reload_value_of_zero_stops_it(machine):
    machine.start(9)
    machine.run(5)
    machine.store(RVR, 0)
    machine.run(100)
    assert (machine.ticks, machine.load(CVR)) == (1, 0)
    machine.store(RVR, 9)
    machine.run(10)
    assert machine.ticks == 2


def test_several_periods_between_two_reads_are_one_tick_and_keep_their_phase(machine):
    machine.start(9)
    machine.run(1005)
    assert machine.ticks == 1
    machine.run(5)
    assert machine.ticks == 2


def test_without_a_reference_clock_it_says_so(machine):
    assert machine.load(CALIB) == 1 << 31
    machine.store(CSR, 0)
    assert machine.load(CSR) == CLKSOURCE


def test_the_reference_clock():
    machine = Machine(reference_frequency=100_000)
    assert machine.load(CALIB) == 999
    machine.start(9, ENABLE | TICKINT)
    machine.run(99)
    assert machine.ticks == 0
    machine.run(1)
    assert machine.ticks == 1
    machine.run(50)
    machine.store(CSR, ENABLE | TICKINT | CLKSOURCE)
    machine.run(5)
    assert machine.ticks == 2


def test_registers_have_24_bits(machine):
    machine.store(RVR, 0xFFFF_FFFF)
    assert machine.load(RVR) == 0xFF_FFFF


def test_it_goes_on_from_its_state(machine):
    machine.start(99)
    machine.run(150)
    other = Machine()
    other.clock.load_state(machine.clock.save_state())
    other.timer.load_state(machine.timer.save_state())
    assert other.load(CVR) == machine.load(CVR)
    assert other.load(CSR) == ENABLE | TICKINT | CLKSOURCE | COUNTFLAG
    other.run(50)
    assert other.ticks == 1
    other.timer.load_state(Machine().timer.save_state())
    other.run(500)
    assert other.ticks == 1
    with pytest.raises(StateError, match=r"SysTick\.zero_at"):
        machine.timer.load_state({**machine.timer.save_state(), "zero_at": 0.5})


def test_frequencies_are_positive():
    with pytest.raises(ValueError, match="0 Hz"):
        SysTick(clock=CountedClock(), frequency=0)
    with pytest.raises(ValueError, match="-5 Hz"):
        SysTick(clock=CountedClock(), frequency=1, reference_frequency=-5)
