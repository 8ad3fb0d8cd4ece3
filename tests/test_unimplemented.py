"""Placeholders for what is not there yet, and the report of what was accessed."""

from __future__ import annotations

import logging
import pickle

import pytest

from dbs_device import InvalidRangeError, IoManager, Mutex, Resource
from dbs_device.memory import Unimplemented, unimplemented_report
from dbs_device.registers import UNIMPLEMENTED, Register, RegisterBank


def manager_of(*devices, **options):
    manager = IoManager(**options)
    for number, device in enumerate(devices):
        manager.register_device_io(device, [Resource.MmioAddressRange(0x1000 * (number + 1), device.size)])
    return manager


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_reads_give_the_value(byteorder):
    ones = manager_of(Unimplemented("DMA", 0x100, reads=-1), byteorder=byteorder)
    assert ones.mmio_load(0x1004, 4) == 0xFFFF_FFFF
    assert ones.mmio_load(0x1004, 1) == 0xFF
    by_offset = manager_of(Unimplemented("RCC", 0x100, reads={4: 0x1234_5678}), byteorder=byteorder)
    assert by_offset.mmio_load(0x1004, 4) == 0x1234_5678
    assert by_offset.mmio_load(0x1004, 2) == 0x5678
    assert by_offset.mmio_load(0x1008, 4) == 0


def test_ports_too():
    manager = IoManager()
    manager.register_device_io(Unimplemented("post", 1, reads=0xA5), [Resource.PioAddressRange(0x80, 1)])
    manager.pio_out(0x80, 1, 0x42)
    assert manager.pio_in(0x80, 1) == 0xA5
    assert "port 0x80  post + 0x0" in unimplemented_report(manager)


def test_the_first_use_of_an_offset_is_logged(caplog):
    manager = manager_of(Unimplemented("DMA", 0x100))
    with caplog.at_level(logging.WARNING, "dbs_device"):
        for _ in range(3):
            manager.mmio_load(0x1010, 4)
            manager.mmio_store(0x1010, 2, 0xCAFE)
    assert [record.getMessage() for record in caplog.records] == [
        "DMA is not implemented: read of 4 bytes at offset 0x10",
        "DMA is not implemented: write of 2 bytes at offset 0x10, value 0xcafe",
    ]


def test_the_memory_for_it_is_bounded(caplog):
    device = Unimplemented("all", 0x10000)
    manager = manager_of(device)
    with caplog.at_level(logging.CRITICAL, "dbs_device"):
        for offset in range(5000):
            manager.mmio_load(0x1000 + offset, 1)
    assert len(device.accesses()) == 4096
    assert device.accesses()[5] == (5, 1, 0, None)


class Bank(RegisterBank, size=0x10):
    CR = Register(0x0)
    TEST = Register(0x4, access=UNIMPLEMENTED)


def test_the_report_is_sorted_by_use():
    first, second = Unimplemented("DMA", 0x10), Unimplemented("RCC", 0x10)
    manager = manager_of(first, second)
    manager.register_device_io(Bank(), [Resource.MmioAddressRange(0x8000, 0x10)], name="uart0")
    assert unimplemented_report(manager) == "nothing that is not implemented was accessed"
    for _ in range(10):
        manager.mmio_load(0x2004, 4)
    manager.mmio_store(0x1008, 4, 5)
    manager.mmio_store(0x8004, 4, 1)
    manager.mmio_load(0x8004, 4)
    lines = [line.split() for line in unimplemented_report(manager).splitlines()]
    assert lines[0] == ["reads", "writes", "written", "address", "register"]
    assert lines[1] == ["10", "0", "0x2004", "RCC", "+", "0x4"]
    assert lines[2] == ["2", "uart0.TEST"]
    assert lines[3] == ["0", "1", "0x5", "0x1008", "DMA", "+", "0x8"]


def test_a_device_of_several_ranges_is_reported_once():
    device = Unimplemented("DMA", 0x10)
    manager = manager_of(device)
    manager.register_device_io(device, [Resource.MmioAddressRange(0x9000, 0x10)])
    manager.mmio_load(0x9004, 4)
    assert unimplemented_report(manager).count("DMA") == 1


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((5, 0x10), {}, TypeError),
        (("DMA", "16"), {}, TypeError),
        (("DMA", 0), {}, InvalidRangeError),
        (("DMA", -4), {}, InvalidRangeError),
        (("DMA", 4), {"reads": "ones"}, TypeError),
        (("DMA", 4), {"reads": {0: None}}, TypeError),
    ],
)
def test_what_it_cannot_be_made_of(arguments, options, error):
    with pytest.raises(error):
        Unimplemented(*arguments, **options)


def test_copies_and_state():
    device = Unimplemented("DMA", 0x10, reads={4: 1})
    other = pickle.loads(pickle.dumps(device))
    assert (other.name, other.size, other.load(0, 4, 4)) == ("DMA", 0x10, 1)
    assert pickle.loads(pickle.dumps(Unimplemented("X", 4, reads=7))).load(0, 0, 1) == 7
    assert repr(other) == "<Unimplemented DMA>"
    other.load_state(device.save_state())
    assert device.accesses() == []
    with pytest.raises(TypeError):
        Mutex(device)
