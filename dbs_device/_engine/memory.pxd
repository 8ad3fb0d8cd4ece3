from libc.stdint cimport uint8_t, uint64_t

from .native cimport NativeDevice


cdef class HostMemory(NativeDevice):
    # The buffer is held as a Py_buffer, not as a memoryview: a view could be released, and cleared by the garbage
    # collector, while the bus still reads through `_start`.
    cdef Py_buffer _buffer
    cdef uint8_t *_start
    cdef uint64_t _size
    cdef bint _readonly

    cdef int hold(self, object contents, bint writable) except -1
    cdef bytes contents_of(self, object state)


cdef class Ram(HostMemory):
    pass


cdef class Rom(HostMemory):
    cdef object _on_write


cdef enum MemoryKind:
    NO_MEMORY = 0
    RAM = 1  # reads and writes may go to the host's memory
    ROM = 2  # only reads


cdef MemoryKind memory_kind(void *read, void *write) noexcept nogil
