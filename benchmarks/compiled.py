"""Builds what is compiled into benchmarks/_build, once for each state of its sources."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
BUILD = HERE / "_build"


def folder_for(source: Path, others: Iterable[Path] = ()) -> Path:
    """Return the folder for what is made of these files as they are now."""
    digest = hashlib.sha256(b"\0".join(each.read_bytes() for each in (source, *others)))
    return BUILD / f"{source.stem}-{digest.hexdigest()[:12]}"


@functools.cache
def accesses() -> ModuleType:
    """Return the module made of ``suites/accesses.pyx``, which is built first if need be."""
    import dbs_device

    package = Path(dbs_device.__file__).parent
    source = HERE / "suites" / "accesses.pyx"
    # An extension is bound to the layout of the classes that it cimports.
    folder = folder_for(source, sorted(package.rglob("*.pxd")))
    product = folder / ("accesses" + sysconfig.get_config_var("EXT_SUFFIX"))
    if not product.exists():
        build_extension(source, folder, package.parent)
    spec = importlib.util.spec_from_file_location("accesses", product)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def build_extension(source: Path, folder: Path, include: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extensions = cythonize(
        [Extension(source.stem, [str(source)], extra_compile_args=["-O3", "-std=c11"])],
        include_path=[str(include)],
        build_dir=str(folder / "c"),
        force=True,
        quiet=True,
        compiler_directives={"language_level": 3, "binding": False},
    )
    command = build_ext(Distribution({"ext_modules": extensions}))
    command.build_lib = str(folder)
    command.build_temp = str(folder / "objects")
    command.ensure_finalized()
    command.run()


def library(source: Path) -> Path:
    """Return the shared library made of a C++ or Rust file, which is built first if need be.

    Raises LookupError where there is no compiler for it.
    """
    if source.suffix == ".rs":
        compilers, options = ["rustc"], ["-C", "opt-level=3", "-C", "panic=abort", "--crate-type=cdylib"]
    else:
        compilers = [os.environ.get("CXX", "g++"), "clang++", "c++"]
        options = ["-O3", "-std=c++17", "-shared", "-fPIC"]
    product = folder_for(source) / f"{source.stem}.so"
    if not product.exists():
        compiler = next(filter(None, map(shutil.which, compilers)), None)
        if compiler is None:
            raise LookupError(f"{compilers[0]} is not installed")
        product.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, *options, "-o", str(product), str(source)], check=True)
    return product
