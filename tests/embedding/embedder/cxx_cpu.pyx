# distutils: language = c++
"""Cython in C++ mode: memory in a C++ container as a device, and a loop that copies through the bus."""

from libc.stdint cimport uint8_t, uint64_t
from libcpp.unordered_map cimport unordered_map

from dbs_device._bus cimport (
    IoManager,
    IoTables,
    NativeDevice,
    c_check_abi,
    c_manager_mmio_load,
    c_mmio_read,
    c_mmio_store,
    c_mmio_write,
    c_tables_are_current,
)

c_check_abi()


cdef class SparseMemory(NativeDevice):
    """Bytes that exist once they were written."""

    cdef unordered_map[uint64_t, uint8_t] contents

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        cdef size_t i
        for i in range(size):
            if self.contents.count(offset + i):
                data[i] = self.contents[offset + i]
        return 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        cdef size_t i
        for i in range(size):
            self.contents[offset + i] = data[i]
        return 0

    def __len__(self):
        return self.contents.size()


def fill_and_copy(IoManager manager, uint64_t source, uint64_t target, uint64_t words):
    """Store 1, 2, ... from `source` on, copy that to `target` by buffers; return the sum of what is there then."""
    cdef IoTables tables = manager.tables()
    cdef uint64_t i, value = 0, total = 0
    cdef uint8_t data[8]
    with nogil:
        for i in range(words):
            c_mmio_store(tables, source + 8 * i, 8, i + 1)
            c_mmio_read(tables, source + 8 * i, data, 8)
            c_mmio_write(tables, target + 8 * i, data, 8)
            c_manager_mmio_load(manager, target + 8 * i, 8, &value)
            total += value
    assert c_tables_are_current(manager, tables)
    return total
