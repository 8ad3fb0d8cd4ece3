"""Allocation and free in a `ResourceManager` among 1, 100 and 10000 live ranges.

Each figure is one allocation and the free of it.

in a row
    The live ranges are adjacent: one free range is left.
lowest hole
    Every second range was freed again, and the first of the holes fits.
above all holes
    The same holes, none of which fits.
odd alignment
    The same holes, of which the alignment rules all out.
device
    Four constraints of a device at once, among as many devices as there are ranges (ports and memory slots would run
    out, so that it asks for none).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from dbs_device import ResourceConstraint
from dbs_device.resource_manager import ResourceManager
from suites.harness import Case, Plan, Timer, statement_timer

LIVE_RANGES = (1, 100, 10_000)
PAIRS = 50  # of an allocation and its free, in one pass
PAGE = 0x1000
MMIO = (0, (1 << 45) - 1)
DEVICE = [
    ResourceConstraint.new_mmio(PAGE),
    ResourceConstraint.new_mmio(0x100),
    ResourceConstraint.new_pci_msix_irq(4),
    ResourceConstraint.new_mem(PAGE),
]
# whether there are holes, size, alignment
ADDRESS_CASES = {
    "in a row": (False, PAGE, PAGE),
    "lowest hole": (True, PAGE, PAGE),
    "above all holes": (True, 2 * PAGE, PAGE),
    "odd alignment": (True, 1, (1 << 40) - 1),
}


@functools.cache
def resource_manager_with(live: int, holes: bool) -> ResourceManager:
    """Return a manager with so many live ranges of a page; with holes of a page between them or without."""
    manager = ResourceManager(mmio=MMIO)
    bases = [manager.allocate_mmio_address(PAGE) for _ in range(2 * live if holes else live)]
    if holes:
        for base in bases[1::2]:
            manager.free_mmio_address(base, PAGE)
    return manager


@functools.cache
def resource_manager_with_devices(live: int) -> ResourceManager:
    manager = ResourceManager(mmio=MMIO, msi_irq=(24, 24 + 4 * live + 3))
    for _ in range(live):
        manager.allocate_device_resources(DEVICE)
    return manager


def prepare_address_allocation(live: int, holes: bool, size: int, align: int) -> Timer:
    manager = resource_manager_with(live, holes)
    return statement_timer(
        "free(allocate(size, None, align), size)",
        range(PAIRS),
        allocate=manager.allocate_mmio_address,
        free=manager.free_mmio_address,
        size=size,
        align=align,
    )


def prepare_device_allocation(live: int) -> Timer:
    manager = resource_manager_with_devices(live)
    return statement_timer(
        "free(allocate(constraints))",
        range(PAIRS),
        allocate=manager.allocate_device_resources,
        free=manager.free_device_resources,
        constraints=DEVICE,
    )


def allocation_cases(plan: Plan) -> Iterator[Case]:
    for live in LIVE_RANGES if not plan.quick else LIVE_RANGES[:2]:
        for name, arguments in ADDRESS_CASES.items():
            prepare = functools.partial(prepare_address_allocation, live, *arguments)
            yield Case(f"allocation/{name}/{live}", prepare, PAIRS)
        yield Case(f"allocation/device/{live}", functools.partial(prepare_device_allocation, live), PAIRS)
