from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from ._native cimport NativeDevice
from ._tables cimport PIO, IoTables, RangeEntry, Ranges, Slot, Space, find_slot


cdef enum:
    NOT_AN_INTEGER = 0xDEAD  # what is returned with an exception; an ordinary number besides
    INTEGER_SIZES = 0b100010110  # bit n: integers of n bytes may be loaded and stored
    PORT_INTEGER_SIZES = 0b10110


# ----------------------------------------------------------------------------- for Python's accesses and those of C


cdef inline bint is_integer_size(uint64_t size, Space space) noexcept nogil:
    return size <= 8 and ((PORT_INTEGER_SIZES if space == PIO else INTEGER_SIZES) >> size) & 1


cdef inline const Slot *slot_of_access(IoTables tables, Ranges *ranges, uint64_t address, size_t size) noexcept nogil:
    """Return the slot that an access of `size` >= 1 bytes goes to, or NULL."""
    cdef const Slot *slot = find_slot(ranges, address)
    if slot == NULL or (size - 1 > slot.last - address and not tables.pass_straddling):
        return NULL
    return slot


cdef inline void clear(uint8_t *data, size_t size) noexcept nogil:
    """Zero the memory of a read; for the sizes of registers this is one store, not a call."""
    if size == 4:
        memset(data, 0, 4)
    elif size == 1:
        data[0] = 0
    elif size == 8:
        memset(data, 0, 8)
    elif size == 2:
        memset(data, 0, 2)
    else:
        memset(data, 0, size)


cdef inline uint64_t open_bus_value(IoTables tables, size_t size) noexcept nogil:
    """Return what an unowned load gives: the open-bus byte in every place, or 0."""
    if tables.open_bus < 0:
        return 0
    return (<uint64_t>0x0101010101010101 * <uint64_t>tables.open_bus) & (<uint64_t>-1 >> (64 - 8 * size))


# The two calls of a native device. They differ by space in the method alone.

cdef inline int native_read(
    const Slot *slot, Space space, uint64_t address, uint8_t *data, size_t size
) except -1 nogil:
    if space == PIO:
        return (<NativeDevice>slot.native).c_pio_read(slot.base, address - slot.base, data, size)
    return (<NativeDevice>slot.native).c_read(slot.base, address - slot.base, data, size)


cdef inline int native_write(
    const Slot *slot, Space space, uint64_t address, const uint8_t *data, size_t size
) except -1 nogil:
    if space == PIO:
        return (<NativeDevice>slot.native).c_pio_write(slot.base, address - slot.base, data, size)
    return (<NativeDevice>slot.native).c_write(slot.base, address - slot.base, data, size)


cdef int call_read(RangeEntry entry, uint64_t address, object view) except -1
cdef int call_write(RangeEntry entry, uint64_t address, object view) except -1
cdef int lent_read(RangeEntry entry, uint64_t address, uint8_t *data, size_t size) except -1
cdef int lent_write(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size) except -1
cdef object wrong_size(object size, Space space)


# Accesses with Python's arguments and errors: the GIL is held.
cdef str bus_name(Space space)
cdef Space space_of(object name) except *
cdef uint64_t address_of(object value, Space space) except? NOT_AN_INTEGER
cdef size_t size_of(object value, Space space) except 0
cdef uint64_t value_of(object value, size_t size) except? NOT_AN_INTEGER
cdef int read_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1
cdef int write_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1
cdef uint64_t load(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except? NOT_AN_INTEGER
cdef int store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1
cdef int refuse_unless_open(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except -1
