"""PS/2 keyboard, connected to the keyboard controller.

Datasheet: IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101- and 102-key)".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..state import AttributeState, Saved

__all__ = ["BREAK", "Ps2Keyboard"]

ACKNOWLEDGE, RESEND, ECHO, SELF_TEST_PASSED = 0xFA, 0xFE, 0xEE, 0xAA
IDENTITY = bytes((0xAB, 0x83))
BREAK = 0xF0  # precedes the code of a released key
MOST_WAITING = 256  # bytes, behind which answers are lost
LEFT_SHIFT = 0x12

SET_LEDS, SCAN_CODE_SET, IDENTIFY, TYPEMATIC = 0xED, 0xF0, 0xF2, 0xF3
ENABLE, DISABLE, SET_DEFAULTS, RESEND_LAST, RESET = 0xF4, 0xF5, 0xF6, 0xFE, 0xFF
COMMANDS_WITH_PARAMETER = (SET_LEDS, SCAN_CODE_SET, TYPEMATIC)

# Scan codes (set 2) of the US layout's characters, in the order of the keys.
PLAIN = "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./ \n\t\b"
SHIFTED = '~!@#$%^&*()_+QWERTYUIOP{}|ASDFGHJKL:"ZXCVBNM<>?'
CODES = bytes.fromhex(
    "0e 16 1e 26 25 2e 36 3d 3e 46 45 4e 55  15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5d"
    "1c 1b 23 2b 34 33 3b 42 4b 4c 52  1a 22 21 2a 32 31 3a 41 49 4a  29 5a 0d 66"
)


class Ps2Keyboard(AttributeState):
    """A keyboard that uses scan code set 2.

    Parameters
    ----------
    data_ready : callable
        Called when a byte is available (`next_byte`).
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_queue": [range(0x100)],
        "_last_sent": range(0x100),
        "_command": (None, range(0x100)),
        "_scan_code_set": range(4),
        "leds": range(0x100),
        "scanning": None,
    }

    def __init__(self, *, data_ready: Callable[[], object]) -> None:
        self._data_ready = data_ready
        self._queue: deque[int] = deque()
        self._last_sent = 0
        self._command: int | None = None  # the command whose parameter is expected
        self._scan_code_set = 2
        self.leds = 0
        self.scanning = True

    def next_byte(self) -> int | None:
        """Return the next byte that the keyboard sends, or None."""
        if not self._queue:
            return None
        self._last_sent = self._queue.popleft()
        return self._last_sent

    def press(self, code: int) -> None:
        """Press and release a key, given by its scan code. It is lost while the keyboard is disabled."""
        if self.scanning:
            self._send(code, BREAK, code)

    def type(self, text: str) -> None:
        """Type a text on the US layout; `ValueError` for a character that has no key."""
        for character in text:
            if character in PLAIN:
                self.press(CODES[PLAIN.index(character)])
            elif character in SHIFTED:
                if self.scanning:
                    self._send(LEFT_SHIFT)
                    self.press(CODES[SHIFTED.index(character)])
                    self._send(BREAK, LEFT_SHIFT)
            else:
                raise ValueError(f"the keyboard has no key for {character!r}")

    def write(self, byte: int) -> None:
        """Accept a byte from the host: a command or its parameter."""
        if self._command is not None:
            command, self._command = self._command, None
            self._take_parameter(command, byte)
            return
        if byte in COMMANDS_WITH_PARAMETER:
            self._command = byte
            self._reply(ACKNOWLEDGE)
        elif byte == RESET:
            self._queue.clear()
            self._set_defaults()
            self.scanning = True
            self._reply(ACKNOWLEDGE, SELF_TEST_PASSED)
        elif byte == IDENTIFY:
            self._reply(ACKNOWLEDGE, *IDENTITY)
        elif byte == ECHO:
            self._reply(ECHO)
        elif byte == RESEND_LAST:
            self._reply(self._last_sent)
        elif byte in (ENABLE, DISABLE, SET_DEFAULTS):
            if byte != ENABLE:
                self._set_defaults()
            self.scanning = byte != DISABLE
            self._reply(ACKNOWLEDGE)
        else:
            self._reply(RESEND)

    def _take_parameter(self, command: int, parameter: int) -> None:
        self._reply(ACKNOWLEDGE)
        if command == SET_LEDS:
            self.leds = parameter
        elif command == SCAN_CODE_SET and parameter == 0:
            self._reply(self._scan_code_set)

    def _set_defaults(self) -> None:
        self._command = None
        self.leds = 0

    def _reply(self, *sent: int) -> None:
        """Answer the host. Answers are lost while it does not read them: a guest must not fill the memory."""
        if len(self._queue) < MOST_WAITING:
            self._send(*sent)

    def _send(self, *sent: int) -> None:
        self._queue.extend(sent)
        self._data_ready()
