from libc.stdint cimport uint8_t, uint64_t


cdef class NativeDevice:
    cdef object __weakref__

    # Part of the binary interface. A subclass's own methods come right after these: none can be added to a version.
    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil
    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil
    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil
    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil
