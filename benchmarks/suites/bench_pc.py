"""Booting the example PC: SeaBIOS and a boot sector on Unicorn, every device in Python; and the share of the devices.

``pc/boot/bridge`` is a whole boot by ``dbs_device.unicorn``, ``pc/boot/own callbacks`` the same by Unicorn's Python
callbacks in front of the bus. ``pc/devices`` is the time inside the handlers of the devices during a boot,
``pc/accesses`` how many there are. Needs Debian's package seabios.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peers import lookups

from dbs_device import DeviceIo
from suites.harness import WALL_TIME, Case, Plan, Timer

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where the examples are

SECONDS = 60.0  # of the guest's time at most
CLOCK_CALLS = 100_000


def new_machine(connect_name: str) -> Any:
    from dbs_device.unicorn import attach
    from examples.pc.cpu import connect_by_callbacks
    from examples.pc.machine import DEBIAN_ROM, DEBIAN_VGABIOS, Machine
    from examples.pc.unicorn_processor import UnicornProcessor

    connect: Callable[..., Any] = attach if connect_name == "bridge" else connect_by_callbacks
    return Machine(
        DEBIAN_ROM.read_bytes(),
        vgabios=DEBIAN_VGABIOS.read_bytes(),
        processor=functools.partial(UnicornProcessor, connect=connect),
    )


def boot(machine: Any) -> float:
    """Run a new machine until the guest switches it off, and return the seconds of CPU time."""
    began = time.thread_time()
    reason = machine.run(SECONDS)
    seconds = time.thread_time() - began
    if reason != "power off":
        raise AssertionError(f"the guest has not switched the machine off, but stopped by: {reason}")
    return seconds


def prepare_boot(connect_name: str) -> Timer:
    return lambda passes: sum(boot(new_machine(connect_name)) for _ in range(passes))


def timed_handler(name: str) -> Callable[..., Any]:
    """Return a handler of a `Stopwatch` that calls the device's handler of that name."""

    def handler(self: Stopwatch, *arguments: int) -> Any:
        serve = getattr(self.device, name)
        began = time.perf_counter()
        result = serve(*arguments)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        return result

    return handler


class Stopwatch(DeviceIo):
    """Stands before a device and adds up the time in its handlers."""

    def __init__(self, device: DeviceIo) -> None:
        self.device = device
        self.seconds = 0.0
        self.calls = 0

    load = timed_handler("load")
    store = timed_handler("store")
    pio_in = timed_handler("pio_in")
    pio_out = timed_handler("pio_out")


def timed_boot() -> tuple[float, int]:
    """Return the seconds inside the devices' handlers during a boot, and the number of calls."""
    machine = new_machine("bridge")
    stopwatches = []
    for meter in machine.board.meters:
        # The bus calls the meter, which passes accesses on to its current device.
        meter.device = Stopwatch(meter.device)
        stopwatches.append(meter.device)
    boot(machine)
    return sum(watch.seconds for watch in stopwatches), sum(watch.calls for watch in stopwatches)


def clock_time() -> float:
    """Return the seconds that a stopwatch measures when there is nothing between start and stop."""
    total = 0.0
    for _ in range(CLOCK_CALLS):
        began = time.perf_counter()
        total += time.perf_counter() - began
    return total / CLOCK_CALLS


def prepare_devices() -> Timer:
    def timer(passes: int) -> float:
        total = 0.0
        for _ in range(passes):
            seconds, calls = timed_boot()
            total += seconds - calls * clock_time()
        return total

    return timer


def prepare_accesses() -> Timer:
    return lambda passes: float(sum(timed_boot()[1] for _ in range(passes)))


def missing_for_boot() -> str | None:
    """Return what is not installed and a boot needs, if anything."""
    if not lookups.is_module_installed("unicorn"):
        return "unicorn is not installed"
    from examples.pc.machine import DEBIAN_ROM, DEBIAN_VGABIOS

    return None if DEBIAN_ROM.exists() and DEBIAN_VGABIOS.exists() else "SeaBIOS is not installed (Debian: seabios)"


def pc_cases(plan: Plan) -> Iterator[Case]:
    if missing_for_boot():
        return
    for connect_name in ("bridge", "own callbacks"):
        yield Case(f"pc/boot/{connect_name}", functools.partial(prepare_boot, connect_name))
    yield Case("pc/devices", prepare_devices, clock=WALL_TIME)
    yield Case("pc/accesses", prepare_accesses, unit="integer")
