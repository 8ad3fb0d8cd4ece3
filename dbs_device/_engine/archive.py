"""Reading .npz files that may be damaged or hostile: nothing is unpickled, and reading has a limit."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

__all__ = ["check_members", "open_archive", "read_array"]


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """Open an .npz file for reading; a `ValueError` if it is not one."""
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # zipfile raises errors of other modules for a bad file
        raise ValueError(f"not an .npz file: {error}") from error


def check_members(members: Iterable[zipfile.ZipInfo], file: BinaryIO, max_size: int | None, *, always: int) -> None:
    """Raise `ValueError` if members are too large, or compressed in a way whose output zipfile does not limit.

    Of those that pass, zipfile reads no more than the sizes that are added up here.

    Parameters
    ----------
    members : iterable of ZipInfo
        The members that will be read.
    file : file
        The archive.
    max_size : int or None
        Bytes that they may take. None: `always`, or 64 times the size of the file if that is more.
    always : int
        Bytes.
    """
    if max_size is None:
        max_size = max(always, 64 * os.fstat(file.fileno()).st_size)
    size = 0
    for member in members:
        size += member.file_size
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is neither stored nor deflated")
    if size > max_size:
        raise ValueError(f"its arrays take {size} bytes, more than max_size, {max_size}")


def read_array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str
) -> tuple[np.dtype[Any], tuple[int, ...], memoryview]:
    """Return the type, the shape and the bytes of an array, which need not be as many as the two say.

    A `ValueError` that begins with `name` if the member is damaged, or not in the .npy format.
    """
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"version {version} of the .npy format")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            return dtype, shape, memoryview(file.read(member.file_size - file.tell()))
    except Exception as error:  # as for the whole file
        raise ValueError(f"{name} cannot be read: {error}") from error
