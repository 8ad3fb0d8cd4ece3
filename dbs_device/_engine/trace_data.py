"""`Trace`: recorded accesses as an array, the address map of the machine, and the file that stores both."""

from __future__ import annotations

import importlib
import itertools
import operator
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from ..address import Space
from ..device import Mutex
from ..errors import InvalidRangeError, format_count, format_range
from .archive import check_members, open_archive, read_array
from .public import exported_from

if TYPE_CHECKING:
    from .._bus import IoManager

__all__ = [
    "ACCESS_DTYPE",
    "LONGEST_IN_ROW",
    "Access",
    "AccessCount",
    "RangeSelector",
    "Trace",
    "TraceRange",
    "format_accesses",
    "range_indices",
    "ranges_of",
]

ACCESS_DTYPE = np.dtype(
    [("t_ns", "u8"), ("space", "u1"), ("write", "u1"), ("addr", "u8"), ("size", "u8"), ("value", "u8")]
)
LONGEST_IN_ROW = ACCESS_DTYPE["value"].itemsize  # bytes; the value of a longer access is in `Trace.long_values`
_HIGHEST_VALUE = np.array([(1 << 8 * size) - 1 for size in range(LONGEST_IN_ROW + 1)], dtype=np.uint64)
# The columns of a file, and their types.
_ACCESS_COLUMNS: dict[str, np.dtype[Any]] = {name: ACCESS_DTYPE[name] for name in ACCESS_DTYPE.names or ()}
_MAP_COLUMNS: dict[str, np.dtype[Any]] = {
    "map_space": np.dtype("u1"),
    "map_base": np.dtype("u8"),
    "map_size": np.dtype("u8"),
    "map_name": np.dtype(np.str_),
}
_LONG_VALUES = "long_values"
_COLUMNS = {**_ACCESS_COLUMNS, **_MAP_COLUMNS, _LONG_VALUES: np.dtype("u1")}
_ALWAYS_READ = 1 << 28  # bytes that `Trace.load` reads by default; of larger files, more


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
        Bytes, 1 or more.
    value : int
        The value read or written, of `size` bytes.
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
    long_values : bytes, optional
        The values of the accesses of more than 8 bytes, each in little-endian order. The `value` of such an access is
        the offset of its own in `long_values`.

    Attributes
    ----------
    accesses : numpy.ndarray
        The accesses.
    ranges : tuple of TraceRange
        The map, in the order given.
    long_values : bytes
        The parameter. The parts of a trace share it.

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
        self,
        accesses: NDArray[np.void],
        ranges: Iterable[TraceRange | tuple[int | str, int, int, str]] = (),
        long_values: bytes = b"",
    ) -> None:
        if not isinstance(accesses, np.ndarray) or accesses.dtype != ACCESS_DTYPE or accesses.ndim != 1:
            raise TypeError("a Trace takes a 1-D array of ACCESS_DTYPE")
        if not isinstance(long_values, bytes):
            raise TypeError(f"long_values must be bytes, not {type(long_values).__name__}")
        _check_accesses(accesses, len(long_values))
        self.accesses = accesses
        self.long_values = long_values
        self.ranges = tuple(
            TraceRange(Space(space), operator.index(base), operator.index(last), name)
            for space, base, last, name in ranges
        )
        _check_ranges(self.ranges)

    def __len__(self) -> int:
        return len(self.accesses)

    def __iter__(self) -> Iterator[Access]:
        return map(self._access_of, self.accesses.tolist())

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Access: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.integer[Any]] | list[int]) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        rows = self.accesses[index]
        if isinstance(rows, np.void):
            return self._access_of(rows.item())
        return type(self)(rows, self.ranges, self.long_values)

    def _access_of(self, row: Any) -> Access:
        t_ns, space, write, addr, size, value = row
        if size > LONGEST_IN_ROW:
            value = int.from_bytes(self.long_values[value : value + size], "little")
        return Access(t_ns, Space(space), bool(write), addr, size, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        if self.ranges != other.ranges or len(self) != len(other):
            return False
        # The value of a long access may be elsewhere in the other trace.
        is_long = self._is_long()
        return np.array_equal(self.accesses[~is_long], other.accesses[~is_long]) and list(self[is_long]) == list(
            other[is_long]
        )

    def _is_long(self) -> NDArray[np.bool_]:
        is_long: NDArray[np.bool_] = self.accesses["size"] > LONGEST_IN_ROW
        return is_long

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
        name_indices = name_of_range[range_indices(self.accesses, ranges)]
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
            One row per access. Columns: t_ns, space ("PIO" or "MMIO"), write (bool), addr, size, value (of type object
            if there are accesses of more than 8 bytes), and range, the name of the range in the map, or None.

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
        if self._is_long().any():
            columns["value"] = np.array([access.value for access in self], dtype=object)
        names = np.array([*(each.name for each in self.ranges), None], dtype=object)
        columns["range"] = names[range_indices(self.accesses, self.ranges)]
        return pandas.DataFrame(columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a compressed .npz file: one array per field, the map as `map_space`, `map_base`, ...

        `size` has the smallest type that holds all sizes; `long_values` is absent if it is empty.

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
        arrays["size"] = arrays["size"].astype(np.min_scalar_type(int(arrays["size"].max(initial=0))))
        arrays |= {name: np.array(column, dtype=_MAP_COLUMNS[name]) for name, column in columns.items()}
        if self.long_values:
            arrays[_LONG_VALUES] = np.frombuffer(self.long_values, np.uint8)
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_size: int | None = None) -> Self:
        """Read a trace from an .npz file. Pickled objects in it are refused.

        Parameters
        ----------
        path : path
            The file. The four arrays of the map may be absent together, and `long_values`.
        max_size : int, optional
            Bytes of the arrays above which a file is refused, before any is read: a small file may hold huge ones. By
            default, 256 MiB, or 64 times the size of the file if that is more.

        Raises
        ------
        ValueError
            The file is not an .npz file, or its arrays are too large; or a field is missing, has the wrong type or
            length, or an impossible value. The message names file and field.
        OSError
            The file cannot be opened.
        """
        with open(path, "rb") as file:
            try:
                columns, map_columns, long_values = _read_arrays(file, max_size)
                accesses = np.empty(len(columns["t_ns"]), ACCESS_DTYPE)
                for name, column in columns.items():
                    accesses[name] = column
                return cls(accesses, _ranges_from(map_columns), long_values)
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)}: {error}") from error


