from libc.stdint cimport uint8_t, uint64_t

from .adapters cimport Adapter, Inner
from .tables cimport SpaceId


cdef class AccessRule(Adapter):
    cdef object _arguments
    cdef uint64_t _sizes  # bit n: an access of n bytes is passed
    cdef size_t _smallest
    cdef size_t _largest
    cdef bint _raise_unaligned
    cdef bint _pass_unaligned
    cdef bint _raise_wide
    cdef bint _raise_narrow

    cdef size_t piece_at(self, uint64_t offset, size_t size) noexcept nogil
    cdef int refusal(self, uint64_t offset, size_t size) noexcept nogil
    cdef int read_by_rule(self, Inner inner, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept nogil
    cdef int write_by_rule(
        self, Inner inner, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) noexcept nogil


cdef struct Decode:
    uint64_t mask
    uint64_t match
    void *mmio
    void *pio


cdef class PartialDecode(Adapter):
    cdef Decode *_decodes
    cdef size_t _count
    cdef tuple _arguments
    cdef int _open_bus

    cdef int read_all(
        self, SpaceId space, uint64_t base, uint64_t offset, uint8_t *data, size_t size
    ) noexcept nogil
    cdef int write_all(
        self, SpaceId space, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) noexcept nogil
