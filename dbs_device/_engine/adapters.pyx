"""Adapters: native devices that stand in front of a device and change what reaches it.

The tables know nothing of them: an adapter is registered in place of its device, and code that uses none pays nothing.
An adapter in front of a native device takes no GIL.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from .access cimport python_read, python_write
from .memory cimport NO_MEMORY, HostMemory, MemoryKind, memory_kind
from .native cimport NativeDevice
from .platform cimport dbs_keep_thread_state, set_public_name
from .tables cimport (
    BUS_ORDER,
    MMIO,
    PIO,
    RangeEntry,
    Slot,
    SpaceId,
    check_device,
    entry_at,
    new_entry,
    slot_of,
    space_of,
    warn_if_unhandled,
)

import copyreg
import operator

from ..address import Space
from ..device import DeviceIo
from ..errors import InvalidRangeError, describe_device, format_count, format_range
from .public import set_attributes

__all__ = ["Adapter", "Alias", "Mirror", "is_memory"]


# ----------------------------------------------------------------------------- the device behind an adapter


@cython.final
@cython.no_gc_clear
cdef class Inner:
    """A device as an adapter calls it, in one space. The handlers are looked up once, when the adapter is made."""

    cdef int read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept nogil:
        if self.slot.read != NULL:
            return self.slot.read(self.slot.target, base, offset, data, size)
        return read_python(self, base, offset, data, size)

    cdef int write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) noexcept nogil:
        if self.slot.write != NULL:
            return self.slot.write(self.slot.target, base, offset, data, size)
        return write_python(self, base, offset, data, size)

    cdef RangeEntry entry_of(self, uint64_t base):
        """Return the entry of the device in a range that begins at `base`."""
        cdef RangeEntry entry
        with cython.critical_section(self):
            if self.entry.base != base:
                self.entry = entry_at(self.entry, base)
            entry = self.entry
        return entry


cdef int read_python(Inner inner, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept with gil:
    cdef RangeEntry entry = inner.entry_of(base)
    cdef int result = python_read(<PyObject *>entry, base + offset, data, size, inner.big_endian)
    if result == -1:
        dbs_keep_thread_state()
    return result


cdef int write_python(
    Inner inner, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
) noexcept with gil:
    cdef RangeEntry entry = inner.entry_of(base)
    cdef int result = python_write(<PyObject *>entry, base + offset, data, size, inner.big_endian)
    if result == -1:
        dbs_keep_thread_state()
    return result


cdef object silent_device = DeviceIo()


cdef Inner new_inner(SpaceId space, object device):
    cdef Inner inner = Inner.__new__(Inner)
    try:
        inner.entry = new_entry(space, 0, <uint64_t>-1, device, None)
    except AttributeError:
        # A virtual subclass of DeviceIo need not have the handlers of both spaces.
        inner.entry = new_entry(space, 0, <uint64_t>-1, silent_device, None)
    inner.entry.is_behind_adapter = True
    inner.slot = slot_of(inner.entry)
    return inner


cdef Inner silent_mmio = new_inner(MMIO, silent_device)
cdef Inner silent_pio = new_inner(PIO, silent_device)


# ----------------------------------------------------------------------------- adapters


@cython.no_gc_clear
cdef class Adapter(NativeDevice):
    """The base class of adapters: native devices around other ones.

    Attributes
    ----------
    devices : tuple of DeviceIo
        The devices behind it.
    """

    def __cinit__(self, *args, **kwargs):
        if type(self) is Adapter:
            raise TypeError("Adapter is a base class: Alias, Mirror, AccessRule or PartialDecode is to be made")
        self._inners = []
        self._devices = ()
        # Of one that is not initialised.
        self._mmio = silent_mmio
        self._pio = silent_pio

    @property
    def devices(self):
        """tuple of DeviceIo : the devices behind the adapter."""
        return self._devices

    cdef int set_device(self, object device) except -1:
        """Look up the handlers of the one device of an adapter."""
        check_device(device)
        self.check_is_new()
        self._mmio, self._pio = new_inner(MMIO, device), new_inner(PIO, device)
        self._inners = [self._mmio, self._pio]
        self._devices = (device,)
        return 0

    cdef int check_is_new(self) except -1:
        if self._devices:
            raise TypeError(f"{describe_device(self)} has its device already")
        return 0

    cdef int bind(self, bint big_endian) except -1:
        """Take over the byte order of the bus that the adapter is to be registered on."""
        cdef Inner inner
        for inner in self._inners:
            if inner.big_endian != big_endian and self._is_bound and needs_order(inner.entry):
                raise ValueError(
                    f"{describe_device(self)} is registered on a bus of the other byte order, which is also that of "
                    f"{describe_device(inner.entry.device)}: make another adapter, or give the device a byteorder"
                )
        for device in self._devices:
            if isinstance(device, Adapter):
                (<Adapter>device).bind(big_endian)
        for inner in self._inners:
            inner.big_endian = big_endian
        self._is_bound = True
        return 0

    cdef int check_reach(self, SpaceId space, uint64_t base, uint64_t last, uint64_t reach) except -1:
        """Raise `InvalidRangeError` if an access of the range could not be served; `reach` is its last offset."""
        cdef Inner inner
        for inner in self._inners:
            if inner.entry.space == space:
                check_reach(inner.entry.device, space, base, last, reach)
                warn_if_unhandled([inner.entry])
        return 0

    def get_assigned_resources(self):
        """Return the resources of the device; of several ones, none."""
        if len(self._devices) == 1:
            return self._devices[0].get_assigned_resources()
        return NativeDevice.get_assigned_resources(self)

    def get_trapped_io_resources(self):
        """Return the resources of the device; of several ones, none."""
        if len(self._devices) == 1:
            return self._devices[0].get_trapped_io_resources()
        return NativeDevice.get_trapped_io_resources(self)


cdef bint needs_order(RangeEntry entry) noexcept:
    """Return whether what a device makes of bytes depends on the order of the bus."""
    return not entry.is_native and entry.byte_order == BUS_ORDER and (entry.has_load or entry.has_store)


cdef int prepare(object device, list ranges, bint big_endian) except -1:
    """Check whether a device fits its ranges (space, base, last), and tell adapters the byte order of the bus."""
    for space, base, last in ranges:
        check_reach(device, <SpaceId><int>space, base, last, last - base)
    if isinstance(device, Adapter):
        (<Adapter>device).bind(big_endian)
    return 0


cdef int check_reach(object device, SpaceId space, uint64_t base, uint64_t last, uint64_t reach) except -1:
    if isinstance(device, Adapter):
        return (<Adapter>device).check_reach(space, base, last, reach)
    if isinstance(device, HostMemory) and reach >= (<HostMemory>device)._size:
        raise InvalidRangeError(
            f"{space_of(space)} range {format_range(base, last)} is larger than the "
            f"{format_count(device.size, 'byte')} of {describe_device(device)}, or what an adapter leaves of them"
        )
    return 0


cpdef bint is_memory(object device) except -1:
    """Return whether a device is registered for ranges of guest memory: memory, and adapters around nothing else."""
    if isinstance(device, Adapter):
        return all([is_memory(each) for each in (<Adapter>device)._devices])
    return isinstance(device, HostMemory)


# ----------------------------------------------------------------------------- Alias


@cython.no_gc_clear
cdef class Alias(Adapter):
    """A device seen from an offset on, as through a second window into it.

    An alias of memory is memory: bridges map it into the guest, and `GuestMemory` gives views of it.

    Parameters
    ----------
    device : DeviceIo
        The device.
    offset : int
        Where its offset 0 is: an access at the offset n reaches the device at n + `offset`.

    Raises
    ------
    InvalidRangeError
        `offset` is not 0..2**64 - 1.
    TypeError
        `device` is not a `DeviceIo`, or `offset` is not an integer.

    Examples
    --------
    The upper half of a flash, also at address 0:

    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.memory import Rom
    >>> flash = Rom(b"loader..firmware")
    >>> manager = IoManager()
    >>> manager.register_device_io(flash, [Resource.MemAddressRange(0x0800_0000, 16)])
    >>> manager.register_device_io(Alias(flash, 8), [Resource.MemAddressRange(0, 8)])
    >>> manager.mmio_load(0, 8).to_bytes(8, "little")
    b'firmware'
    """

    def __init__(self, device, offset):
        cdef MemoryKind kind = NO_MEMORY
        cdef uint8_t *start = NULL
        offset = operator.index(offset)
        if not 0 <= offset <= Space.MMIO.last_address:
            raise InvalidRangeError(f"Alias takes an offset of 0x0..{Space.MMIO.last_address:#x}, not {offset:#x}")
        self.set_device(device)
        self._offset = offset
        if self._mmio.slot.read != NULL:
            kind = host_memory(&self._mmio.slot, &start)
        if kind != NO_MEMORY:
            self._start = start + self._offset
        self._kind = kind

    @property
    def device(self):
        """DeviceIo : the device."""
        return self._mmio.entry.device

    @property
    def offset(self):
        """int : where its offset 0 is."""
        return self._offset

    cdef int check_reach(self, SpaceId space, uint64_t base, uint64_t last, uint64_t reach) except -1:
        if reach > <uint64_t>-1 - self._offset:
            raise InvalidRangeError(
                f"{space_of(space)} range {format_range(base, last)} runs past the last offset of "
                f"{describe_device(self)}"
            )
        return Adapter.check_reach(self, space, base, last, reach + self._offset)

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self._mmio.read(base, offset + self._offset, data, size)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self._mmio.write(base, offset + self._offset, data, size)

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self._pio.read(base, offset + self._offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self._pio.write(base, offset + self._offset, data, size)

    def __repr__(self):
        return f"Alias({describe_device(self.device)}, {self._offset:#x})"

    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), ((self.device, self.offset), self.__getstate__())

    def __setstate__(self, state):
        arguments, attributes = state
        Alias.__init__(self, *arguments)
        set_attributes(self, attributes)


cdef object some_alias = Alias(silent_device, 0)
cdef void *alias_read = <void *>(<Alias>some_alias).c_read
cdef void *alias_write = <void *>(<Alias>some_alias).c_write


cdef MemoryKind host_memory(const Slot *slot, uint8_t **start) noexcept nogil:
    """Find the host's memory behind the native device of a slot, through its aliases."""
    cdef MemoryKind kind = memory_kind(<void *>slot.read, <void *>slot.write)
    if kind != NO_MEMORY:
        start[0] = (<HostMemory>slot.target)._start
    elif <void *>slot.read == alias_read and <void *>slot.write == alias_write:
        kind = (<Alias>slot.target)._kind
        start[0] = (<Alias>slot.target)._start
    return kind


