"""Buffers of many types, good and bad ones."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np


def _mmap(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size)


def _square(size: int) -> Any:
    return np.zeros((2, size // 2), np.uint8) if size % 2 == 0 else np.zeros((1, size), np.uint8)


def _words(size: int) -> Any:
    return memoryview(bytearray(size)).cast("H") if size % 2 == 0 else bytearray(size)


def _structure(size: int) -> Any:
    return np.zeros(1, np.dtype([("a", "u1"), ("b", f"V{size - 1}")])) if size > 1 else np.zeros(1, np.uint8)


class Chars(ctypes.Structure):
    _fields_ = (("a", ctypes.c_uint8 * 4),)


WRITABLE: tuple[Callable[[int], Any], ...] = (
    bytearray,
    lambda size: memoryview(bytearray(size)),
    lambda size: memoryview(bytearray(size + 2))[1 : size + 1],
    _words,
    _mmap,
    lambda size: array.array("b", bytes(size)),
    lambda size: np.zeros(size, np.uint8),
    _square,
    _structure,
    lambda size: (ctypes.c_uint8 * size)(),
    lambda size: (Chars * (size // 4))() if size % 4 == 0 else (ctypes.c_char * size)(),
)

READONLY: tuple[Callable[[int], Any], ...] = (
    bytes,
    lambda size: memoryview(bytes(size)),
    lambda size: memoryview(bytearray(size)).toreadonly(),
    lambda size: np.frombuffer(bytes(size), np.uint8),
)


def _released(size: int) -> memoryview:
    view = memoryview(bytearray(size))
    view.release()
    return view


BAD: tuple[Callable[[int], Any], ...] = (
    _released,
    lambda size: bytearray(),
    lambda size: memoryview(bytearray(2 * size + 2))[::2],
    lambda size: memoryview(bytearray(size + 1))[::-1],
    lambda size: np.zeros((size + 1, 4), np.uint8)[:, 1:3],
    lambda size: np.asfortranarray(np.zeros((2, size + 1), np.uint8)),
    lambda size: np.array([None] * size),
    lambda size: np.zeros((0, 3), np.uint8),
    lambda size: (ctypes.py_object * size)(),
    lambda size: (ctypes.c_char_p * size)(),
    lambda size: None,
    lambda size: "x" * size,
    lambda size: size,
    lambda size: [0] * size,
)


def content(buffer: Any) -> bytes:
    """Return the bytes of a good buffer, lowest address first."""
    return memoryview(buffer).tobytes()


def filled(random: Random, make: Callable[[int], Any], data: bytes) -> Any:
    """Return a buffer with some content."""
    buffer = make(len(data))
    view = memoryview(buffer)
    if view.readonly:
        return type(buffer)(data) if isinstance(buffer, bytes | memoryview) else np.frombuffer(data, np.uint8)
    view.cast("B")[:] = data
    return buffer
