"""The separate package in tests/embedding builds against the wheel, in isolation, and its tests pass there."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def run(*command, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel_directory(tmp_path_factory):
    """A directory with the wheel that the source tree makes."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT)
    return directory


@pytest.fixture(scope="module")
def python(wheel_directory, tmp_path_factory):
    """The interpreter of a fresh virtual environment with the wheel, and the package that embeds it, installed."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    (wheel,) = wheel_directory.glob("*.whl")
    # The isolated build finds the wheel, which no index has, where pip looks for links.
    links = f"{wheel_directory} {os.environ.get('PIP_FIND_LINKS', '')}".strip()
    environment = os.environ | {"PIP_FIND_LINKS": links, "PIP_NO_CACHE_DIR": "1"}
    run(python, "-m", "pip", "install", "--quiet", wheel, "pytest", env=environment)
    source = tmp_path_factory.mktemp("source") / "embedding"
    shutil.copytree(ROOT / "tests" / "embedding", source)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", source, env=environment)
    return python


def test_a_package_that_embeds_the_bus_builds_against_the_wheel_and_works(python, tmp_path):
    # A copy of the tests alone: beside them, the package's source would be imported instead of what is installed.
    tests = shutil.copy(ROOT / "tests" / "embedding" / "test_embedder.py", tmp_path)
    output = run(python, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tests, cwd=tmp_path)
    assert "passed" in output


def test_the_wheel_holds_what_embedders_need(wheel_directory):
    (wheel,) = wheel_directory.glob("*.whl")
    names = run(sys.executable, "-m", "zipfile", "-l", wheel)
    for name in ("_bus.pxd", "_tables.pxd", "_platform.pxd", "dbs_device.h", "py.typed", "_bus.pyi", "LICENSE"):
        assert f"/{name}" in names
    assert "_bus.c " not in names
