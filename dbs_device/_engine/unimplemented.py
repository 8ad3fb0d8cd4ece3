"""Placeholders for what a machine does not have yet, and the report of what firmware made of them."""

from __future__ import annotations

import logging
import operator
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, SupportsIndex

from ..address import Space
from ..device import DeviceIo, Mutex
from ..errors import InvalidRangeError, describe_device, format_count
from .address_map import MappedRange
from .public import exported_from

__all__ = ["Unimplemented", "UnimplementedAccess", "unimplemented_report"]

_logger = logging.getLogger("dbs_device")

# A guest can use as many offsets as it likes: the host's memory for them is bounded.
_MAX_OFFSETS = 4096


@exported_from("dbs_device.memory")
class UnimplementedAccess(NamedTuple):
    """What a guest has done at one offset of an `Unimplemented` device.

    Attributes
    ----------
    offset : int
        First byte of the accesses.
    reads, writes : int
        How many there were.
    written : int or None
        The value of the last write.
    """

    offset: int
    reads: int
    writes: int
    written: int | None


@exported_from("dbs_device.memory")
class Unimplemented(DeviceIo):
    """A device that is not there yet: reads give fixed values, writes do nothing, and all of it is counted.

    The first read and the first write at each offset are logged (logger "dbs_device", level WARNING). What is behind
    4096 offsets is neither logged nor counted.

    Parameters
    ----------
    name : str
        What it stands for, in the log and in `unimplemented_report`.
    size : int
        Its bytes, or ports.
    reads : int or mapping of int to int
        The value that reads give: everywhere, or by offset, where the others give 0. Bits that an access is too small
        for are dropped.

    Raises
    ------
    InvalidRangeError
        `size` is not positive.
    TypeError
        An argument has another type.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> clocks = Unimplemented("RCC", 0x400, reads={0x00: 1 << 17})  # the oscillator is ready
    >>> manager = IoManager()
    >>> manager.register_device_io(clocks, [Resource.MmioAddressRange(0x4002_1000, clocks.size)], name=clocks.name)
    >>> hex(manager.mmio_load(0x4002_1000, 4))
    '0x20000'
    >>> manager.mmio_store(0x4002_1004, 4, 0x1D_0402)
    >>> print(unimplemented_report(manager))
    reads  writes  written   address     register
        1       0            0x40021000  RCC + 0x0
        0       1  0x1d0402  0x40021004  RCC + 0x4
    """

    __slots__ = ("_lock", "_reads", "_uses", "_value", "name", "size")

    version = 1

    def __init__(self, name: str, size: SupportsIndex, *, reads: SupportsIndex | Mapping[int, int] = 0) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of an unimplemented device is a str, not {type(name).__name__}")
        self.name = name
        self.size = operator.index(size)
        if self.size <= 0:
            raise InvalidRangeError(f"Unimplemented takes a size of at least 1 byte, not {self.size}")
        self._value = 0
        self._reads: dict[int, int] = {}
        if isinstance(reads, Mapping):
            self._reads = {operator.index(offset): operator.index(value) for offset, value in reads.items()}
        else:
            self._value = operator.index(reads)
        self._lock = threading.Lock()
        self._uses: dict[int, UnimplementedAccess] = {}

    def load(self, base: int, offset: int, size: int) -> int:
        """Give the value of the offset."""
        with self._lock:
            use = self._use(offset)
            if use is not None:
                self._uses[offset] = use._replace(reads=use.reads + 1)
        if use is not None and use.reads == 0:
            _logger.warning("%s is not implemented: read of %s at offset %#x", *self._about(size, offset))
        return self._reads.get(offset, self._value)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        """Do nothing with the value."""
        with self._lock:
            use = self._use(offset)
            if use is not None:
                self._uses[offset] = use._replace(writes=use.writes + 1, written=value)
        if use is not None and use.writes == 0:
            about = (*self._about(size, offset), value)
            _logger.warning("%s is not implemented: write of %s at offset %#x, value %#x", *about)

    pio_in = load
    pio_out = store

    def _use(self, offset: int) -> UnimplementedAccess | None:
        use = self._uses.get(offset)
        if use is None and len(self._uses) < _MAX_OFFSETS:
            return UnimplementedAccess(offset, 0, 0, None)
        return use

    def _about(self, size: int, offset: int) -> tuple[str, str, int]:
        return self.name, format_count(size, "byte"), offset

    def accesses(self) -> list[UnimplementedAccess]:
        """Return what was accessed, by offset."""
        with self._lock:
            return sorted(self._uses.values())

    def save_state(self) -> dict[str, Any]:
        """Return the state, of which there is none: what was counted is not part of the machine."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state, of which there is none."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.name, self.size, self._reads or self._value)


def _rebuild(cls: type[Unimplemented], name: str, size: int, reads: int | dict[int, int]) -> Unimplemented:
    return cls(name, size, reads=reads)


class _Mapped(Protocol):
    """A manager, which this layer does not import."""

    def mapped_ranges(self) -> tuple[MappedRange, ...]:
        """Return its ranges."""


class _Row(NamedTuple):
    reads: str
    writes: str
    written: str
    address: str
    register: str


def unimplemented_report(manager: _Mapped) -> str:
    """Return what a guest has used that is not implemented, the most used first.

    Parameters
    ----------
    manager : IoManager
        Its `Unimplemented` devices are reported by offset, and the fields, registers and ranges of its register banks
        that are `dbs_device.registers.UNIMPLEMENTED` by name, with their accesses in the column of writes.

    Returns
    -------
    str
        A table; lines without a trailing newline.
    """
    found: list[tuple[int, _Row]] = []
    seen: set[int] = set()
    for mapped in manager.mapped_ranges():
        inner = getattr(mapped.device, "_device", None) if isinstance(mapped.device, Mutex) else mapped.device
        if id(inner) not in seen:
            seen.add(id(inner))
            found += _rows(mapped, inner)
    if not found:
        return "nothing that is not implemented was accessed"
    rows = [_Row("reads", "writes", "written", "address", "register")]
    rows += [row for _, row in sorted(found, key=lambda each: -each[0])]
    width = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row.reads:>{width[0]}}  {row.writes:>{width[1]}}  {row.written:<{width[2]}}  {row.address:<{width[3]}}  "
        f"{row.register}"
        for row in rows
    )


def _rows(mapped: MappedRange, device: object) -> Iterator[tuple[int, _Row]]:
    if isinstance(device, Unimplemented):
        for use in device.accesses():
            written = "" if use.written is None else f"{use.written:#x}"
            address = mapped.base + use.offset
            place = "" if address > mapped.last else f"{'' if mapped.space == Space.MMIO else 'port '}{address:#x}"
            row = _Row(str(use.reads), str(use.writes), written, place, f"{device.name} + {use.offset:#x}")
            yield use.reads + use.writes, row
    elif (counts := getattr(device, "unimplemented_accesses", None)) is not None:
        for name, count in counts().items():
            bank = describe_device(device, None) if mapped.name is None else mapped.name
            yield count, _Row("", str(count), "", "", f"{bank}.{name}")
