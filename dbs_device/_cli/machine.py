"""`map`, and the machines that other commands take names from."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from .. import IoManager, MappedRange, Space
from .._engine.address_map import format_bytes
from ..device import Mutex
from ..errors import format_count, format_range
from .output import CommandError, Commands, Table, add_command

__all__ = ["add_map", "add_module_option", "load_machine"]

_MAP = """\
Print the address map of a machine: each range, its size, and the device that
owns it.

MODULE is the name of a module, such as machines.board, or the path of a .py
file. Its function build() takes nothing and returns the IoManager, or an
object whose attribute `manager` or `io_manager` is one. MODULE:FUNCTION names
another function.

  python -m dbs_device map board.py
  python -m dbs_device map machines.board:build_small
"""


def add_map(commands: Commands) -> None:
    """Add the command `map`."""
    parser = add_command(commands, "map", "print the address map of a machine", _MAP)
    parser.add_argument("module", metavar="MODULE", help="where build() is")
    parser.set_defaults(run=_map)


def add_module_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a machine."""
    parser.add_argument(
        "-m",
        "--module",
        metavar="MODULE",
        help="the machine that names devices, registers and fields; see `map`",
    )


def load_machine(name: str) -> IoManager:
    """Return the manager that a module's function builds."""
    module_name, _, function_name = name.partition(":")
    function_name = function_name or "build"
    try:
        module = _import(module_name)
        build = getattr(module, function_name, None)
        if not callable(build):
            raise CommandError(f"{module_name} does not have a function {function_name}()")
        machine = build()
    except CommandError:
        raise
    except Exception as error:  # of the user's code
        line = " ".join(str(error).splitlines())
        raise CommandError(f"{name}: {type(error).__name__}: {line}") from error
    for each in (machine, getattr(machine, "manager", None), getattr(machine, "io_manager", None)):
        if isinstance(each, IoManager):
            return each
    raise CommandError(
        f"{function_name}() of {module_name} returns an object of type {type(machine).__name__}, not an IoManager"
    )


def _import(name: str) -> ModuleType:
    if not name.endswith(".py"):
        sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(os.getcwd())
    path = Path(name).resolve()
    if not path.is_file():
        raise CommandError(f"{name}: not a file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # for pickles and dataclasses in it
    sys.path.insert(0, str(path.parent))  # as if it was run
    spec.loader.exec_module(module)
    return module


def _map(options: argparse.Namespace) -> None:
    ranges = load_machine(options.module).mapped_ranges()
    if not ranges:
        print("no ranges are registered")
        return
    for space in Space:
        in_space = [each for each in ranges if each.space == space]
        if in_space:
            print(f"{space}: {format_count(len(in_space), 'range')}")
            _map_table(space, in_space).print()


def _map_table(space: Space, ranges: list[MappedRange]) -> Table:
    table = Table("range", ">size", "device", "type")
    for before, each in pairwise([None, *ranges]):
        assert each is not None
        if before is not None and each.base > before.last + 1:
            gap = each.base - before.last - 1
            table.add(format_range(before.last + 1, each.base - 1), _size(space, gap), "-", "")
        device = each.device._device if isinstance(each.device, Mutex) else each.device
        table.add(
            format_range(each.base, each.last),
            _size(space, each.last - each.base + 1),
            each.name or "",
            type(device).__name__,
        )
    return table


def _size(space: Space, count: int) -> str:
    return format_count(count, space.unit) if space == Space.PIO else format_bytes(count)
