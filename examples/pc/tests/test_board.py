"""The board of the example PC: ranges that its bridges move while the guest runs, and resets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from dbs_device import DeviceOverlapError, MappedRange
from dbs_device.clock import CountedClock
from examples.pc.board import Board

PM_FUNCTION = 0x8000_0B00
HOST_BRIDGE = 0x8000_0000


class Guest:
    """Programs the board's bridges, in place of firmware."""

    def __init__(self, lines: Callable[[int], Callable[[bool], object]] | None = None) -> None:
        self.stops: list[str] = []
        self.board = Board(
            CountedClock(),
            start=datetime(2024, 1, 1),
            ram_size=32 << 20,
            disk=None,
            vgabios=b"",
            serial=lambda byte: None,
            debug=lambda byte: None,
            stop=self.stops.append,
            lines=lines,
        )
        self.bus = self.board.manager

    def write_config(self, address: int, size: int, value: int) -> None:
        self.bus.pio_out(0xCF8, 4, address & ~3)
        self.bus.pio_out(0xCFC + (address & 3), size, value)

    def owner(self, port: int) -> str:
        return repr(self.bus.pio_bus.find(port))

    def window(self) -> str:
        return repr(self.bus.mmio_bus.find(0xA0000))


@pytest.fixture
def guest() -> Guest:
    return Guest()


def test_acpi_registers_appear_where_the_guest_puts_them(guest: Guest) -> None:
    guest.write_config(PM_FUNCTION | 0x40, 4, 0xB001)
    assert guest.owner(0xB000) == "None"
    guest.write_config(PM_FUNCTION | 0x80, 1, 0x01)
    assert guest.owner(0xB000) == guest.owner(0xB03F) == "AcpiPm(0xb000..0xb03f)"
    guest.bus.pio_out(0xB004, 2, 0x2000)
    assert guest.stops == ["power off"]


def test_acpi_registers_move_in_one_change_and_keep_their_contents(guest: Guest) -> None:
    guest.write_config(PM_FUNCTION | 0x40, 4, 0xB001)
    guest.write_config(PM_FUNCTION | 0x80, 1, 0x01)
    guest.bus.pio_out(0xB028, 4, 0x1234_5678)
    changes: list[tuple[list[int], list[int]]] = []

    def note(added: tuple[MappedRange, ...], removed: tuple[MappedRange, ...]) -> None:
        changes.append(([each.base for each in added], [each.base for each in removed]))

    guest.bus.on_change(note)
    guest.write_config(PM_FUNCTION | 0x40, 4, 0x0601)
    assert changes == [([0x600], [0xB000])]
    assert guest.owner(0xB000) == "None"
    assert guest.bus.pio_in(0x628, 4) == 0x1234_5678
    guest.write_config(PM_FUNCTION | 0x80, 1, 0x00)
    assert guest.owner(0x600) == "None"


def test_acpi_registers_cannot_be_put_over_another_device(guest: Guest) -> None:
    guest.write_config(PM_FUNCTION | 0x80, 1, 0x01)
    guest.write_config(PM_FUNCTION | 0x40, 4, 0xB001)
    message = r"^PIO range 0x4c0\.\.0x4ff of AcpiPm\(.*\) overlaps 0x4d0\.\.0x4d1 of Elcr\("
    with pytest.raises(DeviceOverlapError, match=message):
        guest.write_config(PM_FUNCTION | 0x40, 4, 0x04C1)
    assert guest.owner(0xB000) == "AcpiPm(0xb000..0xb03f)"
    guest.write_config(PM_FUNCTION | 0x40, 4, 0x0601)
    assert (guest.owner(0xB000), guest.owner(0x600)) == ("None", "AcpiPm(0x600..0x63f)")


def test_smram_is_shown_in_place_of_the_vga_memory_while_it_is_open(guest: Guest) -> None:
    vga = guest.window()
    guest.write_config(HOST_BRIDGE | 0x72, 1, 0x4A)
    assert guest.window() == "Smram(0xa0000..0xbffff)"
    guest.bus.mmio_store(0xA8004, 4, 0x0123_4567)
    guest.bus.mmio_store(0xA8000, 4, 0xDEAD_BEEF)
    guest.write_config(HOST_BRIDGE | 0x72, 1, 0x0A)
    assert guest.window() == vga
    guest.write_config(HOST_BRIDGE | 0x72, 1, 0x4A)
    assert guest.bus.mmio_load(0xA8000, 8) == 0x0123_4567_DEAD_BEEF


