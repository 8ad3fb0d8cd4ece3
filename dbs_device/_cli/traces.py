"""`trace`: what is in a trace, as tables, pictures, differences, and for other viewers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import format_count
from ..trace import AccessCount, Trace
from . import diff
from .machine import add_module_option, load_machine
from .names import Names
from .output import CommandError, Commands, Table, add_command, missing_extra, printable, progress
from .timeline import count_accesses, format_time

__all__ = ["add_trace"]

_TRACE = """\
Look at traces, the files that Trace.save writes.
"""
_SUMMARY = """\
Print the accesses to each device of a trace, and to what no device owns.

  python -m dbs_device trace summary boot.npz
  python -m dbs_device trace summary boot.npz --registers uart0 -m board.py
"""
_PLOT = """\
Draw a trace: time across, address ranges down, density as colour. A row is a
register, or some adjacent ones.

The suffix of the output says what it is: .png, .svg or .pdf, or .html, one
file that shows counts under the pointer. By default it is the name of the
trace with .png.

  python -m dbs_device trace plot boot.npz
  python -m dbs_device trace plot boot.npz -o boot.html -m board.py
"""
_DIFF = """\
Compare two traces, whatever their times. Print the first difference with what
came before it, and all differences by device, register and field.

What both have in the same order corresponds; in between, accesses of the same
space, direction, address and size do, and their values differ. The others are
in one trace only. The exit status is 1 if the traces differ.

  python -m dbs_device trace diff good.npz bad.npz -m board.py
"""
_EXPORT = """\
Write a trace for another viewer.

  chrome  Chrome's trace format, for https://ui.perfetto.dev: a track for each
          device, an event for each access
  vcd     a value change dump, for GTKWave: a scope for each device, with
          address, value, size and direction of its accesses

  python -m dbs_device trace export boot.npz --format chrome -o boot.json
