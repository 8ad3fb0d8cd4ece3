"""The Unicorn CPU of the example PC alone."""

from __future__ import annotations

import struct

import pytest

pytest.importorskip("unicorn", reason="the CPU of the example PC is the package unicorn")

from unicorn import UcError
from unicorn.x86_const import UC_X86_REG_AX, UC_X86_REG_SP

from dbs_device import IoManager
from dbs_device.unicorn import attach
from examples.pc.cpu import Cpu


def make_cpu(code: str, manager: IoManager) -> Cpu:
    """Return a CPU with a page of memory at the reset vector, and code there."""
    cpu = Cpu(manager, attach)
    cpu.map_memory(0xFF000, 0x1000, bytes(0xFF0) + bytes.fromhex(code))
    return cpu


def test_unmapped_memory_reads_as_all_ones_and_ignores_writes() -> None:
    cpu = make_cpu("a1 00 50  c6 06 00 50 00  f4", IoManager())  # mov ax, [0x5000]; mov byte [0x5000], 0
    cpu.execute(100)
    assert cpu.uc.reg_read(UC_X86_REG_AX) == 0xFFFF
    assert (cpu.halted, cpu.next_instruction) == (True, 0xFFFF9)


def test_unmapped_code_is_an_error() -> None:
    with pytest.raises(UcError, match=r"UC_ERR_FETCH_UNMAPPED"):
        make_cpu("ea 00 00 00 20", IoManager()).execute(100)  # jmp 0x2000:0


def test_stops_after_the_count_and_goes_on() -> None:
    cpu = make_cpu("40 40 40 f4", IoManager())  # inc ax
    cpu.execute(2)
    assert (cpu.uc.reg_read(UC_X86_REG_AX), cpu.halted) == (2, False)
    cpu.execute(2)
    assert (cpu.uc.reg_read(UC_X86_REG_AX), cpu.halted) == (3, True)


def test_interrupt_pushes_where_it_was_and_goes_through_the_vector_table() -> None:
    cpu = make_cpu("fb f4", IoManager())  # sti; hlt
    cpu.map_memory(0, 0x1000, bytes(4 * 8) + bytes.fromhex("3412 00f0"))
    cpu.uc.reg_write(UC_X86_REG_SP, 0x800)
    cpu.execute(1)
    assert (cpu.in_sti_shadow, cpu.interrupts_enabled) == (True, True)
    cpu.execute(1)
    cpu.interrupt(8)
    assert (cpu.next_instruction, cpu.interrupts_enabled) == (0xF1234, False)
    frame = struct.unpack("<HHH", cpu.uc.mem_read(0x7FA, 6))
    assert (frame[0], frame[1], frame[2] & 0x200) == (0xFFF2, 0xF000, 0x200)
    assert cpu.uc.reg_read(UC_X86_REG_SP) == 0x7FA
