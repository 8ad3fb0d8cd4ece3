"""The plots of the report. Each is drawn from tables: by row and column, the seconds of one access."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator

from report.results import format_number

Table = Mapping[str, Mapping[str, float]]

NANOSECOND = 1e-9
OURS, OTHERS = "#0b6e4f", "#c1666b"
COLOURS = ("#c1666b", "#4281a4", "#d4a017", "#7a5195", "#8d6b48", "#5b8e7d", "#ef8a62", "#2b2d42", "#9c89b8", "#6c757d")
MARKERS = "osv^D<>pPX*"


def style_of(index: int) -> dict[str, Any]:
    if index == 0:
        return {"color": OURS, "linewidth": 2.2, "marker": "o", "markersize": 5, "zorder": 3}
    return {
        "color": COLOURS[(index - 1) % len(COLOURS)],
        "linewidth": 1.1,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 3.5,
    }


def draw_lines(tables: Mapping[str, Table], path: Path, title: str) -> None:
    """Draw a panel for each table, in it a curve for each row over the columns, which are numbers. Ours is first."""
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    size = (4.8 * columns, 3.6 * rows + 0.8)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    # One curve has one style in all panels, also where another one is missing.
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    handles: dict[str, Any] = {}
    for axis, (panel, table) in zip(grid.flat, tables.items(), strict=False):
        for name, row in table.items():
            counts = [int(column) for column in row]
            costs = [seconds / NANOSECOND for seconds in row.values()]
            (handles[name],) = axis.plot(counts, costs, label=name, **style_of(names.index(name)))
        axis.set(xscale="log", yscale="log", xlabel="ranges")
        ticks = sorted({int(column) for row in table.values() for column in row})
        axis.set_xticks(ticks, map(str, ticks), fontsize=8)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.minorticks_off()
        axis.set_title(panel, fontsize=10)
        axis.grid(True, which="major", alpha=0.3)
    for axis in list(grid.flat)[len(tables) :]:
        axis.axis("off")
    for row_of_axes in grid:
        row_of_axes[0].set_ylabel("ns for one")
    legend = {"loc": "outside lower center", "ncols": 4, "fontsize": 8, "frameon": False}
    figure.legend([handles[name] for name in names], names, **legend)
    save(figure, path, title)


def draw_bars(tables: Mapping[str, Table], path: Path, title: str) -> None:
    """Draw a row of panels for each table: one for each of its columns, with a bar for each row. Ours is first."""
    columns = [list(dict.fromkeys(column for row in table.values() for column in row)) for table in tables.values()]
    width = max(map(len, columns))
    heights = [0.6 + 0.25 * len(table) for table in tables.values()]
    figure, grid = plt.subplots(
        len(tables),
        width,
        figsize=(1.8 + 3 * width, sum(heights) + 0.8),
        squeeze=False,
        sharey="row",
        height_ratios=heights,
        layout="constrained",
    )
    for axes, (name, table), present in zip(grid, tables.items(), columns, strict=True):
        colours = [OURS if label.startswith("dbs_device") else OTHERS for label in table]
        for axis, column in zip(axes, present, strict=False):
            costs = [row.get(column, float("nan")) / NANOSECOND for row in table.values()]
            bars = axis.barh(list(table), costs, color=colours)
            labels = ["" if math.isnan(cost) else format_number(cost) for cost in costs]
            axis.bar_label(bars, labels, padding=2, fontsize=7)
            axis.set_xscale("log")
            axis.xaxis.set_visible(False)  # the bars have their numbers
            axis.tick_params(labelsize=8)
            axis.margins(x=0.2)
            axis.set_title(f"{column} {name}".strip(), fontsize=10)
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        axes[0].invert_yaxis()
        for axis in axes[len(present) :]:
            axis.axis("off")
    save(figure, path, f"{title}, ns for one, logarithmic")


def save(figure: Any, path: Path, title: str) -> None:
    figure.suptitle(title)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
