"""The log of accesses that recorders, bridges and embedders append to, without the GIL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .monotonic cimport dbs_clock
from .platform cimport dbs_hint, dbs_hint_load, dbs_spinlock
from .tables cimport SpaceId


cdef enum:
    LONGEST_IN_ROW = 8  # bytes
    FIRST_BLOCK = 1024  # rows; each further block is twice as long
    MOST_BLOCKS = 48  # more rows than an address space has bytes


cdef packed struct Row:  # ACCESS_DTYPE
    uint64_t t_ns
    uint8_t space
    uint8_t write
    uint64_t addr
    uint64_t size
    uint64_t value  # of more than 8 bytes: its index in `long_values`


cdef class AccessLog:
    cdef dbs_hint _enabled
    cdef dbs_spinlock _lock  # guards all of the following
    cdef dbs_clock _clock
    cdef Row *_next
    cdef Row *_end
    cdef Row *_blocks[MOST_BLOCKS]
    cdef uint32_t _block_count
    cdef list _long_values

    cdef size_t count(self) noexcept nogil
    cdef void copy_rows(self, Row *rows, size_t count) noexcept
    cdef int grow(self, uint32_t block_count) except -1 nogil
    cdef int add_row(self, SpaceId space, bint write, uint64_t address, uint64_t size, uint64_t value) except -1 nogil


cdef inline int append(
    AccessLog log, SpaceId space, bint write, uint64_t address, size_t size, uint64_t value
) except -1 nogil:
    """Append an access of at most 8 bytes that was served, if the log is enabled.

    The address is one of the space, and the value has no more than `size` bytes: see `append_checked`. Any thread may
    call this, with or without the GIL. It runs no Python code, so that neither a finaliser nor a signal handler comes
    in between. Raises `MemoryError`.
    """
    if dbs_hint_load(&log._enabled) == 0:
        return 0
    return log.add_row(space, write, address, size, value)


cdef int append_checked(
    object recorder, SpaceId space, bint write, uint64_t address, size_t size, uint64_t value
) except -1 nogil
