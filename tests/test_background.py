"""`IoManager(background=...)`: a device under all ranges of the MMIO space."""

from __future__ import annotations

import copy
import ctypes
import pickle

import numpy as np
import pytest
from helpers import Recorder

from dbs_device import (
    CallbackHandle,
    DeviceIo,
    DeviceIoMut,
    IoManager,
    Mutex,
    NoDeviceError,
    Resource,
    UnhandledSpaceWarning,
    entry_point_addresses,
)
from dbs_device.memory import GuestMemory, NotRamError, Ram, Rom

END = 2**64


class Registers(DeviceIo):
    def load(self, base, offset, size):
        return 0x5A5A_5A5A_5A5A_5A5A

    def store(self, base, offset, size, value):
        pass


def on_background(background, **options):
    """Return a manager with a device at 0x1000..0x100f over a background."""
    manager = IoManager(background=background, **options)
    manager.register_device_io(Registers(), [Resource.MmioAddressRange(0x1000, 0x10)])
    return manager


def c_load(manager, address, size):
    handle = CallbackHandle(manager)
    load = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint)
    value = load(entry_point_addresses()["mmio_load"])(handle.address, address, size)
    if (error := handle.pop_exception()) is not None:
        raise error
    return value


def read(manager, address, size):
    buffer = bytearray(size)
    manager.mmio_read(address, buffer)
    return int.from_bytes(buffer, manager.byteorder)


READS = {
    "load": lambda manager, address, size: manager.mmio_load(address, size),
    "read": read,
    "read into other memory": lambda manager, address, size: read_array(manager, address, size),
    "batch": lambda manager, address, size: int(manager.mmio_load_many(np.array([address], np.uint64), size)[0]),
    "C entry point": c_load,
    "DMA": lambda manager, address, size: int.from_bytes(GuestMemory(manager).read(address, size), manager.byteorder),
}


def read_array(manager, address, size):
    array = np.zeros((1, size), np.uint8)
    manager.mmio_read(address, array)
    return int.from_bytes(array.tobytes(), manager.byteorder)


def store(manager, address, size, value):
    manager.mmio_store_many(np.array([address], np.uint64), size, np.array([value], np.uint64))


WRITES = {
    "store": lambda manager, address, size, value: manager.mmio_store(address, size, value),
    "write": lambda manager, address, size, value: manager.mmio_write(address, value.to_bytes(size, manager.byteorder)),
    "batch": store,
    "DMA": lambda manager, address, size, value: GuestMemory(manager).write(
        address, value.to_bytes(size, manager.byteorder)
    ),
}


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("path", READS)
def test_every_read_reaches_it(path, size, byteorder):
    manager = on_background(Ram(bytearray(range(256)) * 0x20), byteorder=byteorder)
    value = READS[path](manager, 0x7F8, size)
    assert value.to_bytes(size, byteorder) == bytes(range(0xF8, 0x100))[:size]
    assert READS[path](manager, 0x1008, size) == 0x5A5A_5A5A_5A5A_5A5A & (1 << 8 * size) - 1


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("path", WRITES)
def test_every_write_reaches_it(path, size):
    ram = Ram(0x2000)
    manager = on_background(ram)
    value = int.from_bytes(b"BACKGROU"[:size], "little")
    WRITES[path](manager, 0x7F8, size, value)
    WRITES[path](manager, 0x1008, size, value)
    assert bytes(ram) == bytes(0x7F8) + b"BACKGROU"[:size] + bytes(0x2000 - 0x7F8 - size)


class Log(DeviceIoMut):
    def __init__(self):
        self.calls = []

    def read(self, base, offset, data):
        self.calls.append((base, offset, len(data)))
        data[0] = 7

    def write(self, base, offset, data):
        self.calls.append((base, offset, bytes(data)))


class SafeLog(Log, DeviceIo):
    pass


