"""Instructions at their corners, as the manual has them, and encodings that are not instructions."""

from __future__ import annotations

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

from riscv_helpers import HANDLER, RAM_BASE, RAM_SIZE, U32, Bench, assemble, run_one

LOWEST, HIGHEST, MINUS_1 = 0x8000_0000, 0x7FFF_FFFF, U32
DATA = RAM_BASE + 0x100


@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("add", MINUS_1, 1, 0),
        ("sub", 0, 1, MINUS_1),
        ("sll", 1, 33, 2),
        ("srl", LOWEST, 63, 1),
        ("sra", LOWEST, 63, MINUS_1),
        ("slt", LOWEST, HIGHEST, 1),
        ("sltu", LOWEST, HIGHEST, 0),
        ("mul", LOWEST, MINUS_1, LOWEST),
        ("mulh", LOWEST, LOWEST, 0x4000_0000),
        ("mulh", MINUS_1, MINUS_1, 0),
        ("mulhsu", MINUS_1, MINUS_1, MINUS_1),
        ("mulhsu", LOWEST, MINUS_1, LOWEST),
        ("mulhu", MINUS_1, MINUS_1, 0xFFFF_FFFE),
        # Table 7.1 of the manual: division by zero, and overflow.
        ("div", 7, 0, MINUS_1),
        ("divu", 7, 0, MINUS_1),
        ("rem", 7, 0, 7),
        ("rem", -7 & U32, 0, -7 & U32),
        ("remu", 7, 0, 7),
        ("div", LOWEST, MINUS_1, LOWEST),
        ("rem", LOWEST, MINUS_1, 0),
        ("div", -7 & U32, 2, -3 & U32),
        ("rem", -7 & U32, 2, MINUS_1),
        ("rem", 7, -2 & U32, 1),
        ("divu", LOWEST, 3, 0x2AAA_AAAA),
    ],
)
def test_operations_on_registers(name: str, a: int, b: int, expected: int) -> None:
    assert run_one(name, 3, 1, 2, registers={1: a, 2: b})[3] == expected


@pytest.mark.parametrize(
    ("name", "a", "immediate", "expected"),
    [
        ("addi", 0, -2048, -2048 & U32),
        ("slti", LOWEST, -1, 1),
        ("sltiu", 5, -1, 1),  # the immediate is extended with its sign, then unsigned
        ("xori", 0x0F0F, -1, 0xFFFF_F0F0),
        ("ori", 0, -2048, 0xFFFF_F800),
        ("andi", MINUS_1, -2048, 0xFFFF_F800),
        ("slli", 3, 31, LOWEST),
        ("srli", LOWEST, 31, 1),
        ("srai", LOWEST, 31, MINUS_1),
    ],
)
def test_operations_with_an_immediate(name: str, a: int, immediate: int, expected: int) -> None:
    assert run_one(name, 3, 1, immediate, registers={1: a})[3] == expected


def test_x0_stays_0() -> None:
    bench = Bench(("addi", 0, 0, 5), ("lui", 0, 1), ("lw", 0, 0, 1), ("jal", 0, 4), ("add", 2, 0, 0))
    bench.set({1: RAM_BASE, 2: 7})
    bench.step(5)
    assert (bench[0], bench[2]) == (0, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lb", 0xFFFF_FF80), ("lbu", 0x80), ("lh", 0xFFFF_8180), ("lhu", 0x8180), ("lw", 0x8382_8180)],
)
@pytest.mark.parametrize("misalignment", range(4))
def test_loads_from_ram_at_any_alignment(name: str, expected: int, misalignment: int) -> None:
    bench = Bench((name, 3, -4, 1))
    bench.put(DATA + misalignment, bytes([0x80, 0x81, 0x82, 0x83]))
    bench.set({1: DATA + misalignment + 4})
    bench.step()
    assert bench[3] == expected


