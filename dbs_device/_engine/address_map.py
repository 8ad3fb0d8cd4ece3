"""The ranges of the address map outside the hot path: extracting them from resources, comparing and printing them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..address import Space
from ..errors import InvalidRangeError, describe_device, format_count, format_range
from ..resources import MemAddressRange, MmioAddressRange, PioAddressRange, Resource
from .public import exported_from

if TYPE_CHECKING:
    from ..device import DeviceIo

__all__ = [
    "MappedMemory",
    "MappedRange",
    "check_range",
    "memory_ranges",
    "render_map",
    "same_device",
    "same_map",
    "trapped_ranges",
]


@exported_from("dbs_device")
class MappedRange(NamedTuple):
    """A registered range and the device that owns it.

    Attributes
    ----------
    space : Space
        The I/O space.
    base, last : int
        First and last address (or port), both inclusive.
    device : DeviceIo
        The owner.
    name : str or None
        The name that it is registered under.
    """

    space: Space
    base: int
    last: int
    device: DeviceIo
    name: str | None = None

    def __repr__(self) -> str:
        device = describe_device(self.device, self.name)
        return f"MappedRange({self.space} {format_range(self.base, self.last)}, {device})"


@exported_from("dbs_device.memory")
class MappedMemory(NamedTuple):
    """The host's memory behind a range, for code that maps it into a guest.

    Attributes
    ----------
    base, last : int
        First and last address of the range, both inclusive.
    address : int
        The host's address of the first byte. The memory is in one piece, and is valid while `device` lives.
    writable : bool
        Whether the guest may write it directly. If not, its writes must go through the bus.
    device : DeviceIo
        The owner of the range.
    """

    base: int
    last: int
    address: int
    writable: bool
    device: DeviceIo

    def __repr__(self) -> str:
        access = "writable" if self.writable else "read-only"
        return f"MappedMemory({format_range(self.base, self.last)} at {self.address:#x}, {access}, {self.device!r})"


def trapped_ranges(resources: Iterable[Resource], with_memory: bool = False) -> list[tuple[Space, int, int]]:
    """Return (space, base, last) of each PIO or MMIO range among the resources, in order; `with_memory`, of memory too.

    Raises
    ------
    InvalidRangeError
        A range is empty or runs past the end of its space.
    TypeError
        An item is not a `Resource`, or one of its numbers is not an integer.
    """
    ranges = []
    for resource in resources:
        if isinstance(resource, PioAddressRange):
            space = Space.PIO
        elif isinstance(resource, MmioAddressRange) or (with_memory and isinstance(resource, MemAddressRange)):
            space = Space.MMIO
        elif isinstance(resource, Resource):
            continue
        else:
            raise TypeError(f"resources must be Resource objects, not {type(resource).__name__}")
        # Resources check their fields, but a subclass may not.
        base, size = operator.index(resource.base), operator.index(resource.size)
        last = base + size - 1
        check_range(space, base, last, resource)
        ranges.append((space, base, last))
    return ranges


def memory_ranges(resources: Iterable[Resource]) -> list[tuple[int, int]]:
    """Return (base, last) of each range of guest memory among the resources."""
    memory = [each for each in resources if isinstance(each, MemAddressRange)]
    return [(base, last) for _, base, last in trapped_ranges(memory, with_memory=True)]


def check_range(space: Space, base: int, last: int, resource: Resource | None = None) -> None:
    """Raise `InvalidRangeError` for a range that is empty or not within its space."""
    if 0 <= base <= last <= space.last_address:
        return
    what = f"{space} range {format_range(base, last)}" if resource is None else repr(resource)
    if last < base:
        raise InvalidRangeError(f"{what} is empty")
    if base < 0:
        raise InvalidRangeError(f"{what} begins below address 0")
    raise InvalidRangeError(f"{what} runs past the last {space} address, {space.last_address:#x}")


_BINARY_UNITS = ((60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))


def format_bytes(count: int) -> str:
    """Return a number of bytes in the largest unit that divides it; if none does, five digits or more are rounded.

    >>> format_bytes(0x1000), format_bytes(0x1800), format_bytes(24), format_bytes(0xFFFFFFFF)
    ('4 KiB', '6 KiB', '24 bytes', '~4 GiB')
    """
    for exponent, unit in _BINARY_UNITS:
        if count >= 1 << exponent:
            if count % (1 << exponent) == 0:
                return f"{count >> exponent} {unit}"
            if count % 1024 and count >= 10_000:
                return f"~{count / (1 << exponent):.3g} {unit}"
    return format_count(count, "byte")


def _one_line(device: DeviceIo, name: str | None = None) -> str:
    return " ".join(describe_device(device, name).splitlines())


def _rows(ranges: Sequence[MappedRange], format_size: Callable[[int], str]) -> list[tuple[str, str, str]]:
    rows = []
    previous_last: int | None = None
    for _, base, last, device, device_name in ranges:
        if previous_last is not None and base > previous_last + 1:
            rows.append((format_range(previous_last + 1, base - 1), format_size(base - previous_last - 1), "-"))
        rows.append((format_range(base, last), format_size(last - base + 1), _one_line(device, device_name)))
        previous_last = last
    return rows


def render_map(ranges: Sequence[MappedRange], background: DeviceIo | None = None) -> str:
    """Return both spaces as a table sorted by address; the gaps between ranges have "-" as their device.

    The background of the MMIO space comes after its ranges.
    """
    sections = []
    for space, format_size in ((Space.MMIO, format_bytes), (Space.PIO, partial(format_count, unit=Space.PIO.unit))):
        in_space = [each for each in ranges if each.space == space]
        rows = _rows(in_space, format_size)
        if space == Space.MMIO and background is not None:
            rows.append(("background", "", _one_line(background)))
        sections.append((f"{space}: {format_count(len(in_space), 'range')}", rows))
    rows = [row for _, rows in sections for row in rows]
    range_width = max((len(row[0]) for row in rows), default=0)
    size_width = max((len(row[1]) for row in rows), default=0)
    lines = []
    for title, section_rows in sections:
        lines.append(title)
        lines += [f"  {range_:<{range_width}}  {size:>{size_width}}  {name}" for range_, size, name in section_rows]
    return "\n".join(lines)


def same_device(one: DeviceIo | None, other: DeviceIo | None) -> bool:
    """Return whether two devices are the same or trap equal resources."""
    return one is other or (
        one is not None and other is not None and one.get_trapped_io_resources() == other.get_trapped_io_resources()
    )


def same_map(ones: Sequence[MappedRange], others: Sequence[MappedRange]) -> bool:
    """Return whether the ranges are equal and, range by range, the devices are the same or trap equal resources."""
    return len(ones) == len(others) and all(
        one[:3] == other[:3] and same_device(one.device, other.device) for one, other in zip(ones, others, strict=True)
    )
