"""The measurements of a run, by the names of their cases."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SECOND_FORMATS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


class Measurement(NamedTuple):
    """What was measured of one case: a list of values for each round, in seconds (or bytes) for one access."""

    name: str
    rounds: tuple[tuple[float, ...], ...]
    unit: str = "second"
    clock: str = ""

    @property
    def values(self) -> list[float]:
        return [value for values in self.rounds for value in values]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Median of the distances from the median."""
        return statistics.median(abs(value - self.median) for value in self.values)

    @property
    def medians(self) -> list[float]:
        return [statistics.median(values) for values in self.rounds]


class Results:
    """All measurements of a run, and how they compare."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self._measurements = {measurement.name: measurement for measurement in measurements}

    @classmethod
    def of_pyperf(cls, paths: Iterable[Path]) -> Results:
        """Read pyperf's files."""
        import pyperf

        measurements = []
        for path in paths:
            for benchmark in pyperf.BenchmarkSuite.load(str(path)):
                rounds = tuple(tuple(run.values) for run in benchmark.get_runs() if run.values)
                metadata = benchmark.get_metadata()
                measurements.append(
                    Measurement(benchmark.get_name(), rounds, benchmark.get_unit(), metadata.get("clock", ""))
                )
        return cls(measurements)

    def __contains__(self, name: str) -> bool:
        return name in self._measurements

    def __getitem__(self, name: str) -> Measurement:
        return self._measurements[name]

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._measurements.values())

    def __len__(self) -> int:
        return len(self._measurements)

    def nets(self, name: str, loop: str | None = None) -> list[float]:
        """Return the median of each round, less that of the empty loop in the same round."""
        medians = self[name].medians
        if loop is None:
            return medians
        empty = self[loop].medians
        if len(empty) != len(medians):
            empty = [self[loop].median] * len(medians)
        return [median - less for median, less in zip(medians, empty, strict=True)]

    def net(self, name: str, loop: str | None = None) -> float:
        """Return what a case takes without the empty loop: the median over the rounds."""
        return statistics.median(self.nets(name, loop))

    def ratio(self, name: str, reference: str, loop: str | None = None) -> float:
        """Return how long a case takes compared with another, both without the empty loop: the median over the rounds.

        In a round the two were measured one shortly after the other, so that a slow moment of the machine is in both.
        """
        mine, theirs = self.nets(name, loop), self.nets(reference, loop)
        if len(mine) != len(theirs):
            return statistics.median(mine) / statistics.median(theirs)
        return statistics.median(here / there for here, there in zip(mine, theirs, strict=True))

    def select(self, *parts: str | None) -> list[tuple[str, Measurement]]:
        """Return the cases whose names have these parts, with the part in the place of the None."""
        chosen = []
        for measurement in self:
            found = measurement.name.split("/")
            if len(found) == len(parts) and all(part in (None, each) for part, each in zip(parts, found, strict=True)):
                chosen.append((found[parts.index(None)], measurement))
        return chosen


def format_time(seconds: float) -> str:
    """Return a time with a unit and three digits."""
    for factor, unit in SECOND_FORMATS:
        if abs(seconds) >= 0.9995 * factor or unit == "ns":
            return f"{seconds / factor:.{digits(seconds / factor)}f} {unit}"
    raise AssertionError("unreachable")


def digits(value: float) -> int:
    """Return how many digits after the point make three in all."""
    return 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0


def format_value(measurement: Measurement) -> str:
    if measurement.unit == "byte":
        return f"{measurement.median:,.0f} bytes"
    if measurement.unit == "integer":
        return f"{measurement.median:,.0f}"
    return format_time(measurement.median)
