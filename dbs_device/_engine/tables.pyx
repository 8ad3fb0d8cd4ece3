"""Range tables: sorted arrays of the mapped ranges, an entry for each range, and the pair of tables of both spaces.

A manager publishes one pair at a time, through one pointer: a change makes a new pair and replaces the pointer. The
bisection, which is inlined into its callers, is in ``tables.pxd``.
"""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t, uintptr_t

from .native cimport NativeDevice
from .pins cimport refer_for_pins
from .platform cimport dbs_generation_store, dbs_replace_int, dbs_word_exchange, set_public_name

import warnings
import weakref
from types import MethodType

import numpy as np

from ..address import IoAddress, PioAddress, Space
from ..device import DeviceIo, DeviceIoMut, Mutex
from ..errors import UnhandledSpaceWarning, format_range
from .address_map import MappedRange

__all__ = ["IoTables"]


# ----------------------------------------------------------------------------- spaces

cdef object pio_space = Space.PIO
cdef object mmio_space = Space.MMIO


cdef object space_of(SpaceId space):
    return pio_space if space == PIO else mmio_space


cdef SpaceId space_id_of(object space) except *:
    """Return the space that a Space or its name denotes; `ValueError` for anything else."""
    return <SpaceId><int>Space(space)


# ----------------------------------------------------------------------------- address objects

cdef object new_int = int.__new__


@cython.final
cdef class AddressObjects:
    """A cache of the IoAddress (or PioAddress) objects of offsets.

    All small ones stay in it. The others share 1024 places by their hash: a new one replaces the one in its place, and
    is that object with another value if no device has kept it.
    """

    def __cinit__(self, address_type):
        self.address_type = address_type
        self.small = [None] * SMALL_VALUES
        self.memo = [None] * (1 << MEMO_BITS)

    cdef object make(self, uint64_t value):
        # Fibonacci hashing: the high bits of the product depend on all bits of the value.
        cdef size_t place = (value * <uint64_t>0x9E3779B97F4A7C15) >> (64 - MEMO_BITS)
        with cython.critical_section(self):
            if value < SMALL_VALUES:
                made = self.small[<Py_ssize_t>value] = new_int(self.address_type, value)
                return made
            # Keys are 0 until a place is taken, which no value is here.
            if self.memo_keys[place] != value:
                if self.memo_keys[place] == 0 or not dbs_replace_int(
                    PyList_GET_ITEM(self.memo, <Py_ssize_t>place), self.memo_keys[place], value
                ):
                    self.memo[<Py_ssize_t>place] = new_int(self.address_type, value)
                self.memo_keys[place] = value
            return <object>PyList_GET_ITEM(self.memo, <Py_ssize_t>place)


cdef AddressObjects port_objects = AddressObjects(PioAddress)
cdef AddressObjects address_objects = AddressObjects(IoAddress)


# ----------------------------------------------------------------------------- entries


@cython.final
cdef class RangeEntry:
    """One range: its device, and the device's handlers as of the registration. Immutable, and shared by tables."""


cdef int check_device(object device) except -1:
    """Raise `TypeError` unless `device` can be registered."""
    if isinstance(device, DeviceIo):
        return 0
    if isinstance(device, DeviceIoMut):
        raise TypeError(
            f"{type(device).__name__} is a DeviceIoMut, which is not safe to call from any thread: register "
            f"Mutex({type(device).__name__}(...))"
        )
    if isinstance(device, type):
        instance = f"{device.__name__}(...)"
        if issubclass(device, DeviceIoMut):
            instance = f"Mutex({instance})"
        raise TypeError(f"a device must be an instance: register {instance}, not the class {device.__name__}")
    raise TypeError(f"a device must be a DeviceIo, which {type(device).__name__} is not")


cdef bint is_served_natively(object device) except -1:
    """Return whether a device is a NativeDevice without a handler in Python, on the class or on the instance."""
    return (
        isinstance(device, NativeDevice)
        and device.read == NativeDevice.read.__get__(device)
        and device.write == NativeDevice.write.__get__(device)
        and device.pio_read == NativeDevice.pio_read.__get__(device)
        and device.pio_write == NativeDevice.pio_write.__get__(device)
        and not any([hasattr(device, handler) for handler in ("load", "store", "pio_in", "pio_out")])
    )


# The handlers of each space: the one on buffers and its integer twin, for reads and for writes.
cdef tuple mmio_handlers = ("read", "load", "write", "store")
cdef tuple pio_handlers = ("pio_read", "pio_in", "pio_write", "pio_out")

cdef NativeDevice native_base = NativeDevice()