@pytest.mark.parametrize(("name", "size"), [("sb", 1), ("sh", 2), ("sw", 4)])
@pytest.mark.parametrize("misalignment", range(4))
def test_stores_to_ram_at_any_alignment(name: str, size: int, misalignment: int) -> None:
    bench = Bench((name, 2, 2047, 1))
    bench.set({1: DATA + misalignment - 2047, 2: 0x8382_8180})
    bench.step()
    expected = bytearray(8)
    expected[misalignment : misalignment + size] = [0x80, 0x81, 0x82, 0x83][:size]
    assert bytes(bench.ram.view[DATA - RAM_BASE : DATA - RAM_BASE + 8]) == expected


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_last_bytes_of_ram_and_what_is_behind_them(size: int) -> None:
    name = {1: "lbu", 2: "lhu", 4: "lw"}[size]
    bench = Bench((name, 3, 0, 1))
    last = RAM_BASE + RAM_SIZE - size
    bench.put(last, b"\x11" * size)
    bench.set({1: last})
    bench.step()
    assert bench[3] == int.from_bytes(b"\x11" * size, "little")
    bench.core.pc = RAM_BASE
    bench.set({1: last + size})
    bench.step()
    assert (bench.core.get_csr("mcause"), bench.core.get_csr("mtval")) == (5, last + size)


@pytest.mark.parametrize(
    ("name", "a", "b", "taken"),
    [
        ("beq", 1, 1, True),
        ("bne", 1, 1, False),
        ("blt", LOWEST, HIGHEST, True),
        ("bge", LOWEST, HIGHEST, False),
        ("bltu", LOWEST, HIGHEST, False),
        ("bgeu", LOWEST, HIGHEST, True),
        ("bge", 5, 5, True),
        ("blt", 5, 5, False),
    ],
)
@pytest.mark.parametrize("distance", [8, -4096, 4092])
def test_branches(name: str, a: int, b: int, taken: bool, distance: int) -> None:
    bench = Bench()
    place = RAM_BASE + 0x2000
    bench.put(place, assemble(name, 1, 2, distance).to_bytes(4, "little"))
    bench.core.pc = place
    bench.set({1: a, 2: b})
    bench.step()
    assert bench.core.pc == place + (distance if taken else 4)


@pytest.mark.parametrize("distance", [-0x2000, 0x7FFC, 0x804, -4])
def test_jal(distance: int) -> None:
    bench = Bench()
    place = RAM_BASE + 0x2000
    bench.put(place, assemble("jal", 1, distance).to_bytes(4, "little"))
    bench.core.pc = place
    bench.step()
    assert (bench.core.pc, bench[1]) == (place + distance, place + 4)


def test_jalr_takes_the_address_before_it_links_and_clears_the_lowest_bit() -> None:
    bench = run_one("jalr", 1, 1, 0x101, registers={1: RAM_BASE})
    assert (bench.core.pc, bench[1]) == (RAM_BASE + 0x100, RAM_BASE + 4)


def test_upper_immediates() -> None:
    assert run_one("lui", 1, 0xFFFFF)[1] == 0xFFFF_F000
    assert run_one("auipc", 1, 0x80000)[1] == 0  # RAM_BASE + 0x80000000, without the carry


@pytest.mark.parametrize(
    ("name", "operands", "registers"),
    [("jal", (1, 6), {}), ("jalr", (1, 2, 2), {2: RAM_BASE}), ("beq", (0, 0, 6), {})],
)
def test_a_jump_to_half_a_word_traps_before_it_links(name: str, operands: tuple, registers: dict) -> None:
    bench = run_one(name, *operands, registers=registers)
    target = RAM_BASE + (2 if name == "jalr" else 6)
    core = bench.core
    assert (core.get_csr("mcause"), core.get_csr("mtval"), core.get_csr("mepc")) == (0, target, RAM_BASE)
    assert bench[1] == 0


def test_a_branch_that_is_not_taken_may_lead_to_half_a_word() -> None:
    assert run_one("bne", 0, 0, 6).core.pc == RAM_BASE + 4


# Atomics


def test_a_store_conditional_needs_a_reservation() -> None:
    bench = Bench(("lr.w", 3, 1), ("sc.w", 4, 2, 1), ("sc.w", 5, 2, 1))
    bench.put(DATA, b"\x07\0\0\0")
    bench.set({1: DATA, 2: 9, 4: 5, 5: 5})
    bench.step(3)
    assert (bench[3], bench[4], bench[5]) == (7, 0, 1)
    assert bench.word(DATA) == 9


