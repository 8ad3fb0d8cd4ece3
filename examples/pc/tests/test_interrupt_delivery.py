"""Interrupts and exceptions of a protected-mode guest, which the CPU delivers."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("unicorn", reason="the CPU of the example PC is the package unicorn")

from unicorn.x86_const import (
    UC_X86_REG_CR0,
    UC_X86_REG_CS,
    UC_X86_REG_DS,
    UC_X86_REG_EAX,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_EIP,
    UC_X86_REG_ESP,
    UC_X86_REG_GDTR,
    UC_X86_REG_IDTR,
    UC_X86_REG_SS,
)

from dbs_device import IoManager
from dbs_device.unicorn import attach
from examples.pc.cpu import Cpu
from examples.pc.interrupt_delivery import TripleFaultError, UnsupportedInterruptError

GDT, IDT, TSS, CODE, HANDLER = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
STACK, INNER_STACK, USER_STACK = 0x8000, 0x9000, 0xA000
KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA, TASK, NARROW_CODE, ABSENT_CODE = range(0x08, 0x40, 8)
INTERRUPT_FLAG, TRAP_FLAG, ALWAYS_SET = 0x200, 0x100, 0x2

PRESENT, USER = 0x80, 0x60
INTERRUPT_GATE, TRAP_GATE, INTERRUPT_GATE_16, TASK_GATE = 0xE, 0xF, 0x6, 0x5

# What the guest executes, from CODE on.
NOP = b"\x90"
INT_40 = bytes.fromhex("cd40")
IRET, IRET_16 = b"\xcf", bytes.fromhex("66cf")
UNDEFINED = bytes.fromhex("0f0b")  # ud2
DIVIDE = bytes.fromhex("31d2 31c9 f7f1")  # xor edx, edx; xor ecx, ecx; div ecx
HLT = b"\xf4"


def descriptor(access: int, base: int = 0, limit: int = 0xFFFFF, flags: int = 0xC) -> bytes:
    return struct.pack(
        "<HHBBBB", limit & 0xFFFF, base & 0xFFFF, base >> 16 & 0xFF, access, flags << 4 | limit >> 16, base >> 24
    )


def gate(
    selector: int = KERNEL_CODE, kind: int = INTERRUPT_GATE, access: int = PRESENT, offset: int = HANDLER
) -> bytes:
    return struct.pack("<HHxBH", offset & 0xFFFF, selector, access | kind, offset >> 16)


class Guest:
    """A CPU in protected mode at CODE, with interrupts enabled; a handler at HANDLER halts if it is reached."""

    def __init__(self, code: bytes = NOP, gates: dict[int, bytes] | None = None, handler: bytes = HLT) -> None:
        self.cpu = Cpu(IoManager(), attach)
        self.cpu.map_memory(0, 0x10000)
        self.uc = self.cpu.uc
        self.write(CODE, code)
        self.write(HANDLER, handler)
        table = [
            bytes(8),
            descriptor(0x9B),
            descriptor(0x93),
            descriptor(0xFB),
            descriptor(0xF3),
            descriptor(0x8B, TSS, 0x67, 0),
            descriptor(0x9B, flags=0x8),
            descriptor(0x1B),
        ]
        self.write(GDT, b"".join(table))
        for vector, each in (gates or {}).items():
            self.write(IDT + 8 * vector, each)
        self.write(TSS, struct.pack("<III", 0, INNER_STACK, KERNEL_DATA))
        self.uc.reg_write(UC_X86_REG_GDTR, (0, GDT, 8 * len(table) - 1, 0))
        self.uc.reg_write(UC_X86_REG_IDTR, (0, IDT, 0x7FF, 0))
        self.uc.reg_write(UC_X86_REG_CR0, 0x11)
        self.uc.reg_write(UC_X86_REG_CS, KERNEL_CODE)
        for register in (UC_X86_REG_SS, UC_X86_REG_DS):
            self.uc.reg_write(register, KERNEL_DATA)
        self.uc.reg_write(UC_X86_REG_ESP, STACK)
        self.uc.reg_write(UC_X86_REG_EFLAGS, ALWAYS_SET | INTERRUPT_FLAG)
        self.load_task_register()
        self.uc.reg_write(UC_X86_REG_EIP, CODE)

    def write(self, address: int, content: bytes) -> None:
        self.uc.mem_write(address, content)

    def load_task_register(self) -> None:
        self.write(GDT + TASK, descriptor(0x89, TSS, 0x67, 0))  # not busy
        self.write(0x6000, bytes.fromhex("0f00d8"))  # ltr ax
        self.uc.reg_write(UC_X86_REG_EAX, TASK)
        self.uc.reg_write(UC_X86_REG_EIP, 0x6000)
        self.cpu.execute(1)

    def enter_user_mode(self, code: bytes) -> None:
        """Continue at CODE with privilege level 3."""
        self.write(CODE, code)
        self.write(0x7000, IRET)
        frame = struct.pack("<IIIII", CODE, USER_CODE | 3, ALWAYS_SET | INTERRUPT_FLAG, USER_STACK, USER_DATA | 3)
        self.write(STACK - 20, frame)
        self.uc.reg_write(UC_X86_REG_ESP, STACK - 20)
        self.uc.reg_write(UC_X86_REG_EIP, 0x7000)
        self.cpu.execute(1)
        assert (self.cs, self.eip, self.esp) == (USER_CODE | 3, CODE, USER_STACK)

    def stack(self, count: int) -> list[int]:
        """The top of the stack."""
        return list(struct.unpack(f"<{count}I", self.uc.mem_read(self.esp, 4 * count)))

    @property
    def cs(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_CS))

    @property
    def eip(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_EIP))

    @property
    def esp(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_ESP))

    @property
    def ss(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_SS))

    @property
    def flags(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_EFLAGS))


FLAGS = ALWAYS_SET | INTERRUPT_FLAG


# -- at the same privilege level


def test_an_interrupt_pushes_where_it_was_and_goes_through_its_gate() -> None:
    guest = Guest(gates={0x20: gate()})
    guest.cpu.interrupt(0x20)
    assert (guest.cs, guest.eip, guest.esp) == (KERNEL_CODE, HANDLER, STACK - 12)
    assert guest.stack(3) == [CODE, KERNEL_CODE, FLAGS]
    assert not guest.cpu.interrupts_enabled


def test_iret_returns_from_it() -> None:
    guest = Guest(code=NOP + HLT, gates={0x20: gate()}, handler=IRET)
    guest.cpu.interrupt(0x20)
    guest.cpu.execute(3)
    assert (guest.cs, guest.eip, guest.esp, guest.flags) == (KERNEL_CODE, CODE + 2, STACK, FLAGS)


def test_a_trap_gate_leaves_interrupts_enabled() -> None:
    guest = Guest(gates={0x20: gate(kind=TRAP_GATE)})
    guest.uc.reg_write(UC_X86_REG_EFLAGS, FLAGS | TRAP_FLAG)
    guest.cpu.interrupt(0x20)
    assert guest.flags & (INTERRUPT_FLAG | TRAP_FLAG) == INTERRUPT_FLAG


def test_a_16_bit_gate_pushes_words() -> None:
    guest = Guest(gates={0x20: gate(NARROW_CODE, INTERRUPT_GATE_16)})
    guest.cpu.interrupt(0x20)
    assert (guest.cs, guest.eip, guest.esp) == (NARROW_CODE, HANDLER, STACK - 6)
    assert struct.unpack("<HHH", guest.uc.mem_read(STACK - 6, 6)) == (CODE, KERNEL_CODE, FLAGS)


def test_an_int_instruction_returns_behind_itself() -> None:
    guest = Guest(code=INT_40 + NOP + HLT, gates={0x40: gate()}, handler=b"\x40" + IRET)  # inc eax
    guest.uc.reg_write(UC_X86_REG_EAX, 1)
    guest.cpu.execute(10)
    assert (guest.uc.reg_read(UC_X86_REG_EAX), guest.eip) == (2, CODE + 4)


def test_an_exception_returns_to_the_instruction() -> None:
    guest = Guest(code=DIVIDE, gates={0: gate()})
    guest.cpu.execute(10)
    assert guest.stack(2) == [CODE + 4, KERNEL_CODE]
    assert guest.esp == STACK - 12  # without an error code


def test_an_exception_with_an_error_code_pushes_it() -> None:
    guest = Guest(code=bytes.fromhex("b838000000 8ed8"), gates={11: gate(), 13: gate()})  # mov ds, ABSENT_CODE
    guest.cpu.execute(10)
    assert guest.esp == STACK - 16
    assert guest.stack(3)[1:] == [CODE + 5, KERNEL_CODE]


# -- privilege levels


def test_an_interrupt_of_user_code_switches_to_the_stack_of_the_tss() -> None:
    guest = Guest(gates={0x20: gate()})
    guest.enter_user_mode(NOP)
    guest.cpu.interrupt(0x20)
    assert (guest.cs, guest.eip, guest.ss, guest.esp) == (KERNEL_CODE, HANDLER, KERNEL_DATA, INNER_STACK - 20)
    assert guest.stack(5) == [CODE, USER_CODE | 3, FLAGS, USER_STACK, USER_DATA | 3]


def test_iret_returns_to_user_code() -> None:
    guest = Guest(gates={0x20: gate()}, handler=IRET)
    guest.enter_user_mode(NOP + NOP)
    guest.cpu.interrupt(0x20)
    guest.cpu.execute(2)
    assert (guest.cs, guest.eip, guest.ss, guest.esp) == (USER_CODE | 3, CODE + 1, USER_DATA | 3, USER_STACK)


def test_user_code_may_call_through_a_gate_of_its_level() -> None:
    guest = Guest(gates={0x40: gate(access=PRESENT | USER)})
    guest.enter_user_mode(INT_40)
    guest.cpu.execute(2)
    assert (guest.cs, guest.stack(2)) == (KERNEL_CODE, [CODE + 2, USER_CODE | 3])


def test_user_code_may_not_call_through_another_gate() -> None:
    """#GP, with the index of the gate."""
    guest = Guest(gates={0x40: gate(), 13: gate(offset=HANDLER + 1)}, handler=HLT + HLT)
    guest.enter_user_mode(INT_40)
    guest.cpu.execute(2)
    assert (guest.cs, guest.eip) == (KERNEL_CODE, HANDLER + 2)
    assert guest.stack(3) == [0x40 * 8 | 2, CODE + 2, USER_CODE | 3]


