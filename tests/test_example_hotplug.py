"""The hot-plug example runs and tells the flow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def output() -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "hotplug.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def step(output: str, number: int) -> str:
    """Return the text of one of the numbered steps, without its heading."""
    match = re.search(rf"^{number}\. .*\n((?:.*\n)*?)(?=^\d\. |\Z)", output, re.MULTILINE)
    assert match is not None, f"there is no step {number}"
    return match[1]


def test_devices_get_the_resources_that_they_ask_for_and_are_on_the_bus(output: str) -> None:
    plugged = step(output, 2)
    assert plugged.startswith(
        "  plugged console:\n"
        "    Resource.PioAddressRange(base=0x3f8, size=8)\n"
        "    Resource.LegacyIrq(irq=6)\n"
        "  plugged timer:\n"
        "    Resource.MmioAddressRange(base=0xc0000000, size=4096)\n"
        "    Resource.LegacyIrq(irq=7)\n"
        "  plugged disk:\n"
        "    Resource.MmioAddressRange(base=0xc0001000, size=4096)\n"
        "    Resource.MsiIrq(ty=MsiIrqType.PCI_MSIX, base=24, size=2)\n"
        "    Resource.KvmMemSlot(slot=0)\n"
    )
    for line in ("0xc0000000..0xc0000fff .* timer", "0xc0001000..0xc0001fff .* Mutex", "0x3f8..0x3ff .* console"):
        assert re.search(line, plugged)


def test_a_disk_that_is_plugged_again_gets_what_it_had(output: str) -> None:
    assert step(output, 4) == ("  unplugged disk; there is console, timer left\n  the guest goes on without it\n\n")
    assert "Resource.MmioAddressRange(base=0xc0001000, size=4096)\n" in step(output, 5)
    assert "same address as before: yes\n" in step(output, 5)


def test_a_device_that_cannot_be_had_is_refused(output: str) -> None:
    assert step(output, 7) == (
        "  NoAvailableResourceError: cannot allocate ResourceConstraint.PioAddress(size=8, range=(0x3f8, 0x3ff), "
        "align=8); free: none within 0x3f8..0x3ff\n\n"
    )


def test_nothing_is_left_at_the_end(output: str) -> None:
    assert "  ranges on the bus: 0\n  all resources free again: yes\n" in step(output, 8)


def test_the_guest_saw_what_happened_and_nothing_else(output: str) -> None:
    told = re.search(r"read the timer (\d+) times and (\d+) sectors, and found no disk (\d+) times", output)
    assert told is not None
    timer_reads, sectors, misses = map(int, told.groups())
    assert sectors >= 40
    assert misses >= 20
    assert timer_reads == sectors + misses
    assert output.endswith(
        "On its console:\n  booted\n  disk is there\n  disk is gone\n  disk is there\nIt met no trouble.\n"
    )
