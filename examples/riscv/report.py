"""The report at the end of a run."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dbs_device.clock import NS_PER_SECOND

from .machine import DeviceAccesses, Machine

__all__ = ["show_report"]

BAR, LONGEST_BAR = "\N{BLACK SQUARE}", 30


def show_report(machine: Machine, reason: str, console: Console) -> None:
    """Print what a machine has done, and where the time went.

    Parameters
    ----------
    machine : Machine
        The machine.
    reason : str
        Why it has ended.
    console : rich.console.Console
        Where to.
    """
    core, spent = machine.board.core, machine.spent
    accesses = sum(each.ns for each in machine.accesses.values()) / NS_PER_SECOND
    console.print()
    console.print(f"The end: {reason}.", style="bold", highlight=False)
    speed = core.cycles / 1e6 / spent.processor if spent.processor else 0.0
    console.print(
        f"{core.cycles:,} instructions in {spent.core:.2f} s, {spent.processor:.2f} s of the processor's time: "
        f"{speed:.0f} MIPS.\n{machine.board.clock.read() / NS_PER_SECOND:.2f} s of the guest's time.",
        highlight=False,
    )
    console.print(_accesses_table(machine.accesses))
    console.print(
        _time_table(
            {
                "instructions": spent.core - accesses,
                "bus and devices": accesses,
                "timers and console": spent.rest,
                "waiting": spent.waiting,
            }
        )
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], style="bold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    table.add_column("")
    return table


def _bar(share: float) -> Text:
    return Text(BAR * round(share * LONGEST_BAR), style="green")


def _accesses_table(devices: dict[str, DeviceAccesses]) -> Table:
    table = _table("Accesses by device", "device", "loads", "stores", "ns each")
    total = sum(each.loads + each.stores for each in devices.values())
    for name, (loads, stores, ns) in sorted(devices.items(), key=lambda item: -item[1].loads - item[1].stores):
        count = loads + stores
        if count:
            table.add_row(name, f"{loads:,}", f"{stores:,}", f"{ns / count:,.0f}", _bar(count / total))
    return table


def _time_table(seconds: dict[str, float]) -> Table:
    table = _table("Time of the host", "layer", "ms", "share")
    total = sum(seconds.values())
    for name, duration in seconds.items():
        share = duration / total if total else 0.0
        table.add_row(name, f"{1000 * duration:.1f}", f"{share:.1%}", _bar(share))
    return table
