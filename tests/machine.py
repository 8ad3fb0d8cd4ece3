"""A virtual machine for the tests of the device manager, and cards to plug into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dbs_device import DeviceIo, DeviceIoMut, DeviceResources, IoAddress, Mutex, ResourceConstraint
from dbs_device.device_manager import DeviceManager, DeviceManagerContext, IoManager
from dbs_device.resource_manager import ResourceManager

POOLS = ("pio", "mmio", "mem", "legacy_irq", "msi_irq", "kvm_mem_slots")
WISHES = (
    ResourceConstraint.new_pio(8),
    ResourceConstraint.new_mmio(0x1000),
    ResourceConstraint.new_legacy_irq(),
    ResourceConstraint.new_kvm_mem_slot(2),
)
MMIO_BASE = 0xC000_0000


class Card:
    """The part of a device that is managed. It notes each call, and can be made to fail at one."""

    unhandled = "ignore"

    def __init__(self, wishes: Iterable[ResourceConstraint] = WISHES) -> None:
        self.wishes = wishes
        self.resources = DeviceResources()
        self.calls: list[str] = []
        self.on_call: Callable[[str], None] = lambda name: None

    def note(self, name: str) -> None:
        self.calls.append(name)
        self.on_call(name)

    def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
        self.note("get_resource_constraints")
        return self.wishes

    def assign_resources(self, resources: DeviceResources) -> None:
        self.note("assign_resources")
        self.resources = resources

    def release_resources(self) -> None:
        self.note("release_resources")
        self.resources = DeviceResources()

    def get_assigned_resources(self) -> DeviceResources:
        return self.resources

    def get_trapped_io_resources(self) -> DeviceResources:
        self.note("get_trapped_io_resources")
        return self.resources

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.note("read")
        data[0] = 0x5A


class SharedCard(Card, DeviceIo):
    """A card that any thread may call."""


class LockedCard(Card, DeviceIoMut):
    """A card that needs a Mutex."""


class Machine:
    """Bus, resources and devices, with their state as a value."""

    def __init__(self, context: type[DeviceManagerContext] = DeviceManagerContext, **layout: Any) -> None:
        self.bus = IoManager()
        self.resources = ResourceManager(**layout)
        self.context = context(self.bus)
        self.devices = DeviceManager(self.context, self.resources)

    def state(self) -> tuple[Any, ...]:
        return (
            dict(self.devices.items()),
            list(self.bus.pio_bus),
            list(self.bus.mmio_bus),
            [self.resources.get_free_ranges(pool) for pool in POOLS],
        )


def pair_of_card(protected: bool) -> tuple[DeviceIo, Card]:
    if protected:
        locked = LockedCard()
        return Mutex(locked), locked
    shared = SharedCard()
    return shared, shared
