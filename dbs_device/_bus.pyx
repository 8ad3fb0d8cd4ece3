"""The bus: `IoManager`, and the functions of ``_bus.pxd`` through which C code dispatches on it.

The range tables are sorted numpy arrays (`RangeTable`, ``_engine/tables.pyx``), searched by a typed bisection
(`find_range`, ``_engine/tables.pxd``). A look-up gives the `Slot` of a range, the handle of its device: the C methods
of a native device, the bound handlers of a Python device. ``_engine/access`` calls the device,
``_engine/transactions`` changes the tables, ``_engine/bus_view`` shows them.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

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
    unowned_is_served,
    value_of,
    write_buffer,
)
from ._engine.adapters cimport prepare
from ._engine.batch cimport Batch, in_string, new_batch, out_string
from ._engine.bus_view cimport new_bus
from ._engine.guest_memory cimport memory_at
from ._engine.memory cimport NO_MEMORY, MemoryKind
from ._engine.pins cimport unpin
from ._engine.platform cimport dbs_pin, set_public_name
from ._engine.recording cimport append_checked
from ._engine.tables cimport (
    MMIO,
    PIO,
    UNOWNED_ELSEWHERE,
    IoTables as Tables,
    Options,
    PublishedTables,
    RangeEntry,
    RangeTable,
    SpaceId,
    are_current,
    check_device,
    current_tables,
    empty_table,
    mapped_ranges,
    new_entry,
    pin,
)
from ._engine.transactions cimport (
    ManagerState,
    Transaction,
    background_table,
    begin_transaction,
    counted_table,
    new_entries,
    ranges_to_remove,
)

import copyreg
import functools
import operator
import weakref
from types import MethodType

from ._engine.counting import AccessCounts
from ._engine.address_map import MappedRange, check_range, render_map, same_device, same_map
from ._engine.public import set_attributes
from ._engine.unowned import UnownedAccesses
from .address import Space
from .errors import format_count

__all__ = ["ABI_VERSION", "IoManager"]

ABI_VERSION = DBS_DEVICE_ABI_VERSION


cdef inline Tables tables_of(IoManager manager):
    return current_tables(<PyObject *>manager._published)


cdef tuple all_ranges(IoManager manager):
    """Return a consistent snapshot of the ranges of both spaces, as MappedRange."""
    cdef Tables tables = tables_of(manager)
    return mapped_ranges(list(tables.mmio.entries + tables.pio.entries))


@cython.no_gc_clear  # C code reads `_published` without a check; ManagerState is cleared in its place
cdef class IoManager:
    """A bus: finds the device that owns an MMIO address or I/O port, and calls it.

    Any thread may access the bus while another one changes it: an access in progress continues with the ranges that it
    started with. An exception of a device propagates unchanged, apart from a note of the access.

    A look-up takes O(log(ranges)), or O(1) if an address near it was found recently. `IoManager` can be subclassed in
    Python; method calls then take some 25 to 30 ns longer, since CPython specialises calls on the exact type.

    Parameters
    ----------
    open_bus : int, optional
        A byte, 0..255: unowned reads are filled with it and unowned writes are ignored, as on a floating bus. If None,
        the default, both raise `NoDeviceError`.
    straddle : {"reject", "pass"}
        How to handle an access that starts in a range and ends beyond it: treat it as unowned, or pass all of it to the
        device that owns its start.
    log_unowned : bool
        Log each unowned address once (`logging`, logger "dbs_device", level WARNING) and count unowned accesses in
        `unowned_accesses`; requires `open_bus`.
    byteorder : {"little", "big"}
        Byte order of the integers of `mmio_load`, `mmio_store`, `pio_in`, `pio_out` and the methods for many accesses.
    background : DeviceIo, optional
        A device under all ranges of the MMIO space: it serves the accesses that no range owns, with the base 0 and the
        address as offset. `dbs_device.memory.Ram` for a core that has only a bus, or a device that logs. Memory serves
        addresses below its size; beyond, accesses are unowned.

    Raises
    ------
    ValueError
        An option has another value, or `log_unowned` is set without `open_bus`.
    TypeError
        `open_bus` is not an integer, or `background` is not a `DeviceIo`.

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

    def __init__(self, *, open_bus=None, straddle="reject", byteorder="little", log_unowned=False, background=None):
        cdef Options options
        cdef Tables tables
        cdef RangeTable below = empty_table(MMIO)
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
        options.unowned = options.open_bus
        if options.log_unowned or background is not None:
            options.unowned = UNOWNED_ELSEWHERE
        if background is not None:
            below = background_table(background, options.big_endian)
        # Nothing runs between these two that could change the map.
        tables = tables_of(self)
        (<PublishedTables>self._published)._unowned_accesses = UnownedAccesses() if options.log_unowned else None
        (<PublishedTables>self._published).publish(tables.pio, tables.mmio, below, options)

    # -- accesses

    def mmio_read(self, addr, data):
        """Read memory-mapped registers into a buffer.

        Parameters
        ----------
        addr : int
            Address of the first byte.
        data : buffer
            A writable, C-contiguous buffer of at least one byte, whose length is the size of the access. The device
            gets this memory, zeroed, as a flat memoryview of unsigned bytes; if `data` is such a memoryview, the
            device gets `data` itself, which is fastest.

        Raises
        ------
        NoDeviceError
            No range owns the access. `data` is unchanged.
        OverflowError
            `addr` is outside 0..2**64 - 1.
        TypeError
            `addr` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is read-only, not contiguous, or holds references to objects.
        ValueError
            `data` is empty, or a released memoryview.
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
            A C-contiguous buffer of at least one byte, whose length is the size of the access. The device gets this
            memory as a read-only flat memoryview of unsigned bytes.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        OverflowError
            `addr` is outside 0..2**64 - 1.
        TypeError
            `addr` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is not contiguous, or holds references to objects.
        ValueError
            `data` is empty, or a released memoryview.
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
            A writable, C-contiguous buffer of at least one byte, used as in `mmio_read`.

        Raises
        ------
        NoDeviceError
            No range owns the access. `data` is unchanged.
        OverflowError
            `port` is outside 0..0xFFFF.
        TypeError
            `port` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is read-only, not contiguous, or holds references to objects.
        ValueError
            `data` is empty, or a released memoryview.
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
            A C-contiguous buffer of at least one byte, used as in `mmio_write`.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        OverflowError
            `port` is outside 0..0xFFFF.
        TypeError
            `port` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is not contiguous, or holds references to objects.
        ValueError
            `data` is empty, or a released memoryview.
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
            The value, in the manager's byte order.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        OverflowError
            `addr` is outside 0..2**64 - 1.
        TypeError
            An argument is not an integer.
        ValueError
            `size` is not 1, 2, 4 or 8.
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
            The value, 0..2**(8 * size) - 1.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        OverflowError
            `addr` is outside 0..2**64 - 1.
        TypeError
            An argument is not an integer.
        ValueError
            `size` is not 1, 2, 4 or 8, or `value` does not fit it.
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
            The value, in the manager's byte order.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        OverflowError
            `port` is outside 0..0xFFFF.
        TypeError
            An argument is not an integer.
        ValueError
            `size` is not 1, 2 or 4.
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
            The value, 0..2**(8 * size) - 1.

        Raises
        ------
        NoDeviceError
            No range owns the access.
        OverflowError
            `port` is outside 0..0xFFFF.
        TypeError
            An argument is not an integer.
        ValueError
            `size` is not 1, 2 or 4, or `value` does not fit it.
        """
        cdef Tables tables = tables_of(self)
        cdef size_t bytes_ = size_of(size, PIO)
        store(tables, &tables.pio.ranges, address_of(port, PIO), bytes_, value_of(value, bytes_))

    # -- many accesses

    def mmio_load_many(self, addresses, size):
        """Read an integer at each of many addresses, in order.

        The GIL is taken only for Python devices. A change of the map takes effect from the next access on. An exception
        of an access, a device's too, gets an attribute `accesses_done`, the number of accesses made before it, and a
        note of it.

        Parameters
        ----------
        addresses : numpy.ndarray
            Of an unsigned integer type (uint64 is not copied), any shape.
        size : int
            1, 2, 4 or 8 bytes, for all.

        Returns
        -------
        numpy.ndarray
            uint64, of the shape of `addresses`.

        Raises
        ------
        NoDeviceError
            No range owns an access.
        TypeError
            `addresses` is not of an unsigned integer type, or `size` is not an integer.
        ValueError
            `size` is not 1, 2, 4 or 8.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, MMIO, size_of(size, MMIO))
        return batch.load_each(addresses)

    def mmio_store_many(self, addresses, size, values):
        """Write an integer to each of many addresses, in order.

        The GIL is taken only for Python devices. A change of the map takes effect from the next access on. An exception
        of an access, a device's too, gets an attribute `accesses_done`, the number of accesses made before it, and a
        note of it.

        Parameters
        ----------
        addresses : numpy.ndarray
            Of an unsigned integer type (uint64 is not copied), any shape.
        size : int
            1, 2, 4 or 8 bytes, for all.
        values : numpy.ndarray
            Of an unsigned integer type, of the shape of `addresses`; each 0..2**(8 * size) - 1.

        Raises
        ------
        NoDeviceError
            No range owns an access.
        TypeError
            An array is not of an unsigned integer type, or `size` is not an integer.
        ValueError
            `size` is not 1, 2, 4 or 8, a value does not fit it, or the shapes differ: before any access.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, MMIO, size_of(size, MMIO))
        batch.store_each(addresses, values)

    def pio_in_string(self, port, size, data):
        """Fill a buffer by repeated reads of one port, as REP INS does, which a hypervisor reports as one exit.

        An exception of an access, a device's too, gets an attribute `accesses_done`, the number of accesses made before
        it, and a note of it.

        Parameters
        ----------
        port : int
            The port, 0..0xFFFF.
        size : int
            Size of each access: 1, 2 or 4 bytes.
        data : buffer
            A writable, C-contiguous buffer of a multiple of `size` bytes: one access for each `size` bytes.

        Raises
        ------
        NoDeviceError
            No range owns an access. What is left of `data` is unchanged.
        OverflowError
            `port` is outside 0..0xFFFF.
        TypeError
            `port` or `size` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is read-only, not contiguous, or holds references to objects.
        ValueError
            `size` is not 1, 2 or 4, or `data` is empty, not a multiple of it, or a released memoryview.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, PIO, size_of(size, PIO))
        batch.run_string(address_of(port, PIO), data, False)

    def pio_out_string(self, port, size, data):
        """Write a buffer by repeated writes to one port, as REP OUTS does, which a hypervisor reports as one exit.

        An exception of an access, a device's too, gets an attribute `accesses_done`, the number of accesses made before
        it, and a note of it.

        Parameters
        ----------
        port : int
            The port, 0..0xFFFF.
        size : int
            Size of each access: 1, 2 or 4 bytes.
        data : buffer
            A C-contiguous buffer of a multiple of `size` bytes: one access for each `size` bytes.

        Raises
        ------
        NoDeviceError
            No range owns an access.
        OverflowError
            `port` is outside 0..0xFFFF.
        TypeError
            `port` or `size` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is not contiguous, or holds references to objects.
        ValueError
            `size` is not 1, 2 or 4, or `data` is empty, not a multiple of it, or a released memoryview.
        """
        cdef Batch batch = new_batch(<PublishedTables>self._published, PIO, size_of(size, PIO))
        batch.run_string(address_of(port, PIO), data, True)

    # -- changes

    def register_device_io(self, device, resources, name=None):
        """Map a device to the PIO and MMIO ranges among some resources: to all of them, or to none.

        The device's handlers are looked up now. Waits while another thread has a transaction open. O(ranges): register
        many devices in one transaction (`begin_tx`).

        Parameters
        ----------
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those other than PIO and MMIO ranges are ignored. Memory (`dbs_device.memory.Ram` and `Rom`) is also mapped
            to `MemAddressRange` resources.
        name : str, optional
            The device's name in the map, errors, notes and traces.

        Raises
        ------
        DeviceOverlapError
            A range overlaps a registered one, or another one of `resources`.
        InvalidRangeError
            A range is empty, runs past the end of its space, or is larger than the memory to be mapped there.
        TransactionError
            This thread has a transaction open.
        TypeError
            `device` is not a `DeviceIo` (wrap a `DeviceIoMut` in `Mutex`), `resources` holds something other than
            resources, or `name` is not a str.
        ValueError
            The device's `byteorder` is not "little", "big" or None.

        Warns
        -----
        UnhandledSpaceWarning
            The device's class has no handler for the space of a range. Once for each class.
        """
        cdef list entries = new_entries(self, device, resources, name)
        cdef Transaction transaction = begin_transaction(self)
        with transaction:
            transaction.add_entries(entries)

    def unregister_device_io(self, resources):
        """Unmap the PIO and MMIO ranges among some resources: all of them, or none.

        Waits while another thread has a transaction open, but not for accesses in progress. O(ranges).

        Parameters
        ----------
        resources : iterable of Resource
            Each range must be registered with the same base and size. A `MemAddressRange` unmaps memory that is
            registered with this base and size, and is ignored otherwise, as all other resources are.

        Raises
        ------
        NoDeviceError
            A range is not registered, or is given twice.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            This thread has a transaction open.
        TypeError
            `resources` holds something other than resources.
        """
        cdef tuple ranges = ranges_to_remove(resources)
        cdef Transaction transaction = begin_transaction(self)
        with transaction:
            transaction.remove_ranges(ranges)

    def begin_tx(self):
        """Begin a transaction: changes that take effect together, when it is committed. O(1).

        Waits while another thread has one open.

        Returns
        -------
        Transaction
            To be committed or cancelled by this thread. It is cancelled if it is destroyed, or its thread ends.

        Raises
        ------
        TransactionError
            This thread already has one open.
        """
        return begin_transaction(self)

    def on_change(self, callback):
        """Subscribe to changes of the map: `callback(added, removed)` is called after each.

        It is called on the thread that made the change, outside the lock, so that it may itself make changes. Changes
        by several threads may therefore be reported out of order. All callbacks are called even if one raises; the
        change stands, and raises the exception, or an `ExceptionGroup` if there are several.

        Parameters
        ----------
        callback : callable
            Takes two tuples of `MappedRange`, each sorted by base, MMIO before PIO. A bound method is held weakly: it
            is called as long as its object lives.

        Returns
        -------
        callable
            Call it without arguments to unsubscribe.

        Raises
        ------
        TypeError
            `callback` is not callable.
        """
        if not callable(callback):
            raise TypeError(f"on_change takes a callable, not {type(callback).__name__}")
        token = object()
        callbacks = (<ManagerState>self._published).callbacks
        callbacks[token] = weakref.WeakMethod(callback) if type(callback) is MethodType else (lambda: callback)
        return functools.partial(callbacks.pop, token, None)

    def count(self):
        """Count accesses by device, for the time of a `with` block.

        All that reach the manager are counted: from Python, C, a bridge, DMA. Not those of memory that a guest has
        mapped, nor those on tables that were held before and not refreshed. In the meantime, a device that is called
        with a buffer gets a copy of it. O(ranges) to open and to close; accesses cost nothing more otherwise.

        Returns
        -------
        AccessCounts
            The counts, open from the beginning of the block to its end.

        Raises
        ------
        TransactionError
            When the block begins or ends: this thread has a transaction open.

        Examples
        --------
        >>> from dbs_device import Resource
        >>> from dbs_device.memory import Ram
        >>> manager = IoManager()
        >>> manager.register_device_io(Ram(0x1000), [Resource.MemAddressRange(0, 0x1000)], name="ram")
        >>> with manager.count() as counts:
        ...     manager.mmio_store(0, 4, 1)
        ...     _ = manager.mmio_load(0, 4), manager.mmio_load(8, 8)
        >>> print(counts)
        reads  writes  bytes read  bytes written  device
            2       1          12              4  'ram' <Ram: 4 KiB>
        """
        return AccessCounts(self)

    def clone(self):
        """Return a manager of the same type with the same ranges, devices and options. O(1).

        The two share their tables until one of them changes. Callbacks are not copied. The attributes of an instance of
        a subclass are, as by `copy.copy`.

        Returns
        -------
        IoManager
            The new manager.
        """
        cdef Tables tables = tables_of(self)
        cdef IoManager copy = type(self).__new__(type(self))
        if tables.options.log_unowned:
            (<PublishedTables>copy._published)._unowned_accesses = UnownedAccesses()
        pio, mmio, background = tables.pio, tables.mmio, tables.background
        if (<ManagerState>self._published).counters:
            pio = counted_table(tables.pio, (), tables.options.big_endian)
            mmio = counted_table(tables.mmio, (), tables.options.big_endian)
            background = counted_table(tables.background, (), tables.options.big_endian)
        (<PublishedTables>copy._published).publish(pio, mmio, background, tables.options)
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
        """int or None : byte that unowned reads are filled with; None if unowned accesses raise."""
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
    def background(self):
        """DeviceIo or None : the device under all ranges of the MMIO space. It owns no address and has no range."""
        cdef Tables tables = tables_of(self)
        return (<RangeEntry>tables.background.entries[0]).device if tables.background.entries else None

    @property
    def unowned_accesses(self):
        """int : number of unowned accesses; 0 unless they are counted (`log_unowned`)."""
        accesses = (<PublishedTables>self._published)._unowned_accesses
        return 0 if accesses is None else accesses.count

    def tables(self):
        """Return the current range tables of both spaces, for dispatch without the GIL (see ``_bus.pxd``).

        Returns
        -------
        IoTables
            Immutable. `c_tables_are_current` tells whether they are still the manager's.
        """
        return tables_of(self)

    def mapped_ranges(self):
        """Return the ranges of both spaces at one moment, MMIO first, each space sorted by base. O(ranges).

        Returns
        -------
        tuple of MappedRange
            Space, base, last, device and name of each.
        """
        return all_ranges(self)

    def format_map(self):
        """Return a table of both address spaces, sorted by address: range in hex, size, device, and the gaps between.

        Returns
        -------
        str
            Lines without a trailing newline. `print(manager)` shows the same. The background comes after the ranges.
        """
        return render_map(all_ranges(self), self.background)

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
        return self is other or (
            same_device(self.background, other.background) and same_map(all_ranges(self), all_ranges(other))
        )

    __hash__ = None

    def __copy__(self):
        return self.clone()

    def __reduce__(self):
        options = {
            "open_bus": self.open_bus,
            "straddle": self.straddle,
            "byteorder": self.byteorder,
            "log_unowned": self.log_unowned,
            "background": self.background,
        }
        state = (options, all_ranges(self), self.__getstate__())
        return copyreg.__newobj__, (type(self),), state

    def __setstate__(self, state):
        cdef Transaction transaction
        options, ranges, attributes = state
        IoManager.__init__(self, **options)
        entries = []
        for each in ranges:  # of a pickle, which may be damaged
            space, base, last, device, name = MappedRange(*each)
            space = Space(space)
            check_range(space, base, last)
            check_device(device)
            prepare(device, [(space, base, last)], self.byteorder == "big")
            entries.append(new_entry(<SpaceId><int>space, base, last, device, name))
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


cdef int c_ram_at(IoTables tables, uint64_t address, uint8_t **pointer, uint64_t *last) noexcept nogil:
    cdef MemoryKind kind = memory_at(<Tables>tables, address, pointer, last)
    if kind == NO_MEMORY:
        pointer[0] = NULL
        last[0] = 0
    return kind


cdef int c_pio_in_string(
    IoManager manager, IoTables tables, uint64_t port, size_t size, uint8_t *data, size_t count, size_t *done
) except -1 nogil:
    cdef int result = in_string(<PublishedTables>manager._published, <Tables>tables, port, size, data, count, done)
    if result == 1 and (<Tables>tables).options.open_bus < 0:
        memset(data + done[0] * size, 0, size)
    return result


cdef int c_pio_out_string(
    IoManager manager, IoTables tables, uint64_t port, size_t size, const uint8_t *data, size_t count, size_t *done
) except -1 nogil:
    return out_string(<PublishedTables>manager._published, <Tables>tables, port, size, data, count, done)


cdef int c_mmio_unowned(IoTables tables, uint64_t address, size_t size) except -1 nogil:
    return unowned_is_served(<Tables>tables, MMIO, address, size)


cdef int c_pio_unowned(IoTables tables, uint64_t port, size_t size) except -1 nogil:
    return unowned_is_served(<Tables>tables, PIO, port, size)


# ----------------------------------------------------------------------------- C: on a manager


cdef int c_manager_mmio_load(IoManager manager, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_load(<Tables>held.object, MMIO, address, size, value)
    unpin(held)
    return result


cdef int c_manager_mmio_store(IoManager manager, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_store(<Tables>held.object, MMIO, address, size, value)
    unpin(held)
    return result


cdef int c_manager_mmio_read(IoManager manager, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_read(<Tables>held.object, MMIO, address, data, size)
    unpin(held)
    return result


cdef int c_manager_mmio_write(IoManager manager, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_write(<Tables>held.object, MMIO, address, data, size)
    unpin(held)
    return result


cdef int c_manager_pio_in(IoManager manager, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_load(<Tables>held.object, PIO, port, size, value)
    unpin(held)
    return result


cdef int c_manager_pio_out(IoManager manager, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_store(<Tables>held.object, PIO, port, size, value)
    unpin(held)
    return result


cdef int c_manager_pio_read(IoManager manager, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_read(<Tables>held.object, PIO, port, data, size)
    unpin(held)
    return result


cdef int c_manager_pio_write(IoManager manager, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    cdef dbs_pin *held = pin(<PublishedTables>manager._published)
    cdef int result = c_write(<Tables>held.object, PIO, port, data, size)
    unpin(held)
    return result


# ----------------------------------------------------------------------------- C: recording


cdef int c_record(
    object recorder, bint is_mmio, bint is_write, uint64_t address, size_t size, uint64_t value
) except -1 nogil:
    return append_checked(recorder, MMIO if is_mmio else PIO, is_write, address, size, value)
