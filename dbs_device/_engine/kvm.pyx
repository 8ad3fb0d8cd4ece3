"""The run loop of a KVM vCPU, which serves exits from the bus without the GIL; and the ioctls of a VM that concern it.

A kick, a signal and a new interrupt have to interrupt KVM_RUN, and may come at any moment before it. KVM_RUN returns
EINTR if a signal is pending when it enters the guest, or `immediate_exit` is set. Whoever wants the loop's attention
therefore stores a flag and sends a signal, whose handler, on the loop's own thread, sets `immediate_exit`: a signal
that comes between the look at the flag and KVM_RUN is not lost. Only a vCPU's own thread writes its `immediate_exit`.
"""

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

__all__ = ["Vcpu", "set_coalescing", "set_ioeventfd", "set_irq_line", "set_irqfd", "set_memory_slot"]


cdef extern from "Python.h":
    int PyObject_AsFileDescriptor(object file) except -1


cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    int _SC_PAGESIZE


cdef extern from "<linux/kvm.h>" nogil:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <linux/kvm.h>

    /* The run of this thread, the innermost if a device of one vCPU runs another. Signal handlers read it: with this
       model of thread-local storage, that never allocates memory. */
    static __thread struct kvm_run *volatile dbs_current_run __attribute__((tls_model("initial-exec")));

    static int dbs_kick_signal;
    static pthread_t dbs_main_thread;
    static struct sigaction dbs_replaced[NSIG];

    static void dbs_attend(void) {
        struct kvm_run *run = dbs_current_run;
        if (run != NULL) {
            ((volatile struct kvm_run *)run)->immediate_exit = 1;
        }
    }

    static void dbs_handle_kick(int number) {
        (void)number;
        dbs_attend();
    }

    /* Python's own handler only sets a flag, which PyErr_CheckSignals looks at on the main thread. It comes first: the
       loop clears `immediate_exit`, then looks at the flag. */
    static void dbs_handle_for_python(int number) {
        int saved = errno;
        dbs_replaced[number].sa_handler(number);
        if (pthread_equal(pthread_self(), dbs_main_thread)) {
            dbs_attend();
        } else {
            pthread_kill(dbs_main_thread, dbs_kick_signal);
        }
        errno = saved;
    }

    static int dbs_handles(int number, void (*handler)(int)) {
        struct sigaction current;
        return sigaction(number, NULL, &current) == 0 && !(current.sa_flags & SA_SIGINFO) &&
               current.sa_handler == handler;
    }

    /* Take the first real-time signal that nobody handles; 0 if there is none. */
    static int dbs_take_kick_signal(void) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = dbs_handle_kick; /* no SA_RESTART: KVM_RUN has to return */
        for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
            if (dbs_handles(number, SIG_DFL) && sigaction(number, &action, NULL) == 0) {
                return dbs_kick_signal = number;
            }
        }
        return 0;
    }

    static void dbs_put_before_python(int number) {
        struct sigaction action;
        if (sigaction(number, NULL, &dbs_replaced[number]) != 0 || dbs_replaced[number].sa_flags & SA_SIGINFO ||
            dbs_replaced[number].sa_handler == dbs_handle_for_python || dbs_replaced[number].sa_handler == SIG_DFL ||
            dbs_replaced[number].sa_handler == SIG_IGN) {
            return;
        }
        action = dbs_replaced[number];
        action.sa_handler = dbs_handle_for_python;
        action.sa_flags &= ~SA_RESTART;
        sigaction(number, &action, NULL);
    }

    static void dbs_restore_for_python(int number) {
        if (dbs_handles(number, dbs_handle_for_python)) { /* or else a device has set another */
            sigaction(number, &dbs_replaced[number], NULL);
        }
    }

    /* Let kicks through to this thread; return whether it had blocked them. */
    static int dbs_block_kicks(int block) {
        sigset_t kick, before;
        sigemptyset(&kick);
        sigaddset(&kick, dbs_kick_signal);
        pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &kick, &before);
        return sigismember(&before, dbs_kick_signal) == 1;
    }

    /* What a run needs from the time it starts, for other threads to see under the lock. */
    typedef struct {
        pthread_mutex_t lock;
        pthread_t thread;
        int is_running;
    } dbs_runner;

    static void dbs_runner_init(dbs_runner *runner) {
        pthread_mutex_init(&runner->lock, NULL);
        runner->is_running = 0;
    }

    static void dbs_runner_destroy(dbs_runner *runner) { pthread_mutex_destroy(&runner->lock); }

    static int dbs_runner_start(dbs_runner *runner) {
        pthread_mutex_lock(&runner->lock);
        int was_running = runner->is_running;
        if (!was_running) {
            runner->thread = pthread_self();
            runner->is_running = 1;
        }
        pthread_mutex_unlock(&runner->lock);
        return !was_running;
    }

    static void dbs_runner_end(dbs_runner *runner) {
        pthread_mutex_lock(&runner->lock);
        runner->is_running = 0;
        pthread_mutex_unlock(&runner->lock);
    }

    /* Under the lock, its thread cannot end meanwhile. */
    static void dbs_runner_signal(dbs_runner *runner) {
        pthread_mutex_lock(&runner->lock);
        if (runner->is_running) {
            if (pthread_equal(runner->thread, pthread_self())) {
                dbs_attend();
            } else {
                pthread_kill(runner->thread, dbs_kick_signal);
            }
        }
        pthread_mutex_unlock(&runner->lock);
    }

    #define dbs_flag_load(flag) __atomic_load_n(flag, __ATOMIC_SEQ_CST)
    #define dbs_flag_store(flag, value) __atomic_store_n(flag, value, __ATOMIC_SEQ_CST)
    #define dbs_flag_exchange(flag, value) __atomic_exchange_n(flag, value, __ATOMIC_SEQ_CST)
    #define dbs_ring_last(ring) __atomic_load_n(&(ring)->last, __ATOMIC_ACQUIRE)
    #define dbs_ring_release(ring, value) __atomic_store_n(&(ring)->first, value, __ATOMIC_RELEASE)
    #define dbs_ring_item(ring, index) \\
        ((const struct kvm_coalesced_mmio *)((const char *)(ring) + sizeof(struct kvm_coalesced_mmio_ring)) + (index))
    #define dbs_ring_length(page) \\
        (((page) - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))
    #define dbs_set_immediate_exit(run, value) (((volatile struct kvm_run *)(run))->immediate_exit = (value))
    """
    ctypedef struct pthread_t:
        pass
    ctypedef struct dbs_runner:
        pthread_t thread
        int is_running
    void dbs_runner_init(dbs_runner *runner)
    void dbs_runner_destroy(dbs_runner *runner)
    bint dbs_runner_start(dbs_runner *runner)
    void dbs_runner_end(dbs_runner *runner)
    void dbs_runner_signal(dbs_runner *runner)
    pthread_t pthread_self()
    pthread_t dbs_main_thread
    kvm_run *dbs_current_run
    int dbs_kick_signal
    int dbs_take_kick_signal()
    void dbs_put_before_python(int number)
    void dbs_restore_for_python(int number)
    bint dbs_block_kicks(bint block)
    int dbs_flag_load(int *flag)
    void dbs_flag_store(int *flag, int value)
    int dbs_flag_exchange(int *flag, int value)

    ctypedef struct kvm_run_io:
        uint8_t direction
        uint8_t size
        uint16_t port
        uint32_t count
        uint64_t data_offset
    ctypedef struct kvm_run_mmio:
        uint64_t phys_addr
        uint8_t data[8]
        uint32_t len
        uint8_t is_write
    ctypedef struct kvm_run_fail_entry:
        uint64_t hardware_entry_failure_reason
        uint32_t cpu
    ctypedef struct kvm_run_internal:
        uint32_t suberror
        uint32_t ndata
        uint64_t data[16]
    ctypedef struct kvm_run_system_event:
        uint32_t type
        uint32_t ndata
        uint64_t data[16]
    cdef struct kvm_run:
        uint8_t request_interrupt_window
        uint8_t immediate_exit
        uint32_t exit_reason
        uint8_t ready_for_interrupt_injection
        uint8_t if_flag
        kvm_run_io io
        kvm_run_mmio mmio
        kvm_run_fail_entry fail_entry
        kvm_run_internal internal
        kvm_run_system_event system_event
    void dbs_set_immediate_exit(kvm_run *run, int value)

    cdef struct kvm_coalesced_mmio:
        uint64_t phys_addr
        uint32_t len
        uint32_t pio
        uint8_t data[8]
    cdef struct kvm_coalesced_mmio_ring:
        uint32_t first
        uint32_t last
    uint32_t dbs_ring_last(kvm_coalesced_mmio_ring *ring)
    void dbs_ring_release(kvm_coalesced_mmio_ring *ring, uint32_t first)
    const kvm_coalesced_mmio *dbs_ring_item(kvm_coalesced_mmio_ring *ring, uint32_t index)
    uint32_t dbs_ring_length(size_t page_size)

    cdef struct kvm_interrupt:
        uint32_t irq
    cdef struct kvm_userspace_memory_region:
        uint32_t slot
        uint32_t flags
        uint64_t guest_phys_addr
        uint64_t memory_size
        uint64_t userspace_addr
    cdef struct kvm_irq_level:
        uint32_t irq
        uint32_t level
    cdef struct kvm_irqfd:
        uint32_t fd
        uint32_t gsi
        uint32_t flags
    cdef struct kvm_ioeventfd:
        uint64_t datamatch
        uint64_t addr
        uint32_t len
        int fd
        uint32_t flags
    cdef struct kvm_coalesced_mmio_zone:
        uint64_t addr
        uint32_t size
        uint32_t pio

    int ioctl(int fd, unsigned long request, ...)
    unsigned long KVM_RUN
    unsigned long KVM_INTERRUPT
    unsigned long KVM_SET_USER_MEMORY_REGION
    unsigned long KVM_IRQ_LINE
    unsigned long KVM_IRQFD
    unsigned long KVM_IOEVENTFD
    unsigned long KVM_REGISTER_COALESCED_MMIO
    unsigned long KVM_UNREGISTER_COALESCED_MMIO
    enum:
        KVM_MEM_READONLY
        KVM_IRQFD_FLAG_DEASSIGN
        KVM_IOEVENTFD_FLAG_DATAMATCH
        KVM_IOEVENTFD_FLAG_PIO
        KVM_IOEVENTFD_FLAG_DEASSIGN
        KVM_EXIT_IO
        KVM_EXIT_IO_OUT
        KVM_EXIT_MMIO
        KVM_EXIT_IRQ_WINDOW_OPEN
        KVM_EXIT_INTR
        KVM_EXIT_FAIL_ENTRY
        KVM_EXIT_INTERNAL_ERROR
        KVM_EXIT_SYSTEM_EVENT


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
    global dbs_main_thread
    dbs_main_thread = pthread_self()
    for number in signal_numbers:
        if callable(getsignal(number)):
            dbs_put_before_python(number)
    return 0


cdef void give_signals_back() noexcept:
    cdef int number
    for number in signal_numbers:
        dbs_restore_for_python(number)


@cython.final
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
        if <size_t>self.mapping.len < (coalesced_ring + 1) * page_size:
            needed = (coalesced_ring + 1) * page_size
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
        cdef kvm_run *outer = dbs_current_run
        self.start()
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
        cdef kvm_run *outer = dbs_current_run
        self.start()
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
        if run.exit_reason == KVM_EXIT_FAIL_ENTRY:
            return {
                "hardware_entry_failure_reason": run.fail_entry.hardware_entry_failure_reason,
                "cpu": run.fail_entry.cpu,
            }
        if run.exit_reason == KVM_EXIT_INTERNAL_ERROR:
            data = tuple(run.internal.data[index] for index in range(min(run.internal.ndata, 16)))
            return {"suberror": run.internal.suberror, "data": data}
        if run.exit_reason == KVM_EXIT_SYSTEM_EVENT:
            data = tuple(run.system_event.data[index] for index in range(min(run.system_event.ndata, 16)))
            return {"type": run.system_event.type, "data": data}
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
        global dbs_current_run, runs_on_main_thread
        dbs_current_run = self.kvm_run
        if is_on_main_thread():
            runs_on_main_thread += 1
            if runs_on_main_thread == 1:
                take_signals()
        self.tables = current_tables(<PyObject *>self.published)
        return dbs_block_kicks(False)

    cdef int leave(self, kvm_run *outer, bint kicks_were_blocked) except -1:
        global dbs_current_run, runs_on_main_thread
        if kicks_were_blocked:
            dbs_block_kicks(True)
        if is_on_main_thread():
            runs_on_main_thread -= 1
            if runs_on_main_thread == 0:
                give_signals_back()
        dbs_runner_end(&self.runner)
        dbs_current_run = outer
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
                # This order: what comes behind the first line sets it again, and what came before it is seen behind.
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
        cdef kvm_coalesced_mmio write
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


# ----------------------------------------------------------------------------- the VM


cdef int check(int result) except -1:
    if result == -1:
        raise_os_error()
    return result


def set_memory_slot(int vm, uint32_t slot, uint64_t base, uint64_t size, uint64_t address, bint readonly):
    """Back guest memory by the host's; a size of 0 removes the slot."""
    cdef kvm_userspace_memory_region region = kvm_userspace_memory_region(
        slot, KVM_MEM_READONLY if readonly else 0, base, size, address
    )
    cdef int result
    with nogil:
        result = ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region)
    check(result)


