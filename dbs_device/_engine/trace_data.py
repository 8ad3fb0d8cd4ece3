"""The accesses of a run as an array, with the map of the machine, and the file that both are kept in."""

from __future__ import annotations

import importlib
import itertools
import operator
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from .records import MAX_ADDRESS, MAX_PORT
from ..address import Space
from ..device import Mutex
from ..errors import InvalidRangeError, format_count, format_range

if TYPE_CHECKING:
    from .._bus import IoManager

__all__ = [
    "ACCESS_DTYPE",
    "ACCESS_SIZES",
    "HIGHEST_ADDRESS",
    "Access",
    "AccessCount",
    "RangeSelector",
    "Space",
    "Trace",
    "TraceRange",
    "format_accesses",
    "ranges_of",
]

ACCESS_DTYPE = np.dtype(
    [("t_ns", "u8"), ("space", "u1"), ("write", "u1"), ("addr", "u8"), ("size", "u1"), ("value", "u8")]
)


HIGHEST_ADDRESS = {Space.PIO: MAX_PORT, Space.MMIO: MAX_ADDRESS}
ACCESS_SIZES = (1, 2, 4, 8)
_HIGHEST_VALUE = np.array([(1 << 8 * size) - 1 if size in ACCESS_SIZES else 0 for size in range(256)], dtype=np.uint64)
# The columns of a file, and their types.
_ACCESS_COLUMNS: dict[str, np.dtype[Any]] = {name: ACCESS_DTYPE[name] for name in ACCESS_DTYPE.names or ()}
_MAP_COLUMNS: dict[str, np.dtype[Any]] = {
    "map_space": np.dtype("u1"),
    "map_base": np.dtype("u8"),
    "map_size": np.dtype("u8"),
    "map_name": np.dtype(np.str_),
}


class Access(NamedTuple):
    """One access of a trace.

    Attributes
    ----------
    t_ns : int
        When it had been served, in nanoseconds since the recording began.
    space : Space
        The address space.
    write : bool
        Whether the guest wrote.
    addr : int
        Address or port.
    size : int
        1, 2, 4 or 8 bytes.
    value : int
        What was read or written.
    """

    t_ns: int
    space: Space
    write: bool
    addr: int
    size: int
    value: int


class TraceRange(NamedTuple):
    """A range of the machine that a trace was recorded on.

    Attributes
    ----------
    space : Space
        The address space.
    base, last : int
        First and last address (or port), both inclusive.
    name : str
        What the trace calls it. Several ranges of one device share a name.
    """

    space: Space
    base: int
    last: int
    name: str

    def __repr__(self) -> str:
        return f"TraceRange({self.space.name} {format_range(self.base, self.last)}, {self.name!r})"


class AccessCount(NamedTuple):
    """How often the ranges of one name, or those of one device, were accessed.

    Attributes
    ----------
    name : str or None
        The name; None counts the accesses that no range owns.
    reads, writes : int
        Number of accesses.
    bytes_read, bytes_written : int
        Sum of their sizes.
    """

    name: str | None
    reads: int
    writes: int
    bytes_read: int
    bytes_written: int


RangeSelector: TypeAlias = str | TraceRange | tuple[int, int, int]


