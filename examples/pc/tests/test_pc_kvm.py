"""The example PC on KVM: the same board boots SeaBIOS to the same screen, with either interrupt controllers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the summary of the example PC is printed with the package rich")
pytest.importorskip("dbs_device.kvm", reason="KVM is Linux's", exc_type=ImportError)

from dbs_device.clock import CountedClock, HostClock
from examples.pc.__main__ import main
from examples.pc.kvm import Alarm, VirtualMachine
from examples.pc.machine import DEBIAN_ROM, DEBIAN_VGABIOS, Machine
from examples.tests.running import output_of
from examples.vmm import KvmError

LINE = "Hello from a boot sector: this disk, screen and power switch are Python."
GUEST_SECONDS = 300.0  # after which a boot has failed: KVM may interpret the guest in software, on a busy machine


def why_not() -> str | None:
    try:
        VirtualMachine().close()
    except KvmError as error:
        return str(error)
    return None


needs_kvm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
needs_firmware = pytest.mark.skipif(
    not (DEBIAN_ROM.exists() and DEBIAN_VGABIOS.exists()), reason="Debian's package seabios is not installed"
)


@pytest.fixture(params=["kernel", "board"])
def vm(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    with VirtualMachine(request.param) as vm:
        yield vm


def machine_on(vm: VirtualMachine, rom: bytes, **options: Any) -> Machine:
    return Machine(rom, clock=HostClock(), processor=vm.processor, lines=vm.lines, **options)


def rom_with(code: str, handler: str = "") -> bytes:
    """Return a ROM with code at F000:F000, to which the reset vector leads, and at F000:F080, with comments."""
    rom = bytearray(128 << 10)
    for offset, part in ((0xF000, code), (0xF080, handler), (0xFFF0, "e9 0d f0")):
        content = bytes.fromhex("".join(line.split(";")[0] for line in part.splitlines()))
        rom[0x10000 + offset : 0x10000 + offset + len(content)] = content
    return bytes(rom)


TICKS = """
    fa  31 c0  8e d8  8e d0  bc 00 70                   ; cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
    c7 06 20 00 80 f0  c7 06 22 00 00 f0                ; vector 8: f000:f080
    b0 11 e6 20  b0 08 e6 21  b0 04 e6 21  b0 01 e6 21  ; PIC: vectors 8..15
    b0 fe e6 21                                         ; only the timer is not masked
    b0 34 e6 43  b0 00 e6 40  b0 10 e6 40               ; PIT: every 3.4 ms
    fb                                                  ; sti
    {wait}                                              ; next:
    81 3e 00 06 0a 00  72 f7                            ; cmp word [0x600], 10; jb next
    b0 01 e6 92  f4                                     ; mov al, 1; out 0x92, al: reset
