"""How an x86 CPU takes an interrupt or exception: what Unicorn leaves to its users.

After the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, chapter 6, for 32-bit guests without
paging. Left out: task gates, virtual-8086 mode.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from unicorn import UcError
from unicorn.x86_const import (
    UC_X86_REG_CR0,
    UC_X86_REG_CS,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_EIP,
    UC_X86_REG_ESP,
    UC_X86_REG_GDTR,
    UC_X86_REG_IDTR,
    UC_X86_REG_LDTR,
    UC_X86_REG_SS,
    UC_X86_REG_TR,
)

__all__ = ["ERROR_CODES", "TripleFaultError", "UnsupportedInterruptError", "deliver"]

PROTECTED_MODE, PAGING = 1 << 0, 1 << 31  # CR0
TRAP_FLAG, INTERRUPT_FLAG, NESTED_TASK, RESUME_FLAG, VIRTUAL_8086 = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17

DOUBLE_FAULT, INVALID_TSS, NOT_PRESENT, STACK_FAULT, GENERAL_PROTECTION, PAGE_FAULT = 8, 10, 11, 12, 13, 14
ERROR_CODES = frozenset({DOUBLE_FAULT, INVALID_TSS, NOT_PRESENT, STACK_FAULT, GENERAL_PROTECTION, PAGE_FAULT, 17})
EXTERNAL, IN_IDT = 1, 2  # error code: not by an instruction; the index is one of the IDT
GATE_SIZE = DESCRIPTOR_SIZE = 8
INTERRUPT_GATES, TRAP_GATES = (0x6, 0xE), (0x7, 0xF)  # of 16 and 32 bits
TSS_32 = 0x8  # of the type of a TSS: not of 16 bits


class UnsupportedInterruptError(Exception):
    """The guest takes an interrupt in a way that is not supported."""


class TripleFaultError(Exception):
    """A fault could not be delivered, nor could the double fault that follows it: the CPU has shut down."""


class FaultError(Exception):
    """An exception that delivering another one, or an interrupt, raises."""

    def __init__(self, vector: int, error_code: int) -> None:
        super().__init__(vector, error_code)
        self.vector = vector
        self.error_code = error_code


class Segment(NamedTuple):
    selector: int
    base: int
    limit: int
    access: int  # the byte at 5: type, S, DPL, P
    is_32_bit: bool

    @property
    def privilege(self) -> int:
        return self.access >> 5 & 3

    @property
    def is_code(self) -> bool:
        return self.access & 0x18 == 0x18

    @property
    def is_conforming(self) -> bool:
        return bool(self.access & 4)

    @property
    def is_writable_data(self) -> bool:
        return self.access & 0x1A == 0x12

    @property
    def is_present(self) -> bool:
        return bool(self.access & 0x80)


def deliver(uc: Any, vector: int, *, error_code: int | None = None, is_software: bool = False) -> None:
    """Make a CPU continue at the handler of an interrupt or exception.

    Parameters
    ----------
    uc : unicorn.Uc
        The CPU, in 32-bit mode.
    vector : int
        Of the interrupt.
    error_code : int, optional
        What an exception pushes.
    is_software : bool
        Whether an INT instruction has caused it, which needs a gate of its privilege level.

    Raises
    ------
    TripleFaultError
        The CPU has shut down.
    UnsupportedInterruptError
        This needs what is left out.
    """
    if not uc.reg_read(UC_X86_REG_CR0) & PROTECTED_MODE:
        _deliver_in_real_mode(uc, vector)
        return
    try:
        _deliver_in_protected_mode(uc, vector, error_code, is_software)
    except FaultError as first:
        is_contributory = vector in ERROR_CODES and error_code is not None
        second = FaultError(DOUBLE_FAULT, 0) if is_contributory else first
        if vector == DOUBLE_FAULT and is_contributory:
            raise TripleFaultError(f"{_describe(uc, vector)}: {first}") from first
        deliver(uc, second.vector, error_code=second.error_code)


def _deliver_in_real_mode(uc: Any, vector: int) -> None:
    """Push FLAGS, CS and IP, and continue at the handler in the vector table."""
    flags = uc.reg_read(UC_X86_REG_EFLAGS)
    stack = uc.reg_read(UC_X86_REG_ESP)
    top = (stack - 6) & 0xFFFF
    frame = struct.pack("<HHH", uc.reg_read(UC_X86_REG_EIP) & 0xFFFF, uc.reg_read(UC_X86_REG_CS), flags & 0xFFFF)
    uc.mem_write((uc.reg_read(UC_X86_REG_SS) << 4) + top, frame)
    offset, segment = struct.unpack("<HH", uc.mem_read(4 * vector, 4))
    uc.reg_write(UC_X86_REG_ESP, stack & ~0xFFFF | top)
    uc.reg_write(UC_X86_REG_EFLAGS, flags & ~(INTERRUPT_FLAG | TRAP_FLAG))
    uc.reg_write(UC_X86_REG_CS, segment)
    uc.reg_write(UC_X86_REG_EIP, offset)


def _deliver_in_protected_mode(uc: Any, vector: int, error_code: int | None, is_software: bool) -> None:
    flags = uc.reg_read(UC_X86_REG_EFLAGS)
    if uc.reg_read(UC_X86_REG_CR0) & PAGING or flags & VIRTUAL_8086:
        raise UnsupportedInterruptError(f"{_describe(uc, vector)}, with paging or in virtual-8086 mode")
    external = 0 if is_software else EXTERNAL
    of_gate = vector * GATE_SIZE | IN_IDT | external
    privilege = uc.reg_read(UC_X86_REG_CS) & 3

    _, table, limit, _ = uc.reg_read(UC_X86_REG_IDTR)
    if vector * GATE_SIZE + GATE_SIZE - 1 > limit:
        raise FaultError(GENERAL_PROTECTION, of_gate)
    low, selector, access, high = struct.unpack("<HHxBH", uc.mem_read(table + vector * GATE_SIZE, GATE_SIZE))
    kind = access & 0x1F
    if kind == 0x5:
        raise UnsupportedInterruptError(f"{_describe(uc, vector)}, through a task gate")
    if kind not in INTERRUPT_GATES + TRAP_GATES or (is_software and access >> 5 & 3 < privilege):
        raise FaultError(GENERAL_PROTECTION, of_gate)
    if not access & 0x80:
        raise FaultError(NOT_PRESENT, of_gate)
    is_32_bit = bool(kind & 8)

    code = _segment(uc, selector, GENERAL_PROTECTION, external)
    if not code.is_code or code.privilege > privilege:
        raise FaultError(GENERAL_PROTECTION, selector & ~3 | external)
    if not code.is_present:
        raise FaultError(NOT_PRESENT, selector & ~3 | external)
    new_privilege = privilege if code.is_conforming else code.privilege

    frame = [flags, uc.reg_read(UC_X86_REG_CS), uc.reg_read(UC_X86_REG_EIP)]
    old_stack = uc.reg_read(UC_X86_REG_SS), uc.reg_read(UC_X86_REG_ESP)
    if new_privilege < privilege:
        stack_selector, pointer = _inner_stack(uc, new_privilege, external)
        stack = _segment(uc, stack_selector, INVALID_TSS, external)
        if not stack.is_writable_data or stack.privilege != new_privilege:
            raise FaultError(INVALID_TSS, stack_selector & ~3 | external)
        if not stack.is_present:
            raise FaultError(STACK_FAULT, stack_selector & ~3 | external)
        frame = [*old_stack, *frame]
    else:
        stack_selector, pointer = old_stack
        stack = _segment(uc, stack_selector, STACK_FAULT, external)
    if error_code is not None:
        frame.append(error_code)

    pushed = struct.pack(
        f"<{len(frame)}{'I' if is_32_bit else 'H'}",
        *(value & (0xFFFF_FFFF if is_32_bit else 0xFFFF) for value in reversed(frame)),
    )
    mask = 0xFFFF_FFFF if stack.is_32_bit else 0xFFFF
    top = (pointer - len(pushed)) & mask
    try:
        uc.mem_write(stack.base + top & 0xFFFF_FFFF, pushed)
    except UcError as error:
        raise UnsupportedInterruptError(f"{_describe(uc, vector)}, with a stack outside memory") from error

    cleared = TRAP_FLAG | NESTED_TASK | RESUME_FLAG | (INTERRUPT_FLAG if kind in INTERRUPT_GATES else 0)
    if new_privilege < privilege:
        _enter_level_0(uc)
    uc.reg_write(UC_X86_REG_CS, selector & ~3 | new_privilege)
    if new_privilege < privilege:
        uc.reg_write(UC_X86_REG_SS, stack_selector)
    uc.reg_write(UC_X86_REG_ESP, pointer & ~mask | top)
    uc.reg_write(UC_X86_REG_EFLAGS, flags & ~cleared)
    uc.reg_write(UC_X86_REG_EIP, low | high << 16 if is_32_bit else low)


def _enter_level_0(uc: Any) -> None:
    """Unicorn refuses the selectors of an inner level, as a move would be. In real mode, any makes the level 0."""
    control = uc.reg_read(UC_X86_REG_CR0)
    uc.reg_write(UC_X86_REG_CR0, control & ~PROTECTED_MODE)
    uc.reg_write(UC_X86_REG_SS, 0)
    uc.reg_write(UC_X86_REG_CR0, control)


def _segment(uc: Any, selector: int, vector: int, external: int) -> Segment:
    """Return the segment of a selector, or raise the fault of a wrong one."""
    _, table, limit, _ = uc.reg_read(UC_X86_REG_LDTR if selector & 4 else UC_X86_REG_GDTR)
    index = selector & ~7
    if selector & ~3 == 0 or index + DESCRIPTOR_SIZE - 1 > limit:
        raise FaultError(vector, selector & ~3 | external)
    limit_low, base_low, base_middle, access, more, base_high = struct.unpack(
        "<HHBBBB", uc.mem_read(table + index, DESCRIPTOR_SIZE)
    )
    limit = limit_low | (more & 0xF) << 16
    if more & 0x80:
        limit = limit << 12 | 0xFFF
    return Segment(selector, base_low | base_middle << 16 | base_high << 24, limit, access, bool(more & 0x40))


def _inner_stack(uc: Any, privilege: int, external: int) -> tuple[int, int]:
    """Return the selector and the pointer of the stack of an inner level, which the task state segment has."""
    selector, table, limit, flags = uc.reg_read(UC_X86_REG_TR)
    is_32_bit = bool(flags >> 8 & TSS_32)
    layout = "<IH" if is_32_bit else "<HH"
    offset = 4 + 8 * privilege if is_32_bit else 2 + 4 * privilege
    if offset + struct.calcsize(layout) - 1 > limit:
        raise FaultError(INVALID_TSS, selector & ~3 | external)
    pointer, stack_selector = struct.unpack(layout, uc.mem_read(table + offset, struct.calcsize(layout)))
    return stack_selector, pointer


def _describe(uc: Any, vector: int) -> str:
    return f"interrupt {vector:#x} at {uc.reg_read(UC_X86_REG_CS):#x}:{uc.reg_read(UC_X86_REG_EIP):#x}"
