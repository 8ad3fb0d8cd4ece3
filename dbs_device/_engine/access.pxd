"""One access: the look-up and the call of the device. The rules are written here once, for callers in Python and in C.

Functions that make an access without the GIL return 0 if it was served, 1 if it is unowned (no range has the address,
or the access leaves the range that it starts in), and -1 if an exception is set. They are `noexcept`, so that each is
inlined as one path: a check for an exception and a traceback entry after each call would be most of their code.

The look-up comes first, and the memory of a read is zeroed before the device gets it.
"""

from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from .platform cimport dbs_bytes_of_integer, dbs_integer_of_bytes
from .tables cimport (
    MMIO,
    PIO,
    UNOWNED_ELSEWHERE,
    UNOWNED_REJECTED,
    IoTables,
    RangeEntry,
    Ranges,
    Slot,
    SpaceId,
    find_range,
)


cdef enum:
    NOT_AN_INTEGER = 0xDEAD  # returned with an exception, but also an ordinary value


# ----------------------------------------------------------------------------- arguments from Python


cdef uint64_t address_of_any(object value, SpaceId space) except? NOT_AN_INTEGER


cdef inline uint64_t uint64_of(object value) except? NOT_AN_INTEGER:
    return value


cdef inline uint64_t uint64_or_exception(object value) noexcept:
    """Convert an integer; if the result is NOT_AN_INTEGER, an exception may be set.

    A try statement around the conversion would save and restore the thread's exception state on every access, which
    costs as much as the conversion. It is therefore called as if it raised nothing.
    """
    return (<uint64_t (*)(object) noexcept>uint64_of)(value)


cdef inline uint64_t address_of(object value, SpaceId space) except? NOT_AN_INTEGER:
    """Return an address or port; `OverflowError` outside its space, `TypeError` if it is not an integer."""
    cdef uint64_t address
    if PyLong_CheckExact(value):
        address = uint64_or_exception(value)
        if address != NOT_AN_INTEGER and (space == MMIO or address <= 0xFFFF):
            return address
    return address_of_any(value, space)


cdef inline bint is_integer_size(uint64_t size, SpaceId space) noexcept nogil:
    """Return whether `size` is 1, 2, 4 or, for MMIO, 8."""
    return size - 1 < <uint64_t>(4 if space == PIO else 8) and size & (size - 1) == 0  # 0 - 1 is 2**64 - 1


cdef inline size_t aligned_piece(uint64_t offset, size_t size, size_t largest) noexcept nogil:
    """Return the size of the naturally aligned integer at `offset` with which an access of `size` bytes begins."""
    cdef size_t piece = largest
    while piece > size or offset & (piece - 1) != 0:
        piece >>= 1
    return piece


cdef size_t size_of_any(object value, SpaceId space) except 0


cdef inline size_t size_of(object value, SpaceId space) except 0:
    """Return an access size in bytes; `ValueError` if no integer has it, `TypeError` if it is not an integer."""
    cdef uint64_t size
    if PyLong_CheckExact(value):
        size = uint64_or_exception(value)
        if is_integer_size(size, space):
            return size
    return size_of_any(value, space)


cdef uint64_t value_of(object value, size_t size) except? NOT_AN_INTEGER


# ----------------------------------------------------------------------------- the owner of an access


cdef inline Ranges *ranges_of(IoTables tables, SpaceId space) noexcept nogil:
    return &tables.pio.ranges if space == PIO else &tables.mmio.ranges


cdef inline bint find_access(
    IoTables tables, Ranges *ranges, uint64_t address, size_t size, size_t *index
) noexcept nogil:
    """Find the index of the range that owns an access of `size` >= 1 bytes; return whether there is one.

    None owns one whose offsets would run past 2**64, and wrap around to those of the device's first registers.
    """
    return find_range(ranges, address, index) and (
        size - 1 <= ranges.slots[index[0]].last - address
        or (tables.options.pass_straddling and address - ranges.bases[index[0]] <= <uint64_t>0 - size)
    )


cdef Ranges *background_of(IoTables tables, SpaceId space, uint64_t address, size_t size) noexcept nogil


cdef inline void fill(uint8_t *data, size_t size, int byte) noexcept nogil:
    """Fill memory; for register sizes this is one store, not a call."""
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


