"""Run a Cortex-M firmware under Qiling that reads a message from a device of ours and sends it on Qiling's USART."""

from __future__ import annotations

import argparse

from .machine import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.qiling_board", description=__doc__)
    parser.add_argument("message", nargs="?", default="from a register bank, by way of Qiling's USART2")
    print(run(parser.parse_args().message.encode()).decode())


if __name__ == "__main__":
    main()
