"""Memory that a device and its caller share: which buffers an access takes, and what a kept view shows later."""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import io
import mmap
import re
import sys
import weakref

import numpy as np
import pytest
from helpers import ACCESSES, MMIO, SPACES, EveryAccess, each_access, each_space, map_both
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, IoManager, NativeDevice, NoDeviceError


class Bytearray(bytearray):
    pass


class Registers(ctypes.BigEndianStructure):
    _fields_ = (("status", ctypes.c_uint16), ("control", ctypes.c_uint32), ("mode", ctypes.c_uint8))


def anonymous_mmap(content: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(content))
    memory[:] = content
    return memory


FILLING = bytes(range(0xC0, 0xD0))  # what the buffers hold at first

# Every kind of writable, contiguous buffer, of 16 bytes (Registers: of as many as it has).
WRITABLE = {
    "bytearray": lambda: bytearray(FILLING),
    "subclass of bytearray": lambda: Bytearray(FILLING),
    "memoryview": lambda: memoryview(bytearray(FILLING)),
    "part of a memoryview": lambda: memoryview(bytearray(b"...." + FILLING + b"...."))[4:-4],
    "memoryview of another format": lambda: memoryview(bytearray(FILLING)).cast("I"),
    "memoryview of signed bytes": lambda: memoryview(bytearray(FILLING)).cast("b"),
    "memoryview of characters": lambda: memoryview(bytearray(FILLING)).cast("c"),
    "memoryview in 2 dimensions": lambda: memoryview(bytearray(FILLING)).cast("B", (4, 4)),
    "memoryview of ctypes": lambda: memoryview((ctypes.c_uint8 * 16).from_buffer_copy(FILLING)),
    "memoryview of one item, strided": lambda: memoryview(np.frombuffer(bytearray(FILLING), "V16"))[::2],
    "memoryview of BytesIO": lambda: io.BytesIO(FILLING).getbuffer(),
    "array.array": lambda: array.array("H", FILLING),
    "array.array of doubles": lambda: array.array("d", FILLING),
    "numpy bytes": lambda: np.frombuffer(bytearray(FILLING), np.uint8),
    "numpy >u4": lambda: np.frombuffer(bytearray(FILLING), ">u4"),
    "numpy complex": lambda: np.frombuffer(bytearray(FILLING), "c16"),
    "numpy bool": lambda: np.frombuffer(bytearray(FILLING), "?"),
    "numpy structured": lambda: np.frombuffer(bytearray(FILLING), [("O", ">u2"), ("b", "u1", (2,)), ("Offset", "<u4")]),
    "numpy in 2 dimensions": lambda: np.frombuffer(bytearray(FILLING), "<u2").reshape(2, 4),
    "numpy in 0 dimensions": lambda: np.frombuffer(bytearray(FILLING), "V16").reshape(()),
    "numpy rows": lambda: np.frombuffer(bytearray(FILLING * 3), np.uint8).reshape(6, 8)[2:4],
    "numpy column of one": lambda: np.asfortranarray(np.frombuffer(bytearray(FILLING), np.uint8).reshape(16, 1)),
    "numpy subclass": lambda: np.frombuffer(bytearray(FILLING), np.uint8).view(np.recarray),
    "ctypes array": lambda: (ctypes.c_uint32 * 4).from_buffer_copy(FILLING),
    "ctypes integer": lambda: ctypes.c_uint64.from_buffer_copy(FILLING),
    "ctypes structure": lambda: Registers.from_buffer_copy(FILLING),
    "mmap": lambda: anonymous_mmap(FILLING),
}

# Read-only buffers, which a write takes besides.
READ_ONLY = {
    "bytes": lambda: FILLING,
    "memoryview of bytes": lambda: memoryview(FILLING),
    "part of a memoryview of bytes": lambda: memoryview(b"...." + FILLING + b"....")[4:-4],
    "read-only memoryview": lambda: memoryview(bytearray(FILLING)).toreadonly(),
    "read-only memoryview of another format": lambda: memoryview(FILLING).cast("Q"),
    "read-only numpy": lambda: np.frombuffer(FILLING, np.uint16),
    "read-only mmap": lambda: mmap.mmap(-1, 16, access=mmap.ACCESS_READ),
}

