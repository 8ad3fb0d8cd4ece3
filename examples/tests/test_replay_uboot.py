"""The replay of U-Boot runs, with and without rich, and shows what U-Boot did."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dbs_device.trace import Trace
from examples.tests.running import ROOT, output_of, run_example

EXAMPLE = "examples/replay_uboot.py"
UBOOT = ROOT / "tests" / "data" / "uboot_x86_trace.npz"
COM1_READS, COM1_WRITES = 3356, 2923

WITHOUT_RICH = f"""
import runpy, sys
sys.modules["rich"] = sys.modules["rich.console"] = None
runpy.run_path({EXAMPLE!r}, run_name="__main__")
"""

# Replays another trace instead of the real one.
WITH_ANOTHER_TRACE = f"""
import pathlib, runpy, sys
from dbs_device.trace import Trace
load = Trace.load.__func__
Trace.load = classmethod(lambda cls, path: load(cls, pathlib.Path(sys.argv[1])))
runpy.run_path({EXAMPLE!r}, run_name="__main__")
"""


@pytest.fixture(scope="module", params=["rich", "plain"])
def output(request: pytest.FixtureRequest) -> str:
    if request.param == "rich":
        pytest.importorskip("rich", reason="rich is optional, and not installed here")
        output = output_of(EXAMPLE, COLUMNS="120")
        assert "┃" in output
    else:
        output = output_of("-c", WITHOUT_RICH, COLUMNS="120")
        assert "┃" not in output
    return output


def cells(output: str) -> dict[str, list[str]]:
    """Return the rows of the table by the name of the device."""
    rows = [re.split(r"\s*│\s*|\s{2,}", line.strip(" │")) for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 6 and row[1] in ("PIO", "MMIO")}


def test_the_reads_and_writes_of_every_device_that_was_accessed(output: str) -> None:
    rows = cells(output)
    counted = {name: (int(reads), int(writes)) for name, (*_, reads, writes) in rows.items()}
    expected = {row.name: (row.reads, row.writes) for row in Trace.load(UBOOT).summary() if row.reads or row.writes}
    assert counted == expected
    assert rows["com1"] == ["PIO", "0x3f8..0x3ff", "16550 model", str(COM1_READS), str(COM1_WRITES)]
    assert rows["lapic"][:3] == ["MMIO", "0xfee00000..0xfee00fff", "recording"]


def test_the_text_that_came_out_of_the_serial_port(output: str) -> None:
    lines = [line.strip(" │") for line in output.splitlines()]
    start = lines.index("U-Boot 2023.01+dfsg-2+deb12u3 (Jun 22 2026 - 08:38:07 +0000)")
    for line in (
        "DRAM:  64 MiB",
        "Hit any key to stop autoboot:  0",
        "=> version",
        "00.00.00   0x8086     0x1237     Bridge device           0x00",
        "01000000: 50 59 44 45 56 20 41 54 41 20 44 49 53 4b 21 21  PYDEV ATA DISK!!",
        "=> reset",
        "resetting ...",
    ):
        start = lines.index(line, start)


def test_every_answer_is_the_recorded_one(output: str) -> None:
    trace = Trace.load(UBOOT)
    reads = np.count_nonzero(trace.accesses["write"] == 0)
    assert re.fullmatch(
        rf"12 of 28 devices were left alone\. In \d+ ms: {len(trace)} accesses, {reads} reads compared, "
        r"no differences\.",
        output.splitlines()[-1],
    )


def test_a_wrong_answer_is_noticed(tmp_path: Path) -> None:
    trace = Trace.load(UBOOT)
    (line_status,) = np.nonzero((trace.accesses["addr"] == 0x3FD) & (trace.accesses["write"] == 0))
    trace.accesses["value"][line_status[5]] = 0x20
    trace.save(tmp_path / "other.npz")
    result = run_example("-c", WITH_ANOTHER_TRACE, str(tmp_path / "other.npz"), COLUMNS="120")
    assert (result.returncode, result.stderr) == (1, "")
    assert (
        f"1 difference; the first is access {line_status[5]}: the read of 1 byte at PIO 0x3fd gave 0x60, not 0x20."
    ) in result.stdout
