"""The differences of two traces: what one has and the other has not, and values that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..trace import Access, Trace
from .names import Names

__all__ = ["Comparison", "Group", "compare"]

_MATCH = 8  # Traces that have parted meet again where this many accesses agree,
_REACHES = (16, 128, 1024, 8192)  # which are sought among so many, the nearest first.
_MOST_GROUPS = 10_000


@dataclass
class Group:
    """Differences of one kind at one register.

    Attributes
    ----------
    kind : str
        "value", "only in A" or "only in B".
    count : int
        How many there are.
    first : int
        Index of the first one, in A, or else in B.
    example : tuple of int
        Its values in A and B; of an access that only one has, its value.
    fields : list of str
        What differs in it, by field.
    """

    device: str | None
    register: str
    write: bool
    kind: str
    count: int
    first: int
    example: tuple[int, ...]
    fields: list[str]


@dataclass
class Comparison:
    """Two traces side by side.

    Attributes
    ----------
    same : int
        Number of accesses that both have, with the same value.
    first : tuple of int or None
        Where they first differ: index in A and in B.
    groups : list of Group
        In the order of their first difference.
    """

    same: int = 0
    first: tuple[int, int] | None = None
    groups: list[Group] = field(default_factory=list)


def compare(a: Trace, b: Trace, names: Names, advance: Callable[[int], None] = lambda amount: None) -> Comparison:
    """Compare two traces, whatever their times.

    What both have in the same order corresponds. In between, accesses correspond while space, direction, address and
    size agree, and their values differ; the others are in one trace only.
    """
    comparison = Comparison()
    groups: dict[tuple[str | None, str, bool, str], Group] = {}

    def add(kind: str, at: tuple[int, int], access: Access, *values: int) -> None:
        if comparison.first is None:
            comparison.first = at
        owner = names.owner(access.space, access.addr).name
        register = names.register(access) if len(groups) < _MOST_GROUPS else "others"
        key = (owner, register, access.write, kind)
        if key in groups:
            groups[key].count += 1
            return
        fields = names.fields(access, *values) if len(values) == 2 else []
        groups[key] = Group(*key, 1, at[kind == "only in B"], values, fields)

    kinds = _kinds(a), _kinds(b)
    contents = _contents(a, kinds[0]), _contents(b, kinds[1])
    for agrees, part_a, part_b in _corresponding(*contents, slice(0, len(a)), slice(0, len(b))):
        advance(part_a.stop - part_a.start)
        if agrees:
            comparison.same += part_a.stop - part_a.start
            continue
        for corresponds, inner_a, inner_b in _corresponding(*kinds, part_a, part_b):
            range_a, range_b = range(inner_a.start, inner_a.stop), range(inner_b.start, inner_b.stop)
            if not corresponds:
                for index in range_a:
                    add("only in A", (index, inner_b.start), a[index], a[index].value)
                for index in range_b:
                    add("only in B", (inner_a.stop, index), b[index], b[index].value)
                continue
            for at in zip(range_a, range_b, strict=True):
                one, other = a[at[0]], b[at[1]]
                if one.value == other.value:
                    comparison.same += 1
                else:
                    add("value", at, one, one.value, other.value)
    comparison.groups = list(groups.values())
    return comparison


_Numbers = NDArray[np.uint64]


def _kinds(trace: Trace) -> _Numbers:
    """Return a number for each access that is equal where accesses of two traces correspond: a hash."""
    space, write, addr, size = (trace.accesses[name].astype(np.uint64) for name in ("space", "write", "addr", "size"))
    kinds: _Numbers = addr * np.uint64(0x9E3779B97F4A7C15)
    kinds ^= (space << np.uint64(1) | write) ^ size * np.uint64(0xC2B2AE3D27D4EB4F)
    return kinds


def _contents(trace: Trace, kinds: _Numbers) -> _Numbers:
    """Return a number for each access that is equal where the values are, too."""
    values = trace.accesses["value"].astype(np.uint64)
    for index in np.flatnonzero(trace.accesses["size"] > trace.accesses.dtype["value"].itemsize).tolist():
        values[index] = hash(trace[index].value) % 2**64
    contents: _Numbers = (kinds ^ values * np.uint64(0x165667B19E3779F9)) * np.uint64(0x27D4EB2F165667C5)
    return contents


def _corresponding(a: _Numbers, b: _Numbers, part_a: slice, part_b: slice) -> Iterator[tuple[bool, slice, slice]]:
    """Yield the pieces of two parts, and whether they agree, which they do in turn."""
    at_a, at_b = part_a.start, part_b.start
    while at_a < part_a.stop and at_b < part_b.stop:
        rest_a, rest_b = a[at_a : part_a.stop], b[at_b : part_b.stop]
        length = _agreement(rest_a, rest_b)
        if length:
            yield True, slice(at_a, at_a + length), slice(at_b, at_b + length)
            at_a, at_b = at_a + length, at_b + length
            continue
        skip_a, skip_b = _next_meeting(rest_a, rest_b)
        yield False, slice(at_a, at_a + skip_a), slice(at_b, at_b + skip_b)
        at_a, at_b = at_a + skip_a, at_b + skip_b
    if at_a < part_a.stop or at_b < part_b.stop:
        yield False, slice(at_a, part_a.stop), slice(at_b, part_b.stop)


def _agreement(one: _Numbers, other: _Numbers) -> int:
    """Return how many items agree from the beginning."""
    length = min(len(one), len(other))
    first, step = 0, 64
    while first < length:
        end = min(first + step, length)
        differs = one[first:end] != other[first:end]
        if differs.any():
            return first + int(np.argmax(differs))
        first, step = end, 4 * step
    return length


def _next_meeting(one: _Numbers, other: _Numbers) -> tuple[int, int]:
    """Return how many items of each to skip, as few as can be, so that what follows agrees for a while."""
    for reach in _REACHES:
        meeting = _meeting_within(one[: reach + _MATCH], other[: reach + _MATCH])
        if meeting is not None:
            return meeting
    return min(len(one), _REACHES[-1]), min(len(other), _REACHES[-1])


def _meeting_within(one: _Numbers, other: _Numbers) -> tuple[int, int] | None:
    match = min(_MATCH, len(one), len(other))
    places: dict[bytes, int] = {}
    for index in range(len(other) - match + 1):
        places.setdefault(other[index : index + match].tobytes(), index)
    best: tuple[int, int] | None = None
    for index in range(len(one) - match + 1):
        if best is not None and index >= sum(best):
            break
        found = places.get(one[index : index + match].tobytes())
        if found is not None and (best is None or index + found < sum(best)):
            best = index, found
    return best
