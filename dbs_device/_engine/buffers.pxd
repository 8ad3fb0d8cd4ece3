cimport cython
from libc.stdint cimport uint8_t


cdef object plain_view(object data, bint writable, str taker)
cdef object open_view(object data, bint for_read)
cdef object flat_view_of(object data, object view, bint for_read)


@cython.final
cdef class BounceBuffer:
    cdef uint8_t memory[8]
    cdef size_t size
    cdef bint for_read
    cdef object view


cdef BounceBuffer borrow_bounce_buffer(size_t size, bint for_read)
cdef void return_bounce_buffer(BounceBuffer bounce) noexcept
