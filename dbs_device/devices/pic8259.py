"""Programmable interrupt controllers: the pair of 8259As of a PC, and their edge/level control registers (ELCR).

Datasheets: Intel 8259A; Intel 82371AB (PIIX4), "Interrupt controller registers" and "ELCR1, ELCR2".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._common import Irq, no_irq
from ._isa import IsaDevice

__all__ = ["Elcr", "Pic8259", "PicPair"]

COMMAND = 0  # the even port; the odd one is the mask and the initialisation words

ICW1 = 0x10
ICW1_ICW4_NEEDED = 0x01
ICW1_SINGLE = 0x02
ICW2, ICW3, ICW4 = 2, 3, 4
ICW4_AUTO_EOI = 0x02
OCW3 = 0x08
OCW3_READ_SELECT = 0x02
OCW3_READ_ISR = 0x01
OCW3_POLL = 0x04
OCW3_MASK_SELECT = 0x40
OCW3_SPECIAL_MASK = 0x20
OCW2_EOI, OCW2_SPECIFIC, OCW2_ROTATE = 0x20, 0x40, 0x80

SPURIOUS = 7  # the input of a spurious interrupt
CASCADE = 2  # the master's input to which the slave's output is wired


class Pic8259(IsaDevice):
    """One controller with its eight inputs.

    Parameters
    ----------
    irq : callable
        Its interrupt output, called with the level when it changes.
    base : int
        First of its two ports.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_lines": range(0x100),
        "level_triggered": range(0x100),
        "_latched": range(0x100),
        "in_service": range(0x100),
        "mask": range(0x100),
        "vector_base": range(0x100),
        "_lowest_priority": range(8),
        "_auto_eoi": None,
        "_rotate_on_auto_eoi": None,
        "_special_mask": None,
        "_read_in_service": None,
        "_poll": None,
        "_expected": [range(ICW2, ICW4 + 1)],
    }

    def __init__(self, *, irq: Irq = no_irq, base: int = 0x20) -> None:
        super().__init__(Resource.PioAddressRange(base, 2))
        self._irq = irq
        self._output_level = False
        self._lines = 0  # levels of the inputs
        self.level_triggered = 0  # level-triggered inputs, by ELCR
        self.vector_base = 0
        self.mask = 0
        self.in_service = 0
        self._initialize()

    def _initialize(self) -> None:
        """Perform the effects of ICW1."""
        self._latched = 0  # edges seen
        self.mask = 0
        self.in_service = 0
        self._lowest_priority = 7
        self._auto_eoi = False
        self._rotate_on_auto_eoi = False
        self._special_mask = False
        self._read_in_service = False
        self._poll = False
        self._expected: list[int] = []  # initialisation words still expected on the odd port

    @property
    def requests(self) -> int:
        """The interrupt request register: requesting inputs, masked or not."""
        return self._latched | self._lines & self.level_triggered

    def set_line(self, line: int, level: bool) -> None:
        """Change the level of an input. An edge-triggered request is withdrawn when its line falls again."""
        bit = 1 << line
        if not level:
            self._lines &= ~bit
            self._latched &= ~bit
        elif not self._lines & bit:
            self._lines |= bit
            self._latched |= bit & ~self.level_triggered
        self._update()

    def set_level_triggered(self, lines: int) -> None:
        """Set the level-triggered inputs from an ELCR register."""
        self.level_triggered = lines
        self._latched &= ~lines
        self._update()

    def acknowledge(self) -> int:
        """Serve an interrupt acknowledge: return the number of the input, which is now in service."""
        line = self._highest_request()
        if line is None:
            return SPURIOUS
        bit = 1 << line
        self._latched &= ~bit
        if not self._auto_eoi:
            self.in_service |= bit
        elif self._rotate_on_auto_eoi:
            self._lowest_priority = line
        self._update()
        return line

    def in8(self, base: int, offset: int) -> int:
        if self._poll:
            self._poll = False
            line = self._highest_request()
            return 0 if line is None else 0x80 | self.acknowledge()
        if offset != COMMAND:
            return self.mask
        return self.in_service if self._read_in_service else self.requests

    def out8(self, base: int, offset: int, value: int) -> None:
        if offset != COMMAND:
            self._write_odd(value)
        elif value & ICW1:
            self._initialize()
            self._expected = [ICW2]
            if not value & ICW1_SINGLE:
                self._expected.append(ICW3)
            if value & ICW1_ICW4_NEEDED:
                self._expected.append(ICW4)
        elif value & OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value)
        self._update()

    def _write_odd(self, value: int) -> None:
        if not self._expected:
            self.mask = value
            return
        word = self._expected.pop(0)
        if word == ICW2:
            self.vector_base = value & 0xF8
        elif word == ICW4:
            self._auto_eoi = bool(value & ICW4_AUTO_EOI)
        # ICW3 describes the cascade, which is wired in a PC.

    def _write_ocw2(self, value: int) -> None:
        if not value & OCW2_EOI:
            if value & OCW2_SPECIFIC and value & OCW2_ROTATE:  # set priority
                self._lowest_priority = value & 7
            elif not value & OCW2_SPECIFIC:
                self._rotate_on_auto_eoi = bool(value & OCW2_ROTATE)
            return
        line = value & 7 if value & OCW2_SPECIFIC else self._highest(self.in_service & ~self._specially_masked())
        if line is None:
            return
        self.in_service &= ~(1 << line)
        if value & OCW2_ROTATE:
            self._lowest_priority = line

    def _write_ocw3(self, value: int) -> None:
        self._poll = bool(value & OCW3_POLL)
        if value & OCW3_READ_SELECT:
            self._read_in_service = bool(value & OCW3_READ_ISR)
        if value & OCW3_MASK_SELECT:
            self._special_mask = bool(value & OCW3_SPECIAL_MASK)

    def _specially_masked(self) -> int:
        return self.mask if self._special_mask else 0

    def _priority(self, line: int) -> int:
        return (line - self._lowest_priority - 1) % 8

    def _highest(self, lines: int) -> int | None:
        """Return the line of the highest priority in a bit mask."""
        return min((line for line in range(8) if lines >> line & 1), key=self._priority, default=None)

    def _highest_request(self) -> int | None:
        """Return the line that may interrupt now: unmasked, and of a higher priority than those in service."""
        if not (candidates := self.requests & ~self.mask):
            return None
        request = self._highest(candidates)
        serving = self._highest(self.in_service & ~self._specially_masked())
        if request is None or (serving is not None and self._priority(serving) <= self._priority(request)):
            return None
        return request

    def state_loaded(self) -> None:
        self._output_level = self._highest_request() is not None
        self._irq(self._output_level)

    def _update(self) -> None:
        level = self._highest_request() is not None
        if level != self._output_level:
            self._output_level = level
            self._irq(level)


