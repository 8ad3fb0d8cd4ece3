"""What both simulations begin with."""

from __future__ import annotations

import logging
from typing import Any

from cocotb.clock import Clock
from cocotb.triggers import ClockCycles

for top_level in ("axil_master", "timer"):
    logging.getLogger(f"cocotb.{top_level}").setLevel(logging.WARNING)  # cocotbext-axi logs each access


async def reset(dut: Any) -> None:
    """Start the clock, and reset the design."""
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
