"""Compiled loops over one access each, and the accesses that they run.

An access is a C function and its subject; all of one shape run in the very same loop through a function pointer, so
that every engine pays the same for being called. Engines that are not Cython (`std_map.cpp`, `btree_map.rs`) come in as
addresses of functions.
"""

from cpython.object cimport PyObject
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

from dbs_device._bus cimport (
    IoManager,
    IoTables,
    NativeDevice,
    c_manager_mmio_load,
    c_mmio_load,
    c_mmio_read,
)

from time import thread_time

import numpy as np

from dbs_device import CallbackHandle, entry_point_addresses


cdef extern from "Python.h":
    object PyObject_Vectorcall(object callable, PyObject *const *arguments, size_t count, PyObject *keywords)


cdef extern from *:
    """
    /* What an access leaves behind: the loop must not be optimised away, and the answers are compared. */
    typedef struct { uint64_t sum; uint64_t refused; } bench_outcome;
    typedef int (*bench_load)(void *subject, uint64_t address, size_t size, uint64_t *value);
    typedef int (*bench_read)(void *subject, uint64_t address, uint8_t *data, size_t size);
    typedef uint64_t (*bench_callback)(void *subject, uint64_t address, unsigned size);

    #if defined(_MSC_VER)
    #define BENCH_NOINLINE __declspec(noinline)
    #define BENCH_KEEP(x)
    #else
    #define BENCH_NOINLINE __attribute__((noinline))
    #define BENCH_KEEP(x) __asm__ volatile("" : : "r"(x) : "memory")
    #endif

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

    /* A callback does not say whether anybody owned the address. */
    static BENCH_NOINLINE bench_outcome bench_run_callbacks(
        bench_callback access, void *subject, const uint64_t *addresses, size_t count, size_t passes
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

    /* The least that can stand behind Unicorn. */
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
    ctypedef struct bench_outcome:
        uint64_t sum
        uint64_t refused
    ctypedef int (*bench_load)(void *subject, uint64_t address, size_t size, uint64_t *value) noexcept nogil
    ctypedef int (*bench_read)(void *subject, uint64_t address, uint8_t *data, size_t size) noexcept nogil
    ctypedef uint64_t (*bench_callback)(void *subject, uint64_t address, unsigned size) noexcept nogil
    bench_outcome bench_run_callbacks(bench_callback, void *, const uint64_t *, size_t, size_t) noexcept nogil
    bench_outcome bench_run_loads(bench_load, void *, const uint64_t *, size_t, size_t) noexcept nogil
    bench_outcome bench_run_reads(bench_read, void *, const uint64_t *, size_t, size_t) noexcept nogil
    bench_outcome bench_run_empty(const uint64_t *, size_t, size_t) noexcept nogil
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
    cdef void *subject
    cdef bench_load load
    cdef bench_read read
    cdef bench_callback callback
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
                    outcome = self.run(start, count, passes)
            else:
                outcome = self.run(start, count, passes)
            seconds = clock() - began
        finally:
            PyBuffer_Release(&buffer)
        return seconds, outcome.sum, outcome.refused

    cdef bench_outcome run(self, const uint64_t *addresses, size_t count, size_t passes) noexcept nogil:
        if self.load != NULL:
            return bench_run_loads(self.load, self.subject, addresses, count, passes)
        if self.read != NULL:
            return bench_run_reads(self.read, self.subject, addresses, count, passes)
        if self.callback != NULL:
            return bench_run_callbacks(self.callback, self.subject, addresses, count, passes)
        return bench_run_empty(addresses, count, passes)


cdef Access new_access(object owner, void *subject, bint release_gil):
    cdef Access access = Access.__new__(Access)
    access.owner = owner
    access.subject = subject
    access.release_gil = release_gil
    return access


def empty_loop():
    """The loop without an access: what is subtracted from all others."""
    return new_access(None, NULL, True)


def idle_call():
    """A call of a function that does nothing: the least that any engine can cost."""
    cdef Access access = new_access(None, NULL, True)
    access.load = bench_idle_load
    return access


cdef int read_directly(OffsetDevice device, uint64_t address, uint8_t *data, size_t size) except -1 nogil:
    return device.c_read(0, address, data, size)


def direct_read():
    """A call that calls the device: the least that a bus can cost."""
    cdef OffsetDevice device = OffsetDevice()
    cdef Access access = new_access(device, <void *>device, True)
    access.read = <bench_read>read_directly
    return access


def held_load(IoTables tables not None, bint release_gil=True):
    """`c_mmio_load` on held tables."""
    cdef Access access = new_access(tables, <void *>tables, release_gil)
    access.load = <bench_load>c_mmio_load
    return access


def held_read(IoTables tables not None, bint release_gil=True):
    """`c_mmio_read` on held tables."""
    cdef Access access = new_access(tables, <void *>tables, release_gil)
    access.read = <bench_read>c_mmio_read
    return access


def manager_load(IoManager manager not None, bint release_gil=True):
    """`c_manager_mmio_load`, which pins the manager's tables for each call."""
    cdef Access access = new_access(manager, <void *>manager, release_gil)
    access.load = <bench_load>c_manager_mmio_load
    return access


def callback_load(IoManager manager not None, bint release_gil=True):
    """The C entry point ``mmio_load`` of ``dbs_device.h``."""
    handle = CallbackHandle(manager)
    cdef Access access = new_access(handle, <void *><uintptr_t>handle.address, release_gil)
    access.callback = <bench_callback><uintptr_t>entry_point_addresses()["mmio_load"]
    return access


def foreign_read(uintptr_t function, uintptr_t subject, object owner):
    """The read function of another engine, by its address."""
    cdef Access access = new_access(owner, <void *>subject, True)
    access.read = <bench_read>function
    return access
