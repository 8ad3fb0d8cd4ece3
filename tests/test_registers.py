"""Register banks: declarations, accesses, hooks, pages, aliases, interrupts, state."""

import copy
import gc
import itertools
import logging
import pickle
import threading
import types
import weakref
from enum import Enum, IntEnum

import pytest
from helpers import MMIO, PIO, SPACES, Worker

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.errors import LayoutError, RegisterAccessError, StateError
from dbs_device.registers import (
    RO,
    RW,
    UNIMPLEMENTED,
    W0C,
    W0S,
    W0T,
    W1C,
    W1S,
    W1T,
    WC,
    WO,
    WS,
    Access,
    Array,
    Bits,
    EnumField,
    Flag,
    Interrupt,
    PageSelect,
    Register,
    RegisterAlias,
    RegisterBank,
    UnimplementedRange,
    on_change,
    on_read,
    on_write,
)


class Parity(IntEnum):
    NONE = 0
    EVEN = 2
    ODD = 3


class Status(Register, access=RO):
    """Status register."""

    RXNE = Flag(5, W0C, doc="receive data register not empty")
    TC = Flag(6, W0C, reset=True)
    TXE = Flag(7, RO, reset=True)


class Control(Register):
    RXNEIE = Flag(5)
    PARITY = EnumField(9, 2, Parity)
    UE = Flag(13)


class Usart(RegisterBank, size=0x400):
    SR = Status(0x00)
    DR = Register(0x04)
    BRR = Register(0x08)
    CR1 = Control(0x0C)
    irq = Interrupt(status=SR, enable=CR1)

    def __init__(self):
        self.calls = []

    @on_write(DR)
    def push(self, new, old):
        self.calls.append(("push", new, old))

    @on_change(CR1.UE)
    def enable(self, new, old):
        self.calls.append(("enable", new, old))


def served(bank, **options):
    manager = IoManager(**options)
    manager.register_device_io(bank, [Resource.MmioAddressRange(0, bank.size), Resource.PioAddressRange(0, bank.size)])
    return manager


def bank_of(register, **options):
    """Return a bank of one register, R, at offset 0."""
    return types.new_class("One", (RegisterBank,), options, lambda namespace: namespace.update(R=register))()


def body(**attributes):
    return lambda namespace: namespace.update(attributes)


def make(options=(), **attributes):
    return types.new_class("Made", (RegisterBank,), dict(options), body(**attributes))


# ----------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("access", "becomes", "reads"),
    # What 0b1100 becomes when 0b1010 is written, and what is read of it before.
    [
        (RW, 0b1010, 0b1100),
        (RO, 0b1100, 0b1100),
        (WO, 0b1010, 0b0000),
        (W1C, 0b0100, 0b1100),
        (W1S, 0b1110, 0b1100),
        (W1T, 0b0110, 0b1100),
        (W0C, 0b1000, 0b1100),
        (W0S, 0b1101, 0b1100),
        (W0T, 0b1001, 0b1100),
        (WC, 0b0000, 0b1100),
        (WS, 0b1111, 0b1100),
        (UNIMPLEMENTED, 0b1010, 0b1100),
    ],
)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_what_a_write_makes_of_bits(space, access, becomes, reads):
    class Field(Register, size=1, access=RO):
        F = Bits(2, 4, access, reset=0b1100)

    bank = bank_of(Field(0))
    manager = served(bank)
    assert space.load(manager, 0, 1) == reads << 2
    space.store(manager, 0, 1, 0b1010 << 2)
    assert bank.R.value == becomes << 2


def test_every_access_is_a_name_of_the_module():
    names = "RW RO WO W1C W1S W1T W0C W0S W0T WC WS UNIMPLEMENTED"
    assert [access.name for access in Access] == names.split()
    assert all(globals()[access.name] is access for access in Access)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_an_access_is_split_by_register_and_byte(space, byteorder):
    bank = make({"byteorder": byteorder}, A=Register(0, reset=0x11223344), B=Register(4, size=2, reset=0xAABB))()
    manager = served(bank, byteorder=byteorder)
    bytes_ = bytes.fromhex("44332211bbaa" if byteorder == "little" else "11223344aabb")
    for offset in range(6):
        for size in range(1, 9 - offset):
            if offset + size <= bank.size:
                data = bytearray(size)
                space.read(manager, offset, data)
                assert data == bytes_[offset : offset + size]
    space.write(manager, 3, b"\x01\x02")
    assert bank.A.value == (0x01223344 if byteorder == "little" else 0x11223301)
    assert bank.B.value == (0xAA02 if byteorder == "little" else 0x02BB)


def test_an_access_of_eight_bytes_reaches_both_registers_and_one_of_eight_bytes():
    bank = make(LOW=Register(0), HIGH=Register(4), WIDE=Register(8, size=8))()
    manager = served(bank)
    manager.mmio_store(0, 8, 0x1122334455667788)
    assert (bank.LOW.value, bank.HIGH.value) == (0x55667788, 0x11223344)
    manager.mmio_store(8, 8, 0xFFEEDDCCBBAA9988)
    assert bank.WIDE.value == 0xFFEEDDCCBBAA9988
    assert manager.mmio_load(12, 4) == 0xFFEEDDCC


@pytest.mark.parametrize(("effect", "left"), [("clear", 0), ("set", 0xFFFF)])
def test_a_read_clears_or_sets_what_it_reaches(effect, left):
    class Events(Register, size=2):
        F = Bits(0, 16, RO, reset=0x1234, on_read=effect)

    bank = bank_of(Events(0))
    manager = served(bank)
    assert bank.peek(0, 2) == 0x1234
    assert manager.mmio_load(0, 1) == 0x34
    assert bank.R.value == 0x1200 | left & 0xFF
    manager.mmio_load(0, 2)
    assert bank.R.value == left


def test_with_register_lanes_a_byte_reaches_the_whole_register():
    class Events(Register, size=2, lanes="register"):
        F = Bits(0, 8, RO, reset=0x34, on_read="clear")
        G = Bits(8, 8, RO, reset=0x12, on_read="clear")

    class Cleared(Register, size=2, lanes="register"):
        F = Bits(0, 8, RW, reset=0x55)
        G = Bits(8, 8, WC, reset=0x66)

    bank = bank_of(Events(0))
    assert served(bank).mmio_load(0, 1) == 0x34
    assert bank.R.value == 0
    bank = bank_of(Cleared(0))
    served(bank).mmio_store(0, 1, 1)
    assert bank.R.value == 0x01


