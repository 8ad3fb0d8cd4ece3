"""Accesses from Python to a Python device, one behind a Mutex and a native one; misses; and the floors.

The devices do nothing, but for two that have values of registers: one has integer handlers, one buffer handlers.
``plain`` and ``by hand`` are calls of the device's own method without a bus: with all that it is given ready, and with
the memoryview made for each call; ``called from C`` is the plain read in a compiled loop. From C (``c load``,
``c store``), the same devices are reached on held tables; ``c load`` without the GIL and with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import compiled
import numpy as np

from dbs_device import IoAddress, IoManager, NoDeviceError, Resource
from dbs_device.trace import TraceRecorder
from suites import workloads
from suites.harness import ACCESSES, Case, Plan, Timer, empty_method_timer, loop_timer, statement_timer
from suites.workloads import DEVICES, REGISTER_DEVICES, IdleDevice, shared_addresses, shared_manager

RANGES = 64
NEAR, FAR = 8, 0x18000
BIG_BASE, BIG_SIZE = 0xFEE0_0000, 0x40000  # a range that has both offsets
LOOP = "access/loop"

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
    "by hand read": "device.read(base, offset, memoryview(array))",
    "by hand write": "device.write(base, offset, memoryview(payload))",
}
C_OPERATIONS = ("c load", "c load, GIL held", "c store")
VARIANTS = ("by a subclass", "recorder off", "recorded")
CATCHING = """try:
                {statement}
            except NoDeviceError:
                pass"""


@functools.lru_cache(2)
def port_manager(device: str) -> IoManager:
    manager = IoManager()
    for base in workloads.port_map(RANGES):
        manager.register_device_io(DEVICES[device](), [Resource.PioAddressRange(base, workloads.PORTS)])
    return manager


def ports_in(pattern: str) -> list[int]:
    """Return ports in the pattern that the MMIO addresses have."""
    addresses = shared_addresses(RANGES, pattern, ACCESSES)
    owners = [(address - workloads.FIRST_SLOT) // workloads.SLOT for address in addresses]
    return [workloads.port_map(RANGES)[owner] for owner in owners]


def access_timer(statement: str, addresses: list[int], **names: Any) -> Timer:
    array = bytearray(4)
    return statement_timer(statement, addresses, array=array, view=memoryview(array), payload=b"abcd", **names)


def prepare_mmio(operation: str, device: str, pattern: str) -> Timer:
    addresses = shared_addresses(RANGES, pattern, ACCESSES)
    return access_timer(MMIO_STATEMENTS[operation], addresses, manager=shared_manager(RANGES, device))


def prepare_pio(operation: str, device: str, pattern: str) -> Timer:
    return access_timer(PIO_STATEMENTS[operation], ports_in(pattern), manager=port_manager(device))


def prepare_batch(operation: str, device: str, pattern: str) -> Timer:
    is_port = operation.startswith("pio")
    return statement_timer(
        BATCH_STATEMENTS[operation],
        manager=port_manager(device) if is_port else shared_manager(RANGES, device),
        addresses=np.array(shared_addresses(RANGES, pattern, ACCESSES), np.uint64),
        values=np.zeros(ACCESSES, np.uint64),
        string=bytearray(ACCESSES),
    )


class ManagerInPython(IoManager):
    """A subclass, of which CPython specialises no calls."""


def prepare_variant(variant: str) -> Timer:
    """Return the timer of mmio_load on a subclass of the manager, or through a recorder."""
    addresses = shared_addresses(RANGES, "same", ACCESSES)
    if variant == "by a subclass":
        manager = ManagerInPython()
        for base, last, device in shared_manager(RANGES).mmio_bus:
            manager.register_device_io(device, [Resource.MmioAddressRange(base, last - base + 1)])
        return access_timer(MMIO_STATEMENTS["mmio_load"], addresses, manager=manager)
    recorder = TraceRecorder(shared_manager(RANGES), enabled=variant == "recorded")
    timer = access_timer(MMIO_STATEMENTS["mmio_load"], addresses, manager=recorder)

    def forgetful_timer(passes: int) -> float:
        recorder.clear()
        return timer(passes)

    return forgetful_timer


def prepare_offset(operation: str, offset: int) -> Timer:
    manager = shared_manager(RANGES - 1).clone()
    manager.register_device_io(IdleDevice(), [Resource.MmioAddressRange(BIG_BASE, BIG_SIZE)])
    return access_timer(MMIO_STATEMENTS[operation], [BIG_BASE + offset] * ACCESSES, manager=manager)


def prepare_plain(statement: str, offset: int) -> Timer:
    names = {"device": IdleDevice(), "base": IoAddress(BIG_BASE), "offset": IoAddress(offset)}
    return access_timer(PLAIN_STATEMENTS[statement], [BIG_BASE + offset] * ACCESSES, **names)


def prepare_call_from_c(offset: int) -> Timer:
    view = memoryview(bytearray(4))
    calls = compiled.accesses().CallFromC(IdleDevice().read, IoAddress(BIG_BASE), IoAddress(offset), view)
    return lambda passes: calls.time(passes * ACCESSES)


def prepare_miss(operation: str, open_bus: int | None) -> Timer:
    if operation in PIO_STATEMENTS:
        statement, addresses = PIO_STATEMENTS[operation], [0x8000] * ACCESSES
    else:
        statement, addresses = MMIO_STATEMENTS[operation], shared_addresses(RANGES, "unowned", ACCESSES)
    if open_bus is None:
        statement = CATCHING.format(statement=statement)
    manager = shared_manager(RANGES, open_bus=open_bus)
    return access_timer(statement, addresses, manager=manager, NoDeviceError=NoDeviceError)


def prepare_from_c(operation: str, device: str, pattern: str) -> Timer:
    ours, tables = compiled.accesses(), shared_manager(RANGES, device).tables()
    if operation == "c store":
        access = ours.held_store(tables)
    else:
        access = ours.held_load(tables, release_gil=operation == "c load")
    addresses = workloads.addresses_of(workloads.address_map(RANGES), pattern, ACCESSES)
    return lambda passes: access.time(addresses, passes)[0]


def access_cases(plan: Plan) -> Iterator[Case]:
    def case(name: str, prepare: Callable[..., Timer], *arguments: Any, loop: str | None = LOOP) -> Case:
        return Case(f"access/{name}", functools.partial(prepare, *arguments), ACCESSES, loop)

    yield case("loop", loop_timer, loop=None)
    yield case("empty method", empty_method_timer)
    for offset in (NEAR, FAR):
        for statement in PLAIN_STATEMENTS:
            yield case(f"{statement}/offset {offset:#x}", prepare_plain, statement, offset)
        yield case(f"called from C/offset {offset:#x}", prepare_call_from_c, offset, loop=None)
        for operation in ("mmio_read", "mmio_read bytearray", "mmio_write"):
            yield case(f"{operation}/offset {offset:#x}", prepare_offset, operation, offset)
    for device in DEVICES:
        for pattern in ("same", "random"):
            place = f"{device}/{pattern}/{RANGES}"
            for operation in MMIO_STATEMENTS:
                yield case(f"{operation}/{place}", prepare_mmio, operation, device, pattern)
            for operation in PIO_STATEMENTS:
                yield case(f"{operation}/{place}", prepare_pio, operation, device, pattern)
            for operation in C_OPERATIONS:
                yield case(f"{operation}/{place}", prepare_from_c, operation, device, pattern, loop=None)
        for operation in BATCH_STATEMENTS:
            for pattern in ("same", "random") if operation.startswith("mmio") else ("same",):
                name = f"{operation}/{device}/{pattern}/{RANGES}"
                yield case(name, prepare_batch, operation, device, pattern, loop=None)
    for device in REGISTER_DEVICES:
        for operation in ("mmio_load", "mmio_store"):
            yield case(f"{operation}/{device}/same/{RANGES}", prepare_mmio, operation, device, "same")
    for variant in VARIANTS:
        yield case(f"mmio_load/{variant}/same/{RANGES}", prepare_variant, variant)
    for rule, open_bus in (("raising", None), ("open bus", 0xFF)):
        for operation in ("mmio_load", "pio_in"):
            yield case(f"{operation}/miss, {rule}/unowned/{RANGES}", prepare_miss, operation, open_bus)
