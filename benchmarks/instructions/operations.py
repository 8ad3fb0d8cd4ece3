"""The operations whose instructions are counted. This runs under callgrind: see ``callgrind.py``."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import compiled
from suites import workloads
from suites.workloads import DEVICES, REGISTER_DEVICES, IdleDevice

from dbs_device import IoAddress, IoManager, Resource
from instructions import memory_operations, register_operations, trace_operations

RANGES = 64
WARM_UP = 100  # CPython specialises a function within the first calls of it
MANY = 4096


def operations() -> dict[str, tuple[Callable[[], None], int]]:
    """Return by name: a function that counts so many operations, and how many."""
    counted = compiled.accesses()
    ranges = workloads.address_map(RANGES)
    native, python, mutex = (workloads.manager_of(ranges, DEVICES[kind]) for kind in ("native", "python", "mutex"))
    integers, buffers = (workloads.manager_of(ranges, make_device) for make_device in REGISTER_DEVICES.values())
    open_bus = workloads.manager_of(ranges, IdleDevice, open_bus=0xFF)
    same, random, unowned = (
        workloads.addresses_of(ranges, pattern, RANGES).tolist() for pattern in ("same", "random", "unowned")
    )
    view, many = memoryview(bytearray(4)), workloads.addresses_of(ranges, "random", MANY)

    string = bytearray(MANY)
    ports = {kind: IoManager() for kind in ("native", "python")}
    for kind, manager in ports.items():
        manager.register_device_io(DEVICES[kind](), [Resource.PioAddressRange(0x10, 4)])

    def access(made: Any, addresses: list[int]) -> tuple[Callable[[], None], int]:
        return lambda: made.count(addresses, WARM_UP), len(addresses)

    def call(method: Any, addresses: list[int], *arguments: Any) -> tuple[Callable[[], None], int]:
        calls = [(address, *arguments) for address in addresses]
        return lambda: counted.count_calls(method, calls, WARM_UP), len(addresses)

    return {
        "C: load, held tables, same range": access(counted.held_load(native.tables()), same),
        "C: load, held tables, random": access(counted.held_load(native.tables()), random),
        "C: load, held tables, unowned": access(counted.held_load(native.tables()), unowned),
        "C: store, held tables, same range": access(counted.held_store(native.tables()), same),
        "C: load, manager, same range": access(counted.manager_load(native), same),
        "C: entry point load, same range": access(counted.entry_point_load(native), same),
        "C: load, held tables, Python device": access(counted.held_load(python.tables()), same),
        "C: call of a Python device, without a bus": (
            lambda: counted.count_calls(IdleDevice().read, [(IoAddress(0), IoAddress(8), view)] * RANGES, WARM_UP),
            RANGES,
        ),
        "Python: mmio_read memoryview": call(python.mmio_read, same, view),
        "Python: mmio_read bytearray": call(python.mmio_read, same, bytearray(4)),
        "Python: mmio_write bytes": call(python.mmio_write, same, b"abcd"),
        "Python: mmio_load": call(python.mmio_load, same, 4),
        "Python: mmio_store": call(python.mmio_store, same, 4, 0x12345678),
        "Python: mmio_read, Mutex": call(mutex.mmio_read, same, view),
        "Python: mmio_load, native device": call(native.mmio_load, same, 4),
        "Python: mmio_load, registers on integers": call(integers.mmio_load, same, 4),
        "Python: mmio_store, registers on integers": call(integers.mmio_store, same, 4, 0x12345678),
        "Python: mmio_load, registers on buffers": call(buffers.mmio_load, same, 4),
        "Python: mmio_store, registers on buffers": call(buffers.mmio_store, same, 4, 0x12345678),
        "C: load, held tables, registers on integers": access(counted.held_load(integers.tables()), same),
        "Python: find, same range": call(python.mmio_bus.find, same),
        "Python: find, random": call(python.mmio_bus.find, random),
        "Python: find_many, per address": (
            lambda: counted.count_calls(python.mmio_bus.find_many, [(many,)], 2),
            MANY,
        ),
        **{
            f"Python: pio_in_string, {kind} device, per item": (
                lambda manager=manager: counted.count_calls(manager.pio_in_string, [(0x10, 1, string)], 2),
                MANY,
            )
            for kind, manager in ports.items()
        },
        "Python: miss, raising": call(python.mmio_load, unowned, 4),
        "Python: miss, open bus": call(open_bus.mmio_load, unowned, 4),
        **register_operations.operations(counted),
        **memory_operations.operations(counted),
        **trace_operations.operations(counted),
    }


def main() -> None:
    made = operations()
    # The collector would run in the middle of some operation or other.
    gc.disable()
    for count, _ in made.values():
        count()


if __name__ == "__main__":
    main()
