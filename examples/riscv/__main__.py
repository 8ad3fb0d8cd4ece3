"""Run an RV32IMA machine: a small program that uses all its devices, or Linux.

On a terminal, Ctrl-A x leaves the machine, and Ctrl-A s saves its state.
"""

from __future__ import annotations

import argparse
import mmap
import signal
import sys
from pathlib import Path

from rich.console import Console

from dbs_device.errors import StateError

from .board import BOOT_ARGUMENTS, DEVICE_KINDS
from .machine import MIB, Machine
from .report import show_report
from .terminal import Terminal

PROGRAM = Path(__file__).with_name("guest") / "guest.bin"
DISK_SIZE = 1 * MIB
DISK_TEXT = b"I am a disk in the host's memory.\n"
PROGRESS = 20_000_000  # instructions between two updates of the terminal's title
NO_LIMIT = 1 << 62
LEFT = "left by Ctrl-A x"
EXIT_CODES = {"power off": 0, LEFT: 0, "interrupted": 130}


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
    parser.add_argument("--instructions", type=int, default=NO_LIMIT, metavar="N", help="stop after that many")
    parser.add_argument("--quiet", action="store_true", help="no report at the end")
    return parser.parse_args(arguments)


def open_disk(path: Path | None) -> bytearray | mmap.mmap:
    """Return a buffer with a copy of a disk image, or with a text in its first sector."""
    if path is None:
        return bytearray(DISK_TEXT.ljust(DISK_SIZE, b"\0"))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


class Session:
    """A machine at the terminal, until it stops for good.

    Parameters
    ----------
    options : argparse.Namespace
        Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.terminal = Terminal({"x": self._leave, "s": self._save})
        self._image = options.kernel.read_bytes()
        self._disk = open_disk(options.disk)
        self._is_to_save = False
        self.machine = self._power_on()
        if options.restore is not None:
            self.machine.restore(options.restore)

    def _power_on(self) -> Machine:
        return Machine(
            self._image,
            self.terminal,
            devices=self.options.devices,
            ram_size=self.options.ram * MIB,
            disk=self._disk,
            arguments=self.options.append,
        )

    def _leave(self) -> None:
        self.machine.stop(LEFT)

    def _save(self) -> None:
        self._is_to_save = True
        self.machine.pause()

    def run(self) -> str:
        """Run until the guest switches the power off, or something else ends the session. Return what."""
        with self.terminal:
            while (reason := self._run_a_while()) is None or reason == "reset":
                if reason == "reset":
                    self.machine = self._power_on()
        return reason

    def _run_a_while(self) -> str | None:
        core, limit = self.machine.board.core, self.options.instructions
        reason = self.machine.run(min(core.cycles + PROGRESS, limit))
        if self._is_to_save:
            self._is_to_save = False
            try:
                self.machine.save(self.options.state)
                self.terminal.say(f"saved to {self.options.state}")
            except (OSError, StateError) as error:  # the guest goes on all the same
                self.terminal.say(f"not saved: {error}")
        self.terminal.set_title(f"RV32IMA: {core.cycles / 1e6:,.0f} million instructions")
        return "the limit is reached" if reason is None and core.cycles >= limit else reason


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        session = Session(options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # by way of `with`
    if session.terminal.is_interactive and not options.quiet:
        print(f"RV32IMA, {options.ram} MiB, {options.devices} devices. Ctrl-A x leaves, Ctrl-A s saves the state.")
    try:
        reason = session.run()
    except KeyboardInterrupt:
        reason = "interrupted"
    if not options.quiet:
        show_report(session.machine, reason, Console())
    return EXIT_CODES.get(reason, 1)


if __name__ == "__main__":
    sys.exit(main())
