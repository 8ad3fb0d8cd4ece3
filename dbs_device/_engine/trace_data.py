"""`Trace`: recorded accesses as an array, the address map of the machine, and the file that stores both."""

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

from ..address import Space
from ..device import Mutex
from ..errors import InvalidRangeError, format_count, format_range
from .public import exported_from

if TYPE_CHECKING:
    from .._bus import IoManager

__all__ = [
    "ACCESS_DTYPE",
    "ACCESS_SIZES",
    "Access",
    "AccessCount",
    "RangeSelector",
    "Trace",
    "TraceRange",
    "format_accesses",
    "ranges_of",
]

ACCESS_DTYPE = np.dtype(
    [("t_ns", "u8"), ("space", "u1"), ("write", "u1"), ("addr", "u8"), ("size", "u1"), ("value", "u8")]
)
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


@exported_from("dbs_device.trace")
class Access(NamedTuple):
    """One access of a trace.

    Attributes
    ----------
    t_ns : int
        Time of its completion, in nanoseconds since the recording began.
    space : Space
        The I/O space.
    write : bool
        Whether the guest wrote.
    addr : int
        Address or port.
    size : int
        1, 2, 4 or 8 bytes.
    value : int
        The value read or written.
    """

    t_ns: int
    space: Space
    write: bool
    addr: int
    size: int
    value: int


@exported_from("dbs_device.trace")
class TraceRange(NamedTuple):
    """A range in the address map of a trace.

    Attributes
    ----------
    space : Space
        The I/O space.
    base, last : int
        First and last address (or port), both inclusive.
    name : str
        The name of its device; several ranges may share it.
    """

    space: Space
    base: int
    last: int
    name: str

    def __repr__(self) -> str:
        return f"TraceRange({self.space} {format_range(self.base, self.last)}, {self.name!r})"


