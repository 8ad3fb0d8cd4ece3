"""Shared by several test files: the two address spaces as values, devices, threads that report, the docs' code."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest

from dbs_device import Bus, DeviceIo, IoAddress, IoManager, Mutex, PioAddress, Resource

DEADLOCK = 30.0  # seconds after which a test fails instead of hanging
ENOUGH_TO_GO_WRONG = 0.03  # seconds in which a thread that should wait would go wrong


@dataclass(frozen=True)
class Space:
    """One address space with its accesses, so that a test can be written once for both."""

    name: str
    last: int
    sizes: tuple[int, ...]
    range: Callable[[int, int], Resource]
    address_type: type[int]

    def bus(self, manager: IoManager) -> Bus:
        return manager.mmio_bus if self.name == "MMIO" else manager.pio_bus

    def read(self, manager: IoManager, address: int, data: Any) -> None:
        (manager.mmio_read if self.name == "MMIO" else manager.pio_read)(address, data)

    def write(self, manager: IoManager, address: int, data: Any) -> None:
        (manager.mmio_write if self.name == "MMIO" else manager.pio_write)(address, data)

    def load(self, manager: IoManager, address: int, size: int) -> int:
        return (manager.mmio_load if self.name == "MMIO" else manager.pio_in)(address, size)

    def store(self, manager: IoManager, address: int, size: int, value: int) -> None:
        (manager.mmio_store if self.name == "MMIO" else manager.pio_out)(address, size, value)

    def __repr__(self) -> str:
        return self.name


MMIO = Space("MMIO", 2**64 - 1, (1, 2, 4, 8), Resource.MmioAddressRange, IoAddress)
PIO = Space("PIO", 0xFFFF, (1, 2, 4), Resource.PioAddressRange, PioAddress)
SPACES = [MMIO, PIO]
each_space = pytest.mark.parametrize("space", SPACES, ids=repr)


@dataclass(frozen=True)
class Access:
    """One of the eight accesses, as a function of a manager, an address and a size in bytes.

    A read returns the bytes that it gave, lowest address first; a write writes `payload`. Integers are little-endian.
    """

    space: Space
    reads: bool
    by_integer: bool

    payload: ClassVar[bytes] = bytes(range(0xA1, 0xA9))

    def __call__(self, manager: IoManager, address: int, size: int = 1) -> bytes:
        if self.reads and self.by_integer:
            return self.space.load(manager, address, size).to_bytes(size, "little")
        if self.reads:
            buffer = bytearray(b"\x99" * size)
            self.space.read(manager, address, buffer)
            return bytes(buffer)
        if self.by_integer:
            self.space.store(manager, address, size, int.from_bytes(self.payload[:size], "little"))
        else:
            self.space.write(manager, address, self.payload[:size])
        return b""

    def __repr__(self) -> str:
        kind = {(True, True): "load", (True, False): "read", (False, True): "store", (False, False): "write"}
        return f"{self.space}-{kind[self.reads, self.by_integer]}"


ACCESSES = [
    Access(space, reads, by_integer) for space in SPACES for reads in (True, False) for by_integer in (False, True)
]
READS = [access for access in ACCESSES if access.reads]
WRITES = [access for access in ACCESSES if not access.reads]
each_access = pytest.mark.parametrize("access", ACCESSES, ids=repr)


class Recorder(DeviceIo):
    """Answers reads with the bytes of `answer`, and remembers each access as (handler, base, offset, data)."""

    def __init__(self, name: str = "recorder", answer: bytes = b"") -> None:
        self.name = name
        self.answer = answer
        self.calls: list[tuple[str, int, int, bytes]] = []

    def handle_read(self, handler: str, base: int, offset: int, data: memoryview) -> None:
        self.calls.append((handler, base, offset, bytes(data)))
        answer = self.answer[: len(data)]
        data[: len(answer)] = answer

    def read(self, base, offset, data):
        self.handle_read("read", base, offset, data)

    def write(self, base, offset, data):
        self.calls.append(("write", base, offset, bytes(data)))

    def pio_read(self, base, offset, data):
        self.handle_read("pio_read", base, offset, data)

    def pio_write(self, base, offset, data):
        self.calls.append(("pio_write", base, offset, bytes(data)))

    def __repr__(self) -> str:
        return f"<{self.name}>"


class EveryAccess(DeviceIo):
    """Sends all four handlers to one method, `handle(data)`, for tests that hold for each of them."""

    def handle(self, data: memoryview) -> None:
        raise NotImplementedError

    def read(self, base, offset, data):
        self.handle(data)

    def write(self, base, offset, data):
        self.handle(data)

    def pio_read(self, base, offset, data):
        self.handle(data)

    def pio_write(self, base, offset, data):
        self.handle(data)


def map_both(device: DeviceIo, base: int = 0x100, size: int = 0x100, **options: Any) -> IoManager:
    """Return a manager that maps a device to the same range of both spaces."""
    manager = IoManager(**options)
    manager.register_device_io(device, [space.range(base, size) for space in SPACES])
    return manager


def whole_map(manager: IoManager) -> list[tuple[int, int, object]]:
    """Return the ranges of both buses."""
    return [*manager.mmio_bus, *manager.pio_bus]


def ranges_of(bus: Bus) -> list[tuple[int, int]]:
    """Return (base, last) of each range of a bus."""
    return [(base, last) for base, last, _ in bus]


class Worker(threading.Thread):
    """A thread that starts at once; `result` waits for it and returns its result, or raises its exception."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.arguments = arguments
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function(*self.arguments)
        except BaseException as error:
            self.error = error
        finally:
            # Otherwise a finished thread would keep its arguments alive.
            del self.function, self.arguments

    def result(self) -> Any:
        self.join(DEADLOCK)
        assert not self.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.value