def set_irq_line(int vm, uint32_t irq, bint level):
    """Set the level of an input of the interrupt controllers in the kernel."""
    cdef kvm_irq_level line = kvm_irq_level(irq, level)
    cdef int result
    with nogil:
        result = ioctl(vm, KVM_IRQ_LINE, &line)
    check(result)


def set_irqfd(int vm, uint32_t gsi, int event, bint assign):
    """Have an eventfd raise an interrupt, or no longer."""
    cdef kvm_irqfd irqfd
    memset(&irqfd, 0, sizeof(irqfd))
    irqfd.fd, irqfd.gsi, irqfd.flags = event, gsi, 0 if assign else KVM_IRQFD_FLAG_DEASSIGN
    check(ioctl(vm, KVM_IRQFD, &irqfd))


def set_ioeventfd(int vm, space, uint64_t address, uint32_t size, value, int event, bint assign):
    """Have a write signal an eventfd in place of an exit, or no longer; any value if it is None."""
    cdef kvm_ioeventfd ioeventfd
    memset(&ioeventfd, 0, sizeof(ioeventfd))
    ioeventfd.addr, ioeventfd.len, ioeventfd.fd = address, size, event
    if value is not None:
        ioeventfd.datamatch = value
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
    if space == PIO:
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_PIO
    if not assign:
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN
    check(ioctl(vm, KVM_IOEVENTFD, &ioeventfd))


def set_coalescing(int vm, space, uint64_t address, uint32_t size, bint coalesce):
    """Have writes to a range wait in the ring, or no longer."""
    cdef kvm_coalesced_mmio_zone zone
    memset(&zone, 0, sizeof(zone))
    zone.addr, zone.size, zone.pio = address, size, space == PIO
    check(ioctl(vm, KVM_REGISTER_COALESCED_MMIO if coalesce else KVM_UNREGISTER_COALESCED_MMIO, &zone))
