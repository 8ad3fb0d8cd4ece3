"""RAM, ROM and DMA."""

from __future__ import annotations

import contextlib
import copy
import gc
import mmap
import pickle
import threading
import weakref

import numpy as np
import pytest
from helpers import Recorder, Worker

from dbs_device import (
    DeviceIo,
    DeviceManager,
    DeviceManagerContext,
    DeviceOverlapError,
    DeviceResources,
    InvalidRangeError,
    IoManager,
    MappedRange,
    NoDeviceError,
    Resource,
    ResourceConstraint,
    ResourceManager,
    Space,
)
from dbs_device.errors import StateError
from dbs_device.memory import (
    GuestMemory,
    HostMemory,
    MemoryBoundsError,
    NotRamError,
    Ram,
    Rom,
    RomWriteError,
    memory_of,
)

MemRange = Resource.MemAddressRange
MmioRange = Resource.MmioAddressRange
END = 2**64


def bus_of(*mapped, **options):
    """Return a manager with memory and devices: (base, device) of memory, (base, device, size) of others."""
    manager = IoManager(**options)
    for base, device, *size in mapped:
        if size:
            manager.register_device_io(device, [MmioRange(base, *size)])
        else:
            manager.register_device_io(device, [MemRange(base, device.size)])
    return manager


# ----------------------------------------------------------------------------- Ram


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("address", [0x1000, 0x1001, 0x1003, 0x10F8])
def test_ram_holds_integers_of_every_size_at_any_alignment(size, byteorder, address):
    ram = Ram(0x100)
    manager = bus_of((0x1000, ram), byteorder=byteorder)
    value = int.from_bytes(b"\x81\x92\xa3\xb4\xc5\xd6\xe7\xf8"[:size], byteorder)
    manager.mmio_store(address, size, value)
    assert manager.mmio_load(address, size) == value
    assert bytes(ram.view) == bytes(address - 0x1000) + value.to_bytes(size, byteorder) + bytes(0x1100 - address - size)


def test_buffers_of_any_length_are_copied():
    ram = Ram(0x1000)
    manager = bus_of((0, ram))
    data = bytes(range(256)) * 3 + b"odd"
    manager.mmio_write(0x101, data)
    buffer = bytearray(len(data))
    manager.mmio_read(0x101, buffer)
    assert buffer == data == ram.view[0x101 : 0x101 + len(data)]


def test_ram_of_a_size_is_zeroed_and_aligned_to_pages():
    ram = Ram(5)
    assert ram.size == 5
    assert ram.view.nbytes == 5
    assert bytes(ram) == bytes(5)
    assert ram.address % mmap.PAGESIZE == 0
    assert not ram.readonly


@pytest.mark.parametrize("make", [bytearray, lambda n: np.zeros(n, np.uint8), lambda n: mmap.mmap(-1, n)])
def test_ram_shares_a_buffer_that_it_is_given(make):
    buffer = make(0x1000)
    manager = bus_of((0x1000, Ram(buffer)))
    manager.mmio_store(0x1010, 4, 0x01020304)
    assert bytes(buffer[0x10:0x14]) == b"\x04\x03\x02\x01"
    buffer[0x10] = 0xFF
    assert manager.mmio_load(0x1010, 1) == 0xFF


def test_a_buffer_of_other_items_is_memory_in_bytes():
    words = np.arange(4, dtype="<u4")
    manager = bus_of((0, Ram(words)))
    manager.mmio_store(4, 4, 0xCAFE)
    assert words.tolist() == [0, 0xCAFE, 2, 3]
    assert Ram(words).view.format == "B"
    assert Ram(words).size == 16


def test_a_buffer_that_ram_holds_cannot_be_resized_or_closed():
    array, mapping, numbers = bytearray(16), mmap.mmap(-1, 16), np.zeros(16, np.uint8)
    rams = [Ram(array), Ram(mapping), Ram(numbers)]
    with pytest.raises(BufferError):
        array.append(1)
    with pytest.raises(BufferError):
        mapping.close()
    with pytest.raises(ValueError, match="resize"):
        numbers.resize(32)
    del rams
    array.append(1)
    mapping.close()


