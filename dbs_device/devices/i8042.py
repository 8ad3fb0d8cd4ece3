"""Keyboard controller at ports 0x60 and 0x64.

Datasheet: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and auxiliary device controller (type 1)"; the
chip is an Intel 8042.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._common import Irq, no_irq
from ._isa import IsaDevice
from .ps2_keyboard import BREAK, Ps2Keyboard

__all__ = ["I8042"]

DATA_PORT, COMMAND_PORT = 0x60, 0x64
MOST_ANSWERS = 64  # that wait for a guest to read them; it has one at a time if it follows the rules

# Status
OUTPUT_FULL, SYSTEM_FLAG, LAST_WAS_COMMAND, NOT_INHIBITED, AUX_DATA, TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
# Command byte
KEYBOARD_IRQ, AUX_IRQ, SYSTEM_READY, KEYBOARD_DISABLED, AUX_DISABLED, TRANSLATE = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40
# Output port
OUTPUT_NOT_RESET, OUTPUT_A20, OUTPUT_KEYBOARD_FULL, OUTPUT_AUX_FULL = 0x01, 0x02, 0x10, 0x20

SELF_TEST_PASSED, INTERFACE_TEST_PASSED, NO_ANSWER = 0x55, 0x00, 0xFE


class Command:
    """Commands, written to the command port."""

    READ_MEMORY, READ_MEMORY_LAST = 0x20, 0x3F
    WRITE_MEMORY, WRITE_MEMORY_LAST = 0x60, 0x7F
    DISABLE_AUX, ENABLE_AUX, TEST_AUX = 0xA7, 0xA8, 0xA9
    SELF_TEST, TEST_KEYBOARD = 0xAA, 0xAB
    DISABLE_KEYBOARD, ENABLE_KEYBOARD = 0xAD, 0xAE
    READ_INPUT_PORT, READ_OUTPUT_PORT, WRITE_OUTPUT_PORT = 0xC0, 0xD0, 0xD1
    WRITE_KEYBOARD_OUTPUT, WRITE_AUX_OUTPUT, WRITE_AUX = 0xD2, 0xD3, 0xD4
    PULSE_OUTPUT = 0xF0  # to 0xFF; of the lower four bits, each 0 pulses a line
    TAKE_PARAMETER = (WRITE_OUTPUT_PORT, WRITE_KEYBOARD_OUTPUT, WRITE_AUX_OUTPUT, WRITE_AUX)


# From scan code set 2 to set 1; higher codes are the keyboard's responses, which are not translated.
TRANSLATION = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59"
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b"
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d"
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f"
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61"
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76"
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f"
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54"
    "80 81 82 41 54"
)


class I8042(IsaDevice):
    """The controller, with a keyboard on it and nothing on its auxiliary port.

    Parameters
    ----------
    irq, aux_irq : callable
        The interrupt lines of the keyboard and of the auxiliary port: on a PC, 1 and 12.
    reset : callable
        Called when the guest asserts the processor's reset line.

    Attributes
    ----------
    keyboard : Ps2Keyboard
        The keyboard.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_memory": None,
        "_status": range(0x100),
        "_output": range(0x100),
        "_answers": [range(0x10000)],
        "_parameter_of": (None, range(0x100)),
        "_breaking": None,
        "_a20": range(0x100),
        "keyboard": None,
    }

    def __init__(self, *, irq: Irq = no_irq, aux_irq: Irq = no_irq, reset: Callable[[], object]) -> None:
        super().__init__(Resource.PioAddressRange(DATA_PORT, 1), Resource.PioAddressRange(COMMAND_PORT, 1))
        self._irq = irq
        self._aux_irq = aux_irq
        self._reset = reset
        self._memory = bytearray(32)  # the first byte is the command byte
        self._status = NOT_INHIBITED
        self._output = 0
        self._answers: deque[int] = deque()  # the controller's own bytes, with their status bits above
        self._parameter_of: int | None = None
        self._breaking = False  # the keyboard has sent a release prefix
        self._a20 = OUTPUT_A20
        self.keyboard = Ps2Keyboard(data_ready=self._fill_output)

    @property
    def _command_byte(self) -> int:
        return self._memory[0]

    @_command_byte.setter
    def _command_byte(self, value: int) -> None:
        self._memory[0] = value
        self._status = self._status & ~SYSTEM_FLAG | (SYSTEM_FLAG if value & SYSTEM_READY else 0)
        self._fill_output()  # the keyboard may have data that waits for this
        self._update_irqs()

    def in8(self, base: int, offset: int) -> int:
        if base == COMMAND_PORT:
            return self._status
        value = self._output
        self._status &= ~(OUTPUT_FULL | AUX_DATA | TIMEOUT)
        self._update_irqs()  # the line falls, so that the next byte causes an edge
        self._fill_output()
        return value

    def out8(self, base: int, offset: int, value: int) -> None:
        if base == COMMAND_PORT:
            self._status |= LAST_WAS_COMMAND
            self._parameter_of = None
            self._execute(value)
            return
        self._status &= ~LAST_WAS_COMMAND
        command, self._parameter_of = self._parameter_of, None
        if command is None:
            self.keyboard.write(value)
        else:
            self._take_parameter(command, value)

    def state_loaded(self) -> None:
        self._update_irqs()

    def _execute(self, command: int) -> None:
        match command:
            case _ if Command.READ_MEMORY <= command <= Command.READ_MEMORY_LAST:
                self._answer(self._memory[command & 0x1F])
            case _ if Command.WRITE_MEMORY <= command <= Command.WRITE_MEMORY_LAST:
                self._parameter_of = command
            case _ if command in Command.TAKE_PARAMETER:
                self._parameter_of = command
            case Command.DISABLE_AUX:
                self._command_byte |= AUX_DISABLED
            case Command.ENABLE_AUX:
                self._command_byte &= ~AUX_DISABLED
            case Command.SELF_TEST:
                self._command_byte |= SYSTEM_READY
                self._answer(SELF_TEST_PASSED)
            case Command.TEST_KEYBOARD | Command.TEST_AUX:
                self._answer(INTERFACE_TEST_PASSED)
            case Command.DISABLE_KEYBOARD:
                self._command_byte |= KEYBOARD_DISABLED
            case Command.ENABLE_KEYBOARD:
                self._command_byte &= ~KEYBOARD_DISABLED
            case Command.READ_INPUT_PORT:
                self._answer(0x80)  # not inhibited
            case Command.READ_OUTPUT_PORT:
                self._answer(self._output_port())
            case _ if command >= Command.PULSE_OUTPUT and not command & OUTPUT_NOT_RESET:
                self._reset()

    def _take_parameter(self, command: int, value: int) -> None:
        match command:
            case Command.WRITE_MEMORY:
                self._command_byte = value
            case Command.WRITE_OUTPUT_PORT:
                self._a20 = value & OUTPUT_A20
                if not value & OUTPUT_NOT_RESET:
                    self._reset()
            case Command.WRITE_KEYBOARD_OUTPUT:
                self._answer(value)
            case Command.WRITE_AUX_OUTPUT:
                self._answer(value, AUX_DATA)
            case Command.WRITE_AUX:  # nothing is connected
                self._answer(NO_ANSWER, AUX_DATA | TIMEOUT)
            case _:
                self._memory[command & 0x1F] = value

    def _output_port(self) -> int:
        full = 0
        if self._status & OUTPUT_FULL:
            full = OUTPUT_AUX_FULL if self._status & AUX_DATA else OUTPUT_KEYBOARD_FULL
        return OUTPUT_NOT_RESET | self._a20 | full

    def _answer(self, value: int, status: int = 0) -> None:
        if len(self._answers) < MOST_ANSWERS:
            self._answers.append(status << 8 | value)
        self._fill_output()

    def _fill_output(self) -> None:
        """Move the next byte into the output buffer if that is empty. The controller's own bytes come first."""
        if self._status & OUTPUT_FULL:
            return
        if self._answers:
            status, self._output = divmod(self._answers.popleft(), 0x100)
            self._status |= OUTPUT_FULL | status
        else:
            value = self._next_from_keyboard()
            if value is None:
                return
            self._output = value
            self._status |= OUTPUT_FULL
        self._update_irqs()

    def _next_from_keyboard(self) -> int | None:
        """Return the keyboard's next byte, translated if translation is enabled."""
        while not self._command_byte & KEYBOARD_DISABLED and (value := self.keyboard.next_byte()) is not None:
            if not self._command_byte & TRANSLATE:
                return value
            if value == BREAK:
                self._breaking = True
                continue
            translated = TRANSLATION[value] if value < len(TRANSLATION) else value
            released, self._breaking = self._breaking, False
            return translated | 0x80 if released else translated
        return None

    def _update_irqs(self) -> None:
        full, aux = self._status & OUTPUT_FULL, self._status & AUX_DATA
        self._irq(bool(full and not aux and self._command_byte & KEYBOARD_IRQ))
        self._aux_irq(bool(full and aux and self._command_byte & AUX_IRQ))
