"""The device manager when something fails: whichever step it is, what was done before is undone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from helpers import interrupt_everywhere
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine import MMIO_BASE, WISHES, Card, Machine, SharedCard, pair_of_card

from dbs_device import (
    DeviceIo,
    DeviceOverlapError,
    DeviceResources,
    InvalidResourceRangeError,
    NoAvailableResourceError,
    NoDeviceError,
    Resource,
    ResourceConstraint,
    Space,
    TransactionError,
)
from dbs_device.device_manager import DeviceManagerContext, DuplicateDeviceError, UnknownDeviceError


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- every step may fail


class InjectedError(Exception):
    """Raised by injected failures."""


class FaultyContext(DeviceManagerContext):
    """Fails in one operation, before or after the real one is done."""

    fail_before = ""
    fail_after = ""

    def _run(self, name: str, *arguments: Any) -> Any:
        if name == self.fail_before:
            self.fail_before = ""
            raise InjectedError(name)
        result = getattr(DeviceManagerContext, name)(self, *arguments)
        if name == self.fail_after:
            self.fail_after = ""
            raise InjectedError(name)
        return result

    def begin_tx(self) -> Any:
        return self._run("begin_tx")

    def commit_tx(self, ctx: Any) -> None:
        self._run("commit_tx", ctx)

    def cancel_tx(self, ctx: Any) -> None:
        self._run("cancel_tx", ctx)

    def register_device_io(
        self, ctx: Any, device: DeviceIo, resources: Iterable[Resource], name: str | None = None
    ) -> None:
        self._run("register_device_io", ctx, device, resources, name)

    def unregister_device_io(self, ctx: Any, resources: Iterable[Resource]) -> None:
        self._run("unregister_device_io", ctx, resources)


def fail_at(step: str, machine: Machine, card: Card) -> Callable[[], None]:
    """Make one step of adding or removing a card fail, once. Return a function that calls it off."""
    context = machine.context
    assert isinstance(context, FaultyContext)
    when, _, operation = step.rpartition(" ")
    if when:
        setattr(context, f"fail_{when}", operation)
        return lambda: setattr(context, f"fail_{when}", "")
    if step == "on_change":

        def fail(added: object, removed: object) -> None:
            unsubscribe()
            raise InjectedError(step)

        unsubscribe = machine.bus.on_change(fail)
        return unsubscribe

    def fail_call(name: str) -> None:
        if name == step:
            call_off()
            raise InjectedError(name)

    def call_off() -> None:
        card.on_call = lambda name: None

    card.on_call = fail_call
    return call_off


STEPS_OF_BUS = [
    "before begin_tx",
    "before commit_tx",
    "after commit_tx",
    "on_change",
]
STEPS_OF_ADDING = [
    "get_resource_constraints",
    "assign_resources",
    "get_trapped_io_resources",
    "before register_device_io",
    "after register_device_io",
    *STEPS_OF_BUS,
]
STEPS_OF_REMOVING = ["before unregister_device_io", "after unregister_device_io", *STEPS_OF_BUS]


@pytest.mark.parametrize("protected", [False, True], ids=["DeviceIo", "Mutex"])
@pytest.mark.parametrize("step", STEPS_OF_ADDING)
def test_whatever_step_of_adding_fails_nothing_is_left(step: str, protected: bool) -> None:
    machine = Machine(FaultyContext)
    machine.devices.add_device("other", SharedCard())
    before = machine.state()
    device, card = pair_of_card(protected)
    fail_at(step, machine, card)
    with pytest.raises(InjectedError) as caught:
        machine.devices.add_device("card", device)
    assert str(caught.value) == step.split()[-1]
    assert not hasattr(caught.value, "__notes__")
    assert machine.state() == before
    was_given = "assign_resources" in card.calls and step != "assign_resources"
    assert ("release_resources" in card.calls) == was_given
    machine.devices.add_device("card", device)
    assert machine.bus.mmio_load(MMIO_BASE + 0x1000, 1) == 0x5A
    machine.devices.remove_device("card")
    assert machine.state() == before


@pytest.mark.parametrize("protected", [False, True], ids=["DeviceIo", "Mutex"])
@pytest.mark.parametrize("step", STEPS_OF_REMOVING)
def test_whatever_step_of_unregistering_fails_the_device_stays(step: str, protected: bool) -> None:
    machine = Machine(FaultyContext)
    empty = machine.state()
    device, card = pair_of_card(protected)
    machine.devices.add_device("card", device)
    before = machine.state()
    fail_at(step, machine, card)
    with pytest.raises(InjectedError) as caught:
        machine.devices.remove_device("card")
    assert str(caught.value) == step.split()[-1]
    assert not hasattr(caught.value, "__notes__")
    assert machine.state() == before
    assert "release_resources" not in card.calls
    assert machine.bus.mmio_load(MMIO_BASE, 1) == 0x5A
    machine.devices.remove_device("card")
    assert machine.state() == empty


@pytest.mark.parametrize("protected", [False, True], ids=["DeviceIo", "Mutex"])
def test_a_device_that_raises_in_release_resources_is_removed(protected: bool) -> None:
    machine = Machine(FaultyContext)
    before = machine.state()
    device, card = pair_of_card(protected)
    machine.devices.add_device("card", device)
    fail_at("release_resources", machine, card)
    with pytest.raises(InjectedError, match="release_resources"):
        machine.devices.remove_device("card")
    assert machine.state() == before
    machine.devices.add_device("card", device)


def test_resources_that_are_not_available_are_refused(machine: Machine) -> None:
    card = SharedCard([*WISHES, ResourceConstraint.new_legacy_irq(3)])
    before = machine.state()
    with pytest.raises(NoAvailableResourceError):
        machine.devices.add_device("card", card)
    assert machine.state() == before
    assert card.calls == ["get_resource_constraints"]


def test_objects_that_are_not_constraints_are_refused(machine: Machine) -> None:
    before = machine.state()
    for wishes in ([*WISHES, "more"], 7):
        with pytest.raises(TypeError):
            machine.devices.add_device("card", SharedCard(wishes))  # type: ignore[arg-type]
    assert machine.state() == before


def test_a_range_that_another_device_owns_stays_its_own(machine: Machine) -> None:
    squatter = DeviceIo()
    machine.bus.register_device_io(squatter, [Resource.MmioAddressRange(MMIO_BASE, 0x1000)])
    before = machine.state()
    card = SharedCard()
    with pytest.raises(DeviceOverlapError) as caught:
        machine.devices.add_device("card", card)
    assert caught.value.other_device is squatter
    assert machine.state() == before
    assert card.calls[-1] == "release_resources"


def test_a_range_that_the_bus_refuses_is_refused(machine: Machine) -> None:
    class Wrong(SharedCard):
        def get_trapped_io_resources(self) -> Any:
            return DeviceResources([Resource.PioAddressRange(0, 0)])

    before = machine.state()
    with pytest.raises(ValueError, match="0"):
        machine.devices.add_device("card", Wrong())
    assert machine.state() == before


def test_errors_while_undoing_are_notes_on_the_first_error() -> None:
    machine = Machine(FaultyContext)
    before = machine.state()
    card = SharedCard()
    fail_at("before register_device_io", machine, card)
    fail_at("after cancel_tx", machine, card)

    def fail_to_go(name: str) -> None:
        if name == "release_resources":
            machine.resources.free_legacy_irq(6)
            raise InjectedError(name)

    card.on_call = fail_to_go
    with pytest.raises(InjectedError) as caught:
        machine.devices.add_device("card", card)
    assert str(caught.value) == "register_device_io"
    of_cancel, of_release, of_free = caught.value.__notes__
    assert of_cancel.endswith(": InjectedError('cancel_tx')")
    assert of_release.endswith(": InjectedError('release_resources')")
    assert ": InvalidResourceRangeError(Resource.LegacyIrq(irq=6), " in of_free
    assert machine.state() == before


def test_an_error_that_takes_no_notes_does_not_stop_the_undoing(machine: Machine) -> None:
    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    card = SharedCard()
    before = machine.state()

    def fail(name: str) -> None:
        if name in ("get_trapped_io_resources", "release_resources"):
            raise FrozenError(name)

    card.on_call = fail
    with pytest.raises(FrozenError, match="get_trapped_io_resources"):
        machine.devices.add_device("card", card)
    assert machine.state() == before


def test_a_commit_with_a_callback_that_always_raises_is_undone_once(machine: Machine) -> None:
    before = machine.state()
    told = []

    def fail(added: object, removed: object) -> None:
        told.append((added, removed))
        raise InjectedError(len(told))

    unsubscribe = machine.bus.on_change(fail)
    card = SharedCard()
    with pytest.raises(InjectedError, match="1") as caught:
        machine.devices.add_device("card", card)
    assert len(told) == 2
    [note] = caught.value.__notes__
    assert note.endswith(": InjectedError(2)")
    assert machine.state() == before
    unsubscribe()

    machine.devices.add_device("card", card)
    before = machine.state()
    machine.bus.on_change(fail)
    with pytest.raises(InjectedError, match="3"):
        machine.devices.remove_device("card")
    assert len(told) == 4
    assert machine.state() == before


def test_a_keyboard_interrupt_undoes_as_well(machine: Machine) -> None:
    card = SharedCard()
    before = machine.state()

    def interrupt(name: str) -> None:
        if name == "get_trapped_io_resources":
            raise KeyboardInterrupt

    card.on_call = interrupt
    with pytest.raises(KeyboardInterrupt):
        machine.devices.add_device("card", card)
    assert machine.state() == before


# -- a signal handler that raises


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "Mutex"])
def test_an_interrupted_addition_or_removal_leaks_nothing(protected: bool) -> None:
    machine = Machine()
    initial = repr(machine.resources)

    def check() -> None:
        for name in list(machine.devices):
            machine.devices.remove_device(name)
        assert repr(machine.resources) == initial
        assert len(machine.bus.mmio_bus) == len(machine.bus.pio_bus) == 0

    def add_and_remove() -> None:
        device, _ = pair_of_card(protected)
        machine.devices.add_device("card", device, shared_irq=True)
        machine.devices.remove_device("card")

    interrupt_everywhere(add_and_remove, check)
    check()
    add_and_remove()  # the name is free


@pytest.mark.parametrize("constraint", [ResourceConstraint.new_mmio(0x1000), ResourceConstraint.new_legacy_irq()])
def test_an_interrupted_allocation_allocates_nothing(machine: Machine, constraint: ResourceConstraint) -> None:
    machine.resources.allocate_device_resources([constraint] * 2)
    before = repr(machine.resources)

    def check() -> None:
        assert repr(machine.resources) == before

    def allocate() -> None:
        resources = machine.resources.allocate_device_resources([constraint] * 2, shared_irq=True)
        sys.setprofile(None)
        machine.resources.free_device_resources(resources)

    interrupt_everywhere(allocate, check)


def test_resources_that_were_freed_by_hand_do_not_make_the_others_leak(machine: Machine) -> None:
    empty = machine.state()
    card = SharedCard()
    machine.devices.add_device("card", card)
    machine.resources.free_legacy_irq(6)
    with pytest.raises(InvalidResourceRangeError, match=r"LegacyIrq\(irq=6\)"):
        machine.devices.remove_device("card")
    assert machine.state() == empty


def test_resources_that_were_freed_by_hand_do_not_hide_what_the_device_raised(machine: Machine) -> None:
    empty = machine.state()
    card = SharedCard()
    machine.devices.add_device("card", card)
    machine.resources.free_legacy_irq(6)
    failure = InjectedError("release_resources")

    def fail(name: str) -> None:
        raise failure

    card.on_call = fail
    with pytest.raises(InvalidResourceRangeError) as caught:
        machine.devices.remove_device("card")
    assert caught.value.__context__ is not None
    chain = [caught.value.__context__, caught.value.__context__.__context__]
    assert failure in chain
    assert machine.state() == empty


def test_a_device_that_was_unregistered_by_hand_is_not_removed(machine: Machine) -> None:
    card = SharedCard()
    given = machine.devices.add_device("card", card)
    machine.bus.unregister_device_io([Resource.PioAddressRange(0, 8)])
    before = machine.state()
    with pytest.raises(NoDeviceError) as caught:
        machine.devices.remove_device("card")
    assert (caught.value.space, caught.value.address, caught.value.size) == (Space.PIO, 0, 8)
    assert machine.state() == before
    assert machine.devices["card"] is card
    machine.bus.register_device_io(card, given[:1])
    machine.devices.remove_device("card")


def test_inside_a_transaction_of_the_caller_nothing_is_added_or_removed(machine: Machine) -> None:
    machine.devices.add_device("card", SharedCard())
    before = machine.state()
    with machine.context.transaction():
        with pytest.raises(TransactionError):
            machine.devices.add_device("other", SharedCard())
        with pytest.raises(TransactionError):
            machine.devices.remove_device("card")
    assert machine.state() == before


# -- against a model


class DevicesAgainstTheModel(RuleBasedStateMachine):
    """Devices are added and removed, any step failing; at all times bus, pools and names tell the same story."""

    @initialize()
    def make(self) -> None:
        self.machine = Machine(FaultyContext, mmio=(0, 0x7FFF), pio=(0, 63), legacy_irq=(6, 8), kvm_mem_slots=(0, 5))
        self.empty = self.machine.state()
        self.cards: dict[str, SharedCard] = {}

    @rule(
        name=st.sampled_from("abcde"),
        wishes=st.lists(
            st.sampled_from(
                [
                    ResourceConstraint.new_mmio(0x800),
                    ResourceConstraint.new_mmio(0x2001),
                    ResourceConstraint.new_pio(5),
                    ResourceConstraint.pio_with_constraints(8, (8, 40), 8),
                    ResourceConstraint.new_legacy_irq(),
                    ResourceConstraint.new_kvm_mem_slot(2),
                ]
            ),
            max_size=3,
        ),
        step=st.sampled_from(["nothing", *STEPS_OF_ADDING]),
    )
    def add(self, name: str, wishes: list[ResourceConstraint], step: str) -> None:
        card = SharedCard(wishes)
        before = self.machine.state()
        call_off = fail_at(step, self.machine, card)
        try:
            self.machine.devices.add_device(name, card)
        except (InjectedError, NoAvailableResourceError, DuplicateDeviceError):
            assert self.machine.state() == before
        else:
            assert name not in self.cards
            self.cards[name] = card
        call_off()

    @rule(name=st.sampled_from("abcde"), step=st.sampled_from(["nothing", *STEPS_OF_REMOVING]))
    def remove(self, name: str, step: str) -> None:
        before = self.machine.state()
        call_off = fail_at(step, self.machine, self.cards.get(name, SharedCard()))
        try:
            removed = self.machine.devices.remove_device(name)
        except (InjectedError, UnknownDeviceError):
            assert self.machine.state() == before
        else:
            assert removed is self.cards.pop(name)
        call_off()

    @invariant()
    def tells_one_story(self) -> None:
        assert dict(self.machine.devices.items()) == self.cards
        for bus, ranges_of in (
            (self.machine.bus.pio_bus, DeviceResources.get_pio_address_ranges),
            (self.machine.bus.mmio_bus, DeviceResources.get_mmio_address_ranges),
        ):
            expected = sorted(
                (base, base + size - 1, id(card))
                for card in self.cards.values()
                for base, size in ranges_of(card.resources)
            )
            assert [(base, last, id(card)) for base, last, card in bus] == expected

    def teardown(self) -> None:
        for name in list(getattr(self, "cards", {})):
            self.machine.devices.remove_device(name)
        if hasattr(self, "machine"):
            assert self.machine.state() == self.empty


TestDevicesAgainstTheModel = DevicesAgainstTheModel.TestCase
TestDevicesAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=20)
