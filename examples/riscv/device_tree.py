"""Writing flattened device trees.

Specification: Devicetree Specification, release 0.4, chapter 5.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Node", "flatten"]

Value: TypeAlias = "int | str | bytes | Sequence[int] | Sequence[str] | None"
"""Of a property: cells of 32 bits, strings, bytes as they are, or None for one that is only there."""

MAGIC, VERSION, LAST_COMPATIBLE_VERSION = 0xD00DFEED, 17, 16
BEGIN_NODE, END_NODE, PROPERTY, END = 1, 2, 3, 9
HEADER_SIZE, RESERVED_MEMORY_END = 40, bytes(16)


@dataclass
class Node:
    """A node.

    Attributes
    ----------
    name : str
        With its unit address, such as ``serial@10000000``; empty for the root.
    properties : dict
        From names to values.
    children : list of Node
        In order.
    """

    name: str = ""
    properties: dict[str, Value] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)


def flatten(root: Node, boot_cpu: int = 0) -> bytes:
    """Return a tree in the format that guests take.

    Parameters
    ----------
    root : Node
        The tree.
    boot_cpu : int
        Physical ID of the CPU that boots.

    Returns
    -------
    bytes
        The blob, of a multiple of 4 bytes.

    Examples
    --------
    >>> blob = flatten(Node("", {"model": "board"}, [Node("chosen")]))
    >>> blob[:4].hex(), len(blob) == int.from_bytes(blob[4:8], "big")
    ('d00dfeed', True)
    """
    names = _Names()
    structure = _structure_of(root, names) + _cells(END)
    reserved_at = HEADER_SIZE
    structure_at = reserved_at + len(RESERVED_MEMORY_END)
    names_at = structure_at + len(structure)
    strings = _padded(bytes(names.block))
    header = _cells(
        MAGIC,
        names_at + len(strings),
        structure_at,
        names_at,
        reserved_at,
        VERSION,
        LAST_COMPATIBLE_VERSION,
        boot_cpu,
        len(strings),
        len(structure),
    )
    return header + RESERVED_MEMORY_END + structure + strings


class _Names:
    """The names of properties, each of them once."""

    def __init__(self) -> None:
        self.block = bytearray()
        self._offsets: dict[str, int] = {}

    def offset_of(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self.block)
            self.block += name.encode("ascii") + b"\0"
        return self._offsets[name]


def _structure_of(node: Node, names: _Names) -> bytes:
    parts = [_cells(BEGIN_NODE), _padded(node.name.encode("ascii") + b"\0")]
    for name, value in node.properties.items():
        encoded = _encoded(value)
        parts += [_cells(PROPERTY, len(encoded), names.offset_of(name)), _padded(encoded)]
    parts += [_structure_of(child, names) for child in node.children]
    return b"".join([*parts, _cells(END_NODE)])


def _encoded(value: Value) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return _cells(value)
    if isinstance(value, str):
        return value.encode() + b"\0"
    return b"".join(map(_encoded, value))


def _cells(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
