"""What Unicorn calls for a guest's accesses: C functions that go straight to the engine."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

from ._access cimport refuse_unless_open
from ._bus cimport IoManager
from ._callbacks cimport (
    MMIO_LOAD,
    MMIO_STORE,
    PIO_IN,
    PIO_OUT,
    Engine,
    Handle,
    Kind,
    access,
    keep,
    take_oldest,
)
from ._owner cimport TablesOwner, current_tables
from ._platform cimport dbs_hint, dbs_hint_load, dbs_hint_store
from ._tables cimport IoTables, Ranges, last_base_at_or_below

__all__ = ["GuestBus", "Window", "callback_addresses"]


@cython.final
cdef class GuestBus(TablesOwner):
    """A manager's ranges as a guest sees them: integers in Unicorn's byte order, the first exception kept.

    Parameters
    ----------
    uc_address, stop_address : int
        Addresses of the engine (a ``uc_engine``) and of the function ``uc_emu_stop``.
    big_endian : bool
        The order of the bytes in the integers that Unicorn passes.
    page_size : int
        Bytes of a page, in which Unicorn maps memory; a power of two.
    follow : callable
        Called on the guest's thread when it reaches a callback after `want_to_follow`; maps what has changed.
    record : callable or None
        Takes whether an access is MMIO, whether it is a write, its address, size and value; called after each access
        that was served.
    unmapped : callable
        Takes whether an access is a write, and its address; returns the exception for an access to a page that holds no
        range, as Unicorn itself would raise it.
    """

    cdef Engine engine
    cdef Handle ports
    cdef list exceptions
    cdef dbs_hint following_wanted
    cdef size_t inside  # callbacks under way; only the guest's thread changes it
    cdef bint big_endian
    cdef uint64_t offset_mask  # of an address in its page
    cdef object follow
    cdef object unmapped
    cdef object record
    cdef bint is_recording

    def __init__(
        self,
        uintptr_t uc_address,
        uintptr_t stop_address,
        bint big_endian,
        uint64_t page_size,
        follow,
        record,
        unmapped,
    ):
        self.exceptions = []
        self.big_endian = big_endian
        self.offset_mask = page_size - 1
        self.follow = follow
        self.record = record
        self.is_recording = record is not None
        self.unmapped = unmapped
        dbs_hint_store(&self.following_wanted, 0)
        self.engine.owner = <PyObject *>self
        self.engine.exceptions = <PyObject *>self.exceptions
        self.engine.stop = <int (*)(void *) noexcept nogil>stop_address
        self.engine.stop_argument = <void *>uc_address
        self.engine.unowned = refuse_unowned
        self.ports.engine = &self.engine

    @property
    def address(self):
        """int : the user data of the port callbacks and of the unmapped one."""
        return <uintptr_t><PyObject *>self

    @property
    def is_inside(self):
        """bool : whether the guest is in a callback."""
        return self.inside != 0

    def update(self, IoManager manager):
        """Take over the ranges that the manager has now."""
        cdef IoTables tables = current_tables(manager)
        cdef IoTables options = IoTables.__new__(IoTables)
        options.open_bus = tables.open_bus
        options.pass_straddling = tables.pass_straddling
        options.big_endian = self.big_endian
        self.swap(tables.pio, tables.mmio, options)

    def want_to_follow(self):
        """Have `follow` called when the guest next reaches a callback."""
        dbs_hint_store(&self.following_wanted, 1)

    def keep(self, error):
        """Keep an exception and stop the guest; from now on no device is called."""
        keep(&self.engine, error)

    def take_exception(self):
        """Return the oldest exception that is kept, or None. Devices are called again when none is left."""
        return take_oldest(&self.engine)


@cython.final
cdef class Window:
    """User data of the MMIO callbacks of a mapping.

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
        self.handle.engine = &bus.engine
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


