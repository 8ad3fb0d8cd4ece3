"""Make the virtual environment that the Makefile runs everything in, or say in one line what is missing.

Runs on any Python 3, so that one that is too old is told so.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile

OLDEST = (3, 11)
HINT = "on Debian and Ubuntu: sudo apt install gcc libc6-dev python3-dev python3-venv"


def missing():
    """Return what this machine lacks, in one line, or None."""
    if sys.version_info < OLDEST:
        this = "{}.{}".format(*sys.version_info)
        return "Python {}.{} or newer is needed, and this is {}. If there is one: make PYTHON=...".format(*OLDEST, this)
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not compiler or shutil.which(compiler[0]) is None:
        return "a C compiler is needed, and {!r} is not there ({})".format((compiler or ["cc"])[0], HINT)
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "Python.h is needed, and is not in {} ({})".format(sysconfig.get_path("include"), HINT)
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, "probe.c")
        with open(source, "w") as file:
            file.write("#include <stdatomic.h>\n#include <stdio.h>\nint main(void) { return 0; }\n")
        command = [*compiler, "-std=c11", source, "-o", os.path.join(directory, "probe")]
        if subprocess.run(command, capture_output=True).returncode != 0:
            return f"{compiler[0]!r} cannot compile a C11 program: the C library's headers are missing ({HINT})"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return f"the venv module is needed, and this Python has none ({HINT})"
    return None


def main():
    problem = missing()
    if problem is not None:
        sys.exit("dbs-device: " + problem)
    environment, *extras = sys.argv[1:]
    python = os.path.join(environment, "bin", "python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    package = ".[{}]".format(",".join(extras)) if extras else "."
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", package]
    sys.exit(subprocess.run(install).returncode)


if __name__ == "__main__":
    main()