def test_interrupts_from_outside_do_not_need_a_gate_of_the_level() -> None:
    guest = Guest(gates={0x40: gate()})
    guest.enter_user_mode(NOP)
    guest.cpu.interrupt(0x40)
    assert guest.cs == KERNEL_CODE


# -- faults while an interrupt is delivered


@pytest.mark.parametrize(
    ("wrong", "vector", "error_code"),
    [
        (bytes(8), 13, 0x20 * 8 | 3),
        (gate(access=0), 11, 0x20 * 8 | 3),
        (gate(selector=0), 13, 1),
        (gate(selector=0x400), 13, 0x400 | 1),
        (gate(selector=KERNEL_DATA), 13, KERNEL_DATA | 1),
        (gate(selector=ABSENT_CODE), 11, ABSENT_CODE | 1),
    ],
)
def test_a_wrong_gate_raises_a_fault(wrong: bytes, vector: int, error_code: int) -> None:
    guest = Guest(gates={0x20: wrong, vector: gate(offset=HANDLER + 1)})
    guest.cpu.interrupt(0x20)
    assert guest.eip == HANDLER + 1
    assert guest.stack(3) == [error_code, CODE, KERNEL_CODE]


def test_a_gate_outside_the_table_raises_a_fault() -> None:
    guest = Guest(gates={13: gate()})
    guest.uc.reg_write(UC_X86_REG_IDTR, (0, IDT, 8 * 0x20 - 1, 0))
    guest.cpu.interrupt(0x20)
    assert guest.stack(1) == [0x20 * 8 | 3]


