cimport cython
from libc.stdint cimport uint8_t, uint64_t

from .memory cimport HostMemory, MemoryKind
from .native cimport NativeDevice
from .tables cimport RangeEntry, Slot, SpaceId


@cython.final
@cython.no_gc_clear
cdef class Inner:
    cdef RangeEntry entry  # of the device, at the base of the last access; replaced, never changed
    cdef Slot slot
    cdef bint big_endian  # whether the bus is, for devices without an order of their own

    cdef int read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept nogil
    cdef int write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) noexcept nogil
    cdef RangeEntry entry_of(self, uint64_t base)


cdef class Adapter(NativeDevice):
    cdef tuple _devices
    cdef list _inners  # of all devices and both spaces
    cdef bint _is_bound  # to the byte order of a bus
    # Those of the one device of an adapter.
    cdef Inner _mmio
    cdef Inner _pio

    cdef int set_device(self, object device) except -1
    cdef int check_is_new(self) except -1
    cdef int bind(self, bint big_endian) except -1
    cdef int check_reach(self, SpaceId space, uint64_t base, uint64_t last, uint64_t reach) except -1


cdef class Alias(Adapter):
    cdef uint64_t _offset
    # Where the device is memory: what it is, and the byte at the offset.
    cdef MemoryKind _kind
    cdef uint8_t *_start


cdef class Mirror(Adapter):
    cdef uint64_t _mask
    cdef size_t _block

    cdef size_t in_one_piece(self, uint64_t offset, size_t size) noexcept nogil
    cdef int read_pieces(self, Inner inner, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept nogil
    cdef int write_pieces(
        self, Inner inner, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) noexcept nogil


cdef Inner new_inner(SpaceId space, object device)
cdef int prepare(object device, list ranges, bint big_endian) except -1
cpdef bint is_memory(object device) except -1
cdef HostMemory memory_behind(object device)
cdef MemoryKind host_memory(const Slot *slot, uint8_t **start) noexcept nogil
