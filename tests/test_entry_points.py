"""The C entry points, called through ctypes as an emulator would: values, pending exceptions of a handle, lifetimes."""

import ctypes
import gc
import itertools
import sys
import weakref
from pathlib import Path

import pytest
from helpers import Worker

from dbs_device import (
    CallbackHandle,
    DeviceIo,
    IoManager,
    NativeDevice,
    NoDeviceError,
    Resource,
    Space,
    entry_point_addresses,
    get_include,
)
from dbs_device.trace import TraceRecorder

U64, U32, UINT, INT, POINTER = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p
SIZE = ctypes.c_size_t
SIGNATURES = {
    "mmio_load": (U64, POINTER, U64, UINT),
    "mmio_store": (None, POINTER, U64, UINT, U64),
    "pio_in": (U64, POINTER, U64, UINT),
    "pio_out": (None, POINTER, U64, UINT, U64),
    "uc_mmio_load": (U64, POINTER, U64, UINT, POINTER),
    "uc_mmio_store": (None, POINTER, U64, UINT, U64, POINTER),
    "uc_pio_in": (U32, POINTER, U32, INT, POINTER),
    "uc_pio_out": (None, POINTER, U32, INT, U32, POINTER),
    "pio_in_string": (SIZE, POINTER, U64, UINT, POINTER, SIZE),
    "pio_out_string": (SIZE, POINTER, U64, UINT, POINTER, SIZE),
    "refuse_unowned": (None, POINTER, INT),
    "record": (None, POINTER, ctypes.py_object, INT, INT, U64, UINT, U64),
}
C = {name: ctypes.CFUNCTYPE(*types)(entry_point_addresses()[name]) for name, types in SIGNATURES.items()}


class Registers(DeviceIo):
    def __init__(self):
        self.bytes = bytearray(16)
        self.accesses = 0

    def read(self, base, offset, data):
        self.accesses += 1
        if offset == 15:
            raise LookupError("register 15")
        data[:] = self.bytes[offset : offset + len(data)]

    def write(self, base, offset, data):
        self.accesses += 1
        if offset == 15:
            raise LookupError("register 15")
        self.bytes[offset : offset + len(data)] = data

    pio_read, pio_write = read, write


def handle_on(device, base=0, **options):
    manager = IoManager(**options)
    manager.register_device_io(device, [Resource.MmioAddressRange(0x1000, 16), Resource.PioAddressRange(0x40, 16)])
    return CallbackHandle(manager, base)


def test_every_entry_point_has_an_address():
    assert entry_point_addresses().keys() == SIGNATURES.keys()
    assert all(entry_point_addresses().values())


def test_integers_reach_the_device_and_come_back():
    device = Registers()
    handle = handle_on(device)
    C["mmio_store"](handle.address, 0x1004, 4, 0x11223344)
    assert device.bytes[4:8] == bytes.fromhex("44332211")
    assert C["mmio_load"](handle.address, 0x1004, 2) == 0x3344
    C["pio_out"](handle.address, 0x48, 1, 0x1FF)
    assert device.bytes[8:10] == b"\xff\x00"
    assert C["pio_in"](handle.address, 0x48, 2) == 0xFF
    assert handle.pop_exception() is None


def test_the_shape_of_unicorn_takes_offsets_from_the_base_of_the_handle():
    device = Registers()
    handle = handle_on(device, base=0x1000)
    C["uc_mmio_store"](None, 4, 8, 0x1122334455667788, handle.address)
    assert C["uc_mmio_load"](None, 4, 4, handle.address) == 0x55667788
    C["uc_pio_out"](None, 0x40, 4, 0xCAFE, handle.address)
    assert C["uc_pio_in"](None, 0x40, 2, handle.address) == 0xCAFE
    assert C["mmio_load"](handle.address, 0, 2) == 0xCAFE


