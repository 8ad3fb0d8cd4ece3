"""U-Boot on the virt machine: its drivers use the library's devices."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("unicorn", reason="unicorn is not installed")

from dbs_device.devices.storage import MemoryStorage
from dbs_device.state import MachineState
from examples.riscv.serial_line import Script
from examples.virt.board import FLASH_SIZE
from examples.virt.machine import DEBIAN_FIRMWARE, Machine

pytestmark = pytest.mark.skipif(
    not DEBIAN_FIRMWARE.exists(), reason=f"{DEBIAN_FIRMWARE} is not there: apt install u-boot-qemu"
)

ROOT = Path(__file__).parents[3]


class Run:
    """A run of U-Boot with some commands."""

    def __init__(self, *commands: str, expect: str = "end of input", **options: object) -> None:
        self.console = Script("".join(f"{command}\n" for command in commands).encode())
        self.machine = Machine(DEBIAN_FIRMWARE.read_bytes(), self.console, **options)
        assert self.machine.run() == expect
        self.output = self.console.output.decode().replace("\r", "")

    def answer(self, command: str) -> str:
        """What U-Boot has answered to a command, up to the next prompt."""
        _, _, rest = self.output.partition(f"=> {command}\n")
        return rest.partition("\n=> ")[0]


@pytest.fixture(scope="module")
def run() -> Run:
    """What can be asked in one go."""
    return Run(
        "version",
        "virtio info",
        "md 0 4",
        "flinfo",
        "date",
        "pci enum",
        "pci",
        "pci bar 0.1.0",
        "virtio scan",
        "qfw list",
        "fdt addr ${fdtcontroladdr}",
        "fdt list /",
        "poweroff",
        expect="power off",
    )


def test_it_reaches_its_prompt_and_tells_its_version(run: Run) -> None:
    assert re.match(r"U-Boot 20\d\d\.\d\d", run.answer("version"))
    assert "Loading Environment from Flash" in run.output
    assert "bad CRC, using default environment" in run.output
    assert "Net:   eth0: virtio-net#1" in run.output


def test_it_finds_the_disk(run: Run) -> None:
    answer = run.answer("virtio info")
    assert "Device 0: DBSD VirtIO Block Device" in answer
    assert "Capacity: 1.0 MB = 0.0 GB (2048 x 512)" in answer


def test_it_reads_itself_from_flash_at_the_speed_of_memory(run: Run) -> None:
    words = [int.from_bytes(DEBIAN_FIRMWARE.read_bytes()[4 * i : 4 * i + 4], "little") for i in range(4)]
    assert run.answer("md 0 4").startswith("00000000: " + " ".join(f"{word:08x}" for word in words))


def test_its_driver_finds_the_flash(run: Run) -> None:
    # With accesses of 16 bits, U-Boot takes the two chips of each bank for one, here as on QEMU.
    assert run.answer("flinfo").count("CFI conformant flash (16 x 16)  Size: 2 MB in 16 Sectors") == 2


def test_it_reads_the_clock(run: Run) -> None:
    assert run.answer("date").startswith("Date: 2024-02-29 (Thursday)    Time: 12:34:5")


def test_it_enumerates_pci_and_places_the_bar(run: Run) -> None:
    assert re.search(r"00\.01\.00\s+0x1af4\s+0x1042", run.answer("pci"))
    assert re.search(r"4\s+0x0000000010000000\s+0x0000000000004000\s+64\s+MEM", run.answer("pci bar 0.1.0"))
    places = {mapped.base: mapped.name for mapped in run.machine.board.manager.mapped_ranges()}
    assert places[0x1000_0000] == "<VirtioPci of <VirtioBlock, 2048 sectors>> BAR 4"


def test_it_reads_the_firmware_configuration_by_dma(run: Run) -> None:
    assert run.answer("qfw list").split() == ["opt/board"]


def test_it_parses_the_device_tree(run: Run) -> None:
    assert re.findall(r"^\t(\S+) {", run.answer("fdt list /"), re.MULTILINE)[:3] == [
        "chosen",
        "aliases",
        "memory@40000000",
    ]


@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
def test_it_writes_and_reads_the_disk(legacy: bool) -> None:
    content = bytearray(Random(1).randbytes(1 << 20))
    before = bytes(content)
    run = Run(
        "virtio read 40400000 10 8",
        "crc32 40400000 1000",
        "mw.b 40500000 5a 400",
        "virtio write 40500000 20 2",
        "virtio read 40600000 1f 4",
        "crc32 40600000 800",
        "virtio read 40600000 7ff 2",
        disk=MemoryStorage(content),
        legacy=legacy,
    )
    assert f"{zlib.crc32(before[0x2000:0x3000]):08x}" in run.answer("crc32 40400000 1000")
    assert content[0x4000:0x4400] == b"\x5a" * 0x400
    assert content[:0x4000] + content[0x4400:] == before[:0x4000] + before[0x4400:]
    assert f"{zlib.crc32(content[0x3E00:0x4600]):08x}" in run.answer("crc32 40600000 800")
    assert "ERROR" in run.answer("virtio read 40600000 7ff 2")  # past the end


def test_it_uses_the_disk_on_pci() -> None:
    run = Run("pci enum", "virtio scan", "virtio device 1", "mw.b 40400000 77 200", "virtio write 40400000 3 1")
    assert "1 blocks written: OK" in run.answer("virtio write 40400000 3 1")
    disk = run.machine.board.pci_disk.device.storage  # type: ignore[attr-defined]
    assert bytes(disk.view[3 * 512 : 4 * 512]) == b"\x77" * 512


def test_it_keeps_its_environment_in_flash() -> None:
    flash = bytearray(b"\xff" * FLASH_SIZE)
    first = Run("setenv greeting hello from flash", "saveenv", "poweroff", expect="power off", variables=flash)
    assert first.answer("saveenv").endswith("OK")
    assert b"greeting=hello from flash" in flash
    second = Run("printenv greeting", variables=flash)
    assert "Loading Environment from Flash... OK" in second.output
    assert second.answer("printenv greeting") == "greeting=hello from flash"
    assert second.machine.board.flash[1].mode == "array"


@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
def test_it_pings_and_gets_a_file_from_the_network(legacy: bool) -> None:
    content = Random(2).randbytes(100_000)
    run = Run(
        "setenv ipaddr 10.0.2.15",
        "setenv serverip 10.0.2.2",
        "ping 10.0.2.2",
        "tftpboot 40400000 kernel",
        "crc32 40400000 ${filesize}",
        "tftpboot 40400000 missing",
        files={"kernel": content},
        legacy=legacy,
    )
    assert "host 10.0.2.2 is alive" in run.answer("ping 10.0.2.2")
    assert "Bytes transferred = 100000" in run.answer("tftpboot 40400000 kernel")
    assert f"{zlib.crc32(content):08x}" in run.answer("crc32 40400000 ${filesize}")
    assert "no such file" in run.answer("tftpboot 40400000 missing")


def test_a_load_from_where_nothing_is_is_an_abort_that_it_reports() -> None:
    run = Run("md 20000000 1", expect="reset")
    assert '"Synchronous Abort" handler, esr 0x96000010' in run.output


def test_every_run_is_the_same() -> None:
    runs = [Run("sleep 1", "md 40000000 10") for _ in range(2)]
    assert runs[0].output == runs[1].output
    assert runs[0].machine.clock.read() == runs[1].machine.clock.read()
    assert runs[0].machine.board.ram.view[: 1 << 20] == runs[1].machine.board.ram.view[: 1 << 20]


@pytest.mark.slow
def test_a_saved_machine_goes_on_in_another_one(tmp_path: Path) -> None:
    saved = Run("setenv greeting hello", "mw.l 40400000 12345678 10", ram_size=64 << 20)
    saved.machine.save_state().save(tmp_path / "state.npz")
    outputs = []
    for machine in (saved.machine, Machine(DEBIAN_FIRMWARE.read_bytes(), Script(), ram_size=64 << 20)):
        if machine is not saved.machine:
            machine.restore_state(MachineState.load(tmp_path / "state.npz"))
        machine.line.connect(console := Script(b"printenv greeting\nmd 40400000 4\nsaveenv\ndate\npoweroff\n"))
        assert machine.run() == "power off"
        outputs.append((bytes(console.output), machine.clock.read()))
    assert b"greeting=hello" in outputs[0][0]
    assert b"40400000: 12345678 12345678" in outputs[0][0]
    assert outputs[0] == outputs[1]


def test_commands_are_piped_in(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(8192))
    flash = tmp_path / "flash.img"
    run = subprocess.run(
        [sys.executable, "-m", "examples.virt", "--disk", str(disk), "--flash", str(flash)],
        input=b"mw.b 40400000 41 200\nvirtio write 40400000 2 1\nsetenv a b\nsaveenv\npoweroff\n",
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=True,
    )
    assert b"1 blocks written: OK" in run.stdout
    assert b"The machine has stopped: power off." in run.stdout
    assert disk.read_bytes() == bytes(1024) + b"A" * 512 + bytes(8192 - 1536)
    assert b"a=b\0arch=arm\0" in flash.read_bytes()


def test_the_page_shows_what_happens() -> None:
    page = (ROOT / "docs" / "virt.md").read_text()
    commands = re.search(r"<<'END'\n(.*?)END\n", page, re.DOTALL)
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert commands is not None
    assert shown is not None
    run = Run(*commands[1].splitlines(), expect="power off")

    def comparable(text: str) -> list[str]:
        """Without the version, which Debian updates, and code of it."""
        lines = [line.rstrip() for line in text.strip().splitlines()]
        return [line for line in lines if not re.match(r"U-Boot 20|00000000: ", line)]

    assert comparable(run.output) == comparable(shown[1])
