"""The picture of a trace as a PNG or SVG file, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .timeline import BINS, Timeline, format_time

__all__ = ["plot"]

_TOP, _BOTTOM, _LEFT, _RIGHT = 0.62, 0.62, 2.3, 1.15  # margins, in inches
_WIDTH = 11.0
_BAND, _ROW = 0.19, 0.075  # heights, of a band's first row and of each further one
_INK, _FAINT, _SHADE, _LINE = "#1f2430", "#5b6272", "#f4f5f7", "#d8dbe2"


def plot(timeline: Timeline, title: str, path: Path) -> None:
    """Draw a timeline into a file, whose suffix says how."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    heights = [_BAND + _ROW * (len(band.rows) - 1) for band in timeline.bands]
    body = max(sum(heights), 0.6)
    height = body + _TOP + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes(
        (_LEFT / _WIDTH, _BOTTOM / height, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, body / height), facecolor="white"
    )
    counts = timeline.reads.astype(np.float64) + timeline.writes
    # Without its palest colours: a single access has to be seen on white.
    ramp = LinearSegmentedColormap.from_list("density", colormaps["viridis_r"](np.linspace(0.22, 1, 64)))
    norm = LogNorm(1, max(2.0, counts.max(initial=0)))
    edges = [0.0]
    middles = []
    for index, (band, band_height) in enumerate(zip(timeline.bands, heights, strict=True)):
        top = edges[-1]
        if index % 2 == 0:
            axes.axhspan(top, top + band_height, color=_SHADE, zorder=0, linewidth=0)
        middles.append(top + band_height / 2)
        edges += [top + band_height * (row + 1) / len(band.rows) for row in range(len(band.rows))]
    if timeline.bands:
        columns = np.linspace(timeline.start, timeline.end, BINS + 1)
        shown = np.ma.masked_equal(counts, 0)
        axes.pcolormesh(columns, edges, shown, cmap=ramp, norm=norm, zorder=2, rasterized=True)
    else:
        axes.text(0.5, 0.5, "no accesses", transform=axes.transAxes, ha="center", va="center", color=_INK)
    axes.set_xlim(timeline.start, timeline.end)
    axes.set_ylim(max(edges[-1], 1e-3), 0)
    axes.set_yticks(middles, [_shortened(band.name, 20) for band in timeline.bands], fontsize=8, color=_INK)
    for band, middle in zip(timeline.bands, middles, strict=True):
        for text, place, shift in ((f"{band.accesses:,}", 1, 5), (band.base, 0, 12 - 72 * _LEFT)):
            axes.annotate(
                text,
                (place, middle),
                xycoords=("axes fraction", "data"),
                xytext=(shift, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=_FAINT,
            )
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name may have dollar signs
    axes.tick_params(length=0, axis="y")
    axes.tick_params(axis="x", labelsize=8, color=_LINE, labelcolor=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    if timeline.by_time:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_time(value)))
        axes.set_xlabel("time", fontsize=8, color=_INK)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("access", fontsize=8, color=_INK)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    figure.text(_LEFT / _WIDTH, 1 - 0.3 / height, title, fontsize=10, color=_INK, va="center", parse_math=False)
    bar = figure.add_axes(((_WIDTH - 0.42) / _WIDTH, _BOTTOM / height, 0.11 / _WIDTH, min(body, 2.2) / height))
    colours = figure.colorbar(ScalarMappable(norm, ramp), cax=bar)
    colours.ax.tick_params(labelsize=7, length=2, colors=_INK)
    colours.ax.yaxis.set_major_locator(LogLocator(10))
    colours.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    colours.ax.minorticks_off()
    colours.outline.set_edgecolor(_LINE)
    width = format_time(timeline.bin_width) if timeline.by_time else f"{timeline.bin_width:.3g}"
    unit = f"accesses in {width}" if timeline.by_time else f"accesses of {width}"
    figure.text((_WIDTH - 0.06) / _WIDTH, 1 - 0.3 / height, unit, fontsize=7, color=_INK, ha="right", va="center")
    figure.savefig(path)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
