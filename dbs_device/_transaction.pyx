"""Transactions: changes of an `IoManager` that take effect together."""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident

from ._access cimport address_of, bus_name, space_of
from ._changes cimport TableChanges, changes_of
from ._owner cimport TablesOwner, current_tables
from ._tables cimport PIO, IoTables, RangeEntry, RangeTable, Space, check_device, new_entry
from ._view cimport mapped_ranges

import weakref

from ._address_map import trapped_ranges
from .errors import DeviceOverlapError, NoDeviceError, TransactionError

__all__ = ["Transaction"]


cdef list new_entries(object device, object resources):
    """Check a registration and return its entries. Handlers are looked up here, where no lock is held."""
    check_device(device)
    return [
        new_entry(<Space><int>space, base, last, device) for space, base, last in trapped_ranges(resources)
    ]


cdef Transaction begin_transaction(TablesOwner owner):
    """Take the writer lock and begin to collect changes: see `IoManager.begin_tx`."""
    cdef unsigned long thread = <unsigned long>PyThread_get_thread_ident()
    cdef Transaction transaction
    cdef CancelAtThreadExit guard
    cdef IoTables tables
    if owner._writer == thread:
        raise TransactionError(
            "this thread has a transaction open on this IoManager: make the change in it, or finish it first"
        )
    transaction = Transaction.__new__(Transaction)
    guard = CancelAtThreadExit.__new__(CancelAtThreadExit)
    guard.transaction = weakref.ref(transaction)
    owner._writer_lock.acquire()
    owner._writer = thread
    transaction._owner = owner
    transaction._thread = thread
    transaction._open = True
    tables = current_tables(owner)
    transaction._pio = changes_of(tables.pio)
    transaction._mmio = changes_of(tables.mmio)
    owner._thread_exit_guard.guard = guard
    return transaction


@cython.final
cdef class CancelAtThreadExit:
    """Lies in a thread's local storage, and goes with it."""

    cdef object transaction

    def __del__(self):
        cdef Transaction transaction = self.transaction()
        if transaction is not None and transaction._open:
            transaction.finish()