class PicPair:
    """Two controllers in cascade: the sixteen interrupt lines of a PC.

    Parameters
    ----------
    irq : callable
        The processor's INTR input: called with its level, once an edge.

    Attributes
    ----------
    master, slave : Pic8259
        The controllers, which are separate devices on the bus.
    interrupting : bool
        Whether the processor's INTR input is high.
    """

    def __init__(self, *, irq: Irq = no_irq) -> None:
        self._irq = irq
        self.interrupting = False
        self.master = Pic8259(irq=self._set_intr)
        self.slave = Pic8259(irq=lambda level: self.master.set_line(CASCADE, level), base=0xA0)

    def _set_intr(self, level: bool) -> None:
        if level != self.interrupting:
            self.interrupting = level
            self._irq(level)

    def line(self, irq: int) -> Irq:
        """Return the function that sets an interrupt line, 0..15."""
        pic, number = (self.slave, irq - 8) if irq >= 8 else (self.master, irq)
        return lambda level: pic.set_line(number, level)

    def acknowledge(self) -> int:
        """Acknowledge the pending interrupt, and return its vector."""
        line = self.master.acknowledge()
        if line != CASCADE:
            return self.master.vector_base + line
        return self.slave.vector_base + self.slave.acknowledge()


class Elcr(IsaDevice):
    """The level-triggered interrupt lines, one bit each. Those of timer, keyboard, clock and FPU cannot be."""

    WRITABLE = (0xF8, 0xDE)

    def __init__(self, *, pics: PicPair, base: int = 0x4D0) -> None:
        super().__init__(Resource.PioAddressRange(base, 2))
        self._pics = (pics.master, pics.slave)

    def in8(self, base: int, offset: int) -> int:
        return self._pics[offset].level_triggered

    def out8(self, base: int, offset: int, value: int) -> None:
        self._pics[offset].set_level_triggered(value & self.WRITABLE[offset])
