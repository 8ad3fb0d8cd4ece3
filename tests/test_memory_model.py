"""A million random accesses over memory, adapters and devices equal those of a byte array."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dbs_device import DeviceIo, DeviceIoMut, IoManager, Mutex, Resource
from dbs_device.memory import AccessRule, Alias, GuestMemory, MemoryView, Mirror, PartialDecode, Ram, Rom


class IntegerDevice(DeviceIo):
    """Takes integers in the order of the bus."""

    def __init__(self, data, order):
        self.data, self.order = data, order

    def load(self, base, offset, size):
        return int.from_bytes(self.data[offset : offset + size], self.order)

    def store(self, base, offset, size, value):
        self.data[offset : offset + size] = value.to_bytes(size, self.order)


class BufferDevice(DeviceIoMut):
    def __init__(self, data):
        self.data = data

    def read(self, base, offset, data):
        data[:] = self.data[offset : offset + len(data)]

    def write(self, base, offset, data):
        self.data[offset : offset + len(data)] = data


class BigEndianDevice(IntegerDevice):
    """Takes integers in an order of its own."""

    byteorder = "big"


class Machine:
    """A map of which each byte is one of `contents`: that of an address a at `where[a]`."""

    def __init__(self, byteorder):
        self.contents = np.frombuffer(random.randbytes(0x8000), np.uint8).copy()
        self.is_rom = np.zeros(0x8000, bool)
        self.where = np.zeros(0x8000, np.intp)
        self.ranges = []
        # Under the ranges is memory too, which shows where there are none, from 0x7000 on.
        background = Ram(bytearray(self.contents))
        self.manager = IoManager(byteorder=byteorder, background=background)
        self.where[0x7000:] = np.arange(0x7000, 0x8000)
        self.ranges.append((0x7000, 0x1000))
        # Ranges that show one RAM.
        ram = Ram(bytearray(self.contents[:0x1000]))
        offsets = np.arange(0x800)
        self.map(0x0000, ram, np.arange(0x1000))
        self.map(0x1000, Alias(ram, 0x123), offsets + 0x123)
        self.map(0x1800, Mirror(ram, 0x2FF), offsets & 0x2FF)
        self.map(0x2000, AccessRule(Alias(ram, 0x400), {2, 8}, narrow="widen"), offsets + 0x400)
        self.map(0x2800, PartialDecode((Alias(Mirror(ram, 0xFFF), 0xC00), 0x2800, 0x2800)), offsets + 0xC00 & 0xFFF)
        # Devices with contents of their own.
        self.map(0x3000, IntegerDevice(bytearray(self.contents[0x3000:0x3800]), byteorder), offsets + 0x3000)
        self.map(0x3800, Mutex(BufferDevice(bytearray(self.contents[0x3800:0x4000]))), offsets + 0x3800)
        big = BigEndianDevice(bytearray(self.contents[0x4000:0x4800]), "big")
        self.map(0x4000, AccessRule(big, {4}, narrow="widen"), offsets + 0x4000)
        self.map(0x4800, Alias(Mirror(big, 0x3FF), 5), (offsets + 5 & 0x3FF) + 0x4000)
        integers = IntegerDevice(bytearray(self.contents[0x5000:0x5800]), byteorder)
        self.map(0x5000, AccessRule(integers, {1, 8}), offsets + 0x5000)
        self.map(0x5800, AccessRule(integers, {2}, unaligned="pass", narrow="widen"), offsets + 0x5000)
        self.map(0x6000, Rom(self.contents[0x6000:0x7000].tobytes()), np.arange(0x6000, 0x7000))
        self.is_rom[0x6000:0x7000] = True
        self.memory = GuestMemory(self.manager)
        self.view = MemoryView(self.manager, size=0x8000)

    def map(self, base, device, where):
        self.manager.register_device_io(device, [Resource.MmioAddressRange(base, len(where))])
        self.where[base : base + len(where)] = where
        self.ranges.append((base, len(where)))

    def read(self, address, size):
        return self.contents[self.where[address : address + size]].tobytes()

    def write(self, address, data):
        places = self.where[address : address + len(data)]
        if self.is_rom[places].any():
            data = np.where(self.is_rom[places], self.contents[places], np.frombuffer(data, np.uint8)).tobytes()
        self.contents[places] = np.frombuffer(data, np.uint8)


def run(byteorder, count):
    """Make random accesses, each of them in a range, and transfers across ranges."""
    seed = random.getrandbits(32)
    generator = random.Random(seed)
    machine = Machine(byteorder)
    manager, memory, view, ranges = machine.manager, machine.memory, machine.view, machine.ranges
    for step in range(count):
        what = f"seed {seed}, step {step}"
        base, length = ranges[generator.randrange(len(ranges))]
        kind = generator.randrange(16)
        if kind < 12:
            size = 1 << (kind & 3)
            address = base + generator.randrange(length - size + 1)
            if kind < 6:
                value = manager.mmio_load(address, size).to_bytes(size, byteorder)
                assert value == machine.read(address, size), what
            else:
                data = generator.randbytes(size)
                manager.mmio_store(address, size, int.from_bytes(data, byteorder))
                machine.write(address, data)
            continue
        size = generator.randrange(1, 40)
        address = base + generator.randrange(length - size + 1) if kind < 14 else generator.randrange(32768 - size)
        if kind == 12:
            buffer = bytearray(size)
            manager.mmio_read(address, buffer)
            assert buffer == machine.read(address, size), what
        elif kind == 13:
            data = generator.randbytes(size)
            manager.mmio_write(address, data)
            machine.write(address, data)
        elif kind == 14:
            data = memory.read(address, size) if size & 1 else bytes(view[address : address + size])
            assert data == machine.read(address, size), what
        else:
            data = generator.randbytes(size)
            if size & 1:
                memory.write(address, data)
            else:
                view[address : address + size] = data
            machine.write(address, data)
    assert memory.read(0, 0x8000) == machine.read(0, 0x8000), f"seed {seed}"


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_random_accesses_equal_those_of_a_byte_array(byteorder):
    run(byteorder, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_a_million_random_accesses_equal_those_of_a_byte_array(byteorder):
    run(byteorder, 500_000)
