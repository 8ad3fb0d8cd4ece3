"""The C functions that Unicorn calls for a guest's accesses."""

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.signal cimport SIG_DFL, SIG_IGN, SIGINT, sighandler_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

from .access cimport is_integer_size, load_by, raise_unowned, ranges_of, store_by, wrong_size_raised
from .entry_points cimport exception_is_set, report_unraisable
from .platform cimport dbs_bytes_of_integer, dbs_generation_load, dbs_integer_of_bytes, dbs_rely_on
from .recording cimport AccessLog, append
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    PublishedTables,
    Ranges,
    SpaceId,
    current_tables,
    find_range,
    hint_shift_of,
    last_base_at_or_below,
    published_tables_of,
    with_byte_order,
)

import threading

__all__ = ["GuestBus", "Window"]


cdef extern from *:
    const uint64_t NEVER "UINT64_MAX"  # a generation that no tables have

cdef extern from "Python.h":
    Py_ssize_t PyList_GET_SIZE(PyObject *list_) noexcept nogil
    sighandler_t PyOS_getsig(int number) nogil
    sighandler_t PyOS_setsig(int number, sighandler_t handler) nogil


ctypedef int (*UcStop)(void *uc) noexcept nogil
ctypedef int (*UcMap)(
    void *uc, uint64_t first, size_t size, void *load, void *load_data, void *store, void *store_data
) noexcept nogil
ctypedef int (*UcMapMemory)(void *uc, uint64_t first, size_t size, uint32_t protection, void *memory) noexcept nogil
ctypedef int (*UcProtect)(void *uc, uint64_t first, size_t size, uint32_t protection) noexcept nogil
ctypedef int (*UcUnmap)(void *uc, uint64_t first, size_t size) noexcept nogil

cdef enum:
    UC_PROT_READ = 1
    UC_PROT_EXEC = 4
    UC_PROT_ALL = 7
    UC_MEM_FETCH_UNMAPPED = 21

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


cdef enum Operation:
    MMIO_LOAD
    MMIO_STORE
    PIO_IN
    PIO_OUT


# User data of the entry points, for a window, the ports, or the writes of read-only memory.
cdef struct Entry:
    PyObject *bus  # the GuestBus
    uint64_t base  # to which the offsets are relative that Unicorn passes
    size_t inside  # accesses under way; only the guest's thread changes it
    bint is_stale  # of a window: it is unmapped as soon as it is left