cdef bint is_overridden_in_c(NativeDevice device, str name) noexcept:
    if name == "read":
        return <void *>device.c_read != <void *>native_base.c_read
    if name == "write":
        return <void *>device.c_write != <void *>native_base.c_write
    if name == "pio_read":
        return <void *>device.c_pio_read != <void *>native_base.c_pio_read
    return <void *>device.c_pio_write != <void *>native_base.c_pio_write


cdef bint is_own_handler(object device, str name, object handler) except -1:
    """Return whether a device overrides a handler; that of the base class does nothing itself.

    The handlers of a subclass of Mutex are those of the inner device.
    """
    if handler is None:
        return False
    if isinstance(device, NativeDevice) and hasattr(NativeDevice, name):
        return handler != getattr(NativeDevice, name).__get__(device) or is_overridden_in_c(device, name)
    function = getattr(handler, "__func__", handler)
    if function is getattr(Mutex, name):
        inner = getattr(device, "_device", None)
        return is_own_handler(inner, name, getattr(inner, name, None))
    return function is not getattr(DeviceIo, name)


cdef int byte_order_of(object device) except -1:
    order = getattr(device, "byteorder", None)
    if order is None:
        return BUS_ORDER
    if order == "little":
        return LITTLE_ENDIAN
    if order == "big":
        return BIG_ENDIAN
    raise ValueError(f"byteorder of {type(device).__name__} must be \"little\", \"big\" or None, not {order!r}")


cdef RangeEntry new_entry(SpaceId space, uint64_t base, uint64_t last, object device, object name):
    """Look up the handlers of `device`, a DeviceIo, for a range of `space`."""
    cdef RangeEntry entry = RangeEntry.__new__(RangeEntry)
    cdef object target = device
    entry.space = space
    entry.base = base
    entry.last = last
    entry.device = device
    entry.name = name
    entry.is_native = is_served_natively(device)
    # A Mutex that is being unpickled has no device yet, if the two are in a cycle. It is then called as any device.
    if type(device) is Mutex and hasattr(device, "_device"):
        target = device._device
        entry.lock = device._lock
    entry.byte_order = byte_order_of(target)
    entry.offsets = port_objects if space == PIO else address_objects
    entry.base_object = new_int(entry.offsets.address_type, base)
    entry.base_integer = base
    read, load, write, store = pio_handlers if space == PIO else mmio_handlers
    # Each is looked up once. Those of a virtual subclass of DeviceIo may be missing, but not both of a direction.
    handler = getattr(target, load, None)
    entry.has_load = is_own_handler(target, load, handler)
    entry.load_function, entry.load_self = split_method(handler)
    handler = getattr(target, read, None) if entry.has_load else getattr(target, read)
    entry.has_read = is_own_handler(target, read, handler)
    entry.read_function, entry.read_self = split_method(handler)
    handler = getattr(target, store, None)
    entry.has_store = is_own_handler(target, store, handler)
    entry.store_function, entry.store_self = split_method(handler)
    handler = getattr(target, write, None) if entry.has_store else getattr(target, write)
    entry.has_write = is_own_handler(target, write, handler)
    entry.write_function, entry.write_self = split_method(handler)
    return entry


cdef RangeEntry entry_at(RangeEntry entry, uint64_t base):
    """Return an entry like another one, but for its base: the handlers are those that were looked up for the other."""
    cdef RangeEntry copy = RangeEntry.__new__(RangeEntry)
    copy.space = entry.space
    copy.base = base
    copy.last = entry.last
    copy.device = entry.device
    copy.name = entry.name
    copy.is_native = entry.is_native
    copy.byte_order = entry.byte_order
    copy.base_object = new_int(entry.offsets.address_type, base)
    copy.base_integer = base
    copy.offsets = entry.offsets
    copy.read_function, copy.read_self = entry.read_function, entry.read_self
    copy.write_function, copy.write_self = entry.write_function, entry.write_self
    copy.load_function, copy.load_self = entry.load_function, entry.load_self
    copy.store_function, copy.store_self = entry.store_function, entry.store_self
    copy.has_read, copy.has_write = entry.has_read, entry.has_write
    copy.has_load, copy.has_store = entry.has_load, entry.has_store
    copy.lock = entry.lock
    copy.is_behind_adapter = entry.is_behind_adapter
    return copy


cdef object classes_warned_about = weakref.WeakSet()


