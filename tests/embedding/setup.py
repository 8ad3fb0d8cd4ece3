"""Consumers of the bus in Cython (as C and as C++), in C and in C++. A warning is an error."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

import dbs_device

STRICT = ["-Wall", "-Werror"]
C = [f"-std={os.environ.get('EMBEDDER_C_STANDARD', 'c11')}", *STRICT]
CXX = ["-std=c++17", *STRICT]

# No include path: cimport finds the .pxd files beside the installed package.
in_cython = [
    Extension("embedder.minimal", ["embedder/minimal.pyx"], extra_compile_args=C),
    Extension("embedder.cpu", ["embedder/cpu.pyx"], extra_compile_args=C),
    Extension("embedder.accesses", ["embedder/accesses.pyx"], extra_compile_args=C),
    Extension("embedder.cxx_cpu", ["embedder/cxx_cpu.pyx"], extra_compile_args=CXX, language="c++"),
]
by_hand = [
    Extension(
        "embedder.c_emulator",
        ["embedder/c_emulator.c"],
        include_dirs=[dbs_device.get_include()],
        extra_compile_args=[*C, "-Wextra"],
    ),
    Extension(
        "embedder.cxx_emulator",
        ["embedder/cxx_emulator.cpp"],
        include_dirs=[dbs_device.get_include()],
        extra_compile_args=[*CXX, "-Wextra"],
        language="c++",
    ),
]

setup(ext_modules=[*cythonize(in_cython, language_level=3), *by_hand])
