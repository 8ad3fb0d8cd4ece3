"""Runs the benchmarks and writes the report: `python benchmarks/run.py [SUITE ...] [--quick] [--only REGEX]`.

Every suite is run several times, one round after the other; a round is one pyperf worker that measures all its cases
(``measure.py``). It writes into bench-report/:

    results.json    pyperf's format: `python -m pyperf compare_to before/results.json after/results.json`
    report.md       the headline numbers, tables and plots
    *.png           the plots
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import compiled
import pyperf
from measure import SUITES
from peers import lookups, native
from report import pages, targets
from report.results import Results
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE.parent / "docs" / "benchmarks"
PACKAGES = ("dbs-device", "numpy", "pyperf", "unicorn", *sorted({p.module for p in lookups.PEERS if p.module}))
COMPILERS = ("cc", "c++", "rustc")


def versions() -> str:
    """Return what the figures depend on and pyperf does not note."""
    packages = []
    for name in PACKAGES:
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.machine()}, CPython {platform.python_version()}"
    compilers = [
        subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
        for compiler in filter(shutil.which, COMPILERS)
    ]
    return "; ".join([f"{system}, {', '.join(compilers)}", ", ".join(packages)])


def skipped(suites: Sequence[str]) -> dict[str, str]:
    """Return the suites and peers that cannot be measured here, and why."""
    missing = {name: reason for name in suites if (reason := SUITES[name].missing())}
    return missing | lookups.missing_peers() | native.missing_native_peers()


def worker_command(name: str, options: argparse.Namespace, round_number: int, output: Path) -> list[str]:
    suite = SUITES[name]
    command = [sys.executable, str(HERE / "measure.py"), name, "--worker", "--loops=1", "--warmups=1"]
    command += [f"--values={suite.values}", f"--min-time={suite.min_time}"]
    command += [f"--only={options.only}", f"--output={output}"]
    if options.quick:
        command.append("--quick")
    if round_number % 2:
        command.append("--reverse")
    return command


def run_round(command: Sequence[str]) -> None:
    """Run a worker; RuntimeError if it fails."""
    # Nothing in the environment of the caller changes what is measured.
    environment = {
        name: value for name, value in os.environ.items() if name == "PYTHONPATH" or not name.startswith("PYTHON")
    }
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} has failed:\n{finished.stderr}")


def measure(suites: Sequence[str], options: argparse.Namespace, console: Console) -> pyperf.BenchmarkSuite | None:
    """Run the suites and return their results put together, or None if nothing was measured."""
    benchmarks: dict[str, pyperf.Benchmark] = {}
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory() as folder:
        for name in suites:
            rounds = SUITES[name].quick_rounds if options.quick else SUITES[name].rounds
            for round_number in progress.track(range(rounds), description=name):
                output = Path(folder) / f"{name}-{round_number}.json"
                run_round(worker_command(name, options, round_number, output))
                for benchmark in pyperf.BenchmarkSuite.load(str(output)) if output.exists() else ():
                    known = benchmarks.setdefault(benchmark.get_name(), benchmark)
                    if known is not benchmark:
                        known.add_runs(benchmark)
    return pyperf.BenchmarkSuite(list(benchmarks.values())) if benchmarks else None


def show(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write the report.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: in under a minute")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases whose name it matches")
    parser.add_argument("--output", type=Path, default=Path("bench-report"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="write the report of the results that are in DIR")
    parser.add_argument("--targets", action="store_true", help="show which targets are reached")
    parser.add_argument(
        "--publish", action="store_true", help="write the headline numbers and three plots to docs/benchmarks"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.suites if name not in SUITES]:
        parser.error(f"no such suite: {', '.join(unknown)}")
    if options.publish and (options.suites or options.quick or options.only):
        parser.error("--publish takes a run of everything")
    console = Console()
    results_path = options.output / "results.json"
    if not options.again:
        suites = options.suites or list(SUITES)
        with console.status("building"):
            compiled.accesses()
            left_out = skipped(suites)
        for name, reason in left_out.items():
            console.print(f"skipped: {name} ({reason})")
        measured = measure([name for name in suites if name not in left_out], options, console)
        if measured is None:
            console.print(f"No case matches {options.only!r}.")
            return 1
        noted = {"versions": versions(), "skipped": "; ".join(f"{name}: {why}" for name, why in left_out.items())}
        for benchmark in measured:
            benchmark.update_metadata({key: value for key, value in noted.items() if value})
        options.output.mkdir(parents=True, exist_ok=True)
        measured.dump(str(results_path), replace=True)
    results = Results.of_pyperf(results_path)
    with console.status("drawing"):
        report = pages.write(options.output, results)
    show(console, "Headlines", pages.HEADLINE_COLUMNS, pages.headline_rows(results))
    if options.targets:
        show(console, "Targets", targets.COLUMNS, [outcome.row() for outcome in targets.outcomes(results)])
    console.print(f"{report}, {results_path}")
    if options.publish:
        pages.publish(results, options.output, PUBLISHED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