@pytest.mark.parametrize(("gap", "reads"), [("zero", 0), ("ones", 0xFF), ("ram", 0)])
def test_a_gap_reads_as_the_bank_says(gap, reads):
    bank = make({"gap": gap, "size": 0x20}, R=Register(4, reset=0x12345678))()
    manager = served(bank)
    for offset in (0, 8, 0x1F):
        assert manager.mmio_load(offset, 1) == reads
        assert bank.peek(offset, 1) == reads
        manager.mmio_store(offset, 1, 0x5A)
        assert manager.mmio_load(offset, 1) == (0x5A if gap == "ram" else reads)
    bank.reset()
    assert manager.mmio_load(0x1F, 1) == reads


def test_a_gap_that_raises_does_so_before_anything_is_done():
    bank = make({"gap": "raise", "size": 0x20}, R=Register(4), S=Register(8, read=False))()
    manager = served(bank)
    with pytest.raises(RegisterAccessError, match=r"a write of 4 bytes at 0x10 of <Made: .*> reaches no register"):
        manager.mmio_store(0x10, 4, 1)
    with pytest.raises(RegisterAccessError) as caught:
        manager.mmio_write(4, b"\xff" * 16)
    assert (caught.value.offset, caught.value.size, caught.value.write) == (0xC, 8, True)
    assert bank.R.value == 0
    with pytest.raises(RegisterAccessError, match="a read of 4 bytes at 0x8"):
        manager.mmio_load(8, 4)
    assert bank.peek(0, 8) == 0


@pytest.mark.parametrize("gap", ["zero", "ones", "ram", "raise"])
def test_an_access_may_run_past_the_end_of_a_bank(gap):
    bank = make({"gap": gap}, R=Register(0, reset=0x11223344))()
    manager = IoManager(straddle="pass")
    manager.register_device_io(bank, [Resource.MmioAddressRange(0, 4), Resource.MmioAddressRange(2**64 - 4, 4)])
    if gap == "raise":
        with pytest.raises(RegisterAccessError, match="of 2 bytes at 0x4"):
            manager.mmio_load(2, 4)
        return
    above = 0xFFFF0000 if gap == "ones" else 0
    assert manager.mmio_load(2, 4) == above | 0x1122
    manager.mmio_store(2, 4, 0xAABBCCDD)
    assert bank.R.value == 0xCCDD3344
    data = bytearray(4)
    bank.read(0, 2**64 - 1, data)
    assert data == (b"\xff" * 4 if gap == "ones" else bytes(4))
    bank.write(0, 2**64 - 1, b"abcd")
    assert bank.R.value == 0xCCDD3344


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("access", [RW, RO, WO, W1C])
def test_no_register_is_at_the_last_offsets(access, byteorder):
    options = {"gap": "ones", "byteorder": byteorder, "granule": 1}
    for offset, size in itertools.product((0, 8, 16), (1, 4, 8)):
        bank = make(options, R=Register(offset, size=size, access=access, reset=0x11))()
        for last in range(2**64 - 4, 2**64):
            data = bytearray(4)
            bank.read(0, last, data)
            assert data == b"\xff" * 4
            bank.write(0, last, b"abcd")
            assert bank.R.value == 0x11


def test_no_register_is_at_the_last_offset_of_any_page():
    class Paged(RegisterBank, gap="ones"):
        class Select(Register):
            PAGE = Flag(0)

        S = Select(0)
        A = Register(4, page=0, reset=1)
        B = Register(8, page=1, reset=1)
        page = PageSelect(S.PAGE)

    bank = Paged()
    for page in (0, 1):
        bank.S.PAGE = page
        data = bytearray(4)
        bank.read(0, 2**64 - 1, data)
        assert data == b"\xff" * 4


def test_an_access_at_the_last_offset_is_refused_as_in_any_gap():
    bank = make({"gap": "raise"}, R=Register(0, access=W1C, access_sizes=[4]))()
    with pytest.raises(RegisterAccessError, match="0xffffffffffffffff"):
        bank.read(0, 2**64 - 1, bytearray(4))
    with pytest.raises(RegisterAccessError, match="0xffffffffffffffff"):
        bank.write(0, 2**64 - 1, b"abcd")
    # Behind the last offset there is nothing, not the register at 0 either.
    bank = make(R=Register(0, access_sizes=[4]))()
    bank.write(0, 2**64 - 1, b"abcd")
    bank.read(0, 2**64 - 1, bytearray(4))
    assert bank.R.value == 0


def test_access_sizes():
    bank = make(R=Register(0, access_sizes=[4]), S=Register(4, access_sizes=(1, 2)))()
    manager = served(bank)
    manager.mmio_store(0, 4, 7)
    manager.mmio_store(6, 2, 7)
    manager.mmio_write(0, bytes(4))
    for offset, size, name in ((0, 2, "R"), (0, 1, "R"), (4, 4, "S"), (5, 2, "S")):
        with pytest.raises(RegisterAccessError, match=f"size or alignment that {name} does not allow"):
            manager.mmio_store(offset, size, 1)
        with pytest.raises(RegisterAccessError, match=name):
            manager.mmio_load(offset, size)
    with pytest.raises(RegisterAccessError, match=r"at 0x4 .* S does not allow"):
        manager.mmio_store(0, 8, 2**64 - 1)
    assert bank.save_state()["registers"] == {"R": 0, "S": 7 << 16}


# ----------------------------------------------------------------------------- from Python


def test_fields_and_registers_are_read_and_assigned_raw():
    usart = Usart()
    assert usart.SR.TXE is True
    assert usart.SR.RXNE is False
    usart.SR.RXNE = True
    assert usart.SR.value == 0xE0
    usart.SR.TXE = 0
    assert usart.SR.value == 0x60
    usart.CR1.PARITY = Parity.ODD
    assert usart.CR1.PARITY is Parity.ODD
    usart.CR1.PARITY = 1
    assert usart.CR1.PARITY == 1
    assert not isinstance(usart.CR1.PARITY, Parity)
    usart.CR1.value = 0xFFFFFFFF
    assert usart.CR1.UE
    assert usart.calls == []


def test_several_fields_are_assigned_in_one_step():
    usart = Usart()
    usart.CR1.update(UE=True, PARITY=Parity.EVEN)
    assert usart.CR1.value == 1 << 13 | 2 << 9
    with pytest.raises(AttributeError, match="Control does not have the field NOPE"):
        usart.CR1.update(UE=False, NOPE=1)
    with pytest.raises(ValueError, match="0x4 does not fit PARITY of 2 bits"):
        usart.CR1.update(UE=False, PARITY=4)
    assert usart.CR1.UE


