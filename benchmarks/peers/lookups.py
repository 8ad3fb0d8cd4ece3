"""The peers of `Bus.find`: other ways to find the owner of an address, each written as its author would for this job.

A peer is built from ranges (base, last, device), sorted by base, and `lookup(address)` returns the range of an address
or None. `check_lookups` compares its answers with ours.
"""

from __future__ import annotations

import importlib.util
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from dbs_device import IoManager

Range = tuple[int, int, Any]

PAGE_SHIFT = 12


class Peer:
    """One way. `largest` is the number of ranges up to which it is measured, and `reason` why not further."""

    name: ClassVar[str]
    module: ClassVar[str | None] = None
    largest: ClassVar[int] = 65536
    reason: ClassVar[str] = ""
    highest_address: ClassVar[int] = 2**64 - 1
    # Time of a look-up in ns, and the increase for each range. Very rough: it sets how many look-ups are measured.
    lookup_time: ClassVar[float] = 1000.0
    range_time: ClassVar[float] = 0.0

    def __init__(self, ranges: Sequence[Range]) -> None:
        raise NotImplementedError

    def lookup(self, address: int) -> Range | None:
        raise NotImplementedError


class IfChain(Peer):
    """A chain of comparisons, as in the first version of many emulators; here it is generated."""

    name = "if chain"
    range_time = 20.0
    largest = 4096
    reason = "such a chain takes seconds to compile"

    def __init__(self, ranges: Sequence[Range]) -> None:
        lines = ["def lookup(address):"]
        for index, (base, last, _) in enumerate(ranges):
            lines += [f"    if {base:#x} <= address <= {last:#x}:", f"        return range{index}"]
        lines.append("    return None")
        # Its ranges are constants of the function, as devices are in a chain written by hand.
        names = {f"range{index}": range_ for index, range_ in enumerate(ranges)}
        exec("\n".join(lines), names)
        self.lookup = names["lookup"]  # type: ignore[method-assign]


class ListScan(Peer):
    """A list of ranges that is gone through: what Qiling does."""

    name = "list scan"
    range_time = 20.0

    def __init__(self, ranges: Sequence[Range]) -> None:
        self.ranges = list(ranges)

    def lookup(self, address: int) -> Range | None:
        for range_ in self.ranges:
            if range_[0] <= address <= range_[1]:
                return range_
        return None


class PageDict(Peer):
    """A dict from each page to the ranges that lie in it: the fastest for small ranges, and a page costs an entry."""

    name = "dict of pages"

    def __init__(self, ranges: Sequence[Range]) -> None:
        pages: dict[int, list[Range]] = {}
        for range_ in ranges:
            for page in range(range_[0] >> PAGE_SHIFT, (range_[1] >> PAGE_SHIFT) + 1):
                pages.setdefault(page, []).append(range_)
        self.pages = {page: tuple(inside) for page, inside in pages.items()}

    def lookup(self, address: int) -> Range | None:
        for range_ in self.pages.get(address >> PAGE_SHIFT, ()):
            if range_[0] <= address <= range_[1]:
                return range_
        return None


class BisectList(Peer):
    """`bisect` over a list of bases."""

    name = "bisect"

    def __init__(self, ranges: Sequence[Range]) -> None:
        self.bases = [base for base, _, _ in ranges]
        self.ranges = list(ranges)

    def lookup(self, address: int) -> Range | None:
        index = bisect_right(self.bases, address) - 1
        if index >= 0:
            range_ = self.ranges[index]
            if address <= range_[1]:
                return range_
        return None


class SortedDictPeer(Peer):
    """`sortedcontainers.SortedDict` from base to range, which also takes changes in O(log(ranges))."""

    name = "SortedDict"
    module = "sortedcontainers"

    def __init__(self, ranges: Sequence[Range]) -> None:
        from sortedcontainers import SortedDict

        self.ranges = SortedDict((range_[0], range_) for range_ in ranges)

    def lookup(self, address: int) -> Range | None:
        index = self.ranges.bisect_right(address) - 1
        if index >= 0:
            range_ = self.ranges.peekitem(index)[1]
            if address <= range_[1]:
                return range_
        return None


class IntervalTreePeer(Peer):
    """`intervaltree.IntervalTree`, which also answers for ranges that overlap."""

    name = "intervaltree"
    module = "intervaltree"

    def __init__(self, ranges: Sequence[Range]) -> None:
        from intervaltree import IntervalTree

        self.tree = IntervalTree.from_tuples((range_[0], range_[1] + 1, range_) for range_ in ranges)

    def lookup(self, address: int) -> Range | None:
        for interval in self.tree.at(address):
            return interval.data
        return None


