"""Ranges that change under a guest: before it runs, by a handler while it runs, and by another thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import DEADLOCK, Recorder, Worker, on_another_thread
from hypothesis import given
from hypothesis import strategies as st
from unicorn import UC_ERR_READ_UNMAPPED, UC_ERR_WRITE_UNMAPPED, UC_PROT_ALL, UcError
from unicorn_guest import (
    ANSWER,
    DEVICE,
    PAGE,
    PORT,
    WORD,
    Calls,
    Guest,
    accesses_of,
    guest_with,
    load,
    load_8,
    mmio,
    port_in,
    port_out,
    ports,
    set_eax,
    store,
)

from dbs_device import DeviceOverlapError, GuestMemoryError, IoManager, NoDeviceError

SWITCH = 0x500  # the port whose device makes the change

Change = Callable[[Guest], Any]


def by_the_host(guest: Guest, change: Change, *rest: bytes) -> int:
    """Make a change while the guest stands still, then run it."""
    change(guest)
    return guest.run(*rest)


def by_a_port_handler(guest: Guest, change: Change, *rest: bytes) -> int:
    """Make a change in the handler of an OUT, after which the guest goes on."""
    guest.manager.register_device_io(Calls(lambda: change(guest)), ports(SWITCH, 1))
    return guest.run(port_out(SWITCH), *rest)


def by_an_mmio_handler(guest: Guest, change: Change, *rest: bytes) -> int:
    """Make a change in the handler of a load, after which the guest goes on."""
    guest.manager.register_device_io(Calls(lambda: change(guest)), mmio(0x30000, 4))
    return guest.run(load(0x30000), *rest)


def by_another_thread(guest: Guest, change: Change, *rest: bytes) -> int:
    """Make a change on another thread while the guest waits in a handler, after which it goes on."""
    guest.manager.register_device_io(Calls(lambda: on_another_thread(change, guest)), ports(SWITCH, 1))
    return guest.run(port_out(SWITCH), *rest)


WAYS = [by_the_host, by_a_port_handler, by_an_mmio_handler, by_another_thread]
WAYS_WHILE_RUNNING = WAYS[1:]
each_way = pytest.mark.parametrize("way", WAYS)
each_way_while_running = pytest.mark.parametrize("way", WAYS_WHILE_RUNNING)


def pages(*numbers: int) -> list[tuple[int, int]]:
    """Return the runs that pages starting at `DEVICE` make, and the page of `by_an_mmio_handler`'s device."""
    runs: list[tuple[int, int]] = []
    for first in sorted(DEVICE + number * PAGE for number in numbers):
        if runs and runs[-1][1] == first - 1:
            runs[-1] = (runs[-1][0], first + PAGE - 1)
        else:
            runs.append((first, first + PAGE - 1))
    return runs


def mapped_pages(guest: Guest) -> list[tuple[int, int]]:
    return [run for run in guest.mapped if run[0] != 0x30000]


# -- added, removed, moved


@each_way
def test_a_range_in_a_new_page_is_used_at_once(way: Callable[..., int]) -> None:
    guest, device = Guest(), Recorder(answer=ANSWER)
    assert way(guest, lambda g: g.manager.register_device_io(device, mmio(DEVICE)), load(DEVICE + 8)) == WORD
    assert accesses_of(device) == [(8, 4)]
    assert mapped_pages(guest) == pages(0)


@each_way
def test_a_store_to_a_new_page_reaches_its_device(way: Callable[..., int]) -> None:
    guest, device = Guest(), Recorder()
    way(guest, lambda g: g.manager.register_device_io(device, mmio(DEVICE)), set_eax(0x11), store(DEVICE, 1))
    assert accesses_of(device) == [(0, b"\x11")]


@each_way
def test_a_range_in_a_page_that_is_mapped_is_used_at_once(way: Callable[..., int]) -> None:
    guest = guest_with(first := Recorder("first"))
    second = Recorder("second", answer=ANSWER)
    assert (
        way(guest, lambda g: g.manager.register_device_io(second, mmio(DEVICE + 0x800)), load(DEVICE + 0x800)) == WORD
    )
    assert first.calls == []
    assert mapped_pages(guest) == pages(0)


