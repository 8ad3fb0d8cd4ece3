"""The machine: a board with a program in its RAM, and the loop that runs its core."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from typing import Any, ClassVar, NamedTuple

from rv32.core import Stop

from dbs_device.clock import NS_PER_SECOND
from dbs_device.errors import format_count
from dbs_device.memory import Ram
from dbs_device.state import AttributeState, MachineState, StateError

from .board import BOOT_ARGUMENTS, NS_PER_CYCLE, RAM_BASE, Board, DeviceKind
from .device_tree import flatten
from .serial_line import Console, SerialLine

__all__ = ["DeviceAccesses", "Machine", "TimeSpent"]

MIB = 1 << 20
SLICE = 500_000  # cycles between two looks at the console: a few milliseconds
PATIENCE = 60 * NS_PER_SECOND  # of the guest's time
POWER_ON = datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)
A0, A1 = 10, 11  # registers

# The header of a Linux image, from Documentation/arch/riscv/boot-image-header.rst.
HEADER = struct.Struct("<8xQQ")
HEADER_MAGIC, HEADER_MAGIC_AT = b"RSC\x05", 0x38


@dataclass
class TimeSpent:
    """Seconds of the host.

    Attributes
    ----------
    core : float
        The core ran, and the devices that it accessed.
    processor : float
        The part of that for which the host's processor did nothing else.
    waiting : float
        The guest waited for an interrupt, and the host for input or for time to pass.
    rest : float
        Timers, console.
    """

    core: float = 0.0
    processor: float = 0.0
    waiting: float = 0.0
    rest: float = 0.0


class DeviceAccesses(NamedTuple):
    """The accesses of the core to a device.

    Attributes
    ----------
    loads, stores : int
        How many there were.
    ns : int
        How long they took in the host's time, bus and device together.
    """

    loads: int
    stores: int
    ns: int


class Machine(AttributeState):
    """A board with an RV32IMA core, and a program.

    Parameters
    ----------
    image : bytes
        A Linux kernel for machine mode without an MMU, or a program that begins with its first instruction. It is
        loaded to the beginning of RAM, and gets the number of the hart in a0 and the address of a device tree in a1.
    console : Console
        The other end of the serial line.
    devices : {"native", "banks", "python"}
        What UART, CLINT, RTC and power switch are: Cython, register banks, or Python classes.
    ram_size : int
        Bytes, a multiple of 1 MiB.
    disk : bytearray or other writable buffer, optional
        The contents of a virtio disk. Without it there is none.
    arguments : str
        The kernel's command line.
    start : datetime
        Date and time at power-on.

    Attributes
    ----------
    board : Board
        Devices, RAM, bus and core.
    stopped : str or None
        Why the machine has stopped; None while it runs. "power off", "reset": the guest has asked for it. "locked up":
        there is no memory where its trap handler should be. "halted": it waits for an interrupt, and nothing is left
        that could cause one. "idle": it waits for input that has ended, and has done so for a minute of its own time.
    spent : TimeSpent
        Where the time of the host went.
    """

    saved: ClassVar[Mapping[str, Any]] = {"_is_between": None}

    def __init__(
        self,
        image: bytes,
        console: Console,
        *,
        devices: DeviceKind = "native",
        ram_size: int = 64 * MIB,
        disk: Any | None = None,
        arguments: str = BOOT_ARGUMENTS,
        start: datetime = POWER_ON,
    ) -> None:
        if ram_size <= 0 or ram_size % MIB or ram_size > (1 << 32) - RAM_BASE:
            raise ValueError(f"RAM is a multiple of 1 MiB, up to 2 GiB, not {ram_size} bytes")
        self.stopped: str | None = None
        self.spent = TimeSpent()
        self._line = SerialLine(console)
        self.board = Board(devices, ram_size=ram_size, disk=disk, start=start, serial=self._line.send, stop=self.stop)
        self._disk = disk
        self._core, self._clock = self.board.core, self.board.clock
        self._clock.on_earlier_event(self._run_no_further)
        self._is_paused = False
        self._is_between = False  # the last run has ended where it was asked to, not where the loop would have
        ranges = [each for each in self.board.manager.mapped_ranges() if each.device is not self.board.ram]
        self._meter_names = [str(each.name) for each in ranges]
        self._core.meter([(each.base, each.last) for each in ranges])
        self._load(image, arguments)

    @property
    def accesses(self) -> dict[str, DeviceAccesses]:
        """The accesses to each device, by its name. Those of DMA are not among them."""
        return {
            name: DeviceAccesses(*counts) for name, counts in zip(self._meter_names, self._core.metered, strict=True)
        }

    def _load(self, image: bytes, arguments: str) -> None:
        """Put a program and a device tree into RAM, and what a kernel expects into registers."""
        ram = self.board.ram
        tree = flatten(self.board.device_tree(arguments))
        offset, size = 0, len(image)
        if image[HEADER_MAGIC_AT : HEADER_MAGIC_AT + len(HEADER_MAGIC)] == HEADER_MAGIC:
            offset, size = HEADER.unpack_from(image)
        tree_at = ram.size - len(tree) & -8
        if offset + max(size, len(image)) > tree_at:
            raise ValueError(f"a program of {max(size, len(image))} bytes does not fit {ram.size} bytes of RAM")
        ram.view[offset : offset + len(image)] = image
        ram.view[tree_at : tree_at + len(tree)] = tree
        registers = self._core.registers
        registers[A0], registers[A1] = 0, RAM_BASE + tree_at
        self._core.registers = registers
        self._core.pc = RAM_BASE + offset

    # Running

    def run(self, cycles: float = math.inf) -> str | None:
        """Run until the machine stops.

        Parameters
        ----------
        cycles : int, optional
            Return after the core has executed as many instructions since power-on.

        Returns
        -------
        str or None
            `stopped`.

        Raises
        ------
        Exception
            A device's, with a note of where the guest was. The next run begins with the access that has failed.
        """
        core, clock, spent = self._core, self._clock, self.spent
        self._is_paused = False
        while self.stopped is None and not self._is_paused and core.cycles < cycles:
            begin = time.perf_counter()
            now = clock.now()  # runs the timers that are due
            if not self._is_between:
                self._line.look(self.board.uart, now)
            event = clock.next_event()
            # The console is looked at in the same places, wherever runs begin and end.
            limit = core.cycles // SLICE * SLICE + SLICE
            if event is not None:
                limit = min(limit, core.cycles + _cycles_of(event - now))
            self._is_between = cycles < limit
            core_begins, processor_begins = time.perf_counter(), time.thread_time()
            try:
                reason = core.run(min(limit, int(cycles)) if self._is_between else limit)
            except Exception as error:
                self._is_between = True
                error.add_note(f"the guest is at {core.pc:#x}, after {format_count(core.cycles, 'instruction')}")
                raise
            finally:
                core_ends = time.perf_counter()
                spent.core += core_ends - core_begins
                spent.processor += time.thread_time() - processor_begins
                spent.rest += core_begins - begin
            if reason is not Stop.LIMIT:
                self._is_between = False
            if reason is Stop.WAITING:
                self._wait()
                spent.waiting += time.perf_counter() - core_ends
            elif reason is Stop.LOCKED_UP:
                self.stopped = "locked up"
        return self.stopped

    def stop(self, reason: str) -> None:
        """Make `run` return before the next instruction. Devices call it; so may any thread.

        Parameters
        ----------
        reason : str
            What `stopped` will be.
        """
        self.stopped = reason
        self._core.stop()

    def pause(self) -> None:
        """Make `run` return before the next instruction, without stopping the machine."""
        self._is_paused = True
        self._core.stop()

    def _run_no_further(self, event: int) -> None:
        """Make the core return in time for an event that a device has scheduled."""
        core = self._core
        core.run_no_further(core.cycles + _cycles_of(event - self._clock.read()))

    def _wait(self) -> None:
        """Let time pass while the guest waits for an interrupt: to the next timer, or until something is typed."""
        clock, line = self._clock, self._line
        now = clock.now()
        event = clock.next_event()
        if self._core.is_interrupted or line.look(self.board.uart, now, guest_waits=True):
            return
        if line.may_bring_more:
            begin = time.monotonic_ns()
            line.wait(math.inf if event is None else (event - now) / NS_PER_SECOND)
            if not line.may_bring_more:
                passed = now + time.monotonic_ns() - begin
                event = passed if event is None else min(event, passed)
        elif line.is_at_end and event is None:
            self.stopped = "halted"
        elif line.is_at_end and line.quiet_time(now) > PATIENCE:
            self.stopped = "idle"
        elif line.next_look is not None:
            event = line.next_look if event is None else min(event, line.next_look)
        if event is not None:
            clock.wait_until(event)

    # Saving and restoring

    def state_loaded(self) -> None:
        self.stopped = None

    def _parts(self) -> dict[str, Any]:
        board = self.board
        parts = {"machine": self, "line": self._line, "core": board.core, "clock": board.clock, "ram": board.ram}
        if self._disk is not None:
            parts["disk contents"] = Ram(self._disk)  # devices do not save what is behind them
        return {**parts, **board.devices}

    def save(self, path: str | PathLike[str]) -> None:
        """Save the state of the machine, between two runs.

        Parameters
        ----------
        path : path
            An .npz file that `restore` takes, in this or in another process.

        Raises
        ------
        StateError
            The machine has stopped.
        """
        if self.stopped is not None:
            raise StateError(f"the machine has stopped ({self.stopped}), and would not go on")
        MachineState.of(self._parts()).save(path)

    def restore(self, path: str | PathLike[str]) -> None:
        """Go on from a state that `save` has written, of a machine with the same devices, RAM and disk.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        StateError
            It is not such a file, or of another machine. Nothing is changed.
        """
        MachineState.load(path).restore(self._parts())


def _cycles_of(duration: int) -> int:
    """Return how many cycles take a duration in ns; not less than 0."""
    return max(0, -(-duration // NS_PER_CYCLE))
