"""Compiles ``guests.pyx`` against the package that Python finds: ``python build_guests.py build_ext --inplace``.

The result is in the current directory. ``DBS_DEVICE_SANITIZE`` is the compiler's option ``-fsanitize``.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import dbs_device

SANITIZE = os.environ.get("DBS_DEVICE_SANITIZE", "")
OPTIONS = [f"-fsanitize={SANITIZE}"] if SANITIZE else []

setup(
    name="guests",
    packages=[],
    py_modules=[],
    ext_modules=cythonize(
        [
            Extension(
                "guests",
                [str(Path(__file__).with_name("guests.pyx"))],
                include_dirs=[dbs_device.get_include()],
                extra_compile_args=["-O1", "-g", *OPTIONS],
                extra_link_args=OPTIONS,
            )
        ],
        include_path=[str(Path(dbs_device.__file__).parent.parent)],
        build_dir="c",
        quiet=True,
        force=True,
        compiler_directives={"language_level": 3, "freethreading_compatible": True},
    ),
)