@cython.final
@cython.no_gc_clear  # Unicorn may call it until the last moment: other objects of a cycle are cleared
cdef class GuestBus:
    """A manager's ranges as a guest sees them: integers in Unicorn's byte order, exceptions latched.

    A guest accesses devices on one thread, so that the bus holds tables, and need not pin them for each access. It
    replaces them at the first access after a change; those that an access has begun with are retained until it ends.

    Parameters
    ----------
    manager : IoManager
        The bus that is called.
    uc_address : int
        Address of the emulator, a ``uc_engine``.
    functions : mapping of str to int
        Addresses of ``uc_emu_stop``, ``uc_mmio_map``, ``uc_mem_map_ptr``, ``uc_mem_protect`` and ``uc_mem_unmap``.
    big_endian : bool
        The order of the bytes in the integers that Unicorn passes.
    hooks_big_endian : bool
        The same, for hooks of memory.
    page_size : int
        Bytes of a page, in which Unicorn maps memory; a power of two.
    sync : callable
        Called on the guest's thread after a change of the ranges: with False when the guest's next access begins, and
        with True when the access ends in which they were changed. Maps what they need, and returns whether it could.
    log : AccessLog or None
        Records each access that was served.
    log_is_big_endian : bool
        The order of the bytes in the integers that it takes.
    record : callable or None
        Called instead of it with whether an access is MMIO, whether it is a write, its address, size and value.
    unmapped : callable
        Takes whether an access is a write, and its address; returns the exception for an access to a page that holds no
        range, as Unicorn itself would raise it.

    Attributes
    ----------
    regions : dict of (int, int) to Window or MappedMemory
        What `map_region` has mapped, by first and last address.
    runs : int
        How many calls of `run` are in progress, each within a handler of the one before.
    users : int
        The same of `run` and `access_memory`: while there are any, only their thread may map anything.

    Notes
    -----
    Signal handlers do not run in compiled code: what is counted and recorded here stays right whatever they raise.
    """

    cdef Stoppable guest
    cdef UcMap uc_mmio_map
    cdef UcMapMemory uc_mem_map_ptr
    cdef UcProtect uc_mem_protect
    cdef UcUnmap uc_mem_unmap
    cdef readonly dict regions
    cdef Entry ports
    cdef Entry read_only
    cdef readonly size_t runs
    cdef readonly size_t users
    cdef PublishedTables published  # the manager's
    cdef IoTables held  # the manager's, but in the guest's byte order; only the thread that uses Unicorn changes it
    cdef Ranges *pio  # of `held`
    cdef Ranges *mmio
    cdef list retired  # held when the access began that is under way
    cdef uint64_t synced  # the generation for which everything is mapped, or NEVER
    # The same while nothing else needs attention before or after an access, else NEVER: without a log, and with one.
    cdef uint64_t ready
    cdef uint64_t ready_to_log
    cdef UcStop stop  # called when an exception is latched, or NULL
    cdef list exceptions  # pending
    cdef bint big_endian
    cdef bint hooks_big_endian
    cdef uint64_t offset_mask  # of an address in its page
    cdef object sync
    cdef object unmapped
    cdef AccessLog log
    cdef bint swaps_for_log
    cdef object record

    def __cinit__(
        self,
        manager,
        uintptr_t uc_address,
        functions,
        bint big_endian,
        bint hooks_big_endian,
        uint64_t page_size,
        sync,
        log,
        bint log_is_big_endian,
        record,
        unmapped,
    ):
        self.published = published_tables_of(manager)
        self.guest = Stoppable(<UcStop><uintptr_t>functions["uc_emu_stop"], <void *>uc_address)
        self.uc_mmio_map = <UcMap><uintptr_t>functions["uc_mmio_map"]
        self.uc_mem_map_ptr = <UcMapMemory><uintptr_t>functions["uc_mem_map_ptr"]
        self.uc_mem_protect = <UcProtect><uintptr_t>functions["uc_mem_protect"]
        self.uc_mem_unmap = <UcUnmap><uintptr_t>functions["uc_mem_unmap"]
        self.ports = self.read_only = Entry(<PyObject *>self, 0, 0, False)
        self.regions = {}
        self.retired = []
        self.exceptions = []
        self.stop = self.guest.stop
        self.big_endian = big_endian
        self.hooks_big_endian = hooks_big_endian
        self.offset_mask = page_size - 1
        self.sync = sync
        self.log = log
        self.swaps_for_log = log_is_big_endian != big_endian
        self.record = record
        self.unmapped = unmapped
        self.update()

    def hooks(self):
        """Return the address of each entry point that is a hook, and that of its user data."""
        return {
            "in": (<uintptr_t>&guest_in, <uintptr_t>&self.ports),
            "out": (<uintptr_t>&guest_out, <uintptr_t>&self.ports),
            "unmapped": (<uintptr_t>&guest_unmapped, <uintptr_t>&self.read_only),
            "read-only": (<uintptr_t>&guest_write_of_read_only, <uintptr_t>&self.read_only),
        }

    @property
    def is_inside(self):
        """bool : whether the guest is in an entry point."""
        return self.accesses_under_way() != 0

    cdef size_t accesses_under_way(self):
        cdef size_t count = self.ports.inside + self.read_only.inside
        for region in self.regions.values():
            if isinstance(region, Window):
                count += (<Window>region).entry.inside
        return count

    def update(self):
        """Hold the ranges that the manager has now, whose pages the caller maps."""
        self.hold()
        self.synced = self.held.generation
        self.set_ready()

    cdef int hold(self) except -1:
        """Replace the tables by the manager's current ones.

        A finaliser that runs in it may change them, and call this: it may leave older ones. They are replaced at the
        next access.
        """
        return self.replace_held(with_byte_order(current_tables(<PyObject *>self.published), self.big_endian))

    def release(self):
        """Hold no ranges, until the next access. Nothing may be in use."""
        self.replace_held(IoTables.__new__(IoTables))
        self.synced = NEVER
        self.set_ready()

    cdef int replace_held(self, IoTables held) except -1:
        cdef IoTables old = self.held  # released last: a finaliser may come back here
        if self.accesses_under_way() != 0:
            self.retired.append(old)
        self.held = held
        self.pio = &held.pio.ranges
        self.mmio = &held.mmio.ranges
        return 0

    def map_region(self, uint64_t first, uint64_t last, memory):
        """Map memory or, for None, a window; return Unicorn's status.

        Parameters
        ----------
        first, last : int
            First and last address.
        memory : MappedMemory or None
            It stays alive while it is mapped.
        """
        cdef void *uc = self.guest.uc
        cdef size_t size = last - first + 1
        cdef Window window
        cdef int status
        if memory is None:
            window = Window(self, first)
            self.regions[first, last] = window
            status = self.uc_mmio_map(
                uc, first, size, <void *>guest_load, &window.entry, <void *>guest_store, &window.entry
            )
        else:
            self.regions[first, last] = memory
            status = self.uc_mem_map_ptr(uc, first, size, UC_PROT_ALL, <void *><uintptr_t>memory.address)
            # Unicorn drops the writes of memory that was protected, but not of memory that was mapped read-only.
            if status == 0 and not memory.writable:
                status = self.uc_mem_protect(uc, first, size, UC_PROT_READ | UC_PROT_EXEC)
                if status != 0:
                    self.uc_mem_unmap(uc, first, size)
        if status != 0:
            del self.regions[first, last]
        return status

    def unmap_region(self, uint64_t first, uint64_t last):
        """Undo `map_region`; return Unicorn's status."""
        cdef int status = self.uc_mem_unmap(self.guest.uc, first, last - first + 1)
        if status == 0:
            del self.regions[first, last]
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
        cdef UcStop previous = self.stop
        result = error = None
        self.stop = stop
        self.users += 1
        self.set_ready()
        try:
            result = function(*arguments, **keywords)
        except BaseException as raised:
            error = raised
        self.users -= 1
        self.stop = previous
        if self.exceptions:
            error = self.exceptions[0]
            self.exceptions.clear()
        self.set_ready()
        return result, error

    cdef void set_ready(self) noexcept:
        """Have accesses take a short path, unless they are past the bridge, or an exception is pending."""
        cdef uint64_t ready = self.synced if self.users != 0 and not self.exceptions and self.record is None else NEVER
        self.ready = ready if self.log is None else NEVER
        self.ready_to_log = NEVER if self.log is None else ready

    cdef int latch(self, object error) except -1:
        """Add an exception to the pending ones, and have the guest stopped."""
        self.exceptions.append(error)
        self.set_ready()
        if self.stop != NULL:
            self.stop(self.guest.uc)
        return 0


