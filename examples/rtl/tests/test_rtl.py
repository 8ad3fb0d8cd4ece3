"""The simulations run under Icarus Verilog, and find what they should."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbs_device import IoManager, Resource
from examples.rtl.devices import Uart

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed (Debian: iverilog)")
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("cocotb", "cocotbext"))), reason="the extra `cocotb` is not installed"
)
def test_the_simulations_pass_and_the_planted_error_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.rtl"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\bPASS  ", done.stdout)) == 7
    assert "the master has moved 15 bytes, each once" in done.stdout
    named = "STATUS is 0x2, expected 0x0 (OVERRUN 0x1, expected 0x0)"
    assert f"read of 4 bytes at 0x4: {named}" in done.stdout


def test_the_model_moves_the_message_on_the_bus_alone() -> None:
    """The device of the simulation is one like any other."""
    uart = Uart(b"once")
    manager = IoManager()
    manager.register_device_io(uart, [Resource.MmioAddressRange(0, uart.size)])
    while manager.mmio_load(0, 4):
        manager.mmio_store(8, 4, manager.mmio_load(4, 4))
    assert uart.sent == b"once"
