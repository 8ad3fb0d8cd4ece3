"""Pieces of the report's Markdown, and figures as it prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from results import digits


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [list(header), ["---"] + ["---:"] * (len(header) - 1)]
    lines += [[str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def image(name: str, text: str) -> list[str]:
    return [f"![{text}]({name})", ""]


def number(value: float) -> str:
    return f"{value:,.{digits(value)}f}"


def nanoseconds(seconds: float) -> str:
    return number(seconds / 1e-9)


def times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.3f}x"


def paragraph(text: str) -> list[str]:
    return [text, ""]
