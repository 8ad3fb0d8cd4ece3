"""The C functions that Unicorn calls for a guest's accesses."""

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.signal cimport SIG_DFL, SIG_IGN, SIGINT, sighandler_t
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

from .access cimport ranges_of, raise_unowned
from .entry_points cimport (
    MMIO_LOAD,
    MMIO_STORE,
    PIO_IN,
    PIO_OUT,
    Context,
    Handle,
    Operation,
    access,
    latch,
    pop_oldest,
    report_unraisable,
)
from .platform cimport dbs_hint, dbs_hint_load, dbs_hint_store
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    Options,
    PublishedTables,
    Ranges,
    SpaceId,
    current_tables,
    last_base_at_or_below,
    published_tables_of,
)

import threading

__all__ = ["GuestBus", "entry_point_addresses"]


cdef extern from "Python.h":
    sighandler_t PyOS_getsig(int number) nogil
    sighandler_t PyOS_setsig(int number, sighandler_t handler) nogil


ctypedef int (*UcStop)(void *uc) noexcept nogil
ctypedef int (*UcMap)(
    void *uc, uint64_t first, size_t size, void *load, void *load_data, void *store, void *store_data
) noexcept nogil
ctypedef int (*UcUnmap)(void *uc, uint64_t first, size_t size) noexcept nogil

cdef enum:
    # Unicorn refuses the 65th, and crashes when it returns from the others.
    MOST_NESTED_RUNS = 32


# ----------------------------------------------------------------------------- interrupts

# While a guest runs on the main thread, Python's own handler of SIGINT has to wait for its end: the signal stops it.
# `uc_emu_stop` may be called in a signal handler: it only sets flags, and Unicorn's own timer thread calls it.

cdef struct Stoppable:
    UcStop stop
    void *uc

cdef Stoppable *running_guest = NULL  # on the main thread, the innermost
cdef sighandler_t handler_of_python = NULL


cdef void stop_guest_on_interrupt(int number) noexcept nogil:
    cdef Stoppable *guest = running_guest
    if guest != NULL:
        guest.stop(guest.uc)
    handler_of_python(number)


cdef void interrupt_stops(Stoppable *guest) noexcept:
    """Have SIGINT stop a guest, before Python handles it; NULL for none."""
    global running_guest, handler_of_python
    cdef sighandler_t handler = PyOS_getsig(SIGINT)
    cdef bint is_ours = handler == stop_guest_on_interrupt
    running_guest = guest
    if guest == NULL and is_ours:
        PyOS_setsig(SIGINT, handler_of_python)
    elif guest != NULL and not is_ours and handler != SIG_DFL and handler != SIG_IGN:
        handler_of_python = handler
        PyOS_setsig(SIGINT, stop_guest_on_interrupt)


# ----------------------------------------------------------------------------- the bus of a guest


