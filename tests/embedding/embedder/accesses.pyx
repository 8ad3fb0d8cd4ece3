"""Every function of the bus that makes an access, on the calling thread and on one that Python does not know."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from dbs_device._bus cimport (
    DBS_DEVICE_RAM,
    DBS_DEVICE_ROM,
    IoManager,
    IoTables,
    c_check_abi,
    c_manager_mmio_load,
    c_manager_mmio_read,
    c_manager_mmio_store,
    c_manager_mmio_write,
    c_manager_pio_in,
    c_manager_pio_out,
    c_manager_pio_read,
    c_manager_pio_write,
    c_mmio_load,
    c_mmio_read,
    c_mmio_store,
    c_mmio_unowned,
    c_mmio_write,
    c_pio_in,
    c_pio_in_string,
    c_pio_out,
    c_pio_out_string,
    c_pio_read,
    c_pio_unowned,
    c_pio_write,
    c_ram_at,
    c_record,
    c_tables_are_current,
)

c_check_abi()


ctypedef void *(*Start)(void *argument) noexcept nogil


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes, Start start, void *argument)
    int pthread_join(pthread_t thread, void **result)


cdef extern from "Python.h":
    PyObject *PyGILState_GetThisThreadState() noexcept nogil


cdef enum Operation:
    MMIO_LOAD
    MMIO_STORE
    MMIO_READ
    MMIO_WRITE
    PIO_IN
    PIO_OUT
    PIO_READ
    PIO_WRITE


OPERATIONS = ("mmio_load", "mmio_store", "mmio_read", "mmio_write", "pio_in", "pio_out", "pio_read", "pio_write")


cdef struct Access:
    PyObject *tables  # where it is made: on held tables, or on the manager
    PyObject *manager
    Operation operation
    uint64_t address
    size_t size
    uint64_t value
    uint8_t data[64]
    # What comes of it on a thread of its own.
    int result
    bint thread_was_known
    PyObject *error


cdef int on_held_tables(IoTables tables, Access *access) except -1 nogil:
    if access.operation == MMIO_LOAD:
        return c_mmio_load(tables, access.address, access.size, &access.value)
    if access.operation == MMIO_STORE:
        return c_mmio_store(tables, access.address, access.size, access.value)
    if access.operation == MMIO_READ:
        return c_mmio_read(tables, access.address, access.data, access.size)
    if access.operation == MMIO_WRITE:
        return c_mmio_write(tables, access.address, access.data, access.size)
    if access.operation == PIO_IN:
        return c_pio_in(tables, access.address, access.size, &access.value)
    if access.operation == PIO_OUT:
        return c_pio_out(tables, access.address, access.size, access.value)
    if access.operation == PIO_READ:
        return c_pio_read(tables, access.address, access.data, access.size)
    return c_pio_write(tables, access.address, access.data, access.size)


cdef int on_the_manager(IoManager manager, Access *access) except -1 nogil:
    if access.operation == MMIO_LOAD:
        return c_manager_mmio_load(manager, access.address, access.size, &access.value)
    if access.operation == MMIO_STORE:
        return c_manager_mmio_store(manager, access.address, access.size, access.value)
    if access.operation == MMIO_READ:
        return c_manager_mmio_read(manager, access.address, access.data, access.size)
    if access.operation == MMIO_WRITE:
        return c_manager_mmio_write(manager, access.address, access.data, access.size)
    if access.operation == PIO_IN:
        return c_manager_pio_in(manager, access.address, access.size, &access.value)
    if access.operation == PIO_OUT:
        return c_manager_pio_out(manager, access.address, access.size, access.value)
    if access.operation == PIO_READ:
        return c_manager_pio_read(manager, access.address, access.data, access.size)
    return c_manager_pio_write(manager, access.address, access.data, access.size)


cdef int make(Access *access) except -1 nogil:
    if access.tables != NULL:
        return on_held_tables(<IoTables>access.tables, access)
    return on_the_manager(<IoManager>access.manager, access)


cdef Access new_access(target, name, uint64_t address, size_t size, uint64_t value) except *:
    cdef Access access = Access(
        NULL, NULL, <Operation><int>OPERATIONS.index(name), address, size, value, [0] * 64, -2, False, NULL
    )
    if isinstance(target, IoManager):
        access.manager = <PyObject *>target
    else:
        access.tables = <PyObject *>(<IoTables?>target)
    memcpy(access.data, &value, 8)
    return access


cdef tuple outcome(Access *access, int result):
    if access.operation in (MMIO_LOAD, PIO_IN):
        return result, access.value
    return result, bytes(access.data[:min(access.size, sizeof(access.data))])


def access_bus(target, name, uint64_t address, size_t size, uint64_t value=0):
    """Make one access on an IoManager or on held IoTables, without the GIL; return (result, value or bytes)."""
    cdef Access access = new_access(target, name, address, size, value)
    cdef int result
    with nogil:
        result = make(&access)
    return outcome(&access, result)


def is_current(IoManager manager, IoTables tables):
    return c_tables_are_current(manager, tables)


def memory_at(IoTables tables, uint64_t address):
    """Return what `c_ram_at` says: the kind of memory, the host's address, the last address of the guest."""
    cdef uint64_t last
    cdef uint8_t *pointer
    cdef int kind
    with nogil:
        kind = c_ram_at(tables, address, &pointer, &last)
    return {0: None, DBS_DEVICE_RAM: "RAM", DBS_DEVICE_ROM: "ROM"}[kind], <uint64_t>pointer, last


