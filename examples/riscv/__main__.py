"""Run an RV32IMA machine: a small program that uses all its devices, or Linux.

On a terminal, Ctrl-A x leaves the machine, and Ctrl-A s saves its state.
"""

from __future__ import annotations

import argparse
import math
import mmap
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from dbs_device.errors import StateError

from .board import BOOT_ARGUMENTS, DEVICE_KINDS
from .machine import MIB, Machine
from .report import show_report
from .terminal import Terminal

PROGRAM = Path(__file__).with_name("guest") / "guest.bin"
DISK_SIZE = 1 * MIB
DISK_TEXT = b"I am a disk in the host's memory.\n"
SAVE, LEAVE = "saving", "left by Ctrl-A x"


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.riscv", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", type=Path, default=PROGRAM, help="a Linux image for RV32 without an MMU")
    parser.add_argument("--append", default=BOOT_ARGUMENTS, help="the kernel's command line (default: %(default)s)")
    parser.add_argument(
        "--devices", choices=DEVICE_KINDS, default="python", help="what the devices are (default: %(default)s)"
    )
    parser.add_argument("--ram", type=int, default=64, metavar="MIB", help="size of the RAM (default: %(default)s)")
    parser.add_argument("--disk", type=Path, help="a disk image, which is not changed (default: a disk in memory)")
    parser.add_argument(
        "--state", type=Path, default=Path("riscv-state.npz"), help="what Ctrl-A s writes (%(default)s)"
    )
    parser.add_argument("--restore", type=Path, metavar="STATE", help="go on from a saved state of such a machine")
    parser.add_argument("--instructions", type=float, default=math.inf, metavar="N", help="stop after so many")
    parser.add_argument("--quiet", action="store_true", help="no report at the end")
    return parser.parse_args(arguments)


def open_disk(path: Path | None) -> bytearray | mmap.mmap:
    """Return a buffer with a copy of a disk image, or with a text in its first sector."""
    if path is None:
        return bytearray(DISK_TEXT.ljust(DISK_SIZE, b"\0"))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    machine: Machine | None = None

    def command(reason: str) -> Any:
        return lambda: machine.stop(reason) if machine else None

    terminal = Terminal({"x": command(LEAVE), "s": command(SAVE)})
    try:
        image, disk = options.kernel.read_bytes(), open_disk(options.disk)
        machine = make_machine(options, image, disk, terminal)
        if options.restore is not None:
            machine.restore(options.restore)
    except (OSError, ValueError, StateError) as error:
        print(error, file=sys.stderr)
        return 2
    console = Console()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # with the terminal as it was
    with terminal:
        if terminal.is_interactive and not options.quiet:
            print(f"{options.ram} MiB of RAM, {options.devices} devices. Ctrl-A x leaves, Ctrl-A s saves the state.")
        while True:
            machine.board.core.timed = True
            reason = machine.run(options.instructions)
            if reason == SAVE:
                machine.stopped = None
                machine.save(options.state)
                print(f"\r\n[saved to {options.state}]\r\n", end="", flush=True)
            elif reason == "reset":
                machine = make_machine(options, image, disk, terminal)
            else:
                break
    if not options.quiet:
        show_report(machine, {}, console)
    return 0 if reason in ("power off", LEAVE) else 1


def make_machine(options: argparse.Namespace, image: bytes, disk: Any, terminal: Terminal) -> Machine:
    return Machine(
        image,
        terminal,
        devices=options.devices,
        ram_size=options.ram * MIB,
        disk=disk,
        arguments=options.append,
    )


if __name__ == "__main__":
    sys.exit(main())
