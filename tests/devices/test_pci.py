"""PCI configuration space, through its two ports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_helpers import on_bus

from dbs_device.devices.pci import PciConfigPorts, PciFunction


class Pci:
    """Configuration ports on a bus."""

    def __init__(self) -> None:
        self.resets = 0
        self.ports = PciConfigPorts(reset=self._reset)
        self.function = PciFunction(0x1234, 0x5678, 0x9A, 0x0B0C0D)
        self.ports.plug((0, 3, 1), self.function)
        self.bus = on_bus(self.ports)

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
def test_absent_function_reads_as_all_ones(pci: Pci, location: tuple[int, int, int]) -> None:
    port = pci.select(0x00, location)
    assert [pci.bus.pio_in(port, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    pci.bus.pio_out(port, 4, 0)


def test_without_the_enable_bit_no_function_answers(pci: Pci) -> None:
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
    with pytest.raises(ValueError, match=rf"^BAR {index} cannot have {size} bytes and flags 0x0$"):
        pci.function.define_bar(index, size)


def test_place_that_is_taken(pci: Pci) -> None:
    with pytest.raises(ValueError, match=r"^there already is a PCI function at \(0, 3, 1\)$"):
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
