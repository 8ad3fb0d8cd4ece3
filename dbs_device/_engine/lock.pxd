cimport cython
from libc.stdint cimport uint32_t


# Number of forks that led to this process. A lock that was acquired before the last one, by a thread that the child
# does not have, is free.
cdef uint32_t fork_count


@cython.final
cdef class ReentrantLock:
    cdef object __weakref__
    cdef object _gate  # a threading.Lock, locked except while a waiting thread is being woken
    cdef unsigned long _owner  # identity of the thread that holds the lock, or 0
    cdef size_t _depth
    cdef size_t _waiting
    cdef bint _woken  # whether the gate is open
    cdef uint32_t _fork_count

    cdef int lock(self) except -1
    cdef int unlock(self) except -1
    cdef bint try_lock(self) noexcept
