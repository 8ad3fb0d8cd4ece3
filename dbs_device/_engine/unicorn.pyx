"""The C functions that Unicorn calls for a guest's accesses."""

cimport cython
from cpython.object cimport PyObject
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

__all__ = ["GuestBus", "Window", "entry_point_addresses"]


@cython.final
cdef class GuestBus(PublishedTables):
    """A manager's ranges as a guest sees them: integers in Unicorn's byte order, exceptions latched.

    Parameters
    ----------
    uc_address, stop_address : int
        Addresses of the emulator (a ``uc_engine``) and of the function ``uc_emu_stop``.
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
    """

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
        uintptr_t stop_address,
        bint big_endian,
        uint64_t page_size,
        sync,
        record,
        unmapped,
    ):
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
        self.context.stop = <int (*)(void *) noexcept nogil>stop_address
        self.context.stop_argument = <void *>uc_address
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
        """Publish the ranges that the manager has now."""
        cdef PublishedTables published = published_tables_of(manager)
        cdef IoTables tables = current_tables(<PyObject *>published)
        cdef Options options = tables.options
        options.big_endian = self.big_endian
        self._unowned_accesses = published._unowned_accesses
        self.publish(tables.pio, tables.mmio, options)

    def request_sync(self):
        """Have `sync` called when the guest next reaches an entry point."""
        dbs_hint_store(&self.sync_requested, 1)

    def latch(self, error):
        """Latch an exception and stop the guest; no device is called while it is pending."""
        latch(&self.context, error)

    def pop_exception(self):
        """Remove and return the oldest pending exception, or None. Devices are called again when none is left."""
        return pop_oldest(&self.context)


@cython.final
cdef class Window:
    """User data of the MMIO entry points of a mapping.

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

    @property
    def address(self):
        """int : the user data."""
        return <uintptr_t>&self.handle


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


cdef inline uint64_t guest_access(
    PyObject *bus, Handle *handle, Operation operation, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    (<GuestBus>bus).inside = (<GuestBus>bus).inside + 1
    if dbs_hint_load(&(<GuestBus>bus).sync_requested) != 0:
        call_sync(<GuestBus>bus)
    cdef uint64_t result = access(handle, operation, address, size, value)
    if (<GuestBus>bus).is_recording and dbs_hint_load(&handle.context.pending) == 0:
        call_record(<GuestBus>bus, operation, handle.base + address, size, result)
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
    """Return the addresses of the entry points that Unicorn is given."""
    return {
        "load": <uintptr_t>&guest_load,
        "store": <uintptr_t>&guest_store,
        "in": <uintptr_t>&guest_in,
        "out": <uintptr_t>&guest_out,
        "unmapped": <uintptr_t>&guest_unmapped,
    }
