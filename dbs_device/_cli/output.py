"""What commands share: their parsers, errors, tables and progress bars."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

__all__ = ["CommandError", "Commands", "Table", "add_command", "missing_extra", "printable", "progress"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class CommandError(Exception):
    """What a command cannot do, in one line."""


def add_command(
    commands: Commands, name: str, summary: str, description: str, **options: Any
) -> argparse.ArgumentParser:
    """Add a parser whose description keeps its lines."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def missing_extra(command: str, extra: str, error: ImportError) -> CommandError:
    """Return the error of a command that needs a package which an extra installs."""
    return CommandError(f"{command} needs the module {error.name}: pip install 'dbs-device[{extra}]'")


def printable(text: object) -> str:
    """Return text in one line, without what could control a terminal: names come from files.

    >>> printable("uart" + chr(27) + "[2J") == "uart" + chr(92) + "x1b[2J"
    True
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


class Table:
    """A table: drawn by rich on a terminal, if it is installed, and aligned text elsewhere.

    Parameters
    ----------
    *columns : str
        Titles; those of columns that are aligned at the right begin with ">".
    """

    def __init__(self, *columns: str) -> None:
        self.titles = [each.removeprefix(">") for each in columns]
        self.is_right = [each.startswith(">") for each in columns]
        self.rows: list[list[str]] = []
        self.totals: list[str] | None = None

    def add(self, *cells: object) -> None:
        """Add a row."""
        self.rows.append([printable(each) for each in cells])

    def total(self, *cells: object) -> None:
        """Set the row below all others."""
        self.totals = [printable(each) for each in cells]

    def print(self) -> None:
        """Print the table to standard output."""
        if sys.stdout.isatty():
            try:
                self._print_with_rich()
                return
            except ImportError:
                pass
        rows = [self.titles, *self.rows, *([self.totals] if self.totals else [])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.titles))]
        for row in rows:
            cells = [
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(row, widths, self.is_right, strict=True)
            ]
            print("  ".join(cells).rstrip())

    def _print_with_rich(self) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, show_footer=self.totals is not None, header_style="bold", pad_edge=False)
        for column, title in enumerate(self.titles):
            footer = Text(self.totals[column], style="bold") if self.totals else ""
            table.add_column(
                title,
                footer,
                justify="right" if self.is_right[column] else "left",
                style="cyan" if column == 0 else "",
                overflow="fold",
                # Numbers are not broken, unless there is nothing else to break.
                no_wrap=self.is_right[column],
            )
        for row in self.rows:
            table.add_row(*map(Text, row))
        Console().print(table)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if it is a terminal and rich is installed, for as long as it takes.

    Yields a function to be called with how much more is done.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda amount: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda amount: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total)
        yield lambda amount: bars.advance(task, amount)