def test_a_tss_without_a_stack_raises_a_fault() -> None:
    """The fault is delivered by a conforming handler at the level of the guest: there is no other stack."""
    guest = Guest(gates={0x20: gate(), 10: gate(USER_CODE)})
    guest.write(TSS, bytes(12))
    guest.enter_user_mode(NOP)
    guest.cpu.interrupt(0x20)
    assert (guest.cs, guest.eip) == (USER_CODE | 3, HANDLER)
    assert guest.stack(1) == [1]


def test_a_fault_in_a_fault_is_a_double_fault() -> None:
    guest = Guest(gates={8: gate()})
    guest.cpu.interrupt(0x20)  # no gate: #GP, which does not have one either
    assert guest.eip == HANDLER
    assert guest.stack(2) == [0, CODE]


def test_a_third_fault_shuts_the_cpu_down() -> None:
    guest = Guest()
    with pytest.raises(TripleFaultError, match="interrupt 0x8 at 0x8:0x4000"):
        guest.cpu.interrupt(0x20)
    guest = Guest(code=INT_40)
    with pytest.raises(TripleFaultError):
        guest.cpu.execute(1)
    guest.write(IDT + 8 * 0x40, gate())
    guest.uc.reg_write(UC_X86_REG_EIP, CODE)
    guest.cpu.execute(2)
    assert guest.eip == HANDLER + 1


# -- what is left out


def test_a_task_gate_is_not_supported() -> None:
    with pytest.raises(UnsupportedInterruptError, match="task gate"):
        Guest(gates={0x20: gate(TASK, TASK_GATE)}).cpu.interrupt(0x20)


def test_paging_is_not_supported() -> None:
    guest = Guest(gates={0x20: gate()})
    guest.uc.reg_write(UC_X86_REG_CR0, 0x8000_0011)
    with pytest.raises(UnsupportedInterruptError, match="paging"):
        guest.cpu.interrupt(0x20)
