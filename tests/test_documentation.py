"""What the README and the docs show is what happens."""

import contextlib
import doctest
import io
import re
from pathlib import Path

import pytest
from helpers import fenced_blocks

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(ROOT.glob("docs/*.md"))


def test_the_readme_example_prints_what_the_readme_says():
    (program,) = fenced_blocks(ROOT / "README.md", "python")
    expected = fenced_blocks(ROOT / "README.md", "text")[0]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    assert output.getvalue() == expected


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if ">>>" in path.read_text()], ids=lambda path: path.name)
def test_the_sessions_in_the_docs_go_as_shown(path):
    results = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
