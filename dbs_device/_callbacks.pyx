"""C entry points for engines that take callbacks: function pointers and a handle (see ``dbs_device.h``)."""

cimport cython
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from ._bus cimport IoManager
from ._dispatch cimport (
    DBS_DEVICE_ABI_VERSION,
    c_manager_mmio_load,
    c_manager_mmio_store,
    c_manager_pio_in,
    c_manager_pio_out,
)
from ._owner cimport TablesOwner
from ._platform cimport dbs_hint_load, dbs_hint_store

__all__ = ["CallbackHandle", "callback_addresses"]


cdef extern from "Python.h":
    void *PyGILState_GetThisThreadState() noexcept nogil


cdef extern from "dbs_device.h" nogil:
    ctypedef struct dbs_device_api:
        uint32_t abi_version
        uint32_t struct_size
        void *(*create)(PyObject *manager, uint64_t base) except NULL
        void (*destroy)(void *handle) noexcept
        PyObject *(*take_exception)(void *handle) noexcept
        int (*has_exception)(void *handle) noexcept
        uint64_t (*mmio_load)(void *handle, uint64_t addr, unsigned size) noexcept
        void (*mmio_store)(void *handle, uint64_t addr, unsigned size, uint64_t value) noexcept
        uint64_t (*pio_in)(void *handle, uint64_t port, unsigned size) noexcept
        void (*pio_out)(void *handle, uint64_t port, unsigned size, uint64_t value) noexcept
        uint64_t (*uc_mmio_load)(void *uc, uint64_t offset, unsigned size, void *handle) noexcept
        void (*uc_mmio_store)(void *uc, uint64_t offset, unsigned size, uint64_t value, void *handle) noexcept
        uint32_t (*uc_pio_in)(void *uc, uint32_t port, int size, void *handle) noexcept
        void (*uc_pio_out)(void *uc, uint32_t port, int size, uint32_t value, void *handle) noexcept
    const char *DBS_DEVICE_CAPSULE


# A handle of the C interface has an engine of its own, and owns the references in it.
cdef struct OwnedHandle:
    Handle handle
    Engine engine


# ----------------------------------------------------------------------------- accesses


ctypedef int (*Access)(Handle *handle, Kind kind, uint64_t address, size_t size, uint64_t *value) noexcept nogil


cdef int make_access(Handle *handle, Kind kind, uint64_t address, size_t size, uint64_t *value) except -1 nogil:
    """Make one access; loads set `value`, stores take it."""
    cdef PyObject *owner = handle.engine.owner
    if kind == MMIO_LOAD:
        return c_manager_mmio_load(<TablesOwner>owner, handle.base + address, size, value)
    if kind == MMIO_STORE:
        return c_manager_mmio_store(<TablesOwner>owner, handle.base + address, size, value[0])
    if kind == PIO_IN:
        return c_manager_pio_in(<TablesOwner>owner, address, size, value)
    return c_manager_pio_out(<TablesOwner>owner, address, size, value[0])


cdef int keep(Engine *engine, object error) except -1:
    """Keep an exception, and have the engine stopped."""
    (<list>engine.exceptions).append(error)
    dbs_hint_store(&engine.kept, len(<list>engine.exceptions))
    if engine.stop != NULL:
        engine.stop(engine.stop_argument)
    return 0


cdef object take_oldest(Engine *engine):
    """Return the oldest exception that is kept, or None."""
    cdef list exceptions = <list>engine.exceptions
    if not exceptions:
        return None
    error = exceptions.pop(0)
    dbs_hint_store(&engine.kept, len(exceptions))
    return error


cdef int make_access_on_unknown_thread(
    Handle *handle, Kind kind, uint64_t address, size_t size, uint64_t *value
) noexcept with gil:
    """Make an access on a thread that Python does not know.

    Its thread state, and an exception with it, would go with the last release of the GIL: it is held on to here until
    the exception is kept.
    """
    try:
        with nogil:
            result = make_access(handle, kind, address, size, value)
        return result
    except BaseException as error:
        keep(handle.engine, error)
    return -1


cdef int exception_is_set() except -1:
    return -1


cdef int keep_exception_that_is_set(Engine *engine) noexcept with gil:
    try:
        exception_is_set()
    except BaseException as error:
        keep(engine, error)
    return 0


cdef uint64_t access(Handle *handle, Kind kind, uint64_t address, size_t size, uint64_t value) noexcept nogil:
    """Make an access and keep its exception; return what a load has read."""
    cdef int result
    if dbs_hint_load(&handle.engine.kept) != 0:
        return 0
    if PyGILState_GetThisThreadState() == NULL:
        result = make_access_on_unknown_thread(handle, kind, address, size, &value)
    else:
        # Called as if it raised nothing, since a try statement would take the GIL for every access.
        result = (<Access>make_access)(handle, kind, address, size, &value)
        if result == -1:
            keep_exception_that_is_set(handle.engine)
    if result == -1:
        return 0
    if result == 1 and handle.engine.unowned != NULL:
        handle.engine.unowned(handle.engine, kind, address + handle.base, size)
    return value


