"""Where C code finds the header."""

import os

__all__ = ["get_include"]


def get_include() -> str:
    """Return the directory of ``dbs_device.h``, for the include path of a C or C++ extension.

    Cython code needs no include path: its ``.pxd`` files are found beside the installed package.
    """
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
