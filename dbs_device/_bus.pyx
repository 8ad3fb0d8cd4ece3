"""The bus: `IoManager`, its transactions, its views, and C dispatch on it."""

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._access cimport (
    address_of,
    c_load,
    c_read,
    c_store,
    c_write,
    load,
    read_buffer,
    size_of,
    store,
    value_of,
    write_buffer,
)
from ._batch cimport find_ranges
from ._changes cimport TableChanges, changes_of
from ._platform cimport (
    dbs_generation_load,
    dbs_generation_store,
    dbs_spinlock_acquire,
    dbs_spinlock_init,
    dbs_spinlock_release,
)
from ._tables cimport (
    MMIO,
    PIO,
    IoTables,
    RangeEntry,
    RangeTable,
    Space,
    address_object,
    check_device,
    empty_table,
    find_range,
    new_entry,
    new_tables,
)

import copyreg
import functools
import operator
import threading
import weakref
from types import MethodType

from ._address_map import MappedRange, mapped_ranges, render_map, same_map, trapped_ranges
from .errors import DeviceOverlapError, NoDeviceError, TransactionError, format_count

__all__ = ["ABI_VERSION", "Bus", "IoManager", "Transaction"]

ABI_VERSION = DBS_DEVICE_ABI_VERSION


cdef str bus_name(Space space):
    return "PIO" if space == PIO else "MMIO"


cdef Space space_of(object name) except *:
    if name == "PIO":
        return PIO
    if name == "MMIO":
        return MMIO
    raise ValueError(f"a bus is \"MMIO\" or \"PIO\", not {name!r}")


cdef inline IoTables current_tables(IoManager manager):
    cdef IoTables tables
    # Taking a reference out of an attribute that others replace needs a lock on free-threaded builds, and only there.
    with cython.critical_section(manager):
        tables = manager._tables
    if tables is None:
        raise ReferenceError("the IoManager has been cleared by the garbage collector")
    return tables


cdef list new_entries(object device, object resources):
    """Check a registration and return its entries. Handlers are looked up here, where no lock is held."""
    check_device(device)
    return [
        new_entry(PIO if is_pio else MMIO, base, last, device) for is_pio, base, last in trapped_ranges(resources)
    ]


