"""The example PC boots SeaBIOS, from the reset vector to a boot sector and its power-off."""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("unicorn", reason="the CPU of the example PC is the package unicorn")
pytest.importorskip("rich", reason="the summary of the example PC is printed with the package rich")


from dbs_device import IoManager
from dbs_device.clock import HostClock
from dbs_device.devices.ata import AtaDisk
from dbs_device.trace import Trace, TraceRecorder
from dbs_device.unicorn import attach
from examples.pc.__main__ import main
from examples.pc.cpu import Connect, connect_by_callbacks
from examples.pc.machine import BOOT_SECTOR, DEBIAN_ROM, DEBIAN_VGABIOS, Machine, open_disk
from examples.pc.processor import NewProcessor
from examples.pc.terminal import PlainText
from examples.pc.unicorn_processor import UnicornProcessor
from examples.tests.running import output_of

LINE = "Hello from a boot sector: this disk, screen and power switch are Python."
BANNER = "SeaBIOS (version "
GUEST_SECONDS = 60  # of the guest's own time, after which a boot has failed

needs_firmware = pytest.mark.skipif(
    not (DEBIAN_ROM.exists() and DEBIAN_VGABIOS.exists()),
    reason=f"there is no {DEBIAN_ROM} and {DEBIAN_VGABIOS.name}: they come with Debian's package seabios",
)


class Run(NamedTuple):
    """A machine that has run, and what its guest has said."""

    machine: Machine
    serial: bytearray
    debug: bytearray

    @property
    def console(self) -> str:
        stream = io.StringIO()
        console = PlainText(stream)
        for byte in self.serial:
            console.put(byte)
        return stream.getvalue()


def connected_by(connect: Connect) -> NewProcessor:
    return functools.partial(UnicornProcessor, connect=connect)


def boot(prepare: Callable[[Machine], None] = lambda machine: None, **options: Any) -> Run:
    serial, debug = bytearray(), bytearray()
    machine = Machine(
        DEBIAN_ROM.read_bytes(),
        vgabios=DEBIAN_VGABIOS.read_bytes(),
        serial=serial.append,
        debug=debug.append,
        **options,
    )
    prepare(machine)
    machine.run(GUEST_SECONDS)
    return Run(machine, serial, debug)


@pytest.fixture(scope="module")
def run() -> Run:
    return boot()


def boot_sector(code: str) -> AtaDisk:
    """Return a disk with a boot sector, whose code is given in hex, with comments as in assembly."""
    machine_code = bytes.fromhex("".join(line.split(";")[0] for line in code.splitlines()))
    return AtaDisk(bytearray(machine_code.ljust(510, b"\0") + b"\x55\xaa"))


@needs_firmware
class TestBoot:
    def test_it_stops_by_itself(self, run: Run) -> None:
        assert run.machine.stopped == "power off"

    def test_boot_sector_prints_its_line_on_the_serial_console_and_on_the_screen(self, run: Run) -> None:
        assert run.console.splitlines()[-1] == LINE
        banner, booting, line, *rest = run.machine.board.vga.text()
        assert banner.startswith(BANNER)
        assert (booting, line, set(rest)) == ("Booting from Hard Disk...", LINE, {""})

    def test_banner_on_the_debug_port_and_on_com1(self, run: Run) -> None:
        assert run.debug.decode("ascii").startswith(BANNER)
        assert run.console.startswith(BANNER)

    @pytest.mark.parametrize(
        "found",
        [
            "Found QEMU fw_cfg",
            "RamSize: 0x02000000 [cmos]",
            "Found 4 PCI devices (max PCI bus is 00)",
            "PCI: init bdf=00:01.3 id=8086:7113",
            "PIIX3/PIIX4 init: elcr=00 0c",
            "Using pmtimer, ioport 0xb008",
            "sercon: using ioport 0x3f8",
            "Found 0 lpt ports",
            "Found 1 serial ports",
            "ata0-0: PYTHON ATA DISK ATA-4 Hard-Disk (1 MiBytes)",
            "PS2 keyboard initialized",
            "Booting from 0000:7c00",
        ],
    )
    def test_firmware_finds_the_devices(self, run: Run, found: str) -> None:
        assert found in run.debug.decode("ascii").splitlines()

    def test_no_device_is_reached_by_accident(self, run: Run) -> None:
        untouched = {
            type(meter.device).__name__ for meter in run.machine.board.meters if not meter.reads + meter.writes
        }
        assert untouched == {"SystemControlPortB", "DmaPages", "IoApic"}

    def test_unicorns_own_callbacks_make_no_difference_to_the_guest(self, run: Run) -> None:
        other = boot(processor=connected_by(connect_by_callbacks))
        assert (other.machine.stopped, other.serial, other.debug) == ("power off", run.serial, run.debug)
        assert [(repr(meter), meter.reads, meter.writes) for meter in other.machine.board.meters] == [
            (repr(meter), meter.reads, meter.writes) for meter in run.machine.board.meters
        ]

    def test_two_runs_make_the_same_accesses(self) -> None:
        first, second = recorded_boot(), recorded_boot()
        assert len(first) > 60_000
        for field in ("space", "write", "addr", "size", "value"):
            assert np.array_equal(first.accesses[field], second.accesses[field])

    def test_wall_time(self) -> None:
        run = boot(clock=HostClock())
        assert (run.machine.stopped, run.console.splitlines()[-1]) == ("power off", LINE)


