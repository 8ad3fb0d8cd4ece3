"""`IoManager.count`: accesses by device, for the time of a block."""

from __future__ import annotations

import copy
import ctypes
import gc
import weakref

import numpy as np
import pytest
from helpers import Recorder, Worker

from dbs_device import (
    CallbackHandle,
    DeviceCounts,
    DeviceIo,
    DeviceIoMut,
    IoManager,
    Mutex,
    Resource,
    TransactionError,
    entry_point_addresses,
)
from dbs_device.memory import Alias, GuestMemory, MemoryView, Ram, memory_of

RANGE = [Resource.MmioAddressRange(0x1000, 0x100)]


class Registers(DeviceIo):
    def load(self, base, offset, size):
        return base + offset

    def store(self, base, offset, size, value):
        pass

    pio_in, pio_out = load, store


def manager_of(**options):
    manager = IoManager(**options)
    manager.register_device_io(Ram(0x1000), [Resource.MemAddressRange(0x8000, 0x1000)], name="ram")
    manager.register_device_io(Registers(), [*RANGE, Resource.PioAddressRange(0x40, 4)], name="regs")
    return manager


def numbers(counts, device):
    return tuple(counts[device][2:])


def test_every_way_to_access_a_device_is_counted():
    manager = manager_of()
    ram, device = manager.mmio_bus.find(0x8000), manager.mmio_bus.find(0x1000)
    with manager.count() as counts:
        manager.mmio_load(0x8000, 4)
        manager.mmio_store(0x8000, 8, 1)
        manager.mmio_read(0x8000, bytearray(100))
        manager.mmio_write(0x8000, bytes(3))
        manager.mmio_load_many(np.full(10, 0x8000, np.uint64), 2)
        GuestMemory(manager).read(0x8000, 16)
        MemoryView(manager)[0x8000] = 1
        handle = CallbackHandle(manager)
        load = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint)
        load(entry_point_addresses()["mmio_load"])(handle.address, 0x8000, 4)
        assert manager.mmio_load(0x1004, 2) == 0x1004
        manager.pio_out(0x42, 1, 3)
        assert numbers(counts, ram)[:2] == (15, 3)
    manager.mmio_load(0x8000, 4)
    assert numbers(counts, ram) == (15, 3, 4 + 100 + 20 + 16 + 4, 8 + 3 + 1)
    assert numbers(counts, device) == (1, 1, 2, 1)
    assert [row.name for row in counts] == ["ram", "regs"]
    assert len(counts) == 2
    assert repr(counts) == "<AccessCounts: 16 reads, 4 writes>"
    assert counts[Recorder()][2:] == (0, 0, 0, 0)


def test_nothing_of_the_map_changes():
    manager = manager_of()
    before, changes = manager.mapped_ranges(), []
    manager.on_change(lambda *change: changes.append(change))
    with manager.count():
        assert manager.mapped_ranges() == before
        assert manager.clone() == manager
        assert manager.mmio_bus.find(0x8000) is before[1].device
        assert memory_of(manager.mapped_ranges()[1]) is not None
        manager.unregister_device_io(RANGE)
        manager.register_device_io(before[0].device, RANGE, name="regs")
    assert manager.mapped_ranges() == before
    assert len(changes) == 2


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_accesses_are_what_they_are_without(byteorder):
    class Unsafe(DeviceIoMut):
        def load(self, base, offset, size):
            return 0x0102030405060708 >> 64 - 8 * size

    for device in (Registers(), Mutex(Unsafe()), Recorder(answer=b"\x01\x02\x03\x04\x05\x06\x07\x08"), Ram(0x100)):
        manager = IoManager(byteorder=byteorder)
        manager.register_device_io(Alias(device, 0), RANGE)
        loads = [manager.mmio_load(0x1010, size) for size in (1, 2, 4, 8)]
        with manager.count():
            assert [manager.mmio_load(0x1010, size) for size in (1, 2, 4, 8)] == loads


