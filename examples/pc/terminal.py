"""Showing a guest's console on that of the host, and answering it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TextIO

__all__ = ["Answers", "PlainText"]

ESCAPE = 0x1B
FINAL_BYTES = range(0x40, 0x7F)  # end a control sequence


class PlainText:
    """Writes printable characters and line ends, and drops ANSI sequences for cursor and colour.

    A guest assumes that it owns the terminal: firmware begins by resetting it.

    Parameters
    ----------
    stream : text file
        Receives the output.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._sequence = b""

    def put(self, byte: int) -> None:
        """Accept a byte from the guest."""
        if self._sequence:
            self._sequence += bytes((byte,))
            is_control_sequence = self._sequence[1:2] == b"["
            if not is_control_sequence or (len(self._sequence) > 2 and byte in FINAL_BYTES):
                self._sequence = b""
        elif byte == ESCAPE:
            self._sequence = bytes((byte,))
        elif byte == 0x0A or 0x20 <= byte < 0x7F:
            self._stream.write(chr(byte))
            self._stream.flush()


class Answers:
    """Types answers at a guest's console, each when the guest has printed a text.

    Parameters
    ----------
    pairs : iterable of (str, bytes)
        A text, and what is typed then; in order, each once.
    type_ : callable
        Takes what is typed.
    """

    def __init__(self, pairs: Iterable[tuple[str, bytes]], type_: Callable[[bytes], object]) -> None:
        self._pairs = list(pairs)
        self._type = type_
        self._printed = b""  # since the last answer, as far as it can matter

    def put(self, byte: int) -> None:
        """Accept a byte from the guest."""
        if not self._pairs:
            return
        text, answer = self._pairs[0]
        self._printed = (self._printed + bytes((byte,)))[-len(text) :]
        if self._printed == text.encode():
            self._printed = b""
            del self._pairs[0]
            self._type(answer)