@pytest.mark.parametrize("value", [-1, 2**32, 2**64, 2**100])
def test_a_value_that_does_not_fit_changes_nothing(value):
    usart = Usart()
    with pytest.raises(ValueError, match=f"{value:#x} does not fit DR, which has the bits 0xffffffff"):
        usart.DR.value = value
    with pytest.raises(ValueError, match=f"{value:#x} does not fit UE of 1 bit"):
        usart.CR1.UE = value
    with pytest.raises(TypeError):
        usart.DR.value = 1.0
    assert usart.DR.value == 0


def test_a_register_is_not_assigned_itself():
    usart = Usart()
    with pytest.raises(AttributeError, match="SR is a register: assign to its value"):
        usart.SR = 5
    with pytest.raises(AttributeError, match="connect a sink"):
        usart.irq = None
    with pytest.raises(AttributeError, match="SR is a declaration"):
        Usart.SR.value  # noqa: B018
    with pytest.raises(AttributeError, match="SR is a declaration"):
        Usart.SR.TXE = True
    assert usart.SR.value == 0xC0


def test_a_register_of_another_class_is_refused():
    class Other(RegisterBank):
        X = Register(0)
        Y = Register(4)

    with pytest.raises(TypeError, match="Usart does not have the register Y"):
        Other.Y.__get__(Usart(), Usart)


def test_what_a_bank_gives_keeps_it_alive_and_not_the_other_way_round():
    usart = Usart()
    gone = weakref.ref(usart)
    register = usart.SR
    del usart
    assert register.TXE
    del register
    assert gone() is None


def test_banks_of_a_class_are_independent():
    first, second = Usart(), Usart()
    first.SR.RXNE = True
    assert not second.SR.RXNE
    first.irq.set(True)
    assert not second.irq.level


def test_a_bank_is_complete_without_init():
    usart = Usart.__new__(Usart)
    manager = served(usart)
    assert manager.mmio_load(0, 4) == 0xC0
    with pytest.raises(AttributeError, match="calls"):
        manager.mmio_store(4, 4, 1)
    assert usart.DR.value == 1


def test_only_classes_with_registers_are_made():
    with pytest.raises(TypeError, match="RegisterBank declares no registers"):
        RegisterBank()


def test_a_bank_is_a_device():
    assert isinstance(Usart(), DeviceIo)
    usart = Usart()
    data = bytearray(4)
    usart.read(0, 0, data)
    usart.pio_write(0, 8, b"\x39\x30\0\0")
    assert data == b"\xc0\0\0\0"
    assert usart.BRR.value == 12345


def test_the_size_is_that_of_the_registers_by_default():
    assert make(R=Register(0x10, size=2)).size == 0x12
    assert Usart.size == Usart().size == 0x400


def test_slots_may_be_declared():
    class Slotted(RegisterBank):
        __slots__ = ("sent",)
        R = Register(0)

    bank = Slotted()
    bank.sent = 5
    with pytest.raises(AttributeError):
        bank.other = 5


# ----------------------------------------------------------------------------- arrays


class Channel(Register):
    ENABLE = Flag(0)
    COUNT = Bits(8, 8)


class Dma(RegisterBank):
    ISR = Register(0)
    CH = Array(Channel(0x10), 4, 0x8)
    ADDRESS = Array(Register(0x14), 4, 0x8)
    TAIL = Array(Register, 2)

    def __init__(self):
        self.calls = []

    @on_write(CH)
    def any_channel(self, index, new, old):
        self.calls.append(("any", index, new, old))

    @on_write(CH[2])
    def third(self, new, old):
        self.calls.append(("third", new, old))

    @on_change(CH.each.ENABLE)
    def enabled(self, index, new, old):
        self.calls.append(("enabled", index, new, old))

    @on_change(CH[-1].COUNT)
    def counted(self, new, old):
        self.calls.append(("counted", new, old))

    @on_read(ADDRESS)
    def address(self, index, value):
        return value + index

    del TAIL


def test_arrays():
    dma = Dma()
    manager = served(dma)
    dma.CH[1].COUNT = 5
    dma.CH[-1].value = 0x100
    assert [channel.value for channel in dma.CH] == [0, 0x500, 0, 0x100]
    assert len(dma.CH) == 4
    assert dma.CH[1].offset == 0x18
    assert manager.mmio_load(0x18, 4) == 0x500
    manager.mmio_store(0x20, 4, 0x101)
    manager.mmio_store(0x28, 4, 0x200)
    assert dma.calls == [
        ("any", 2, 0x101, 0),
        ("third", 0x101, 0),
        ("enabled", 2, 1, 0),
        ("any", 3, 0x200, 0x100),
        ("counted", 2, 1),
    ]
    assert [manager.mmio_load(0x14 + 8 * index, 4) for index in range(4)] == [0, 1, 2, 3]
    for index in (4, -5):
        with pytest.raises(IndexError, match="CH has 4 elements"):
            dma.CH[index]
    with pytest.raises(TypeError):
        dma.CH["0"]
    with pytest.raises(AttributeError, match="CH is an array"):
        dma.CH = 1


# ----------------------------------------------------------------------------- hooks


def test_a_write_stores_then_calls_the_hook_then_the_line():
    usart, log = Usart(), []
    usart.irq.connect(lambda level: log.append(level))

    class Ordered(Usart):
        @on_write(Usart.CR1)
        def written(self, new, old):
            log.append((self.CR1.value, new, old, self.irq.level))

    bank = Ordered()
    bank.irq.connect(lambda level: log.append(level))
    bank.SR.RXNE = True
    served(bank).mmio_store(0xC, 4, 0x20)
    assert log == [(0x20, 0x20, 0, False), True]


def test_a_hook_gets_whole_registers_however_they_are_written():
    usart = Usart()
    manager = served(usart)
    manager.mmio_store(5, 1, 0x12)
    manager.mmio_store(4, 2, 0x3456)
    manager.mmio_store(4, 8, 0x11)
    assert usart.calls == [("push", 0x1200, 0), ("push", 0x3456, 0x1200), ("push", 0x11, 0x3456)]


def test_a_change_is_filtered():
    usart = Usart()
    manager = served(usart)
    for value in (0x20, 0x2020, 0x2000, 0x3000, 0):
        manager.mmio_store(0xC, 4, value)
    assert usart.calls == [("enable", 1, 0), ("enable", 0, 1)]


