"""What a picture of a trace shows: accesses counted by time and by register, in rows that follow the address map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import Space
from .._engine.trace_data import range_indices
from ..errors import format_range
from ..trace import Trace, TraceRange
from .names import Names
from .output import printable

__all__ = ["Band", "Timeline", "count_accesses", "format_time"]

BINS = 720
# Rows of a range at most, and of all ranges together; and the ranges that have rows of their own.
_ROWS_OF_RANGE = 12
_ROWS = 400
_BANDS = 120


class Row(NamedTuple):
    """Addresses that are counted together."""

    label: str
    reads: int
    writes: int


@dataclass
class Band:
    """A range, as adjacent rows; for several ranges, or none, `place` and `base` are empty."""

    name: str
    place: str
    base: str
    rows: list[Row]

    @property
    def accesses(self) -> int:
        """Number of accesses."""
        return sum(each.reads + each.writes for each in self.rows)


@dataclass
class Timeline:
    """The picture.

    Attributes
    ----------
    bands : list of Band
        Of the ranges that were accessed, by space and address; at the end, one of each space for unowned accesses.
    reads, writes : numpy.ndarray
        uint32, of shape (rows, bins).
    start, end : int
        Of the axis: nanoseconds, or indices of accesses.
    by_time : bool
        Which of the two.
    idle : int
        Number of ranges without accesses.
    """

    bands: list[Band]
    reads: NDArray[np.uint32]
    writes: NDArray[np.uint32]
    start: int
    end: int
    by_time: bool
    idle: int

    @property
    def bin_width(self) -> float:
        """Width of a bin, in units of the axis."""
        return (self.end - self.start) / BINS


def count_accesses(trace: Trace, names: Names, by_time: bool = True) -> Timeline:
    """Count the accesses of a trace for a picture."""
    accesses = trace.accesses
    positions = accesses["t_ns"] if by_time else np.arange(len(trace), dtype=np.uint64)
    start = int(positions.min(initial=2**64 - 1)) if by_time and len(trace) else 0
    end = int(positions.max(initial=0)) + 1 if len(trace) else 1
    # In floating point: times of a damaged file may be anywhere in 64 bits.
    scale = BINS / (end - start)
    columns = np.minimum(((positions - np.uint64(start)) * scale).astype(np.int64), BINS - 1)

    owners = range_indices(accesses, names.ranges)
    groups = _grouped_ranges(owners, accesses, names.ranges)
    most_rows = max(1, min(_ROWS_OF_RANGE, _ROWS // max(1, len(groups))))
    bands: list[Band] = []
    row_of_access = np.zeros(len(trace), dtype=np.int64)
    for name, place, space, base, selected in groups:
        starts = sum(len(each.rows) for each in bands)
        addresses = accesses["addr"][selected]
        distinct, inverse = np.unique(addresses, return_inverse=True)
        count = min(len(distinct), most_rows)
        row_of_address = np.arange(len(distinct)) * count // len(distinct)
        row_of_access[selected] = starts + row_of_address[inverse]
        writes = np.bincount(row_of_address[inverse], weights=accesses["write"][selected], minlength=count)
        totals = np.bincount(row_of_address[inverse], minlength=count)
        rows = []
        for row in range(count):
            of_row = distinct[row_of_address == row]
            label = _label(names, trace, selected, space, base, int(of_row[0]), int(of_row[-1]), len(of_row))
            rows.append(Row(label, int(totals[row] - writes[row]), int(writes[row])))
        bands.append(Band(name, place, f"{base:#x}" if place else "", rows))

    shape = (sum(len(each.rows) for each in bands), BINS)
    cells = row_of_access * BINS + columns
    is_write = accesses["write"].astype(np.bool_)
    reads, writes_of = (
        np.bincount(cells[chosen], minlength=shape[0] * BINS).astype(np.uint32).reshape(shape)
        for chosen in (~is_write, is_write)
    )
    idle = len(names.ranges) - len(np.unique(owners[owners >= 0]))
    return Timeline(bands, reads, writes_of, start, end, by_time, idle)


_Group = tuple[str, str, Space, int, NDArray[np.intp]]


def _grouped_ranges(
    owners: NDArray[np.intp], accesses: NDArray[np.void], ranges: tuple[TraceRange, ...]
) -> list[_Group]:
    """Return name, place, space, base, and the indices of the accesses, of each band."""
    order = np.argsort(owners, kind="stable")
    found, firsts, counts = np.unique(owners[order], return_index=True, return_counts=True)
    parts = {
        int(owner): order[first : first + count] for owner, first, count in zip(found, firsts, counts, strict=True)
    }
    unowned = parts.pop(-1, np.array([], dtype=np.intp))
    busiest = sorted(parts, key=lambda index: -len(parts[index]))
    groups: list[_Group] = [
        (printable(each.name), format_range(each.base, each.last), each.space, each.base, parts[index])
        for index in sorted(busiest[:_BANDS], key=lambda index: ranges[index][:2])
        for each in [ranges[index]]
    ]
    rest = busiest[_BANDS:]
    if rest:
        together = np.sort(np.concatenate([parts[index] for index in rest]))
        groups.append((f"{len(rest)} others", "", Space.MMIO, 0, together))
    for space in Space:
        of_space = unowned[accesses["space"][unowned] == space]
        if len(of_space):
            groups.append((f"unowned {space}", "", space, 0, of_space))
    return groups


def _label(
    names: Names,
    trace: Trace,
    selected: NDArray[np.intp],
    space: Space,
    base: int,
    first: int,
    last: int,
    count: int,
) -> str:
    """Return what the addresses of a row are: a register, or offsets."""
    if count > 1:
        return f"+{first - base:#x}..{last - base:#x}" if base else format_range(first, last)
    index = selected[np.argmax(trace.accesses["addr"][selected] == first)]
    return names.register(trace[index])


def format_time(nanoseconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> format_time(1234), format_time(2.5e6), format_time(0)
    ('1.23 us', '2.5 ms', '0 ns')
    """
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"
