"""`dbs_device.cocotb` without a simulator: coroutines that wait for nothing, and masters in Python."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple

import pytest
from helpers import Recorder
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cocotb", reason="the extra `cocotb` is not installed")

import cocotb

from dbs_device import DeviceIo, DeviceIoMut, IoManager, NoDeviceError, Resource, Space
from dbs_device.cocotb import BusAccess, DeviceRegion, Difference, FieldDifference, compare, register_accesses
from dbs_device.registers import (
    RO,
    UNIMPLEMENTED,
    W1C,
    WO,
    Array,
    Bits,
    Flag,
    PageSelect,
    Register,
    RegisterAlias,
    RegisterBank,
    on_read,
)
from dbs_device.trace import TraceRecorder


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the coroutine waits")


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What would fail the running test of cocotb."""
    caught: list[Exception] = []

    def start_soon(coroutine: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            run(coroutine)
        caught.append(raised.value)

    monkeypatch.setattr(cocotb, "start_soon", start_soon)
    return caught


# -- regions


class Fifo(RegisterBank, size=0x10):
    """Each read of DATA counts."""

    DATA = Register(0x0, access=RO)
    OUT = Register(0x4, access=WO)

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    @on_read(DATA)
    def pop(self, value: int) -> int:
        self.reads += 1
        return self.reads


def test_each_access_reaches_the_device_once() -> None:
    fifo = Fifo()
    region = DeviceRegion(fifo)
    assert [run(region.read(0, 4)) for _ in range(3)] == [bytes([number, 0, 0, 0]) for number in (1, 2, 3)]
    run(region.write(4, b"\x55\0\0\0"))
    assert fifo.reads == 3
    assert fifo.OUT.value == 0x55


def test_a_region_of_a_device_has_its_size() -> None:
    region = DeviceRegion(Fifo())
    assert region.size == len(region) == 0x10
    with pytest.raises(ValueError, match="out of range"):
        run(region.read(0x10, 4))


def test_a_device_without_a_size_needs_one() -> None:
    with pytest.raises(TypeError, match="DeviceIo does not have a size: give one"):
        DeviceRegion(DeviceIo())
    region = DeviceRegion(device := Recorder(answer=b"\x81\x82\x83\x84"), 0x20, base=0x1000)
    assert run(region.read(4, 4)) == b"\x81\x82\x83\x84"
    assert device.calls == [("read", 0x1000, 4, bytes(4))]


def test_a_device_that_needs_a_mutex_is_refused() -> None:
    class NotSafe(DeviceIoMut):
        size = 4

    with pytest.raises(TypeError, match="Mutex"):
        DeviceRegion(NotSafe())


def test_a_region_of_a_bus_reaches_its_devices_and_follows_its_changes() -> None:
    manager = IoManager()
    region = DeviceRegion(manager, 0x2000, base=0x4000)
    manager.register_device_io(device := Recorder(answer=b"\x81"), [Resource.MmioAddressRange(0x5000, 8)])
    assert run(region.read(0x1004, 1)) == b"\x81"
    assert device.calls == [("read", 0x5000, 4, bytes(1))]
    assert DeviceRegion(manager).size == 2**64
    assert DeviceRegion(manager, base=0x1000).size == 2**64 - 0x1000


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16])
def test_accesses_keep_their_size(size: int) -> None:
    region = DeviceRegion(device := Recorder(), 0x20)
    run(region.read(0, size))
    run(region.write(0, bytes(range(size))))
    assert device.calls == [("read", 0, 0, bytes(size)), ("write", 0, 0, bytes(range(size)))]


def test_a_defect_of_the_model_fails_the_test(failures: list[Exception]) -> None:
    error = ArithmeticError("defect")

    class Defective(DeviceIo):
        size = 4

        def load(self, base, offset, size):
            raise error

        store = load

    region = DeviceRegion(Defective())
    with pytest.raises(ArithmeticError):
        run(region.read(0, 4))
    assert failures == [error]


def test_an_unowned_address_is_a_bus_error_and_no_more(failures: list[Exception]) -> None:
    region = DeviceRegion(IoManager())
    with pytest.raises(NoDeviceError):
        run(region.read(0x100, 4))
    with pytest.raises(NoDeviceError):
        run(region.write(0x100, bytes(4)))
    assert failures == []
    assert run(DeviceRegion(IoManager(open_bus=0xFF)).read(0x100, 4)) == b"\xff" * 4


