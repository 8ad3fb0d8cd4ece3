"""AddressSanitizer and UndefinedBehaviorSanitizer over the tests and the fuzzer: `make sanitize` calls it.

Builds the package with ``-fsanitize=address,undefined`` in ``build/asan``, and runs there the tests but the slow ones,
then the fuzzer for some seconds. The first thing that a sanitizer finds ends the process with a report.

Python itself is not instrumented. Its objects come from malloc (``PYTHONMALLOC``), so that the sanitizer sees where
each ends, and when it is freed. Leaks are not looked for: Python and numpy keep what they allocate at import for the
life of the process. No report is suppressed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from instrumented import PACKAGE, TESTS, TESTS_OF_OTHER_BUILDS, Tree, compiler_library  # noqa: E402

FOUND = 66  # exit status of a run in which a sanitizer has found something
BUILD = ROOT / "build" / "asan"
REPORT = BUILD / "report"  # and the number of the process: pytest captures what a test writes

ENVIRONMENT = {
    "DBS_DEVICE_SANITIZE": "address,undefined",
    # A request of too much memory is a MemoryError, as it is without the sanitizer. faulthandler reports signals.
    "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:handle_segv=0:exitcode={FOUND}:log_path={REPORT}",
    "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={FOUND}:log_path={REPORT}",
    "PYTHONMALLOC": "malloc",
}
# They run no code of the package that is compiled, or run it in a process that loads the sanitizer too late.
NOT_RUN = (
    *TESTS_OF_OTHER_BUILDS,
    "test_cli.py",
    "test_cocotb.py",
    "test_documentation.py",
    "test_generate.py",
    "test_layers.py",
    "test_release.py",
    "test_site.py",
    "test_sphinx.py",
    "test_registers_typing.py",
)
# The sanitizer keeps what was freed for a while.
MEASURES_MEMORY = "test_nothing_leaks_over_many_registrations_and_accesses"


def findings(report: str) -> str:
    """Return a report without the warnings of requests for too much memory."""
    return "".join(line for line in report.splitlines(keepends=True) if "failed to allocate" not in line)


def main() -> None:
    """Build and run; exit with the status of the first run that fails."""
    parser = argparse.ArgumentParser(description="Run the tests and the fuzzer under ASan and UBSan.")
    parser.add_argument("--seconds", default="60", help="of fuzzing")
    parser.add_argument("tests", nargs="*", help="options and files for pytest in place of the fast tests")
    options = parser.parse_args()
    # The sanitizer looks for the functions of C++ when it is loaded; modules of others (matplotlib) use them later.
    libraries = f"{compiler_library('libasan')} {compiler_library('libstdc++')}"
    tree = Tree(BUILD, PACKAGE + TESTS, ENVIRONMENT)
    tree.build()
    ignored = [f"--ignore=tests/{name}" for name in NOT_RUN]
    tests = options.tests or ["-m", "not slow", "tests", *ignored]
    runs = (
        ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not {MEASURES_MEMORY}", *tests),
        ("tests/fuzz", "--seconds", options.seconds),
    )
    for run in runs:
        for report in BUILD.glob("report.*"):
            report.unlink()
        status = tree.run(*run, LD_PRELOAD=libraries)
        reports = [text for report in BUILD.glob("report.*") if (text := findings(report.read_text()))]
        print(*reports, sep="\n", flush=True)
        if status != 0 or reports:
            sys.exit(f"under the sanitizers, {' '.join(run[:2])} has failed with status {status}")
    print("AddressSanitizer, UndefinedBehaviorSanitizer: nothing found")


if __name__ == "__main__":
    main()
