"""The re-entrant lock of `Mutex`: a comparison and two stores if no other thread holds it."""

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint32_t

from .platform cimport dbs_critical_section, dbs_critical_section_begin, dbs_critical_section_end

import os
import threading

__all__ = ["ReentrantLock"]


cdef uint32_t fork_count = 0


def count_fork():
    global fork_count
    fork_count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)


@cython.final
cdef class ReentrantLock:
    """A lock that the thread that holds it may acquire again.

    The GIL guards its state, or a critical section on free-threaded builds. A thread waits on a Python lock, which
    signals can interrupt.

    Examples
    --------
    >>> lock = ReentrantLock()
    >>> with lock, lock:
    ...     pass
    >>> lock.release()
    Traceback (most recent call last):
    RuntimeError: the lock is not held by this thread
    """

    def __cinit__(self):
        self._gate = threading.Lock()
        self._gate.acquire()

    cdef bint try_lock(self) noexcept:
        cdef unsigned long thread = <unsigned long>PyThread_get_thread_ident()
        cdef dbs_critical_section section
        cdef bint is_taken
        dbs_critical_section_begin(&section, <PyObject *>self)
        if self._owner != 0 and self._owner != thread and self._fork_count != fork_count:
            self._owner = 0
            self._depth = 0
        is_taken = self._owner == 0 or self._owner == thread
        if is_taken:
            self._owner = thread
            self._depth += 1
            self._fork_count = fork_count
        dbs_critical_section_end(&section)
        return is_taken

    cdef int lock(self) except -1:
        """Acquire the lock; wait while another thread holds it. A signal handler may raise while it waits."""
        if self.try_lock():
            return 0
        with cython.critical_section(self):
            self._waiting += 1
        try:
            while not self.try_lock():
                self._gate.acquire()
                with cython.critical_section(self):
                    self._woken = False
        finally:
            with cython.critical_section(self):
                self._waiting -= 1
        return 0

    cdef int unlock(self) except -1:
        cdef dbs_critical_section section
        cdef bint is_held, wakes = False
        dbs_critical_section_begin(&section, <PyObject *>self)
        is_held = self._owner == <unsigned long>PyThread_get_thread_ident()
        if is_held:
            self._depth -= 1
            if self._depth == 0:
                self._owner = 0
                # A thread that is already awake tries again, as does each that finds the gate open.
                wakes = self._waiting != 0 and not self._woken
                self._woken = self._woken or wakes
        dbs_critical_section_end(&section)
        if not is_held:
            raise RuntimeError("the lock is not held by this thread")
        if wakes:
            self._gate.release()
        return 0

    def acquire(self):
        """Acquire the lock; wait while another thread holds it."""
        self.lock()

    def release(self):
        """Release the lock once.

        Raises
        ------
        RuntimeError
            This thread does not hold the lock.
        """
        self.unlock()

    def call(self, function, *arguments):
        """Call a function with the lock held, and return its result.

        A signal handler that raises leaves the lock free. In a `with` block it may not: CPython 3.13 and later run
        handlers after the call of ``__enter__``, before the block is entered. Compiled code runs none.
        """
        self.lock()
        try:
            return function(*arguments)
        finally:
            self.unlock()

    def __enter__(self):
        self.lock()
        return self

    def __exit__(self, exception_type, exception, traceback):
        self.unlock()
