"""Builds the compiled parts of the benchmarks into benchmarks/_build: `python benchmarks/compiled.py`.

The scripts call `module()` and `engine_library()` themselves, which build what is missing or older than its sources.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
BUILD = HERE / "_build"
ENGINES = {"std_map": "std_map.cpp", "btree_map": "btree_map.rs"}


def is_current(product: Path, sources: list[Path]) -> bool:
    return product.exists() and product.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


@functools.cache
def module(name: str) -> ModuleType:
    """Return the module made of ``name.pyx``, which is built first if need be."""
    import dbs_device

    package = Path(dbs_device.__file__).parent
    source = HERE / f"{name}.pyx"
    product = BUILD / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    # A module is bound to the layout of the classes that it cimports.
    if not is_current(product, [source, *package.glob("*.pxd")]):
        build_module(name, source, package.parent)
    loader = importlib.machinery.ExtensionFileLoader(name, str(product))
    spec = importlib.util.spec_from_file_location(name, product, loader=loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    loader.exec_module(made)
    return made


def build_module(name: str, source: Path, include: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    flags = ["/O2", "/std:c11", "/experimental:c11atomics"] if sys.platform == "win32" else ["-O3", "-std=c11"]
    extension = Extension(name, [str(source)], extra_compile_args=flags)
    modules = cythonize(
        [extension],
        include_path=[str(include)],
        build_dir=str(BUILD),
        force=True,
        quiet=True,
        compiler_directives={"language_level": 3, "binding": False, "embedsignature": True},
    )
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib = str(BUILD)
    command.build_temp = str(BUILD / "temp")
    command.ensure_finalized()
    command.run()


def engine_library(name: str) -> Path | None:
    """Return the shared library of another engine, built if need be, or None where its compiler is not installed."""
    source = HERE / ENGINES[name]
    product = BUILD / f"{name}.so"
    if is_current(product, [source]):
        return product
    BUILD.mkdir(exist_ok=True)
    if source.suffix == ".rs":
        compiler, arguments = shutil.which("rustc"), ["-C", "opt-level=3", "-C", "panic=abort", "--crate-type=cdylib"]
    else:
        candidates = [os.environ.get("CXX"), "g++", "clang++", "c++"]
        compiler = next((path for name in candidates if name and (path := shutil.which(name))), None)
        arguments = ["-O3", "-std=c++17", "-shared", "-fPIC"]
    if compiler is None:
        return None
    subprocess.run([compiler, *arguments, "-o", str(product), str(source)], check=True)
    return product


if __name__ == "__main__":
    print(module("loops").__file__)
    for engine in ENGINES:
        print(engine_library(engine) or f"{engine}: no compiler for {ENGINES[engine]}")
