"""Bring a virtual environment up to date: `python tools/bootstrap.py ENVIRONMENT NAME...`.

Makes the environment, installs what is missing of the named extras and dependency groups, compiles what has changed,
and installs the package in editable mode. Says what it does, and nothing where nothing is to be done.
"""

import json
import os
import re
import subprocess
import sys
from collections import deque

from prerequisites import HINT, PACKAGES, check

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    check()
    environment, *names = sys.argv[1:]
    make_environment(environment)
    python = os.path.join(environment, "bin", "python")
    pip_install = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as file:
        project = file.read()
    record_path = os.path.join(environment, "dbs-device.json")
    record = {"requirements": [], "package": None}
    if os.path.exists(record_path):
        with open(record_path, encoding="utf-8") as file:
            record = json.load(file)

    missing = [each for each in requirements(project, names) if each not in record["requirements"]]
    if missing:
        say("installing " + ", ".join(sorted({re.match(r"[\w-]+", each)[0] for each in missing})))
        run([*pip_install, *missing], shown=r" *(Downloading|Using cached)")
        record["requirements"] += missing

    run([python, "-u", "setup.py", "build_ext", "--inplace"], shown=r"\[ *\d+/\d+\] Cythonizing|building '")

    package = [ROOT, project]
    if record["package"] != package:
        say("installing the package in editable mode")
        run([*pip_install, "--no-deps", "--no-build-isolation", "--editable", ROOT], shown="$.")
        record["package"] = package

    with open(record_path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)


def say(line):
    print("dbs-device: " + line, flush=True)


def run(command, shown):
    """Run a command, and print the lines of its output that match; if it fails, print the last ones and exit."""
    last_lines = deque(maxlen=30)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            last_lines.append(line)
            if re.match(shown, line):
                say(line.strip())
    if process.returncode != 0:
        sys.stderr.writelines(last_lines)
        sys.exit("dbs-device: this failed: " + " ".join(command))


def identity():
    """Return which Python this is: for an environment's, the one that made it."""
    return "Python {}.{}.{} ({})".format(*sys.version_info[:3], sys.base_prefix)


def make_environment(path):
    """Make a virtual environment, unless it is there; exit if it is another Python's."""
    python = os.path.join(os.path.abspath(path), "bin", "python")
    ask = [python, "-c", "import bootstrap, pip; print(bootstrap.identity(), end='')"]
    try:
        found = subprocess.check_output(ask, cwd=os.path.dirname(__file__), stderr=subprocess.DEVNULL, text=True)
    except (OSError, subprocess.CalledProcessError):
        found = None
    if found is None:
        try:
            import ensurepip  # noqa: F401
            import venv  # noqa: F401
        except ImportError:
            sys.exit(f"dbs-device: the modules venv and ensurepip are needed ({HINT})")
        say("making {} with Python {}.{}.{}".format(path, *sys.version_info))
        # This may be running on the Python of that very environment, which no longer works.
        subprocess.run([sys._base_executable, "-m", "venv", "--clear", path], check=True)
    elif found != identity():
        beside = "{}-{}.{}".format(path, *sys.version_info)
        sys.exit(f"dbs-device: {path} is of {found}, not of {identity()}: `make clean` first, or add VENV={beside}")


def requirements(project, names):
    """Return the requirements of building, of the package, and of the named extras and dependency groups, sorted."""
    import tomllib  # not in the Pythons that are told that they are too old

    tables = tomllib.loads(project)
    named = tables["project"]["optional-dependencies"] | tables["dependency-groups"]

    def expand(name):
        for each in named[name]:
            yield from [each] if isinstance(each, str) else expand(each["include-group"])

    return sorted({*PACKAGES, *tables["project"]["dependencies"], *(each for name in names for each in expand(name))})


if __name__ == "__main__":
    main()
