"""What type checkers know of a bank: `mypy --strict` on a program, and the errors that it has to find."""

import re

import pytest

api = pytest.importorskip("mypy.api")

PROGRAM = """
from enum import IntEnum
from typing import assert_type

from dbs_device import IoManager, Resource
from dbs_device.interrupts import IrqLine
from dbs_device.registers import (
    RO, W0C, Access, Array, Bits, EnumField, Flag, Interrupt, PageSelect, Register, RegisterAlias, RegisterBank,
    on_change, on_read, on_write,
)


class Parity(IntEnum):
    NONE = 0
    EVEN = 2


class Status(Register, size=4, access=RO):
    RXNE = Flag(5, W0C)
    TXE = Flag(7, RO, reset=True)


class Control(Register):
    UE = Flag(13)
    PARITY = EnumField(9, 2, Parity, reset=Parity.EVEN)
    WORD = Bits(12, 1, doc="word length")


class Usart(RegisterBank, size=0x400, gap="zero", byteorder="little"):
    SR = Status(0x00)
    DR = Register(0x04)
    CR1 = Control(0x0C)
    CH = Array(Control(0x20), 4, 0x4)
    SET = RegisterAlias(CR1, 0x10, "set")
    irq = Interrupt(status=SR.RXNE, enable=(CR1.UE,))
    page = PageSelect(CR1.WORD)

    @on_write(DR, CR1.UE)
    def push(self, new: int, old: int) -> None: ...

    @on_change(CR1.PARITY, CH[1].UE)
    def enable(self, new: int, old: int) -> None: ...

    @on_change(CH.each.UE)
    def channel(self, index: int, new: int, old: int) -> None: ...

    @on_read(DR)
    def pull(self, value: int) -> int:
        return value


u = Usart()
assert_type(u.SR, Status)
assert_type(u.SR.TXE, bool)
assert_type(u.SR.value, int)
assert_type(u.CR1.PARITY, Parity | int)
assert_type(u.CR1.WORD, int)
assert_type(u.CH[1], Control)
assert_type(u.CH[1].UE, bool)
assert_type(u.irq, IrqLine)
assert_type(u.page, int)
assert_type(Usart.CR1, Control)
u.SR.RXNE = True
u.CR1.PARITY = Parity.NONE
u.CR1.WORD = 1
u.DR.value = 0x5A
for channel in u.CH:
    channel.UE = False
u.enable(1, 0)
u.irq.connect(print)
u.load_state(u.save_state())
text: str = Usart.table()
access: Access = RO
manager = IoManager()
manager.register_device_io(u, [Resource.MmioAddressRange(0x1000, u.size)])

u.SR.NOPE  # error: "Status" has no attribute "NOPE"
u.NOPE  # error: "Usart" has no attribute "NOPE"
u.SR.TXE = "x"  # error: Incompatible types in assignment
u.CR1.WORD = None  # error: Incompatible types in assignment
u.CR1.PARITY = "odd"  # error: Incompatible types in assignment
u.CH[1].NOPE  # error: "Control" has no attribute "NOPE"
u.CH["x"]  # error: Invalid index type
u.SR = 5  # error: Incompatible types in assignment
u.enable("x", 0)  # error: Argument 1 to "enable" of "Usart" has incompatible type
Flag(0, "RW")  # error: Argument 2 to "Flag" has incompatible type
Register(0, lanes="bit")  # error: Argument "lanes" to "Register" has incompatible type
on_write("DR")  # error: Argument 1 to "on_write" has incompatible type
"""


def test_mypy_accepts_what_is_right_and_finds_what_is_wrong(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    output, errors, _ = api.run(
        ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), "--config-file", "", str(program)]
    )
    assert errors == ""
    found = re.findall(rf"^{re.escape(str(program))}:(\d+): error: (.*)$", output, re.MULTILINE)
    expected = {
        number: line.split("# error: ")[1] for number, line in enumerate(PROGRAM.splitlines(), 1) if "# error: " in line
    }
    assert [int(number) for number, _ in found] == list(expected), output
    for number, message in found:
        assert expected[int(number)] in message