cdef uint64_t mmio_load(void *handle, uint64_t addr, unsigned size) noexcept nogil:
    return access(<Handle *>handle, MMIO_LOAD, addr, size, 0)


cdef void mmio_store(void *handle, uint64_t addr, unsigned size, uint64_t value) noexcept nogil:
    access(<Handle *>handle, MMIO_STORE, addr, size, value)


cdef uint64_t pio_in(void *handle, uint64_t port, unsigned size) noexcept nogil:
    return access(<Handle *>handle, PIO_IN, port, <size_t>size, 0)


cdef void pio_out(void *handle, uint64_t port, unsigned size, uint64_t value) noexcept nogil:
    access(<Handle *>handle, PIO_OUT, port, <size_t>size, value)


cdef uint64_t uc_mmio_load(void *uc, uint64_t offset, unsigned size, void *handle) noexcept nogil:
    return access(<Handle *>handle, MMIO_LOAD, offset, size, 0)


cdef void uc_mmio_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *handle) noexcept nogil:
    access(<Handle *>handle, MMIO_STORE, offset, size, value)


cdef uint32_t uc_pio_in(void *uc, uint32_t port, int size, void *handle) noexcept nogil:
    return <uint32_t>access(<Handle *>handle, PIO_IN, port, <size_t>size, 0)


cdef void uc_pio_out(void *uc, uint32_t port, int size, uint32_t value, void *handle) noexcept nogil:
    access(<Handle *>handle, PIO_OUT, port, <size_t>size, value)


# ----------------------------------------------------------------------------- handles


cdef void *create(PyObject *manager, uint64_t base) except NULL:
    cdef OwnedHandle *owned
    if not isinstance(<object>manager, IoManager):
        raise TypeError(f"a handle is made of an IoManager, not {type(<object>manager).__name__}")
    exceptions = []
    owned = <OwnedHandle *>calloc(1, sizeof(OwnedHandle))
    if owned == NULL:
        raise MemoryError()
    Py_INCREF(<object>manager)
    Py_INCREF(exceptions)
    owned.engine.owner = manager
    owned.engine.exceptions = <PyObject *>exceptions
    owned.handle.engine = &owned.engine
    owned.handle.base = base
    return owned


cdef void destroy(void *handle) noexcept:
    cdef Engine engine = (<OwnedHandle *>handle).engine
    free(handle)
    # Last, since letting go of a manager may run Python code.
    Py_DECREF(<object>engine.exceptions)
    Py_DECREF(<object>engine.owner)


cdef PyObject *take_exception(void *handle) noexcept:
    error = take_oldest((<Handle *>handle).engine)
    if error is None:
        return NULL
    Py_INCREF(error)
    return <PyObject *>error


cdef int has_exception(void *handle) noexcept nogil:
    return dbs_hint_load(&(<Handle *>handle).engine.kept) != 0


cdef dbs_device_api api = dbs_device_api(
    DBS_DEVICE_ABI_VERSION,
    sizeof(dbs_device_api),
    create,
    destroy,
    take_exception,
    has_exception,
    mmio_load,
    mmio_store,
    pio_in,
    pio_out,
    uc_mmio_load,
    uc_mmio_store,
    uc_pio_in,
    uc_pio_out,
)

c_api = PyCapsule_New(&api, DBS_DEVICE_CAPSULE, NULL)


# ----------------------------------------------------------------------------- from Python


def callback_addresses():
    """Return the address of each C entry point, for engines that are reached through ctypes or cffi.

    Their signatures are those of ``dbs_device.h``; the first argument (the last, in those that begin with ``uc_``) is
    `CallbackHandle.address`.

    Returns
    -------
    dict of str to int
        By name: mmio_load, mmio_store, pio_in, pio_out, and the same with ``uc_`` before them.
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
    }


@cython.final
cdef class CallbackHandle:
    """Owns a handle for the C entry points: keep it for as long as an engine may call them.

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
    ...     callback_addresses()["mmio_load"]
    ... )
    >>> hex(load(handle.address, 0x1000, 2))
    '0xffff'
    """

    cdef object __weakref__
    cdef void *handle

    def __cinit__(self, manager, uint64_t base=0):
        self.handle = create(<PyObject *>manager, base)

    def __dealloc__(self):
        if self.handle != NULL:
            destroy(self.handle)

    @property
    def address(self):
        """int : what the entry points take as their handle."""
        return <uintptr_t>self.handle

    def take_exception(self):
        """Return the oldest exception that an access has left in the handle, which forgets it.

        While one is kept, no device is called through the handle.

        Returns
        -------
        BaseException or None
            With its traceback.
        """
        return take_oldest((<Handle *>self.handle).engine)