def test_an_access_that_a_bank_refuses_is_a_bus_error_and_no_more(failures: list[Exception]) -> None:
    class Strict(RegisterBank, size=8, gap="raise"):
        R = Register(0x0)

    with pytest.raises(LookupError):
        run(DeviceRegion(Strict()).read(4, 4))
    assert failures == []


def test_an_unowned_access_of_the_device_itself_is_a_defect(failures: list[Exception]) -> None:
    manager = IoManager()

    class Astray(DeviceIo):
        def load(self, base, offset, size):
            return manager.mmio_load(0x9999, 1)

    manager.register_device_io(Astray(), [Resource.MmioAddressRange(0x100, 4)])
    with pytest.raises(NoDeviceError):
        run(DeviceRegion(manager).read(0x100, 4))
    assert [type(error) for error in failures] == [NoDeviceError]


# -- comparisons


class Response(NamedTuple):
    data: bytes
    resp: int


class Master:
    """A master of cocotbext-axi whose peripheral is a second device; it may damage what it reads."""

    def __init__(self, device: DeviceIo, size: int, lanes: int = 4) -> None:
        self.byte_lanes = lanes
        self.region = DeviceRegion(device, size)
        self.flipped: dict[int, int] = {}
        self.accesses: list[tuple[str, int, int]] = []

    async def read(self, address: int, length: int) -> Response:
        self.accesses.append(("read", address, length))
        try:
            data = bytearray(await self.region.read(address, length))
        except Exception:
            return Response(bytes(length), 2)
        for at, bits in self.flipped.items():
            if address <= at < address + length:
                data[at - address] ^= bits
        return Response(bytes(data), 0)

    async def write(self, address: int, data: bytes) -> Response:
        self.accesses.append(("write", address, len(data)))
        try:
            await self.region.write(address, data)
        except Exception:
            return Response(b"", 2)
        return Response(b"", 0)


class Status(Register):
    READY = Flag(0, RO, reset=True)
    ERROR = Flag(1, W1C, reset=True)
    LEVEL = Bits(4, 3, RO, reset=5)


class Select(Register, size=1):
    PAGE = Flag(0)


class Bank(RegisterBank, size=0x40, granule=1):
    """One of everything that an access may reach."""

    SR = Status(0x00)
    CR = Register(0x04)
    BYTES = Array(Register(0x08, size=1), 4)
    WIDE = Register(0x10, size=8)
    PAGE_A = Register(0x18, page=0)
    PAGE_B = Register(0x18, page=1, access=RO, reset=0x77)
    SELECT = Select(0x1C)
    page = PageSelect(SELECT.PAGE)
    SECRET = Register(0x20, access=UNIMPLEMENTED)
    CR_SET = RegisterAlias(CR, 0x24, "set")


def compared(master: Master, model: DeviceIo | None = None, accesses: Any = None, **options: Any) -> list[Difference]:
    result: list[Difference] = run(compare(master, Bank() if model is None else model, accesses, **options))
    return result


def test_what_is_the_same_has_no_differences() -> None:
    master = Master(Bank(), Bank.size)
    assert compared(master) == []
    assert {name for name, _, _ in master.accesses} == {"read", "write"}


@given(seed=st.integers(), rounds=st.integers(0, 6), lanes=st.sampled_from([4, 8]))
def test_two_banks_of_a_class_agree_whatever_is_done(seed: int, rounds: int, lanes: int) -> None:
    model = Bank()
    master = Master(rtl := Bank(), Bank.size, lanes)
    assert compared(master, model, register_accesses(Bank(), rounds=rounds, seed=seed)) == []
    assert model.save_state() == rtl.save_state()


def test_a_difference_is_named_by_register_and_field() -> None:
    master = Master(Bank(), Bank.size)
    master.flipped[0] = 0b0010_0010
    [difference] = compared(master, accesses=[BusAccess(False, 0, 4)])
    assert difference == Difference(
        0,
        BusAccess(False, 0, 4),
        "SR",
        0x53,
        0x71,
        (FieldDifference("ERROR", 1, 0), FieldDifference("LEVEL", 5, 7)),
    )
    assert str(difference) == (
        "access 0, read of 4 bytes at 0x0: SR is 0x71, expected 0x53 (ERROR 0x0, expected 0x1; LEVEL 0x7, expected 0x5)"
    )