def test_a_read_that_clears_is_a_change():
    class Events(Register):
        F = Bits(0, 8, RO, reset=3, on_read="clear")

    seen = []

    class Bank(RegisterBank):
        R = Events(0)

        @on_change(R.F)
        def changed(self, new, old):
            seen.append((new, old))

        @on_write(R)
        def never(self, new, old):
            seen.append("write")

    manager = served(Bank())
    manager.mmio_load(0, 4)
    manager.mmio_load(0, 4)
    assert seen == [(0, 3)]


@pytest.mark.parametrize(
    ("returned", "loaded"),
    [(None, 7), (0x1234, 0x1234), (-1, 0xFFFFFFFF), (1 << 40 | 5, 5), (True, 1), (~0xF, 0xFFFFFFF0)],
)
def test_what_on_read_returns_is_what_is_read(returned, loaded):
    class Bank(RegisterBank):
        R = Register(0, reset=7)

        @on_read(R)
        def pull(self, value):
            assert value == 7
            return returned

    bank = Bank()
    manager = served(bank)
    assert manager.mmio_load(0, 4) == loaded
    assert manager.mmio_load(1, 1) == loaded >> 8 & 0xFF
    assert bank.peek(0, 4) == 7
    assert bank.R.value == 7


@pytest.mark.parametrize("returned", ["5", 5.0, b"\0", [5], object()])
def test_on_read_returns_an_int(returned):
    class Bank(RegisterBank):
        R = Register(0)

        @on_read(R)
        def pull(self, value):
            return returned

    with pytest.raises(
        TypeError, match=rf"Bank.pull \(on_read\) must return an int or None, not {type(returned).__name__}"
    ):
        served(Bank()).mmio_load(0, 4)


def test_when_a_hook_raises_the_store_stands_and_lines_follow():
    class Bank(RegisterBank):
        CR = Control(0)
        SR = Status(4)
        irq = Interrupt(status=SR, enable=CR)

        @on_write(CR)
        def fail(self, new, old):
            raise KeyError("hook")

        @on_read(SR)
        def fail_too(self, value):
            raise OSError("read")

    bank, levels = Bank(), []
    bank.irq.connect(levels.append)
    bank.SR.RXNE = True
    manager = served(bank)
    with pytest.raises(KeyError, match="hook"):
        manager.mmio_store(0, 4, 0x20)
    with pytest.raises(OSError, match="read"):
        manager.mmio_load(4, 4)
    assert bank.CR.value == 0x20
    assert levels == [True]


def test_a_sink_that_raises_comes_out_of_the_access_and_other_lines_are_called():
    class Bank(RegisterBank):
        SR = Register(0)
        first = Interrupt(status=SR)
        second = Interrupt(status=SR)

    bank, levels = Bank(), []

    def fail(level):
        raise OSError("sink")

    bank.first.connect(fail)
    bank.second.connect(levels.append)
    manager = served(bank)
    with pytest.raises(OSError, match="sink"):
        manager.mmio_store(0, 4, 1)
    assert levels == [True]
    assert bank.SR.value == 1
    manager.mmio_store(0, 4, 3)


def test_a_hook_may_use_its_own_bank_and_the_bus():
    class Bank(RegisterBank):
        A = Register(0)
        B = Register(4)

        @on_write(A)
        def copy(self, new, old):
            self.A.value = new + 1
            if new < 5:
                manager.mmio_store(0, 4, self.A.value)
            manager.mmio_store(4, 4, self.A.value)

    bank = Bank()
    manager = served(bank)
    manager.mmio_store(0, 4, 1)
    assert (bank.A.value, bank.B.value) == (6, 6)


def test_endless_recursion_is_a_recursion_error():
    class Bank(RegisterBank):
        A = Register(0)

        @on_write(A)
        def again(self, new, old):
            manager.mmio_store(0, 4, new)

    manager = served(Bank())
    with pytest.raises(RecursionError):
        manager.mmio_store(0, 4, 1)


def test_a_hook_may_unregister_its_bank_and_drop_it():
    class Bank(RegisterBank):
        A = Register(0)

        @on_write(A)
        def unplug(self, new, old):
            manager.unregister_device_io([Resource.MmioAddressRange(0, 4)])
            gc.collect()

    manager = IoManager()
    manager.register_device_io(Bank(), [Resource.MmioAddressRange(0, 4)])
    manager.mmio_store(0, 4, 1)
    assert len(manager.mmio_bus) == 0


def test_several_targets_and_several_hooks():
    seen = []

    class Bank(RegisterBank):
        A = Register(0)
        B = Control(4)

        @on_write(A, B.UE)
        def first(self, new, old):
            seen.append(("first", new, old))

        @on_change(A)
        @on_write(A)
        def second(self, new, old):
            seen.append(("second", new, old))

    manager = served(Bank())
    manager.mmio_store(0, 4, 0)
    assert seen == [("first", 0, 0), ("second", 0, 0)]
    manager.mmio_store(4, 4, 1 << 13)
    manager.mmio_store(4, 4, 1 << 13)
    assert seen[2:] == [("first", 1, 0), ("first", 1, 1)]
    manager.mmio_store(0, 4, 9)
    assert seen[4:] == [("first", 9, 0), ("second", 9, 0), ("second", 9, 0)]


def test_a_subclass_inherits_registers_and_hooks_and_may_override_the_method():
    class Extended(Usart, gap="ones"):
        GTPR = Register(0x18, reset=5)

        def push(self, new, old):
            super().push(new, old)
            self.calls.append("extended")

        @on_write(GTPR)
        def guard(self, new, old):
            self.calls.append("guard")

    class Further(Extended, size=0x800):
        @on_write(Usart.BRR)
        def enable(self, new, old):
            self.calls.append("enable is about BRR now")

    for cls in (Extended, Further):
        bank = cls()
        manager = served(bank)
        manager.mmio_store(4, 4, 1)
        manager.mmio_store(0x18, 4, 1)
        manager.mmio_store(0xC, 4, 1 << 13)
        manager.mmio_store(8, 4, 1)
        expected = [("push", 1, 0), "extended", "guard"]
        expected += [("enable", 1, 0)] if cls is Extended else ["enable is about BRR now"]
        assert bank.calls == expected
        assert manager.mmio_load(0x20, 4) == 0xFFFFFFFF
    assert (Extended.size, Further.size) == (0x400, 0x800)
    assert served(Usart()).mmio_load(0x20, 4) == 0


def test_banks_may_be_mixed():
    class Extra(RegisterBank):
        ID = Register(0x3FC, access=RO, reset=0x1234)

    class Both(Usart, Extra):
        pass

    bank = Both()
    assert served(bank).mmio_load(0x3FC, 4) == 0x1234
    assert bank.SR.TXE
    assert bank.ID.value == 0x1234


