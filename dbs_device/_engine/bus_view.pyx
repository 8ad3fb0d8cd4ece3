"""Live views of the address spaces of an `IoManager`."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from .access cimport address_of
from .platform cimport set_public_name
from .tables cimport (
    PIO,
    IoTables,
    RangeEntry,
    RangeTable,
    Slot,
    SpaceId,
    address_object,
    current_tables,
    find_range,
    find_ranges,
    published_tables_of,
    space_of,
)

from ..errors import NoDeviceError, format_count

__all__ = ["Bus"]


cdef object not_made_by_a_manager():
    return TypeError("a Bus is made by IoManager.mmio_bus and IoManager.pio_bus")


cdef Bus new_bus(object manager, SpaceId space):
    cdef Bus bus = Bus.__new__(Bus)
    bus._manager = manager
    bus._published = published_tables_of(manager)
    bus._space = space
    return bus


@cython.final
cdef class Bus:
    """A live view of one address space of an `IoManager`. Made by `IoManager.mmio_bus` and `IoManager.pio_bus`.

    Iterating gives (base, last, device) of each range, sorted by base, as of the beginning of the iteration.
    """

    def __init__(self):
        raise not_made_by_a_manager()

    cdef RangeTable table(self):
        cdef IoTables tables
        if self._published is None:  # made by Bus.__new__
            raise not_made_by_a_manager()
        tables = current_tables(<PyObject *>self._published)
        return tables.pio if self._space == PIO else tables.mmio

    def find(self, addr):
        """Return the device that owns an address or port, or None. O(log(ranges)), or O(1) if it was found recently.

        Parameters
        ----------
        addr : int
            The address or port.

        Returns
        -------
        DeviceIo or None
            The owner.

        Raises
        ------
        OverflowError
            `addr` is outside the space.
        TypeError
            `addr` is not an integer.
        """
        cdef RangeTable table = self.table()
        cdef const Slot *slot
        cdef size_t index
        if not find_range(&table.ranges, address_of(addr, self._space), &index):
            return None
        slot = &table.ranges.slots[index]
        if slot.read == NULL:
            return (<RangeEntry>slot.target).device
        return (<RangeEntry>table.entries[index]).device  # the target may be one that counts accesses

    def resolve(self, addr):
        """Return the device that owns an address or port, with base and offset. O(log(ranges)).

        Parameters
        ----------
        addr : int
            The address or port.

        Returns
        -------
        tuple of (DeviceIo, IoAddress or PioAddress, IoAddress or PioAddress)
            Device, base of its range, offset in the range.

        Raises
        ------
        NoDeviceError
            No range has the address.
        OverflowError
            `addr` is outside the space.
        TypeError
            `addr` is not an integer.
        """
        cdef RangeTable table = self.table()
        cdef uint64_t address = address_of(addr, self._space)
        cdef RangeEntry entry
        cdef size_t index
        if not find_range(&table.ranges, address, &index):
            raise NoDeviceError(space_of(self._space), address)
        entry = <RangeEntry>table.entries[index]
        return entry.device, entry.base_object, address_object(entry.offsets, address - entry.base)

    def find_many(self, addresses):
        """Return the index of each address's range in the current `bases`, `lasts` and `devices`.

        O(addresses * log(ranges)), without the GIL.

        Parameters
        ----------
        addresses : numpy.ndarray
            Of an unsigned integer type (uint64 is not copied), any shape.

        Returns
        -------
        numpy.ndarray
            intp, of the same shape; -1 for an address that no range has.

        Raises
        ------
        TypeError
            `addresses` is not of an unsigned integer type.
        """
        cdef RangeTable table = self.table()
        return find_ranges(table, addresses)

    @property
    def bases(self):
        """numpy.ndarray : first address of each range, ascending. uint64, shape (ranges,), read-only, not copied."""
        return self.table().bases.view()

    @property
    def lasts(self):
        """numpy.ndarray : last address of each range, inclusive. uint64, shape (ranges,), read-only, not copied."""
        return self.table().lasts.view()

    @property
    def devices(self):
        """tuple of DeviceIo : the owner of each range, in the order of `bases`. O(ranges)."""
        cdef RangeEntry entry
        return tuple([entry.device for entry in self.table().entries])

    def __len__(self):
        return self.table().ranges.count

    def __iter__(self):
        cdef RangeEntry entry
        return iter([(entry.base, entry.last, entry.device) for entry in self.table().entries])

    def __repr__(self):
        return f"<{space_of(self._space)} bus: {format_count(self.table().ranges.count, 'range')}>"

    def __reduce__(self):
        return getattr, (self._manager, "pio_bus" if self._space == PIO else "mmio_bus")


set_public_name(Bus, b"dbs_device.Bus")