@cython.final
cdef class GuestBus(PublishedTables):
    """A manager's ranges as a guest sees them: integers in Unicorn's byte order, exceptions latched.

    Parameters
    ----------
    uc_address : int
        Address of the emulator, a ``uc_engine``.
    functions : mapping of str to int
        Addresses of ``uc_emu_stop``, ``uc_mmio_map`` and ``uc_mem_unmap``.
    big_endian : bool
        The order of the bytes in the integers that Unicorn passes.
    page_size : int
        Bytes of a page, in which Unicorn maps memory; a power of two.
    sync : callable
        Called on the guest's thread when it reaches an entry point after `request_sync`; maps what has changed.
    record : callable or None
        Takes whether an access is MMIO, whether it is a write, its address, size and value; called after each access
        that was served.
    unmapped : callable
        Takes whether an access is a write, and its address; returns the exception for an access to a page that holds no
        range, as Unicorn itself would raise it.

    Attributes
    ----------
    windows : dict of (int, int) to Window
        What `map_window` has mapped, by first and last address.
    runs : int
        How many calls of `run` are in progress, each within a handler of the one before.

    Notes
    -----
    Signal handlers do not run in compiled code: what is counted and recorded here stays right whatever they raise.
    """

    cdef Stoppable guest
    cdef UcMap uc_mmio_map
    cdef UcUnmap uc_mem_unmap
    cdef readonly dict windows
    cdef readonly size_t runs
    cdef size_t collectors  # callers that pop the exceptions of the accesses that they make
    cdef bint is_updating
    cdef bint is_outdated
    cdef Context context
    cdef Handle ports
    cdef list exceptions
    cdef dbs_hint sync_requested
    cdef size_t inside  # entry points under way; only the guest's thread changes it
    cdef bint big_endian
    cdef uint64_t offset_mask  # of an address in its page
    cdef object sync
    cdef object unmapped
    cdef object record
    cdef bint is_recording

    def __init__(
        self,
        uintptr_t uc_address,
        functions,
        bint big_endian,
        uint64_t page_size,
        sync,
        record,
        unmapped,
    ):
        self.guest = Stoppable(<UcStop><uintptr_t>functions["uc_emu_stop"], <void *>uc_address)
        self.uc_mmio_map = <UcMap><uintptr_t>functions["uc_mmio_map"]
        self.uc_mem_unmap = <UcUnmap><uintptr_t>functions["uc_mem_unmap"]
        self.windows = {}
        self.exceptions = []
        self.big_endian = big_endian
        self.offset_mask = page_size - 1
        self.sync = sync
        self.record = record
        self.is_recording = record is not None
        self.unmapped = unmapped
        dbs_hint_store(&self.sync_requested, 0)
        self.context.published = <PyObject *>self
        self.context.exceptions = <PyObject *>self.exceptions
        self.context.stop = self.guest.stop
        self.context.stop_argument = self.guest.uc
        self.context.unowned = refuse_unowned
        self.ports.context = &self.context

    @property
    def address(self):
        """int : the user data of the entry points for ports and for unmapped memory."""
        return <uintptr_t><PyObject *>self

    @property
    def is_inside(self):
        """bool : whether the guest is in an entry point."""
        return self.inside != 0

    def update(self, manager):
        """Publish the ranges that the manager has now.

        A finaliser that runs in it may change them: the call within this one leaves the newer ranges to it.
        """
        cdef PublishedTables published = published_tables_of(manager)
        cdef IoTables tables
        cdef Options options
        self.is_outdated = True
        if self.is_updating:
            return
        self.is_updating = True
        try:
            while self.is_outdated:
                self.is_outdated = False
                tables = current_tables(<PyObject *>published)
                options = tables.options
                options.big_endian = self.big_endian
                self._unowned_accesses = published._unowned_accesses
                self.publish(tables.pio, tables.mmio, options)
        finally:
            self.is_updating = False

    def map_window(self, uint64_t first, uint64_t last):
        """Have Unicorn call the entry points for these addresses; return its status."""
        cdef Window window = Window(self, first)
        self.windows[first, last] = window
        cdef int status = self.uc_mmio_map(
            self.guest.uc,
            first,
            last - first + 1,
            <void *>guest_load,
            &window.handle,
            <void *>guest_store,
            &window.handle,
        )
        if status != 0:
            del self.windows[first, last]
        return status

    def unmap_window(self, uint64_t first, uint64_t last):
        """Undo `map_window`; return Unicorn's status."""
        cdef int status = self.uc_mem_unmap(self.guest.uc, first, last - first + 1)
        if status == 0:
            del self.windows[first, last]
        return status

    def run(self, start, *arguments):
        """Call `start`, which runs the guest; return the first exception of a device, or of `start`, or None.

        On the main thread, SIGINT stops the guest.

        Raises
        ------
        RecursionError
            Too many runs are nested.
        """
        cdef unsigned long main_thread = threading.main_thread().ident
        cdef bint is_on_main_thread = <unsigned long>PyThread_get_thread_ident() == main_thread
        cdef Stoppable *outer = running_guest
        if self.runs == MOST_NESTED_RUNS:
            raise RecursionError(f"emu_start is nested {self.runs} deep: a handler of the guest runs it again")
        self.runs += 1
        if is_on_main_thread:
            interrupt_stops(&self.guest)
        _, error = self.collect(start, arguments, {}, self.guest.stop)
        if is_on_main_thread:
            interrupt_stops(outer)
        self.runs -= 1
        return error

    def access_memory(self, function, *arguments, **keywords):
        """Call a function that may access devices, and raise the first exception of one from it.

        The guest is not stopped for it. While an exception is pending, no device is called.
        """
        if self.exceptions:
            return function(*arguments, **keywords)
        result, error = self.collect(function, arguments, keywords, NULL)
        if error is not None:
            raise error
        return result

    cdef tuple collect(self, function, tuple arguments, dict keywords, UcStop stop):
        """Call a function, and return its result and the first exception, the others being discarded."""
        cdef UcStop previous = self.context.stop
        result = error = None
        self.context.stop = stop
        self.collectors += 1
        try:
            result = function(*arguments, **keywords)
        except BaseException as raised:
            error = raised
        self.collectors -= 1
        self.context.stop = previous
        first = self.pop_exception()
        while self.pop_exception() is not None:
            pass
        return result, error if first is None else first

    def request_sync(self):
        """Have `sync` called when the guest next reaches an entry point."""
        dbs_hint_store(&self.sync_requested, 1)

    def pop_exception(self):
        """Remove and return the oldest pending exception, or None. Devices are called again when none is left."""
        return pop_oldest(&self.context)


