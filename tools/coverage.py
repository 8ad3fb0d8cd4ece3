"""Measure what the tests reach, in the Python modules and, by line tracing, in the compiled ones.

Works on a copy of the tree, so that the modules built with tracing, which are slow, never replace the others.
"""

import sys
import tempfile

from instrumented import PACKAGE, TESTS, TESTS_OF_OTHER_BUILDS, Tree


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree = Tree(directory, PACKAGE + TESTS, {"DBS_DEVICE_LINETRACE": "1"})
        tree.build()
        (tree.directory / ".coveragerc").write_text(
            "[run]\nbranch = true\nsource = dbs_device\nplugins = Cython.Coverage\n"
        )
        ignored = [f"--ignore=tests/{name}" for name in TESTS_OF_OTHER_BUILDS]
        result = tree.run("-m", "coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored)
        tree.run("-m", "coverage", "report", "--show-missing")
        sys.exit(result)


if __name__ == "__main__":
    main()