cdef int warn_if_unhandled(list entries) except -1:
    """Warn, once for each class, about a device without a handler for the space of one of its ranges."""
    cdef RangeEntry entry
    for entry in entries:
        device = entry.device
        cls = type(getattr(device, "_device", device) if isinstance(device, Mutex) else device)
        if (
            entry.has_read
            or entry.has_write
            or entry.has_load
            or entry.has_store
            or cls in (DeviceIo, DeviceIoMut)
            or issubclass(cls, NativeDevice)
            or "ignore" in (getattr(cls, "unhandled", None), getattr(type(device), "unhandled", None))
            or cls in classes_warned_about
        ):
            continue
        classes_warned_about.add(cls)
        handlers = ", ".join(pio_handlers if entry.space == PIO else mmio_handlers)
        warnings.warn(
            f"{cls.__name__} is registered for {space_of(entry.space)} {format_range(entry.base, entry.last)} and has "
            f"no handler for it ({handlers}); if that is intended: unhandled = \"ignore\"",
            UnhandledSpaceWarning,
        )
    return 0


cdef object split_method(object handler):
    if type(handler) is MethodType:
        return handler.__func__, handler.__self__
    return handler, None


# ----------------------------------------------------------------------------- tables


@cython.final
cdef class RangeTable:
    """The ranges of one space, sorted by base and without overlaps. Immutable, except for the hints.

    Attributes
    ----------
    bases, lasts : numpy.ndarray
        First and last address of each range: uint64, shape (ranges,), C-contiguous. They view bytes objects, so
        that numpy refuses to make them writable.
    """


cdef Slot slot_of(RangeEntry entry) noexcept:
    cdef NativeDevice device
    cdef Slot slot = Slot(entry.last, <PyObject *>entry, NULL, NULL)
    if entry.is_native or entry.interposed is not None:
        device = <NativeDevice>entry.device if entry.interposed is None else entry.interposed
        slot.target = <PyObject *>device
        if entry.space == PIO:
            slot.read = <NativeRead><void *>device.c_pio_read
            slot.write = <NativeWrite><void *>device.c_pio_write
        else:
            slot.read = <NativeRead><void *>device.c_read
            slot.write = <NativeWrite><void *>device.c_write
    return slot


cdef RangeTable new_table(SpaceId space, size_t count, bytes bases, bytes lasts, bytes slots, tuple entries):
    """Make a table of `count` ranges from the memory of its arrays, which have at least max(count, 1) items each."""
    cdef RangeTable table = RangeTable.__new__(RangeTable)
    table.entries = entries
    table.slot_memory = slots
    table.bases = np.ndarray((count,), np.uint64, bases)
    table.lasts = np.ndarray((count,), np.uint64, lasts)
    table.ranges.bases = <const uint64_t *>PyBytes_AS_STRING(bases)
    table.ranges.slots = <const Slot *>PyBytes_AS_STRING(slots)
    table.ranges.count = count
    table.ranges.space = space
    table.ranges.hint_shift = hint_shift_of(space)
    return table


cdef RangeTable make_empty_table(SpaceId space):
    cdef Slot nothing = Slot(0, NULL, NULL, NULL)  # so that a look-up need not check for an empty table
    return new_table(
        space, 0, np.uint64(1).tobytes(), np.uint64(0).tobytes(), (<char *>&nothing)[:sizeof(Slot)], ()
    )


cdef RangeTable empty_pio_table = make_empty_table(PIO)
cdef RangeTable empty_mmio_table = make_empty_table(MMIO)


cdef RangeTable empty_table(SpaceId space):
    """Return the table without ranges, which all managers share."""
    return empty_pio_table if space == PIO else empty_mmio_table


cdef RangeTable table_of_one(RangeEntry entry):
    """Return a table with one range."""
    cdef Slot slot = slot_of(entry)
    return new_table(
        entry.space,
        1,
        np.uint64(entry.base).tobytes(),
        np.uint64(entry.last).tobytes(),
        (<char *>&slot)[:sizeof(Slot)],
        (entry,),
    )


# ----------------------------------------------------------------------------- many look-ups at once


cdef enum:
    # Look-ups made in step, so that their cache misses overlap. Eight fill the registers.
    LANES = 8


cdef object unsigned_array(object values, str name):
    """Return an array of unsigned integers as C-contiguous uint64; `TypeError` for another type."""
    array = np.asarray(values)
    if array.dtype.kind != "u":
        raise TypeError(f"{name} must be an array of unsigned integers (uint64), not of {array.dtype}")
    return np.ascontiguousarray(array, np.uint64).reshape(array.shape)


