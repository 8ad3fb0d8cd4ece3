"""Replay many traces at once: on this machine's processors, or on a cluster of Dask.

    python -m examples.farm                    one process for each processor
    python -m examples.farm --on dask          the same on Dask's LocalCluster (pip install 'dbs-device[farm]')
    python -m examples.farm --poison           with a damaged file, and a trace that kills its process
    python -m examples.farm boot*.npz          your own traces

Without traces of your own, a recorded boot of SeaBIOS is cut into one trace for each of its devices. Each is replayed
on a PC of its own, the board of examples/pc: so it says of every device whether it answers as the recorded one did.
Some do not: the recorded machine had a disk and a video BIOS, and the state of some depends on that of others.

A cluster of many machines is the same: `Client("tcp://scheduler:8786").get_executor()`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.clock import CountedClock
from dbs_device.trace import ACCESS_DTYPE, ReplayOutcome, Space, Trace, replay_many
from examples.pc.board import Board

TRACE = Path(__file__).parents[1] / "tests" / "data" / "seabios_uc_trace.npz"
DEADLY_PORT = 0x666


class Deadly(DeviceIo):
    """Kills the process that accesses it, as a bug in a native device may."""

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def build() -> IoManager:
    """Return the machine that each trace is replayed on."""
    board = Board(
        CountedClock(step=0),
        start=datetime(2020, 11, 22, 1, 28, 1),
        ram_size=32 << 20,
        disk=None,
        vgabios=b"",
        serial=lambda byte: None,
        debug=lambda byte: None,
        stop=lambda reason: None,
    )
    board.manager.register_device_io(Deadly(), [Resource.PioAddressRange(DEADLY_PORT, 1)], name="deadly")
    return board.manager


def cut(trace: Trace, directory: Path) -> list[Path]:
    """Write the part of each device to a file of its own; return the files."""
    paths = []
    for name in dict.fromkeys(each.name for each in trace.ranges):
        part = trace[trace.mask(name)]
        if len(part):
            paths.append(directory / f"{name}.npz")
            part.save(paths[-1])
    return paths


def poison(directory: Path) -> list[Path]:
    """Write a file that is damaged, and one that kills its process."""
    damaged, deadly = directory / "damaged.npz", directory / "deadly.npz"
    damaged.write_bytes(TRACE.read_bytes()[:1000])
    Trace(np.array([(0, Space.PIO, 1, DEADLY_PORT, 1, 0)], ACCESS_DTYPE)).save(deadly)
    return [damaged, deadly]


@contextmanager
def executor_of(kind: str, workers: int) -> Iterator[Executor | None]:
    """Yield what the traces are replayed on; None is this process."""
    if kind == "here":
        yield None
    elif kind == "processes":
        with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
            yield processes
    else:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor()


def show(outcomes: list[ReplayOutcome], where: str, seconds: float) -> None:
    for outcome in outcomes:
        name = Path(outcome.path).name
        if outcome.error is not None:
            print(f"FAILED   {name}: {outcome.error}")
        elif not outcome.passed:
            print(
                f"DIFFERS  {name}: {outcome.differences} of {outcome.reads_compared} reads; the first: {outcome.first}"
            )
    passed = sum(outcome.passed for outcome in outcomes)
    accesses = sum(outcome.accesses for outcome in outcomes)
    print(f"{passed} of {len(outcomes)} traces passed, {accesses:,} accesses, in {seconds:.1f} s on {where}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", metavar="TRACE", nargs="*", help="trace files")
    parser.add_argument(
        "--on", choices=["processes", "dask", "here"], default="processes", help="where they are replayed"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--poison", action="store_true", help="add a damaged file, and a trace that kills its process")
    options = parser.parse_args()
    if options.poison and options.on == "here":
        parser.error("--poison would kill this process: choose another place to replay")
    with tempfile.TemporaryDirectory() as directory:
        paths = [*options.traces] or cut(Trace.load(TRACE), Path(directory))
        if options.poison:
            paths += poison(Path(directory))
        with executor_of(options.on, options.workers) as executor:
            start = time.perf_counter()
            outcomes = replay_many(paths, build, executor)
            seconds = time.perf_counter() - start
        show(outcomes, "this process" if executor is None else f"{options.workers} workers", seconds)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
