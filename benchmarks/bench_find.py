"""Who owns an address: `Bus.find` and each peer, from Python, one address at a time and many at once.

    python benchmarks/bench_find.py [--only 'find/.*/random/64'] [pyperf's options]

Every peer answers the same as `find` for both ends of each range, their neighbours and random addresses before it is
measured. ``find/loop`` is the Python loop around each look-up, which the report subtracts; ``find/empty method`` is a
method of a cdef class that takes two arguments and does nothing.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import compiled
import numpy as np
import peers
import workloads
from harness import Case, Plan, Timer, main, statement_timer
from workloads import PATTERNS

ACCESSES = 4096
FEW = 16  # what a slow peer is asked at least; evenly spread over the ranges
PASS_TIME = 4e6  # ns that a pass takes at most, about
MANY_SIZES = (64, 256, 1024, 4096)
CHECKED = 512


@functools.lru_cache(1)
def manager_with(count: int):
    return workloads.manager_of(workloads.address_map(count))


@functools.lru_cache(1)
def peer_with(peer: type[peers.Peer], count: int) -> peers.Peer:
    manager = manager_with(count)
    ranges = peers.ranges_of(manager)
    made = peer(ranges)
    random = np.random.default_rng(workloads.SEED)
    edges = peers.edges_of(ranges)
    few = min(CHECKED, accesses_of(peer, count))
    for addresses in (edges, addresses_in(count, "random", ACCESSES), addresses_in(count, "unowned", ACCESSES)):
        peers.check(made, manager, (addresses[i] for i in random.integers(0, len(addresses), few)))
    return made


@functools.lru_cache(2 * len(PATTERNS))
def addresses_in(count: int, pattern: str, accesses: int) -> list[int]:
    return workloads.addresses_of(workloads.address_map(count), pattern, accesses).tolist()


def accesses_of(peer: type[peers.Peer], count: int) -> int:
    wanted = PASS_TIME / (peer.lookup_time + count * peer.range_time)
    return next(accesses for accesses in (ACCESSES, 1024, 256, 64, FEW) if accesses <= max(wanted, FEW))


def prepare_find(pattern: str, count: int) -> Timer:
    bus = manager_with(count).mmio_bus
    return statement_timer("bus.find(address)", addresses_in(count, pattern, ACCESSES), bus=bus)


def prepare_peer(peer: type[peers.Peer], pattern: str, count: int) -> Timer:
    lookup = peer_with(peer, count).lookup
    addresses = addresses_in(count, pattern, accesses_of(peer, count))
    return statement_timer("lookup(address)", addresses, lookup=lookup)


def prepare_loop() -> Timer:
    return statement_timer("pass", addresses_in(1, "same", ACCESSES))


def prepare_empty_method() -> Timer:
    empty = compiled.module("loops").Empty()
    return statement_timer("empty.method(address, 4)", addresses_in(1, "same", ACCESSES), empty=empty)


# ----------------------------------------------------------------------------- many at once


def find_many_by(subject: str, count: int):
    """Return a function from an array of addresses to the array of the indices of their ranges, -1 for none."""
    bus = manager_with(count).mmio_bus
    bases, lasts = np.array(bus.bases), np.array(bus.lasts)

    def searchsorted(addresses):
        indices = bases.searchsorted(addresses, "right") - 1
        indices[(indices < 0) | (addresses > lasts[indices])] = -1
        return indices

    if subject == "find_many":
        return bus.find_many
    if subject == "numpy.searchsorted":
        return searchsorted
    if subject == "pandas.IntervalIndex":
        import pandas

        return pandas.IntervalIndex.from_arrays(bases, lasts, closed="both").get_indexer
    from ncls import NCLS

    intervals = NCLS(bases.astype(np.int64), lasts.astype(np.int64) + 1, np.arange(count))
    rows = np.arange(MANY_ADDRESSES)

    def ncls(addresses):
        starts = addresses.astype(np.int64)
        found, owners = intervals.first_overlap_both(starts, starts + 1, rows[: len(addresses)])
        indices = np.full(len(addresses), -1)
        indices[found] = owners
        return indices

    return ncls


MANY_ADDRESSES = 1_000_000
MANY_PEERS = {"find_many": None, "numpy.searchsorted": None, "pandas.IntervalIndex": "pandas", "ncls": "ncls"}


@functools.lru_cache(1)
def many_addresses(count: int, total: int) -> np.ndarray:
    """Return random addresses, one in eight of which nobody owns."""
    ranges = workloads.address_map(count)
    addresses = workloads.addresses_of(ranges, "random", total)
    unowned = workloads.addresses_of(ranges, "unowned", total)
    return np.where(np.random.default_rng(workloads.SEED).random(total) < 1 / 8, unowned, addresses)


def prepare_many(subject: str, count: int) -> Timer:
    addresses = many_addresses(count, MANY_ADDRESSES)
    find = find_many_by(subject, count)
    sample = addresses[:10_000]
    if not np.array_equal(find(sample), find_many_by("find_many", count)(sample)):
        raise AssertionError(f"{subject} and find_many do not agree")

    def timer(passes: int) -> float:
        began = time.thread_time()
        for _ in range(passes):
            find(addresses)
        return time.thread_time() - began

    return timer


def cases(plan: Plan) -> Iterator[Case]:
    yield Case("find/loop", prepare_loop, ACCESSES, always=True)
    yield Case("find/empty method", prepare_empty_method, ACCESSES)
    installed = [peer for peer in peers.PEERS if peers.is_installed(peer)]
    patterns = ("same", "random") if plan.quick else PATTERNS
    for count in plan.sizes:
        for pattern in patterns:
            yield Case(f"find/find/{pattern}/{count}", functools.partial(prepare_find, pattern, count), ACCESSES)
        for peer in installed:
            if count <= peer.largest:
                for pattern in patterns:
                    name = f"find/{peer.name}/{pattern}/{count}"
                    yield Case(name, functools.partial(prepare_peer, peer, pattern, count), accesses_of(peer, count))
    for count in MANY_SIZES if not plan.quick else MANY_SIZES[:1]:
        for subject, module in MANY_PEERS.items():
            if module is None or peers.is_module_installed(module):
                name = f"many/{subject}/random/{count}"
                yield Case(name, functools.partial(prepare_many, subject, count), MANY_ADDRESSES)


if __name__ == "__main__":
    main("find", cases)
