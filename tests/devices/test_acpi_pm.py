"""The ACPI registers, against the specification."""

from __future__ import annotations

import pytest
from isa_helpers import make_every_byte_access, on_bus

from dbs_device.clock import CountedClock
from dbs_device.devices.acpi_pm import AcpiPm

SECOND = 1_000_000_000


class Acpi:
    """The ACPI registers on a bus, at port 0x600."""

    def __init__(self, step: int = 0) -> None:
        self.clock = CountedClock(step)
        self.powered_off = 0
        self.device = AcpiPm(clock=self.clock, power_off=self._power_off)
        self.device.assign_resources(self.device.resources_at(0x600))
        self.bus = on_bus(self.device)

    def _power_off(self) -> None:
        self.powered_off += 1


@pytest.fixture
def acpi() -> Acpi:
    return Acpi()


def test_timer_runs_at_its_frequency_and_wraps_at_24_bits(acpi: Acpi) -> None:
    acpi.clock.count_work(SECOND)
    assert acpi.bus.pio_in(0x608, 4) == 3_579_545
    acpi.clock.count_work(4 * SECOND)
    assert acpi.bus.pio_in(0x608, 4) == 5 * 3_579_545 - (1 << 24)


def test_timer_is_read_only(acpi: Acpi) -> None:
    acpi.bus.pio_out(0x608, 4, 0xFFFF_FFFF)
    assert acpi.bus.pio_in(0x608, 4) == 0


def test_change_of_the_timers_top_bit_sets_a_status_that_writing_one_clears(acpi: Acpi) -> None:
    assert acpi.bus.pio_in(0x600, 2) == 0
    acpi.clock.count_work(3 * SECOND)
    assert acpi.bus.pio_in(0x600, 2) == 1
    acpi.bus.pio_out(0x600, 2, 0)
    assert acpi.bus.pio_in(0x600, 2) == 1
    acpi.bus.pio_out(0x600, 2, 1)
    assert acpi.bus.pio_in(0x600, 2) == 0


def test_soft_off(acpi: Acpi) -> None:
    acpi.bus.pio_out(0x604, 2, 0x0001)
    assert (acpi.bus.pio_in(0x604, 2), acpi.powered_off) == (0x0001, 0)
    acpi.bus.pio_out(0x604, 2, 0x2000)
    assert acpi.powered_off == 1


@pytest.mark.parametrize("suspend_type", range(1, 8))
def test_other_suspend_types_do_not_power_off(acpi: Acpi, suspend_type: int) -> None:
    acpi.bus.pio_out(0x604, 2, 0x2000 | suspend_type << 10)
    assert acpi.powered_off == 0
    assert acpi.bus.pio_in(0x604, 2) == suspend_type << 10  # the enable bit reads as 0


@pytest.mark.parametrize("port", [0x602, 0x610, 0x620, 0x628, 0x634])
def test_other_registers_keep_what_is_written(acpi: Acpi, port: int) -> None:
    acpi.bus.pio_out(port, 2, 0xA55A)
    assert acpi.bus.pio_in(port, 2) == 0xA55A


def test_every_byte_may_be_written_to_every_port() -> None:
    make_every_byte_access(Acpi(step=1000).bus)