@pytest.mark.parametrize("is_mutex", [False, True])
def test_a_python_device_gets_the_address_as_offset(is_mutex):
    log = Log() if is_mutex else SafeLog()
    manager = on_background(Mutex(log) if is_mutex else log)
    assert manager.mmio_load(END - 1, 1) == 7
    manager.mmio_store(0x1010, 2, 0x4142)
    data = bytearray(3)
    manager.mmio_read(0xF00D, data)
    assert data == b"\x07\0\0"
    assert log.calls == [(0, END - 1, 1), (0, 0x1010, b"BA"), (0, 0xF00D, 3)]


def test_ports_do_not_reach_it():
    manager = on_background(Recorder())
    with pytest.raises(NoDeviceError, match="PIO address 0x60"):
        manager.pio_in(0x60, 1)
    with pytest.raises(NoDeviceError):
        manager.pio_write(0x60, b"x")
    assert manager.background.calls == []


def test_it_serves_what_leaves_a_range():
    log = Recorder(answer=b"\x01\x02\x03\x04")
    manager = on_background(log)
    assert manager.mmio_load(0x100E, 4) == 0x04030201
    assert manager.mmio_load(0xFFE, 4) == 0x04030201
    assert [offset for _, _, offset, _ in log.calls] == [0x100E, 0xFFE]
    passing = on_background(Recorder(), straddle="pass")
    assert passing.mmio_load(0x100E, 4) == 0x5A5A5A5A
    assert passing.background.calls == []


def test_memory_ends_where_it_ends():
    manager = on_background(Ram(0x2000), open_bus=0xFF, log_unowned=True)
    assert manager.mmio_load(0x1FFC, 4) == 0
    assert manager.mmio_load(0x1FFE, 4) == 0xFFFF_FFFF
    assert manager.mmio_load(0x2000, 1) == 0xFF
    assert c_load(manager, 0x2000, 1) == 0xFF
    assert read(manager, 0x1FFF, 2) == 0xFFFF
    manager.mmio_store(0x2000, 1, 1)
    assert manager.unowned_accesses == 5
    closed = on_background(Ram(0x2000))
    for address in (0x1FFE, 0x2000, END - 4):
        with pytest.raises(NoDeviceError):
            closed.mmio_load(address, 4)
        with pytest.raises(NoDeviceError):
            closed.mmio_write(address, b"abcd")


def test_the_end_of_the_space():
    manager = on_background(Recorder(answer=b"\x55"))
    assert manager.mmio_load(END - 1, 1) == 0x55
    with pytest.raises(NoDeviceError):
        manager.mmio_load(END - 1, 2)
    with pytest.raises(NoDeviceError):
        manager.mmio_write(END - 2, b"abc")


def test_an_offset_that_wraps_around_is_not_its_last_byte():
    log = Recorder()
    handle = CallbackHandle(on_background(log), 8)
    load = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint)
    assert load(entry_point_addresses()["mmio_load"])(handle.address, END - 4, 1) == 0
    assert log.calls == []


def test_it_owns_no_range():
    ram = Ram(0x2000)
    manager = on_background(ram)
    assert manager.background is ram
    assert IoManager().background is None
    assert len(manager.mapped_ranges()) == 1
    assert manager.mmio_bus.find(0) is None
    assert manager.mmio_bus.find_many(np.array([0, 0x1000], np.uint64)).tolist() == [-1, 0]
    manager.register_device_io(Recorder(), [Resource.MmioAddressRange(0, 4)])  # overlaps nothing


def test_the_map_shows_it():
    manager = on_background(Ram(0x2000))
    manager.register_device_io(Recorder(), [Resource.PioAddressRange(0x60, 1)])
    lines = str(manager).splitlines()
    assert lines[2].split(maxsplit=1) == ["background", "<Ram: 8 KiB>"]
    assert lines[2].index("<Ram") == lines[1].index("<test_background.Registers")
    assert lines[3] == "PIO: 1 range"


