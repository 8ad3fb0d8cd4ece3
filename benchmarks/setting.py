"""What the figures of a run depend on: the machine, and what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import check
from peers import PEERS

VERSIONS = ("dbs-device", "numpy", "Cython", "pyperf", "unicorn", *sorted({p.module for p in PEERS if p.module}))


def version_of(*command: str) -> str:
    """Return the first line that a program says of its version."""
    if shutil.which(command[0]) is None:
        return "not installed"
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else "unknown"


def processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def setting() -> dict[str, str]:
    """Return what the figures depend on."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": f"{processor()}, {os.cpu_count()} CPUs, {platform.machine()}",
        "system": platform.system(),
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}, {platform.python_compiler()}",
        "C compiler": check.compiler(),
        "C++ compiler": version_of(os.environ.get("CXX", "c++"), "--version"),
        "Rust compiler": version_of("rustc", "--version"),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