NOT_CONTIGUOUS = {
    "memoryview with a stride": lambda: memoryview(bytearray(FILLING))[::2],
    "memoryview backwards": lambda: memoryview(bytearray(FILLING))[::-1],
    "numpy with a stride": lambda: np.frombuffer(bytearray(FILLING), np.uint8)[::3],
    "numpy backwards": lambda: np.frombuffer(bytearray(FILLING), np.uint16)[::-1],
    "numpy in Fortran order": lambda: np.asfortranarray(np.frombuffer(bytearray(FILLING), np.uint8).reshape(4, 4)),
    "numpy columns": lambda: np.frombuffer(bytearray(FILLING), np.uint8).reshape(4, 4)[:, 1:3],
    "numpy repeated": lambda: np.broadcast_to(np.uint8(5), (4,)),
    "read-only with a stride": lambda: memoryview(FILLING)[::2],
}

EMPTY = {
    "bytearray": bytearray,
    "memoryview": lambda: memoryview(bytearray()),
    "part of a memoryview": lambda: memoryview(bytearray(FILLING))[3:3],
    "array.array": lambda: array.array("I"),
    "numpy": lambda: np.empty((4, 0, 2), ">u4"),
    "numpy of nothings": lambda: np.empty(4, "V0"),
    "ctypes array": lambda: (ctypes.c_uint8 * 0)(),
    "bytes": lambda: b"",
    "memoryview of bytes": lambda: memoryview(b""),
    "empty with a stride": lambda: memoryview(bytearray(FILLING))[8:2:2],
}

NO_BUFFERS = [None, 4, 4.0, "abcd", [1, 2], (1,), {1}, object(), bytes, iter(b"abc"), range(4)]


def cases(*groups):
    return pytest.mark.parametrize(
        "make", [pytest.param(make, id=name) for group in groups for name, make in group.items()]
    )


def contents(buffer) -> bytes:
    """Return the bytes of a C-contiguous buffer of any format."""
    return bytes(np.frombuffer(buffer, np.uint8))