"""
COUNT = "ff 06 00 06  b0 20 e6 20  cf  ; inc word [0x600]; mov al, 0x20; out 0x20, al: end of interrupt; iret"


@needs_kvm
class TestProcessor:
    @pytest.mark.parametrize("wait", ["computes", "halts"])
    def test_the_timer_interrupts_a_guest_that(self, wait: str, vm: VirtualMachine) -> None:
        code = TICKS.format(wait={"computes": "90", "halts": "f4"}[wait])
        machine = machine_on(vm, rom_with(code, COUNT))
        assert machine.run(GUEST_SECONDS) == "reset"

    def test_a_guest_that_halts_for_good(self, vm: VirtualMachine) -> None:
        assert machine_on(vm, rom_with("fa f4 eb fd  ; cli; hlt; jmp $ - 1")).run(GUEST_SECONDS) == "halt"

    @pytest.mark.parametrize("code", ["fb f4 eb fd  ; sti; hlt; jmp $ - 1", "eb fe  ; jmp $"])
    def test_a_guest_without_end_is_left_when_its_time_is_up(self, code: str, vm: VirtualMachine) -> None:
        masked = "b0 ff e6 21 e6 a1  ; mov al, 0xff; out 0x21, al; out 0xa1, al\n"
        machine = machine_on(vm, rom_with(masked + code))
        for _ in range(2):
            end = machine.clock.read() + 100_000_000
            assert machine.run(0.1) is None
            assert machine.clock.read() >= end

    def test_a_device_that_raises(self, vm: VirtualMachine) -> None:
        def fail(byte: int) -> None:
            raise RuntimeError("no paper")

        machine = machine_on(vm, rom_with("ba 02 04 ee  b0 01 e6 92 f4  ; out 0x402, al; reset"), debug=fail)
        with pytest.raises(RuntimeError, match="no paper"):
            machine.run(GUEST_SECONDS)
        assert machine.run(GUEST_SECONDS) == "reset"

    def test_an_interrupt_from_another_thread_wakes_a_halted_guest(self, vm: VirtualMachine) -> None:
        keyboard_only = TICKS.format(wait="f4").replace("b0 fe e6 21", "b0 fd e6 21")
        keyboard_only = keyboard_only.replace("c7 06 20 00 80 f0  c7 06 22", "c7 06 24 00 80 f0  c7 06 26")
        machine = machine_on(vm, rom_with(keyboard_only, COUNT))
        line = vm.lines(1) if vm.lines is not None else machine.board.pics.line(1)

        def press() -> None:
            while machine.stopped is None:  # the guest may not have set its controllers yet
                time.sleep(0.05)
                line(False)  # the controllers withdraw a request whose line falls before they are asked for it
                line(True)

        thread = threading.Thread(target=press)
        thread.start()
        try:
            assert machine.run(GUEST_SECONDS) == "reset"
        finally:
            machine.stopped = machine.stopped or "given up"
            thread.join()

    def test_ctrl_c(self, vm: VirtualMachine) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            machine = machine_on(vm, rom_with("fb f4 eb fd"))
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                machine.run(GUEST_SECONDS)
        finally:
            signal.signal(signal.SIGINT, before)

    def test_time_is_the_hosts(self, vm: VirtualMachine) -> None:
        with pytest.raises(ValueError, match="it takes a HostClock"):
            Machine(rom_with("f4"), clock=CountedClock(), processor=vm.processor, lines=vm.lines)


@needs_kvm
@needs_firmware
@pytest.mark.slow
class TestBoot:
    def test_it_ends_with_the_screen_that_unicorn_shows(self, vm: VirtualMachine) -> None:
        pytest.importorskip("unicorn", reason="the other processor is the package unicorn")
        firmware = DEBIAN_ROM.read_bytes()
        serial, debug = bytearray(), bytearray()
        options: dict[str, Any] = {"vgabios": DEBIAN_VGABIOS.read_bytes()}
        machine = machine_on(vm, firmware, serial=serial.append, debug=debug.append, **options)
        assert machine.run(GUEST_SECONDS) == "power off"
        other = Machine(firmware, **options)
        assert other.run(60) == "power off"
        assert machine.board.vga.text() == other.board.vga.text()
        assert LINE in serial.decode("ascii")
        log = debug.decode("ascii").splitlines()
        for found in ("RamSize: 0x02000000 [cmos]", "PS2 keyboard initialized", "Booting from 0000:7c00"):
            assert found in log
        reached = {type(meter.device).__name__ for meter in machine.board.meters if meter.reads + meter.writes}
        assert ("Pic8259" in reached, "Pit8254" in reached) == ((False, False) if vm.lines else (True, True))

    def test_command(self) -> None:
        banner, booting, line, *summary = output_of(
            "-m", "examples.pc", "--kvm", "--seconds", str(GUEST_SECONDS)
        ).splitlines()
        assert banner.startswith("SeaBIOS (version ")
        assert (booting, line) == ("Booting from Hard Disk...", LINE)
        assert summary[-1].startswith("The machine has stopped: power off.")


def test_command_without_kvm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_device(path: str, *arguments: Any, **options: Any) -> int:
        if path == "/dev/kvm":
            raise FileNotFoundError(2, "No such file or directory", path)
        return opened(path, *arguments, **options)

    opened = os.open
    monkeypatch.setattr(os, "open", no_device)
    rom = tmp_path / "rom.bin"
    rom.write_bytes(rom_with("f4"))
    assert main(["--kvm", "--rom", str(rom), "--vgabios", str(rom)]) == 2
    assert capsys.readouterr().err == "KVM cannot be used: /dev/kvm: No such file or directory\n"


def test_controllers_are_the_kernels_or_the_boards() -> None:
    with pytest.raises(ValueError, match='controllers takes "kernel" or "board", not \'mine\''):
        VirtualMachine("mine")


class TestAlarm:
    def test_it_calls_when_an_event_is_due_and_once(self) -> None:
        clock, calls = HostClock(), threading.Semaphore(0)
        with Alarm(clock, float("inf"), calls.release) as alarm:
            assert not calls.acquire(timeout=0.01)  # nothing is due
            clock.call_at(clock.read() + 1_000_000, lambda now: None)
            assert calls.acquire(timeout=60)
            assert not calls.acquire(timeout=0.01)
            alarm.rearm()
            assert calls.acquire(timeout=60)  # the event is still due
            clock.now()
            alarm.rearm()
            assert not calls.acquire(timeout=0.01)

    def test_it_calls_when_the_run_is_to_end(self) -> None:
        clock, calls = HostClock(), threading.Semaphore(0)
        with Alarm(clock, clock.read() + 1_000_000, calls.release):
            assert calls.acquire(timeout=60)
