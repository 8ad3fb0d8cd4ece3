"""Record the accesses of a guest, save them in a file, and replay them on any manager.

A trace is a regression test and a benchmark of devices that needs no guest.

Examples
--------
>>> from dbs_device import DeviceIo, DeviceResources, IoManager, Resource
>>> class Latch(DeviceIo):
...     value = 0
...     def pio_read(self, base, offset, data):
...         data[0] = self.value
...     def pio_write(self, base, offset, data):
...         self.value = data[0]
>>> manager = IoManager()
>>> manager.register_device_io(Latch(), DeviceResources([Resource.PioAddressRange(0x80, 1)]))
>>> recorder = TraceRecorder(manager)
>>> recorder.pio_out(0x80, 1, 0x5A)
>>> recorder.pio_in(0x80, 1)
90
>>> print(replay(recorder.trace, manager))
2 accesses, 1 read compared, no differences
>>> recorder.trace.summary()
[AccessCount(name='Latch', reads=1, writes=1, bytes_read=1, bytes_written=1)]
"""

from __future__ import annotations

import itertools
import operator
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ._engine.trace_data import (
    ACCESS_DTYPE,
    LONGEST_IN_ROW,
    Access,
    AccessCount,
    RangeSelector,
    Trace,
    TraceRange,
    format_accesses,
    ranges_of,
)
from .address import Space
from .errors import add_note, format_count

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._bus import IoManager

__all__ = [
    "ACCESS_DTYPE",
    "Access",
    "AccessCount",
    "Difference",
    "ReplayResult",
    "Space",
    "Trace",
    "TraceRange",
    "TraceRecorder",
    "replay",
]

_ROW = struct.Struct("=QBBQQQ")  # ACCESS_DTYPE


@dataclass
class _Records:
    """The accesses recorded since the last `clear`.

    A finaliser or signal handler may record an access between any two steps of another one on the same thread: a row is
    added in one step, after the long value that it refers to.
    """

    rows: bytearray = field(default_factory=bytearray)
    long_values: dict[int, bytes] = field(default_factory=dict)  # by number, which is in the row
    numbers: Iterator[int] = field(default_factory=itertools.count)


