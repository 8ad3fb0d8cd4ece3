"""Measure what the tests reach, in the Python modules and, by line tracing, in the compiled ones.

Works on a copy of the tree, so that the modules built with tracing, which are slow, never replace the others.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = (
    "dbs_device",
    "tests",
    "examples",
    "benchmarks",
    "docs",
    "tools",
    "setup.py",
    "conftest.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
# They run the package in environments or processes of their own, which are not measured.
NOT_MEASURED = ("test_embedding.py", "test_benchmarks.py", "test_installation.py")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
            elif source.exists():
                shutil.copy(source, tree / name)
        environment = os.environ | {"DBS_DEVICE_LINETRACE": "1", "PYTHONPATH": str(tree)}

        def run(*arguments: str) -> int:
            return subprocess.run([sys.executable, *arguments], cwd=tree, env=environment).returncode

        if run("setup.py", "--quiet", "build_ext", "--inplace") != 0:
            sys.exit("the build with line tracing failed")
        (tree / ".coveragerc").write_text("[run]\nbranch = true\nsource = dbs_device\nplugins = Cython.Coverage\n")
        ignored = [f"--ignore=tests/{name}" for name in NOT_MEASURED]
        result = run("-m", "coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored)
        run("-m", "coverage", "report", "--show-missing")
        sys.exit(result)


if __name__ == "__main__":
    main()
