"""Builds the compiled modules. Everything else about the package is in pyproject.toml."""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

# Line tracing for coverage of the .pyx files: see "Coverage" in docs/development.md.
TRACE = os.environ.get("DBS_DEVICE_LINETRACE") == "1"
# `make annotate`: pages that show what Cython made of each line.
ANNOTATE = os.environ.get("DBS_DEVICE_ANNOTATE") == "1"

MODULES = [
    "_access",
    "_batch",
    "_buffers",
    "_bus",
    "_callbacks",
    "_changes",
    "_dispatch",
    "_engine.registers",
    "_native",
    "_owner",
    "_tables",
    "_transaction",
    "_unicorn",
    "_view",
]

compile_args = (
    ["/O2", "/std:c11", "/experimental:c11atomics"] if sys.platform == "win32" else ["-O3", "-g0", "-std=c11"]
)
macros = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")] if TRACE else []

extensions = [
    Extension(
        f"dbs_device.{module}",
        [f"dbs_device/{module.replace('.', '/')}.pyx"],
        extra_compile_args=compile_args,
        define_macros=macros,
        include_dirs=["dbs_device"],
        depends=["dbs_device/dbs_device.h"],
    )
    for module in MODULES
]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
        annotate=ANNOTATE,
        force=ANNOTATE,  # an up-to-date C file would not be written again, nor its page
        compiler_directives={
            "language_level": 3,
            # Plain C functions as methods: a quarter of the cost of a small call.
            "binding": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "auto_pickle": False,
            "linetrace": TRACE,
        },
    ),
)
