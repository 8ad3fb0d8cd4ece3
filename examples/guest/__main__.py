"""Run a small x86 guest on Unicorn with Python devices: print its console, then a summary."""

from __future__ import annotations

import argparse
from datetime import datetime

from rich.console import Console

from .machine import Machine
from .report import LiveConsole, show_report

LEAP_DAY = datetime(2024, 2, 29, 12, 34, 56)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.guest", description=__doc__)
    parser.add_argument("--now", action="store_true", help="set the clock to the real date (default: a fixed one)")
    options = parser.parse_args()
    console = Console()
    live = LiveConsole(console)
    machine = Machine(live.put, live.tell, datetime.now() if options.now else LEAP_DAY)
    machine.run()
    show_report(machine, console)


if __name__ == "__main__":
    main()
