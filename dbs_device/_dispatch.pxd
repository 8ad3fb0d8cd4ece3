from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._owner cimport TablesOwner
from ._tables cimport IoTables


cdef enum:
    DBS_DEVICE_ABI_VERSION = 1  # what this file declares; c_abi_version() is what is loaded


cdef uint32_t c_abi_version() noexcept nogil

# Whether `tables`, which came from `manager`, are still the ones that it has.
cdef bint c_tables_are_current(TablesOwner manager, IoTables tables) noexcept nogil

# Accesses on held tables.
cdef int c_mmio_load(IoTables tables, uint64_t address, size_t size, uint64_t *value) except -1 nogil
cdef int c_mmio_store(IoTables tables, uint64_t address, size_t size, uint64_t value) except -1 nogil
cdef int c_mmio_read(IoTables tables, uint64_t address, uint8_t *data, size_t size) except -1 nogil
cdef int c_mmio_write(IoTables tables, uint64_t address, const uint8_t *data, size_t size) except -1 nogil
cdef int c_pio_in(IoTables tables, uint64_t port, size_t size, uint64_t *value) except -1 nogil
cdef int c_pio_out(IoTables tables, uint64_t port, size_t size, uint64_t value) except -1 nogil
cdef int c_pio_read(IoTables tables, uint64_t port, uint8_t *data, size_t size) except -1 nogil
cdef int c_pio_write(IoTables tables, uint64_t port, const uint8_t *data, size_t size) except -1 nogil

# The same on the tables that the manager has at the moment of the call.
cdef int c_manager_mmio_load(TablesOwner manager, uint64_t address, size_t size, uint64_t *value) except -1 nogil
cdef int c_manager_mmio_store(TablesOwner manager, uint64_t address, size_t size, uint64_t value) except -1 nogil
cdef int c_manager_mmio_read(TablesOwner manager, uint64_t address, uint8_t *data, size_t size) except -1 nogil
cdef int c_manager_mmio_write(TablesOwner manager, uint64_t address, const uint8_t *data, size_t size) except -1 nogil
cdef int c_manager_pio_in(TablesOwner manager, uint64_t port, size_t size, uint64_t *value) except -1 nogil
cdef int c_manager_pio_out(TablesOwner manager, uint64_t port, size_t size, uint64_t value) except -1 nogil
cdef int c_manager_pio_read(TablesOwner manager, uint64_t port, uint8_t *data, size_t size) except -1 nogil
cdef int c_manager_pio_write(TablesOwner manager, uint64_t port, const uint8_t *data, size_t size) except -1 nogil
