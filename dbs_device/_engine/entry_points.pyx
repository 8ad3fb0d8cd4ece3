"""C entry points for emulators that call C functions: function pointers and a handle (see ``dbs_device.h``)."""

cimport cython
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from .access cimport (
    READ,
    c_load,
    c_store,
    every_place,
    is_integer_size,
    open_bus_byte,
    unowned,
    unowned_is_served,
    wrong_size_raised,
)
from .batch cimport in_string, out_string
from .pins cimport unpin
from .platform cimport dbs_hint, dbs_hint_load, dbs_hint_store, dbs_pin, set_public_name
from .recording cimport append_checked
from .tables cimport MMIO, PIO, IoTables, PublishedTables, SpaceId, pin, published_tables_of

__all__ = ["CallbackHandle", "entry_point_addresses"]


cdef extern from "Python.h":
    void *PyGILState_GetThisThreadState() noexcept nogil


cdef extern from "dbs_device.h" nogil:
    ctypedef struct dbs_device_api:
        uint32_t abi_version
        uint32_t struct_size
        void *(*create)(PyObject *manager, uint64_t base) except NULL
        void (*destroy)(void *handle) noexcept
        PyObject *(*pop_exception)(void *handle) noexcept
        int (*has_exception)(void *handle) noexcept
        uint64_t (*mmio_load)(void *handle, uint64_t addr, unsigned size) noexcept
        void (*mmio_store)(void *handle, uint64_t addr, unsigned size, uint64_t value) noexcept
        uint64_t (*pio_in)(void *handle, uint64_t port, unsigned size) noexcept
        void (*pio_out)(void *handle, uint64_t port, unsigned size, uint64_t value) noexcept
        uint64_t (*uc_mmio_load)(void *uc, uint64_t offset, unsigned size, void *handle) noexcept
        void (*uc_mmio_store)(void *uc, uint64_t offset, unsigned size, uint64_t value, void *handle) noexcept
        uint32_t (*uc_pio_in)(void *uc, uint32_t port, int size, void *handle) noexcept
        void (*uc_pio_out)(void *uc, uint32_t port, int size, uint32_t value, void *handle) noexcept
        size_t (*pio_in_string)(void *handle, uint64_t port, unsigned size, uint8_t *data, size_t count) noexcept
        size_t (*pio_out_string)(void *handle, uint64_t port, unsigned size, const uint8_t *data, size_t count) noexcept
        void (*refuse_unowned)(void *handle, int refuse) noexcept
        void (*record)(
            void *handle, PyObject *recorder, int is_mmio, int is_write, uint64_t addr, unsigned size, uint64_t value
        ) noexcept
    const char *DBS_DEVICE_CAPSULE
    uint32_t DBS_DEVICE_ABI_VERSION


cdef enum Operation:
    MMIO_LOAD
    MMIO_STORE
    PIO_IN
    PIO_OUT


cdef struct Handle:
    PyObject *owner  # the CallbackHandle that it is part of
    PyObject *published  # a PublishedTables
    uint64_t base
    PyObject *exceptions  # a list
    dbs_hint pending  # length of the list, to be read without the GIL
    bint refuses_unowned


# ----------------------------------------------------------------------------- accesses


cdef int beyond_the_space(IoTables tables, size_t size, uint64_t *value) noexcept nogil:
    """Make an access for which `base` + address wraps around: it is unowned."""
    cdef uint64_t last_address = <uint64_t>-1
    if not is_integer_size(size, MMIO):
        return wrong_size_raised(size, MMIO)
    value[0] = every_place(open_bus_byte(tables), size)
    return unowned(tables, MMIO, last_address, size, READ)


cdef inline int access_tables(
    Handle *handle, IoTables tables, Operation operation, uint64_t address, size_t size, uint64_t *value
) noexcept nogil:
    if operation == PIO_IN:
        return c_load(tables, PIO, address, size, value)
    if operation == PIO_OUT:
        return c_store(tables, PIO, address, size, value[0])
    if address + handle.base < address:
        return beyond_the_space(tables, size, value)
    if operation == MMIO_LOAD:
        return c_load(tables, MMIO, address + handle.base, size, value)
    return c_store(tables, MMIO, address + handle.base, size, value[0])


