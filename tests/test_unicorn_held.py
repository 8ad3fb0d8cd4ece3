"""The range tables that the Unicorn bridge holds: replaced when the ranges change, and let go when they can be."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable

import pytest
from helpers import DEADLOCK, Recorder, Worker
from hypothesis import given
from hypothesis import strategies as st
from unicorn import UC_HOOK_CODE, UC_PROT_ALL
from unicorn_guest import (
    ANSWER,
    CODE,
    DEVICE,
    PAGE,
    PORT,
    SCRATCH,
    WORD,
    Calls,
    Guest,
    guest_with,
    load,
    mmio,
    port_in,
    port_out,
    ports,
    set_eax,
    store,
    write_code,
)

from dbs_device import DeviceIo, NativeDevice, NoDeviceError


def plug(guest: Guest) -> weakref.ref[DeviceIo]:
    """Register a device at `DEVICE` that nothing else refers to."""
    device = Recorder(answer=ANSWER)
    guest.manager.register_device_io(device, mmio(DEVICE))
    return weakref.ref(device)


def unplug(guest: Guest) -> None:
    guest.manager.unregister_device_io(mmio(DEVICE))


def test_a_device_that_was_unplugged_is_let_go_while_the_guest_stands_still() -> None:
    guest = Guest()
    device = plug(guest)
    assert guest.run(load(DEVICE)) == WORD
    unplug(guest)
    assert device() is None


def test_a_device_that_a_handler_has_unplugged_is_let_go_when_the_handler_is_left() -> None:
    guest = Guest()
    device = plug(guest)
    alive: list[bool] = []
    guest.manager.register_device_io(Calls(lambda: unplug(guest)), ports(PORT))
    guest.uc.hook_add(UC_HOOK_CODE, lambda *_: alive.append(device() is not None))
    guest.run(load(DEVICE), port_out(PORT), set_eax(7))
    assert alive == [True, True, True, False]  # load; mov dx; out; mov eax


def test_tables_that_a_nested_access_has_replaced_are_let_go_when_the_outer_one_is_left() -> None:
    guest = Guest()
    device = plug(guest)
    alive: list[bool] = []
    guest.manager.register_device_io(Recorder(answer=ANSWER), ports(PORT + 0x10))
    guest.uc.mem_write(SCRATCH, port_in(PORT + 0x10))

    def change_and_nest() -> None:
        unplug(guest)
        guest.bridge.emu_start(SCRATCH, SCRATCH + len(port_in(PORT + 0x10)))
        alive.append(device() is not None)

    guest.manager.register_device_io(Calls(change_and_nest), ports(PORT))
    guest.uc.hook_add(UC_HOOK_CODE, lambda *_: alive.append(device() is not None), begin=CODE, end=CODE + 0xFF)
    guest.run(load(DEVICE), port_out(PORT), set_eax(7))
    assert alive == [True, True, True, True, False]


def test_a_device_that_the_guest_of_a_detached_bridge_has_used_is_let_go() -> None:
    guest = Guest()
    device = plug(guest)
    guest.run(load(DEVICE))
    guest.bridge.detach()
    unplug(guest)
    assert device() is None


class Unplugging(DeviceIo):
    """Unplugs itself, replaces the tables by an access of its own, and may raise."""

    def __init__(self, guest: Guest, nested: Callable[[], object], error: Exception | None) -> None:
        self.guest = guest
        self.nested = nested
        self.error = error

    def read(self, base, offset, data):
        unplug(self.guest)
        error = self.error
        self.nested()
        gc.collect()
        data[:] = ANSWER[: len(data)]
        if error is not None:
            raise error


NESTED: dict[str, Callable[[Guest], object]] = {
    "mem_read": lambda guest: guest.uc.mem_read(DEVICE + PAGE, 4),
    "emu_start": lambda guest: guest.bridge.emu_start(SCRATCH, SCRATCH + len(load(DEVICE + PAGE))),
}


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED.keys())
@pytest.mark.parametrize("fails", [False, True])
def test_an_access_goes_on_with_the_tables_that_it_began_with(nested: Callable[[Guest], object], fails: bool) -> None:
    guest = Guest()
    guest.manager.register_device_io(other := Recorder(), mmio(DEVICE + PAGE))
    guest.uc.mem_write(SCRATCH, load(DEVICE + PAGE))
    error = LookupError("unplugged") if fails else None
    guest.manager.register_device_io(Unplugging(guest, lambda: nested(guest), error), mmio(DEVICE))
    if fails:
        with pytest.raises(LookupError) as caught:
            guest.run(load(DEVICE))
        assert "device access: MMIO read of 4 bytes at 0x8000" in caught.value.__notes__[0]
    else:
        assert guest.run(load(DEVICE)) == WORD
    assert len(other.calls) == 1
    assert guest.mapped == [(DEVICE + PAGE, DEVICE + 2 * PAGE - 1)]


class Nest(DeviceIo):
    """Plugs and unplugs at several depths of nested runs, as a list of booleans says."""

    def __init__(self, guest: Guest, changes: list[bool], alive: list[weakref.ref[DeviceIo]]) -> None:
        self.guest = guest
        self.changes = changes
        self.alive = alive

    def change(self) -> None:
        if any(base == DEVICE for base, _, _ in self.guest.manager.mmio_bus):
            unplug(self.guest)
        else:
            self.alive.append(plug(self.guest))

    def pio_in(self, base, offset, size):
        if self.changes:
            if self.changes.pop():
                self.change()
            self.guest.bridge.emu_start(SCRATCH, SCRATCH + len(port_in(PORT)))
            if self.changes and self.changes.pop():
                self.change()
            self.guest.uc.mem_read(DEVICE + PAGE, 1)
        return 0x55


@given(changes=st.lists(st.booleans(), max_size=24))
def test_changes_at_any_depth_leave_nothing_behind(changes: list[bool]) -> None:
    guest = Guest()
    alive: list[weakref.ref[DeviceIo]] = []
    guest.manager.register_device_io(NativeDevice(), mmio(DEVICE + PAGE))
    guest.manager.register_device_io(Nest(guest, changes, alive), ports(PORT))
    guest.uc.mem_write(SCRATCH, port_in(PORT))
    assert guest.run(set_eax(0), port_in(PORT)) == 0x55
    registered = [device for base, _, device in guest.manager.mmio_bus if base == DEVICE]
    assert [each() for each in alive if each() is not None] == registered


def test_memory_may_be_read_while_another_thread_changes_the_ranges() -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))

    def come_and_go() -> None:
        for _ in range(300):
            guest.manager.register_device_io(NativeDevice(), mmio(DEVICE + PAGE))
            guest.manager.unregister_device_io(mmio(DEVICE + PAGE))

    worker = Worker(come_and_go)
    reads = 0
    while worker.is_alive() or reads < 100:
        assert guest.uc.mem_read(DEVICE, 4) == ANSWER[:4]
        reads += 1
    worker.result()
    assert len(device.calls) == reads
    assert guest.mapped == [(DEVICE, DEVICE + PAGE - 1)]


def test_a_change_while_memory_is_read_is_synced_when_that_is_done() -> None:
    guest = Guest()
    device = Recorder(answer=ANSWER)
    guest.manager.register_device_io(
        Calls(lambda: guest.manager.register_device_io(device, mmio(DEVICE + PAGE))), mmio(DEVICE)
    )
    guest.uc.mem_read(DEVICE, 4)
    assert guest.mapped == [(DEVICE, DEVICE + 2 * PAGE - 1)]
    assert guest.uc.mem_read(DEVICE + PAGE, 4) == ANSWER[:4]


def test_a_failed_access_past_the_bridge_leaves_the_next_ones_as_fast_and_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", reports.append)
    guest = guest_with(Recorder(answer=ANSWER))
    end = write_code(guest.uc, port_in(0x200) + port_in(PORT))
    type(guest.uc).emu_start(guest.uc, CODE, end)
    assert len(reports) == 1
    with pytest.raises(NoDeviceError):
        guest.run(port_in(0x200))
    assert guest.run(load(DEVICE)) == WORD


def test_a_device_that_another_thread_has_unplugged_is_let_go_at_the_next_access() -> None:
    """The guest works in its own memory meanwhile."""
    guest = Guest()
    device = plug(guest)
    alive: list[bool] = []
    flags = (ctypes.c_uint8 * (2 * PAGE))()
    first = -ctypes.addressof(flags) % PAGE
    guest.uc.mem_map_ptr(0x50000, PAGE, UC_PROT_ALL, ctypes.addressof(flags) + first)

    def change() -> None:
        while not flags[first]:
            threading.Event().wait(0.001)
        unplug(guest)
        flags[first + 1] = 1

    guest.manager.register_device_io(Calls(lambda: alive.append(device() is not None)), ports(PORT))
    worker = Worker(change)
    wait = load(0x50001, 1) + bytes.fromhex("84c0 74f7")  # mov al, [0x50001]; test al, al; jz wait
    guest.run(load(DEVICE), set_eax(1), store(0x50000, 1), wait, port_out(PORT), timeout=int(DEADLOCK * 1e6))
    worker.result()
    assert alive == [False]