def test_accesses_are_recorded_at_the_address_that_the_bus_has_seen():
    handle = handle_on(Registers(), base=0x1000)
    recorder = TraceRecorder(IoManager())
    C["record"](handle.address, recorder, 1, 0, 4, 2, 0x12345)
    C["record"](handle.address, recorder, 0, 1, 0x48, 1, 7)
    assert [each[1:] for each in recorder.trace] == [
        (Space.MMIO, False, 0x1004, 2, 0x2345),
        (Space.PIO, True, 0x48, 1, 7),
    ]
    for _ in range(3):  # exceptions do not pile up
        C["record"](handle.address, "recorder", 1, 0, 4, 2, 0)
    assert type(handle.pop_exception()) is TypeError
    assert handle.pop_exception() is None


def test_a_handle_follows_the_manager():
    manager = IoManager(open_bus=0xEE)
    handle = CallbackHandle(manager)
    assert C["mmio_load"](handle.address, 0x1000, 1) == 0xEE
    manager.register_device_io(NativeDevice(), [Resource.MmioAddressRange(0x1000, 16)])
    assert C["mmio_load"](handle.address, 0x1000, 1) == 0


def test_an_unowned_access_is_not_an_exception():
    handle = handle_on(Registers())
    assert C["mmio_load"](handle.address, 0x2000, 4) == 0
    C["mmio_store"](handle.address, 0x2000, 4, 1)
    assert C["pio_in"](handle.address, 0x10040, 1) == 0
    assert handle.pop_exception() is None
    assert C["mmio_load"](handle_on(Registers(), open_bus=0xFF).address, 0x2000, 4) == 0xFFFFFFFF


@pytest.mark.parametrize("name", ["mmio_load", "pio_in", "mmio_store", "pio_out"])
def test_an_exception_is_latched_and_no_device_is_called_until_it_is_popped(name, capfd):
    device = Registers()
    handle = handle_on(device)
    address = 0x100F if name.startswith("mmio") else 0x4F
    arguments = (1, 0) if name in ("mmio_store", "pio_out") else (1,)
    assert not C[name](handle.address, address, *arguments)
    assert device.accesses == 1
    assert C["mmio_load"](handle.address, 0x1000, 1) == 0
    C["mmio_store"](handle.address, 0x1000, 1, 5)
    assert device.accesses == 1
    error = handle.pop_exception()
    assert type(error) is LookupError
    assert error.args == ("register 15",)
    assert error.__traceback__ is not None
    assert handle.pop_exception() is None
    C["mmio_store"](handle.address, 0x1000, 1, 5)
    assert device.bytes[0] == 5
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [0, 3, 5, 9, 2**32 - 1])
def test_a_wrong_size_is_latched_as_a_value_error(size):
    handle = handle_on(Registers())
    assert C["mmio_load"](handle.address, 0x1000, size) == 0
    assert type(handle.pop_exception()) is ValueError
    C["pio_out"](handle.address, 0x40, size, 0)
    assert type(handle.pop_exception()) is ValueError
    assert C["uc_pio_in"](None, 0x40, -1, handle.address) == 0
    assert type(handle.pop_exception()) is ValueError


@pytest.mark.parametrize("base", [1, 0x1000, 2**64 - 16])
def test_an_address_that_the_base_takes_past_the_end_of_the_space_is_unowned(base):
    device = Registers()
    manager = IoManager(open_bus=0xA5)
    both_ends = [Resource.MmioAddressRange(0, 16), Resource.MmioAddressRange(2**64 - 16, 16)]
    manager.register_device_io(device, both_ends)
    handle = CallbackHandle(manager, base)
    for address in (2**64 - base, 2**64 - 1):
        assert C["mmio_load"](handle.address, address, 1) == 0xA5
        assert C["uc_mmio_load"](None, address, 2, handle.address) == 0xA5A5
        C["mmio_store"](handle.address, address, 1, 7)
        C["uc_mmio_store"](None, address, 1, 7, handle.address)
    assert device.accesses == 0
    assert C["mmio_load"](handle.address, 2**64 - base - 2, 1) == 0
    assert device.accesses == 1
    assert C["mmio_load"](handle.address, 2**64 - base, 3) == 0
    assert type(handle.pop_exception()) is ValueError


