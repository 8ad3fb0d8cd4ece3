"""The memory of the guest as a device that masters the bus sees it (DMA), and where it is in the host."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memmove

from .access cimport NOT_AN_INTEGER, address_of, aligned_piece, background_of, c_read, c_write, raise_unowned
from .adapters cimport host_memory, is_memory, memory_behind
from .buffers cimport plain_view
from .memory cimport NO_MEMORY, RAM, ROM, HostMemory, MemoryKind
from .platform cimport set_public_name
from .tables cimport (
    MMIO,
    IoTables,
    RangeEntry,
    Ranges,
    Slot,
    are_current,
    current_tables,
    find_range,
    last_base_at_or_below,
    new_entry,
    published_tables_of,
    slot_of,
)

import copyreg
import operator
from contextlib import suppress

from ..address import Space
from ..errors import NotRamError, add_note, format_count
from .address_map import MappedMemory

__all__ = ["GuestMemory", "memory_of"]


cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX


cdef MemoryKind memory_at(IoTables tables, uint64_t address, uint8_t **pointer, uint64_t *last) noexcept nogil:
    """Find the host's memory behind an address, and the last address up to which it is in one piece."""
    cdef Ranges *ranges = &tables.mmio.ranges
    cdef MemoryKind kind
    cdef size_t index
    if find_range(ranges, address, &index):
        last[0] = ranges.slots[index].last
    else:
        last[0] = last_of_gap(ranges, address)
        ranges = background_of(tables, MMIO, address, 1)
        if ranges == NULL:
            return NO_MEMORY
        index = 0
        last[0] = min(last[0], ranges.slots[0].last)
    kind = host_memory(&ranges.slots[index], pointer)
    # Registration has checked that the memory fills the range.
    if kind != NO_MEMORY:
        pointer[0] += address - ranges.bases[index]
    return kind


cdef uint64_t last_of_gap(Ranges *ranges, uint64_t address) noexcept nogil:
    """Return the last address before the range that comes after an address without one."""
    cdef size_t index = last_base_at_or_below(ranges, address)
    if ranges.count == 0:
        return <uint64_t>-1
    index += ranges.bases[index] <= address
    return ranges.bases[index] - 1 if index < ranges.count else <uint64_t>-1


def memory_of(mapped):
    """Return the host's memory behind a range, for code that maps it into a guest.

    The guest may use a page of it directly that is within the range, and is a whole page of the host too.

    Parameters
    ----------
    mapped : MappedRange
        A range of a manager, of `IoManager.mapped_ranges` or `IoManager.on_change`.

    Returns
    -------
    MappedMemory or None
        None unless all that an access of the range does is to read, or read and write, the memory of a `HostMemory`,
        at once or through `Alias`.
    """
    cdef RangeEntry entry
    cdef Slot slot
    cdef uint8_t *start
    cdef MemoryKind kind = NO_MEMORY
    space, base, last, device, name = mapped
    if space == Space.MMIO and is_memory(device):
        entry = new_entry(MMIO, base, last, device, name)
        if entry.is_native:
            slot = slot_of(entry)
            kind = host_memory(&slot, &start)
    return None if kind == NO_MEMORY else MappedMemory(base, last, <uintptr_t>start, kind == RAM, device)


cdef object owner_of(IoTables tables, uint64_t address):
    """Return the device that serves accesses to an address of the MMIO space, or None."""
    cdef size_t index
    if find_range(&tables.mmio.ranges, address, &index):
        return (<RangeEntry>tables.mmio.entries[index]).device
    if background_of(tables, MMIO, address, 1) != NULL:
        return (<RangeEntry>tables.background.entries[0]).device
    return None


cdef uint64_t size_of_transfer(uint64_t address, object size) except? NOT_AN_INTEGER:
    """Return a size in bytes; `ValueError` if it is negative, `OverflowError` if it takes an address past the end."""
    size = PyNumber_Index(size)
    if size < 0:
        raise ValueError(f"a size is not negative, as {size} is")
    if size > 0 and size - 1 > <uint64_t>-1 - address:
        raise OverflowError(
            f"{format_count(size, 'byte')} at {address:#x} run past the last MMIO address, {Space.MMIO.last_address:#x}"
        )
    return size


