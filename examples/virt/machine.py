"""The whole machine: a board, a CPU, and what is at the other end of its serial line."""

from __future__ import annotations

import mmap
import random
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from dbs_device.clock import Clock, CountedClock
from dbs_device.devices.storage import Storage
from dbs_device.state import MachineState
from examples.riscv.serial_line import Console

from .board import FLASH_SIZE, Board
from .cpu import Cpu
from .network import Host
from .serial_line import SerialLine

__all__ = ["COUNTED_STEP", "DEBIAN_FIRMWARE", "END_OF_INPUT", "POWER_ON", "Machine", "erased_flash", "flash_of"]

DEBIAN_FIRMWARE = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
POWER_ON = datetime(2024, 2, 29, 12, 34, 56)
COUNTED_STEP = 20_000  # ns a read of the clock: a firmware that waits reads it all the time

# Power State Coordination Interface (ARM DEN 0022), of which a machine with one CPU needs little.
PSCI_VERSION, PSCI_MIGRATE_INFO_TYPE, PSCI_FEATURES = 0x8400_0000, 0x8400_0006, 0x8400_000A
PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET = 0x8400_0008, 0x8400_0009
PSCI_FUNCTIONS = (PSCI_VERSION, PSCI_MIGRATE_INFO_TYPE, PSCI_FEATURES, PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET)
PSCI_1_1, NO_MIGRATION, SUCCESS, NOT_SUPPORTED = 0x1_0001, 2, 0, -1

END_OF_INPUT = "end of input"


def flash_of(content: bytes) -> mmap.mmap:
    """Return a bank of flash that begins with some content. It is not kept."""
    if len(content) > FLASH_SIZE:
        raise ValueError(f"a bank of flash has {FLASH_SIZE:#x} bytes, not {len(content):#x}")
    bank = mmap.mmap(-1, FLASH_SIZE)
    bank[:] = content.ljust(FLASH_SIZE, b"\xff")
    return bank


def erased_flash() -> mmap.mmap:
    """Return an erased bank of flash."""
    return flash_of(b"")


class Machine:
    """A machine that starts its firmware.

    Parameters
    ----------
    firmware : bytes
        What is at the beginning of the first bank of flash.
    variables : buffer, optional
        The second bank, where firmware stores what it is to keep: `FLASH_SIZE` bytes. By default, an erased one.
    disk : Storage, optional
        The disk.
    clock : Clock, optional
        By default, time is counted by its reads, so that every run is the same.
    legacy : bool
        Whether the virtio devices have the registers of version 1, of drivers before VIRTIO 1.0.
    ram_size : int
        Bytes, a multiple of a page.
    start : datetime or None
        Date and time at power-on; None for the host's.
    console : Console
        What the serial line leads to.
    files : mapping of str to bytes
        What the guest gets by TFTP from the host on its network, 10.0.2.2.
    seed : int
        Of the random numbers that it gets.

    Attributes
    ----------
    board : Board
        The devices.
    cpu : Cpu
        The CPU.
    stopped : str or None
        Why the machine stopped: "power off", "reset", "end of input", or what `stop` was called with.
    """

    def __init__(
        self,
        firmware: bytes,
        console: Console,
        *,
        variables: mmap.mmap | bytearray | None = None,
        disk: Storage | None = None,
        clock: Clock | None = None,
        legacy: bool = False,
        ram_size: int = 128 << 20,
        start: datetime | None = POWER_ON,
        files: Mapping[str, bytes] | None = None,
        seed: int = 0,
    ) -> None:
        self.stopped: str | None = None
        self.line = SerialLine(console)
        self.host = Host(files)
        self.clock = clock or CountedClock(COUNTED_STEP)
        self.board = Board(
            self.clock,
            start=start,
            ram_size=ram_size,
            legacy=legacy,
            flash=(flash_of(firmware), erased_flash() if variables is None else variables),
            disk=disk,
            serial=self.line.send,
            network=self.host.receive,
            random=random.Random(seed).randbytes,
            irq=lambda level: self.cpu.set_irq(level),
        )
        self.host.transmit = self.board.net.receive
        tree = self.board.device_tree()
        self.board.ram.view[: len(tree)] = tree
        self.cpu = Cpu(self.board.manager, self.clock, self.board.timer_irqs, self._call)

    def _call(self, function: int, arguments: list[int]) -> int:
        """Answer a call of firmware."""
        function &= 0xFFFF_FFFF
        if function == PSCI_VERSION:
            return PSCI_1_1
        if function == PSCI_MIGRATE_INFO_TYPE:
            return NO_MIGRATION
        if function == PSCI_FEATURES:
            return SUCCESS if arguments[0] & 0xFFFF_FFFF in PSCI_FUNCTIONS else NOT_SUPPORTED
        if function == PSCI_SYSTEM_OFF:
            self.stop("power off")
        elif function == PSCI_SYSTEM_RESET:
            self.stop("reset")
        return NOT_SUPPORTED  # of these two, never seen

    def stop(self, reason: str) -> None:
        """Stop the machine, from a device or from another thread."""
        self.stopped = reason
        self.cpu.stop()

    def run(self) -> str | None:
        """Run until the machine is stopped, and return why. It can be run again."""
        self.stopped = None
        self.cpu.run(self._look)
        return self.stopped

    def _look(self) -> None:
        """Look at what has come to the serial line."""
        if not self.line.look(self.board.uart):
            self.stop(END_OF_INPUT)

    def save_state(self) -> MachineState:
        """Return the state of the whole machine, without its disk."""
        return MachineState.of(self._parts())

    def restore_state(self, state: MachineState) -> None:
        """Go on from a state."""
        state.restore(self._parts())

    def _parts(self) -> dict[str, object]:
        board = self.board
        return {
            "clock": self.clock,
            "ram": board.ram,
            **{f"flash{number}": bank for number, bank in enumerate(board.flash)},
            "gic": board.gic,
            "uart": board.uart,
            "rtc": board.rtc,
            "fw_cfg": board.fw_cfg,
            "pci": board.pci,
            **{f"virtio{number}": transport for number, transport in enumerate(board.virtio)},
            "line": self.line,
            "cpu": self.cpu,
        }
