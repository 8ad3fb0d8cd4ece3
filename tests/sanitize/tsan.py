"""ThreadSanitizer over C dispatch under hot-plug: ``python tests/sanitize/tsan.py [rounds]``, which `make tsan` calls.

Builds the package and ``guests.pyx`` with ``-fsanitize=thread`` in ``build/tsan``, and runs ``stress.py`` on them.
Python itself is not instrumented: the sanitizer sees its locks, the GIL among them, because it intercepts those of
pthreads, and it sees the memory that the package's own code accesses. Nothing is suppressed: what threads share without
a lock is atomic, the memory of guests included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "tsan"
FOUND = 66  # exit status of a run in which the sanitizer has found something


def sanitizer_library() -> str:
    """Return the path of the sanitizer's library, which has to be loaded before everything else."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    asked = subprocess.run([compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True)
    path = Path(asked.stdout.strip())
    if not path.is_absolute():
        sys.exit(f"{compiler} has no ThreadSanitizer (libtsan)")
    return str(path.resolve())


def copy_sources() -> None:
    """Bring the copy of the package up to date; the compiler's files beside it stay."""
    BUILD.mkdir(parents=True, exist_ok=True)
    not_copied = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "dbs_device", BUILD / "dbs_device", ignore=not_copied, dirs_exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, BUILD)


def run(script: str, *arguments: str, preload: str = "") -> int:
    """Run a script of Python on the copy; return its exit status."""
    environment = os.environ | {
        "DBS_DEVICE_SANITIZE": "thread",
        "LD_PRELOAD": preload,
        "PYTHONPATH": str(BUILD),
        "TSAN_OPTIONS": f"exitcode={FOUND} history_size=4",
    }
    # The sanitizer's shadow memory has fixed places, which randomised addresses may take.
    command = ["setarch", "--addr-no-randomize", sys.executable, script, *arguments]
    return subprocess.run(command, cwd=BUILD, env=environment, check=False).returncode


def main() -> None:
    """Build, run, and exit as the run did."""
    library = sanitizer_library()
    copy_sources()
    build = ("--quiet", "build_ext", "--inplace")
    if run("setup.py", *build) != 0 or run(str(HERE / "build_guests.py"), *build, preload=library) != 0:
        sys.exit("the build for the sanitizer has failed")
    status = run(str(HERE / "stress.py"), *sys.argv[1:], preload=library)
    print({0: "ThreadSanitizer: nothing found", FOUND: "ThreadSanitizer has found races"}.get(status, "the run failed"))
    sys.exit(status)


if __name__ == "__main__":
    main()