class Trace:
    """The accesses of one run, in order, with the map of the machine that it was recorded on.

    `trace[i]` and iteration give `Access` tuples; a slice, a boolean mask or an array of indices gives a `Trace`.
    Traces are equal when accesses and ranges are.

    Parameters
    ----------
    accesses : numpy.ndarray
        1-D, of `ACCESS_DTYPE`; `TypeError` otherwise, `ValueError` for values that no access can have. It is not
        copied.
    ranges : iterable of TraceRange or tuple of (int, int, int, str), optional
        The map: (space, base, last, name) of each range. `InvalidRangeError` for an empty range or one outside its
        space, `ValueError` if two overlap.

    Attributes
    ----------
    accesses : numpy.ndarray
        The accesses.
    ranges : tuple of TraceRange
        The map, in the order given.
    """

    __hash__ = None  # type: ignore[assignment]  # its array is mutable

    def __init__(
        self, accesses: NDArray[np.void], ranges: Iterable[TraceRange | tuple[int, int, int, str]] = ()
    ) -> None:
        if not isinstance(accesses, np.ndarray) or accesses.dtype != ACCESS_DTYPE or accesses.ndim != 1:
            raise TypeError("a Trace takes a 1-D array of ACCESS_DTYPE")
        _check_accesses(accesses)
        self.accesses = accesses
        self.ranges = tuple(
            TraceRange(Space(space), operator.index(base), operator.index(last), name)
            for space, base, last, name in ranges
        )
        _check_ranges(self.ranges)

    def __len__(self) -> int:
        return len(self.accesses)

    def __iter__(self) -> Iterator[Access]:
        return map(_access_of, self.accesses.tolist())

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Access: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.integer[Any]] | list[int]) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        rows = self.accesses[index]
        if isinstance(rows, np.void):
            return _access_of(rows.item())
        return type(self)(rows, self.ranges)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        return self.ranges == other.ranges and np.array_equal(self.accesses, other.accesses)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {format_accesses(len(self))}, {format_count(len(self.ranges), 'range')}>"

    def mask(self, selectors: str | Iterable[RangeSelector]) -> NDArray[np.bool_]:
        """Say of each access whether it begins in one of the ranges.

        Parameters
        ----------
        selectors : str or iterable
            Names of the map (`ValueError` for one that it does not have), or (space, base, last), inclusive.

        Returns
        -------
        numpy.ndarray
            bool, one per access: `trace[trace.mask("com1")]` are the accesses of that range.
        """
        selected = np.zeros(len(self), dtype=np.bool_)
        for space, base, last in self._select(selectors):
            addresses = self.accesses["addr"]
            within = (addresses >= np.uint64(base)) & (addresses <= np.uint64(last))
            selected |= within & (self.accesses["space"] == Space(space))
        return selected

    def _select(self, selectors: str | Iterable[RangeSelector]) -> Iterator[tuple[int, int, int]]:
        for selector in [selectors] if isinstance(selectors, str) else selectors:
            if isinstance(selector, str):
                named = [each[:3] for each in self.ranges if each.name == selector]
                if not named:
                    names = ", ".join(repr(each.name) for each in self.ranges) or "none at all"
                    raise ValueError(f"the trace has no range named {selector!r}; it has {names}")
                yield from named
            elif isinstance(selector, tuple) and len(selector) in (3, 4):
                yield selector[:3]
            else:
                raise TypeError(f"a range is a name or (space, base, last), not {selector!r}")

    def summary(self, manager: IoManager | None = None) -> list[AccessCount]:
        """Count the accesses of each range's name, or of each device.

        Parameters
        ----------
        manager : IoManager, optional
            Count by the devices that it maps now, and not by the trace's own map. A device goes by the name of its
            type, a number being added to a second one of that name.

        Returns
        -------
        list of AccessCount
            One per name, in the order of the map, those without any access included; at the end one for the accesses
            that no range owns, if there are any.
        """
        ranges = self.ranges if manager is None else ranges_of(manager)
        names: list[str | None] = [*dict.fromkeys(each.name for each in ranges), None]
        index_of_name = {name: index for index, name in enumerate(names)}
        # The last one is found by index -1, which stands for the accesses of nobody.
        name_of_range = np.array([*(index_of_name[each.name] for each in ranges), index_of_name[None]])
        name_indices = name_of_range[_range_indices(self.accesses, ranges)]
        cells = name_indices * 2 + self.accesses["write"]
        counts = np.bincount(cells, minlength=2 * len(names)).tolist()
        sizes = np.bincount(cells, weights=self.accesses["size"], minlength=2 * len(names)).astype(np.int64).tolist()
        rows = [
            AccessCount(name, counts[2 * i], counts[2 * i + 1], sizes[2 * i], sizes[2 * i + 1])
            for i, name in enumerate(names)
        ]
        nobodys = rows.pop()
        return [*rows, nobodys] if nobodys.reads or nobodys.writes else rows

    def to_pandas(self) -> Any:
        """Return the accesses as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row per access: t_ns, space ("PIO" or "MMIO"), write (bool), addr, size, value, and range, the name
            of the map's range (None where there is none).

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError("Trace.to_pandas needs pandas, which is not installed", name="pandas") from error
        columns: dict[str, Any] = {name: self.accesses[name].copy() for name in _ACCESS_COLUMNS}
        columns["space"] = pandas.Categorical.from_codes(columns["space"].astype("i1"), [each.name for each in Space])
        columns["write"] = columns["write"].astype(np.bool_)
        names = np.array([*(each.name for each in self.ranges), None], dtype=object)
        columns["range"] = names[_range_indices(self.accesses, self.ranges)]
        return pandas.DataFrame(columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as a compressed .npz file, one array per field, the map as `map_space`, `map_base`, ...

        Parameters
        ----------
        path : path
            The file, under exactly this name; one that exists is replaced.
        """
        columns: dict[str, list[Any]] = {
            "map_space": [each.space for each in self.ranges],
            "map_base": [each.base for each in self.ranges],
            # The size of the whole 64-bit space, 2**64, is 0 in uint64.
            "map_size": [(each.last - each.base + 1) & MAX_ADDRESS for each in self.ranges],
            "map_name": [each.name for each in self.ranges],
        }
        arrays: dict[str, Any] = {name: self.accesses[name] for name in _ACCESS_COLUMNS}
        arrays |= {name: np.array(column, dtype=_MAP_COLUMNS[name]) for name, column in columns.items()}
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a trace from an .npz file. Pickled objects in it are refused, not loaded.

        Parameters
        ----------
        path : path
            The file. The four arrays of the map may be absent, all together.

        Raises
        ------
        ValueError
            The file is no .npz, a field is missing, has the wrong type or length, or holds what no access can have;
            the message names file and field.
        OSError
            The file cannot be opened.
        """
        try:
            columns, map_columns = _read_arrays(path)
            accesses = np.empty(len(columns["t_ns"]), ACCESS_DTYPE)
            for name, column in columns.items():
                accesses[name] = column
            return cls(accesses, _ranges_from(map_columns))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


def _access_of(row: Any) -> Access:
    t_ns, space, write, addr, size, value = row
    return Access(t_ns, Space(space), bool(write), addr, size, value)


def format_accesses(count: int) -> str:
    """Return a number of accesses with its unit; `format_count` knows only plurals in "s"."""
    return f"{count} access" if count == 1 else f"{count} accesses"


def _check_accesses(accesses: NDArray[np.void]) -> None:
    """Raise `ValueError` for the first access that cannot have been one."""
    sizes = accesses["size"]
    checks = (
        ("space", accesses["space"] <= Space.MMIO, "0 (PIO) or 1 (MMIO)"),
        ("write", accesses["write"] <= 1, "0 (read) or 1 (write)"),
        ("size", np.isin(sizes, ACCESS_SIZES), "1, 2, 4 or 8 bytes"),
        ("addr", (accesses["space"] == Space.MMIO) | (accesses["addr"] <= MAX_PORT), f"a port, 0x0..{MAX_PORT:#x}"),
        ("value", accesses["value"] <= _HIGHEST_VALUE[sizes], "a number of the access's size"),
    )
    for field, is_valid, expected in checks:
        if not is_valid.all():
            index = int(np.argmin(is_valid))
            raise ValueError(f"field {field!r}, access {index}: {int(accesses[field][index]):#x} is not {expected}")


def _check_ranges(ranges: tuple[TraceRange, ...]) -> None:
    for each in ranges:
        if not isinstance(each.name, str):
            raise TypeError(f"the name of a range is a str, not {type(each.name).__name__}")
        if not 0 <= each.base <= each.last <= HIGHEST_ADDRESS[each.space]:
            raise InvalidRangeError(f"{each!r} is empty or lies outside its space")
    ordered = sorted(ranges)
    for one, other in itertools.pairwise(ordered):
        if one.space == other.space and other.base <= one.last:
            raise ValueError(f"{one!r} and {other!r} overlap")


def _range_indices(accesses: NDArray[np.void], ranges: tuple[TraceRange, ...]) -> NDArray[np.intp]:
    """Return the index of the range that each access begins in, -1 for none."""
    indices = np.full(len(accesses), -1, dtype=np.intp)
    for space in Space:
        order = sorted((each.base, each.last, i) for i, each in enumerate(ranges) if each.space == space)
        if not order:
            continue
        chosen = np.flatnonzero(accesses["space"] == space)
        addresses = accesses["addr"][chosen]
        bases, lasts = (np.array([each[column] for each in order], dtype=np.uint64) for column in (0, 1))
        places = np.searchsorted(bases, addresses, side="right") - 1
        within = (places >= 0) & (addresses <= lasts[places])
        indices[chosen[within]] = np.array([i for _, _, i in order])[places[within]]
    return indices


def ranges_of(manager: IoManager) -> tuple[TraceRange, ...]:
    """Return what a manager maps now, under the names of its devices' types."""
    names: dict[int, str] = {}
    namesakes: Counter[str] = Counter()
    ranges = []
    rows = [(Space.PIO, *row) for row in manager.pio_bus] + [(Space.MMIO, *row) for row in manager.mmio_bus]
    for space, base, last, device in rows:
        if id(device) not in names:
            name = type(device._device if isinstance(device, Mutex) else device).__name__
            namesakes[name] += 1
            names[id(device)] = name if namesakes[name] == 1 else f"{name}#{namesakes[name]}"
        ranges.append(TraceRange(space, base, last, names[id(device)]))
    return tuple(ranges)


