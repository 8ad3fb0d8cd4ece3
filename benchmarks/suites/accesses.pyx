"""One access at a time from C: in loops that are timed, and in functions whose instructions callgrind counts.

An access is a C function and its subject; all of one shape run in the same loop through a function pointer, so that
every peer pays the same for being called. Peers that are not Cython (``peers/``) come in as addresses of functions.

``counted_call`` and ``counted_access`` are entered for what is counted (``--toggle-collect=counted_*``), and their
twins for what warms up. ``counting_done`` is where callgrind writes down what it has (``--dump-before``).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from dbs_device._bus cimport (
    IoManager,
    IoTables,
    NativeDevice,
    c_manager_mmio_load,
    c_mmio_load,
    c_mmio_read,
    c_mmio_store,
    c_pio_in_string,
    c_pio_out_string,
    c_pio_read,
    c_pio_write,
)

from time import thread_time

import numpy as np

from dbs_device import CallbackHandle, entry_point_addresses


cdef extern from "Python.h":
    object PyObject_Vectorcall(object callable, PyObject *const *arguments, size_t count, PyObject *keywords)
    void PyErr_Clear() noexcept


cdef extern from *:
    """
    typedef int (*bench_load)(void *subject, uint64_t address, size_t size, uint64_t *value);
    typedef int (*bench_store)(void *subject, uint64_t address, size_t size, uint64_t value);
    typedef int (*bench_read)(void *subject, uint64_t address, uint8_t *data, size_t size);
    typedef uint64_t (*bench_entry_point)(void *subject, uint64_t address, unsigned size);

    /* One of the functions is set, or none in the loop without an access. */
    typedef struct {
        void *subject;
        bench_load load;
        bench_store store;
        bench_read read;
        bench_entry_point entry_point;
    } bench_access;

    /* The result of an access: it keeps the loop from being optimised away, and is compared between peers. */
    typedef struct { uint64_t sum; uint64_t refused; } bench_outcome;

    #define BENCH_NOINLINE __attribute__((noinline, noclone))
    #define BENCH_KEEP(x) __asm__ volatile("" : : "r"(x) : "memory")

    static BENCH_NOINLINE bench_outcome bench_run_loads(
        bench_load access, void *subject, const uint64_t *addresses, size_t count, size_t passes
    ) {
        bench_outcome outcome = {0, 0};
        for (size_t pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < count; i++) {
                uint64_t value = 0;
                outcome.refused += access(subject, addresses[i], 4, &value) != 0;
                outcome.sum += value;
            }
        }
        return outcome;
    }

    static BENCH_NOINLINE bench_outcome bench_run_stores(
        bench_store access, void *subject, const uint64_t *addresses, size_t count, size_t passes
    ) {
        bench_outcome outcome = {0, 0};
        for (size_t pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < count; i++) {
                outcome.refused += access(subject, addresses[i], 4, 0x12345678) != 0;
            }
        }
        return outcome;
    }

    static BENCH_NOINLINE bench_outcome bench_run_reads(
        bench_read access, void *subject, const uint64_t *addresses, size_t count, size_t passes
    ) {
        bench_outcome outcome = {0, 0};
        for (size_t pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < count; i++) {
                uint32_t value = 0;
                outcome.refused += access(subject, addresses[i], (uint8_t *)&value, sizeof value) != 0;
                outcome.sum += value;
            }
        }
        return outcome;
    }

    /* An entry point does not report whether the address was owned. */
    static BENCH_NOINLINE bench_outcome bench_run_entry_points(
        bench_entry_point access, void *subject, const uint64_t *addresses, size_t count, size_t passes
    ) {
        bench_outcome outcome = {0, 0};
        for (size_t pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < count; i++) {
                outcome.sum += access(subject, addresses[i], 4);
            }
        }
        return outcome;
    }

    /* The twin of all: everything but the call. */
    static BENCH_NOINLINE bench_outcome bench_run_empty(const uint64_t *addresses, size_t count, size_t passes) {
        bench_outcome outcome = {0, 0};
        for (size_t pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < count; i++) {
                uint64_t value = 0;
                BENCH_KEEP(addresses[i]);
                BENCH_KEEP(&value);
                outcome.sum += value;
            }
        }
        return outcome;
    }

    static bench_outcome bench_run(
        const bench_access *access, const uint64_t *addresses, size_t count, size_t passes
    ) {
        if (access->load) return bench_run_loads(access->load, access->subject, addresses, count, passes);
        if (access->store) return bench_run_stores(access->store, access->subject, addresses, count, passes);
        if (access->read) return bench_run_reads(access->read, access->subject, addresses, count, passes);
        if (access->entry_point)
            return bench_run_entry_points(access->entry_point, access->subject, addresses, count, passes);
        return bench_run_empty(addresses, count, passes);
    }

    static inline void bench_run_one(const bench_access *access, uint64_t address) {
        uint64_t value;
        if (access->load) access->load(access->subject, address, 4, &value);
        else if (access->store) access->store(access->subject, address, 4, 0x12345678);
        else if (access->read) access->read(access->subject, address, (uint8_t *)&value, 4);
        else if (access->entry_point) access->entry_point(access->subject, address, 4);
    }
    void BENCH_NOINLINE counted_access(const bench_access *access, uint64_t address) {
        bench_run_one(access, address);
    }
    void BENCH_NOINLINE warming_access(const bench_access *access, uint64_t address) {
        bench_run_one(access, address);
    }

    PyObject *BENCH_NOINLINE counted_call(PyObject *callable, PyObject *const *arguments, size_t count) {
        return PyObject_Vectorcall(callable, arguments, count, NULL);
    }
    PyObject *BENCH_NOINLINE warming_call(PyObject *callable, PyObject *const *arguments, size_t count) {
        return PyObject_Vectorcall(callable, arguments, count, NULL);
    }

    void BENCH_NOINLINE counting_done(void) { __asm__ volatile(""); }

    /* The cheapest callback that Unicorn can have. */
    static uint64_t bench_uc_load(void *uc, uint64_t offset, unsigned size, void *data) {
        (void)uc; (void)offset; (void)size; (void)data;
        return 0;
    }
    static void bench_uc_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *data) {
        (void)uc; (void)offset; (void)size; (void)value; (void)data;
    }
    static uint32_t bench_uc_in(void *uc, uint32_t port, int size, void *data) {
        (void)uc; (void)port; (void)size; (void)data;
        return 0;
    }
    static void bench_uc_out(void *uc, uint32_t port, int size, uint32_t value, void *data) {
        (void)uc; (void)port; (void)size; (void)value; (void)data;
    }

    static int bench_idle_load(void *subject, uint64_t address, size_t size, uint64_t *value) {
        (void)subject; (void)address; (void)size;
        *value = 0;
        return 0;
    }
    """
    ctypedef int (*bench_load)(void *subject, uint64_t address, size_t size, uint64_t *value) noexcept nogil
    ctypedef int (*bench_store)(void *subject, uint64_t address, size_t size, uint64_t value) noexcept nogil
    ctypedef int (*bench_read)(void *subject, uint64_t address, uint8_t *data, size_t size) noexcept nogil
    ctypedef uint64_t (*bench_entry_point)(void *subject, uint64_t address, unsigned size) noexcept nogil
    ctypedef struct bench_access:
        void *subject
        bench_load load
        bench_store store
        bench_read read
        bench_entry_point entry_point
    ctypedef struct bench_outcome:
        uint64_t sum
        uint64_t refused
    bench_outcome bench_run(const bench_access *, const uint64_t *, size_t, size_t) noexcept nogil
    void counted_access(const bench_access *, uint64_t) noexcept
    void warming_access(const bench_access *, uint64_t) noexcept
    PyObject *counted_call(PyObject *callable, PyObject **arguments, size_t count)
    PyObject *warming_call(PyObject *callable, PyObject **arguments, size_t count)
    void counting_done() noexcept
    int bench_idle_load(void *, uint64_t, size_t, uint64_t *) noexcept nogil
    uint64_t bench_uc_load(void *, uint64_t, unsigned, void *) noexcept nogil
    void bench_uc_store(void *, uint64_t, unsigned, uint64_t, void *) noexcept nogil
    uint32_t bench_uc_in(void *, uint32_t, int, void *) noexcept nogil
    void bench_uc_out(void *, uint32_t, int, uint32_t, void *) noexcept nogil


IDLE_UNICORN_CALLBACKS = {
    "load": <uintptr_t>&bench_uc_load,
    "store": <uintptr_t>&bench_uc_store,
    "in": <uintptr_t>&bench_uc_in,
    "out": <uintptr_t>&bench_uc_out,
}


cdef class OffsetDevice(NativeDevice):
    """Reads as the offset: the least that shows that the right device was asked in the right way."""

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        cdef uint32_t value = <uint32_t>offset
        if size == sizeof(value):
            memcpy(data, &value, sizeof(value))
        else:
            memset(data, <uint8_t>offset, size)
        return 0


cdef class Empty:
    """The least that a method costs from Python."""

    def method(self, first, second):
        pass


cdef class CallFromC:
    """Calls of a Python object from C, with arguments that are ready: what a bus in C cannot do without."""

    cdef object callable
    cdef tuple arguments

    def __init__(self, callable, *arguments):
        self.callable = callable
        self.arguments = arguments

    def time(self, size_t calls):
        """Return the seconds that so many calls take."""
        cdef PyObject *arguments[4]
        cdef size_t index, count = len(self.arguments)
        cdef object callable = self.callable
        if count > 4:
            raise ValueError("at most 4 arguments")
        for index in range(count):
            arguments[index] = <PyObject *>self.arguments[index]
        began = thread_time()
        for _ in range(calls):
            PyObject_Vectorcall(callable, arguments, count, NULL)
        return thread_time() - began


cdef class Access:
    """One kind of access to one subject, which `owner` keeps alive."""

    cdef object owner
    cdef bench_access access
    cdef bint release_gil

    def time(self, addresses not None, size_t passes, clock=thread_time):
        """Return (seconds for `passes` passes over the addresses, sum of the values, how many were refused)."""
        cdef Py_buffer buffer
        cdef bench_outcome outcome
        cdef const uint64_t *start
        cdef size_t count
        if addresses.dtype != np.uint64:
            raise TypeError(f"addresses are uint64, not {addresses.dtype}")
        PyObject_GetBuffer(addresses, &buffer, PyBUF_SIMPLE)
        try:
            start = <const uint64_t *>buffer.buf
            count = buffer.len // sizeof(uint64_t)
            began = clock()
            if self.release_gil:
                with nogil:
                    outcome = bench_run(&self.access, start, count, passes)
            else:
                outcome = bench_run(&self.access, start, count, passes)
            seconds = clock() - began
        finally:
            PyBuffer_Release(&buffer)
        return seconds, outcome.sum, outcome.refused

    def count(self, addresses, int warm_up):
        """Make the access once for each address, counted, after making all of them `warm_up` times."""
        cdef list sequence = list(addresses)
        cdef uint64_t address
        for _ in range(warm_up):
            for address in sequence:
                warming_access(&self.access, address)
        for address in sequence:
            counted_access(&self.access, address)
        counting_done()


cdef Access new_access(object owner, void *subject, bint release_gil=True):
    cdef Access access = Access.__new__(Access)
    access.owner = owner
    access.access.subject = subject
    access.release_gil = release_gil
    return access


def empty_loop():
    """The loop without an access: what is subtracted from all others."""
    return new_access(None, NULL)


def idle_call():
    """A call of a function that does nothing: the least that any look-up can cost."""
    cdef Access access = new_access(None, NULL)
    access.access.load = bench_idle_load
    return access


cdef int read_directly(OffsetDevice device, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    return device.c_read(0, address, data, size)


def direct_read():
    """A call that calls the device: the least that a bus can cost."""
    cdef OffsetDevice device = OffsetDevice()
    cdef Access access = new_access(device, <void *>device)
    access.access.read = <bench_read>read_directly
    return access


def held_load(IoTables tables not None, bint release_gil=True):
    """`c_mmio_load` on held tables."""
    cdef Access access = new_access(tables, <void *>tables, release_gil)
    access.access.load = <bench_load>c_mmio_load
    return access


def held_store(IoTables tables not None):
    """`c_mmio_store` on held tables."""
    cdef Access access = new_access(tables, <void *>tables)
    access.access.store = <bench_store>c_mmio_store
    return access


def held_read(IoTables tables not None):
    """`c_mmio_read` on held tables."""
    cdef Access access = new_access(tables, <void *>tables)
    access.access.read = <bench_read>c_mmio_read
    return access


def manager_load(IoManager manager not None):
    """`c_manager_mmio_load`, which pins the manager's tables for each call."""
    cdef Access access = new_access(manager, <void *>manager)
    access.access.load = <bench_load>c_manager_mmio_load
    return access


