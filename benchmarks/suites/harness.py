"""Vocabulary of the suites: a suite is a function that returns cases, which ``measure.py`` times with pyperf.

Times are CPU times of the measuring thread, unless a case says otherwise: nothing measured here waits, and on a machine
that is shared the time in which other processes run says nothing. ``metadata["clock"]`` names the clock.
"""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import compiled

ACCESSES = 4096  # of one pass of a Python loop
ADDRESSES = [0xFEE0_0008] * ACCESSES
CPU_TIME, WALL_TIME = "thread CPU time", "wall time"

Timer = Callable[[int], float]
"""Takes a number of passes and returns the seconds (or bytes) that they took together."""


class Case(NamedTuple):
    """One thing to be measured.

    ``name`` is ``suite/subject/pattern/ranges``, as far as these say something. ``prepare`` makes the timer when the
    case's turn has come; what several cases share it has from a cache. One pass makes ``accesses`` accesses. ``loop``
    is the case that measures the loop around these accesses, which the report subtracts.
    """

    name: str
    prepare: Callable[[], Timer]
    accesses: int = 1
    loop: str | None = None
    clock: str = CPU_TIME
    unit: str = "second"


class Plan(NamedTuple):
    """How much is measured."""

    sizes: tuple[int, ...]
    quick: bool = False


# The largest first: its objects then lie together in memory, and not where others have left gaps.
FULL = Plan((65536, 4096, 1024, 256, 64, 16, 4, 1))
QUICK = Plan((4096, 64, 1), quick=True)

STATEMENT_LOOP = """
def timed(passes, {names}):
    began = clock()
    for _ in range(passes):
        for {variables} in arguments:
            {statement}
    return clock() - began
"""


def statement_timer(
    statement: str,
    arguments: Sequence[Any] = (None,),
    variables: str = "address",
    clock: Callable[[], float] = time.thread_time,
    **names: Any,
) -> Timer:
    """Return a timer of a Python statement, run for each of the arguments; `names` are its local variables.

    The loop is part of what is measured. Its twin is `loop_timer`, the loop of the cases that are subtracted.
    """
    source = STATEMENT_LOOP.format(
        names=", ".join(["clock", "arguments", *names]), variables=variables, statement=statement
    )
    scope: dict[str, Any] = {}
    exec(source, scope)
    return functools.partial(scope["timed"], clock=clock, arguments=arguments, **names)


def loop_timer() -> Timer:
    return statement_timer("pass", ADDRESSES)


def empty_method_timer() -> Timer:
    """Return a timer of a method of a cdef class that takes two arguments and does nothing."""
    return statement_timer("empty.method(address, 4)", ADDRESSES, empty=compiled.accesses().Empty())


def passes_for(timer: Timer, least_time: float) -> int:
    """Return how many passes take at least `least_time`, by doubling."""
    passes = 1
    while (taken := timer(passes)) < least_time:
        passes *= 2 if taken < least_time / 8 else max(2, round(least_time / taken))
    return passes


def reverse_groups(cases: Sequence[Case]) -> Iterator[Case]:
    """Reverse the order among neighbours that end in the same part, which share what they work on."""
    for _, group in itertools.groupby(cases, lambda case: case.name.rsplit("/", 1)[-1]):
        yield from reversed(list(group))


def pick(cases: Sequence[Case], pattern: str) -> list[Case]:
    """Return the cases whose names the pattern matches, and the loops that are subtracted from them."""
    picked = [case for case in cases if re.search(pattern, case.name)]
    names = {name for case in picked for name in (case.name, case.loop)}
    return [case for case in cases if case.name in names]
