"""One operation at a time, inside a C function whose instructions callgrind counts (``--toggle-collect=counted_*``).

``counted_call`` and ``counted_access`` are entered for what is counted, and their twins for what warms up.
``counting_done`` is where callgrind writes down what it has (``--dump-before``).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint64_t, uintptr_t

from dbs_device._bus cimport IoManager, IoTables, c_manager_mmio_load, c_mmio_load, c_mmio_store

from dbs_device import CallbackHandle, entry_point_addresses


cdef extern from *:
    """
    #define COUNTED __attribute__((noinline, noclone))
    #ifdef __has_include
    #if __has_include(<valgrind/callgrind.h>)
    #include <valgrind/callgrind.h>
    #endif
    #endif
    /* Tells callgrind, which was started with --instr-atstart=no, to look from now on. */
    #ifdef CALLGRIND_START_INSTRUMENTATION
    enum { CAN_START_COUNTING = 1 };
    static void start_counting(void) { CALLGRIND_START_INSTRUMENTATION; }
    #else
    enum { CAN_START_COUNTING = 0 };
    static void start_counting(void) { }
    #endif

    typedef int (*counted_load)(void *subject, uint64_t address, size_t size, uint64_t *value);
    typedef int (*counted_store)(void *subject, uint64_t address, size_t size, uint64_t value);
    typedef uint64_t (*counted_callback)(void *subject, uint64_t address, unsigned size);
    typedef struct {
        counted_load load;
        counted_store store;
        counted_callback callback;
        void *subject;
    } counted_operation;

    static inline int make_access(const counted_operation *operation, uint64_t address) {
        uint64_t value;
        if (operation->load) return operation->load(operation->subject, address, 4, &value);
        if (operation->store) return operation->store(operation->subject, address, 4, 0x12345678);
        operation->callback(operation->subject, address, 4);
        return 0;
    }
    int COUNTED counted_access(const counted_operation *operation, uint64_t address) {
        return make_access(operation, address);
    }
    int COUNTED warming_access(const counted_operation *operation, uint64_t address) {
        return make_access(operation, address);
    }

    PyObject *COUNTED counted_call(PyObject *callable, PyObject *const *arguments, size_t count) {
        return PyObject_Vectorcall(callable, arguments, count, NULL);
    }
    PyObject *COUNTED warming_call(PyObject *callable, PyObject *const *arguments, size_t count) {
        return PyObject_Vectorcall(callable, arguments, count, NULL);
    }

    void COUNTED counting_done(void) { __asm__ volatile(""); }
    """
    ctypedef int (*counted_load)(void *subject, uint64_t address, size_t size, uint64_t *value) noexcept nogil
    ctypedef int (*counted_store)(void *subject, uint64_t address, size_t size, uint64_t value) noexcept nogil
    ctypedef uint64_t (*counted_callback)(void *subject, uint64_t address, unsigned size) noexcept nogil
    ctypedef struct counted_operation:
        counted_load load
        counted_store store
        counted_callback callback
        void *subject
    int counted_access(const counted_operation *operation, uint64_t address) noexcept nogil
    int warming_access(const counted_operation *operation, uint64_t address) noexcept nogil
    PyObject *counted_call(PyObject *callable, PyObject **arguments, size_t count)
    PyObject *warming_call(PyObject *callable, PyObject **arguments, size_t count)
    void counting_done() noexcept
    bint CAN_START_COUNTING
    void start_counting() noexcept


cdef extern from "Python.h":
    PyObject *PyErr_Occurred() noexcept
    void PyErr_Clear() noexcept


CAN_START = bool(CAN_START_COUNTING)  # it takes valgrind's header, when this module is built


def start():
    """Begin to count."""
    start_counting()


cdef class Access:
    """A C access; `owner` is what it works on."""

    cdef object owner
    cdef counted_operation operation

    def count(self, addresses, int warm_up):
        """Make the access once for each address, counted, after making all of them `warm_up` times."""
        cdef list sequence = list(addresses)
        cdef uint64_t address
        for _ in range(warm_up):
            for address in sequence:
                warming_access(&self.operation, address)
        for address in sequence:
            counted_access(&self.operation, address)
        counting_done()


def held_load(IoTables tables not None):
    cdef Access access = Access()
    access.owner = tables
    access.operation = counted_operation(<counted_load>c_mmio_load, NULL, NULL, <void *>tables)
    return access


def held_store(IoTables tables not None):
    cdef Access access = Access()
    access.owner = tables
    access.operation = counted_operation(NULL, <counted_store>c_mmio_store, NULL, <void *>tables)
    return access


def manager_load(IoManager manager not None):
    cdef Access access = Access()
    access.owner = manager
    access.operation = counted_operation(<counted_load>c_manager_mmio_load, NULL, NULL, <void *>manager)
    return access


def callback_load(IoManager manager not None):
    cdef Access access = Access()
    access.owner = CallbackHandle(manager)
    access.operation = counted_operation(
        NULL,
        NULL,
        <counted_callback><uintptr_t>entry_point_addresses()["mmio_load"],
        <void *><uintptr_t>access.owner.address,
    )
    return access


def count_calls(object callable, list calls, int warm_up):
    """Call with each tuple of arguments once, counted, after doing all of it `warm_up` times; drop exceptions."""
    cdef tuple arguments
    for _ in range(warm_up):
        for arguments in calls:
            call_once(callable, arguments, False)
    for arguments in calls:
        call_once(callable, arguments, True)
    counting_done()


cdef int call_once(object callable, tuple arguments, bint counted) except -1:
    cdef PyObject *values[4]
    cdef PyObject *result
    cdef size_t index, count = len(arguments)
    if count > 4:
        raise ValueError("at most 4 arguments")
    for index in range(count):
        values[index] = <PyObject *>arguments[index]
    if counted:
        result = counted_call(<PyObject *>callable, values, count)
    else:
        result = warming_call(<PyObject *>callable, values, count)
    if result == NULL:
        PyErr_Clear()
    else:
        Py_DECREF(<object>result)
    return 0
