cimport cython

from ._changes cimport TableChanges
from ._owner cimport TablesOwner
from ._tables cimport Space


@cython.final
cdef class Transaction:
    cdef object __weakref__
    cdef TablesOwner _owner
    cdef TableChanges _pio
    cdef TableChanges _mmio
    cdef unsigned long _thread
    cdef bint _open

    cdef int check_open(self) except -1
    cdef int finish(self) except -1
    cdef void forget_changes(self) noexcept
    cdef int let_others_in(self) except -1
    cdef TableChanges changes(self, Space space)
    cdef int add_entries(self, list entries) except -1
    cdef int remove_ranges(self, list ranges) except -1


cdef Transaction begin_transaction(TablesOwner owner)
cdef list new_entries(object device, object resources)
