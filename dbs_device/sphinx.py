"""A Sphinx extension: the registers of a bank as a table.

Add ``dbs_device.sphinx`` to the extensions in ``conf.py``, and write:

.. code-block:: rst

    .. register-table:: package.module.Usart
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive

from . import __version__
from .registers import RegisterBank

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["RegisterTable", "setup"]


class RegisterTable(Directive):  # type: ignore[misc]  # docutils has no types
    """The directive. Its argument is the name of a bank's class, with its module."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Return the table as docutils nodes."""
        head, *rows = table = self.bank().table_rows()
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=max(map(len, column))) for column in zip(*table, strict=True)]
        group += [nodes.thead("", table_row(head)), nodes.tbody("", *map(table_row, rows))]
        return [nodes.table("", group, classes=["register-table"])]

    def bank(self) -> type[RegisterBank]:
        """Return the class that is named, or raise the directive's error."""
        name = self.arguments[0]
        module, _, attribute = name.rpartition(".")
        try:
            bank = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise self.error(f"register-table: {name} cannot be imported: {error}") from error
        if not (isinstance(bank, type) and issubclass(bank, RegisterBank)):
            raise self.error(f"register-table: {name} is not a RegisterBank")
        return bank


def table_row(cells: list[str]) -> Any:
    """Return a row of a docutils table."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive to a Sphinx application."""
    app.add_directive("register-table", RegisterTable)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
