"""The interval timer and its control port 0x61, against their datasheets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_helpers import make_every_byte_access, on_bus

from dbs_device.clock import CountedClock
from dbs_device.devices.pit8254 import PIT_FREQUENCY, Pit8254
from dbs_device.devices.port61 import SystemControlPortB

SECOND = 1_000_000_000


def ticks(count: int) -> int:
    """Return the time in ns that the PIT takes for some counts."""
    return -(-count * SECOND // PIT_FREQUENCY)


class Pit:
    """A PIT on a bus, with the edges of its first output."""

    def __init__(self, step: int = 0) -> None:
        self.edges = 0
        self.clock = CountedClock(step)
        self.device = Pit8254(clock=self.clock, irq=self._set_irq)
        self.bus = on_bus(self.device, SystemControlPortB(clock=self.clock, pit=self.device))

    def _set_irq(self, level: bool) -> None:
        self.edges += level

    def program(self, counter: int, mode: int, count: int, *, access: int = 3, bcd: bool = False) -> None:
        self.bus.pio_out(0x43, 1, counter << 6 | access << 4 | mode << 1 | bcd)
        if access & 1:
            self.bus.pio_out(0x40 + counter, 1, count & 0xFF)
        if access & 2:
            self.bus.pio_out(0x40 + counter, 1, count >> 8)

    def count(self, counter: int = 0) -> int:
        return self.bus.pio_in(0x40 + counter, 1) | self.bus.pio_in(0x40 + counter, 1) << 8

    def wait(self, count: int) -> None:
        self.clock.count_work(ticks(count))
        self.clock.now()


@pytest.fixture
def pit() -> Pit:
    return Pit()


def test_rate_generator_counts_down_and_starts_over(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    assert pit.count() == 1000
    pit.wait(1)
    assert pit.count() == 999
    pit.wait(998)
    assert pit.count() == 1
    pit.wait(1)
    assert (pit.count(), pit.edges) == (1000, 1)


def test_zero_stands_for_the_largest_count(pit: Pit) -> None:
    pit.program(0, 2, 0)
    pit.wait(0xFFFF)
    assert (pit.count(), pit.edges) == (1, 0)
    pit.wait(1)
    assert (pit.count(), pit.edges) == (0, 1)  # 0x10000, as 16 bits show it


def test_edges_between_two_reads_of_the_clock_are_one(pit: Pit) -> None:
    pit.program(0, 2, 10)
    pit.wait(1000)
    assert pit.edges == 1


def test_square_wave_counts_by_two_and_its_output_is_high_in_the_first_half(pit: Pit) -> None:
    pit.program(0, 3, 100)
    seen = []
    for _ in range(4):
        pit.bus.pio_out(0x43, 1, 0xE2)  # read back the status of counter 0
        seen.append((pit.bus.pio_in(0x40, 1) >> 7, pit.count()))
        pit.wait(25)
    assert seen == [(1, 100), (1, 50), (0, 100), (0, 50)]


def test_terminal_count_interrupts_once(pit: Pit) -> None:
    pit.program(0, 0, 50)
    pit.wait(49)
    assert pit.edges == 0
    pit.wait(1)
    assert pit.edges == 1
    pit.wait(10_000)
    assert pit.edges == 1


def test_latched_count_stays_until_it_has_been_read(pit: Pit) -> None:
    pit.program(0, 2, 0x1234)
    pit.bus.pio_out(0x43, 1, 0x00)
    pit.wait(100)
    pit.bus.pio_out(0x43, 1, 0x00)  # without effect: the first one has not been read
    assert pit.count() == 0x1234
    assert pit.count() == 0x1234 - 100


@pytest.mark.parametrize(("access", "expected"), [(1, 0x34), (2, 0x12)])
def test_one_byte_access(pit: Pit, access: int, expected: int) -> None:
    pit.program(0, 2, 0x1234, access=access)
    assert pit.bus.pio_in(0x40, 1) == expected
    pit.bus.pio_out(0x43, 1, 0x00)
    assert pit.bus.pio_in(0x40, 1) == expected


def test_bcd(pit: Pit) -> None:
    pit.program(0, 2, 0x1000, bcd=True)
    pit.wait(1)
    assert pit.count() == 0x0999
    pit.program(0, 2, 0, bcd=True)
    pit.wait(1)
    assert pit.count() == 0x9999


def test_invalid_bcd_digits_do_not_break_it(pit: Pit) -> None:
    pit.program(0, 2, 0x00AF, bcd=True)
    assert pit.count() == 0x0115  # 10 * 10 + 15


def test_read_back_latches_status_before_count(pit: Pit) -> None:
    pit.program(2, 3, 0x0200)
    pit.bus.pio_out(0x43, 1, 0xC8)  # both, of counter 2
    assert pit.bus.pio_in(0x42, 1) == 0x80 | 3 << 4 | 3 << 1
    assert pit.count(2) == 0x0200


def test_status_tells_that_no_count_has_been_loaded(pit: Pit) -> None:
    pit.bus.pio_out(0x43, 1, 0x34)
    pit.bus.pio_out(0x43, 1, 0xE2)
    assert pit.bus.pio_in(0x40, 1) == 0x80 | 0x40 | 0x34


def test_control_port_reads_as_nothing(pit: Pit) -> None:
    assert pit.bus.pio_in(0x43, 1) == 0xFF


@given(mode=st.sampled_from([2, 3]), count=st.integers(2, 0xFFFF), elapsed=st.integers(0, 200_000))
def test_periodic_count_stays_between_its_bounds(mode: int, count: int, elapsed: int) -> None:
    pit = Pit()
    pit.program(0, mode, count)
    pit.wait(elapsed)
    assert 1 <= pit.count() <= count
    assert pit.edges == (elapsed >= count)


# -- port 0x61


def test_gate_holds_the_speaker_timer_and_starts_it_over(pit: Pit) -> None:
    pit.program(2, 3, 1000)
    pit.wait(300)
    assert pit.count(2) == 1000
    pit.bus.pio_out(0x61, 1, 0x01)
    pit.wait(300)
    assert pit.count(2) == 400
    pit.bus.pio_out(0x61, 1, 0x00)
    pit.wait(300)
    assert pit.count(2) == 400
    pit.bus.pio_out(0x61, 1, 0x01)
    assert pit.count(2) == 1000


def test_gate_pauses_a_count_to_zero(pit: Pit) -> None:
    pit.bus.pio_out(0x61, 1, 0x01)
    pit.program(2, 0, 1000)
    pit.wait(100)
    pit.bus.pio_out(0x61, 1, 0x00)
    pit.wait(5000)
    pit.bus.pio_out(0x61, 1, 0x01)
    pit.wait(899)
    assert (pit.bus.pio_in(0x61, 1) & 0x20, pit.count(2)) == (0x00, 1)
    pit.wait(1)
    assert pit.bus.pio_in(0x61, 1) & 0x20 == 0x20


def test_gate_triggers_a_one_shot(pit: Pit) -> None:
    pit.program(2, 1, 100)
    pit.wait(500)
    assert pit.bus.pio_in(0x61, 1) & 0x20  # high, waiting for its trigger
    pit.bus.pio_out(0x61, 1, 0x01)
    assert not pit.bus.pio_in(0x61, 1) & 0x20
    pit.wait(100)
    assert pit.bus.pio_in(0x61, 1) & 0x20


def test_refresh_toggles(pit: Pit) -> None:
    levels = []
    for _ in range(4):
        levels.append(pit.bus.pio_in(0x61, 1) >> 4 & 1)
        pit.clock.count_work(15_085)
    assert levels == [0, 1, 0, 1]


def test_only_the_lower_bits_can_be_written(pit: Pit) -> None:
    pit.program(2, 0, 100)
    pit.bus.pio_out(0x61, 1, 0xFE)
    assert pit.bus.pio_in(0x61, 1) == 0x0E


def test_every_byte_may_be_written_to_every_port() -> None:
    make_every_byte_access(Pit(step=1000).bus)
