"""The cost of changes of the map: register, unregister, transactions, clone; memory for each range; import time.

Resources and devices are made before. ``changes/btree_map clone`` and ``changes/std_map clone`` copy the maps that
stand for the Rust crate, which does that at the beginning of every transaction.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

from peers import native

from dbs_device import IoManager, Resource
from suites import workloads
from suites.harness import WALL_TIME, Case, Plan, Timer, statement_timer
from suites.workloads import IdleDevice, shared_manager

NEW_BASE = workloads.FIRST_SLOT - workloads.SLOT  # below all other ranges, where a table has to be moved as a whole
NEW_RANGE = [Resource.MmioAddressRange(NEW_BASE, 0x100)]
CLONES = 100
IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "dbs_device": "import dbs_device",
}


def prepare_register(count: int, unregister: bool) -> Timer:
    manager, device = shared_manager(count).clone(), IdleDevice()
    clock = time.thread_time

    def timer(passes: int) -> float:
        seconds = 0.0
        for _ in range(passes):
            began = clock()
            manager.register_device_io(device, NEW_RANGE)
            between = clock()
            manager.unregister_device_io(NEW_RANGE)
            seconds += clock() - between if unregister else between - began
        return seconds

    return timer


def prepare_transaction(count: int) -> Timer:
    manager, device = shared_manager(count).clone(), IdleDevice()
    clock = time.thread_time

    def timer(passes: int) -> float:
        seconds = 0.0
        for _ in range(passes):
            began = clock()
            transaction = manager.begin_tx()
            transaction.register_device_io(device, NEW_RANGE)
            transaction.commit()
            seconds += clock() - began
            manager.unregister_device_io(NEW_RANGE)
        return seconds

    return timer


def prepare_fill(count: int) -> Timer:
    ranges = workloads.address_map(count)
    resources = workloads.resources_of(ranges)
    shuffled = [resources[index] for index in ranges.order.tolist()]
    devices = [IdleDevice() for _ in shuffled]
    statement = "fill(IoManager(), devices, resources)"
    return statement_timer(statement, fill=workloads.fill, IoManager=IoManager, devices=devices, resources=shuffled)


def prepare_clone(count: int) -> Timer:
    return statement_timer("clone()", range(CLONES), clone=shared_manager(count).clone)


def prepare_peer_clone(name: str, count: int) -> Timer:
    peer = native.NativePeer(name, workloads.address_map(count))
    return statement_timer("clone_and_drop(1)", clone_and_drop=peer.clone_and_drop)


def prepare_memory(count: int) -> Timer:
    """Return a 'timer' that gives the bytes that one manager takes, without its devices and resources."""
    resources = workloads.resources_of(workloads.address_map(count))
    devices = [IdleDevice() for _ in resources]

    def bytes_taken(passes: int) -> float:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        manager = IoManager()
        workloads.fill(manager, devices, resources)
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return taken * passes

    return bytes_taken


def prepare_import(statement: str) -> Timer:
    # -P: from the sources' folder, which has a dbs_device too, it is the installed one that is imported.
    command = [sys.executable, "-P", "-c", statement]
    return statement_timer("run(command, check=True)", clock=time.perf_counter, run=subprocess.run, command=command)


def changes_cases(plan: Plan) -> Iterator[Case]:
    def case(name: str, prepare: Callable[..., Timer], *arguments: object, accesses: int = 1) -> Case:
        return Case(f"changes/{name}", functools.partial(prepare, *arguments), accesses)

    for count in plan.sizes:
        yield case(f"register/{count}", prepare_register, count, False)
        yield case(f"unregister/{count}", prepare_register, count, True)
        yield case(f"transaction/{count}", prepare_transaction, count)
        yield case(f"clone/{count}", prepare_clone, count, accesses=CLONES)
        for name in native.native_peers():
            yield case(f"{name} clone/{count}", prepare_peer_clone, name, count)
        yield case(f"fill/{count}", prepare_fill, count, accesses=count)
        yield Case(f"memory/{count}", functools.partial(prepare_memory, count), count, unit="byte")
    for name, statement in IMPORTS.items():
        yield Case(f"import/{name}", functools.partial(prepare_import, statement), clock=WALL_TIME)
