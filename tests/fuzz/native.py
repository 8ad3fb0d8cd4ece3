"""C code of targets: compiled when it is first needed, where there is a compiler."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def compiled(source: str) -> ctypes.CDLL | None:
    """Return a library made of C source, or None where there is no C compiler."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(command[0]) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file, product = Path(folder, "fuzz.c"), Path(folder, "fuzz.so")
        file.write_text(source)
        # The compiler is not what a sanitizer that was loaded first is to look at.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        options = ["-O2", "-shared", "-fPIC", "-pthread", "-o", str(product), str(file)]
        subprocess.run([*command, *options], check=True, env=environment)
        return ctypes.CDLL(str(product))
