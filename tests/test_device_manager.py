"""The device manager: a device gets what it asks for and is on the bus, from adding it to removing it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from helpers import DEADLOCK, Worker, on_another_thread
from machine import MMIO_BASE, Card, LockedCard, Machine, SharedCard, pair_of_card

from dbs_device import (
    DeviceIo,
    DeviceIoMut,
    DeviceModelError,
    DeviceResources,
    IoAddress,
    Mutex,
    NoDeviceError,
    Resource,
    ResourceConstraint,
    device_manager,
)
from dbs_device.device_manager import (
    DeviceManager,
    DeviceManagerContext,
    DuplicateDeviceError,
    IoManager,
    IoManagerContext,
    ManagedDevice,
    UnknownDeviceError,
)
from dbs_device.resource_manager import ResourceManager


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- the flow


@pytest.mark.parametrize("protected", [False, True], ids=["DeviceIo", "Mutex"])
def test_a_device_gets_its_resources_and_is_registered(machine: Machine, protected: bool) -> None:
    device, card = pair_of_card(protected)
    before = machine.state()
    given = machine.devices.add_device("card", device)
    assert given == DeviceResources(
        [
            Resource.PioAddressRange(0, 8),
            Resource.MmioAddressRange(MMIO_BASE, 0x1000),
            Resource.LegacyIrq(6),
            Resource.KvmMemSlot(0),
            Resource.KvmMemSlot(1),
        ]
    )
    assert card.resources == given
    assert card.calls == ["get_resource_constraints", "assign_resources", "get_trapped_io_resources"]
    assert list(machine.bus.pio_bus) == [(0, 7, device)]
    assert list(machine.bus.mmio_bus) == [(MMIO_BASE, MMIO_BASE + 0xFFF, device)]
    assert machine.bus.mmio_load(MMIO_BASE + 4, 1) == 0x5A
    assert machine.devices["card"] is device

    card.calls.clear()
    assert machine.devices.remove_device("card") is device
    assert card.calls == ["release_resources"]
    assert machine.state() == before
    assert machine.devices.add_device("card", device) == given


def test_callers_cannot_change_the_resources_that_the_manager_keeps(machine: Machine) -> None:
    device = SharedCard()
    before = machine.state()
    given = machine.devices.add_device("card", device)
    for theirs in (given, device.resources, machine.devices.get_resources("card")):
        theirs.append(Resource.LegacyIrq(15))
    assert machine.devices.get_resources("card")[-1] == Resource.KvmMemSlot(1)
    machine.devices.remove_device("card")
    assert machine.state() == before


def test_only_what_a_device_wants_trapped_is_registered(machine: Machine) -> None:
    class Partly(SharedCard):
        def get_trapped_io_resources(self) -> DeviceResources:
            return self.resources[:1]

    machine.devices.add_device("card", Partly())
    assert len(machine.bus.pio_bus) == 1
    assert len(machine.bus.mmio_bus) == 0
    machine.devices.remove_device("card")
    assert len(machine.bus.pio_bus) == 0


def test_a_device_without_get_assigned_resources_is_registered_for_everything_allocated(machine: Machine) -> None:
    class Forgetful(DeviceIo):
        unhandled = "ignore"

        def get_resource_constraints(self) -> list[ResourceConstraint]:
            return [ResourceConstraint.new_pio(4), ResourceConstraint.new_mmio(4)]

        def assign_resources(self, resources: DeviceResources) -> None:
            pass

    before = machine.state()
    machine.devices.add_device("card", Forgetful())
    assert len(machine.bus.pio_bus) == len(machine.bus.mmio_bus) == 1
    machine.devices.remove_device("card")
    assert machine.state() == before


def test_a_device_may_ask_for_no_resources_and_need_not_release_them(machine: Machine) -> None:
    class Bare(DeviceIo):
        def get_resource_constraints(self) -> list[ResourceConstraint]:
            return []

        def assign_resources(self, resources: DeviceResources) -> None:
            assert len(resources) == 0

    assert machine.devices.add_device("bare", Bare()) == DeviceResources()
    machine.devices.remove_device("bare")
    assert len(machine.devices) == 0


def test_devices_may_share_an_interrupt(machine: Machine) -> None:
    first = machine.devices.add_device("first", SharedCard(), shared_irq=True)
    second = machine.devices.add_device("second", SharedCard(), shared_irq=True)
    assert (first.get_legacy_irq(), second.get_legacy_irq()) == (5, 5)


def test_a_mutex_that_is_a_managed_device_itself_is_asked_itself(machine: Machine) -> None:
    class Slot(Mutex[DeviceIoMut]):
        def get_resource_constraints(self) -> list[ResourceConstraint]:
            return [ResourceConstraint.new_pio(4)]

        def assign_resources(self, resources: DeviceResources) -> None:
            with self.lock() as inner:
                inner.resources = resources  # type: ignore[attr-defined]

    class Empty(DeviceIoMut):
        unhandled = "ignore"
        resources = DeviceResources()

        def get_assigned_resources(self) -> DeviceResources:
            return self.resources

    machine.devices.add_device("slot", Slot(Empty()))
    assert len(machine.bus.pio_bus) == 1


class ListContext(IoManagerContext):
    """A context of another making: a list of registrations, and a log of what was called."""

    def __init__(self) -> None:
        self.registered: list[tuple[DeviceIo, list[Resource]]] = []
        self.log: list[str] = []

    def begin_tx(self) -> list[tuple[DeviceIo, list[Resource]]]:
        self.log.append("begin")
        return list(self.registered)

    def commit_tx(self, ctx: list[tuple[DeviceIo, list[Resource]]]) -> None:
        self.log.append("commit")
        self.registered = ctx

    def cancel_tx(self, ctx: object) -> None:
        self.log.append("cancel")

    def register_device_io(
        self, ctx: Any, device: DeviceIo, resources: Iterable[Resource], name: str | None = None
    ) -> None:
        self.log.append("register")
        if any(each in taken for each in resources for _, taken in ctx):
            raise ValueError("taken")
        ctx.append((device, list(resources)))

    def unregister_device_io(self, ctx: Any, resources: Iterable[Resource]) -> None:
        self.log.append("unregister")
        ctx[:] = [(device, taken) for device, taken in ctx if taken != list(resources)]


def test_any_context_will_do() -> None:
    context = ListContext()
    devices = DeviceManager(context, ResourceManager())
    card = SharedCard()
    given = devices.add_device("card", card)
    assert context.registered == [(card, list(given))]
    devices.remove_device("card")
    assert context.registered == []
    assert context.log == ["begin", "register", "commit", "begin", "unregister", "commit"]

    context.log.clear()
    context.registered = [(DeviceIo(), [Resource.MmioAddressRange(MMIO_BASE, 0x1000)])]
    with pytest.raises(ValueError, match="taken"):
        devices.add_device("card", card)
    assert context.log == ["begin", "register", "cancel"]
    assert devices.resource_manager.get_free_ranges("pio") == [(0, 0xFFFF)]


# -- names


def test_it_is_a_mapping_of_names_to_devices(machine: Machine) -> None:
    devices = machine.devices
    assert repr(devices) == "<DeviceManager: no devices>"
    one, two = SharedCard(), SharedCard()
    devices.add_device("one", one)
    devices.add_device("two", two)
    assert (len(devices), list(devices), "one" in devices, "three" in devices) == (2, ["one", "two"], True, False)
    assert list(devices.items()) == [("one", one), ("two", two)]
    assert list(devices.values()) == [one, two]
    assert list(devices.keys()) == ["one", "two"]
    assert devices.get("three") is None
    assert repr(devices) == "<DeviceManager: one, two>"


def test_devices_may_come_and_go_while_they_are_iterated_over(machine: Machine) -> None:
    devices = machine.devices
    cards = {f"card{index}": SharedCard([ResourceConstraint.new_pio(4)]) for index in range(5)}
    for name, card in cards.items():
        devices.add_device(name, card)
    for view in (iter(devices), iter(devices.items()), iter(devices.values())):
        next(view)
        devices.remove_device("card3")
        assert len(list(view)) == 4
        devices.add_device("card3", cards["card3"])


def test_managers_are_equal_only_to_themselves() -> None:
    one, other = Machine().devices, Machine().devices
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_an_unknown_name_is_an_error_of_the_package_and_a_key_error(machine: Machine) -> None:
    for use in (machine.devices.remove_device, machine.devices.get_resources, machine.devices.__getitem__):
        with pytest.raises(UnknownDeviceError) as caught:
            use("disk")
        assert str(caught.value) == "no device is named 'disk'"
        assert caught.value.name == "disk"
    assert issubclass(UnknownDeviceError, DeviceModelError)
    assert issubclass(UnknownDeviceError, KeyError)


def test_a_name_and_a_device_are_there_once(machine: Machine) -> None:
    class Console(SharedCard):
        def __repr__(self) -> str:
            return "Console()"

    console, other = Console(), SharedCard()
    machine.devices.add_device("console", console)
    before = machine.state()
    for name, device in (("console", other), ("tty", console)):
        with pytest.raises(DuplicateDeviceError) as caught:
            machine.devices.add_device(name, device)
        assert str(caught.value) == "the name 'console' belongs to Console()"
        assert (caught.value.name, caught.value.device) == ("console", console)
    assert machine.state() == before
    assert other.calls == []
    assert issubclass(DuplicateDeviceError, DeviceModelError)


def test_a_name_is_taken_while_its_device_is_being_added_or_removed(machine: Machine) -> None:
    card = SharedCard()
    refusals = []

    def interfere(name: str) -> None:
        with pytest.raises(DuplicateDeviceError) as caught:
            machine.devices.add_device("card", SharedCard())
        refusals.append((name, caught.value.device is card))
        with pytest.raises(UnknownDeviceError):
            machine.devices.remove_device("card")
        assert "card" not in machine.devices

    card.on_call = interfere
    machine.devices.add_device("card", card)
    machine.devices.remove_device("card")
    assert refusals == [(name, True) for name in card.calls]
    assert card.calls[-1] == "release_resources"


def test_a_name_is_free_again_only_when_the_resources_are() -> None:
    refusals: list[DuplicateDeviceError] = []

    class Watched(ResourceManager):
        def free_device_resources(self, resources: Iterable[Resource]) -> None:
            with pytest.raises(DuplicateDeviceError) as caught:
                devices.add_device("card", SharedCard())
            refusals.append(caught.value)
            super().free_device_resources(resources)

    devices = DeviceManager(DeviceManagerContext(IoManager()), Watched())
    card = SharedCard()
    devices.add_device("card", card)
    devices.remove_device("card")
    assert [refusal.device for refusal in refusals] == [card]
    devices.add_device("card", card)


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        (7, SharedCard(), r"\bname\b.* not int$"),
        ("x", object(), r"\bDeviceIo\b.*\bobject\b"),
        ("x", LockedCard(), r"\bLockedCard\b.*\bDeviceIoMut\b.*\bMutex\(LockedCard\(\.\.\.\)\)"),
        ("x", DeviceIo(), r"\bget_resource_constraints\(\) and assign_resources\(\).*\bDeviceIo\b"),
        ("x", Mutex(DeviceIoMut()), r"\bget_resource_constraints\(\) and assign_resources\(\).*\bDeviceIoMut\b"),
    ],
)
def test_what_cannot_be_managed_is_refused(machine: Machine, name: Any, device: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        machine.devices.add_device(name, device)
    assert len(machine.devices) == 0


def test_a_device_manager_is_made_with_a_context() -> None:
    with pytest.raises(TypeError, match=r"\bIoManagerContext\b.* not IoManager$"):
        DeviceManager(IoManager(), ResourceManager())  # type: ignore[arg-type]


def test_the_module_has_the_names_of_the_crate() -> None:
    assert {"IoManager", "IoManagerContext", "DeviceManager"} <= set(device_manager.__all__)
    assert isinstance(SharedCard(), ManagedDevice)


# -- devices that move themselves


class Pci(SharedCard):
    """A device whose MMIO range the guest moves by writing an address into it."""

    def __init__(self, bus: IoManager) -> None:
        super().__init__([ResourceConstraint.new_mmio(0x1000)])
        self.bus = bus

    def move(self, base: int) -> None:
        moved = DeviceResources([Resource.MmioAddressRange(base, 0x1000)])
        with self.bus.begin_tx() as tx:
            tx.unregister_device_io(self.resources)
            tx.register_device_io(self, moved)
        self.resources = moved

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.move(int.from_bytes(data, "little"))


def test_a_device_that_has_moved_is_unregistered_from_where_it_is(machine: Machine) -> None:
    before = machine.state()
    card = Pci(machine.bus)
    machine.devices.add_device("pci", card)
    machine.bus.mmio_store(MMIO_BASE, 8, 0xE000_0000)
    assert machine.bus.mmio_bus.find(MMIO_BASE) is None
    assert machine.bus.mmio_bus.find(0xE000_0000) is card
    machine.devices.remove_device("pci")
    assert machine.state() == before


def test_a_device_that_has_moved_in_where_another_was_is_not_unregistered_for_it(machine: Machine) -> None:
    first, second = Pci(machine.bus), Pci(machine.bus)
    machine.devices.add_device("first", first)
    machine.devices.add_device("second", second)
    first.move(0xE000_0000)
    second.move(MMIO_BASE)
    machine.devices.remove_device("first")
    assert list(machine.bus.mmio_bus) == [(MMIO_BASE, MMIO_BASE + 0xFFF, second)]
    machine.devices.remove_device("second")
    assert list(machine.bus.mmio_bus) == []


# -- threads and locks


@pytest.mark.parametrize("protected", [False, True], ids=["DeviceIo", "Mutex"])
def test_no_lock_is_held_while_a_device_is_called(machine: Machine, protected: bool) -> None:
    device, card = pair_of_card(protected)
    seen = []

    def use_everything() -> None:
        machine.context.cancel_tx(machine.context.begin_tx())
        machine.devices.add_device("other", SharedCard())
        machine.devices.remove_device("other")

    def check(name: str) -> None:
        use_everything()
        on_another_thread(use_everything)
        seen.append(name)

    card.on_call = check
    machine.devices.add_device("card", device)
    machine.bus.mmio_load(MMIO_BASE, 1)
    machine.devices.remove_device("card")
    assert seen == [
        "get_resource_constraints",
        "assign_resources",
        "get_trapped_io_resources",
        "read",
        "release_resources",
    ]


@pytest.mark.parametrize("protected", [False, True], ids=["DeviceIo", "Mutex"])
def test_a_handler_may_add_a_device_and_remove_its_own(machine: Machine, protected: bool) -> None:
    device, card = pair_of_card(protected)
    disk = SharedCard([ResourceConstraint.new_mmio(0x1000)])

    def upcall(name: str) -> None:
        if name == "read":
            machine.devices.add_device("disk", disk)
            machine.devices.remove_device("card")

    card.on_call = upcall
    machine.devices.add_device("card", device)
    assert machine.bus.mmio_load(MMIO_BASE, 1) == 0x5A
    assert list(machine.devices) == ["disk"]
    assert list(machine.bus.mmio_bus) == [(MMIO_BASE + 0x1000, MMIO_BASE + 0x1FFF, disk)]


class Slow(Card):
    """Its handler blocks until `let_go` is set."""

    def __init__(self) -> None:
        super().__init__([ResourceConstraint.new_mmio(0x1000)])
        self.inside = threading.Event()
        self.let_go = threading.Event()

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.inside.set()
        assert self.let_go.wait(DEADLOCK)
        self.note("read")
        data[:] = b"\xab" * len(data)


class SlowShared(Slow, DeviceIo):
    """Slow, and called by any thread."""


class SlowLocked(Slow, DeviceIoMut):
    """Slow, and in need of a Mutex."""


def test_a_device_is_removed_while_a_thread_is_inside_its_handler(machine: Machine) -> None:
    before = machine.state()
    card = SlowShared()
    machine.devices.add_device("card", card)
    reader = Worker(machine.bus.mmio_load, MMIO_BASE, 4)
    assert card.inside.wait(DEADLOCK)
    machine.devices.remove_device("card")
    assert machine.state() == before
    with pytest.raises(NoDeviceError):
        machine.bus.mmio_load(MMIO_BASE, 4)
    assert reader.is_alive()
    card.let_go.set()
    assert reader.result() == 0xABAB_ABAB
    assert card.calls[-2:] == ["release_resources", "read"]


def test_removing_a_device_in_a_mutex_releases_its_resources_when_its_handler_returns(machine: Machine) -> None:
    before = machine.state()
    card = SlowLocked()
    machine.devices.add_device("card", Mutex(card))
    off_the_bus = threading.Event()
    machine.bus.on_change(lambda added, removed: off_the_bus.set())
    reader = Worker(machine.bus.mmio_load, MMIO_BASE, 4)
    assert card.inside.wait(DEADLOCK)
    remover = Worker(machine.devices.remove_device, "card")
    assert off_the_bus.wait(DEADLOCK)
    assert len(machine.bus.mmio_bus) == 0
    assert machine.resources.get_free_ranges("mmio") != before[-1][1]
    card.let_go.set()
    assert reader.result() == 0xABAB_ABAB
    assert isinstance(remover.result(), Mutex)
    assert card.calls[-2:] == ["read", "release_resources"]
    assert machine.state() == before


def test_removing_a_device_in_a_mutex_without_release_resources_does_not_wait_for_its_handler(machine: Machine) -> None:
    class Indifferent(DeviceIoMut):
        def __init__(self) -> None:
            self.slow = Slow()

        def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
            return self.slow.wishes

        def assign_resources(self, resources: DeviceResources) -> None:
            self.slow.resources = resources

        def get_assigned_resources(self) -> DeviceResources:
            return self.slow.resources

        def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
            self.slow.read(base, offset, data)

    before = machine.state()
    inner = Indifferent()
    machine.devices.add_device("card", Mutex(inner))
    reader = Worker(machine.bus.mmio_load, MMIO_BASE, 4)
    assert inner.slow.inside.wait(DEADLOCK)
    machine.devices.remove_device("card")
    assert machine.state() == before
    assert reader.is_alive()
    inner.slow.let_go.set()
    assert reader.result() == 0xABAB_ABAB


def test_threads_that_add_and_remove_devices_get_along(machine: Machine) -> None:
    before = machine.state()
    stop = threading.Event()

    def plug(name: str) -> None:
        card = SharedCard([ResourceConstraint.new_mmio(0x1000), ResourceConstraint.new_pio(4)])
        for _ in range(60):
            [(base, _)] = machine.devices.add_device(name, card).get_mmio_address_ranges()
            assert machine.bus.mmio_load(base, 1) == 0x5A
            assert machine.bus.mmio_bus.find(base) is card
            assert machine.devices[name] is card
            machine.devices.remove_device(name)

    def access() -> None:
        while not stop.is_set():
            for base in range(MMIO_BASE, MMIO_BASE + 0x4000, 0x1000):
                with suppress(NoDeviceError):
                    assert machine.bus.mmio_load(base, 1) == 0x5A
            assert all(isinstance(device, SharedCard) for device in machine.devices.values())

    reader = Worker(access)
    plugs = [Worker(plug, f"card{index}") for index in range(3)]
    try:
        for worker in plugs:
            worker.result()
    finally:
        stop.set()
    reader.result()
    assert machine.state() == before


def test_of_many_threads_one_gets_the_name(machine: Machine) -> None:
    start = threading.Barrier(4)

    def work() -> type[Exception] | None:
        start.wait(DEADLOCK)
        try:
            machine.devices.add_device("card", SharedCard())
        except DuplicateDeviceError as error:
            return type(error)
        return None

    outcome = [worker.result() for worker in [Worker(work) for _ in range(4)]]
    assert sorted(outcome, key=str) == [DuplicateDeviceError] * 3 + [None]
    assert len(machine.bus.pio_bus) == 1