@cython.final
cdef class Transaction:
    """Changes of an `IoManager` that take effect together. Made by `IoManager.begin_tx`.

    While it is open, no other thread can change the manager. Accesses go on with the ranges that were there before.
    Every method raises `TransactionError` when the transaction is finished, or on another thread than the one that
    began it. As a context manager it commits at the end of the block, and cancels if the block raises.
    """

    def __init__(self):
        raise TypeError("a Transaction is made by IoManager.begin_tx()")

    def __del__(self):
        if self._open:
            self.finish()

    @property
    def manager(self):
        """IoManager : what is changed."""
        return self._owner

    cdef int check_open(self) except -1:
        if self._thread != <unsigned long>PyThread_get_thread_ident():
            raise TransactionError("the transaction belongs to another thread")
        if not self._open:
            raise TransactionError("the transaction is finished")
        return 0

    cdef int finish(self) except -1:
        """Drop the changes. Done by the thread that began it, or by the end of that thread or of the transaction."""
        self._open = False
        self.let_others_in()
        self.forget_changes()
        return 0

    cdef void forget_changes(self) noexcept:
        """Keep no device alive for the sake of a transaction that is finished."""
        self._pio = None
        self._mmio = None

    cdef int let_others_in(self) except -1:
        self._owner._writer = 0
        self._owner._writer_lock.release()
        return 0

    cdef TableChanges changes(self, Space space):
        return self._pio if space == PIO else self._mmio

    cdef int add_entries(self, list entries) except -1:
        """Add all entries or none."""
        cdef RangeEntry entry, other
        cdef TableChanges changes
        cdef list added = []
        for entry in entries:
            changes = self.changes(entry.space)
            other = changes.overlapping(entry.base, entry.last)
            if other is not None:
                for done in added:
                    self.changes((<RangeEntry>done).space).remove(done)
                raise DeviceOverlapError(
                    bus_name(entry.space), entry.base, entry.last, entry.device, other.base, other.last, other.device
                )
            changes.add(entry)
            added.append(entry)
        return 0

    cdef int remove_ranges(self, list ranges) except -1:
        """Remove the entries of all ranges (space, base, last) or of none."""
        cdef RangeEntry entry
        cdef set entries = set()
        for space, base, last in ranges:
            entry = self.changes(<Space><int>space).exactly(base, last)
            if entry is None or entry in entries:
                raise NoDeviceError(space, base, last - base + 1, exact=True)
            entries.add(entry)
        for entry in entries:
            self.changes(entry.space).remove(entry)
        return 0

    def register_device_io(self, device, resources):
        """Map a device to the PIO and MMIO ranges among some resources, when the transaction is committed.

        Overlaps are noticed now. O(log(ranges)) for each range.

        Parameters
        ----------
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those that are neither ports nor MMIO are passed over.

        Raises
        ------
        DeviceOverlapError, InvalidRangeError, TypeError
            As for `IoManager.register_device_io`. Nothing of this call is then kept; the transaction goes on.
        TransactionError
            The transaction is finished, or belongs to another thread.
        """
        self.check_open()
        entries = new_entries(device, resources)
        self.check_open()  # again: the resources may be a generator, which can have finished the transaction
        self.add_entries(entries)

    def unregister_device_io(self, resources):
        """Unmap the PIO and MMIO ranges among some resources, when the transaction is committed.

        O(log(ranges)) for each range.

        Parameters
        ----------
        resources : iterable of Resource
            Each range has to be registered, or added in this transaction, with the same base and size.

        Raises
        ------
        NoDeviceError, InvalidRangeError, TypeError
            As for `IoManager.unregister_device_io`. Nothing of this call is then kept; the transaction goes on.
        TransactionError
            The transaction is finished, or belongs to another thread.
        """
        self.check_open()
        ranges = trapped_ranges(resources)
        self.check_open()
        self.remove_ranges(ranges)

    def find(self, bus, addr):
        """Return the device that will own an address when the transaction is committed. O(log(ranges)).

        Parameters
        ----------
        bus : {"MMIO", "PIO"}
            The space of the address.
        addr : int
            The address or port.

        Returns
        -------
        DeviceIo or None
            The owner.
        """
        cdef Space space = space_of(bus)
        cdef RangeEntry entry
        self.check_open()
        entry = self.changes(space).find(address_of(addr, space))
        return None if entry is None else entry.device

    def commit(self):
        """Make all changes effective at once, on both buses, and let other writers in. O(ranges)."""
        cdef IoTables tables
        cdef RangeTable pio, mmio
        self.check_open()
        self._open = False  # now: the garbage collector may run a finalizer that uses this transaction
        try:
            tables = current_tables(self._owner)
            pio = self._pio.build()
            mmio = self._mmio.build()
            is_change = pio is not tables.pio or mmio is not tables.mmio
            if is_change:
                self._owner.swap(pio, mmio, tables)
        finally:
            self.let_others_in()
        try:
            if is_change and self._owner._callbacks:
                notify(self._owner, self)
        finally:
            self.forget_changes()

    def cancel(self):
        """Drop all changes, and let other writers in."""
        self.check_open()
        self.finish()

    def __enter__(self):
        self.check_open()
        return self

    def __exit__(self, exception_type, exception, traceback):
        if not self._open:
            return
        if exception_type is None:
            self.commit()
        else:
            self.cancel()


cdef int notify(TablesOwner owner, Transaction transaction) except -1:
    """Tell all callbacks what a transaction has changed."""
    cdef list errors = []
    added = mapped_ranges(transaction._mmio.added_entries() + transaction._pio.added_entries())
    removed = mapped_ranges(transaction._mmio.removed_entries() + transaction._pio.removed_entries())
    for token, reference in list(owner._callbacks.items()):
        if token not in owner._callbacks:
            continue  # unsubscribed by one of those before it
        callback = reference()
        if callback is None:
            owner._callbacks.pop(token, None)
            continue
        try:
            callback(added, removed)
        except BaseException as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("callbacks of IoManager.on_change failed", errors)
    return 0
