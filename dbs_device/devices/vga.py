"""VGA: registers at ports 0x3C0..0x3DF and 256 KiB of memory in four planes behind the window at 0xA0000.

Datasheet: IBM PS/2 Hardware Interface Technical Reference, "Video subsystem"; the colour ports only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..clock import Clock
from ..resources import DeviceResources, Resource
from ..state import Saved
from ._isa import IsaDevice

__all__ = ["Vga"]

PORTS = 0x20
PLANE_SIZE = 0x10000
WINDOW_BASE, WINDOW_SIZE = 0xA0000, 0x20000


class Port:
    """Offsets from port 0x3C0."""

    ATTRIBUTE, ATTRIBUTE_READ = 0x00, 0x01
    MISCELLANEOUS_WRITE = 0x02
    INPUT_STATUS_0 = 0x02
    SEQUENCER_INDEX, SEQUENCER = 0x04, 0x05
    DAC_MASK, DAC_READ_INDEX, DAC_WRITE_INDEX, DAC_DATA = 0x06, 0x07, 0x08, 0x09
    DAC_STATE = 0x07
    FEATURE_READ, MISCELLANEOUS_READ = 0x0A, 0x0C
    GRAPHICS_INDEX, GRAPHICS = 0x0E, 0x0F
    CRTC_INDEX, CRTC = 0x14, 0x15
    INPUT_STATUS_1 = 0x1A
    FEATURE_WRITE = 0x1A


# Sequencer
MAP_MASK, MEMORY_MODE = 2, 4
SEQUENTIAL, CHAIN_4 = 0x04, 0x08
# Graphics controller
SET_RESET, ENABLE_SET_RESET, COLOR_COMPARE, ROTATE, READ_MAP, MODE, MISCELLANEOUS, DONT_CARE, BIT_MASK = range(9)
READ_COMPARE, READ_ODD_EVEN = 0x08, 0x10
GRAPHICS_MODE = 0x01
# CRT controller
DISPLAY_END, OVERFLOW, MAX_SCAN_LINE, START_HIGH, START_LOW, PITCH = 0x01, 0x07, 0x09, 0x0C, 0x0D, 0x13
RETRACE_END, VERTICAL_DISPLAY_END = 0x11, 0x12
PROTECT = 0x80

# (offset in the window, size) for each memory map of the graphics controller
MEMORY_MAPS = ((0x00000, 0x20000), (0x00000, 0x10000), (0x10000, 0x8000), (0x18000, 0x8000))
ALL_PLANES = 0x0F
TEXT_PLANES = 0x03

# 720 x 400 at 70 Hz: 449 lines of 31.778 us
LINE, LINES, VISIBLE_LINES = 31_778, 449, 400
VISIBLE_OF_LINE = 25_422
RETRACE_FIRST, RETRACE_LAST = 412, 413
DISPLAY_DISABLED, VERTICAL_RETRACE = 0x01, 0x08


class Vga(IsaDevice):
    """The adapter. `text()` returns what it shows.

    Parameters
    ----------
    clock : Clock
        The machine's time, for the retrace.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_planes": None,
        "_latches": range(0x100),
        "_indexes": None,
        "_sequencer": None,
        "_graphics": None,
        "_crtc": None,
        "_attributes": None,
        "_attribute_index": range(0x40),
        "_attribute_data_next": None,
        "_miscellaneous": range(0x100),
        "_feature": range(0x100),
        "palette": None,
        "_dac_mask": range(0x100),
        "_dac_read": range(3 * 256),
        "_dac_write": range(3 * 256),
        "_dac_reading": None,
    }

    def __init__(self, *, clock: Clock) -> None:
        self.memory_window = DeviceResources([Resource.MmioAddressRange(WINDOW_BASE, WINDOW_SIZE)])
        super().__init__(Resource.PioAddressRange(0x3C0, PORTS), *self.memory_window)
        self._clock = clock
        self._planes = tuple(bytearray(PLANE_SIZE) for _ in range(4))
        self._latches = [0, 0, 0, 0]
        self._indexes = bytearray(PORTS)  # of each index port
        self._sequencer, self._graphics, self._crtc = bytearray(8), bytearray(16), bytearray(32)
        self._banks = {Port.SEQUENCER: self._sequencer, Port.GRAPHICS: self._graphics, Port.CRTC: self._crtc}
        self._attributes = bytearray(32)
        self._attribute_index = 0
        self._attribute_data_next = False
        self._miscellaneous = 0
        self._feature = 0
        self.palette = bytearray(3 * 256)  # red, green, blue, 6 bits each
        self._dac_mask = 0
        self._dac_read, self._dac_write = 0, 0  # positions in the palette
        self._dac_reading = False
        self._update_memory_mode()

    # Registers

    def in8(self, base: int, offset: int) -> int:
        match offset:
            case Port.ATTRIBUTE:
                return self._attribute_index
            case Port.ATTRIBUTE_READ:
                return self._attributes[self._attribute_index & 0x1F]
            case Port.SEQUENCER_INDEX | Port.GRAPHICS_INDEX | Port.CRTC_INDEX:
                return self._indexes[offset]
            case Port.SEQUENCER | Port.GRAPHICS | Port.CRTC:
                return self._banks[offset][self._index(offset)]
            case Port.DAC_MASK:
                return self._dac_mask
            case Port.DAC_STATE:
                return 0x03 if self._dac_reading else 0x00
            case Port.DAC_WRITE_INDEX:
                return self._dac_write // 3
            case Port.DAC_DATA:
                value = self.palette[self._dac_read]
                self._dac_read = (self._dac_read + 1) % len(self.palette)
                return value
            case Port.FEATURE_READ:
                return self._feature
            case Port.MISCELLANEOUS_READ:
                return self._miscellaneous
            case Port.INPUT_STATUS_1:
                self._attribute_data_next = False
                return self._retrace()
            case Port.INPUT_STATUS_0:
                return 0x10  # a monitor is sensed
        return 0xFF

    def out8(self, base: int, offset: int, value: int) -> None:
        match offset:
            case Port.ATTRIBUTE:
                if self._attribute_data_next:
                    self._attributes[self._attribute_index & 0x1F] = value
                else:
                    self._attribute_index = value & 0x3F
                self._attribute_data_next = not self._attribute_data_next
            case Port.MISCELLANEOUS_WRITE:
                self._miscellaneous = value
            case Port.SEQUENCER_INDEX | Port.GRAPHICS_INDEX | Port.CRTC_INDEX:
                self._indexes[offset] = value & len(self._banks[offset + 1]) - 1
            case Port.CRTC:
                self._write_crtc(self._index(offset), value)
            case Port.SEQUENCER | Port.GRAPHICS:
                self._banks[offset][self._index(offset)] = value
                self._update_memory_mode()
            case Port.DAC_MASK:
                self._dac_mask = value
            case Port.DAC_READ_INDEX:
                self._dac_read = 3 * value
                self._dac_reading = True
            case Port.DAC_WRITE_INDEX:
                self._dac_write = 3 * value
                self._dac_reading = False
            case Port.DAC_DATA:
                self.palette[self._dac_write] = value & 0x3F
                self._dac_write = (self._dac_write + 1) % len(self.palette)
            case Port.FEATURE_WRITE:
                self._feature = value

    def _index(self, offset: int) -> int:
        """Return the index of the register behind a data port."""
        return self._indexes[offset - 1] % len(self._banks[offset])

    def state_loaded(self) -> None:
        self._update_memory_mode()

    def _write_crtc(self, index: int, value: int) -> None:
        if index <= OVERFLOW and self._crtc[RETRACE_END] & PROTECT:
            if index == OVERFLOW:  # one bit, of the line compare register, is not protected
                self._crtc[index] = self._crtc[index] & ~0x10 | value & 0x10
            return
        self._crtc[index] = value

    def _retrace(self) -> int:
        line, within = divmod(self._clock.now() % (LINE * LINES), LINE)
        if RETRACE_FIRST <= line <= RETRACE_LAST:
            return VERTICAL_RETRACE | DISPLAY_DISABLED
        return DISPLAY_DISABLED if line >= VISIBLE_LINES or within >= VISIBLE_OF_LINE else 0

    # Memory

    def _update_memory_mode(self) -> None:
        """Precompute the registers' effects on memory accesses."""
        graphics = self._graphics
        self._map_base, self._map_size = MEMORY_MAPS[graphics[MISCELLANEOUS] >> 2 & 3]
        self._map_mask = self._sequencer[MAP_MASK] & ALL_PLANES
        memory_mode = self._sequencer[MEMORY_MODE]
        self._chain_4 = bool(memory_mode & CHAIN_4)
        self._odd_even = not memory_mode & (CHAIN_4 | SEQUENTIAL)
        unchanged = (graphics[MODE] & 3, graphics[ENABLE_SET_RESET] & ALL_PLANES, graphics[ROTATE] & 0x1F)
        self._plain_write = unchanged == (0, 0, 0) and graphics[BIT_MASK] == 0xFF
        self._plain_text = self._plain_write and self._odd_even and self._map_mask == TEXT_PLANES

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        address = offset - self._map_base
        if self._plain_text and not address & 1 and size == 2 and 0 <= address < self._map_size:
            # Fast path for a character with its attribute: nearly all writes are of this kind.
            address &= PLANE_SIZE - 1
            self._planes[0][address], self._planes[1][address] = value & 0xFF, value >> 8
            return
        for position in range(size):
            if 0 <= address + position < self._map_size:
                self._write_byte(address + position, value >> 8 * position & 0xFF)

    def load(self, base: int, offset: int, size: int) -> int:
        value = 0
        for position in range(size):
            address = offset - self._map_base + position
            byte = self._read_byte(address) if 0 <= address < self._map_size else 0xFF
            value |= byte << 8 * position
        return value

    def _write_byte(self, address: int, value: int) -> None:
        planes = self._map_mask
        if self._chain_4:
            planes &= 1 << (address & 3)
            address &= ~3
        elif self._odd_even:
            planes &= 0x05 << (address & 1)
            address &= ~1
        address &= PLANE_SIZE - 1
        for number in range(4):
            if planes >> number & 1:
                self._planes[number][address] = value if self._plain_write else self._combine(number, value)

    def _combine(self, plane: int, value: int) -> int:
        """Return the byte that a write stores in a plane, by the graphics controller's write mode."""
        graphics = self._graphics
        mode = graphics[MODE] & 3
        latch = self._latches[plane]
        if mode == 1:
            return latch
        mask = graphics[BIT_MASK]
        set_reset = 0xFF if graphics[SET_RESET] >> plane & 1 else 0x00
        if mode == 2:
            value = 0xFF if value >> plane & 1 else 0x00
        else:
            rotation = graphics[ROTATE] & 7
            value = (value >> rotation | value << 8 - rotation) & 0xFF
            if mode == 3:
                mask, value = mask & value, set_reset
            elif graphics[ENABLE_SET_RESET] >> plane & 1:
                value = set_reset
        match graphics[ROTATE] >> 3 & 3:
            case 1:
                value &= latch
            case 2:
                value |= latch
            case 3:
                value ^= latch
        return value & mask | latch & ~mask

    def _read_byte(self, address: int) -> int:
        selected = self._graphics[READ_MAP] & 3
        if self._chain_4:
            selected = address & 3
            address &= ~3
        elif self._graphics[MODE] & READ_ODD_EVEN:
            selected = selected & 2 | address & 1
            address &= ~1
        address &= PLANE_SIZE - 1
        self._latches = [plane[address] for plane in self._planes]
        if not self._graphics[MODE] & READ_COMPARE:
            return self._latches[selected]
        differing = 0
        for number, latch in enumerate(self._latches):
            if self._graphics[DONT_CARE] >> number & 1:
                differing |= latch ^ (0xFF if self._graphics[COLOR_COMPARE] >> number & 1 else 0x00)
        return ~differing & 0xFF

    # What is on the screen

    def text(self) -> list[str]:
        """Return the lines of the screen without trailing spaces; none in a graphics mode."""
        crtc = self._crtc
        if self._graphics[MISCELLANEOUS] & GRAPHICS_MODE:
            return []
        columns = crtc[DISPLAY_END] + 1
        last_line = crtc[VERTICAL_DISPLAY_END] | (crtc[OVERFLOW] & 0x02) << 7 | (crtc[OVERFLOW] & 0x40) << 3
        rows = (last_line + 1) // ((crtc[MAX_SCAN_LINE] & 0x1F) + 1)
        first = crtc[START_HIGH] << 8 | crtc[START_LOW]
        pitch = 2 * crtc[PITCH] or columns
        # In word mode, a character takes two addresses of a plane, of which the even one is used.
        characters = self._planes[0][::2]
        lines = []
        for start in range(first, first + rows * pitch, pitch):
            line = bytes(characters[(start + column) % len(characters)] for column in range(columns))
            lines.append(line.replace(b"\0", b" ").decode("cp437").rstrip())
        return lines
