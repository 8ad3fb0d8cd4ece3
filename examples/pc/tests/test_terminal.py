"""The console of the example PC: text without cursor movements and colours."""

from __future__ import annotations

import io

import pytest

from examples.pc.terminal import PlainText


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"plain\r\ntext", "plain\ntext"),
        (b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSea", "Sea"),
        (b"\x1b[1;31mred\x1b[m", "red"),
        (b"a\x07\x80b", "ab"),
    ],
)
def test_terminal_leaves_out_what_moves_and_colours(sent: bytes, shown: str) -> None:
    stream = io.StringIO()
    console = PlainText(stream)
    for byte in sent:
        console.put(byte)
    assert stream.getvalue() == shown
