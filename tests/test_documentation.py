"""The programs, outputs and numbers in the README and the docs are correct."""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import kvm_guest
import pytest
from helpers import fenced_blocks

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


def test_the_page_on_cocotb_shows_the_sources_of_the_example():
    sources = "".join(path.read_text() for path in (ROOT / "examples" / "rtl").glob("*.py"))
    blocks = fenced_blocks(ROOT / "docs" / "cocotb.md", "python")
    assert len(blocks) == 3
    assert [block for block in blocks if block.rstrip() not in sources] == []


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if ">>>" in path.read_text()], ids=lambda path: path.name)
def test_the_sessions_in_the_docs_go_as_shown(path):
    if path.name == "kvm.md" and (reason := kvm_guest.why_not()):
        pytest.skip(reason)
    results = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