def test_a_write_rule_that_differs_is_found_without_being_told_where() -> None:
    class Faulty(Bank):
        SR = type("Status", (Status,), {"ERROR": Flag(1, RO, reset=True)})(0x00)

    names = {(each.register, each.fields[0].name) for each in compared(Master(Faulty(), Bank.size))}
    assert names == {("SR", "ERROR")}


def test_registers_beside_each_other_are_told_apart() -> None:
    master = Master(Bank(), Bank.size)
    master.flipped[0x09] = 0xFF
    [difference] = compared(master, accesses=[BusAccess(False, 0x08, 4)])
    assert (difference.register, difference.expected, difference.actual) == ("BYTES[1]", 0, 0xFF)


def test_bytes_of_no_register_have_no_name() -> None:
    master = Master(Bank(), Bank.size)
    master.flipped[0x30] = 1
    [difference] = compared(master, accesses=[BusAccess(False, 0x30, 4)])
    assert str(difference) == "access 0, read of 4 bytes at 0x30: no register is 0x1, expected 0x0"
    device = Recorder(answer=bytes(4))
    master = Master(Recorder(answer=b"\x01\0\0\0"), 0x10)
    [difference] = compared(master, device, [BusAccess(False, 0, 4)], size=0x10)
    assert difference.register is None


def test_the_page_that_is_selected_gives_the_name() -> None:
    for page, name in enumerate(["PAGE_A", "PAGE_B"]):
        master = Master(Bank(), Bank.size)
        master.flipped[0x18] = 1
        accesses = [BusAccess(True, 0x1C, 1, page), BusAccess(False, 0x18, 4)]
        assert [each.register for each in compared(master, accesses=accesses)] == [name]


def test_big_endian_registers_are_compared_in_their_order() -> None:
    class Big(RegisterBank, size=4, byteorder="big"):
        R = type("Fields", (Register,), {"LOW": Bits(0, 8), "HIGH": Bits(24, 8)})(0x0)

    master = Master(Big(), 4)
    master.flipped[0] = 0x80
    [difference] = compared(master, Big(), [BusAccess(False, 0, 4)])
    assert (difference.actual, [field.name for field in difference.fields]) == (0x8000_0000, ["HIGH"])


def test_a_bus_error_is_a_difference_in_both_directions() -> None:
    class Strict(RegisterBank, size=0x10, gap="raise"):
        R = Register(0x0)

    class Lax(RegisterBank, size=0x10):
        R = Register(0x0)

    gap = [BusAccess(False, 8, 4), BusAccess(True, 8, 4, 1)]
    assert compared(Master(Strict(), 0x10), Strict(), gap) == []
    differences = compared(Master(Lax(), 0x10), Strict(), gap)
    assert [str(each).partition(": ")[2] for each in differences] == ["no register: a bus error is expected"] * 2
    differences = compared(Master(Strict(), 0x10), Lax(), gap)
    assert [str(each).partition(": ")[2] for each in differences] == ["no register: bus error"] * 2


def test_other_exceptions_of_the_model_come_out() -> None:
    class Defective(DeviceIo):
        def load(self, base, offset, size):
            raise ArithmeticError

        def store(self, base, offset, size, value):
            pass

    with pytest.raises(ArithmeticError):
        compared(Master(Recorder(), 4), Defective(), [BusAccess(False, 0, 4)], size=4)


@pytest.mark.parametrize("name", ["SR.ERROR", "SR"])
def test_what_is_ignored_is_not_compared(name: str) -> None:
    master = Master(Bank(), Bank.size)
    master.flipped[0] = 0b10
    assert compared(master) != []
    assert compared(Master(Bank(), Bank.size), ignore={name}) == []
    master = Master(Bank(), Bank.size)
    master.flipped[0] = 0b10
    assert compared(master, ignore={name}) == []


def test_an_element_or_a_whole_array_may_be_ignored() -> None:
    for ignore, names in [((), {"BYTES[1]", "BYTES[2]"}), (["BYTES[1]"], {"BYTES[2]"}), (["BYTES"], set())]:
        master = Master(Bank(), Bank.size)
        master.flipped.update({0x09: 1, 0x0A: 1})
        assert {each.register for each in compared(master, ignore=ignore)} == names


@pytest.mark.parametrize("name", ["NOPE", "SR.NOPE", "CR.READY", "BYTES[9]"])
def test_an_unknown_name_cannot_be_ignored(name: str) -> None:
    with pytest.raises(ValueError, match=f"Bank has no register or field {name}".replace("[", r"\[")):
        compared(Master(Bank(), Bank.size), ignore={name})


