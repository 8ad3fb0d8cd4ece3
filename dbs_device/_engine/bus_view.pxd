cimport cython

from .tables cimport PublishedTables, RangeTable, SpaceId


@cython.final
cdef class Bus:
    cdef object __weakref__
    cdef object _manager
    cdef PublishedTables _published
    cdef SpaceId _space

    cdef RangeTable table(self)


cdef Bus new_bus(object manager, SpaceId space)
