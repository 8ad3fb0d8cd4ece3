"""Allocation and free in a `ResourceManager` among 1, 100 and 10000 live ranges.

    python benchmarks/bench_allocation.py [--fast] [-o allocation.json]

Each figure is one allocation and the free of it.

in a row
    The live ranges lie without a gap between them: one free range is left.
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
from collections.abc import Callable

import pyperf

from dbs_device import ResourceConstraint
from dbs_device.resource_manager import ResourceManager

LIVE_RANGES = (1, 100, 10_000)
PAGE = 0x1000
MMIO = (0, (1 << 45) - 1)
DEVICE = [
    ResourceConstraint.new_mmio(PAGE),
    ResourceConstraint.new_mmio(0x100),
    ResourceConstraint.new_pci_msix_irq(4),
    ResourceConstraint.new_mem(PAGE),
]


@functools.cache
def manager_with(live: int, holes: bool) -> ResourceManager:
    """Return a manager with so many live ranges of a page; with holes of a page between them or without."""
    manager = ResourceManager(mmio=MMIO)
    bases = [manager.allocate_mmio_address(PAGE) for _ in range(2 * live if holes else live)]
    if holes:
        for base in bases[1::2]:
            manager.free_mmio_address(base, PAGE)
    return manager


@functools.cache
def manager_with_devices(live: int) -> ResourceManager:
    manager = ResourceManager(mmio=MMIO, msi_irq=(24, 24 + 4 * live + 3))
    for _ in range(live):
        manager.allocate_device_resources(DEVICE)
    return manager


def time_address(loops: int, live: int, holes: bool, size: int, align: int) -> float:
    manager = manager_with(live, holes)
    allocate, free = manager.allocate_mmio_address, manager.free_mmio_address
    begin = pyperf.perf_counter()
    for _ in range(loops):
        free(allocate(size, None, align), size)
    return pyperf.perf_counter() - begin


def time_device(loops: int, live: int) -> float:
    manager = manager_with_devices(live)
    allocate, free = manager.allocate_device_resources, manager.free_device_resources
    begin = pyperf.perf_counter()
    for _ in range(loops):
        free(allocate(DEVICE))
    return pyperf.perf_counter() - begin


def main() -> None:
    runner = pyperf.Runner()
    runner.metadata["description"] = "dbs_device.resource_manager: allocation and free"
    cases: dict[str, tuple[Callable[..., float], tuple[object, ...]]] = {
        "in a row": (time_address, (False, PAGE, PAGE)),
        "lowest hole": (time_address, (True, PAGE, PAGE)),
        "above all holes": (time_address, (True, 2 * PAGE, PAGE)),
        "odd alignment": (time_address, (True, 1, (1 << 40) - 1)),
        "device": (time_device, ()),
    }
    for case, (function, arguments) in cases.items():
        for live in LIVE_RANGES:
            runner.bench_time_func(f"{case}, {live} live", function, live, *arguments)


if __name__ == "__main__":
    main()
