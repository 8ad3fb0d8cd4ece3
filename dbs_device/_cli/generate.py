"""`generate`: modules of register banks from descriptions of hardware."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .output import CommandError, Commands, add_command, missing_extra

if TYPE_CHECKING:
    from .._generate.model import Bank

_GENERATE = """\
Print a Python module that declares the registers of a device, from a
description of the hardware.

The module imports nothing but dbs_device.registers and enum. It is a start,
to be edited: a description says where registers are, and little of what they
do. What it does not say, or a declaration cannot, is a comment with TODO.
"""
_GENERATE_SVD = """\
Print the register bank of one peripheral of a CMSIS-SVD file. Without
--peripheral, the names are listed.

Needs cmsis-svd: pip install 'dbs-device[svd]'
"""
_GENERATE_RDL = """\
Print the register bank of one addrmap of a SystemRDL file, with all that is
in it.

Needs systemrdl-compiler: pip install 'dbs-device[rdl]'
"""
_MOST_WARNINGS = 5


def add_generate(commands: Commands) -> None:
    """Add the command `generate`."""
    generate = add_command(
        commands, "generate", "print a module of register banks from a description of the hardware", _GENERATE
    )
    formats = generate.add_subparsers(title="formats", metavar="FORMAT", required=True)
    svd = _add_format(formats, "svd", "a peripheral of a CMSIS-SVD file", _GENERATE_SVD)
    svd.add_argument("--peripheral", metavar="NAME", help="which one, such as USART2")
    svd.set_defaults(run=_generate_svd)
    rdl = _add_format(formats, "rdl", "an addrmap of a SystemRDL file", _GENERATE_RDL)
    rdl.add_argument("--top", metavar="NAME", help="which addrmap; the last one in the file by default")
    rdl.add_argument(
        "-I", dest="include", metavar="DIR", type=Path, action="append", default=[], help="where included files are"
    )
    rdl.set_defaults(run=_generate_rdl)


def _add_format(formats: Commands, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    parser = add_command(formats, name, summary, description)
    parser.add_argument("file", metavar="FILE", type=Path, help="the description")
    parser.add_argument("-o", dest="output", metavar="FILE", type=Path, help="write a new file, instead of printing")
    return parser


def _generate_svd(options: argparse.Namespace) -> None:
    try:
        from .._generate.svd import read_svd
    except ImportError as error:
        raise missing_extra("generate svd", "svd", error) from error
    chosen = f" --peripheral {options.peripheral}" if options.peripheral else ""
    _generate(options, "svd", chosen, lambda: read_svd(options.file, options.peripheral))


def _generate_rdl(options: argparse.Namespace) -> None:
    try:
        from .._generate.rdl import read_rdl
    except ImportError as error:
        raise missing_extra("generate rdl", "rdl", error) from error
    chosen = f" --top {options.top}" if options.top else ""
    _generate(options, "rdl", chosen, lambda: read_rdl(options.file, options.top, options.include))


def _generate(options: argparse.Namespace, kind: str, chosen: str, read: Callable[[], tuple[Bank, list[str]]]) -> None:
    from .._generate.model import GenerateError, arrange
    from .._generate.printer import print_module

    try:
        bank, warnings = read()
        arrange(bank)
    except GenerateError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{options.file}: {error.strerror}") from error
    for warning in warnings[:_MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > _MOST_WARNINGS:
        print(f"warning: {len(warnings) - _MOST_WARNINGS} more like these", file=sys.stderr)
    name = options.file.name
    text = print_module(bank, name, f"python -m dbs_device generate {kind} {name}{chosen}")
    if options.output is None:
        sys.stdout.write(text)
        return
    try:
        with options.output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise CommandError(f"{options.output} exists, and may have been edited") from error
    except OSError as error:
        raise CommandError(f"{options.output}: {error.strerror}") from error
