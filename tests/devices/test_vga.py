"""VGA, against the description of its registers and memory."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_helpers import on_bus

from dbs_device.clock import CountedClock
from dbs_device.devices.vga import Vga

WINDOW = 0xA0000
TEXT = 0xB8000
ALL_PLANES = 0x0F


class Display:
    """A VGA on a bus."""

    def __init__(self) -> None:
        self.clock = CountedClock(step=0)
        self.device = Vga(clock=self.clock)
        self.bus = on_bus(self.device)

    def sequencer(self, index: int, value: int) -> None:
        self.bus.pio_out(0x3C4, 2, value << 8 | index)

    def graphics(self, index: int, value: int) -> None:
        self.bus.pio_out(0x3CE, 2, value << 8 | index)

    def crtc(self, index: int, value: int) -> None:
        self.bus.pio_out(0x3D4, 2, value << 8 | index)

    def read(self, index_port: int, index: int) -> int:
        self.bus.pio_out(index_port, 1, index)
        return self.bus.pio_in(index_port + 1, 1)

    def set_text_mode(self) -> None:
        """Program mode 3, as far as the memory and the shape of the screen are concerned."""
        self.sequencer(2, 0x03)
        self.sequencer(4, 0x02)
        for index, value in enumerate((0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x0F, 0xFF)):
            self.graphics(index, value)
        for index, value in ((0x01, 79), (0x07, 0x1F), (0x09, 0x4F), (0x12, 0x8F), (0x13, 40)):
            self.crtc(index, value)

    def set_planar_mode(self) -> None:
        """Program the memory as mode 12h does."""
        self.sequencer(2, ALL_PLANES)
        self.sequencer(4, 0x06)
        for index, value in enumerate((0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x0F, 0xFF)):
            self.graphics(index, value)

    def planes(self, address: int) -> list[int]:
        """Return what the four planes hold."""
        values = []
        for plane in range(4):
            self.graphics(4, plane)
            values.append(self.bus.mmio_load(WINDOW + address, 1))
        return values

    def fill(self, address: int, values: list[int]) -> None:
        """Put a value into each plane, and leave all planes enabled."""
        for plane, value in enumerate(values):
            self.sequencer(2, 1 << plane)
            self.bus.mmio_store(WINDOW + address, 1, value)
        self.sequencer(2, ALL_PLANES)


@pytest.fixture
def display() -> Display:
    return Display()


class TestText:
    def test_characters_and_attributes(self, display: Display) -> None:
        display.set_text_mode()
        for position, character in enumerate(b"Hello"):
            display.bus.mmio_store(TEXT + 2 * (80 + position), 2, 0x0700 | character)
        assert display.device.text()[:3] == ["", "Hello", ""]
        assert len(display.device.text()) == 25
        assert display.bus.mmio_load(TEXT + 160, 4) == 0x0765_0748

    def test_bytes_and_words_are_the_same(self, display: Display) -> None:
        display.set_text_mode()
        display.bus.mmio_store(TEXT, 1, ord("x"))
        display.bus.mmio_store(TEXT + 1, 1, 0x1F)
        display.bus.mmio_store(TEXT + 2, 4, 0x0779_0778)
        assert display.device.text()[0] == "xxy"
        assert display.bus.mmio_load(TEXT, 2) == 0x1F78

    def test_scrolling_by_the_start_address(self, display: Display) -> None:
        display.set_text_mode()
        for row in range(26):
            display.bus.mmio_store(TEXT + 160 * row, 2, 0x0700 | ord("a") + row)
        assert (display.device.text()[0], display.device.text()[24]) == ("a", "y")
        display.crtc(0x0D, 80)
        assert (display.device.text()[0], display.device.text()[24]) == ("b", "z")

    def test_there_is_no_text_in_a_graphics_mode(self, display: Display) -> None:
        display.set_planar_mode()
        assert display.device.text() == []

    def test_code_page_437(self, display: Display) -> None:
        display.set_text_mode()
        display.bus.mmio_store(TEXT, 4, 0x07BA_07C9)
        assert display.device.text()[0] == "╔║"

    def test_addresses_outside_the_map_are_unowned(self, display: Display) -> None:
        display.set_text_mode()
        display.bus.mmio_store(WINDOW, 2, 0x0741)
        assert display.bus.mmio_load(WINDOW, 2) == 0xFFFF
        assert display.bus.mmio_load(TEXT - 2, 4) == 0x0000_FFFF


class TestMemory:
    def test_map_mask_selects_planes(self, display: Display) -> None:
        display.set_planar_mode()
        display.sequencer(2, 0x0A)
        display.bus.mmio_store(WINDOW + 5, 1, 0xC3)
        assert display.planes(5) == [0x00, 0xC3, 0x00, 0xC3]

    def test_font_is_written_to_plane_two(self, display: Display) -> None:
        display.set_text_mode()
        display.bus.mmio_store(TEXT, 2, 0x0741)
        display.sequencer(2, 0x04)
        display.sequencer(4, 0x07)
        display.graphics(5, 0x00)
        display.graphics(6, 0x04)
        display.bus.mmio_store(WINDOW, 2, 0x3C18)
        assert display.planes(0) == [0x41, 0x07, 0x18, 0x00]
        assert display.planes(1) == [0x00, 0x00, 0x3C, 0x00]

    @pytest.mark.parametrize(
        ("memory_map", "first", "last"),
        [(0x00, 0xA0000, 0xBFFFF), (0x04, 0xA0000, 0xAFFFF), (0x08, 0xB0000, 0xB7FFF), (0x0C, 0xB8000, 0xBFFFF)],
    )
    def test_memory_map_says_where_the_planes_begin(
        self, display: Display, memory_map: int, first: int, last: int
    ) -> None:
        display.set_planar_mode()
        display.graphics(6, memory_map)
        display.bus.mmio_store(first, 1, 0x12)
        assert display.bus.mmio_load(first, 1) == 0x12
        for outside in {0xA0000, 0xBFFFF, first - 1, last + 1} - set(range(first, last + 1)) - {0x9FFFF, 0xC0000}:
            assert display.bus.mmio_load(outside, 1) == 0xFF
        display.bus.mmio_store(last, 1, 0x34)
        assert display.bus.mmio_load(last, 1) == 0x34

    def test_odd_and_even_addresses_of_the_upper_planes(self, display: Display) -> None:
        display.set_planar_mode()
        display.fill(2, [1, 2, 3, 4])
        display.graphics(5, 0x10)
        display.graphics(4, 2)
        assert display.bus.mmio_load(WINDOW + 2, 2) == 0x0403
        display.graphics(4, 1)
        assert display.bus.mmio_load(WINDOW + 2, 2) == 0x0201

    def test_chain_4_spreads_bytes_over_the_planes(self, display: Display) -> None:
        display.set_planar_mode()
        display.sequencer(4, 0x0E)
        display.bus.mmio_store(WINDOW + 8, 4, 0x4433_2211)
        assert display.bus.mmio_load(WINDOW + 8, 4) == 0x4433_2211
        display.sequencer(4, 0x06)
        assert display.planes(8) == [0x11, 0x22, 0x33, 0x44]

    def test_write_mode_1_copies_the_latches(self, display: Display) -> None:
        display.set_planar_mode()
        display.fill(0, [1, 2, 3, 4])
        display.graphics(5, 0x01)
        display.bus.mmio_load(WINDOW, 1)
        display.bus.mmio_store(WINDOW + 9, 1, 0xEE)
        assert display.planes(9) == [1, 2, 3, 4]

    def test_read_mode_1_compares_colours(self, display: Display) -> None:
        display.set_planar_mode()
        display.fill(0, [0b1100, 0b1010, 0b1111, 0b0000])
        display.graphics(2, 0b0111)  # colour 7, of which the highest plane does not count
        display.graphics(7, 0b0111)
        display.graphics(5, 0x08)
        assert display.bus.mmio_load(WINDOW, 1) == 0b1000
        display.graphics(7, 0b0000)
        assert display.bus.mmio_load(WINDOW, 1) == 0xFF

    @given(
        mode=st.sampled_from([0, 2, 3]),
        latches=st.lists(st.integers(0, 255), min_size=4, max_size=4),
        value=st.integers(0, 255),
        bit_mask=st.integers(0, 255),
        set_reset=st.integers(0, 15),
        enable=st.integers(0, 15),
        rotation=st.integers(0, 7),
        function=st.integers(0, 3),
        map_mask=st.integers(0, 15),
    )
    def test_write_modes_bit_by_bit(
        self, mode: int, latches: list[int], value: int, bit_mask: int, set_reset: int, enable: int, rotation: int,
        function: int, map_mask: int,
    ) -> None:  # fmt: skip
        display = Display()
        display.set_planar_mode()
        display.fill(0, latches)
        display.bus.mmio_load(WINDOW, 1)
        display.sequencer(2, map_mask)
        for index, register in ((0, set_reset), (1, enable), (3, function << 3 | rotation), (5, mode), (8, bit_mask)):
            display.graphics(index, register)
        display.bus.mmio_store(WINDOW, 1, value)
        display.graphics(5, 0x00)
        assert display.planes(0) == [
            sum(
                expected_bit(mode, plane, bit, latches, value, bit_mask, set_reset, enable, rotation, function) << bit
                for bit in range(8)
            )
            if map_mask >> plane & 1
            else latches[plane]
            for plane in range(4)
        ]


def expected_bit(
    mode: int, plane: int, bit: int, latches: list[int], value: int, bit_mask: int, set_reset: int, enable: int,
    rotation: int, function: int,
) -> int:  # fmt: skip
    """Return one bit of a plane after a write."""
    latch = latches[plane] >> bit & 1
    rotated = value >> (bit + rotation) % 8 & 1
    allowed = bit_mask >> bit & 1
    if mode == 2:
        source = value >> plane & 1
    elif mode == 3:
        source, allowed = set_reset >> plane & 1, allowed & rotated
    else:
        source = set_reset >> plane & 1 if enable >> plane & 1 else rotated
    combined = [source, source & latch, source | latch, source ^ latch][function]
    return combined if allowed else latch


class TestRegisters:
    @pytest.mark.parametrize(("port", "index"), [(0x3C4, 3), (0x3CE, 8), (0x3D4, 0x0F)])
    def test_indexed_registers(self, display: Display, port: int, index: int) -> None:
        display.bus.pio_out(port, 2, 0x5A00 | index)
        display.bus.pio_out(port, 1, 0)
        assert display.bus.pio_in(port, 1) == 0
        assert display.read(port, index) == 0x5A
        assert display.bus.pio_in(port, 2) == 0x5A00 | index

    def test_crtc_protects_its_timing(self, display: Display) -> None:
        display.crtc(0x00, 0x5F)
        display.crtc(0x07, 0x0F)
        display.crtc(0x11, 0x80)
        display.crtc(0x00, 0x00)
        display.crtc(0x07, 0xF0)
        display.crtc(0x08, 0x11)
        assert [display.read(0x3D4, index) for index in (0x00, 0x07, 0x08)] == [0x5F, 0x1F, 0x11]

    def test_attribute_controller_takes_index_and_data_in_turn(self, display: Display) -> None:
        display.bus.pio_in(0x3DA, 1)
        for value in (0x06, 0x14, 0x07, 0x3F):
            display.bus.pio_out(0x3C0, 1, value)
        display.bus.pio_out(0x3C0, 1, 0x26)
        assert (display.bus.pio_in(0x3C0, 1), display.bus.pio_in(0x3C1, 1)) == (0x26, 0x14)
        display.bus.pio_in(0x3DA, 1)  # an index comes next again
        display.bus.pio_out(0x3C0, 1, 0x07)
        assert display.bus.pio_in(0x3C1, 1) == 0x3F

    def test_palette_counts_up_by_itself(self, display: Display) -> None:
        display.bus.pio_out(0x3C8, 1, 0xFF)
        for value in (0x11, 0x22, 0xFF, 0x01, 0x02, 0x03):
            display.bus.pio_out(0x3C9, 1, value)
        assert (display.bus.pio_in(0x3C8, 1), display.bus.pio_in(0x3C7, 1)) == (0x01, 0x00)
        display.bus.pio_out(0x3C7, 1, 0xFF)
        assert display.bus.pio_in(0x3C7, 1) == 0x03
        assert [display.bus.pio_in(0x3C9, 1) for _ in range(6)] == [0x11, 0x22, 0x3F, 0x01, 0x02, 0x03]

    def test_registers_that_are_read_elsewhere_than_written(self, display: Display) -> None:
        display.bus.pio_out(0x3C2, 1, 0x67)
        display.bus.pio_out(0x3DA, 1, 0x02)
        display.bus.pio_out(0x3C6, 1, 0xFE)
        assert [display.bus.pio_in(port, 1) for port in (0x3CC, 0x3CA, 0x3C6)] == [0x67, 0x02, 0xFE]

    def test_beam_passes_through_lines_and_frames(self, display: Display) -> None:
        frame = 449 * 31_778
        seen = []
        for _ in range(0, frame, 1000):
            seen.append(display.bus.pio_in(0x3DA, 1))
            display.clock.count_work(1000)
        changes = [level for level, _ in itertools.groupby(seen)]
        assert set(seen) == {0x00, 0x01, 0x09}
        assert changes.count(0x09) == 1
        assert changes.count(0x00) == 400
        assert 60 <= seen.count(0x09) <= 66  # two lines

    def test_every_byte_at_every_port(self, display: Display) -> None:
        for value in range(256):
            for port in range(0x3C0, 0x3E0):
                display.bus.pio_out(port, 1, value)
                display.bus.pio_in(port, 1)
            display.bus.mmio_store(WINDOW + 0x18000, 4, value)
            assert len(display.device.text()) in range(401)