def test_locked_smram_stays_closed(guest: Guest) -> None:
    guest.write_config(HOST_BRIDGE | 0x72, 1, 0x4A)
    guest.write_config(HOST_BRIDGE | 0x72, 1, 0x5A)
    guest.write_config(HOST_BRIDGE | 0x72, 1, 0x4A)
    assert guest.window().startswith("Vga")
    assert guest.bus.pio_in(0xCFE, 1) == 0x1A


def test_write_to_the_apm_port_is_answered_only_where_it_raises_an_smi(guest: Guest) -> None:
    guest.bus.pio_out(0xB3, 1, 0x01)
    guest.bus.pio_out(0xB2, 1, 0x00)
    assert guest.bus.pio_in(0xB3, 1) == 0x01
    guest.write_config(PM_FUNCTION | 0x58, 4, 0x0200_0000)
    guest.bus.pio_out(0xB2, 1, 0x42)
    assert (guest.bus.pio_in(0xB2, 1), guest.bus.pio_in(0xB3, 1)) == (0x42, 0x00)


@pytest.mark.parametrize(("port", "value"), [(0x92, 0x01), (0x64, 0xFE), (0xCF9, 0x06)])
def test_ways_to_reset(guest: Guest, port: int, value: int) -> None:
    guest.bus.pio_out(port, 1, value)
    assert guest.stops == ["reset"]


@pytest.mark.parametrize(
    ("register", "reset", "written"),
    [
        (HOST_BRIDGE | 0x04, 0x0280_0006, 0x0280_0147),
        (HOST_BRIDGE | 0x58, 0x0000_0000, 0x3333_3000),
        (HOST_BRIDGE | 0x5C, 0x0000_0000, 0x3333_3333),
        (0x8000_0800 | 0x04, 0x0280_0007, 0x0280_0147),
        (0x8000_0800 | 0x60, 0x8080_8080, 0x8F8F_8F8F),
        (0x8000_0900 | 0x04, 0x0280_0000, 0x0280_0147),
        (0x8000_0900 | 0x20, 0x0000_0000, 0x0000_0000),
        (0x8000_0900 | 0x40, 0x0000_0000, 0xFFFF_FFFF),
        (PM_FUNCTION | 0x3C, 0x0000_0100, 0x0000_01FF),
        (PM_FUNCTION | 0x40, 0x0000_0001, 0x0000_FFC1),
        (PM_FUNCTION | 0x90, 0x0000_0001, 0x0000_FFF1),
    ],
)
def test_registers_of_the_bridges(guest: Guest, register: int, reset: int, written: int) -> None:
    guest.bus.pio_out(0xCF8, 4, register)
    assert guest.bus.pio_in(0xCFC, 4) == reset
    guest.bus.pio_out(0xCFC, 4, 0xFFFF_FFFF)
    assert guest.bus.pio_in(0xCFC, 4) == written


def test_board_names_what_it_consists_of(guest: Guest) -> None:
    ids = []
    for function in (0x0000, 0x0800, 0x0900, 0x0B00):
        guest.bus.pio_out(0xCF8, 4, 1 << 31 | function)
        ids.append(guest.bus.pio_in(0xCFC, 4))
    assert ids == [0x1237_8086, 0x7000_8086, 0x7010_8086, 0x7113_8086]


def press_key(guest: Guest) -> None:
    guest.bus.pio_out(0x64, 1, 0x60)  # the keyboard may interrupt
    guest.bus.pio_out(0x60, 1, 0x01)
    guest.board.keyboard_controller.keyboard.type("a")


def test_a_processor_hears_of_interrupts_of_the_boards_controllers(guest: Guest) -> None:
    levels: list[bool] = []
    guest.board.intr.connect(levels.append)
    for port, word in ((0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0x00)):
        guest.bus.pio_out(port, 1, word)
    press_key(guest)
    assert levels == [True]
    assert guest.board.pics.acknowledge() == 0x09
    assert levels == [True, False]


def test_devices_may_have_the_lines_of_other_controllers() -> None:
    edges: list[tuple[int, bool]] = []
    guest = Guest(lambda irq: lambda level: edges.append((irq, level)))
    edges.clear()
    press_key(guest)
    assert (1, True) in edges
    assert not guest.board.intr.level