def entry_point_load(IoManager manager not None):
    """The C entry point ``mmio_load`` of ``dbs_device.h``."""
    handle = CallbackHandle(manager)
    cdef Access access = new_access(handle, <void *><uintptr_t>handle.address)
    access.access.entry_point = <bench_entry_point><uintptr_t>entry_point_addresses()["mmio_load"]
    return access


def peer_read(uintptr_t function, uintptr_t subject, object owner):
    """The read function of a peer, by its address."""
    cdef Access access = new_access(owner, <void *>subject)
    access.access.read = <bench_read>function
    return access


def time_string(IoManager manager, uint64_t port, size_t count, bint is_in, bint by_item, size_t passes):
    """Return the seconds that `passes` strings of `count` bytes take, in one call each, or in one for each byte."""
    cdef IoTables tables = manager.tables()
    cdef bytearray data = bytearray(count)
    cdef uint8_t *start = data
    cdef size_t item, done
    began = thread_time()
    with nogil:
        for _ in range(passes):
            done = 0
            if by_item:
                for item in range(count):
                    if is_in:
                        c_pio_read(tables, port, start + item, 1)
                    else:
                        c_pio_write(tables, port, start + item, 1)
            elif is_in:
                c_pio_in_string(manager, tables, port, 1, start, count, &done)
            else:
                c_pio_out_string(manager, tables, port, 1, start, count, &done)
    return thread_time() - began


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
