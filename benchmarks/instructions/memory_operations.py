"""The operations on memory whose instructions are counted: RAM as a range, through adapters, and under all ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbs_device import IoManager, Resource
from dbs_device.memory import AccessRule, Alias, GuestMemory, MemoryView, Mirror, Ram

ACCESSES = 64
WARM_UP = 100
BASE, SIZE = 0x1000, 0x1000


def operations(counted: Any) -> dict[str, tuple[Callable[[], None], int]]:
    """Return by name: a function that counts so many operations, and how many."""
    ram = Ram(SIZE)
    addresses = [BASE + 8] * ACCESSES

    def manager_of(device: Any) -> IoManager:
        manager = IoManager()
        manager.register_device_io(device, [Resource.MemAddressRange(BASE, SIZE)])
        return manager

    def load(manager: IoManager) -> tuple[Callable[[], None], int]:
        made = counted.held_load(manager.tables())
        return lambda: made.count(addresses, WARM_UP), ACCESSES

    def store(manager: IoManager) -> tuple[Callable[[], None], int]:
        made = counted.held_store(manager.tables())
        return lambda: made.count(addresses, WARM_UP), ACCESSES

    def call(method: Any, *arguments: Any) -> tuple[Callable[[], None], int]:
        return lambda: counted.count_calls(method, [arguments] * ACCESSES, WARM_UP), ACCESSES

    manager, background = manager_of(ram), IoManager(background=Ram(BASE + SIZE))
    memory, view = GuestMemory(manager), MemoryView(manager)
    return {
        "C: load, Ram": load(manager),
        "C: store, Ram": store(manager),
        "C: load, Alias of Ram": load(manager_of(Alias(ram, 0))),
        "C: load, Mirror of Ram": load(manager_of(Mirror(ram, SIZE - 1))),
        "C: load, AccessRule of Ram": load(manager_of(AccessRule(ram))),
        "C: load, Ram as background": load(background),
        "Python: MemoryView, item": call(view.__getitem__, BASE + 8),
        "Python: GuestMemory.read, 16 bytes": call(memory.read, BASE + 8, 16),
    }
