from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from ._tables cimport MMIO, PIO, IoTables, RangeEntry, Ranges, Space, find_range


cdef enum:
    NOT_AN_INTEGER = 0xDEAD  # what is returned with an exception; an ordinary number besides
    INTEGER_SIZES = 0b100010110  # bit n: integers of n bytes may be loaded and stored
    PORT_INTEGER_SIZES = 0b10110


# ----------------------------------------------------------------------------- arguments


cdef uint64_t address_of_any(object value, Space space) except? NOT_AN_INTEGER


cdef inline uint64_t uint64_of(object value) except? NOT_AN_INTEGER:
    return value


cdef inline uint64_t uint64_or_exception(object value) noexcept:
    """Convert an integer; where the result is NOT_AN_INTEGER, an exception may be set.

    A try statement around the conversion would save and restore the thread's exception state on every access, which
    costs as much as the conversion. Hence it is called as if it raised nothing.
    """
    return (<uint64_t (*)(object) noexcept>uint64_of)(value)


cdef inline uint64_t address_of(object value, Space space) except? NOT_AN_INTEGER:
    """Return an address or port; `OverflowError` outside its space, `TypeError` if it is no integer."""
    cdef uint64_t address
    if PyLong_CheckExact(value):
        address = uint64_or_exception(value)
        if address != NOT_AN_INTEGER and (space == MMIO or address <= 0xFFFF):
            return address
    return address_of_any(value, space)


# ----------------------------------------------------------------------------- for Python's accesses and those of C


cdef inline bint is_integer_size(uint64_t size, Space space) noexcept nogil:
    return size <= 8 and ((PORT_INTEGER_SIZES if space == PIO else INTEGER_SIZES) >> size) & 1


cdef inline bint find_access(
    IoTables tables, Ranges *ranges, uint64_t address, size_t size, size_t *index
) noexcept nogil:
    """Find the index of the range that an access of `size` >= 1 bytes goes to; return whether there is one."""
    return find_range(ranges, address, index) and (
        size - 1 <= ranges.slots[index[0]].last - address or tables.pass_straddling
    )


cdef inline void fill(uint8_t *data, size_t size, int byte) noexcept nogil:
    """Fill memory; for the sizes of registers this is one store, not a call."""
    if size == 4:
        memset(data, byte, 4)
    elif size == 1:
        data[0] = <uint8_t>byte
    elif size == 8:
        memset(data, byte, 8)
    elif size == 2:
        memset(data, byte, 2)
    else:
        memset(data, byte, size)


cdef inline void clear(uint8_t *data, size_t size) noexcept nogil:
    fill(data, size, 0)


cdef inline uint64_t open_bus_value(IoTables tables, size_t size) noexcept nogil:
    """Return what an unowned load gives: the open-bus byte in every place, or 0."""
    if tables.open_bus < 0:
        return 0
    return (<uint64_t>0x0101010101010101 * <uint64_t>tables.open_bus) & (<uint64_t>-1 >> (64 - 8 * size))


cdef int call_read(RangeEntry entry, uint64_t address, object view) except -1
cdef int call_write(RangeEntry entry, uint64_t address, object view) except -1
cdef int lent_read(RangeEntry entry, uint64_t address, uint8_t *data, size_t size) except -1
cdef int lent_write(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size) except -1
cdef object wrong_size(object size, Space space)


# Accesses with Python's arguments and errors: the GIL is held.
cdef str bus_name(Space space)
cdef Space space_of(object name) except *
cdef size_t size_of(object value, Space space) except 0
cdef uint64_t value_of(object value, size_t size) except? NOT_AN_INTEGER
cdef int read_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1
cdef int write_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1
cdef uint64_t load(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except? NOT_AN_INTEGER
cdef int store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1
cdef int refuse_unless_open(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except -1