@pytest.mark.parametrize(
    ("memory", "error", "message"),
    [
        (0, ValueError, "at least 1 byte, not 0"),
        (-1, ValueError, "at least 1 byte, not -1"),
        (2**40 * 2**30, MemoryError, "cannot be allocated"),
        (2**62, MemoryError, "cannot be allocated"),
        (1.5, TypeError, "bytes-like object is required, not 'float'"),
        ("64K", TypeError, "bytes-like object is required, not 'str'"),
        (None, TypeError, "bytes-like object is required"),
        (b"", ValueError, "Ram takes a buffer of at least 1 byte"),
        (bytearray(), ValueError, "Ram takes a buffer of at least 1 byte"),
        (b"firmware", BufferError, "Ram takes a writable buffer; this bytes is read-only"),
        (memoryview(bytearray(8))[::2], BufferError, "Ram takes a C-contiguous buffer"),
        (np.zeros((4, 4), np.uint8).T[:2], BufferError, "Ram takes a C-contiguous buffer"),
        (np.array([None, None]), BufferError, "holds references to objects"),
    ],
)
def test_what_ram_cannot_be_made_of(memory, error, message):
    with pytest.raises(error, match=message):
        Ram(memory)


def test_a_released_view_is_no_memory():
    view = memoryview(bytearray(4))
    view.release()
    with pytest.raises(ValueError, match="released"):
        Ram(view)


def test_ram_cannot_be_given_another_memory():
    ram = Ram(4)
    with pytest.raises(TypeError, match="has its memory already"):
        ram.__init__(8)
    assert ram.size == 4


def test_a_half_made_ram_has_no_bytes():
    ram = Ram.__new__(Ram)
    manager = IoManager()
    with pytest.raises(InvalidRangeError):
        manager.register_device_io(ram, [MemRange(0, 1)])
    with pytest.raises(MemoryBoundsError):
        ram.read(0, 0, bytearray(1))
    assert bytes(ram) == b""


def test_the_base_class_is_not_made():
    with pytest.raises(TypeError, match="base class of Ram and Rom"):
        HostMemory()


def test_a_view_is_released_without_harm():
    ram = Ram(16)
    ram.view.release()
    with ram.view as view:
        view[0] = 7
    assert bus_of((0, ram)).mmio_load(0, 1) == 7


def test_ram_is_a_buffer():
    ram = Ram(16)
    np.frombuffer(ram, "<u4")[1] = 0xCAFE
    assert bytes(ram)[4:8] == b"\xfe\xca\0\0"
    assert Ram(ram).address == ram.address


def test_ram_that_is_unplugged_while_a_view_is_kept_stays_alive():
    manager = bus_of((0, Ram(0x1000)))
    view = GuestMemory(manager).view(0x10, 4)
    manager.unregister_device_io([MemRange(0, 0x1000)])
    gc.collect()
    view[:] = b"kept"
    assert bytes(view) == b"kept"
    assert len(manager.mmio_bus) == 0


def test_held_tables_keep_unplugged_ram():
    manager = bus_of((0, Ram(bytearray(b"data"))))
    tables = manager.tables()
    manager.unregister_device_io([MemRange(0, 4)])
    gc.collect()
    assert tables.generation < manager.tables().generation


def test_ram_serves_ports_too():
    ram = Ram(4)
    manager = IoManager()
    manager.register_device_io(ram, [Resource.PioAddressRange(0x80, 4)])
    manager.pio_out(0x82, 2, 0x1234)
    assert manager.pio_in(0x80, 4) == 0x12340000


def test_aligned_accesses_are_not_torn_by_those_of_another_thread():
    manager = bus_of((0, Ram(8)))
    addresses = np.zeros(200_000, np.uint64)
    patterns = np.arange(256, dtype=np.uint64) * np.uint64(0x0101_0101_0101_0101)

    def store():
        for _ in range(800):
            manager.mmio_store_many(np.zeros(256, np.uint64), 8, patterns)

    writer = Worker(store)
    values = manager.mmio_load_many(addresses, 8)
    writer.result()
    assert np.isin(values, patterns).all()


