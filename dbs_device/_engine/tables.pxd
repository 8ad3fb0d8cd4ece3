cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .lock cimport ReentrantLock
from .native cimport NativeDevice
from .pins cimport pin_object
from .platform cimport (
    dbs_critical_section,
    dbs_critical_section_begin,
    dbs_critical_section_end,
    dbs_generation,
    dbs_generation_load,
    dbs_hint,
    dbs_hint_load,
    dbs_hint_store,
    dbs_pin,
    dbs_word,
)


cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(object list_, Py_ssize_t index) noexcept  # borrowed, unlike that of cpython.list


cdef enum SpaceId:  # the members of `Space`
    PIO = 0
    MMIO = 1


# A device's C methods, which return -1 with an exception set. They are called as if they raised nothing, so that one
# which returns -1 without an exception can be told apart: see `native_failed`.
ctypedef int (*NativeRead)(
    PyObject *device, uint64_t base, uint64_t offset, uint8_t *data, size_t size
) noexcept nogil
ctypedef int (*NativeWrite)(
    PyObject *device, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
) noexcept nogil


# The data of a range that an access needs, besides its base, in half a cache line: on a large map, every further memory
# location is a cache miss.
cdef struct Slot:
    uint64_t last
    PyObject *target  # the NativeDevice, or the RangeEntry of a Python device; the table's tuple keeps both alive
    NativeRead read  # the device's methods for the space, or NULL for a Python device
    NativeWrite write


cdef enum:
    HINT_BITS = 9


# The part of a table that a look-up needs, as a C struct, so that it can be used without the GIL.
cdef struct Ranges:
    const uint64_t *bases
    const Slot *slots
    size_t count
    SpaceId space
    int hint_shift
    # Index of the range in which an address was found last, for each of 512 classes of addresses.
    dbs_hint hints[1 << HINT_BITS]


cdef inline int hint_shift_of(SpaceId space) noexcept nogil:
    """Return the `hint_shift` of all tables of a space: addresses in the same 256 bytes, or 4 ports, share a hint."""
    return 2 if space == PIO else 8


cdef inline size_t last_base_at_or_below(const Ranges *ranges, uint64_t address) noexcept nogil:
    """Return the index of the last base that is not above `address`, or 0 if all are; `bases` has at least one item.

    The conditional expression becomes a conditional move: on random addresses, a branch would be mispredicted half the
    time. Bounds: at every step, low + remaining <= count, hence low + half < count.
    """
    cdef const uint64_t *bases = ranges.bases
    cdef size_t low = 0, remaining = ranges.count, half
    while remaining > 1:
        half = remaining >> 1
        low = low + half if bases[low + half] <= address else low
        remaining -= half
    return low


cdef inline bint find_range(Ranges *ranges, uint64_t address, size_t *index) noexcept nogil:
    """Find the index of the range that owns `address`; return whether there is one.

    The range in which an address of the same class was found last is tried first. It is a hint: read once, and always
    verified. Addresses in the same 256 bytes (or 4 ports) have the same class; others may, as with any hash.
    The first slot of an empty table is a range 1..0, which owns nothing.
    """
    # Fibonacci hashing: the high bits of the product depend on all bits of the value.
    cdef size_t address_class = ((address >> ranges.hint_shift) * <uint64_t>0x9E3779B97F4A7C15) >> (64 - HINT_BITS)
    index[0] = dbs_hint_load(&ranges.hints[address_class])
    if ranges.bases[index[0]] <= address <= ranges.slots[index[0]].last:
        return True
    index[0] = last_base_at_or_below(ranges, address)
    if ranges.bases[index[0]] <= address <= ranges.slots[index[0]].last:
        dbs_hint_store(&ranges.hints[address_class], <uint32_t>index[0])
        return True
    return False


cdef enum:
    SMALL_VALUES = 4096
    MEMO_BITS = 10


@cython.final
cdef class AddressObjects:
    cdef object address_type
    cdef list small
    cdef list memo
    cdef uint64_t memo_keys[1 << MEMO_BITS]

    cdef object make(self, uint64_t value)


cdef inline object address_object(AddressObjects objects, uint64_t value):
    cdef dbs_critical_section section
    cdef object made
    if value < SMALL_VALUES:
        dbs_critical_section_begin(&section, <PyObject *>objects)
        made = <object>PyList_GET_ITEM(objects.small, <Py_ssize_t>value)
        dbs_critical_section_end(&section)
        if made is not None:
            return made
    return objects.make(value)


# The byte order of a device's registers; BUS_ORDER if it states none.
cdef enum:
    BUS_ORDER = 0
    LITTLE_ENDIAN = 1
    BIG_ENDIAN = 2


