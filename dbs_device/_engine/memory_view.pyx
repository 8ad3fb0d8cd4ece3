"""The MMIO space as a list of bytes, for emulators whose memory is something to be indexed."""

cimport cython
from cpython.exc cimport PyErr_Clear
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from .access cimport NOT_AN_INTEGER, load, store, uint64_or_exception, value_of
from .guest_memory cimport GuestMemory
from .platform cimport set_public_name
from .tables cimport IoTables, PublishedTables, current_tables, published_tables_of

import copyreg
import operator

from ..address import Space
from ..errors import InvalidRangeError, format_count, format_range

__all__ = ["MemoryView"]


@cython.final
@cython.no_gc_clear  # `_published` is read without a check; what it publishes is cleared in its place
cdef class MemoryView:
    """The bytes of a manager's MMIO space, to be indexed and sliced like a list.

    Memory for emulators that are given a list or an array: ``m[address]``, ``m[address] = byte``, and slices, which
    read as lists of ints. Each byte of a device is an access of one byte, lowest address first; memory is copied.
    Indices count from `base`, negative ones from the end.

    Where an access fails, its exception comes out; that of a slice has `bytes_done`, as of `GuestMemory`.

    Parameters
    ----------
    manager : IoManager
        The bus.
    base : int
        First address.
    size : int, optional
        Number of bytes; by default, all up to the end of the space.

    Raises
    ------
    InvalidRangeError
        The view is empty, or not within the space.
    TypeError
        `manager` is not an `IoManager`, or another argument is not an integer.

    Attributes
    ----------
    manager, base, size
        The parameters. ``len()`` is the size, where it fits: that of the whole space does not.

    Examples
    --------
    >>> from dbs_device import IoManager
    >>> from dbs_device.memory import Ram
    >>> m = MemoryView(IoManager(background=Ram(0x10000)), size=0x10000)
    >>> m[0xFFFC] = 0x34
    >>> m[0xFFFC:0xFFFE] = 0x00, 0x80
    >>> m[0xFFFC], m[-4:], len(m)
    (0, [0, 128, 0, 0], 65536)
    """

    cdef GuestMemory _memory
    cdef PublishedTables _published
    cdef uint64_t _base
    cdef uint64_t _last_index

    def __cinit__(self, manager, *, base=0, size=None):
        base = operator.index(base)
        last_address = Space.MMIO.last_address
        last = last_address if size is None else base + operator.index(size) - 1
        if not 0 <= base <= last <= last_address:
            raise InvalidRangeError(
                f"a view of {format_count(last - base + 1, 'byte')} at {base:#x} is empty, or is not within "
                f"{format_range(0, last_address)}"
            )
        self._memory = GuestMemory(manager, width=1)
        self._published = published_tables_of(manager)
        self._base = base
        self._last_index = last - base

    @property
    def manager(self):
        """IoManager : the bus."""
        return self._memory.manager

    @property
    def base(self):
        """int : first address."""
        return self._base

    @property
    def size(self):
        """int : number of bytes."""
        return <object>self._last_index + 1

    cdef uint64_t address_of(self, object index) except? NOT_AN_INTEGER:
        """Return the address of an index; `IndexError` if it is out of range, `TypeError` if it is not an integer."""
        cdef uint64_t number
        if PyLong_CheckExact(index):
            number = uint64_or_exception(index)
            if number != NOT_AN_INTEGER and number <= self._last_index:
                return self._base + number
            PyErr_Clear()
        position = operator.index(index)
        if position < 0:
            position += self.size
        if not 0 <= position <= self._last_index:
            raise IndexError(f"index {position:#x} is out of range of {self!r}")
        return self._base + <uint64_t>position

    def __getitem__(self, key):
        cdef IoTables tables
        if isinstance(key, slice):
            return self.load_slice(key)
        tables = current_tables(<PyObject *>self._published)
        return load(tables, &tables.mmio.ranges, self.address_of(key), 1)

    def __setitem__(self, key, value):
        cdef IoTables tables
        cdef uint64_t address
        if isinstance(key, slice):
            self.store_slice(key, value)
            return
        address = self.address_of(key)
        tables = current_tables(<PyObject *>self._published)
        store(tables, &tables.mmio.ranges, address, 1, value_of(value, 1))

    def __delitem__(self, key):
        raise TypeError("bytes of memory cannot be deleted")

    cdef object load_slice(self, object key):
        start, stop, step = key.indices(self.size)
        if step != 1:
            return [self[index] for index in range(start, stop, step)]
        return list(self._memory.read(self._base + start, max(stop - start, 0)))

    cdef int store_slice(self, object key, object values) except -1:
        cdef bytes data
        start, stop, step = key.indices(self.size)
        count = len(range(start, stop, step))
        if isinstance(values, int):
            raise TypeError("a slice takes a sequence of bytes, not an int")
        # A copy: the sequence may be a view of the same memory.
        data = bytes(list(values))
        if len(data) != count:
            raise ValueError(
                f"{format_count(len(data), 'byte')} do not fit a slice of {format_count(count, 'byte')}: memory "
                f"does not change its size"
            )
        if step == 1:
            self._memory.write(self._base + start, data)
        else:
            for index, value in zip(range(start, stop, step), data):
                self[index] = value
        return 0

    def __iter__(self):
        return map(self.__getitem__, range(self.size))

    def __len__(self):
        return self.size

    def __repr__(self):
        return f"<MemoryView of {format_range(self._base, self._base + self._last_index)}>"

    def __reduce__(self):
        return copyreg.__newobj_ex__, (type(self), (self.manager,), {"base": self.base, "size": self.size})


set_public_name(MemoryView, b"dbs_device.memory.MemoryView")
