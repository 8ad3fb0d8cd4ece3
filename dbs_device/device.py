"""The base classes of devices, `DeviceIo` and `DeviceIoMut`, and `Mutex`."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from ._engine.lock import ReentrantLock
from .address import IoAddress, PioAddress, Space
from .resources import DeviceResources

__all__ = ["DeviceIo", "DeviceIoMut", "Mutex"]


def _has_own(device: object, handler: str) -> bool:
    """Return whether a device overrides a handler of the base class."""
    method = getattr(device, handler)
    return getattr(method, "__func__", method) is not getattr(_IoHandlers, handler)


def _integers_of(space: Space, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, size) of the integers that a buffer access is split into, lowest address first.

    A buffer of the size of an integer is one; others are split into naturally aligned ones.

    >>> list(_integers_of(Space.MMIO, 3, 4)), list(_integers_of(Space.MMIO, 3, 10))
    ([(3, 4)], [(3, 1), (4, 4), (8, 4), (12, 1)])
    """
    if size in space.integer_sizes:
        yield offset, size
        return
    end = offset + size
    while offset < end:
        piece = max(each for each in space.integer_sizes if each <= end - offset and offset % each == 0)
        yield offset, piece
        offset += piece


class _IoHandlers:
    """The handlers that the bus calls; by default, they do nothing.

    For each space and direction, a device overrides the integer handler or the buffer handler. With both, the integer
    handler serves integers and buffers of their sizes, the buffer handler other buffers. Called directly, one that is
    not overridden converts to the other.

    Attributes
    ----------
    byteorder : {"little", "big"} or None
        The byte order of the device's registers: integers are swapped where the bus has the other one. None: that of
        the bus ("little" in a direct call).
    unhandled : {"warn", "ignore"}
        Whether to warn when the device is registered in a space for which it has no handler.
    """

    __slots__ = ("__weakref__",)

    byteorder: ClassVar[Literal["little", "big"] | None] = None
    unhandled: ClassVar[Literal["warn", "ignore"]] = "warn"

    def load(self, base: int, offset: int, size: int) -> int:
        """Serve a load of memory-mapped registers.

        Parameters
        ----------
        base : int
            First address of the range that the access is in.
        offset : int
            Address of the access relative to `base`.
        size : int
            1, 2, 4 or 8 bytes.

        Returns
        -------
        int
            The value; bits above `size` bytes are ignored, so that -1 and ``~x`` are fine.
        """
        if not _has_own(self, "read"):
            return 0
        data = bytearray(size)
        self.read(IoAddress(base), IoAddress(offset), memoryview(data))
        return int.from_bytes(data, self.byteorder or "little")

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        """Serve a store to memory-mapped registers.

        Parameters
        ----------
        base : int
            First address of the range that the access is in.
        offset : int
            Address of the access relative to `base`.
        size : int
            1, 2, 4 or 8 bytes.
        value : int
            0 .. 2**(8 * size) - 1.
        """
        if _has_own(self, "write"):
            data = value.to_bytes(size, self.byteorder or "little")
            self.write(IoAddress(base), IoAddress(offset), memoryview(data))

    def pio_in(self, base: int, offset: int, size: int) -> int:
        """Serve an IN from I/O ports.

        Parameters
        ----------
        base : int
            First port of the range that the access is in.
        offset : int
            Port of the access relative to `base`.
        size : int
            1, 2 or 4 bytes.

        Returns
        -------
        int
            The value; bits above `size` bytes are ignored, so that -1 and ``~x`` are fine.
        """
        if not _has_own(self, "pio_read"):
            return 0
        data = bytearray(size)
        self.pio_read(PioAddress(base), PioAddress(offset), memoryview(data))
        return int.from_bytes(data, self.byteorder or "little")

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        """Serve an OUT to I/O ports.

        Parameters
        ----------
        base : int
            First port of the range that the access is in.
        offset : int
            Port of the access relative to `base`.
        size : int
            1, 2 or 4 bytes.
        value : int
            0 .. 2**(8 * size) - 1.
        """
        if _has_own(self, "pio_write"):
            data = value.to_bytes(size, self.byteorder or "little")
            self.pio_write(PioAddress(base), PioAddress(offset), memoryview(data))

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        """Serve a read of memory-mapped registers by filling `data`. Returns None.

        Parameters
        ----------
        base : IoAddress
            First address of the range that the access is in.
        offset : IoAddress
            Address of the access relative to `base`.
        data : memoryview
            Writable, 1-D, format 'B': one item per byte of the access, lowest address first. It shows the caller's
            buffer, which has been zeroed.
        """
        if _has_own(self, "load"):
            for start, size in _integers_of(Space.MMIO, int(offset), len(data)):
                value = self.load(int(base), start, size) & (1 << 8 * size) - 1
                data[start - offset : start - offset + size] = value.to_bytes(size, self.byteorder or "little")

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        """Serve a write to memory-mapped registers. Returns None.

        Parameters
        ----------
        base : IoAddress
            First address of the range that the access is in.
        offset : IoAddress
            Address of the access relative to `base`.
        data : memoryview
            Read-only, 1-D, format 'B': one item per byte of the access, lowest address first.
        """
        if _has_own(self, "store"):
            for start, size in _integers_of(Space.MMIO, int(offset), len(data)):
                piece = data[start - offset : start - offset + size]
                self.store(int(base), start, size, int.from_bytes(piece, self.byteorder or "little"))

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        """Serve a read of I/O ports (IN) by filling `data`. Returns None.

        Parameters
        ----------
        base : PioAddress
            First port of the range that the access is in.
        offset : PioAddress
            Port of the access relative to `base`.
        data : memoryview
            As in `read`.
        """
        if _has_own(self, "pio_in"):
            for start, size in _integers_of(Space.PIO, int(offset), len(data)):
                value = self.pio_in(int(base), start, size) & (1 << 8 * size) - 1
                data[start - offset : start - offset + size] = value.to_bytes(size, self.byteorder or "little")

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        """Serve a write to I/O ports (OUT). Returns None.

        Parameters
        ----------
        base : PioAddress
            First port of the range that the access is in.
        offset : PioAddress
            Port of the access relative to `base`.
        data : memoryview
            As in `write`.
        """
        if _has_own(self, "pio_out"):
            for start, size in _integers_of(Space.PIO, int(offset), len(data)):
                piece = data[start - offset : start - offset + size]
                self.pio_out(int(base), start, size, int.from_bytes(piece, self.byteorder or "little"))

    def get_assigned_resources(self) -> DeviceResources:
        """Return the resources that were assigned to the device; by default, none."""
        return DeviceResources()

    def get_trapped_io_resources(self) -> DeviceResources:
        """Return the resources to which the bus must trap accesses; by default, all the assigned ones."""
        return self.get_assigned_resources()


