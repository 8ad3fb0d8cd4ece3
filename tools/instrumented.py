"""Copies of the tree that are built with other options, for coverage and sanitizers; the tree keeps its own modules."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ("dbs_device", "setup.py", "pyproject.toml", "README.md", "LICENSE")
DOCUMENTS = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "Makefile")
TESTS = ("tests", "examples", "benchmarks", "docs", "tools", "conftest.py", *DOCUMENTS)
# They run the package in environments or processes of their own, which are built without the options.
TESTS_OF_OTHER_BUILDS = ("test_embedding.py", "test_benchmarks.py", "test_installation.py")


class Tree:
    """A copy of the tree.

    Parameters
    ----------
    directory : Path
        Where it is. Modules that were compiled there stay, and are compiled again where a source has changed.
    names : iterable of str
        What is copied.
    environment : dict
        Environment variables of all that runs in it.
    """

    def __init__(self, directory, names, environment):
        self.directory = Path(directory)
        self.environment = os.environ | {"PYTHONPATH": str(self.directory)} | environment
        self.directory.mkdir(parents=True, exist_ok=True)
        not_copied = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
        for name in names:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.directory / name, ignore=not_copied, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, self.directory)

    def run(self, *arguments, before=(), **environment):
        """Run Python there, behind another command if one is given; return its exit status."""
        command = [*before, sys.executable, *arguments]
        return subprocess.run(command, cwd=self.directory, env=self.environment | environment, check=False).returncode

    def build(self, script="setup.py", **environment):
        """Compile what has changed; exit if that fails."""
        if self.run(str(script), "--quiet", "build_ext", "--inplace", **environment) != 0:
            sys.exit(f"the build in {self.directory} has failed")


def compiler_library(name):
    """Return the path of one of the compiler's libraries: a sanitizer's has to be loaded before everything else."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    asked = subprocess.run([compiler, f"-print-file-name={name}.so"], capture_output=True, text=True, check=True)
    path = Path(asked.stdout.strip())
    if not path.is_absolute():
        sys.exit(f"{compiler} has no {name}")
    return str(path.resolve())
