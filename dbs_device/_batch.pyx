"""Many addresses at once, as numpy arrays."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    Py_buffer,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.stdint cimport uint64_t

from ._tables cimport RangeTable, Ranges, last_base_at_or_below

import numpy as np


cdef enum:
    # Look-ups that are made in step: each waits for its memory, and so they wait together. Eight fill the registers.
    LANES = 8


cdef object unsigned_array(object values):
    """Return an array of unsigned integers as C-contiguous uint64; `TypeError` for another type."""
    array = np.asarray(values)
    if array.dtype.kind != "u":
        raise TypeError(f"addresses must be an array of unsigned integers (uint64), not of {array.dtype}")
    return np.ascontiguousarray(array, np.uint64).reshape(array.shape)


cdef object find_ranges(RangeTable table, object addresses):
    cdef object sought = unsigned_array(addresses)
    cdef object found = np.empty(sought.shape, np.intp)
    cdef Py_buffer source, target
    PyObject_GetBuffer(sought, &source, PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(found, &target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        with nogil:
            find_each(&table.ranges, <const uint64_t *>source.buf, source.len // sizeof(uint64_t), <Py_ssize_t *>target.buf)
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
    return <Py_ssize_t>index if ranges.bases[index] <= address <= ranges.lasts[index] else -1
