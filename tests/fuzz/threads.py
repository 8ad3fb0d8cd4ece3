"""Threads that access a bus while another one changes it: what they read is of one map, and of one that was current.

Runs of a case differ, since threads do. A finding is a broken invariant.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dbs_device import CallbackHandle, DeviceIo, DeviceIoMut, IoManager, Mutex, Resource
from dbs_device.memory import GuestMemory, Ram

from .bus_accesses import FOREIGN, FUNCTIONS
from .harness import Run
from .native import compiled

FIRST, SECOND, RAM, PORT = 0x1000, 0x2000, 0x3000, 0x40
RAM_SIZE = 0x100
READS = 150  # of each thread in a case


class Numbered:
    """Gives the number of the map that it is in."""

    unhandled = "ignore"

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, base: int, offset: int, size: int) -> int:
        return self.number

    def pio_in(self, base: int, offset: int, size: int) -> int:
        return self.number


class Integer(Numbered, DeviceIo):
    pass


class Locked(Numbered, DeviceIoMut):
    pass


class Buffer(DeviceIo):
    unhandled = "ignore"

    def __init__(self, number: int) -> None:
        self.number = number

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = self.number.to_bytes(4, "little") * (len(data) // 4)

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = self.number.to_bytes(4, "little")


def new_locked(number: int) -> Any:
    return Mutex(Locked(number))


def new_ram(number: int) -> Ram:
    return Ram(bytearray(number.to_bytes(4, "little") * (RAM_SIZE // 4)))


class Machine:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.manager = IoManager()
        self.begun = self.committed = 0  # numbers of maps
        self.errors: list[str] = []
        self.done = threading.Event()
        self.make: Callable[[int], Any] = run.random.choice([Integer, Buffer, new_locked, new_ram])
        self.ranges = [
            Resource.MmioAddressRange(FIRST, 16),
            Resource.MmioAddressRange(SECOND, 16),
            Resource.PioAddressRange(PORT, 16),
        ]
        self.ram = [Resource.MemAddressRange(RAM, RAM_SIZE)]
        with self.manager.begin_tx() as transaction:
            self.plug(transaction, 0)

    def plug(self, transaction: Any, number: int) -> None:
        for each in self.ranges:
            transaction.register_device_io(self.make(number), [each])
        transaction.register_device_io(new_ram(number), self.ram)

    def replace(self) -> None:
        while not self.done.is_set():
            number = self.begun = self.begun + 1
            with self.manager.begin_tx() as transaction:
                transaction.unregister_device_io([*self.ranges, *self.ram])
                self.plug(transaction, number)
            self.committed = number

    # -- readers, each of which returns the numbers that it has read, oldest first

    def loads(self) -> list[int]:
        return [self.manager.mmio_load(FIRST, 4), self.manager.pio_in(PORT, 4), self.manager.mmio_load(SECOND, 4)]

    def one_map(self) -> list[int]:
        moment = self.manager.clone()
        numbers = [moment.mmio_load(FIRST, 4), moment.mmio_load(SECOND, 4), moment.pio_in(PORT, 4)]
        assert len(set(numbers)) == 1, f"one map has {numbers}"
        return numbers

    def buffer(self) -> list[int]:
        data = bytearray(4)
        self.manager.mmio_read(FIRST, data)
        return [int.from_bytes(data, "little")]

    def batch(self) -> list[int]:
        return self.manager.mmio_load_many(np.array([FIRST, SECOND] * 8, np.uint64), 4).tolist()

    def string(self) -> list[int]:
        data = bytearray(4 * 16)
        self.manager.pio_in_string(PORT, 4, data)
        return np.frombuffer(data, "<u4").tolist()

    def dma(self) -> list[int]:
        numbers = np.frombuffer(GuestMemory(self.manager).read(RAM, RAM_SIZE), "<u4").tolist()
        assert len(set(numbers)) == 1, f"one memory has {numbers}"
        return numbers[:1]

    def by_pointer(self) -> list[int]:
        handle = CallbackHandle(self.manager)
        library = compiled(FOREIGN)
        if library is None:
            value = FUNCTIONS["mmio_load"](handle.address, FIRST, 4)
        else:
            library.on_new_thread.restype = ctypes.c_uint64
            function = ctypes.cast(FUNCTIONS["mmio_load"], ctypes.c_void_p)
            arguments = (
                ctypes.c_void_p(handle.address),
                0,
                ctypes.c_uint64(FIRST),
                ctypes.c_uint(4),
                ctypes.c_uint64(0),
            )
            value = library.on_new_thread(function, *arguments)
        error = handle.pop_exception()
        if error is not None:
            raise error
        return [value]

    def look(self) -> list[int]:
        for _, _, device in self.manager.mmio_bus:
            assert device is not None
        self.manager.format_map()
        return []

    def read(self, kinds: list[Callable[[], list[int]]]) -> None:
        try:
            for kind in kinds:
                lowest = self.committed
                numbers = kind()
                highest = self.begun
                assert numbers == sorted(numbers), f"{kind.__name__}: {numbers} go back"
                assert all(lowest <= number <= highest for number in numbers), (
                    f"{kind.__name__}: {numbers} are not of {lowest}..{highest}"
                )
        except BaseException as error:
            self.errors.append(repr(error))


@contextmanager
def impatience() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def play(run: Run) -> None:
    machine = Machine(run)
    readers = [machine.loads, machine.one_map, machine.buffer, machine.batch, machine.string, machine.dma]
    readers += [machine.by_pointer, machine.look]
    plans = [run.random.choices(readers, k=READS) for _ in range(3)]
    run.step("threads", machine.make, count=READS * len(plans))
    with impatience():
        changer = threading.Thread(target=machine.replace, daemon=True)
        threads = [threading.Thread(target=machine.read, args=(plan,), daemon=True) for plan in plans]
        for thread in [changer, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        machine.done.set()
        changer.join()
    assert not machine.errors, machine.errors