def test_an_exception_is_that_of_the_device():
    class Broken(DeviceIo):
        def load(self, base, offset, size):
            raise LookupError("broken")

    manager = IoManager()
    manager.register_device_io(Broken(), RANGE, name="broken")
    with manager.count() as counts, pytest.raises(LookupError) as raised:
        manager.mmio_load(0x1004, 4)
    [note] = raised.value.__notes__
    assert note.startswith("device access: MMIO read of 4 bytes at 0x1004, offset 0x4 of 'broken' <")
    assert [row.reads for row in counts] == [1]


def test_devices_that_come_and_go_are_counted():
    manager = IoManager()
    first, second = Ram(0x100), Ram(0x100)
    manager.register_device_io(first, RANGE)
    with manager.count() as counts:
        manager.mmio_load(0x1000, 1)
        with manager.begin_tx() as transaction:
            transaction.unregister_device_io(RANGE)
            transaction.register_device_io(second, RANGE)
        manager.mmio_load(0x1000, 1)
        manager.mmio_load(0x1000, 1)
    assert (counts[first].reads, counts[second].reads) == (1, 2)


def test_counts_may_be_nested_and_opened_again():
    manager = manager_of()
    ram = manager.mmio_bus.find(0x8000)
    with manager.count() as outer:
        manager.mmio_load(0x8000, 1)
        with manager.count() as inner:
            manager.mmio_load(0x8000, 1)
        manager.mmio_load(0x8000, 1)
    with inner:
        manager.mmio_load(0x8000, 1)
        with pytest.raises(TransactionError, match="open already"), inner:
            pass
    assert (outer[ram].reads, inner[ram].reads) == (3, 2)


def test_the_background_is_counted():
    manager = IoManager(background=Ram(0x100))
    with manager.count() as counts:
        manager.mmio_store(4, 1, 1)
        manager.register_device_io(Registers(), RANGE)
        assert manager.mmio_load(4, 1) == 1
    assert numbers(counts, manager.background) == (1, 1, 1, 1)


def test_copies_are_not_counted():
    manager = manager_of()
    ram = manager.mmio_bus.find(0x8000)
    with manager.count() as counts:
        clone, other = manager.clone(), copy.deepcopy(manager)
        clone.mmio_load(0x8000, 1)
        other.mmio_load(0x8000, 1)
    assert counts[ram].reads == 0


def test_a_transaction_is_in_the_way():
    manager = manager_of()
    with manager.begin_tx(), pytest.raises(TransactionError), manager.count():
        pass
    with manager.count() as counts:
        manager.mmio_load(0x8000, 1)
    assert len(counts) == 1


def test_an_exception_in_the_block_ends_the_count():
    manager = manager_of()
    with pytest.raises(KeyError), manager.count() as counts:
        raise KeyError
    manager.mmio_load(0x8000, 1)
    assert len(counts) == 0


def test_the_table():
    manager = manager_of()
    with manager.count() as counts:
        for _ in range(3):
            manager.mmio_load(0x8000, 8)
        manager.mmio_store(0x1000, 4, 1)
    lines = str(counts).splitlines()
    assert lines[0].split("  ")[-1] == "device"
    assert lines[1].split(maxsplit=4) == ["3", "0", "24", "0", "'ram' <Ram: 4 KiB>"]
    assert lines[2].split()[:4] == ["0", "1", "0", "4"]
    assert isinstance(next(iter(counts)), DeviceCounts)


def test_threads_are_counted():
    manager = manager_of()
    ram = manager.mmio_bus.find(0x8000)
    addresses = np.full(20_000, 0x8000, np.uint64)
    with manager.count() as counts:
        workers = [Worker(manager.mmio_load_many, addresses, 1) for _ in range(3)]
        for worker in workers:
            worker.result()
    assert counts[ram].reads == 60_000


def test_devices_are_let_go():
    manager = IoManager()
    device = Registers()
    manager.register_device_io(device, RANGE)
    with manager.count():
        manager.mmio_load(0x1000, 1)
    manager.unregister_device_io(RANGE)
    alive = weakref.ref(device)
    del device
    gc.collect()
    assert alive() is None
