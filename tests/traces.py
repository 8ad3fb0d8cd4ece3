"""Devices and traces for the tests of recording, of files, and of replays."""

from __future__ import annotations

import numpy as np

from dbs_device import DeviceIo, DeviceResources, IoManager, Resource
from dbs_device.trace import ACCESS_DTYPE, Space, Trace, TraceRange

RAM_BASE, RAM_SIZE = 0x1000, 0x100
PORT_BASE, PORT_COUNT = 0x3F8, 8


class Memory(DeviceIo):
    """Remembers what is written to it, on both buses."""

    def __init__(self, size: int = RAM_SIZE + 16) -> None:
        self.contents = bytearray(size)

    def read(self, base, offset, data):
        data[:] = self.contents[offset : offset + len(data)]

    def write(self, base, offset, data):
        self.contents[offset : offset + len(data)] = data

    pio_read, pio_write = read, write


class Scratch(Memory):
    """Another type, to be told apart by name."""


class Clock(DeviceIo):
    """Gives another value at each read."""

    ticks = 0

    def read(self, base, offset, data):
        self.ticks += 1
        data[0] = self.ticks


class Failing(DeviceIo):
    def read(self, base, offset, data):
        raise OSError("no medium")

    write = pio_read = pio_write = read


def make_manager(cls=IoManager, **options):
    manager = cls(**options)
    manager.register_device_io(Memory(), DeviceResources([Resource.MmioAddressRange(RAM_BASE, RAM_SIZE)]))
    manager.register_device_io(Scratch(), DeviceResources([Resource.PioAddressRange(PORT_BASE, PORT_COUNT)]))
    return manager


def rows(trace):
    """Return the accesses without their times."""
    return [access[1:] for access in trace]


def make_trace(*accesses, ranges=()):
    """Make a trace of (space, write, addr, size, value), one nanosecond apart."""
    return Trace(np.array([(t, *access) for t, access in enumerate(accesses)], dtype=ACCESS_DTYPE), ranges)


MAP = (TraceRange(Space.MMIO, 0x1000, 0x10FF, "ram"), TraceRange(Space.PIO, 0x3F8, 0x3FF, "com1"))
EXAMPLE = make_trace(
    (0, 1, 0x3F8, 1, 0x41),
    (0, 0, 0x3FD, 1, 0x60),
    (1, 1, 0x1000, 8, 2**64 - 1),
    (1, 0, 0x10FF, 4, 7),
    (0, 0, 0x80, 2, 0xFFFF),
    ranges=MAP,
)
LONG_EXAMPLE = Trace(
    np.array([(0, 1, 1, 0x1000, 12, 4), (1, 0, 0, 0x3F8, 300, 0)], dtype=ACCESS_DTYPE), MAP, bytes(range(150)) * 2
)
