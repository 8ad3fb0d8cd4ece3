"""What a guest's address space is made of: memory that it accesses directly, and windows whose accesses are trapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..address import Space
from ..device import DeviceIo
from .address_map import MappedMemory, MappedRange
from .guest_memory import memory_of
from .memory import HostMemory

__all__ = ["Region", "needed_regions", "parts_outside"]

# What Unicorn maps of the host's memory, and KVM's slots, begin with a page of the host.
_HOST_PAGE = 0x1000


class Region(NamedTuple):
    """Whole pages of the guest.

    Attributes
    ----------
    first, last : int
        First and last address, both inclusive.
    memory : MappedMemory or None
        What is behind them, from `first` to `last`; None for a window.
    """

    first: int
    last: int
    memory: MappedMemory | None

    def part(self, first: int, last: int) -> Region:
        """Return the region of a part of it."""
        memory = self.memory
        if memory is not None:
            memory = memory._replace(base=first, last=last, address=memory.address + first - self.first)
        return Region(first, last, memory)


def needed_regions(ranges: Iterable[tuple[int, int, DeviceIo]], page_size: int) -> Iterator[Region]:
    """Yield the regions that ranges need, by address; windows beside each other are one.

    Parameters
    ----------
    ranges : iterable of (int, int, DeviceIo)
        First and last address, and device, by address.
    page_size : int
        Bytes of a page of the guest; a power of two.
    """
    window: tuple[int, int] | None = None
    for region in _regions_of_each(ranges, page_size):
        if region.memory is None and window is not None and region.first <= window[1] + 1:
            window = window[0], max(window[1], region.last)
            continue
        if window is not None:
            yield Region(*window, None)
            window = None
        if region.memory is None:
            window = region.first, region.last
        else:
            yield region
    if window is not None:
        yield Region(*window, None)


def _regions_of_each(ranges: Iterable[tuple[int, int, DeviceIo]], page_size: int) -> Iterator[Region]:
    mask = page_size - 1
    for base, last, device in ranges:
        first, end = base & ~mask, last | mask
        memory = None
        if isinstance(device, HostMemory):
            memory = memory_of(MappedRange(Space.MMIO, base, last, device))
        if memory is None:
            yield Region(first, end, None)
            continue
        # Pages that are wholly in the range, and begin a page of the host.
        inner, inner_end = (base + mask) & ~mask, (last + 1) & ~mask
        address = memory.address + inner - base
        if inner >= inner_end or address % _HOST_PAGE:
            yield Region(first, end, None)
            continue
        if first < inner:
            yield Region(first, inner - 1, None)
        yield Region(inner, inner_end - 1, memory._replace(base=inner, last=inner_end - 1, address=address))
        if inner_end <= end:
            yield Region(inner_end, end, None)


def parts_outside(needed: Iterable[Region], mapped: Iterable[tuple[int, int]]) -> Iterator[Region]:
    """Yield the parts of regions that are outside of what is mapped: (first, last) of each, in any order."""
    taken = sorted(mapped)
    index = 0
    for region in needed:
        first = region.first
        while index < len(taken) and taken[index][1] < first:
            index += 1
        at = index
        while at < len(taken) and taken[at][0] <= region.last:
            if first < taken[at][0]:
                yield region.part(first, taken[at][0] - 1)
            first = max(first, taken[at][1] + 1)
            at += 1
        if first <= region.last:
            yield region.part(first, region.last)
