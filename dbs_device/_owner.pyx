"""What an `IoManager` has mapped now: one pointer to a pair of tables, which a change replaces."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

from ._platform cimport (
    dbs_generation_load,
    dbs_generation_store,
    dbs_spinlock_acquire,
    dbs_spinlock_init,
    dbs_spinlock_release,
)
from ._tables cimport MMIO, PIO, IoTables, RangeTable, empty_table, new_tables

import threading


cdef class TablesOwner:
    """The state of an `IoManager`, of which it is the base class."""

    def __cinit__(self, *args, **kwargs):
        cdef IoTables tables = IoTables.__new__(IoTables)
        tables.pio = empty_table(PIO)
        tables.mmio = empty_table(MMIO)
        tables.open_bus = -1
        self._tables = tables
        dbs_generation_store(&self._generation, 0)
        dbs_spinlock_init(&self._spinlock)
        self._writer_lock = threading.Lock()
        self._thread_exit_guard = threading.local()
        self._callbacks = {}

    cdef int swap(self, RangeTable pio, RangeTable mmio, IoTables options) except -1:
        """Replace the pair of tables by a new one, in one step for both buses."""
        cdef IoTables new = new_tables(pio, mmio, options, dbs_generation_load(&self._generation) + 1)
        cdef IoTables old = self._tables
        with cython.critical_section(self):
            dbs_spinlock_acquire(&self._spinlock)
            self._tables = new
            if old.pins != 0:
                # The last call that uses the old pair without the GIL lets it go: see `unpin`.
                old.retired = True
                Py_INCREF(old)
            dbs_spinlock_release(&self._spinlock)
        dbs_generation_store(&self._generation, new.generation)
        return 0


cdef PyObject *pin(TablesOwner owner) noexcept nogil:
    """Keep the owner's tables for a call without the GIL, which cannot take a reference to them."""
    cdef PyObject *tables
    dbs_spinlock_acquire(&owner._spinlock)
    tables = <PyObject *>owner._tables
    owner._tables.pins = owner._tables.pins + 1
    dbs_spinlock_release(&owner._spinlock)
    return tables


cdef void unpin(TablesOwner owner, PyObject *tables) noexcept nogil:
    cdef bint let_go
    dbs_spinlock_acquire(&owner._spinlock)
    (<IoTables>tables).pins = (<IoTables>tables).pins - 1
    let_go = (<IoTables>tables).pins == 0 and (<IoTables>tables).retired
    dbs_spinlock_release(&owner._spinlock)
    if let_go:
        release_reference(tables)


cdef void release_reference(PyObject *tables) noexcept with gil:
    Py_DECREF(<object>tables)