cdef int refuse(Handle *handle, IoTables tables, Operation operation, uint64_t address, size_t size) noexcept nogil:
    """Return -1 with the exception of an unowned access, or 1 if the bus is open."""
    cdef SpaceId space = PIO if operation in (PIO_IN, PIO_OUT) else MMIO
    if space == MMIO:
        address = address + handle.base if address + handle.base >= address else <uint64_t>-1
    return -1 if unowned_is_served(tables, space, address, size) == -1 else 1


cdef inline int make_access(
    Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t *value
) noexcept nogil:
    """Make one access; loads set `value`, stores take it. An address that `base` takes past the end is unowned.

    The result is that of the accesses in ``access.pxd``.
    """
    cdef dbs_pin *held = pin(<PublishedTables>handle.published)
    cdef int result = access_tables(handle, <IoTables>held.object, operation, address, size, value)
    if result == 1 and handle.refuses_unowned:
        result = refuse(handle, <IoTables>held.object, operation, address, size)
    unpin(held)
    return result


cdef object pop_oldest(Handle *handle):
    """Remove and return the oldest pending exception; None if there is none."""
    cdef list exceptions = <list>handle.exceptions
    cdef object guard = <object>handle.published  # not the list, which has to lock itself
    cdef object error = None
    with cython.critical_section(guard):
        if exceptions:
            error = exceptions.pop(0)
            dbs_hint_store(&handle.pending, len(exceptions))
    return error


cdef int exception_is_set() except -1:
    """Raise the exception that is set."""
    return -1


cdef int latch_exception_that_is_set(Handle *handle) noexcept with gil:
    cdef list exceptions = <list>handle.exceptions
    cdef object guard = <object>handle.published
    try:
        exception_is_set()
    except BaseException as error:
        with cython.critical_section(guard):
            exceptions.append(error)
            dbs_hint_store(&handle.pending, len(exceptions))
    return 0