class Inspector(EveryAccess):
    """Describes the view that it is given, and fills it with `answer` if it is a read's."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.views: list[memoryview] = []
        self.seen: list[bytes] = []

    def handle(self, data):
        assert type(data) is memoryview
        assert (data.ndim, data.format, data.itemsize) == (1, "B", 1)
        assert data.c_contiguous
        assert data.shape == (data.nbytes,)
        self.seen.append(bytes(data))
        self.views.append(data)
        if not data.readonly:
            data[:] = self.answer[: len(data)]


class Uncalled(EveryAccess):
    def handle(self, data):
        pytest.fail("the device was called")


# ----------------------------------------------------------------------------- buffers that an access takes


@each_space
@cases(WRITABLE)
def test_a_read_fills_any_writable_contiguous_buffer_through_a_flat_view_of_zeros(space, make):
    device = Inspector(answer=bytes(range(1, 17)))
    manager = map_both(device)
    buffer = make()
    size = len(contents(buffer))
    space.read(manager, 0x100, buffer)
    assert device.seen == [bytes(size)]
    assert contents(buffer) == device.answer[:size]
    assert not device.views[0].readonly


@each_space
@cases(WRITABLE)
def test_a_device_that_does_nothing_leaks_nothing(space, make):
    buffer = make()
    space.read(map_both(DeviceIo()), 0x100, buffer)
    assert contents(buffer) == bytes(len(contents(buffer)))


@each_space
@cases(WRITABLE)
def test_an_open_bus_fills_any_writable_contiguous_buffer(space, make):
    buffer = make()
    space.read(IoManager(open_bus=0x7E), 0x100, buffer)
    assert contents(buffer) == b"\x7e" * len(contents(buffer))


@each_space
@cases(WRITABLE, READ_ONLY)
def test_a_write_takes_any_contiguous_buffer_and_shows_it_read_only(space, make):
    device = Inspector()
    manager = map_both(device)
    buffer = make()
    before = contents(buffer)
    space.write(manager, 0x100, buffer)
    assert device.seen == [before]
    [view] = device.views
    assert view.readonly
    with pytest.raises(TypeError, match="cannot modify read-only memory"):
        view[0] = 0
    with pytest.raises((BufferError, TypeError)):
        (ctypes.c_uint8 * len(view)).from_buffer(view)
    assert not np.frombuffer(view, np.uint8).flags.writeable
    assert contents(buffer) == before


@each_space
@cases(WRITABLE)
def test_the_view_of_a_write_cannot_be_made_writable_through_its_exporter(space, make):
    class Prying(EveryAccess):
        def handle(self, data):
            assert data.obj is None or memoryview(data.obj).readonly
            assert memoryview(data).readonly

    space.write(map_both(Prying()), 0x100, make())


@pytest.mark.parametrize("make", [WRITABLE["memoryview"], WRITABLE["part of a memoryview"]])
@each_space
def test_a_read_passes_a_flat_writable_memoryview_itself(space, make):
    device = Inspector(answer=FILLING)
    buffer = make()
    space.read(map_both(device), 0x100, buffer)
    assert device.views[0] is buffer


@pytest.mark.parametrize(
    "make",
    [READ_ONLY[name] for name in ("memoryview of bytes", "part of a memoryview of bytes", "read-only memoryview")],
)
@each_space
def test_a_write_passes_a_flat_read_only_memoryview_itself(space, make):
    device = Inspector()
    buffer = make()
    space.write(map_both(device), 0x100, buffer)
    assert device.views[0] is buffer


@each_space
def test_a_single_byte_is_flat_whatever_its_stride(space):
    device = Inspector(answer=b"\x5a")
    manager = map_both(device)
    memory = bytearray(FILLING)
    single = memoryview(memory)[3:4:2]
    space.read(manager, 0x100, single)
    assert memory[3] == 0x5A
    space.write(manager, 0x100, single.toreadonly())
    assert device.seen == [b"\0", b"\x5a"]


@each_space
def test_a_write_does_not_pass_a_writable_memoryview_itself(space):
    device = Inspector()
    manager = map_both(device)
    memory = bytearray(FILLING)
    view = memoryview(memory)
    space.write(manager, 0x100, view)
    assert device.views[0] is not view
    # It is the same memory all the same.
    memory[0] = 1
    assert device.views[0][0] == 1


@each_space
def test_the_view_of_a_bytearray_or_bytes_exports_the_object_itself(space):
    device = Inspector(answer=FILLING)
    manager = map_both(device)
    memory = bytearray(16)
    space.read(manager, 0x100, memory)
    space.write(manager, 0x100, FILLING)
    assert device.views[0].obj is memory
    assert device.views[1].obj is FILLING


@each_space
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 4096, 65536])
def test_accesses_of_any_length(space, size):
    answer = bytes(number % 251 + 1 for number in range(size))
    device = Inspector(answer)
    manager = map_both(device, 0, 0x10000)
    for buffer in (bytearray(b"\xee" * size), memoryview(bytearray(b"\xee" * size)), np.full(size, 0xEE, np.uint8)):
        space.read(manager, 0, buffer)
        assert device.seen.pop() == bytes(size)
        assert contents(buffer) == answer
        space.write(manager, 0, buffer)
        assert device.seen.pop() == answer


# ----------------------------------------------------------------------------- buffers that an access refuses


@each_space
@cases(READ_ONLY)
def test_a_read_refuses_what_is_read_only(space, make):
    buffer = make()
    before = contents(buffer)
    for manager in (map_both(Uncalled()), IoManager(), IoManager(open_bus=5)):
        with pytest.raises(BufferError, match="read-only") as refused:
            space.read(manager, 0x100, buffer)
        assert type(buffer).__name__ in str(refused.value)
    assert contents(buffer) == before


@each_space
@cases(NOT_CONTIGUOUS)
@pytest.mark.parametrize("method", ["read", "write"])
def test_an_access_refuses_what_is_not_contiguous(space, method, make):
    buffer = make()
    before = np.array(buffer).tolist()
    for manager in (map_both(Uncalled()), IoManager(), IoManager(open_bus=5)):
        with pytest.raises(BufferError, match="contiguous") as refused:
            getattr(space, method)(manager, 0x100, buffer)
        assert type(buffer).__name__ in str(refused.value)
    assert np.array(buffer).tolist() == before


@each_space
@cases(EMPTY)
@pytest.mark.parametrize("method", ["read", "write"])
def test_an_access_refuses_what_is_empty(space, method, make):
    for manager in (map_both(Uncalled()), IoManager(), IoManager(open_bus=5)):
        with pytest.raises(ValueError, match="at least 1 byte"):
            getattr(space, method)(manager, 0x100, make())


@each_space
@pytest.mark.parametrize("other", NO_BUFFERS, ids=lambda other: type(other).__name__)
@pytest.mark.parametrize("method", ["read", "write"])
def test_an_access_refuses_objects_without_a_buffer(space, method, other):
    for manager in (map_both(Uncalled()), IoManager(), IoManager(open_bus=5)):
        with pytest.raises(
            TypeError,
            match=rf"^(a bytes-like object is required|data must be a buffer), not '?{type(other).__name__}\b",
        ):
            getattr(space, method)(manager, 0x100, other)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("mmio_read", "mmio_load(address, 4)"),
        ("mmio_write", "mmio_store(address, size, 4)"),
        ("pio_read", "pio_in(address, 4)"),
        ("pio_write", "pio_out(address, size, 4)"),
    ],
)
def test_an_integer_in_place_of_a_buffer_is_refused_with_the_access_for_integers(method, call):
    for manager in (map_both(Uncalled()), IoManager(), IoManager(open_bus=5)):
        with pytest.raises(
            TypeError, match=rf"^data must be a buffer, not int; for an integer, call {re.escape(call)}$"
        ):
            getattr(manager, method)(0x100, 4)


@each_space
@pytest.mark.parametrize("method", ["read", "write"])
@cases(
    {
        "of a bytearray": lambda: memoryview(bytearray(FILLING)),
        "of bytes": lambda: memoryview(FILLING),
        "of another format": lambda: memoryview(bytearray(FILLING)).cast("I"),
    }
)
def test_an_access_refuses_a_released_memoryview(space, method, make):
    view = make()
    view.release()
    for manager in (map_both(Uncalled()), IoManager(), IoManager(open_bus=5)):
        with pytest.raises(ValueError, match="released memoryview"):
            getattr(space, method)(manager, 0x100, view)


@each_space
@pytest.mark.parametrize("method", ["read", "write"])
def test_an_access_refuses_a_closed_mmap(space, method):
    memory = anonymous_mmap(FILLING)
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        getattr(space, method)(map_both(Uncalled()), 0x100, memory)


class Union(ctypes.Union):
    _fields_ = (("reference", ctypes.py_object), ("bytes", ctypes.c_uint8 * 8))


class Packed(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("tag", ctypes.c_uint8), ("reference", ctypes.py_object))


class Nested(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_uint8), ("variants", Union * 2))


class Derived(Nested):
    _fields_ = (("more", ctypes.c_uint8),)


class PackedNumbers(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("O", ctypes.c_uint8), ("Z", ctypes.c_uint32 * 2), ("address", ctypes.c_void_p))


@pytest.mark.parametrize(
    "buffer_type",
    [
        ctypes.py_object,
        ctypes.py_object * 2,
        ctypes.c_char_p * 2,
        ctypes.c_wchar_p,
        ctypes.POINTER(ctypes.c_int),
        ctypes.CFUNCTYPE(None) * 2,
        Union,
        Packed,
        Packed * 2,
        Nested,
        Derived,
    ],
)
def test_a_buffer_of_ctypes_pointers_is_refused(buffer_type):
    device = Inspector(bytes(range(256)))
    manager = map_both(device)
    buffer = buffer_type()
    for data in (buffer, memoryview(buffer)):
        for access in (manager.mmio_read, manager.mmio_write, manager.pio_read, manager.pio_write):
            with pytest.raises(BufferError, match="plain memory"):
                access(0x100, data)
    assert device.views == []


def test_a_kept_view_goes_on_to_show_the_callers_buffer():
    device = Inspector(b"1234")
    manager = map_both(device)
    buffer = bytearray(4)
    manager.mmio_read(0x100, buffer)
    device.answer = b"5678"
    manager.pio_read(0x100, buffer)
    assert bytes(device.views[0]) == b"5678"
    with pytest.raises(BufferError):
        buffer.clear()
    manager.mmio_load(0x100, 4)
    device.answer = b"abcd"
    manager.mmio_load(0x100, 4)
    assert bytes(device.views[2]) == b"5678"  # an integer's is the device's own


def test_a_packed_structure_of_numbers_is_taken():
    numbers = PackedNumbers()
    contents_read = bytes(range(ctypes.sizeof(numbers)))  # an address has 4 or 8 of them
    map_both(Inspector(contents_read)).mmio_read(0x100, numbers)
    assert bytes(numbers) == contents_read


@each_space
@pytest.mark.parametrize("dtype", [object, [("count", "<i8"), ("name", object)]], ids=str)
def test_a_read_refuses_a_buffer_of_references_to_objects(space, dtype):
    """Its bytes are pointers that Python follows: zeroing them loses references, and other bytes crash."""
    buffer = np.empty(2, dtype)
    # Field names are not formats: "numpy structured" above has one that begins with O, and is taken.
    for manager in (map_both(Uncalled()), IoManager(open_bus=0), IoManager()):
        with pytest.raises(BufferError, match=r"\bndarray\b.*\bobjects\b"):
            space.read(manager, 0x100, buffer)


@each_space
@cases(WRITABLE)
def test_a_read_that_is_rejected_leaves_its_buffer_unchanged(space, make):
    manager = map_both(Uncalled(), 0x100, 4)
    buffer = make()
    before = contents(buffer)
    for address in (0x80, 0x101):
        with pytest.raises(NoDeviceError):
            space.read(manager, address, buffer)
        assert contents(buffer) == before


# ----------------------------------------------------------------------------- no buffer stays locked or referenced


class Failing(EveryAccess):
    def handle(self, data):
        raise OSError("no medium")


MANAGERS = {
    "served": lambda: map_both(DeviceIo()),
    "served natively": lambda: map_both(NativeDevice()),
    "failing": lambda: map_both(Failing()),
    "unowned": IoManager,
    "open": lambda: IoManager(open_bus=5),
    "straddling": lambda: map_both(DeviceIo(), 0x100, 2),
}


@each_space
@pytest.mark.parametrize("method", ["read", "write"])
@pytest.mark.parametrize("make_manager", MANAGERS.values(), ids=MANAGERS)
def test_after_an_access_the_buffer_is_free_again_whatever_came_of_it(space, method, make_manager):
    manager = make_manager()

    def access(buffer):
        with contextlib.suppress(NoDeviceError, OSError, BufferError, ValueError):
            getattr(space, method)(manager, 0x100, buffer)

    for make in (bytearray, Bytearray):
        memory = make(FILLING)
        access(memory)
        memory.append(1)
        for view in (
            memoryview(memory),
            memoryview(memory)[::2],
            memoryview(memory)[:0],
            memoryview(memory).toreadonly(),
        ):
            access(view)
            view.release()
        memory.append(1)
    memory = array.array("I", FILLING)
    access(memory)
    memory.append(1)
    memory = anonymous_mmap(FILLING)
    access(memory)
    memory.close()


@each_space
@pytest.mark.parametrize("method", ["read", "write"])
@pytest.mark.parametrize("make_manager", MANAGERS.values(), ids=MANAGERS)
def test_an_access_takes_no_reference_that_it_does_not_give_back(space, method, make_manager):
    manager = make_manager()
    buffers = [make() for make in (*WRITABLE.values(), *READ_ONLY.values(), *NOT_CONTIGUOUS.values(), *EMPTY.values())]

    def access_all():
        for buffer in buffers:
            with contextlib.suppress(NoDeviceError, OSError, BufferError, ValueError):
                getattr(space, method)(manager, 0x100, buffer)

    access_all()
    before = [sys.getrefcount(buffer) for buffer in buffers]
    for _ in range(10):
        access_all()
    assert [sys.getrefcount(buffer) for buffer in buffers] == before


def test_a_buffer_is_freed_when_the_garbage_that_kept_its_view_is_collected():
    class Keeping(EveryAccess):
        def handle(self, data):
            def keep():
                return keep, data

    manager = map_both(Keeping())
    gc.collect()
    for make in (lambda: bytearray(FILLING), lambda: Bytearray(FILLING), lambda: array.array("B", FILLING)):
        for space in SPACES:
            memory = make()
            space.read(manager, 0x100, memory)
            space.write(manager, 0x100, memory)
            gc.collect()
            memory.append(1)


# ----------------------------------------------------------------------------- views that a device keeps

PATTERN = b"\x5a\x69\x78\x87"  # data of the access that is kept, and of no later one


class Capture:
    """Something made of a view during a call, and how to see its bytes later (None: they cannot be seen any more)."""

    def __init__(self, take, look=bytes):
        self.take = take
        self.look = look


def look_through_weakref(reference):
    view = reference()
    return None if view is None else bytes(view)


def look_at_traceback(error):
    """Find the view in the frame of the handler that raised."""
    traceback = error.__traceback__
    while "data" not in traceback.tb_frame.f_locals:
        traceback = traceback.tb_next
    return bytes(traceback.tb_frame.f_locals["data"])


def raised_with(data):
    try:
        raise OSError("kept")
    except OSError as error:
        return error


def generator_over(data):
    generator = (bytes(data) for _ in range(1))
    return generator


CAPTURES = {
    "the view": Capture(lambda data: data),
    "a slice": Capture(lambda data: data[:]),
    "a slice of a slice": Capture(lambda data: data[0:][:4]),
    "another view": Capture(memoryview),
    "a cast": Capture(lambda data: data.cast("I")),
    "a cast and back": Capture(lambda data: data.cast("I").cast("B")),
    "a read-only one": Capture(lambda data: data.toreadonly()),
    "numpy": Capture(lambda data: np.frombuffer(data, np.uint8)),
    "numpy, view released": Capture(lambda data: np.frombuffer(data[:], np.uint8)),
    "its exporter": Capture(lambda data: data.obj, lambda owner: bytes(memoryview(owner))),
    "a view of its exporter": Capture(lambda data: memoryview(data.obj)),
    "numpy of its exporter": Capture(lambda data: np.frombuffer(data.obj, np.uint8)),
    "an iterator": Capture(iter),
    "a bound method": Capture(lambda data: data.tobytes, lambda method: method()),
    "a closure": Capture(lambda data: lambda: bytes(data), lambda closure: closure()),
    "a generator": Capture(generator_over, next),
    "a traceback": Capture(raised_with, look_at_traceback),
    "a cycle": Capture(lambda data: (lambda keep: keep.append(keep) or keep)([data]), lambda keep: bytes(keep[0])),
    "a weak reference": Capture(weakref.ref, look_through_weakref),
    "a weak reference to a slice that lives": Capture(
        lambda data: (weakref.ref(data), data[:]), lambda pair: bytes(pair[1])
    ),
}


class Keeper(DeviceIo):
    """Fills or checks its data with PATTERN and keeps something of it."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.kept = None

    def handle(self, base, offset, data):
        if not data.readonly:
            data[:] = PATTERN
        self.kept = self.capture.take(data)

    read = write = pio_read = pio_write = handle


