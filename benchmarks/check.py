"""Compares the instructions that the hot operations take with those of the last time: `python benchmarks/check.py`.

The counts come from callgrind and repeat to the instruction, so that noise cannot hide a regression nor pretend one.
``baseline.json`` holds them for each CPython minor version, compiler major version and architecture; where it holds
none, the counts are shown and nothing fails. ``--update`` writes the counts of this machine into it.

What the package's own compiled code takes is compared always. The total, with CPython's part in it, is compared where
the interpreter is the very build that the baseline was made with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import counting

BASELINE = Path(__file__).resolve().with_name("baseline.json")
# Of the count. The memory allocator of CPython has good and bad days, which last as long as the code stays the same.
TOLERANCES = {"engine": 0.01, "total": 0.03}
ALLOWED = 1.0  # instructions, where that is more


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


def counts() -> dict[str, dict[str, float]]:
    """Return by operation the instructions in our code and in all."""
    return {
        name: {"engine": round(profile.engine(), 2), "total": round(profile.total(), 2)}
        for name, profile in counting.count_operations().items()
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


def render(comparisons: list[Comparison]) -> str:
    width = max(len(each.operation) for each in comparisons)
    lines = [f"{'instructions for each':{width}}  part      baseline        now    change"]
    for each in comparisons:
        before = f"{each.before:10.1f}" if each.before is not None else "         -"
        verdict = "  WORSE" if each.is_worse else "  better" if each.is_better else ""
        change = f"{each.change:+10.1f}" if each.before is not None else "         -"
        lines.append(f"{each.operation:{width}}  {each.part:6}  {before} {each.now:10.1f}{change}{verdict}")
    return "\n".join(lines)


def load_baselines() -> dict[str, Any]:
    return json.loads(BASELINE.read_text()) if BASELINE.exists() else {}


def update(baselines: dict[str, Any], measured: dict[str, dict[str, float]]) -> None:
    baselines[key()] = {"interpreter": interpreter(), "operations": measured}
    BASELINE.write_text(json.dumps(baselines, indent=2, sort_keys=True) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count the instructions of the hot operations.")
    parser.add_argument("--update", action="store_true", help="write the counts into baseline.json")
    options = parser.parse_args(arguments)
    if counting.valgrind() is None:
        print("valgrind is not installed: instructions are not counted.")
        return 0
    baselines, measured = load_baselines(), counts()
    baseline = baselines.get(key())
    comparisons = compare(baseline, measured, interpreter())
    print(render(comparisons))
    if options.update:
        update(baselines, measured)
        print(f"\nWritten to {BASELINE.name} as {key()}.")
        return 0
    if baseline is None:
        print(f"\n{BASELINE.name} has no counts for {key()}: nothing is compared. --update writes them.")
        return 0
    if baseline["interpreter"] != interpreter():
        print(f"\nTotals are not compared: the baseline was made with CPython {baseline['interpreter']}.")
    missing = sorted(baseline["operations"].keys() - measured.keys())
    if missing:
        print(f"\nIn the baseline, but not counted: {', '.join(missing)}. --update drops them.")
    worse = [each for each in comparisons if each.is_worse]
    if worse:
        print("\nMore instructions than before. If that is meant to be: python benchmarks/check.py --update")
    elif any(each.is_better for each in comparisons):
        print("\nFewer instructions than before: --update keeps it so.")
    return 1 if worse or missing else 0


if __name__ == "__main__":
    sys.exit(main())
