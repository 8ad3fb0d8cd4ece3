"""The real-time clock, against its datasheet."""

from __future__ import annotations

from datetime import datetime

import pytest
from isa_helpers import make_every_byte_access, on_bus

from dbs_device.clock import CountedClock
from dbs_device.devices.mc146818 import Mc146818

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class Rtc:
    """A clock chip on a bus, with the level of its interrupt line."""

    def __init__(self, start: datetime = datetime(2024, 2, 28, 23, 59, 58), step: int = 0) -> None:
        self.clock = CountedClock(step)
        self.irq = False
        self.device = Mc146818(clock=self.clock, irq=self._set_irq, start=start)
        self.bus = on_bus(self.device)

    def _set_irq(self, level: bool) -> None:
        self.irq = level

    def __getitem__(self, register: int) -> int:
        self.bus.pio_out(0x70, 1, register)
        return self.bus.pio_in(0x71, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.bus.pio_out(0x70, 1, register)
        self.bus.pio_out(0x71, 1, value)

    def time(self) -> list[int]:
        """Return century, year, month, day, hours, minutes and seconds."""
        return [self[register] for register in (0x32, 9, 8, 7, 4, 2, 0)]

    def wait(self, duration: int) -> None:
        self.clock.count_work(duration)
        self.clock.now()


@pytest.fixture
def rtc() -> Rtc:
    return Rtc()


def test_counts_in_bcd_through_the_end_of_a_leap_february(rtc: Rtc) -> None:
    assert rtc.time() == [0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x58]
    rtc.wait(2 * SECOND)
    assert rtc.time() == [0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00]
    assert rtc[6] == 5  # a Thursday; Sunday is 1


def test_binary(rtc: Rtc) -> None:
    rtc[0x0B] = 0x86
    for register, value in zip((0x32, 9, 8, 7, 4, 2, 0), (19, 99, 12, 31, 23, 59, 59), strict=True):
        rtc[register] = value
    rtc[0x0B] = 0x06
    rtc.wait(SECOND)
    assert rtc.time() == [20, 0, 1, 1, 0, 0, 0]


def test_twelve_hours(rtc: Rtc) -> None:
    rtc[0x0B] = 0x80
    rtc[4], rtc[2], rtc[0] = 0x11, 0x59, 0x59
    rtc[0x0B] = 0x00
    rtc.wait(SECOND)
    assert rtc[4] == 0x92  # 12 PM
    rtc.wait(3600 * SECOND)
    assert rtc[4] == 0x81  # 1 PM


def test_set_holds_the_time(rtc: Rtc) -> None:
    rtc[0x0B] = 0x82
    rtc.wait(10 * SECOND)
    assert rtc[0] == 0x58
    rtc[0x0B] = 0x02
    rtc.wait(SECOND)
    assert rtc[0] == 0x59


def test_an_invalid_date_stays_as_written(rtc: Rtc) -> None:
    rtc[8] = 0x1F
    rtc.wait(5 * SECOND)
    assert (rtc[8], rtc[0]) == (0x1F, 0x58)


def test_divider_held_in_reset_stops_the_time_and_starts_half_a_second_late(rtc: Rtc) -> None:
    rtc[0x0A] = 0x76
    rtc.wait(10 * SECOND)
    rtc[0x0A] = 0x26
    rtc.wait(SECOND // 2 - 1)
    assert rtc[0] == 0x58
    rtc.wait(1)
    assert rtc[0] == 0x59


def test_update_in_progress_announces_the_update(rtc: Rtc) -> None:
    assert rtc[0x0A] == 0x26
    rtc.wait(SECOND - MILLISECOND)
    assert rtc[0x0A] == 0xA6
    rtc.wait(MILLISECOND)
    assert (rtc[0x0A], rtc[0]) == (0x26, 0x59)


def test_fraction_of_the_starting_time_counts() -> None:
    rtc = Rtc(datetime(2024, 1, 1, 0, 0, 0, 750_000))
    rtc.wait(SECOND // 4)
    assert rtc[0] == 0x01


def test_update_interrupt_until_the_flags_are_read(rtc: Rtc) -> None:
    rtc[0x0A] = 0x20  # no periodic flag
    rtc[0x0B] = 0x12
    rtc.wait(SECOND)
    assert rtc.irq
    assert rtc[0x0C] == 0x90
    assert (rtc.irq, rtc[0x0C]) == (False, 0x00)


def test_a_clock_that_was_not_read_for_years_goes_on_at_the_right_time(rtc: Rtc) -> None:
    rtc[5], rtc[3], rtc[1] = 0x12, 0x30, 0x00
    rtc.wait(3653 * 86_400 * SECOND + 2 * SECOND)
    assert rtc.time() == [0x20, 0x34, 0x03, 0x01, 0x00, 0x00, 0x00]
    assert rtc[0x0C] & 0x20  # the alarm was due
    rtc.wait((1 << 62) - rtc.clock.read())
    assert rtc[0x0C] & 0x10


def test_alarm_with_a_wildcard(rtc: Rtc) -> None:
    rtc[0x0A] = 0x20
    rtc[1], rtc[3], rtc[5] = 0x00, 0x00, 0xC0  # every full hour
    rtc[0x0B] = 0x22
    rtc.wait(SECOND)
    assert not rtc.irq
    rtc.wait(SECOND)
    assert rtc.irq
    assert rtc[0x0C] == 0xB0


def test_periodic_interrupt(rtc: Rtc) -> None:
    rtc[0x0C]
    rtc[0x0B] = 0x42
    rtc.wait(976_563)  # 1024 Hz
    assert rtc.irq
    assert rtc[0x0C] == 0xC0
    assert not rtc.irq
    rtc.wait(976_563)
    assert rtc.irq


def test_periodic_flag_is_set_without_interrupting(rtc: Rtc) -> None:
    rtc.wait(MILLISECOND)
    assert (rtc[0x0C], rtc.irq) == (0x40, False)


@pytest.mark.parametrize(("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)])
def test_periodic_rates(rtc: Rtc, rate: int, hertz: int) -> None:
    rtc[0x0A] = 0x20 | rate
    rtc[0x0B] = 0x42
    period = SECOND // hertz
    rtc.wait(period - 1)
    assert not rtc.irq
    rtc.wait(2)
    assert rtc.irq


def test_memory_keeps_what_is_written_and_read_only_registers_do_not(rtc: Rtc) -> None:
    rtc[0x40], rtc[0x7F] = 0x5A, 0xA5
    rtc[0x0D] = 0x00
    assert (rtc[0x40], rtc[0x7F], rtc[0x0D]) == (0x5A, 0xA5, 0x80)
    rtc.device[0x41] = 0x77
    assert (rtc[0x41], rtc.device[0x40]) == (0x77, 0x5A)


def test_index_reads_back_with_the_nmi_bit_which_does_not_select_a_register(rtc: Rtc) -> None:
    rtc.bus.pio_out(0x70, 1, 0x8D)
    assert (rtc.bus.pio_in(0x70, 1), rtc.bus.pio_in(0x71, 1)) == (0x8D, 0x80)


def test_index_and_data_in_one_access(rtc: Rtc) -> None:
    rtc.bus.pio_out(0x70, 2, 0x5A40)
    assert rtc[0x40] == 0x5A


def test_every_byte_may_be_written_to_every_port() -> None:
    make_every_byte_access(Rtc(step=1000).bus)