cdef class IoManager:
    """A bus: finds the device that owns an MMIO address or I/O port, and calls it.

    Any thread may access the bus while another one changes it: an access that is under way goes on with the ranges
    that it began with. The access methods take addresses and ports as integers; `OverflowError` if one lies outside its
    space, `TypeError` if it is none. An exception of a device comes out of them unchanged.

    A look-up takes O(log(ranges)), and O(1) where an access falls into the same range as the one before. A Python
    subclass works; calls of its methods take some 25 to 30 ns longer, since CPython specialises calls on the exact type.

    Parameters
    ----------
    open_bus : int, optional
        A byte, 0..255. Reads that nobody answers are filled with it and such writes vanish, as on a floating bus. By
        default, None, both raise `NoDeviceError`.
    straddle : {"reject", "pass"}
        What to do with an access that starts in a range and ends beyond it: treat it as unowned, or hand the whole
        buffer to the device that owns its start.
    byteorder : {"little", "big"}
        Order in which `mmio_load`, `mmio_store`, `pio_in` and `pio_out` make integers of bytes.

    Raises
    ------
    ValueError
        An option has none of the values above.

    Examples
    --------
    >>> from dbs_device import DeviceIo, DeviceResources, Resource
    >>> class Scratchpad(DeviceIo):
    ...     def __init__(self):
    ...         self.registers = bytearray(16)
    ...     def read(self, base, offset, data):
    ...         data[:] = self.registers[offset : offset + len(data)]
    ...     def write(self, base, offset, data):
    ...         self.registers[offset : offset + len(data)] = data
    >>> manager = IoManager()
    >>> manager.register_device_io(Scratchpad(), DeviceResources([Resource.MmioAddressRange(0x1000, 16)]))
    >>> manager.mmio_store(0x1004, 4, 0x12345678)
    >>> hex(manager.mmio_load(0x1004, 2))
    '0x5678'
    """

    def __cinit__(self, *args, **kwargs):
        cdef IoTables tables = IoTables.__new__(IoTables)
        tables.pio = empty_table(PIO)
        tables.mmio = empty_table(MMIO)
        tables.open_bus = -1
        self._tables = tables
        dbs_generation_store(&self._generation, 0)
        dbs_spinlock_init(&self._spinlock)
        self._writer_lock = threading.Lock()
        self._thread_exit_guard = threading.local()
        self._callbacks = {}

    def __init__(self, *, open_bus=None, straddle="reject", byteorder="little"):
        cdef IoTables tables = current_tables(self)
        cdef IoTables options = IoTables.__new__(IoTables)
        options.open_bus = -1
        if open_bus is not None:
            open_bus = operator.index(open_bus)
            if not 0 <= open_bus <= 0xFF:
                raise ValueError(f"open_bus takes a byte, 0x0..0xff, or None, not {open_bus:#x}")
            options.open_bus = open_bus
        if straddle not in ("reject", "pass"):
            raise ValueError(f"straddle takes \"reject\" or \"pass\", not {straddle!r}")
        options.pass_straddling = straddle == "pass"
        if byteorder not in ("little", "big"):
            raise ValueError(f"byteorder takes \"little\" or \"big\", not {byteorder!r}")
        options.big_endian = byteorder == "big"
        self.swap(tables.pio, tables.mmio, options)

    cdef int swap(self, RangeTable pio, RangeTable mmio, IoTables options) except -1:
        """Replace the pair of tables by a new one, in one step for both buses."""
        cdef IoTables new = new_tables(pio, mmio, options, dbs_generation_load(&self._generation) + 1)
        cdef IoTables old = self._tables
        with cython.critical_section(self):
            dbs_spinlock_acquire(&self._spinlock)
            self._tables = new
            if old.pins != 0:
                # The last call that uses the old pair without the GIL lets it go: see `unpin`.
                old.retired = True
                Py_INCREF(old)
            dbs_spinlock_release(&self._spinlock)
        dbs_generation_store(&self._generation, new.generation)
        return 0

    # -- accesses

    def mmio_read(self, addr, data):
        """Read memory-mapped registers into a buffer.

        Parameters
        ----------
        addr : int
            Address of the first byte.
        data : buffer
            A writable, C-contiguous buffer of at least one byte, which says the size of the access. The device sees
            this memory, zeroed, as a flat memoryview of unsigned bytes; a memoryview that is one already is handed
            on as it is, which is the quickest.

        Raises
        ------
        NoDeviceError
            No range owns the access. The buffer is as it was.
        BufferError, TypeError, ValueError
            The buffer is not writable or not contiguous, no buffer, or empty (or a released memoryview).
        """
        cdef IoTables tables = current_tables(self)
        read_buffer(tables, &tables.mmio.ranges, address_of(addr, MMIO), data)

    def mmio_write(self, addr, data):
        """Write a buffer to memory-mapped registers.

        Parameters
        ----------
        addr : int
            Address of the first byte.
        data : buffer
            A C-contiguous buffer of at least one byte. The device sees this memory as a read-only flat memoryview of
            unsigned bytes.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        BufferError, TypeError, ValueError
            The buffer is not contiguous, no buffer, or empty (or a released memoryview).
        """
        cdef IoTables tables = current_tables(self)
        write_buffer(tables, &tables.mmio.ranges, address_of(addr, MMIO), data)

    def pio_read(self, port, data):
        """Read I/O ports into a buffer, as IN does.

        Parameters
        ----------
        port : int
            First port, 0..0xFFFF.
        data : buffer
            As for `mmio_read`.

        Raises
        ------
        NoDeviceError, BufferError, TypeError, ValueError
            As for `mmio_read`.
        """
        cdef IoTables tables = current_tables(self)
        read_buffer(tables, &tables.pio.ranges, address_of(port, PIO), data)

    def pio_write(self, port, data):
        """Write a buffer to I/O ports, as OUT does.

        Parameters
        ----------
        port : int
            First port, 0..0xFFFF.
        data : buffer
            As for `mmio_write`.

        Raises
        ------
        NoDeviceError, BufferError, TypeError, ValueError
            As for `mmio_write`.
        """
        cdef IoTables tables = current_tables(self)
        write_buffer(tables, &tables.pio.ranges, address_of(port, PIO), data)

    def mmio_load(self, addr, size):
        """Read memory-mapped registers as an integer.

        Parameters
        ----------
        addr : int
            Address of the first byte.
        size : int
            1, 2, 4 or 8 bytes.

        Returns
        -------
        int
            Made of the bytes in the manager's byte order.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        ValueError
            Another size.
        """
        cdef IoTables tables = current_tables(self)
        return load(tables, &tables.mmio.ranges, address_of(addr, MMIO), size_of(size, MMIO))

    def mmio_store(self, addr, size, value):
        """Write an integer to memory-mapped registers.

        Parameters
        ----------
        addr : int
            Address of the first byte.
        size : int
            1, 2, 4 or 8 bytes.
        value : int
            Not negative, and not above the greatest of that size.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        ValueError
            Another size, or a value that does not fit it.
        """
        cdef IoTables tables = current_tables(self)
        cdef size_t bytes_ = size_of(size, MMIO)
        store(tables, &tables.mmio.ranges, address_of(addr, MMIO), bytes_, value_of(value, bytes_))

    def pio_in(self, port, size):
        """Read I/O ports as an integer, as IN does.

        Parameters
        ----------
        port : int
            First port, 0..0xFFFF.
        size : int
            1, 2 or 4 bytes.

        Returns
        -------
        int
            Made of the bytes in the manager's byte order.

        Raises
        ------
        NoDeviceError, ValueError
            As for `mmio_load`.
        """
        cdef IoTables tables = current_tables(self)
        return load(tables, &tables.pio.ranges, address_of(port, PIO), size_of(size, PIO))

    def pio_out(self, port, size, value):
        """Write an integer to I/O ports, as OUT does.

        Parameters
        ----------
        port : int
            First port, 0..0xFFFF.
        size : int
            1, 2 or 4 bytes.
        value : int
            Not negative, and not above the greatest of that size.

        Raises
        ------
        NoDeviceError, ValueError
            As for `mmio_store`.
        """
        cdef IoTables tables = current_tables(self)
        cdef size_t bytes_ = size_of(size, PIO)
        store(tables, &tables.pio.ranges, address_of(port, PIO), bytes_, value_of(value, bytes_))

    # -- changes

    def register_device_io(self, device, resources):
        """Map a device to the PIO and MMIO ranges among some resources: to all of them, or to none.

        The device's handlers are looked up now. Waits while another thread has a transaction open. O(ranges): who
        registers many devices does it in one transaction.

        Parameters
        ----------
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those that are neither ports nor MMIO are passed over.

        Raises
        ------
        DeviceOverlapError
            A range overlaps one that is registered, or another one of `resources`.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            This thread has a transaction open.
        TypeError
            The device is no `DeviceIo` (a `DeviceIoMut` has to be wrapped in `Mutex`), or `resources` holds something
            else than resources.
        """
        cdef list entries = new_entries(device, resources)
        cdef Transaction transaction = self.begin_tx()
        with transaction:
            transaction.add_entries(entries)

    def unregister_device_io(self, resources):
        """Unmap the PIO and MMIO ranges among some resources: all of them, or none.

        Waits while another thread has a transaction open. O(ranges). Accesses under way are not waited for.

        Parameters
        ----------
        resources : iterable of Resource
            Each range has to be one that is registered, with the same base and size.

        Raises
        ------
        NoDeviceError
            A range is not registered.
        InvalidRangeError, TransactionError, TypeError
            As for `register_device_io`.
        """
        cdef list ranges = trapped_ranges(resources)
        cdef Transaction transaction = self.begin_tx()
        with transaction:
            transaction.remove_ranges(ranges)

    def begin_tx(self):
        """Begin a transaction: changes that take effect together, when it is committed. O(1).

        Waits while another thread has one open.

        Returns
        -------
        Transaction
            To be committed or cancelled by this thread. One that is dropped, or whose thread ends, is cancelled.

        Raises
        ------
        TransactionError
            This thread has one open already.
        """
        cdef unsigned long thread = <unsigned long>PyThread_get_thread_ident()
        cdef Transaction transaction
        cdef CancelAtThreadExit guard
        cdef IoTables tables
        if self._writer == thread:
            raise TransactionError(
                "this thread has a transaction open on this IoManager: make the change in it, or finish it first"
            )
        transaction = Transaction.__new__(Transaction)
        guard = CancelAtThreadExit.__new__(CancelAtThreadExit)
        guard.transaction = weakref.ref(transaction)
        self._writer_lock.acquire()
        self._writer = thread
        transaction._manager = self
        transaction._thread = thread
        transaction._open = True
        tables = current_tables(self)
        transaction._pio = changes_of(tables.pio)
        transaction._mmio = changes_of(tables.mmio)
        self._thread_exit_guard.guard = guard
        return transaction

    def on_change(self, callback):
        """Have `callback(added, removed)` called after each change of the map.

        It is called on the thread that made the change, outside the lock, so that it may itself make changes; those of
        several threads may then be told in another order than they were made. Every callback is called even if one
        raises; the exceptions come out of the change, which stands, as an `ExceptionGroup` if there are several.

        Parameters
        ----------
        callback : callable
            Takes two tuples of `MappedRange`, each sorted by bus and base. A bound method is held weakly: it is
            called as long as its object lives.

        Returns
        -------
        callable
            Call it without arguments to have the callback called no more.
        """
        if not callable(callback):
            raise TypeError(f"on_change takes a callable, not {type(callback).__name__}")
        token = object()
        self._callbacks[token] = weakref.WeakMethod(callback) if type(callback) is MethodType else (lambda: callback)
        return functools.partial(self._callbacks.pop, token, None)

    def clone(self):
        """Return a manager of the same type with the same ranges, devices and options. O(1).

        The two share their tables until one of them changes. Callbacks stay with the original. Attributes that a
        subclass has given to the instance are copied, as `copy.copy` does.
        """
        cdef IoTables tables = current_tables(self)
        cdef IoManager copy = type(self).__new__(type(self))
        copy.swap(tables.pio, tables.mmio, tables)
        attributes = getattr(self, "__dict__", None)
        if attributes:
            copy.__dict__.update(attributes)
        return copy

    # -- views

    @property
    def mmio_bus(self):
        """Bus : live view of the MMIO ranges."""
        return new_bus(self, MMIO)

    @property
    def pio_bus(self):
        """Bus : live view of the PIO ranges."""
        return new_bus(self, PIO)

    @property
    def open_bus(self):
        """int or None : what unowned reads are filled with."""
        cdef IoTables tables = current_tables(self)
        return None if tables.open_bus < 0 else tables.open_bus

    @property
    def straddle(self):
        """str : "reject" or "pass"."""
        return "pass" if current_tables(self).pass_straddling else "reject"

    @property
    def byteorder(self):
        """str : "little" or "big"."""
        return "big" if current_tables(self).big_endian else "little"

    def tables(self):
        """Return the pair of range tables as it is now, for dispatch without the GIL (see ``_bus.pxd``).

        Returns
        -------
        IoTables
            Immutable. `c_tables_are_current` says whether the manager still has it.
        """
        return current_tables(self)

    def map(self):
        """Return both address spaces as a table, sorted by address: range in hex, size, device, and the holes between.

        Returns
        -------
        str
            Lines without a newline at the end. `print(manager)` shows the same.
        """
        return render_map(self)

    def __str__(self):
        return render_map(self)

    def __repr__(self):
        cdef IoTables tables = current_tables(self)
        mmio = format_count(tables.mmio.ranges.count, "MMIO range")
        pio = format_count(tables.pio.ranges.count, "PIO range")
        return f"<{type(self).__name__}: {mmio}, {pio}>"

    # -- as a value

    def __eq__(self, other):
        if not isinstance(other, IoManager):
            return NotImplemented
        return self is other or same_map(self, other)

    __hash__ = None

    def __copy__(self):
        return self.clone()

    def __reduce__(self):
        options = {"open_bus": self.open_bus, "straddle": self.straddle, "byteorder": self.byteorder}
        state = (options, mapped_ranges(self), getattr(self, "__dict__", None))
        return copyreg.__newobj__, (type(self),), state

    def __setstate__(self, state):
        cdef Transaction transaction
        options, ranges, attributes = state
        IoManager.__init__(self, **options)
        entries = [new_entry(space_of(bus), base, last, device) for bus, base, last, device in ranges]
        transaction = self.begin_tx()
        with transaction:
            transaction.add_entries(entries)
        if attributes:
            self.__dict__.update(attributes)


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

    cdef object __weakref__
    cdef IoManager _manager
    cdef TableChanges _pio
    cdef TableChanges _mmio
    cdef unsigned long _thread
    cdef bint _open

    def __init__(self):
        raise TypeError("a Transaction is made by IoManager.begin_tx()")

    def __del__(self):
        if self._open:
            self.finish()

    cdef int check_open(self) except -1:
        if self._thread != <unsigned long>PyThread_get_thread_ident():
            raise TransactionError("the transaction belongs to another thread")
        if not self._open:
            raise TransactionError("the transaction is finished")
        return 0

    cdef int finish(self) except -1:
        """Let others in. Done by the thread that began it, or by the end of that thread or of the transaction."""
        self._open = False
        self._manager._writer = 0
        self._manager._writer_lock.release()
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
        """Remove the entries of all ranges (is PIO, base, last) or of none."""
        cdef RangeEntry entry
        cdef list entries = []
        for is_pio, base, last in ranges:
            entry = self.changes(PIO if is_pio else MMIO).exactly(base, last)
            if entry is None or entry in entries:
                raise NoDeviceError("PIO" if is_pio else "MMIO", base, last - base + 1, exact=True)
            entries.append(entry)
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
        self.add_entries(new_entries(device, resources))

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
        self.remove_ranges(trapped_ranges(resources))

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
        try:
            tables = current_tables(self._manager)
            pio = self._pio.build()
            mmio = self._mmio.build()
            if pio is tables.pio and mmio is tables.mmio:
                return
            self._manager.swap(pio, mmio, tables)
        finally:
            self.finish()
        if self._manager._callbacks:
            notify(self._manager, self)

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