class TraceRecorder:
    """Forwards accesses to a manager, and records those that succeed.

    The guest uses it in place of the manager. Devices call the manager itself: their own accesses are part of the one
    that they serve, and a replay would repeat them if they were recorded.

    An access that raises is not recorded; an unowned access that the open bus serves is. Values are integers in the
    manager's `byteorder`, buffers of any length included. Several threads may record at once. A record takes 34 bytes,
    and a value of more than 8 bytes its own size besides; appending is amortised O(1).

    Parameters
    ----------
    manager : IoManager
        Serves the accesses.
    enabled : bool, optional
        Whether to record from the start.

    Attributes
    ----------
    manager : IoManager
        Serves the accesses.
    enabled : bool
        Whether accesses are recorded; may be changed at any time. If false, an access costs one more call.
    """

    def __init__(self, manager: IoManager, *, enabled: bool = True) -> None:
        self.manager = manager
        self.enabled = enabled
        self._lock = threading.RLock()  # re-entrant, for finalisers and signal handlers
        self._start = time.perf_counter_ns()
        self._records = _Records()

    @property
    def byteorder(self) -> str:
        """The manager's `byteorder`, "little" or "big"."""
        return self.manager.byteorder

    @property
    def trace(self) -> Trace:
        """A copy of the records, with the manager's current ranges, named by the types of their devices."""
        with self._lock:
            records = self._records
            accesses = np.frombuffer(bytearray(records.rows), ACCESS_DTYPE)
            long_values = dict(records.long_values)
        is_long = accesses["size"] > LONGEST_IN_ROW
        contents = [long_values[number] for number in accesses["value"][is_long].tolist()]
        accesses["value"][is_long] = [0, *itertools.accumulate(map(len, contents))][: len(contents)]
        return Trace(accesses, ranges_of(self.manager), b"".join(contents))

    def clear(self) -> None:
        """Discard the records. The clock is not reset."""
        with self._lock:
            self._records = _Records()

    def __len__(self) -> int:
        return len(self._records.rows) // _ROW.size

    def __repr__(self) -> str:
        return f"<TraceRecorder of {self.manager!r}: {format_accesses(len(self))}, {'on' if self.enabled else 'off'}>"

    def mmio_read(self, addr: SupportsIndex, data: Buffer) -> None:
        """Make an access as `IoManager.mmio_read` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the address, or the access runs past the end of its range.
        BufferError
            `data` is not C-contiguous, or not writable.
        OverflowError
            The address is outside its space.
        TypeError
            The address is not an integer, or `data` is not a buffer.
        ValueError
            `data` is empty.
        Exception
            Whatever the device raises.
        """
        self._read(self.manager.mmio_read, Space.MMIO, addr, data)

    def mmio_write(self, addr: SupportsIndex, data: Buffer) -> None:
        """Make an access as `IoManager.mmio_write` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the address, or the access runs past the end of its range.
        BufferError
            `data` is not C-contiguous.
        OverflowError
            The address is outside its space.
        TypeError
            The address is not an integer, or `data` is not a buffer.
        ValueError
            `data` is empty.
        Exception
            Whatever the device raises.
        """
        self._write(self.manager.mmio_write, Space.MMIO, addr, data)

    def pio_read(self, port: SupportsIndex, data: Buffer) -> None:
        """Make an access as `IoManager.pio_read` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the port, or the access runs past the end of its range.
        BufferError
            `data` is not C-contiguous, or not writable.
        OverflowError
            The port is outside its space.
        TypeError
            The port is not an integer, or `data` is not a buffer.
        ValueError
            `data` is empty.
        Exception
            Whatever the device raises.
        """
        self._read(self.manager.pio_read, Space.PIO, port, data)

    def pio_write(self, port: SupportsIndex, data: Buffer) -> None:
        """Make an access as `IoManager.pio_write` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the port, or the access runs past the end of its range.
        BufferError
            `data` is not C-contiguous.
        OverflowError
            The port is outside its space.
        TypeError
            The port is not an integer, or `data` is not a buffer.
        ValueError
            `data` is empty.
        Exception
            Whatever the device raises.
        """
        self._write(self.manager.pio_write, Space.PIO, port, data)

    def mmio_load(self, addr: SupportsIndex, size: SupportsIndex) -> int:
        """Make an access as `IoManager.mmio_load` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the address, or the access runs past the end of its range.
        OverflowError
            The address is outside its space.
        TypeError
            A number is not an integer.
        ValueError
            The size is not 1, 2, 4 or 8.
        Exception
            Whatever the device raises.
        """
        value = self.manager.mmio_load(addr, size)
        if self.enabled:
            self._append(Space.MMIO, False, addr, size, value)
        return value

    def mmio_store(self, addr: SupportsIndex, size: SupportsIndex, value: SupportsIndex) -> None:
        """Make an access as `IoManager.mmio_store` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the address, or the access runs past the end of its range.
        OverflowError
            The address is outside its space.
        TypeError
            A number is not an integer.
        ValueError
            The size is not 1, 2, 4 or 8, or the value does not fit it.
        Exception
            Whatever the device raises.
        """
        self.manager.mmio_store(addr, size, value)
        if self.enabled:
            self._append(Space.MMIO, True, addr, size, value)

    def pio_in(self, port: SupportsIndex, size: SupportsIndex) -> int:
        """Make an access as `IoManager.pio_in` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the port, or the access runs past the end of its range.
        OverflowError
            The port is outside its space.
        TypeError
            A number is not an integer.
        ValueError
            The size is not 1, 2 or 4.
        Exception
            Whatever the device raises.
        """
        value = self.manager.pio_in(port, size)
        if self.enabled:
            self._append(Space.PIO, False, port, size, value)
        return value

    def pio_out(self, port: SupportsIndex, size: SupportsIndex, value: SupportsIndex) -> None:
        """Make an access as `IoManager.pio_out` does, and record it.

        Raises
        ------
        NoDeviceError
            No device owns the port, or the access runs past the end of its range.
        OverflowError
            The port is outside its space.
        TypeError
            A number is not an integer.
        ValueError
            The size is not 1, 2 or 4, or the value does not fit it.
        Exception
            Whatever the device raises.
        """
        self.manager.pio_out(port, size, value)
        if self.enabled:
            self._append(Space.PIO, True, port, size, value)

    def record(
        self, space: Space | int | str, write: bool, addr: SupportsIndex, size: SupportsIndex, value: SupportsIndex
    ) -> None:
        """Record an access that was served without the recorder, by a bridge to an emulator.

        Parameters
        ----------
        space : Space or {"MMIO", "PIO"}
            The I/O space.
        write : bool
            Whether the guest wrote.
        addr : int
            Address or port.
        size : int
            Bytes, 1 or more.
        value : int
            The value read or written, of `size` bytes.

        Raises
        ------
        OverflowError
            The address is outside its space.
        TypeError
            A number is not an integer.
        ValueError
            The space does not exist, the size is not positive, or the value does not fit it.
        """
        if not self.enabled:
            return
        space, addr, size, value = Space(space), operator.index(addr), operator.index(size), operator.index(value)
        if not 0 <= addr <= space.last_address:
            raise OverflowError(f"{space} address {addr:#x} is outside 0x0..{space.last_address:#x}")
        if size < 1:
            raise ValueError(f"a recorded access has at least 1 byte, not {size}")
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"value {value:#x} does not fit {format_count(size, 'byte')}")
        self._append(space, bool(write), addr, size, value)

    def _append(
        self, space: Space, write: bool, addr: SupportsIndex, size: SupportsIndex, value: SupportsIndex
    ) -> None:
        addr, size, value = operator.index(addr), operator.index(size), operator.index(value)
        with self._lock:
            records = self._records
            if size > LONGEST_IN_ROW:
                number = next(records.numbers)
                records.long_values[number] = value.to_bytes(size, "little")
                value = number
            time_ns = time.perf_counter_ns() - self._start
            records.rows.extend(_ROW.pack(time_ns, space, write, addr, size, value))

    def _read(
        self, read: Callable[[SupportsIndex, Buffer], None], space: Space, addr: SupportsIndex, data: Buffer
    ) -> None:
        if not self.enabled:
            read(addr, data)
            return
        view = memoryview(data)  # `data` may be a memoryview, which the device is given, and may release
        read(addr, data)
        self._append_contents(space, False, addr, view.tobytes())

    def _write(
        self, write: Callable[[SupportsIndex, Buffer], None], space: Space, addr: SupportsIndex, data: Buffer
    ) -> None:
        if not self.enabled:
            write(addr, data)
            return
        contents = memoryview(data).tobytes()  # before the device is called, for the same reason
        write(addr, data)
        self._append_contents(space, True, addr, contents)

    def _append_contents(self, space: Space, write: bool, addr: SupportsIndex, contents: bytes) -> None:
        order: Any = self.manager.byteorder
        self._append(space, write, addr, len(contents), int.from_bytes(contents, order))


