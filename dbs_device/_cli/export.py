"""Traces for other viewers: Chrome's trace format, and VCD."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any

from ..trace import Space, Trace
from .names import Names
from .output import printable

__all__ = ["export_chrome", "export_vcd"]

_STEP = 4096  # accesses between two reports of progress
_UNOWNED = "unowned"


def export_chrome(trace: Trace, names: Names, file: IO[str], advance: Callable[[int], None]) -> None:
    """Write Chrome's trace format: a process for each space, a thread for each device, an event for each access.

    The format: "Trace Event Format", a document of Google's; times are in microseconds.
    """
    threads: dict[tuple[Space, str], int] = {}
    for space in Space:
        for each in names.ranges:
            if each.space == space:
                threads.setdefault((space, each.name), len(threads) + 1)
        threads[space, _UNOWNED] = len(threads) + 1
    file.write('{"displayTimeUnit":"ns","traceEvents":[\n')
    for space in Space:
        metadata = {"name": "process_name", "ph": "M", "pid": int(space) + 1, "args": {"name": str(space)}}
        file.write(f"{_json(metadata)},\n")
    for (space, name), thread in threads.items():
        for kind, argument in (
            ("thread_name", {"name": printable(name)}),
            ("thread_sort_index", {"sort_index": thread}),
        ):
            metadata = {"name": kind, "ph": "M", "pid": int(space) + 1, "tid": thread, "args": argument}
            file.write(f"{_json(metadata)},\n")
    for index, access in enumerate(trace):
        owner = names.owner(access.space, access.addr).name or _UNOWNED
        event = {
            "name": f"{'write' if access.write else 'read'} {names.register(access)}",
            "cat": "write" if access.write else "read",
            "ph": "i",
            "s": "t",
            "ts": access.t_ns / 1000,
            "pid": int(access.space) + 1,
            "tid": threads[access.space, owner],
            "args": {
                "address": f"{access.addr:#x}",
                "size": access.size,
                "value": f"{access.value:#x}",
                "access": index,
            },
        }
        file.write(f"{_json(event)}{',' if index + 1 < len(trace) else ''}\n")
        if index % _STEP == _STEP - 1:
            advance(_STEP)
    if not len(trace):
        file.write('{"name":"no accesses","ph":"i","s":"g","ts":0,"pid":1,"tid":1}\n')
    file.write("]}\n")


def _json(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))


def export_vcd(trace: Trace, names: Names, file: IO[str], advance: Callable[[int], None]) -> None:
    """Write a value change dump: a scope for each device, with the address, size, value and direction of its accesses.

    The times of a dump rise: of accesses at one nanosecond, the later ones are moved to the next.
    """
    import vcd

    with vcd.VCDWriter(file, timescale="1 ns", comment="recorded accesses", date="") as writer:
        scopes: dict[tuple[Space, str | None], tuple[Any, Any, Any, Any, Any]] = {}
        used: set[str] = set()
        owners: list[tuple[Space, str | None]] = [(each.space, each.name) for each in names.ranges]
        for space, name in dict.fromkeys([*owners, *((space, None) for space in Space)]):
            scope = _identifier(f"{space}_{name or _UNOWNED}", used)
            # Longer values keep their low 64 bits.
            sizes = (("address", 16 if space == Space.PIO else 64), ("value", 64), ("size", 32), ("write", 1))
            variables = [writer.register_var(scope, label, "wire", size=size, init="x") for label, size in sizes]
            scopes[space, name] = (*variables, writer.register_var(scope, "access", "event"))  # type: ignore[assignment]
        time = 0
        for index, access in enumerate(trace):
            time = max(access.t_ns, time + 1 if index else 0)
            owner = names.owner(access.space, access.addr).name
            address, value, size, write, event = scopes[access.space, owner]
            writer.change(address, time, access.addr)
            writer.change(value, time, access.value & (1 << 64) - 1)
            writer.change(size, time, min(access.size, (1 << 32) - 1))
            writer.change(write, time, access.write)
            writer.change(event, time, True)
            if index % _STEP == _STEP - 1:
                advance(_STEP)


def _identifier(name: str, used: set[str]) -> str:
    """Return a name that a dump can have: without spaces, and unlike the others."""
    plain = "".join(each if each.isascii() and (each.isalnum() or each == "_") else "_" for each in name)
    unique = plain
    number = 2
    while unique in used:
        unique = f"{plain}_{number}"
        number += 1
    used.add(unique)
    return unique
