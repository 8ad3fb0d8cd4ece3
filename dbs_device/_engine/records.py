"""The common base of resources and constraints: frozen records of checked numbers, as variants of an enum."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import ClassVar, NamedTuple, SupportsIndex, TypeVar

from ..address import Space
from ..errors import InvalidRangeError

PAGE_SIZE = 0x1000  # the crate's default alignment of memory


class Limits(NamedTuple):
    """The values that an integer field accepts, and how they are printed."""

    minimum: int
    maximum: int
    format: str = "#x"
    optional: bool = False

    def check(self, owner: object, name: str, value: object) -> int | None:
        """Return `value` as a plain int, or raise `TypeError` or `InvalidRangeError`."""
        if value is None and self.optional:
            return None
        what = type(owner).__qualname__
        if not isinstance(value, SupportsIndex):
            raise TypeError(f"{what} takes an integer as {name}, not {type(value).__name__}")
        number = operator.index(value)
        if not self.minimum <= number <= self.maximum:
            accepted = f"{self.minimum:{self.format}}..{self.maximum:{self.format}}"
            raise InvalidRangeError(f"{what} takes {accepted} as {name}, not {number:{self.format}}")
        return number


PORT = Limits(0, Space.PIO.last_address)
PORT_COUNT = Limits(0, Space.PIO.last_address + 1, format="d")
PORT_ALIGN = Limits(1, Space.PIO.last_address, format="d")
ADDRESS = Limits(0, Space.MMIO.last_address)
BYTE_COUNT = Limits(0, Space.MMIO.last_address + 1, format="d")
ADDRESS_ALIGN = Limits(1, Space.MMIO.last_address, format="d")
# Interrupts and memory slots: u32 in the crate, and in decimal everywhere.
NUMBER = Limits(0, 0xFFFF_FFFF, format="d")
OPTIONAL_NUMBER = NUMBER._replace(optional=True)


class Record:
    """A frozen dataclass that checks its integer fields, and prints addresses in hex and sizes in decimal."""

    __slots__ = ()

    _limits: ClassVar[dict[str, Limits]] = {}

    def __init__(self, *_: object, **__: object) -> None:
        """Refuse to instantiate the family, which stands for a Rust enum: only its variants have instances."""
        raise TypeError(f"{type(self).__name__} cannot be instantiated: use one of its variants")

    def __post_init__(self) -> None:
        for name, limits in self._limits.items():
            object.__setattr__(self, name, limits.check(self, name, getattr(self, name)))

    def __repr__(self) -> str:
        arguments = (f"{name}={self._format(name)}" for name in self.__match_args__)  # type: ignore[attr-defined]
        return f"{type(self).__qualname__}({', '.join(arguments)})"

    def _format(self, name: str) -> str:
        value = getattr(self, name)
        limits = self._limits.get(name)
        return repr(value) if limits is None or value is None else format(value, limits.format)


_RecordT = TypeVar("_RecordT", bound=type[Record])


def variant_of(family: type[Record], name: str | None = None) -> Callable[[_RecordT], _RecordT]:
    """Make a class an attribute of its family, like a variant of a Rust enum: `Resource.LegacyIrq`."""

    def place_in_family(variant: _RecordT) -> _RecordT:
        """Give the class its qualified name, and make it an attribute of the family."""
        variant.__module__ = family.__module__
        variant.__name__ = name or variant.__name__
        variant.__qualname__ = f"{family.__name__}.{variant.__name__}"
        setattr(family, variant.__name__, variant)
        return variant

    return place_in_family