@cython.final
cdef class Window:
    """Pages whose accesses are trapped. It must outlive the mapping, and `bus` must outlive it.

    Parameters
    ----------
    bus : GuestBus
        What is called.
    base : int
        First address.
    """

    cdef Entry entry

    def __init__(self, GuestBus bus not None, uint64_t base):
        self.entry = Entry(<PyObject *>bus, base, 0, False)

    @property
    def is_stale(self):
        """bool : whether it is unmapped as soon as the guest has left it."""
        return self.entry.is_stale

    @is_stale.setter
    def is_stale(self, bint value):
        self.entry.is_stale = value

    @property
    def is_busy(self):
        """bool : whether the guest is accessing it: Unicorn would use it after it was unmapped."""
        return self.entry.inside != 0


# ----------------------------------------------------------------------------- entry points

# Unicorn may call them on a thread that Python does not know, if the bridge did not start the guest.


cdef inline bint page_holds_range(GuestBus bus, uint64_t address):
    cdef Ranges *ranges = &bus.held.mmio.ranges
    cdef uint64_t first = address & ~bus.offset_mask
    cdef uint64_t last = address | bus.offset_mask
    cdef size_t index = last_base_at_or_below(ranges, last)
    return ranges.count != 0 and ranges.bases[index] <= last and ranges.slots[index].last >= first


cdef inline uint64_t generation_of(GuestBus bus) noexcept nogil:
    """Return the generation of the manager's ranges."""
    return dbs_generation_load(&bus.published._generation)


cdef bint sync(GuestBus bus, Entry *entry, bint is_ending) noexcept with gil:
    """Hold current tables, and map what they need; return whether no exception is pending."""
    entry.inside += 1
    try:
        bus.update()
        if bus.accesses_under_way() == 1:  # this one, which does not use any now
            bus.retired.clear()
        if not bus.sync(is_ending):
            bus.synced = NEVER
            bus.set_ready()
    except BaseException as error:
        bus.latch(error)
    entry.inside -= 1
    return not bus.exceptions


