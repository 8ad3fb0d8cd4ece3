"""A processor that Unicorn emulates: the guest runs in slices, with the interrupts delivered between two of them."""

from __future__ import annotations

from unicorn import UC_PROT_ALL, UC_PROT_EXEC, UC_PROT_READ

from dbs_device.unicorn import attach

from .board import Board
from .cpu import Connect, Cpu

__all__ = ["UnicornProcessor"]

SLICE = 20_000  # instructions between two checks of the interrupt line
INSTRUCTION_TIME = 10  # ns


class UnicornProcessor:
    """A `Processor` for any clock.

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

    def __init__(self, board: Board, connect: Connect = attach) -> None:
        self._board = board
        self._clock = board.clock
        self._stop_requested = False
        self._halted = False  # until an interrupt comes
        self._dead_at: int | None = None  # where the guest has halted with interrupts disabled
        self.cpu = Cpu(board.manager, connect)

    def map_memory(self, base: int, size: int, content: bytes = b"", read_only: bool = False) -> None:
        self.cpu.map_memory(base, size, content, UC_PROT_READ | UC_PROT_EXEC if read_only else UC_PROT_ALL)

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
        elif self.cpu.next_instruction == self._dead_at:
            return True  # the guest halts here again, and nothing can wake it
        else:
            self._dead_at = self.cpu.next_instruction
        return False

    def _wait_for_event(self) -> None:
        event = self._clock.next_event()
        assert event is not None  # the real-time clock always has a timer for the next second
        self._clock.wait_until(event)

    def _deliver_interrupt(self) -> None:
        """Make the CPU take an interrupt, if one is pending and it can."""
        if self._interrupt_is_due() and self.cpu.in_sti_shadow:
            self.cpu.execute(1)
        if self._interrupt_is_due():
            self._halted = False
            self.cpu.interrupt(self._board.pics.acknowledge())

    def _interrupt_is_due(self) -> bool:
        return not self._stop_requested and self._board.pics.interrupting and self.cpu.interrupts_enabled
