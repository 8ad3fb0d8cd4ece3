"""The virt machine without U-Boot: interrupts, the serial line, the network, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="unicorn is not installed")

from dbs_device.devices.pl011 import Pl011
from examples.riscv.serial_line import Script
from examples.virt.board import FLASH_SIZE
from examples.virt.machine import Machine, flash_of
from examples.virt.network import Host
from examples.virt.serial_line import SerialLine

EXAMPLE = Path(__file__).parent.parent


class Typist:
    """Types something after each three dots."""

    is_interactive = True

    def __init__(self, *texts: bytes) -> None:
        self.output = bytearray()
        self._texts = list(texts)
        self._dots = 0

    def write(self, byte: int) -> None:
        self.output.append(byte)

    def read(self, timeout: float) -> bytes:
        if self._texts and self.output.count(b".") >= self._dots + 3:
            self._dots += 3
            return self._texts.pop(0)
        return b""


def test_a_program_lives_on_the_interrupts_of_timer_and_uart() -> None:
    typist = Typist(b"ab", b"cq")
    machine = Machine((EXAMPLE / "interrupts.bin").read_bytes(), typist)
    assert machine.run() == "power off"
    assert typist.output.replace(b".", b"") == b"abcq"
    ticks = typist.output.count(b".")
    assert ticks >= 6
    assert ticks - 1 <= machine.clock.read() / 1e6 <= ticks + 2  # ms


@pytest.mark.skipif(
    shutil.which("clang") is None or shutil.which("ld.lld") is None, reason="clang and lld are not installed"
)
def test_the_program_is_its_source_assembled(tmp_path: Path) -> None:
    source = str(EXAMPLE / "interrupts.S")
    subprocess.run(["clang", "--target=aarch64-none-elf", "-c", "-o", "a.o", source], cwd=tmp_path, check=True)
    subprocess.run(["ld.lld", "-Ttext=0", "--oformat=binary", "-o", "a.bin", "a.o"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.bin").read_bytes() == (EXAMPLE / "interrupts.bin").read_bytes()


def drain(line: SerialLine, uart: Pl011) -> bytes:
    """What a driver reads that polls the UART."""
    data = bytearray()
    while not uart.FR.RXFE:
        word = bytearray(4)
        uart.read(0, 0, word)
        data.append(word[0])
        line.look(uart)
    return bytes(data)


def test_lines_are_typed_at_prompts_and_a_key_stops_the_countdown() -> None:
    uart, sent = Pl011(sink=lambda byte: None), []
    uart.CR.value = 0x301
    line = SerialLine(console := Script(b"first\nsecond"))

    def say(text: bytes) -> None:
        for byte in text:
            line.send(byte)

    say(b"U-Boot\n")
    assert line.look(uart)
    assert uart.FR.RXFE
    say(b"Hit any key to stop autoboot:  2 ")
    assert line.look(uart)
    sent.append(drain(line, uart))
    for _ in range(2):
        say(b"\n=> ")
        assert line.look(uart)
        sent.append(drain(line, uart))
    assert sent == [b" ", b"first\r", b"second"]
    assert line.look(uart)
    say(b"\n=> ")
    assert not line.look(uart)
    assert console.output.endswith(b"=> ")


def test_the_host_drops_what_it_does_not_understand() -> None:
    sent: list[bytes] = []
    host = Host({"a": b"x"})
    host.transmit = sent.append
    arp, ip = b"\xff" * 12 + b"\x08\x06", bytes(12) + b"\x08\0"
    for frame in (b"", b"short", bytes(14), bytes(60), arp, arp + bytes(20), ip + bytes(20), ip + bytes(1000)):
        host.receive(frame)
    assert sent == []


@pytest.mark.skipif(shutil.which("dtc") is None, reason="device-tree-compiler is not installed")
def test_the_device_tree_describes_the_board(tmp_path: Path) -> None:
    machine = Machine(b"", Script())
    (tmp_path / "tree.dtb").write_bytes(machine.board.device_tree())
    run = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts", "tree.dtb"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert run.stderr == ""
    nodes = {int(address, 16) for address in re.findall(r"@([0-9a-f]+) {", run.stdout)}
    described = nodes | {0x0801_0000, 0x0400_0000, 0x3F00_0000}  # second ranges of GIC and flash; PCI's configuration
    assert {mapped.base for mapped in machine.board.manager.mapped_ranges()} <= described


def test_firmware_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=f"a bank of flash has {FLASH_SIZE:#x} bytes"):
        flash_of(bytes(FLASH_SIZE + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--firmware", "none.bin"], "none.bin"),
        (["--disk", "none.img"], "none.img"),
        (["--flash", "short"], "not a number of sectors"),
        (["--restore", "short"], "short"),
    ],
)
def test_files_that_are_missing_or_wrong_are_named(options: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    program = ["--firmware", str(EXAMPLE / "interrupts.bin")]
    run = subprocess.run(
        [sys.executable, "-m", "examples.virt", *program, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
    )
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
