"""Integer handlers (`load`, `store`, `pio_in`, `pio_out`) on every path, against a model in plain Python."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers import MMIO, PIO, Space, Worker, assert_held, each_space, map_both
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import (
    CallbackHandle,
    DeviceIo,
    DeviceIoMut,
    IoAddress,
    IoManager,
    Mutex,
    NativeDevice,
    PioAddress,
    _bus,
    entry_point_addresses,
)
from dbs_device.trace import TraceRecorder, replay

BASE = 0x100
SIZE = 0x100

# ----------------------------------------------------------------------------- every path to a device


def c_function(name: str, *argument_types: Any) -> Callable[..., int]:
    """Return a function of ``_bus.pxd``, which raises what it leaves set."""
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = _bus.__pyx_capi__[name]  # type: ignore[attr-defined]
    signature = (ctypes.c_int, ctypes.py_object, ctypes.c_uint64, *argument_types)
    return ctypes.PYFUNCTYPE(*signature)(get_pointer(capsule, get_name(capsule)))


NAMES = {
    MMIO: ("mmio_read", "mmio_write", "mmio_load", "mmio_store"),
    PIO: ("pio_read", "pio_write", "pio_in", "pio_out"),
}
C_READ, C_WRITE, C_LOAD, C_STORE = (
    {
        (prefix, space): c_function(f"{prefix}{names[index]}", *types)
        for prefix in ("c_", "c_manager_")
        for space, names in NAMES.items()
    }
    for index, types in enumerate(
        [
            (ctypes.c_void_p, ctypes.c_size_t),
            (ctypes.c_char_p, ctypes.c_size_t),
            (ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint64)),
            (ctypes.c_size_t, ctypes.c_uint64),
        ]
    )
)
ENTRY_LOAD, ENTRY_STORE = (
    {
        space: ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint, *values)(
            entry_point_addresses()[names[index]]
        )
        for space, names in NAMES.items()
    }
    for index, result, values in ((2, ctypes.c_uint64, ()), (3, None, (ctypes.c_uint64,)))
)


def raise_latched(handle: CallbackHandle) -> None:
    error = handle.pop_exception()
    if error is not None:
        raise error


# Each of these is (manager, space, address, size) -> int, or (manager, space, address, size, value).


def load_by_entry_point(manager: IoManager, space: Space, address: int, size: int) -> int:
    handle = CallbackHandle(manager)
    value = ENTRY_LOAD[space](handle.address, address, size)
    raise_latched(handle)
    return value


def store_by_entry_point(manager: IoManager, space: Space, address: int, size: int, value: int) -> None:
    handle = CallbackHandle(manager)
    ENTRY_STORE[space](handle.address, address, size, value)
    raise_latched(handle)


def load_by_c(prefix: str, manager: IoManager, space: Space, address: int, size: int) -> int:
    value = ctypes.c_uint64()
    subject = manager if prefix == "c_manager_" else manager.tables()
    assert C_LOAD[prefix, space](subject, address, size, ctypes.byref(value)) == 0
    return value.value


def store_by_c(prefix: str, manager: IoManager, space: Space, address: int, size: int, value: int) -> None:
    subject = manager if prefix == "c_manager_" else manager.tables()
    assert C_STORE[prefix, space](subject, address, size, value) == 0


def load_in_a_batch(manager: IoManager, space: Space, address: int, size: int) -> int:
    if space is MMIO:
        return int(manager.mmio_load_many(np.array([address], np.uint64), size)[0])
    data = bytearray(size)
    manager.pio_in_string(address, size, data)
    return int.from_bytes(data, manager.byteorder)


def store_in_a_batch(manager: IoManager, space: Space, address: int, size: int, value: int) -> None:
    if space is MMIO:
        manager.mmio_store_many(np.array([address], np.uint64), size, np.array([value], np.uint64))
    else:
        manager.pio_out_string(address, size, value.to_bytes(size, manager.byteorder))


def load_recorded(manager: IoManager, space: Space, address: int, size: int) -> int:
    recorder = TraceRecorder(manager)
    value = space.load(recorder, address, size)  # type: ignore[arg-type]
    assert recorder.trace[0].value == value
    return value


def store_recorded(manager: IoManager, space: Space, address: int, size: int, value: int) -> None:
    recorder = TraceRecorder(manager)
    space.store(recorder, address, size, value)  # type: ignore[arg-type]
    assert recorder.trace[0].value == value


LOADS: dict[str, Callable[..., int]] = {
    "method": lambda manager, space, address, size: space.load(manager, address, size),
    "held tables": functools.partial(load_by_c, "c_"),
    "manager in C": functools.partial(load_by_c, "c_manager_"),
    "entry point": load_by_entry_point,
    "batch": load_in_a_batch,
    "recorder": load_recorded,
}
STORES: dict[str, Callable[..., None]] = {
    "method": lambda manager, space, address, size, value: space.store(manager, address, size, value),
    "held tables": functools.partial(store_by_c, "c_"),
    "manager in C": functools.partial(store_by_c, "c_manager_"),
    "entry point": store_by_entry_point,
    "batch": store_in_a_batch,
    "recorder": store_recorded,
}


# Each of these is (manager, space, address, size) -> bytes, or (manager, space, address, data).


def read_by_c(prefix: str, manager: IoManager, space: Space, address: int, size: int) -> bytes:
    data = ctypes.create_string_buffer(b"\x99" * size, size)
    subject = manager if prefix == "c_manager_" else manager.tables()
    assert C_READ[prefix, space](subject, address, data, size) == 0
    return data.raw


def write_by_c(prefix: str, manager: IoManager, space: Space, address: int, data: bytes) -> None:
    subject = manager if prefix == "c_manager_" else manager.tables()
    assert C_WRITE[prefix, space](subject, address, data, len(data)) == 0


def read_into(make: Callable[[int], Any], manager: IoManager, space: Space, address: int, size: int) -> bytes:
    data = make(size)
    space.read(manager, address, data)
    return bytes(data)


READS: dict[str, Callable[..., bytes]] = {
    "bytearray": functools.partial(read_into, lambda size: bytearray(b"\x99" * size)),
    "memoryview": functools.partial(read_into, lambda size: memoryview(bytearray(size))),
    "array": functools.partial(read_into, lambda size: np.full(size, 0x55, np.int8)),
    "held tables": functools.partial(read_by_c, "c_"),
    "manager in C": functools.partial(read_by_c, "c_manager_"),
}
WRITES: dict[str, Callable[..., None]] = {
    "bytes": lambda manager, space, address, data: space.write(manager, address, data),
    "memoryview": lambda manager, space, address, data: space.write(manager, address, memoryview(data)),
    "array": lambda manager, space, address, data: space.write(manager, address, np.frombuffer(data, np.int8)),
    "held tables": functools.partial(write_by_c, "c_"),
    "manager in C": functools.partial(write_by_c, "c_manager_"),
}
each_load = pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
each_store = pytest.mark.parametrize("store", STORES.values(), ids=STORES)


# ----------------------------------------------------------------------------- a model


def answer(offset: int, size: int) -> int:
    """Return the value that a modelled device loads: too wide, and often negative."""
    return (offset + 3) * 0x0123_4567_89AB_CDEF_1357 * (-1 if (offset + size) % 2 else 1)


def content(offset: int, size: int) -> bytes:
    """Return the bytes that the buffer handler of a modelled device gives."""
    return bytes((offset * 5 + place * 7 + 0x31) % 256 for place in range(size))


def split(offset: int, size: int, sizes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the integers (offset, size) that a buffer access of `size` bytes becomes."""
    if size in sizes:
        yield offset, size
        return
    while size > 0:
        piece = 8
        while piece not in sizes or piece > size or offset % piece != 0:
            piece //= 2
        yield offset, piece
        offset, size = offset + piece, size - piece


