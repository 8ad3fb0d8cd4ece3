"""The measurements of a run, by the names of their cases, and how they compare."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyperf

SECOND_FORMATS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


class Measurement(NamedTuple):
    """The measurements of one case: a list of values for each round, in seconds (or bytes) for one access.

    `loop` is the case that measures the loop around the accesses, if there is one to be subtracted.
    """

    name: str
    rounds: tuple[tuple[float, ...], ...]
    unit: str = "second"
    loop: str | None = None

    @property
    def medians(self) -> list[float]:
        return [statistics.median(values) for values in self.rounds]


class Results:
    """All measurements of a run, and what pyperf and ``run.py`` noted of where it ran."""

    def __init__(self, measurements: Iterable[Measurement], metadata: Mapping[str, object] | None = None) -> None:
        self._measurements = {measurement.name: measurement for measurement in measurements}
        self.metadata = dict(metadata or {})

    @classmethod
    def of_pyperf(cls, path: Path) -> Results:
        """Read a file of pyperf's."""
        suite = pyperf.BenchmarkSuite.load(str(path))
        measurements = []
        for benchmark in suite:
            rounds = tuple(tuple(run.values) for run in benchmark.get_runs() if run.values)
            loop = benchmark.get_metadata().get("loop")
            measurements.append(Measurement(benchmark.get_name(), rounds, benchmark.get_unit(), loop))
        return cls(measurements, suite.get_metadata())

    def __contains__(self, name: str) -> bool:
        return name in self._measurements

    def __getitem__(self, name: str) -> Measurement:
        return self._measurements[name]

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._measurements.values())

    def nets(self, name: str) -> list[float]:
        """Return the median of each round, less that of the loop in the same round."""
        measurement = self[name]
        if measurement.loop is None:
            return measurement.medians
        loops = self[measurement.loop].medians
        return [median - loop for median, loop in zip(measurement.medians, loops, strict=True)]

    def net(self, name: str) -> float:
        """Return what a case takes without its loop: the median over the rounds."""
        return statistics.median(self.nets(name))

    def ratio(self, name: str, *references: str) -> float:
        """Return how long a case takes compared with the sum of others, all without loops: the median over the rounds.

        In a round they were measured one shortly after the other, so that a slow moment of the machine is in all.
        """
        sums = [sum(nets) for nets in zip(*map(self.nets, references), strict=True)]
        return statistics.median(mine / theirs for mine, theirs in zip(self.nets(name), sums, strict=True))

    def show(self, name: str) -> str:
        """Return what a case takes without its loop, with its unit; nothing if it was not measured."""
        if name not in self:
            return ""
        unit = self[name].unit
        return format_time(self.net(name)) if unit == "second" else f"{self.net(name):,.0f} {unit}s"


def format_time(seconds: float) -> str:
    """Return a time with a unit and three digits."""
    factor, unit = next((each for each in SECOND_FORMATS if abs(seconds) >= 0.9995 * each[0]), SECOND_FORMATS[-1])
    return f"{format_number(seconds / factor)} {unit}"


def format_number(value: float) -> str:
    """Return a number with three digits, or more where it has more before the point."""
    return f"{value:,.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"
