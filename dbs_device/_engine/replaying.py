"""`replay`, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._bus import IoManager
from ..address import Space
from ..errors import add_note, format_count
from .public import exported_from
from .recorder import TraceRecorder, overrides
from .replay import Replay
from .trace_data import Access, RangeSelector, Trace, format_accesses

__all__ = ["Difference", "ReplayResult", "replay"]

_ACCESSES = ("mmio_load", "mmio_store", "mmio_read", "mmio_write", "pio_in", "pio_out", "pio_read", "pio_write")


@exported_from("dbs_device.trace")
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


@exported_from("dbs_device.trace")
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
    RuntimeError
        A device, or another thread, has changed the trace to one with an access that cannot be.
    TypeError
        An item of `ignore` is neither a name nor a (space, base, last) tuple.
    ValueError
        A name in `ignore` is not in the map, or a space does not exist.
    Exception
        Whatever a device raises. A note names the access.
    """
    is_compared = ~trace.mask(ignore) & (trace.accesses["write"] == 0)
    run = _new_run(trace, manager, is_compared)
    try:
        run.run(stop_at_first)
    except Exception as error:
        _, space, write, addr, size, _ = trace.accesses[run.done].item()
        topic = "in the replay of access"
        name = "MMIO" if space else "PIO"  # not by `Space`: the trace may have been changed to an impossible one
        access = f"a {'write' if write else 'read'} of {format_count(size, 'byte')} at {name} {addr:#x}"
        add_note(error, f"{topic} {run.done}: {access}", topic)
        raise
    differing = run.differences()
    first = None
    if run.actual is not None:
        _, space, _, addr, size, expected = trace[differing[0]]
        first = Difference(differing[0], space, addr, size, expected, run.actual)
    return ReplayResult(run.done, run.reads_compared, first, differing)


def _new_run(
    trace: Trace, manager: IoManager | TraceRecorder, is_compared: NDArray[np.bool_]
) -> Replay | _ReplayByCalls:
    recorder = manager if isinstance(manager, TraceRecorder) else None
    bus = manager.manager if isinstance(manager, TraceRecorder) else manager
    if overrides(bus, IoManager, _ACCESSES) or (recorder is not None and overrides(recorder, TraceRecorder, _ACCESSES)):
        return _ReplayByCalls(trace, manager, is_compared)
    rows = np.ascontiguousarray(trace.accesses).view(np.uint8)
    return Replay(bus, rows, trace.long_values, is_compared.view(np.uint8), recorder)


class _ReplayByCalls:
    """What `Replay` is, by calls of methods that the user has overridden."""

    def __init__(self, trace: Trace, manager: IoManager | TraceRecorder, is_compared: NDArray[np.bool_]) -> None:
        self.trace = trace
        self.manager = manager
        self.is_compared = is_compared
        self.done = 0
        self.reads_compared = 0
        self.actual: int | None = None
        self.differing: list[int] = []

    def differences(self) -> tuple[int, ...]:
        """Return the indices of the reads that differed."""
        return tuple(self.differing)

    def run(self, stop_at_first: bool) -> None:
        """Make the accesses."""
        for access, is_compared in zip(self.trace, self.is_compared.tolist(), strict=True):
            actual = _make_access(self.manager, access)
            index = self.done
            self.done += 1
            self.reads_compared += is_compared
            if not is_compared or actual == access.value:
                continue
            self.differing.append(index)
            if self.actual is None:
                self.actual = actual
            if stop_at_first:
                break


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
