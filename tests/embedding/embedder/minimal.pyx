"""The least that an embedder writes: one device, one loop, and the check of the binary interface."""

from libc.stdint cimport uint8_t, uint64_t

from dbs_device._bus cimport IoManager, IoTables, NativeDevice, c_check_abi, c_mmio_load, c_tables_are_current

c_check_abi()


cdef class Counter(NativeDevice):
    """Counts how often it is read."""

    cdef uint64_t reads

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        self.reads += 1
        data[0] = <uint8_t>self.reads
        return 0


def sum_of_loads(IoManager manager, uint64_t address, uint64_t count):
    """Load the byte at `address` `count` times, without the GIL, and return the sum."""
    cdef IoTables tables = manager.tables()
    cdef uint64_t value = 0, total = 0
    with nogil:
        for _ in range(count):
            if not c_tables_are_current(manager, tables):
                with gil:
                    tables = manager.tables()
            c_mmio_load(tables, address, 1, &value)
            total += value
    return total