@cython.no_gc_clear  # `_published` is read without a check; what it publishes is cleared in its place
cdef class GuestMemory:
    """The guest's memory, as a device uses it for DMA.

    Addresses are those of a manager's MMIO space, with whatever is mapped there at the time of each access. Memory
    (`Ram`, `Rom`) is copied without the GIL. A device is read and written by naturally aligned accesses, lowest
    address first. What no range owns raises `NoDeviceError`, or reaches the manager's background or open bus.

    When a transfer fails, what was done stays done. The exception has an attribute `bytes_done`, the number of bytes
    that were transferred before the failed access, and a note of it.

    Parameters
    ----------
    manager : IoManager
        The bus.
    width : int
        The largest access to a device, in bytes: 1, 2, 4 or 8.

    Raises
    ------
    TypeError
        `manager` is not an `IoManager`, or `width` is not an integer.
    ValueError
        `width` is another number.

    Attributes
    ----------
    manager, width
        The parameters.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.memory import Ram
    >>> manager = IoManager()
    >>> manager.register_device_io(Ram(0x1000), [Resource.MemAddressRange(0x4000, 0x1000)])
    >>> memory = GuestMemory(manager)
    >>> memory.write(0x4010, b"descriptor")
    >>> memory.read(0x4010, 4)
    b'desc'
    >>> memory.read(0x4FFE, 4)
    Traceback (most recent call last):
    dbs_device.errors.NoDeviceError: no device owns MMIO address 0x5000 (2 bytes)
    2 of 4 bytes were transferred before this access
    """

    def __cinit__(self, manager, *, width=8):
        self._published = published_tables_of(manager)
        self._manager = manager
        width = operator.index(width)
        if width not in (1, 2, 4, 8):
            raise ValueError(f"width takes 1, 2, 4 or 8 bytes, not {width}")
        self._width = width

    @property
    def manager(self):
        """IoManager : the bus."""
        return self._manager

    @property
    def width(self):
        """int : the largest access to a device, in bytes."""
        return self._width

    def read(self, addr, size):
        """Read guest memory.

        Parameters
        ----------
        addr : int
            First address.
        size : int
            Number of bytes; may be 0.

        Returns
        -------
        bytes
            A copy.

        Raises
        ------
        NoDeviceError
            No range owns a part of it.
        OverflowError
            It is not within 0..2**64 - 1, or larger than bytes can be.
        TypeError
            An argument is not an integer.
        ValueError
            `size` is negative.
        Exception
            Whatever a device raises.
        """
        cdef uint64_t address = address_of(addr, MMIO)
        cdef uint64_t bytes_ = size_of_transfer(address, size)
        cdef bytes data
        if bytes_ > <uint64_t>PY_SSIZE_T_MAX:
            raise OverflowError(f"{format_count(bytes_, 'byte')} do not fit a bytes object")
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>bytes_)
        self.transfer(address, <uint8_t *>PyBytes_AS_STRING(data), len(data), False)
        return data

    def read_into(self, addr, buffer):
        """Read guest memory into a buffer.

        Parameters
        ----------
        addr : int
            First address.
        buffer : buffer
            Writable and C-contiguous: what to fill. It keeps its contents from `bytes_done` on if the transfer fails.

        Raises
        ------
        NoDeviceError
            No range owns a part of it.
        OverflowError
            It is not within 0..2**64 - 1.
        TypeError
            `addr` is not an integer, or `buffer` is not a buffer.
        BufferError
            `buffer` is read-only, not contiguous, or holds references to objects.
        Exception
            Whatever a device raises.
        """
        cdef uint64_t address
        cdef object view
        cdef Py_buffer *memory
        if memoryview(buffer).nbytes == 0:
            return
        view = plain_view(buffer, True, "a read")
        memory = PyMemoryView_GET_BUFFER(view)
        address = address_of(addr, MMIO)
        self.transfer(address, <uint8_t *>memory.buf, size_of_transfer(address, memory.len), False)

    def write(self, addr, data):
        """Write guest memory.

        Parameters
        ----------
        addr : int
            First address.
        data : buffer
            C-contiguous: the bytes to write.

        Raises
        ------
        NoDeviceError
            No range owns a part of it.
        OverflowError
            It is not within 0..2**64 - 1.
        TypeError
            `addr` is not an integer, or `data` is not a buffer.
        BufferError
            `data` is not contiguous, or holds references to objects.
        Exception
            Whatever a device raises.
        """
        cdef uint64_t address
        cdef object view
        cdef Py_buffer *memory
        if memoryview(data).nbytes == 0:
            return
        view = plain_view(data, False, "a write")
        memory = PyMemoryView_GET_BUFFER(view)
        address = address_of(addr, MMIO)
        self.transfer(address, <uint8_t *>memory.buf, size_of_transfer(address, memory.len), True)

    def view(self, addr, size):
        """Return a view of RAM: writes to it are seen by the guest at once, and the guest's writes in it.

        Parameters
        ----------
        addr : int
            First address.
        size : int
            Number of bytes, at least 1.

        Returns
        -------
        memoryview
            Of `size` unsigned bytes. It stays valid, and keeps the memory alive, when the RAM is unplugged.

        Raises
        ------
        NotRamError
            It is not within one `Ram`.
        OverflowError
            It is not within 0..2**64 - 1.
        TypeError
            An argument is not an integer.
        ValueError
            `size` is not positive.
        """
        cdef IoTables tables = current_tables(<PyObject *>self._published)
        cdef uint64_t address = address_of(addr, MMIO)
        cdef uint64_t last
        cdef uint8_t *pointer
        cdef HostMemory memory
        cdef size_t offset, length = size_of_transfer(address, size)
        if length == 0:
            raise ValueError("a view takes at least 1 byte, not 0")
        if memory_at(tables, address, &pointer, &last) != RAM:
            raise NotRamError(address, length, 0, owner_of(tables, address))
        if length - 1 > last - address:
            raise NotRamError(address, length, last - address + 1, owner_of(tables, last + 1))
        memory = memory_behind(owner_of(tables, address))
        offset = pointer - memory._start
        return memoryview(memory)[offset : offset + length]

    cdef int transfer(self, uint64_t address, uint8_t *data, size_t size, bint write) except -1:
        cdef IoTables tables
        cdef size_t done = 0
        cdef int result
        try:
            while done < size:
                # A change that a device makes to the map applies from the next access on.
                tables = current_tables(<PyObject *>self._published)
                with nogil:
                    result = self.transfer_on(tables, address, data, size, &done, write)
                if result != 0:
                    raise_unowned(
                        tables, &tables.mmio.ranges, address + done, self.piece_at(tables, address + done, size - done)
                    )
        except BaseException as error:
            topic = "bytes were transferred before this access"
            add_note(error, f"{done} of {size} {topic}", topic)
            with suppress(Exception):  # the exception may refuse attributes
                error.bytes_done = done
            raise
        return 0

    cdef int transfer_on(
        self, IoTables tables, uint64_t address, uint8_t *data, size_t size, size_t *done, bint write
    ) except -1 nogil:
        """Transfer until all is done, the tables are no longer current (0), or an access is unowned (1)."""
        cdef uint8_t bounce[8]
        cdef uint8_t *pointer
        cdef uint64_t last
        cdef size_t piece
        cdef MemoryKind kind
        cdef int result
        while done[0] < size and are_current(self._published, tables):
            kind = memory_at(tables, address + done[0], &pointer, &last)
            if kind == RAM or (kind == ROM and not write):
                # In this order, which does not overflow where the memory ends with the space.
                piece = min(size - done[0] - 1, last - (address + done[0])) + 1
                # The caller's buffer may be a view of the same memory.
                if write:
                    memmove(pointer, data + done[0], piece)
                else:
                    memmove(data + done[0], pointer, piece)
                done[0] += piece
                continue
            piece = self.piece_at(tables, address + done[0], size - done[0])
            if write:
                result = c_write(tables, MMIO, address + done[0], data + done[0], piece)
            else:
                # A failed access leaves the caller's buffer unchanged.
                result = c_read(tables, MMIO, address + done[0], bounce, piece)
            if result == -1 or (result == 1 and tables.options.open_bus < 0):
                return result
            if not write:
                memcpy(data + done[0], bounce, piece)
            done[0] += piece
        return 0

    cdef size_t piece_at(self, IoTables tables, uint64_t address, size_t size) noexcept nogil:
        """Return the size of the next access to a device: aligned, and neither into nor out of a range."""
        cdef Ranges *ranges = &tables.mmio.ranges
        cdef uint64_t last
        cdef size_t index
        if find_range(ranges, address, &index):
            last = ranges.slots[index].last
        else:
            last = last_of_gap(ranges, address)
        return aligned_piece(address, min(size - 1, last - address) + 1, self._width)

    def __repr__(self):
        return f"GuestMemory({self._manager!r})"

    def __reduce__(self):
        return copyreg.__newobj_ex__, (type(self), (self._manager,), {"width": self._width})


set_public_name(GuestMemory, b"dbs_device.memory.GuestMemory")
