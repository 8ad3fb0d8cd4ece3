"""Compiles the core and the native devices. cimport finds the `.pxd` files of dbs-device where it is installed."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [Extension(f"rv32.{name}", [f"rv32/{name}.pyx"], extra_compile_args=["-O3"]) for name in ("core", "devices")],
        build_dir="build",
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "binding": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
        },
    )
)
