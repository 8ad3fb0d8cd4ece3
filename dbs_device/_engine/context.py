"""Changes of the bus as transactions: what a device manager needs of it, and how an `IoManager` gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .._bus import IoManager
from .transactions import Transaction
from ..device import DeviceIo
from ..errors import TransactionError
from ..resources import Resource

__all__ = ["DeviceManagerContext", "IoManagerContext"]


class IoManagerContext(ABC):
    """What a device manager needs of the bus: changes that take effect together, or not at all.

    What `begin_tx` returns stands for the transaction in the other calls. It is the lock as well: between `begin_tx`
    and `commit_tx` or `cancel_tx` no other thread can change the bus, and no device may be called.
    """

    @abstractmethod
    def begin_tx(self) -> Any:
        """Begin a transaction and return it. Waits while another thread has one open."""

    @abstractmethod
    def commit_tx(self, ctx: Any) -> None:
        """Make the changes of a transaction effective, all at once."""

    @abstractmethod
    def cancel_tx(self, ctx: Any) -> None:
        """Drop the changes of a transaction; `TransactionError` if it is finished."""

    @abstractmethod
    def register_device_io(self, ctx: Any, device: DeviceIo, resources: Iterable[Resource]) -> None:
        """Map a device to the PIO and MMIO ranges among some resources, when the transaction is committed."""

    @abstractmethod
    def unregister_device_io(self, ctx: Any, resources: Iterable[Resource]) -> None:
        """Unmap the PIO and MMIO ranges among some resources, when the transaction is committed."""


class DeviceManagerContext(IoManagerContext):
    """The `IoManagerContext` of an `IoManager`.

    Several contexts of one manager share its lock, so that none loses another's changes.

    Parameters
    ----------
    io_manager : IoManager
        The bus that is changed.

    Attributes
    ----------
    io_manager : IoManager
        The parameter.

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
            To be finished by this thread. One that is dropped unfinished is cancelled.

        Raises
        ------
        TransactionError
            This thread has one open on this manager already.
        """
        return self.io_manager.begin_tx()

    def commit_tx(self, ctx: Transaction) -> None:
        """Make the changes of a transaction effective, on both buses at once, and let others in. O(ranges).

        Accesses that are under way are not waited for: they finish with the ranges, and the devices, that they began
        with. Who has to wait for them takes the device's `Mutex` afterwards.

        Raises
        ------
        TransactionError
            The transaction is finished, was begun by another thread, or belongs to another manager.
        """
        self._check(ctx)
        ctx.commit()

    def cancel_tx(self, ctx: Transaction) -> None:
        """Drop the changes of a transaction, and let others in.

        Raises
        ------
        TransactionError
            As for `commit_tx`.
        """
        self._check(ctx)
        ctx.cancel()

    def register_device_io(self, ctx: Transaction, device: DeviceIo, resources: Iterable[Resource]) -> None:
        """Map a device to the PIO and MMIO ranges among some resources, when the transaction is committed.

        Parameters
        ----------
        ctx : Transaction
            What `begin_tx` has returned.
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those that are neither ports nor MMIO are passed over.

        Raises
        ------
        DeviceOverlapError, InvalidRangeError, TypeError
            As for `IoManager.register_device_io`. Nothing of this call is kept then; the transaction goes on.
        TransactionError
            As for `commit_tx`.
        """
        self._check(ctx)
        ctx.register_device_io(device, resources)

    def unregister_device_io(self, ctx: Transaction, resources: Iterable[Resource]) -> None:
        """Unmap the PIO and MMIO ranges among some resources, when the transaction is committed.

        Parameters
        ----------
        ctx : Transaction
            What `begin_tx` has returned.
        resources : iterable of Resource
            Each range has to be registered, with the same base and size.

        Raises
        ------
        NoDeviceError, InvalidRangeError, TypeError
            As for `IoManager.unregister_device_io`. Nothing of this call is kept then; the transaction goes on.
        TransactionError
            As for `commit_tx`.
        """
        self._check(ctx)
        ctx.unregister_device_io(resources)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Return a context manager: a transaction that is committed at the end of the block.

        It is begun when the block is entered, and cancelled if the block raises. One that the block itself has
        finished is left as it is.
        """
        with self.begin_tx() as transaction:
            yield transaction

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.io_manager!r})"

    def _check(self, ctx: Transaction) -> None:
        if not isinstance(ctx, Transaction):
            raise TypeError(f"a transaction is what begin_tx returns, not {type(ctx).__name__}")
        if ctx.manager is not self.io_manager:
            raise TransactionError("the transaction belongs to another IoManager")
