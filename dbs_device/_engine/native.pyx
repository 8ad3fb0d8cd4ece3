"""Devices written in Cython, which the bus calls through their vtable."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint64_t

from .platform cimport set_public_name

from ..device import DeviceIo
from ..resources import DeviceResources

__all__ = ["NativeDevice"]


cdef class NativeDevice:
    """A device in Cython: override the C methods that it needs.

    It is a `DeviceIo`. Where the bus is called from Cython or C, no Python object is made on the way and the GIL is not
    taken; the methods below are the same device as Python sees it. A Python subclass that overrides `read`, `write`,
    `pio_read` or `pio_write` is called through those, as a Python device is, from its registration on.

    The C methods (see ``_bus.pxd`` for their signatures and contract) do nothing by default.
    """

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return 0

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return 0

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return 0

    def read(self, uint64_t base, uint64_t offset, data):
        """Call `c_read` with the memory of `data`, a writable contiguous buffer."""
        cdef Py_buffer buffer
        PyObject_GetBuffer(data, &buffer, PyBUF_WRITABLE)
        try:
            self.c_read(base, offset, <uint8_t *>buffer.buf, buffer.len)
        finally:
            PyBuffer_Release(&buffer)

    def write(self, uint64_t base, uint64_t offset, data):
        """Call `c_write` with the memory of `data`, a contiguous buffer."""
        cdef Py_buffer buffer
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            self.c_write(base, offset, <const uint8_t *>buffer.buf, buffer.len)
        finally:
            PyBuffer_Release(&buffer)

    def pio_read(self, uint64_t base, uint64_t offset, data):
        """Call `c_pio_read` with the memory of `data`, a writable contiguous buffer."""
        cdef Py_buffer buffer
        PyObject_GetBuffer(data, &buffer, PyBUF_WRITABLE)
        try:
            self.c_pio_read(base, offset, <uint8_t *>buffer.buf, buffer.len)
        finally:
            PyBuffer_Release(&buffer)

    def pio_write(self, uint64_t base, uint64_t offset, data):
        """Call `c_pio_write` with the memory of `data`, a contiguous buffer."""
        cdef Py_buffer buffer
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            self.c_pio_write(base, offset, <const uint8_t *>buffer.buf, buffer.len)
        finally:
            PyBuffer_Release(&buffer)

    def get_assigned_resources(self):
        """Return the resources that the device was given; none by default."""
        return DeviceResources()

    def get_trapped_io_resources(self):
        """Return the resources whose accesses the bus must trap; by default all the assigned ones."""
        return self.get_assigned_resources()


DeviceIo.register(NativeDevice)
set_public_name(NativeDevice, b"dbs_device.NativeDevice")
