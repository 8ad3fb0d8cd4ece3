"""The base classes of devices, `DeviceIo` and `DeviceIoMut`, and `Mutex`."""

from __future__ import annotations

import threading
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

from .address import IoAddress, PioAddress
from .resources import DeviceResources

__all__ = ["DeviceIo", "DeviceIoMut", "Mutex"]


class _IoHandlers:
    """The handlers that the bus calls; by default, they do nothing."""

    __slots__ = ("__weakref__",)

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        """Serve a read of memory-mapped registers by filling `data`.

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

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        """Serve a write to memory-mapped registers.

        Parameters
        ----------
        base : IoAddress
            First address of the range that the access is in.
        offset : IoAddress
            Address of the access relative to `base`.
        data : memoryview
            Read-only, 1-D, format 'B': one item per byte of the access, lowest address first.
        """

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        """Serve a read of I/O ports (IN) by filling `data`.

        Parameters
        ----------
        base : PioAddress
            First port of the range that the access is in.
        offset : PioAddress
            Port of the access relative to `base`.
        data : memoryview
            As in `read`.
        """

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        """Serve a write to I/O ports (OUT).

        Parameters
        ----------
        base : PioAddress
            First port of the range that the access is in.
        offset : PioAddress
            Port of the access relative to `base`.
        data : memoryview
            As in `write`.
        """

    def get_assigned_resources(self) -> DeviceResources:
        """Return the resources that were assigned to the device; by default, none."""
        return DeviceResources()

    def get_trapped_io_resources(self) -> DeviceResources:
        """Return the resources to which the bus must trap accesses; by default, all the assigned ones."""
        return self.get_assigned_resources()


class DeviceIo(_IoHandlers, ABC):
    """A device that any thread may call at any time, and that protects its own state.

    Override the handlers that the device needs. They are looked up when the device is registered: replacing one on a
    registered device takes effect when it is registered again. A handler runs on the thread that makes the access, and
    its exceptions propagate out of the access unchanged.

    The base class has no `__dict__`: a subclass may declare `__slots__`.
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
        self._lock = threading.RLock()

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
        self._lock = threading.RLock()

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        # Both protect the same inner device, and must use the same lock.
        twin._lock = self._lock
        return twin
