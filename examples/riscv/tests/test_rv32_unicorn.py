"""The core and Unicorn's RISC-V core do the same: register by register, and byte by byte of memory."""

from __future__ import annotations

import itertools
import random

import pytest

pytest.importorskip("unicorn", reason="the reference is the package unicorn")
pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

from hypothesis import given, settings
from hypothesis import strategies as st
from riscv_helpers import (
    ATOMICS,
    BRANCHES,
    IMMEDIATE_OPERATIONS,
    LOADS,
    RAM_BASE,
    RAM_SIZE,
    REGISTER_OPERATIONS,
    SHIFTS,
    STORES,
    Bench,
    assemble,
    program,
)
from unicorn import UC_ARCH_RISCV, UC_MODE_RISCV32, Uc, riscv_const

DATA = RAM_BASE + 0x4000
DATA_SIZE = 0x1000
BASE, WORD = 8, 9  # registers that programs do not write: an address in the middle of the data, and one of a word there
RESULTS = [number for number in range(32) if number not in (BASE, WORD)]
CORNERS = [0, 1, 2, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x80000000, 0x80000001, 31, 32, 33, 0x55555555, 0xDEADBEEF]
IDS = [getattr(riscv_const, f"UC_RISCV_REG_X{number}") for number in range(32)]


class Reference:
    """Unicorn with the same RAM."""

    def __init__(self) -> None:
        self.uc = Uc(UC_ARCH_RISCV, UC_MODE_RISCV32)
        self.uc.mem_map(RAM_BASE, RAM_SIZE)

    def run(self, code: bytes, registers: list[int], count: int, data: bytes = b"") -> tuple[list[int], int, bytes]:
        uc = self.uc
        uc.mem_write(RAM_BASE, code)
        if data:
            uc.mem_write(DATA, data)
        for number, value in zip(IDS[1:], registers[1:], strict=True):
            uc.reg_write(number, value)
        uc.ctl_flush_tb()
        uc.emu_start(RAM_BASE, RAM_BASE + len(code), count=count)
        after = [uc.reg_read(number) & 0xFFFFFFFF for number in IDS]
        return after, uc.reg_read(riscv_const.UC_RISCV_REG_PC) & 0xFFFFFFFF, bytes(uc.mem_read(DATA, DATA_SIZE))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def random_instruction(rng: random.Random, place: int, length: int) -> int:
    """Return an instruction that stays within the data, and, where it branches, ahead in the program."""
    rd, rs1, rs2 = rng.choice(RESULTS), rng.randrange(32), rng.randrange(32)
    immediate = rng.choice([0, 1, -1, 2047, -2048, rng.randrange(-2048, 2048)])
    kind = rng.choices(
        ["register", "immediate", "shift", "load", "store", "atomic", "branch", "upper", "jump", "fence"],
        [30, 15, 10, 10, 10, 10, 8, 4, 2, 1],
    )[0]
    if kind == "register":
        return assemble(rng.choice(list(REGISTER_OPERATIONS)), rd, rs1, rs2)
    if kind == "immediate":
        return assemble(rng.choice(list(IMMEDIATE_OPERATIONS)), rd, rs1, immediate)
    if kind == "shift":
        return assemble(rng.choice(list(SHIFTS)), rd, rs1, rng.randrange(32))
    if kind == "load":
        return assemble(rng.choice(list(LOADS)), rd, min(immediate, 2044), BASE)  # misaligned ones included
    if kind == "store":
        return assemble(rng.choice(list(STORES)), rs2, min(immediate, 2044), BASE)
    if kind == "atomic":
        name = rng.choice(list(ATOMICS))
        return assemble(name, rd, WORD) if name == "lr.w" else assemble(name, rd, rs2, WORD)
    if kind == "upper":
        return assemble(rng.choice(["lui", "auipc"]), rd, rng.randrange(1 << 20))
    if kind == "fence":
        return assemble(rng.choice(["fence", "fence.i"]))
    distance = 4 * rng.randrange(1, max(2, length - place))
    if kind == "branch":
        return assemble(rng.choice(list(BRANCHES)), rs1, rs2, distance)
    return assemble("jal", rd, distance)


@settings(max_examples=300)
@given(seed=st.integers(0, 2**64 - 1))
def test_random_programs(reference: Reference, seed: int) -> None:
    rng = random.Random(seed)
    length = rng.randrange(1, 80)
    code = program(*[random_instruction(rng, place, length) for place in range(length)])
    registers = [0] + [rng.choice([rng.choice(CORNERS), rng.getrandbits(32)]) for _ in range(31)]
    registers[BASE], registers[WORD] = DATA + DATA_SIZE // 2, DATA + 4 * rng.randrange(DATA_SIZE // 4)
    data = rng.randbytes(DATA_SIZE)

    bench = Bench()
    bench.put(RAM_BASE, code)
    bench.put(DATA, data)
    bench.core.registers = registers
    while bench.core.pc < RAM_BASE + len(code):
        bench.step()
    after, pc, memory = reference.run(code, registers, 0, data)
    assert bench.core.registers == after
    assert bench.core.pc == pc
    assert bytes(bench.ram.view[DATA - RAM_BASE : DATA - RAM_BASE + DATA_SIZE]) == memory
    assert bench.core.retired == bench.core.cycles


@pytest.mark.parametrize("name", [*REGISTER_OPERATIONS, *BRANCHES])
def test_corners_of_two_registers(reference: Reference, name: str) -> None:
    operands = (3, 1, 2) if name in REGISTER_OPERATIONS else (1, 2, 0x40)
    bench = Bench((name, *operands))
    code = program((name, *operands))
    for one, other in itertools.product(CORNERS, CORNERS):
        registers = [0, one, other, 0x1234, *[0] * 28]
        bench.core.pc, bench.core.registers = RAM_BASE, registers
        bench.step()
        after, pc, _ = reference.run(code, registers, 1)
        assert (bench.core.registers, bench.core.pc) == (after, pc), f"{name} of {one:#x} and {other:#x}"


@pytest.mark.parametrize("name", [*IMMEDIATE_OPERATIONS, *SHIFTS])
def test_corners_of_a_register_and_an_immediate(reference: Reference, name: str) -> None:
    for immediate in (0, 1, 7, 31) if name in SHIFTS else (0, 1, -1, 2047, -2048, 0x555):
        bench = Bench((name, 3, 1, immediate))
        code = program((name, 3, 1, immediate))
        for value in CORNERS:
            registers = [0, value, *[0] * 30]
            bench.core.pc, bench.core.registers = RAM_BASE, registers
            bench.step()
            after, _, _ = reference.run(code, registers, 1)
            assert bench.core.registers == after, f"{name} of {value:#x} and {immediate}"


@pytest.mark.parametrize("name", [name for name in ATOMICS if name not in ("lr.w", "sc.w")])
def test_corners_of_atomics(reference: Reference, name: str) -> None:
    code = program((name, 3, 2, 1))
    bench = Bench((name, 3, 2, 1))
    for old, operand in itertools.product(CORNERS, CORNERS):
        registers = [0, DATA, operand, *[0] * 29]
        data = old.to_bytes(4, "little")
        bench.put(DATA, data)
        bench.core.pc, bench.core.registers = RAM_BASE, registers
        bench.step()
        after, _, memory = reference.run(code, registers, 1, data)
        assert bench.core.registers == after, f"{name} of {old:#x} and {operand:#x}"
        assert bench.word(DATA) == int.from_bytes(memory[:4], "little")