@each_way
def test_ports_are_used_at_once_and_gone_at_once(way: Callable[..., int]) -> None:
    guest, device = Guest(), Recorder(answer=ANSWER)
    assert way(guest, lambda g: g.manager.register_device_io(device, ports(PORT)), port_in(PORT, 4)) == WORD
    with pytest.raises(NoDeviceError, match="PIO address 0x60"):
        by_the_host(guest, lambda g: g.manager.unregister_device_io(ports(PORT)), port_in(PORT, 4))


@each_way
@pytest.mark.parametrize(
    ("code", "errno"), [(load(DEVICE), UC_ERR_READ_UNMAPPED), (store(DEVICE), UC_ERR_WRITE_UNMAPPED)]
)
def test_the_page_of_a_removed_range_is_unmapped(way: Callable[..., int], code: bytes, errno: int) -> None:
    guest = guest_with(device := Recorder())
    with pytest.raises(UcError) as caught:
        way(guest, lambda g: g.manager.unregister_device_io(mmio(DEVICE)), code)
    assert caught.value.errno == errno
    assert device.calls == []
    assert mapped_pages(guest) == []


@each_way
def test_a_removed_range_leaves_the_others_of_its_page(way: Callable[..., int]) -> None:
    guest = guest_with(Recorder())
    stays = Recorder("stays", answer=ANSWER)
    guest.manager.register_device_io(stays, mmio(DEVICE + 0x800))
    with pytest.raises(NoDeviceError, match="MMIO address 0x8000"):
        way(guest, lambda g: g.manager.unregister_device_io(mmio(DEVICE)), load(DEVICE + 0x800), load(DEVICE))
    assert accesses_of(stays) == [(0, 4)]
    assert mapped_pages(guest) == pages(0)


@each_way
def test_a_range_moves_as_a_pci_bar_does(way: Callable[..., int]) -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))

    def move(guest: Guest) -> None:
        with guest.manager.begin_tx() as tx:
            tx.unregister_device_io(mmio(DEVICE))
            tx.register_device_io(device, mmio(DEVICE + 4 * PAGE))

    assert way(guest, move, load(DEVICE + 4 * PAGE + 0x10)) == WORD
    assert device.calls == [("read", DEVICE + 4 * PAGE, 0x10, bytes(4))]
    assert mapped_pages(guest) == pages(4)
    with pytest.raises(UcError):
        guest.run(load(DEVICE))


@each_way
def test_a_run_of_pages_grows_and_shrinks_at_both_ends(way: Callable[..., int]) -> None:
    guest = Guest()
    device = Recorder(answer=ANSWER)
    guest.manager.register_device_io(device, mmio(DEVICE + 2 * PAGE))

    def grow(guest: Guest) -> None:
        guest.manager.register_device_io(device, mmio(DEVICE + PAGE) + mmio(DEVICE + 3 * PAGE))

    assert way(guest, grow, *(load(DEVICE + number * PAGE) for number in (1, 2, 3))) == WORD
    assert mapped_pages(guest) == pages(1, 2, 3)
    assert [base for _, base, _, _ in device.calls] == [DEVICE + number * PAGE for number in (1, 2, 3)]
    guest.manager.unregister_device_io(mmio(DEVICE + PAGE))
    assert mapped_pages(guest) == pages(2, 3)
    assert guest.run(load(DEVICE + 3 * PAGE)) == WORD
    guest.manager.unregister_device_io(mmio(DEVICE + 3 * PAGE))
    assert guest.run(load(DEVICE + 2 * PAGE)) == WORD
    assert mapped_pages(guest) == pages(2)


@each_way
def test_a_range_fills_the_gap_between_two_runs(way: Callable[..., int]) -> None:
    guest = Guest()
    device = Recorder(answer=ANSWER)
    guest.manager.register_device_io(device, mmio(DEVICE) + mmio(DEVICE + 2 * PAGE))
    way(guest, lambda g: g.manager.register_device_io(device, mmio(DEVICE + PAGE, PAGE)), load(DEVICE + 2 * PAGE - 2))
    assert [(base, offset) for _, base, offset, _ in device.calls] == [(DEVICE + PAGE, 0xFFC), (DEVICE + 2 * PAGE, 0)]
    assert mapped_pages(guest) == pages(0, 1, 2)


