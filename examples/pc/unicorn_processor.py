"""A processor that Unicorn emulates: the guest runs in slices, with the interrupts delivered between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from unicorn import UC_PROT_ALL, UC_PROT_EXEC, UC_PROT_READ, Uc

from dbs_device.state import AttributeState, Saved, StateError
from dbs_device.unicorn import attach

from .board import Board
from .cpu import Connect, Cpu
from .cpu_state import CpuContext
from .interrupt_delivery import TripleFaultError

__all__ = ["UnicornProcessor"]

SLICE = 20_000  # instructions between two checks of the interrupt line
INSTRUCTION_TIME = 10  # ns
# An instruction may end like HLT: without an interrupt for so long, the guest goes on. The timer of a PC ticks sooner.
LONGEST_HALT = 100_000_000  # ns


class _Memory:
    """Memory that is mapped for a CPU, and its state."""

    def __init__(self, uc: Uc, base: int, size: int) -> None:
        self._uc = uc
        self._base = base
        self._size = size

    def save_state(self) -> bytes:
        return bytes(self._uc.mem_read(self._base, self._size))

    def check_state(self, state: object) -> None:
        if not isinstance(state, bytes) or len(state) != self._size:
            there = f"{len(state)} bytes" if isinstance(state, bytes) else repr(state)
            raise StateError(f"the memory at {self._base:#x} has {self._size} bytes, not {there}")

    def load_state(self, state: bytes) -> None:
        self._uc.mem_write(self._base, state)


class UnicornProcessor(AttributeState):
    """A `Processor` for any clock, whose state includes the memory that is mapped for it.

    Parameters
    ----------
    board : Board
        The devices.
    connect : callable
        Connects the CPU and the bus.

    Attributes
    ----------
    cpu : Cpu
        The CPU.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_stop_requested": None,
        "_halted": None,
        "_wake_at": range(1 << 64),
        "_dead_at": (None, range(1 << 32)),
        "_context": None,
        "_memory": None,
    }

    def __init__(self, board: Board, connect: Connect = attach) -> None:
        self._board = board
        self._clock = board.clock
        self._stop_requested = False
        self._halted = False  # until an interrupt comes, or until
        self._wake_at = 0
        self._dead_at: int | None = None  # where the guest has halted with interrupts disabled
        self.cpu = Cpu(board.manager, connect)
        self._context = CpuContext(self.cpu.uc)
        self._memory: dict[str, _Memory] = {}  # by its address

    def map_memory(self, base: int, size: int, content: bytes = b"", read_only: bool = False) -> None:
        self.cpu.map_memory(base, size, content, UC_PROT_READ | UC_PROT_EXEC if read_only else UC_PROT_ALL)
        self._memory[f"{base:#x}"] = _Memory(self.cpu.uc, base, size)

    def stop(self) -> None:
        self._stop_requested = True
        self.cpu.stop()

    def run(self, until: float) -> bool:
        try:
            while not self._stop_requested and self._clock.now() < until:
                self._deliver_interrupt()
                if self._halted:
                    self._wait_for_event()
                elif not self._stop_requested and self._execute_slice():
                    return True
            return False
        except TripleFaultError:
            self._board.reset()
            return False
        finally:
            self._stop_requested = False

    def _execute_slice(self) -> bool:
        """Execute a number of instructions; return whether the guest has halted for good."""
        self.cpu.execute(SLICE)
        if self._stop_requested:
            return False
        if not self.cpu.halted:
            self._dead_at = None
            self._clock.count_work(SLICE * INSTRUCTION_TIME)
        elif self.cpu.interrupts_enabled:
            self._halted = True
            self._wake_at = self._clock.now() + LONGEST_HALT
        elif self.cpu.next_instruction == self._dead_at:
            return True  # the guest halts here again, and nothing can wake it
        else:
            self._dead_at = self.cpu.next_instruction
        return False

    def _wait_for_event(self) -> None:
        event = self._clock.next_event()
        assert event is not None  # the real-time clock always has a timer for the next second
        self._clock.wait_until(min(event, self._wake_at))
        self._halted = event < self._wake_at

    def _deliver_interrupt(self) -> None:
        """Make the CPU take an interrupt, if one is pending and it can."""
        if self._interrupt_is_due() and self.cpu.in_sti_shadow:
            self.cpu.execute(1)
        if self._interrupt_is_due():
            self._halted = False
            self.cpu.interrupt(self._board.pics.acknowledge())

    def _interrupt_is_due(self) -> bool:
        return not self._stop_requested and self._board.pics.interrupting and self.cpu.interrupts_enabled
