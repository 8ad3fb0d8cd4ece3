"""Devices written in Cython, which the bus calls through their vtable."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_Occurred
from libc.stdint cimport uint8_t, uint64_t

from .platform cimport set_public_name

from ..device import DeviceIo
from ..errors import missing_exception
from ..resources import DeviceResources

__all__ = ["NativeDevice"]


# The C methods are called as if they raised nothing: Cython would add to the traceback of an exception that is not set.
ctypedef int (*Read)(NativeDevice, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept
ctypedef int (*Write)(NativeDevice, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) noexcept


cdef int call_read(NativeDevice device, Read method, uint64_t base, uint64_t offset, object data) except -1:
    cdef Py_buffer buffer
    cdef int result
    PyObject_GetBuffer(data, &buffer, PyBUF_WRITABLE)
    result = method(device, base, offset, <uint8_t *>buffer.buf, <size_t>buffer.len)
    PyBuffer_Release(&buffer)
    return check_result(device, result)


cdef int call_write(NativeDevice device, Write method, uint64_t base, uint64_t offset, object data) except -1:
    cdef Py_buffer buffer
    cdef int result
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    result = method(device, base, offset, <const uint8_t *>buffer.buf, <size_t>buffer.len)
    PyBuffer_Release(&buffer)
    return check_result(device, result)


cdef int check_result(object device, int result) except -1:
    if result == -1 and PyErr_Occurred() == NULL:
        raise missing_exception(device)
    return result


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
        call_read(self, <Read>self.c_read, base, offset, data)

    def write(self, uint64_t base, uint64_t offset, data):
        """Call `c_write` with the memory of `data`, a contiguous buffer."""
        call_write(self, <Write>self.c_write, base, offset, data)

    def pio_read(self, uint64_t base, uint64_t offset, data):
        """Call `c_pio_read` with the memory of `data`, a writable contiguous buffer."""
        call_read(self, <Read>self.c_pio_read, base, offset, data)

    def pio_write(self, uint64_t base, uint64_t offset, data):
        """Call `c_pio_write` with the memory of `data`, a contiguous buffer."""
        call_write(self, <Write>self.c_pio_write, base, offset, data)

    def get_assigned_resources(self):
        """Return the resources that the device was given; none by default."""
        return DeviceResources()

    def get_trapped_io_resources(self):
        """Return the resources whose accesses the bus must trap; by default all the assigned ones."""
        return self.get_assigned_resources()


DeviceIo.register(NativeDevice)
set_public_name(NativeDevice, b"dbs_device.NativeDevice")
