"""Exceptions of devices under the Unicorn bridge: they stop the guest, and come out unchanged."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from helpers import DEADLOCK, Recorder, Worker, interrupt_everywhere, on_another_thread
from unicorn import UC_ERR_READ_UNMAPPED, UC_HOOK_CODE, Uc, UcError
from unicorn.x86_const import UC_X86_REG_EBX
from unicorn_guest import (
    CODE,
    DEVICE,
    LOOP_FOREVER,
    PAGE,
    PORT,
    SCRATCH,
    Calls,
    Guest,
    guest_with,
    load,
    load_8,
    mmio,
    port_in,
    port_out,
    ports,
    set_eax,
    store,
    store_8,
    write_code,
)

from dbs_device import DeviceIo, DeviceModelError, NoDeviceError


class DeviceFaultError(Exception):
    """Raised by the devices of these tests."""


class Failing(DeviceIo):
    """Raises an exception with each access while it has one, and counts the accesses."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error: BaseException | None = DeviceFaultError("broken") if error is None else error
        self.accesses = 0

    def raise_it(self) -> None:
        self.accesses += 1
        if self.error is not None:
            raise self.error

    def read(self, base, offset, data):
        self.raise_it()

    def write(self, base, offset, data):
        self.raise_it()

    pio_read = read
    pio_write = write


# Each is one access where Unicorn does not split it, and several otherwise.
ACCESSES = {
    "load": load(DEVICE),
    "store": store(DEVICE),
    "in": port_in(PORT, 4),
    "out": port_out(PORT),
    "8-byte load": load_8(DEVICE),
    "8-byte store": store_8(DEVICE),
    "unaligned load": load(DEVICE + 1),
    "unaligned store": store(DEVICE + 1),
    "string output": bytes.fromhex("be00100000 b903000000 66ba6000 f36e"),
    "string input": bytes.fromhex("bf00200000 b903000000 66ba6000 f36c"),
    "string store": bytes.fromhex("bf00800000 b903000000 f3ab"),
    "read and modify": bytes.fromhex("ff0500800000"),
}
each_access = pytest.mark.parametrize("code", ACCESSES.values(), ids=ACCESSES.keys())