@dataclass
class Model:
    """A device with some of the handlers of a space: what is called, and what is read."""

    space: Space
    buffer_read: bool
    integer_read: bool
    buffer_write: bool
    integer_write: bool
    byteorder: str | None
    bus_order: str

    @property
    def order(self) -> Any:
        return self.bus_order if self.byteorder is None else self.byteorder

    def read(self, offset: int, size: int) -> tuple[list[Any], bytes]:
        if self.integer_read and (size in self.space.sizes or not self.buffer_read):
            calls: list[Any] = []
            data = b""
            for start, piece in split(offset, size, self.space.sizes):
                calls.append(("load", BASE, start, piece))
                data += (answer(start, piece) % 256**piece).to_bytes(piece, self.order)
            return calls, data
        if self.buffer_read:
            return [("read", BASE, offset, size)], content(offset, size)
        return [], bytes(size)

    def write(self, offset: int, data: bytes) -> list[Any]:
        if self.integer_write and (len(data) in self.space.sizes or not self.buffer_write):
            calls: list[Any] = []
            for start, piece in split(offset, len(data), self.space.sizes):
                part = data[start - offset : start - offset + piece]
                calls.append(("store", BASE, start, piece, int.from_bytes(part, self.order)))
            return calls
        return [("write", BASE, offset, data)] if self.buffer_write else []

    def make_device(self, log: list[Any], base_class: type, on_instance: bool) -> Any:
        def read(base, offset, data):
            log.append(("read", base, offset, len(data)))
            data[:] = content(offset, len(data))

        def write(base, offset, data):
            log.append(("write", base, offset, bytes(data)))

        def load(base, offset, size):
            assert type(base) is type(offset) is type(size) is int
            log.append(("load", base, offset, size))
            return answer(offset, size)

        def store(base, offset, size, value):
            assert type(base) is type(offset) is type(size) is type(value) is int
            log.append(("store", base, offset, size, value))

        names = NAMES[self.space]
        chosen = (self.buffer_read, self.buffer_write, self.integer_read, self.integer_write)
        handlers = [
            (name, handler)
            for name, handler, wanted in zip(names, (read, write, load, store), chosen, strict=True)
            if wanted
        ]
        handlers = [(name.removeprefix("mmio_"), handler) for name, handler in handlers]
        attributes = {"unhandled": "ignore", "byteorder": self.byteorder}
        if on_instance:
            device = type("OnInstance", (base_class,), attributes)()
            for name, handler in handlers:
                setattr(device, name, handler)
            return device
        methods = {
            name: functools.partialmethod(lambda self, call, *arguments: call(*arguments), handler)
            for name, handler in handlers
        }
        return type("OnClass", (base_class,), {**attributes, **methods})()