class Other(DeviceIo):
    """Answers and takes anything but PATTERN, and makes room for more by letting go of every view."""

    def handle(self, base, offset, data):
        if not data.readonly:
            assert bytes(data) == bytes(len(data))
            data[:] = b"\x11" * len(data)

    read = write = pio_read = pio_write = handle


def make_accesses_of_every_kind(manager):
    for _ in range(3):
        for access in ACCESSES:
            for size in (1, 2, 4):
                result = access(manager, 0x400, size)
                assert result == (b"\x11" * size if access.reads else b"")
        manager.mmio_store(0x400, 8, 2**64 - 1)
        assert manager.mmio_load(0x400, 8) == 0x1111_1111_1111_1111


@each_access
@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_what_a_device_keeps_never_shows_a_later_access(access, capture):
    keeper = Keeper(capture)
    manager = map_both(keeper)
    manager.register_device_io(Other(), [space.range(0x400, 0x100) for space in SPACES])
    if access.by_integer and not access.reads:
        access.space.store(manager, 0x100, 4, int.from_bytes(PATTERN, "little"))
    elif access.reads:
        assert access(manager, 0x100, 4) == PATTERN
    else:
        access.space.write(manager, 0x100, PATTERN)
    make_accesses_of_every_kind(manager)
    gc.collect()
    make_accesses_of_every_kind(manager)
    assert capture.look(keeper.kept) in (PATTERN, None)


