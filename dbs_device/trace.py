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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._engine.recorder import TraceRecorder
from ._engine.trace_data import (
    ACCESS_DTYPE,
    Access,
    AccessCount,
    RangeSelector,
    Trace,
    TraceRange,
    format_accesses,
)
from .address import Space
from .errors import add_note, format_count

if TYPE_CHECKING:
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
