"""Running an example as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_example(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with some arguments from the root of the source tree, on a terminal of 80 columns without colours."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**inherited, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def output_of(*arguments: str, **environment: str) -> str:
    """Return the output of `run_example`, which must succeed and print nothing to stderr."""
    result = run_example(*arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout
