"""Threads access the bus from C while others change the map: ``python stress.py [rounds]``, under a sanitizer.

Without one it is a test like any other (``tests/test_threads.py`` runs it): every access reaches the device that its
range had at that moment, and no device that is gone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import guests

from dbs_device import DeviceIo, DeviceIoMut, IoManager, Mutex, Resource
from dbs_device.memory import Ram
from dbs_device.registers import RW, W1C, Flag, Register, RegisterBank

TOKEN, BANK, PYTHON, MEMORY, PLUGGED = 0x1000, 0x2000, 0x3000, 0x4000, 0x8000  # addresses, as in guests.pyx
TOKEN_PORT, STRING_PORT = 0x100, 0x200


class Status(Register):
    READY = Flag(0, RW)
    DONE = Flag(1, W1C)


class Bank(RegisterBank, size=0x10):
    FIRST = Register(0x0)
    STATUS = Status(0x4)
    THIRD = Register(0x8)
    FOURTH = Register(0xC)


class Constant(DeviceIo):
    unhandled = "ignore"

    def load(self, base: int, offset: int, size: int) -> int:
        return 0x5A


class Counter(DeviceIoMut):
    unhandled = "ignore"
    count = 0

    def pio_in(self, base: int, offset: int, size: int) -> int:
        self.count += 1
        return 0

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        self.count += 1


def token_ranges() -> list[Any]:
    return [Resource.MmioAddressRange(TOKEN, 8), Resource.PioAddressRange(TOKEN_PORT, 4)]


class Stress:
    def __init__(self, rounds: int, python_every: int) -> None:
        self.rounds = rounds
        self.python_every = python_every
        self.errors: list[object] = []
        self.guests_run = threading.Event()
        self.bank = Bank()
        self.counter: Mutex[Any] = Mutex(Counter())
        self.manager = IoManager(open_bus=0xFF)
        self.manager.register_device_io(guests.Token(0, TOKEN), [Resource.MmioAddressRange(TOKEN, 8)])
        self.manager.register_device_io(guests.Token(0, TOKEN_PORT), [Resource.PioAddressRange(TOKEN_PORT, 4)])
        self.manager.register_device_io(self.bank, [Resource.MmioAddressRange(BANK, 0x10)])
        self.manager.register_device_io(Constant(), [Resource.MmioAddressRange(PYTHON, 0x10)])
        self.manager.register_device_io(Ram(0x20), [Resource.MmioAddressRange(MEMORY, 0x20)])
        self.manager.register_device_io(self.counter, [Resource.PioAddressRange(STRING_PORT, 4)])

    def replace_tokens(self) -> None:
        number = 0
        while self.guests_run.is_set():
            number += 1
            with self.manager.begin_tx() as transaction:
                transaction.unregister_device_io(token_ranges())
                transaction.register_device_io(guests.Token(number, TOKEN), token_ranges()[:1])
                transaction.register_device_io(guests.Token(number, TOKEN_PORT), token_ranges()[1:])

    def plug_and_unplug(self) -> None:
        number = 0
        while self.guests_run.is_set():
            number += 1
            base = PLUGGED + 0x100 * (number & 7)
            ranges = [Resource.MmioAddressRange(base, 0x10)]
            device = (guests.Token(1, base), Bank(), Constant())[number % 3]
            self.manager.register_device_io(device, ranges)
            self.manager.unregister_device_io(ranges)

    def access_from_python(self) -> None:
        while self.guests_run.is_set():
            assert self.manager.mmio_load(PYTHON, 4) == 0x5A
            moment = self.manager.clone()
            assert moment.mmio_load(TOKEN, 4) == moment.pio_in(TOKEN_PORT, 4)
            moment.format_map()
            self.bank.STATUS.DONE = True
            self.bank.FIRST.value = 7
            with self.counter.lock() as counter:
                counter.count += 1

    def guest(self, run: Callable[..., int]) -> None:
        errors = run(self.manager, self.rounds, self.python_every)
        if errors:
            self.errors.append(f"{run.__name__}: {errors} errors")

    def report(self, function: Callable[..., None], *arguments: Any) -> threading.Thread:
        def call() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self.errors.append(repr(error))

        thread = threading.Thread(target=call)
        thread.start()
        return thread

    def run(self) -> list[object]:
        """Return what went wrong."""
        self.guests_run.set()
        others = [
            self.report(self.replace_tokens),
            self.report(self.plug_and_unplug),
            self.report(self.access_from_python),
        ]
        runs = [guests.run_here, guests.run_here, guests.run_on_unknown_thread, guests.run_on_unknown_thread]
        for thread in [self.report(self.guest, run) for run in runs]:
            thread.join()
        self.guests_run.clear()
        for thread in others:
            thread.join()
        return self.errors


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    errors = Stress(rounds, python_every=64).run()
    print(f"{rounds} rounds of 4 guests: {errors or 'no errors'}")
    sys.exit(bool(errors))