@cython.final
@cython.no_gc_clear
cdef class RangeEntry:
    cdef SpaceId space
    cdef uint64_t base
    cdef uint64_t last
    cdef object device
    cdef object name  # str, or None
    cdef bint is_native  # whether the device is called through its vtable
    cdef int byte_order
    cdef object base_object
    cdef object base_integer
    cdef AddressObjects offsets
    # A handler that is a bound method is stored as its function and its self, which is the cheapest call.
    cdef object read_function
    cdef object read_self
    cdef object write_function
    cdef object write_self
    cdef object load_function
    cdef object load_self
    cdef object store_function
    cdef object store_self
    # Whether the device overrides the handler. Those of the base class do nothing.
    cdef bint has_read
    cdef bint has_write
    cdef bint has_load
    cdef bint has_store
    # The lock of a device that is exactly a Mutex, else None; the handlers are then the inner device's.
    cdef ReentrantLock lock
    # A native device that is called in place of the device, for as long as its accesses are counted, else None.
    cdef NativeDevice interposed
    cdef bint is_behind_adapter  # the access that an exception gets a note of is that of the adapter


@cython.final
@cython.no_gc_clear
cdef class RangeTable:
    cdef Ranges ranges
    cdef tuple entries
    cdef bytes slot_memory
    cdef readonly object bases
    cdef readonly object lasts


# The options of an `IoManager`.
cdef struct Options:
    int open_bus  # the byte that an unowned read gives, or -1 for none
    bint pass_straddling
    bint big_endian
    bint log_unowned
    int unowned  # the same byte, or one of the following


cdef enum:
    UNOWNED_REJECTED = -1
    UNOWNED_ELSEWHERE = -2  # an unowned access goes to the background, or is logged


@cython.final
@cython.no_gc_clear
cdef class IoTables:
    cdef readonly uint64_t generation
    cdef RangeTable pio
    cdef RangeTable mmio
    # One range of the MMIO space, for what no other range owns; an empty table if the manager has no background.
    cdef RangeTable background
    cdef Options options
    cdef object unowned_accesses  # an UnownedAccesses if the options have log_unowned, else None


cdef extern from *:
    """
    #define dbs_tables_word(published) ((dbs_word *)&(published)->_tables)
    """
    # The pointer `_tables`, which threads read without the GIL. Cython does not give the address of such an attribute.
    dbs_word *dbs_tables_word(PublishedTables published) noexcept nogil


cdef class PublishedTables:
    cdef object __weakref__
    cdef IoTables _tables
    cdef object _unowned_accesses
    cdef dbs_generation _generation

    cdef int publish(self, RangeTable pio, RangeTable mmio, RangeTable background, Options options) except -1


cdef inline bint are_current(PublishedTables published, IoTables tables) noexcept nogil:
    return dbs_generation_load(&published._generation) == tables.generation


cdef inline IoTables current_tables(PyObject *published):
    """Return the tables of a PublishedTables, which is passed as a pointer so that Cython counts no reference to it."""
    cdef IoTables tables
    cdef dbs_critical_section section
    # Taking a reference out of an attribute that others replace needs a lock on free-threaded builds, and only there.
    dbs_critical_section_begin(&section, published)
    tables = (<PublishedTables>published)._tables
    dbs_critical_section_end(&section)
    if tables is None:
        raise ReferenceError("the IoManager has been cleared by the garbage collector")
    return tables


cdef PyObject *no_tables  # an IoTables without ranges


cdef inline dbs_pin *pin(PublishedTables published) noexcept nogil:
    """Keep the current tables, `object` of the result, alive for an access without the GIL; it ends with `unpin`."""
    cdef dbs_pin *held = pin_object(dbs_tables_word(published))
    if held.object == <PyObject *>None:  # cleared by the garbage collector; a finalizer makes an access
        held.object = no_tables
    return held


cdef PublishedTables published_tables_of(object manager)

cdef IoTables with_byte_order(IoTables tables, bint big_endian)
cdef object space_of(SpaceId space)
cdef SpaceId space_id_of(object space) except *

cdef int check_device(object device) except -1
cdef int warn_if_unhandled(list entries) except -1
cdef RangeEntry new_entry(SpaceId space, uint64_t base, uint64_t last, object device, object name)
cdef RangeEntry entry_at(RangeEntry entry, uint64_t base)
cdef Slot slot_of(RangeEntry entry) noexcept
cdef RangeTable new_table(SpaceId space, size_t count, bytes bases, bytes lasts, bytes slots, tuple entries)
cdef RangeTable empty_table(SpaceId space)
cdef RangeTable table_of_one(RangeEntry entry)
cdef tuple mapped_ranges(list entries)
cdef object find_ranges(RangeTable table, object addresses)
cdef object unsigned_array(object values, str name)
