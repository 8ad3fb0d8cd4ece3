"""Every architecture behind the Unicorn bridge: `data` is in address order for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from helpers import Recorder
from unicorn import (
    UC_ARCH_ARM,
    UC_ARCH_ARM64,
    UC_ARCH_M68K,
    UC_ARCH_MIPS,
    UC_ARCH_PPC,
    UC_ARCH_RISCV,
    UC_ARCH_S390X,
    UC_ARCH_SPARC,
    UC_ARCH_TRICORE,
    UC_ARCH_X86,
    UC_MODE_16,
    UC_MODE_32,
    UC_MODE_64,
    UC_MODE_ARM,
    UC_MODE_ARMBE8,
    UC_MODE_BIG_ENDIAN,
    UC_MODE_LITTLE_ENDIAN,
    UC_MODE_MIPS32,
    UC_MODE_MIPS64,
    UC_MODE_PPC32,
    UC_MODE_RISCV32,
    UC_MODE_RISCV64,
    UC_MODE_SPARC32,
    UC_MODE_SPARC64,
    UC_MODE_THUMB,
    Uc,
    UcError,
    unicorn_const,
)
from unicorn.arm64_const import UC_ARM64_REG_X0, UC_ARM64_REG_X1
from unicorn.arm_const import UC_ARM_REG_R0, UC_ARM_REG_R1
from unicorn.m68k_const import UC_M68K_REG_A0, UC_M68K_REG_D0
from unicorn.mips_const import UC_MIPS_REG_A1, UC_MIPS_REG_V0
from unicorn.ppc_const import UC_PPC_REG_3, UC_PPC_REG_4
from unicorn.riscv_const import UC_RISCV_REG_A0, UC_RISCV_REG_A1
from unicorn.s390x_const import UC_S390X_REG_R2, UC_S390X_REG_R3
from unicorn.sparc_const import UC_SPARC_REG_G1, UC_SPARC_REG_G2
from unicorn.tricore_const import UC_TRICORE_REG_A1, UC_TRICORE_REG_D0
from unicorn.x86_const import (
    UC_X86_REG_AX,
    UC_X86_REG_BX,
    UC_X86_REG_EAX,
    UC_X86_REG_EBX,
    UC_X86_REG_RAX,
    UC_X86_REG_RBX,
)

from dbs_device import DeviceIo, IoManager, NoDeviceError, Resource
from dbs_device.unicorn import Bridge, attach

# At multiples of 16 KiB, the largest page of any of them.
CODE, RAM_END = 0x100, 0x8000
IN_RAM, IN_DEVICE = 0x4000, 0x8000
PATTERN = bytes(range(0x81, 0x89))
VALUE = 0x1122334455667788


@dataclass(frozen=True)
class Architecture:
    """An architecture, the code of a load from [pointer] to data and of the store back, and those two registers."""

    name: str
    arch: int
    mode: int
    load: str
    store: str
    pointer: int
    data: int
    size: int = 4
    is_thumb: bool = False
    nop: str = ""  # for SPARC64, which stops after a count of instructions alone, and not at an address

    def __str__(self) -> str:
        return f"{self.name}, {self.size} bytes"


BIG = UC_MODE_BIG_ENDIAN
NOP = "01000000"

X86_16 = (UC_X86_REG_BX, UC_X86_REG_AX)
X86_32 = (UC_X86_REG_EBX, UC_X86_REG_EAX)
X86_64 = (UC_X86_REG_RBX, UC_X86_REG_RAX)
ARM = (UC_ARM_REG_R1, UC_ARM_REG_R0)
ARM64 = (UC_ARM64_REG_X1, UC_ARM64_REG_X0)
MIPS = (UC_MIPS_REG_A1, UC_MIPS_REG_V0)
PPC = (UC_PPC_REG_4, UC_PPC_REG_3)
M68K = (UC_M68K_REG_A0, UC_M68K_REG_D0)
SPARC = (UC_SPARC_REG_G1, UC_SPARC_REG_G2)
RISCV = (UC_RISCV_REG_A1, UC_RISCV_REG_A0)
S390X = (UC_S390X_REG_R3, UC_S390X_REG_R2)
TRICORE = (UC_TRICORE_REG_A1, UC_TRICORE_REG_D0)

# Not here: 64-bit PowerPC, which Unicorn's header calls unsupported and of which it executes no instruction, and
# little-endian PowerPC, SPARC, m68k and S390X, which it does not open.
ARCHITECTURES = [
    Architecture("x86, 16 bit", UC_ARCH_X86, UC_MODE_16, "8b07", "8907", *X86_16, size=2),
    Architecture("x86, 32 bit", UC_ARCH_X86, UC_MODE_32, "8b03", "8903", *X86_32),
    Architecture("x86, 64 bit", UC_ARCH_X86, UC_MODE_64, "8b03", "8903", *X86_64),
    Architecture("x86, 64 bit", UC_ARCH_X86, UC_MODE_64, "488b03", "488903", *X86_64, size=8),
    Architecture("ARM", UC_ARCH_ARM, UC_MODE_ARM, "000091e5", "000081e5", *ARM),
    Architecture("Thumb", UC_ARCH_ARM, UC_MODE_THUMB, "0868", "0860", *ARM, is_thumb=True),
    Architecture("ARM, big-endian", UC_ARCH_ARM, UC_MODE_ARM | BIG, "e5910000", "e5810000", *ARM),
    Architecture("ARM, BE8", UC_ARCH_ARM, UC_MODE_ARM | UC_MODE_ARMBE8, "000091e5", "000081e5", *ARM),
    Architecture("ARM64", UC_ARCH_ARM64, UC_MODE_ARM, "200040b9", "200000b9", *ARM64),
    Architecture("ARM64", UC_ARCH_ARM64, UC_MODE_ARM, "200040f9", "200000f9", *ARM64, size=8),
    Architecture("ARM64, big-endian", UC_ARCH_ARM64, UC_MODE_ARM | BIG, "200040b9", "200000b9", *ARM64),
    Architecture("ARM64, big-endian", UC_ARCH_ARM64, UC_MODE_ARM | BIG, "200040f9", "200000f9", *ARM64, size=8),
    Architecture("MIPS32", UC_ARCH_MIPS, UC_MODE_MIPS32, "0000a28c", "0000a2ac", *MIPS),
    Architecture("MIPS32, big-endian", UC_ARCH_MIPS, UC_MODE_MIPS32 | BIG, "8ca20000", "aca20000", *MIPS),
    Architecture("MIPS64", UC_ARCH_MIPS, UC_MODE_MIPS64, "0000a2dc", "0000a2fc", *MIPS, size=8),
    Architecture("MIPS64, big-endian", UC_ARCH_MIPS, UC_MODE_MIPS64 | BIG, "dca20000", "fca20000", *MIPS, size=8),
    Architecture("PowerPC", UC_ARCH_PPC, UC_MODE_PPC32 | BIG, "80640000", "90640000", *PPC),
    Architecture("m68k", UC_ARCH_M68K, BIG, "2010", "2080", *M68K),
    Architecture("SPARC32", UC_ARCH_SPARC, UC_MODE_SPARC32 | BIG, "c4006000", "c4206000", *SPARC),
    Architecture("SPARC64", UC_ARCH_SPARC, UC_MODE_SPARC64 | BIG, "c4006000", "c4206000", *SPARC, nop=NOP),
    Architecture("SPARC64", UC_ARCH_SPARC, UC_MODE_SPARC64 | BIG, "c4586000", "c4706000", *SPARC, size=8, nop=NOP),
    Architecture("RISC-V 32", UC_ARCH_RISCV, UC_MODE_RISCV32, "03a50500", "23a0a500", *RISCV),
    Architecture("RISC-V 64", UC_ARCH_RISCV, UC_MODE_RISCV64, "03a50500", "23a0a500", *RISCV),
    Architecture("RISC-V 64", UC_ARCH_RISCV, UC_MODE_RISCV64, "03b50500", "23b0a500", *RISCV, size=8),
    Architecture("S390X", UC_ARCH_S390X, BIG, "58203000", "50203000", *S390X),
    Architecture("S390X", UC_ARCH_S390X, BIG, "e32030000004", "e32030000024", *S390X, size=8),
    Architecture("TriCore", UC_ARCH_TRICORE, UC_MODE_LITTLE_ENDIAN, "5410", "7410", *TRICORE),
]

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)


class Memory(DeviceIo):
    """Stores what is written, as RAM does."""

    unhandled = "ignore"

    def __init__(self) -> None:
        self.content = bytearray(0x100)

    def read(self, base, offset, data):
        data[:] = self.content[offset : offset + len(data)]

    def write(self, base, offset, data):
        self.content[offset : offset + len(data)] = data


class Machine:
    """An emulator of any architecture with RAM up to the device."""

    def __init__(self, architecture: Architecture, device: DeviceIo, **options: Any) -> None:
        self.architecture = architecture
        self.uc = Uc(architecture.arch, architecture.mode)
        self.uc.mem_map(0, RAM_END)
        self.manager = IoManager(**options)
        self.manager.register_device_io(
            device, [Resource.MmioAddressRange(IN_DEVICE, 0x100), Resource.PioAddressRange(0x60, 1)]
        )
        self.bridge: Bridge = attach(self.uc, self.manager)

    def step(self, code: str, address: int) -> None:
        """Execute an instruction, the pointer leading to `address`."""
        instruction = bytes.fromhex(code + self.architecture.nop)
        end = CODE + len(instruction)
        self.uc.mem_write(CODE, instruction)
        self.uc.ctl_remove_cache(CODE, end)
        self.uc.reg_write(self.architecture.pointer, address)
        self.bridge.emu_start(CODE | self.architecture.is_thumb, end, count=2 if self.architecture.nop else 0)

    def load(self, address: int) -> int:
        self.uc.reg_write(self.architecture.data, 0)
        self.step(self.architecture.load, address)
        return int(self.uc.reg_read(self.architecture.data))

    def store(self, address: int, value: int) -> None:
        self.uc.reg_write(self.architecture.data, value & (1 << 8 * self.architecture.size) - 1)
        self.step(self.architecture.store, address)


def test_the_table_names_every_architecture_of_unicorn() -> None:
    names = [name for name in dir(unicorn_const) if name.startswith("UC_ARCH_") and name != "UC_ARCH_MAX"]
    assert {getattr(unicorn_const, name) for name in names} == {each.arch for each in ARCHITECTURES}


@each_architecture
def test_a_device_reads_as_memory_with_the_same_bytes(architecture: Architecture) -> None:
    device = Memory()
    machine = Machine(architecture, device)
    machine.uc.mem_write(IN_RAM, PATTERN)
    device.content[: len(PATTERN)] = PATTERN
    from_ram = machine.load(IN_RAM)
    assert from_ram != 0
    assert machine.load(IN_DEVICE) == from_ram


@each_architecture
def test_a_device_is_written_the_bytes_that_memory_is(architecture: Architecture) -> None:
    device = Memory()
    machine = Machine(architecture, device)
    machine.store(IN_RAM, VALUE)
    machine.store(IN_DEVICE, VALUE)
    in_ram = machine.uc.mem_read(IN_RAM, 8)
    assert any(in_ram)
    assert device.content[:8] == in_ram


@each_architecture
def test_an_access_arrives_whole_up_to_four_bytes_and_in_ascending_fours_beyond(architecture: Architecture) -> None:
    device = Recorder()
    machine = Machine(architecture, device)
    machine.load(IN_DEVICE + 0x10)
    machine.store(IN_DEVICE + 0x10, VALUE)
    parts = [0x10] if architecture.size <= 4 else [0x10, 0x14]
    part_size = min(architecture.size, 4)
    assert [(handler, offset, len(data)) for handler, _, offset, data in device.calls] == [
        (handler, offset, part_size) for handler in ("read", "write") for offset in parts
    ]


@each_architecture
def test_whole_pages_of_the_architecture_are_mapped_and_unmapped(architecture: Architecture) -> None:
    machine = Machine(architecture, Recorder())
    page_size = max(0x1000, machine.uc.ctl_get_page_size())
    assert (IN_DEVICE, IN_DEVICE + page_size - 1) in [(first, last) for first, last, _ in machine.uc.mem_regions()]
    with pytest.raises(NoDeviceError) as caught:
        machine.load(IN_DEVICE + page_size - 8)
    assert caught.value.address == IN_DEVICE + page_size - 8
    with pytest.raises(UcError):
        machine.load(IN_DEVICE + page_size)
    machine.bridge.detach()
    assert [(first, last) for first, last, _ in machine.uc.mem_regions()] == [(0, RAM_END - 1)]


@each_architecture
def test_a_range_that_is_removed_is_gone_while_others_hold_its_page(architecture: Architecture) -> None:
    machine = Machine(architecture, device := Memory())
    page_size = max(0x1000, machine.uc.ctl_get_page_size())
    end_of_page = IN_DEVICE + page_size - 8
    machine.manager.register_device_io(device, [Resource.MmioAddressRange(end_of_page, 8)])
    machine.manager.unregister_device_io([Resource.MmioAddressRange(IN_DEVICE, 0x100)])
    machine.store(end_of_page, VALUE)
    assert any(device.content[:8])
    with pytest.raises(NoDeviceError):
        machine.load(IN_DEVICE)


def test_arm_may_change_its_byte_order_as_it_runs() -> None:
    """The bytes that a device gives are the same; what the register holds is turned round."""
    arm = next(each for each in ARCHITECTURES if each.name == "ARM")
    device = Memory()
    machine = Machine(arm, device)
    device.content[:4] = PATTERN[:4]
    assert machine.load(IN_DEVICE) == int.from_bytes(PATTERN[:4], "little")
    machine.step("000201f1", 0)  # setend be
    assert machine.load(IN_DEVICE) == int.from_bytes(PATTERN[:4], "big")
    machine.store(IN_DEVICE, VALUE)
    assert device.content[:4] == bytes.fromhex("55667788")
