"""The whole PC: the board, its memory and a processor, and the loop that runs it."""

from __future__ import annotations

import math
import mmap
from datetime import datetime
from pathlib import Path

from unicorn import UC_PROT_EXEC, UC_PROT_READ

from dbs_device.clock import NS_PER_SECOND, Clock, CountedClock
from dbs_device.unicorn import attach

from .board import Board
from .cpu import Connect, Processor
from .devices.ata import AtaDisk
from .devices.common import ByteSink

__all__ = ["DEBIAN_ROM", "DEBIAN_VGABIOS", "Machine", "default_disk", "ignore", "open_disk"]

DEBIAN_ROM = Path("/usr/share/seabios/bios-256k.bin")
DEBIAN_VGABIOS = Path("/usr/share/seabios/vgabios-isavga.bin")

KIB, MIB = 1 << 10, 1 << 20
RAM_SIZE = 32 * MIB
LOW_RAM_END, HIGH_RAM_START = 0xA0000, 0x100000
SHADOW_START = 0xC0000  # RAM for option ROMs and a copy of the firmware
FIRMWARE_SHADOW = 128 * KIB  # at its end
DISK_SIZE = 1 * MIB
POWER_ON = datetime(2024, 2, 29, 12, 0, 0)
BOOT_SECTOR = Path(__file__).with_name("boot.bin")

SLICE = 20_000  # instructions between two checks of the interrupt line
INSTRUCTION_TIME = 10  # ns


def ignore(byte: int) -> None:
    """Discard a byte."""


def default_disk() -> AtaDisk:
    """Return a disk with the boot sector of this example."""
    return AtaDisk(bytearray(BOOT_SECTOR.read_bytes().ljust(DISK_SIZE, b"\0")))


def open_disk(path: Path) -> AtaDisk:
    """Return a disk with a copy of the contents of a file."""
    with path.open("rb") as file:
        return AtaDisk(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


class Machine:
    """A PC.

    Parameters
    ----------
    rom : bytes
        The firmware, which ends at 4 GiB: a multiple of 4 KiB, 128 KiB or more.
    vgabios : bytes
        Option ROM of the VGA; without it, the screen is not initialised.
    disk : AtaDisk, optional
        By default, one with the boot sector of this example.
    clock : Clock, optional
        By default, time is counted from work, so that every run is the same.
    start : datetime
        Date and time at power-on.
    serial, debug : callable
        Receive the bytes that the guest sends to COM1 and to the debug console.
    connect : callable
        Connects processor and bus.

    Attributes
    ----------
    board : Board
        The devices.
    processor : Processor
        The CPU.
    stopped : str or None
        Why the machine stopped: "power off", "reset" or "halt". None while it runs.
    """

    def __init__(
        self,
        rom: bytes,
        *,
        vgabios: bytes = b"",
        disk: AtaDisk | None = None,
        clock: Clock | None = None,
        start: datetime = POWER_ON,
        serial: ByteSink = ignore,
        debug: ByteSink = ignore,
        connect: Connect = attach,
    ) -> None:
        if len(rom) < FIRMWARE_SHADOW or len(rom) % (4 * KIB):
            raise ValueError(f"a ROM must be a multiple of 4 KiB, 128 KiB or more, not {len(rom)} bytes")
        self.stopped: str | None = None
        self._halted = False  # until an interrupt comes
        self._dead_at: int | None = None  # where the guest has halted with interrupts disabled
        self.clock = clock or CountedClock()
        self.board = Board(
            self.clock,
            start=start,
            ram_size=RAM_SIZE,
            disk=disk or default_disk(),
            vgabios=vgabios,
            serial=serial,
            debug=debug,
            stop=self._stop,
        )
        self.processor = Processor(self.board.manager, connect)
        self.processor.map_memory(0, LOW_RAM_END)
        self.processor.map_memory(SHADOW_START, HIGH_RAM_START - SHADOW_START - FIRMWARE_SHADOW)
        self.processor.map_memory(HIGH_RAM_START - FIRMWARE_SHADOW, FIRMWARE_SHADOW, rom[-FIRMWARE_SHADOW:])
        self.processor.map_memory(HIGH_RAM_START, RAM_SIZE - HIGH_RAM_START)
        self.processor.map_memory((1 << 32) - len(rom), len(rom), rom, UC_PROT_READ | UC_PROT_EXEC)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        self.processor.stop()

    def run(self, seconds: float | None = None) -> str | None:
        """Run until the guest stops the machine, or for a number of seconds of its own time.

        Returns
        -------
        str or None
            `stopped`.
        """
        end = math.inf if seconds is None else self.clock.now() + seconds * NS_PER_SECOND
        while self.stopped is None and self.clock.now() < end:
            self._deliver_interrupt()
            if self._halted:
                self._wait_for_event()
            elif self.stopped is None:
                self._execute_slice()
        return self.stopped

    def _execute_slice(self) -> None:
        processor = self.processor
        processor.execute(SLICE)
        if self.stopped is not None:
            return
        if not processor.halted:
            self._dead_at = None
            self.clock.count_work(SLICE * INSTRUCTION_TIME)
        elif processor.interrupts_enabled:
            self._halted = True
        elif processor.next_instruction == self._dead_at:
            self.stopped = "halt"  # the guest halts here again, and nothing can wake it
        else:
            self._dead_at = processor.next_instruction

    def _wait_for_event(self) -> None:
        event = self.clock.next_event()
        assert event is not None  # the real-time clock always has a timer for the next second
        self.clock.wait_until(event)

    def _deliver_interrupt(self) -> None:
        """Make the processor take an interrupt, if one is pending and it can."""
        if self._interrupt_is_due() and self.processor.in_sti_shadow:
            self.processor.execute(1)
        if self._interrupt_is_due():
            self._halted = False
            self.processor.interrupt(self.board.pics.acknowledge())

    def _interrupt_is_due(self) -> bool:
        return self.stopped is None and self.board.pics.interrupting and self.processor.interrupts_enabled