cdef uint64_t access_with_gil(
    Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept with gil:
    """Make an access on a thread that Python does not know.

    The last release of the GIL deletes the thread's state, and an exception with it: so it is held until the exception
    is latched.
    """
    with nogil:
        return access(handle, operation, address, size, value)


cdef inline uint64_t latching_access(
    Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    """Make an access and latch its exception; return what a load has read.

    In each of the four functions below the operation is a constant, and this is one path without a switch.
    """
    cdef int result
    if dbs_hint_load(&handle.pending) != 0:
        return 0
    if PyGILState_GetThisThreadState() == NULL:
        return access_with_gil(handle, operation, address, size, value)
    result = make_access(handle, operation, address, size, &value)
    if result == -1:
        latch_exception_that_is_set(handle)
        return 0
    return value


cdef uint64_t mmio_load(void *handle, uint64_t addr, unsigned size) noexcept nogil:
    return latching_access(<Handle *>handle, MMIO_LOAD, addr, size, 0)


cdef void mmio_store(void *handle, uint64_t addr, unsigned size, uint64_t value) noexcept nogil:
    latching_access(<Handle *>handle, MMIO_STORE, addr, size, value)


cdef uint64_t pio_in(void *handle, uint64_t port, unsigned size) noexcept nogil:
    return latching_access(<Handle *>handle, PIO_IN, port, <size_t>size, 0)


cdef void pio_out(void *handle, uint64_t port, unsigned size, uint64_t value) noexcept nogil:
    latching_access(<Handle *>handle, PIO_OUT, port, <size_t>size, value)


cdef uint64_t access(Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t value) noexcept nogil:
    """Make an access; return what a load has read, or a store written."""
    if operation == MMIO_LOAD:
        return mmio_load(handle, address, <unsigned>size)
    if operation == MMIO_STORE:
        mmio_store(handle, address, <unsigned>size, value)
        return value
    if operation == PIO_IN:
        return pio_in(handle, address, <unsigned>size)
    pio_out(handle, address, <unsigned>size, value)
    return value


cdef uint64_t uc_mmio_load(void *uc, uint64_t offset, unsigned size, void *handle) noexcept nogil:
    return mmio_load(handle, offset, size)


cdef void uc_mmio_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *handle) noexcept nogil:
    mmio_store(handle, offset, size, value)


cdef uint32_t uc_pio_in(void *uc, uint32_t port, int size, void *handle) noexcept nogil:
    return <uint32_t>pio_in(handle, port, <unsigned>size)


cdef void uc_pio_out(void *uc, uint32_t port, int size, uint32_t value, void *handle) noexcept nogil:
    pio_out(handle, port, <unsigned>size, value)


# ----------------------------------------------------------------------------- recording


# For a call as if nothing was raised; a result of -1 tells that something was.
ctypedef int (*Append)(
    object recorder, SpaceId space, bint write, uint64_t address, size_t size, uint64_t value
) noexcept nogil


cdef void record(
    void *handle, PyObject *recorder, int is_mmio, int is_write, uint64_t addr, unsigned size, uint64_t value
) noexcept nogil:
    cdef SpaceId space = MMIO if is_mmio else PIO
    if dbs_hint_load(&(<Handle *>handle).pending) != 0:
        return  # no access is made meanwhile, and its exceptions must not pile up
    if is_mmio:
        addr += (<Handle *>handle).base
    if (<Append>append_checked)(<object>recorder, space, is_write != 0, addr, size, value) == -1:
        latch_exception_that_is_set(<Handle *>handle)


# ----------------------------------------------------------------------------- strings


cdef int string_on(
    Handle *handle, IoTables tables, bint is_in, uint64_t port, size_t size, uint8_t *data, size_t count, size_t *done
) noexcept nogil:
    """Make the next items of a string; -1 with an exception."""
    cdef int result
    if is_in:
        result = in_string(<PublishedTables>handle.published, tables, port, size, data, count, done)
    else:
        result = out_string(<PublishedTables>handle.published, tables, port, size, data, count, done)
    if result != 1:
        return result
    if handle.refuses_unowned and unowned_is_served(tables, PIO, port, size) == -1:
        return -1
    done[0] += 1
    return 0


cdef size_t string_with_gil(
    Handle *handle, bint is_in, uint64_t port, size_t size, uint8_t *data, size_t count
) noexcept with gil:
    """Make the accesses on a thread that Python does not know, as `access_with_gil` does."""
    with nogil:
        return latching_string(handle, is_in, port, size, data, count)


cdef size_t latching_string(
    Handle *handle, bint is_in, uint64_t port, size_t size, uint8_t *data, size_t count
) noexcept nogil:
    """Make the accesses of a string until one fails, and latch its exception; return how many were made."""
    cdef dbs_pin *held
    cdef size_t done = 0
    cdef int result
    if PyGILState_GetThisThreadState() == NULL:
        return string_with_gil(handle, is_in, port, size, data, count)
    if is_in:
        memset(data, 0, count * size)
    while done < count and dbs_hint_load(&handle.pending) == 0:
        held = pin(<PublishedTables>handle.published)
        result = string_on(handle, <IoTables>held.object, is_in, port, size, data, count, &done)
        unpin(held)
        if result == -1:
            latch_exception_that_is_set(handle)
            if is_in:
                memset(data + done * size, 0, size)  # what the device wrote before it failed
    return done


cdef size_t pio_in_string(void *handle, uint64_t port, unsigned size, uint8_t *data, size_t count) noexcept nogil:
    return latching_string(<Handle *>handle, True, port, size, data, count)


cdef size_t pio_out_string(
    void *handle, uint64_t port, unsigned size, const uint8_t *data, size_t count
) noexcept nogil:
    return latching_string(<Handle *>handle, False, port, size, <uint8_t *>data, count)


cdef void refuse_unowned(void *handle, int refuse) noexcept nogil:
    (<Handle *>handle).refuses_unowned = refuse != 0


# ----------------------------------------------------------------------------- handles


# C code owns a reference to a CallbackHandle, whose memory its handle is part of.

cdef void *create(PyObject *manager, uint64_t base) except NULL:
    cdef CallbackHandle owner = CallbackHandle(<object>manager, base)
    Py_INCREF(owner)
    return &owner.handle


cdef void destroy(void *handle) noexcept:
    Py_DECREF(<object>(<Handle *>handle).owner)


cdef void report_unraisable(object error, object owner) noexcept:
    """Pass an exception that no caller pops to `sys.unraisablehook`."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(owner)


cdef PyObject *pop_exception(void *handle) noexcept:
    error = pop_oldest(<Handle *>handle)
    if error is None:
        return NULL
    Py_INCREF(error)
    return <PyObject *>error


cdef int has_exception(void *handle) noexcept nogil:
    return dbs_hint_load(&(<Handle *>handle).pending) != 0


cdef dbs_device_api api = dbs_device_api(
    DBS_DEVICE_ABI_VERSION,
    sizeof(dbs_device_api),
    create,
    destroy,
    pop_exception,
    has_exception,
    mmio_load,
    mmio_store,
    pio_in,
    pio_out,
    uc_mmio_load,
    uc_mmio_store,
    uc_pio_in,
    uc_pio_out,
    pio_in_string,
    pio_out_string,
    refuse_unowned,
    record,
)

c_api = PyCapsule_New(&api, DBS_DEVICE_CAPSULE, NULL)


# ----------------------------------------------------------------------------- from Python


def entry_point_addresses():
    """Return the address of each C entry point, for emulators that are reached through ctypes or cffi.

    Their signatures are those of ``dbs_device.h``; the first argument (the last, in those that begin with ``uc_``) is
    `CallbackHandle.address`.

    Returns
    -------
    dict of str to int
        By name: mmio_load, mmio_store, pio_in, pio_out, the same with ``uc_`` before them, pio_in_string,
        pio_out_string, refuse_unowned and record.
    """
    return {
        "mmio_load": <uintptr_t>&mmio_load,
        "mmio_store": <uintptr_t>&mmio_store,
        "pio_in": <uintptr_t>&pio_in,
        "pio_out": <uintptr_t>&pio_out,
        "uc_mmio_load": <uintptr_t>&uc_mmio_load,
        "uc_mmio_store": <uintptr_t>&uc_mmio_store,
        "uc_pio_in": <uintptr_t>&uc_pio_in,
        "uc_pio_out": <uintptr_t>&uc_pio_out,
        "pio_in_string": <uintptr_t>&pio_in_string,
        "pio_out_string": <uintptr_t>&pio_out_string,
        "refuse_unowned": <uintptr_t>&refuse_unowned,
        "record": <uintptr_t>&record,
    }


@cython.final
@cython.no_gc_clear  # the handle is used until the last moment: other objects of a cycle are cleared
cdef class CallbackHandle:
    """Owns a handle for the C entry points: keep it for as long as an emulator may call them.

    Exceptions that are still pending when it is destroyed are passed to `sys.unraisablehook`.

    Parameters
    ----------
    manager : IoManager
        The bus that is called; it is kept alive.
    base : int
        Added to MMIO addresses, 0..2**64 - 1.

    Examples
    --------
    >>> import ctypes
    >>> from dbs_device import IoManager
    >>> handle = CallbackHandle(IoManager(open_bus=0xFF))
    >>> load = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint)(
    ...     entry_point_addresses()["mmio_load"]
    ... )
    >>> hex(load(handle.address, 0x1000, 2))
    '0xffff'
    """

    cdef object __weakref__
    # The garbage collector sees what the handle refers to: a device may own a handle of its manager.
    cdef object manager
    cdef PublishedTables published
    cdef list exceptions
    cdef Handle handle

    def __cinit__(self, manager, uint64_t base=0):
        self.exceptions = []
        self.published = published_tables_of(manager)
        self.manager = manager
        self.handle.owner = <PyObject *>self
        self.handle.published = <PyObject *>self.published
        self.handle.base = base
        self.handle.exceptions = <PyObject *>self.exceptions

    def __dealloc__(self):
        while self.handle.owner != NULL and self.exceptions:  # NULL: its arguments were wrong
            report_unraisable(self.exceptions.pop(0), self.manager)

    @property
    def address(self):
        """int : what the entry points take as their handle."""
        return <uintptr_t>&self.handle

    def pop_exception(self):
        """Remove and return the oldest pending exception. While one is pending, no device is called through the handle.

        Returns
        -------
        BaseException or None
            With its traceback.
        """
        return pop_oldest(&self.handle)


set_public_name(CallbackHandle, b"dbs_device.CallbackHandle")
