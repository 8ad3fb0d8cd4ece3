"""What all suites share: a suite is a list of cases, which pyperf measures.

Each ``bench_*.py`` is a pyperf script of its own: all of pyperf's options work (``--rigorous``, ``-o``, ``--hist``),
and ``--only REGEX`` picks cases by name. So run, pyperf gives every case its own processes.

``run.py`` instead starts each suite several times as one pyperf worker (``--worker``), which measures case after case
in one process: cases that compete come one after the other, and all of them come again in the next round, so that a
slow moment of the machine cannot favour one of them. The rounds are put together with `pyperf.Benchmark.add_runs`.

Times are CPU times of the measuring thread, unless a case says otherwise: nothing measured here waits, and on a machine
that is shared the time in which somebody else was running says nothing. ``metadata["clock"]`` names the clock.
"""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyperf

CPU_TIME, WALL_TIME = "thread CPU time", "wall time"

Timer = Callable[[int], float]
"""Takes a number of passes and returns the seconds (or bytes) that they took together."""


class Case(NamedTuple):
    """One thing to be measured.

    ``name`` is ``suite/subject/pattern/ranges``, as far as these say something. ``prepare`` makes the timer when the
    case's turn has come; what several cases share it has from a cache. One pass makes ``accesses`` accesses. What is
    subtracted from others is measured ``always``, whatever was picked.
    """

    name: str
    prepare: Callable[[], Timer]
    accesses: int = 1
    clock: str = CPU_TIME
    unit: str = "second"
    always: bool = False


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
    arguments: Sequence[Any],
    variables: str = "address",
    clock: Callable[[], float] = time.thread_time,
    **names: Any,
) -> Timer:
    """Return a timer of a Python statement, run for each of the arguments; `names` are its local variables.

    The loop is part of what is measured: its twin is `statement_timer("pass", ...)`, which is subtracted in the report.
    """
    source = STATEMENT_LOOP.format(
        names=", ".join(["clock", "arguments", *names]), variables=variables, statement=statement
    )
    scope: dict[str, Any] = {}
    exec(source, scope)
    return functools.partial(scope["timed"], clock=clock, arguments=arguments, **names)


def lazily(case: Case) -> Timer:
    """Return a timer that prepares the case when it is first called, outside of what is measured."""
    prepared: list[Timer] = []

    def timer(passes: int) -> float:
        if not prepared:
            prepared.append(case.prepare())
        return prepared[0](passes)

    return timer


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


def pick(cases: list[Case], pattern: str) -> list[Case]:
    """Return the cases whose names the pattern matches, if any, and those that they need."""
    picked = {case.name for case in cases if re.search(pattern, case.name)}
    return [case for case in cases if case.name in picked or (picked and case.always)]


def main(suite: str, cases: Callable[[Plan], Iterable[Case]]) -> None:
    """Run a suite as the command line says."""

    def forward(command: list[str], options: Any) -> None:
        command += ["--only", options.only]
        if options.quick:
            command.append("--quick")

    runner = pyperf.Runner(add_cmdline_args=forward)
    runner.argparser.add_argument("--only", default="", metavar="REGEX", help="measure the cases that it matches only")
    runner.argparser.add_argument("--quick", action="store_true", help="fewer sizes")
    runner.argparser.add_argument("--reverse", action="store_true", help="take cases of one size in reverse order")
    runner.argparser.add_argument("--collect", metavar="FILE", help="write the results of a --worker into FILE")
    runner.argparser.add_argument("--list", action="store_true", help="print the names of the cases")
    options = runner.parse_args()
    runner.metadata["suite"] = suite
    chosen = pick(list(cases(QUICK if options.quick else FULL)), options.only)
    if options.list:
        print(*(case.name for case in chosen), sep="\n")
        return
    alone = options.worker and options.worker_task is None
    if options.collect:
        print(f"{len(chosen)} cases", flush=True)
    measured = []
    for case in reverse_groups(chosen) if options.reverse and alone else chosen:
        timer = lazily(case)
        if alone:
            # A worker is told the number of loops; this one measures many cases, each with a number of its own.
            options.loops = 1 if case.unit != "second" else passes_for(timer, options.min_time)
        measured.append(
            runner.bench_time_func(
                case.name, timer, inner_loops=case.accesses, metadata={"clock": case.clock, "unit": case.unit}
            )
        )
    if options.collect and measured:
        pyperf.BenchmarkSuite([benchmark for benchmark in measured if benchmark]).dump(options.collect, replace=True)
