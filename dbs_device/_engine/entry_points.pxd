from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from .platform cimport dbs_hint


cdef enum Operation:
    MMIO_LOAD
    MMIO_STORE
    PIO_IN
    PIO_OUT


# The part that several handles share: the tables that they dispatch on, and the exceptions that are pending.
cdef struct Context:
    PyObject *published  # a PublishedTables
    PyObject *exceptions  # a list
    dbs_hint pending  # length of the list, to be read without the GIL
    # Called, where they are not NULL, after an exception was latched, and for an unowned access.
    int (*stop)(void *argument) noexcept nogil
    void *stop_argument
    void (*unowned)(Context *context, Operation operation, uint64_t address, size_t size) noexcept nogil


cdef struct Handle:
    Context *context
    uint64_t base


cdef uint64_t access(Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t value) noexcept nogil
cdef int latch(Context *context, object error) except -1
cdef object pop_oldest(Context *context)
cdef void report_unraisable(object error, object owner) noexcept