def format_accesses(count: int) -> str:
    """Return a number of accesses with its unit, whose plural `format_count` cannot make."""
    return f"{count} access" if count == 1 else f"{count} accesses"


def _check_accesses(accesses: NDArray[np.void], long_size: int) -> None:
    """Raise `ValueError` for the first access with an impossible value."""
    sizes, values = accesses["size"], accesses["value"]
    last_port = Space.PIO.last_address
    is_addr = (accesses["space"] == Space.MMIO) | (accesses["addr"] <= last_port)
    fits_row = values <= _HIGHEST_VALUE[np.minimum(sizes, LONGEST_IN_ROW)]
    fits_long = (values <= long_size) & (sizes <= long_size - np.minimum(values, long_size))
    checks = (
        ("space", "d", accesses["space"] <= Space.MMIO, "0 (PIO) or 1 (MMIO)"),
        ("write", "d", accesses["write"] <= 1, "0 (read) or 1 (write)"),
        ("size", "d", sizes >= 1, "1 byte or more"),
        ("addr", "#x", is_addr, f"a port, 0x0..{last_port:#x}"),
        ("value", "#x", (sizes > LONGEST_IN_ROW) | fits_row, "a number of the access's size"),
        (
            "value",
            "d",
            (sizes <= LONGEST_IN_ROW) | fits_long,
            f"an offset of its bytes in the {long_size} of long_values",
        ),
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


def range_indices(accesses: NDArray[np.void], ranges: tuple[TraceRange, ...]) -> NDArray[np.intp]:
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
    """Return the ranges registered on a manager now, by the names of their devices, or else by their types."""
    names: dict[tuple[int, str], str] = {}
    namesakes: Counter[str] = Counter()
    ranges = []
    for space, base, last, device, registered_name in sorted(manager.mapped_ranges(), key=lambda each: each[:2]):
        name = registered_name or type(device._device if isinstance(device, Mutex) else device).__name__
        if (id(device), name) not in names:
            namesakes[name] += 1
            names[id(device), name] = name if namesakes[name] == 1 else f"{name}#{namesakes[name]}"
        ranges.append(TraceRange(space, base, last, names[id(device), name]))
    return tuple(ranges)


def _read_arrays(
    file: BinaryIO, max_size: int | None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], bytes]:
    """Return the arrays of a trace file: those of the accesses, of the map, and the long values. All are checked."""
    with open_archive(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_members([members[name] for name in members.keys() & _COLUMNS.keys()], file, max_size, always=_ALWAYS_READ)
        accesses = _read_columns(archive, members, _ACCESS_COLUMNS)
        ranges = _read_columns(archive, members, _MAP_COLUMNS) if members.keys() & _MAP_COLUMNS.keys() else {}
        long_values = _read_column(archive, members, _LONG_VALUES).tobytes() if _LONG_VALUES in members else b""
        return accesses, ranges, long_values


def _read_columns(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], names: Iterable[str]
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a table, which must have the same length."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in names:
        if name not in members:
            raise ValueError(f"field {name!r} is missing")
        array = arrays[name] = _read_column(archive, members, name)
        first = next(iter(arrays))
        if len(array) != len(arrays[first]):
            raise ValueError(f"field {name!r} has {len(array)} items, {first!r} has {len(arrays[first])}")
    return arrays


def _read_column(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> NDArray[Any]:
    dtype, shape, contents = read_array(archive, members[name], f"field {name!r}")
    expected = _COLUMNS[name]
    # The itemsize of text depends on the longest name in a file, and that of `size` on the largest.
    has_width = dtype.itemsize > 0 if name in ("size", "map_name") else dtype.itemsize == expected.itemsize
    if dtype.kind != expected.kind or not has_width or len(shape) != 1:
        raise ValueError(f"field {name!r} is {len(shape)}-D of type {dtype}, not 1-D of {expected.name}")
    if len(contents) != shape[0] * dtype.itemsize:
        raise ValueError(f"field {name!r} has {len(contents)} bytes, not {shape[0]} items of {dtype.itemsize}")
    if (
        dtype.kind == "U"
        and (np.frombuffer(contents, np.dtype("u4").newbyteorder(dtype.byteorder)) > sys.maxunicode).any()
    ):
        raise ValueError(f"field {name!r} is not text")
    return np.frombuffer(contents, dtype)


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
