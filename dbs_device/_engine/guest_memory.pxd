from libc.stdint cimport uint8_t, uint64_t

from .memory cimport MemoryKind
from .tables cimport IoTables, PublishedTables


cdef MemoryKind memory_at(IoTables tables, uint64_t address, uint8_t **pointer, uint64_t *last) noexcept nogil


cdef class GuestMemory:
    cdef object _manager
    cdef PublishedTables _published
    cdef size_t _width

    cdef int transfer(self, uint64_t address, uint8_t *data, size_t size, bint write) except -1
    cdef int transfer_on(
        self, IoTables tables, uint64_t address, uint8_t *data, size_t size, size_t *done, bint write
    ) except -1 nogil
    cdef size_t piece_at(self, IoTables tables, uint64_t address, size_t size) noexcept nogil