def recorded_boot() -> Trace:
    recorders: list[TraceRecorder] = []

    def connect(uc: Any, manager: IoManager) -> Any:
        recorders.append(TraceRecorder(manager))
        return connect_by_callbacks(uc, manager, recorders[0])

    boot(processor=connected_by(connect))
    return recorders[0].trace


@needs_firmware
class TestGuests:
    """Boot sectors that try what the one of the example does not."""

    def test_keys_reach_the_guest_by_interrupt(self) -> None:
        echo = boot_sector("""
            31 c0 cd 16     ; next: xor ax, ax;  int 0x16   wait for a key
            b4 0e cd 10     ; mov ah, 0x0e;      int 0x10   print it
            3c 0d 75 f4     ; cmp al, 13;        jne next
            ba 92 00 b0 01  ; mov dx, 0x92;      mov al, 1
            ee f4           ; out dx, al;        hlt        reset
        """)

        def type_later(machine: Machine) -> None:
            keyboard = machine.board.keyboard_controller.keyboard
            machine.clock.call_at(5_000_000_000, lambda now: keyboard.type("Hi, PC!\n"))

        run = boot(type_later, disk=echo)
        assert run.machine.stopped == "reset"
        assert run.machine.board.vga.text()[2] == "Hi, PC!"

    def test_clock_ticks_while_the_guest_only_computes(self) -> None:
        spin = boot_sector("""
            fb              ; sti
            a1 6c 04        ; mov ax, [0x046c]
            05 03 00        ; add ax, 3
            3b 06 6c 04     ; again: cmp ax, [0x046c]
            75 fa           ; jne again
            ba 92 00 b0 01  ; mov dx, 0x92;      mov al, 1
            ee f4           ; out dx, al;        hlt        reset
        """)
        run = boot(disk=spin)
        assert run.machine.stopped == "reset"
        ticks = run.machine.board.pit.counters[0]
        assert (ticks.mode, 3 * 54_925_000 < run.machine.clock.read() < 5 * 54_925_000) == (2, True)

    def test_guest_reads_the_date(self) -> None:
        date = boot_sector("""
            b4 04 cd 1a     ; mov ah, 4;         int 0x1a   date in BCD: CX, DX
            89 0e 00 06     ; mov [0x600], cx
            89 16 02 06     ; mov [0x602], dx
            fa f4           ; cli;               hlt
            eb fd           ; jmp $ - 1
        """)
        run = boot(disk=date)
        assert run.machine.stopped == "halt"
        assert isinstance(run.machine.processor, UnicornProcessor)
        assert run.machine.processor.cpu.uc.mem_read(0x600, 4) == bytes.fromhex("2420 2902")  # 2024-02-29

    @pytest.mark.parametrize(
        "code",
        [
            "fb f4 eb fd                    ; sti; hlt; jmp $ - 1",
            "b0 ff e6 21 e6 a1 fb f4 eb fd  ; the same with all interrupts masked",
            "eb fe                          ; jmp $",
        ],
    )
    def test_guest_without_end_is_left_when_its_time_is_up(self, code: str) -> None:
        machine = Machine(DEBIAN_ROM.read_bytes(), disk=boot_sector(code))
        for seconds in (0.5, 1.0):
            assert machine.run(0.5) is None
            assert seconds * 1e9 <= machine.clock.read() < (seconds + 0.1) * 1e9

    def test_stop_between_two_runs_ends_the_next_one_at_once(self) -> None:
        machine = Machine(DEBIAN_ROM.read_bytes())
        machine.processor.stop()
        machine.run(1)
        assert machine.clock.read() < 1e6
        machine.run(0.01)
        assert machine.clock.read() > 1e7

    @pytest.mark.parametrize("padding", ["", "90"])
    def test_an_instruction_that_ends_like_hlt_does_not_halt_the_guest(self, padding: str) -> None:
        """With or without a nop, a slice ends behind it. No interrupt would wake the guest."""
        busy = boot_sector(f"""
            b0 ff e6 21 e6 a1   ; mov al, 0xff;      out 0x21, al; out 0xa1, al
            fb {padding}        ; sti
            66 b9 40 42 0f 00   ; mov ecx, 1000000
            8d 76 f4            ; lea si, [bp - 12]
            67 e2 fa            ; loop
            fa f4               ; cli;               hlt
            eb fc               ; jmp
        """)
        assert boot(disk=busy).machine.stopped == "halt"

    def test_a_guest_that_cannot_take_its_faults_is_reset(self) -> None:
        """In protected mode, what is at the vector table are not gates."""
        protected = boot_sector("""
            fa 0f 20 c0     ; cli;               mov eax, cr0
            0c 01           ; or al, 1
            0f 22 c0        ; mov cr0, eax
            cd 80           ; int 0x80
        """)
        assert boot(disk=protected).machine.stopped == "reset"

    @pytest.mark.parametrize("connect", [attach, connect_by_callbacks])
    def test_exception_of_a_device_comes_out_of_the_run(self, connect: Connect) -> None:
        class PowerCutError(Exception):
            pass

        def fail(byte: int) -> None:
            raise PowerCutError

        machine = Machine(DEBIAN_ROM.read_bytes(), debug=fail, processor=connected_by(connect))
        with pytest.raises(PowerCutError):
            machine.run(GUEST_SECONDS)

    def test_image_file_is_not_changed_by_the_guest(self, tmp_path: Path) -> None:
        image = tmp_path / "disk.img"
        content = bytearray(BOOT_SECTOR.read_bytes().ljust(4096, b"\0"))
        image.write_bytes(content)
        disk = open_disk(image)
        run = boot(disk=disk)
        assert run.console.splitlines()[-1] == LINE
        bus = run.machine.board.manager
        for port, value in ((0x1F2, 1), (0x1F3, 1), (0x1F4, 0), (0x1F5, 0), (0x1F6, 0xE0), (0x1F7, 0x30)):
            bus.pio_out(port, 1, value)
        for _ in range(256):
            bus.pio_out(0x1F0, 2, 0xFFFF)
        assert disk.image[512:1024] == b"\xff" * 512
        assert image.read_bytes() == content


