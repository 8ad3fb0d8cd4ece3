"""Native dispatch: compiled loops on held tables, on the manager, through the C entry point, and on the peers.

Every access goes to a device in C, C++ or Rust that writes the offset. All run in the same loop through a function
pointer (``accesses.pyx``). ``idle call`` calls a function that does nothing, ``direct call`` calls a device and looks
nothing up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import compiled
import numpy as np
from peers import native

from suites import workloads
from suites.harness import Case, Plan, Timer
from suites.workloads import PATTERNS

ACCESSES = 1 << 17  # so many that no branch predictor learns the order of them
SUBJECTS = ("held read", *native.NATIVE_PEERS, "manager load", "entry point load")
LOOP = "native/loop"


@functools.lru_cache(1)
def checked_accesses(count: int) -> dict[str, Any]:
    made = native.accesses_to(workloads.address_map(count))
    for pattern in PATTERNS:
        native.check_accesses(made, native_addresses(count, pattern))
    return made


@functools.lru_cache(len(PATTERNS))
def native_addresses(count: int, pattern: str) -> np.ndarray:
    return workloads.addresses_of(workloads.address_map(count), pattern, ACCESSES)


def prepare_native(subject: str, pattern: str, count: int) -> Timer:
    access, addresses = checked_accesses(count)[subject], native_addresses(count, pattern)
    return lambda passes: access.time(addresses, passes)[0]


def prepare_floor(name: str) -> Timer:
    access, addresses = getattr(compiled.accesses(), name)(), native_addresses(1, "same")
    return lambda passes: access.time(addresses, passes)[0]


def native_cases(plan: Plan) -> Iterator[Case]:
    yield Case(LOOP, functools.partial(prepare_floor, "empty_loop"), ACCESSES)
    yield Case("native/idle call", functools.partial(prepare_floor, "idle_call"), ACCESSES, LOOP)
    yield Case("native/direct call", functools.partial(prepare_floor, "direct_read"), ACCESSES, LOOP)
    missing = native.missing_native_peers()
    for count in plan.sizes:
        for pattern in PATTERNS:
            for subject in SUBJECTS:
                if subject not in missing:
                    name = f"native/{subject}/{pattern}/{count}"
                    yield Case(name, functools.partial(prepare_native, subject, pattern, count), ACCESSES, LOOP)
