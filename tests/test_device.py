"""Devices: handlers that do nothing until overridden, and the Mutex that guards a DeviceIoMut."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
from helpers import DEADLOCK, ENOUGH_TO_GO_WRONG, Worker, assert_free, assert_held

from dbs_device.address import IoAddress, PioAddress
from dbs_device.device import DeviceIo, DeviceIoMut, Mutex
from dbs_device.resources import DeviceResources, Resource

HANDLERS = ["read", "write", "pio_read", "pio_write"]


class Register(DeviceIoMut):
    """Remembers what was called, on which thread, and answers with one byte."""

    def __init__(self, value: int = 0x5A) -> None:
        self.value = value
        self.calls: list[tuple[object, ...]] = []

    def read(self, base, offset, data):
        self.calls.append(("read", base, offset))
        data[0] = self.value

    def write(self, base, offset, data):
        self.calls.append(("write", base, offset))
        self.value = data[0]

    def pio_read(self, base, offset, data):
        self.calls.append(("pio_read", base, offset))
        data[0] = self.value

    def pio_write(self, base, offset, data):
        self.calls.append(("pio_write", base, offset))
        self.value = data[0]

    def get_assigned_resources(self):
        return DeviceResources([Resource.PioAddressRange(0x3F8, 8), Resource.LegacyIrq(4)])

    def get_trapped_io_resources(self):
        return DeviceResources([Resource.PioAddressRange(0x3F8, 8)])

    def __repr__(self):
        return "Register()"


class Failing(DeviceIoMut):
    """Raises from everything."""

    def fail(self, *_):
        raise OSError("no medium")

    read = write = pio_read = pio_write = get_assigned_resources = get_trapped_io_resources = fail


class Bare(DeviceIo):
    pass


class BareMut(DeviceIoMut):
    pass


def call(device, name):
    """Call a handler of a device, or one of its two getters."""
    if name.startswith("get_"):
        return getattr(device, name)()
    address = PioAddress if name.startswith("pio") else IoAddress
    return getattr(device, name)(address(0x10), address(2), memoryview(bytearray(b"\xa5")))


@pytest.mark.parametrize("cls", [DeviceIo, DeviceIoMut, Bare, BareMut])
def test_by_default_a_device_does_nothing(cls):
    device = cls()
    for name in HANDLERS:
        data = bytearray(b"\x01\x02")
        assert getattr(device, name)(IoAddress(0), IoAddress(0), memoryview(data)) is None
        assert data == b"\x01\x02"
    assert device.get_assigned_resources() == DeviceResources()
    assert device.get_trapped_io_resources() == DeviceResources()


@pytest.mark.parametrize("base", [DeviceIo, DeviceIoMut])
def test_trapped_resources_are_the_assigned_ones_unless_said_otherwise(base):
    class Timer(base):
        def get_assigned_resources(self):
            return DeviceResources([Resource.LegacyIrq(0)])

    assert Timer().get_trapped_io_resources() == DeviceResources([Resource.LegacyIrq(0)])


@pytest.mark.parametrize("base", [DeviceIo, DeviceIoMut])
def test_a_device_may_do_without_a_dict_and_be_referred_to_weakly(base):
    class Slotted(base):
        __slots__ = ("level",)

    device = Slotted()
    device.level = 1
    with pytest.raises(AttributeError):
        device.other = 1
    assert weakref.ref(device)() is device


def test_the_two_kinds_of_device_are_distinct_types():
    assert not isinstance(DeviceIoMut(), DeviceIo)
    assert not isinstance(DeviceIo(), DeviceIoMut)
    assert isinstance(Mutex(DeviceIoMut()), DeviceIo)
    assert not isinstance(Mutex(DeviceIoMut()), DeviceIoMut)


def test_a_class_can_be_declared_a_device_io():
    class Elsewhere:
        pass

    assert not isinstance(Elsewhere(), DeviceIo)
    DeviceIo.register(Elsewhere)
    assert isinstance(Elsewhere(), DeviceIo)


@pytest.mark.parametrize("device", [None, 5, object(), DeviceIo(), Mutex(DeviceIoMut()), DeviceIoMut], ids=repr)
def test_a_mutex_takes_a_device_io_mut_only(device):
    with pytest.raises(TypeError, match=rf"\bDeviceIoMut\b.* not {type(device).__name__}$"):
        Mutex(device)


def test_a_mutex_needs_a_device():
    with pytest.raises(TypeError):
        Mutex()


def test_a_mutex_passes_everything_on():
    register = Register()
    mutex = Mutex(register)
    data = bytearray(1)
    mutex.read(IoAddress(1), IoAddress(2), memoryview(data))
    assert data == b"\x5a"
    mutex.write(IoAddress(3), IoAddress(4), memoryview(b"\x11"))
    mutex.pio_read(PioAddress(5), PioAddress(6), memoryview(data))
    assert data == b"\x11"
    mutex.pio_write(PioAddress(7), PioAddress(8), memoryview(b"\x22"))
    assert register.value == 0x22
    assert register.calls == [("read", 1, 2), ("write", 3, 4), ("pio_read", 5, 6), ("pio_write", 7, 8)]
    assert mutex.get_assigned_resources() == register.get_assigned_resources()
    assert mutex.get_trapped_io_resources() == register.get_trapped_io_resources()


def test_a_mutex_prints_its_device():
    assert repr(Mutex(Register())) == "Mutex(Register())"


def test_lock_hands_out_the_inner_device_itself():
    register = Register()
    with Mutex(register).lock() as device:
        assert device is register
        assert isinstance(device, Register)


@pytest.mark.parametrize("name", [*HANDLERS, "get_assigned_resources", "get_trapped_io_resources"])
def test_the_lock_is_held_during_every_call_and_free_after_it(name):
    waiting = []

    class Curious(DeviceIoMut):
        def look(self, *_):
            waiting.append(assert_held(mutex))
            return DeviceResources()

        read = write = pio_read = pio_write = get_assigned_resources = get_trapped_io_resources = look

    mutex = Mutex(Curious())
    call(mutex, name)
    [worker] = waiting
    worker.result()


@pytest.mark.parametrize("name", [*HANDLERS, "get_assigned_resources", "get_trapped_io_resources"])
def test_an_exception_comes_out_unchanged_and_poisons_nothing(name):
    mutex = Mutex(Failing())
    for _ in range(2):
        with pytest.raises(OSError, match=r"^no medium$"):
            call(mutex, name)
        assert_free(mutex)


def test_an_exception_in_a_lock_block_releases_it():
    mutex = Mutex(Register())
    with pytest.raises(KeyboardInterrupt), mutex.lock():
        raise KeyboardInterrupt
    assert_free(mutex)


def test_the_lock_is_re_entrant_on_one_thread():
    class Recursive(DeviceIoMut):
        depth = 0

        def read(self, base, offset, data):
            self.depth += 1
            if offset:
                mutex.read(base, IoAddress(offset - 1), data)

    mutex = Mutex(Recursive())
    with mutex.lock() as outer, mutex.lock() as inner:
        assert outer is inner
        mutex.read(IoAddress(0), IoAddress(3), memoryview(bytearray(1)))
        assert inner.depth == 4
        waiting = assert_held(mutex)
    waiting.result()


def test_other_threads_wait_until_the_lock_is_released():
    register = Register()
    mutex = Mutex(register)
    started = threading.Event()

    def write():
        started.set()
        mutex.write(IoAddress(0), IoAddress(0), memoryview(b"\x77"))

    with mutex.lock() as device:
        writer = Worker(write)
        assert started.wait(DEADLOCK)
        writer.join(ENOUGH_TO_GO_WRONG)
        assert writer.is_alive()
        assert device.value == 0x5A
    writer.result()
    assert register.value == 0x77


def test_no_update_is_lost_between_threads():
    class Counter(DeviceIoMut):
        count = 0
        inside = 0

        def read(self, base, offset, data):
            self.inside += 1
            assert self.inside == 1
            before = self.count
            # Without the lock another thread gets in here.
            threading.Event().wait(0)
            self.count = before + 1
            self.inside -= 1

    mutex = Mutex(Counter())

    def hammer():
        for _ in range(200):
            call(mutex, "read")

    for worker in [Worker(hammer) for _ in range(4)]:
        worker.result()
    with mutex.lock() as device:
        assert device.count == 800


def test_two_mutexes_are_equal_only_if_they_are_one():
    register = Register()
    mutex = Mutex(register)
    assert mutex == mutex
    assert mutex != Mutex(register)
    assert len({mutex, Mutex(register)}) == 2


def deep_copies(mutex):
    yield from (pickle.loads(pickle.dumps(mutex, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))
    yield copy.deepcopy(mutex)


def test_a_pickled_or_deeply_copied_mutex_has_its_own_device_and_its_own_lock():
    mutex = Mutex(Register(0x42))
    for twin in deep_copies(mutex):
        assert type(twin) is Mutex
        with mutex.lock() as original, twin.lock() as device:
            assert device is not original
            assert device.value == 0x42
        with mutex.lock():
            assert_free(twin)


def test_a_held_mutex_pickles_too():
    mutex = Mutex(Register())
    with mutex.lock():
        twin = pickle.loads(pickle.dumps(mutex))
    assert_free(twin)


def test_a_shallow_copy_guards_the_same_device_with_the_same_lock():
    mutex = Mutex(Register())
    twin = copy.copy(mutex)
    assert twin is not mutex
    with mutex.lock() as device:
        waiting = assert_held(twin)
        with twin.lock() as same:
            assert same is device
    waiting.result()


class NamedMutex(Mutex[Register]):
    """A subclass with a dict."""

    def __init__(self, name, device):
        super().__init__(device)
        self.name = name

    def read(self, base, offset, data):
        super().read(base, offset, data)
        data[0] ^= 0xFF


class SlottedMutex(Mutex):
    """A subclass with slots."""

    __slots__ = ("name",)

    def __init__(self, name, device):
        super().__init__(device)
        self.name = name


@pytest.mark.parametrize("cls", [NamedMutex, SlottedMutex])
def test_a_subclass_keeps_its_attributes_in_copies(cls):
    mutex = cls("com1", Register(3))
    for twin in [*deep_copies(mutex), copy.copy(mutex)]:
        assert type(twin) is cls
        assert twin.name == "com1"
        with twin.lock() as device:
            assert device.value == 3
        assert_free(twin)


def test_a_subclass_may_extend_a_handler():
    mutex = NamedMutex("com1", Register(0x0F))
    data = bytearray(1)
    mutex.read(IoAddress(0), IoAddress(0), memoryview(data))
    assert data == b"\xf0"


class Linked(DeviceIoMut):
    """Knows the Mutex that guards it, as a device does that hands itself out."""

    mutex: Mutex[Linked] | None = None


def test_a_device_that_knows_its_mutex_pickles_and_is_collected():
    mutex = Mutex(Linked())
    with mutex.lock() as device:
        device.mutex = mutex
    for twin in deep_copies(mutex):
        with twin.lock() as inner:
            assert inner.mutex is twin
    gone = weakref.ref(mutex)
    del mutex, device
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("cls", [DeviceIo, DeviceIoMut])
def test_plain_devices_pickle(cls):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert type(pickle.loads(pickle.dumps(cls(), protocol))) is cls
