"""The file of a machine's state: an .npz file with a JSON text, and with arrays for what would be long in that."""

from __future__ import annotations

import functools
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np

from .archive import check_members, open_archive, read_array

__all__ = ["read_state_file", "write_state_file"]

TEXT = "machine.json"
FORMAT, FORMAT_VERSION = "dbs-device machine state", 1
LONGEST_IN_TEXT = 64  # bytes, which are written in hex
LONGEST_TEXT = 1 << 26  # bytes: what it describes takes many times more
_ALWAYS_READ = 1 << 30

# In the text, bytes are an object with one of these keys; a dict that begins like one is escaped.
HEX, ARRAY, DICT = "$hex", "$array", "$dict"


def write_state_file(path: str | os.PathLike[str], parts: Mapping[str, Any]) -> None:
    """Write a tree of int, bool, None, str, bytes, lists and dicts. An existing file is replaced at the end."""
    arrays: list[bytes] = []
    encoded = {name: _encode(part, arrays) for name, part in parts.items()}
    text = json.dumps({"format": FORMAT, "version": FORMAT_VERSION, "parts": encoded}, indent=1)
    temporary = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(TEXT, text)
            for index, contents in enumerate(arrays):
                with archive.open(f"{index}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.frombuffer(contents, np.uint8), (1, 0), allow_pickle=False)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _encode(value: Any, arrays: list[bytes]) -> Any:
    """Return a value as JSON has it, with long bytes moved to `arrays`."""
    if isinstance(value, bytes):
        if len(value) <= LONGEST_IN_TEXT:
            return {HEX: value.hex()}
        arrays.append(value)
        return {ARRAY: len(arrays) - 1}
    if isinstance(value, list):
        return [_encode(each, arrays) for each in value]
    if isinstance(value, Mapping):
        encoded = {key: _encode(each, arrays) for key, each in value.items()}
        return {DICT: encoded} if any(key.startswith("$") for key in value) else encoded
    return value


def read_state_file(path: str | os.PathLike[str], max_size: int | None, deepest: int) -> dict[str, Any]:
    """Return the tree; a `ValueError` if the file is damaged.

    Its contents may take `max_size` bytes, and lists and dicts may be nested `deepest` deep in the state of a device.
    """
    with open(path, "rb") as file, open_archive(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        check_members(archive.infolist(), file, max_size, always=_ALWAYS_READ)
        if TEXT not in members:
            raise ValueError(f"not the state of a machine: it has no {TEXT}")

        @functools.cache  # however often the text names it
        def array(index: int) -> bytes:
            name = f"{index}.npy"
            if name not in members:
                raise ValueError(f"{name} is missing")
            dtype, shape, contents = read_array(archive, members[name], name)
            if dtype != np.uint8 or shape != (len(contents),):
                raise ValueError(f"{name} is an array of {dtype}, {shape}, in {len(contents)} bytes, not of bytes")
            return bytes(contents)

        return _parts_in(_read_text(archive, members[TEXT]), array, deepest)


def _read_text(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    if member.file_size > LONGEST_TEXT:
        raise ValueError(f"{TEXT} has {member.file_size} bytes, and may have {LONGEST_TEXT}")
    try:
        with archive.open(member) as file:
            # Without a number, zipfile decompresses up to 2 GiB, of which it returns as many bytes as the member has.
            text = file.read(member.file_size)
        return json.loads(text, parse_float=_refuse_number, parse_constant=_refuse_number)
    except Exception as error:  # zipfile raises errors of other modules for a damaged member
        raise ValueError(f"{TEXT} cannot be read: {error}") from error


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")


def _parts_in(document: Any, array: Callable[[int], bytes], deepest: int) -> dict[str, Any]:
    match document:
        case {"format": format_, "version": version, "parts": dict(parts)} if format_ == FORMAT:
            if version != FORMAT_VERSION:
                raise ValueError(f"version {version!r} of the format of machine states, not {FORMAT_VERSION}")
            return {name: _decode(part, array, deepest) for name, part in parts.items()}
    raise ValueError(f"{TEXT} is not the state of a machine")


def _decode(value: Any, array: Callable[[int], bytes], deepest: int, depth: int = 0) -> Any:
    if depth > deepest + 2:  # the state is in a dict in a dict
        raise ValueError(f"{TEXT} is nested more than {deepest} deep")
    if isinstance(value, list):
        return [_decode(each, array, deepest, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$hex": str(digits), **rest} if not rest:
            return bytes.fromhex(digits)
        case {"$array": int(index), **rest} if not rest:
            return array(index)
        case {"$dict": dict(escaped), **rest} if not rest:
            value = escaped
        case _ if any(key.startswith("$") for key in value):
            raise ValueError(f"{TEXT} has an object with {', '.join(value)}")
    return {key: _decode(each, array, deepest, depth + 1) for key, each in value.items()}
