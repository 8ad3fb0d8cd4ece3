cimport cython
from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t


cdef int open_buffer(object data, bint for_read, Py_buffer *buffer) except -1
cdef object view_of(object data, bint for_read, Py_buffer *buffer)


@cython.final
cdef class Scratch:
    cdef uint8_t memory[8]
    cdef size_t size
    cdef bint for_read
    cdef object view


cdef Scratch lend(size_t size, bint for_read)
cdef int take_back(Scratch scratch) except -1