class LoggingMutex(Mutex[Any]):
    """A subclass of Mutex, which the engine calls by its own methods."""


WRAPPERS: dict[str, tuple[type, Callable[[Any], DeviceIo]]] = {
    "DeviceIo": (DeviceIo, lambda device: device),
    "Mutex": (DeviceIoMut, Mutex),
    "subclass of Mutex": (DeviceIoMut, LoggingMutex),
    "NativeDevice": (NativeDevice, lambda device: device),
}
orders = st.sampled_from(["little", "big"])


@given(st.data())
def test_any_access_to_any_device_is_that_of_the_model(data: st.DataObject) -> None:
    space = data.draw(st.sampled_from([MMIO, PIO]))
    handlers = data.draw(st.tuples(*[st.booleans()] * 4))
    model = Model(space, *handlers, data.draw(st.none() | orders), data.draw(orders))
    base_class, wrap = WRAPPERS[data.draw(st.sampled_from(sorted(WRAPPERS)))]
    log: list[Any] = []
    device = wrap(model.make_device(log, base_class, data.draw(st.booleans())))
    manager = IoManager(byteorder=model.bus_order)
    manager.register_device_io(device, [space.range(BASE, SIZE)])
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23]))
        offset = data.draw(st.integers(0, SIZE - size))
        payload = data.draw(st.binary(min_size=size, max_size=size))
        by_integer = size in space.sizes and data.draw(st.booleans())
        value = int.from_bytes(payload, model.bus_order)  # type: ignore[arg-type]
        log.clear()
        if data.draw(st.booleans()):
            calls, expected = model.read(offset, size)
            if by_integer:
                load = LOADS[data.draw(st.sampled_from(sorted(LOADS)))]
                loaded = load(manager, space, BASE + offset, size)
                assert loaded == int.from_bytes(expected, model.bus_order)  # type: ignore[arg-type]
            else:
                read = READS[data.draw(st.sampled_from(sorted(READS)))]
                assert read(manager, space, BASE + offset, size) == expected
        else:
            calls = model.write(offset, payload)
            if by_integer:
                STORES[data.draw(st.sampled_from(sorted(STORES)))](manager, space, BASE + offset, size, value)
            else:
                WRITES[data.draw(st.sampled_from(sorted(WRITES)))](manager, space, BASE + offset, payload)
        assert log == calls


# ----------------------------------------------------------------------------- the same in examples


class Registers(DeviceIo):
    """A device on integers in both spaces: `value` is loaded, and what is called is in `calls`."""

    def __init__(self, value: Any = 0) -> None:
        self.value = value
        self.calls: list[tuple[Any, ...]] = []

    def load(self, base, offset, size):
        self.calls.append(("load", base, offset, size))
        return self.value

    def store(self, base, offset, size, value):
        self.calls.append(("store", base, offset, size, value))

    def pio_in(self, base, offset, size):
        self.calls.append(("pio_in", base, offset, size))
        return self.value

    def pio_out(self, base, offset, size, value):
        self.calls.append(("pio_out", base, offset, size, value))

    def __repr__(self) -> str:
        return "<registers>"


def test_a_buffer_of_another_length_is_split_into_aligned_integers_lowest_first():
    device = Registers()
    manager = map_both(device, BASE, SIZE)
    manager.mmio_read(BASE + 3, bytearray(18))
    assert device.calls == [("load", BASE, *piece) for piece in ((3, 1), (4, 4), (8, 8), (16, 4), (20, 1))]
    device.calls.clear()
    manager.pio_write(BASE + 2, bytes(range(8)))
    assert device.calls == [
        ("pio_out", BASE, 2, 2, 0x0100),
        ("pio_out", BASE, 4, 4, 0x05040302),
        ("pio_out", BASE, 8, 2, 0x0706),
    ]


def test_alignment_is_that_of_the_offset_not_of_the_address():
    device = Registers()
    manager = IoManager()
    manager.register_device_io(device, [MMIO.range(0x1002, 0x10)])
    manager.mmio_read(0x1002, bytearray(6))
    assert device.calls == [("load", 0x1002, 0, 4), ("load", 0x1002, 4, 2)]


def test_a_buffer_of_the_size_of_an_integer_is_one_even_if_it_is_not_aligned():
    device = Registers(0x0807060504030201)
    data = bytearray(8)
    map_both(device, BASE, SIZE).mmio_read(BASE + 3, data)
    assert data == bytes(range(1, 9))
    assert device.calls == [("load", BASE, 3, 8)]


