"""The machine at a terminal, and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")
pytest.importorskip("rich", reason="the report is printed with the package rich")

from riscv_helpers import IMAGE

from examples.riscv.__main__ import main

ROOT = Path(__file__).parents[3]
PATIENCE = 30.0  # seconds
PROMPT = b"within five seconds: "


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.riscv", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


class OnTerminal:
    """The example on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        self.attributes = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.riscv", *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
        )

    def read_until(self, text: bytes) -> None:
        end = time.monotonic() + PATIENCE
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} does not come: {self.output!r}"
            self.output += os.read(self.master, 4096)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def end(self) -> int:
        code = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self.slave) == self.attributes
        while select.select([self.master], [], [], 0)[0]:
            self.output += os.read(self.master, 4096)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[OnTerminal]:
    session = OnTerminal()
    yield session
    session.close()


def test_input_from_a_pipe() -> None:
    done = run("--devices", "python", text="live\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Backwards, that is: evil" in done.stdout
    assert "The end: power off." in done.stdout
    assert re.search(
        r"\d+ instructions in \d\.\d+ s \d\.\d+ s of the processor.*: \d+ MIPS", done.stdout.replace(",", "")
    )
    assert re.search(r" uart +\d+ +\d+ +\d+", done.stdout)
    assert re.search(r" bus and devices +\d+\.\d +\d+\.\d%", done.stdout)


def test_a_quiet_run_prints_what_the_guest_does() -> None:
    done = run("--quiet", "--devices", "native")
    assert done.stdout.startswith("Hello from RV32IMA.\n")
    assert done.stdout.endswith("Bye. I switch the power off.\n")


def test_a_limit() -> None:
    done = run("--instructions", "1000")
    assert done.returncode == 1
    assert "The end: the limit is reached." in done.stdout
    assert "1,000 instructions" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "/nowhere"], "/nowhere"),
        (["--disk", "/nowhere"], "/nowhere"),
        (["--ram", "0"], "RAM"),
        (["--restore", __file__], "test_riscv_terminal"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing, Path(os.devnull).open("wb") as sink:
        monkeypatch.setattr(sys, "stdin", nothing)
        monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(sink.fileno()), "w"))
        assert main(arguments) == 2
        sys.stdout.close()
        monkeypatch.undo()
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_keys_reach_the_guest(terminal: OnTerminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type(b"o")
    terminal.read_until(PROMPT + b"o")  # the guest's echo, and no other
    terminal.type(b"n\r")
    terminal.read_until(b"Backwards, that is: no\r\n")
    terminal.read_until(b"The end: power off.")
    assert terminal.end() == 0
    assert b"]2;RV32IMA" in terminal.output


def test_control_c_is_a_key_for_the_guest(terminal: OnTerminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type(b"a\x03b\x01\x01\r")  # Ctrl-C, and a Ctrl-A for the guest
    terminal.read_until(b"Backwards, that is: \x01b\x03a\r\n")
    assert terminal.end() == 0


def test_control_a_x_leaves(terminal: OnTerminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type(b"\x01x")
    terminal.read_until(b"left by Ctrl-A x")
    assert terminal.end() == 0


def test_a_termination_gives_the_terminal_back(terminal: OnTerminal) -> None:
    terminal.read_until(PROMPT)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 128 + signal.SIGTERM


def test_control_a_s_saves_what_another_session_goes_on_from(tmp_path: Path) -> None:
    state = str(tmp_path / "state.npz")
    first = OnTerminal("--state", state, "--ram", "1")
    try:
        first.read_until(PROMPT)
        first.type(b"pot")
        first.read_until(PROMPT + b"pot")
        first.type(b"\x01s")
        first.read_until(b"[saved to ")
        first.type(b"\x01x")
        assert first.end() == 0
    finally:
        first.close()
    second = OnTerminal("--restore", state, "--ram", "1")
    try:
        second.type(b"s\r")
        second.read_until(b"Backwards, that is: stop\r\n")
        assert second.end() == 0
    finally:
        second.close()


@pytest.mark.skipif(not IMAGE.exists(), reason=f"there is no {IMAGE}")
def test_a_shell_of_linux() -> None:
    session = OnTerminal("--kernel", str(IMAGE))
    try:
        session.read_until(b"~ # ")
        session.type(b"echo $((6 * 7))\r")
        session.read_until(b"\r\n42\r\n")
        session.type(b"poweroff\r")
        session.read_until(b"The end: power off.")
        assert session.end() == 0
    finally:
        session.close()


@pytest.mark.slow
def test_control_c_ends_a_run_without_a_terminal(tmp_path: Path) -> None:
    spin = tmp_path / "spin.bin"
    spin.write_bytes(bytes.fromhex("6f000000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.riscv", "--kernel", spin],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "The end: interrupted." in output
