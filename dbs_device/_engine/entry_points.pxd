cdef int exception_is_set() except -1
cdef void report_unraisable(object error, object owner) noexcept
