"""The Sphinx directive for register tables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

core = pytest.importorskip("docutils.core")
from docutils.parsers.rst import directives  # noqa: E402

from dbs_device.registers import Flag, Register, RegisterBank  # noqa: E402
from dbs_device.sphinx import setup  # noqa: E402


class Status(Register):
    """Status, or state | both."""

    READY = Flag(3, doc="ready")


class Bank(RegisterBank):
    SR = Status(0x10)


class Application:
    """As much of Sphinx as an extension sees."""

    def add_directive(self, name, directive):
        directives.register_directive(name, directive)


@pytest.fixture(scope="module", autouse=True)
def _directive():
    setup(Application())


def published(text):
    settings = {"halt_level": 5, "warning_stream": "", "output_encoding": "unicode"}
    return core.publish_string(text, settings_overrides=settings)  # as pseudo-XML


def test_a_bank_becomes_a_table():
    page = published(f".. register-table:: {__name__}.Bank\n")
    cells = [line.strip() for line in page.splitlines() if not line.strip().startswith("<")]
    assert cells[:6] == ["Offset", "Name", "Bits", "Access", "Reset", "Description"]
    assert cells[6:] == [
        "0x010",
        "SR",
        "31:0",
        "0x0",
        "Status, or state | both.",
        "SR.READY",
        "3",
        "RW",
        "0x0",
        "ready",
    ]


@pytest.mark.parametrize("name", ["nope.Bank", f"{__name__}.Nope", f"{__name__}.Status", "Bank"])
def test_what_is_not_a_bank_is_an_error_in_the_page(name):
    page = published(f".. register-table:: {name}\n")
    assert f"register-table: {name} " in page
    assert "<table" not in page


def test_a_sphinx_project_builds(tmp_path):
    pytest.importorskip("sphinx")
    (tmp_path / "conf.py").write_text("extensions = ['dbs_device.sphinx']\n")
    (tmp_path / "index.rst").write_text(f"Bank\n====\n\n.. register-table:: {__name__}.Bank\n")
    # In a process of its own, since Sphinx changes docutils for good.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "text", str(tmp_path), str(tmp_path / "out")]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SR.READY" in (tmp_path / "out" / "index.txt").read_text()