# ----------------------------------------------------------------------------- registration


@pytest.mark.parametrize("resource", [MemRange, MmioRange])
def test_memory_is_registered_for_both_kinds_of_range(resource):
    ram = Ram(0x1000)
    manager = IoManager()
    manager.register_device_io(ram, [resource(0x8000, 0x1000)], name="ram")
    assert manager.mapped_ranges() == (MappedRange(Space.MMIO, 0x8000, 0x8FFF, ram, "ram"),)
    assert manager.mmio_bus.find(0x8FFF) is ram
    assert "'ram' <Ram: 4 KiB>" in str(manager)
    manager.unregister_device_io([resource(0x8000, 0x1000)])
    assert manager.mapped_ranges() == ()


def test_memory_of_other_devices_is_passed_over():
    manager = bus_of((0x8000, Ram(0x1000)))
    device = Recorder()
    resources = [MmioRange(0x100, 4), MemRange(0x8000, 0x1000), MemRange(0x100, 4)]
    manager.register_device_io(device, resources)
    assert len(manager.mmio_bus) == 2
    manager.unregister_device_io([MemRange(0x9000, 0x1000), MemRange(0x100, 4)])
    assert len(manager.mmio_bus) == 2


def test_memory_overlaps_like_any_device():
    manager = bus_of((0x8000, Ram(0x1000)))
    with pytest.raises(DeviceOverlapError):
        manager.register_device_io(Ram(0x1000), [MemRange(0x8800, 0x1000)])
    with pytest.raises(DeviceOverlapError):
        manager.register_device_io(Ram(16), [MemRange(0, 16), MmioRange(0, 16)])
    assert len(manager.mmio_bus) == 1


def test_a_range_is_not_larger_than_its_memory():
    manager = IoManager()
    with pytest.raises(InvalidRangeError, match=r"0x0..0x1000 is larger than the 4096 bytes of <Ram: 4 KiB>"):
        manager.register_device_io(Ram(0x1000), [MmioRange(0x8000, 4), MemRange(0, 0x1001)])
    with manager.begin_tx() as transaction, pytest.raises(InvalidRangeError):
        transaction.register_device_io(Rom(b"rom"), [MmioRange(0, END)])
    assert manager.mapped_ranges() == ()
    manager.register_device_io(Ram(0x1000), [MemRange(0, 0x800)])
    assert manager.mmio_load(0x7FF, 1) == 0


def test_memory_in_a_transaction():
    manager = bus_of((0, Ram(16)))
    with manager.begin_tx() as transaction:
        transaction.unregister_device_io([MemRange(0, 16)])
        transaction.register_device_io(Rom(b"firmware"), [MemRange(0, 8)])
    assert manager.mmio_load(0, 4).to_bytes(4, "little") == b"firm"


def test_memory_at_the_end_of_the_space():
    ram = Ram(0x1000)
    manager = bus_of((END - 0x1000, ram))
    manager.mmio_store(END - 8, 8, 2**64 - 2)
    assert ram.view[-8:] == (2**64 - 2).to_bytes(8, "little")
    with pytest.raises(NoDeviceError):
        manager.mmio_load(END - 4, 8)


def test_an_access_that_straddles_the_end_of_memory():
    manager = bus_of((0, Ram(16)), straddle="pass")
    for access in (lambda: manager.mmio_load(14, 4), lambda: manager.mmio_store(14, 4, 0)):
        with pytest.raises(MemoryBoundsError, match=r"4 bytes at offset 0xe runs past the end of <Ram: 16 bytes>"):
            access()
    # The whole of a range that is smaller than its memory can be reached, and what is behind it.
    manager = IoManager(straddle="pass")
    manager.register_device_io(Ram(bytearray(range(16))), [MemRange(0, 8)])
    assert manager.mmio_load(6, 4) == 0x09080706


class ManagedRam(Ram):
    def get_resource_constraints(self):
        return [ResourceConstraint.new_mem(self.size)]

    def assign_resources(self, resources):
        self.resources = resources

    def get_assigned_resources(self):
        return self.resources


