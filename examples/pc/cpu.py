"""A Unicorn x86 CPU, with the interrupts that Unicorn leaves to its users.

Unicorn has no interrupt lines, and reports an INT instruction or an exception instead of executing it. All of these are
delivered here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from unicorn import (
    UC_ARCH_X86,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_HOOK_MEM_WRITE_UNMAPPED,
    UC_MODE_32,
    UC_PROT_ALL,
    Uc,
)
from unicorn.x86_const import (
    UC_X86_INS_IN,
    UC_X86_INS_OUT,
    UC_X86_REG_CR0,
    UC_X86_REG_CS,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_EIP,
)

from dbs_device import IoManager
from dbs_device.trace import TraceRecorder

from .interrupt_delivery import ERROR_CODES, deliver

__all__ = ["Bridge", "Connect", "Cpu", "connect_by_callbacks"]

PAGE_SIZE = 0x1000
NEVER = 0xFFFF_FFFF  # not the address of an instruction

PROTECTED_MODE = 0x0000_0001  # CR0
CR0_AFTER_RESET = 0x6000_0010
INTERRUPT_FLAG = 0x0200
RESET_CS, RESET_IP = 0xF000, 0xFFF0
HLT, STI, INT = 0xF4, 0xFB, 0xCD


class Bridge(Protocol):
    """A connection between a Uc and a bus."""

    def emu_start(self, begin: int, until: int, timeout: int = 0, count: int = 0) -> None:
        """Run the guest, and propagate the exceptions of devices."""


Connect: TypeAlias = Callable[[Uc, IoManager], Bridge]
"""The function that connects a processor and a bus: `dbs_device.unicorn.attach` or `connect_by_callbacks`."""


def connect_by_callbacks(uc: Uc, manager: IoManager, recorder: TraceRecorder | None = None) -> Bridge:
    """Connect through the callbacks of Unicorn's Python binding, for comparison.

    The MMIO ranges must already be registered, and must not share pages.

    Parameters
    ----------
    uc : unicorn.Uc
        The CPU.
    manager : IoManager
        The bus.
    recorder : TraceRecorder, optional
        A recorder of that manager, which then serves the accesses.
    """
    return _CallbackBridge(uc, manager, manager if recorder is None else recorder)


class _CallbackBridge:
    def __init__(self, uc: Uc, manager: IoManager, bus: IoManager | TraceRecorder) -> None:
        def load(uc: Uc, offset: int, size: int, base: int) -> int:
            return bus.mmio_load(base + offset, size)

        def store(uc: Uc, offset: int, size: int, value: int, base: int) -> None:
            bus.mmio_store(base + offset, size, value)

        def port_in(uc: Uc, port: int, size: int, context: Any) -> int:
            return bus.pio_in(port, size)

        def port_out(uc: Uc, port: int, size: int, value: int, context: Any) -> None:
            bus.pio_out(port, size, value)

        for base, last, _ in manager.mmio_bus:
            first = base & -PAGE_SIZE
            uc.mmio_map(first, (last | PAGE_SIZE - 1) - first + 1, load, first, store, first)
        uc.hook_add(UC_HOOK_INSN, port_in, None, 1, 0, UC_X86_INS_IN)
        uc.hook_add(UC_HOOK_INSN, port_out, None, 1, 0, UC_X86_INS_OUT)
        self.emu_start = uc.emu_start


class Cpu:
    """An x86 CPU that starts at the reset vector, with its physical memory.

    Parameters
    ----------
    manager : IoManager
        The bus.
    connect : callable
        Connects the two.
    """

    def __init__(self, manager: IoManager, connect: Connect) -> None:
        # In 16-bit mode, Unicorn cannot resume a guest that was stopped in protected mode. In 32-bit mode, with
        # protection switched off, it supports all modes that the guest switches to.
        self.uc = Uc(UC_ARCH_X86, UC_MODE_32)
        self._bridge = connect(self.uc, manager)
        self._error: Exception | None = None  # of an interrupt
        self.uc.hook_add(UC_HOOK_INTR, self._interrupt_instruction)
        self.uc.hook_add(UC_HOOK_MEM_READ_UNMAPPED | UC_HOOK_MEM_WRITE_UNMAPPED, self._map_open_bus)
        self._write(UC_X86_REG_CR0, CR0_AFTER_RESET)
        self._write(UC_X86_REG_CS, RESET_CS)
        self._write(UC_X86_REG_EIP, RESET_IP)

    def map_memory(self, base: int, size: int, content: bytes = b"", permissions: int = UC_PROT_ALL) -> None:
        """Map memory at a physical address, beginning with `content`."""
        self.uc.mem_map(base, size, permissions)
        self.uc.mem_write(base, content)

    def execute(self, count: int) -> None:
        """Execute up to `count` instructions; fewer if the guest halts or `stop` is called."""
        self._bridge.emu_start(self._read(UC_X86_REG_EIP), NEVER, count=count)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self) -> None:
        """Make a running `execute` return."""
        self.uc.emu_stop()

    @property
    def next_instruction(self) -> int:
        """Its linear address, in real mode or in flat protected-mode segments."""
        base = 0 if self._read(UC_X86_REG_CR0) & PROTECTED_MODE else self._read(UC_X86_REG_CS) << 4
        return base + self._read(UC_X86_REG_EIP)

    @property
    def interrupts_enabled(self) -> bool:
        """The interrupt flag."""
        return bool(self._read(UC_X86_REG_EFLAGS) & INTERRUPT_FLAG)

    @property
    def halted(self) -> bool:
        """Whether it seems to have halted: Unicorn does not say, but the last instruction ends like HLT."""
        return self._last_byte() == HLT

    @property
    def in_sti_shadow(self) -> bool:
        """Whether it may have just executed STI, and takes no interrupt before the next instruction, often HLT."""
        return self._last_byte() == STI

    def interrupt(self, vector: int) -> None:
        """Take an interrupt from outside.

        Raises
        ------
        TripleFaultError
            The guest cannot take it, nor the exceptions that follow.
        UnsupportedInterruptError
            The guest takes it in a way that is not supported.
        """
        deliver(self.uc, vector)

    def _interrupt_instruction(self, uc: Uc, vector: int, context: Any) -> None:
        """Take the interrupt of an INT instruction, after which EIP is, or an exception of the instruction at EIP."""
        end = self.next_instruction
        is_software = uc.mem_read((end - 2) & 0xFFFF_FFFF, 2) == bytes([INT, vector])
        # Unicorn does not tell the error code, which is 0 unless the fault is about a selector.
        error_code = 0 if vector in ERROR_CODES and not is_software else None
        try:
            deliver(uc, vector, error_code=error_code, is_software=is_software)
        except Exception as error:  # raised by `execute`: it cannot propagate from here
            self._error = error
            uc.emu_stop()

    def _map_open_bus(self, uc: Uc, access: int, address: int, size: int, value: int, context: Any) -> bool:
        """Make an undecoded address read as all ones, as on a PC: firmware probes for devices."""
        uc.mmio_map(
            address & -PAGE_SIZE,
            PAGE_SIZE,
            lambda uc, offset, size, context: (1 << 8 * size) - 1,
            None,
            lambda uc, offset, size, value, context: None,
            None,
        )
        return True

    def _last_byte(self) -> int:
        """Return the byte before the next instruction: the last instruction, if that was HLT or STI."""
        return int(self.uc.mem_read((self.next_instruction - 1) & 0xFFFF_FFFF, 1)[0])

    def _read(self, register: int) -> int:
        return int(self.uc.reg_read(register))

    def _write(self, register: int, value: int) -> None:
        self.uc.reg_write(register, value)
