"""Imports go one way, as docs/development.md says; its drawings name what there is."""

import graphlib
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from helpers import fenced_blocks

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dbs_device"
DOCUMENT = ROOT / "docs" / "development.md"
LAYERS = ["vocabulary", "engine", "door", "flow", "devices", "library", "bridges", "tools"]
ROW = re.compile(r"^\| (\w+) \| `([\w/]+)` \| .* \| ?(.*?) ?\|$", re.MULTILINE)

# Of each module, by its path without suffix: the layer, and what it imports of that layer.
DOCUMENTED = {
    module: (layer, set(re.findall(r"`(.+?)`", own))) for layer, module, own in ROW.findall(DOCUMENT.read_text())
}


def sources():
    """All source files of modules, those of one module together; the stubs are of no interest at run time."""
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.p*")):
        if path.suffix in (".py", ".pyx", ".pxd") and path.name not in ("__init__.py", "__main__.py"):
            found[path.relative_to(PACKAGE).with_suffix("").as_posix()].append(path)
    return dict(found)


def imported_modules(path):
    """Modules of the package that a file imports or cimports when it runs: not for type checkers."""
    text = re.sub(r"^if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", path.read_text(), flags=re.MULTILINE)
    for dots, name, names in re.findall(r"^ *from (\.+)([\w.]*) c?import (.*)$", text, re.MULTILINE):
        origin = path.parents[len(dots) - 1].joinpath(*name.split("."))
        # From a package, modules are imported, or what its __init__.py has.
        modules = [origin / each for each in re.findall(r"(\w+)(?: as \w+)?", names)] if origin.is_dir() else [origin]
        for module in modules:
            if not origin.is_dir() or any(module.with_suffix(suffix).exists() for suffix in (".py", ".pyx", ".pxd")):
                yield module.relative_to(PACKAGE).as_posix()
    absolute = re.findall(r"^ *(?:from|c?import) dbs_device", text, re.MULTILINE)
    assert not absolute, f"{path}: within the package, imports are relative"


SOURCES = sources()
IMPORTS = {
    module: {imported for path in paths for imported in imported_modules(path)} - {module}
    for module, paths in SOURCES.items()
}


def test_the_sources_are_read():
    assert "_engine/native" in IMPORTS["_engine/tables"]  # cimport, in a .pyx
    assert "_engine/tables" in IMPORTS["_engine/access"]  # cimport, in a .pxd
    assert "errors" in IMPORTS["_engine/access"]  # from ..errors
    assert "_bus" not in IMPORTS["_engine/trace_data"]  # for type checkers
    assert all(imported <= SOURCES.keys() for imported in IMPORTS.values())


def layer_of(module):
    """The layer of a module: its row's, or "library", whose modules are on a page of their own."""
    return "library" if module.startswith("devices/") else DOCUMENTED[module][0]


def test_every_module_has_a_row():
    assert DOCUMENTED.keys() == {module for module in SOURCES if layer_of(module) != "library"}
    assert [layer for layer, _ in DOCUMENTED.values()] == sorted(
        (layer for layer, _ in DOCUMENTED.values()), key=LAYERS.index
    )


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_from_its_own_layer_or_one_below(module):
    layer = layer_of(module)
    above = {imported for imported in IMPORTS[module] if LAYERS.index(layer_of(imported)) > LAYERS.index(layer)}
    assert not above
    if layer != "library":
        _, own = DOCUMENTED[module]
        assert own == {imported for imported in IMPORTS[module] if layer_of(imported) == layer}


def test_imports_go_in_no_circle():
    graphlib.TopologicalSorter(IMPORTS).prepare()


def test_a_program_that_saves_no_state_does_not_import_what_that_takes():
    code = "import sys, numpy; there = set(sys.modules); import dbs_device; print(*(set(sys.modules) - there))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "dbs_device._bus" in imported
    assert not {"dbs_device._engine.state_file", "dbs_device._engine.archive", "dbs_device.trace"} & set(imported)


def test_the_drawings_name_what_there_is():
    text = "".join(path.read_text() for paths in SOURCES.values() for path in paths)
    layers, *ways = fenced_blocks(DOCUMENT, "text")
    for module in SOURCES:
        if layer_of(module) in ("engine", "door") and module != "_engine/include":
            assert re.search(rf"\b{Path(module).name}\b", layers), module
    for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\b_[a-z]+\b", "".join([layers, *ways])):
        assert name in text or f"_engine/{name}" in SOURCES or name in SOURCES or (PACKAGE / name).is_dir(), name