class PortionPeer(Peer):
    """`portion.IntervalDict`, which is made for arithmetic on intervals and looks at one after the other."""

    name = "portion"
    module = "portion"
    lookup_time = 5000.0
    range_time = 500.0
    largest = 1024
    reason = "a look-up takes half a millisecond there already"

    def __init__(self, ranges: Sequence[Range]) -> None:
        import portion

        self.ranges = portion.IntervalDict()
        for range_ in ranges:
            self.ranges[portion.closed(range_[0], range_[1])] = range_

    def lookup(self, address: int) -> Range | None:
        return self.ranges.get(address)


class SearchSorted(Peer):
    """`numpy.searchsorted`, one address at a time; a Python integer as key would be compared as float64."""

    name = "numpy.searchsorted"

    def __init__(self, ranges: Sequence[Range]) -> None:
        self.bases = np.array([base for base, _, _ in ranges], np.uint64)
        self.ranges = list(ranges)

    def lookup(self, address: int) -> Range | None:
        index = self.bases.searchsorted(np.uint64(address), "right") - 1
        if index >= 0:
            range_ = self.ranges[index]
            if address <= range_[1]:
                return range_
        return None


class IntervalIndexPeer(Peer):
    """`pandas.IntervalIndex`, one address at a time."""

    name = "pandas.IntervalIndex"
    module = "pandas"
    lookup_time = 20_000.0
    range_time = 1.0

    def __init__(self, ranges: Sequence[Range]) -> None:
        import pandas

        self.ranges = list(ranges)
        bases = np.array([base for base, _, _ in ranges], np.uint64)
        lasts = np.array([last for _, last, _ in ranges], np.uint64)
        self.index = pandas.IntervalIndex.from_arrays(bases, lasts, closed="both")

    def lookup(self, address: int) -> Range | None:
        try:
            return self.ranges[self.index.get_loc(address)]
        except KeyError:
            return None


class NclsPeer(Peer):
    """`ncls.NCLS`, a nested containment list, made for millions of queries at once."""

    name = "ncls"
    module = "ncls"
    highest_address = 2**63 - 2  # it counts in int64, and its ends are exclusive

    def __init__(self, ranges: Sequence[Range]) -> None:
        from ncls import NCLS

        self.ranges = list(ranges)
        bases = np.array([base for base, _, _ in ranges], np.int64)
        ends = np.array([last + 1 for _, last, _ in ranges], np.int64)
        self.find_overlap = NCLS(bases, ends, np.arange(len(ranges), dtype=np.int64)).find_overlap

    def lookup(self, address: int) -> Range | None:
        for _, _, index in self.find_overlap(address, address + 1):
            return self.ranges[index]
        return None


class SuperIntervalsPeer(Peer):
    """`superintervals.IntervalMap`. It counts in int32, so that addresses are taken relative to the first range."""

    name = "superintervals"
    module = "superintervals"

    def __init__(self, ranges: Sequence[Range]) -> None:
        from superintervals import IntervalMap

        if ranges[-1][1] - ranges[0][0] >= 2**32:
            raise OverflowError("superintervals counts in int32")
        self.origin = ranges[0][0] + 2**31
        intervals = IntervalMap()
        for range_ in ranges:
            intervals.add(range_[0] - self.origin, range_[1] - self.origin, range_)
        intervals.build()
        self.search_values = intervals.search_values

    def lookup(self, address: int) -> Range | None:
        place = address - self.origin
        if -(2**31) <= place < 2**31:
            for range_ in self.search_values(place, place):
                return range_
        return None


PEERS: tuple[type[Peer], ...] = (
    IfChain,
    ListScan,
    PageDict,
    BisectList,
    SortedDictPeer,
    IntervalTreePeer,
    PortionPeer,
    SearchSorted,
    IntervalIndexPeer,
    NclsPeer,
    SuperIntervalsPeer,
)


def is_module_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def installed_peers() -> list[type[Peer]]:
    return [peer for peer in PEERS if peer.module is None or is_module_installed(peer.module)]


def missing_peers() -> dict[str, str]:
    """Return the peers that are not installed, and why they are missing."""
    installed = installed_peers()
    return {peer.name: f"{peer.module} is not installed" for peer in PEERS if peer not in installed}


def ranges_of(manager: IoManager) -> list[Range]:
    """Return what a peer is built from: the MMIO ranges of a manager."""
    return list(manager.mmio_bus)


def check_lookups(peer: Peer, manager: IoManager, addresses: Iterable[int]) -> None:
    """Raise AssertionError unless the peer finds the same owner as the manager does for each address."""
    find = manager.mmio_bus.find
    for address in addresses:
        found = peer.lookup(address)
        owner = None if found is None else found[2]
        if owner is not find(address):
            raise AssertionError(f"{peer.name} finds {owner} at {address:#x}, and the bus {find(address)}")


def edges_of(ranges: Sequence[Range]) -> list[int]:
    """Return the addresses where a look-up goes wrong first: both ends of each range, and their neighbours."""
    edges = {edge for base, last, _ in ranges for edge in (base - 1, base, last, last + 1)}
    return sorted(edge for edge in edges if 0 <= edge < 2**64)
