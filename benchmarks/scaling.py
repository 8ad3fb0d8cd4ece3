"""How a cost grows: which of a few laws fits the measured points best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Each is the part of the cost that grows; with a constant it makes the law cost = constant + slope * part(n).
LAWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.zeros_like,
    "log2 n": np.log2,
    "sqrt n": np.sqrt,
    "n": lambda n: n,
}
GAIN = 0.75  # a law with a slope has to leave less than this much of the error that a constant leaves


class Fit(NamedTuple):
    """cost = constant + slope * law(n); `error` is the typical relative distance of a point from it."""

    law: str
    constant: float
    slope: float
    error: float

    def __call__(self, n: float) -> float:
        return float(self.constant + self.slope * LAWS[self.law](np.array([n], float))[0])


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Return the law that comes closest to points (n, cost): the constant one, unless another is much closer."""
    counts = np.array([count for count, _ in points], float)
    costs = np.array([cost for _, cost in points], float)
    fits = [fit_law(law, counts, costs) for law in LAWS]
    constant, *growing = fits
    best = min(growing, key=lambda each: each.error)
    return best if best.error < GAIN * constant.error else constant


def fit_law(law: str, counts: np.ndarray, costs: np.ndarray) -> Fit:
    parts = LAWS[law](counts)
    if not parts.any():
        constant, slope = np.average(costs, weights=costs**-2), 0.0
    else:
        # Every point counts by its relative error: costs may span orders of magnitude.
        matrix = np.stack([np.ones_like(parts), parts], axis=1) / costs[:, None]
        (constant, slope), *_ = np.linalg.lstsq(matrix, np.ones_like(costs), rcond=None)
    error = np.sqrt(np.mean(((constant + slope * parts) / costs - 1) ** 2))
    return Fit(law, float(constant), float(slope), float(error))
