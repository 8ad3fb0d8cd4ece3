"""The picture of a trace as one HTML file, which needs nothing else."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np

from .timeline import BINS, Timeline

__all__ = ["plot"]

_TEMPLATE = Path(__file__).with_name("timeline.html.in")


def plot(timeline: Timeline, title: str, subtitle: str, path: Path) -> None:
    """Write a timeline into a file."""
    rows, bins = np.nonzero(timeline.reads | timeline.writes)
    cells = np.stack([rows, bins, timeline.reads[rows, bins], timeline.writes[rows, bins]], axis=1)
    data = {
        "bands": [[band.name, band.place, band.base, [list(row) for row in band.rows]] for band in timeline.bands],
        "cells": cells.ravel().tolist(),
        "bins": BINS,
        "start": timeline.start,
        "end": timeline.end,
        "by_time": timeline.by_time,
    }
    # A "</script>" in a name would end the script.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    values = {"TITLE": html.escape(title), "SUBTITLE": html.escape(subtitle), "DATA": text}
    # In one pass: a value may look like a place.
    page = re.sub("@(TITLE|SUBTITLE|DATA)@", lambda place: values[place[1]], _TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(page, encoding="utf-8")