@each_way
def test_the_middle_of_a_run_may_go(way: Callable[..., int]) -> None:
    guest = Guest()
    device = Recorder(answer=ANSWER)
    guest.manager.register_device_io(device, [each for number in range(3) for each in mmio(DEVICE + number * PAGE)])
    way(guest, lambda g: g.manager.unregister_device_io(mmio(DEVICE + PAGE)), load(DEVICE), load(DEVICE + 2 * PAGE))
    assert [base for _, base, _, _ in device.calls] == [DEVICE, DEVICE + 2 * PAGE]
    assert mapped_pages(guest) == pages(0, 2)


@each_way
def test_a_transaction_is_followed_as_one_change(way: Callable[..., int]) -> None:
    guest = guest_with(old := Recorder("old"))
    new = Recorder("new", answer=ANSWER)

    def change(guest: Guest) -> None:
        tx = guest.manager.begin_tx()
        tx.unregister_device_io(mmio(DEVICE) + ports(PORT))
        tx.register_device_io(new, mmio(DEVICE, 0x200) + mmio(DEVICE + 2 * PAGE) + ports(PORT, 4))
        tx.commit()

    way(guest, change, load(DEVICE + 0x100), load(DEVICE + 2 * PAGE), port_in(PORT))
    assert old.calls == []
    assert [(base, offset) for _, base, offset, _ in new.calls] == [(DEVICE, 0x100), (DEVICE + 2 * PAGE, 0), (PORT, 0)]


@each_way
def test_what_was_not_committed_is_not_followed(way: Callable[..., int]) -> None:
    guest = guest_with(Recorder(answer=ANSWER))

    def fail_to_change(guest: Guest) -> None:
        tx = guest.manager.begin_tx()
        tx.register_device_io(Recorder(), mmio(DEVICE + PAGE))
        tx.cancel()
        with pytest.raises(DeviceOverlapError):
            guest.manager.register_device_io(Recorder(), mmio(DEVICE + 2 * PAGE) + mmio(DEVICE))

    assert way(guest, fail_to_change, load(DEVICE)) == WORD
    assert mapped_pages(guest) == pages(0)


@each_way_while_running
def test_a_range_may_come_and_go_and_come_again(way: Callable[..., int]) -> None:
    guest, device = Guest(), Recorder(answer=ANSWER)
    is_there = []

    def toggle(guest: Guest) -> None:
        if is_there:
            guest.manager.unregister_device_io(mmio(DEVICE))
            is_there.clear()
        else:
            guest.manager.register_device_io(device, mmio(DEVICE))
            is_there.append(True)

    again = load(0x30000) if way is by_an_mmio_handler else port_out(SWITCH)
    assert way(guest, toggle, load(DEVICE), again, again, load(DEVICE)) == WORD
    assert len(device.calls) == 2
    assert mapped_pages(guest) == pages(0)


def test_a_handler_may_remove_its_own_range() -> None:
    guest = Guest()

    def unplug() -> int:
        guest.manager.unregister_device_io(mmio(DEVICE))
        return 0x12345678

    guest.manager.register_device_io(Calls(unplug), mmio(DEVICE))
    assert guest.run(load(DEVICE)) == 0x12345678
    assert guest.mapped == []


def test_a_split_access_goes_on_with_what_is_there_then() -> None:
    guest = Guest()
    stand_in = Recorder("stand-in")

    def replace() -> None:
        with guest.manager.begin_tx() as tx:
            tx.unregister_device_io(mmio(DEVICE))
            tx.register_device_io(stand_in, mmio(DEVICE))

    guest.manager.register_device_io(Calls(replace), mmio(DEVICE))
    guest.run(load_8(DEVICE))
    assert accesses_of(stand_in) == [(4, 4)]