def test_a_subclass_may_replace_a_register():
    class NewControl(Register):
        UE = Flag(0)
        RXNEIE = Flag(5)

    class Other(Usart):
        SR = Status(0x0, reset=0x20)
        CR1 = NewControl(0x10)

    class Third(Other):
        CR1 = NewControl(0x14)

    for cls, offset in ((Other, 0x10), (Third, 0x14)):
        bank = cls()
        manager = served(bank)
        assert bank.SR.value == 0xE0
        manager.mmio_store(offset, 4, 0x21)
        assert bank.irq.level
        assert bank.calls == [("enable", 1, 0)]
    assert Usart().SR.value == 0xC0
    with pytest.raises(
        LayoutError, match=r"Fourth.enable \(on_change\) names CR1.UE, which CR1 does not have any more"
    ):

        class Fourth(Usart):
            CR1 = Register(0xC)


def test_a_base_class_may_have_options_alone():
    class BigEndian(RegisterBank, byteorder="big", gap="ones"):
        pass

    class Bank(BigEndian, size=8):
        R = Register(0, reset=1)

    with pytest.raises(TypeError, match="BigEndian declares no registers"):
        BigEndian()
    assert served(Bank()).mmio_load(0, 8) == 0xFFFFFFFF01000000


def test_serialized_hooks_run_one_at_a_time():
    class Bank(RegisterBank, serialize=True):
        A = Register(0)
        B = Register(4)

        def __init__(self):
            self.inside = 0
            self.count = 0

        @on_write(A, B)
        def hook(self, new, old):
            self.inside += 1
            assert self.inside == 1
            threading.Event().wait(0.0001)
            self.count += 1
            self.inside -= 1
            if new:
                self.inside += 0
                _ = self.A.value

    bank = Bank()
    manager = served(bank)

    def write(offset):
        for _ in range(200):
            manager.mmio_store(offset, 4, 1)

    for worker in [Worker(write, 4 * (number % 2)) for number in range(4)]:
        worker.result()
    assert bank.count == 800


def test_a_serialized_hook_may_call_itself():
    class Bank(RegisterBank, serialize=True):
        A = Register(0)

        @on_write(A)
        def hook(self, new, old):
            if new:
                manager.mmio_store(0, 4, new - 1)

        @on_read(A)
        def read_hook(self, value):
            return value + 1

    manager = served(Bank())
    manager.mmio_store(0, 4, 5)
    assert manager.mmio_load(0, 4) == 1


# ----------------------------------------------------------------------------- pages


class Uart16550(RegisterBank, granule=1, size=8):
    RBR = Register(0, size=1, page=0, write=False, reset=0x42)
    THR = Register(0, size=1, page=0, read=False)
    DLL = Register(0, size=1, page=1, reset=0x0C)
    IER = Register(1, size=1, page=0)
    DLM = Register(1, size=1, page=1)

    class LineControl(Register, size=1):
        WLEN = Bits(0, 2)
        DLAB = Flag(7)

    LCR = LineControl(3)
    page = PageSelect(LCR.DLAB)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_pages(space):
    uart = Uart16550()
    manager = served(uart)
    space.store(manager, 0, 1, 0x55)
    assert space.load(manager, 0, 1) == 0x42
    assert (uart.THR.value, uart.RBR.value, uart.page) == (0x55, 0x42, 0)
    space.store(manager, 3, 1, 0x80)
    assert uart.page == 1
    assert space.load(manager, 0, 1) == 0x0C
    space.store(manager, 0, 2, 0x0102)
    assert (uart.DLL.value, uart.DLM.value, uart.IER.value) == (2, 1, 0)
    uart.LCR.DLAB = False
    assert space.load(manager, 0, 1) == 0x42
    uart.LCR.value = 0x80
    assert uart.peek(0, 1) == 2
    uart.reset()
    assert space.load(manager, 0, 1) == 0x42
    with pytest.raises(AttributeError, match="selected by the field"):
        uart.page = 1


def test_a_write_that_switches_the_page_goes_on_in_the_new_one():
    class Select(Register, size=1):
        PAGE = Bits(0, 2)

    bank = make(
        {"granule": 1},
        S=(select := Select(0)),
        A=Register(1, size=1, page=0),
        B=Register(1, size=1, page=3),
        page=PageSelect(select.PAGE),
    )()
    served(bank).mmio_store(0, 2, 0x5503)
    assert (bank.A.value, bank.B.value, bank.page) == (0, 0x55, 3)


def test_pages_and_threads():
    uart = Uart16550()
    manager = served(uart)
    uart.DLL.value = 0x11

    def switch():
        for _ in range(3000):
            manager.mmio_store(3, 1, 0x80)
            manager.mmio_store(3, 1, 0)

    def look():
        return {manager.mmio_load(0, 1) for _ in range(3000)}

    workers = [Worker(switch), Worker(switch)]
    seen = look()
    for worker in workers:
        worker.result()
    assert seen <= {0x11, 0x42}
    assert manager.mmio_load(0, 1) == (0x11 if uart.LCR.DLAB else 0x42)


# ----------------------------------------------------------------------------- aliases


def test_aliases_of_a_register():
    class Pins(Register):
        OUT = Bits(0, 16)
        IN = Bits(16, 8, RO, reset=0x5A)
        EVENT = Bits(24, 8, W1C, reset=0xFF)

    class Gpio(RegisterBank):
        ODR = Pins(0x0, reset=0x00F0)
        SET = RegisterAlias(ODR, 0x4, "set")
        CLEAR = RegisterAlias(ODR, 0x8, "clear")
        TOGGLE = RegisterAlias(ODR, 0xC, "toggle", read=False)

        def __init__(self):
            self.seen = []

        @on_write(ODR)
        def drive(self, new, old):
            self.seen.append(new & 0xFFFF)

    gpio = Gpio()
    manager = served(gpio)
    manager.mmio_store(4, 4, 0x0F00)
    manager.mmio_store(8, 4, 0x0010)
    manager.mmio_store(0xC, 2, 0x8020)
    assert gpio.seen == [0x0FF0, 0x0FE0, 0x8FC0]
    assert manager.mmio_load(4, 4) == manager.mmio_load(0, 4) == 0xFF5A8FC0
    assert manager.mmio_load(0xC, 4) == 0
    manager.mmio_store(8, 4, 0x01FF0000)
    assert gpio.ODR.value == 0xFE5A8FC0