@cython.final
cdef class Window:
    """User data of the MMIO entry points of a mapping, which it must outlive.

    Parameters
    ----------
    bus : GuestBus
        What is called.
    base : int
        Address of the mapping, to which Unicorn's offsets are relative.
    """

    cdef GuestBus bus
    cdef Handle handle

    def __init__(self, GuestBus bus not None, uint64_t base):
        self.bus = bus
        self.handle.context = &bus.context
        self.handle.base = base


cdef inline bint page_holds_range(GuestBus bus, Ranges *ranges, uint64_t address):
    cdef uint64_t first = address & ~bus.offset_mask
    cdef uint64_t last = address | bus.offset_mask
    cdef size_t index = last_base_at_or_below(ranges, last)
    return ranges.count != 0 and ranges.bases[index] <= last and ranges.slots[index].last >= first


cdef void refuse_unowned(Context *context, Operation operation, uint64_t address, size_t size) noexcept with gil:
    """Latch the exception of an unowned access, unless the bus is open."""
    cdef GuestBus bus = <GuestBus>context.published
    cdef IoTables tables = current_tables(<PyObject *>bus)
    cdef SpaceId space = MMIO if operation in (MMIO_LOAD, MMIO_STORE) else PIO
    try:
        if space == MMIO and not page_holds_range(bus, ranges_of(tables, MMIO), address):
            raise bus.unmapped(operation == MMIO_STORE, address)
        if tables.options.open_bus < 0:
            raise_unowned(tables, ranges_of(tables, space), address, size)
    except BaseException as error:
        latch(context, error)


cdef void call_sync(GuestBus bus) noexcept with gil:
    dbs_hint_store(&bus.sync_requested, 0)
    try:
        bus.sync()
    except BaseException as error:
        latch(&bus.context, error)


cdef void call_record(
    GuestBus bus, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept with gil:
    cdef uint64_t mask = ~<uint64_t>0 >> (64 - 8 * size)
    try:
        is_write = operation in (MMIO_STORE, PIO_OUT)
        bus.record(operation in (MMIO_LOAD, MMIO_STORE), is_write, address, size, value & mask)
    except BaseException as error:
        latch(&bus.context, error)


cdef void report_pending(GuestBus bus) noexcept with gil:
    """Report the exceptions of an access that neither `run` nor `access_memory` has caused: none may stay pending."""
    while bus.exceptions:
        report_unraisable(pop_oldest(&bus.context), bus)


cdef inline uint64_t guest_access(
    PyObject *bus, Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    (<GuestBus>bus).inside = (<GuestBus>bus).inside + 1
    if dbs_hint_load(&(<GuestBus>bus).sync_requested) != 0:
        call_sync(<GuestBus>bus)
    cdef uint64_t result = access(handle, operation, address, size, value)
    if (<GuestBus>bus).is_recording and dbs_hint_load(&handle.context.pending) == 0:
        call_record(<GuestBus>bus, operation, handle.base + address, size, result)
    if (<GuestBus>bus).collectors == 0 and dbs_hint_load(&handle.context.pending) != 0:
        report_pending(<GuestBus>bus)
    (<GuestBus>bus).inside = (<GuestBus>bus).inside - 1
    return result


cdef uint64_t guest_load(void *uc, uint64_t offset, unsigned size, void *window) noexcept nogil:
    cdef Handle *handle = <Handle *>window
    return guest_access(handle.context.published, handle, MMIO_LOAD, offset, size, 0)


cdef void guest_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *window) noexcept nogil:
    cdef Handle *handle = <Handle *>window
    guest_access(handle.context.published, handle, MMIO_STORE, offset, size, value)


cdef uint32_t guest_in(void *uc, uint32_t port, int size, void *bus) noexcept nogil:
    return <uint32_t>guest_access(<PyObject *>bus, &(<GuestBus>bus).ports, PIO_IN, port, <size_t>size, 0)


cdef void guest_out(void *uc, uint32_t port, int size, uint32_t value, void *bus) noexcept nogil:
    guest_access(<PyObject *>bus, &(<GuestBus>bus).ports, PIO_OUT, port, <size_t>size, value)


cdef bint guest_unmapped(void *uc, int type_, uint64_t address, int size, int64_t value, void *bus) noexcept nogil:
    """Tell Unicorn to try again where a range that was added while the guest ran had not been mapped yet."""
    cdef size_t wanted = dbs_hint_load(&(<GuestBus>bus).sync_requested)
    if wanted == 0:
        return False
    return sync_for(<GuestBus>bus, address)


cdef bint sync_for(GuestBus bus, uint64_t address) noexcept with gil:
    call_sync(bus)
    cdef IoTables tables = current_tables(<PyObject *>bus)
    return page_holds_range(bus, &tables.mmio.ranges, address)


def entry_point_addresses():
    """Return the addresses of the entry points that hooks are given."""
    return {
        "in": <uintptr_t>&guest_in,
        "out": <uintptr_t>&guest_out,
        "unmapped": <uintptr_t>&guest_unmapped,
    }
