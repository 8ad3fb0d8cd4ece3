"""Replaying a trace: its accesses, made in order on held tables, and the comparison of what is read."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_FromSize_t
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc

from .access cimport c_read, c_write, is_integer_size, load_by, raise_unowned, ranges_of, store_by
from .platform cimport dbs_keep_thread_state
from .recording cimport LONGEST_IN_ROW, AccessLog, Row, append
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    PublishedTables,
    Ranges,
    SpaceId,
    are_current,
    current_tables,
    published_tables_of,
)

import numpy as np

__all__ = ["Replay"]


cdef enum:
    ACCESSES_BETWEEN_SIGNALS = 1 << 16


# Why `run_on` returns.
cdef enum Stop:
    FAILED = -1  # an exception is set
    PAUSED = 0  # all are done, or the tables are no longer current
    UNOWNED = 1  # and the bus is not open
    IMPOSSIBLE = 2
    DIFFERENT = 3  # the access before was the first one that differs


# A copy of a row, which another thread may change. Copied field by field: a processor does not forward the stores of a
# copy in larger pieces to loads that straddle them.
cdef struct Access:
    SpaceId space
    bint write
    uint64_t address
    size_t size
    uint64_t value


cdef inline bint is_possible(const Access *access, size_t long_size) noexcept nogil:
    """Return whether a Trace accepts the access. It has, but its array may have been changed since."""
    if access.space > MMIO or (access.space == PIO and access.address > 0xFFFF) or access.size == 0:
        return False
    if access.size <= LONGEST_IN_ROW:
        return access.size == LONGEST_IN_ROW or access.value >> (8 * access.size) == 0
    return access.value <= long_size and access.size <= long_size - access.value


@cython.final
cdef class Replay:
    """One replay.

    Parameters
    ----------
    manager : IoManager
        Serves the accesses.
    rows : numpy.ndarray
        The accesses, as C-contiguous bytes.
    long_values : bytes
        Those of the trace.
    compared : numpy.ndarray
        C-contiguous, uint8, one per access: whether it is a read whose value is compared.
    log : AccessLog or None
        Records what is replayed.

    Attributes
    ----------
    done : int
        Number of accesses made: the index of the one that has raised, if one has.
    reads_compared : int
        How many of them were compared.
    actual : int or None
        The value of the first read that differed.
    """

    cdef PublishedTables published
    cdef AccessLog log
    cdef bytes long_values_owner
    cdef const uint8_t *long_values
    cdef size_t long_size
    cdef const uint8_t[::1] rows_owner
    cdef const uint8_t[::1] compared_owner
    cdef size_t[::1] differing_owner
    cdef const Row *rows
    cdef const uint8_t *compared
    cdef size_t count
    cdef readonly size_t done
    cdef readonly size_t reads_compared
    cdef readonly object actual
    cdef size_t *differing  # room for as many as are compared
    cdef size_t difference_count
    cdef Access access  # the last one, with the value in the trace
    cdef uint64_t value  # what the last one has read or written
    cdef uint8_t *memory  # of the access, if no integer has its size
    cdef size_t memory_size

    def __init__(self, manager, rows, bytes long_values not None, compared, log):
        self.published = published_tables_of(manager)
        self.log = log
        self.long_values_owner = long_values
        self.long_values = <const uint8_t *>PyBytes_AS_STRING(long_values)
        self.long_size = <size_t>PyBytes_GET_SIZE(long_values)
        self.rows_owner = rows
        self.compared_owner = compared
        self.differing_owner = np.empty(np.count_nonzero(compared), np.uintp)
        self.count = <size_t>self.compared_owner.shape[0]
        if <size_t>self.rows_owner.shape[0] != self.count * sizeof(Row):
            raise ValueError(f"{self.rows_owner.shape[0]} bytes are not {self.count} accesses")
        if self.count != 0:
            self.rows = <const Row *>&self.rows_owner[0]
            self.compared = &self.compared_owner[0]
        if self.differing_owner.shape[0] != 0:
            self.differing = &self.differing_owner[0]

    def __dealloc__(self):
        free(self.memory)

    def differences(self):
        """Return the indices of the reads that differed, as a tuple."""
        cdef tuple indices = PyTuple_New(<Py_ssize_t>self.difference_count)
        cdef Py_ssize_t place
        for place in range(<Py_ssize_t>self.difference_count):
            index = PyLong_FromSize_t(self.differing[place])
            Py_INCREF(index)  # the tuple takes one reference
            PyTuple_SET_ITEM(indices, place, index)
        return indices

    def run(self, bint stop_at_first):
        """Make the accesses.

        The GIL is taken only for Python devices. A change that a device makes to the map applies from the next access
        on.
        """
        cdef size_t end
        cdef IoTables tables
        cdef Stop stop
        while self.done < self.count:
            PyErr_CheckSignals()
            end = min(self.count, self.done + ACCESSES_BETWEEN_SIGNALS)
            tables = current_tables(<PyObject *>self.published)
            with nogil:
                stop = self.run_on(tables, end)
            if stop == FAILED:
                exception_is_set()
            elif stop == UNOWNED:
                raise_unowned(tables, ranges_of(tables, self.access.space), self.access.address, self.access.size)
            elif stop == IMPOSSIBLE:
                raise RuntimeError("the trace was changed while it was replayed, to one with an impossible access")
            elif stop == DIFFERENT:
                self.keep_actual(tables.options.big_endian)
                if stop_at_first:
                    break

    cdef Stop run_on(self, IoTables tables, size_t end) noexcept nogil:
        cdef const Row *row
        cdef Access *access = &self.access
        cdef Ranges *ranges
        cdef int result
        # Bounds: `done` < `end` <= `count`.
        while self.done < end and are_current(self.published, tables):
            row = &self.rows[self.done]
            self.access = Access(<SpaceId>row.space, row.write, row.addr, row.size, row.value)
            if not is_possible(access, self.long_size):
                return IMPOSSIBLE
            ranges = ranges_of(tables, access.space)
            self.value = access.value
            if not is_integer_size(access.size, access.space):
                result = self.access_memory(tables)
            elif access.write:
                result = store_by(False, tables, ranges, access.address, access.size, access.value)
            else:
                result = load_by(False, tables, ranges, access.address, access.size, &self.value)
            if result == -1:
                return FAILED
            if result == 1 and tables.options.open_bus < 0:
                return UNOWNED
            if self.log is not None and self.record(tables.options.big_endian) == -1:
                return FAILED
            self.done += 1
            if not self.compared[self.done - 1]:
                continue
            self.reads_compared += 1
            if self.differs(tables.options.big_endian):
                # Bounds: at most once for each item of `compared` that is not 0.
                self.differing[self.difference_count] = self.done - 1
                self.difference_count += 1
                if self.difference_count == 1:
                    return DIFFERENT
        return PAUSED

    cdef int access_memory(self, IoTables tables) noexcept nogil:
        """Make an access of a size that no integer has."""
        cdef Access *access = &self.access
        cdef bint big = tables.options.big_endian
        cdef uint8_t *memory
        cdef size_t index
        cdef int result
        if access.size > self.memory_size:
            memory = <uint8_t *>realloc(self.memory, access.size)
            if memory == NULL:
                return no_memory()
            self.memory = memory
            self.memory_size = access.size
        if access.write:
            for index in range(access.size):
                self.memory[place(index, access.size, big)] = self.expected_byte(index)
            return c_write(tables, access.space, access.address, self.memory, access.size)
        result = c_read(tables, access.space, access.address, self.memory, access.size)
        if access.size <= LONGEST_IN_ROW:
            self.value = 0
            for index in range(access.size):
                self.value |= <uint64_t>self.memory[place(index, access.size, big)] << 8 * index
        return result

    cdef uint8_t expected_byte(self, size_t index) noexcept nogil:
        """Return a byte of the value in the trace, the lowest first."""
        if self.access.size <= LONGEST_IN_ROW:
            return <uint8_t>(self.access.value >> 8 * index)
        return self.long_values[self.access.value + index]

    cdef bint differs(self, bint big) noexcept nogil:
        """Return whether the value that was read is not that of the trace."""
        cdef size_t index
        if self.access.size <= LONGEST_IN_ROW:
            return self.value != self.access.value
        for index in range(self.access.size):
            if self.memory[place(index, self.access.size, big)] != self.expected_byte(index):
                return True
        return False

    cdef int keep_actual(self, bint big) except -1:
        """Keep what the last access has read."""
        if self.access.size <= LONGEST_IN_ROW:
            self.actual = self.value
        else:
            self.actual = int.from_bytes(self.memory[: self.access.size], "big" if big else "little")
        return 0

    cdef int record(self, bint big) noexcept nogil:
        cdef Access *access = &self.access
        if access.size > LONGEST_IN_ROW:
            return self.record_long(big)
        return (<Append>append)(self.log, access.space, access.write, access.address, access.size, self.value)

    cdef int record_long(self, bint big) noexcept with gil:
        return (<int (*)(Replay, bint) noexcept>append_long)(self, big)


cdef int append_long(Replay replay, bint big) except -1:
    cdef Access *access = &replay.access
    replay.log._append_bytes(access.space, access.write, access.address, replay.memory[: access.size], big)
    return 0


cdef inline size_t place(size_t index, size_t size, bint big) noexcept nogil:
    """Return where the byte of a value's `index`-th lowest place is, in the order of the bus."""
    return size - 1 - index if big else index


# For a call as if nothing was raised; a result of -1 tells that something was.
ctypedef int (*Append)(
    AccessLog log, SpaceId space, bint write, uint64_t address, size_t size, uint64_t value
) noexcept nogil


cdef int exception_is_set() except -1:
    return -1


cdef int raise_no_memory() except -1:
    raise MemoryError


cdef int no_memory() noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)() noexcept>raise_no_memory)()