@each_space
@pytest.mark.parametrize("size", [1, 2, 4])
def test_scribbling_on_a_kept_view_disturbs_no_later_access(space, size):
    class Keeping(EveryAccess):
        def handle(self, data):
            kept.append(data)

    class Scribbling(EveryAccess):
        def handle(self, data):
            data[:] = b"\x22" * len(data)
            for view in kept:
                view[:] = b"\x33" * len(view)
            assert bytes(data) == b"\x22" * len(data)

    kept = []
    manager = map_both(Keeping())
    manager.register_device_io(Scribbling(), [each.range(0x400, 0x100) for each in SPACES])
    for _ in range(3):
        assert space.load(manager, 0x100, size) == 0
        assert space.load(manager, 0x400, size) == int.from_bytes(b"\x22" * size, "little")
    assert [bytes(view) for view in kept] == [b"\x33" * size] * 3


def test_a_weak_reference_does_not_bring_back_the_view_of_an_integer_access():
    class Watching(EveryAccess):
        def handle(self, data):
            watched.append(weakref.ref(data))

    watched = []
    manager = map_both(Watching())
    for _ in range(2):
        for access in ACCESSES:
            access(manager, 0x100, 4)
            if access.by_integer:
                assert watched[-1]() is None


@each_space
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_hash_of_written_data_is_that_of_its_bytes_every_time(space, size):
    """A memoryview remembers its hash, so that one used again for other bytes would answer with an old one."""

    class Decoding(EveryAccess):
        def handle(self, data):
            decoded.append(commands.get(data))

    commands = {bytes([number] * size): number for number in range(10)}
    decoded = []
    manager = map_both(Decoding())
    for number in range(10):
        space.store(manager, 0x100, size, int.from_bytes(bytes([number] * size), "little"))
    assert decoded == list(range(10))


