"""The documentation site has every public name, every page is reachable, and links lead somewhere."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import dbs_device

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"


def public_modules() -> list[str]:
    """Return the names of the public modules; of a package that is within the package, its modules."""
    names = ["dbs_device"]
    for each in pkgutil.walk_packages(dbs_device.__path__, "dbs_device."):
        if not each.ispkg and not any(part.startswith("_") for part in each.name.split(".")):
            names.append(each.name)
    return names


def documented_modules() -> set[str]:
    """Return the modules whose members the reference lists by itself."""
    return {
        name
        for page in REFERENCE.glob("*.md")
        for name in re.findall(r"^\.\. automodule:: ([\w.]+)\n   :members:$", page.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("name", [name for name in public_modules() if name != "dbs_device"])
def test_the_reference_has_every_public_module(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__
    assert name in documented_modules()


def test_the_reference_has_every_name_of_the_package() -> None:
    page = (REFERENCE / "bus.md").read_text()
    of_the_page = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (\w+)", page, re.MULTILINE))
    elsewhere = {
        name
        for module in documented_modules()
        for name in importlib.import_module(module).__all__
        if getattr(importlib.import_module(module), name, None) is getattr(dbs_device, name, object())
    }
    assert set(dbs_device.__all__) - elsewhere - of_the_page == set()
    assert of_the_page - set(dbs_device.__all__) == set()


def pages() -> list[str]:
    """Return the pages of the site, as its tables of contents name them; `index` has them all."""
    paths = (path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md"))
    return sorted(str(path) for path in paths if path.parts[0] not in ("_build", "index"))


@pytest.mark.parametrize("page", pages())
def test_every_page_is_in_a_table_of_contents(page: str) -> None:
    folder = "reference" if page.startswith("reference/") and page != "reference/index" else ""
    contents = (DOCS / folder / "index.md").read_text()
    assert re.search(rf"^{re.escape(page.removeprefix('reference/') if folder else page)}$", contents, re.MULTILINE)


LINKING = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("benchmarks/*.md")]


@pytest.mark.parametrize(
    "path", [path for path in LINKING if "_build" not in path.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_device_of_the_library_is_on_its_page_once():
    page = (ROOT / "docs" / "devices-library.md").read_text()
    rows = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)))
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "dbs_device" / "devices").glob("[a-z]*.py"))