cdef HostMemory memory_behind(object device):
    """Return the memory of a device for which `host_memory` has found some."""
    while isinstance(device, Alias):
        device = device.device
    return device


# ----------------------------------------------------------------------------- Mirror


@cython.no_gc_clear
cdef class Mirror(Adapter):
    """A device whose decoder ignores some address lines, so that it appears again and again in its range.

    The device sees offsets with the ignored bits cleared. An access that wraps around in the middle is split there.

    Parameters
    ----------
    device : DeviceIo
        The device.
    mask : int
        The bits of an offset that the device sees; 0x7FF for 2 KiB that repeat.

    Raises
    ------
    InvalidRangeError
        `mask` is not 0..2**64 - 1.
    TypeError
        `device` is not a `DeviceIo`, or `mask` is not an integer.

    Examples
    --------
    The 2 KiB of RAM of a NES appear four times:

    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.memory import Ram
    >>> manager = IoManager()
    >>> manager.register_device_io(Mirror(Ram(0x800), 0x7FF), [Resource.MmioAddressRange(0, 0x2000)])
    >>> manager.mmio_store(0x0001, 1, 0x42)
    >>> manager.mmio_load(0x1801, 1) == 0x42
    True
    """

    def __cinit__(self, *args, **kwargs):
        self._mask, self._block = <uint64_t>-1, <uint64_t>1 << 63

    def __init__(self, device, mask):
        cdef uint64_t bits
        mask = operator.index(mask)
        if not 0 <= mask <= Space.MMIO.last_address:
            raise InvalidRangeError(f"Mirror takes a mask of 0x0..{Space.MMIO.last_address:#x}, not {mask:#x}")
        self.set_device(device)
        self._mask = mask
        # Within a block, which the low bits of the mask span, offsets follow each other. The block of all is the space.
        bits = ~self._mask & (self._mask + 1)
        self._block = bits if bits != 0 else <uint64_t>1 << 63

    @property
    def device(self):
        """DeviceIo : the device."""
        return self._mmio.entry.device

    @property
    def mask(self):
        """int : the bits of an offset that the device sees."""
        return self._mask

    cdef int check_reach(self, SpaceId space, uint64_t base, uint64_t last, uint64_t reach) except -1:
        return Adapter.check_reach(self, space, base, last, min(reach, self._mask))

    cdef size_t in_one_piece(self, uint64_t offset, size_t size) noexcept nogil:
        """Return how many bytes of an access follow each other in the device."""
        cdef uint64_t seen = offset & self._mask
        cdef uint64_t piece = self._block - (offset & (self._block - 1))  # which a size_t of 32 bits need not hold
        while piece < size and (offset + piece) & self._mask == seen + piece:
            piece += self._block
        return <size_t>min(piece, <uint64_t>size)

    cdef int read_pieces(self, Inner inner, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept nogil:
        cdef size_t piece, done = 0
        while done < size:
            piece = self.in_one_piece(offset + done, size - done)
            if inner.read(base, (offset + done) & self._mask, data + done, piece) == -1:
                return -1
            done += piece
        return 0

    cdef int write_pieces(
        self, Inner inner, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) noexcept nogil:
        cdef size_t piece, done = 0
        while done < size:
            piece = self.in_one_piece(offset + done, size - done)
            if inner.write(base, (offset + done) & self._mask, data + done, piece) == -1:
                return -1
            done += piece
        return 0

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.read_pieces(self._mmio, base, offset, data, size)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.write_pieces(self._mmio, base, offset, data, size)

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.read_pieces(self._pio, base, offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.write_pieces(self._pio, base, offset, data, size)

    def __repr__(self):
        return f"Mirror({describe_device(self.device)}, {self._mask:#x})"

    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), ((self.device, self.mask), self.__getstate__())

    def __setstate__(self, state):
        arguments, attributes = state
        Mirror.__init__(self, *arguments)
        set_attributes(self, attributes)


set_public_name(Adapter, b"dbs_device.memory.Adapter")
set_public_name(Alias, b"dbs_device.memory.Alias")
set_public_name(Mirror, b"dbs_device.memory.Mirror")
