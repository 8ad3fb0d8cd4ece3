"""Record what a guest does on the buses of a manager, keep it in a file, and replay it into any manager.

A trace is the macro-benchmark and the regression test of device models without the guest.

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
    HIGHEST_ADDRESS,
    Access,
    AccessCount,
    RangeSelector,
    Space,
    Trace,
    TraceRange,
    format_accesses,
    ranges_of,
)
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
    """Serves accesses as the manager that it wraps does, and records each one that was served.

    It is what the guest calls, in place of the manager; devices keep calling the manager itself. (What a device does
    on the bus is part of the access that it serves. Recorded as well, a replay would do it twice.)

    An access that raises is not recorded; one that open bus answers is. An access whose buffer is not 1, 2, 4 or 8
    bytes long is recorded as a run of bytes at ascending addresses, without those beyond the end of the space.
    Integers are made of buffers in the manager's byteorder. Two threads may record at once. A record takes 27 bytes of
    memory, and space for records doubles when it is used up; appending is amortised O(1).

    Parameters
    ----------
    manager : IoManager
        Where the accesses go.
    enabled : bool, optional
        Whether to record from the beginning.

    Attributes
    ----------
    manager : IoManager
        Where the accesses go.
    enabled : bool
        Whether accesses are recorded; may be switched at any time. Off, it costs a branch and the call to the manager.
    """

    def __init__(self, manager: IoManager, *, enabled: bool = True) -> None:
        self.manager = manager
        self.enabled = enabled
        # Re-entrant, since a finaliser or a signal handler may access the bus while its thread is recording.
        self._lock = threading.RLock()
        self._start = time.perf_counter_ns()
        self._rows = np.empty(_FIRST_CAPACITY, ACCESS_DTYPE)
        self._count = 0

    @property
    def byteorder(self) -> str:
        """The manager's byteorder, "little" or "big"."""
        return self.manager.byteorder

    @property
    def trace(self) -> Trace:
        """A copy of what has been recorded, and what the manager maps now, by the types of the devices."""
        with self._lock:
            rows = self._rows[: self._count].copy()
        return Trace(rows, ranges_of(self.manager))

    def clear(self) -> None:
        """Forget what has been recorded. Time goes on."""
        with self._lock:
            self._rows = np.empty(_FIRST_CAPACITY, ACCESS_DTYPE)
            self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<TraceRecorder of {self.manager!r}: {format_accesses(len(self))}, {'on' if self.enabled else 'off'}>"

    def mmio_read(self, addr: SupportsIndex, data: Buffer) -> None:
        """Serve an access as `IoManager.mmio_read` does."""
        self.manager.mmio_read(addr, data)
        if self.enabled:
            self._append_buffer(Space.MMIO, False, addr, data)

    def mmio_write(self, addr: SupportsIndex, data: Buffer) -> None:
        """Serve an access as `IoManager.mmio_write` does."""
        self.manager.mmio_write(addr, data)
        if self.enabled:
            self._append_buffer(Space.MMIO, True, addr, data)

    def pio_read(self, port: SupportsIndex, data: Buffer) -> None:
        """Serve an access as `IoManager.pio_read` does."""
        self.manager.pio_read(port, data)
        if self.enabled:
            self._append_buffer(Space.PIO, False, port, data)

    def pio_write(self, port: SupportsIndex, data: Buffer) -> None:
        """Serve an access as `IoManager.pio_write` does."""
        self.manager.pio_write(port, data)
        if self.enabled:
            self._append_buffer(Space.PIO, True, port, data)

    def mmio_load(self, addr: SupportsIndex, size: SupportsIndex) -> int:
        """Serve an access as `IoManager.mmio_load` does."""
        value = self.manager.mmio_load(addr, size)
        if self.enabled:
            self._append(Space.MMIO, False, addr, size, value)
        return value

    def mmio_store(self, addr: SupportsIndex, size: SupportsIndex, value: SupportsIndex) -> None:
        """Serve an access as `IoManager.mmio_store` does."""
        self.manager.mmio_store(addr, size, value)
        if self.enabled:
            self._append(Space.MMIO, True, addr, size, value)

    def pio_in(self, port: SupportsIndex, size: SupportsIndex) -> int:
        """Serve an access as `IoManager.pio_in` does."""
        value = self.manager.pio_in(port, size)
        if self.enabled:
            self._append(Space.PIO, False, port, size, value)
        return value

    def pio_out(self, port: SupportsIndex, size: SupportsIndex, value: SupportsIndex) -> None:
        """Serve an access as `IoManager.pio_out` does."""
        self.manager.pio_out(port, size, value)
        if self.enabled:
            self._append(Space.PIO, True, port, size, value)

    def record(
        self, space: Space | int, write: bool, addr: SupportsIndex, size: SupportsIndex, value: SupportsIndex
    ) -> None:
        """Append an access that was served without the recorder: what a bridge to an emulator calls.

        Parameters
        ----------
        space : Space
            The address space; `ValueError` if there is no such.
        write : bool
            Whether the guest wrote.
        addr : int
            Address or port; `OverflowError` outside the space.
        size : int
            1, 2, 4 or 8 bytes; `ValueError` for another.
        value : int
            What was read or written; `ValueError` if it does not fit the size.
        """
        if not self.enabled:
            return
        space, addr, size, value = Space(space), operator.index(addr), operator.index(size), operator.index(value)
        if not 0 <= addr <= HIGHEST_ADDRESS[space]:
            raise OverflowError(f"{space.name} address {addr:#x} lies outside 0x0..{HIGHEST_ADDRESS[space]:#x}")
        if size not in ACCESS_SIZES:
            raise ValueError(f"an access of {format_count(size, 'byte')} is recorded as several of 1, 2, 4 or 8")
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
        with self._lock:  # the run stays in one piece
            for address, byte in zip(range(first, HIGHEST_ADDRESS[space] + 1), contents, strict=False):
                self._append(space, write, address, 1, byte)