@dataclass(frozen=True)
class Difference:
    """A read whose value in the replay differs from that in the trace.

    Attributes
    ----------
    index : int
        Index of the access in the trace.
    space : Space
        The I/O space.
    addr : int
        Address or port.
    size : int
        Bytes.
    expected, actual : int
        Value in the trace, and in the replay.
    """

    index: int
    space: Space
    addr: int
    size: int
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"access {self.index}: the read of {format_count(self.size, 'byte')} at {self.space} {self.addr:#x} "
            f"gave {self.actual:#x}, not {self.expected:#x}"
        )


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay.

    Attributes
    ----------
    accesses : int
        Number of accesses replayed.
    reads_compared : int
        Number of reads whose value was compared.
    first : Difference or None
        The first read whose value differed.
    differing : tuple of int
        Index of each read whose value differed; `trace[list(result.differing)]` are those reads.
    """

    accesses: int
    reads_compared: int
    first: Difference | None
    differing: tuple[int, ...]

    @property
    def differences(self) -> int:
        """Number of reads whose value differed."""
        return len(self.differing)

    def __str__(self) -> str:
        done = f"{format_accesses(self.accesses)}, {format_count(self.reads_compared, 'read')} compared"
        if self.first is None:
            return f"{done}, no differences"
        return f"{done}, {format_count(self.differences, 'difference')}; the first is {self.first}"


def replay(
    trace: Trace,
    manager: IoManager | TraceRecorder,
    *,
    ignore: str | Iterable[RangeSelector] = (),
    stop_at_first: bool = False,
) -> ReplayResult:
    """Repeat the accesses of a trace, in order and without pauses, and compare the values that are read.

    An access of a size that an integer has is made with an integer, another one with a buffer; values are in the
    manager's `byteorder`. To test one device, replay its part of the trace: `trace[trace.mask("com1")]`.

    Parameters
    ----------
    trace : Trace
        The accesses.
    manager : IoManager or TraceRecorder
        Serves them.
    ignore : str or iterable, optional
        Ranges whose reads are not compared (clocks, for example): names in the trace's map, or (space, base, last),
        inclusive.
    stop_at_first : bool, optional
        Whether to stop after the first difference.

    Returns
    -------
    ReplayResult
        Counts and differences.

    Raises
    ------
    NoDeviceError
        No device owns an address, and the manager has no `open_bus`.
    OverflowError
        A number in `ignore` is not 0..2**64 - 1.
    TypeError
        An item of `ignore` is neither a name nor a (space, base, last) tuple.
    ValueError
        A name in `ignore` is not in the map, or a space does not exist.
    Exception
        Whatever a device raises. A note names the access.
    """
    is_compared = ~trace.mask(ignore)
    accesses = reads_compared = 0
    first: Difference | None = None
    differing: list[int] = []
    for index, (access, compared) in enumerate(zip(trace, is_compared.tolist(), strict=True)):
        try:
            actual = _make_access(manager, access)
        except Exception as error:
            verb = "write" if access.write else "read"
            size = format_count(access.size, "byte")
            topic = "in the replay of access"
            add_note(error, f"{topic} {index}: a {verb} of {size} at {access.space} {access.addr:#x}", topic)
            raise
        accesses += 1
        if access.write or not compared:
            continue
        reads_compared += 1
        if actual == access.value:
            continue
        differing.append(index)
        if first is None:
            first = Difference(index, access.space, access.addr, access.size, access.value, actual)
        if stop_at_first:
            break
    return ReplayResult(accesses, reads_compared, first, tuple(differing))


def _make_access(manager: IoManager | TraceRecorder, access: Access) -> int:
    """Make an access, and return the value read or written."""
    _, space, write, addr, size, value = access
    is_mmio = space is Space.MMIO
    order: Any = manager.byteorder
    if size in space.integer_sizes:
        if not write:
            return manager.mmio_load(addr, size) if is_mmio else manager.pio_in(addr, size)
        (manager.mmio_store if is_mmio else manager.pio_out)(addr, size, value)
    elif not write:
        buffer = bytearray(size)
        (manager.mmio_read if is_mmio else manager.pio_read)(addr, buffer)
        return int.from_bytes(buffer, order)
    else:
        (manager.mmio_write if is_mmio else manager.pio_write)(addr, value.to_bytes(size, order))
    return value
