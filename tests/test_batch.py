"""Many accesses in one call: in order, with the rules of one access each, and with the number done when one fails."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, IoManager, NoDeviceError, Resource

MMIO = [Resource.MmioAddressRange(0x1000, 0x100)]
PORTS = [Resource.PioAddressRange(0x40, 8)]


class Memory(DeviceIo):
    """256 bytes on the MMIO bus; every port is a queue of the bytes 0, 1, 2, ..."""

    def __init__(self):
        self.bytes = bytearray(0x100)
        self.log = []
        self.next_byte = 0

    def read(self, base, offset, data):
        self.log.append(("read", int(offset), len(data)))
        data[:] = self.bytes[offset : offset + len(data)]

    def write(self, base, offset, data):
        self.log.append(("write", int(offset), bytes(data)))
        self.bytes[offset : offset + len(data)] = data

    def pio_read(self, base, offset, data):
        for index in range(len(data)):
            data[index] = self.next_byte & 0xFF
            self.next_byte += 1

    def pio_write(self, base, offset, data):
        self.log.append(("out", int(offset), bytes(data)))


def memory_and_manager(**options):
    device = Memory()
    manager = IoManager(**options)
    manager.register_device_io(device, [*MMIO, *PORTS])
    return device, manager


def u64(*values):
    return np.array(values, np.uint64)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loads_and_stores_are_those_of_one_access_each(size, byteorder):
    device, manager = memory_and_manager(byteorder=byteorder)
    values = u64(1, 0x7F, (1 << 8 * size) - 1)
    addresses = u64(0x1000, 0x1010, 0x1020)
    manager.mmio_store_many(addresses, size, values)
    assert device.bytes[0x10 : 0x10 + size] == (0x7F).to_bytes(size, byteorder)
    loaded = manager.mmio_load_many(addresses, size)
    assert loaded.dtype == np.uint64
    assert loaded.tolist() == values.tolist() == [manager.mmio_load(int(address), size) for address in addresses]


def test_accesses_are_made_in_order_and_keep_the_shape():
    device, manager = memory_and_manager()
    addresses = u64(0x1008, 0x1000, 0x1008, 0x1004).reshape(2, 2)
    assert manager.mmio_load_many(addresses, 4).shape == (2, 2)
    assert [offset for _, offset, _ in device.log] == [8, 0, 8, 4]
    assert manager.mmio_load_many(np.empty((0, 3), np.uint64), 4).shape == (0, 3)


def test_smaller_unsigned_integers_and_strided_arrays_are_taken():
    _, manager = memory_and_manager()
    manager.mmio_store_many(np.array([0x1000, 0, 0x1001, 0], np.uint16)[::2], 1, np.array([5, 6], np.uint8))
    assert manager.mmio_load_many(u64(0x1000, 0x1001), 1).tolist() == [5, 6]


@given(
    offsets=st.lists(st.integers(0, 0x1FF), max_size=12),
    size=st.sampled_from([1, 2, 4, 8]),
    open_bus=st.sampled_from([None, 0, 0xA5]),
)
def test_loads_fail_where_and_as_the_first_bad_access_would(offsets, size, open_bus):
    device, manager = memory_and_manager(open_bus=open_bus)
    device.bytes[:] = bytes(range(256))
    addresses = [0x1000 + offset for offset in offsets]
    expected, failure = [], None
    for address in addresses:
        try:
            expected.append(manager.mmio_load(address, size))
        except NoDeviceError as error:
            failure = error
            break
    if failure is None:
        assert manager.mmio_load_many(u64(*addresses), size).tolist() == expected
        return
    with pytest.raises(NoDeviceError) as caught:
        manager.mmio_load_many(u64(*addresses), size)
    assert str(caught.value) == str(failure)
    assert caught.value.accesses_done == len(expected)
    [note] = caught.value.__notes__
    assert note.startswith(f"{len(expected)} of {len(addresses)} accesses ")


def test_an_exception_of_a_device_comes_out_with_the_number_of_accesses_done():
    class Fails(Memory):
        def write(self, base, offset, data):
            if offset == 8:
                raise KeyboardInterrupt
            super().write(base, offset, data)

    device, manager = Fails(), IoManager()
    manager.register_device_io(device, MMIO)
    with pytest.raises(KeyboardInterrupt) as caught:
        manager.mmio_store_many(u64(0x1000, 0x1004, 0x1008, 0x100C), 4, u64(1, 2, 3, 4))
    assert caught.value.accesses_done == 2
    assert device.bytes[:16] == bytes([1, 0, 0, 0, 2, 0, 0, 0]) + bytes(8)


def test_an_exception_that_refuses_attributes_comes_out_unchanged():
    class FrozenError(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    class Fails(DeviceIo):
        def read(self, base, offset, data):
            raise error

    error, manager = FrozenError("busy"), IoManager()
    manager.register_device_io(Fails(), MMIO)
    with pytest.raises(FrozenError) as caught:
        manager.mmio_load_many(u64(0x1000), 4)
    assert caught.value is error


def test_an_exception_that_is_raised_again_and_again_has_one_note():
    class Fails(Memory):
        def read(self, base, offset, data):
            if offset == 8:
                raise error

    error, manager = ValueError("busy"), IoManager()
    error.add_note("of the device")
    manager.register_device_io(Fails(), MMIO)
    for addresses in ((0x1000, 0x1008), (0x1008,), (0x1000, 0x1000, 0x1008)):
        with pytest.raises(ValueError, match="busy"):
            manager.mmio_load_many(u64(*addresses), 4)
    of_device, of_access, of_batch = error.__notes__
    assert of_device == "of the device"
    assert of_access.startswith("device access: MMIO read of 4 bytes at 0x1008, ")
    assert of_batch == "2 of 3 accesses were done before this one"
    assert error.accesses_done == 2


def test_a_device_may_change_the_map_between_two_accesses():
    class Leaves(Memory):
        def read(self, base, offset, data):
            manager.unregister_device_io(MMIO)
            manager.register_device_io(stays, MMIO)
            data[0] = 1

    stays, manager = Memory(), IoManager()
    stays.bytes[4] = 2
    manager.register_device_io(Leaves(), MMIO)
    assert manager.mmio_load_many(u64(0x1004, 0x1004, 0x1004), 1).tolist() == [1, 2, 2]


def test_bad_arguments_are_refused_before_any_access():
    device, manager = memory_and_manager()
    addresses = u64(0x1000, 0x1004)
    with pytest.raises(TypeError, match=r"^addresses .*\bunsigned\b.* int64$"):
        manager.mmio_load_many(np.array([0x1000], np.int64), 4)
    with pytest.raises(TypeError, match=r"^addresses .*\bunsigned\b.* int(32|64)$"):
        manager.mmio_load_many([0x1000], 4)  # of numpy's default type, which depends on the host
    with pytest.raises(TypeError, match=r"^addresses .*\bunsigned\b.* float64$"):
        manager.mmio_load_many(np.array([1.0]), 4)
    with pytest.raises(TypeError, match=r"^values .*\bunsigned\b.* int64$"):
        manager.mmio_store_many(addresses, 4, np.array([1, 2], np.int64))
    with pytest.raises(ValueError, match=r"\b1, 2, 4 or 8\b.* not 3$"):
        manager.mmio_load_many(addresses, 3)
    with pytest.raises(ValueError, match=r"^value 0x100 does not fit 1 byte$"):
        manager.mmio_store_many(addresses, 1, u64(1, 0x100))
    with pytest.raises(ValueError, match=r"\baddresses\b.*\(2,\).*\bvalues\b.*\(3,\)"):
        manager.mmio_store_many(addresses, 4, u64(1, 2, 3))
    assert device.log == []


def test_stores_of_nothing_do_nothing():
    device, manager = memory_and_manager()
    manager.mmio_store_many(u64(), 4, u64())
    assert device.log == []


# ----------------------------------------------------------------------------- string I/O


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_string_is_read_from_one_port_piece_by_piece(size):
    _, manager = memory_and_manager()
    data = bytearray(4 * size)
    manager.pio_in_string(0x41, size, data)
    assert data == bytes(range(4 * size))


def test_a_string_is_written_to_one_port_piece_by_piece():
    device, manager = memory_and_manager()
    manager.pio_out_string(0x42, 2, b"abcdef")
    assert device.log == [("out", 2, b"ab"), ("out", 2, b"cd"), ("out", 2, b"ef")]


def test_a_string_that_fails_says_how_many_pieces_were_done_and_keeps_the_rest():
    class RunsDry(Memory):
        def pio_read(self, base, offset, data):
            if self.next_byte == 2:
                raise EOFError("dry")
            super().pio_read(base, offset, data)

    manager = IoManager()
    manager.register_device_io(RunsDry(), PORTS)
    data = bytearray(b"....")
    with pytest.raises(EOFError, match="dry") as caught:
        manager.pio_in_string(0x40, 1, data)
    assert caught.value.accesses_done == 2
    # The piece that failed was zeroed for the device to fill.
    assert data == b"\x00\x01\x00."


def test_strings_on_an_open_bus_and_on_a_closed_one():
    data = bytearray(4)
    IoManager(open_bus=0xFF).pio_in_string(0x80, 2, data)
    assert data == b"\xff\xff\xff\xff"
    IoManager(open_bus=0xFF).pio_out_string(0x80, 2, data)
    with pytest.raises(NoDeviceError, match=r"^no device owns PIO address 0x80 \(2 bytes\)") as caught:
        IoManager().pio_in_string(0x80, 2, data)
    assert caught.value.accesses_done == 0
    assert data == b"\xff\xff\xff\xff"


def test_bad_strings_are_refused():
    device, manager = memory_and_manager()
    with pytest.raises(ValueError, match=r"\b4\b.*\bmultiple\b.* not 6$"):
        manager.pio_out_string(0x40, 4, bytes(6))
    with pytest.raises(ValueError, match=r"\b1, 2 or 4\b.* not 8$"):
        manager.pio_in_string(0x40, 8, bytearray(8))
    with pytest.raises(ValueError, match="at least 1 byte"):
        manager.pio_in_string(0x40, 1, bytearray())
    with pytest.raises(BufferError, match="read-only"):
        manager.pio_in_string(0x40, 1, b"abc")
    with pytest.raises(OverflowError, match="0x10000"):
        manager.pio_out_string(0x10000, 1, b"abc")
    assert device.log == []
