"""Range tables: sorted arrays of what is mapped, the entry of each range, and the pair of both spaces."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from ._native cimport NativeDevice, is_served_natively

from types import MethodType

import numpy as np

from .address import IoAddress, PioAddress
from .device import DeviceIo, DeviceIoMut, Mutex

__all__ = ["IoTables"]


# ----------------------------------------------------------------------------- address objects

cdef object new_int = int.__new__


@cython.final
cdef class AddressObjects:
    """Makes the IoAddress (or PioAddress) of an offset, and keeps it for the next access.

    Every small one is kept. Above, each has one of 1024 places, and is kept until another one takes the place.
    """

    def __cinit__(self, address_type):
        self.address_type = address_type
        self.small = [None] * SMALL_VALUES
        self.memo = [None] * (1 << MEMO_BITS)

    cdef object make_small(self, uint64_t value):
        made = self.small[<Py_ssize_t>value] = new_int(self.address_type, value)
        return made

    cdef object remember(self, uint64_t value):
        # Fibonacci hashing: the high bits of the product depend on all bits of the value.
        cdef size_t place = (value * <uint64_t>0x9E3779B97F4A7C15) >> (64 - MEMO_BITS)
        made = self.memo[place]
        if made is None or self.memo_keys[place] != value:
            made = self.memo[place] = new_int(self.address_type, value)
            self.memo_keys[place] = value
        return made


cdef AddressObjects port_objects = AddressObjects(PioAddress)
cdef AddressObjects address_objects = AddressObjects(IoAddress)


# ----------------------------------------------------------------------------- entries


@cython.final
cdef class RangeEntry:
    """One range: its device, and what is looked up once, when it is registered. Immutable, and shared by tables."""


cdef int check_device(object device) except -1:
    """Raise `TypeError` unless `device` can be registered."""
    if isinstance(device, DeviceIo):
        return 0
    if isinstance(device, DeviceIoMut):
        raise TypeError(
            f"{type(device).__name__} is a DeviceIoMut, which is not safe to call from any thread: register "
            f"Mutex({type(device).__name__}(...))"
        )
    raise TypeError(f"a device must be a DeviceIo, which {type(device).__name__} is not")


cdef RangeEntry new_entry(Space space, uint64_t base, uint64_t last, object device):
    """Look up the handlers of `device`, a DeviceIo, for a range of `space`."""
    cdef RangeEntry entry = RangeEntry.__new__(RangeEntry)
    cdef object target = device
    entry.space = space
    entry.base = base
    entry.last = last
    entry.device = device
    if isinstance(device, NativeDevice) and is_served_natively(<NativeDevice>device):
        entry.native = <NativeDevice>device
    # A Mutex that is being unpickled has no device yet, if the two know each other. It then serves as any other device.
    if type(device) is Mutex and hasattr(device, "_device"):
        target = device._device
        entry.acquire = device._lock.acquire
        entry.release = device._lock.release
    if space == PIO:
        entry.offsets = port_objects
        read_handler, write_handler = target.pio_read, target.pio_write
    else:
        entry.offsets = address_objects
        read_handler, write_handler = target.read, target.write
    entry.base_object = new_int(entry.offsets.address_type, base)
    entry.read_function, entry.read_self = split_method(read_handler)
    entry.write_function, entry.write_self = split_method(write_handler)
    return entry


cdef object split_method(object handler):
    if type(handler) is MethodType:
        return handler.__func__, handler.__self__
    return handler, None


# ----------------------------------------------------------------------------- tables


@cython.final
cdef class RangeTable:
    """The ranges of one space, sorted by base, which do not overlap. Immutable but for the hints.

    Attributes
    ----------
    bases, lasts : numpy.ndarray
        First and last address of each range: uint64, shape (ranges,), C-contiguous. They lie over bytes objects, so
        that numpy itself refuses to make them writable.
    """


cdef Slot slot_of(RangeEntry entry) noexcept:
    cdef NativeDevice device = entry.native
    cdef Slot slot = Slot(entry.last, <PyObject *>entry, NULL, NULL)
    if device is not None:
        slot.target = <PyObject *>device
        if entry.space == PIO:
            slot.read = <NativeRead><void *>device.c_pio_read
            slot.write = <NativeWrite><void *>device.c_pio_write
        else:
            slot.read = <NativeRead><void *>device.c_read
            slot.write = <NativeWrite><void *>device.c_write
    return slot


cdef RangeTable new_table(Space space, size_t count, bytes bases, bytes lasts, bytes slots, tuple entries):
    """Make a table of `count` ranges from the memory of its arrays, which must have max(count, 1) items each."""
    cdef RangeTable table = RangeTable.__new__(RangeTable)
    table.entries = entries
    table.slot_memory = slots
    table.bases = np.ndarray((count,), np.uint64, bases)
    table.lasts = np.ndarray((count,), np.uint64, lasts)
    table.ranges.bases = <const uint64_t *>PyBytes_AS_STRING(bases)
    table.ranges.slots = <const Slot *>PyBytes_AS_STRING(slots)
    table.ranges.count = count
    table.ranges.space = space
    table.ranges.hint_shift = 2 if space == PIO else 8
    return table


cdef RangeTable make_empty_table(Space space):
    cdef Slot nothing = Slot(0, NULL, NULL, NULL)  # so that a look-up need not ask whether there is a first range
    return new_table(
        space, 0, np.uint64(1).tobytes(), np.uint64(0).tobytes(), (<char *>&nothing)[:sizeof(Slot)], ()
    )


cdef RangeTable empty_pio_table = make_empty_table(PIO)
cdef RangeTable empty_mmio_table = make_empty_table(MMIO)


cdef RangeTable empty_table(Space space):
    """Return the table without ranges, which all managers share."""
    return empty_pio_table if space == PIO else empty_mmio_table


@cython.final
cdef class IoTables:
    """Both range tables of an `IoManager` as they were at one moment, with its options. Immutable.

    What dispatches without the GIL holds one of these: see ``_bus.pxd``. Made by `IoManager.tables`.

    Attributes
    ----------
    generation : int
        Number of changes that the manager had seen. It is current while the manager's number is the same.
    """


cdef IoTables new_tables(RangeTable pio, RangeTable mmio, IoTables options, uint64_t generation):
    """Pair two tables, with the options of another pair."""
    cdef IoTables tables = IoTables.__new__(IoTables)
    tables.generation = generation
    tables.pio = pio
    tables.mmio = mmio
    tables.big_endian = options.big_endian
    tables.pass_straddling = options.pass_straddling
    tables.open_bus = options.open_bus
    return tables
