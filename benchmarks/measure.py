"""Measures one suite with pyperf: `python benchmarks/measure.py SUITE [--only REGEX] [--list] [pyperf's options]`.

So run, pyperf gives every case its own processes. ``run.py`` instead starts each suite several times as one pyperf
worker (``--worker``), which measures case after case in one process: cases that compete come one after the other, and
all of them come again in the next round, so that a slow moment of the machine cannot favour one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyperf
from suites.bench_access import access_cases
from suites.bench_allocation import allocation_cases
from suites.bench_changes import changes_cases
from suites.bench_find import find_cases
from suites.bench_kvm import kvm_cases, missing_for_kvm
from suites.bench_native import native_cases
from suites.bench_pc import missing_for_boot, pc_cases
from suites.bench_replay import replay_cases
from suites.bench_threads import threads_cases
from suites.bench_unicorn import missing_for_guest, unicorn_cases
from suites.harness import FULL, QUICK, Case, Plan, Timer, passes_for, pick, reverse_groups


class Suite(NamedTuple):
    """A suite, and how ``run.py`` runs it: how many rounds, in all and in a quick run, and how much for each case."""

    cases: Callable[[Plan], Iterable[Case]]
    rounds: int
    quick_rounds: int
    min_time: float = 0.004  # seconds that a value takes at least
    values: int = 3
    missing: Callable[[], str | None] = lambda: None  # says what it needs and is not installed


SUITES = {
    "native": Suite(native_cases, 7, 2),
    "access": Suite(access_cases, 5, 2, 0.002),
    "find": Suite(find_cases, 3, 1, 0.003),
    "changes": Suite(changes_cases, 3, 1, 0.003),
    "unicorn": Suite(unicorn_cases, 5, 2, missing=missing_for_guest),
    "kvm": Suite(kvm_cases, 5, 1, 0.001, missing=missing_for_kvm),
    "replay": Suite(replay_cases, 3, 1),
    "pc": Suite(pc_cases, 3, 1, 0.001, values=1, missing=missing_for_boot),
    "threads": Suite(threads_cases, 5, 1, 0.01),
    "allocation": Suite(allocation_cases, 3, 1),
}


def lazily(case: Case) -> Timer:
    """Return a timer that prepares the case when it is first called, outside of what is measured."""
    prepared: list[Timer] = []

    def timer(passes: int) -> float:
        if not prepared:
            prepared.append(case.prepare())
        return prepared[0](passes)

    return timer


def forward(command: list[str], options: Any) -> None:
    """Hand our options on to pyperf's workers."""
    command += [options.suite, "--only", options.only]
    if options.quick:
        command.append("--quick")


def main() -> None:
    runner = pyperf.Runner(add_cmdline_args=forward)
    runner.argparser.add_argument("suite", choices=SUITES)
    runner.argparser.add_argument("--only", default="", metavar="REGEX", help="only cases whose name it matches")
    runner.argparser.add_argument("--quick", action="store_true", help="fewer cases")
    runner.argparser.add_argument("--reverse", action="store_true", help="take cases of one size in reverse order")
    runner.argparser.add_argument("--list", action="store_true", help="print the names of the cases")
    options = runner.parse_args()
    suite = SUITES[options.suite]
    if missing := suite.missing():
        runner.argparser.exit(1, f"{options.suite}: {missing}\n")
    cases = pick(list(suite.cases(QUICK if options.quick else FULL)), options.only)
    if options.list:
        print(*(case.name for case in cases), sep="\n")
        return
    # One worker that measures all cases, and not one that pyperf has started for one of them.
    is_round = options.worker and options.worker_task is None
    output = options.output
    if is_round:
        options.output = None  # pyperf would read and write the file again for each case
    measured = []
    for case in reverse_groups(cases) if options.reverse else cases:
        timer = lazily(case)
        if is_round:
            # A worker is told the number of loops; this one measures many cases, each with a number of its own.
            options.loops = 1 if case.unit != "second" else passes_for(timer, options.min_time)
        metadata = {"clock": case.clock, "unit": case.unit, **({"loop": case.loop} if case.loop else {})}
        measured.append(runner.bench_time_func(case.name, timer, inner_loops=case.accesses, metadata=metadata))
    if is_round and measured:
        pyperf.BenchmarkSuite(measured).dump(output, replace=True)


if __name__ == "__main__":
    main()