def test_a_store_conditional_elsewhere_fails_and_ends_the_reservation() -> None:
    bench = Bench(("lr.w", 3, 1), ("sc.w", 4, 2, 6), ("sc.w", 5, 2, 1))
    bench.set({1: DATA, 2: 9, 6: DATA + 4})
    bench.step(3)
    assert (bench[4], bench[5], bench.word(DATA), bench.word(DATA + 4)) == (1, 1, 0, 0)


def test_a_store_conditional_fails_after_a_device_has_written_to_the_word() -> None:
    bench = Bench(("lr.w", 3, 1), ("sc.w", 4, 2, 1))
    bench.set({1: DATA, 2: 9})
    bench.step()
    bench.put(DATA, b"\x01")
    bench.step()
    assert (bench[4], bench.word(DATA)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "operands", "cause"),
    [("lr.w", (3, 1), 4), ("sc.w", (3, 2, 1), 6), ("amoadd.w", (3, 2, 1), 6)],
)
def test_a_misaligned_atomic_traps(name: str, operands: tuple, cause: int) -> None:
    bench = run_one(name, *operands, registers={1: DATA + 2, 3: 5})
    assert (bench.core.get_csr("mcause"), bench.core.get_csr("mtval"), bench[3]) == (cause, DATA + 2, 5)


@pytest.mark.parametrize(("name", "operands", "cause"), [("lr.w", (3, 1), 5), ("amoor.w", (3, 2, 1), 7)])
def test_an_atomic_outside_ram_is_an_access_fault(name: str, operands: tuple, cause: int) -> None:
    bench = run_one(name, *operands, registers={1: 0x1000})
    assert (bench.core.get_csr("mcause"), bench.core.get_csr("mtval")) == (cause, 0x1000)


# What is not an instruction


@pytest.mark.parametrize(
    "word",
    [
        0x00000000,
        0xFFFFFFFF,
        0x00000001,  # compressed
        assemble("add", 1, 2, 3) | 0x02 << 25 | 0x40 << 25,
        assemble("and", 1, 2, 3) | 0x20 << 25,
        assemble("slli", 1, 2, 3) | 0x20 << 25,
        assemble("srli", 1, 2, 3) | 0x10 << 25,
        assemble("lw", 1, 0, 2) | 1 << 12,  # a load of 8 bytes
        assemble("lhu", 1, 0, 2) | 2 << 12,
        assemble("sw", 1, 0, 2) | 1 << 12,
        assemble("sb", 1, 0, 2) | 4 << 12,
        assemble("beq", 1, 2, 8) | 2 << 12,
        assemble("beq", 1, 2, 8) | 3 << 12,
        assemble("jalr", 1, 2, 8) | 1 << 12,
        assemble("fence") | 2 << 12,
        assemble("lr.w", 1, 2) | 1 << 20,  # with a second operand
        assemble("amoadd.w", 1, 2, 3) | 1 << 12,  # of 8 bytes
        assemble("sc.w", 1, 2, 3) | 0x05 << 27,
        assemble("csrrw", 1, 0x340, 2) & ~0x7000 | 4 << 12,
        0x10200073,  # SRET
        0x12000073,  # SFENCE.VMA
        0x00200073,  # URET
        assemble("ecall") | 1 << 7,
        0x00000007,  # a floating-point load
    ],
    ids=hex,
)
def test_illegal_instructions_trap_and_change_nothing(word: int) -> None:
    bench = Bench(word)
    bench.set(dict.fromkeys(range(1, 32), DATA))
    before = bench.core.registers
    bench.core.set_csr("mtvec", HANDLER)
    bench.step()
    core = bench.core
    assert (core.get_csr("mcause"), core.get_csr("mtval"), core.get_csr("mepc")) == (2, word, RAM_BASE)
    assert (core.pc, core.registers) == (HANDLER, before)
    assert (core.cycles, core.retired) == (1, 0)
    assert bytes(bench.ram.view[DATA - RAM_BASE : DATA - RAM_BASE + 8]) == bytes(8)
