"""The console of the example PC: text without cursor movements and colours."""

from __future__ import annotations

import io

import pytest

from examples.pc.terminal import Answers, PlainText


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


def test_answers_are_typed_in_order_each_when_its_text_is_printed() -> None:
    typed: list[bytes] = []
    answers = Answers([("=> ", b"one\r"), ("one\r\n=> ", b"two\r"), ("aab", b"three")], typed.append)
    steps = [(b"boot\n= =>", 0), (b" ", 1), (b"one\r\n=>", 1), (b" two => ", 2), (b"aaab", 3), (b"=> aab", 3)]
    for printed, count in steps:
        for byte in printed:
            answers.put(byte)
        assert len(typed) == count
    assert typed == [b"one\r", b"two\r", b"three"]