class Window(DeviceIo):
    """A device with guest memory of its own, which the bus does not trap."""

    unhandled = "ignore"

    def __init__(self, resources):
        self.resources = DeviceResources(resources)

    def get_resource_constraints(self):
        return []

    def assign_resources(self, resources):
        pass

    def get_assigned_resources(self):
        return self.resources


def test_a_device_manager_maps_memory():
    bus = IoManager()
    devices = DeviceManager(DeviceManagerContext(bus), ResourceManager())
    ram = ManagedRam(0x2000)
    [(base, size)] = devices.add_device("ram", ram).get_mem_address_ranges()
    assert bus.mapped_ranges() == (MappedRange(Space.MMIO, base, base + size - 1, ram, "ram"),)
    assert memory_of(bus.mapped_ranges()[0]).device is ram
    devices.add_device("window", Window([MemRange(base, size), MmioRange(0x10_0000, 4)]))
    devices.remove_device("window")
    assert [each.device for each in bus.mapped_ranges()] == [ram]
    assert devices.remove_device("ram") is ram
    assert bus.mapped_ranges() == ()


def test_managers_are_copied_with_their_memory():
    manager = bus_of((0, Ram(bytearray(b"ram"))), (0x100, Rom(b"rom", on_write="raise")))
    assert manager.clone() == manager
    for other in (pickle.loads(pickle.dumps(manager)), copy.deepcopy(manager)):
        manager.mmio_store(0, 1, 0)
        assert other.mmio_load(0, 2).to_bytes(2, "little") == b"ra"
        manager.mmio_store(0, 1, ord("r"))
        with pytest.raises(RomWriteError):
            other.mmio_store(0x100, 1, 0)


class NamedRam(Ram):
    __slots__ = ("extra",)


def test_a_copy_of_memory_has_its_own():
    ram = ManagedRam(bytearray(b"1234"))
    ram.label = "dimm0"
    slotted = NamedRam(4)
    slotted.extra = 5
    for make in (copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        other = make(ram)
        other.view[0] = 0
        assert bytes(ram) == b"1234"
        assert bytes(other) == b"\x00234"
        assert other.label == "dimm0"
        assert type(other) is ManagedRam
        assert make(slotted).extra == 5


# ----------------------------------------------------------------------------- Rom


def test_rom_ignores_writes_by_default():
    rom = Rom(b"firmware")
    manager = bus_of((0, rom))
    manager.mmio_store(0, 4, 0)
    manager.mmio_write(0, bytes(8))
    assert bytes(rom) == b"firmware"
    assert rom.readonly
    assert rom.view.readonly
    assert rom.on_write == "ignore"
    assert repr(rom) == "<Rom: 8 bytes>"


def test_rom_of_bytes_is_aligned_to_pages():
    contents = bytes(range(1, 100))
    assert Rom(contents).address % mmap.PAGESIZE == 0
    held = bytearray(contents)
    assert Rom(held).address == np.frombuffer(held, np.uint8).ctypes.data


def test_rom_raises_on_a_write():
    manager = IoManager()
    manager.register_device_io(Rom(b"firmware", on_write="raise"), [MemRange(0x1000, 8)], name="flash")
    with pytest.raises(RomWriteError, match="a write of 2 bytes at offset 0x4 of <Rom: 8 bytes>") as raised:
        manager.mmio_store(0x1004, 2, 1)
    assert (raised.value.offset, raised.value.size) == (4, 2)
    assert raised.value.__notes__ == [
        "device access: MMIO write of 2 bytes at 0x1004, offset 0x4 of 'flash' <Rom: 8 bytes>"
    ]
    assert manager.mmio_load(0x1000, 4).to_bytes(4, "little") == b"firm"


def test_rom_calls_on_a_write():
    contents = bytearray(b"firmware")
    writes = []

    def program(offset, data):
        writes.append((offset, data))
        contents[offset : offset + len(data)] = data

    rom = Rom(contents, on_write=program)
    manager = bus_of((0x1000, rom))
    manager.mmio_store(0x1001, 2, 0x4241)
    manager.mmio_write(0x1004, b"wave")
    assert writes == [(1, b"AB"), (4, b"wave")]
    assert bytes(rom) == b"fABmwave"
    assert rom.on_write is program


def test_what_on_write_raises_comes_out():
    def refuse(offset, data):
        raise LookupError("locked")

    manager = bus_of((0, Rom(b"firmware", on_write=refuse)))
    with pytest.raises(LookupError, match="locked"):
        manager.mmio_store(0, 1, 1)
    with pytest.raises(LookupError, match="locked"):
        manager.mmio_store_many(np.zeros(1, np.uint64), 1, np.zeros(1, np.uint64))


def test_on_write_may_use_the_bus_and_change_the_map():
    def replace(offset, data):
        assert manager.mmio_load(0, 1) == ord("f")
        with manager.begin_tx() as transaction:
            transaction.unregister_device_io([MemRange(0, 8)])
            transaction.register_device_io(Rom(b"status"), [MmioRange(0, 6)])

    manager = bus_of((0, Rom(b"firmware", on_write=replace)))
    manager.mmio_store(0, 1, 0x70)
    assert manager.mmio_load(0, 1) == ord("s")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"contents": b"", "on_write": "ignore"}, ValueError, "Rom takes a buffer of at least 1 byte"),
        ({"contents": 64}, TypeError, "bytes-like object is required, not 'int'"),
        ({"contents": b"1", "on_write": "drop"}, ValueError, 'on_write takes "ignore", "raise" or a callable'),
        ({"contents": b"1", "on_write": 3}, TypeError, "not int"),
        ({"contents": memoryview(b"1234")[::2]}, BufferError, "C-contiguous"),
    ],
)
def test_what_rom_cannot_be_made_of(arguments, error, message):
    with pytest.raises(error, match=message):
        Rom(**arguments)


