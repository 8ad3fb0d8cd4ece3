cimport cython
from libc.stdint cimport uint8_t, uint64_t

from .tables cimport IoTables, PublishedTables, SpaceId


@cython.final
cdef class Batch:
    cdef PublishedTables published
    cdef SpaceId space
    cdef size_t size
    cdef size_t count
    cdef size_t done
    # What an access works on: each has an address or all have the first, and a value or a piece of a string.
    cdef const uint64_t *addresses
    cdef Py_ssize_t address_step
    cdef uint64_t *values
    cdef uint8_t *string
    cdef bint is_store

    cdef object load_each(self, object addresses)
    cdef int store_each(self, object addresses, object values) except -1
    cdef int run_arrays(self, object addresses, object values) except -1
    cdef int run_string(self, uint64_t port, object data, bint is_store) except -1
    cdef int run(self) except -1
    cdef int run_on(self, IoTables tables) except -1 nogil
    cdef int run_one_on(self, IoTables tables) noexcept nogil
    cdef int run_string_on(self, IoTables tables) noexcept nogil
    cdef uint64_t address(self) noexcept nogil


cdef int in_string(
    PublishedTables published, IoTables tables, uint64_t port, size_t size, uint8_t *data, size_t count, size_t *done
) noexcept nogil
cdef int out_string(
    PublishedTables published,
    IoTables tables,
    uint64_t port,
    size_t size,
    const uint8_t *data,
    size_t count,
    size_t *done,
) noexcept nogil

cdef Batch new_batch(PublishedTables published, SpaceId space, size_t size)
