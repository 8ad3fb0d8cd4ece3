"""Simulate a Verilog master that accesses a Python device, and a Verilog timer that is compared with its model."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from cocotb_tools.runner import get_results, get_runner

HERE = Path(__file__).parent
TOP_LEVELS = {"axil_master": "simulate_master", "timer": "simulate_timer"}


def simulate(top_level: str, folder: Path) -> tuple[int, int]:
    """Return how many tests of a top-level module ran, and how many of them failed."""
    runner = get_runner("icarus")
    runner.build(
        sources=[HERE / f"{top_level}.v"],
        hdl_toplevel=top_level,
        build_dir=folder,
        timescale=("1ns", "1ps"),
    )
    results = runner.test(
        hdl_toplevel=top_level,
        test_module=f"examples.rtl.{TOP_LEVELS[top_level]}",
        build_dir=folder,
        test_dir=HERE.parents[1],
        results_xml=str(folder / "results.xml"),
        extra_env={"PYTHONWARNINGS": "ignore::DeprecationWarning"},  # of cocotbext-axi, about cocotb 2
    )
    return get_results(results)


def main() -> None:
    argparse.ArgumentParser(prog="python -m examples.rtl", description=__doc__).parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for top_level in TOP_LEVELS:
            failed += simulate(top_level, Path(folder) / top_level)[1]
    if failed:
        raise SystemExit(f"{failed} tests have failed")


if __name__ == "__main__":
    main()
