"""Native dispatch: compiled loops on held tables, on the manager, through the C entry point, and on other engines.

    python benchmarks/bench_native.py [--only 'native/.*/random/64'] [pyperf's options]

Every access goes to a device in C, C++ or Rust that writes the offset. All run in the same loop through a function
pointer (``loops.pyx``). ``native/loop`` is that loop without an access, which the report subtracts;
``native/direct call`` calls a device and looks nothing up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import engines
import workloads
from harness import Case, Plan, Timer, main
from workloads import PATTERNS

ACCESSES = 1 << 17  # so many that no branch predictor learns the order of them
SUBJECTS = ("held read", "std_map", "btree_map", "held load", "manager load", "callback load")


@functools.lru_cache(1)
def accesses_to(count: int):
    made = engines.accesses(workloads.address_map(count))
    for pattern in PATTERNS:
        engines.check(made, addresses_in(count, pattern))
    return made


@functools.lru_cache(len(PATTERNS))
def addresses_in(count: int, pattern: str):
    return workloads.addresses_of(workloads.address_map(count), pattern, ACCESSES)


def prepare(subject: str, pattern: str, count: int) -> Timer:
    access, addresses = accesses_to(count)[subject], addresses_in(count, pattern)
    return lambda passes: access.time(addresses, passes)[0]


def prepare_idle(subject: str) -> Timer:
    access, addresses = engines.idle_accesses()[subject], addresses_in(1, "same")
    return lambda passes: access.time(addresses, passes)[0]


def cases(plan: Plan) -> Iterator[Case]:
    for subject in engines.idle_accesses():
        yield Case(f"native/{subject}", functools.partial(prepare_idle, subject), ACCESSES, always=True)
    available = accesses_to(1)
    for count in plan.sizes:
        for pattern in PATTERNS:
            for subject in SUBJECTS:
                if subject in available:
                    name = f"native/{subject}/{pattern}/{count}"
                    yield Case(name, functools.partial(prepare, subject, pattern, count), ACCESSES)


if __name__ == "__main__":
    main("native", cases)
