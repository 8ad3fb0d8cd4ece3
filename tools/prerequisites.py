"""The requirements of a build: a Python, a compiler, and packages.

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
PACKAGES = ["setuptools>=77", "Cython>=3.2"]
HINT = "on Debian and Ubuntu: sudo apt install gcc libc6-dev python3-dev python3-venv"


def check():
    """Exit with one line that says what is missing, if anything is."""
    problem = missing()
    if problem is not None:
        sys.exit("dbs-device: " + problem)


def missing():
    """Return what this machine lacks, in one line, or None."""
    if sys.version_info < OLDEST:
        this = "{}.{} ({})".format(*sys.version_info[:2], sys.executable)
        return "Python {}.{} or newer is needed (with make: make PYTHON=...), and this is {}".format(*OLDEST, this)
    if sys.platform == "win32":
        return None  # setuptools finds the compiler in the registry
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc") or ["cc"]
    if shutil.which(compiler[0]) is None:
        return f"a C compiler is needed, and {compiler[0]!r} was not found ({HINT})"
    if not error_of_compiling(compiler, "stdatomic.h", "Python.h"):
        return None
    error = error_of_compiling(compiler, "stdatomic.h", "stdio.h")
    if error:
        return f"{compiler[0]!r} cannot compile a C11 program: {error} ({HINT})"
    return f"the header Python.h is needed, and is not in {sysconfig.get_path('include')} ({HINT})"


def error_of_compiling(compiler, *headers):
    """Compile a program that includes these headers, and return the compiler's first line about an error, or ""."""
    flags = shlex.split(os.environ.get("CFLAGS", "") + " " + os.environ.get("CPPFLAGS", ""))
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, "probe.c")
        with open(source, "w") as file:
            file.writelines(f"#include <{header}>\n" for header in headers)
        command = [*compiler, "-std=c11", *flags, *("-I" + folder for folder in folders)]
        command += ["-c", source, "-o", source + ".o"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    lines = done.stderr.splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0])