def on_another_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a thread of its own, and return its result or raise its exception."""
    return Worker(function, *arguments).result()


def exit_child(check: Callable[[], object]) -> None:
    """End a forked process: with status 0 if `check` passes, else 1 with a traceback on stderr."""
    status = 1
    try:
        check()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def assert_child_passes(child: int) -> None:
    """Wait for a forked process, which is killed if it hangs."""
    deadline = time.monotonic() + DEADLOCK
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("the child process hangs")
        time.sleep(0.001)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def check_in_child(check: Callable[[], object]) -> None:
    """Call a function in a forked process."""
    child = os.fork()
    if child == 0:
        exit_child(check)
    assert_child_passes(child)


class Interrupter:
    """Raises KeyboardInterrupt once, where CPython may call a signal handler: as one of the package's functions begins,
    or after it has called a C function. (Where a loop starts over, it may as well: the loops concerned contain calls.)
    """

    def __init__(self, countdown: int) -> None:
        self.countdown = countdown

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and frame.f_globals["__name__"].startswith("dbs_device"):
            self.countdown -= 1
            if self.countdown == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def interrupt_everywhere(operate: Callable[[], object], check: Callable[[], None]) -> None:
    """Interrupt an operation at each possible point, and call `check` each time."""
    for countdown in itertools.count(1):
        sys.setprofile(Interrupter(countdown))
        try:
            operate()
        except KeyboardInterrupt:
            check()
        else:
            break
        finally:
            sys.setprofile(None)
    assert countdown > 5


def _take(mutex: Mutex[Any]) -> None:
    with mutex.lock():
        pass


def assert_free(mutex: Mutex[Any]) -> None:
    """Check that another thread gets a Mutex."""
    on_another_thread(_take, mutex)


def assert_held(mutex: Mutex[Any]) -> Worker:
    """Check that another thread has to wait for a Mutex. Return that thread, which gets it as soon as it is free."""
    worker = Worker(_take, mutex)
    worker.join(ENOUGH_TO_GO_WRONG)
    assert worker.is_alive()
    return worker


def assert_unlocked(manager: IoManager) -> None:
    """Check that another thread and this one can change the manager."""
    on_another_thread(lambda: manager.begin_tx().cancel())  # first, since it cannot hang
    manager.begin_tx().cancel()


def fenced_blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a Markdown file in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