def test_changes_of_the_map_leave_it():
    manager = on_background(Ram(bytearray(b"\x11" * 0x2000)))
    manager.unregister_device_io([Resource.MmioAddressRange(0x1000, 0x10)])
    assert manager.mmio_load(0x1000, 1) == 0x11
    with manager.begin_tx() as transaction:
        assert transaction.find("MMIO", 0x1000) is None
        transaction.register_device_io(Registers(), [Resource.MmioAddressRange(0, 0x10)])
    assert manager.mmio_load(0, 1) == 0x5A


def test_an_access_in_progress_goes_on_with_it():
    class Unplugs(DeviceIo):
        def load(self, base, offset, size):
            manager.register_device_io(Registers(), [Resource.MmioAddressRange(0, 0x10)])
            return 3

    manager = IoManager(background=Unplugs())
    assert manager.mmio_load(4, 1) == 3
    assert manager.mmio_load(4, 1) == 0x5A


def test_copies_have_it_and_equality_compares_it():
    manager = on_background(Ram(0x100))
    clone = manager.clone()
    assert clone.background is manager.background
    assert clone == manager
    clone.mmio_store(4, 1, 9)
    for other in (pickle.loads(pickle.dumps(manager)), copy.deepcopy(manager)):
        assert other.mmio_load(4, 1) == 9
        other.mmio_store(4, 1, 0)
        assert other == manager
    assert manager.mmio_load(4, 1) == 9
    assert IoManager(background=Ram(1)) != IoManager()
    assert IoManager() != IoManager(background=Ram(1))


def test_an_exception_has_a_note():
    class Broken(DeviceIo):
        def load(self, base, offset, size):
            raise LookupError("broken")

        def __repr__(self):
            return "<broken>"

    manager = on_background(Broken())
    for path in READS.values():
        with pytest.raises(LookupError) as raised:
            path(manager, 0x44, 1)
        [note] = [each for each in raised.value.__notes__ if each.startswith("device access")]
        assert note == "device access: MMIO read of 1 byte at 0x44, offset 0x44 of 'background' <broken>"
    rom = on_background(Rom(bytes(16), on_write="raise"))
    with pytest.raises(Exception, match="read-only") as raised:
        rom.mmio_store(0xC, 4, 0)
    assert raised.value.__notes__ == [
        "device access: MMIO write of 4 bytes at 0xc, offset 0xc of 'background' <Rom: 16 bytes>"
    ]


def test_views_of_ram_in_the_background_end_at_the_next_range():
    ram = Ram(0x2000)
    memory = GuestMemory(on_background(ram))
    memory.view(0xFF0, 0x10)[:4] = b"view"
    assert ram.view[0xFF0:0xFF4] == b"view"
    with pytest.raises(NotRamError, match=r"the RAM ends before 0x1000; it belongs to <test_background\.Registers"):
        memory.view(0xFF0, 0x11)
    assert memory.view(0x1010, 0xFF0).nbytes == 0xFF0
    with pytest.raises(NotRamError, match="no device owns it"):
        memory.view(0x1010, 0xFF1)
    memory.write(0xFFE, b"around the device..!")
    assert ram.view[0xFFE:0x1000] == b"ar"
    assert ram.view[0x1010:0x1012] == b".!"


@pytest.mark.parametrize(
    ("background", "error", "message"),
    [
        (DeviceIoMut(), TypeError, r"register Mutex\(DeviceIoMut"),
        (Registers, TypeError, "must be an instance"),
        (bytearray(4), TypeError, "bytearray"),
        (0xFF, TypeError, "int"),
        (Ram.__new__(Ram), ValueError, "has no memory"),
    ],
)
def test_what_cannot_be_a_background(background, error, message):
    with pytest.raises(error, match=message):
        IoManager(background=background)


def test_a_background_without_handlers_is_warned_about():
    class Ports(DeviceIo):
        def pio_in(self, base, offset, size):
            return 0

    with pytest.warns(UnhandledSpaceWarning, match="Ports"):
        IoManager(background=Ports())
