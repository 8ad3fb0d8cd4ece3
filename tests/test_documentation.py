"""The programs, outputs and numbers in the README and the docs are correct."""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import fenced_blocks

from dbs_device.trace import Trace

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(ROOT.glob("docs/*.md"))


def test_the_programs_in_the_readme_print_what_the_readme_says():
    pytest.importorskip("unicorn", reason="the extra `unicorn` is not installed")
    programs = fenced_blocks(ROOT / "README.md", "python")
    expected = fenced_blocks(ROOT / "README.md", "text")
    assert len(programs) == 2
    outputs = []
    for program in programs:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
        outputs.append(output.getvalue())
    assert outputs == expected


def test_the_numbers_in_the_readme_are_those_of_the_benchmarks():
    def numbers(line):
        return re.findall(r"[\d.]+ ns", line)

    measured = [numbers(line) for line in (ROOT / "docs" / "benchmarks" / "README.md").read_text().splitlines()]
    _, _, table = (ROOT / "README.md").read_text().partition("| one access |")
    shown = [row for line in table.partition("\n\n")[0].splitlines() if (row := numbers(line))]
    assert len(shown) == 4
    assert [row for row in shown if row not in measured] == []


def test_the_demo_prints_what_its_page_shows():
    for package in ("rich", "unicorn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    printed = subprocess.run(
        [sys.executable, "-m", "examples.guest"],
        cwd=ROOT,
        env={**environment, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=120,
        check=True,
    ).stdout
    shown = fenced_blocks(ROOT / "docs" / "demo.md", "text")[0]
    assert [line.rstrip() for line in printed.rstrip().splitlines()] == shown.splitlines()


@pytest.mark.parametrize(("page", "example", "count"), [("cocotb.md", "rtl", 3), ("qiling.md", "qiling_board", 2)])
def test_a_page_shows_the_sources_of_its_example(page, example, count):
    sources = "".join(path.read_text() for path in (ROOT / "examples" / example).glob("*.py"))
    blocks = fenced_blocks(ROOT / "docs" / page, "python")
    assert len(blocks) == count
    assert [block for block in blocks if block.rstrip() not in sources] == []


UART = """
from dbs_device import IoManager, Resource
from dbs_device.registers import Flag, Register, RegisterBank


class LineStatus(Register):
    DR = Flag(0)
    THRE = Flag(5)
    TEMT = Flag(6)


class Uart(RegisterBank, size=8, granule=1):
    LSR = LineStatus(5, size=1)


def build():
    manager = IoManager()
    manager.register_device_io(Uart(), [Resource.PioAddressRange(0x3F8, 8)], name="com1")
    return manager
"""


def test_the_commands_on_the_page_of_traces_print_what_it_shows(tmp_path):
    """Run in a directory with the files that the page speaks of."""
    for package in ("matplotlib", "rich", "vcd"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    trace = Trace.load(ROOT / "tests" / "data" / "seabios_uc_trace.npz")
    trace.save(tmp_path / "boot.npz")
    (tmp_path / "board.py").write_text(UART)
    polls = np.flatnonzero(trace.accesses["addr"] == 0x3FD)
    changed = trace.accesses.copy()
    changed["value"][polls[5]] ^= 0x20
    changed = np.insert(changed, polls[6], changed[polls[6]])
    Trace(changed, trace.ranges).save(tmp_path / "new.npz")
    page = ROOT / "docs" / "traces.md"
    blocks = fenced_blocks(page, "console")
    assert len(blocks) == 2
    for block in blocks:
        for session in block.split("$ ")[1:]:
            command, _, expected = session.partition("\n")
            command = command.replace("python", sys.executable, 1)
            done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
            assert (done.stdout, done.stderr) == (expected, "")
    # The picture of the page is what the tool makes, whatever the version of matplotlib.
    made, shown = ((path / "timeline.png").read_bytes()[:24] for path in (tmp_path, page.parent))
    assert made == shown
    assert "SeaBIOS" in (tmp_path / "timeline.html").read_text()


def test_the_page_on_the_riscv_core_shows_its_source():
    source = (ROOT / "examples" / "riscv" / "core" / "rv32" / "core.pyx").read_text()
    blocks = fenced_blocks(ROOT / "docs" / "riscv.md", "cython")
    assert len(blocks) == 6
    assert [block for block in blocks if block.rstrip() not in source] == []


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if ">>>" in path.read_text()], ids=lambda path: path.name)
def test_the_sessions_in_the_docs_go_as_shown(path):
    if path.name == "riscv.md":
        pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")
    if path.name == "kvm.md":
        import kvm_guest  # which skips the test where the module is not built

        if reason := kvm_guest.why_not():
            pytest.skip(reason)
    results = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
