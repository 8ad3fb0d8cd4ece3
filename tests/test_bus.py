"""The bus as devices and callers see it: registration, accesses, options, and the views of the map."""

from __future__ import annotations

import copy
import enum
import gc
import pickle
import weakref
from fractions import Fraction

import numpy as np
import pytest
from helpers import (
    ACCESSES,
    MMIO,
    PIO,
    READS,
    SPACES,
    WRITES,
    EveryAccess,
    Recorder,
    assert_held,
    each_access,
    each_space,
    map_both,
    whole_map,
)
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import (
    DeviceIo,
    DeviceIoMut,
    DeviceOverlapError,
    IoAddress,
    IoManager,
    Mutex,
    NoDeviceError,
    PioAddress,
)

each_read = pytest.mark.parametrize("access", READS, ids=repr)
each_write = pytest.mark.parametrize("access", WRITES, ids=repr)


class WithIndex:
    """An integer by its `__index__` alone."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Port(enum.IntEnum):
    DATA = 0x100


# ----------------------------------------------------------------------------- accesses


@each_access
def test_an_access_reaches_the_right_handler_with_base_offset_and_bytes(access):
    device = Recorder(answer=b"\x11\x22\x33\x44")
    manager = map_both(device)
    result = access(manager, 0x123, 4)
    handler = ("" if access.space is MMIO else "pio_") + ("read" if access.reads else "write")
    given = bytes(4) if access.reads else b"\xa1\xa2\xa3\xa4"
    assert device.calls == [(handler, 0x100, 0x23, given)]
    assert result == (b"\x11\x22\x33\x44" if access.reads else b"")
    _, base, offset, _ = device.calls[0]
    assert type(base) is type(offset) is access.space.address_type


@each_access
@pytest.mark.parametrize("offset", [0, 1, 0xFFF, 0x1000, 0x1001, 0x5FFF])
def test_base_and_offset_are_addresses_at_every_offset(access, offset):
    device = Recorder()
    manager = map_both(device, 0x100, 0x6000)
    for _ in range(3):
        access(manager, 0x100 + offset)
    assert [call[1:3] for call in device.calls] == [(0x100, offset)] * 3
    assert {type(number) for call in device.calls for number in call[1:3]} == {access.space.address_type}
    # Made once per range, not once per access.
    assert len({id(base) for _, base, _, _ in device.calls}) == 1


def test_offsets_that_share_a_slot_of_the_cache_are_distinguished():
    device = Recorder()
    manager = IoManager()
    manager.register_device_io(device, [MMIO.range(0, 2**64)])
    offsets = [0x1000 + 0x1003 * step for step in range(5000)] + [2**64 - 1 - step for step in range(5000)]
    for offset in offsets + offsets[::-1]:
        manager.mmio_load(offset, 1)
    assert [offset for _, _, offset, _ in device.calls] == offsets + offsets[::-1]
    assert {type(offset) for _, _, offset, _ in device.calls} == {IoAddress}


@each_space
def test_large_offsets_are_exact(space):
    device = Recorder()
    manager = IoManager()
    manager.register_device_io(device, [space.range(1, space.last)])
    for address in (1, 0xFFF, 0x1000, 0x1001, space.last - 1, space.last):
        space.load(manager, address, 1)
        assert device.calls.pop()[1:3] == (1, address - 1)


@pytest.mark.parametrize(
    ("access", "size"),
    [
        (access, size)
        for access in ACCESSES
        for size in (access.space.sizes if access.by_integer else (1, 2, 3, 4, 5, 8, 16, 0x100))
    ],
    ids=str,
)
def test_an_access_of_any_size_that_fits_its_range(access, size):
    device = Recorder(answer=bytes(range(0x100)))
    manager = map_both(device)
    if access.reads:
        assert access(manager, 0x200 - size, size) == device.answer[:size]
        assert len(device.calls[0][3]) == size
    else:
        payload = bytes(range(size))
        if access.by_integer:
            access.space.store(manager, 0x200 - size, size, int.from_bytes(payload, "little"))
        else:
            access.space.write(manager, 0x200 - size, payload)
        assert device.calls[0][3] == payload


@each_access
def test_the_error_of_an_unowned_access_has_its_address_and_size(access):
    manager = map_both(Recorder())
    for size, text in ((1, "1 byte"), (4, "4 bytes")):
        with pytest.raises(NoDeviceError) as refused:
            access(manager, 0x80, size)
        assert str(refused.value) == f"no device owns {access.space} address 0x80 ({text})"
        assert isinstance(refused.value, LookupError)
        error = refused.value
        assert (error.space.name, error.address, error.size, error.owner) == (access.space.name, 0x80, size, None)
    with pytest.raises(NoDeviceError):
        access(IoManager(), 0)


@each_access
def test_an_access_that_leaves_its_range_is_refused(access):
    device, neighbour = Recorder("uart"), Recorder("neighbour")
    manager = map_both(device)
    manager.register_device_io(neighbour, [space.range(0x200, 0x10) for space in SPACES])
    with pytest.raises(NoDeviceError) as refused:
        access(manager, 0x1FE, 4)
    assert str(refused.value) == (
        f"the access to {access.space} address 0x1fe (4 bytes) runs past the end of range 0x100..0x1ff of <uart>"
    )
    assert refused.value.owner == (0x100, 0x1FF, device)
    assert device.calls == neighbour.calls == []
    access(manager, 0x1FC, 4)
    assert len(device.calls) == 1


@each_access
def test_an_access_that_begins_before_a_range_is_unowned(access):
    manager = map_both(Recorder())
    with pytest.raises(NoDeviceError, match=r"^no device owns .* address 0xfe \(4 bytes\)$"):
        access(manager, 0xFE, 4)


@each_access
def test_a_manager_may_pass_what_leaves_its_range_to_the_owner_of_its_start(access):
    device, neighbour = Recorder(answer=b"\x11\x22\x33\x44"), Recorder("neighbour")
    manager = map_both(device, straddle="pass")
    manager.register_device_io(neighbour, [space.range(0x200, 0x10) for space in SPACES])
    result = access(manager, 0x1FE, 4)
    assert result == (b"\x11\x22\x33\x44" if access.reads else b"")
    [(_, base, offset, data)] = device.calls
    assert (base, offset, len(data)) == (0x100, 0xFE, 4)
    assert neighbour.calls == []
    with pytest.raises(NoDeviceError):
        access(manager, 0xFF, 4)


class Integers(DeviceIo):
    """Remembers the offsets of what is stored."""

    def __init__(self):
        self.offsets = []

    def store(self, base, offset, size, value):
        self.offsets.append(offset)


@each_access
def test_the_end_of_the_space_can_be_passed_too(access):
    device = Recorder(answer=b"\x11\x22\x33\x44")
    manager = IoManager(straddle="pass")
    manager.register_device_io(device, [space.range(space.last, 1) for space in SPACES])
    assert access(manager, access.space.last, 4) == (b"\x11\x22\x33\x44" if access.reads else b"")
    with pytest.raises(NoDeviceError):
        access(manager, 0, 4)


def test_no_access_wraps_around_from_the_last_offset_to_the_first():
    device = Integers()
    manager = IoManager(straddle="pass")
    manager.register_device_io(device, [MMIO.range(0, 2**64)])
    manager.mmio_write(2**64 - 5, b"12345")
    for data in (b"123456", b"12345678"):
        with pytest.raises(NoDeviceError):
            manager.mmio_write(2**64 - 5, data)
        with pytest.raises(NoDeviceError):
            manager.mmio_read(2**64 - 5, bytearray(data))
    with pytest.raises(NoDeviceError):
        manager.mmio_load(2**64 - 1, 2)
    assert device.offsets == [2**64 - 5, 2**64 - 4]


@each_access
def test_an_open_bus_answers_where_no_device_does(access):
    device = Recorder()
    manager = map_both(device, open_bus=0xE7)
    for address in (0x80, 0xFE, 0x1FE, 0x200, access.space.last):
        assert access(manager, address, 4) == (b"\xe7" * 4 if access.reads else b"")
    assert device.calls == []
    assert access(manager, 0x100, 4) == (bytes(4) if access.reads else b"")
    assert len(device.calls) == 1


@each_read
@pytest.mark.parametrize("open_bus", [0, 1, 0x80, 0xFF])
def test_an_open_bus_fills_every_byte(access, open_bus):
    manager = IoManager(open_bus=open_bus)
    for size in access.space.sizes:
        assert access(manager, 0, size) == bytes([open_bus]) * size


@each_access
@pytest.mark.parametrize(
    "address",
    [-1, -(2**63), -(2**64), 2**64, 2**64 + 1, 2**128, 10**400, -(10**400)],
    ids=lambda address: f"{address:#x}"[:20],
)
def test_an_address_outside_its_space_is_an_overflow(access, address):
    device = Recorder()
    manager = IoManager(open_bus=0)
    manager.register_device_io(device, [space.range(0, space.last + 1) for space in SPACES])
    with pytest.raises(OverflowError, match=rf"^{access.space} address {address:#x} .*0x0\.\.{access.space.last:#x}$"):
        access(manager, address)
    assert device.calls == []


@pytest.mark.parametrize("port", [0x10000, 0x10100, 2**32, 2**64 - 1], ids=hex)
@pytest.mark.parametrize("access", [access for access in ACCESSES if access.space is PIO], ids=repr)
def test_a_port_above_0xffff_is_an_overflow(access, port):
    manager = IoManager(open_bus=0)
    with pytest.raises(OverflowError, match=rf"^PIO address {port:#x} .*0x0\.\.0xffff$"):
        access(manager, port)
    with pytest.raises(OverflowError):
        access(manager, np.uint64(port))


@each_access
@pytest.mark.parametrize(
    "address", [256.0, np.float64(256), Fraction(256), 256j, "256", b"\0", None, [256], np.array([256, 257]), object()]
)
def test_an_address_that_is_not_an_integer_is_a_type_error(access, address):
    manager = IoManager(open_bus=0)
    with pytest.raises(TypeError, match=r"integer"):
        access(manager, address)


@each_access
@pytest.mark.parametrize(
    "address",
    [256, np.uint64(256), np.int16(256), np.array(256), Port.DATA, IoAddress(256), PioAddress(256), WithIndex(256)],
    ids=lambda address: type(address).__name__,
)
def test_every_kind_of_integer_is_an_address(access, address):
    device = Recorder()
    access(map_both(device), address)
    assert device.calls[0][1:3] == (0x100, 0)


@each_access
def test_a_bool_is_an_integer(access):
    device = Recorder()
    manager = map_both(device, 0, 2)
    access(manager, True)
    access(manager, False, True)
    assert [(offset, len(data)) for _, _, offset, data in device.calls] == [(1, 1), (0, 1)]


class FailingIndex:
    def __index__(self):
        raise KeyError("no index")


def test_an_exception_in_index_comes_out():
    manager = IoManager(open_bus=0)
    for call in (
        lambda: manager.mmio_read(FailingIndex(), bytearray(1)),
        lambda: manager.mmio_load(0, FailingIndex()),
        lambda: manager.pio_out(0, 1, FailingIndex()),
        lambda: manager.pio_bus.find(FailingIndex()),
    ):
        with pytest.raises(KeyError, match="no index"):
            call()


def test_an_access_goes_on_with_the_ranges_that_it_began_with():
    device = Recorder()
    manager = map_both(device)

    class Unplugging:
        def __index__(self):
            manager.unregister_device_io([MMIO.range(0x100, 0x100)])
            return 0x100

    manager.mmio_load(Unplugging(), 1)
    assert len(device.calls) == 1
    with pytest.raises(NoDeviceError):
        manager.mmio_load(0x100, 1)


# ----------------------------------------------------------------------------- integers


@each_space
@pytest.mark.parametrize("size", [0, 3, 5, 6, 7, 9, 16, 64, -1, -8, 2**32 + 1, 2**64, 2**64 + 1, -(2**70)], ids=hex)
def test_integers_have_the_sizes_of_registers(space, size):
    device = Recorder()
    manager = map_both(device, open_bus=0)
    sizes = "1, 2, 4 or 8" if space is MMIO else "1, 2 or 4"
    for call in (lambda: space.load(manager, 0x100, size), lambda: space.store(manager, 0x100, size, 0)):
        with pytest.raises(ValueError, match=rf"\b{sizes}\b.* not {size}$"):
            call()
    assert device.calls == []


def test_a_port_integer_cannot_have_8_bytes():
    manager = map_both(Recorder())
    with pytest.raises(ValueError, match=r"\b1, 2 or 4\b.* not 8$"):
        manager.pio_in(0x100, 8)
    with pytest.raises(ValueError, match=r"\b1, 2 or 4\b.* not 8$"):
        manager.pio_out(0x100, 8, 0)


@each_space
def test_a_value_must_fit_its_size(space):
    device = Recorder()
    manager = map_both(device, open_bus=0)
    for size in space.sizes:
        for value in (-1, -(2**63), -(2**64), 1 << (8 * size), 2**64, 2**200):
            with pytest.raises(ValueError, match="fit") as refused:
                space.store(manager, 0x100, size, value)
            unit = "1 byte" if size == 1 else f"{size} bytes"
            assert str(refused.value) == f"value {value:#x} does not fit {unit}"
        assert device.calls == []
        space.store(manager, 0x100, size, (1 << (8 * size)) - 1)
        assert device.calls.pop()[3] == b"\xff" * size


@each_space
@pytest.mark.parametrize("number", [-1, 2**64], ids=hex)
def test_an_integer_by_its_index_alone_has_the_same_limits(space, number):
    manager = map_both(Recorder(), open_bus=0)
    other = WithIndex(number)
    with pytest.raises(OverflowError, match=rf"^{space} address {number:#x} .*0x0\.\.{space.last:#x}$"):
        space.load(manager, other, 1)
    with pytest.raises(OverflowError, match=rf"^{space} address {number:#x} .*0x0\.\.{space.last:#x}$"):
        space.bus(manager).find(other)
    with pytest.raises(ValueError, match=rf" not {number}$"):
        space.load(manager, 0, other)
    with pytest.raises(ValueError, match=rf"^value {number:#x} does not fit 1 byte$"):
        space.store(manager, 0, 1, other)


@each_space
@pytest.mark.parametrize("other", [1.0, np.float32(1), "1", None, b"\1", [1]], ids=lambda other: type(other).__name__)
def test_sizes_and_values_are_integers(space, other):
    manager = map_both(Recorder(), open_bus=0)
    for call in (
        lambda: space.load(manager, 0x100, other),
        lambda: space.store(manager, 0x100, other, 0),
        lambda: space.store(manager, 0x100, 1, other),
    ):
        with pytest.raises(TypeError, match="integer"):
            call()


@each_space
def test_every_kind_of_integer_is_a_value(space):
    device = Recorder()
    manager = map_both(device)
    for value in (2, np.uint64(2), np.int8(2), WithIndex(2), IoAddress(2), np.array(2)):
        space.store(manager, 0x100, np.uint8(2), value)
        assert device.calls.pop()[3] == b"\2\0"
    space.store(manager, 0x100, 1, True)
    assert device.calls.pop()[3] == b"\1"


@pytest.mark.parametrize("byteorder", ["little", "big"])
@given(data=st.data())
def test_integers_have_the_byte_order_of_the_manager(byteorder, data):
    space = data.draw(st.sampled_from(SPACES))
    size = data.draw(st.sampled_from(space.sizes))
    answer = data.draw(st.binary(min_size=size, max_size=size))
    device = Recorder(answer=answer)
    manager = map_both(device, byteorder=byteorder)
    value = int.from_bytes(answer, byteorder)
    assert space.load(manager, 0x100, size) == value
    assert type(space.load(manager, 0x100, size)) is int
    space.store(manager, 0x100, size, value)
    assert device.calls[-1][3] == answer


@pytest.mark.parametrize("byteorder", ["little", "big"])
@each_space
def test_the_byte_order_does_not_touch_buffers(space, byteorder):
    device = Recorder(answer=b"\1\2\3\4")
    manager = map_both(device, byteorder=byteorder)
    buffer = bytearray(4)
    space.read(manager, 0x100, buffer)
    space.write(manager, 0x100, b"\5\6\7\x08")
    assert buffer == b"\1\2\3\4"
    assert device.calls[-1][3] == b"\5\6\7\x08"


@each_space
def test_a_load_sees_nothing_of_accesses_before_it(space):
    class Partly(EveryAccess):
        def handle(self, data):
            if not data.readonly:
                assert bytes(data) == bytes(len(data))
                data[len(data) // 2] = 0x5A

    manager = map_both(Partly())
    for _ in range(3):
        for size in space.sizes:
            space.store(manager, 0x100, size, (1 << (8 * size)) - 1)
            assert space.load(manager, 0x100, size) == 0x5A << (8 * (size // 2))


# ----------------------------------------------------------------------------- handlers


class Stop(BaseException):
    pass


ERRORS = [
    ValueError("broken"),
    NoDeviceError("MMIO", 5, 1),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"),
    MemoryError(),
    StopIteration(1),
    GeneratorExit(),
    KeyboardInterrupt(),
    SystemExit(3),
    Stop(),
]


@each_access
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_in_a_device_comes_out_unchanged(access, error):
    class Failing(EveryAccess):
        def handle(self, data):
            raise error

    other = Recorder(answer=b"\x33")
    manager = map_both(Failing())
    manager.register_device_io(other, [space.range(0x300, 8) for space in SPACES])
    before = manager.tables()
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            access(manager, 0x100)
        assert raised.value is error
    assert manager.tables() is before
    assert access(manager, 0x300) == (b"\x33" if access.reads else b"")


@each_access
def test_a_mutex_is_held_during_a_handler_and_released_even_if_it_raises(access):
    class Guarded(DeviceIoMut):
        fails = False

        def handle(self, base, offset, data):
            waiting.append(assert_held(mutex))
            if self.fails:
                raise OSError("no medium")
            if not data.readonly:
                data[0] = 0x77

        read = write = pio_read = pio_write = handle

    waiting = []
    mutex = Mutex(Guarded())
    manager = map_both(mutex)
    assert access(manager, 0x100) == (b"\x77" if access.reads else b"")
    waiting.pop().result()
    with mutex.lock() as device:
        device.fails = True
    with pytest.raises(OSError, match="no medium"):
        access(manager, 0x100)
    waiting.pop().result()


def test_a_mutex_lets_its_own_device_in_again():
    class Reentrant(DeviceIoMut):
        unhandled = "ignore"

        def read(self, base, offset, data):
            data[0] = offset and manager.mmio_load(0x100 + offset - 1, 1) + 1

    manager = map_both(Mutex(Reentrant()))
    assert manager.mmio_load(0x120, 1) == 0x20


def test_a_subclass_of_mutex_is_called_by_its_own_handlers():
    class Logging(Mutex):
        calls = 0

        def read(self, base, offset, data):
            type(self).calls += 1
            super().read(base, offset, data)

    class Inner(DeviceIoMut):
        unhandled = "ignore"

        def read(self, base, offset, data):
            data[0] = 0x42

    manager = map_both(Logging(Inner()))
    assert manager.mmio_load(0x100, 1) == 0x42
    assert Logging.calls == 1


@each_access
def test_a_device_may_make_accesses_itself_included(access):
    """Each level makes every kind of access one level below, and nothing that it holds is disturbed by them."""
    levels = 3

    class Nested(DeviceIo):
        def __init__(self):
            self.level = 0

        def handle(self, base, offset, data):
            level = self.level
            pattern = bytes([level + 1]) * len(data)
            if not data.readonly:
                data[:] = pattern
            held = bytes(data)
            if level < levels:
                self.level = level + 1
                for inner in ACCESSES:
                    result = inner(manager, 0x180 if level % 2 else 0x380, 4)
                    assert result == (bytes([level + 2]) * 4 if inner.reads else b"")
                self.level = level
            assert bytes(data) == held

        read = write = pio_read = pio_write = handle

    device = Nested()
    manager = map_both(device)
    manager.register_device_io(device, [space.range(0x300, 0x100) for space in SPACES])
    assert access(manager, 0x100, 4) == (b"\1\1\1\1" if access.reads else b"")
    assert device.level == 0


def test_endless_recursion_is_an_error_not_a_crash():
    class Endless(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            manager.mmio_load(0x100, 1)

    manager = map_both(Endless())
    with pytest.raises(RecursionError):
        manager.mmio_load(0x100, 1)
    assert len(manager.mmio_bus) == 1


@each_access
def test_a_device_may_unplug_itself_while_it_is_called(access):
    class Leaving(EveryAccess):
        def handle(self, data):
            manager.unregister_device_io([space.range(0x100, 0x100) for space in SPACES])
            devices.clear()
            del self
            gc.collect()
            # Its last reference is now the access that is under way.
            assert device() is not None
            if not data.readonly:
                data[0] = 0x5A

    devices = [Leaving()]
    device = weakref.ref(devices[0])
    manager = map_both(devices[0])
    assert access(manager, 0x100) == (b"\x5a" if access.reads else b"")
    assert whole_map(manager) == []
    gc.collect()
    assert device() is None
    with pytest.raises(NoDeviceError):
        access(manager, 0x100)


def test_a_device_may_drop_the_manager_while_it_is_called():
    class Dropping(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            managers.clear()
            gc.collect()
            data[0] = 0x5A

    managers = [map_both(Dropping())]
    assert managers[0].mmio_load(0x100, 1) == 0x5A
    assert managers == []


def test_a_device_may_move_its_own_range_and_plug_in_others():
    class Bar(DeviceIo):
        unhandled = "ignore"

        def write(self, base, offset, data):
            with manager.begin_tx() as transaction:
                transaction.unregister_device_io([MMIO.range(base, 0x100)])
                transaction.register_device_io(self, [MMIO.range(int(data[0]) << 8, 0x100)])

        def read(self, base, offset, data):
            manager.register_device_io(disk, [PIO.range(0x3F0, 8)])
            data[0] = base >> 8

    device, disk = Bar(), Recorder(answer=b"\x50")
    manager = map_both(device)
    manager.mmio_store(0x100, 1, 0x40)
    assert [base for base, _, _ in manager.mmio_bus] == [0x4000]
    assert manager.mmio_load(0x4010, 1) == 0x40
    assert manager.pio_in(0x3F0, 1) == 0x50


class Unprintable(EveryAccess):
    def handle(self, data):
        pass

    def __repr__(self):
        raise ZeroDivisionError("half built")


def test_messages_come_out_for_a_device_whose_repr_fails():
    manager = map_both(Unprintable())
    with pytest.raises(DeviceOverlapError) as refused:
        manager.register_device_io(Recorder(), [PIO.range(0x1FF, 1)])
    assert str(refused.value) == "PIO range 0x1ff..0x1ff of <recorder> overlaps 0x100..0x1ff of <Unprintable>"
    with pytest.raises(NoDeviceError, match=r"past the end of range 0x100\.\.0x1ff of <Unprintable>$"):
        manager.mmio_load(0x1FE, 4)
    assert "  0x100..0x1ff  256 bytes  <Unprintable>\n" in str(manager)
    assert repr(manager) == "<IoManager: 1 MMIO range, 1 PIO range>"


# ----------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"open_bus": -1}, ValueError, r"^open_bus .*0x0\.\.0xff\b.* not -0x1$"),
        ({"open_bus": 0x100}, ValueError, r"^open_bus .*0x0\.\.0xff\b.* not 0x100$"),
        ({"open_bus": 2**70}, ValueError, r"^open_bus .*0x0\.\.0xff\b.* not 0x400000000000000000$"),
        ({"open_bus": 255.0}, TypeError, "^open_bus must be an int .*or None, not float$"),
        ({"open_bus": b"\xff"}, TypeError, "^open_bus must be an int .*or None, not bytes$"),
        ({"open_bus": "ff"}, TypeError, "^open_bus must be an int .*or None, not str$"),
        ({"straddle": "split"}, ValueError, '^straddle .*"reject" or "pass", not \'split\'$'),
        ({"straddle": None}, ValueError, '^straddle .*"reject" or "pass", not None$'),
        ({"byteorder": "<"}, ValueError, '^byteorder .*"little" or "big", not \'<\'$'),
        ({"byteorder": None}, ValueError, '^byteorder .*"little" or "big", not None$'),
        ({"endianness": "big"}, TypeError, "unexpected keyword argument"),
    ],
    ids=str,
)
def test_an_option_with_another_value_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        IoManager(**options)


def test_options_are_given_by_name():
    with pytest.raises(
        TypeError, match=r"^IoManager takes its options by keyword only: for an open bus, open_bus=0xff$"
    ):
        IoManager(0xFF)
    with pytest.raises(TypeError, match=r"^IoManager takes its options by keyword only$"):
        IoManager("big")


def test_a_subclass_may_take_other_arguments():
    class Machine(IoManager):
        def __init__(self, size):
            super().__init__(open_bus=size)

    assert Machine(0x10).open_bus == 0x10
    with pytest.raises(TypeError, match=r"^Plain takes its options by keyword only: for an open bus, open_bus=0x1$"):
        type("Plain", (IoManager,), {})(1)


OPTIONS = [
    {"open_bus": None, "straddle": "reject", "byteorder": "little"},
    {"open_bus": 0, "straddle": "pass", "byteorder": "big"},
    {"open_bus": 0xFF, "straddle": "reject", "byteorder": "big"},
]
COPIES = {
    "clone": IoManager.clone,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda manager: pickle.loads(pickle.dumps(manager)),
}


def options_of(manager):
    return {"open_bus": manager.open_bus, "straddle": manager.straddle, "byteorder": manager.byteorder}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_options_can_be_read_and_are_kept_by_copies_and_changes(options, duplicate):
    manager = IoManager(**options)
    assert options_of(manager) == options
    manager.register_device_io(DeviceIo(), [MMIO.range(0x100, 1)])
    assert options_of(manager) == options
    twin = duplicate(manager)
    assert options_of(twin) == options
    twin.unregister_device_io([MMIO.range(0x100, 1)])
    assert options_of(twin) == options


def test_options_cannot_be_set():
    manager = IoManager()
    for name in ("open_bus", "straddle", "byteorder", "mmio_bus", "pio_bus"):
        with pytest.raises(AttributeError):
            setattr(manager, name, None)
    with pytest.raises(AttributeError):
        manager.other = 1


# ----------------------------------------------------------------------------- offsets as objects

# On both sides of the numbers of digits that CPython stores an int in.
OFFSETS = st.integers(0, 5000) | st.integers(2**30 - 9, 2**30 + 9) | st.integers(2**60 - 9, 2**60 + 9)


@given(accesses=st.lists(st.tuples(OFFSETS, st.booleans()), min_size=1, max_size=60))
def test_an_offset_that_a_device_keeps_stays_what_it_was(accesses):
    """Objects of offsets are used again, but only those that no device has kept."""

    class Keeping(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            seen.append((type(offset), int(offset)))
            if keeps:
                kept.add(offset)

    seen, kept = [], set()
    manager = IoManager()
    manager.register_device_io(Keeping(), [MMIO.range(0, 2**62)])
    for offset, keeps in accesses:  # noqa: B007  (read by the device)
        manager.mmio_load(offset, 1)
    assert seen == [(IoAddress, offset) for offset, _ in accesses]
    assert sorted(kept) == sorted({offset for offset, keeps in accesses if keeps})


def test_offsets_that_stream_past_kept_ones_leave_them_unchanged():
    class Keeping(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            if offset % 3 == 0:
                kept.append(offset)
            seen.append(int(offset))

    kept, seen = [], []
    manager = IoManager()
    manager.register_device_io(Keeping(), [MMIO.range(0, 2**32)])
    offsets = [*range(4096, 20000), *range(2**30 - 2000, 2**30 + 2000)]
    for offset in offsets:
        manager.mmio_load(offset, 1)
    assert seen == offsets
    assert kept == [offset for offset in offsets if offset % 3 == 0]
    assert len({id(each) for each in kept}) == len(kept)
    assert all(hash(each) == hash(int(each)) for each in kept)
