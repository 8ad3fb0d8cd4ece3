"""A processor of the host's, behind KVM (Linux on x86-64)."""

from __future__ import annotations

import fcntl
import math
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dbs_device import Resource
from dbs_device.clock import NS_PER_SECOND, Clock, CountedClock
from dbs_device.interrupts import IrqLine
from dbs_device.kvm import KICKED, Exit, Vcpu, Vm
from dbs_device.memory import Ram, Rom

from ..vmm import Kvm, read_registers
from .board import Board

__all__ = ["GuestError", "KvmProcessor", "VirtualMachine"]

# linux/kvm.h
KVM_CREATE_PIT2, PIT_CONFIG = 0x4040AE77, bytes(64)
KVM_GET_MP_STATE, MP_STATE_HALTED = 0x8004AE98, 3

INTERRUPT_FLAG = 0x200
LINES = 16


class GuestError(RuntimeError):
    """The guest does what KVM cannot."""


class VirtualMachine(Kvm):
    """A VM for the board of the PC: what `Machine` takes as `lines` and `processor`. A context manager.

    Parameters
    ----------
    controllers : {"kernel", "board"}
        Whose interrupt controllers and timer the guest has. The kernel's take the place of the board's, which are on
        the bus, but not reached.

    Attributes
    ----------
    lines : callable or None
        Returns the interrupt line of a number, 0..15, of the controllers in the kernel.

    Raises
    ------
    KvmError
        The host has no KVM.
    """

    def __init__(self, controllers: str = "kernel") -> None:
        if controllers not in ("kernel", "board"):
            raise ValueError(f'controllers takes "kernel" or "board", not {controllers!r}')
        self._in_kernel = controllers == "kernel"
        self._vm: Vm | None = None
        super().__init__(irqchip=self._in_kernel)
        self._lines = [IrqLine() for _ in range(LINES)]  # to be connected when there is a board
        self.lines: Callable[[int], IrqLine] | None = None
        if self._in_kernel:
            fcntl.ioctl(self.fd, KVM_CREATE_PIT2, PIT_CONFIG)
            self.lines = self._lines.__getitem__

    def processor(self, board: Board) -> KvmProcessor:
        """Make the processor of a board, at its reset vector."""
        self._vm = vm = Vm(self.fd, board.manager)
        if self._in_kernel:
            for number, line in enumerate(self._lines):
                line.connect(vm.irq_line(number))
        for base, size in board.vga.memory_window.get_mmio_address_ranges():
            vm.coalesce(base, size)  # what is written to the screen may be late
        fd, run = self.new_vcpu()
        acknowledge = None if self._in_kernel else board.pics.acknowledge
        vcpu = Vcpu(fd, run, board.manager, acknowledge=acknowledge, coalesced_ring=self.coalesced_ring)
        return KvmProcessor(board, fd, vcpu, self._in_kernel)

    def close(self) -> None:
        """Close the VM. The processor cannot run any more."""
        if self._vm is not None:
            self._vm.close()
        super().close()


class KvmProcessor:
    """A `Processor` for a clock of the host's time. Made by `VirtualMachine.processor`.

    Attributes
    ----------
    vcpu : Vcpu
        The CPU.
    """

    def __init__(self, board: Board, fd: int, vcpu: Vcpu, controllers_in_kernel: bool) -> None:
        if isinstance(board.clock, CountedClock):
            raise ValueError("the time of a guest of KVM is the host's: it takes a HostClock")
        self._board = board
        self._clock = board.clock
        self._fd = fd
        self._stop_requested = False
        self.vcpu = vcpu
        self._controllers_in_kernel = controllers_in_kernel
        if not controllers_in_kernel:
            board.intr.connect(self._set_intr)

    def map_memory(self, base: int, size: int, content: bytes = b"", read_only: bool = False) -> None:
        memory = Rom(content.ljust(size, b"\0")) if read_only else Ram(size)
        if not read_only:
            memory.view[: len(content)] = content
        self._board.manager.register_device_io(memory, [Resource.MemAddressRange(base, size)])

    def _set_intr(self, level: bool) -> None:
        self.vcpu.set_intr(level)
        if level:
            self._clock.wake()

    def stop(self) -> None:
        self._stop_requested = True
        self.vcpu.kick()
        self._clock.wake()

    def run(self, until: float) -> bool:
        try:
            with Alarm(self._clock, until, self.vcpu.kick) as alarm:
                while not self._stop_requested and self._clock.now() < until:
                    alarm.rearm()
                    reason = self.vcpu.run()
                    if reason is Exit.HLT and self.vcpu.interrupts_enabled:
                        self._wait_for_interrupt(until)
                    elif reason is Exit.HLT or (reason is KICKED and self._is_dead()):
                        return True
                    elif reason is not KICKED:
                        raise GuestError(f"the guest cannot go on: {reason.name} {self.vcpu.exit_details}")
            return False
        finally:
            self._stop_requested = False

    def _wait_for_interrupt(self, until: float) -> None:
        while not (self._stop_requested or self.vcpu.intr) and self._clock.now() < until:
            event = self._clock.next_event()
            self._clock.wait_until(int(min(until, math.inf if event is None else event)))

    def _is_dead(self) -> bool:
        """Return whether the guest has halted inside KVM with interrupts disabled. Nothing else looks at its state."""
        if not self._controllers_in_kernel or self._stop_requested:
            return False
        (state,) = struct.unpack("<I", fcntl.ioctl(self._fd, KVM_GET_MP_STATE, bytes(4)))
        return state == MP_STATE_HALTED and not read_registers(self._fd)["rflags"] & INTERRUPT_FLAG


class Alarm:
    """Calls a function when the clock's next event is due or the run is to end: the guest may compute without an exit.

    Once it has called, it waits for `rearm`.
    """

    def __init__(self, clock: Clock, until: float, call: Callable[[], object]) -> None:
        self._clock = clock
        self._until = until
        self._call = call
        self._changed = threading.Condition()
        self._armed = self._open = True
        self._thread = threading.Thread(target=self._wait, name="alarm", daemon=True)

    def __enter__(self) -> Self:
        self._remove = self._clock.on_earlier_event(lambda when: self.rearm())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()

    def rearm(self) -> None:
        """Look at the clock's next event again, and call when it is due."""
        with self._changed:
            self._armed = True
            self._changed.notify()

    def _wait(self) -> None:
        with self._changed:
            while self._open:
                event = self._clock.next_event()
                due = min(self._until, math.inf if event is None else event)
                seconds = (due - self._clock.read()) / NS_PER_SECOND
                if not self._armed:
                    self._changed.wait()
                elif seconds > 0:
                    self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
                else:
                    self._armed = False
                    self._call()