def test_a_rom_in_a_cycle_with_its_handler_is_collected():
    class Flash:
        def __init__(self):
            self.rom = Rom(bytearray(4), on_write=self.write)

        def write(self, offset, data):
            pass

    flash = Flash()
    alive = weakref.ref(flash.rom)
    del flash
    gc.collect()
    assert alive() is None


# ----------------------------------------------------------------------------- state


@pytest.mark.parametrize("make", [lambda data: Ram(bytearray(data)), lambda data: Rom(bytearray(data)), Rom])
def test_contents_are_saved_and_loaded(make):
    memory = make(b"contents")
    state = memory.save_state()
    assert state == {"contents": b"contents"}
    if not memory.readonly:
        memory.view[:] = bytes(8)
    memory.load_state(state)
    assert bytes(memory) == b"contents"
    memory.check_state(state)
    memory.load_state({"contents": np.frombuffer(b"contents", np.uint8)})
    assert memory.version == 1


@pytest.mark.parametrize(
    ("memory", "state", "message"),
    [
        (Ram(8), {"contents": bytes(7)}, "the state has 7 bytes, <Ram: 8 bytes> has 8"),
        (Ram(8), {}, "not of a memory"),
        (Ram(8), {"contents": "text"}, "not of a memory"),
        (Ram(8), None, "not of a memory"),
        (Rom(b"firmware"), {"contents": b"hardware"}, "other contents than <Rom: 8 bytes>, which is read-only"),
    ],
)
def test_a_state_of_another_memory_changes_nothing(memory, state, message):
    before = bytes(memory)
    with pytest.raises(StateError, match=message):
        memory.check_state(state)
    with pytest.raises(StateError, match=message):
        memory.load_state(state)
    assert bytes(memory) == before


# ----------------------------------------------------------------------------- where the memory is in the host


