"""Attaching a manager to a Unicorn emulator, detaching it, and how long everything lives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from helpers import Recorder
from unicorn import UC_ARCH_ARM, UC_HOOK_INSN, UC_MODE_ARM, UC_PROT_READ, Uc, UcError
from unicorn.x86_const import UC_X86_INS_IN, UC_X86_REG_EAX
from unicorn_guest import (
    ANSWER,
    CODE,
    DEVICE,
    PAGE,
    PORT,
    RAM,
    WORD,
    Guest,
    accesses_of,
    guest_with,
    load,
    make_uc,
    mapped_beside_ram,
    mmio,
    port_in,
    port_out,
    ports,
    set_eax,
    store,
    write_code,
)

from dbs_device import DeviceModelError, GuestMemoryError, IoManager
from dbs_device.unicorn import attach


def run(uc: Uc, *code: bytes) -> int:
    """Run code on an emulator without using the bridge."""
    uc.emu_start(CODE, write_code(uc, b"".join(code)))
    return int(uc.reg_read(UC_X86_REG_EAX))


def manager_with(device: Recorder, *bases: int) -> IoManager:
    manager = IoManager()
    manager.register_device_io(device, [each for base in bases for each in mmio(base)] + ports(PORT))
    return manager


# -- attach


def test_the_pages_that_hold_ranges_are_mapped_and_no_others() -> None:
    manager = IoManager()
    manager.register_device_io(Recorder(), mmio(0x8FFF, 2) + mmio(0xB000, PAGE) + mmio(0xD800, 0x1800))
    guest = Guest(manager)
    assert guest.mapped == [(0x8000, 0x9FFF), (0xB000, 0xBFFF), (0xD000, 0xEFFF)]


def test_a_manager_may_be_empty() -> None:
    guest = Guest(IoManager())
    assert guest.mapped == []
    assert guest.run(set_eax(7)) == 7


def test_attaching_fails_if_the_guest_has_mapped_a_page_that_a_range_needs() -> None:
    device = Recorder("timer")
    uc = make_uc()
    uc.mem_map(0xC000, 0x2000, UC_PROT_READ)
    before = list(uc.mem_regions())
    with pytest.raises(GuestMemoryError) as caught:
        attach(uc, manager_with(device, 0x8000, 0xA000, 0xD800))
    error = caught.value
    assert (error.base, error.last, error.device) == (0xD800, 0xD8FF, device)
    assert (error.page, error.page_last) == (0xC000, 0xDFFF)
    assert list(uc.mem_regions()) == before
    with pytest.raises(UcError):
        run(uc, load(0x8000))
    run(uc, port_out(PORT), port_in(PORT))
    assert device.calls == []


def test_the_range_in_the_way_is_named_and_not_its_neighbour() -> None:
    manager = IoManager()
    manager.register_device_io(Recorder("neighbour"), mmio(0xB000, 0x10))
    manager.register_device_io(culprit := Recorder("culprit"), mmio(0xC800, 0x10))
    uc = make_uc()
    uc.mem_map(0xC000, PAGE)
    with pytest.raises(GuestMemoryError) as caught:
        attach(uc, manager)
    assert (caught.value.base, caught.value.last, caught.value.device) == (0xC800, 0xC80F, culprit)
    assert mapped_beside_ram(uc) == [(0xC000, 0xCFFF)]


def test_a_failed_attach_may_be_tried_again() -> None:
    uc = make_uc()
    uc.mem_map(0x8000, PAGE)
    manager = manager_with(Recorder(answer=ANSWER), 0x8000)
    with pytest.raises(GuestMemoryError):
        attach(uc, manager)
    uc.mem_unmap(0x8000, PAGE)
    attach(uc, manager)
    assert run(uc, load(0x8000)) == WORD


def test_a_failed_attach_follows_no_changes() -> None:
    uc = make_uc()
    uc.mem_map(0x8000, PAGE)
    manager = manager_with(Recorder(), 0x8000)
    with pytest.raises(GuestMemoryError):
        attach(uc, manager)
    before = list(uc.mem_regions())
    manager.register_device_io(Recorder(), mmio(0xA000))
    assert list(uc.mem_regions()) == before


def test_a_range_that_unicorn_cannot_map_leaves_nothing_mapped() -> None:
    """The whole address space is one byte more than Unicorn can be told."""
    uc = Uc(UC_ARCH_ARM, UC_MODE_ARM)
    manager = IoManager()
    manager.register_device_io(Recorder(), mmio(0, 2**64))
    with pytest.raises(UcError):
        attach(uc, manager)
    assert list(uc.mem_regions()) == []


@pytest.mark.parametrize("other", [None, "manager", Recorder()], ids=["None", "str", "device"])
def test_only_a_manager_can_be_attached(other: object) -> None:
    uc = make_uc()
    with pytest.raises(TypeError, match=rf"\bIoManager\b.* not {type(other).__name__}$"):
        attach(uc, other)  # type: ignore[arg-type]
    attach(uc, IoManager())


def test_an_emulator_is_attached_once_at_a_time() -> None:
    guest = guest_with(Recorder(answer=ANSWER))
    before = list(guest.uc.mem_regions())
    with pytest.raises(DeviceModelError, match=r"\battached\b.*\bdetach\b"):
        attach(guest.uc, IoManager())
    assert list(guest.uc.mem_regions()) == before
    assert guest.run(load(DEVICE)) == WORD


def test_another_manager_may_follow() -> None:
    guest = guest_with(Recorder("first"))
    guest.bridge.detach()
    second = Recorder("second", answer=ANSWER)
    attach(guest.uc, manager_with(second, DEVICE))
    assert run(guest.uc, load(DEVICE)) == WORD
    assert run(guest.uc, port_in(PORT, 4)) == WORD


def test_a_guest_without_ports_ignores_the_port_ranges() -> None:
    uc = Uc(UC_ARCH_ARM, UC_MODE_ARM)
    manager = manager_with(Recorder(), 0x8000)
    bridge = attach(uc, manager)
    bridge.detach()
    assert list(uc.mem_regions()) == []


# -- one manager, several emulators


def test_two_emulators_share_a_manager() -> None:
    device = Recorder(answer=ANSWER)
    manager = manager_with(device, DEVICE)
    one, two = Guest(manager), Guest(manager)
    assert one.run(load(DEVICE)) == two.run(load(DEVICE)) == WORD
    manager.register_device_io(device, mmio(0xA000))
    assert one.run(load(0xA000)) == two.run(load(0xA000)) == WORD
    one.bridge.detach()
    assert two.run(port_in(PORT, 4)) == WORD


def test_a_guest_of_a_clone_does_not_see_changes_of_the_original() -> None:
    manager = manager_with(Recorder(answer=ANSWER), DEVICE)
    guest = Guest(manager.clone())
    manager.unregister_device_io(mmio(DEVICE))
    assert guest.run(load(DEVICE)) == WORD
    guest.manager.unregister_device_io(mmio(DEVICE))
    assert guest.mapped == []


def test_a_failure_of_one_emulator_does_not_affect_another() -> None:
    manager = manager_with(Recorder(answer=ANSWER), DEVICE)
    crowded, roomy = Guest(manager), Guest(manager)
    crowded.uc.mem_map(0xA000, PAGE)
    manager.register_device_io(Recorder(answer=ANSWER), mmio(0xA000))
    assert roomy.run(load(0xA000)) == WORD
    with pytest.raises(GuestMemoryError):
        crowded.run(load(0xA000))


# -- detach


def test_detaching_restores_the_emulator() -> None:
    uc = make_uc()
    regions, attributes = list(uc.mem_regions()), dict(vars(uc))
    unhooked = run(uc, set_eax(0), port_in(PORT, 4), port_out(PORT))
    device = Recorder(answer=ANSWER)
    bridge = attach(uc, manager_with(device, DEVICE, 0xB000))
    assert run(uc, load(DEVICE)) == WORD
    bridge.detach()
    device.calls.clear()
    assert list(uc.mem_regions()) == regions
    assert vars(uc) == attributes
    assert run(uc, set_eax(0), port_in(PORT, 4), port_out(PORT)) == unhooked
    with pytest.raises(UcError):
        run(uc, store(DEVICE))
    assert device.calls == []


def test_detaching_undoes_what_was_followed_too() -> None:
    guest = guest_with(device := Recorder())
    guest.manager.register_device_io(device, mmio(0xA000, 0x3000) + mmio(0x1_0000_0000))
    guest.manager.unregister_device_io(mmio(DEVICE))
    guest.bridge.detach()
    assert guest.mapped == []
    guest.manager.register_device_io(device, mmio(0x20000))
    assert guest.mapped == []


@pytest.mark.parametrize(
    "change",
    [
        lambda uc, first, size: uc.mem_protect(first, size, UC_PROT_READ),
        lambda uc, first, size: uc.mem_protect(address=first, size=size),
        lambda uc, first, size: uc.mem_unmap(first, size),
    ],
)
def test_the_pages_of_a_window_cannot_be_changed_by_others(change: Callable[[Uc, int, int], None]) -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    guest.manager.register_device_io(device, mmio(DEVICE + PAGE, 3 * PAGE))
    guest.uc.mem_map(DEVICE - PAGE, PAGE)
    for first, size in ((DEVICE, PAGE), (DEVICE + 3 * PAGE, 2 * PAGE), (DEVICE - PAGE, 2 * PAGE), (DEVICE, 4 * PAGE)):
        with pytest.raises(
            DeviceModelError,
            match=f"^cannot protect or unmap {first:#x}..{first + size - 1:#x}: "
            f"{DEVICE:#x}..{DEVICE + 4 * PAGE - 1:#x} is mapped for ranges of the manager$",
        ):
            change(guest.uc, first, size)
    assert guest.run(load(DEVICE + 2 * PAGE + 4)) == WORD
    assert device.calls[-1][1:3] == (DEVICE + PAGE, PAGE + 4)
    change(guest.uc, DEVICE - PAGE, PAGE)
    guest.bridge.detach()
    with pytest.raises(UcError):
        change(guest.uc, DEVICE, PAGE)


def test_detaching_finishes_even_if_a_window_is_gone() -> None:
    guest = guest_with(Recorder())
    guest.manager.register_device_io(Recorder(), mmio(0x20000))
    Uc.mem_unmap(guest.uc, DEVICE, PAGE)  # past the bridge, which would refuse it
    with pytest.raises(UcError):
        guest.bridge.detach()
    assert guest.mapped == []
    bridge = attach(guest.uc, guest.manager)
    assert len(guest.mapped) == 2
    bridge.detach()


def test_detaching_again_does_nothing() -> None:
    guest = guest_with(Recorder())
    guest.bridge.detach()
    bridge = attach(guest.uc, guest.manager)
    guest.bridge.detach()
    assert guest.mapped == [(DEVICE, DEVICE + PAGE - 1)]
    bridge.detach()


def test_a_detached_bridge_still_runs_the_emulator() -> None:
    guest = guest_with(Recorder())
    guest.bridge.detach()
    assert guest.run(set_eax(7)) == 7


def test_a_wrapper_of_emu_start_from_later_is_kept() -> None:
    guest = guest_with(Recorder(answer=ANSWER))
    of_the_bridge = guest.uc.emu_start
    starts = []

    def wrapper(*args, **kwargs):
        starts.append(args)
        of_the_bridge(*args, **kwargs)

    guest.uc.emu_start = wrapper
    assert run(guest.uc, load(DEVICE)) == WORD
    guest.bridge.detach()
    assert guest.uc.emu_start is wrapper
    assert run(guest.uc, set_eax(7)) == 7
    assert len(starts) == 2


def test_a_wrapper_of_emu_start_from_before_is_called() -> None:
    uc = make_uc()
    of_unicorn = uc.emu_start
    starts = []

    def wrapper(*args, **kwargs):
        starts.append(args)
        of_unicorn(*args, **kwargs)

    uc.emu_start = wrapper
    bridge = attach(uc, manager_with(Recorder(answer=ANSWER), DEVICE))
    assert run(uc, load(DEVICE)) == WORD
    bridge.detach()
    assert run(uc, set_eax(7)) == 7
    assert len(starts) == 2
    assert uc.emu_start is wrapper


# -- how long things live


def test_a_bridge_lives_as_long_as_its_emulator() -> None:
    uc = make_uc()
    manager = manager_with(device := Recorder(answer=ANSWER), DEVICE)
    attach(uc, manager)
    gc.collect()
    assert run(uc, load(DEVICE)) == WORD
    manager.register_device_io(device, mmio(0xA000))
    assert run(uc, load(0xA000)) == WORD


def test_a_manager_lives_as_long_as_the_emulator_attached_to_it() -> None:
    uc = make_uc()
    attach(uc, manager_with(Recorder(answer=ANSWER), DEVICE))
    gc.collect()
    assert run(uc, load(DEVICE)) == WORD


def test_an_emulator_is_freed_with_its_last_reference_and_its_bridge_with_it() -> None:
    manager = manager_with(device := Recorder(), DEVICE)
    guest = Guest(manager)
    guest.run(load(DEVICE))
    uc, bridge = weakref.ref(guest.uc), weakref.ref(guest.bridge)
    del guest
    gc.collect()
    assert uc() is None
    assert bridge() is None
    manager.register_device_io(device, mmio(0xA000))
    assert len(manager.mmio_bus) == 2


def test_an_emulator_that_its_own_device_refers_to_is_collected() -> None:
    class Owner(Recorder):
        guest: Guest

    owner = Owner()
    owner.guest = guest_with(owner)
    uc = weakref.ref(owner.guest.uc)
    del owner
    gc.collect()
    assert uc() is None


def test_a_detached_bridge_can_be_freed_before_its_emulator() -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    guest.bridge.detach()
    bridge = weakref.ref(guest.bridge)
    del guest.bridge
    gc.collect()
    assert bridge() is None
    assert mapped_beside_ram(guest.uc) == []
    run(guest.uc, port_in(PORT))
    assert accesses_of(device) == []


def test_attaching_and_detaching_leaves_nothing_behind() -> None:
    uc = make_uc()
    manager = manager_with(Recorder(), DEVICE, 0xA000, 0xC000)
    regions = list(uc.mem_regions())

    def attach_and_detach(times: int) -> int:
        for _ in range(times):
            attach(uc, manager).detach()
        gc.collect()
        return len(gc.get_objects())

    attach_and_detach(10)
    before = attach_and_detach(1)
    assert attach_and_detach(1000) <= before
    assert list(uc.mem_regions()) == regions


def test_a_users_hook_on_in_returns_when_the_bridge_is_gone() -> None:
    uc = make_uc()
    bridge = attach(uc, manager_with(Recorder(), DEVICE))
    bridge.detach()
    uc.hook_add(UC_HOOK_INSN, lambda uc, port, size, _: 0x42, aux1=UC_X86_INS_IN)
    assert run(uc, set_eax(0), port_in(PORT)) == 0x42


def test_regions_of_the_guest_are_left_alone() -> None:
    guest = guest_with(Recorder())
    guest.uc.mem_map(0x100000, PAGE)
    guest.uc.mem_write(0x100000, b"kept")
    guest.bridge.detach()
    assert guest.uc.mem_read(0x100000, 4) == b"kept"
    assert (RAM.start, RAM.stop - 1) in [(first, last) for first, last, _ in guest.uc.mem_regions()]