@each_access
@pytest.mark.parametrize(
    "error", [DeviceFaultError("broken"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr
)
def test_an_exception_comes_out_unchanged_and_nothing_is_printed(
    code: bytes, error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    guest = guest_with(Failing(error))
    with pytest.raises(type(error)) as caught:
        guest.run(code)
    assert caught.value is error
    assert error.__context__ is None
    assert error.__cause__ is None
    assert "raise_it" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    error.__traceback__ = None
    assert capfd.readouterr() == ("", "")


@each_access
def test_no_device_is_called_after_the_first_exception(code: bytes) -> None:
    guest = guest_with(failing := Failing())
    guest.manager.register_device_io(other := Recorder(), mmio(DEVICE + 0x100) + ports(PORT + 0x10))
    with pytest.raises(DeviceFaultError):
        guest.run(code, load(DEVICE), store(DEVICE + 0x100), port_in(PORT + 0x10), port_out(PORT), LOOP_FOREVER)
    assert failing.accesses == 1
    assert other.calls == []


@each_access
def test_the_next_run_works(code: bytes) -> None:
    guest = guest_with(failing := Failing())
    with pytest.raises(DeviceFaultError):
        guest.run(code)
    failing.error = None
    failing.accesses = 0
    guest.run(code)
    assert failing.accesses >= 1


@each_access
def test_each_run_raises_its_own(code: bytes) -> None:
    guest = guest_with(failing := Failing())
    for message in ("one", "two", "three"):
        failing.error = DeviceFaultError(message)
        with pytest.raises(DeviceFaultError, match=message):
            guest.run(code)
    assert failing.accesses == 3


INCREMENT = b"\x43"  # inc ebx


@pytest.mark.parametrize("code", [load(DEVICE), store(DEVICE), load_8(DEVICE), store_8(DEVICE), load(DEVICE + 1)])
def test_an_instruction_that_accesses_mmio_is_repeated_when_the_guest_is_resumed(code: bytes) -> None:
    guest = guest_with(failing := Failing())
    with pytest.raises(DeviceFaultError):
        guest.run(INCREMENT, code, INCREMENT)
    assert guest.eip == CODE + len(INCREMENT)
    assert guest.uc.reg_read(UC_X86_REG_EBX) == 1
    assert failing.accesses == 1
    failing.error = None
    guest.bridge.emu_start(guest.eip, CODE + len(INCREMENT + code + INCREMENT))
    assert guest.uc.reg_read(UC_X86_REG_EBX) == 2
    assert failing.accesses == (2 if code in (load(DEVICE), store(DEVICE)) else 3)


@pytest.mark.parametrize("code", [port_in(PORT), port_out(PORT)])
def test_the_basic_block_of_in_and_out_is_executed_to_its_end(code: bytes) -> None:
    guest = guest_with(failing := Failing())
    with pytest.raises(DeviceFaultError):
        guest.run(code, INCREMENT, code, INCREMENT, LOOP_FOREVER)
    assert guest.eip == CODE + len(code + INCREMENT + code + INCREMENT)
    assert guest.uc.reg_read(UC_X86_REG_EBX) == 2
    assert failing.accesses == 1


def test_memory_that_the_guest_lacks_is_still_unicorns_error() -> None:
    guest = guest_with(Failing())
    with pytest.raises(UcError) as caught:
        guest.run(load(0x20000))
    assert caught.value.errno == UC_ERR_READ_UNMAPPED


def test_what_a_device_raises_comes_before_what_unicorn_makes_of_it() -> None:
    """The guest goes on for a little after it was told to stop."""
    guest = guest_with(Failing())
    with pytest.raises(DeviceFaultError) as caught:
        guest.run(load(DEVICE), load(0x20000), b"\x0f\x0b")
    assert caught.value.__context__ is None


def test_an_exception_of_a_users_hook_comes_out_as_before() -> None:
    guest = guest_with(Recorder())

    def fail(uc, address, size, user_data):
        raise DeviceFaultError("of the hook")

    guest.uc.hook_add(UC_HOOK_CODE, fail)
    with pytest.raises(DeviceFaultError, match="of the hook"):
        guest.run(load(DEVICE))


def test_an_unowned_address_stops_the_guest_too() -> None:
    guest = guest_with(device := Recorder())
    with pytest.raises(NoDeviceError, match=r"no device owns PIO address 0x99 \(1 byte\)"):
        guest.run(port_out(0x99), load(DEVICE), port_in(PORT), LOOP_FOREVER)
    assert device.calls == []


def test_uc_emu_start_itself_raises_it() -> None:
    """As when the emulator is run by code that knows nothing of the bridge."""
    guest = guest_with(Failing(error := DeviceFaultError("broken")))
    guest.uc.mem_write(CODE, port_in(PORT))
    for _ in range(2):
        with pytest.raises(DeviceFaultError) as caught:
            guest.uc.emu_start(CODE, until=CODE + len(port_in(PORT)))
        assert caught.value is error


def test_an_exception_comes_out_on_the_thread_of_the_guest() -> None:
    guest = guest_with(Failing())
    with pytest.raises(DeviceFaultError):
        on_another_thread(guest.run, load(DEVICE))
    assert guest.run(set_eax(7)) == 7


def test_an_exception_in_a_nested_run_comes_out_of_that_run() -> None:
    guest = guest_with(failing := Failing())
    guest.uc.mem_write(SCRATCH, load(DEVICE))
    caught = []

    def run_nested() -> None:
        try:
            guest.bridge.emu_start(SCRATCH, SCRATCH + len(load(DEVICE)))
        except DeviceFaultError as error:
            caught.append(error)

    guest.manager.register_device_io(Calls(run_nested), ports(PORT + 0x10))
    guest.run(port_in(PORT + 0x10))
    assert caught == [failing.error]


def test_an_exception_passes_through_a_nested_run() -> None:
    guest = guest_with(failing := Failing())
    guest.uc.mem_write(SCRATCH, load(DEVICE))
    guest.manager.register_device_io(
        Calls(lambda: guest.bridge.emu_start(SCRATCH, SCRATCH + len(load(DEVICE)))), ports(PORT + 0x10)
    )
    with pytest.raises(DeviceFaultError) as caught:
        guest.run(port_in(PORT + 0x10), port_in(PORT))
    assert caught.value is failing.error
    assert failing.accesses == 1


def test_of_several_exceptions_the_first_comes_out_and_the_others_are_forgotten() -> None:
    """A handler that has made another device fail, by an access of its own to the guest's memory, fails itself."""
    guest = guest_with(failing := Failing())

    def fail_too() -> None:
        guest.uc.mem_read(DEVICE, 4)
        raise DeviceFaultError("second")

    guest.manager.register_device_io(Calls(fail_too), ports(PORT + 0x10))
    with pytest.raises(DeviceFaultError) as caught:
        guest.run(port_in(PORT + 0x10))
    assert caught.value is failing.error
    assert failing.accesses == 1
    assert guest.run(set_eax(7)) == 7


def test_an_exception_is_freed_without_a_garbage_collection() -> None:
    """No cycle through the frame of `emu_start` keeps the device's frames alive."""
    of_the_handler: list[weakref.ref[Recorder]] = []

    def fail() -> None:
        local = Recorder()
        of_the_handler.append(weakref.ref(local))
        raise DeviceFaultError

    guest = guest_with(Calls(fail))
    gc.disable()
    try:
        with suppress(DeviceFaultError):
            guest.run(load(DEVICE))
        assert of_the_handler[0]() is None
    finally:
        gc.enable()


def test_an_exception_of_the_view_itself_comes_out_too() -> None:
    """A handler's wrong use of its buffer is an exception like any other."""

    class Overflowing(DeviceIo):
        def read(self, base, offset, data):
            data[:] = bytes(len(data) + 1)

    guest = Guest()
    guest.manager.register_device_io(Overflowing(), mmio(DEVICE))
    with pytest.raises(ValueError, match="different structures"):
        guest.run(load(DEVICE))


# -- accesses that are not the guest's


@pytest.mark.parametrize("access", [lambda uc: uc.mem_read(DEVICE, 4), lambda uc: uc.mem_write(DEVICE, b"1234")])
def test_an_access_from_outside_raises_where_it_is_made(access: Callable[[Uc], object]) -> None:
    guest = guest_with(failing := Failing())
    with pytest.raises(DeviceFaultError) as caught:
        access(guest.uc)
    assert caught.value is failing.error
    assert failing.accesses == 1
    assert guest.run(set_eax(7)) == 7
    failing.error = None
    access(guest.uc)
    guest.run(load(DEVICE))


def test_an_access_past_the_bridge_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes it cannot be made to raise: neither does the next run, whose accesses are served."""
    reports: list[sys.UnraisableHookArgs] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    guest = guest_with(failing := Failing())
    Uc.mem_read(guest.uc, DEVICE, 4)
    assert [report.exc_value for report in reports] == [failing.error]
    failing.error = None
    guest.run(load(DEVICE), set_eax(7))
    assert failing.accesses == 2
    assert guest.eax == 7


def test_a_handler_may_go_on_after_a_failed_access_of_its_own() -> None:
    guest = guest_with(failing := Failing())

    def access() -> None:
        with pytest.raises(DeviceFaultError):
            guest.uc.mem_read(DEVICE, 4)

    guest.manager.register_device_io(Calls(access), ports(PORT + 0x10))
    assert guest.run(port_in(PORT + 0x10), set_eax(7)) == 7
    assert failing.accesses == 1


# -- runs that are nested or interrupted


def test_endless_nesting_is_an_error() -> None:
    guest = Guest()
    code = load(DEVICE)

    def run_again() -> None:
        guest.bridge.emu_start(CODE, CODE + len(code))

    guest.manager.register_device_io(Calls(run_again), mmio(DEVICE))
    with pytest.raises(RecursionError, match=r"^emu_start is nested 32 deep: a handler of the guest runs it again\ndevice access"):
        guest.run(code)
    assert guest.run(set_eax(7)) == 7


@contextmanager
def ctrl_c_soon(uc: Uc) -> Iterator[None]:
    """Send SIGINT soon, and stop the guest late if that has not."""
    timers = [
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)),
        threading.Timer(DEADLOCK, uc.emu_stop),  # Unicorn's own timeouts cannot be nested
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    yield
    timers[1].cancel()


@pytest.mark.parametrize("nested", [False, True])
def test_ctrl_c_stops_a_running_guest(nested: bool) -> None:
    guest = guest_with(Failing())
    guest.uc.mem_write(SCRATCH, LOOP_FOREVER)
    handler = signal.getsignal(signal.SIGINT)

    def loop() -> None:
        guest.bridge.emu_start(SCRATCH, 0)

    guest.manager.register_device_io(Calls(loop), ports(PORT + 0x10))
    for _ in range(3):
        with ctrl_c_soon(guest.uc), pytest.raises(KeyboardInterrupt):
            guest.run(port_in(PORT + 0x10), LOOP_FOREVER) if nested else loop()
        assert guest.run(set_eax(7)) == 7
        assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):  # the handler of Python is installed again
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_ctrl_c_that_raises_nothing_stops_the_guest_too() -> None:
    guest = Guest()
    signals: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    try:
        with ctrl_c_soon(guest.uc):
            guest.run(LOOP_FOREVER)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert signals == [signal.SIGINT]
    assert guest.eip == CODE


def test_a_guest_on_another_thread_is_not_stopped_by_ctrl_c() -> None:
    is_running = threading.Event()
    guest = guest_with(Calls(is_running.set))
    mov_ecx, loop_here = b"\xb9" + (1 << 24).to_bytes(4, "little"), b"\xe2\xfe"
    worker = Worker(guest.run, port_in(PORT), mov_ecx, loop_here, set_eax(7))
    assert is_running.wait(DEADLOCK)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert worker.result() == 7


def test_an_interrupt_anywhere_leaves_the_bridge_in_order() -> None:
    device = Failing(DeviceFaultError())
    device.error = None
    guest = guest_with(device)
    write_code(guest.uc, load(DEVICE))

    def check() -> None:
        assert guest.bridge._bus.runs == 0
        guest.manager.register_device_io(DeviceIo(), mmio(DEVICE + 2 * PAGE))
        assert len(guest.mapped) == 2
        guest.manager.unregister_device_io(mmio(DEVICE + 2 * PAGE))
        assert guest.mapped == [(DEVICE, DEVICE + PAGE - 1)]

    interrupt_everywhere(lambda: guest.bridge.emu_start(CODE, CODE + len(load(DEVICE))), check)
    guest.bridge.detach()


def test_detaching_in_a_handler_is_refused() -> None:
    guest = Guest()
    guest.manager.register_device_io(Calls(lambda: guest.bridge.detach()), ports(PORT))
    with pytest.raises(DeviceModelError, match=r"\bdetach\b.*\brunning\b"):
        guest.run(port_in(PORT))
    assert guest.run(set_eax(7)) == 7


def test_detaching_on_another_thread_while_the_guest_runs_is_refused() -> None:
    guest = Guest()
    guest.manager.register_device_io(Calls(lambda: on_another_thread(guest.bridge.detach)), ports(PORT))
    with pytest.raises(DeviceModelError, match=r"\bdetach\b.*\brunning\b"):
        guest.run(port_in(PORT))
