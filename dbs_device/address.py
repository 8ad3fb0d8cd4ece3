"""The two I/O spaces, memory-mapped (MMIO, 64 bit) and port-mapped (PIO, 16 bit), with their addresses and sizes.

Addresses and sizes are integers with a checked width. Arithmetic on them gives plain integers, which do not wrap.
"""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Self, SupportsIndex

__all__ = ["IoAddress", "IoSize", "PioAddress", "PioSize", "Space"]


class Space(IntEnum):
    """An I/O space. Functions that take a space also take its name, "MMIO" or "PIO".

    Examples
    --------
    >>> Space("PIO")
    <Space.PIO: 0>
    >>> print(Space.MMIO, hex(Space.MMIO.last_address), Space.PIO.integer_sizes)
    MMIO 0xffffffffffffffff (1, 2, 4)
    >>> Space("DMA")
    Traceback (most recent call last):
    ValueError: a space is "MMIO" or "PIO", not 'DMA'
    """

    PIO = 0
    MMIO = 1

    if TYPE_CHECKING:

        def __new__(cls, value: int | str) -> Self:
            """Declare that names convert too: type checkers do not know of `_missing_`."""

    @property
    def last_address(self) -> int:
        """The highest address (or port) of the space."""
        return 0xFFFF if self is Space.PIO else 0xFFFF_FFFF_FFFF_FFFF

    @property
    def integer_sizes(self) -> tuple[int, ...]:
        """The sizes, in bytes, of integers that can be loaded and stored."""
        return (1, 2, 4) if self is Space.PIO else (1, 2, 4, 8)

    @property
    def unit(self) -> str:
        """The unit that addresses count: "port" or "byte"."""
        return "port" if self is Space.PIO else "byte"

    @classmethod
    def _missing_(cls, value: object) -> Space:
        if isinstance(value, str) and value in cls.__members__:
            return cls[value]
        raise ValueError(f'a space is "MMIO" or "PIO", not {value!r}')

    def __str__(self) -> str:
        return self.name


class _FixedWidthInt(int):
    """An int that fits a given number of bits."""

    __slots__ = ()

    _maximum: ClassVar[int]

    def __new__(cls, value: SupportsIndex = 0) -> Self:
        number = operator.index(value)
        if not 0 <= number <= cls._maximum:
            raise ValueError(f"{cls.__name__} takes 0x0..{cls._maximum:#x}, not {number:#x}")
        return super().__new__(cls, number)

    def raw_value(self) -> int:
        """Return the value as a plain int."""
        return int(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({int(self):#x})"


class IoAddress(_FixedWidthInt):
    """An address of the memory-mapped I/O space.

    Parameters
    ----------
    value : int
        0..2**64 - 1.

    Raises
    ------
    TypeError
        `value` is not an integer.
    ValueError
        `value` does not fit.

    Examples
    --------
    >>> IoAddress(0xFEC00000)
    IoAddress(0xfec00000)
    >>> IoAddress(PioAddress(0x3F8)) + 4
    1020
    """

    __slots__ = ()
    _maximum = 0xFFFF_FFFF_FFFF_FFFF


class IoSize(_FixedWidthInt):
    """A size, in bytes, in the memory-mapped I/O space.

    Parameters
    ----------
    value : int
        0..2**64 - 1.

    Raises
    ------
    TypeError
        `value` is not an integer.
    ValueError
        `value` does not fit.
    """

    __slots__ = ()
    _maximum = 0xFFFF_FFFF_FFFF_FFFF


class PioAddress(_FixedWidthInt):
    """A port: an address of the port-mapped I/O space.

    Parameters
    ----------
    value : int
        0..0xFFFF. With an `IoAddress`, this is the crate's `PioAddress::try_from`.

    Raises
    ------
    TypeError
        `value` is not an integer.
    ValueError
        `value` does not fit.

    Examples
    --------
    >>> PioAddress(IoAddress(0x10000))
    Traceback (most recent call last):
    ValueError: PioAddress takes 0x0..0xffff, not 0x10000
    """

    __slots__ = ()
    _maximum = 0xFFFF


class PioSize(_FixedWidthInt):
    """A size, in ports, in the port-mapped I/O space.

    Parameters
    ----------
    value : int
        0..0xFFFF, as in the crate. Resources also take the size of the whole space, 0x10000 ports, as a plain int.

    Raises
    ------
    TypeError
        `value` is not an integer.
    ValueError
        `value` does not fit.
    """

    __slots__ = ()
    _maximum = 0xFFFF
