"""Runs the benchmarks and writes the report: `python benchmarks/run.py [--quick] [--only REGEX] [--output DIR]`.

Every suite (``bench_*.py``) is run several times, one round after the other; a round is one pyperf worker that measures
all cases. What is written into bench-report/:

    results.json    pyperf's format: `python -m pyperf compare_to before/results.json after/results.json`
    report.md       the tables and plots; report.html is the same
    cases.md        median and spread of every case
    *.png           the plots
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import compiled
import counting
import pyperf
import report
import setting
from results import Results
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).resolve().parent


class Suite(NamedTuple):
    """How a suite is run: how many rounds, in a full run and in a quick one, and how long a value takes at least."""

    name: str
    rounds: int
    quick_rounds: int
    min_time: float = 0.004  # seconds
    values: int = 3
    loops: int = 1  # of a suite that does not choose them itself


SUITES = (
    Suite("native", 7, 2),
    Suite("access", 5, 2, 0.002),
    Suite("find", 3, 1, 0.003),
    Suite("changes", 3, 1, 0.003),
    Suite("unicorn", 5, 2),
    Suite("replay", 3, 1),
    Suite("pc", 3, 1, 0.001, values=1),
    Suite("threads", 5, 1, 0.01),
    Suite("allocation", 3, 0, loops=200),
)
STARTED = re.compile(r"(\d+) cases")


def worker_command(suite: Suite, only: str, quick: bool, round_number: int, output: Path) -> list[str]:
    command = [
        sys.executable,
        str(HERE / f"bench_{suite.name}.py"),
        "--worker",
        f"--loops={suite.loops}",
        "--warmups=1",
        f"--values={suite.values}",
    ]
    if suite.loops > 1:
        return [*command, f"--output={output}"]
    command += [f"--min-time={suite.min_time}", f"--collect={output}", f"--only={only}"]
    if quick:
        command.append("--quick")
    if round_number % 2:
        command.append("--reverse")
    return command


def run_round(command: list[str]) -> Iterator[str]:
    """Run a worker and give its lines; RuntimeError if it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        # Nothing in the environment of the caller changes what is measured.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as worker:
            assert worker.stdout is not None
            yield from worker.stdout
        if worker.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} has failed:\n{errors.read()}")


def measure(suites: list[tuple[Suite, int]], only: str, quick: bool, console: Console) -> pyperf.BenchmarkSuite | None:
    """Run all suites and return their results put together, or None if nothing was measured."""
    benchmarks: dict[str, pyperf.Benchmark] = {}
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory() as folder:
        for suite, rounds in suites:
            task = progress.add_task(suite.name, total=None)
            for round_number in range(rounds):
                output = Path(folder) / f"{suite.name}-{round_number}.json"
                for line in run_round(worker_command(suite, only, quick, round_number, output)):
                    if started := STARTED.match(line):
                        progress.update(task, total=rounds * int(started[1]))
                    else:
                        progress.advance(task)
                for benchmark in pyperf.BenchmarkSuite.load(str(output)) if output.exists() else ():
                    name = benchmark.get_name()
                    if name in benchmarks:
                        benchmarks[name].add_runs(benchmark)
                    else:
                        benchmarks[name] = benchmark
            done = progress.tasks[task].completed
            progress.update(task, total=done, visible=done > 0)
    return pyperf.BenchmarkSuite(list(benchmarks.values())) if benchmarks else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write the report.")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: in under a minute")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose name it matches")
    parser.add_argument("--output", type=Path, default=Path("bench-report"), metavar="DIR", help="default: %(default)s")
    options = parser.parse_args(arguments)
    console = Console()
    began = time.monotonic()
    with console.status("building"):
        for module in ("loops", "counted"):
            compiled.module(module)
        for engine in compiled.ENGINES:
            compiled.engine_library(engine)
    suites = [(suite, suite.quick_rounds if options.quick else suite.rounds) for suite in SUITES]
    if options.only:
        suites = [(suite, rounds) for suite, rounds in suites if suite.loops == 1]
    measured = measure([(suite, rounds) for suite, rounds in suites if rounds], options.only, options.quick, console)
    if measured is None:
        console.print(f"No case matches {options.only!r}.")
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    results_path = options.output / "results.json"
    measured.dump(str(results_path), replace=True)
    profiles, simulated = {}, {}
    if counting.valgrind() and not options.only:
        with console.status("counting instructions"):
            profiles = counting.count_operations()
            simulated = {} if options.quick else counting.simulate()
    with console.status("drawing"):
        path = report.write(options.output, Results.of_pyperf([results_path]), profiles, simulated, setting.setting())
    console.print(f"{path}, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