"""
_CONTEXT = 3
_MOST_GROUPS = 40


def add_trace(commands: Commands) -> None:
    """Add the command `trace`."""
    parser = add_command(commands, "trace", "look at recorded accesses", _TRACE)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    summary = add_command(actions, "summary", "accesses by device", _SUMMARY)
    summary.add_argument("file", metavar="FILE", type=Path, help="the trace")
    summary.add_argument("--registers", metavar="DEVICE", help="the registers of one device, instead")
    add_module_option(summary)
    summary.set_defaults(run=_summary)

    plot = add_command(actions, "plot", "a picture", _PLOT)
    plot.add_argument("file", metavar="FILE", type=Path, help="the trace")
    plot.add_argument(
        "-o", dest="output", metavar="FILE", type=Path, action="append", help="may be given several times"
    )
    plot.add_argument("--by", choices=["time", "access"], default="time", help="what goes across (default: time)")
    plot.add_argument("--title", metavar="TEXT", help="the title (default: the name of the file)")
    add_module_option(plot)
    plot.set_defaults(run=_plot)

    compare = add_command(actions, "diff", "the differences of two traces", _DIFF)
    compare.add_argument("a", metavar="A", type=Path, help="a trace")
    compare.add_argument("b", metavar="B", type=Path, help="another one")
    add_module_option(compare)
    compare.set_defaults(run=_diff)

    export = add_command(actions, "export", "for other viewers", _EXPORT)
    export.add_argument("file", metavar="FILE", type=Path, help="the trace")
    export.add_argument("--format", choices=["chrome", "vcd"], required=True, help="what to write")
    export.add_argument(
        "-o", dest="output", metavar="FILE", type=Path, help="default: the name of the trace, .json or .vcd"
    )
    add_module_option(export)
    export.set_defaults(run=_export)


def _load(path: Path) -> Trace:
    try:
        return Trace.load(path)
    except ValueError as error:
        raise CommandError(printable(error)) from error
    except MemoryError as error:
        raise CommandError(f"{path}: too large for the memory of this machine") from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def _names(trace: Trace, module: str | None) -> Names:
    return Names(trace, None if module is None else load_machine(module))


def _duration(trace: Trace) -> str:
    times = trace.accesses["t_ns"]
    return format_time(int(times.max(initial=0)) - int(times.min(initial=0)) if len(trace) else 0)


# ----------------------------------------------------------------------------- summary


def _summary(options: argparse.Namespace) -> None:
    trace = _load(options.file)
    names = _names(trace, options.module)
    if options.registers is not None:
        _register_table(trace, names, options.registers).print()
        return
    print(f"{options.file}: {_accesses(len(trace))} in {_duration(trace)}")
    _device_table(Trace(trace.accesses, names.ranges, trace.long_values).summary(), len(trace)).print()


def _accesses(count: int) -> str:
    return f"{count:,} access{'' if count == 1 else 'es'}"


def _device_table(counts: list[AccessCount], total: int) -> Table:
    table = Table("device", ">reads", ">writes", ">bytes read", ">bytes written", ">share")
    for name, *numbers in counts:
        table.add(
            "(unowned)" if name is None else name, *(f"{each:,}" for each in numbers), _share(sum(numbers[:2]), total)
        )
    sums = [sum(each[column] for each in counts) for column in range(1, 5)]  # type: ignore[misc]
    table.total("all", *(f"{each:,}" for each in sums), _share(sum(sums[:2]), total))
    return table


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}%" if total else "-"


def _register_table(trace: Trace, names: Names, device: str) -> Table:
    known = list(dict.fromkeys(each.name for each in names.ranges))
    if device not in known:
        raise CommandError(f"no device is named {device!r}; there are: {', '.join(map(printable, known)) or 'none'}")
    part = trace[Trace(trace.accesses, names.ranges, trace.long_values).mask(device)]
    counts: dict[str, list[int]] = {}
    places: dict[str, int] = {}
    with progress("counting", len(part)) as advance:
        for access in part:
            label = names.register(access)
            places[label] = min(places.get(label, access.addr), access.addr)
            count = counts.setdefault(label, [0, 0])
            count[access.write] += 1
            advance(1)
    table = Table("register", "address", ">reads", ">writes", ">share")
    for label in sorted(counts, key=lambda label: places[label]):
        reads, writes = counts[label]
        table.add(label, f"{places[label]:#x}", f"{reads:,}", f"{writes:,}", _share(reads + writes, len(part)))
    return table


# ----------------------------------------------------------------------------- plot


def _plot(options: argparse.Namespace) -> None:
    trace = _load(options.file)
    names = _names(trace, options.module)
    outputs: list[Path] = options.output or [options.file.with_suffix(".png")]
    for output in outputs:
        if output.suffix not in (".png", ".svg", ".pdf", ".html"):
            raise CommandError(f"{output}: a picture is a .png, .svg, .pdf or .html file")
    timeline = count_accesses(trace, names, options.by == "time")
    title = printable(options.title or options.file.name)
    idle = f"; {format_count(timeline.idle, 'range')} without accesses" if timeline.idle else ""
    subtitle = f"{_accesses(len(trace))} in {_duration(trace)}{idle}"
    for output in outputs:
        try:
            if output.suffix == ".html":
                from . import plot_html

                plot_html.plot(timeline, title, subtitle, output)
            else:
                from . import plot_png

                with progress("drawing"):
                    plot_png.plot(timeline, f"{title}: {subtitle}", output)
        except ImportError as error:
            raise missing_extra("trace plot", "cli", error) from error
        except OSError as error:
            raise CommandError(f"{output}: {error.strerror}") from error
        print(output)


# ----------------------------------------------------------------------------- diff


def _diff(options: argparse.Namespace) -> int:
    a, b = _load(options.a), _load(options.b)
    names = _names(a, options.module)
    with progress("comparing", len(a)) as advance:
        comparison = diff.compare(a, b, names, advance)
    print(f"A  {options.a}: {_accesses(len(a))} in {_duration(a)}")
    print(f"B  {options.b}: {_accesses(len(b))} in {_duration(b)}")
    if comparison.first is None:
        print("no differences, but for times")
        return 0
    verb = "agrees" if comparison.same == 1 else "agree"
    print(f"{_accesses(comparison.same)} {verb}; {_differences(comparison.groups)}")
    _print_first(a, b, names, comparison)
    _group_table(comparison.groups[:_MOST_GROUPS]).print()
    more = comparison.groups[_MOST_GROUPS:]
    if more:
        print(f"and {_differences(more)} at {len(more):,} other places")
    return 1


def _differences(groups: list[diff.Group]) -> str:
    count = sum(each.count for each in groups)
    return f"{count:,} difference{'' if count == 1 else 's'}"


def _print_first(a: Trace, b: Trace, names: Names, comparison: diff.Comparison) -> None:
    assert comparison.first is not None
    at_a, at_b = comparison.first
    print(f"\nthe first: access {at_a:,} of A, {at_b:,} of B")
    lines = []
    for back in range(min(_CONTEXT, at_a, at_b), 0, -1):
        lines.append(("", at_a - back, a))
    lines += [("A", at_a, a)] if at_a < len(a) else []
    lines += [("B", at_b, b)] if at_b < len(b) else []
    for mark, index, trace in lines:
        access = trace[index]
        owner = names.owner(access.space, access.addr)
        place = f"{printable(owner.name or 'unowned')} {names.register(access)}"
        verb = "write" if access.write else "read"
        print(f"{mark:>3} {verb:<5} {access.space} {access.addr:#x} {access.size} {place} = {access.value:#x}")
    print()


def _group_table(groups: list[diff.Group]) -> Table:
    table = Table("device", "register", "access", "what differs", ">count", ">first", "for example")
    for each in groups:
        example = " -> ".join(f"{value:#x}" for value in each.example)
        if each.fields:
            example = f"{example} ({', '.join(each.fields)})"
        table.add(
            each.device or "(unowned)",
            each.register,
            "write" if each.write else "read",
            each.kind,
            f"{each.count:,}",
            f"{each.first:,}",
            example,
        )
    return table


# ----------------------------------------------------------------------------- export


def _export(options: argparse.Namespace) -> None:
    from .export import export_chrome, export_vcd

    trace = _load(options.file)
    names = _names(trace, options.module)
    suffix, export = (".json", export_chrome) if options.format == "chrome" else (".vcd", export_vcd)
    output: Path = options.output or options.file.with_suffix(suffix)
    try:
        if str(output) == "-":
            export(trace, names, sys.stdout, lambda amount: None)
            return
        with output.open("w", encoding="utf-8") as file, progress("writing", len(trace)) as advance:
            export(trace, names, file, advance)
    except ImportError as error:
        raise missing_extra("trace export --format vcd", "cli", error) from error
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror}") from error
    print(output)
