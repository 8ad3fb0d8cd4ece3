"""Compares the instructions of the hot operations with the baseline: `python benchmarks/check.py [--update]`.

The counts come from callgrind and repeat to the instruction, so that noise cannot hide a regression nor pretend one.
``instructions/baseline.json`` holds them for each CPython minor version, compiler major version and architecture; where
it holds none, the counts are shown and nothing fails. ``--update`` writes the counts of this machine into it.
``--functions REGEX`` shows where the instructions of an operation go instead.

The instructions of the package's own compiled code are always compared. The total, which includes CPython's part, is
compared if the interpreter is the very build that the baseline was made with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

from instructions import callgrind
from instructions.callgrind import Profile
from rich.console import Console
from rich.table import Table

BASELINE = Path(__file__).resolve().parent / "instructions" / "baseline.json"
# Of the count. The memory allocator of CPython has good and bad days, which last as long as the code stays the same.
TOLERANCES = {"engine": 0.01, "total": 0.03}
ALLOWED = 1.0  # instructions, where that is more
LARGEST = 12  # functions shown of an operation


class Comparison(NamedTuple):
    """One count against its baseline; `before` is None where there is none."""

    operation: str
    part: str
    before: float | None
    now: float

    @property
    def change(self) -> float:
        return 0.0 if self.before is None else self.now - self.before

    @property
    def allowed(self) -> float:
        return max(ALLOWED, TOLERANCES[self.part] * (self.before or 0.0))

    @property
    def is_worse(self) -> bool:
        return self.change > self.allowed

    @property
    def is_better(self) -> bool:
        return -self.change > self.allowed


def compiler() -> str:
    """Return name and major version of the C compiler that extensions are built with, as in "gcc12"."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    name = Path(command[0]).name
    if shutil.which(command[0]) is None:
        return name
    version = subprocess.run([*command, "-dumpversion"], capture_output=True, text=True, check=False).stdout
    return name.rsplit("-", 1)[-1] + version.split(".")[0].strip()


def key() -> str:
    """Return what counts depend on: CPython's minor version, the compiler, the architecture."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{compiler()}-{platform.machine()}"


def interpreter() -> str:
    """Return which build of CPython this is."""
    return f"{platform.python_version()} ({', '.join(platform.python_build())}) {platform.python_compiler()}"


def counts(profiles: dict[str, Profile]) -> dict[str, dict[str, float]]:
    """Return by operation the instructions in our code and in all."""
    return {
        name: {"engine": round(profile.engine, 2), "total": round(profile.total, 2)}
        for name, profile in profiles.items()
    }


def compare(baseline: dict[str, Any] | None, measured: dict[str, dict[str, float]], build: str) -> list[Comparison]:
    """Compare counts with what the baseline holds under one key, if anything."""
    before = baseline["operations"] if baseline else {}
    parts = ["engine", "total"] if not baseline or baseline["interpreter"] == build else ["engine"]
    return [
        Comparison(name, part, before.get(name, {}).get(part), counted[part])
        for name, counted in measured.items()
        for part in parts
    ]


def table_of(comparisons: list[Comparison]) -> Table:
    table = Table("instructions for each", "part", box=None)
    for heading in ("baseline", "now", "change"):
        table.add_column(heading, justify="right")
    table.add_column()
    for each in comparisons:
        before, change = ("", "") if each.before is None else (f"{each.before:.1f}", f"{each.change:+.1f}")
        verdict = "WORSE" if each.is_worse else "better" if each.is_better else ""
        table.add_row(each.operation, each.part, before, f"{each.now:.1f}", change, verdict)
    return table


def functions_of(name: str, profile: Profile) -> Table:
    table = Table("function, without what it calls", box=None, title=name, title_justify="left")
    table.add_column("instructions", justify="right")
    for function, count in profile.largest(LARGEST):
        table.add_row(str(function), f"{count:.1f}")
    table.add_row("all others", f"{profile.total - sum(count for _, count in profile.largest(LARGEST)):.1f}")
    return table


def load_baselines() -> dict[str, Any]:
    return json.loads(BASELINE.read_text()) if BASELINE.exists() else {}


def update(baselines: dict[str, Any], measured: dict[str, dict[str, float]]) -> None:
    baselines[key()] = {"interpreter": interpreter(), "operations": measured}
    BASELINE.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count the instructions of the hot operations.")
    parser.add_argument("--update", action="store_true", help="write the counts into baseline.json")
    parser.add_argument("--functions", metavar="REGEX", help="show the functions of the operations that it matches")
    options = parser.parse_args(arguments)
    console = Console(width=110, highlight=False)
    if callgrind.valgrind() is None:
        console.print("valgrind is not installed: instructions are not counted.")
        return 0
    profiles = callgrind.count_operations()
    if options.functions is not None:
        for name, profile in profiles.items():
            if re.search(options.functions, name):
                console.print(functions_of(name, profile), "")
        return 0
    baselines, measured = load_baselines(), counts(profiles)
    baseline = baselines.get(key())
    comparisons = compare(baseline, measured, interpreter())
    console.print(table_of(comparisons), "")
    if options.update:
        update(baselines, measured)
        console.print(f"Written to {BASELINE.name} as {key()}.")
        return 0
    if baseline is None:
        console.print(f"{BASELINE.name} has no counts for {key()}: nothing is compared. --update writes them.")
        return 0
    if baseline["interpreter"] != interpreter():
        console.print(f"Totals are not compared: the baseline was made with CPython {baseline['interpreter']}.")
    missing = sorted(baseline["operations"].keys() - measured.keys())
    if missing:
        console.print(f"In the baseline, but not counted: {', '.join(missing)}. --update drops them.")
    worse = [each for each in comparisons if each.is_worse]
    if worse:
        console.print("More instructions than before. If that is intended: python benchmarks/check.py --update")
    elif any(each.is_better for each in comparisons):
        console.print("Fewer instructions than before: --update lowers the baseline.")
    return 1 if worse or missing else 0


if __name__ == "__main__":
    sys.exit(main())
