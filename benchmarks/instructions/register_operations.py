"""The operations on register banks whose instructions are counted, beside the same device written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbs_device import DeviceIo, IoManager, NativeDevice, Resource
from dbs_device.registers import RO, W1C, Bits, Flag, Register, RegisterBank, on_change, on_read, on_write

ACCESSES = 64
WARM_UP = 100
BASE = 0x1000
STATUS, DATA, CONTROL, SCRATCH = 0x0, 0x4, 0x8, 0xC


class Status(Register):
    READY = Flag(0, RO, reset=True)
    ERROR = Flag(1, W1C)
    OVERRUN = Flag(2, W1C)


class Data(Register, access=RO):
    DATA = Bits(0, 9)


class Control(Register):
    ENABLE = Flag(0)


class Port(RegisterBank, size=0x400):
    """A serial port, as small as one can be: it has a byte to be read, and takes bytes."""

    __slots__ = ("sent",)

    SR = Status(STATUS)
    DR = Data(DATA)
    CR = Control(CONTROL)
    SCRATCH = Register(SCRATCH)

    def __init__(self) -> None:
        self.sent = 0

    @on_read(DR)
    def pull(self, _value: int) -> int:
        return 0x5A

    @on_write(DR)
    def push(self, new: int, _old: int) -> None:
        self.sent = new

    @on_change(CR.ENABLE)
    def enable(self, new: int, _old: int) -> None:
        pass


class PortByHand(DeviceIo):
    """The same on buffers, in Python."""

    __slots__ = ("control", "scratch", "sent", "status")

    def __init__(self) -> None:
        self.status, self.control, self.scratch, self.sent = 1, 0, 0, 0

    def read(self, base, offset, data):
        value = 0
        if offset == STATUS:
            value = self.status
        elif offset == DATA:
            value = 0x5A
        elif offset == CONTROL:
            value = self.control
        elif offset == SCRATCH:
            value = self.scratch
        data[:] = value.to_bytes(4, "little")[: len(data)]

    def write(self, base, offset, data):
        value = int.from_bytes(data, "little")
        if offset == STATUS:
            self.status &= ~(value & 6)
        elif offset == DATA:
            self.sent = value & 0x1FF
        elif offset == CONTROL:
            self.control = value
        elif offset == SCRATCH:
            self.scratch = value


def manager_of(device: DeviceIo) -> IoManager:
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(BASE, 0x400)])
    return manager


def operations(counted: Any) -> dict[str, tuple[Callable[[], None], int]]:
    """Return by name: a function that counts so many operations, and how many."""
    bank, by_hand, idle = manager_of(Port()), manager_of(PortByHand()), manager_of(NativeDevice())

    def access(made: Any, offset: int) -> tuple[Callable[[], None], int]:
        return lambda: made.count([BASE + offset] * ACCESSES, WARM_UP), ACCESSES

    load, store = counted.held_load, counted.held_store
    return {
        "C: load, idle native device": access(load(idle.tables()), SCRATCH),
        "C: load, register RW": access(load(bank.tables()), SCRATCH),
        "C: store, idle native device": access(store(idle.tables()), SCRATCH),
        "C: store, register RW": access(store(bank.tables()), SCRATCH),
        "C: store, register with W1C flags": access(store(bank.tables()), STATUS),
        "C: store, on_change of another field": access(store(bank.tables()), CONTROL),
        "C: load, on_read": access(load(bank.tables()), DATA),
        "C: store, on_write": access(store(bank.tables()), DATA),
        "C: load, the same device on buffers": access(load(by_hand.tables()), DATA),
        "C: store, the same device on buffers": access(store(by_hand.tables()), DATA),
    }