class DeviceIo(_IoHandlers, ABC):
    """A device that any thread may call at any time, and that protects its own state.

    Override the handlers that the device needs: integer handlers (`load`, `store`, `pio_in`, `pio_out`) for registers,
    buffer handlers (`read`, `write`, `pio_read`, `pio_write`) for memory and FIFOs. They are looked up when the device
    is registered: replacing one on a registered device takes effect when it is registered again. A handler runs on the
    thread that makes the access, and its exceptions propagate out of the access unchanged, but for one note that names
    the access.

    The base class has no `__dict__`: a subclass may declare `__slots__`.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> class Scratch(DeviceIo):
    ...     value = 0
    ...     def load(self, base, offset, size):
    ...         return self.value
    ...     def store(self, base, offset, size, value):
    ...         self.value = value
    >>> manager = IoManager()
    >>> manager.register_device_io(Scratch(), [Resource.MmioAddressRange(0x1000, 4)], name="scratch")
    >>> manager.mmio_store(0x1000, 4, 0xCAFE)
    >>> hex(manager.mmio_load(0x1000, 2))
    '0xcafe'
    """

    __slots__ = ()


class DeviceIoMut(_IoHandlers):
    """A device that only one thread may call at a time.

    It is not a `DeviceIo`: wrap it in a `Mutex`, which is.
    """

    __slots__ = ()


_DeviceT = TypeVar("_DeviceT", bound=DeviceIoMut)


class Mutex(DeviceIo, Generic[_DeviceT]):
    """A `DeviceIo` that calls a `DeviceIoMut` with a lock held.

    The lock is re-entrant: a handler may access its own device through the bus. It is released when a handler raises,
    and is not poisoned. An unpickled or deeply copied `Mutex` has its own lock; a shallow copy shares both device and
    lock.

    Parameters
    ----------
    device : DeviceIoMut
        The device to protect.

    Raises
    ------
    TypeError
        `device` is not a `DeviceIoMut`.

    Examples
    --------
    >>> class Counter(DeviceIoMut):
    ...     accesses = 0
    ...     def read(self, base, offset, data):
    ...         self.accesses += 1
    >>> counter = Mutex(Counter())
    >>> counter.read(IoAddress(0), IoAddress(0), memoryview(bytearray(1)))
    >>> with counter.lock() as device:
    ...     device.accesses
    1
    """

    __slots__ = ("_device", "_lock")

    def __init__(self, device: _DeviceT) -> None:
        if not isinstance(device, DeviceIoMut):
            raise TypeError(f"Mutex takes a DeviceIoMut, not {type(device).__name__}")
        self._device = device
        self._lock = ReentrantLock()

    @contextmanager
    def lock(self) -> Iterator[_DeviceT]:
        """Hold the lock for a `with` block.

        Returns
        -------
        context manager
            Gives the inner device. Waits for the lock on entry, and releases it on exit.
        """
        with self._lock:
            yield self._device

    @property
    def byteorder(self) -> Literal["little", "big"] | None:  # type: ignore[override]
        """The inner device's byte order."""
        return self._device.byteorder

    def load(self, base: int, offset: int, size: int) -> int:
        """Call the inner device's `load` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            return self._device.load(base, offset, size)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        """Call the inner device's `store` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            self._device.store(base, offset, size, value)

    def pio_in(self, base: int, offset: int, size: int) -> int:
        """Call the inner device's `pio_in` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            return self._device.pio_in(base, offset, size)

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        """Call the inner device's `pio_out` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            self._device.pio_out(base, offset, size, value)

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        """Call the inner device's `read` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            self._device.read(base, offset, data)

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        """Call the inner device's `write` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            self._device.write(base, offset, data)

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        """Call the inner device's `pio_read` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            self._device.pio_read(base, offset, data)

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        """Call the inner device's `pio_write` with the lock held.

        Raises
        ------
        Exception
            Whatever the inner device raises.
        """
        with self._lock:
            self._device.pio_write(base, offset, data)

    def get_assigned_resources(self) -> DeviceResources:
        """Return the inner device's assigned resources."""
        with self._lock:
            return self._device.get_assigned_resources()

    def get_trapped_io_resources(self) -> DeviceResources:
        """Return the inner device's trapped resources."""
        with self._lock:
            return self._device.get_trapped_io_resources()

    def __repr__(self) -> str:
        return f"Mutex({self._device!r})"

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        attributes, slots = state
        return attributes, {name: value for name, value in slots.items() if name != "_lock"}

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state
        for name, value in {**(attributes or {}), **slots}.items():
            setattr(self, name, value)
        self._lock = ReentrantLock()

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        # Both protect the same inner device, and must use the same lock.
        twin._lock = self._lock
        return twin
