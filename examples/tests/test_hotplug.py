"""The hot-plug example runs, and prints each step."""

from __future__ import annotations

import re

import pytest

from dbs_device import MsiIrqType, Resource
from examples.tests.running import output_of


@pytest.fixture(scope="module")
def output() -> str:
    return output_of("examples/hotplug.py")


def step(output: str, number: int) -> str:
    """Return the text of one of the numbered steps, without its heading."""
    match = re.search(rf"^{number}\. .*\n((?:.*\n)*?)(?=^\d\. |\Z)", output, re.MULTILINE)
    assert match is not None, f"there is no step {number}"
    return match[1]


def given_resources(text: str) -> dict[str, list[Resource]]:
    """Return the resources that each device is given; they are printed as expressions."""
    given: dict[str, list[Resource]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"  plugged (.*):", line):
            resources = given[match[1]] = []
        elif line.startswith("    Resource."):
            resources.append(eval(line.strip(), {"Resource": Resource, "MsiIrqType": MsiIrqType}))
    return given


DISK = [
    Resource.MmioAddressRange(0xC000_1000, 0x1000),
    Resource.MsiIrq(MsiIrqType.PCI_MSIX, 24, 2),
    Resource.KvmMemSlot(0),
]


def test_devices_get_the_resources_that_they_ask_for_and_are_on_the_bus(output: str) -> None:
    plugged = step(output, 2)
    assert given_resources(plugged) == {
        "console": [Resource.PioAddressRange(0x3F8, 8), Resource.LegacyIrq(6)],
        "timer": [Resource.MmioAddressRange(0xC000_0000, 0x1000), Resource.LegacyIrq(7)],
        "disk": DISK,
    }
    for line in ("0xc0000000..0xc0000fff .* timer", "0xc0001000..0xc0001fff .* Mutex", "0x3f8..0x3ff .* console"):
        assert re.search(line, plugged)


def test_a_disk_that_is_plugged_again_gets_the_same_resources(output: str) -> None:
    assert step(output, 4).startswith("  unplugged disk; ")
    assert given_resources(step(output, 5)) == {"disk": DISK}
    assert "same address as before: yes\n" in step(output, 5)


def test_a_device_whose_constraints_cannot_be_met_is_refused(output: str) -> None:
    assert re.fullmatch(
        r"  NoAvailableResourceError: .*\bPioAddress\(size=8, range=\(0x3f8, 0x3ff\), align=8\).*\n\n",
        step(output, 7),
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
