"""Recorded accesses in memory: a growing array that is appended to in C."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyTypeObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .lock cimport fork_count
from .monotonic cimport dbs_clock_ns, dbs_clock_start
from .platform cimport (
    dbs_hint_load,
    dbs_hint_store,
    dbs_keep_thread_state,
    dbs_spinlock_acquire,
    dbs_spinlock_init,
    dbs_spinlock_release,
)
from .tables cimport PIO, SpaceId

import operator

import numpy as np

__all__ = ["AccessLog"]


cdef extern from "Python.h":
    bint PyObject_TypeCheck(object value, PyTypeObject *type_) nogil


cdef int raise_no_memory() except -1 nogil:
    with gil:
        dbs_keep_thread_state()
        raise MemoryError


cdef class AccessLog:
    """Accesses in the order in which they were appended.

    They are kept in blocks that never move, each twice as long as the one before: appending is O(1), without copies.

    Parameters
    ----------
    enabled : bool
        Whether accesses are appended.

    Notes
    -----
    The lock is held for one row, the reading of the clock included, so that times do not run backwards.
    """

    def __cinit__(self, *args, **kwargs):
        dbs_spinlock_init(&self._lock)
        dbs_hint_store(&self._enabled, 1)
        self._long_values = []
        dbs_clock_start(&self._clock)

    def __dealloc__(self):
        for index in range(self._block_count):
            free(self._blocks[index])

    @property
    def enabled(self):
        """bool : whether accesses are recorded; may be changed at any time."""
        return dbs_hint_load(&self._enabled) != 0

    @enabled.setter
    def enabled(self, value):
        dbs_hint_store(&self._enabled, bool(value))

    def __len__(self):
        return self.count()

    cdef size_t count(self) noexcept nogil:
        """Return the number of rows."""
        cdef size_t count
        dbs_spinlock_acquire(&self._lock, fork_count)
        count = FIRST_BLOCK * ((<size_t>1 << self._block_count) - 1) - <size_t>(self._end - self._next)
        dbs_spinlock_release(&self._lock)
        return count

    cdef int add_row(self, SpaceId space, bint write, uint64_t address, uint64_t size, uint64_t value) except -1 nogil:
        cdef Row *row
        cdef uint32_t block_count
        dbs_spinlock_acquire(&self._lock, fork_count)
        while self._next == self._end:
            block_count = self._block_count
            dbs_spinlock_release(&self._lock)
            self.grow(block_count)
            dbs_spinlock_acquire(&self._lock, fork_count)
        row = self._next
        row.t_ns = dbs_clock_ns(&self._clock)
        row.space = <uint8_t>space
        row.write = write
        row.addr = address
        row.size = size
        row.value = value
        self._next = row + 1
        dbs_spinlock_release(&self._lock)
        return 0

    cdef int grow(self, uint32_t block_count) except -1 nogil:
        """Add a block after `block_count` ones, unless another thread has; the caller does not hold the lock."""
        cdef size_t length = <size_t>FIRST_BLOCK << block_count
        cdef Row *block = NULL
        if block_count < MOST_BLOCKS:
            block = <Row *>malloc(length * sizeof(Row))
        if block == NULL:
            return raise_no_memory()
        dbs_spinlock_acquire(&self._lock, fork_count)
        if self._next == self._end and self._block_count == block_count:
            self._blocks[block_count] = block
            self._block_count = block_count + 1
            self._next = block
            self._end = block + length
            block = NULL
        dbs_spinlock_release(&self._lock)
        free(block)
        return 0

    def clear(self):
        """Discard the records. The clock is not reset."""
        cdef Row *blocks[MOST_BLOCKS]
        cdef uint32_t block_count
        cdef list long_values = []
        with cython.critical_section(self):
            dbs_spinlock_acquire(&self._lock, fork_count)
            memcpy(blocks, self._blocks, sizeof(blocks))
            block_count = self._block_count
            self._block_count = 0
            self._next = NULL
            self._end = NULL
            dbs_spinlock_release(&self._lock)
            self._long_values = long_values
            for index in range(block_count):
                free(blocks[index])

    cdef void copy_rows(self, Row *rows, size_t count) noexcept:
        """Copy the first rows. While the caller holds the GIL, `clear` does not free them."""
        cdef uint32_t index = 0
        cdef size_t length
        while count != 0:
            length = min(<size_t>FIRST_BLOCK << index, count)
            memcpy(rows, self._blocks[index], length * sizeof(Row))
            rows += length
            count -= length
            index += 1

    def _snapshot(self):
        """Return a copy of the rows, as an array of bytes, and the long values, to which more may be appended."""
        cdef size_t count = self.count()
        cdef size_t copied
        cdef uint8_t[::1] rows
        array = np.empty(count * sizeof(Row), np.uint8)  # this may run Python code, which may clear
        if count == 0:
            return array, []
        rows = array
        with cython.critical_section(self):
            copied = min(count, self.count())
            self.copy_rows(<Row *>&rows[0], copied)
            long_values = self._long_values
        return array[: copied * sizeof(Row)], long_values

    def _append(self, SpaceId space, bint write, address, size, value):
        """Append an access that was served: its numbers are right, and may be anything that is an index."""
        if dbs_hint_load(&self._enabled) == 0:
            return
        if not PyLong_CheckExact(address):
            address = operator.index(address)
        if not PyLong_CheckExact(size):
            size = operator.index(size)
        if not PyLong_CheckExact(value):
            value = operator.index(value)
        if size <= LONGEST_IN_ROW:
            self.add_row(space, write, address, size, value)
        else:
            self._append_long(space, write, address, value.to_bytes(size, "little"))

    def _append_bytes(self, SpaceId space, bint write, address, bytes contents, bint is_big):
        """Append an access that was served, whose value is that of `contents` in an order."""
        cdef uint64_t value = 0
        cdef Py_ssize_t size = PyBytes_GET_SIZE(contents), index
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(contents)
        if dbs_hint_load(&self._enabled) == 0:
            return
        if not PyLong_CheckExact(address):
            address = operator.index(address)
        if size > LONGEST_IN_ROW:
            self._append_long(space, write, address, contents[::-1] if is_big else contents)
            return
        for index in range(size):
            value = value << 8 | data[index if is_big else size - 1 - index]
        self.add_row(space, write, address, size, value)

    def _append_long(self, SpaceId space, bint write, uint64_t address, bytes contents):
        # A row refers to the value by its index. Nothing runs between the two that could clear or append.
        with cython.critical_section(self):
            self._long_values.append(contents)
            self.add_row(space, write, address, len(contents), len(self._long_values) - 1)


cdef int raise_not_recordable(object recorder, SpaceId space, uint64_t address, size_t size) except -1 nogil:
    with gil:
        dbs_keep_thread_state()
        if not isinstance(recorder, AccessLog):
            raise TypeError(f"a TraceRecorder is required, not {type(recorder).__name__}")
        if size - 1 >= LONGEST_IN_ROW:
            raise ValueError(f"a recorded access has 1 to {LONGEST_IN_ROW} bytes, not {size}")
        raise OverflowError(f"PIO address {address:#x} is outside 0x0..0xffff")


cdef int append_checked(
    object recorder, SpaceId space, bint write, uint64_t address, size_t size, uint64_t value
) except -1 nogil:
    """Append an access of 1 to 8 bytes that was served, from an embedder; the value is masked to them."""
    if (
        not PyObject_TypeCheck(recorder, <PyTypeObject *>AccessLog)
        or size - 1 >= LONGEST_IN_ROW
        or (space == PIO and address > 0xFFFF)
    ):
        return raise_not_recordable(recorder, space, address, size)
    return append(<AccessLog>recorder, space, write, address, size, value & (<uint64_t>-1 >> (64 - 8 * size)))
