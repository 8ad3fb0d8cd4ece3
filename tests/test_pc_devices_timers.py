"""Clock, 8254, port 0x61, MC146818 and the ACPI registers of the example PC, against their datasheets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, IoManager
from examples.pc.clock import CountedClock, WallClock
from examples.pc.devices.acpi_pm import AcpiPm
from examples.pc.devices.pit8254 import PIT_FREQUENCY, Pit8254
from examples.pc.devices.port61 import SystemControlPortB
from examples.pc.devices.rtc_mc146818 import CmosRtc

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


def on_bus(*devices: DeviceIo) -> IoManager:
    manager = IoManager()
    for device in devices:
        manager.register_device_io(device, device.get_trapped_io_resources())
    return manager


def ticks(count: int) -> int:
    """Return a time in ns in which the PIT counts so often."""
    return -(-count * SECOND // PIT_FREQUENCY)


@pytest.fixture
def clock() -> CountedClock:
    """A clock that stands still unless it is told otherwise."""
    return CountedClock(step=0)


class TestClock:
    def test_each_look_costs_a_step_and_work_adds_up(self) -> None:
        clock = CountedClock(step=1000)
        assert [clock.now(), clock.now()] == [1000, 2000]
        clock.count_work(500)
        assert clock.now() == 3500

    def test_callbacks_run_in_order_of_their_times_when_somebody_looks(self, clock: CountedClock) -> None:
        calls: list[tuple[str, int]] = []
        clock.call_at(30, lambda now: calls.append(("late", now)))
        clock.call_at(10, lambda now: calls.append(("first", now)))
        clock.call_at(10, lambda now: calls.append(("second", now)))
        clock.count_work(20)
        assert calls == []
        clock.now()
        assert calls == [("first", 20), ("second", 20)]
        assert clock.next_event() == 30

    def test_cancelled_callback_is_not_called(self, clock: CountedClock) -> None:
        calls: list[int] = []
        timer = clock.call_at(10, calls.append)
        clock.call_at(20, calls.append)
        timer.cancel()
        assert clock.next_event() == 20
        clock.wait_until(50)
        clock.now()
        assert (calls, clock.next_event()) == ([50], None)

    def test_waiting_never_turns_the_time_back(self, clock: CountedClock) -> None:
        clock.wait_until(100)
        clock.wait_until(50)
        assert clock.read() == 100

    def test_wall_clock_goes_by_itself_and_not_by_work(self) -> None:
        clock = WallClock()
        clock.count_work(3600 * SECOND)
        first = clock.read()
        clock.wait_until(first + MILLISECOND)
        assert first + MILLISECOND <= clock.read() < 3600 * SECOND


class Pit:
    """A PIT on a bus, with the edges of its first output."""

    def __init__(self, clock: CountedClock) -> None:
        self.edges = 0
        self.clock = clock
        self.device = Pit8254(clock, self._rise)
        self.bus = on_bus(self.device, SystemControlPortB(clock, self.device))

    def _rise(self) -> None:
        self.edges += 1

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
def pit(clock: CountedClock) -> Pit:
    return Pit(clock)


class TestPit:
    def test_rate_generator_counts_down_and_starts_over(self, pit: Pit) -> None:
        pit.program(0, 2, 1000)
        assert pit.count() == 1000
        pit.wait(1)
        assert pit.count() == 999
        pit.wait(998)
        assert pit.count() == 1
        pit.wait(1)
        assert (pit.count(), pit.edges) == (1000, 1)

    def test_zero_stands_for_the_largest_count(self, pit: Pit) -> None:
        pit.program(0, 2, 0)
        pit.wait(0xFFFF)
        assert (pit.count(), pit.edges) == (1, 0)
        pit.wait(1)
        assert (pit.count(), pit.edges) == (0, 1)  # 0x10000, as 16 bits show it

    def test_edges_that_nobody_could_see_apart_are_one(self, pit: Pit) -> None:
        pit.program(0, 2, 10)
        pit.wait(1000)
        assert pit.edges == 1

    def test_square_wave_counts_by_two_and_its_output_is_high_in_the_first_half(self, pit: Pit) -> None:
        pit.program(0, 3, 100)
        seen = []
        for _ in range(4):
            pit.bus.pio_out(0x43, 1, 0xE2)  # read back the status of counter 0
            seen.append((pit.bus.pio_in(0x40, 1) >> 7, pit.count()))
            pit.wait(25)
        assert seen == [(1, 100), (1, 50), (0, 100), (0, 50)]

    def test_terminal_count_interrupts_once(self, pit: Pit) -> None:
        pit.program(0, 0, 50)
        pit.wait(49)
        assert pit.edges == 0
        pit.wait(1)
        assert pit.edges == 1
        pit.wait(10_000)
        assert pit.edges == 1

    def test_latched_count_stays_until_it_has_been_read(self, pit: Pit) -> None:
        pit.program(0, 2, 0x1234)
        pit.bus.pio_out(0x43, 1, 0x00)
        pit.wait(100)
        pit.bus.pio_out(0x43, 1, 0x00)  # without effect: the first one has not been read
        assert pit.count() == 0x1234
        assert pit.count() == 0x1234 - 100

    @pytest.mark.parametrize(("access", "expected"), [(1, 0x34), (2, 0x12)])
    def test_one_byte_access(self, pit: Pit, access: int, expected: int) -> None:
        pit.program(0, 2, 0x1234, access=access)
        assert pit.bus.pio_in(0x40, 1) == expected
        pit.bus.pio_out(0x43, 1, 0x00)
        assert pit.bus.pio_in(0x40, 1) == expected

    def test_bcd(self, pit: Pit) -> None:
        pit.program(0, 2, 0x1000, bcd=True)
        pit.wait(1)
        assert pit.count() == 0x0999
        pit.program(0, 2, 0, bcd=True)
        pit.wait(1)
        assert pit.count() == 0x9999

    def test_digits_that_are_none_do_not_break_it(self, pit: Pit) -> None:
        pit.program(0, 2, 0x00AF, bcd=True)
        assert pit.count() == 0x0115  # 10 * 10 + 15

    def test_read_back_latches_status_before_count(self, pit: Pit) -> None:
        pit.program(2, 3, 0x0200)
        pit.bus.pio_out(0x43, 1, 0xC8)  # both, of counter 2
        assert pit.bus.pio_in(0x42, 1) == 0x80 | 3 << 4 | 3 << 1
        assert pit.count(2) == 0x0200

    def test_status_tells_that_no_count_has_been_loaded(self, pit: Pit) -> None:
        pit.bus.pio_out(0x43, 1, 0x34)
        pit.bus.pio_out(0x43, 1, 0xE2)
        assert pit.bus.pio_in(0x40, 1) == 0x80 | 0x40 | 0x34

    def test_control_port_reads_as_nothing(self, pit: Pit) -> None:
        assert pit.bus.pio_in(0x43, 1) == 0xFF

    @given(mode=st.sampled_from([2, 3]), count=st.integers(2, 0xFFFF), elapsed=st.integers(0, 200_000))
    def test_periodic_count_stays_between_its_bounds(self, mode: int, count: int, elapsed: int) -> None:
        pit = Pit(CountedClock(step=0))
        pit.program(0, mode, count)
        pit.wait(elapsed)
        assert 1 <= pit.count() <= count
        assert pit.edges == (elapsed >= count)


class TestSystemControlPortB:
    def test_gate_holds_the_speaker_timer_and_starts_it_over(self, pit: Pit) -> None:
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

    def test_gate_pauses_a_count_to_zero(self, pit: Pit) -> None:
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

    def test_gate_triggers_a_one_shot(self, pit: Pit) -> None:
        pit.program(2, 1, 100)
        pit.wait(500)
        assert pit.bus.pio_in(0x61, 1) & 0x20  # high, waiting for its trigger
        pit.bus.pio_out(0x61, 1, 0x01)
        assert not pit.bus.pio_in(0x61, 1) & 0x20
        pit.wait(100)
        assert pit.bus.pio_in(0x61, 1) & 0x20

    def test_refresh_toggles(self, pit: Pit) -> None:
        levels = []
        for _ in range(4):
            levels.append(pit.bus.pio_in(0x61, 1) >> 4 & 1)
            pit.clock.count_work(15_085)
        assert levels == [0, 1, 0, 1]

    def test_only_the_lower_bits_can_be_written(self, pit: Pit) -> None:
        pit.program(2, 0, 100)
        pit.bus.pio_out(0x61, 1, 0xFE)
        assert pit.bus.pio_in(0x61, 1) == 0x0E


class Rtc:
    """A clock chip on a bus, with the level of its interrupt line."""

    def __init__(self, clock: CountedClock, start: datetime = datetime(2024, 2, 28, 23, 59, 58)) -> None:
        self.clock = clock
        self.irq = False
        self.device = CmosRtc(clock, self._set_irq, start)
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
def rtc(clock: CountedClock) -> Rtc:
    return Rtc(clock)


class TestRtc:
    def test_counts_in_bcd_through_the_end_of_a_leap_february(self, rtc: Rtc) -> None:
        assert rtc.time() == [0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x58]
        rtc.wait(2 * SECOND)
        assert rtc.time() == [0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00]
        assert rtc[6] == 5  # a Thursday; Sunday is 1

    def test_binary(self, rtc: Rtc) -> None:
        rtc[0x0B] = 0x86
        for register, value in zip((0x32, 9, 8, 7, 4, 2, 0), (19, 99, 12, 31, 23, 59, 59), strict=True):
            rtc[register] = value
        rtc[0x0B] = 0x06
        rtc.wait(SECOND)
        assert rtc.time() == [20, 0, 1, 1, 0, 0, 0]

    def test_twelve_hours(self, rtc: Rtc) -> None:
        rtc[0x0B] = 0x80
        rtc[4], rtc[2], rtc[0] = 0x11, 0x59, 0x59
        rtc[0x0B] = 0x00
        rtc.wait(SECOND)
        assert rtc[4] == 0x92  # 12 PM
        rtc.wait(3600 * SECOND)
        assert rtc[4] == 0x81  # 1 PM

    def test_set_holds_the_time(self, rtc: Rtc) -> None:
        rtc[0x0B] = 0x82
        rtc.wait(10 * SECOND)
        assert rtc[0] == 0x58
        rtc[0x0B] = 0x02
        rtc.wait(SECOND)
        assert rtc[0] == 0x59

    def test_what_is_no_date_stays_as_it_was_written(self, rtc: Rtc) -> None:
        rtc[8] = 0x1F
        rtc.wait(5 * SECOND)
        assert (rtc[8], rtc[0]) == (0x1F, 0x58)

    def test_divider_held_in_reset_stops_the_time_and_lets_go_for_half_a_second(self, rtc: Rtc) -> None:
        rtc[0x0A] = 0x76
        rtc.wait(10 * SECOND)
        rtc[0x0A] = 0x26
        rtc.wait(SECOND // 2 - 1)
        assert rtc[0] == 0x58
        rtc.wait(1)
        assert rtc[0] == 0x59

    def test_update_in_progress_announces_the_update(self, rtc: Rtc) -> None:
        assert rtc[0x0A] == 0x26
        rtc.wait(SECOND - MILLISECOND)
        assert rtc[0x0A] == 0xA6
        rtc.wait(MILLISECOND)
        assert (rtc[0x0A], rtc[0]) == (0x26, 0x59)

    def test_fraction_of_the_starting_time_counts(self, clock: CountedClock) -> None:
        rtc = Rtc(clock, datetime(2024, 1, 1, 0, 0, 0, 750_000))
        rtc.wait(SECOND // 4)
        assert rtc[0] == 0x01

    def test_update_interrupt_until_the_flags_are_read(self, rtc: Rtc) -> None:
        rtc[0x0A] = 0x20  # no periodic flag
        rtc[0x0B] = 0x12
        rtc.wait(SECOND)
        assert rtc.irq
        assert rtc[0x0C] == 0x90
        assert (rtc.irq, rtc[0x0C]) == (False, 0x00)

    def test_alarm_with_a_wildcard(self, rtc: Rtc) -> None:
        rtc[0x0A] = 0x20
        rtc[1], rtc[3], rtc[5] = 0x00, 0x00, 0xC0  # every full hour
        rtc[0x0B] = 0x22
        rtc.wait(SECOND)
        assert not rtc.irq
        rtc.wait(SECOND)
        assert rtc.irq
        assert rtc[0x0C] == 0xB0

    def test_periodic_interrupt(self, rtc: Rtc) -> None:
        rtc[0x0C]
        rtc[0x0B] = 0x42
        rtc.wait(976_563)  # 1024 Hz
        assert rtc.irq
        assert rtc[0x0C] == 0xC0
        assert not rtc.irq
        rtc.wait(976_563)
        assert rtc.irq

    def test_periodic_flag_is_set_without_interrupting(self, rtc: Rtc) -> None:
        rtc.wait(MILLISECOND)
        assert (rtc[0x0C], rtc.irq) == (0x40, False)

    @pytest.mark.parametrize(("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)])
    def test_periodic_rates(self, rtc: Rtc, rate: int, hertz: int) -> None:
        rtc[0x0A] = 0x20 | rate
        rtc[0x0B] = 0x42
        period = SECOND // hertz
        rtc.wait(period - 1)
        assert not rtc.irq
        rtc.wait(2)
        assert rtc.irq

    def test_memory_keeps_what_is_written_and_read_only_registers_do_not(self, rtc: Rtc) -> None:
        rtc[0x40], rtc[0x7F] = 0x5A, 0xA5
        rtc[0x0D] = 0x00
        assert (rtc[0x40], rtc[0x7F], rtc[0x0D]) == (0x5A, 0xA5, 0x80)
        rtc.device[0x41] = 0x77
        assert (rtc[0x41], rtc.device[0x40]) == (0x77, 0x5A)

    def test_index_reads_back_with_the_nmi_bit_which_is_no_part_of_it(self, rtc: Rtc) -> None:
        rtc.bus.pio_out(0x70, 1, 0x8D)
        assert (rtc.bus.pio_in(0x70, 1), rtc.bus.pio_in(0x71, 1)) == (0x8D, 0x80)

    def test_index_and_data_in_one_access(self, rtc: Rtc) -> None:
        rtc.bus.pio_out(0x70, 2, 0x5A40)
        assert rtc[0x40] == 0x5A


class Acpi:
    def __init__(self, clock: CountedClock) -> None:
        self.powered_off = 0
        self.device = AcpiPm(clock, self._power_off)
        self.device.assign_resources(self.device.resources_at(0x600))
        self.bus = on_bus(self.device)

    def _power_off(self) -> None:
        self.powered_off += 1


@pytest.fixture
def acpi(clock: CountedClock) -> Acpi:
    return Acpi(clock)


class TestAcpiPm:
    def test_timer_runs_at_its_frequency_and_wraps_at_24_bits(self, acpi: Acpi, clock: CountedClock) -> None:
        clock.count_work(SECOND)
        assert acpi.bus.pio_in(0x608, 4) == 3_579_545
        clock.count_work(4 * SECOND)
        assert acpi.bus.pio_in(0x608, 4) == 5 * 3_579_545 - (1 << 24)

    def test_timer_is_read_only(self, acpi: Acpi) -> None:
        acpi.bus.pio_out(0x608, 4, 0xFFFF_FFFF)
        assert acpi.bus.pio_in(0x608, 4) == 0

    def test_change_of_the_timers_top_bit_sets_a_status_that_writing_one_clears(
        self, acpi: Acpi, clock: CountedClock
    ) -> None:
        assert acpi.bus.pio_in(0x600, 2) == 0
        clock.count_work(3 * SECOND)
        assert acpi.bus.pio_in(0x600, 2) == 1
        acpi.bus.pio_out(0x600, 2, 0)
        assert acpi.bus.pio_in(0x600, 2) == 1
        acpi.bus.pio_out(0x600, 2, 1)
        assert acpi.bus.pio_in(0x600, 2) == 0

    def test_soft_off(self, acpi: Acpi) -> None:
        acpi.bus.pio_out(0x604, 2, 0x0001)
        assert (acpi.bus.pio_in(0x604, 2), acpi.powered_off) == (0x0001, 0)
        acpi.bus.pio_out(0x604, 2, 0x2000)
        assert acpi.powered_off == 1

    @pytest.mark.parametrize("suspend_type", range(1, 8))
    def test_other_suspend_types_do_not_power_off(self, acpi: Acpi, suspend_type: int) -> None:
        acpi.bus.pio_out(0x604, 2, 0x2000 | suspend_type << 10)
        assert acpi.powered_off == 0
        assert acpi.bus.pio_in(0x604, 2) == suspend_type << 10  # the enable bit reads as 0

    @pytest.mark.parametrize("port", [0x602, 0x610, 0x620, 0x628, 0x634])
    def test_other_registers_keep_what_is_written(self, acpi: Acpi, port: int) -> None:
        acpi.bus.pio_out(port, 2, 0xA55A)
        assert acpi.bus.pio_in(port, 2) == 0xA55A


@pytest.mark.parametrize(
    "make", [lambda clock: Pit(clock).bus, lambda clock: Rtc(clock).bus, lambda clock: Acpi(clock).bus]
)
def test_devices_survive_every_byte_at_every_port(make: Callable[[CountedClock], IoManager]) -> None:
    bus = make(CountedClock(step=1000))
    ports = [port for base, last, _ in bus.pio_bus for port in range(base, last + 1)]
    for value in range(256):
        for port in ports:
            bus.pio_out(port, 1, value)
            assert 0 <= bus.pio_in(port, 1) <= 0xFF
