"""The serial line between the guest's UART and a console: a person's terminal, or a text that is typed for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from dbs_device.clock import NS_PER_SECOND
from dbs_device.state import AttributeState

__all__ = ["Console", "Script", "SerialLine"]

QUIET = NS_PER_SECOND // 5  # of the guest's time without output, after which a guest that waits takes a line
LONG_QUIET = 2 * NS_PER_SECOND  # the same for one that does not wait, but polls


class Console(Protocol):
    """The other end of the serial line."""

    is_interactive: bool
    """Whether a person types, who sees when the guest is ready for that."""

    def write(self, byte: int) -> object:
        """Take a byte from the guest."""
        ...

    def read(self, timeout: float) -> bytes | None:
        """Return what has been typed since the last call, or None if nothing will be any more.

        If nothing has been typed, wait for it, `timeout` seconds at most. The time may be infinite.
        """
        ...


class Script:
    """A console whose input is known from the beginning.

    Parameters
    ----------
    text : bytes
        The input.

    Attributes
    ----------
    output : bytearray
        What the guest has sent.
    """

    is_interactive = False

    def __init__(self, text: bytes = b"") -> None:
        self.output = bytearray()
        self._text: bytes | None = text or None

    def write(self, byte: int) -> None:
        self.output.append(byte)

    def read(self, timeout: float) -> bytes | None:
        text, self._text = self._text, None
        return text


class Receiver(Protocol):
    """The UART, as the line sees it."""

    @property
    def room(self) -> int:
        """How many bytes it can receive."""
        ...

    def receive(self, received: bytes, /) -> None:
        """Receive bytes."""
        ...


class SerialLine(AttributeState):
    """Passes bytes on in both directions, and types a text when the guest is ready for it.

    What comes before a shell asks for it is lost: drivers clear the FIFO when they begin, and a login does the same. A
    person waits for the prompt. A text that is piped in is typed line by line, each when the guest has sent nothing
    for a while.

    Parameters
    ----------
    console : Console
        The other end.
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "_typed": ...,
        "_line": ...,
        "_quiet_since": range(1 << 63),
        "_has_sent": None,
    }

    def __init__(self, console: Console) -> None:
        self._console = console
        self._typed = b""
        self._line = b""  # what the UART is to receive next
        self._at_end = False
        self._quiet_since = 0  # in ns of the guest's time
        self._has_sent = False  # since it was looked at

    def state_loaded(self) -> None:
        """Ask the console again, which is another one."""
        self._at_end = False

    def send(self, byte: int) -> None:
        """Pass on a byte from the guest."""
        self._has_sent = True
        self._console.write(byte)

    def look(self, uart: Receiver, now: int, *, guest_waits: bool = False) -> bool:
        """Let the UART receive what it is time for, as far as it has room, and return whether it has received.

        Parameters
        ----------
        uart : Receiver
            The UART.
        now : int
            The guest's time in ns.
        guest_waits : bool
            Whether the guest waits for an interrupt.
        """
        if self._has_sent:
            self._has_sent, self._quiet_since = False, now
        if not self._line:
            self._read(0)
            if self._console.is_interactive:
                self._line, self._typed = self._typed, b""
            elif self._typed and self.quiet_time(now) >= (QUIET if guest_waits else LONG_QUIET):
                line, end, self._typed = self._typed.partition(b"\n")
                self._line = line + end
        room = uart.room if self._line else 0
        if room == 0:
            return False
        uart.receive(self._line[:room])
        self._line, self._quiet_since = self._line[room:], now
        return True

    def _read(self, timeout: float) -> None:
        if not self._typed and not self._at_end:
            typed = self._console.read(timeout)
            self._at_end = typed is None
            self._typed = typed or b""

    def wait(self, timeout: float) -> None:
        """Wait until something is typed; `timeout` seconds at most."""
        self._read(timeout)

    @property
    def next_look(self) -> int | None:
        """When a guest that waits takes the next line, in ns of its time; None if none has been typed."""
        return self._quiet_since + QUIET if self._typed and not self._line else None

    @property
    def may_bring_more(self) -> bool:
        """Whether nothing is left that has been typed, but something may be."""
        return not (self._at_end or self._typed or self._line)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left, and nothing will be typed any more."""
        return self._at_end and not self._typed and not self._line

    def quiet_time(self, now: int) -> int:
        """Return how long there has been neither output nor input, in ns of the guest's time."""
        return 0 if self._has_sent else now - self._quiet_since
