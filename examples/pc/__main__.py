"""Boot the PC and show the output of its guest, then the devices that it has used."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dbs_device.clock import CountedClock, HostClock

from .machine import DEBIAN_ROM, DEBIAN_VGABIOS, Machine, ignore, open_disk
from .terminal import Answers, PlainText


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.pc", description=__doc__)
    parser.add_argument("--rom", type=Path, default=DEBIAN_ROM, help="the firmware (default: %(default)s)")
    parser.add_argument("--vgabios", type=Path, default=DEBIAN_VGABIOS, help="its VGA ROM (default: %(default)s)")
    parser.add_argument("--disk", type=Path, help="an image, which is not changed (default: a disk with boot.asm)")
    parser.add_argument("--memory", type=int, default=32, metavar="MIB", help="of RAM (default: %(default)s)")
    parser.add_argument(
        "--answer",
        nargs=2,
        action="append",
        default=[],
        metavar=("TEXT", "REPLY"),
        help="when the guest has printed a text on COM1, type a line; again for the next one",
    )
    parser.add_argument("--log", action="store_true", help="show the firmware's log (port 0x402) instead of COM1")
    parser.add_argument("--bus", choices=("attach", "callbacks"), help="what is between Unicorn and the devices")
    parser.add_argument(
        "--kvm",
        nargs="?",
        choices=("kernel", "board"),
        const="kernel",
        help="run the guest on KVM, with the interrupt controllers in the kernel (the default) or those of the board",
    )
    parser.add_argument("--wall-time", action="store_true", help="let the host's time pass, instead of counting work")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the guest's time at most (default: %(default)s)"
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the machine when its time is up")
    parser.add_argument("--restore", type=Path, metavar="FILE", help="go on from a machine that was saved; trust it")
    options = parser.parse_args(arguments)
    if options.kvm and (options.save or options.restore):
        parser.error("a guest of KVM cannot be saved or restored")
    return options


def choose_processor(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a machine that concern its processor. Neither of the two needs the other's package."""
    if options.kvm:
        from .kvm import VirtualMachine

        vm = VirtualMachine(options.kvm)
        return {"processor": vm.processor, "lines": vm.lines}
    if options.bus == "callbacks":
        from .cpu import connect_by_callbacks
        from .unicorn_processor import UnicornProcessor

        return {"processor": functools.partial(UnicornProcessor, connect=connect_by_callbacks)}
    return {}


def build_machine(options: argparse.Namespace) -> Machine:
    console = PlainText(sys.stdout)
    replies = [(text, reply.encode() + b"\r") for text, reply in options.answer]
    answers = Answers(replies, lambda typed: machine.board.uart.receive(typed))

    def show_and_answer(byte: int) -> None:
        if not options.log:
            console.put(byte)
        answers.put(byte)

    machine = Machine(
        options.rom.read_bytes(),
        vgabios=options.vgabios.read_bytes(),
        disk=open_disk(options.disk) if options.disk else None,
        clock=HostClock() if options.wall_time or options.kvm else CountedClock(),
        ram_size=options.memory << 20,
        serial=show_and_answer,
        debug=console.put if options.log else ignore,
        **choose_processor(options),
    )
    return machine


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