def test_a_guest_that_touches_no_device_finds_what_another_thread_has_added() -> None:
    """The first thing that it does with the bridge is to access the new page."""
    guest, device = Guest(), Recorder(answer=ANSWER)
    flags = (ctypes.c_uint8 * (2 * PAGE))()
    first = -(-ctypes.addressof(flags) // PAGE) * PAGE - ctypes.addressof(flags)
    guest.uc.mem_map_ptr(0x50000, PAGE, UC_PROT_ALL, ctypes.addressof(flags) + first)
    started, go_on = first, first + 1

    def add() -> None:
        while not flags[started]:
            threading.Event().wait(0.001)
        guest.manager.register_device_io(device, mmio(DEVICE))
        flags[go_on] = 1

    worker = Worker(add)
    # mov al, 1; mov [0x50000], al; wait: mov al, [0x50001]; test al, al; jz wait
    wait = load(0x50001, 1) + bytes.fromhex("84c0 74f7")
    eax = guest.run(set_eax(1), store(0x50000, 1), wait, load(DEVICE), timeout=int(DEADLOCK * 1e6))
    worker.result()
    assert eax == WORD
    assert pages(0)[0] in guest.mapped


def test_a_change_while_another_one_is_synced() -> None:
    """A signal handler or a finaliser may change the ranges in the middle of a sync."""
    guest = Guest()
    device = Recorder(answer=ANSWER)
    regions_of_unicorn = guest.uc.mem_regions
    inner_changes = [
        lambda: guest.manager.register_device_io(device, mmio(0x20000)),
        lambda: guest.manager.unregister_device_io(mmio(DEVICE)),
    ]

    def regions() -> Iterator[tuple[int, int, int]]:
        if inner_changes:
            inner_changes.pop()()
        return regions_of_unicorn()

    guest.uc.mem_regions = regions
    guest.manager.register_device_io(device, mmio(DEVICE))
    guest.manager.register_device_io(device, mmio(0xA000))
    assert inner_changes == []
    del guest.uc.mem_regions
    assert guest.mapped == [(0xA000, 0xAFFF), (0x20000, 0x20FFF)]
    assert guest.run(load(0xA000)) == guest.run(load(0x20000)) == WORD


def test_a_change_that_makes_room_while_another_one_fails() -> None:
    guest = Guest()
    guest.uc.mem_map(0x20000, PAGE)
    regions_of_unicorn = guest.uc.mem_regions

    def regions() -> Iterator[tuple[int, int, int]]:
        guest.uc.mem_regions = regions_of_unicorn
        guest.manager.unregister_device_io(mmio(0x20000))
        return regions_of_unicorn()

    guest.uc.mem_regions = regions
    guest.manager.register_device_io(Recorder(), mmio(0x20000))
    assert guest.run(set_eax(7)) == 7


def test_many_changes_by_another_thread_while_the_guest_works() -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    passing = Recorder("passing")

    def come_and_go() -> None:
        for number in range(1, 101):
            guest.manager.register_device_io(passing, mmio(DEVICE + number * PAGE))
            if number % 2:
                guest.manager.unregister_device_io(mmio(DEVICE + number * PAGE))

    worker: list[Worker] = []

    def keep_going() -> int:
        if not worker:
            worker.append(Worker(come_and_go))
        return int(worker[0].is_alive())

    guest.manager.register_device_io(Calls(keep_going), ports(SWITCH, 1))
    # again: mov eax, [DEVICE]; mov dx, SWITCH; in al, dx; test al, al; jnz again
    guest.run(load(DEVICE) + port_in(SWITCH) + bytes.fromhex("84c0 75f2"), timeout=int(DEADLOCK * 1e6))
    worker[0].result()
    assert guest.mapped == pages(0, *range(2, 101, 2))
    assert {base for _, base, _, _ in device.calls} == {DEVICE}


# -- a page of the guest's own in the way of a change


@each_way
def test_a_page_in_the_way_stops_the_guest(way: Callable[..., int]) -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    guest.uc.mem_map(0x20000, PAGE)
    intruder = Recorder("intruder")
    with pytest.raises(
        GuestMemoryError,
        match=r"^MMIO range 0x20800\.\.0x208ff of <intruder> .*0x20000\.\.0x20fff\b",
    ):
        way(
            guest,
            lambda g: g.manager.register_device_io(intruder, mmio(0x9000) + mmio(0x20800)),
            load(DEVICE),
            load(DEVICE),
            load(DEVICE),
        )
    assert device.calls == []
    assert mapped_pages(guest) == [*pages(0), (0x20000, 0x20FFF)]
    assert guest.manager.mmio_bus.find(0x20800) is intruder


@each_way
def test_the_guest_does_not_run_until_it_has_been_put_right(way: Callable[..., int]) -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    guest.uc.mem_map(DEVICE + PAGE, PAGE)
    intruder = Recorder("intruder", answer=ANSWER)
    with pytest.raises(GuestMemoryError):
        way(guest, lambda g: g.manager.register_device_io(intruder, mmio(DEVICE + PAGE)), load(DEVICE))
    for _ in range(2):
        with pytest.raises(GuestMemoryError):
            guest.run(load(DEVICE))
    assert device.calls == []
    guest.uc.mem_unmap(DEVICE + PAGE, PAGE)
    assert guest.run(load(DEVICE), load(DEVICE + PAGE)) == WORD
    assert mapped_pages(guest) == pages(0, 1)


@each_way
def test_a_range_in_the_way_may_be_taken_back(way: Callable[..., int]) -> None:
    guest = guest_with(Recorder(answer=ANSWER))
    guest.uc.mem_map(DEVICE + PAGE, PAGE)
    with pytest.raises(GuestMemoryError):
        way(guest, lambda g: g.manager.register_device_io(Recorder(), mmio(DEVICE + PAGE)), load(DEVICE))
    guest.manager.unregister_device_io(mmio(DEVICE + PAGE))
    assert guest.run(load(DEVICE)) == WORD


def test_detaching_does_not_mind_a_page_in_the_way() -> None:
    guest = guest_with(Recorder())
    guest.uc.mem_map(DEVICE + PAGE, PAGE)
    guest.manager.register_device_io(Recorder(), mmio(DEVICE + PAGE))
    guest.bridge.detach()
    assert guest.mapped == [(DEVICE + PAGE, DEVICE + 2 * PAGE - 1)]


def test_a_late_callback_of_a_detached_bridge_maps_nothing() -> None:
    """A callback that is under way on another thread may come when the bridge has been detached."""

    class Late(IoManager):
        def on_change(self, callback):
            self.callback = callback
            return super().on_change(callback)

    manager = Late()
    guest = Guest(manager)
    guest.bridge.detach()
    manager.register_device_io(Recorder(), mmio(DEVICE))
    manager.callback((), ())
    assert guest.mapped == []


def test_memory_that_the_guest_has_given_up_may_become_a_device() -> None:
    guest = Guest()
    guest.uc.mem_map(DEVICE, PAGE)
    guest.run(load(DEVICE))
    guest.uc.mem_unmap(DEVICE, PAGE)
    guest.manager.register_device_io(Recorder(answer=ANSWER), mmio(DEVICE))
    assert guest.run(load(DEVICE)) == WORD


def test_a_page_that_a_device_has_given_up_may_become_memory() -> None:
    guest = guest_with(Recorder(answer=ANSWER))
    guest.run(load(DEVICE))
    guest.manager.unregister_device_io(mmio(DEVICE))
    guest.uc.mem_map(DEVICE, PAGE)
    assert guest.run(load(DEVICE)) == 0


# -- any sequence of changes

SLOT = 0x400  # four to a page
SLOTS = 24


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["host", "handler"]), st.sets(st.integers(0, SLOTS - 1), min_size=1, max_size=4)),
        min_size=1,
        max_size=12,
    )
)
def test_pages_and_accesses_agree_with_the_ranges_after_any_changes(steps: list[tuple[str, set[int]]]) -> None:
    """Each step adds the slots of its set that are free, and removes those that are taken, in one transaction."""
    guest = Guest(IoManager())
    taken: dict[int, Recorder] = {}

    def toggle(slots: set[int]) -> None:
        with guest.manager.begin_tx() as tx:
            for slot in slots:
                if slot in taken:
                    del taken[slot]
                    tx.unregister_device_io(mmio(DEVICE + slot * SLOT, SLOT))
                else:
                    taken[slot] = Recorder(answer=bytes([slot + 1]))
                    tx.register_device_io(taken[slot], mmio(DEVICE + slot * SLOT, SLOT))

    pending: list[set[int]] = []
    guest.manager.register_device_io(Calls(lambda: toggle(pending.pop())), ports(SWITCH, 1))
    for who, slots in steps:
        if who == "host":
            toggle(slots)
            guest.run(set_eax(0))
        else:
            pending.append(slots)
            use = [load(DEVICE + slot * SLOT, 1) for slot in sorted(slots - taken.keys())]
            guest.run(port_out(SWITCH), *use)
            assert all(len(taken[slot].calls) == 1 for slot in slots & taken.keys())
        assert guest.mapped == pages(*{slot // 4 for slot in taken})
        for slot, device in taken.items():
            assert guest.run(set_eax(0), load(DEVICE + slot * SLOT, 1)) == slot + 1
            device.calls.clear()
    guest.bridge.detach()
    assert guest.mapped == []
