"""An assembler for single instructions, and a core with RAM and little else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rv32.core import Core

from dbs_device import IoManager, Resource
from dbs_device.memory import Ram

ROOT = Path(__file__).parents[3]
IMAGE = Path(
    os.environ.get("DBS_DEVICE_RISCV_KERNEL", ROOT.parent / "shared" / "guests" / "rv32-nommu-linux-6.8-Image")
)

U32 = 0xFFFF_FFFF
RAM_BASE, RAM_SIZE = 0x8000_0000, 0x1_0000
HANDLER = RAM_BASE + 0x8000  # where tests put a trap handler

REGISTER_OPERATIONS = {
    "add": (0, 0x00),
    "sub": (0, 0x20),
    "sll": (1, 0x00),
    "slt": (2, 0x00),
    "sltu": (3, 0x00),
    "xor": (4, 0x00),
    "srl": (5, 0x00),
    "sra": (5, 0x20),
    "or": (6, 0x00),
    "and": (7, 0x00),
    "mul": (0, 0x01),
    "mulh": (1, 0x01),
    "mulhsu": (2, 0x01),
    "mulhu": (3, 0x01),
    "div": (4, 0x01),
    "divu": (5, 0x01),
    "rem": (6, 0x01),
    "remu": (7, 0x01),
}
IMMEDIATE_OPERATIONS = {"addi": 0, "slti": 2, "sltiu": 3, "xori": 4, "ori": 6, "andi": 7}
SHIFTS = {"slli": (1, 0x00), "srli": (5, 0x00), "srai": (5, 0x20)}
LOADS = {"lb": 0, "lh": 1, "lw": 2, "lbu": 4, "lhu": 5}
STORES = {"sb": 0, "sh": 1, "sw": 2}
BRANCHES = {"beq": 0, "bne": 1, "blt": 4, "bge": 5, "bltu": 6, "bgeu": 7}
ATOMICS = {
    "amoadd.w": 0x00,
    "amoswap.w": 0x01,
    "lr.w": 0x02,
    "sc.w": 0x03,
    "amoxor.w": 0x04,
    "amoor.w": 0x08,
    "amoand.w": 0x0C,
    "amomin.w": 0x10,
    "amomax.w": 0x14,
    "amominu.w": 0x18,
    "amomaxu.w": 0x1C,
}
CSR_OPERATIONS = {"csrrw": 1, "csrrs": 2, "csrrc": 3, "csrrwi": 5, "csrrsi": 6, "csrrci": 7}
WHOLE = {
    "ecall": 0x00000073,
    "ebreak": 0x00100073,
    "mret": 0x30200073,
    "wfi": 0x10500073,
    "fence": 0x0FF0000F,
    "fence.i": 0x0000100F,
}


def assemble(name: str, *operands: int) -> int:
    """Return the word of an instruction, its operands in the order of the assembly language.

    Loads, stores and atomics take the address register last, and loads and stores an offset before it; branches and
    jumps take distances.
    """
    if name in WHOLE:
        return WHOLE[name]
    a, b, c = (*operands, 0, 0, 0)[:3]
    if name in REGISTER_OPERATIONS:
        funct3, funct7 = REGISTER_OPERATIONS[name]
        return funct7 << 25 | c << 20 | b << 15 | funct3 << 12 | a << 7 | 0x33
    if name in IMMEDIATE_OPERATIONS:
        return (c & 0xFFF) << 20 | b << 15 | IMMEDIATE_OPERATIONS[name] << 12 | a << 7 | 0x13
    if name in SHIFTS:
        funct3, funct7 = SHIFTS[name]
        return funct7 << 25 | c << 20 | b << 15 | funct3 << 12 | a << 7 | 0x13
    if name in LOADS:
        return (b & 0xFFF) << 20 | c << 15 | LOADS[name] << 12 | a << 7 | 0x03
    if name in STORES:
        return (b >> 5 & 0x7F) << 25 | a << 20 | c << 15 | STORES[name] << 12 | (b & 0x1F) << 7 | 0x23
    if name in BRANCHES:
        distance = (c >> 12 & 1) << 31 | (c >> 5 & 0x3F) << 25 | (c >> 1 & 0xF) << 8 | (c >> 11 & 1) << 7
        return distance | b << 20 | a << 15 | BRANCHES[name] << 12 | 0x63
    if name == "jal":
        distance = (b >> 20 & 1) << 31 | (b >> 1 & 0x3FF) << 21 | (b >> 11 & 1) << 20 | (b >> 12 & 0xFF) << 12
        return distance | a << 7 | 0x6F
    if name == "jalr":
        return (c & 0xFFF) << 20 | b << 15 | a << 7 | 0x67
    if name in ("lui", "auipc"):
        return (b & 0xFFFFF) << 12 | a << 7 | (0x37 if name == "lui" else 0x17)
    if name == "lr.w":
        return ATOMICS[name] << 27 | b << 15 | 2 << 12 | a << 7 | 0x2F
    if name in ATOMICS:
        return ATOMICS[name] << 27 | b << 20 | c << 15 | 2 << 12 | a << 7 | 0x2F
    return b << 20 | c << 15 | CSR_OPERATIONS[name] << 12 | a << 7 | 0x73  # csrrw rd, csr, rs1


def program(*instructions: Sequence[Any] | int) -> bytes:
    """Return instructions in memory: words, or tuples for `assemble`."""
    words = (each if isinstance(each, int) else assemble(*each) for each in instructions)
    return b"".join(word.to_bytes(4, "little") for word in words)


class Bench:
    """A core with RAM, which it begins to execute at its first byte.

    Parameters
    ----------
    instructions : words or tuples for `assemble`
        The program.
    """

    def __init__(self, *instructions: Sequence[Any] | int, **options: Any) -> None:
        self.manager = IoManager()
        self.ram = Ram(RAM_SIZE)
        self.manager.register_device_io(self.ram, [Resource.MemAddressRange(RAM_BASE, RAM_SIZE)], name="ram")
        self.core = Core(self.manager, pc=RAM_BASE, **options)
        self.put(RAM_BASE, program(*instructions))

    def put(self, address: int, data: bytes) -> None:
        self.ram.view[address - RAM_BASE : address - RAM_BASE + len(data)] = data

    def word(self, address: int) -> int:
        return int.from_bytes(self.ram.view[address - RAM_BASE : address - RAM_BASE + 4], "little")

    def set(self, values: dict[int, int]) -> None:
        """Assign some of the registers, by number."""
        registers = self.core.registers
        for number, value in values.items():
            registers[number] = value & U32
        self.core.registers = registers

    def step(self, count: int = 1) -> Any:
        """Execute a number of instructions."""
        return self.core.run(self.core.cycles + count)

    def __getitem__(self, number: int) -> int:
        return self.core.registers[number]


def run_one(name: str, *operands: int, registers: dict[int, int] | None = None) -> Bench:
    """Return a bench that has executed one instruction."""
    bench = Bench((name, *operands))
    bench.set(registers or {})
    bench.step()
    return bench
