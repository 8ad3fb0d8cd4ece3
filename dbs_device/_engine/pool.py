"""A pool of numbers (ports, addresses, interrupts, slots) from which ranges are allocated.

The free numbers are sorted, disjoint ranges; adjacent ones are merged. They are stored in two `array`s, so that a
change is a bisection and a block move, and a search is a few numpy passes over the same memory, whose cost hardly
depends on fragmentation or alignment.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRangeError, format_range

__all__ = ["RangePool"]

_RANGES_SHOWN = 4

_Numbers: TypeAlias = NDArray[np.uint64]


class RangePool:
    """Allocates the lowest range of numbers that fits. Not thread-safe.

    A signal handler may raise in any method, which then has changed nothing: changes are made by assignments and
    deletions after the last call, since CPython runs signal handlers where functions begin, after calls of C functions,
    and where loops start over.

    Parameters
    ----------
    name : str
        The kind of numbers, for messages.
    ranges : iterable of (int, int)
        First and last number of each range, inclusive, in any order.
    maximum : int
        The highest possible number, at most 2**64 - 1.
    number_format : str
        How the numbers are printed: "#x" or "d".

    Raises
    ------
    InvalidRangeError
        A range is empty, runs past `maximum` or overlaps another one.
    """

    __slots__ = ("_firsts", "_format", "_lasts", "_live", "_maximum", "name")

    def __init__(self, name: str, ranges: Iterable[tuple[int, int]], maximum: int, number_format: str) -> None:
        self.name = name
        self._maximum = maximum
        self._format = number_format
        self._firsts = array("Q")
        self._lasts = array("Q")
        self._live: dict[int, int] = {}  # first number of each allocation -> its last
        previous: tuple[int, int] | None = None
        for first, last in sorted(ranges):
            if not 0 <= first <= last <= maximum:
                raise InvalidRangeError(
                    f"{name}: range {self._range(first, last)} is empty or outside {self._range(0, maximum)}"
                )
            if previous is not None and first <= previous[1]:
                raise InvalidRangeError(f"{name}: range {self._range(first, last)} overlaps {self._range(*previous)}")
            self._insert_free(first, last)
            previous = first, last

    def allocate(self, size: int, align: int = 1, lowest: int = 0, highest: int | None = None) -> int | None:
        """Allocate the lowest `size` contiguous free numbers within `lowest`..`highest`. O(free ranges), some ns each.

        Parameters
        ----------
        size : int
            How many, 1..2**64.
        align : int
            The first one is a multiple of it; 1..2**64 - 1.
        lowest, highest : int
            Bounds of the whole allocation, inclusive; by default, those of the space.

        Returns
        -------
        int or None
            The first number, or None if nothing fits.
        """
        base = self._find(size, align, lowest, self._maximum if highest is None else highest)
        if base is not None:
            self._remove_free(base, base + size - 1)
        return base

    def free(self, base: int, size: int) -> None:
        """Free an allocation, all of it.

        Raises
        ------
        ValueError
            `base` and `size` are not those of an allocation; the message says why.
        """
        last = base + size - 1
        allocated = self._live.get(base)
        if allocated is None:
            raise ValueError(f"no allocation begins at {base:{self._format}}")
        if allocated != last:
            raise ValueError(f"the allocation is {self._range(base, allocated)}")
        self._insert_free(base, last)

    def describe_free(self, lowest: int = 0, highest: int | None = None) -> str:
        """Return the free ranges within `lowest`..`highest` as a message prints them: the first few, and a summary."""
        firsts, lasts = self._clipped(lowest, self._maximum if highest is None else highest)
        shown = [self._range(int(first), int(last)) for first, last in zip(firsts[:_RANGES_SHOWN], lasts, strict=False)]
        text = ", ".join(shown) or "none"
        more = len(firsts) - len(shown)
        if more:
            text += f" and {more} more; the longest has {int((lasts - firsts).max()) + 1}"
        if highest is not None:
            text += f" within {self._range(lowest, highest)}"
        return text

    @property
    def allocations(self) -> int:
        """Number of live allocations."""
        return len(self._live)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the free ranges (first, last), in order."""
        return zip(self._firsts, self._lasts, strict=True)

    def _range(self, first: int, last: int) -> str:
        if self._format == "#x":
            return format_range(first, last)
        return f"{first}" if first == last else f"{first}..{last}"

    def _clipped(self, lowest: int, highest: int) -> tuple[_Numbers, _Numbers]:
        """Return firsts and lasts of the free ranges, clipped to the bounds."""
        begin = bisect_left(self._lasts, lowest)
        end = bisect_right(self._firsts, highest)
        if begin >= end:
            nothing = np.empty(0, np.uint64)
            return nothing, nothing
        # Both calls copy: an array cannot be resized while numpy holds a view of it.
        firsts = np.maximum(np.frombuffer(self._firsts, np.uint64)[begin:end], np.uint64(lowest))
        lasts = np.minimum(np.frombuffer(self._lasts, np.uint64)[begin:end], np.uint64(highest))
        return firsts, lasts

    def _find(self, size: int, align: int, lowest: int, highest: int) -> int | None:
        firsts, lasts = self._clipped(lowest, highest)
        if not len(firsts):
            return None
        room = lasts - firsts  # size - 1, which fits into 64 bits
        if align == 1:
            fits = room >= np.uint64(size - 1)
            index = int(fits.argmax())
            return int(firsts[index]) if fits[index] else None
        # floor_divide by a scalar is several times faster than remainder, which uses the division instruction.
        divisor = np.uint64(align)
        over = firsts - firsts // divisor * divisor
        padding = np.where(over == 0, over, divisor - over)
        # Where padding > room, the difference wraps; the first comparison excludes these.
        fits = (padding <= room) & (room - padding >= np.uint64(size - 1))
        index = int(fits.argmax())
        return int(firsts[index]) + int(padding[index]) if fits[index] else None

    def _remove_free(self, base: int, last: int) -> None:
        """Remove `base`..`last` from the free range that contains it, and record the allocation."""
        index = bisect_right(self._firsts, base) - 1
        firsts, lasts = array("Q"), array("Q")
        if self._firsts[index] < base:
            firsts.append(self._firsts[index])
            lasts.append(base - 1)
        if last < self._lasts[index]:
            firsts.append(last + 1)
            lasts.append(self._lasts[index])
        self._firsts[index : index + 1] = firsts
        self._lasts[index : index + 1] = lasts
        self._live[base] = last

    def _insert_free(self, base: int, last: int) -> None:
        """Add `base`..`last` to the free ranges, merge adjacent ones, and forget the allocation, if it was one."""
        begin = end = bisect_left(self._firsts, base)
        first, new_last = base, last
        if begin > 0 and self._lasts[begin - 1] + 1 == base:
            begin -= 1
            first = self._firsts[begin]
        if end < len(self._firsts) and self._firsts[end] == last + 1:
            new_last = self._lasts[end]
            end += 1
        firsts, lasts = array("Q", [first]), array("Q", [new_last])
        self._firsts[begin:end] = firsts
        self._lasts[begin:end] = lasts
        if base in self._live:
            del self._live[base]
