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

import dbs_device

BENCHMARKS = Path(__file__).resolve().parent.parent
PACKAGE = Path(dbs_device.__file__).resolve().parent
AROUND = "counted_"  # how the functions begin whose entry and exit switch the counting on and off


class Function(NamedTuple):
    """A function in the output of callgrind, and the library or program that it is part of."""

    object: Path
    name: str

    @property
    def is_ours(self) -> bool:
        return PACKAGE in self.object.parents

    def __str__(self) -> str:
        library = "" if self.is_ours else f" ({self.object.name.split('.')[0]})"
        return plain_name(self.name) + library


def plain_name(name: str) -> str:
    """Return the name of a function as it is written: Cython puts the length of each part of a module before it."""
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
    """The instructions of one operation, by function, each without those of what it calls."""

    functions: dict[Function, float]

    @property
    def total(self) -> float:
        return sum(self.functions.values())

    @property
    def engine(self) -> float:
        """Instructions in the compiled modules of the package, which do not depend on how CPython was built."""
        return sum(count for function, count in self.functions.items() if function.is_ours)

    def largest(self, most: int) -> list[tuple[Function, float]]:
        """Return the functions that take most, in descending order."""
        return sorted(self.functions.items(), key=lambda item: -item[1])[:most]


def valgrind() -> str | None:
    return shutil.which("valgrind")


def run_operations() -> list[Profile]:
    """Run ``operations.py`` under callgrind and return what it has counted until each of its dumps but the last."""
    program = valgrind()
    if program is None:
        raise FileNotFoundError("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        switches = [f"--toggle-collect={AROUND}*", "--dump-before=counting_done"]
        callgrind = [program, "--tool=callgrind", f"--callgrind-out-file={folder}/out", *switches]
        command = [*callgrind, sys.executable, "-m", "instructions.operations"]
        # Hashes of strings decide how many look-ups collide.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        finished = subprocess.run(command, cwd=BENCHMARKS, env=environment, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} has failed:\n{finished.stderr}")
        dumps = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        return [parse(dump.read_text().splitlines()) for dump in dumps]


NAME = re.compile(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?")


def parse(lines: Iterable[str]) -> Profile:
    """Read callgrind's format: the instructions of each function in itself."""
    names: dict[tuple[str, str], str] = {}
    functions: dict[Function, float] = defaultdict(float)
    at = {"ob": "", "fn": ""}
    is_call = False
    for line in lines:
        if name := NAME.match(line):
            called, kind, number, text = name.groups()
            # A name is written out where it stands first, and is a number from then on.
            text = names.setdefault((kind, number), text)
            if not called:
                at[kind] = text
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not is_call:  # what follows a call is the cost of all that was called
                functions[Function(Path(at["ob"]), at["fn"])] += int(line.split()[1])
            is_call = False
    return Profile(dict(functions))


def for_each(profile: Profile, times: int) -> Profile:
    """Return the instructions of one of so many operations, without those of the functions around them."""
    return Profile(
        {
            function: count / times
            for function, count in profile.functions.items()
            if not function.name.startswith(AROUND)
        }
    )


def count_operations() -> dict[str, Profile]:
    """Return what each of the operations in ``operations.py`` takes. Needs valgrind."""
    from instructions.operations import operations

    made = operations()  # which also builds what is not built, where callgrind does not see it
    return {
        name: for_each(profile, times)
        for (name, (_, times)), profile in zip(made.items(), run_operations(), strict=True)
    }