def test_aliases_of_a_bank():
    class Rp2040(RegisterBank, size=0x4000, aliases={"toggle": 0x1000, "set": 0x2000, "clear": 0x3000}):
        CTRL = Register(0x0, reset=0xF0)
        INTR = Register(0x4, access=W1C, reset=0xFF)

    bank = Rp2040()
    manager = served(bank)
    manager.mmio_store(0x2000, 4, 0x0F)
    manager.mmio_store(0x3000, 4, 0x11)
    manager.mmio_store(0x1000, 4, 0x1001)
    assert manager.mmio_load(0x0, 4) == manager.mmio_load(0x3000, 4) == 0x10EF
    manager.mmio_store(0x3004, 4, 0x01)
    assert bank.INTR.value == 0xFE


def test_an_alias_of_each_element_of_an_array():
    class Bank(RegisterBank):
        P = Array(Register(0), 2, 0x10)
        P_SET = RegisterAlias(P.each, 4, "set")

    bank = Bank()
    served(bank).mmio_store(0x14, 4, 6)
    assert [each.value for each in bank.P] == [0, 6]


# ----------------------------------------------------------------------------- what is not implemented


def test_the_use_of_what_is_not_implemented_is_logged_once_and_counted(caplog):
    class Mode(Register):
        GO = Flag(0)
        DMA = Flag(1, UNIMPLEMENTED)
        IRDA = Bits(4, 4, UNIMPLEMENTED)

    class Bank(RegisterBank):
        CR = Mode(0)
        TRIM = Register(4, access=UNIMPLEMENTED)
        TEST = UnimplementedRange(0x10, 0x10)

    bank = Bank()
    manager = served(bank)
    with caplog.at_level(logging.WARNING, "dbs_device.registers"):
        manager.mmio_store(0, 4, 1)
        assert bank.unimplemented_accesses() == {}
        for value in (2, 3, 0x30, 0x31):
            manager.mmio_store(0, 4, value)
        manager.mmio_load(4, 4)
        manager.mmio_store(4, 4, 0x77)
        manager.mmio_store(0x18, 8, 2**64 - 1)
        assert manager.mmio_load(0x1C, 4) == 0xFFFFFFFF
        bank.TRIM.value = 5
    assert [record.getMessage() for record in caplog.records] == [
        f"Bank.{name} is not implemented" for name in ("CR.DMA", "CR.IRDA", "TRIM", "TEST")
    ]
    assert bank.unimplemented_accesses() == {"CR.DMA": 2, "CR.IRDA": 1, "TRIM": 2, "TEST": 3}
    assert Bank().unimplemented_accesses() == {}


# ----------------------------------------------------------------------------- interrupts


def test_the_line_follows_status_and_enable_and_is_called_on_edges_only():
    usart, levels = Usart(), []
    usart.irq.connect(levels.append)
    manager = served(usart)
    usart.SR.RXNE = True
    assert levels == []
    manager.mmio_store(0xC, 4, 0x20)
    manager.mmio_store(0xC, 4, 0x2020)
    usart.SR.RXNE = True
    assert levels == [True]
    manager.mmio_store(0, 4, 0xFFFFFFDF)
    assert levels == [True, False]
    usart.SR.update(RXNE=True, TC=False)
    usart.reset()
    assert levels == [True, False, True, False]
    assert not usart.irq.level


def test_an_interrupt_of_fields_and_of_several_registers():
    class Bank(RegisterBank):
        SR = Status(0x0)
        EN = Control(0x4)
        SR2 = Array(Register(0x8), 2)
        EN2 = Array(Register(0x10), 2)
        by_field = Interrupt(status=SR.RXNE, enable=EN.UE)
        always = Interrupt(status=SR2[1])
        many = Interrupt(status=(SR.RXNE, SR2), enable=(EN.UE, EN2))

    bank, levels = Bank(), {name: [] for name in ("by_field", "always", "many")}
    for name, seen in levels.items():
        getattr(bank, name).connect(seen.append)
    bank.SR.RXNE = True
    served(bank).mmio_store(4, 4, 1 << 13)
    assert levels == {"by_field": [True], "always": [], "many": [True]}
    bank.SR.RXNE = False
    bank.SR2[1].value = 0x80
    assert levels == {"by_field": [True, False], "always": [True], "many": [True, False]}
    bank.EN2[0].value = 0x80
    assert levels["many"] == [True, False]
    bank.EN2[1].value = 0x80
    assert levels["many"] == [True, False, True]


def test_a_read_that_clears_lowers_the_line():
    class Cause(Register):
        BITS = Bits(0, 32, RO, on_read="clear")

    class Bank(RegisterBank):
        ISR = Cause(0)
        irq = Interrupt(status=ISR)

    bank, levels = Bank(), []
    bank.irq.connect(levels.append)
    bank.ISR.BITS = 4
    assert served(bank).mmio_load(0, 4) == 4
    assert levels == [True, False]


def test_a_level_that_is_high_after_reset_is_there_for_a_sink():
    bank, levels = make(SR=(status := Register(0, reset=1)), irq=Interrupt(status=status))(), []
    assert bank.irq.level
    bank.irq.connect(levels.append)
    assert levels == [True]


def test_a_sink_may_acknowledge_its_interrupt():
    usart, levels = Usart(), []
    usart.CR1.RXNEIE = True

    def acknowledge(level):
        levels.append(level)
        if level:
            usart.SR.RXNE = False
            levels.append("acknowledged")

    usart.irq.connect(acknowledge)
    usart.SR.RXNE = True
    assert levels == [True, "acknowledged", False]


def test_the_line_is_right_after_many_threads():
    class Bank(RegisterBank):
        SR = Register(0, access=W1T)
        irq = Interrupt(status=SR)

    bank, levels = Bank(), []
    bank.irq.connect(levels.append)
    manager = served(bank)

    def toggle(bit):
        for _ in range(2001):
            manager.mmio_store(0, 4, 1 << bit)

    for worker in [Worker(toggle, bit) for bit in range(4)]:
        worker.result()
    assert bank.SR.value == 0xF
    assert levels == [index % 2 == 0 for index in range(len(levels))]
    assert bank.irq.level is levels[-1] is True


# ----------------------------------------------------------------------------- state, tables, reprs


def test_a_state_goes_from_one_bank_to_another():
    usart, other, levels = Usart(), Usart(), []
    usart.CR1.value = 0x2020
    usart.SR.RXNE = True
    other.irq.connect(levels.append)
    state = usart.save_state()
    other.load_state(state)
    assert other.save_state() == state
    assert levels == [True]
    assert other.calls == []