cdef tuple mapped(list mmio_entries, list pio_entries):
    cdef RangeEntry entry
    return tuple([
        MappedRange(bus_name(entry.space), entry.base, entry.last, entry.device)
        for entry in mmio_entries + pio_entries
    ])


cdef int notify(IoManager manager, Transaction transaction) except -1:
    """Tell all callbacks what a transaction has changed."""
    cdef list errors = []
    added = mapped(transaction._mmio.added_entries(), transaction._pio.added_entries())
    removed = mapped(transaction._mmio.removed_entries(), transaction._pio.removed_entries())
    for token, reference in list(manager._callbacks.items()):
        callback = reference()
        if callback is None:
            manager._callbacks.pop(token, None)
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


cdef Bus new_bus(IoManager manager, Space space):
    cdef Bus bus = Bus.__new__(Bus)
    bus._manager = manager
    bus._space = space
    return bus


@cython.final
cdef class Bus:
    """A live view of one address space of an `IoManager`. Made by `IoManager.mmio_bus` and `IoManager.pio_bus`.

    It iterates over (base, last, device), sorted by base, as they were when the iteration began.
    """

    cdef object __weakref__
    cdef IoManager _manager
    cdef Space _space

    def __init__(self):
        raise TypeError("a Bus is made by IoManager.mmio_bus and IoManager.pio_bus")

    cdef RangeTable table(self):
        cdef IoTables tables = current_tables(self._manager)
        return tables.pio if self._space == PIO else tables.mmio

    def find(self, addr):
        """Return the device that owns an address (or port), or None. O(log(ranges)), O(1) for the range found last.

        Parameters
        ----------
        addr : int
            `OverflowError` outside the space, `TypeError` if it is no integer.

        Returns
        -------
        DeviceIo or None
            The owner.
        """
        cdef RangeTable table = self.table()
        cdef Py_ssize_t index = find_range(&table.ranges, address_of(addr, self._space))
        return None if index < 0 else (<RangeEntry>table.ranges.entries[index]).device

    def resolve(self, addr):
        """Return what an access to an address (or port) would go to. O(log(ranges)).

        Parameters
        ----------
        addr : int
            `OverflowError` outside the space, `TypeError` if it is no integer.

        Returns
        -------
        tuple of (DeviceIo, IoAddress or PioAddress, IoAddress or PioAddress)
            Device, base of its range, offset in it.

        Raises
        ------
        NoDeviceError
            Nobody owns the address.
        """
        cdef RangeTable table = self.table()
        cdef uint64_t address = address_of(addr, self._space)
        cdef Py_ssize_t index = find_range(&table.ranges, address)
        cdef RangeEntry entry
        if index < 0:
            raise NoDeviceError(bus_name(self._space), address)
        entry = <RangeEntry>table.ranges.entries[index]
        return entry.device, entry.base_object, address_object(entry.offsets, address - entry.base)

    def find_many(self, addresses):
        """Return the index of each address's range: into `bases`, `lasts` and `devices` as they are now.

        O(addresses * log(ranges)), without the GIL.

        Parameters
        ----------
        addresses : numpy.ndarray
            Of an unsigned integer type (uint64 is taken as it is), any shape; `TypeError` for another type.

        Returns
        -------
        numpy.ndarray
            intp, of the same shape; -1 where nobody owns the address.
        """
        cdef RangeTable table = self.table()
        return find_ranges(table, addresses)

    @property
    def bases(self):
        """numpy.ndarray : first address of each range, ascending. uint64, shape (len,), read-only, not copied."""
        return self.table().bases

    @property
    def lasts(self):
        """numpy.ndarray : last address of each range, inclusive. uint64, shape (len,), read-only, not copied."""
        return self.table().lasts

    @property
    def devices(self):
        """tuple of DeviceIo : the owner of each range, in the order of `bases`. O(ranges)."""
        cdef RangeEntry entry
        return tuple([entry.device for entry in self.table().entries])

    def __len__(self):
        return self.table().ranges.count

    def __iter__(self):
        cdef RangeEntry entry
        return iter([(entry.base, entry.last, entry.device) for entry in self.table().entries])

    def __repr__(self):
        return f"<{bus_name(self._space)} bus: {format_count(self.table().ranges.count, 'range')}>"

    def __reduce__(self):
        return getattr, (self._manager, "pio_bus" if self._space == PIO else "mmio_bus")


