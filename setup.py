"""Builds the compiled modules. Everything else about the package is in pyproject.toml."""

import os
import platform
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer

# Line tracing for coverage of the .pyx files: see "Coverage" in docs/development.md.
TRACE = os.environ.get("DBS_DEVICE_LINETRACE") == "1"
# "thread" and other values of the compiler's option -fsanitize: see `make tsan` and `make sanitize`.
SANITIZE = os.environ.get("DBS_DEVICE_SANITIZE", "")
# `make annotate`: pages that show what Cython made of each line.
ANNOTATE = os.environ.get("DBS_DEVICE_ANNOTATE") == "1"


def belongs_here(source: Path) -> bool:
    """Return whether a module is for this platform: KVM is Linux's, and its bridge knows two architectures."""
    has_kvm = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
    return has_kvm or not source.stem.startswith("kvm")


SOURCES = sorted(filter(belongs_here, Path("dbs_device").rglob("*.pyx")))

compile_args = (
    ["/O2", "/std:c11", "/experimental:c11atomics"] if sys.platform == "win32" else ["-O3", "-g0", "-std=c11"]
)
link_args = []
if SANITIZE:
    compile_args += ["-O1", "-g", f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    if "undefined" in SANITIZE:
        compile_args += ["-fno-sanitize-recover=undefined"]  # the first report is the last
    link_args += [f"-fsanitize={SANITIZE}"]
# An access from C is one path of inline functions, which a compiler would cut in pieces where its limits say. Most of
# those in `access` serve callers in Python, and there its own choice is better.
macros = [("CYTHON_INLINE", "__forceinline" if sys.platform == "win32" else "inline __attribute__((always_inline))")]
if TRACE:
    macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

extensions = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=macros if source.stem != "access" else macros[1:],
        include_dirs=["dbs_device"],
        depends=["dbs_device/dbs_device.h"],
    )
    for source in SOURCES
]


class IncrementalBuild(build_ext):
    """Compiles only what has changed, in an editable install too."""

    def finalize_options(self):
        """Keep what is built in place in a directory of its own.

        By default, an editable install gets a new one each time, and ``build_ext --inplace`` shares one with wheels,
        which would then hold modules that no longer exist.
        """
        super().finalize_options()
        if self.inplace:
            self.build_lib = self.build_temp = str(Path("build", f"inplace-{sysconfig.get_config_var('SOABI')}"))


def settings_have_changed() -> bool:
    """Return whether this file, with the compiler directives, is newer than C that was made before."""
    made = [c for source in SOURCES if (c := source.with_suffix(".c")).exists()]
    return any(newer(__file__, c) for c in made)


setup(
    cmdclass={"build_ext": IncrementalBuild},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        extensions,
        annotate=ANNOTATE,
        # An up-to-date C file would not be written again, nor its page.
        force=ANNOTATE or settings_have_changed(),
        compiler_directives={
            "language_level": 3,
            # Plain C functions as methods: a quarter of the cost of a small call.
            "binding": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "auto_pickle": False,
            "freethreading_compatible": True,
            "linetrace": TRACE,
        },
    ),
)
