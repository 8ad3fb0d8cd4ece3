"""The whole PC: the board, its memory and a processor."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from dbs_device.clock import NS_PER_SECOND, Clock, CountedClock
from dbs_device.devices.ata import AtaDisk
from dbs_device.state import MachineState

from .board import Board
from .processor import NewProcessor, Processor

__all__ = ["DEBIAN_ROM", "DEBIAN_VGABIOS", "Machine", "default_disk", "ignore", "open_disk"]

DEBIAN_ROM = Path("/usr/share/seabios/bios-256k.bin")
DEBIAN_VGABIOS = Path("/usr/share/seabios/vgabios-isavga.bin")

KIB, MIB = 1 << 10, 1 << 20
RAM_SIZE = 32 * MIB
LOW_RAM_END, HIGH_RAM_START = 0xA0000, 0x100000
MMIO_START = 3 << 30  # RAM ends below
SHADOW_START = 0xC0000  # RAM for option ROMs and a copy of the firmware
FIRMWARE_SHADOW = 128 * KIB  # at its end
DISK_SIZE = 1 * MIB
POWER_ON = datetime(2024, 2, 29, 12, 0, 0)
BOOT_SECTOR = Path(__file__).with_name("boot.bin")


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
    ram_size : int
        Bytes, above 16 MiB; a multiple of 64 KiB.
    serial, debug : callable
        Receive the bytes that the guest sends to COM1 and to the debug console.
    processor : callable
        Makes the processor of a board; by default, one emulated by Unicorn.
    lines : callable, optional
        Returns the interrupt line of a number, 0..15, for a processor with interrupt controllers of its own.

    Attributes
    ----------
    board : Board
        The devices.
    processor : Processor
        Runs the guest.
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
        ram_size: int = RAM_SIZE,
        serial: Callable[[int], object] = ignore,
        debug: Callable[[int], object] = ignore,
        processor: NewProcessor | None = None,
        lines: Callable[[int], Callable[[bool], object]] | None = None,
    ) -> None:
        if len(rom) < FIRMWARE_SHADOW or len(rom) % (4 * KIB):
            raise ValueError(f"a ROM must be a multiple of 4 KiB, 128 KiB or more, not {len(rom)} bytes")
        if ram_size % (64 * KIB) or not 16 * MIB < ram_size < MMIO_START:
            raise ValueError(f"the RAM is a multiple of 64 KiB, above 16 MiB and below 3 GiB, not {ram_size} bytes")
        if processor is None:
            from .unicorn_processor import UnicornProcessor  # here: the others do not need the package unicorn

            processor = UnicornProcessor
        self.stopped: str | None = None
        self.clock = clock or CountedClock()
        self.board = Board(
            self.clock,
            start=start,
            ram_size=ram_size,
            disk=disk or default_disk(),
            vgabios=vgabios,
            serial=serial,
            debug=debug,
            stop=self._stop,
            lines=lines,
        )
        self.processor: Processor = processor(self.board)
        self.processor.map_memory(0, LOW_RAM_END)
        self.processor.map_memory(SHADOW_START, HIGH_RAM_START - SHADOW_START - FIRMWARE_SHADOW)
        self.processor.map_memory(HIGH_RAM_START - FIRMWARE_SHADOW, FIRMWARE_SHADOW, rom[-FIRMWARE_SHADOW:])
        self.processor.map_memory(HIGH_RAM_START, ram_size - HIGH_RAM_START)
        self.processor.map_memory((1 << 32) - len(rom), len(rom), rom, read_only=True)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        self.processor.stop()

    def save(self, path: Path) -> None:
        """Write the state of the machine to a file, between two runs.

        Raises
        ------
        StateError
            The processor has no state, as some have not.
        ValueError
            The machine has stopped.
        """
        if self.stopped is not None:
            raise ValueError(f"the machine has stopped: {self.stopped}")
        MachineState.of(self._parts).save(path)

    def restore(self, path: Path) -> None:
        """Go on from a state in a file, which a machine of the same parts has saved; read `CpuContext` for its limits.

        Raises
        ------
        StateError
            The file is damaged, or the state is one of another machine. Nothing is changed.
        """
        MachineState.load(path).restore(self._parts)
        self.stopped = None

    @property
    def _parts(self) -> dict[str, object]:
        return {**self.board.parts, "processor": self.processor}

    def run(self, seconds: float | None = None) -> str | None:
        """Run until the guest stops the machine, or for a number of seconds of its own time.

        Returns
        -------
        str or None
            `stopped`.
        """
        end = math.inf if seconds is None else self.clock.now() + seconds * NS_PER_SECOND
        if self.stopped is None and self.processor.run(end) and self.stopped is None:
            self.stopped = "halt"
        return self.stopped
