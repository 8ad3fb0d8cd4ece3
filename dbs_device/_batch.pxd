from ._tables cimport RangeTable


cdef object find_ranges(RangeTable table, object addresses)
