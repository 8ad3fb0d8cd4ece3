"""The bus: `IoManager`, and the functions of ``_bus.pxd`` through which C code dispatches on it.

The range tables are sorted numpy arrays, searched by typed bisection: ``_engine/tables``. A look-up gives the slot of a
range, which is the handle of its device: for a native device its C methods, for a Python device its bound handlers.
``_engine/access`` makes an access of it, ``_engine/transactions`` changes the tables, ``_engine/bus_view`` shows them.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._engine.access cimport (
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
from ._engine.batch cimport Batch, new_batch
from ._engine.bus_view cimport new_bus
from ._engine.platform cimport set_public_name
from ._engine.tables cimport (
    MMIO,
    PIO,
    IoTables as Tables,
    Options,
    PublishedTables,
    SpaceId,
    are_current,
    current_tables,
    mapped_ranges,
    new_entry,
    pin,
    unpin,
)
from ._engine.transactions cimport ManagerState, Transaction, begin_transaction, new_entries

import copyreg
import functools
import operator
import weakref
from types import MethodType

from ._engine.address_map import render_map, same_map, trapped_ranges
from ._engine.unowned import UnownedAccesses
from .errors import format_count

__all__ = ["ABI_VERSION", "IoManager"]

ABI_VERSION = DBS_DEVICE_ABI_VERSION


cdef inline Tables tables_of(IoManager manager):
    return current_tables(<PyObject *>manager._published)


cdef tuple all_ranges(IoManager manager):
    """Return the ranges of both spaces at one moment, as MappedRange."""
    cdef Tables tables = tables_of(manager)
    return mapped_ranges(list(tables.mmio.entries + tables.pio.entries))


cdef int set_attributes(object instance, object state) except -1:
    """Give a duplicate what `object.__getstate__` has returned: the __dict__, and the slots if there are any."""
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        instance.__dict__.update(attributes)
    if slots:
        for name, value in slots.items():
            setattr(instance, name, value)
    return 0


@cython.no_gc_clear  # C code finds its state without asking; ManagerState is cleared in its place
cdef class IoManager:
    """A bus: finds the device that owns an MMIO address or I/O port, and calls it.

    Any thread may access the bus while another one changes it: an access that is under way goes on with the ranges
    that it began with. The access methods take addresses and ports as integers; `OverflowError` if one lies outside its
    space, `TypeError` if it is none. An exception of a device comes out of them unchanged.

    A look-up takes O(log(ranges)), and O(1) where an address near it was found lately. A Python subclass works; calls
    of its methods take some 25 to 30 ns longer, since CPython specialises calls on the exact type.

    Parameters
    ----------
    open_bus : int, optional
        A byte, 0..255. Reads that nobody answers are filled with it and such writes vanish, as on a floating bus. By
        default, None, both raise `NoDeviceError`.
    straddle : {"reject", "pass"}
        What to do with an access that starts in a range and ends beyond it: treat it as unowned, or hand the whole
        buffer to the device that owns its start.
    log_unowned : bool
        Log each unowned address once (`logging`, logger "dbs_device", level WARNING) and count unowned accesses in
        `unowned_accesses`; takes an `open_bus`.
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
        self._published = ManagerState.__new__(ManagerState)
        # A subclass with an __init__ of its own may take other arguments.
        if args and type(self).__init__ is IoManager.__init__:
            hint = f": for an open bus, open_bus={args[0]:#x}" if isinstance(args[0], int) else ""
            raise TypeError(f"{type(self).__name__} takes its options by keyword only{hint}")

    def __init__(self, *, open_bus=None, straddle="reject", byteorder="little", log_unowned=False):
        cdef Options options
        cdef Tables tables
        options.open_bus = -1
        if open_bus is not None:
            if not hasattr(open_bus, "__index__"):
                raise TypeError(f"open_bus must be an int (a byte, 0x0..0xff) or None, not {type(open_bus).__name__}")
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
        options.log_unowned = bool(log_unowned)
        if options.log_unowned and open_bus is None:
            raise ValueError("log_unowned takes an open_bus: without one, unowned accesses raise NoDeviceError")
        # Nothing runs between these two that could change the map.
        tables = tables_of(self)
        (<PublishedTables>self._published)._unowned_accesses = UnownedAccesses() if options.log_unowned else None
        (<PublishedTables>self._published).publish(tables.pio, tables.mmio, options)

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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
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
        cdef Tables tables = tables_of(self)
        cdef size_t bytes_ = size_of(size, PIO)
        store(tables, &tables.pio.ranges, address_of(port, PIO), bytes_, value_of(value, bytes_))

    # -- many accesses

    def mmio_load_many(self, addresses, size):
        """Read an integer at each of many addresses, in order.

        The GIL is released while the devices are native. A change of the map takes effect from the next access on.

        Parameters
        ----------
        addresses : numpy.ndarray
            Of an unsigned integer type (uint64 is taken as it is), any shape; `TypeError` for another type.
        size : int
            1, 2, 4 or 8 bytes, for all.

        Returns
        -------
        numpy.ndarray
            uint64, of the shape of `addresses`.

        Raises
        ------
        NoDeviceError, ValueError
            As for `mmio_load`. Any exception, a device's too, says in its attribute `accesses_done`, and in a note,
            how many accesses were done before the one that failed.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, MMIO, size_of(size, MMIO))
        return batch.load_each(addresses)

    def mmio_store_many(self, addresses, size, values):
        """Write an integer to each of many addresses, in order.

        The GIL is released while the devices are native. A change of the map takes effect from the next access on.

        Parameters
        ----------
        addresses : numpy.ndarray
            Of an unsigned integer type (uint64 is taken as it is), any shape; `TypeError` for another type.
        size : int
            1, 2, 4 or 8 bytes, for all.
        values : numpy.ndarray
            Of an unsigned integer type, of the shape of `addresses`. None may exceed the greatest of the size.

        Raises
        ------
        NoDeviceError, ValueError
            As for `mmio_store`; for a value that does not fit, or shapes that differ, before any access. Any exception
            of an access says how many were done, as that of `mmio_load_many` does.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, MMIO, size_of(size, MMIO))
        batch.store_each(addresses, values)

    def pio_in_string(self, port, size, data):
        """Read one port again and again into a buffer, as REP INS does, which a hypervisor reports as one exit.

        Parameters
        ----------
        port : int
            0..0xFFFF.
        size : int
            1, 2 or 4 bytes: of each access.
        data : buffer
            Writable and C-contiguous; it is filled, so that its length, a multiple of `size`, says how many accesses
            there are. Bytes that are not reached keep their value.

        Raises
        ------
        NoDeviceError, BufferError, TypeError, ValueError
            As for `pio_read`; `ValueError` also for another size or length. Any exception of an access says how many
            were done, as that of `mmio_load_many` does.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, PIO, size_of(size, PIO))
        batch.run_string(address_of(port, PIO), data, False)

    def pio_out_string(self, port, size, data):
        """Write a buffer to one port piece by piece, as REP OUTS does, which a hypervisor reports as one exit.

        Parameters
        ----------
        port : int
            0..0xFFFF.
        size : int
            1, 2 or 4 bytes: of each access.
        data : buffer
            C-contiguous; its length, a multiple of `size`, says how many accesses there are.

        Raises
        ------
        NoDeviceError, BufferError, TypeError, ValueError
            As for `pio_write`; `ValueError` also for another size or length. Any exception of an access says how many
            were done, as that of `mmio_load_many` does.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, PIO, size_of(size, PIO))
        batch.run_string(address_of(port, PIO), data, True)

    # -- changes

    def register_device_io(self, device, resources, name=None):
        """Map a device to the PIO and MMIO ranges among some resources: to all of them, or to none.

        The device's handlers are looked up now. Waits while another thread has a transaction open. O(ranges): who
        registers many devices does it in one transaction.

        Parameters
        ----------
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those that are neither ports nor MMIO are passed over.
        name : str, optional
            What the map, errors, notes and traces call the device.

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
        cdef list entries = new_entries(device, resources, name)
        cdef Transaction transaction = begin_transaction(self)
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
        cdef Transaction transaction = begin_transaction(self)
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
        return begin_transaction(self)

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
        callbacks = (<ManagerState>self._published).callbacks
        callbacks[token] = weakref.WeakMethod(callback) if type(callback) is MethodType else (lambda: callback)
        return functools.partial(callbacks.pop, token, None)

    def clone(self):
        """Return a manager of the same type with the same ranges, devices and options. O(1).

        The two share their tables until one of them changes. Callbacks stay with the original. Attributes that a
        subclass has given to the instance are copied, as `copy.copy` does.
        """
        cdef Tables tables = tables_of(self)
        cdef IoManager copy = type(self).__new__(type(self))
        if tables.options.log_unowned:
            (<PublishedTables>copy._published)._unowned_accesses = UnownedAccesses()
        (<PublishedTables>copy._published).publish(tables.pio, tables.mmio, tables.options)
        set_attributes(copy, object.__getstate__(self))
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
        cdef Tables tables = tables_of(self)
        return None if tables.options.open_bus < 0 else tables.options.open_bus

    @property
    def straddle(self):
        """str : "reject" or "pass"."""
        return "pass" if tables_of(self).options.pass_straddling else "reject"

    @property
    def byteorder(self):
        """str : "little" or "big"."""
        return "big" if tables_of(self).options.big_endian else "little"

    @property
    def log_unowned(self):
        """bool : whether unowned accesses are logged and counted."""
        return tables_of(self).options.log_unowned != 0

    @property
    def unowned_accesses(self):
        """int : number of unowned accesses; 0 unless they are counted (`log_unowned`)."""
        accesses = (<PublishedTables>self._published)._unowned_accesses
        return 0 if accesses is None else accesses.count

    def tables(self):
        """Return the pair of range tables as it is now, for dispatch without the GIL (see ``_bus.pxd``).

        Returns
        -------
        IoTables
            Immutable. `c_tables_are_current` says whether the manager still has it.
        """
        return tables_of(self)

    def format_map(self):
        """Return both address spaces as a table, sorted by address: range in hex, size, device, and the holes between.

        Returns
        -------
        str
            Lines without a newline at the end. `print(manager)` shows the same.
        """
        return render_map(all_ranges(self))

    def __str__(self):
        return self.format_map()

    def __repr__(self):
        cdef Tables tables = tables_of(self)
        mmio = format_count(tables.mmio.ranges.count, "MMIO range")
        pio = format_count(tables.pio.ranges.count, "PIO range")
        return f"<{type(self).__name__}: {mmio}, {pio}>"

    # -- as a value

    def __eq__(self, other):
        if not isinstance(other, IoManager):
            return NotImplemented
        return self is other or same_map(all_ranges(self), all_ranges(other))

    __hash__ = None

    def __copy__(self):
        return self.clone()

    def __reduce__(self):
        options = {
            "open_bus": self.open_bus,
            "straddle": self.straddle,
            "byteorder": self.byteorder,
            "log_unowned": self.log_unowned,
        }
        state = (options, all_ranges(self), self.__getstate__())
        return copyreg.__newobj__, (type(self),), state

    def __setstate__(self, state):
        cdef Transaction transaction
        options, ranges, attributes = state
        IoManager.__init__(self, **options)
        entries = [
            new_entry(<SpaceId><int>space, base, last, device, name) for space, base, last, device, name in ranges
        ]
        transaction = begin_transaction(self)
        with transaction:
            transaction.add_entries(entries)
        set_attributes(self, attributes)


set_public_name(IoManager, b"dbs_device.IoManager")


# ----------------------------------------------------------------------------- C: on held tables

cdef uint32_t c_abi_version() noexcept nogil:
    return DBS_DEVICE_ABI_VERSION


cdef bint c_tables_are_current(IoManager manager, IoTables tables) noexcept nogil:
    return are_current(<PublishedTables>manager._published, <Tables>tables)


cdef int c_mmio_load(IoTables tables, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    return c_load(<Tables>tables, MMIO, address, size, value)


cdef int c_mmio_store(IoTables tables, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    return c_store(<Tables>tables, MMIO, address, size, value)


cdef int c_mmio_read(IoTables tables, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    return c_read(<Tables>tables, MMIO, address, data, size)


cdef int c_mmio_write(IoTables tables, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    return c_write(<Tables>tables, MMIO, address, data, size)


cdef int c_pio_in(IoTables tables, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    return c_load(<Tables>tables, PIO, port, size, value)


cdef int c_pio_out(IoTables tables, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    return c_store(<Tables>tables, PIO, port, size, value)


cdef int c_pio_read(IoTables tables, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    return c_read(<Tables>tables, PIO, port, data, size)


cdef int c_pio_write(IoTables tables, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    return c_write(<Tables>tables, PIO, port, data, size)


# ----------------------------------------------------------------------------- C: on a manager


cdef int c_manager_mmio_load(IoManager manager, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_load(<Tables>tables, MMIO, address, size, value)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_mmio_store(IoManager manager, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_store(<Tables>tables, MMIO, address, size, value)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_mmio_read(IoManager manager, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_read(<Tables>tables, MMIO, address, data, size)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_mmio_write(IoManager manager, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_write(<Tables>tables, MMIO, address, data, size)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_pio_in(IoManager manager, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_load(<Tables>tables, PIO, port, size, value)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_pio_out(IoManager manager, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_store(<Tables>tables, PIO, port, size, value)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_pio_read(IoManager manager, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_read(<Tables>tables, PIO, port, data, size)
    unpin(<PublishedTables>manager._published, tables)
    return result


cdef int c_manager_pio_write(IoManager manager, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(<PublishedTables>manager._published)
    cdef int result = c_write(<Tables>tables, PIO, port, data, size)
    unpin(<PublishedTables>manager._published, tables)
    return result
