cimport cython
from libc.stdint cimport uint8_t


cdef object open_view(object data, bint for_read)
cdef object flat_view_of(object data, object view, bint for_read)


@cython.final
cdef class Scratch:
    cdef uint8_t memory[8]
    cdef size_t size
    cdef bint for_read
    cdef object view


cdef Scratch lend(size_t size, bint for_read)
cdef int take_back(Scratch scratch) except -1
