"""Setup of all tests, those of the examples included: Hypothesis profiles, and cheap garbage collections.

Both profiles draw new examples in every run: derandomized examples are the same each time, and a defect that they
miss stays hidden. A failure is reproduced from Hypothesis's local database; the profile `ci` (``CI=1`` or
``--hypothesis-profile=ci``) has none, and prints a blob for ``@reproduce_failure`` instead. Neither has a deadline:
how long an example takes says more about the machine than about the code.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

settings.register_profile("default", derandomize=False, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# pytest imports every module for its doctests. cocotb is not available for every Python.
collect_ignore = [] if importlib.util.find_spec("cocotbext") else ["dbs_device/cocotb.py"]
# An installed package is tested by a copy of the tests without the source tree, which these are about, or compile with.
SOURCE_TESTS = ("abi", "benchmarks", "embedding", "installation", "layers", "registers_native", "release", "site")
if not Path(__file__).with_name("setup.py").exists():
    collect_ignore += [f"tests/test_{name}.py" for name in SOURCE_TESTS]

# The RISC-V machine's core is a package of its own, which `make test` builds.
HAS_CORE = importlib.util.find_spec("rv32") is not None
collect_ignore_glob = [] if HAS_CORE else ["examples/riscv/*"]


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return [] if HAS_CORE else ["left out: examples/riscv, whose core is not built (make riscv-core)"]


def pytest_configure() -> None:
    """Make Ctrl-C work, which the tests send to themselves: a shell starts background jobs with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Exclude the objects made by collection from garbage collections, of which tests of lifetimes make hundreds."""
    gc.collect()
    gc.freeze()
