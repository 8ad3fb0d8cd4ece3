"""The pool of numbers: the lowest range that fits is allocated, and freed numbers can be allocated again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dbs_device._engine.pool import RangePool
from dbs_device.errors import InvalidRangeError

TOP = 0xFFFF_FFFF_FFFF_FFFF
WIDTH = 64  # numbers in the window that the model keeps as a set


def make_pool(*ranges: tuple[int, int], maximum: int = TOP, number_format: str = "#x") -> RangePool:
    return RangePool("numbers", ranges, maximum, number_format)


def as_ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Return maximal runs of consecutive numbers."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return list(zip(firsts, lasts, strict=True))


class PoolAgainstASet(RuleBasedStateMachine):
    """Every operation does to the pool what it does to a set of the free numbers."""

    @initialize(
        start=st.sampled_from([0, 7, 2**32 - 10, 2**63 - 30, TOP - WIDTH + 1]),
        holes=st.sets(st.integers(0, WIDTH - 1), max_size=6),
    )
    def make(self, start: int, holes: set[int]) -> None:
        self.start = start
        self.free = {start + index for index in range(WIDTH) if index not in holes}
        self.pool = make_pool(*reversed(as_ranges(self.free)))
        self.live: dict[int, int] = {}
        self.everything = as_ranges(self.free)

    @rule(
        size=st.integers(1, 12),
        align=st.one_of(st.integers(1, 20), st.sampled_from([32, 2**32, 2**63, TOP])),
        bounds=st.none() | st.tuples(st.integers(0, WIDTH - 1), st.integers(0, WIDTH - 1)),
    )
    def allocate(self, size: int, align: int, bounds: tuple[int, int] | None) -> None:
        lowest, highest = (0, TOP) if bounds is None else (self.start + min(bounds), self.start + max(bounds))
        fitting = (
            base
            for base in sorted(self.free)
            if base % align == 0 and lowest <= base and base + size - 1 <= highest
            if self.free.issuperset(range(base, base + size))
        )
        expected = next(fitting, None)
        assert self.pool.allocate(size, align, lowest, None if bounds is None else highest) == expected
        if expected is not None:
            self.live[expected] = size
            self.free.difference_update(range(expected, expected + size))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_one(self, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(sorted(self.live)))
        size = self.live.pop(base)
        self.pool.free(base, size)
        self.free.update(range(base, base + size))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free_then_allocate_gives_the_same(self, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(sorted(self.live)))
        size = self.live[base]
        self.pool.free(base, size)
        assert self.pool.allocate(size, 1, base, base + size - 1) == base

    @rule(index=st.integers(0, WIDTH - 1), size=st.integers(0, 12))
    def free_what_is_not_allocated(self, index: int, size: int) -> None:
        base = self.start + index
        if self.live.get(base) != size:
            with pytest.raises(ValueError, match="alloc"):
                self.pool.free(base, size)

    @invariant()
    def agrees(self) -> None:
        assert list(self.pool) == as_ranges(self.free)
        assert self.pool.allocations == len(self.live)

    def teardown(self) -> None:
        for base, size in getattr(self, "live", {}).items():
            self.pool.free(base, size)
        if hasattr(self, "pool"):
            assert list(self.pool) == self.everything


TestPoolAgainstASet = PoolAgainstASet.TestCase
TestPoolAgainstASet.settings = settings(max_examples=60, stateful_step_count=40)


@given(
    gaps=st.lists(st.tuples(st.integers(1, 2**40), st.integers(1, 2**40)), min_size=1, max_size=30),
    size=st.integers(1, 2**41),
    align=st.integers(1, 2**42),
    bounds=st.tuples(st.integers(0, 2**45), st.integers(0, 2**45)),
)
def test_lowest_fit_in_a_wide_space_is_that_of_a_scan(
    gaps: list[tuple[int, int]], size: int, align: int, bounds: tuple[int, int]
) -> None:
    ranges = []
    position = 0
    for hole, length in gaps:
        ranges.append((position + hole, position + hole + length - 1))
        position += hole + length
    lowest, highest = sorted(bounds)
    candidates = []
    for first, last in ranges:
        base = -(-max(first, lowest) // align) * align
        if base + size - 1 <= min(last, highest):
            candidates.append(base)
    assert make_pool(*ranges).allocate(size, align, lowest, highest) == min(candidates, default=None)


def test_the_whole_64_bit_space_is_one_allocation() -> None:
    pool = make_pool((0, TOP))
    assert pool.allocate(2**64) == 0
    assert list(pool) == []
    assert pool.allocate(1) is None
    pool.free(0, 2**64)
    assert list(pool) == [(0, TOP)]
    assert pool.allocate(2**64, align=2) == 0


def test_an_alignment_that_would_carry_past_the_end_of_the_space_does_not_fit() -> None:
    pool = make_pool((TOP - 6, TOP))
    assert pool.allocate(1, align=0x1000) is None
    assert pool.allocate(4, align=4) == TOP - 3


def test_adjacent_ranges_are_one() -> None:
    assert list(make_pool((10, 19), (0, 9), (30, 39))) == [(0, 19), (30, 39)]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(5, 4)], r"^numbers: range 0x5\.\.0x4 .*0x0\.\.0xff$"),
        ([(0, 0x100)], r"^numbers: range 0x0\.\.0x100 .*0x0\.\.0xff$"),
        ([(-1, 4)], r"^numbers: range -0x1\.\.0x4 .*0x0\.\.0xff$"),
        ([(8, 9), (0, 8)], r"^numbers: range 0x8\.\.0x9 overlaps 0x0\.\.0x8$"),
    ],
)
def test_bad_ranges_are_refused(ranges: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InvalidRangeError, match=message):
        make_pool(*ranges, maximum=0xFF)


def test_a_free_that_is_refused_says_why_and_changes_nothing() -> None:
    pool = make_pool((0, 0xFF))
    pool.allocate(0x10)
    with pytest.raises(ValueError, match=r"\b0x8$"):
        pool.free(8, 8)
    with pytest.raises(ValueError, match=r"alloc.*\b0x0\.\.0xf$"):
        pool.free(0, 8)
    assert list(pool) == [(0x10, 0xFF)]
    pool.free(0, 0x10)
    with pytest.raises(ValueError, match=r"\b0x0$"):
        pool.free(0, 0x10)


def test_free_ranges_are_described_within_the_bounds() -> None:
    pool = make_pool((0, 0xFF))
    assert pool.describe_free() == "0x0..0xff"
    assert pool.describe_free(0x10, 0x1F) == "0x10..0x1f within 0x10..0x1f"
    pool.allocate(0x100)
    assert pool.describe_free() == "none"
    assert pool.describe_free(0, 7) == "none within 0x0..0x7"


def test_many_free_ranges_are_summarized() -> None:
    ranges = [(10 * index, 10 * index + index) for index in range(10)]
    assert make_pool(*ranges, number_format="d").describe_free() == (
        "0, 10..11, 20..22, 30..33 and 6 more; the longest has 10"
    )
    assert make_pool(*ranges).describe_free(10, 80) == (
        "0xa..0xb, 0x14..0x16, 0x1e..0x21, 0x28..0x2c and 4 more; the longest has 8 within 0xa..0x50"
    )
