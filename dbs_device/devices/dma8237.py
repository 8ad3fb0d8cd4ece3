"""DMA controllers and page registers, without transfers.

Datasheet: Intel 8237A; Intel 82371AB (PIIX4), "DMA registers", for the ports of the pair and of the page registers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import IsaDevice

__all__ = ["Dma8237", "DmaPages"]

# Registers from the ninth on; the first eight are address and count of each of the four channels.
STATUS_COMMAND, REQUEST, SINGLE_MASK, MODE, CLEAR_FLIP_FLOP, MASTER_CLEAR, CLEAR_MASK, ALL_MASK = range(8, 16)

ALL_CHANNELS = 0x0F


class Dma8237(IsaDevice):
    """One controller with its four channels.

    Parameters
    ----------
    base : int
        First port.
    stride : int
        Distance of the registers: 1 for the controller of the 8-bit channels, 2 for that of the 16-bit ones, whose
        address lines are shifted by one.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_words": range(0x10000),
        "modes": range(0x40),
        "mask": range(0x10),
        "_requests": range(0x10),
        "_high_byte": None,
    }

    def __init__(self, *, base: int = 0x00, stride: int = 1) -> None:
        super().__init__(Resource.PioAddressRange(base, 16 * stride))
        self._stride = stride
        self._words = [0] * 8  # address and count of each channel
        self.modes = [0] * 4  # without the number of the channel
        self._reset()

    def _reset(self) -> None:
        self._high_byte = False
        self._requests = 0
        self.mask = ALL_CHANNELS

    def in8(self, base: int, offset: int) -> int:
        register = offset // self._stride
        if register < 8:
            return self._words[register] >> self._next_shift() & 0xFF
        if register == STATUS_COMMAND:
            return self._requests << 4  # no channel has reached terminal count
        if register == MASTER_CLEAR:  # when read, the temporary register
            return 0
        if register == ALL_MASK:
            return 0xF0 | self.mask
        return 0xFF

    def out8(self, base: int, offset: int, value: int) -> None:
        register = offset // self._stride
        channel = value & 3
        if register < 8:
            shift = self._next_shift()
            self._words[register] = self._words[register] & ~(0xFF << shift) | value << shift
        elif register == REQUEST:
            self._requests = self._requests & ~(1 << channel) | bool(value & 4) << channel
        elif register == SINGLE_MASK:
            self.mask = self.mask & ~(1 << channel) | bool(value & 4) << channel
        elif register == MODE:
            self.modes[channel] = value >> 2
        elif register == CLEAR_FLIP_FLOP:
            self._high_byte = False
        elif register == MASTER_CLEAR:
            self._reset()
        elif register == CLEAR_MASK:
            self.mask = 0
        elif register == ALL_MASK:
            self.mask = value & ALL_CHANNELS

    def _next_shift(self) -> int:
        """Return the position of the byte that the flip-flop selects, and toggle it."""
        shift = 8 if self._high_byte else 0
        self._high_byte = not self._high_byte
        return shift


class DmaPages(IsaDevice):
    """The page registers: upper address bits of each channel, and scratch. The first one, 0x80, receives POST codes."""

    saved: ClassVar[Mapping[str, Saved]] = {"_pages": None}

    def __init__(self, *, base: int = 0x80) -> None:
        super().__init__(Resource.PioAddressRange(base, 16))
        self._pages = bytearray(16)

    @property
    def post_code(self) -> int:
        """The last byte written to port 0x80."""
        return self._pages[0]

    def in8(self, base: int, offset: int) -> int:
        return self._pages[offset]

    def out8(self, base: int, offset: int, value: int) -> None:
        self._pages[offset] = value
