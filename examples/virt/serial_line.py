"""The serial line to a person at a terminal, or to a list of commands."""

from __future__ import annotations

from typing import Any, ClassVar

from dbs_device.devices.pl011 import Pl011
from dbs_device.state import AttributeState
from examples.riscv.serial_line import Console

__all__ = ["SerialLine"]

AUTOBOOT, PROMPT = b"autoboot:", b"=> "
LONGEST = max(len(AUTOBOOT), len(PROMPT))


class SerialLine(AttributeState):
    """Passes bytes on in both directions.

    A person types at any time. Of a text that is piped in, U-Boot gets one line at each prompt, and before the first
    one a key that stops the countdown to its default command.

    Parameters
    ----------
    console : Console
        The other end.
    """

    saved: ClassVar[dict[str, Any]] = {"_tail": ..., "_wanted": ..., "_typed": ..., "_line": ..., "_at_end": None}

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = b""  # of the output
        self._wanted = ""  # what the guest has asked for: "key" or "line"
        self._typed = b""
        self._line = b""  # what the UART is to receive next
        self._at_end = False

    def connect(self, console: Console) -> None:
        """Lead to another console."""
        self._console = console
        self._typed, self._at_end = b"", False

    def send(self, byte: int) -> None:
        """Pass on a byte from the guest."""
        self._tail = (self._tail + bytes([byte]))[-LONGEST:]
        if self._tail.endswith(AUTOBOOT):
            self._wanted = "key"
        elif self._tail.endswith(PROMPT):
            self._wanted = "line"
        self._console.write(byte)

    def look(self, uart: Pl011) -> bool:
        """Let the UART receive what it is time for; return False at the end of the input, when the guest wants more."""
        if not self._line:
            self._next_line()
        if self._line and (room := uart.room) > 0:
            uart.receive(self._line[:room])
            self._line = self._line[room:]
        return bool(self._line) or not (self._at_end and self._wanted == "line")

    def _next_line(self) -> None:
        if not self._typed and not self._at_end:
            typed = self._console.read(0)
            self._at_end = typed is None
            self._typed = typed or b""
        if self._console.is_interactive:
            self._line, self._typed = self._typed, b""
        elif self._wanted == "key":
            self._line, self._wanted = b" ", ""
        elif self._wanted == "line" and self._typed:
            line, end, self._typed = self._typed.partition(b"\n")
            self._line, self._wanted = line + (end and b"\r"), ""
