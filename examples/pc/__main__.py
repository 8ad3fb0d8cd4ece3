"""Boot the PC and show the output of its guest, then the devices that it has used."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dbs_device.clock import CountedClock, HostClock
from dbs_device.unicorn import attach

from .cpu import Connect, connect_by_callbacks
from .machine import DEBIAN_ROM, DEBIAN_VGABIOS, Machine, ignore, open_disk
from .terminal import PlainText
from .unicorn_processor import UnicornProcessor

BUSES: dict[str, Connect] = {"attach": attach, "callbacks": connect_by_callbacks}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.pc", description=__doc__)
    parser.add_argument("--rom", type=Path, default=DEBIAN_ROM, help="the firmware (default: %(default)s)")
    parser.add_argument("--vgabios", type=Path, default=DEBIAN_VGABIOS, help="its VGA ROM (default: %(default)s)")
    parser.add_argument("--disk", type=Path, help="an image, which is not changed (default: a disk with boot.asm)")
    parser.add_argument("--log", action="store_true", help="show the firmware's log (port 0x402) instead of COM1")
    parser.add_argument("--bus", choices=BUSES, default="attach", help="what is between Unicorn and the devices")
    parser.add_argument("--wall-time", action="store_true", help="let the host's time pass, instead of counting work")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the guest's time at most (default: %(default)s)"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the machine when its time is up")
    parser.add_argument("--restore", type=Path, metavar="FILE", help="go on from a machine that was saved; trust it")
    return parser.parse_args(arguments)


def build_machine(options: argparse.Namespace) -> Machine:
    console = PlainText(sys.stdout)
    return Machine(
        options.rom.read_bytes(),
        vgabios=options.vgabios.read_bytes(),
        disk=open_disk(options.disk) if options.disk else None,
        clock=HostClock() if options.wall_time else CountedClock(),
        serial=ignore if options.log else console.put,
        debug=console.put if options.log else ignore,
        processor=functools.partial(UnicornProcessor, connect=BUSES[options.bus]),
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        machine = build_machine(options)
        if options.restore:
            machine.restore(options.restore)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        if isinstance(error, FileNotFoundError) and not options.restore:
            print(
                "Debian has the firmware in its package seabios; --rom and --vgabios take other files.", file=sys.stderr
            )
        return 2
    begin = time.perf_counter()
    reason = machine.run(options.seconds)
    print_summary(machine, time.perf_counter() - begin)
    if options.save and reason is None:
        machine.save(options.save)
        return 0
    return 0 if reason == "power off" else 1


def print_summary(machine: Machine, duration: float) -> None:
    table = Table("device", "reads", "writes", title="Accesses by the guest", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    meters = machine.board.meters
    for meter in sorted(meters, key=lambda meter: -meter.reads - meter.writes):
        table.add_row(str(meter), f"{meter.reads:,}", f"{meter.writes:,}")
    table.add_section()
    reads, writes = sum(meter.reads for meter in meters), sum(meter.writes for meter in meters)
    table.add_row("all", f"{reads:,}", f"{writes:,}")
    console = Console(highlight=False)
    console.print()
    console.print(table)
    console.print(f"The machine has stopped: {machine.stopped or 'time is up'}. That took {duration:.2f} s.")


if __name__ == "__main__":
    sys.exit(main())