def test_names_to_ignore_are_a_collection() -> None:
    with pytest.raises(TypeError, match=r"\{'SR'\}"):
        compared(Master(Bank(), Bank.size), ignore="SR")


def test_accesses_are_those_of_the_bus() -> None:
    master = Master(Bank(), Bank.size)
    wide = [BusAccess(True, 0x10, 8, 0x1122334455667788), BusAccess(False, 0x10, 8), BusAccess(False, 0x09, 1)]
    assert compared(master, accesses=wide) == []
    assert master.accesses == [
        ("write", 0x10, 4),
        ("write", 0x14, 4),
        ("read", 0x10, 4),
        ("read", 0x14, 4),
        ("read", 0x08, 4),
    ]
    master = Master(Bank(), Bank.size, lanes=8)
    assert compared(master, accesses=wide) == []
    assert master.accesses == [("write", 0x10, 8), ("read", 0x10, 8), ("read", 0x08, 8)]


def test_the_width_of_a_master_is_found_behind_windows() -> None:
    class Window:
        def __init__(self, parent: Any) -> None:
            self.parent = parent
            self.read, self.write = parent.read, parent.write

    master = Master(Bank(), Bank.size, lanes=8)
    assert compared(Window(Window(master)), accesses=[BusAccess(False, 0x10, 4)]) == []  # type: ignore[arg-type]
    assert master.accesses == [("read", 0x10, 8)]
    assert compared(master, accesses=[BusAccess(False, 0x14, 4)], width=4) == []
    assert master.accesses[1:] == [("read", 0x14, 4)]


@pytest.mark.parametrize("access", [BusAccess(False, 0xFFC, 4), BusAccess(True, 0x103D, 4)])
def test_an_access_outside_the_device_is_refused(access: BusAccess) -> None:
    with pytest.raises(ValueError, match=r"access 0, .* not in the 0x40 bytes at 0x1000"):
        compared(Master(Bank(), Bank.size), accesses=[access], base=0x1000)


def test_a_recorded_trace_is_replayed_on_both() -> None:
    manager = IoManager()
    manager.register_device_io(Bank(), [Resource.MmioAddressRange(0x4000, Bank.size)])
    recorder = TraceRecorder(manager)
    recorder.mmio_store(0x4004, 4, 0x1234)
    assert recorder.mmio_load(0x4004, 4) == 0x1234
    master = Master(rtl := Bank(), Bank.size)
    assert compared(master, accesses=recorder.trace, base=0x4000) == []
    assert rtl.CR.value == 0x1234
    recorder.record(Space.PIO, False, 0x4004, 4, 0)
    with pytest.raises(ValueError, match="access 2"):
        compared(master, accesses=recorder.trace, base=0x4000)


def test_a_device_that_is_not_a_bank_needs_accesses() -> None:
    with pytest.raises(TypeError, match="Recorder is not a RegisterBank"):
        compared(Master(Recorder(), 4), Recorder(), size=4)


# -- the accesses that are made by default


def test_every_register_is_read_and_written_and_unimplemented_ones_are_left_alone() -> None:
    accesses = list(register_accesses(Bank(), base=0x1000))
    written = {each.addr - 0x1000 for each in accesses if each.write}
    read = {each.addr - 0x1000 for each in accesses if not each.write}
    assert {0x00, 0x04, 0x08, 0x09, 0x0A, 0x0B, 0x10, 0x18, 0x1C, 0x24} <= written
    assert {0x00, 0x04, 0x08, 0x09, 0x0A, 0x0B, 0x10, 0x18, 0x1C, 0x24} <= read
    assert not {offset for offset in written | read if 0x20 <= offset < 0x24}
    values = {each.value for each in accesses if each.write and each.addr == 0x1004 and each.size == 4}
    assert {0, 0xFFFF_FFFF} <= values


def test_the_sizes_that_a_register_allows_are_kept() -> None:
    class Sized(RegisterBank, size=8):
        R = Register(0x0, access_sizes={4})

    assert {each.size for each in register_accesses(Sized(), rounds=50)} == {4}


def test_the_same_seed_gives_the_same_accesses() -> None:
    assert list(register_accesses(Bank(), seed=7)) == list(register_accesses(Bank(), seed=7))
    assert list(register_accesses(Bank(), seed=7)) != list(register_accesses(Bank(), seed=8))
