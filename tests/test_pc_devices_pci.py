"""PCI configuration of the example PC, and what its bridges move on the bus while the guest runs."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceOverlapError, IoManager, MappedRange
from examples.pc.board import Board
from examples.pc.clock import CountedClock
from examples.pc.devices.pci import PciConfigPorts, PciFunction

PM_FUNCTION = 0x8000_0B00
HOST_BRIDGE = 0x8000_0000


class Pci:
    """Configuration ports on a bus."""

    def __init__(self) -> None:
        self.resets = 0
        self.ports = PciConfigPorts(self._reset)
        self.function = PciFunction(0x1234, 0x5678, 0x9A, 0x0B0C0D)
        self.ports.plug((0, 3, 1), self.function)
        self.bus = IoManager()
        self.bus.register_device_io(self.ports, self.ports.get_trapped_io_resources())

    def _reset(self) -> None:
        self.resets += 1

    def select(self, register: int, location: tuple[int, int, int] = (0, 3, 1)) -> int:
        bus, device, function = location
        self.bus.pio_out(0xCF8, 4, 1 << 31 | bus << 16 | device << 11 | function << 8 | register & 0xFC)
        return 0xCFC + (register & 3)

    def read(self, register: int, size: int) -> int:
        return self.bus.pio_in(self.select(register), size)

    def write(self, register: int, size: int, value: int) -> None:
        self.bus.pio_out(self.select(register), size, value)


@pytest.fixture
def pci() -> Pci:
    return Pci()


def test_every_size_of_access(pci: Pci) -> None:
    assert pci.read(0x00, 4) == 0x5678_1234
    assert [pci.read(0x00, 2), pci.read(0x02, 2)] == [0x1234, 0x5678]
    assert [pci.read(register, 1) for register in range(0x08, 0x0C)] == [0x9A, 0x0D, 0x0C, 0x0B]


@pytest.mark.parametrize("location", [(0, 3, 0), (0, 4, 1), (1, 3, 1), (255, 31, 7)])
def test_function_that_is_not_there_reads_as_all_ones(pci: Pci, location: tuple[int, int, int]) -> None:
    port = pci.select(0x00, location)
    assert [pci.bus.pio_in(port, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    pci.bus.pio_out(port, 4, 0)


def test_without_the_enable_bit_nobody_answers(pci: Pci) -> None:
    pci.bus.pio_out(0xCF8, 4, 3 << 11 | 1 << 8)
    assert pci.bus.pio_in(0xCFC, 2) == 0xFFFF


def test_address_register_is_written_and_read_as_a_whole(pci: Pci) -> None:
    pci.bus.pio_out(0xCF8, 4, 0xFFFF_FFFF)
    assert pci.bus.pio_in(0xCF8, 4) == 0x80FF_FFFC
    pci.bus.pio_out(0xCF8, 2, 0)
    assert pci.bus.pio_in(0xCF8, 4) == 0x80FF_FFFC
    assert pci.bus.pio_in(0xCF8, 2) == 0xFFFF


def test_reset_control_register_shares_a_port_with_it(pci: Pci) -> None:
    pci.bus.pio_out(0xCF9, 1, 0x02)
    assert (pci.resets, pci.bus.pio_in(0xCF9, 1)) == (0, 0x02)
    pci.bus.pio_out(0xCF9, 1, 0x06)
    assert pci.resets == 1


def test_identity_is_read_only(pci: Pci) -> None:
    pci.write(0x00, 4, 0)
    pci.write(0x08, 4, 0)
    assert (pci.read(0x00, 4), pci.read(0x08, 4)) == (0x5678_1234, 0x0B0C_0D9A)


def test_command_keeps_its_bits_and_status_is_cleared_by_ones(pci: Pci) -> None:
    pci.function.define(0x06, 2, 0x8280, clearable=0xF900)
    pci.write(0x04, 4, 0x0000_FFFF)
    assert pci.read(0x04, 4) == 0x8280_0147
    pci.write(0x06, 2, 0xFFFF)
    assert pci.read(0x06, 2) == 0x0280


@pytest.mark.parametrize(
    ("size", "flags", "sized"), [(0x1000, 0, 0xFFFF_F000), (0x10, 1, 0xFFFF_FFF1), (16, 8, 0xFFFF_FFF8)]
)
def test_base_address_register_tells_its_size(pci: Pci, size: int, flags: int, sized: int) -> None:
    pci.function.define_bar(2, size, flags)
    pci.write(0x18, 4, 0xFFFF_FFFF)
    assert pci.read(0x18, 4) == sized
    pci.write(0x18, 4, 0xE000_0000)
    assert pci.read(0x18, 4) == 0xE000_0000 | flags


@pytest.mark.parametrize(("index", "size"), [(6, 0x100), (-1, 0x100), (0, 0x180), (0, 8), (0, 0)])
def test_base_address_register_that_cannot_be(pci: Pci, index: int, size: int) -> None:
    with pytest.raises(ValueError, match=rf"^BAR {index} cannot have {size:#x} bytes and flags 0x0$"):
        pci.function.define_bar(index, size)


def test_place_that_is_taken(pci: Pci) -> None:
    with pytest.raises(ValueError, match=r"^there is a PCI function at \(0, 3, 1\) already$"):
        pci.ports.plug((0, 3, 1), pci.function)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 63),
            st.sampled_from([(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (2, 2), (0, 4)]),
            st.integers(0, 2**32 - 1),
        )
    )
)
def test_writes_are_masked_byte_by_byte(writes: list[tuple[int, tuple[int, int], int]]) -> None:
    pci = Pci()
    pci.function.define(0x40, 192, 0x5A, writable=int.from_bytes(bytes(range(192)), "little"), clearable=0)
    model = int.from_bytes(pci.function.config, "little")
    writable = sum((position & 0xFF) << 8 * (0x40 + position) for position in range(192))
    for dword, (byte, size), value in writes:
        register = 0x40 + 4 * (dword % 48) + byte
        value &= (1 << 8 * size) - 1
        pci.write(register, size, value)
        changed = ((1 << 8 * size) - 1) << 8 * register & writable
        model = model & ~changed | value << 8 * register & changed
    assert (
        b"".join(pci.read(register, 4).to_bytes(4, "little") for register in range(0x40, 256, 4))
        == (model.to_bytes(256, "little")[0x40:])
    )


class Guest:
    """What programs the board's bridges, in place of firmware."""

    def __init__(self) -> None:
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
