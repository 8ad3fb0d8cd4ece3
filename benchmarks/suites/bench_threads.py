"""Dispatch on 1 and 2 threads: wall time per access of all threads together, so that half is perfect for two.

``held`` and ``manager`` are compiled loops without the GIL on native devices; ``python`` is `mmio_read` of a Python
device. The threads use one device, or each its own; either way they share the manager.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import compiled
import numpy as np

from suites import workloads
from suites.harness import ACCESSES, WALL_TIME, Case, Plan, Timer, statement_timer

THREADS = (1, 2)
RANGES = 64
NATIVE_ACCESSES = 1 << 15


def addresses_for(thread: int, own_device: bool, accesses: int) -> np.ndarray:
    ranges = workloads.address_map(RANGES)
    return np.full(accesses, ranges.bases[10 + 20 * thread * own_device])


def timer_of_threads(bodies: list[Callable[[int], Any]]) -> Timer:
    """Return a timer that runs each body in a thread of its own, from the moment when all are ready."""

    def timer(passes: int) -> float:
        ready = threading.Barrier(len(bodies) + 1)

        def run(body: Callable[[int], Any]) -> None:
            ready.wait()
            body(passes)

        threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    return timer


def prepare_native_threads(kind: str, threads: int, own_device: bool) -> Timer:
    ours = compiled.accesses()
    manager = workloads.manager_of(workloads.address_map(RANGES), ours.OffsetDevice)
    access = ours.held_load(manager.tables()) if kind == "held" else ours.manager_load(manager)
    return timer_of_threads(
        [
            functools.partial(access.time, addresses_for(thread, own_device, NATIVE_ACCESSES))
            for thread in range(threads)
        ]
    )


def prepare_python_threads(threads: int, own_device: bool) -> Timer:
    manager = workloads.manager_of(workloads.address_map(RANGES))
    return timer_of_threads(
        [
            statement_timer(
                "manager.mmio_read(address, view)",
                addresses_for(thread, own_device, ACCESSES).tolist(),
                manager=manager,
                view=memoryview(bytearray(4)),
            )
            for thread in range(threads)
        ]
    )


def threads_cases(plan: Plan) -> Iterator[Case]:
    for own_device in (False, True):
        devices = "own devices" if own_device else "one device"
        for threads in THREADS:
            for kind in ("held", "manager"):
                prepare = functools.partial(prepare_native_threads, kind, threads, own_device)
                accesses = threads * NATIVE_ACCESSES
                yield Case(f"threads/{kind}, {devices}/{threads}", prepare, accesses, clock=WALL_TIME)
            prepare = functools.partial(prepare_python_threads, threads, own_device)
            yield Case(f"threads/python, {devices}/{threads}", prepare, threads * ACCESSES, clock=WALL_TIME)
