"""`IoManagerContext`, the transactions that a device manager makes, and its implementation on an `IoManager`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ._bus import IoManager
from ._engine.transactions import Transaction
from .device import DeviceIo
from .errors import TransactionError
from .resources import Resource

__all__ = ["DeviceManagerContext", "IoManagerContext"]


class IoManagerContext(ABC):
    """Transactions on the bus: changes that take effect together, or not at all.

    The other methods take the transaction that `begin_tx` returns. It is also a lock: between `begin_tx` and
    `commit_tx` or `cancel_tx`, no other thread can change the bus, and no device may be called.
    """

    @abstractmethod
    def begin_tx(self) -> Any:
        """Begin a transaction and return it. Waits while another thread has one open.

        Raises
        ------
        TransactionError
            This thread already has one open.
        """

    @abstractmethod
    def commit_tx(self, ctx: Any) -> None:
        """Make the changes of a transaction effective, all at once.

        Raises
        ------
        TransactionError
            The transaction is finished, or belongs to another thread or bus.
        """

    @abstractmethod
    def cancel_tx(self, ctx: Any) -> None:
        """Drop the changes of a transaction.

        Raises
        ------
        TransactionError
            The transaction is finished, or belongs to another thread or bus.
        """

    @abstractmethod
    def register_device_io(
        self, ctx: Any, device: DeviceIo, resources: Iterable[Resource], name: str | None = None
    ) -> None:
        """Map a device to the PIO and MMIO ranges among some resources, when the transaction is committed.

        Raises
        ------
        DeviceOverlapError
            A range overlaps another one.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            The transaction is finished, or belongs to another thread or bus.
        TypeError
            The device cannot be registered, or an item is not a `Resource`.
        """

    @abstractmethod
    def unregister_device_io(self, ctx: Any, resources: Iterable[Resource]) -> None:
        """Unmap the PIO and MMIO ranges among some resources, when the transaction is committed.

        Raises
        ------
        NoDeviceError
            A range is not registered with that base and size.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            The transaction is finished, or belongs to another thread or bus.
        TypeError
            An item is not a `Resource`.
        """


class DeviceManagerContext(IoManagerContext):
    """The `IoManagerContext` of an `IoManager`.

    All contexts of a manager share its lock, so that no change is lost.

    Parameters
    ----------
    io_manager : IoManager
        The bus.

    Attributes
    ----------
    io_manager : IoManager
        The bus.

    Raises
    ------
    TypeError
        `io_manager` is not an `IoManager`.

    Examples
    --------
    >>> from dbs_device import DeviceIo, DeviceResources, Resource
    >>> context = DeviceManagerContext(IoManager())
    >>> with context.transaction() as tx:
    ...     context.register_device_io(tx, DeviceIo(), [Resource.PioAddressRange(0x3F8, 8)])
    ...     len(context.io_manager.pio_bus)
    0
    >>> len(context.io_manager.pio_bus)
    1
    """

    def __init__(self, io_manager: IoManager) -> None:
        if not isinstance(io_manager, IoManager):
            raise TypeError(f"DeviceManagerContext takes an IoManager, not {type(io_manager).__name__}")
        self.io_manager = io_manager

    def begin_tx(self) -> Transaction:
        """Begin a transaction. O(1). Waits while another thread has one open on this manager.

        Returns
        -------
        Transaction
            To be committed or cancelled by this thread; cancelled if it is dropped or the thread ends.

        Raises
        ------
        TransactionError
            This thread already has one open on this manager.
        """
        return self.io_manager.begin_tx()

    def commit_tx(self, ctx: Transaction) -> None:
        """Make the changes of a transaction effective, in both spaces at once, and release the lock. O(ranges).

        Accesses in progress are not waited for: they finish on the ranges and devices that they started with. To wait
        for them, acquire the device's `Mutex` afterwards.

        Raises
        ------
        TransactionError
            The transaction is finished, or belongs to another thread or manager.
        TypeError
            `ctx` is not a `Transaction`.
        Exception
            Whatever a callback of `IoManager.on_change` raises; the changes are then effective.
        """
        self._check(ctx)
        ctx.commit()

    def cancel_tx(self, ctx: Transaction) -> None:
        """Drop the changes of a transaction, and release the lock.

        Raises
        ------
        TransactionError
            The transaction is finished, or belongs to another thread or manager.
        TypeError
            `ctx` is not a `Transaction`.
        """
        self._check(ctx)
        ctx.cancel()

    def register_device_io(
        self, ctx: Transaction, device: DeviceIo, resources: Iterable[Resource], name: str | None = None
    ) -> None:
        """Map a device to the PIO and MMIO ranges among some resources, when the transaction is committed.

        Parameters
        ----------
        ctx : Transaction
            The transaction. If this call fails, it is unchanged and still open.
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those that are neither PIO nor MMIO ranges are ignored.
        name : str, optional
            The device's name in the map, errors, notes and traces.

        Raises
        ------
        DeviceOverlapError
            A range overlaps a registered one, or another one of `resources`.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            The transaction is finished, or belongs to another thread or manager.
        TypeError
            `ctx` is not a `Transaction`, the device is not a `DeviceIo`, or an item is not a `Resource`.
        """
        self._check(ctx)
        ctx.register_device_io(device, resources, name)

    def unregister_device_io(self, ctx: Transaction, resources: Iterable[Resource]) -> None:
        """Unmap the PIO and MMIO ranges among some resources, when the transaction is committed.

        Parameters
        ----------
        ctx : Transaction
            The transaction. If this call fails, it is unchanged and still open.
        resources : iterable of Resource
            Each range must be registered with the same base and size. Other resources are ignored.

        Raises
        ------
        NoDeviceError
            A range is not registered with that base and size.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            The transaction is finished, or belongs to another thread or manager.
        TypeError
            `ctx` is not a `Transaction`, or an item is not a `Resource`.
        """
        self._check(ctx)
        ctx.unregister_device_io(resources)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Return a context manager that begins a transaction, and commits it at the end of the block.

        The transaction is cancelled if the block raises. The block may also commit or cancel it itself.

        Raises
        ------
        TransactionError
            On entry: this thread already has a transaction open on this manager.
        Exception
            Whatever a callback of `IoManager.on_change` raises; the changes are then effective.
        """
        with self.begin_tx() as transaction:
            yield transaction

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.io_manager!r})"

    def _check(self, ctx: Transaction) -> None:
        if not isinstance(ctx, Transaction):
            raise TypeError(f"ctx must be the Transaction that begin_tx() returned, not {type(ctx).__name__}")
        if ctx.manager is not self.io_manager:
            raise TransactionError("the transaction belongs to another IoManager")
