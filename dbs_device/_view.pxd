cimport cython

from ._owner cimport TablesOwner
from ._tables cimport RangeTable, Space


@cython.final
cdef class Bus:
    cdef object __weakref__
    cdef TablesOwner _owner
    cdef Space _space

    cdef RangeTable table(self)


cdef tuple mapped_ranges(list entries)
cdef Bus new_bus(TablesOwner owner, Space space)
