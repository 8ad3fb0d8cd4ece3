"""Many accesses that leave and enter Python once for all of them."""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from .access cimport c_load, c_read, c_store, c_write, ranges_of, raise_unowned, value_of
from .buffers cimport open_view
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    PublishedTables,
    SpaceId,
    are_current,
    current_tables,
    unsigned_array,
)

from contextlib import suppress

import numpy as np

from ..errors import add_note, format_count


cdef Batch new_batch(PublishedTables published, SpaceId space, size_t size):
    cdef Batch batch = Batch.__new__(Batch)
    batch.published = published
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
                f"string I/O of {format_count(self.size, 'byte')} at a time takes a multiple of {self.size} bytes, "
                f"not {buffer.len}"
            )
        self.count = buffer.len // <Py_ssize_t>self.size
        self.addresses = &port
        self.string = <uint8_t *>buffer.buf
        self.is_store = is_store
        return self.run()

    cdef int run(self) except -1:
        """Make all accesses. A change that a device makes to the map applies from the next access on."""
        cdef IoTables tables
        cdef int result
        try:
            while self.done < self.count:
                tables = current_tables(<PyObject *>self.published)
                with nogil:
                    result = self.run_on(tables)
                if result != 0:
                    raise_unowned(tables, ranges_of(tables, self.space), self.address(), self.size)
        except BaseException as error:
            topic = "accesses were done before this one"
            add_note(error, f"{self.done} of {self.count} {topic}", topic)
            with suppress(Exception):  # the exception may refuse attributes
                error.accesses_done = self.done
            raise
        return 0

    cdef uint64_t address(self) noexcept nogil:
        return self.addresses[self.done * self.address_step]

    cdef int run_on(self, IoTables tables) except -1 nogil:
        """Make accesses until all are done, the tables are no longer current (0), or one is rejected as unowned (1)."""
        cdef int result
        cdef uint8_t *piece
        cdef uint8_t before[8]
        while self.done < self.count and are_current(self.published, tables):
            if self.string != NULL:
                piece = self.string + self.done * <Py_ssize_t>self.size
                if self.is_store:
                    result = c_write(tables, PIO, self.address(), piece, self.size)
                else:
                    memcpy(before, piece, self.size)
                    result = c_read(tables, PIO, self.address(), piece, self.size)
                    if result == 1 and tables.options.open_bus < 0:
                        memcpy(piece, before, self.size)  # a rejected access leaves the buffer unchanged
            elif self.is_store:
                result = c_store(tables, MMIO, self.address(), self.size, self.values[self.done])
            else:
                result = c_load(tables, MMIO, self.address(), self.size, &self.values[self.done])
            if result == -1:
                return -1
            if result == 1 and tables.options.open_bus < 0:
                return 1
            self.done += 1
        return 0
