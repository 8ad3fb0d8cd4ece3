"""The command line: targets in processes of their own, which may crash or hang."""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from .harness import LAST_OPERATIONS, TARGETS, Finding, Progress, fuzz, reproduction

NO_STEP = 120.0  # seconds without one after which a target hangs
MOST_MEMORY = 1 << 30  # bytes that a target may use
FOUND = 1


def main() -> int:
    options = arguments()
    if options.child:
        return run_child(options)
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    console = Console(highlight=False)
    targets = options.targets or TARGETS
    print(f"fuzz: seed {seed}, {options.seconds:g} seconds, targets {' '.join(targets)}", flush=True)
    results = []
    bars = Bars(
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("{task.fields[operations]:>12,} operations  {task.fields[rate]:>9,}/s"),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        for target in targets:
            results.append(run_target(target, seed, options, options.seconds / len(targets), bars))
    return FOUND if any(results) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Use the package at random, beside a model.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (default: 60)")
    parser.add_argument("--seed", type=int, help="default: a random one, which is printed")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--case", type=int, help="run this case alone, and print its operations")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


# ----------------------------------------------------------------------------- a target, in a process of its own


def run_target(target: str, seed: int, options: argparse.Namespace, seconds: float, bars: Bars) -> bool:
    """Run a target and say how it went; return whether there is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder, "progress"))
        command = ["--seed", str(seed), "--targets", target, "--child", str(Path(folder, "progress"))]
        command += ["--seconds", str(seconds)] if options.case is None else ["--case", str(options.case)]
        began = time.monotonic()
        task = bars.add_task(target, total=seconds, operations=0, rate=0)
        with start(command) as child:
            last, last_time, hangs = progress.get(), began, False
            while child.poll() is None:
                time.sleep(0.1)
                now, current = time.monotonic(), progress.get()
                if current != last:
                    last, last_time = current, now
                elif now - last_time > NO_STEP:
                    hangs = True
                    child.send_signal(signal.SIGABRT)  # faulthandler shows where all threads are
                    child.wait()
                elapsed = now - began
                bars.update(task, completed=elapsed, operations=current[2], rate=int(current[2] / elapsed))
        case, step, operations = progress.get()
        elapsed = time.monotonic() - began
        print(f"{target:12}{operations:12,} operations{operations / elapsed:11,.0f}/s  in {elapsed:.1f} s", flush=True)
        if child.returncode not in (0, FOUND):
            died = "hangs" if hangs else f"has died with status {child.returncode}"
            print(f"{target}: {died} in case {case} of seed {seed}, step {step}")
            if options.case is None:
                show_again(target, seed, case)
            print(reproduction(target, seed, case), flush=True)
        return child.returncode != 0


def start(options: list[str], **redirection: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(Path(__file__).parent), *options], **redirection)


def show_again(target: str, seed: int, case: int) -> None:
    """Run a case that has killed its process once more, for its last operations."""
    options = ["--seed", str(seed), "--targets", target, "--case", str(case), "--child", os.devnull]
    with start(options, stderr=subprocess.PIPE) as child:
        try:
            _, errors = child.communicate(timeout=NO_STEP)
        except subprocess.TimeoutExpired:
            child.kill()
            _, errors = child.communicate()
    steps = [line for line in errors.decode(errors="replace").splitlines() if line.startswith("  step ")]
    again = "again" if child.returncode != 0 else "not again when the case is run alone"
    print(f"it does so {again}; the last operations:", *steps[-LAST_OPERATIONS:], sep="\n")


def run_child(options: argparse.Namespace) -> int:
    faulthandler.enable()
    (target,) = options.targets
    progress = Progress(None if options.child == os.devnull else Path(options.child))
    try:
        if options.case is None:
            fuzz(target, options.seed, seconds=options.seconds, progress=progress)
        else:
            fuzz(target, options.seed, case=options.case, progress=progress, trace=True)
    except Finding as finding:
        print(finding, flush=True)
        return FOUND
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if used > MOST_MEMORY and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        print(f"{target}: uses {used >> 20} MiB, more than {MOST_MEMORY >> 20}, with seed {options.seed}", flush=True)
        return FOUND
    return 0