def _read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the arrays of a trace file, those of the accesses and those of the map, checked for type and length."""
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except Exception as error:  # numpy, zipfile and zlib each have errors of their own for a bad file
            raise ValueError(f"not an .npz file: {error}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("not an .npz file, but a single array")
        with archive:
            accesses = _read_columns(archive, _ACCESS_COLUMNS)
            has_map = any(name in archive.files for name in _MAP_COLUMNS)
            return accesses, _read_columns(archive, _MAP_COLUMNS) if has_map else {}


def _read_columns(archive: Any, columns: dict[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype in columns.items():
        if name not in archive.files:
            raise ValueError(f"field {name!r} is missing")
        try:
            array = archive[name]
        except Exception as error:  # as for the whole file, and for an array of objects
            raise ValueError(f"field {name!r} cannot be read: {error}") from error
        # The type of text has size 0 here and the length of the longest name in a file; byte order is numpy's business.
        if array.dtype.kind != dtype.kind or dtype.itemsize not in (0, array.dtype.itemsize) or array.ndim != 1:
            raise ValueError(f"field {name!r} is {array.ndim}-D of type {array.dtype}, not 1-D of {dtype.name}")
        arrays[name] = array
        first = next(iter(arrays))
        if len(array) != len(arrays[first]):
            raise ValueError(f"field {name!r} has {len(array)} items, {first!r} has {len(arrays[first])}")
    return arrays


def _ranges_from(columns: dict[str, NDArray[Any]]) -> list[TraceRange]:
    """Return the ranges that the arrays of a map describe."""
    ranges = []
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    for index, (space, base, size, name) in enumerate(rows):
        if space > Space.MMIO:
            raise ValueError(f"field 'map_space', range {index}: {space:#x} is not 0 (PIO) or 1 (MMIO)")
        # Wraps for the whole 64-bit space, whose size is saved as 0, and for ranges that are none.
        last = (base + size - 1) & MAX_ADDRESS
        if not base <= last <= HIGHEST_ADDRESS[Space(space)]:
            raise ValueError(
                f"field 'map_size', range {index}: {size:#x} from {base:#x} on is empty or ends outside its space"
            )
        ranges.append(TraceRange(Space(space), base, last, name))
    return ranges
