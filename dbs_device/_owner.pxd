cimport cython
from cpython.object cimport PyObject

from ._platform cimport dbs_generation, dbs_spinlock
from ._tables cimport IoTables, RangeTable


cdef class TablesOwner:
    cdef object __weakref__
    cdef IoTables _tables
    cdef dbs_generation _generation
    cdef dbs_spinlock _spinlock  # guards the pointer `_tables`, and the pins of the pair
    cdef object _writer_lock
    cdef unsigned long _writer  # identity of the thread whose transaction is open, or 0
    cdef object _thread_exit_guard
    cdef dict _callbacks

    cdef int swap(self, RangeTable pio, RangeTable mmio, IoTables options) except -1


cdef inline IoTables current_tables(TablesOwner owner):
    cdef IoTables tables
    # Taking a reference out of an attribute that others replace needs a lock on free-threaded builds, and only there.
    with cython.critical_section(owner):
        tables = owner._tables
    if tables is None:
        raise ReferenceError("the IoManager has been cleared by the garbage collector")
    return tables


cdef PyObject *pin(TablesOwner owner) noexcept nogil
cdef void unpin(TablesOwner owner, PyObject *tables) noexcept nogil