# ----------------------------------------------------------------------------- C dispatch


cdef uint32_t c_abi_version() noexcept nogil:
    return DBS_DEVICE_ABI_VERSION


cdef bint c_tables_are_current(IoManager manager, IoTables tables) noexcept nogil:
    return dbs_generation_load(&manager._generation) == tables.generation


cdef int c_mmio_load(IoTables tables, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    return c_load(tables, &tables.mmio.ranges, address, size, value)


cdef int c_mmio_store(IoTables tables, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    return c_store(tables, &tables.mmio.ranges, address, size, value)


cdef int c_mmio_read(IoTables tables, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    return c_read(tables, &tables.mmio.ranges, address, data, size)


cdef int c_mmio_write(IoTables tables, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    return c_write(tables, &tables.mmio.ranges, address, data, size)


cdef int c_pio_in(IoTables tables, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    return c_load(tables, &tables.pio.ranges, port, size, value)


cdef int c_pio_out(IoTables tables, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    return c_store(tables, &tables.pio.ranges, port, size, value)


cdef int c_pio_read(IoTables tables, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    return c_read(tables, &tables.pio.ranges, port, data, size)


cdef int c_pio_write(IoTables tables, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    return c_write(tables, &tables.pio.ranges, port, data, size)


cdef PyObject *pin(IoManager manager) noexcept nogil:
    """Keep the manager's tables for a call without the GIL, which cannot take a reference to them."""
    cdef PyObject *tables
    dbs_spinlock_acquire(&manager._spinlock)
    tables = <PyObject *>manager._tables
    manager._tables.pins = manager._tables.pins + 1
    dbs_spinlock_release(&manager._spinlock)
    return tables


cdef void unpin(IoManager manager, PyObject *tables) noexcept nogil:
    cdef bint let_go
    dbs_spinlock_acquire(&manager._spinlock)
    (<IoTables>tables).pins = (<IoTables>tables).pins - 1
    let_go = (<IoTables>tables).pins == 0 and (<IoTables>tables).retired
    dbs_spinlock_release(&manager._spinlock)
    if let_go:
        release_reference(tables)


cdef void release_reference(PyObject *tables) noexcept with gil:
    Py_DECREF(<object>tables)


cdef int c_manager_mmio_load(IoManager manager, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_load(<IoTables>tables, address, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_mmio_store(IoManager manager, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_store(<IoTables>tables, address, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_mmio_read(IoManager manager, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_read(<IoTables>tables, address, data, size)
    finally:
        unpin(manager, tables)


cdef int c_manager_mmio_write(IoManager manager, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_write(<IoTables>tables, address, data, size)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_in(IoManager manager, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_in(<IoTables>tables, port, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_out(IoManager manager, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_out(<IoTables>tables, port, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_read(IoManager manager, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_read(<IoTables>tables, port, data, size)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_write(IoManager manager, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_write(<IoTables>tables, port, data, size)
    finally:
        unpin(manager, tables)
