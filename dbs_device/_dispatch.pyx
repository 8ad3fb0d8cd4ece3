"""C dispatch: the accesses of ``_bus.pxd``, on held tables and on a manager."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._access cimport c_load, c_read, c_store, c_write
from ._owner cimport TablesOwner, pin, unpin
from ._platform cimport dbs_generation_load
from ._tables cimport IoTables


cdef uint32_t c_abi_version() noexcept nogil:
    return DBS_DEVICE_ABI_VERSION


cdef bint c_tables_are_current(TablesOwner manager, IoTables tables) noexcept nogil:
    return dbs_generation_load(&manager._generation) == tables.generation


cdef int c_mmio_load(IoTables tables, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    return c_load(tables, &tables.mmio.ranges, address, size, value)


cdef int c_mmio_store(IoTables tables, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    return c_store(tables, &tables.mmio.ranges, address, size, value)


cdef int c_mmio_read(IoTables tables, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    return c_read(tables, &tables.mmio.ranges, address, data, size)


cdef int c_mmio_write(IoTables tables, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    return c_write(tables, &tables.mmio.ranges, address, data, size)


cdef int c_pio_in(IoTables tables, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    return c_load(tables, &tables.pio.ranges, port, size, value)


cdef int c_pio_out(IoTables tables, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    return c_store(tables, &tables.pio.ranges, port, size, value)


cdef int c_pio_read(IoTables tables, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    return c_read(tables, &tables.pio.ranges, port, data, size)


cdef int c_pio_write(IoTables tables, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    return c_write(tables, &tables.pio.ranges, port, data, size)


cdef int c_manager_mmio_load(TablesOwner manager, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_load(<IoTables>tables, address, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_mmio_store(TablesOwner manager, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_store(<IoTables>tables, address, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_mmio_read(TablesOwner manager, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_read(<IoTables>tables, address, data, size)
    finally:
        unpin(manager, tables)


cdef int c_manager_mmio_write(TablesOwner manager, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_mmio_write(<IoTables>tables, address, data, size)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_in(TablesOwner manager, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_in(<IoTables>tables, port, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_out(TablesOwner manager, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_out(<IoTables>tables, port, size, value)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_read(TablesOwner manager, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_read(<IoTables>tables, port, data, size)
    finally:
        unpin(manager, tables)


cdef int c_manager_pio_write(TablesOwner manager, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    cdef PyObject *tables = pin(manager)
    try:
        return c_pio_write(<IoTables>tables, port, data, size)
    finally:
        unpin(manager, tables)