@each_access
@pytest.mark.parametrize("then", ["nothing", "another access", "an exception"])
def test_a_device_may_release_its_view(access, then):
    class Releasing(EveryAccess):
        def handle(self, data):
            if not data.readonly:
                data[:] = PATTERN
            if then == "another access":
                access(manager, 0x400, 4)
            data.release()
            if then == "another access":
                access(manager, 0x400, 4)
            elif then == "an exception":
                raise OSError("released")

    manager = map_both(Releasing())
    manager.register_device_io(Other(), [space.range(0x400, 0x100) for space in SPACES])
    for _ in range(3):
        if then == "an exception":
            with pytest.raises(OSError, match="released"):
                access(manager, 0x100, 4)
        else:
            assert access(manager, 0x100, 4) == (PATTERN if access.reads else b"")
        make_accesses_of_every_kind(manager)


@each_space
def test_a_memoryview_that_a_device_has_released_is_refused_from_then_on(space):
    class Releasing(DeviceIo):
        def read(self, base, offset, data):
            data.release()

        pio_read = read

    manager = map_both(Releasing())
    buffer = memoryview(bytearray(4))
    space.read(manager, 0x100, buffer)
    with pytest.raises(ValueError, match="released memoryview"):
        space.read(manager, 0x100, buffer)


