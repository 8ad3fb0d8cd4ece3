"""What changes of the map cost: register, unregister, transactions, clone; memory for each range; import time.

    python benchmarks/bench_changes.py [--only 'changes/transaction/.*'] [pyperf's options]

Resources and devices are made before. ``changes/btree_map clone`` and ``changes/std_map clone`` copy the maps that
stand for the Rust crate, which does that at the beginning of every transaction.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

import engines
import workloads
from harness import WALL_TIME, Case, Plan, Timer, main
from workloads import IdleDevice

from dbs_device import IoManager, Resource

NEW_BASE = workloads.FIRST_SLOT - workloads.SLOT  # below all other ranges, where a table has to be moved as a whole
NEW_RANGE = [Resource.MmioAddressRange(NEW_BASE, 0x100)]
CLONES = 100
IMPORTS = {
    "python": "pass",
    "numpy": "import numpy",
    "dbs_device": "import dbs_device",
}


@functools.lru_cache(1)
def manager_with(count: int) -> IoManager:
    return workloads.manager_of(workloads.address_map(count))


def prepare_register(count: int, unregister: bool) -> Timer:
    manager, device = manager_with(count).clone(), IdleDevice()
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
    manager, device = manager_with(count).clone(), IdleDevice()
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
    order = ranges.order.tolist()
    shuffled = [(IdleDevice(), resources[index]) for index in order]

    def timer(passes: int) -> float:
        began = time.thread_time()
        for _ in range(passes):
            manager = IoManager()
            with manager.begin_tx() as transaction:
                for device, device_resources in shuffled:
                    transaction.register_device_io(device, device_resources)
        return time.thread_time() - began

    return timer


def prepare_clone(count: int) -> Timer:
    manager = manager_with(count)

    def timer(passes: int) -> float:
        clone = manager.clone
        began = time.thread_time()
        for _ in range(passes):
            for _ in range(CLONES):
                clone()
        return time.thread_time() - began

    return timer


def prepare_foreign_clone(name: str, count: int) -> Timer:
    engine = engines.ForeignEngine(name, workloads.address_map(count))

    def timer(passes: int) -> float:
        began = time.thread_time()
        engine.clone_and_drop(passes)
        return time.thread_time() - began

    return timer


def prepare_memory(count: int) -> Timer:
    """Return a 'timer' that gives the bytes that one manager takes, without its devices and resources."""
    ranges = workloads.address_map(count)
    resources = workloads.resources_of(ranges)
    devices = [IdleDevice() for _ in resources]

    def bytes_taken(passes: int) -> float:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        manager = IoManager()
        with manager.begin_tx() as transaction:
            for device, device_resources in zip(devices, resources, strict=True):
                transaction.register_device_io(device, device_resources)
        del transaction
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return taken * passes

    return bytes_taken


def prepare_import(statement: str) -> Timer:
    def timer(passes: int) -> float:
        began = time.perf_counter()
        for _ in range(passes):
            subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - began

    return timer


def cases(plan: Plan) -> Iterator[Case]:
    def case(name: str, prepare: Callable[..., Timer], *arguments: object, accesses: int = 1) -> Case:
        return Case(f"changes/{name}", functools.partial(prepare, *arguments), accesses)

    for count in plan.sizes:
        yield case(f"register/{count}", prepare_register, count, False)
        yield case(f"unregister/{count}", prepare_register, count, True)
        yield case(f"transaction/{count}", prepare_transaction, count)
        yield case(f"clone/{count}", prepare_clone, count, accesses=CLONES)
        for name in engines.FOREIGN:
            if engines.library(name) is not None:
                yield case(f"{name} clone/{count}", prepare_foreign_clone, name, count)
        yield case(f"fill/{count}", prepare_fill, count, accesses=count)
        yield Case(f"memory/{count}", functools.partial(prepare_memory, count), count, unit="byte")
    for name, statement in IMPORTS.items():
        if importlib.util.find_spec(name) is not None or name == "python":
            yield Case(f"import/{name}", functools.partial(prepare_import, statement), clock=WALL_TIME)


if __name__ == "__main__":
    main("changes", cases)
