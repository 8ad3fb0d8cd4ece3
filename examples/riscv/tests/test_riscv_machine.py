"""The machine runs its program and Linux; all kinds of devices see the same accesses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

from riscv_helpers import IMAGE, ROOT

from dbs_device import DeviceIo, Resource
from dbs_device.errors import StateError
from examples.riscv.board import DEVICE_KINDS, DeviceKind
from examples.riscv.machine import MIB, Machine
from examples.riscv.serial_line import Script

GUEST = ROOT / "examples" / "riscv" / "guest"
DISK = b"The first sector.\n".ljust(8192, b"\0")
ENOUGH = 400_000_000  # instructions

needs_kernel = pytest.mark.skipif(not IMAGE.exists(), reason=f"there is no {IMAGE}")
each_kind = pytest.mark.parametrize("kind", DEVICE_KINDS)


def make_guest(
    kind: DeviceKind, text: bytes = b"stressed\n", image: bytes | None = None, disk: bytes = DISK
) -> tuple[Machine, Script]:
    script = Script(text)
    program = (GUEST / "guest.bin").read_bytes() if image is None else image
    return Machine(program, script, devices=kind, disk=bytearray(disk), ram_size=MIB), script


def run_guest(kind: DeviceKind, text: bytes = b"stressed\n", image: bytes | None = None) -> tuple[Machine, str]:
    machine, script = make_guest(kind, text, image)
    machine.run(ENOUGH)
    return machine, script.output.decode()


def counts_of(machine: Machine) -> tuple[int, ...]:
    core = machine.board.core
    return core.cycles, core.retired, core.loads, core.stores


@each_kind
def test_the_program_uses_every_device(kind: DeviceKind) -> None:
    disk = bytearray(DISK)
    script = Script(b"stressed\n")
    machine = Machine((GUEST / "guest.bin").read_bytes(), script, devices=kind, disk=disk)
    assert machine.run(ENOUGH) == "power off"
    assert script.output.decode().splitlines() == [
        "Hello from RV32IMA.",
        "Clock:   it is 2024-02-29 12:34:56",
        "Timer:   tick tick tick tick tick, half a second in all.",
        "Disk:    16 sectors.",
        "         Sector 0 says: The first sector.",
        "         Sector 1 says: Written by the guest.",
        "         The sector after the last is an error, as it should be.",
        "Console: type a line, within five seconds: stressed",
        "         Backwards, that is: desserts",
        "Clock:   it is 2024-02-29 12:34:56",
        "Bye. I switch the power off.",
    ]
    assert disk[512:].startswith(b"Written by the guest.\n\0")


def test_every_kind_of_devices_sees_the_same_accesses_in_every_run() -> None:
    counts = {counts_of(run_guest(kind)[0]) for kind in (*DEVICE_KINDS, "native")}
    assert len(counts) == 1


def test_a_guest_that_gets_no_input_does_not_wait_for_ever() -> None:
    machine, output = run_guest("native", b"")
    assert "Nothing, then." in output
    assert machine.stopped == "power off"
    assert machine.board.clock.read() > 5_500_000_000


def test_a_machine_without_a_disk() -> None:
    script = Script()
    machine = Machine((GUEST / "guest.bin").read_bytes(), script)
    assert machine.run(ENOUGH) == "power off"
    assert b"Disk:    there is none.\n" in script.output


@pytest.mark.skipif(
    shutil.which("clang") is None or shutil.which("ld.lld") is None, reason="clang and lld are not installed"
)
def test_the_program_is_what_its_source_says(tmp_path: Path) -> None:
    made = tmp_path / "guest.bin"
    subprocess.run(["make", "--silent", "--always-make", "-C", GUEST, f"OUTPUT={made}"], check=True)
    if made.read_bytes() != (GUEST / "guest.bin").read_bytes():  # another compiler: it does the same, then
        assert run_guest("native", image=made.read_bytes())[1] == run_guest("native")[1]


@pytest.mark.parametrize("size", [0, -MIB, MIB + 1, 3 << 30])
def test_sizes_of_ram_that_do_not_exist(size: int) -> None:
    with pytest.raises(ValueError, match="RAM"):
        Machine(b"", Script(), ram_size=size)


def test_a_program_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Machine(bytes(MIB), Script(), ram_size=MIB)


def test_a_kind_of_devices_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="native, banks, python"):
        Machine(b"", Script(), devices="wooden")  # type: ignore[arg-type]


def test_a_program_that_only_waits_has_halted() -> None:
    machine = Machine(bytes.fromhex("73005010 6ff0dfff"), Script())  # wfi; j back to it
    assert machine.run(ENOUGH) == "halted"


def test_a_program_of_nothing_locks_up() -> None:
    machine = Machine(bytes(4), Script())
    assert machine.run(ENOUGH) == "locked up"
    assert machine.board.core.pc == 0


def test_a_device_that_raises_says_where_the_guest_was_and_the_run_may_go_on() -> None:
    class Broken(DeviceIo):
        works = False

        def load(self, base: int, offset: int, size: int) -> int:
            if not self.works:
                raise LookupError("broken")
            return 0

    program = bytes.fromhex("b7000020 03a10000 73005010")  # lui x1, 0x20000; lw x2, 0(x1); wfi
    machine, broken = Machine(program, Script()), Broken()
    machine.board.manager.register_device_io(broken, [Resource.MmioAddressRange(0x2000_0000, 4)])
    with pytest.raises(LookupError) as caught:
        machine.run(ENOUGH)
    assert caught.value.__notes__[-1] == "the guest is at 0x80000004, after 1 instruction"
    broken.works = True
    assert machine.run(ENOUGH) == "halted"


# Linux


class Shell:
    """Linux on a machine, at its prompt."""

    def __init__(self, kind: DeviceKind = "native", text: bytes = b"", **options: object) -> None:
        self.script = Script(text)
        self.machine = Machine(IMAGE.read_bytes(), self.script, devices=kind, **options)  # type: ignore[arg-type]

    def run(self, cycles: int = ENOUGH) -> str:
        self.machine.run(cycles)
        return self.script.output.decode()


@needs_kernel
@each_kind
def test_linux_answers_what_is_typed_and_powers_off(kind: DeviceKind) -> None:
    shell = Shell(kind, b"uname -srm\necho $((6 * 7))\ncat /proc/interrupts\npoweroff\n")
    output = shell.run().replace("\r", "")
    assert shell.machine.stopped == "power off"
    assert "~ # uname -srm\nLinux 6.8.0-rc1mini-rv32ima riscv32\n" in output
    assert "~ # echo $((6 * 7))\n42\n" in output
    assert "SiFive PLIC" in output
    assert "reboot: Power down" in output


@needs_kernel
def test_linux_reboots() -> None:
    shell = Shell(text=b"reboot\n")
    shell.run()
    assert shell.machine.stopped == "reset"


@needs_kernel
def test_linux_makes_the_same_accesses_on_every_kind_of_devices_and_in_every_run() -> None:
    counts = set()
    for kind in (*DEVICE_KINDS, "native"):
        shell = Shell(kind, b"ls /\npoweroff\n")
        shell.run()
        counts.add(counts_of(shell.machine))
    assert len(counts) == 1


@needs_kernel
@pytest.mark.parametrize("kind", ["native", "python"])
def test_linux_runs_the_same_while_a_thread_hot_plugs(kind: DeviceKind) -> None:
    def boot(hot_plugs: bool) -> tuple[tuple[int, ...], str, int]:
        shell = Shell(kind, b"ls /\npoweroff\n")
        manager = shell.machine.board.manager
        stop = threading.Event()

        def hot_plug() -> None:
            place = [Resource.MmioAddressRange(0x5000_0000, 0x1000)]
            while not stop.is_set():
                manager.register_device_io(DeviceIo(), place)
                manager.unregister_device_io(place)

        thread = threading.Thread(target=hot_plug)
        if hot_plugs:
            thread.start()
        output = shell.run()
        stop.set()
        if hot_plugs:
            thread.join()
        return counts_of(shell.machine), output, shell.machine.board.core.refreshes

    quiet, busy = boot(False), boot(True)
    assert busy[:2] == quiet[:2]
    assert busy[2] > quiet[2] + 10


# Saving and restoring


@each_kind
def test_the_program_goes_on_from_any_point(kind: DeviceKind, tmp_path: Path) -> None:
    whole, output = run_guest(kind)
    for cycles in range(100, whole.board.core.cycles, 1501):
        first, script = make_guest(kind)
        assert first.run(cycles) is None
        first.save(tmp_path / "state")
        second, script_after = make_guest(kind, b"")
        second.restore(tmp_path / "state")
        assert second.board.core.cycles == cycles
        assert second.run(ENOUGH) == "power off"
        assert counts_of(second) == counts_of(whole)
        assert script.output + script_after.output == output.encode()


def test_runs_in_pieces_are_the_same() -> None:
    whole, output = run_guest("python")
    machine, script = make_guest("python")
    while machine.run(machine.board.core.cycles + 97) is None:
        pass
    assert counts_of(machine) == counts_of(whole)
    assert script.output.decode() == output


def test_states_of_other_machines_are_refused(tmp_path: Path) -> None:
    machine, _ = make_guest("python")
    machine.run(1000)
    machine.save(tmp_path / "state")
    other, _ = make_guest("native")
    before = other.board.core.save_state()
    with pytest.raises(StateError, match="uart"):
        other.restore(tmp_path / "state")
    assert other.board.core.save_state() == before
    (tmp_path / "text").write_text("not a state")
    with pytest.raises(StateError):
        machine.restore(tmp_path / "text")


def test_a_machine_that_has_stopped_is_not_saved(tmp_path: Path) -> None:
    machine, _ = run_guest("native")
    with pytest.raises(StateError, match="power off"):
        machine.save(tmp_path / "state")


RESTORE = """
import sys
from pathlib import Path
from examples.riscv.machine import Machine
from examples.riscv.serial_line import Script
script = Script(b"echo $((6 * 7))\\npoweroff\\n")
machine = Machine(Path(sys.argv[1]).read_bytes(), script, devices=sys.argv[3])
machine.restore(sys.argv[2])
print(machine.run(400_000_000), machine.board.core.cycles)
print(script.output.decode())
"""


@pytest.mark.slow
@needs_kernel
@each_kind
def test_linux_is_saved_and_goes_on_in_another_process(kind: DeviceKind, tmp_path: Path) -> None:
    shell = Shell(kind, b"cd /proc\n")
    assert "/proc #" not in shell.run(20_000_000)  # in the middle of its boot
    shell.machine.save(tmp_path / "state")
    restored = subprocess.run(
        [sys.executable, "-c", RESTORE, str(IMAGE), tmp_path / "state", kind],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert restored.startswith("power off ")
    assert "/proc # echo $((6 * 7))" in restored
    assert "42" in restored.replace("\r", "").splitlines()
