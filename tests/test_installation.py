"""Those who install or build the package are told in one line what is missing, and only what changed is compiled."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeeds(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    done = python(*arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


# -- imports


def test_a_source_folder_that_is_not_compiled_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "dbs_device"
    shutil.copytree(ROOT / "dbs_device", folder, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    done = python("-c", "import dbs_device", cwd=tmp_path)
    line = last_line(done)
    assert line.startswith(f"ImportError: {folder} is a source folder, and is not compiled for this Python: ")
    for way_out in ("run from another directory", "`pip install -e .`", "`python setup.py build_ext --inplace`"):
        assert way_out in line
    assert "During handling" not in done.stderr


WITHOUT = """
import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError("No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
"""


def test_another_missing_module_is_named_as_usual(tmp_path: Path) -> None:
    line = last_line(python("-c", WITHOUT.format(name="numpy") + "import dbs_device", cwd=tmp_path))
    assert line == "ModuleNotFoundError: No module named 'numpy'"


def test_the_bridge_without_unicorn_names_the_extra(tmp_path: Path) -> None:
    line = last_line(python("-c", WITHOUT.format(name="unicorn") + "import dbs_device.unicorn", cwd=tmp_path))
    assert line == "ImportError: dbs_device.unicorn needs the package unicorn: pip install 'dbs-device[unicorn]'"


# -- what a machine lacks

prerequisites = load("prerequisites")


def test_this_machine_can_build_the_package() -> None:
    assert prerequisites.missing() is None


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "OLDEST", (99, 0))
    problem = prerequisites.missing()
    assert problem.startswith("Python 99.0 or newer is needed")
    assert problem.endswith("this is {}.{} ({})".format(*sys.version_info[:2], sys.executable))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -pthread")
    assert prerequisites.missing().startswith("a C compiler is needed, and 'no-such-compiler' was not found (")


def test_missing_headers_of_python_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert prerequisites.missing().startswith(f"the header Python.h is needed, and is not in {tmp_path} (")


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "--no-such-option")
    problem = prerequisites.missing()
    assert "cannot compile a C11 program" in problem
    assert "--no-such-option" in problem
    assert "\n" not in problem


# -- the build backend


@pytest.mark.parametrize(
    "hook",
    [
        "get_requires_for_build_wheel()",
        "get_requires_for_build_editable()",
        # Without build isolation, pip does not ask for the requirements.
        "prepare_metadata_for_build_wheel('metadata')",
        "prepare_metadata_for_build_editable('metadata')",
    ],
)
def test_pip_is_told_in_one_line_at_its_first_question(hook: str) -> None:
    done = python("-c", f"import build_backend; build_backend.{hook}", cwd=TOOLS, CC="no-such-compiler")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("dbs-device: a C compiler is needed")


def test_a_source_distribution_needs_no_compiler() -> None:
    program = "import build_backend; print(*build_backend.get_requires_for_build_sdist())"
    assert "setuptools" in succeeds("-c", program, cwd=TOOLS, CC="no-such-compiler")


def test_the_backend_has_its_hooks_before_setuptools_is_installed() -> None:
    hooks = "build_wheel, build_editable, build_sdist, prepare_metadata_for_build_editable"
    program = f"import sys; sys.modules['setuptools'] = None; from build_backend import {hooks}"
    succeeds("-c", program, cwd=TOOLS)


# -- the environment that make sets up


def test_an_environment_of_another_python_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".venv" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/sh\nprintf 'Python 3.99.1 (/opt/other)'\n")
    other.chmod(0o755)
    done = python(TOOLS / "bootstrap.py", tmp_path / ".venv", cwd=tmp_path)
    line = last_line(done)
    assert done.stdout == ""
    assert ".venv is of Python 3.99.1 (/opt/other), not of Python {}.{}.{} (".format(*sys.version_info) in line
    assert "VENV={}-{}.{}".format(tmp_path / ".venv", *sys.version_info) in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [other]


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return load("bootstrap")


def test_requirements_are_those_of_extras_and_groups(bootstrap: ModuleType) -> None:
    project = """
        [project]
        dependencies = ["numpy>=1"]
        [project.optional-dependencies]
        fast = ["turbo"]
        slow = ["brakes"]
        [dependency-groups]
        test = ["pytest"]
        all = [{ include-group = "test" }, "ruff"]
    """
    assert bootstrap.requirements(project, []) == sorted([*prerequisites.PACKAGES, "numpy>=1"])
    added = set(bootstrap.requirements(project, ["fast", "all"])) - set(bootstrap.requirements(project, []))
    assert added == {"turbo", "pytest", "ruff"}


def test_progress_is_shown_and_the_rest_only_after_a_failure(
    bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import sys; print('building x'); print('detail'); sys.exit(int(sys.argv[1]))"
    bootstrap.run([sys.executable, "-c", program, "0"], shown="building")
    assert capsys.readouterr() == ("dbs-device: building x\n", "")
    with pytest.raises(SystemExit, match="this failed"):
        bootstrap.run([sys.executable, "-c", program, "3"], shown="building")
    assert capsys.readouterr().err == "building x\ndetail\n"


# -- building


@pytest.mark.slow
def test_only_what_changed_is_compiled_and_nothing_again_for_an_editable_install(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    # Built files are copied with their times, so that little is left to build.
    tree.mkdir()
    for name in ("dbs_device", "tools", "build", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("bdist.*", "lib.*", "temp.*"))
        elif source.exists():
            shutil.copy2(source, tree / name)

    def built(*command: str) -> list[str]:
        return re.findall(r"building '(.+)' extension", succeeds(*command, cwd=tree, PYTHONPATH=str(tree / "tools")))

    in_place = ("setup.py", "build_ext", "--inplace")
    built(*in_place)
    assert built(*in_place) == []
    (tree / "dbs_device" / "_engine" / "bus_view.pyx").touch()
    assert built(*in_place) == ["dbs_device._engine.bus_view"]

    assert built("-c", f"import build_backend; build_backend.build_editable({str(tmp_path)!r})") == []
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (pth,) = (name for name in archive.namelist() if name.endswith(".pth"))
        assert archive.read(pth).decode().split() == [str(tree)]


@pytest.mark.slow
def test_a_package_that_cimports_ours_builds_against_an_editable_install(tmp_path: Path) -> None:
    # A build leaves metadata in the source tree too, without an origin.
    installed = importlib.metadata.distributions(name="dbs-device")
    origins = [json.loads(origin) for each in installed if (origin := each.read_text("direct_url.json"))]
    if {"dir_info": {"editable": True}, "url": ROOT.as_uri()} not in origins:
        pytest.skip("the package is not an editable install of this source tree")
    source = tmp_path / "embedding"
    shutil.copytree(ROOT / "tests" / "embedding", source, ignore=shutil.ignore_patterns("*.so", "cpu.c", "build"))
    succeeds("setup.py", "--quiet", "build_ext", "--inplace", cwd=source)
    program = "import embedder.cpu, embedder.c_emulator, dbs_device; print(dbs_device.__file__)"
    assert succeeds("-c", program, cwd=source).strip() == str(ROOT / "dbs_device" / "__init__.py")
