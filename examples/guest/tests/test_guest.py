"""The live guest runs, says what it finds, and is what its source assembles to."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from examples.tests.running import output_of

GUEST = Path(__file__).parents[1]

CONSOLE = """\
guest | Hello from 32-bit x86 code. My devices are Python.
guest | RTC:     it is 2024-02-29 12:34:56
guest | Timer:   10000 ticks ... done after 16 polls.
guest | Screen:  drawing 64 x 16 cells ... done.
guest | Sound:   port 0x220 reads 0xFF, so there is no card.
guest | Slot:    empty. I wait for a card ...
 host | plugs a card in at 0xe0000000, while the guest runs
guest | Slot:    a card at 0xE0000000, named CRC1.
guest | Card:    the CRC-32 of 123456789 is 0xCBF43926.
guest | Bye. I switch the power off.
 host | stops the CPU
"""


def run(*options: str, **environment: str) -> str:
    return output_of("-m", "examples.guest", *options, **environment)


@pytest.fixture(scope="module")
def output() -> str:
    return run()


@pytest.fixture(scope="module")
def rows_of_the_picture() -> list[str]:
    """The picture as the source of the guest has it."""
    source = (GUEST / "guest.asm").read_text(encoding="ascii")
    return re.findall(r'^ +db +"([.#:]{64})"$', source, re.MULTILINE)


def row_of(output: str, heading: str, name: str) -> list[str]:
    """Return the cells of a row of a table."""
    _, _, table = output.partition(heading)
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    return next(row for row in rows if name in row)


def test_the_console_tells_what_the_guest_finds(output: str) -> None:
    assert output.startswith(CONSOLE)


def test_every_run_is_the_same(output: str) -> None:
    assert run() == output


def test_the_picture_is_what_the_source_of_the_guest_has(output: str, rows_of_the_picture: list[str]) -> None:
    assert len(rows_of_the_picture) == 16
    assert re.findall(r"[.#:]{64}", output) == rows_of_the_picture


def test_a_terminal_gets_the_picture_in_colour() -> None:
    coloured = run(FORCE_COLOR="1", TERM="xterm-256color", COLORTERM="", NO_COLOR="")
    assert coloured.count("\N{UPPER HALF BLOCK}") == 64 * 16 // 2
    assert "38;5;196" in coloured


def test_a_terminal_without_colours_gets_the_picture_in_characters(rows_of_the_picture: list[str]) -> None:
    plain = run(FORCE_COLOR="1", TERM="xterm-256color", COLORTERM="", NO_COLOR="1")
    assert re.findall(r"[.#:]{64}", plain) == rows_of_the_picture
    assert "\N{UPPER HALF BLOCK}" not in plain


def test_a_narrow_terminal_gets_whole_addresses_and_the_middle_of_the_picture(rows_of_the_picture: list[str]) -> None:
    narrow = run(COLUMNS="60")
    assert max(map(len, narrow.splitlines())) <= 60
    assert re.findall(r"^[.#:]{60}$", narrow, re.MULTILINE) == [row[2:-2] for row in rows_of_the_picture]
    assert "0xfed00400..0xfed007ff" in narrow
    assert "\N{HORIZONTAL ELLIPSIS}" not in narrow


def test_the_console_fits_80_columns() -> None:
    assert max(map(len, CONSOLE.splitlines())) <= 80


def test_the_map_has_the_card_that_was_plugged_in(output: str) -> None:
    assert row_of(output, "Address map", "CrcCard") == [
        "MMIO",
        "0xe0000000..0xe000000b",
        "CrcCard",
        "CRC-32 engine, plugged in late",
    ]


@pytest.mark.parametrize(
    ("device", "reads", "writes"),
    [
        ("Timer", 16, 1),
        ("Screen", 0, 64 * 16),
        ("CmosClock", 2 + 7, 2 + 7),
        ("HotplugSlot", 3 + 1, 0),
        ("CrcCard", 2, len("123456789")),
        ("PowerSwitch", 0, 1),
        ("(unowned)", 1, 0),
    ],
)
def test_accesses_are_counted_by_device(output: str, device: str, reads: int, writes: int) -> None:
    assert row_of(output, "Accesses by device", device)[:3] == [device, str(reads), str(writes)]


def test_each_character_is_polled_for_and_sent(output: str) -> None:
    sent = sum(len(line.removeprefix("guest | ")) + 1 for line in CONSOLE.splitlines() if line.startswith("guest"))
    # Two polls a character, the second of which finds the transmitter empty; it is idle before the first character.
    assert row_of(output, "Accesses by device", "SerialPort")[:3] == ["SerialPort", str(2 * sent - 1), str(sent)]


def test_the_clock_may_be_the_real_one() -> None:
    before = datetime.now().replace(microsecond=0)
    told = re.search(r"RTC: +it is (.+)", run("--now"))
    assert told is not None
    assert before <= datetime.fromisoformat(told[1]) <= before + timedelta(minutes=2)


@pytest.mark.skipif(shutil.which("nasm") is None, reason="nasm is not installed")
def test_the_program_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    assembled = tmp_path / "guest.bin"
    subprocess.run(["nasm", "-f", "bin", "-o", assembled, GUEST / "guest.asm"], check=True, timeout=60)
    assert assembled.read_bytes() == (GUEST / "guest.bin").read_bytes()