def test_boot_sector_is_what_its_source_says(tmp_path: Path) -> None:
    if shutil.which("nasm") is None:
        pytest.skip("the assembler nasm is not installed")
    assembled = tmp_path / "boot.bin"
    source = BOOT_SECTOR.with_suffix(".asm")
    subprocess.run(["nasm", "-f", "bin", "-o", str(assembled), str(source)], check=True)
    assert assembled.read_bytes() == BOOT_SECTOR.read_bytes()


@pytest.mark.parametrize("size", [0, 64 << 10, (128 << 10) + 1])
def test_rom_that_does_not_fit(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^a ROM must be a multiple of 4 KiB, 128 KiB or more, not {size} bytes$"):
        Machine(bytes(size))


@needs_firmware
class TestCommand:
    def test_shows_the_console_and_a_summary(self) -> None:
        banner, booting, line, *summary = output_of("-m", "examples.pc").splitlines()
        assert banner.startswith(BANNER)
        assert (booting, line) == ("Booting from Hard Disk...", LINE)
        assert any("FwCfg(0x510..0x511)" in row for row in summary)
        assert summary[-1].startswith("The machine has stopped: power off.")

    def test_firmwares_log(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--log"]) == 0
        output = capsys.readouterr().out
        assert output.startswith(BANNER)
        assert "Found 4 PCI devices" in output
        assert LINE not in output

    def test_guest_without_end(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        image = tmp_path / "forever.img"
        image.write_bytes(bytes(boot_sector("fb f4 eb fd").image))
        assert main(["--disk", str(image), "--seconds", "3"]) == 1
        assert "The machine has stopped: time is up." in capsys.readouterr().out


def test_command_without_firmware(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "no.bin"
    assert main(["--rom", str(missing)]) == 2
    message = capsys.readouterr().err
    assert str(missing) in message
    assert message.endswith("Debian has the firmware in its package seabios; --rom and --vgabios take other files.\n")


def test_command_with_a_rom_or_a_disk_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, empty = tmp_path / "small.bin", tmp_path / "empty.img"
    small.write_bytes(bytes(16))
    empty.touch()
    assert main(["--rom", str(small), "--vgabios", str(small)]) == 2
    assert capsys.readouterr().err.startswith("a ROM must be a multiple of 4 KiB, 128 KiB or more, not 16 bytes")
    assert main(["--rom", str(small), "--vgabios", str(small), "--disk", str(empty)]) == 2
    assert capsys.readouterr().err == "cannot mmap an empty file\n"
