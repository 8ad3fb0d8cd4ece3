"""The host's terminal, or whatever stdin and stdout are, as the console of a machine."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

__all__ = ["ESCAPE", "Terminal"]

LINE_FEED, CARRIAGE_RETURN = 0x0A, 0x0D
LONGEST_WAIT = 3600.0  # seconds
ESCAPE = 0x01  # Ctrl-A, as in QEMU and picocom
INPUT_FLAGS, OUTPUT_FLAGS, LOCAL_FLAGS = 0, 1, 3  # places in the attributes of a terminal


class Terminal:
    """Standard input and output. In a `with` block, a terminal passes every key on.

    Ctrl-A begins a command for the host, whose key is the next one; Ctrl-A twice is a Ctrl-A for the guest.

    Parameters
    ----------
    commands : mapping of str to callable
        What the keys do.

    Attributes
    ----------
    is_interactive : bool
        Whether the input comes from a terminal.
    """

    def __init__(self, commands: Mapping[str, Callable[[], object]]) -> None:
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.buffer
        self._commands = commands
        self._is_after_escape = False
        self._attributes: list[Any] | None = None
        self._written = bytearray()
        self.is_interactive = os.isatty(self._input)
        shows_on_terminal = os.isatty(sys.stdout.fileno())
        self._adds_returns = self.is_interactive and shows_on_terminal
        self._has_title = shows_on_terminal and os.environ.get("TERM", "dumb") != "dumb"

    def __enter__(self) -> Self:
        if self._has_title:
            self._written += b"\x1b[22;2t"  # remember the title
        if self.is_interactive:
            self._attributes = termios.tcgetattr(self._input)
            raw = termios.tcgetattr(self._input)
            # Neither lines nor echo nor signals: these are the guest's affair.
            raw[LOCAL_FLAGS] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
            raw[INPUT_FLAGS] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON)
            raw[OUTPUT_FLAGS] &= ~termios.OPOST
            termios.tcsetattr(self._input, termios.TCSADRAIN, raw)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._has_title:
                self._written += b"\x1b[23;2t"  # and give it back
            self.flush()
        finally:
            if self._attributes is not None:
                termios.tcsetattr(self._input, termios.TCSADRAIN, self._attributes)
                self._attributes = None

    def say(self, text: str) -> None:
        """Show a line of the host's own."""
        self._written += f"\r\n[{text}]\r\n".encode()
        self.flush()

    def set_title(self, title: str) -> None:
        """Give the terminal's window a title, if there is a terminal."""
        if self._has_title:
            self._written += f"\x1b]2;{title}\x07".encode()

    def write(self, byte: int) -> None:
        """Take a byte from the guest. It is shown at the next `read`."""
        if byte == LINE_FEED and self._adds_returns and self._written[-1:] != b"\r":
            self._written.append(CARRIAGE_RETURN)  # nobody else adds it, and not every guest does
        self._written.append(byte)

    def flush(self) -> None:
        """Show what the guest has written."""
        if self._written:
            written, self._written = self._written, bytearray()
            with contextlib.suppress(BrokenPipeError):
                self._output.write(written)
                self._output.flush()

    def read(self, timeout: float) -> bytes | None:
        """Return what has been typed since the last call; None at the end of the input.

        Parameters
        ----------
        timeout : float
            How long to wait for the first byte, in seconds.
        """
        self.flush()
        ready, _, _ = select.select([self._input], [], [], min(timeout, LONGEST_WAIT))
        if not ready:
            return b""
        typed = os.read(self._input, 4096)
        if not typed:
            return None
        return self._without_commands(typed) if self.is_interactive else typed

    def _without_commands(self, typed: bytes) -> bytes:
        """Execute the commands in what has been typed, and return the rest."""
        rest = bytearray()
        for byte in typed:
            if self._is_after_escape:
                self._is_after_escape = False
                if byte == ESCAPE:
                    rest.append(byte)
                else:
                    self._commands.get(chr(byte).lower(), lambda: None)()
            elif byte == ESCAPE:
                self._is_after_escape = True
            else:
                rest.append(byte)
        return bytes(rest)
