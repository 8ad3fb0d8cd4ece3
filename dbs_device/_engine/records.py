"""What resources and constraints have in common: frozen records of checked numbers, as the variants of an enum."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import ClassVar, NamedTuple, SupportsIndex, TypeVar

from ..errors import InvalidRangeError

MAX_PORT = 0xFFFF
MAX_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF
PAGE_SIZE = 0x1000  # alignment that the crate gives to memory by default


class Limits(NamedTuple):
    """What an integer field may hold, and how it is printed."""

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
            raise InvalidRangeError(f"{what} takes {self.minimum:#x}..{self.maximum:#x} as {name}, not {number:#x}")
        return number


PORT = Limits(0, MAX_PORT)
PORT_COUNT = Limits(0, MAX_PORT + 1)
PORT_ALIGN = Limits(1, MAX_PORT)
ADDRESS = Limits(0, MAX_ADDRESS)
BYTE_COUNT = Limits(0, MAX_ADDRESS + 1)
ADDRESS_ALIGN = Limits(1, MAX_ADDRESS)
# IRQs and memory slots are u32 in the crate, and are numbered in decimal everywhere.
NUMBER = Limits(0, 0xFFFF_FFFF, format="d")
OPTIONAL_NUMBER = NUMBER._replace(optional=True)


class Record:
    """A frozen dataclass that checks its integer fields, and prints addresses and sizes in hex."""

    __slots__ = ()

    _limits: ClassVar[dict[str, Limits]] = {}

    def __init__(self, *_: object, **__: object) -> None:
        """Refuse to make the family itself: it stands for a Rust enum, which exists only as one of its variants."""
        raise TypeError(f"{type(self).__name__} is not made itself, but as one of its variants")

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
    """Make a class reachable as an attribute of its family, as a Rust enum's variant is: `Resource.LegacyIrq`."""

    def place_in_family(variant: _RecordT) -> _RecordT:
        """Rename the class, and set it as the family's attribute."""
        variant.__name__ = name or variant.__name__
        variant.__qualname__ = f"{family.__name__}.{variant.__name__}"
        setattr(family, variant.__name__, variant)
        return variant

    return place_in_family