def test_a_handle_that_is_destroyed_reports_its_pending_exceptions(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    handle = handle_on(Registers())
    C["mmio_load"](handle.address, 0x100F, 1)
    popped = handle.pop_exception()
    C["mmio_store"](handle.address, 0x100F, 1, 0)
    del handle
    (report,) = reported
    assert repr(report.exc_value) == "LookupError('register 15')"
    assert report.exc_value is not popped
    assert report.exc_traceback is not None
    assert isinstance(report.object, IoManager)
    reported.clear()
    del report
    handle_on(Registers())
    assert reported == []


def test_a_handle_keeps_its_manager_and_lets_it_go():
    class Manager(IoManager):
        pass

    manager = Manager()
    gone = weakref.ref(manager)
    handle = CallbackHandle(manager)
    del manager
    gc.collect()
    assert gone() is not None
    assert C["mmio_load"](handle.address, 0, 1) == 0
    del handle
    gc.collect()
    assert gone() is None


def test_a_handle_takes_an_io_manager():
    with pytest.raises(TypeError, match=r"\bIoManager\b.* not object$"):
        CallbackHandle(object())
    with pytest.raises(OverflowError):
        CallbackHandle(IoManager(), -1)


def test_a_native_device_does_nothing_by_default():
    handle = handle_on(NativeDevice())
    for name in ("mmio_store", "pio_out"):
        C[name](handle.address, 0x1000 if name == "mmio_store" else 0x40, 1, 7)
    assert C["mmio_load"](handle.address, 0x1000, 8) == 0
    assert C["pio_in"](handle.address, 0x40, 4) == 0
    assert handle.pop_exception() is None


def test_get_include_returns_the_directory_of_the_header():
    assert "dbs_device_api" in (Path(get_include()) / "dbs_device.h").read_text()


class Fifo(DeviceIo):
    """Counts its reads, keeps what is written; its item number `fails_at` raises."""

    def __init__(self, fails_at=None):
        self.items = 0
        self.fails_at = fails_at
        self.written = []

    def count(self):
        if self.items == self.fails_at:
            raise LookupError("the FIFO is empty")
        self.items += 1

    def pio_in(self, base, offset, size):
        self.count()
        return self.items

    def pio_out(self, base, offset, size, value):
        self.count()
        self.written.append(value)


def fifo_handle(fifo, **options):
    manager = IoManager(**options)
    manager.register_device_io(fifo, [Resource.PioAddressRange(0x40, 4)])
    return manager, CallbackHandle(manager)


def test_a_string_is_one_access_for_each_item():
    fifo = Fifo()
    _, handle = fifo_handle(fifo)
    data = ctypes.create_string_buffer(b"\xee" * 8, 8)
    assert C["pio_in_string"](handle.address, 0x40, 2, data, 4) == 4
    assert data.raw == bytes.fromhex("0100 0200 0300 0400")
    assert C["pio_out_string"](handle.address, 0x40, 2, data, 3) == 3
    assert fifo.written == [1, 2, 3]
    assert C["pio_in_string"](handle.address, 0x40, 2, data, 0) == 0
    assert fifo.items == 7


def test_a_string_ends_at_the_item_that_raises():
    fifo = Fifo(fails_at=2)
    _, handle = fifo_handle(fifo)
    data = ctypes.create_string_buffer(b"\xee" * 8, 8)
    assert C["pio_in_string"](handle.address, 0x40, 2, data, 4) == 2
    assert data.raw == bytes.fromhex("0100 0200 0000 0000")
    assert C["pio_out_string"](handle.address, 0x40, 2, data, 4) == 0  # while the exception is pending
    assert C["pio_in_string"](handle.address, 0x40, 1, data, 8) == 0
    assert data.raw == bytes(8)
    assert str(handle.pop_exception()) == "the FIFO is empty"
    assert handle.pop_exception() is None


def test_a_string_follows_a_range_that_moves_in_the_middle_of_it():
    class Moving(Fifo):
        def pio_in(self, base, offset, size):
            if self.items == 1:
                manager.unregister_device_io([Resource.PioAddressRange(0x40, 4)])
                manager.register_device_io(other, [Resource.PioAddressRange(0x40, 4)])
            return super().pio_in(base, offset, size)

    first, other = Moving(), Fifo()
    manager, handle = fifo_handle(first)
    data = ctypes.create_string_buffer(5)
    assert C["pio_in_string"](handle.address, 0x40, 1, data, 5) == 5
    assert (first.items, other.items, data.raw) == (2, 3, b"\1\2\1\2\3")


def test_a_string_of_a_size_that_no_port_has():
    _, handle = fifo_handle(Fifo())
    assert C["pio_in_string"](handle.address, 0x40, 8, ctypes.create_string_buffer(16), 2) == 0
    assert str(handle.pop_exception()) == "PIO access size must be 1, 2 or 4 bytes, not 8"


@pytest.mark.parametrize("open_bus", [None, 0xFF])
def test_a_string_that_no_device_owns(open_bus):
    _, handle = fifo_handle(Fifo(), open_bus=open_bus)
    data = ctypes.create_string_buffer(b"\xee" * 4, 4)
    assert C["pio_in_string"](handle.address, 0x80, 1, data, 4) == 4
    assert data.raw == bytes([open_bus or 0]) * 4
    assert C["pio_out_string"](handle.address, 0x80, 1, data, 4) == 4
    assert handle.pop_exception() is None


def test_a_handle_that_refuses_unowned_accesses():
    _, handle = fifo_handle(Fifo())
    C["refuse_unowned"](handle.address, 1)
    data = ctypes.create_string_buffer(b"\xee" * 4, 4)
    for name, arguments in {
        "mmio_load": (0x1000, 4),
        "mmio_store": (0x1000, 4, 0),
        "pio_in": (0x80, 4),
        "pio_out": (0x80, 4, 0),
        "pio_in_string": (0x80, 4, data, 1),
        "pio_out_string": (0x80, 4, data, 1),
    }.items():
        assert not C[name](handle.address, *arguments)
        error = handle.pop_exception()
        assert isinstance(error, NoDeviceError)
        assert (error.address, error.size) == (arguments[0], 4)
        assert handle.pop_exception() is None
    C["refuse_unowned"](handle.address, 0)
    assert C["mmio_load"](handle.address, 0x1000, 4) == 0
    assert handle.pop_exception() is None


def test_an_open_bus_serves_what_a_handle_would_refuse():
    _, handle = fifo_handle(Fifo(), open_bus=0xA5)
    C["refuse_unowned"](handle.address, 1)
    assert C["mmio_load"](handle.address, 0x1000, 2) == 0xA5A5
    assert C["pio_in_string"](handle.address, 0x80, 1, ctypes.create_string_buffer(4), 4) == 4
    assert handle.pop_exception() is None


def test_each_exception_is_popped_once_whichever_threads_latch_and_pop(impatient_interpreter):
    raised = itertools.count()

    class Failing(DeviceIo):
        unhandled = "ignore"

        def load(self, base, offset, size):
            raise LookupError(next(raised))

    handle = handle_on(Failing())
    popped, stop = [], False

    def load():
        for _ in range(1000):
            C["mmio_load"](handle.address, 0x1000, 4)

    def pop():
        while not stop:
            if (error := handle.pop_exception()) is not None:
                popped.append(error.args[0])

    loaders, poppers = [Worker(load) for _ in range(2)], [Worker(pop) for _ in range(2)]
    for loader in loaders:
        loader.result()
    stop = True
    for popper in poppers:
        popper.result()
    while (error := handle.pop_exception()) is not None:
        popped.append(error.args[0])
    assert sorted(popped) == list(range(next(raised)))
