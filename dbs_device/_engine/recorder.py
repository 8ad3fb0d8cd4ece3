"""`TraceRecorder`: a manager whose accesses are recorded."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, SupportsIndex

from ..address import Space
from ..errors import format_count
from .public import exported_from
from .recording import AccessLog
from .trace_data import ACCESS_DTYPE, LONGEST_IN_ROW, Trace, format_accesses, ranges_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .._bus import IoManager

__all__ = ["TraceRecorder", "overrides"]

# A member of an enum takes longer to find.
_PIO, _MMIO = Space.PIO, Space.MMIO


@exported_from("dbs_device.trace")
class TraceRecorder(AccessLog):
    """Forwards accesses to a manager, and records those that succeed.

    The guest uses it in place of the manager. Devices call the manager itself: their own accesses are part of the one
    that they serve, and a replay would repeat them if they were recorded.

    An access that raises is not recorded; an unowned access that the open bus serves is. Values are integers in the
    manager's `byteorder`, buffers of any length included. Several threads may record at once. A record takes 34 bytes,
    and a value of more than 8 bytes its own size besides; appending is O(1).

    Bridges and embedders in C append to it without the GIL (`c_record` of ``_bus.pxd``, `record` of ``dbs_device.h``).

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

    @property
    def byteorder(self) -> str:
        """The manager's `byteorder`, "little" or "big"."""
        return self.manager.byteorder

    @property
    def trace(self) -> Trace:
        """A copy of the records, with the manager's current ranges by their devices' names, or else types."""
        rows, long_values = self._snapshot()
        accesses = rows.view(ACCESS_DTYPE)
        is_long = accesses["size"] > LONGEST_IN_ROW
        contents = [long_values[index] for index in accesses["value"][is_long].tolist()]
        accesses["value"][is_long] = [0, *itertools.accumulate(map(len, contents))][: len(contents)]
        return Trace(accesses, ranges_of(self.manager), b"".join(contents))

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
        self._read(self.manager.mmio_read, _MMIO, addr, data)

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
        self._write(self.manager.mmio_write, _MMIO, addr, data)

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
        self._append(_MMIO, False, addr, size, value)
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
        self._append(_MMIO, True, addr, size, value)

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
        self._append(_PIO, False, port, size, value)
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
        self._append(_PIO, True, port, size, value)

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

    def _read(
        self, read: Callable[[SupportsIndex, Buffer], None], space: Space, addr: SupportsIndex, data: Buffer
    ) -> None:
        if not self.enabled:
            read(addr, data)
            return
        view = memoryview(data)  # `data` may be a memoryview, which the device is given, and may release
        read(addr, data)
        self._append_bytes(space, False, addr, view.tobytes(), self.manager.byteorder == "big")

    def _write(
        self, write: Callable[[SupportsIndex, Buffer], None], space: Space, addr: SupportsIndex, data: Buffer
    ) -> None:
        if not self.enabled:
            write(addr, data)
            return
        contents = memoryview(data).tobytes()  # before the device is called, for the same reason
        write(addr, data)
        self._append_bytes(space, True, addr, contents, self.manager.byteorder == "big")


def overrides(instance: object, original: type, names: Iterable[str]) -> bool:
    """Return whether a subclass, or an instance, has other methods of these names than a class: it has to be called."""
    return not isinstance(instance, original) or any(
        getattr(type(instance), name) is not getattr(original, name) or name in getattr(instance, "__dict__", ())
        for name in names
    )