def test_ports_have_no_integer_of_8_bytes():
    device = Registers(-1)
    data = bytearray(8)
    map_both(device, BASE, SIZE).pio_read(BASE, data)
    assert data == b"\xff" * 8
    assert device.calls == [("pio_in", BASE, 0, 4), ("pio_in", BASE, 4, 4)]


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@each_space
@each_load
@pytest.mark.parametrize(
    ("value", "size", "loaded"),
    [
        (~0x12, 1, 0xED),
        (-1, 4, 0xFFFFFFFF),
        (-(2**200) + 5, 2, 5),
        (2**64 + 0x1234, 4, 0x1234),
        (2**4000 - 1, 4, 0xFFFFFFFF),
        (0xDEAD, 2, 0xDEAD),
        (True, 1, 1),
        (False, 4, 0),
        (np.uint8(0x7F), 4, 0x7F),
        (np.int64(-2), 2, 0xFFFE),
        (Index(0x1FF), 1, 0xFF),
        (IoAddress(0x55), 1, 0x55),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_load_returns_is_masked_to_the_size(space, load, value, size, loaded):
    assert load(map_both(Registers(value), BASE, SIZE), space, BASE, size) == loaded


def test_a_load_of_8_bytes_is_masked_to_64_bits():
    manager = map_both(Registers(-2), BASE, SIZE)
    assert [load(manager, MMIO, BASE, 8) for load in LOADS.values()] == [2**64 - 2] * len(LOADS)


@each_space
@each_load
@pytest.mark.parametrize("value", [None, 1.0, "1", b"\1", np.float64(1), NotImplemented, [1]], ids=repr)
def test_a_load_that_returns_no_integer_is_an_error(space, load, value):
    manager = map_both(Registers(value), BASE, SIZE)
    handler = "load" if space is MMIO else "pio_in"
    with pytest.raises(TypeError, match=rf"^{handler} must return an int, not {type(value).__name__}(\n|$)") as caught:
        load(manager, space, BASE + 4, 2)
    assert f"device access: {space} read of 2 bytes at 0x104, offset 0x4 of <registers>" in caught.value.__notes__
    with pytest.raises(TypeError, match="must return an int"):
        space.read(manager, BASE, bytearray(7))


def test_an_exception_of_index_comes_out():
    class Broken:
        def __index__(self):
            raise OSError("not today")

    with pytest.raises(OSError, match="not today"):
        map_both(Registers(Broken()), BASE, SIZE).mmio_load(BASE, 1)


@each_space
@each_store
def test_what_a_store_returns_is_ignored(space, store):
    class Chatty(Registers):
        def store(self, base, offset, size, value):
            super().store(base, offset, size, value)
            return value

        def pio_out(self, base, offset, size, value):
            super().pio_out(base, offset, size, value)
            return "done"

    device = Chatty()
    store(map_both(device, BASE, SIZE), space, BASE + 1, 2, 0xCAFE)
    assert device.calls == [("store" if space is MMIO else "pio_out", BASE, 1, 2, 0xCAFE)]


def test_c_code_stores_what_fits():
    device = Registers()
    manager = map_both(device, BASE, SIZE)
    store_by_c("c_", manager, MMIO, BASE, 1, 0x1FF)
    store_by_entry_point(manager, PIO, BASE, 2, 0x12345)
    assert device.calls == [("store", BASE, 0, 1, 0xFF), ("pio_out", BASE, 0, 2, 0x2345)]


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_device_with_the_order_of_the_bus_sees_the_integers_of_the_guest(order):
    class Ordered(Registers):
        byteorder = order

    device = Ordered(0x11223344)
    manager = map_both(device, BASE, SIZE, byteorder=order)
    assert manager.mmio_load(BASE, 4) == 0x11223344
    manager.mmio_store(BASE, 2, 0xABCD)
    assert device.calls[-1][-1] == 0xABCD
    other = map_both(device, BASE, SIZE, byteorder="big" if order == "little" else "little")
    assert other.mmio_load(BASE, 4) == 0x44332211
    other.mmio_store(BASE, 2, 0xABCD)
    assert device.calls[-1][-1] == 0xCDAB
    data = bytearray(4)
    other.mmio_read(BASE, data)
    assert data == (0x11223344).to_bytes(4, order)


def test_byteorder_of_a_buffer_handler_changes_nothing():
    class Fifo(DeviceIo):
        byteorder = "big"

        def read(self, base, offset, data):
            data[:] = bytes(range(len(data)))

    manager = IoManager()
    manager.register_device_io(Fifo(), [MMIO.range(BASE, SIZE)])
    assert manager.mmio_load(BASE, 4) == 0x03020100


@pytest.mark.parametrize("order", ["middle", "BIG", 1, b"big"], ids=repr)
def test_another_byteorder_is_refused_at_registration(order):
    manager = IoManager()
    device = type("Odd", (Registers,), {"byteorder": order})()
    with pytest.raises(ValueError, match=r'^byteorder of Odd must be "little", "big" or None, not '):
        manager.register_device_io(device, [MMIO.range(0, 4)])
    assert len(manager.mmio_bus) == 0


@pytest.mark.parametrize("wrap", [Mutex, LoggingMutex])
def test_a_mutex_passes_on_the_byteorder_of_its_device(wrap):
    class Big(DeviceIoMut):
        byteorder = "big"

        def load(self, base, offset, size):
            return 0x1122

    manager = IoManager()
    manager.register_device_io(wrap(Big()), [MMIO.range(0, 4)])
    assert manager.mmio_load(0, 2) == 0x2211
    assert wrap(Big()).byteorder == "big"


# ----------------------------------------------------------------------------- who may have a handler


def test_a_handler_may_be_anything_that_can_be_called():
    device = DeviceIo.__new__(type("Loose", (DeviceIo,), {}))
    stored: list[Any] = []
    device.load = functools.partial(lambda scale, base, offset, size: scale * offset, 3)
    device.store = lambda *arguments: stored.append(arguments)
    device.pio_in = max  # of base, offset and size
    device.pio_out = [].append  # which takes one argument
    manager = map_both(device, BASE, SIZE)
    assert manager.mmio_load(BASE + 5, 4) == 15
    manager.mmio_store(BASE + 5, 4, 6)
    assert stored == [(BASE, 5, 4, 6)]
    assert manager.pio_in(BASE + 1, 4) == BASE
    with pytest.raises(TypeError, match="exactly one argument"):
        manager.pio_out(BASE, 1, 0)


def test_a_class_may_have_static_and_class_methods():
    class Odd(DeviceIo):
        @staticmethod
        def load(base, offset, size):
            return offset

        @classmethod
        def pio_in(cls, base, offset, size):
            return len(cls.__name__)

        @property
        def store(self):
            return lambda base, offset, size, value: stored.append(value)

    stored: list[int] = []
    device = Odd()
    manager = map_both(device, BASE, SIZE)
    manager.mmio_store(BASE, 1, 5)
    assert (manager.mmio_load(BASE + 7, 1), manager.pio_in(BASE, 1), stored) == (7, 3, [5])


def test_a_virtual_subclass_needs_one_handler_of_each_direction():
    @DeviceIo.register
    class Foreign:
        def load(self, base, offset, size):
            return offset + size

        def write(self, base, offset, data):
            written.append(bytes(data))

        def get_trapped_io_resources(self):
            return []

    written: list[bytes] = []
    manager = IoManager()
    manager.register_device_io(Foreign(), [MMIO.range(BASE, SIZE)])
    assert manager.mmio_load(BASE + 8, 2) == 10
    data = bytearray(3)
    manager.mmio_read(BASE + 1, data)
    assert data == b"\x02\x04\x00"
    manager.mmio_store(BASE, 2, 0x0201)
    assert written == [b"\x01\x02"]
    with pytest.raises(AttributeError, match="pio_read"):
        manager.register_device_io(Foreign(), [PIO.range(BASE, SIZE)])


def test_a_python_subclass_of_a_native_device_may_have_integer_handlers():
    class Mixed(NativeDevice):
        def load(self, base, offset, size):
            return 0x0807060504030201

    manager = map_both(Mixed(), BASE, SIZE)
    for load in LOADS.values():
        assert load(manager, MMIO, BASE, 2) == 0x0201
    for read in READS.values():
        assert read(manager, MMIO, BASE, 3) == b"\x01\x02\x01"  # no C method would serve it
    manager.mmio_store(BASE, 2, 1)  # the C method, which does nothing
    assert manager.pio_in(BASE, 4) == 0
    manager.pio_write(BASE, bytes(3))


def test_an_integer_handler_on_the_instance_of_a_native_device_is_called():
    class Plain(NativeDevice):
        pass

    device = Plain()
    device.pio_in = lambda base, offset, size: 0x55
    manager = map_both(device, BASE, SIZE)
    assert (manager.pio_in(BASE, 1), manager.mmio_load(BASE, 1)) == (0x55, 0)


def test_integer_handlers_are_looked_up_at_registration_only():
    device = Registers(1)
    manager = map_both(device, BASE, SIZE)
    device.load = lambda base, offset, size: 2
    assert manager.mmio_load(BASE, 1) == 1
    manager.unregister_device_io([MMIO.range(BASE, SIZE)])
    manager.register_device_io(device, [MMIO.range(BASE, SIZE)])
    assert manager.mmio_load(BASE, 1) == 2


def test_super_of_a_handler_reaches_the_base_class():
    class Both(DeviceIo):
        def load(self, base, offset, size):
            return 0x11 * (offset + 1)

        def read(self, base, offset, data):
            self.lengths = [*getattr(self, "lengths", []), len(data)]
            super().read(base, offset, data)

    device = Both()
    manager = IoManager()
    manager.register_device_io(device, [MMIO.range(BASE, SIZE)])
    data = bytearray(3)
    manager.mmio_read(BASE, data)
    assert data == b"\x11\x00\x33"
    assert device.lengths == [3]


# ----------------------------------------------------------------------------- direct calls


@pytest.mark.parametrize("order", [None, "little", "big"])
@pytest.mark.parametrize("base_class", [DeviceIo, DeviceIoMut])
def test_a_handler_that_is_not_overridden_converts_in_a_direct_call(base_class, order):
    class OnIntegers(base_class):
        byteorder = order

        def load(self, base, offset, size):
            calls.append((base, offset, size))
            return -2

        def store(self, base, offset, size, value):
            calls.append((base, offset, size, value))

        pio_in, pio_out = load, store

    calls: list[tuple[int, ...]] = []
    order = order or "little"
    device = OnIntegers()
    data = bytearray(3)
    device.read(IoAddress(8), IoAddress(2), memoryview(data))
    assert data == (0xFFFE).to_bytes(2, order) + b"\xfe"
    device.pio_write(PioAddress(8), PioAddress(0), memoryview(bytes(range(8))))
    first, second = (int.from_bytes(part, order) for part in (bytes(range(4)), bytes(range(4, 8))))
    assert calls == [(8, 2, 2), (8, 4, 1), (8, 0, 4, first), (8, 4, 4, second)]
    calls.clear()
    device.write(IoAddress(8), IoAddress(1), memoryview(b"\1\2\3\4\5\6\7\0"))
    device.pio_read(PioAddress(8), PioAddress(1), memoryview(bytearray(1)))
    assert calls == [(8, 1, 8, int.from_bytes(b"\1\2\3\4\5\6\7\0", order)), (8, 1, 1)]

    class OnBuffers(base_class):
        byteorder = order

        def read(self, base, offset, data):
            calls.append((base, offset, len(data)))
            data[:] = bytes(range(1, len(data) + 1))

        def write(self, base, offset, data):
            calls.append((base, offset, bytes(data)))

        pio_read, pio_write = read, write

    calls.clear()
    device = OnBuffers()
    assert device.load(8, 2, 4) == int.from_bytes(b"\1\2\3\4", order)
    device.store(8, 2, 2, 0x0102)
    assert device.pio_in(8, 1, 1) == 1
    device.pio_out(8, 1, 1, 0xFF)
    assert calls == [(8, 2, 4), (8, 2, (0x0102).to_bytes(2, order)), (8, 1, 1), (8, 1, b"\xff")]


def test_a_direct_call_of_a_device_without_handlers_does_nothing():
    device = DeviceIo()
    data = bytearray(b"\x99\x99")
    device.read(IoAddress(0), IoAddress(0), memoryview(data))
    device.write(IoAddress(0), IoAddress(0), memoryview(data))
    device.store(0, 0, 2, 5)
    device.pio_out(0, 0, 2, 5)
    assert (data, device.load(0, 0, 2), device.pio_in(0, 0, 2)) == (b"\x99\x99", 0, 0)


# ----------------------------------------------------------------------------- Mutex


@pytest.mark.parametrize("wrap", [Mutex, LoggingMutex])
def test_a_mutex_is_held_during_an_integer_access_and_released_after_an_exception(wrap):
    class Guarded(DeviceIoMut):
        def load(self, base, offset, size):
            waiting.append(assert_held(mutex))
            raise OSError("no medium")

        def store(self, base, offset, size, value):
            waiting.append(assert_held(mutex))

        pio_in, pio_out = load, store

    waiting: list[Worker] = []
    mutex = wrap(Guarded())
    manager = map_both(mutex, BASE, SIZE)
    for space in (MMIO, PIO):
        with pytest.raises(OSError, match="no medium"):
            space.load(manager, BASE, 1)
        space.store(manager, BASE, 1, 0)
    assert len(waiting) == 4
    for worker in waiting:
        worker.result()


@each_space
@pytest.mark.parametrize("wrap", [Mutex, LoggingMutex])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_mutex_is_held_for_the_whole_of_an_access_that_is_split(space, wrap, read):
    class Late:
        """Is converted between two calls of the handler."""

        def __index__(self):
            waiting.append(assert_held(mutex))
            return 0x55

    class Guarded(DeviceIoMut):
        def load(self, base, offset, size):
            return Late()

        pio_in = load

    waiting: list[Worker] = []
    mutex = wrap(Guarded())
    manager = map_both(mutex, BASE, SIZE)
    assert read(manager, space, BASE, 3) == b"\x55\x00\x55"
    assert len(waiting) == 2
    for worker in waiting:
        worker.result()


@pytest.mark.usefixtures("impatient_interpreter")
@pytest.mark.parametrize("wrap", [Mutex, LoggingMutex])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_stores_of_two_split_writes_do_not_mix(wrap, write):
    class Guarded(DeviceIoMut):
        def store(self, base, offset, size, value):
            stored.append(value)

    stored: list[int] = []
    mutex = wrap(Guarded())
    manager = IoManager()
    manager.register_device_io(mutex, [MMIO.range(BASE, SIZE)])
    ready = threading.Barrier(2)

    def run(byte: int) -> None:
        ready.wait()
        for _ in range(200):
            write(manager, MMIO, BASE, bytes([byte]) * 11)

    workers = [Worker(run, byte) for byte in (1, 2)]
    for worker in workers:
        worker.result()
    values = {byte: [int.from_bytes(bytes([byte]) * size, "little") for size in (8, 2, 1)] for byte in (1, 2)}
    accesses = [stored[index : index + 3] for index in range(0, len(stored), 3)]
    assert len(accesses) == 400
    assert all(access in values.values() for access in accesses)


# ----------------------------------------------------------------------------- traces


def test_a_recorded_trace_of_a_device_on_integers_replays():
    class Counter(DeviceIo):
        byteorder = "big"

        def __init__(self):
            self.count = 0

        def load(self, base, offset, size):
            self.count += 1
            return self.count

        def store(self, base, offset, size, value):
            self.count = value

        pio_in, pio_out = load, store

    recorder = TraceRecorder(map_both(Counter(), BASE, SIZE))
    recorder.mmio_store(BASE, 4, 0x11223344)
    assert recorder.mmio_load(BASE, 4) == 0x12223344  # the counter was 0x44332211
    recorder.pio_out(BASE, 2, 5)
    recorder.mmio_read(BASE, bytearray(2))
    again = replay(recorder.trace, map_both(Counter(), BASE, SIZE))
    assert (again.accesses, again.reads_compared, again.differing) == (4, 2, ())


# ----------------------------------------------------------------------------- Unicorn


def test_a_guest_reaches_integer_handlers_through_unicorn():
    pytest.importorskip("unicorn")
    from unicorn_guest import DEVICE, PORT, Guest, load, mmio, port_in, port_out, ports, set_eax, store

    class Ordered(Registers):
        byteorder = "big"

    device, ordered = Registers(-2), Ordered(0x11223344)
    manager = IoManager()
    manager.register_device_io(device, [*mmio(DEVICE, 0x100), *ports(PORT, 8)])
    manager.register_device_io(ordered, mmio(DEVICE + 0x1000, 0x100))
    guest = Guest(manager)
    assert guest.run(set_eax(0), load(DEVICE + 0x12, 2)) == 0xFFFE
    assert guest.run(set_eax(0), load(DEVICE + 0x1004, 4)) == 0x44332211
    assert guest.run(set_eax(0), port_in(PORT + 1, 1)) == 0xFE
    guest.run(set_eax(0x11223344), store(DEVICE + 0x20, 4), port_out(PORT + 2, 2), store(DEVICE + 0x1000, 2))
    assert device.calls[-2:] == [("store", DEVICE, 0x20, 4, 0x11223344), ("pio_out", PORT, 2, 2, 0x3344)]
    assert ordered.calls[-1] == ("store", DEVICE + 0x1000, 0, 2, 0x4433)
    device.value = None
    with pytest.raises(TypeError, match="load must return an int, not NoneType") as caught:
        guest.run(load(DEVICE + 0x14, 4))
    assert (
        f"device access: MMIO read of 4 bytes at {DEVICE + 0x14:#x}, offset 0x14 of <registers>"
        in caught.value.__notes__
    )