def test_memory_of_a_range():
    ram, rom = Ram(0x2000), Rom(bytearray(0x1000))
    manager = IoManager()
    manager.register_device_io(ram, [MemRange(0x8000, 0x1000), Resource.PioAddressRange(0, 4)])
    manager.register_device_io(rom, [MemRange(0, 0x1000)])
    manager.register_device_io(Recorder(), [MmioRange(0x1000, 4)])
    first, device, second, ports = map(memory_of, manager.mapped_ranges())
    assert first == (0, 0xFFF, rom.address, False, rom)
    assert second == (0x8000, 0x8FFF, ram.address, True, ram)
    assert device is None
    assert ports is None
    assert repr(second).startswith("MappedMemory(0x8000..0x8fff at 0x")
    assert "writable" in repr(second)


def test_memory_with_handlers_of_its_own_is_served_by_them():
    class Watched(Ram):
        def store(self, base, offset, size, value):
            self.view[offset] = ~value & 0xFF

    manager = bus_of((0, Watched(4)))
    manager.mmio_store(1, 1, 0x0F)
    assert manager.mmio_load(0, 4) == 0xF000
    assert memory_of(manager.mapped_ranges()[0]) is None
    with pytest.raises(NotRamError):
        GuestMemory(manager).view(0, 4)


# ----------------------------------------------------------------------------- DMA


class Registers(DeviceIo):
    """32 bytes of registers; remembers the (offset, size) of each access."""

    def __init__(self):
        self.data = bytearray(range(32))
        self.accesses = []

    def load(self, base, offset, size):
        self.accesses.append((offset, size))
        return int.from_bytes(self.data[offset : offset + size], "little")

    def store(self, base, offset, size, value):
        self.accesses.append((offset, size))
        self.data[offset : offset + size] = value.to_bytes(size, "little")


def test_dma_crosses_the_ends_of_ranges():
    low, high, device = Ram(0x10), Ram(0x10), Registers()
    manager = bus_of((0x1000, low), (0x1010, device, 0x20), (0x1030, high))
    memory = GuestMemory(manager)
    data = bytes(range(100, 164))
    memory.write(0x1000, data)
    assert bytes(low) + device.data + bytes(high) == data
    assert memory.read(0x1000, 64) == data
    buffer = bytearray(40)
    memory.read_into(0x100C, buffer)
    assert buffer == data[0xC:0x34]


@pytest.mark.parametrize(
    ("width", "start", "size", "accesses"),
    [
        (8, 0, 16, [(0, 8), (8, 8)]),
        (8, 3, 14, [(3, 1), (4, 4), (8, 8), (16, 1)]),
        (4, 2, 8, [(2, 2), (4, 4), (8, 2)]),
        (1, 6, 3, [(6, 1), (7, 1), (8, 1)]),
    ],
)
def test_dma_accesses_a_device_naturally_aligned(width, start, size, accesses):
    device = Registers()
    memory = GuestMemory(bus_of((0x1000, device, 32)), width=width)
    assert memory.read(0x1000 + start, size) == bytes(range(start, start + size))
    assert device.accesses == accesses
    device.accesses.clear()
    memory.write(0x1000 + start, bytes(size))
    assert device.accesses == accesses


def test_dma_stops_at_the_end_of_a_range_of_odd_size():
    device = Registers()
    memory = GuestMemory(bus_of((0x1000, device, 6), (0x1006, Ram(bytearray(b"ram")))))
    assert memory.read(0x1000, 9) == bytes(range(6)) + b"ram"
    assert device.accesses == [(0, 4), (4, 2)]


def test_dma_off_the_end_of_ram_says_what_was_done():
    ram = Ram(bytearray(b"0123456789"))
    manager = bus_of((0x1000, ram))
    memory = GuestMemory(manager)
    with pytest.raises(NoDeviceError, match="0x100a") as raised:
        memory.read(0x1004, 100)
    assert raised.value.bytes_done == 6
    assert raised.value.__notes__ == ["6 of 100 bytes were transferred before this access"]
    buffer = bytearray(b"." * 12)
    with pytest.raises(NoDeviceError) as raised:
        memory.read_into(0x1004, buffer)
    assert raised.value.bytes_done == 6
    assert buffer == b"456789......"
    with pytest.raises(NoDeviceError) as raised:
        memory.write(0x1008, b"abcd")
    assert raised.value.bytes_done == 2
    assert bytes(ram) == b"01234567ab"
    with pytest.raises(NoDeviceError) as raised:
        memory.write(0xFFE, b"abcd")
    assert raised.value.bytes_done == 0
    assert (raised.value.address, raised.value.size) == (0xFFE, 2)


