"""Instruction counts of single operations, by valgrind's callgrind, which repeat where times do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Function(NamedTuple):
    """A function in the output of callgrind, and the library or program that it is part of."""

    object: Path
    name: str

    @property
    def is_ours(self) -> bool:
        return "dbs_device" in self.object.parts

    def __str__(self) -> str:
        library = "" if self.is_ours else f" ({self.object.name.split('.')[0]})"
        return plain_name(self.name) + library


def plain_name(name: str) -> str:
    """Return the name of a function as it is written: Cython puts the length of each part of its module before that."""
    name = name.split("'")[0]  # callgrind numbers recursions
    mangled = re.match(r"__pyx_(?:f|pw|pf)_(?=\d)", name)
    rest, parts = name[mangled.end() :] if mangled else "", []
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        if rest[end : end + 1] != "_":
            break
        parts.append(rest[length.end() : end])
        rest = rest[end + 1 :]
    return ".".join([*parts, rest.lstrip("0123456789")]) if parts else name


class Profile(NamedTuple):
    """What one operation costs, in events for each time it is done (instructions, unless more was asked for).

    ``functions`` maps a function to the events in itself, without what it calls.
    """

    functions: dict[Function, dict[str, float]]

    def total(self, event: str = "Ir") -> float:
        return sum(costs[event] for costs in self.functions.values())

    def engine(self, event: str = "Ir") -> float:
        """What is spent in the compiled modules of the package, which does not depend on how CPython was built."""
        return sum(costs[event] for function, costs in self.functions.items() if function.is_ours)

    def largest(self, count: int, event: str = "Ir") -> list[tuple[Function, float]]:
        """Return the functions that cost most, in descending order."""
        ordered = sorted(self.functions.items(), key=lambda item: -item[1][event])
        return [(function, costs[event]) for function, costs in ordered[:count]]


def valgrind() -> str | None:
    return shutil.which("valgrind")


def profiles(script: str, arguments: Iterable[str] = (), options: Iterable[str] = ()) -> list[Profile]:
    """Run a script of ours under callgrind and return what it has counted between two dumps, for each but the last."""
    program = valgrind()
    if program is None:
        raise FileNotFoundError("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        output = f"--callgrind-out-file={folder}/out"
        command = [program, "--tool=callgrind", output, *options, sys.executable, str(HERE / script), *arguments]
        # Hashes of strings decide how many look-ups collide.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} has failed:\n{finished.stderr}")
        dumps = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        return [parse(dump.read_text().splitlines()) for dump in dumps]


NAME = re.compile(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?")


def parse(lines: Iterable[str]) -> Profile:
    """Read callgrind's format: the costs of each function in itself."""
    names: dict[tuple[str, str], str] = {}
    events: list[str] = []
    functions: dict[Function, dict[str, float]] = defaultdict(lambda: dict.fromkeys(events, 0.0))
    at = {"ob": "", "fn": ""}
    is_call = False
    for line in lines:
        if name := NAME.match(line):
            called, kind, number, text = name.groups()
            # A name is written out where it stands first, and is a number from then on.
            text = names.setdefault((kind, number), text)
            if not called:
                at[kind] = text
        elif line.startswith("events:"):
            events = line.split()[1:]
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not is_call:  # what follows a call is the cost of all that was called
                costs = functions[Function(Path(at["ob"]), at["fn"])]
                for event, cost in zip(events, line.split()[1:], strict=False):
                    costs[event] += int(cost)
            is_call = False
    return Profile(dict(functions))


def count_operations() -> dict[str, Profile]:
    """Return what each of the operations in ``counted_operations.py`` takes. Needs valgrind."""
    from counted_operations import operations

    made = operations()  # which also builds what is not built, where callgrind does not see it
    counted = profiles("counted_operations.py", options=["--toggle-collect=counted_*", "--dump-before=counting_done"])
    return {
        name: for_each(profile, times, "counted_")
        for (name, (_, times)), profile in zip(made.items(), counted, strict=True)
    }


def for_each(profile: Profile, times: int, around: str) -> Profile:
    """Return the costs of one of so many operations, without those of the functions around them."""
    return Profile(
        {
            function: {event: cost / times for event, cost in costs.items()}
            for function, costs in profile.functions.items()
            if not function.name.startswith(around)
        }
    )


# Of the simulation, for each access. The "last level" is given the size of a level 2 cache: callgrind knows only two.
SIMULATED = {
    "instructions": "Ir",
    "misses of the level 1 cache": "D1mr",
    "misses of the level 2 cache": "DLmr",
    "mispredicted branches": "Bcm",
}
LEVEL_1, LEVEL_2 = "49152,12,64", "1048576,16,64"  # bytes, ways, bytes of a line


def simulate() -> dict[tuple[str, int], Profile]:
    """Return, by engine and number of ranges, what a native access at random costs.

    Needs valgrind; without its headers nothing is returned.
    """
    import compiled
    import simulated_accesses as script

    if not compiled.module("counted").CAN_START:
        return {}
    subjects = script.subjects()
    options = ["--instr-atstart=no", "--toggle-collect=bench_run_reads", "--dump-after=bench_run_reads"]
    caches = ["--cache-sim=yes", "--branch-sim=yes", f"--D1={LEVEL_1}", f"--LL={LEVEL_2}"]
    dumps = profiles("simulated_accesses.py", options=options + caches)
    kinds = [(subject, count) for count in script.RANGES for subject in subjects]
    # Every second one is of the pass that fills the caches.
    return {
        kind: for_each(profile, script.ACCESSES, "bench_run_") for kind, profile in zip(kinds, dumps[1::2], strict=True)
    }