@exported_from("dbs_device.trace")
class AccessCount(NamedTuple):
    """The accesses to the ranges of one name, or of one device.

    Attributes
    ----------
    name : str or None
        The name; None for accesses that no range owns.
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


RangeSelector: TypeAlias = str | TraceRange | tuple[int | str, int, int]


@exported_from("dbs_device.trace")
class Trace:
    """Recorded accesses, in order, with the address map of the machine.

    `trace[i]` and iteration give `Access` tuples; a slice, a boolean mask or an array of indices gives a `Trace`.
    Traces are equal if their accesses and ranges are.

    Parameters
    ----------
    accesses : numpy.ndarray
        1-D, of `ACCESS_DTYPE`. It is not copied.
    ranges : iterable of TraceRange or tuple of (Space or str, int, int, str), optional
        The map: (space, base, last, name) of each range.

    Attributes
    ----------
    accesses : numpy.ndarray
        The accesses.
    ranges : tuple of TraceRange
        The map, in the order given.

    Raises
    ------
    InvalidRangeError
        A range is empty or outside its space.
    TypeError
        `accesses` has another type or shape, or a field of a range has the wrong type.
    ValueError
        An access has an impossible value, a space does not exist, or two ranges overlap.
    """

    __hash__ = None  # type: ignore[assignment]  # its array is mutable

    def __init__(
        self, accesses: NDArray[np.void], ranges: Iterable[TraceRange | tuple[int | str, int, int, str]] = ()
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
        """Return which accesses begin in one of the ranges.

        Parameters
        ----------
        selectors : str or iterable
            Names of ranges in the map, or (space, base, last), inclusive.

        Returns
        -------
        numpy.ndarray
            bool, one per access: `trace[trace.mask("com1")]` are the accesses to that range.

        Raises
        ------
        OverflowError
            A base or last address is not 0..2**64 - 1.
        TypeError
            A selector is neither a name nor a (space, base, last) tuple.
        ValueError
            The map has no range of that name, or the space does not exist.
        """
        selected = np.zeros(len(self), dtype=np.bool_)
        for space, base, last in self._select(selectors):
            addresses = self.accesses["addr"]
            within = (addresses >= np.uint64(base)) & (addresses <= np.uint64(last))
            selected |= within & (self.accesses["space"] == Space(space))
        return selected

    def _select(self, selectors: str | Iterable[RangeSelector]) -> Iterator[tuple[int | str, int, int]]:
        for selector in [selectors] if isinstance(selectors, str) else selectors:
            if isinstance(selector, str):
                named = [each[:3] for each in self.ranges if each.name == selector]
                if not named:
                    names = ", ".join(repr(each.name) for each in self.ranges) or "none"
                    raise ValueError(f"the trace has no range named {selector!r}; its ranges: {names}")
                yield from named
            elif isinstance(selector, tuple) and len(selector) in (3, 4):
                yield selector[:3]
            else:
                raise TypeError(f"a range must be a name or (space, base, last), not {selector!r}")

    def summary(self, manager: IoManager | None = None) -> list[AccessCount]:
        """Count the accesses by name of range, or by device.

        Parameters
        ----------
        manager : IoManager, optional
            Count by the devices registered on it now, instead of by the trace's map. Devices are named by their type,
            with a number from the second one of a type on.

        Returns
        -------
        list of AccessCount
            One per name, in the order of the map, even without accesses; at the end, one for accesses that no range
            owns, if there are any.
        """
        ranges = self.ranges if manager is None else ranges_of(manager)
        names: list[str | None] = [*dict.fromkeys(each.name for each in ranges), None]
        index_of_name = {name: index for index, name in enumerate(names)}
        # Index -1, of an unowned access, finds the last one.
        name_of_range = np.array([*(index_of_name[each.name] for each in ranges), index_of_name[None]])
        name_indices = name_of_range[_range_indices(self.accesses, ranges)]
        cells = name_indices * 2 + self.accesses["write"]
        counts = np.bincount(cells, minlength=2 * len(names)).tolist()
        sizes = np.bincount(cells, weights=self.accesses["size"], minlength=2 * len(names)).astype(np.int64).tolist()
        rows = [
            AccessCount(name, counts[2 * i], counts[2 * i + 1], sizes[2 * i], sizes[2 * i + 1])
            for i, name in enumerate(names)
        ]
        unowned = rows.pop()
        return [*rows, unowned] if unowned.reads or unowned.writes else rows

    def to_pandas(self) -> Any:
        """Return the accesses as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row per access. Columns: t_ns, space ("PIO" or "MMIO"), write (bool), addr, size, value, and range, the
            name of the range in the map, or None.

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
        """Write the trace to a compressed .npz file: one array per field, the map as `map_space`, `map_base`, ...

        Parameters
        ----------
        path : path
            The file. No suffix is added; an existing file is replaced.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        columns: dict[str, list[Any]] = {
            "map_space": [each.space for each in self.ranges],
            "map_base": [each.base for each in self.ranges],
            # The size of the whole 64-bit space, 2**64, is 0 in uint64.
            "map_size": [(each.last - each.base + 1) % 2**64 for each in self.ranges],
            "map_name": [each.name for each in self.ranges],
        }
        arrays: dict[str, Any] = {name: self.accesses[name] for name in _ACCESS_COLUMNS}
        arrays |= {name: np.array(column, dtype=_MAP_COLUMNS[name]) for name, column in columns.items()}
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a trace from an .npz file. Pickled objects in it are refused.

        Parameters
        ----------
        path : path
            The file. The four arrays of the map may be absent together.

        Raises
        ------
        ValueError
            The file is not an .npz file; or a field is missing, has the wrong type or length, or an impossible value.
            The message names file and field.
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
    """Return a number of accesses with its unit, whose plural `format_count` cannot make."""
    return f"{count} access" if count == 1 else f"{count} accesses"


def _check_accesses(accesses: NDArray[np.void]) -> None:
    """Raise `ValueError` for the first access with an impossible value."""
    sizes = accesses["size"]
    last_port = Space.PIO.last_address
    is_addr = (accesses["space"] == Space.MMIO) | (accesses["addr"] <= last_port)
    checks = (
        ("space", "d", accesses["space"] <= Space.MMIO, "0 (PIO) or 1 (MMIO)"),
        ("write", "d", accesses["write"] <= 1, "0 (read) or 1 (write)"),
        ("size", "d", np.isin(sizes, ACCESS_SIZES), "1, 2, 4 or 8 bytes"),
        ("addr", "#x", is_addr, f"a port, 0x0..{last_port:#x}"),
        ("value", "#x", accesses["value"] <= _HIGHEST_VALUE[sizes], "a number of the access's size"),
    )
    for field, number_format, is_valid, expected in checks:
        if not is_valid.all():
            index = int(np.argmin(is_valid))
            value = format(int(accesses[field][index]), number_format)
            raise ValueError(f"field {field!r}, access {index}: {value} is not {expected}")


def _check_ranges(ranges: tuple[TraceRange, ...]) -> None:
    for each in ranges:
        if not isinstance(each.name, str):
            raise TypeError(f"the name of a range must be a str, not {type(each.name).__name__}")
        if not 0 <= each.base <= each.last <= each.space.last_address:
            raise InvalidRangeError(f"{each!r} is empty or outside its space")
    ordered = sorted(ranges)
    for one, other in itertools.pairwise(ordered):
        if one.space == other.space and other.base <= one.last:
            raise ValueError(f"{one!r} and {other!r} overlap")


def _range_indices(accesses: NDArray[np.void], ranges: tuple[TraceRange, ...]) -> NDArray[np.intp]:
    """Return the index of the range that each access begins in, or -1."""
    indices = np.full(len(accesses), -1, dtype=np.intp)
    for space in Space:
        order = sorted((each.base, each.last, i) for i, each in enumerate(ranges) if each.space == space)
        if not order:
            continue
        in_space = np.flatnonzero(accesses["space"] == space)
        addresses = accesses["addr"][in_space]
        bases, lasts = (np.array([each[column] for each in order], dtype=np.uint64) for column in (0, 1))
        places = np.searchsorted(bases, addresses, side="right") - 1
        within = (places >= 0) & (addresses <= lasts[places])
        indices[in_space[within]] = np.array([i for _, _, i in order])[places[within]]
    return indices


def ranges_of(manager: IoManager) -> tuple[TraceRange, ...]:
    """Return the ranges registered on a manager now, named by the types of their devices."""
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
        except Exception as error:  # numpy, zipfile and zlib raise errors of their own for a bad file
            raise ValueError(f"not an .npz file: {error}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an .npz file")
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
        # The itemsize of text is 0 here, and depends on the longest name in a file. numpy converts the byte order.
        if array.dtype.kind != dtype.kind or dtype.itemsize not in (0, array.dtype.itemsize) or array.ndim != 1:
            raise ValueError(f"field {name!r} is {array.ndim}-D of type {array.dtype}, not 1-D of {dtype.name}")
        arrays[name] = array
        first = next(iter(arrays))
        if len(array) != len(arrays[first]):
            raise ValueError(f"field {name!r} has {len(array)} items, {first!r} has {len(arrays[first])}")
    return arrays


def _ranges_from(columns: dict[str, NDArray[Any]]) -> list[TraceRange]:
    """Return the ranges of a map from its arrays."""
    ranges = []
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    for index, (space, base, size, name) in enumerate(rows):
        if space > Space.MMIO:
            raise ValueError(f"field 'map_space', range {index}: {space} is not 0 (PIO) or 1 (MMIO)")
        # Wraps for the whole 64-bit space, whose size is saved as 0, and for invalid ranges.
        last = (base + size - 1) % 2**64
        if not base <= last <= Space(space).last_address:
            raise ValueError(
                f"field 'map_size', range {index}: {size} from {base:#x} on is empty or ends outside its space"
            )
        ranges.append(TraceRange(Space(space), base, last, name))
    return ranges