def test_dma_that_a_device_refuses_says_what_was_done():
    class Broken(DeviceIo):
        def load(self, base, offset, size):
            if offset >= 8:
                raise LookupError("broken")
            return 0x55

    memory = GuestMemory(bus_of((0, Broken(), 16)))
    buffer = bytearray(b"." * 16)
    with pytest.raises(LookupError, match="broken") as raised:
        memory.read_into(0, buffer)
    assert raised.value.bytes_done == 8
    assert buffer == b"\x55\0\0\0\0\0\0\0........"
    assert len(raised.value.__notes__) == 2


def test_dma_on_an_open_bus():
    manager = bus_of((0x10, Ram(bytearray(b"ram"))), (0x18, Ram(bytearray(b"dram"))), open_bus=0xFF, log_unowned=True)
    memory = GuestMemory(manager)
    assert memory.read(0xF, 14) == b"\xffram" + b"\xff" * 5 + b"dram\xff"
    count = manager.unowned_accesses
    memory.write(0x13, b"lost")
    assert manager.unowned_accesses > count


def test_dma_of_nothing_does_nothing():
    memory = GuestMemory(IoManager())
    assert memory.read(0x1000, 0) == b""
    memory.write(0x1000, b"")
    memory.read_into(0x1000, bytearray())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda memory: memory.read(0, -1), ValueError, "size"),
        (lambda memory: memory.read(-1, 1), OverflowError, "-0x1"),
        (lambda memory: memory.read(END - 1, 2), OverflowError, "2 bytes at 0xffffffffffffffff run past"),
        (lambda memory: memory.read(END, 1), OverflowError, "0x10000000000000000"),
        (lambda memory: memory.write(END - 3, b"four"), OverflowError, "run past the last MMIO address"),
        (lambda memory: memory.read(0, 2**70), OverflowError, "run past the last MMIO address"),
        (lambda memory: memory.read(0, 2**63), OverflowError, "do not fit a bytes object"),
        (lambda memory: memory.read("0", 1), TypeError, "str"),
        (lambda memory: memory.read(0, 1.0), TypeError, "float"),
        (lambda memory: memory.write(0, 1), TypeError, "bytes-like"),
        (lambda memory: memory.write(0, "text"), TypeError, "bytes-like"),
        (lambda memory: memory.read_into(0, b"abc"), BufferError, "read-only"),
        (lambda memory: memory.read_into(0, memoryview(bytearray(8))[::2]), BufferError, "C-contiguous"),
        (lambda memory: memory.view(0, 0), ValueError, "at least 1 byte"),
        (lambda memory: memory.view(END - 1, 2), OverflowError, "run past"),
        (lambda memory: GuestMemory(None), TypeError, "IoManager"),
        (lambda memory: GuestMemory(IoManager(), width=3), ValueError, "1, 2, 4 or 8 bytes, not 3"),
    ],
)
def test_bad_transfers_are_refused(call, error, message):
    ram = Ram(0x1000)
    memory = GuestMemory(bus_of((0, ram), (END - 0x10, Ram(0x10))))
    with pytest.raises(error, match=message):
        call(memory)
    assert bytes(ram) == bytes(0x1000)


def test_dma_at_the_end_of_the_space():
    memory = GuestMemory(bus_of((END - 8, Ram(8))))
    memory.write(END - 8, b"the last")
    assert memory.read(END - 4, 4) == b"last"
    assert memory.view(END - 1, 1)[0] == ord("t")
    gap = GuestMemory(IoManager(open_bus=0xAA))
    assert gap.read(END - 3, 3) == b"\xaa" * 3
    device = GuestMemory(bus_of((END - 8, Registers(), 8)))
    assert device.read(END - 7, 7) == bytes(range(1, 8))


