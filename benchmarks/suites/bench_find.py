"""The owner of an address: `Bus.find` and each peer, from Python, one address at a time and many at once.

Every peer answers the same as `find` for both ends of each range, their neighbours and random addresses before it is
measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
from peers import lookups

from suites import workloads
from suites.harness import ACCESSES, Case, Plan, Timer, empty_method_timer, loop_timer, statement_timer
from suites.workloads import PATTERNS, shared_addresses, shared_manager

FEW = 16  # what a slow peer is asked at least; evenly spread over the ranges
PASS_TIME = 4e6  # ns that a pass takes at most, about
CHECKED = 512
LOOP = "find/loop"

MANY_SIZES = (64, 256, 1024, 4096)
MANY_ADDRESSES = 1_000_000
MANY_PEERS = {"find_many": None, "numpy.searchsorted": None, "pandas.IntervalIndex": "pandas", "ncls": "ncls"}


@functools.lru_cache(1)
def checked_peer(peer: type[lookups.Peer], count: int) -> lookups.Peer:
    manager = shared_manager(count)
    ranges = lookups.ranges_of(manager)
    made = peer(ranges)
    random = np.random.default_rng(workloads.SEED)
    few = min(CHECKED, accesses_of_peer(peer, count))
    asked = [shared_addresses(count, pattern, ACCESSES) for pattern in ("random", "unowned")]
    for addresses in (lookups.edges_of(ranges), *asked):
        lookups.check_lookups(made, manager, (addresses[i] for i in random.integers(0, len(addresses), few)))
    return made


def accesses_of_peer(peer: type[lookups.Peer], count: int) -> int:
    wanted = PASS_TIME / (peer.lookup_time + count * peer.range_time)
    return next(accesses for accesses in (ACCESSES, 1024, 256, 64, FEW) if accesses <= max(wanted, FEW))


def prepare_find(pattern: str, count: int) -> Timer:
    bus = shared_manager(count).mmio_bus
    return statement_timer("bus.find(address)", shared_addresses(count, pattern, ACCESSES), bus=bus)


def prepare_lookup(peer: type[lookups.Peer], pattern: str, count: int) -> Timer:
    addresses = shared_addresses(count, pattern, accesses_of_peer(peer, count))
    return statement_timer("lookup(address)", addresses, lookup=checked_peer(peer, count).lookup)


# ----------------------------------------------------------------------------- many at once


def find_many_by(subject: str, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from an array of addresses to the array of the indices of their ranges, -1 for none."""
    bus = shared_manager(count).mmio_bus
    bases, lasts = np.array(bus.bases), np.array(bus.lasts)

    def searchsorted(addresses: np.ndarray) -> np.ndarray:
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

    def ncls(addresses: np.ndarray) -> np.ndarray:
        starts = addresses.astype(np.int64)
        found, owners = intervals.first_overlap_both(starts, starts + 1, rows[: len(addresses)])
        indices = np.full(len(addresses), -1)
        indices[found] = owners
        return indices

    return ncls


@functools.lru_cache(1)
def many_addresses(count: int) -> np.ndarray:
    """Return random addresses, one in eight of which is unowned."""
    ranges = workloads.address_map(count)
    addresses = workloads.addresses_of(ranges, "random", MANY_ADDRESSES)
    unowned = workloads.addresses_of(ranges, "unowned", MANY_ADDRESSES)
    return np.where(np.random.default_rng(workloads.SEED).random(MANY_ADDRESSES) < 1 / 8, unowned, addresses)


def prepare_many(subject: str, count: int) -> Timer:
    addresses = many_addresses(count)
    find = find_many_by(subject, count)
    sample = addresses[:10_000]
    if not np.array_equal(find(sample), find_many_by("find_many", count)(sample)):
        raise AssertionError(f"{subject} and find_many do not agree")
    return statement_timer("find(addresses)", find=find, addresses=addresses)


def find_cases(plan: Plan) -> Iterator[Case]:
    yield Case(LOOP, loop_timer, ACCESSES)
    yield Case("find/empty method", empty_method_timer, ACCESSES, LOOP)
    installed = lookups.installed_peers()
    patterns = ("same", "random") if plan.quick else PATTERNS
    for count in plan.sizes:
        for pattern in patterns:
            prepare = functools.partial(prepare_find, pattern, count)
            yield Case(f"find/find/{pattern}/{count}", prepare, ACCESSES, LOOP)
        for peer in installed:
            if count <= peer.largest:
                for pattern in patterns:
                    prepare = functools.partial(prepare_lookup, peer, pattern, count)
                    name = f"find/{peer.name}/{pattern}/{count}"
                    yield Case(name, prepare, accesses_of_peer(peer, count), LOOP)
    for count in MANY_SIZES if not plan.quick else MANY_SIZES[:1]:
        for subject, module in MANY_PEERS.items():
            if module is None or lookups.is_module_installed(module):
                prepare = functools.partial(prepare_many, subject, count)
                yield Case(f"many/{subject}/random/{count}", prepare, MANY_ADDRESSES)
