from libc.stdint cimport uint8_t, uint64_t

from ._tables cimport IoTables, Ranges, Space


cdef enum:
    NOT_AN_INTEGER = 0xDEAD  # what is returned with an exception; an ordinary number besides


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

# Accesses of C: 0 served, 1 unowned, -1 exception set. They take the GIL only for a Python device, or to raise.
cdef int c_load(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t *value) except -1 nogil
cdef int c_store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1 nogil
cdef int c_read(IoTables tables, Ranges *ranges, uint64_t address, uint8_t *data, size_t size) except -1 nogil
cdef int c_write(IoTables tables, Ranges *ranges, uint64_t address, const uint8_t *data, size_t size) except -1 nogil
