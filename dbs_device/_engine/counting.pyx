"""Counts of accesses by device: while one is open, each range is served through a native device that counts.

The range tables carry it in the place of the device's own methods. A manager that is not counted has none of it.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from .adapters cimport Inner
from .native cimport NativeDevice
from .platform cimport set_public_name
from .tables cimport RangeEntry, entry_at, slot_of
from .transactions cimport change_counters

from typing import NamedTuple

from ..errors import TransactionError, describe_device, format_count

__all__ = ["AccessCounts", "DeviceCounts"]


cdef extern from * nogil:
    """
    #include <stdatomic.h>
    typedef _Atomic uint64_t tally;
    static inline void tally_add(tally *count, uint64_t number) {
        atomic_fetch_add_explicit(count, number, memory_order_relaxed);
    }
    static inline uint64_t tally_value(tally *count) { return atomic_load_explicit(count, memory_order_relaxed); }
    """
    ctypedef struct tally:
        pass
    void tally_add(tally *count, uint64_t number) noexcept
    uint64_t tally_value(tally *count) noexcept


class DeviceCounts(NamedTuple):
    """The accesses of one device.

    Attributes
    ----------
    device : DeviceIo
        The device.
    name : str or None
        The name that it is registered under, of its first range.
    reads, writes : int
        Accesses.
    bytes_read, bytes_written : int
        Bytes of them.
    """

    device: object
    name: object
    reads: int
    writes: int
    bytes_read: int
    bytes_written: int


DeviceCounts.__module__ = "dbs_device"


@cython.final
@cython.no_gc_clear
cdef class Tally:
    cdef object device
    cdef object name
    cdef tally reads
    cdef tally writes
    cdef tally bytes_read
    cdef tally bytes_written

    cdef object counts(self):
        return DeviceCounts(
            self.device,
            self.name,
            tally_value(&self.reads),
            tally_value(&self.writes),
            tally_value(&self.bytes_read),
            tally_value(&self.bytes_written),
        )


@cython.final
@cython.no_gc_clear
cdef class CountingDevice(NativeDevice):
    """Counts the accesses of one range, and passes them on to its device."""

    cdef Tally tally
    cdef Inner inner
    cdef readonly RangeEntry counted_entry  # with the device's own methods, or those of another count

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        tally_add(&self.tally.reads, 1)
        tally_add(&self.tally.bytes_read, size)
        return self.inner.read(base, offset, data, size)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        tally_add(&self.tally.writes, 1)
        tally_add(&self.tally.bytes_written, size)
        return self.inner.write(base, offset, data, size)

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.c_read(base, offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.c_write(base, offset, data, size)


cdef class AccessCounts:
    """Accesses by device. Made by `IoManager.count`, and open for the time of a `with` block.

    Iterating gives the `DeviceCounts` of each device that was accessed, the most accessed first; ``counts[device]``
    those of one. It can be read while it is open and afterwards, and opened again to go on.
    """

    cdef object _manager
    cdef dict _tallies  # by the id of the device, which they keep alive
    cdef bint _is_open
    cdef object __weakref__

    def __init__(self, manager):
        self._manager = manager
        self._tallies = {}

    def __enter__(self):
        if self._is_open:
            raise TransactionError("the counts are open already")
        change_counters(self._manager, self, True)
        self._is_open = True
        return self

    def __exit__(self, exception_type, exception, traceback):
        change_counters(self._manager, self, False)
        self._is_open = False

    def _interpose(self, RangeEntry entry, bint big_endian):
        """Return an entry like this one, whose accesses are counted."""
        cdef RangeEntry counted = entry_at(entry, entry.base)
        cdef CountingDevice counting = CountingDevice.__new__(CountingDevice)
        counting.tally = self.tally_of(entry)
        counting.counted_entry = entry
        counting.inner = Inner.__new__(Inner)
        counting.inner.entry = entry
        counting.inner.slot = slot_of(entry)
        counting.inner.big_endian = big_endian
        counted.interposed = counting
        return counted

    cdef Tally tally_of(self, RangeEntry entry):
        cdef Tally made = self._tallies.get(id(entry.device))
        if made is None:
            made = Tally.__new__(Tally)
            made.device = entry.device
            made.name = entry.name
            self._tallies[id(entry.device)] = made
        return made

    def __getitem__(self, device):
        cdef Tally found = self._tallies.get(id(device))
        return DeviceCounts(device, None, 0, 0, 0, 0) if found is None else found.counts()

    def __iter__(self):
        cdef Tally each
        rows = [each.counts() for each in list(self._tallies.values())]
        return iter(sorted([row for row in rows if row.reads + row.writes], key=lambda row: -row.reads - row.writes))

    def __len__(self):
        return len(list(iter(self)))

    def __str__(self):
        rows = [("reads", "writes", "bytes read", "bytes written", "device")]
        for row in self:
            counts = [str(each) for each in row[2:]]
            rows.append((*counts, " ".join(describe_device(row.device, row.name).splitlines())))
        widths = [max([len(row[column]) for row in rows]) for column in range(4)]
        return "\n".join([
            "  ".join([f"{cell:>{width}}" for cell, width in zip(row, widths)] + [row[4]]) for row in rows
        ])

    def __repr__(self):
        reads = format_count(sum([row.reads for row in self]), "read")
        writes = format_count(sum([row.writes for row in self]), "write")
        return f"<AccessCounts: {reads}, {writes}{', open' if self._is_open else ''}>"


set_public_name(AccessCounts, b"dbs_device.AccessCounts")