@dataclass(frozen=True)
class Difference:
    """A read that gave another value in a replay than in the trace.

    Attributes
    ----------
    index : int
        Index of the access in the trace.
    space : Space
        The address space.
    addr : int
        Address or port.
    size : int
        Bytes.
    expected, actual : int
        The value of the trace, and that of the replay.
    """

    index: int
    space: Space
    addr: int
    size: int
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"access {self.index}: the read of {format_count(self.size, 'byte')} at {self.space.name} {self.addr:#x} "
            f"gave {self.actual:#x}, not {self.expected:#x}"
        )


@dataclass(frozen=True)
class ReplayResult:
    """What a replay found.

    Attributes
    ----------
    accesses : int
        Number of accesses made.
    reads_compared : int
        Number of reads whose value was compared.
    first : Difference or None
        The first read whose value differed.
    differing : tuple of int
        Index in the trace of each read whose value differed; `trace[list(result.differing)]` are those reads.
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
    """Make the accesses of a trace, in order and without its pauses, and compare what is read.

    Values are passed as integers, in the manager's byteorder. An exception comes out with a note that says which
    access it was; addresses that nobody owns raise `NoDeviceError`, unless the manager has an `open_bus`. To develop
    one device, replay its part of the trace alone: `trace[trace.mask("com1")]`.

    Parameters
    ----------
    trace : Trace
        What to do.
    manager : IoManager or TraceRecorder
        Where to do it.
    ignore : str or iterable, optional
        Ranges whose reads are made and not compared (clocks, for example): names of the trace's map, or (space, base,
        last), inclusive. Unknown names are a `ValueError`.
    stop_at_first : bool, optional
        Stop after the first difference.

    Returns
    -------
    ReplayResult
        What was done, and what differed.
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
            error.add_note(
                f"in the replay of access {index}: a {verb} of {size} at {access.space.name} {access.addr:#x}"
            )
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
    """Make an access, and return what was read or written."""
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
        # A buffer may have 8 bytes at a port too, an integer may not.
        order: Any = manager.byteorder
        buffer = bytearray(value.to_bytes(size, order))
        if write:
            manager.pio_write(addr, buffer)
        else:
            manager.pio_read(addr, buffer)
            return int.from_bytes(buffer, order)
    return value
