"""The memory of an access as a device sees it: a flat memoryview of the caller's buffer, or of a bounce buffer."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo, PyBuffer_IsContiguous, PyObject_CheckBuffer
from cpython.memoryview cimport PyMemoryView_Check, PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memset

from .platform cimport dbs_view_as_bytes, dbs_view_is_unshared

import sys


# ----------------------------------------------------------------------------- the caller's buffer


cdef bint is_of_references(const char *format) noexcept:
    """Return whether a format has pointers that Python follows: objects, other pointers and functions, and strings.

    The names of fields are passed over, and so is Z before a letter: a complex number.
    """
    cdef bint in_name = False
    if format == NULL:
        return False
    while format[0] != 0:
        if format[0] == c':':
            in_name = not in_name
        elif in_name:
            pass
        elif format[0] in (c'O', c'&', c'X', c'z') or (format[0] == c'Z' and format[1] not in b"efdgFDG"):
            return True
        format += 1
    return False


def has_references(ctype):
    """Return whether a type of ctypes holds pointers that Python follows; for any other type, False.

    The format of a union, and of a packed structure, is that of bytes.
    """
    ctypes = sys.modules.get("_ctypes")
    if ctypes is None:
        return False
    if issubclass(ctype, (ctypes._Pointer, ctypes.CFuncPtr)):
        return True
    if issubclass(ctype, ctypes.Array):
        return has_references(ctype._type_)
    if issubclass(ctype, ctypes._SimpleCData):
        return ctype._type_ in "OzZ"
    if issubclass(ctype, (ctypes.Structure, ctypes.Union)):
        fields = [field for base in ctype.__mro__ for field in vars(base).get("_fields_", ())]
        return any([has_references(field[1]) for field in fields])
    return False


cdef object plain_view(object data, bint writable, str taker):
    """Return a memoryview of `data`, a C-contiguous buffer of plain data; `taker` is what takes it, for messages.

    `TypeError`: not a buffer. `BufferError`: not C-contiguous, of references to objects, or read-only but to be
    writable. `ValueError`: empty, or a released memoryview.
    """
    cdef object view
    cdef Py_buffer *buffer
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'")
    view = PyMemoryView_FromObject(data)
    buffer = PyMemoryView_GET_BUFFER(view)
    if buffer.len == 0:
        raise ValueError(f"{taker} takes a buffer of at least 1 byte")
    if not PyBuffer_IsContiguous(buffer, b"C"):
        raise BufferError(f"{taker} takes a C-contiguous buffer; this {type(data).__name__} is not")
    if is_of_references(buffer.format) or (
        buffer.format != NULL
        and buffer.format[0] in (c'B', c'T')
        and buffer.itemsize != 1
        and has_references(type(view.obj))
    ):
        raise BufferError(f"{taker} takes plain memory; this {type(data).__name__} holds references to objects")
    if writable and buffer.readonly:
        raise BufferError(f"{taker} takes a writable buffer; this {type(data).__name__} is read-only")
    return view


cdef object open_view(object data, bint for_read):
    """Return a memoryview of `data`, with whose memory an access can be made; errors as of `plain_view`."""
    return plain_view(data, for_read, "a read" if for_read else "a write")


cdef object flat_view_of(object data, object view, bint for_read):
    """Return the flat memoryview that a device is given for `data`, of which `open_view` has returned `view`.

    It shares the managed buffer of `view`: when the garbage collector releases that, CPython refuses every use of it.
    """
    cdef Py_buffer *buffer = PyMemoryView_GET_BUFFER(view)
    if buffer.ndim == 1 and buffer.format[0] == c'B' and buffer.format[1] == 0 and buffer.readonly != for_read:
        return data if PyMemoryView_Check(data) else view
    dbs_view_as_bytes(view, not for_read)
    return view.cast("B")


# ----------------------------------------------------------------------------- bounce buffers


@cython.final
cdef class BounceBuffer:
    """Up to 8 bytes for one access, with the view of them that the device is given.

    It holds its own view, which holds it: `return_bounce_buffer` breaks that cycle unless it keeps both for reuse.
    """

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, self.size, not self.for_read, flags)


# One spare for each direction and size (1, 2, 4, 8 bytes, at the index of the size), a reference being owned, or NULL.
# An access that finds none, because an outer access or another thread has it, makes its own. The GIL guards them; on
# free-threaded builds they stay empty, since `dbs_view_is_unshared` says no.
cdef PyObject *spares[2][9]


cdef BounceBuffer borrow_bounce_buffer(size_t size, bint for_read):
    """Return one of `size` (1, 2, 4, 8) bytes, all zero, that nothing else can reach."""
    cdef PyObject *spare = spares[for_read][size]
    cdef BounceBuffer bounce
    if spare != NULL:
        spares[for_read][size] = NULL
        bounce = <BounceBuffer>spare
        Py_DECREF(bounce)  # the spare's reference; `bounce` holds one
        # Asked again: the garbage collector's list of objects shows spares to whoever looks there.
        if dbs_view_is_unshared(<PyObject *>bounce.view):
            memset(bounce.memory, 0, sizeof(bounce.memory))
            return bounce
        bounce.view = None
    bounce = BounceBuffer.__new__(BounceBuffer)
    bounce.size = size
    bounce.for_read = for_read
    bounce.view = PyMemoryView_FromObject(bounce)
    return bounce


cdef void return_bounce_buffer(BounceBuffer bounce) noexcept:
    """Keep it for the next access, unless its memory can still be reached or there is a spare.

    The caller holds one reference.
    """
    cdef PyObject **spare = &spares[bounce.for_read][bounce.size]
    if spare[0] == NULL and dbs_view_is_unshared(<PyObject *>bounce.view):
        Py_INCREF(bounce)
        spare[0] = <PyObject *>bounce
    else:
        bounce.view = None
