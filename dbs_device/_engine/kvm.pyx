"""The run loop of a KVM vCPU, which serves exits from the bus without the GIL."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .access cimport c_read, c_write, unowned_is_served
from .batch cimport in_string, out_string
from .kvm_abi cimport (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR,
    KVM_EXIT_IO,
    KVM_EXIT_IO_OUT,
    KVM_EXIT_IRQ_WINDOW_OPEN,
    KVM_EXIT_MMIO,
    KVM_EXIT_SYSTEM_EVENT,
    KVM_INTERRUPT,
    KVM_RUN,
    dbs_coalesced_write,
    dbs_fail_entry,
    dbs_fail_entry_of,
    dbs_ring_item,
    dbs_ring_last,
    dbs_ring_length,
    dbs_ring_release,
    dbs_system_event,
    dbs_system_event_of,
    ioctl,
    kvm_coalesced_mmio_ring,
    kvm_interrupt,
    kvm_run,
)
from .kvm_signals cimport (
    dbs_block_kicks,
    dbs_exchange_run,
    dbs_flag_exchange,
    dbs_flag_load,
    dbs_flag_store,
    dbs_kick_signal,
    dbs_note_main_thread,
    dbs_put_before_python,
    dbs_restore_for_python,
    dbs_runner,
    dbs_runner_destroy,
    dbs_runner_end,
    dbs_runner_init,
    dbs_runner_signal,
    dbs_runner_start,
    dbs_set_immediate_exit,
    dbs_take_kick_signal,
)
from .platform cimport set_public_name
from .recording cimport AccessLog, append
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    PublishedTables,
    SpaceId,
    are_current,
    current_tables,
    published_tables_of,
)

import os
import threading
from _signal import getsignal  # `signal.getsignal` makes an enum of each, which takes ten times as long
from signal import valid_signals

from ..errors import add_progress
from .kvm_exits import Counters, Exit

__all__ = ["Vcpu"]


cdef extern from "Python.h":
    int PyObject_AsFileDescriptor(object file) except -1


cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE


cdef enum:
    GO_ON = 0
    LEAVE = 1
    KICKED = -1  # `Exit.KICKED`
    FAILED = -2  # returned with an exception


cdef dict members = Exit._value2member_map_
cdef tuple signal_numbers = tuple(sorted(map(int, valid_signals())))
cdef size_t runs_on_main_thread = 0


cdef int exception_is_set() except -1:
    """Raise the exception that is set."""
    return -1


cdef bint is_on_main_thread() except -1:
    return <unsigned long>PyThread_get_thread_ident() == <unsigned long>threading.main_thread().ident


cdef int raise_os_error() except -1 with gil:
    """Raise what `errno` says."""
    raise OSError(errno, os.strerror(errno))


cdef int take_signals() except -1:
    """Put a handler in front of those that Python code has set, so that their signals interrupt KVM_RUN in time."""
    dbs_note_main_thread()
    for number in signal_numbers:
        if callable(getsignal(number)):
            dbs_put_before_python(number)
    return 0


@cython.final
@cython.no_gc_clear  # `published` is read without a check; what it publishes is cleared in its place
cdef class Vcpu:
    """A vCPU whose I/O and MMIO exits are served from a manager's devices.

    Parameters
    ----------
    fd : int or file object
        The vCPU, from KVM_CREATE_VCPU. It is not closed.
    run : buffer
        Its ``kvm_run``: the writable mapping of the vCPU, of KVM_GET_VCPU_MMAP_SIZE bytes. It cannot be closed while
        this object lives.
    manager : IoManager
        The bus. Several vCPUs may share it.
    acknowledge : callable, optional
        For a VM without interrupt controllers in the kernel (x86): called without arguments when the vCPU takes an
        interrupt, returns its vector, 0..255. See `set_intr`.
    recorder : dbs_device.trace.TraceRecorder, optional
        Records each access that was served.
    coalesced_ring : int
        Page of the mapping that holds the ring of coalesced writes: what KVM_CHECK_EXTENSION returns for
        KVM_CAP_COALESCED_MMIO; 0 for none. The VM has one ring: give it to one vCPU or, with a `big_lock`, to all.
    big_lock : lock, optional
        Has ``acquire()`` and ``release()``, as `threading.RLock`. Held while an exit is served, so that no two vCPUs
        with the same lock are in a device at the same time. Costs the GIL at each exit.

    Raises
    ------
    TypeError
        An argument has another type.
    ValueError
        `run` is too small, or the manager's `byteorder` is not that of the guest, which is little-endian.
    OSError
        No real-time signal is free for kicks.

    Notes
    -----
    A device that raises ends `run` with its exception. KVM completes the access when the vCPU is next entered: a
    resumed guest does not repeat the instruction, and a read gives zeros. Until then, the vCPU's registers are those
    before the instruction; `complete` brings them up to date.

    Devices that are unplugged while the guest computes live until its next exit.
    """

    cdef object __weakref__
    cdef int fd
    cdef object file
    cdef Py_buffer mapping
    cdef kvm_run *kvm_run
    cdef kvm_coalesced_mmio_ring *ring
    cdef uint32_t ring_length
    cdef readonly object manager
    cdef PublishedTables published
    cdef IoTables tables  # held for the time of a run
    cdef object acknowledge
    cdef AccessLog log  # or None
    cdef object big_lock
    cdef bint injects
    cdef bint records
    cdef bint locks
    cdef bint is_unserved  # the last exit has not been served yet
    cdef dbs_runner runner
    cdef int kicked
    cdef int intr
    cdef uint64_t exits, mmio, pio, strings, coalesced, interrupts, windows, interruptions

    def __cinit__(
        self, fd, run, manager, *, acknowledge=None, recorder=None, size_t coalesced_ring=0, big_lock=None
    ):
        cdef size_t page_size = <size_t>sysconf(_SC_PAGESIZE)
        dbs_runner_init(&self.runner)
        self.published = published_tables_of(manager)
        if recorder is not None and not isinstance(recorder, AccessLog):
            raise TypeError(f"recorder is a TraceRecorder, not {type(recorder).__name__}")
        if manager.byteorder != "little":
            raise ValueError("a KVM guest is little-endian, and the manager has byteorder=\"big\"")
        if acknowledge is not None and not callable(acknowledge):
            raise TypeError(f"acknowledge is called for a vector, which {type(acknowledge).__name__} cannot be")
        self.fd = PyObject_AsFileDescriptor(fd)
        PyObject_GetBuffer(run, &self.mapping, PyBUF_WRITABLE)
        if coalesced_ring >= <size_t>self.mapping.len // page_size:
            needed = (<object>coalesced_ring + 1) * page_size
            raise ValueError(f"the kvm_run mapping has {needed:#x} bytes or more, not {self.mapping.len:#x}")
        if dbs_kick_signal == 0 and dbs_take_kick_signal() == 0:
            raise OSError("every real-time signal has a handler, and none is left for kicks")
        self.kvm_run = <kvm_run *>self.mapping.buf
        if coalesced_ring != 0:
            self.ring = <kvm_coalesced_mmio_ring *>(<uint8_t *>self.mapping.buf + coalesced_ring * page_size)
            self.ring_length = dbs_ring_length(page_size)
        self.file = fd
        self.manager = manager
        self.acknowledge = acknowledge
        self.injects = acknowledge is not None
        self.log = recorder
        self.records = recorder is not None
        self.big_lock = big_lock
        self.locks = big_lock is not None

    def __dealloc__(self):
        PyBuffer_Release(&self.mapping)
        dbs_runner_destroy(&self.runner)

    # -- from Python

    def run(self):
        """Run the guest until an exit that is not for the bus, or a kick.

        On the main thread, signals with a Python handler interrupt it: what the handler raises comes out, as
        KeyboardInterrupt does by default; if it raises nothing, the guest goes on.

        Returns
        -------
        Exit
            The reason. `Exit.KICKED` for a `kick`.

        Raises
        ------
        BaseException
            The exception of a device, of `acknowledge`, of `big_lock` or of a signal handler, unchanged. In a string
            (REP INS), it has `accesses_done`, and the items behind are not served.
        NoDeviceError
            An access is unowned, and the bus is not open.
        RuntimeError
            The vCPU is running already.
        OSError
            KVM_RUN fails.
        """
        cdef int reason
        cdef bint kicks_were_blocked = False
        cdef kvm_run *outer
        self.start()
        outer = dbs_exchange_run(self.kvm_run)
        try:
            kicks_were_blocked = self.enter()
            with nogil:
                reason = self.loop()
        finally:
            self.leave(outer, kicks_were_blocked)
        member = members.get(reason)
        return Exit(reason) if member is None else member

    def complete(self):
        """Finish the instruction whose access ended `run`, without running the guest any further.

        The vCPU's registers are then up to date. Nothing happens if no instruction is unfinished. Raises as `run` does:
        an instruction may make several accesses.
        """
        cdef bint kicks_were_blocked = False
        cdef kvm_run *outer
        self.start()
        outer = dbs_exchange_run(self.kvm_run)
        try:
            kicks_were_blocked = self.enter()
            with nogil:
                self.finish_instruction()
        finally:
            self.leave(outer, kicks_were_blocked)

    def kick(self):
        """Have `run` return `Exit.KICKED`, now or as soon as it is called. Any thread may call it.

        Several kicks before `run` returns are one.
        """
        dbs_flag_store(&self.kicked, 1)
        dbs_runner_signal(&self.runner)

    def set_intr(self, level):
        """Set the level of the interrupt input, as the sink of an `IrqLine` does. Any thread may call it.

        While it is high, and as soon as the guest can take an interrupt, `acknowledge` is called for a vector.

        Parameters
        ----------
        level : bool
            The level.
        """
        if not self.injects:
            raise ValueError("a Vcpu without `acknowledge` cannot take interrupts")
        dbs_flag_store(&self.intr, 1 if level else 0)
        if level:
            dbs_runner_signal(&self.runner)

    @property
    def intr(self):
        """bool : the level of the interrupt input."""
        return dbs_flag_load(&self.intr) != 0

    @property
    def interrupts_enabled(self):
        """bool : the interrupt flag of an x86 guest at its last exit."""
        return self.kvm_run.if_flag != 0

    @property
    def is_running(self):
        """bool : whether a thread is in `run`."""
        return self.runner.is_running != 0

    @property
    def counters(self):
        """Counters : exits, accesses, interrupts since the vCPU was made."""
        return Counters(
            self.exits,
            self.mmio,
            self.pio,
            self.strings,
            self.coalesced,
            self.interrupts,
            self.windows,
            self.interruptions,
        )

    @property
    def exit_details(self):
        """dict of str to int or tuple : what ``kvm_run`` says about FAIL_ENTRY, INTERNAL_ERROR and SYSTEM_EVENT."""
        cdef kvm_run *run = self.kvm_run
        cdef const dbs_fail_entry *failure
        cdef const dbs_system_event *event
        if run.exit_reason == KVM_EXIT_FAIL_ENTRY:
            failure = dbs_fail_entry_of(run)
            return {"hardware_entry_failure_reason": failure.hardware_entry_failure_reason, "cpu": failure.cpu}
        if run.exit_reason == KVM_EXIT_INTERNAL_ERROR:
            data = tuple(run.internal.data[index] for index in range(min(run.internal.ndata, 16)))
            return {"suberror": run.internal.suberror, "data": data}
        if run.exit_reason == KVM_EXIT_SYSTEM_EVENT:
            event = dbs_system_event_of(run)
            data = tuple(event.data[index] for index in range(min(event.ndata, 16)))
            return {"type": event.type, "data": data}
        return {}

    def __repr__(self):
        return f"<Vcpu, {'running' if self.is_running else 'stopped'}, {self.exits} exits>"

    # -- entering and leaving

    cdef int start(self) except -1:
        if not dbs_runner_start(&self.runner):
            raise RuntimeError("the vCPU is running already")
        return 0

    cdef bint enter(self) except -1:
        """Prepare this thread; return whether it blocks the signal of kicks."""
        global runs_on_main_thread
        if is_on_main_thread():
            runs_on_main_thread += 1
            if runs_on_main_thread == 1:
                take_signals()
        self.tables = current_tables(<PyObject *>self.published)
        return dbs_block_kicks(False)

    cdef int leave(self, kvm_run *outer, bint kicks_were_blocked) except -1:
        global runs_on_main_thread
        if kicks_were_blocked:
            dbs_block_kicks(True)
        if is_on_main_thread():
            runs_on_main_thread -= 1
            if runs_on_main_thread == 0:
                dbs_restore_for_python()
        dbs_runner_end(&self.runner)
        dbs_exchange_run(outer)
        self.tables = None
        return 0

    # -- the loop

    cdef int loop(self) except? FAILED nogil:
        """Run the guest; return why it has stopped. The only system call of an exit is KVM_RUN."""
        self.check_signals()  # those that came before `take_signals`
        while True:
            if self.is_unserved and self.serve() == LEAVE:
                self.is_unserved = False
                return <int>self.kvm_run.exit_reason
            if self.injects:
                self.inject_interrupt()
            if dbs_flag_load(&self.kicked) != 0:
                dbs_set_immediate_exit(self.kvm_run, 1)
            if ioctl(self.fd, KVM_RUN, 0) == 0:
                self.exits += 1
                self.is_unserved = True
            elif errno == EINTR or errno == EAGAIN:  # EAGAIN: a secondary processor that waits for its start
                self.interruptions += 1
                self.drain_under_lock()
                # In this order: a request that comes after this line sets it again, an earlier one is seen below.
                dbs_set_immediate_exit(self.kvm_run, 0)
                self.check_signals()
                if dbs_flag_exchange(&self.kicked, 0) != 0:
                    return KICKED
            else:
                raise_os_error()

    cdef int check_signals(self) except -1 with gil:
        """Run the Python handlers of signals that have come, if this is the main thread."""
        return PyErr_CheckSignals()

    cdef int serve(self) except -1 nogil:
        """Serve the last exit; return LEAVE if it is not for the bus. It stays unserved if it has not been reached."""
        return self.serve_under_lock() if self.locks else self.serve_exit()

    cdef int serve_under_lock(self) except -1 with gil:
        self.big_lock.acquire()
        try:
            with nogil:
                return self.serve_exit()
        finally:
            self.big_lock.release()

    cdef int serve_exit(self) except -1 nogil:
        cdef kvm_run *run = self.kvm_run
        cdef uint32_t reason = run.exit_reason
        if self.ring != NULL:
            self.drain()  # these writes are older than the exit
        if reason == KVM_EXIT_MMIO:
            self.is_unserved = False  # also if a device raises: KVM completes the access
            self.access(MMIO, run.mmio.phys_addr, run.mmio.data, run.mmio.len, run.mmio.is_write != 0)
            return GO_ON
        if reason == KVM_EXIT_IO:
            self.is_unserved = False
            return self.serve_ports(
                run.io.port,
                <uint8_t *>run + run.io.data_offset,
                run.io.size,
                run.io.count,
                run.io.direction == KVM_EXIT_IO_OUT,
            )
        if reason == KVM_EXIT_IRQ_WINDOW_OPEN:
            self.windows += 1
        elif reason != KVM_EXIT_INTR:
            return LEAVE
        self.is_unserved = False
        return GO_ON

    cdef int finish_instruction(self) except -1 nogil:
        """Have KVM complete the access of the last exit, and serve those that the instruction goes on to make."""
        while True:
            if self.is_unserved and self.serve() == LEAVE:
                return 0  # still to be returned by `run`
            dbs_set_immediate_exit(self.kvm_run, 1)
            if ioctl(self.fd, KVM_RUN, 0) != 0:
                break
            self.exits += 1
            self.is_unserved = True
        dbs_set_immediate_exit(self.kvm_run, 0)
        if errno != EINTR and errno != EAGAIN:
            raise_os_error()
        return 0

    # -- accesses

    cdef int refresh(self) except -1 nogil:
        if not are_current(self.published, self.tables):
            with gil:
                self.tables = current_tables(<PyObject *>self.published)
        return 0

    cdef int access(
        self, SpaceId space, uint64_t address, uint8_t *data, size_t size, bint is_write
    ) except -1 nogil:
        """Make one access. A read that fails leaves zeros, or what the device has written."""
        cdef PyObject *tables
        cdef int result
        self.refresh()
        tables = <PyObject *>self.tables
        if is_write:
            result = c_write(<IoTables>tables, space, address, data, size)
        else:
            result = c_read(<IoTables>tables, space, address, data, size)
        if result == 1:
            result = unowned_is_served(<IoTables>tables, space, address, size)
        if result == -1:
            return -1
        if space == MMIO:
            self.mmio += 1
        else:
            self.pio += 1
        if self.records:
            self.record_items(space, is_write, address, data, size, 1)
        return 0

    cdef int serve_ports(self, uint16_t port, uint8_t *data, size_t size, size_t count, bint is_write) except -1 nogil:
        if count == 1:
            self.access(PIO, port, data, size, is_write)
            return GO_ON
        return self.serve_string(port, data, size, count, is_write)

    cdef int serve_string(
        self, uint16_t port, uint8_t *data, size_t size, size_t count, bint is_write
    ) except -1 nogil:
        cdef PyObject *tables
        cdef size_t done = 0
        cdef int result = 0
        self.strings += 1
        while done < count and result != -1:
            self.refresh()
            tables = <PyObject *>self.tables
            if is_write:
                result = out_string(self.published, <IoTables>tables, port, size, data, count, &done)
            else:
                result = in_string(self.published, <IoTables>tables, port, size, data, count, &done)
            if result == 1:
                result = unowned_is_served(<IoTables>tables, PIO, port, size)
                if result == 0:
                    done += 1
        self.pio += done
        if result == -1:
            if not is_write:
                memset(data + done * size, 0, (count - done) * size)  # what an earlier exit has left there
            return self.string_failed(port, data, size, count, done, is_write)
        if self.records:
            self.record_items(PIO, is_write, port, data, size, done)
        return GO_ON

    cdef int string_failed(
        self, uint16_t port, uint8_t *data, size_t size, size_t count, size_t done, bint is_write
    ) except -1 with gil:
        """Raise the exception that is set, with the progress of the string."""
        try:
            exception_is_set()
        except BaseException as error:
            if self.records:
                self.record_items(PIO, is_write, port, data, size, done)
            add_progress(error, done, count)
            raise
        return 0

    cdef int record_items(
        self, SpaceId space, bint is_write, uint64_t address, const uint8_t *data, size_t size, size_t count
    ) except -1 nogil:
        """Record accesses that were served."""
        cdef uint64_t value
        for _ in range(count):
            value = 0
            memcpy(&value, data, size)  # both are little-endian
            append(self.log, space, is_write, address, size, value)
            data += size
        return 0

    # -- the ring of coalesced writes

    cdef int drain_under_lock(self) except -1 nogil:
        if self.ring == NULL:
            return 0
        if not self.locks:
            return self.drain()
        with gil:
            self.big_lock.acquire()
            try:
                with nogil:
                    return self.drain()
            finally:
                self.big_lock.release()

    cdef int drain(self) except -1 nogil:
        """Make the writes that are in the ring."""
        cdef kvm_coalesced_mmio_ring *ring = self.ring
        cdef dbs_coalesced_write write
        cdef uint32_t first = ring.first
        while first != dbs_ring_last(ring):
            write = dbs_ring_item(ring, first)[0]
            first = (first + 1) % self.ring_length
            dbs_ring_release(ring, first)  # before the access: a device that raises has had it
            self.coalesced += 1
            self.access(PIO if write.pio else MMIO, write.phys_addr, write.data, write.len, True)
        return 0

    # -- interrupts

    cdef int inject_interrupt(self) except -1 nogil:
        """Have the guest take an interrupt if there is one and it can; ask for the moment at which it can."""
        cdef kvm_run *run = self.kvm_run
        cdef kvm_interrupt interrupt
        if dbs_flag_load(&self.intr) != 0 and run.ready_for_interrupt_injection and run.if_flag:
            interrupt.irq = self.vector()
            if ioctl(self.fd, KVM_INTERRUPT, &interrupt) != 0:
                raise_os_error()
            self.interrupts += 1
        run.request_interrupt_window = dbs_flag_load(&self.intr) != 0
        return 0

    cdef uint32_t vector(self) except? 0xFFFF with gil:
        vector = self.acknowledge()
        if not 0 <= vector <= 0xFF:
            raise ValueError(f"acknowledge returns a vector, 0x0..0xff, not {vector!r}")
        return vector


set_public_name(Vcpu, b"dbs_device.kvm.Vcpu")
