from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from ._platform cimport dbs_hint


cdef enum Kind:
    MMIO_LOAD
    MMIO_STORE
    PIO_IN
    PIO_OUT


# What several handles have in common: the tables that they work on, and what went wrong.
cdef struct Engine:
    PyObject *owner  # a TablesOwner
    PyObject *exceptions  # a list
    dbs_hint kept  # length of the list, to be read without the GIL
    # Called, where they are not NULL, after an exception was kept, and for an access that nobody answers.
    int (*stop)(void *argument) noexcept nogil
    void *stop_argument
    void (*unowned)(Engine *engine, Kind kind, uint64_t address, size_t size) noexcept nogil


cdef struct Handle:
    Engine *engine
    uint64_t base


cdef uint64_t access(Handle *handle, Kind kind, uint64_t address, size_t size, uint64_t value) noexcept nogil
cdef int keep(Engine *engine, object error) except -1
cdef object take_oldest(Engine *engine)