def record(recorder, bint is_mmio, bint is_write, uint64_t address, size_t size, uint64_t value, size_t count=1):
    """Append an access to a recorder, `count` times, without the GIL."""
    cdef size_t _
    with nogil:
        for _ in range(count):
            c_record(recorder, is_mmio, is_write, address, size, value)


# ----------------------------------------------------------------------------- strings, unowned accesses


def pio_in_string(IoManager manager, uint64_t port, size_t size, size_t count):
    """Read items of a port as `IoManager.pio_in_string` does; return them and the number of calls that it took."""
    cdef IoTables tables = manager.tables()
    cdef bytearray data = bytearray(b"\xee" * (size * count))
    cdef uint8_t *start = data
    cdef size_t done = 0, calls = 0
    cdef int result
    try:
        with nogil:
            while done < count:
                if not c_tables_are_current(manager, tables):
                    with gil:
                        tables = manager.tables()
                result = c_pio_in_string(manager, tables, port, size, start, count, &done)
                calls += 1
                if result == 1:
                    c_pio_unowned(tables, port, size)
                    done += 1
    except Exception as error:
        error.add_note(f"{done} items are done: {data.hex()}")
        raise
    return bytes(data), calls


def pio_out_string(IoManager manager, uint64_t port, size_t size, bytes data):
    """Write items to a port, on the tables that the manager has first; return how many are done, and the result."""
    cdef IoTables tables = manager.tables()
    cdef const uint8_t *start = data
    cdef size_t done = 0, count = len(data) // size
    cdef int result
    with nogil:
        result = c_pio_out_string(manager, tables, port, size, start, count, &done)
    return done, result


def unowned(IoManager manager, uint64_t address, size_t size):
    """Apply the manager's rule to an access to memory and to one to ports."""
    cdef IoTables tables = manager.tables()
    errors = []
    for is_port in (False, True):
        try:
            with nogil:
                if is_port:
                    c_pio_unowned(tables, address, size)
                else:
                    c_mmio_unowned(tables, address, size)
        except Exception as error:
            errors.append(error)
    return errors


# ----------------------------------------------------------------------------- on a thread of its own


cdef int raise_what_is_set() except -1:
    return -1


cdef void keep(Access *access, error) noexcept:
    Py_INCREF(error)
    access.error = <PyObject *>error


cdef void keep_what_is_set(Access *access) noexcept with gil:
    """Take the exception that is set on this thread, as C code does with PyErr_Fetch."""
    try:
        raise_what_is_set()
    except BaseException as error:
        keep(access, error)


# A thread that stays unknown to Python, as a caller in C sees the functions: the result says that an exception is set.
cdef void *unknown_thread(void *argument) noexcept nogil:
    cdef Access *access = <Access *>argument
    access.thread_was_known = PyGILState_GetThisThreadState() != NULL
    access.result = (<int (*)(Access *) noexcept nogil>make)(access)
    if access.result == -1:
        keep_what_is_set(access)
    return NULL


# A thread that stays unknown, and lets Cython deal with the exception: it is passed to sys.unraisablehook.
cdef void *unraisable_thread(void *argument) noexcept nogil:
    (<Access *>argument).result = make(<Access *>argument)
    return NULL


# The recipe: a thread whose outermost function is `with gil`, and which releases the GIL inside it.
cdef void *attached_thread(void *argument) noexcept with gil:
    cdef Access *access = <Access *>argument
    try:
        with nogil:
            access.thread_was_known = PyGILState_GetThisThreadState() != NULL
            access.result = make(access)
    except BaseException as error:
        access.result = -1
        keep(access, error)
    return NULL


def access_on_new_thread(target, name, uint64_t address, size_t size, uint64_t value=0, *, kind="unknown"):
    """Make one access on a new thread; return (result, value or bytes, exception or None)."""
    cdef Access access = new_access(target, name, address, size, value)
    cdef pthread_t thread
    cdef int failed
    cdef Start start = unknown_thread
    if kind == "attached":
        start = attached_thread
    elif kind == "unraisable":
        start = unraisable_thread
    with nogil:
        failed = pthread_create(&thread, NULL, start, &access)
        if not failed:
            pthread_join(thread, NULL)
    if failed:
        raise OSError(failed, "pthread_create")
    assert access.thread_was_known == (kind == "attached")
    if access.error == NULL:
        return *outcome(&access, access.result), None
    error = <object>access.error
    Py_DECREF(error)
    return *outcome(&access, access.result), error