cdef enum Direction:
    READ
    WRITE


cdef inline int open_bus_byte(IoTables tables) noexcept nogil:
    """Return the byte of an unowned read, which is 0 if the bus is not open."""
    return tables.options.open_bus if tables.options.open_bus >= 0 else 0


cdef inline uint64_t every_place(int byte, size_t size) noexcept nogil:
    """Return an integer of a size that has this byte in each place."""
    return (<uint64_t>0x0101010101010101 * <uint64_t>byte) & (<uint64_t>-1 >> (64 - 8 * size))


# What no range owns, for a manager that has a background or logs unowned accesses. Out of line: they would take
# registers from the accesses that a range owns.

cdef int unowned(
    IoTables tables, SpaceId space, uint64_t address, size_t size, Direction direction
) noexcept nogil
cdef int load_elsewhere(
    bint has_gil, IoTables tables, SpaceId space, uint64_t address, size_t size, uint64_t *value
) noexcept nogil
cdef int store_elsewhere(
    bint has_gil, IoTables tables, SpaceId space, uint64_t address, size_t size, uint64_t value
) noexcept nogil
cdef int read_elsewhere(
    IoTables tables, SpaceId space, uint64_t address, uint8_t *data, size_t size
) noexcept nogil
cdef int write_elsewhere(
    IoTables tables, SpaceId space, uint64_t address, const uint8_t *data, size_t size
) noexcept nogil
cdef int raise_unowned(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except -1
cdef int unowned_raised(IoTables tables, Ranges *ranges, uint64_t address, size_t size) noexcept with gil

cdef int native_failed(
    IoTables tables, Ranges *ranges, uint64_t address, size_t size, Direction direction
) noexcept with gil


# ----------------------------------------------------------------------------- integers

# How a Python device is called depends on whether the caller holds the GIL. Callers pass a constant, so that the
# compiler inlines the following into one path, whose only call is that of the device.

ctypedef int (*PythonLoad)(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t *value) noexcept nogil
ctypedef int (*PythonStore)(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t value) noexcept nogil

cdef int python_load(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t *value) noexcept
cdef int python_store(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t value) noexcept
cdef int load_with_gil(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t *value) noexcept with gil
cdef int store_with_gil(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t value) noexcept with gil


cdef inline int load_by(
    bint has_gil, IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t *value
) noexcept nogil:
    """Load an integer; `size` satisfies `is_integer_size`."""
    cdef uint8_t data[8]
    cdef const Slot *slot
    cdef size_t index
    if not find_access(tables, ranges, address, size, &index):
        if tables.options.unowned > UNOWNED_REJECTED:
            value[0] = every_place(tables.options.unowned, size)
            return 1
        value[0] = 0
        if tables.options.unowned < UNOWNED_REJECTED:
            return load_elsewhere(has_gil, tables, ranges.space, address, size, value)
        return 1
    slot = &ranges.slots[index]
    if slot.read == NULL:
        if has_gil:
            return (<PythonLoad><void *>python_load)(slot.target, address, size, tables.options.big_endian, value)
        return load_with_gil(slot.target, address, size, tables.options.big_endian, value)
    memset(data, 0, 8)
    if slot.read(slot.target, ranges.bases[index], address - ranges.bases[index], data, size) == -1:
        value[0] = 0
        return native_failed(tables, ranges, address, size, READ)
    value[0] = dbs_integer_of_bytes(data, size, tables.options.big_endian)
    return 0


cdef inline int store_by(
    bint has_gil, IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    """Store an integer; `size` satisfies `is_integer_size`, and higher bits of `value` are dropped."""
    cdef uint8_t data[8]
    cdef const Slot *slot
    cdef size_t index
    if not find_access(tables, ranges, address, size, &index):
        if tables.options.unowned == UNOWNED_ELSEWHERE:
            return store_elsewhere(has_gil, tables, ranges.space, address, size, value)
        return 1
    slot = &ranges.slots[index]
    if slot.write == NULL:
        if has_gil:
            return (<PythonStore><void *>python_store)(slot.target, address, size, tables.options.big_endian, value)
        return store_with_gil(slot.target, address, size, tables.options.big_endian, value)
    dbs_bytes_of_integer(value, size, tables.options.big_endian, data)
    if slot.write(slot.target, ranges.bases[index], address - ranges.bases[index], data, size) == -1:
        return native_failed(tables, ranges, address, size, WRITE)
    return 0


# ----------------------------------------------------------------------------- callers in Python, which hold the GIL

cdef uint64_t load(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except? NOT_AN_INTEGER
cdef int store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1
cdef int read_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1
cdef int write_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1


# ----------------------------------------------------------------------------- callers in C, with or without the GIL

cdef int wrong_size_raised(size_t size, SpaceId space) noexcept with gil
cdef int empty_access_raised() noexcept with gil
cdef int python_read(PyObject *entry, uint64_t address, uint8_t *data, size_t size, bint big) noexcept
cdef int python_write(PyObject *entry, uint64_t address, const uint8_t *data, size_t size, bint big) noexcept
cdef int read_with_gil(PyObject *entry, uint64_t address, uint8_t *data, size_t size, bint big) noexcept with gil
cdef int write_with_gil(
    PyObject *entry, uint64_t address, const uint8_t *data, size_t size, bint big
) noexcept with gil


cdef inline int unowned_is_served(IoTables tables, SpaceId space, uint64_t address, size_t size) noexcept nogil:
    """Return 0 if the bus is open for an access that was unowned, or -1 with its `NoDeviceError`."""
    return 0 if tables.options.open_bus >= 0 else unowned_raised(tables, ranges_of(tables, space), address, size)


cdef inline int c_load(
    IoTables tables, SpaceId space, uint64_t address, size_t size, uint64_t *value
) noexcept nogil:
    if not is_integer_size(size, space):
        value[0] = 0
        return wrong_size_raised(size, space)
    return load_by(False, tables, ranges_of(tables, space), address, size, value)


cdef inline int c_store(IoTables tables, SpaceId space, uint64_t address, size_t size, uint64_t value) noexcept nogil:
    if not is_integer_size(size, space):
        return wrong_size_raised(size, space)
    return store_by(False, tables, ranges_of(tables, space), address, size, value)


cdef inline int read_by(
    IoTables tables, Ranges *ranges, uint64_t address, uint8_t *data, size_t size
) noexcept nogil:
    cdef const Slot *slot
    cdef size_t index
    if size == 0:
        return empty_access_raised()
    if not find_access(tables, ranges, address, size, &index):
        if tables.options.unowned == UNOWNED_ELSEWHERE:
            return read_elsewhere(tables, ranges.space, address, data, size)
        fill(data, size, open_bus_byte(tables))
        return 1
    slot = &ranges.slots[index]
    fill(data, size, 0)
    if slot.read == NULL:
        return read_with_gil(slot.target, address, data, size, tables.options.big_endian)
    if slot.read(slot.target, ranges.bases[index], address - ranges.bases[index], data, size) == -1:
        return native_failed(tables, ranges, address, size, READ)
    return 0


cdef inline int c_read(IoTables tables, SpaceId space, uint64_t address, uint8_t *data, size_t size) noexcept nogil:
    return read_by(tables, ranges_of(tables, space), address, data, size)


cdef inline int write_by(
    IoTables tables, Ranges *ranges, uint64_t address, const uint8_t *data, size_t size
) noexcept nogil:
    cdef const Slot *slot
    cdef size_t index
    if size == 0:
        return empty_access_raised()
    if not find_access(tables, ranges, address, size, &index):
        if tables.options.unowned == UNOWNED_ELSEWHERE:
            return write_elsewhere(tables, ranges.space, address, data, size)
        return 1
    slot = &ranges.slots[index]
    if slot.write == NULL:
        return write_with_gil(slot.target, address, data, size, tables.options.big_endian)
    if slot.write(slot.target, ranges.bases[index], address - ranges.bases[index], data, size) == -1:
        return native_failed(tables, ranges, address, size, WRITE)
    return 0


cdef inline int c_write(
    IoTables tables, SpaceId space, uint64_t address, const uint8_t *data, size_t size
) noexcept nogil:
    return write_by(tables, ranges_of(tables, space), address, data, size)
