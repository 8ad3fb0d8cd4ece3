"""Many addresses at once: look-ups and accesses that leave and enter Python once for all of them."""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from ._access cimport refuse_unless_open, value_of
from ._buffers cimport open_view
from ._dispatch cimport c_mmio_load, c_mmio_store, c_pio_read, c_pio_write
from ._owner cimport TablesOwner, current_tables
from ._platform cimport dbs_generation_load
from ._tables cimport PIO, IoTables, RangeTable, Ranges, Space, last_base_at_or_below

import numpy as np

from .errors import format_count


# ----------------------------------------------------------------------------- look-ups


cdef enum:
    # Look-ups that are made in step: each waits for its memory, and so they wait together. Eight fill the registers.
    LANES = 8


cdef object unsigned_array(object values, str name):
    """Return an array of unsigned integers as C-contiguous uint64; `TypeError` for another type."""
    array = np.asarray(values)
    if array.dtype.kind != "u":
        raise TypeError(f"{name} must be an array of unsigned integers (uint64), not of {array.dtype}")
    return np.ascontiguousarray(array, np.uint64).reshape(array.shape)


cdef object find_ranges(RangeTable table, object addresses):
    cdef object sought = unsigned_array(addresses, "addresses")
    cdef object found = np.empty(sought.shape, np.intp)
    cdef Py_buffer source, target
    PyObject_GetBuffer(sought, &source, PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(found, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        with nogil:
            find_each(
                &table.ranges,
                <const uint64_t *>source.buf,
                source.len // <Py_ssize_t>sizeof(uint64_t),
                <Py_ssize_t *>target.buf,
            )
        PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
    return found


cdef void find_each(
    const Ranges *ranges, const uint64_t *addresses, Py_ssize_t count, Py_ssize_t *indices
) noexcept nogil:
    """Bisect for LANES addresses in step, then for the rest one by one.

    Bounds as in `last_base_at_or_below`, of which this is the same loop.
    """
    cdef const uint64_t *bases = ranges.bases
    cdef size_t low[LANES]
    cdef size_t remaining, half
    cdef Py_ssize_t first = 0, lane
    cdef const uint64_t *sought
    while first + LANES <= count:
        sought = addresses + first
        for lane in range(LANES):
            low[lane] = 0
        remaining = ranges.count
        while remaining > 1:
            half = remaining >> 1
            for lane in range(LANES):
                low[lane] = low[lane] + half if bases[low[lane] + half] <= sought[lane] else low[lane]
            remaining -= half
        for lane in range(LANES):
            indices[first + lane] = index_if_owner(ranges, low[lane], sought[lane])
        first += LANES
    for first in range(first, count):
        indices[first] = index_if_owner(ranges, last_base_at_or_below(ranges, addresses[first]), addresses[first])


cdef inline Py_ssize_t index_if_owner(const Ranges *ranges, size_t index, uint64_t address) noexcept nogil:
    return <Py_ssize_t>index if ranges.bases[index] <= address <= ranges.slots[index].last else -1


# ----------------------------------------------------------------------------- accesses


cdef Batch new_batch(TablesOwner owner, Space space, size_t size):
    cdef Batch batch = Batch.__new__(Batch)
    batch.owner = owner
    batch.space = space
    batch.size = size
    return batch


@cython.final
cdef class Batch:
    """Accesses of one kind and size, made in order until one fails."""

    cdef object load_each(self, object addresses):
        cdef object sought = unsigned_array(addresses, "addresses")
        cdef object values = np.empty(sought.shape, np.uint64)
        self.run_arrays(sought, values)
        return values

    cdef int store_each(self, object addresses, object values) except -1:
        cdef object sought = unsigned_array(addresses, "addresses")
        cdef object stored = unsigned_array(values, "values")
        if sought.shape != stored.shape:
            raise ValueError(f"addresses have the shape {sought.shape}, values {stored.shape}")
        if stored.size != 0:
            value_of(int(stored.max()), self.size)
        self.is_store = True
        return self.run_arrays(sought, stored)

    cdef int run_arrays(self, object addresses, object values) except -1:
        cdef Py_buffer source, target
        PyObject_GetBuffer(addresses, &source, PyBUF_C_CONTIGUOUS)
        try:
            PyObject_GetBuffer(values, &target, PyBUF_C_CONTIGUOUS)
            try:
                self.count = source.len // <Py_ssize_t>sizeof(uint64_t)
                self.addresses = <const uint64_t *>source.buf
                self.address_step = 1
                self.values = <uint64_t *>target.buf
                return self.run()
            finally:
                PyBuffer_Release(&target)
        finally:
            PyBuffer_Release(&source)

    cdef int run_string(self, uint64_t port, object data, bint is_store) except -1:
        cdef object view = open_view(data, not is_store)
        cdef Py_buffer *buffer = PyMemoryView_GET_BUFFER(view)
        if buffer.len % <Py_ssize_t>self.size != 0:
            raise ValueError(
                f"string I/O of {format_count(self.size, 'byte')} at a time takes a multiple of that, "
                f"not {buffer.len:#x}"
            )
        self.count = buffer.len // <Py_ssize_t>self.size
        self.addresses = &port
        self.string = <uint8_t *>buffer.buf
        self.is_store = is_store
        return self.run()

    cdef int run(self) except -1:
        """Make all accesses. What the devices do to the map in between is followed."""
        cdef IoTables tables
        cdef Ranges *ranges
        cdef int result
        try:
            while self.done < self.count:
                tables = current_tables(self.owner)
                ranges = &tables.pio.ranges if self.space == PIO else &tables.mmio.ranges
                with nogil:
                    result = self.run_on(tables)
                if result != 0:
                    refuse_unless_open(tables, ranges, self.address(), self.size)
        except BaseException as error:
            error.accesses_done = self.done
            error.add_note(f"{self.done} of {self.count} accesses were done before this one")
            raise
        return 0

    cdef uint64_t address(self) noexcept nogil:
        return self.addresses[self.done * self.address_step]

    cdef int run_on(self, IoTables tables) except -1 nogil:
        """Make accesses until all are done, the tables are no longer current (0), or nobody answers one (1)."""
        cdef int result
        cdef uint8_t *piece
        cdef uint8_t before[8]
        while self.done < self.count and dbs_generation_load(&self.owner._generation) == tables.generation:
            if self.string != NULL:
                piece = self.string + self.done * <Py_ssize_t>self.size
                if self.is_store:
                    result = c_pio_write(tables, self.address(), piece, self.size)
                else:
                    memcpy(before, piece, self.size)
                    result = c_pio_read(tables, self.address(), piece, self.size)
                    if result == 1 and tables.open_bus < 0:
                        memcpy(piece, before, self.size)  # a rejected access leaves the buffer as it was
            elif self.is_store:
                result = c_mmio_store(tables, self.address(), self.size, self.values[self.done])
            else:
                result = c_mmio_load(tables, self.address(), self.size, &self.values[self.done])
            if result != 0 and tables.open_bus < 0:
                return 1
            self.done += 1
        return 0