def test_dma_from_a_handler_is_seen_by_the_guest():
    class Dma(DeviceIo):
        def store(self, base, offset, size, value):
            self.memory.write(value, b"done")
            self.memory.view(value + 4, 1)[0] = 1

    device = Dma()
    manager = bus_of((0x1000, Ram(0x100)), (0, device, 4))
    device.memory = GuestMemory(manager)
    manager.mmio_store(0, 4, 0x1020)
    assert manager.mmio_load(0x1020, 8) == int.from_bytes(b"done\1", "little")


def test_dma_follows_changes_that_a_device_makes():
    class Switch(DeviceIo):
        def load(self, base, offset, size):
            manager.unregister_device_io([MemRange(0x1008, 8)])
            manager.register_device_io(Ram(bytearray(b"new RAM!")), [MemRange(0x1008, 8)])
            return 0

    manager = bus_of((0x1000, Switch(), 8), (0x1008, Ram(bytearray(b"old RAM!"))))
    assert GuestMemory(manager).read(0x1000, 16) == bytes(8) + b"new RAM!"


def test_a_view_is_of_one_ram():
    ram, other, rom = Ram(0x10), Ram(0x10), Rom(b"firmware")
    manager = bus_of((0x1000, ram), (0x1010, other), (0x2000, rom), (0x3000, Registers(), 32))
    memory = GuestMemory(manager)
    view = memory.view(0x1004, 0xC)
    view[0] = 0x77
    assert manager.mmio_load(0x1004, 1) == 0x77
    assert (view.format, view.nbytes, view.readonly) == ("B", 0xC, False)
    with pytest.raises(
        NotRamError, match=r"0x1004..0x1010: the RAM ends before 0x1010; it belongs to <Ram: 16"
    ) as raised:
        memory.view(0x1004, 0xD)
    assert (raised.value.ram_size, raised.value.owner) == (0xC, other)
    with pytest.raises(NotRamError, match="no device owns it") as raised:
        memory.view(0x1018, 0x10)
    assert raised.value.ram_size == 8
    assert raised.value.owner is None
    for address, owner in ((0x2000, rom), (0x3000, manager.mmio_bus.find(0x3000)), (0x4000, None)):
        with pytest.raises(NotRamError, match="first byte is not RAM") as raised:
            memory.view(address, 1)
        assert raised.value.owner is owner


def test_dma_between_views_of_one_ram_is_a_move():
    ram = Ram(bytearray(range(16)))
    memory = GuestMemory(bus_of((0, ram)))
    memory.write(2, memory.view(0, 8))
    assert bytes(ram) == bytes([0, 1, *range(8), *range(10, 16)])


def test_guest_memory_of_a_copied_machine():
    memory = GuestMemory(bus_of((0, Ram(bytearray(b"data")))), width=4)
    other = copy.deepcopy(memory)
    assert other.width == 4
    assert other.manager is not memory.manager
    other.write(0, b"DATA")
    assert memory.read(0, 4) == b"data"
    assert other.read(0, 4) == b"DATA"
    assert repr(memory).startswith("GuestMemory(<IoManager")


def test_dma_while_ram_comes_and_goes():
    """Each piece is either of the RAM that is plugged in, or of the open bus; a view outlives the RAM's range."""
    manager = IoManager(open_bus=0xFF)
    memory = GuestMemory(manager)
    is_done = threading.Event()

    def plug():
        for number in range(1, 300):
            ram = Ram(bytearray([number & 0x7F] * 0x100))
            manager.register_device_io(ram, [MemRange(0x1000, 0x100)])
            with contextlib.suppress(NotRamError):
                memory.view(0x1080, 1)[0] = number & 0x7F
            manager.unregister_device_io([MemRange(0x1000, 0x100)])
        is_done.set()

    worker = Worker(plug)
    try:
        while not is_done.is_set():
            data = memory.read(0xFF8, 0x110)
            assert data[:8] == data[-8:] == b"\xff" * 8
            assert len(set(data[8:-8])) == 1 or 0xFF in data[8:-8]
            try:
                view = memory.view(0x1000, 0x100)
            except NotRamError:
                continue
            assert len(set(view)) == 1
    finally:
        worker.result()