def test_a_state_has_arrays_pages_and_gaps():
    bank = Dma()
    bank.CH[2].value = 9
    assert bank.save_state()["registers"]["CH"] == [0, 0, 9, 0]
    uart = Uart16550()
    uart.LCR.DLAB = True
    other = Uart16550()
    other.load_state(uart.save_state())
    assert served(other).mmio_load(0, 1) == 0x0C
    ram = make({"gap": "ram", "size": 8}, R=Register(0))
    first, second = ram(), ram()
    served(first).mmio_store(4, 4, 0x1234)
    second.load_state(first.save_state())
    assert served(second).mmio_load(4, 4) == 0x1234
    first.load_state(ram().save_state())
    assert served(first).mmio_load(4, 4) == 0


def test_a_state_that_does_not_fit_changes_nothing():
    usart = Usart()
    usart.DR.value = 7
    good = usart.save_state()
    other = Dma().save_state()
    with pytest.raises(
        StateError, match=f"layout {other['layout']} does not fit Usart, which has layout {good['layout']}"
    ):
        usart.load_state(other)
    bad = [None, [], {}, {"layout": good["layout"]}, {**good, "registers": {}}, {**good, "registers": 5}]
    bad += [{**good, "registers": {**good["registers"], "DR": value}} for value in (-1, 2**32, "x", None, [1])]
    bad += [{**good, "registers": {**good["registers"], "X": 1}}, {**good, "gaps": b"x"}]
    for state in bad:
        with pytest.raises(StateError):
            usart.load_state(state)
    assert usart.save_state() == good
    ram = make({"gap": "ram", "size": 8}, R=Register(0))()
    for gaps in (None, b"", bytes(9), "x" * 8):
        with pytest.raises(StateError):
            ram.load_state({**ram.save_state(), "gaps": gaps})
    dma = Dma()
    state = dma.save_state()
    with pytest.raises(StateError, match="CH does not have the value"):
        dma.load_state({**state, "registers": {**state["registers"], "CH": [1, 2]}})


def test_the_fingerprint_is_that_of_the_layout():
    def fingerprint(options=(), **attributes):
        return make(options, **attributes)().save_state()["layout"]

    base = fingerprint(R=Register(0))
    assert base == fingerprint(R=Register(0, doc="text"))
    others = [
        fingerprint(S=Register(0)),
        fingerprint(R=Register(0, size=2)),
        fingerprint(R=Register(0, access=RO)),
        fingerprint(R=Register(4)),
        fingerprint(R=Status(0)),
        fingerprint({"byteorder": "big"}, R=Register(0)),
        fingerprint({"gap": "ram"}, R=Register(0)),
    ]
    assert len({base, *others}) == 8


def test_banks_are_neither_copied_nor_pickled():
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a Usart is not copied or pickled: use save_state"):
            attempt(Usart())


