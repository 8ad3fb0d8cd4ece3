"""A Unicorn arm64 CPU, with what Unicorn leaves to its users.

Unicorn's CPU has neither interrupt lines nor a timer of the machine's time, and stops at exceptions and at calls of
firmware (HVC). All that is done here, as in the ARM Architecture Reference Manual (DDI 0487), chapter D1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from unicorn import (
    UC_ARCH_ARM64,
    UC_ERR_EXCEPTION,
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_PROT,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_MEM_INVALID,
    UC_MODE_ARM,
    UC_TLB_VIRTUAL,
    Uc,
    UcError,
)
from unicorn import arm64_const as arm64

from dbs_device import IoManager
from dbs_device.clock import NS_PER_SECOND, Clock
from dbs_device.state import AttributeState
from dbs_device.unicorn import attach

__all__ = ["COUNTER_FREQUENCY", "Cpu"]

COUNTER_FREQUENCY = 62_500_000  # Hz, as QEMU's
SLICE = 50_000  # instructions between two looks at the clock and at the interrupt line
INSTRUCTION_TIME = 1  # ns

LONGEST_WAIT = NS_PER_SECOND // 50  # until the serial line is looked at
NEVER = 0xFFFF_FFFF_FFFF_FFFF  # not the address of an instruction
PSTATE_MASK_ALL, PSTATE_IRQ_MASKED = 0x3C0, 0x080
EL1H = 0x005
# Offsets in the vector table, of exceptions taken from EL1 with its own stack pointer.
SYNCHRONOUS, IRQ = 0x200, 0x280
# Exception classes and what else is in the syndrome register.
UNKNOWN, SVC, BREAKPOINT, INSTRUCTION_ABORT, DATA_ABORT = 0x00, 0x15, 0x3C, 0x21, 0x25
INSTRUCTION_OF_4_BYTES, EXTERNAL_ABORT, IS_WRITE = 1 << 25, 0x10, 1 << 6

HVC, SMC, CALL_MASK = 0xD400_0002, 0xD400_0003, 0xFFE0_001F
SVC_INSTRUCTION, BRK_INSTRUCTION, WFI = 0xD400_0001, 0xD420_0000, 0xD503_207F

ABORTS = {
    UC_ERR_READ_UNMAPPED: (DATA_ABORT, 0),
    UC_ERR_WRITE_UNMAPPED: (DATA_ABORT, IS_WRITE),
    UC_ERR_WRITE_PROT: (DATA_ABORT, IS_WRITE),
    UC_ERR_FETCH_UNMAPPED: (INSTRUCTION_ABORT, 0),
    UC_ERR_FETCH_PROT: (INSTRUCTION_ABORT, 0),
}

# System registers as (op0, op1, CRn, CRm, op2).
SystemRegister = tuple[int, int, int, int, int]
CNTFRQ, CNTPCT, CNTVCT = (3, 3, 14, 0, 0), (3, 3, 14, 0, 1), (3, 3, 14, 0, 2)
SPSR, ELR, VBAR, ESR, FAR = (3, 0, 4, 0, 0), (3, 0, 4, 0, 1), (3, 0, 12, 0, 0), (3, 0, 5, 2, 0), (3, 0, 6, 0, 0)
SCTLR, CPACR, TTBR0, TTBR1, TCR = (3, 0, 1, 0, 0), (3, 0, 1, 0, 2), (3, 0, 2, 0, 0), (3, 0, 2, 0, 1), (3, 0, 2, 0, 2)
MAIR, SP_EL0, TPIDR_EL0, TPIDR_EL1 = (3, 0, 10, 2, 0), (3, 0, 4, 1, 0), (3, 3, 13, 0, 2), (3, 0, 13, 0, 4)
SAVED_SYSTEM_REGISTERS = (
    SPSR, ELR, VBAR, ESR, FAR, SCTLR, CPACR, TTBR0, TTBR1, TCR, MAIR, SP_EL0, TPIDR_EL0, TPIDR_EL1,
)  # fmt: skip
GENERAL = [getattr(arm64, f"UC_ARM64_REG_X{number}") for number in range(31)]
SAVED_REGISTERS = [*GENERAL, arm64.UC_ARM64_REG_SP, arm64.UC_ARM64_REG_PC, arm64.UC_ARM64_REG_PSTATE]
VECTORS = [getattr(arm64, f"UC_ARM64_REG_V{number}") for number in range(32)]
SAVED_CONTROL = [arm64.UC_ARM64_REG_FPCR, arm64.UC_ARM64_REG_FPSR]


class GenericTimer(AttributeState):
    """The counter of the processor and one of its timers, on the machine's clock.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    number : int
        CRm of the timer's registers: 2 for the physical timer, 3 for the virtual one.
    irq : callable
        The line of its interrupt.
    """

    saved: ClassVar[Mapping[str, Any]] = {"_control": range(4), "_compare": range(1 << 64), "_timer": None}

    def __init__(self, clock: Clock, number: int, irq: Callable[[bool], object]) -> None:
        self._clock = clock
        self._irq = irq
        self._value, self._control_register, self._compare_register = ((3, 3, 14, number, op2) for op2 in range(3))
        self._control = 0
        self._compare = 0
        self._timer = clock.timer(self._update)

    @property
    def count(self) -> int:
        return self._clock.now() * COUNTER_FREQUENCY // NS_PER_SECOND

    def read(self, register: SystemRegister) -> int | None:
        """Return the value of a register, or None if it is not one of the timer."""
        if register in (CNTPCT, CNTVCT):
            return self.count
        if register == CNTFRQ:
            return COUNTER_FREQUENCY
        if register == self._control_register:
            return self._control | (4 if self._is_due(self.count) else 0)
        if register == self._compare_register:
            return self._compare
        if register == self._value:
            return self._compare - self.count & 0xFFFF_FFFF
        return None

    def write(self, register: SystemRegister, value: int) -> bool:
        """Write a register; return whether it is one of the timer."""
        if register == self._control_register:
            self._control = value & 3
        elif register == self._compare_register:
            self._compare = value
        elif register == self._value:
            self._compare = self.count + (value & 0x7FFF_FFFF) - (value & 0x8000_0000) & (1 << 64) - 1
        else:
            return False
        self._update(self._clock.now())
        return True

    def _is_due(self, count: int) -> bool:
        return bool(self._control & 1) and count >= self._compare

    def _update(self, now: int) -> None:
        is_due = self._is_due(now * COUNTER_FREQUENCY // NS_PER_SECOND)
        if self._control & 1 and not is_due:
            self._timer.set(-(-self._compare * NS_PER_SECOND // COUNTER_FREQUENCY))
        else:
            self._timer.cancel()
        self._irq(is_due and not self._control & 2)


class Cpu:
    """The CPU, at EL1, with the board's memory.

    Parameters
    ----------
    manager : IoManager
        The address map.
    clock : Clock
        The machine's time.
    timer_irqs : pair of callable
        The lines of the physical and of the virtual timer's interrupt.
    call : callable
        Called with function ID and arguments of a call of firmware; returns its result.
    """

    def __init__(
        self,
        manager: IoManager,
        clock: Clock,
        timer_irqs: tuple[Callable[[bool], object], Callable[[bool], object]],
        call: Callable[[int, list[int]], int],
    ) -> None:
        self._clock = clock
        self._call = call
        self.timers = [GenericTimer(clock, number, irq) for number, irq in zip((2, 3), timer_irqs, strict=True)]
        self.uc: Any = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        # Unicorn 2.1 stops with a prefetch abort when this firmware switches its MMU on. The firmware maps every
        # address to itself, which is what Unicorn does in this mode without looking at the guest's tables.
        self.uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
        self.bridge = attach(self.uc, manager)
        self.uc.hook_add(UC_HOOK_INTR, self._exception_hook)
        self.uc.hook_add(UC_HOOK_MEM_INVALID, self._invalid_hook)
        self.uc.hook_add(UC_HOOK_INSN, self._read_system_register, None, 1, 0, arm64.UC_ARM64_INS_MRS)
        self.uc.hook_add(UC_HOOK_INSN, self._write_system_register, None, 1, 0, arm64.UC_ARM64_INS_MSR)
        self._irq = False
        self._stopping = False
        self._exception: int | None = None
        self._fault_address = 0

    # What Unicorn calls.

    def _exception_hook(self, uc: Any, number: int, context: object) -> None:
        self._exception = number
        uc.emu_stop()

    def _invalid_hook(self, uc: Any, kind: int, address: int, size: int, value: int, context: object) -> bool:
        self._fault_address = address
        return False

    def _read_system_register(self, uc: Any, register: int, system: Any, context: object) -> bool:
        key = (system.op0, system.op1, system.crn, system.crm, system.op2)
        for timer in self.timers:
            if (value := timer.read(key)) is not None:
                uc.reg_write(register, value)
                return True
        return False

    def _write_system_register(self, uc: Any, register: int, system: Any, context: object) -> bool:
        key = (system.op0, system.op1, system.crn, system.crm, system.op2)
        return any(timer.write(key, uc.reg_read(register)) for timer in self.timers)

    # Running.

    def set_irq(self, level: bool) -> None:
        """Set the level of the IRQ input. Any thread may call it."""
        self._irq = level
        if level:
            self._clock.wake()

    def stop(self) -> None:
        """End `run` within a slice. Any thread may call it."""
        # Not by `emu_stop`, which other threads call: stopped like that, this guest has gone on at a wrong address.
        self._stopping = True
        self._clock.wake()

    def run(self, look: Callable[[], object]) -> None:
        """Run until `stop` is called.

        Parameters
        ----------
        look : callable
            Called between two slices.

        Raises
        ------
        Exception
            Whatever a device raises.
        unicorn.UcError
            Unicorn fails, and not because of an access to memory that is not there.
        """
        self._stopping = False
        while not self._stopping:
            self._clock.now()
            look()
            if self._irq and not self._pstate & PSTATE_IRQ_MASKED:
                self._take_exception(IRQ, self.pc)
            self._run_slice(look)

    def _run_slice(self, look: Callable[[], object]) -> None:
        self._exception = None
        try:
            self.bridge.emu_start(self.pc, NEVER, count=SLICE)
        except UcError as error:
            if error.errno in ABORTS:
                kind, flags = ABORTS[error.errno]
                self._take_synchronous(kind, EXTERNAL_ABORT | flags, self.pc, self._fault_address)
                return
            if error.errno != UC_ERR_EXCEPTION:
                raise
        finally:
            self._clock.count_work(SLICE * INSTRUCTION_TIME)
        if self._exception is not None:
            self._handle_exception()
        elif not self._stopping and self._instruction(self.pc - 4) == WFI:
            self._wait(look)

    def _wait(self, look: Callable[[], object]) -> None:
        """Let time pass until there is an interrupt."""
        while not self._irq and not self._stopping:
            event = self._clock.next_event()
            latest = self._clock.read() + LONGEST_WAIT
            self._clock.wait_until(latest if event is None else min(event, latest))
            self._clock.now()
            look()

    def _handle_exception(self) -> None:
        # Without EL2, Unicorn takes a call of firmware for an undefined instruction, and stands at it.
        pc = self.pc
        instruction = self._instruction(pc)
        before = self._instruction(pc - 4)
        if instruction & CALL_MASK in (HVC, SMC):
            x0, *arguments = (self.uc.reg_read(register) for register in GENERAL[:4])
            self.uc.reg_write(GENERAL[0], self._call(x0, arguments) & (1 << 64) - 1)
            self.pc = pc + 4
        elif before & CALL_MASK == SVC_INSTRUCTION:
            self._take_synchronous(SVC, before >> 5 & 0xFFFF, pc)
        elif instruction & CALL_MASK == BRK_INSTRUCTION:
            self._take_synchronous(BREAKPOINT, instruction >> 5 & 0xFFFF, pc)
        else:
            self._take_synchronous(UNKNOWN, 0, pc)

    def _take_synchronous(self, kind: int, syndrome: int, pc: int, address: int | None = None) -> None:
        self.uc.cpr_write(*ESR, kind << 26 | INSTRUCTION_OF_4_BYTES | syndrome)
        if address is not None:
            self.uc.cpr_write(*FAR, address)
        self._take_exception(SYNCHRONOUS, pc)

    def _take_exception(self, offset: int, pc: int) -> None:
        pstate = self._pstate
        if pstate & 0xF != EL1H:
            raise NotImplementedError(f"an exception at {pc:#x}, not from EL1 with its own stack: PSTATE {pstate:#x}")
        self.uc.cpr_write(*SPSR, pstate)
        self.uc.cpr_write(*ELR, pc)
        self.uc.reg_write(arm64.UC_ARM64_REG_PSTATE, pstate & ~0xF | PSTATE_MASK_ALL | EL1H)
        self.pc = self.uc.cpr_read(*VBAR) + offset

    def _instruction(self, address: int) -> int:
        try:
            return struct.unpack("<I", self.uc.mem_read(address, 4))[0]
        except UcError:
            return 0

    # Registers.

    @property
    def pc(self) -> int:
        """The program counter."""
        return self.uc.reg_read(arm64.UC_ARM64_REG_PC)

    @pc.setter
    def pc(self, address: int) -> None:
        self.uc.reg_write(arm64.UC_ARM64_REG_PC, address)

    @property
    def _pstate(self) -> int:
        return self.uc.reg_read(arm64.UC_ARM64_REG_PSTATE)

    def save_state(self) -> dict[str, Any]:
        """Return the registers."""
        return {
            "registers": [self.uc.reg_read(register) for register in SAVED_REGISTERS],
            "vectors": [self.uc.reg_read(register).to_bytes(16, "little") for register in VECTORS],
            "control": [self.uc.reg_read(register) for register in SAVED_CONTROL],
            "system": [self.uc.cpr_read(*register) for register in SAVED_SYSTEM_REGISTERS],
            "timers": [timer.save_state() for timer in self.timers],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the registers."""
        for register, value in zip(SAVED_SYSTEM_REGISTERS, state["system"], strict=True):
            self.uc.cpr_write(*register, value)
        for register, value in zip(SAVED_CONTROL, state["control"], strict=True):
            self.uc.reg_write(register, value)
        for register, value in zip(VECTORS, state["vectors"], strict=True):
            self.uc.reg_write(register, int.from_bytes(value, "little"))
        # PSTATE first: it chooses the stack pointer.
        for register, value in reversed(list(zip(SAVED_REGISTERS, state["registers"], strict=True))):
            self.uc.reg_write(register, value)
        for timer, saved in zip(self.timers, state["timers"], strict=True):
            timer.load_state(saved)
        self.uc.ctl_flush_tb()