@each_space
@pytest.mark.parametrize("make", [bytearray, Bytearray], ids=["bytearray", "subclass"])
def test_the_callers_bytearray_cannot_shrink_while_a_device_has_its_view(space, make):
    class Shrinking(EveryAccess):
        def handle(self, data):
            memory.clear()

    memory = make(FILLING)
    for method in (space.read, space.write):
        with pytest.raises(BufferError, match="Existing exports of data"):
            method(map_both(Shrinking()), 0x100, memory)
    memory.clear()


@each_space
def test_the_callers_bytearray_may_shrink_once_the_device_has_released_the_view(space):
    class Shrinking(EveryAccess):
        def handle(self, data):
            data.release()
            memory.clear()
            gc.collect()

    for make in (bytearray, Bytearray):
        for method in (space.read, space.write):
            memory = make(FILLING * 0x1000)
            method(map_both(Shrinking(), 0, 0x10000), 0, memory)
            assert memory == b""


@each_space
def test_a_kept_view_of_the_callers_buffer_stays_the_callers_memory(space):
    device = Inspector(answer=FILLING)
    manager = map_both(device)
    memory = array.array("B", FILLING)
    space.write(manager, 0x100, memory)
    [view] = device.views
    memory[0] = 7
    assert view[0] == 7
    with pytest.raises(BufferError):
        memory.append(1)
    view.release()
    memory.append(1)
    # It keeps the memory alive by itself.
    space.write(manager, 0x100, array.array("B", FILLING))
    gc.collect()
    make_accesses_of_every_kind(map_both(Other(), 0x400))
    assert bytes(device.views[1]) == FILLING


@given(sizes=st.lists(st.sampled_from(MMIO.sizes), min_size=1, max_size=20), keep=st.lists(st.booleans(), min_size=20))
def test_whatever_views_are_kept_each_shows_its_own_access(sizes, keep):
    class Keeping(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            assert bytes(data) == bytes(len(data))
            data[:] = bytes([offset + 1]) * len(data)
            if keep[offset]:
                kept[offset] = data

        def write(self, base, offset, data):
            if keep[offset]:
                kept[offset] = data[:]

    kept = {}
    manager = map_both(Keeping())
    for step, (size, reads) in enumerate(zip(sizes, keep, strict=False)):
        pattern = int.from_bytes(bytes([step + 1]) * size, "little")
        if reads:
            assert manager.mmio_load(0x100 + step, size) == pattern
        else:
            manager.mmio_store(0x100 + step, size, pattern)
    assert {step: bytes(view) for step, view in kept.items()} == {
        step: bytes([step + 1]) * sizes[step] for step in range(len(sizes)) if keep[step]
    }
