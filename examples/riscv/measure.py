"""Measure the core: an access to RAM, a native device and a Python device, and the boot of Linux by kind of devices.

The measurements alternate, and medians of CPU time are shown: other programs on the host slow all of them down alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rv32.core import Core

from dbs_device import DeviceIo, IoManager, NativeDevice, Resource
from dbs_device.memory import Ram

from .board import DEVICE_KINDS, RAM_BASE, DeviceKind
from .machine import Machine
from .serial_line import Script

ROUNDS = 1_000_000
# loop: lw t0, 0(ra); addi sp, sp, -1; bnez sp, loop; wfi
LOOP = bytes.fromhex("83a20000 1301f1ff e31c01fe 73005010")
DEVICE, OTHER_RAM = 0x1000_0000, RAM_BASE + 0x1000
PROMPT = b"~ # "
PIECE = 500_000  # instructions between two looks for the prompt


class Register(DeviceIo):
    """A register in Python."""

    def load(self, base: int, offset: int, size: int) -> int:
        return 7


def loop_over(address: int, device: DeviceIo) -> float:
    """Return the CPU time of an access in a loop of three instructions, in ns."""
    manager = IoManager()
    ram = Ram(0x10000)
    ram.view[: len(LOOP)] = LOOP
    manager.register_device_io(ram, [Resource.MemAddressRange(RAM_BASE, ram.size)])
    manager.register_device_io(device, [Resource.MmioAddressRange(DEVICE, 0x100)])
    core = Core(manager, pc=RAM_BASE)
    core.registers = [0, address, ROUNDS, *[0] * 29]
    begin = time.thread_time_ns()
    core.run(1 << 62)
    return (time.thread_time_ns() - begin) / ROUNDS


def boot(image: bytes, kind: DeviceKind) -> tuple[float, Machine]:
    """Return the CPU time until the prompt of the shell, in ms, and the machine."""
    script = Script()
    machine = Machine(image, script, devices=kind)
    begin = time.thread_time_ns()
    while not script.output.endswith(PROMPT):
        if machine.run(machine.board.core.cycles + PIECE) is not None:
            raise RuntimeError(f"the machine has stopped before the prompt: {machine.stopped}")
    return (time.thread_time_ns() - begin) / 1e6, machine


def alternate(repeats: int, subjects: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure subjects in turn, and return the results of each."""
    results: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repeats):
        for name, measure in subjects.items():
            results[name].append(measure())
    return results


def show_accesses(repeats: int, console: Console) -> None:
    results = alternate(
        repeats,
        {
            "RAM": lambda: loop_over(OTHER_RAM, NativeDevice()),
            "native device": lambda: loop_over(DEVICE, NativeDevice()),
            "Python device": lambda: loop_over(DEVICE, Register()),
        },
    )
    table = Table("a load from", "ns a round", "more than RAM", title="A loop of three instructions")
    for name, values in results.items():
        more = statistics.median(value - ram for value, ram in zip(values, results["RAM"], strict=True))
        table.add_row(name, f"{statistics.median(values):.1f}", f"{more:.1f} ns")
    console.print(table)


def show_boots(image: bytes, repeats: int, console: Console) -> None:
    machines: dict[str, Machine] = {}

    def measure(kind: DeviceKind) -> float:
        duration, machines[kind] = boot(image, kind)
        return duration

    results = alternate(repeats, {kind: partial(measure, kind) for kind in DEVICE_KINDS})
    table = Table("devices", "ms", "to native", "instructions", "MIPS", "accesses", title="Linux to its shell")
    for kind, values in results.items():
        ratio = statistics.median(value / native for value, native in zip(values, results["native"], strict=True))
        duration, core = statistics.median(values), machines[kind].board.core
        speed = core.cycles / duration / 1000
        accesses = f"{core.loads + core.stores:,}"
        table.add_row(kind, f"{duration:.0f}", f"{ratio:.2f}", f"{core.cycles:,}", f"{speed:.0f}", accesses)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.riscv.measure", description=__doc__)
    parser.add_argument("--kernel", type=Path, help="the image that is booted; without it, only accesses are measured")
    parser.add_argument("--repeats", type=int, default=11, help="of each measurement (default: %(default)s)")
    options = parser.parse_args()
    console = Console(highlight=False)
    show_accesses(options.repeats, console)
    if options.kernel is not None:
        show_boots(options.kernel.read_bytes(), options.repeats, console)


if __name__ == "__main__":
    main()
