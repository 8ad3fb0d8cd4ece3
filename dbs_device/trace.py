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

import operator
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ._engine.trace_data import (
    ACCESS_DTYPE,
    ACCESS_SIZES,
    Access,
    AccessCount,
    RangeSelector,
    Trace,
    TraceRange,
    format_accesses,
    ranges_of,
)
from .address import Space
from .errors import format_count

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

_FIRST_CAPACITY = 1024  # accesses


class TraceRecorder:
    """Forwards accesses to a manager, and records those that succeed.

    The guest uses it in place of the manager. Devices call the manager itself: their own accesses are part of the one
    that they serve, and a replay would repeat them if they were recorded.

    An access that raises is not recorded; an unowned access that the open bus serves is. A buffer of another length
    than 1, 2, 4 or 8 bytes is recorded as single bytes at ascending addresses, up to the end of the space. Values are
    integers in the manager's `byteorder`. Several threads may record at once. A record takes 27 bytes; appending is
    amortised O(1).

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
        # Re-entrant: a finaliser or signal handler may access the bus while its thread is recording.
        self._lock = threading.RLock()
        self._start = time.perf_counter_ns()
        self._rows = np.empty(_FIRST_CAPACITY, ACCESS_DTYPE)
        self._count = 0

    @property
    def byteorder(self) -> str:
        """The manager's `byteorder`, "little" or "big"."""
        return self.manager.byteorder

    @property
    def trace(self) -> Trace:
        """A copy of the records, with the manager's current ranges, named by the types of their devices."""
        with self._lock:
            rows = self._rows[: self._count].copy()
        return Trace(rows, ranges_of(self.manager))

    def clear(self) -> None:
        """Discard the records. The clock is not reset."""
        with self._lock:
            self._rows = np.empty(_FIRST_CAPACITY, ACCESS_DTYPE)
            self._count = 0

    def __len__(self) -> int:
        return self._count

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
        self.manager.mmio_read(addr, data)
        if self.enabled:
            self._append_buffer(Space.MMIO, False, addr, data)

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
        self.manager.mmio_write(addr, data)
        if self.enabled:
            self._append_buffer(Space.MMIO, True, addr, data)

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
        self.manager.pio_read(port, data)
        if self.enabled:
            self._append_buffer(Space.PIO, False, port, data)

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
        self.manager.pio_write(port, data)
        if self.enabled:
            self._append_buffer(Space.PIO, True, port, data)

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
            1, 2, 4 or 8 bytes.
        value : int
            The value read or written.

        Raises
        ------
        OverflowError
            The address is outside its space.
        TypeError
            A number is not an integer.
        ValueError
            The space does not exist, the size is another one, or the value does not fit it.
        """
        if not self.enabled:
            return
        space, addr, size, value = Space(space), operator.index(addr), operator.index(size), operator.index(value)
        if not 0 <= addr <= space.last_address:
            raise OverflowError(f"{space} address {addr:#x} is outside 0x0..{space.last_address:#x}")
        if size not in ACCESS_SIZES:
            raise ValueError(f"a recorded access has 1, 2, 4 or 8 bytes, not {size}")
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"value {value:#x} does not fit {format_count(size, 'byte')}")
        self._append(space, bool(write), addr, size, value)

    def _append(
        self, space: Space, write: bool, addr: SupportsIndex, size: SupportsIndex, value: SupportsIndex
    ) -> None:
        addr, size, value = operator.index(addr), operator.index(size), operator.index(value)
        with self._lock:
            if self._count == len(self._rows):
                grown = np.empty(2 * len(self._rows), ACCESS_DTYPE)
                grown[: self._count] = self._rows
                self._rows = grown
            self._rows[self._count] = (time.perf_counter_ns() - self._start, space, write, addr, size, value)
            self._count += 1

    def _append_buffer(self, space: Space, write: bool, addr: SupportsIndex, data: Buffer) -> None:
        contents = memoryview(data).tobytes()
        if len(contents) in ACCESS_SIZES:
            order: Any = self.manager.byteorder
            self._append(space, write, addr, len(contents), int.from_bytes(contents, order))
            return
        first = operator.index(addr)
        with self._lock:  # keeps the bytes together
            for address, byte in zip(range(first, space.last_address + 1), contents, strict=False):
                self._append(space, write, address, 1, byte)


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

    Values are passed as integers, in the manager's `byteorder`. To test one device, replay its part of the trace:
    `trace[trace.mask("com1")]`.

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
            error.add_note(f"in the replay of access {index}: a {verb} of {size} at {access.space} {access.addr:#x}")
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
    if space == Space.MMIO:
        if not write:
            return manager.mmio_load(addr, size)
        manager.mmio_store(addr, size, value)
    elif size <= 4:
        if not write:
            return manager.pio_in(addr, size)
        manager.pio_out(addr, size, value)
    else:
        # At a port, 8 bytes must be a buffer, not an integer.
        order: Any = manager.byteorder
        buffer = bytearray(value.to_bytes(size, order))
        if write:
            manager.pio_write(addr, buffer)
        else:
            manager.pio_read(addr, buffer)
            return int.from_bytes(buffer, order)
    return value
