"""ThreadSanitizer over C dispatch under hot-plug: ``python tests/sanitize/tsan.py [rounds]``, which `make tsan` calls.

Builds the package and ``guests.pyx`` with ``-fsanitize=thread`` in ``build/tsan``, and runs ``stress.py`` on them.
Python itself is not instrumented: the sanitizer sees its locks, the GIL among them, because it intercepts those of
pthreads, and it sees the memory that the package's own code accesses. Nothing is suppressed: what threads share without
a lock is atomic, the memory of guests included.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from instrumented import PACKAGE, Tree, compiler_library  # noqa: E402

FOUND = 66  # exit status of a run in which the sanitizer has found something
# The sanitizer's shadow memory has fixed places, which randomised addresses may take.
FIXED_ADDRESSES = ("setarch", "--addr-no-randomize")


def main() -> None:
    """Build, run, and exit as the run did."""
    library = compiler_library("libtsan")
    options = f"exitcode={FOUND} history_size=4"
    tree = Tree(ROOT / "build" / "tsan", PACKAGE, {"DBS_DEVICE_SANITIZE": "thread", "TSAN_OPTIONS": options})
    tree.build()
    build = ("--quiet", "build_ext", "--inplace")
    if tree.run(str(HERE / "build_guests.py"), *build, before=FIXED_ADDRESSES, LD_PRELOAD=library) != 0:
        sys.exit("the build of the guests has failed")
    status = tree.run(str(HERE / "stress.py"), *sys.argv[1:], before=FIXED_ADDRESSES, LD_PRELOAD=library)
    print({0: "ThreadSanitizer: nothing found", FOUND: "ThreadSanitizer has found races"}.get(status, "the run failed"))
    sys.exit(status)


if __name__ == "__main__":
    main()
