"""Accesses from Python to a Python device, one behind a Mutex and a native one; misses; and the floors.

    python benchmarks/bench_access.py [--only 'access/mmio_read/.*'] [pyperf's options]

The devices do nothing. ``plain`` and ``by hand`` are calls of the device's own method without a bus: with all that it
is given ready, and with the memoryview made for each call; ``called from C`` is the plain read in a compiled loop.
``access/loop`` is the Python loop around each statement, which the report subtracts. From C (``c load``), the same
devices are reached on held tables, without the GIL and with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import compiled
import numpy as np
import workloads
from harness import Case, Plan, Timer, main, statement_timer
from workloads import PATTERNS, IdleDevice, IdleDeviceMut

from dbs_device import IoAddress, IoManager, Mutex, NativeDevice, NoDeviceError, Resource
from dbs_device.trace import TraceRecorder

ACCESSES = 4096
RANGES = 64  # where the number of ranges does not matter
NEAR, FAR = 8, 0x18000
BIG_BASE, BIG_SIZE = 0xFEE0_0000, 0x40000  # a range that has both offsets

DEVICES: dict[str, Callable[[], Any]] = {
    "python": IdleDevice,
    "mutex": lambda: Mutex(IdleDeviceMut()),
    "native": NativeDevice,
}
MMIO_STATEMENTS = {
    "mmio_read": "manager.mmio_read(address, view)",
    "mmio_read bytearray": "manager.mmio_read(address, array)",
    "mmio_write": "manager.mmio_write(address, payload)",
    "mmio_load": "manager.mmio_load(address, 4)",
    "mmio_store": "manager.mmio_store(address, 4, 0x12345678)",
}
PIO_STATEMENTS = {
    "pio_read": "manager.pio_read(address, view)",
    "pio_write": "manager.pio_write(address, payload)",
    "pio_in": "manager.pio_in(address, 4)",
    "pio_out": "manager.pio_out(address, 4, 0x12345678)",
}
# All accesses of a pass at once: `addresses` and `values` are arrays, `string` is a buffer of that many elements.
BATCH_STATEMENTS = {
    "mmio_load_many": "manager.mmio_load_many(addresses, 4)",
    "mmio_store_many": "manager.mmio_store_many(addresses, 4, values)",
    "pio_in_string": "manager.pio_in_string(0x10, 1, string)",
    "pio_out_string": "manager.pio_out_string(0x10, 1, string)",
}
PLAIN_STATEMENTS = {
    "plain read": "device.read(base, offset, view)",
    "plain write": "device.write(base, offset, view)",
    "by hand read": "device.read(base, offset, memoryview(array))",
    "by hand write": "device.write(base, offset, memoryview(payload))",
}
SCALED = ("mmio_read", "mmio_load")  # measured for every number of ranges and every pattern


@functools.lru_cache(2)
def manager_with(device: str, count: int, open_bus: int | None = None) -> IoManager:
    return workloads.manager_of(workloads.address_map(count), DEVICES[device], open_bus=open_bus)


@functools.lru_cache(2)
def port_manager(device: str) -> IoManager:
    manager = IoManager()
    for base in workloads.port_map(RANGES):
        manager.register_device_io(DEVICES[device](), [Resource.PioAddressRange(base, workloads.PORTS)])
    return manager


@functools.lru_cache(2 * len(PATTERNS))
def addresses_in(count: int, pattern: str) -> list[int]:
    return workloads.addresses_of(workloads.address_map(count), pattern, ACCESSES).tolist()


def ports_in(pattern: str) -> list[int]:
    """Return ports in the pattern that the MMIO addresses have."""
    owners = [(address - workloads.FIRST_SLOT) // workloads.SLOT for address in addresses_in(RANGES, pattern)]
    return [workloads.port_map(RANGES)[owner] for owner in owners]


def timer_of(statement: str, addresses: list[int], **names: Any) -> Timer:
    array = bytearray(4)
    return statement_timer(statement, addresses, array=array, view=memoryview(array), payload=b"abcd", **names)


def prepare_mmio(operation: str, device: str, pattern: str, count: int) -> Timer:
    return timer_of(MMIO_STATEMENTS[operation], addresses_in(count, pattern), manager=manager_with(device, count))


def prepare_pio(operation: str, device: str, pattern: str) -> Timer:
    return timer_of(PIO_STATEMENTS[operation], ports_in(pattern), manager=port_manager(device))


def prepare_batch(operation: str, device: str, pattern: str) -> Timer:
    is_port = operation.startswith("pio")
    return statement_timer(
        BATCH_STATEMENTS[operation],
        [None],
        manager=port_manager(device) if is_port else manager_with(device, RANGES),
        addresses=np.array(addresses_in(RANGES, pattern), np.uint64),
        values=np.zeros(ACCESSES, np.uint64),
        string=bytearray(ACCESSES),
    )


class ManagerInPython(IoManager):
    """A subclass, of which CPython specialises no calls."""


def prepare_variant(variant: str) -> Timer:
    """Return the timer of mmio_load on a subclass of the manager, or through a recorder."""
    addresses = addresses_in(RANGES, "same")
    if variant == "by a subclass":
        manager = ManagerInPython()
        for base, last, device in manager_with("python", RANGES).mmio_bus:
            manager.register_device_io(device, [Resource.MmioAddressRange(base, last - base + 1)])
        return timer_of(MMIO_STATEMENTS["mmio_load"], addresses, manager=manager)
    recorder = TraceRecorder(manager_with("python", RANGES), enabled=variant == "recorded")
    timer = timer_of(MMIO_STATEMENTS["mmio_load"], addresses, manager=recorder)

    def forgetful_timer(passes: int) -> float:
        recorder.clear()
        return timer(passes)

    return forgetful_timer


VARIANTS = ("by a subclass", "recorder off", "recorded")


def prepare_offset(operation: str, offset: int) -> Timer:
    manager = manager_with("python", RANGES - 1).clone()
    manager.register_device_io(IdleDevice(), [Resource.MmioAddressRange(BIG_BASE, BIG_SIZE)])
    return timer_of(MMIO_STATEMENTS[operation], [BIG_BASE + offset] * ACCESSES, manager=manager)


def prepare_plain(statement: str, offset: int) -> Timer:
    names = {"device": IdleDevice(), "base": IoAddress(BIG_BASE), "offset": IoAddress(offset)}
    return timer_of(PLAIN_STATEMENTS[statement], [BIG_BASE + offset] * ACCESSES, **names)


def prepare_call_from_c(offset: int) -> Timer:
    loops = compiled.module("loops")
    calls = loops.CallFromC(IdleDevice().read, IoAddress(BIG_BASE), IoAddress(offset), memoryview(bytearray(4)))
    return lambda passes: calls.time(passes * ACCESSES)


def prepare_loop() -> Timer:
    return timer_of("pass", [BIG_BASE] * ACCESSES)


def prepare_empty_method() -> Timer:
    empty = compiled.module("loops").Empty()
    return timer_of("empty.method(address, 4)", [BIG_BASE] * ACCESSES, empty=empty)


CATCHING = """try:
                {statement}
            except NoDeviceError:
                pass"""


def prepare_miss(operation: str, space: str, open_bus: int | None) -> Timer:
    manager = manager_with("python", RANGES, open_bus)
    if space == "pio":
        statement, addresses = PIO_STATEMENTS[operation], [0x8000] * ACCESSES
    else:
        statement, addresses = MMIO_STATEMENTS[operation], addresses_in(RANGES, "unowned")
    if open_bus is None:
        statement = CATCHING.format(statement=statement)
    return timer_of(statement, addresses, manager=manager, NoDeviceError=NoDeviceError)


def prepare_c_load(device: str, pattern: str, release_gil: bool) -> Timer:
    tables = manager_with(device, RANGES).tables()
    access = compiled.module("loops").held_load(tables, release_gil)
    addresses = workloads.addresses_of(workloads.address_map(RANGES), pattern, ACCESSES)
    return lambda passes: access.time(addresses, passes)[0]


def cases(plan: Plan) -> Iterator[Case]:
    def case(name: str, prepare: Callable[..., Timer], *arguments: Any) -> Case:
        return Case(f"access/{name}", functools.partial(prepare, *arguments), ACCESSES)

    yield Case("access/loop", prepare_loop, ACCESSES, always=True)
    yield case("empty method", prepare_empty_method)
    for offset in (NEAR, FAR):
        for statement in PLAIN_STATEMENTS:
            yield case(f"{statement}/offset {offset:#x}", prepare_plain, statement, offset)
        yield case(f"called from C/offset {offset:#x}", prepare_call_from_c, offset)
        for operation in ("mmio_read", "mmio_read bytearray", "mmio_write"):
            yield case(f"{operation}/offset {offset:#x}", prepare_offset, operation, offset)
    for device in DEVICES:
        for pattern in ("same", "random"):
            for operation in MMIO_STATEMENTS:
                name = f"{operation}/{device}/{pattern}/{RANGES}"
                yield case(name, prepare_mmio, operation, device, pattern, RANGES)
            for operation in PIO_STATEMENTS:
                yield case(f"{operation}/{device}/{pattern}/{RANGES}", prepare_pio, operation, device, pattern)
            for gil, release in (("", True), (", GIL held", False)):
                yield case(f"c load{gil}/{device}/{pattern}/{RANGES}", prepare_c_load, device, pattern, release)
        for operation in BATCH_STATEMENTS:
            for pattern in ("same", "random") if operation.startswith("mmio") else ("same",):
                name = f"{operation}/{device}/{pattern}/{RANGES}"
                yield case(name, prepare_batch, operation, device, pattern)
    for variant in VARIANTS:
        yield case(f"mmio_load/{variant}/same/{RANGES}", prepare_variant, variant)
    for rule, open_bus in (("raising", None), ("open bus", 0xFF)):
        for operation in ("mmio_read", "mmio_load"):
            yield case(f"{operation}/miss, {rule}/unowned/{RANGES}", prepare_miss, operation, "mmio", open_bus)
        yield case(f"pio_in/miss, {rule}/unowned/{RANGES}", prepare_miss, "pio_in", "pio", open_bus)
    for count in plan.sizes:
        for device in ("python", "native"):
            for pattern in PATTERNS[:-1]:
                for operation in SCALED:
                    if count != RANGES or pattern not in ("same", "random"):
                        name = f"{operation}/{device}/{pattern}/{count}"
                        yield case(name, prepare_mmio, operation, device, pattern, count)


if __name__ == "__main__":
    main("access", cases)