def test_peek_has_no_effect_and_checks_its_arguments():
    usart = Usart()
    assert [usart.peek(0, size) for size in (1, 2, 4, 8)] == [0xC0] * 4
    assert usart.peek(0x3FC, 4) == 0
    for offset, size in ((0x3FD, 4), (-1, 1), (0x400, 1), (2**64, 1), (0, 2**70), (0, 3), (0, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"0x|bytes"):
            usart.peek(offset, size)
    with pytest.raises(TypeError):
        usart.peek(0.0, 4)


def test_the_table():
    assert Usart.table().splitlines()[:6] == [
        "| Offset | Name | Bits | Access | Reset | Description |",
        "|---|---|---|---|---|---|",
        "| 0x000 | SR | 31:0 |  | 0xc0 | Status register. |",
        "|  | SR.TXE | 7 | RO | 0x1 |  |",
        "|  | SR.TC | 6 | W0C | 0x1 |  |",
        "|  | SR.RXNE | 5 | W0C | 0x0 | receive data register not empty |",
    ]
    table = Dma.table()
    assert "| 0x010 + 0x8 n | CH[0..3] | 31:0 |  | 0x0 |  |" in table
    assert "0x000 (page 1) | DLL" in Uart16550.table()


def test_reprs_decode_fields():
    usart = Usart()
    assert repr(usart) == "<Usart: as after a reset>"
    usart.SR.RXNE = True
    usart.CR1.PARITY = Parity.ODD
    assert repr(usart.SR) == "<SR 0x000000e0: RXNE=1 TC=1 TXE=1>"
    assert repr(usart.CR1) == "<CR1 0x00000600: RXNEIE=0 PARITY=ODD UE=0>"
    assert repr(usart) == "<Usart: SR=0xe0 (RXNE TC TXE), CR1=0x600 (PARITY)>"
    assert repr(Usart.SR) == "<Status SR at 0x0, declared>"
    assert repr(Dma().CH[1]) == "<CH[1] 0x00000000: ENABLE=0 COUNT=0x0>"
    assert repr(Dma().CH) == "<Array CH of 4 Channel>"
    assert repr(Usart.SR.TXE) == "SR.TXE"


# ----------------------------------------------------------------------------- what is refused


def hook():
    """Return a method that can be decorated."""
    return lambda self, *values: None


class Color(Enum):
    RED = 5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: type("K", (Register,), {"A": Bits(0, 4), "B": Flag(3)}),
            r"K: the field B \(mask 0x8\) overlaps A \(mask 0xf\)",
        ),
        (lambda: type("K", (Register,), {"value": Flag(0)}), "K.value: every register has an attribute of this name"),
        (lambda: type("K", (Register,), {"F": Flag(8)})(0x10, size=1), r"register at 0x10: the field F \(mask 0x100\)"),
        (lambda: type("K", (Register,), dict.fromkeys("AB", Flag(0))), "K.B is the field A already"),
        (lambda: Bits(60, 5), "5 bits at bit 60 does not fit 64 bits"),
        (lambda: Bits(0, 0), "0 bits"),
        (lambda: Flag(-1), "bit -1"),
        (lambda: Flag(0, "RW"), "an access is one of RW, RO"),
        (lambda: Flag(0, on_read="toggle"), 'on_read is "clear", "set" or None, not \'toggle\''),
        (lambda: Register(-4), "not -0x4"),
        (lambda: Register(0, size=3), "1, 2, 4 or 8 bytes, not 3"),
        (lambda: Register(0, reset=2**32), "0x100000000 does not fit 4 bytes"),
        (lambda: Register(0, read=False, write=False), "neither read nor written"),
        (lambda: Register(0, access_sizes=[3]), r"not \[3\]"),
        (lambda: Register(0, lanes="bit"), "not 'bit'"),
        (lambda: make(A=Register(0), B=Register(2)), r"Made: A at 0x0..0x3 overlaps B at 0x2..0x5"),
        (
            lambda: make(A=Register(0, size=1), B=Register(1, size=1)),
            "A at 0x0..0x0 and B at 0x1..0x1 share a granule of 4",
        ),
        (lambda: make(A=Array(Register(0), 3), B=Register(8)), r"A\[2\] at 0x8..0xb overlaps B at 0x8..0xb"),
        (lambda: make({"size": 4}, A=Register(4)), "A at 0x4..0x7 ends behind the bank, which has a size of 0x4"),
        (lambda: make({"size": 0}, A=Register(0)), "at least 1 byte, not 0"),
        (lambda: make({"size": 2**63}, A=Register(0)), "not 9223372036854775808"),
        (lambda: make(A=Register(2**40)), "take more than 0x400000 granules"),
        (lambda: make(A=Register(0, page=1)), "A at 0x0..0x3 of page 1: the bank has 1 page"),
        (lambda: make({"granule": 3}, A=Register(0)), "1, 2, 4 or 8 bytes, not 3"),
        (lambda: make({"gap": "none"}, A=Register(0)), "not 'none'"),
        (lambda: make({"byteorder": "middle"}, A=Register(0)), "not 'middle'"),
        (lambda: make({"aliases": {"flip": 0x1000}}, A=Register(0)), "not 'flip'"),
        (lambda: make({"aliases": {"set": 0}}, A=Register(0)), "A at 0x0..0x3 overlaps the set alias of A"),
        (lambda: make(reset=Register(0)), "Made.reset: every bank has an attribute"),
        (lambda: make(read=lambda self, base, offset, data: None), "Made.read would leave the native path"),
        (lambda: make(pio_out=5), "Made.pio_out would leave the native path"),
        (lambda: make(load=5), "Made.load would leave the native path"),
        (lambda: make(**dict.fromkeys("AB", Register(0))), "Made.B is the register A already"),
        (lambda: make(X=Usart.SR), "Made.X is declared as SR already"),
        (
            lambda: make(R=Register(0), hook=on_write(Usart.DR)(lambda self, new, old: None)),
            r"Made.hook \(on_write\) names DR, which is not a register of the bank",
        ),
        (lambda: on_write(Usart().DR), "takes registers and fields as they are declared"),
        (lambda: on_write("DR"), "takes registers and fields as they are declared, not 'DR'"),
        (lambda: on_write(), "at least one register"),
        (lambda: on_read(Usart.CR1.UE), "on_read is about whole registers"),
        (lambda: make(page=PageSelect(Register(0))), "takes a field"),
        (lambda: Array(Register(0), 0), "at least 1 element"),
        (lambda: Array(Register(0), 2, 2), "stride of at least 4"),
        (lambda: Array(5, 2), "not of 5"),
        (lambda: make(R=UnimplementedRange(2, 4)), "multiple of the granule of 4 bytes"),
        (lambda: RegisterAlias(Register(0), 4, "flip"), "not 'flip'"),
        (lambda: RegisterAlias(5, 4, "set"), "not of 5"),
        (lambda: Interrupt(status=(Usart.SR, Usart.DR), enable=(Usart.SR,) * 3), "2 status registers and 3"),
        (lambda: make(R=Register(0), irq=Interrupt(status=Usart.SR)), "the interrupt irq names SR, which is not"),
        (lambda: type("K", (Usart,), {"SR": None}), "K.SR hides the declaration of SR"),
        (
            lambda: type("K", (Usart,), {"a": on_read(Usart.DR)(hook()), "b": on_read(Usart.DR)(hook())}),
            "DR has an on_read hook already",
        ),
        (
            lambda: type("K", (Dma,), {"a": on_write(Dma.CH, Dma.ISR)(hook())}),
            "takes the index of an array's element for some",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(LayoutError, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Bits("0", 4),
        lambda: Register(1.5),
        lambda: Register(0, size="4"),
        lambda: make({"size": "x"}, A=Register(0)),
        lambda: on_write(Usart.DR)(5),
        lambda: on_write(Usart.DR)(len),
        lambda: EnumField(0, 8, Enum("E", {"A": "x"})),
    ],
)
def test_what_has_the_wrong_type_is_a_type_error(build):
    with pytest.raises(TypeError):
        build()


def test_an_enum_fits_its_field():
    with pytest.raises(ValueError, match="0x5 does not fit a field of 2 bits"):
        EnumField(0, 2, Color)
    with pytest.raises(ValueError, match="0x2 does not fit"):
        Bits(0, 1, reset=2)

    class Mode(Register):
        COLOR = EnumField(0, 3, Color, reset=Color.RED)

    assert bank_of(Mode(0)).R.COLOR is Color.RED


def test_an_array_that_a_subclass_shortens_must_have_the_elements_that_hooks_name():
    with pytest.raises(LayoutError, match=r"Short.third \(on_write\) names CH\[2\], which the bank does not have"):

        class Short(Dma):
            CH = Array(Channel(0x10), 2, 0x8)

    class Shorter(Usart):
        X = Array(Register(0x20), 2)

    with pytest.raises(IndexError, match="X does not have the element 2"):
        Shorter.X.each._of_bank(Shorter(), 2)


def test_a_class_that_brings_a_layout_of_its_own_is_refused():
    layout = type(Usart._layout)
    for wrong in (layout.__new__(layout), 5, None):
        bank = type("Wrong", (Usart,), {})
        bank._layout = wrong
        with pytest.raises(TypeError):
            bank()
    with pytest.raises(TypeError, match="initialised once"):
        Usart._layout.__init__(*[None] * 15)


def test_65_lines_are_too_many():
    register = Register(0)
    lines = {f"irq{number}": Interrupt(status=register) for number in range(65)}
    with pytest.raises(LayoutError, match="65 interrupt lines are more than 64"):
        make(R=register, **lines)
    register, lines = Register(0), {}
    lines = {f"irq{number}": Interrupt(status=register) for number in range(64)}
    bank = make(R=register, **lines)()
    bank.R.value = 1
    assert bank.irq63.level


def test_handlers_cannot_be_put_on_the_instance_of_a_slotted_bank_but_count_elsewhere():
    usart = Usart()
    usart.read = lambda base, offset, data: data.__setitem__(0, 9)
    assert served(usart).mmio_load(0, 1) == 9


def test_other_spaces_are_the_same_registers():
    usart = Usart()
    manager = served(usart)
    MMIO.store(manager, 8, 4, 0x1234)
    assert PIO.load(manager, 8, 4) == 0x1234
