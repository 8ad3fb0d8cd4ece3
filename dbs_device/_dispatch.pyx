"""C dispatch: the accesses of ``_bus.pxd``, on held tables and on a manager.

They return 0: served; 1: nobody answers; -1: an exception is set. The GIL is taken only for a Python device, or to
raise.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ._access cimport (
    call_read,
    call_write,
    clear,
    fill,
    find_access,
    is_integer_size,
    lent_read,
    lent_write,
    open_bus_value,
    wrong_size,
)
from ._owner cimport TablesOwner, pin, unpin
from ._platform cimport dbs_bytes_of_integer, dbs_generation_load, dbs_integer_of_bytes
from ._tables cimport MMIO, PIO, IoTables, RangeEntry, Ranges, Slot, Space


# ----------------------------------------------------------------------------- one access


cdef int raise_wrong_size(size_t size, Space space) except -1 with gil:
    raise wrong_size(size, space)


cdef int raise_empty_access() except -1 with gil:
    raise ValueError("an access takes at least 1 byte")


# A device may keep the view that it is given, so that it is never given the memory of a C caller: it works on a copy,
# which is lent again only when nobody can reach it.

cdef int python_read(PyObject *borrowed, uint64_t address, uint8_t *data, size_t size) except -1 with gil:
    cdef RangeEntry entry = <RangeEntry>borrowed
    cdef uint8_t integer[8]
    cdef bytearray copy
    if is_integer_size(size, MMIO):
        lent_read(entry, address, integer, size)
        memcpy(data, integer, size)
        return 0
    copy = bytearray(size)
    _export = memoryview(copy)  # keeps the size as it is, even if the device releases its own view
    call_read(entry, address, memoryview(copy))
    memcpy(data, <char *>copy, size)
    return 0


cdef int python_write(PyObject *borrowed, uint64_t address, const uint8_t *data, size_t size) except -1 with gil:
    cdef RangeEntry entry = <RangeEntry>borrowed
    if is_integer_size(size, MMIO):
        return lent_write(entry, address, data, size)
    return call_write(entry, address, memoryview((<const char *>data)[:size]))


# Inline, with the space as a constant: each function below is then one path without a call but that of the device.

cdef inline int load(
    IoTables tables, Ranges *ranges, Space space, uint64_t address, size_t size, uint64_t *value
) except -1 nogil:
    cdef uint8_t data[8]
    cdef const Slot *slot
    cdef size_t index
    if not is_integer_size(size, space):
        raise_wrong_size(size, space)
    if not find_access(tables, ranges, address, size, &index):
        value[0] = open_bus_value(tables, size)
        return 1
    slot = &ranges.slots[index]
    value[0] = 0
    memset(data, 0, 8)
    if slot.read != NULL:
        slot.read(slot.target, ranges.bases[index], address - ranges.bases[index], data, size)
    else:
        python_read(slot.target, address, data, size)
    value[0] = dbs_integer_of_bytes(data, size, tables.big_endian)
    return 0


cdef inline int store(
    IoTables tables, Ranges *ranges, Space space, uint64_t address, size_t size, uint64_t value
) except -1 nogil:
    cdef uint8_t data[8]
    cdef const Slot *slot
    cdef size_t index
    if not is_integer_size(size, space):
        raise_wrong_size(size, space)
    if not find_access(tables, ranges, address, size, &index):
        return 1
    slot = &ranges.slots[index]
    dbs_bytes_of_integer(value, size, tables.big_endian, data)
    if slot.write != NULL:
        return slot.write(slot.target, ranges.bases[index], address - ranges.bases[index], data, size)
    return python_write(slot.target, address, data, size)


cdef inline int read(IoTables tables, Ranges *ranges, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    cdef const Slot *slot
    cdef size_t index
    if size == 0:
        raise_empty_access()
    if not find_access(tables, ranges, address, size, &index):
        fill(data, size, tables.open_bus if tables.open_bus >= 0 else 0)
        return 1
    slot = &ranges.slots[index]
    clear(data, size)
    if slot.read != NULL:
        return slot.read(slot.target, ranges.bases[index], address - ranges.bases[index], data, size)
    return python_read(slot.target, address, data, size)


cdef inline int write(
    IoTables tables, Ranges *ranges, uint64_t address, const uint8_t *data, size_t size
) except -1 nogil:
    cdef const Slot *slot
    cdef size_t index
    if size == 0:
        raise_empty_access()
    if not find_access(tables, ranges, address, size, &index):
        return 1
    slot = &ranges.slots[index]
    if slot.write != NULL:
        return slot.write(slot.target, ranges.bases[index], address - ranges.bases[index], data, size)
    return python_write(slot.target, address, data, size)


# ----------------------------------------------------------------------------- on held tables


cdef uint32_t c_abi_version() noexcept nogil:
    return DBS_DEVICE_ABI_VERSION


cdef bint c_tables_are_current(TablesOwner manager, IoTables tables) noexcept nogil:
    return dbs_generation_load(&manager._generation) == tables.generation


cdef int c_mmio_load(IoTables tables, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    return load(tables, &tables.mmio.ranges, MMIO, address, size, value)


cdef int c_mmio_store(IoTables tables, uint64_t address, size_t size, uint64_t value) except -1 nogil:
    return store(tables, &tables.mmio.ranges, MMIO, address, size, value)


cdef int c_mmio_read(IoTables tables, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    return read(tables, &tables.mmio.ranges, address, data, size)


cdef int c_mmio_write(IoTables tables, uint64_t address, const uint8_t *data, size_t size) except -1 nogil:
    return write(tables, &tables.mmio.ranges, address, data, size)


cdef int c_pio_in(IoTables tables, uint64_t port, size_t size, uint64_t *value) except -1 nogil:
    return load(tables, &tables.pio.ranges, PIO, port, size, value)


cdef int c_pio_out(IoTables tables, uint64_t port, size_t size, uint64_t value) except -1 nogil:
    return store(tables, &tables.pio.ranges, PIO, port, size, value)


cdef int c_pio_read(IoTables tables, uint64_t port, uint8_t *data, size_t size) except -1 nogil:
    return read(tables, &tables.pio.ranges, port, data, size)


cdef int c_pio_write(IoTables tables, uint64_t port, const uint8_t *data, size_t size) except -1 nogil:
    return write(tables, &tables.pio.ranges, port, data, size)


# ----------------------------------------------------------------------------- on a manager


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
