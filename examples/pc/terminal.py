"""Showing a guest's console on that of the host."""

from __future__ import annotations

from typing import TextIO

__all__ = ["PlainText"]

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