cdef void refuse_unowned(Engine *engine, Kind kind, uint64_t address, size_t size) noexcept with gil:
    """Keep the exception for an access that nobody answers, unless the bus is open there."""
    cdef GuestBus bus = <GuestBus>engine.owner
    cdef IoTables tables = current_tables(bus)
    cdef Ranges *ranges = &tables.mmio.ranges if kind in (MMIO_LOAD, MMIO_STORE) else &tables.pio.ranges
    try:
        if kind in (MMIO_LOAD, MMIO_STORE) and not page_holds_range(bus, ranges, address):
            raise bus.unmapped(kind == MMIO_STORE, address)
        refuse_unless_open(tables, ranges, address, size)
    except BaseException as error:
        keep(engine, error)


cdef void call_follow(GuestBus bus) noexcept with gil:
    dbs_hint_store(&bus.following_wanted, 0)
    try:
        bus.follow()
    except BaseException as error:
        keep(&bus.engine, error)


cdef void call_record(GuestBus bus, Kind kind, uint64_t address, size_t size, uint64_t value) noexcept with gil:
    cdef uint64_t mask = ~<uint64_t>0 >> (64 - 8 * size)
    try:
        bus.record(kind in (MMIO_LOAD, MMIO_STORE), kind in (MMIO_STORE, PIO_OUT), address, size, value & mask)
    except BaseException as error:
        keep(&bus.engine, error)


cdef inline uint64_t guest_access(
    PyObject *bus, Handle *handle, Kind kind, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    (<GuestBus>bus).inside = (<GuestBus>bus).inside + 1
    if dbs_hint_load(&(<GuestBus>bus).following_wanted) != 0:
        call_follow(<GuestBus>bus)
    cdef uint64_t result = access(handle, kind, address, size, value)
    if (<GuestBus>bus).is_recording and dbs_hint_load(&handle.engine.kept) == 0:
        call_record(<GuestBus>bus, kind, handle.base + address, size, result)
    (<GuestBus>bus).inside = (<GuestBus>bus).inside - 1
    return result


cdef uint64_t guest_load(void *uc, uint64_t offset, unsigned size, void *window) noexcept nogil:
    cdef Handle *handle = <Handle *>window
    return guest_access(handle.engine.owner, handle, MMIO_LOAD, offset, size, 0)


cdef void guest_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *window) noexcept nogil:
    cdef Handle *handle = <Handle *>window
    guest_access(handle.engine.owner, handle, MMIO_STORE, offset, size, value)


cdef uint32_t guest_in(void *uc, uint32_t port, int size, void *bus) noexcept nogil:
    return <uint32_t>guest_access(<PyObject *>bus, &(<GuestBus>bus).ports, PIO_IN, port, <size_t>size, 0)


cdef void guest_out(void *uc, uint32_t port, int size, uint32_t value, void *bus) noexcept nogil:
    guest_access(<PyObject *>bus, &(<GuestBus>bus).ports, PIO_OUT, port, <size_t>size, value)


cdef bint guest_unmapped(void *uc, int type_, uint64_t address, int size, int64_t value, void *bus) noexcept nogil:
    """Tell Unicorn to try again where a range that was added while the guest ran had not been mapped yet."""
    cdef size_t wanted = dbs_hint_load(&(<GuestBus>bus).following_wanted)
    if wanted == 0:
        return False
    return follow_for(<GuestBus>bus, address)


cdef bint follow_for(GuestBus bus, uint64_t address) noexcept with gil:
    call_follow(bus)
    cdef IoTables tables = current_tables(bus)
    return page_holds_range(bus, &tables.mmio.ranges, address)


def callback_addresses():
    """Return the addresses of the callbacks that Unicorn is given."""
    return {
        "load": <uintptr_t>&guest_load,
        "store": <uintptr_t>&guest_store,
        "in": <uintptr_t>&guest_in,
        "out": <uintptr_t>&guest_out,
        "unmapped": <uintptr_t>&guest_unmapped,
    }