cdef object find_ranges(RangeTable table, object addresses):
    cdef object sought = unsigned_array(addresses, "addresses")
    cdef object found = np.empty(sought.shape, np.intp)
    cdef Py_buffer source, target
    PyObject_GetBuffer(sought, &source, PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(found, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        with nogil:
            find_each(
                &table.ranges,
                <const uint64_t *>source.buf,
                source.len // <Py_ssize_t>sizeof(uint64_t),
                <Py_ssize_t *>target.buf,
            )
        PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
    return found


cdef void find_each(
    const Ranges *ranges, const uint64_t *addresses, Py_ssize_t count, Py_ssize_t *indices
) noexcept nogil:
    """Bisect for LANES addresses in step, then for the rest one by one.

    The loop and its bounds are those of `last_base_at_or_below`.
    """
    cdef const uint64_t *bases = ranges.bases
    cdef size_t low[LANES]
    cdef size_t remaining, half
    cdef Py_ssize_t first = 0, lane
    cdef const uint64_t *sought
    while first + LANES <= count:
        sought = addresses + first
        for lane in range(LANES):
            low[lane] = 0
        remaining = ranges.count
        while remaining > 1:
            half = remaining >> 1
            for lane in range(LANES):
                low[lane] = low[lane] + half if bases[low[lane] + half] <= sought[lane] else low[lane]
            remaining -= half
        for lane in range(LANES):
            indices[first + lane] = index_if_owner(ranges, low[lane], sought[lane])
        first += LANES
    for first in range(first, count):
        indices[first] = index_if_owner(ranges, last_base_at_or_below(ranges, addresses[first]), addresses[first])


cdef inline Py_ssize_t index_if_owner(const Ranges *ranges, size_t index, uint64_t address) noexcept nogil:
    return <Py_ssize_t>index if ranges.bases[index] <= address <= ranges.slots[index].last else -1


# ----------------------------------------------------------------------------- the pair of both spaces


@cython.final
cdef class IoTables:
    """A snapshot of both range tables of an `IoManager`, with its options. Immutable. Made by `IoManager.tables`.

    Code that dispatches without the GIL holds one of these: see ``_bus.pxd``.

    Attributes
    ----------
    generation : int
        Number of the change that published the tables. They are current while it is the manager's latest.
    """

    def __cinit__(self):
        # Python code can make one, too, and C code relies on its being complete.
        self.pio = empty_pio_table
        self.mmio = empty_mmio_table
        self.background = empty_mmio_table
        self.options.open_bus = -1
        self.options.unowned = UNOWNED_REJECTED


cdef IoTables with_byte_order(IoTables tables, bint big_endian):
    """Return the same tables for a caller whose integers have a byte order of their own."""
    cdef IoTables copy = IoTables.__new__(IoTables)
    copy.generation = tables.generation
    copy.pio = tables.pio
    copy.mmio = tables.mmio
    copy.background = tables.background
    copy.options = tables.options
    copy.options.big_endian = big_endian
    copy.unowned_accesses = tables.unowned_accesses
    return copy


set_public_name(IoTables, b"dbs_device.IoTables")

cdef IoTables owner_of_no_tables = IoTables.__new__(IoTables)
cdef PyObject *no_tables = <PyObject *>owner_of_no_tables


# ----------------------------------------------------------------------------- the published pair


cdef class PublishedTables:
    """The pointer to the current pair of tables, which a change replaces for both spaces at once."""

    def __cinit__(self, *args, **kwargs):
        self._tables = IoTables.__new__(IoTables)
        dbs_generation_store(&self._generation, 0)

    cdef int publish(self, RangeTable pio, RangeTable mmio, RangeTable background, Options options) except -1:
        """Replace the pair of tables by a new one."""
        cdef IoTables new = IoTables.__new__(IoTables)
        cdef PyObject *old
        new.pio = pio
        new.mmio = mmio
        new.background = background
        new.options = options
        new.unowned_accesses = self._unowned_accesses
        Py_INCREF(new)  # the reference of `_tables`, which leaves that of `old`
        # Atomic, since `IoManager.__init__` publishes too, without the lock of transactions.
        with cython.critical_section(self):
            new.generation = self._tables.generation + 1
            old = <PyObject *>dbs_word_exchange(dbs_tables_word(self), <uintptr_t><PyObject *>new)
            dbs_generation_store(&self._generation, new.generation)
        refer_for_pins(old)
        Py_DECREF(<object>old)
        return 0


cdef PublishedTables published_tables_of(object manager):
    """Return the published tables of an `IoManager`, a type that the engine does not import; `TypeError` if not one."""
    published = getattr(manager, "_published", None)
    if not isinstance(published, PublishedTables):
        raise TypeError(f"an IoManager is required, not {type(manager).__name__}")
    return published


cdef tuple mapped_ranges(list entries):
    cdef RangeEntry entry
    return tuple([
        MappedRange(space_of(entry.space), entry.base, entry.last, entry.device, entry.name) for entry in entries
    ])