cdef void end_access(GuestBus bus, Entry *entry) noexcept with gil:
    """Release tables that were replaced during an access, and sync what has changed in it.

    The guest accesses memory directly, so that a change of it cannot wait for the next access to a device.
    """
    if generation_of(bus) != bus.synced:
        sync(bus, entry, True)
    elif bus.accesses_under_way() == 0:
        bus.retired.clear()


cdef int refuse_unowned(
    GuestBus bus, IoTables tables, Operation operation, uint64_t address, size_t size
) except -1:
    """Raise the exception of an unowned access, unless the bus is open."""
    cdef SpaceId space = MMIO if operation in (MMIO_LOAD, MMIO_STORE) else PIO
    if space == MMIO and not page_holds_range(bus, address):
        raise bus.unmapped(operation == MMIO_STORE, address)
    if tables.options.open_bus < 0:
        raise_unowned(tables, ranges_of(tables, space), address, size)
    return 0


cdef void access_failed(
    GuestBus bus, PyObject *tables, int result, Operation operation, uint64_t address, size_t size
) noexcept with gil:
    try:
        if result == -1:
            exception_is_set()
        refuse_unowned(bus, <IoTables>tables, operation, address, size)
    except BaseException as error:
        bus.latch(error)


cdef inline uint64_t make_access(
    GuestBus bus, Entry *entry, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    """Make an access; return what a load has read, or a store written.

    The operation is a constant in the entry points, each of which is one path without a switch.
    """
    cdef bint is_load = operation in (MMIO_LOAD, PIO_IN)
    cdef SpaceId space = MMIO if operation in (MMIO_LOAD, MMIO_STORE) else PIO
    cdef PyObject *tables = <PyObject *>bus.held
    cdef Ranges *ranges = bus.mmio if space == MMIO else bus.pio
    cdef int result
    # So that the look-up need not wait for the table to tell. All tables of a space are made with it, by `new_table`.
    dbs_rely_on(ranges.hint_shift == hint_shift_of(space))
    entry.inside += 1
    if not is_integer_size(size, space):
        result = wrong_size_raised(size, space)
    elif is_load:
        result = load_by(False, <IoTables>tables, ranges, address, size, &value)
    else:
        result = store_by(False, <IoTables>tables, ranges, address, size, value)
    if result != 0:
        access_failed(bus, tables, result, operation, address, size)
    entry.inside -= 1
    if generation_of(bus) != (<IoTables>tables).generation:
        end_access(bus, entry)
    return value


# For a call as if nothing was raised; a result of -1 tells that something was.
ctypedef int (*Append)(
    AccessLog log, SpaceId space, bint write, uint64_t address, size_t size, uint64_t value
) noexcept nogil


cdef inline void log_access(
    GuestBus bus, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    """Record an access that was served, of the size of an integer."""
    cdef SpaceId space = MMIO if operation in (MMIO_LOAD, MMIO_STORE) else PIO
    cdef uint8_t data[8]
    if bus.swaps_for_log:
        dbs_bytes_of_integer(value, size, True, data)
        value = dbs_integer_of_bytes(data, size, False)
    value &= <uint64_t>-1 >> (64 - 8 * size)
    if (<Append>append)(bus.log, space, operation in (MMIO_STORE, PIO_OUT), address, size, value) == -1:
        access_failed(bus, <PyObject *>bus.held, -1, operation, address, size)


cdef inline uint64_t make_logged_access(
    GuestBus bus, Entry *entry, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    value = make_access(bus, entry, operation, address, size, value)
    if PyList_GET_SIZE(<PyObject *>bus.exceptions) == 0:  # only the guest's thread changes it
        log_access(bus, operation, address, size, value)
    return value


cdef uint64_t make_unusual_access(
    GuestBus bus, Entry *entry, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept with gil:
    """Make an access after a change of the ranges, or one that a callable records, or past the bridge.

    None is made while an exception is pending.

    The thread may be one that Python does not know, whose state, and an exception with it, would be deleted by the last
    release of the GIL: so it is taken here.
    """
    cdef uint64_t mask = ~<uint64_t>0 >> (64 - 8 * size)
    cdef bint is_deferred = entry.is_stale and generation_of(bus) == bus.held.generation
    if bus.exceptions:
        return 0
    if generation_of(bus) != bus.synced and not is_deferred and not sync(bus, entry, False):
        return 0
    with nogil:
        value = make_access(bus, entry, operation, address, size, value)
    if bus.log is not None and not bus.exceptions:
        log_access(bus, operation, address, size, value)
    elif bus.record is not None and not bus.exceptions:
        try:
            is_write = operation in (MMIO_STORE, PIO_OUT)
            bus.record(operation in (MMIO_LOAD, MMIO_STORE), is_write, address, size, value & mask)
        except BaseException as error:
            bus.latch(error)
    while bus.users == 0 and bus.exceptions:
        report_unraisable(bus.exceptions.pop(0), bus)
    return value


cdef inline uint64_t guest_access(
    Entry *entry, Operation operation, uint64_t offset, size_t size, uint64_t value
) noexcept nogil:
    cdef PyObject *bus = entry.bus
    if generation_of(<GuestBus>bus) == (<GuestBus>bus).ready:
        return make_access(<GuestBus>bus, entry, operation, entry.base + offset, size, value)
    if generation_of(<GuestBus>bus) == (<GuestBus>bus).ready_to_log:
        return make_logged_access(<GuestBus>bus, entry, operation, entry.base + offset, size, value)
    return make_unusual_access(<GuestBus>bus, entry, operation, entry.base + offset, size, value)


cdef uint64_t guest_load(void *uc, uint64_t offset, unsigned size, void *entry) noexcept nogil:
    return guest_access(<Entry *>entry, MMIO_LOAD, offset, size, 0)


cdef void guest_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *entry) noexcept nogil:
    guest_access(<Entry *>entry, MMIO_STORE, offset, size, value)


cdef uint32_t guest_in(void *uc, uint32_t port, int size, void *entry) noexcept nogil:
    return <uint32_t>guest_access(<Entry *>entry, PIO_IN, port, <size_t>size, 0)


cdef void guest_out(void *uc, uint32_t port, int size, uint32_t value, void *entry) noexcept nogil:
    guest_access(<Entry *>entry, PIO_OUT, port, <size_t>size, value)


cdef bint guest_write_of_read_only(
    void *uc, int type_, uint64_t address, int size, int64_t value, void *entry
) noexcept nogil:
    """Make the write of a page that a Rom is behind; Unicorn drops it then.

    Unicorn makes an unaligned write byte by byte, after it has called this for the whole.
    """
    cdef PyObject *bus = (<Entry *>entry).bus
    cdef uint8_t data[8]
    cdef size_t index
    if not find_range((<GuestBus>bus).mmio, address, &index):
        return False
    if address & <uint64_t>(size - 1) == 0:
        if (<GuestBus>bus).hooks_big_endian != (<GuestBus>bus).big_endian:
            dbs_bytes_of_integer(<uint64_t>value, <size_t>size, True, data)
            value = <int64_t>dbs_integer_of_bytes(data, <size_t>size, False)
        guest_access(<Entry *>entry, MMIO_STORE, address, <size_t>size, <uint64_t>value)
    return True


cdef bint guest_unmapped(void *uc, int type_, uint64_t address, int size, int64_t value, void *entry) noexcept nogil:
    """Tell Unicorn to try again where a range that was added while the guest ran had not been mapped yet.

    A page that only the manager's background serves is mapped when it is first accessed.
    """
    cdef PyObject *bus = (<Entry *>entry).bus
    cdef bint is_synced = generation_of(<GuestBus>bus) == (<GuestBus>bus).synced
    if is_synced and (<GuestBus>bus).held.background.ranges.count == 0:
        return False
    return map_page(<GuestBus>bus, <Entry *>entry, is_synced, type_, address)


cdef bint map_page(GuestBus bus, Entry *entry, bint is_synced, int type_, uint64_t address) noexcept with gil:
    cdef size_t index
    if bus.exceptions or (not is_synced and not sync(bus, entry, False)):
        return False
    if page_holds_range(bus, address):
        return not is_synced
    if type_ == UC_MEM_FETCH_UNMAPPED or not find_range(&bus.held.background.ranges, address, &index):
        return False
    return bus.map_region(address & ~bus.offset_mask, address | bus.offset_mask, None) == 0
