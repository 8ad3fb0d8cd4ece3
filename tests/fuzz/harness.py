"""Cases and steps: what a target is given, and how a finding is told so that it can be reproduced."""

from __future__ import annotations

import importlib
import logging
import mmap
import struct
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

TARGETS = ("bus", "registers", "memory", "files", "threads", "virtqueues")
LAST_OPERATIONS = 12  # that a finding shows
STEPS = 200  # of a case


class Finding(Exception):  # noqa: N818
    """A difference, with all that is needed to see it again."""


class Progress:
    """How far a target is: in a file that other processes map, so that it is still there when this one has died."""

    FIELDS = struct.Struct("<QQQ")

    def __init__(self, path: Path | None = None) -> None:
        self.memory: Any = bytearray(self.FIELDS.size)
        if path is not None:
            if not path.exists():
                path.write_bytes(self.memory)
            with path.open("r+b") as file:
                self.memory = mmap.mmap(file.fileno(), self.FIELDS.size)

    def set(self, case: int, step: int, operations: int) -> None:
        self.FIELDS.pack_into(self.memory, 0, case, step, operations)

    def get(self) -> tuple[int, int, int]:
        """Return the case, its step, and the operations of all cases."""
        return self.FIELDS.unpack_from(self.memory)


class Run:
    """One case of a target: its random numbers, and a record of its steps."""

    def __init__(self, name: str, number: int, progress: Progress, operations: int, trace: bool) -> None:
        self.random = Random(name)
        self.number = number
        self.progress = progress
        self.steps = 0
        self.operations = operations
        self.last: deque[tuple[int, tuple[Any, ...]]] = deque(maxlen=LAST_OPERATIONS)
        self.trace = trace

    def more(self) -> bool:
        """Return whether the case has another step, and begin it."""
        self.steps += 1
        return self.steps <= STEPS

    def step(self, *operation: Any, count: int = 1) -> None:
        """Note an operation that is about to be made. The arguments are shown by their repr if there is a finding."""
        self.operations += count
        self.last.append((self.steps, operation))
        self.progress.set(self.number, self.steps, self.operations)
        if self.trace:
            print(self.text_of(self.steps, operation), file=sys.stderr, flush=True)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    @staticmethod
    def text_of(step: int, operation: tuple[Any, ...]) -> str:
        words = [each if isinstance(each, str) and index == 0 else shown(each) for index, each in enumerate(operation)]
        return f"  step {step}: {' '.join(words)}"

    def last_operations(self) -> str:
        return "\n".join(self.text_of(step, operation) for step, operation in self.last)


def shown(value: Any) -> str:
    """Return a value for people: addresses in hex, nothing longer than a line."""
    try:
        text = hex(value) if type(value) is int and abs(value) > 9 else repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr raises {error!r}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


def fuzz(
    target: str,
    seed: int,
    *,
    seconds: float | None = None,
    operations: int | None = None,
    case: int | None = None,
    progress: Progress | None = None,
    trace: bool = False,
) -> int:
    """Run cases of a target until a time or a number of operations is over, or just one; return the operations.

    Raises
    ------
    Finding
        Something is not as it should be.
    """
    play: Callable[[Run], None] = importlib.import_module(f"fuzz.{target}").play
    progress = progress or Progress()
    end = None if seconds is None else time.monotonic() + seconds
    number, done = case or 0, 0
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while True:
                run = Run(f"{target} {seed} {number}", number, progress, done, trace)
                try:
                    play(run)
                except Exception as error:
                    raise Finding(report(target, seed, run, error)) from error
                done = run.operations
                number += 1
                if case is not None or (operations is not None and done >= operations):
                    return done
                if end is not None and time.monotonic() >= end:
                    return done
    finally:
        logging.disable(logging.NOTSET)


def report(target: str, seed: int, run: Run, error: Exception) -> str:
    lines = [
        f"{target}: finding in case {run.number} of seed {seed}, step {run.steps}; the last operations:",
        run.last_operations(),
        "".join(traceback.format_exception(error)).rstrip(),
        reproduction(target, seed, run.number),
    ]
    return "\n".join(lines)


def reproduction(target: str, seed: int, case: int) -> str:
    return f"to see it again: python tests/fuzz --targets {target} --seed {seed} --case {case}"
