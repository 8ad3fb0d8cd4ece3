"""The plots of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from workloads import SIZES

NANOSECOND = 1e-9
NUMBERS = FuncFormatter(lambda value, _: f"{value:,g}")
OURS = "#0b6e4f"
COLOURS = ("#c1666b", "#4281a4", "#d4a017", "#7a5195", "#8d6b48", "#5b8e7d", "#ef8a62", "#2b2d42", "#9c89b8", "#6c757d")
MARKERS = "osv^D<>pPX*"
LEGEND = {"loc": "outside lower center", "ncols": 4, "fontsize": 8, "frameon": False}
Curves = Mapping[str, Sequence[tuple[float, float]]]


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def style_of(index: int) -> dict[str, object]:
    if index == 0:
        return {"color": OURS, "linewidth": 2.2, "marker": "o", "markersize": 5, "zorder": 3}
    colour = COLOURS[(index - 1) % len(COLOURS)]
    return {"color": colour, "linewidth": 1.1, "marker": MARKERS[index % len(MARKERS)], "markersize": 3.5}


def costs_over_ranges(panels: Mapping[str, Curves], path: Path, title: str) -> None:
    """Draw a panel for each pattern: cost of one access over the number of ranges. The first curve is ours."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.8 * columns, 3.6 * rows + 0.8), squeeze=False, sharey=True, layout="constrained"
    )
    axes = list(grid.flat)
    # One curve has one style in all panels, also where another one is missing.
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    handles = {}
    for axis, (pattern, curves) in zip(axes, panels.items(), strict=False):
        for name, points in curves.items():
            counts, seconds = zip(*sorted(points), strict=True)
            values = [value / NANOSECOND for value in seconds]
            (handles[name],) = axis.plot(counts, values, label=name, **style_of(names.index(name)))
        draw_axes(axis, pattern)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for row in grid:
        row[0].set_ylabel("ns for one")
    figure.legend([handles[name] for name in names], names, **LEGEND)
    figure.suptitle(title)
    save(figure, path)


def draw_axes(axis: Axes, title: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(SIZES, map(str, SIZES), fontsize=8)
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(NUMBERS)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("ranges")
    axis.grid(True, which="major", alpha=0.3)


def bars_in_parts(bars: Mapping[str, Mapping[str, float]], path: Path, title: str, unit: float, label: str) -> None:
    """Draw a bar for each thing, made of its parts."""
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    figure, axis = plt.subplots(figsize=(9, 0.4 * len(bars) + 1.6), layout="constrained")
    for position, bar in enumerate(bars.values()):
        start = 0.0
        for part, seconds in bar.items():
            colour = (OURS, *COLOURS)[parts.index(part) % (len(COLOURS) + 1)]
            axis.barh(position, seconds / unit, left=start / unit, color=colour, edgecolor="white", linewidth=0.5)
            start += seconds
        axis.text(start / unit, position, f" {start / unit:.3g}", va="center", fontsize=8)
    axis.set_yticks(range(len(bars)), bars)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.margins(x=0.1)
    patches = [plt.Rectangle((0, 0), 1, 1, color=(OURS, *COLOURS)[i % (len(COLOURS) + 1)]) for i in range(len(parts))]
    figure.legend(patches, parts, **LEGEND)
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def bars(groups: Mapping[str, Mapping[str, float]], path: Path, title: str, label: str) -> None:
    """Draw groups of bars on a logarithmic scale; the first bar of each group is ours."""
    figure, grid = plt.subplots(1, len(groups), figsize=(4.4 * len(groups), 3.8), squeeze=False, layout="constrained")
    for axis, (group, values) in zip(grid.flat, groups.items(), strict=True):
        nanoseconds = [value / NANOSECOND for value in values.values()]
        colours = [OURS] + [COLOURS[1]] * (len(values) - 1)
        axis.barh(range(len(values)), nanoseconds, color=colours)
        for position, value in enumerate(nanoseconds):
            axis.text(value, position, f" {value:,.0f}", va="center", fontsize=7)
        axis.set_yticks(range(len(values)), values, fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(NUMBERS)
        axis.minorticks_off()
        axis.margins(x=0.2)
        axis.set_xlabel(label)
        axis.set_title(group, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    save(figure, path)


def fitted(curves: Curves, fits: Mapping[str, Sequence[tuple[float, float]]], path: Path, title: str) -> None:
    """Draw measured points and the curves that were fitted to them."""
    figure, axis = plt.subplots(figsize=(7, 4.4))
    for index, (name, points) in enumerate(curves.items()):
        style = style_of(index)
        counts, seconds = zip(*sorted(points), strict=True)
        axis.plot(counts, [v / NANOSECOND for v in seconds], "o", color=style["color"], label=name, markersize=5)
        if name in fits:
            counts, seconds = zip(*sorted(fits[name]), strict=True)
            axis.plot(counts, [v / NANOSECOND for v in seconds], "-", color=style["color"], linewidth=1)
    draw_axes(axis, title)
    axis.set_ylabel("ns for one")
    axis.legend(fontsize=8, frameon=False)
    save(figure, path)
