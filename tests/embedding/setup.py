from Cython.Build import cythonize
from setuptools import Extension, setup

import dbs_device

setup(
    ext_modules=[
        *cythonize([Extension("embedder.cpu", ["embedder/cpu.pyx"], extra_compile_args=["-O3"])], language_level=3),
        Extension("embedder.engine", ["embedder/engine.c"], include_dirs=[dbs_device.get_include()]),
    ]
)
