"""The MMIO space as a list of bytes."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, InvalidRangeError, IoManager, NoDeviceError, Resource
from dbs_device.memory import MemoryView, Ram, Rom, RomWriteError

END = 2**64
LENGTH = 40


class Registers(DeviceIo):
    def __init__(self):
        self.data = bytearray(16)
        self.calls = []

    def load(self, base, offset, size):
        self.calls.append((offset, size))
        return self.data[offset]

    def store(self, base, offset, size, value):
        self.calls.append((offset, size, value))
        self.data[offset] = value


def view_of_parts():
    """Return a view of RAM, of a Python device, and of RAM again."""
    manager = IoManager()
    manager.register_device_io(Ram(16), [Resource.MemAddressRange(0x1000, 16)])
    manager.register_device_io(Registers(), [Resource.MmioAddressRange(0x1010, 16)])
    manager.register_device_io(Ram(8), [Resource.MemAddressRange(0x1020, 8)])
    return MemoryView(manager, base=0x1000, size=LENGTH)


INDICES = st.integers(-LENGTH - 2, LENGTH + 1)
BOUNDS = st.none() | INDICES
SLICES = st.builds(slice, BOUNDS, BOUNDS, st.none() | st.sampled_from([1, 2, 3, -1, -2]))


@given(st.lists(st.tuples(INDICES | SLICES, st.binary(max_size=LENGTH)), max_size=12))
def test_it_is_a_list_that_does_not_change_its_size(steps):
    memory, model = view_of_parts(), [0] * LENGTH
    for key, data in steps:
        if isinstance(key, slice):
            count = len(range(*key.indices(LENGTH)))
            values = list((data * LENGTH or bytes(LENGTH))[:count])
            memory[key] = values
            model[key] = values
            assert memory[key] == model[key]
        elif -LENGTH <= key < LENGTH:
            memory[key] = model[key] = len(data)
            assert memory[key] == model[key]
        else:
            with pytest.raises(IndexError):
                memory[key]
            with pytest.raises(IndexError):
                memory[key] = 1
    assert list(memory) == model
    assert memory[:] == model
    assert list(reversed(memory)) == model[::-1]
    assert len(memory) == LENGTH


def test_each_byte_of_a_device_is_an_access():
    memory = view_of_parts()
    device = memory.manager.mmio_bus.find(0x1010)
    memory[14:19] = [1, 2, 3, 4, 5]
    assert device.calls == [(0, 1, 3), (1, 1, 4), (2, 1, 5)]
    device.calls.clear()
    assert memory[15:18] == [2, 3, 4]
    assert device.calls == [(0, 1), (1, 1)]


@pytest.mark.parametrize("values", [b"abcd", bytearray(b"abcd"), (97, 98, 99, 100), iter([97, 98, 99, 100])])
def test_what_a_slice_takes(values):
    memory = view_of_parts()
    memory[2:6] = values
    assert bytes(memory[2:6]) == b"abcd"
    memory[3:7] = memory[2:6]
    assert bytes(memory[2:7]) == b"aabcd"


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        (0, 256, ValueError, "value 0x100 does not fit 1 byte"),
        (0, -1, ValueError, "-0x1"),
        (0, b"a", TypeError, "bytes"),
        (0, 1.0, TypeError, "float"),
        ("0", 1, TypeError, "str"),
        (1.0, 1, TypeError, "float"),
        (slice(0, 4), b"abc", ValueError, "3 bytes do not fit a slice of 4 bytes"),
        (slice(4, 0), b"abc", ValueError, "3 bytes do not fit a slice of 0 bytes"),
        (slice(0, 4, 2), b"abc", ValueError, "3 bytes do not fit a slice of 2 bytes"),
        (slice(0, 4), 4, TypeError, "not an int"),
        (slice(0, 2), [1, 256], ValueError, "256"),
        (slice(0, 2), "ab", TypeError, "str"),
        (slice("a", None), b"", TypeError, "slice indices"),
    ],
)
def test_bad_stores_change_nothing(key, value, error, message):
    memory = view_of_parts()
    with pytest.raises(error, match=message):
        memory[key] = value
    assert memory[:] == [0] * LENGTH


def test_bytes_cannot_be_deleted():
    memory = view_of_parts()
    with pytest.raises(TypeError, match="cannot be deleted"):
        del memory[0]
    with pytest.raises(TypeError, match="cannot be deleted"):
        del memory[:]


def test_the_whole_space():
    manager = IoManager(open_bus=0xEE)
    manager.register_device_io(Ram(bytearray(b"last")), [Resource.MemAddressRange(END - 4, 4)])
    memory = MemoryView(manager)
    assert (memory.base, memory.size) == (0, END)
    assert memory[0xDEAD] == 0xEE  # the number that stands for an exception inside
    assert memory[-1] == ord("t")
    assert bytes(memory[END - 4 :]) == b"last"
    assert bytes(memory[-6:-2]) == b"\xee\xeela"
    with pytest.raises(IndexError, match="index 0x10000000000000000 is out of range"):
        memory[END]
    with pytest.raises(OverflowError):
        len(memory)
    with pytest.raises((OverflowError, MemoryError)):
        memory[:]


def test_0xdead_is_an_index_like_others():
    memory = MemoryView(IoManager(background=Ram(0x10000)), size=0x10000)
    memory[0xDEAD] = 1
    assert memory[0xDEAD] == 1
    assert memory.manager.mmio_load(0xDEAD, 1) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 0}, InvalidRangeError),
        ({"size": -1}, InvalidRangeError),
        ({"base": -1}, InvalidRangeError),
        ({"base": END}, InvalidRangeError),
        ({"base": 1, "size": END}, InvalidRangeError),
        ({"base": "0"}, TypeError),
        ({"size": 1.0}, TypeError),
    ],
)
def test_a_view_is_within_the_space(options, error):
    with pytest.raises(error):
        MemoryView(IoManager(), **options)


def test_a_view_is_of_a_manager():
    with pytest.raises(TypeError, match="IoManager"):
        MemoryView([0] * 16)


def test_exceptions_come_out():
    manager = IoManager()
    manager.register_device_io(Rom(b"rom!", on_write="raise"), [Resource.MemAddressRange(0, 4)])
    memory = MemoryView(manager, size=8)
    with pytest.raises(RomWriteError):
        memory[1] = 5
    with pytest.raises(NoDeviceError, match="0x4"):
        memory[4]
    with pytest.raises(NoDeviceError) as raised:
        memory[2:8]
    assert raised.value.bytes_done == 2


def test_a_view_follows_the_map():
    manager = IoManager(open_bus=0)
    memory = MemoryView(manager, size=16)
    manager.register_device_io(Ram(bytearray(b"new")), [Resource.MemAddressRange(4, 3)])
    assert bytes(memory[3:8]) == b"\0new\0"


def test_copies():
    memory = view_of_parts()
    assert repr(memory) == "<MemoryView of 0x1000..0x1027>"
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        other[0] = 5
        assert (other.base, other.size, other[0], memory[0]) == (0x1000, LENGTH, 5, 0)
