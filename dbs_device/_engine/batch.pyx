"""Many accesses that leave and enter Python once for all of them."""

cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from .access cimport (
    READ,
    WRITE,
    c_load,
    c_store,
    fill,
    find_access,
    is_integer_size,
    native_failed,
    python_read,
    python_write,
    raise_unowned,
    ranges_of,
    unowned,
    value_of,
    wrong_size_raised,
)
from .buffers cimport open_view
from .platform cimport dbs_keep_thread_state
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    PublishedTables,
    Ranges,
    Slot,
    SpaceId,
    are_current,
    current_tables,
    unsigned_array,
)

import numpy as np

from ..errors import add_progress, format_count


# ----------------------------------------------------------------------------- strings

# Items of one port, as REP INS and REP OUTS access it: `count` of them, of which `done` have been made before. There is
# one look-up, and the GIL is taken once. They return 0 when all are done or, after at least one more, when the tables
# are no longer current: a handler may move its own range. Otherwise, `done` is the item that is unowned (1) or whose
# device has failed (-1).


cdef int in_string(
    PublishedTables published, IoTables tables, uint64_t port, size_t size, uint8_t *data, size_t count, size_t *done
) noexcept nogil:
    cdef Ranges *ranges = &tables.pio.ranges
    cdef const Slot *slot
    cdef uint8_t *item
    cdef size_t index
    if not is_integer_size(size, PIO):
        return wrong_size_raised(size, PIO)
    if done[0] >= count:
        return 0
    if not find_access(tables, ranges, port, size, &index):
        if tables.options.open_bus >= 0:  # otherwise the access may be rejected, and leaves the buffer unchanged
            fill(data + done[0] * size, size, tables.options.open_bus)
        return unowned(tables, ranges.space, port, size, READ)
    slot = &ranges.slots[index]
    if slot.read == NULL:
        return in_string_with_gil(published, tables, slot.target, port, size, data, count, done)
    while True:
        item = data + done[0] * size
        fill(item, size, 0)
        if slot.read(slot.target, ranges.bases[index], port - ranges.bases[index], item, size) == -1:
            return native_failed(tables, ranges, port, size, READ)
        done[0] += 1
        if done[0] == count or not are_current(published, tables):
            return 0


cdef int out_string(
    PublishedTables published,
    IoTables tables,
    uint64_t port,
    size_t size,
    const uint8_t *data,
    size_t count,
    size_t *done,
) noexcept nogil:
    cdef Ranges *ranges = &tables.pio.ranges
    cdef const Slot *slot
    cdef size_t index
    if not is_integer_size(size, PIO):
        return wrong_size_raised(size, PIO)
    if done[0] >= count:
        return 0
    if not find_access(tables, ranges, port, size, &index):
        return unowned(tables, ranges.space, port, size, WRITE)
    slot = &ranges.slots[index]
    if slot.write == NULL:
        return out_string_with_gil(published, tables, slot.target, port, size, data, count, done)
    while True:
        if slot.write(
            slot.target, ranges.bases[index], port - ranges.bases[index], data + done[0] * size, size
        ) == -1:
            return native_failed(tables, ranges, port, size, WRITE)
        done[0] += 1
        if done[0] == count or not are_current(published, tables):
            return 0


cdef int in_string_with_gil(
    PublishedTables published,
    IoTables tables,
    PyObject *entry,
    uint64_t port,
    size_t size,
    uint8_t *data,
    size_t count,
    size_t *done,
) noexcept with gil:
    while True:
        fill(data + done[0] * size, size, 0)
        if python_read(entry, port, data + done[0] * size, size, tables.options.big_endian) == -1:
            dbs_keep_thread_state()
            return -1
        done[0] += 1
        if done[0] == count or not are_current(published, tables):
            return 0


cdef int out_string_with_gil(
    PublishedTables published,
    IoTables tables,
    PyObject *entry,
    uint64_t port,
    size_t size,
    const uint8_t *data,
    size_t count,
    size_t *done,
) noexcept with gil:
    while True:
        if python_write(entry, port, data + done[0] * size, size, tables.options.big_endian) == -1:
            dbs_keep_thread_state()
            return -1
        done[0] += 1
        if done[0] == count or not are_current(published, tables):
            return 0


# ----------------------------------------------------------------------------- callers in Python


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
                self.count = <size_t>source.len // sizeof(uint64_t)
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
        self.count = <size_t>buffer.len // self.size
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
            add_progress(error, self.done, self.count)
            raise
        return 0

    cdef uint64_t address(self) noexcept nogil:
        return self.addresses[self.done * self.address_step]

    cdef int run_on(self, IoTables tables) except -1 nogil:
        """Make accesses until all are done, the tables are no longer current (0), or one is rejected as unowned (1)."""
        cdef int result
        while self.done < self.count and are_current(self.published, tables):
            result = self.run_string_on(tables) if self.string != NULL else self.run_one_on(tables)
            if result == -1:
                return -1
            if result == 1:
                if tables.options.open_bus < 0:
                    return 1
                self.done += 1
        return 0

    cdef int run_one_on(self, IoTables tables) noexcept nogil:
        cdef int result
        if self.is_store:
            result = c_store(tables, MMIO, self.address(), self.size, self.values[self.done])
        else:
            result = c_load(tables, MMIO, self.address(), self.size, &self.values[self.done])
        if result == 0:
            self.done += 1
        return result

    cdef int run_string_on(self, IoTables tables) noexcept nogil:
        if self.is_store:
            return out_string(self.published, tables, self.address(), self.size, self.string, self.count, &self.done)
        return in_string(self.published, tables, self.address(), self.size, self.string, self.count, &self.done)
