"""The separate package in tests/embedding builds against the wheel, in isolation, and its tests pass there."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from helpers import fenced_blocks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CONSUMERS = ["minimal", "cpu", "cxx_cpu", "accesses", "c_emulator", "cxx_emulator"]
COMPILERS = {"gcc": "g++", "clang": "clang++"}
STANDARDS = {"gcc": "c11", "clang": "c17"}


def start(*command, **kwargs):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)


def run(*command, **kwargs):
    done = start(*command, **kwargs)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def skip_without(compiler):
    for name in (compiler, COMPILERS[compiler]):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def wheel_directory(tmp_path_factory):
    """A directory with the wheel that the source tree makes."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", directory, ROOT)
    return directory


class Environment:
    """A fresh virtual environment with the wheel installed, and what it takes to build against it and to test that."""

    def __init__(self, directory, wheel):
        venv.create(directory, with_pip=True)
        self.python = directory / "bin" / "python"
        # An isolated build finds the wheel, which no index has, where pip looks for links.
        links = f"{wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}".strip()
        self.variables = os.environ | {"PIP_FIND_LINKS": links, "PIP_NO_CACHE_DIR": "1"}
        self.pip_install(wheel, "Cython", "pytest", "setuptools>=77")
        self.package = Path(self.run("-c", "import dbs_device; print(dbs_device.__path__[0])").strip())

    def run(self, *arguments, **kwargs):
        return run(self.python, *arguments, **{"cwd": self.python.parent, **kwargs})

    def pip_install(self, *arguments, **variables):
        self.run("-m", "pip", "install", "--quiet", *arguments, env=self.variables | variables)

    def install_embedder(self, tmp_path, *arguments, **variables):
        """Build the package that embeds the bus, from a copy of its source, and install it."""
        source = tmp_path / "source"
        shutil.copytree(ROOT / "tests" / "embedding", source)
        self.pip_install("--no-deps", "--force-reinstall", *arguments, source, **variables)


@pytest.fixture(scope="module")
def environment(wheel_directory, tmp_path_factory):
    (wheel,) = wheel_directory.glob("*.whl")
    return Environment(tmp_path_factory.mktemp("environment"), wheel)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_package_that_embeds_the_bus_builds_against_the_wheel_and_works(compiler, environment, tmp_path):
    skip_without(compiler)
    isolation = [] if compiler == "gcc" else ["--no-build-isolation"]  # it takes half a minute
    variables = {"CC": compiler, "CXX": COMPILERS[compiler], "EMBEDDER_C_STANDARD": STANDARDS[compiler]}
    environment.install_embedder(tmp_path, *isolation, **variables)
    # A copy of the tests alone: beside them, the package's source would be imported instead of what is installed.
    for name in ("test_embedder.py", "abi.json"):
        shutil.copy(ROOT / "tests" / "embedding" / name, tmp_path)
    tests = tmp_path / "test_embedder.py"
    output = environment.run("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tests, cwd=tmp_path)
    assert "passed" in output


RUN_GUEST = """
from pathlib import Path
from examples.riscv.machine import Machine
from examples.riscv.serial_line import Script
script = Script(b"stressed\\n")
machine = Machine(Path("examples/riscv/guest/guest.bin").read_bytes(), script, disk=bytearray(8192))
print(machine.run(), script.output.decode())
"""


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_core_of_the_riscv_machine_builds_against_the_wheel_and_runs(compiler, environment, tmp_path):
    skip_without(compiler)
    example = tmp_path / "examples" / "riscv"
    shutil.copytree(ROOT / "examples" / "riscv", example, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    variables = {"CC": compiler, "CFLAGS": "-Wall -Werror"}
    environment.pip_install("--no-deps", "--force-reinstall", "--no-build-isolation", example / "core", **variables)
    output = environment.run("-W", "error", "-c", RUN_GUEST, cwd=tmp_path)
    assert output.startswith("power off Hello from RV32IMA.\n")
    assert "Backwards, that is: desserts" in output


@pytest.mark.parametrize("standard", ["c11", "c17", "c++17", "c++20"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_header_compiles_without_a_warning(compiler, standard, environment):
    skip_without(compiler)
    language, command = ("c++", COMPILERS[compiler]) if "++" in standard else ("c", compiler)
    header = environment.run("-c", "import dbs_device; print(dbs_device.get_include())").strip()
    python = sysconfig.get_path("include")
    program = "#include <dbs_device.h>\nint main(void) { return dbs_device_import() != NULL; }\n"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
    arguments = [f"-std={standard}", *warnings, f"-I{header}", "-isystem", python, "-fsyntax-only", "-x", language, "-"]
    run(command, *arguments, input=program)


CHANGES = {
    "another version": (
        (r"(DBS_DEVICE_ABI_VERSION(?: =)?) (\d+)", lambda match: f"{match[1]} {int(match[2]) + 1}"),
        "built against version 2 of the C interface of dbs_device; the installed package has version 1: rebuild",
        CONSUMERS,
    ),
    "another member": (
        (r"(\n\} dbs_device_api;)", r"\n    void (*added)(void);\1"),
        "built against a newer dbs_device than the installed one: upgrade it",
        ["c_emulator", "cxx_emulator"],
    ),
}


@pytest.mark.parametrize(("change", "message", "refused"), CHANGES.values(), ids=CHANGES.keys())
def test_a_consumer_that_was_built_against_another_interface_says_so_at_import(
    change, message, refused, environment, tmp_path
):
    paths = [environment.package / name for name in ("_bus.pxd", "dbs_device.h")]
    originals = {path: path.read_text() for path in paths}
    try:
        for path, text in originals.items():
            path.write_text(re.sub(*change, text))
        environment.install_embedder(tmp_path, "--no-build-isolation", "--target", tmp_path / "site")
    finally:
        for path, text in originals.items():
            path.write_text(text)
    for module in CONSUMERS:
        done = start(environment.python, "-c", f"import embedder.{module}", cwd=tmp_path / "site")
        if module in refused:
            assert done.returncode != 0
            assert done.stderr.splitlines()[-1] == f"ImportError: {message}"
        else:
            assert (done.returncode, done.stderr) == (0, "")


def test_the_document_shows_what_builds_and_runs(environment, tmp_path):
    document = ROOT / "docs" / "embedding.md"
    setup, program = fenced_blocks(document, "python")
    (tmp_path / "setup.py").write_text(setup)
    (tmp_path / "machine.pyx").write_text("\n\n".join(fenced_blocks(document, "cython")))
    (tmp_path / "emulator.c").write_text("".join(fenced_blocks(document, "c")))
    strict = environment.variables | {"CFLAGS": "-Wall -Werror"}
    environment.run("setup.py", "--quiet", "build_ext", "--inplace", cwd=tmp_path, env=strict)
    assert [environment.run("-c", program, cwd=tmp_path)] == fenced_blocks(document, "text")


def test_the_wheel_holds_what_embedders_need(wheel_directory):
    (wheel,) = wheel_directory.glob("*.whl")
    names = run(sys.executable, "-m", "zipfile", "-l", wheel)
    for name in (
        "_bus.pxd",
        "_engine/native.pxd",
        "dbs_device.h",
        "py.typed",
        "_bus.pyi",
        "_cli/timeline.html.in",
        "LICENSE",
    ):
        assert f"/{name}" in names
    assert "_bus.c " not in names
