"""Run Debian's U-Boot for arm64 on the virt machine: type at it, or pipe commands in.

Without a terminal, each line is typed at a prompt, and the machine stops when U-Boot asks for more. On a terminal,
Ctrl-A x leaves the machine, and Ctrl-A s saves its state.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dbs_device.clock import CountedClock, HostClock
from dbs_device.devices.storage import FileStorage, MemoryStorage, Storage
from dbs_device.state import MachineState
from examples.riscv.terminal import Terminal

from .board import FLASH_SIZE
from .machine import COUNTED_STEP, DEBIAN_FIRMWARE, END_OF_INPUT, POWER_ON, Machine, erased_flash

DISK_SIZE = 1 << 20
SAVE, LEAVE = "saving", "left by Ctrl-A x"


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.virt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--firmware", type=Path, default=DEBIAN_FIRMWARE, help="what runs (default: %(default)s)")
    parser.add_argument("--disk", type=Path, help="a disk image, which the guest changes (default: 1 MiB of memory)")
    parser.add_argument(
        "--flash", type=Path, help="a file that keeps what the guest stores in flash; it is made if it does not exist"
    )
    parser.add_argument("--tftp", type=Path, help="a folder whose files the guest gets from 10.0.2.2 by TFTP")
    parser.add_argument("--counted-time", action="store_true", help="count time from work on a terminal, too")
    parser.add_argument("--state", type=Path, default=Path("virt-state.npz"), help="what Ctrl-A s writes (%(default)s)")
    parser.add_argument("--restore", type=Path, metavar="STATE", help="go on from a saved state of such a machine")
    return parser.parse_args(arguments)


def open_flash(path: Path | None) -> mmap.mmap:
    """Return a bank of flash that a file keeps, or an erased one."""
    if path is None:
        return erased_flash()
    if not path.exists():
        path.write_bytes(b"\xff" * FLASH_SIZE)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def open_disk(path: Path | None) -> Storage:
    return MemoryStorage(bytearray(DISK_SIZE)) if path is None else FileStorage(path)


def make_machine(options: argparse.Namespace, terminal: Terminal, disk: Storage, flash: mmap.mmap) -> Machine:
    is_counted = options.counted_time or not terminal.is_interactive
    files = {path.name: path.read_bytes() for path in options.tftp.iterdir() if path.is_file()} if options.tftp else {}
    return Machine(
        options.firmware.read_bytes(),
        terminal,
        variables=flash,
        disk=disk,
        files=files,
        clock=CountedClock(COUNTED_STEP) if is_counted else HostClock(),
        start=POWER_ON if is_counted else None,
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    machine: Machine | None = None

    def command(reason: str) -> Any:
        return lambda: machine.stop(reason) if machine else None

    terminal = Terminal({"x": command(LEAVE), "s": command(SAVE)})
    try:
        disk, flash = open_disk(options.disk), open_flash(options.flash)
        machine = make_machine(options, terminal, disk, flash)
        if options.restore is not None:
            machine.restore_state(MachineState.load(options.restore))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        if isinstance(error, FileNotFoundError) and options.firmware == DEBIAN_FIRMWARE:
            print("Debian has the firmware in its package u-boot-qemu; --firmware takes another file.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # restores the terminal
    begin = time.perf_counter()
    with terminal, contextlib.suppress(KeyboardInterrupt):
        while True:
            reason = machine.run()
            if reason == SAVE:
                machine.save_state().save(options.state)
                print(f"\r\n[saved to {options.state}]\r\n", end="", flush=True)
            elif reason == "reset":
                machine = make_machine(options, terminal, disk, flash)
            else:
                break
    print(f"\nThe machine has stopped: {machine.stopped}. That took {time.perf_counter() - begin:.1f} s.")
    return 0 if machine.stopped in ("power off", END_OF_INPUT, LEAVE) else 1


if __name__ == "__main__":
    sys.exit(main())
