"""Where C code finds the header."""

from pathlib import Path

__all__ = ["get_include"]


def get_include() -> str:
    """Return the directory of ``dbs_device.h``, for the include path of a C or C++ extension.

    Cython code needs no include path: its ``.pxd`` files are found beside the installed package.
    """
    return str(Path(__file__).parent.parent)
