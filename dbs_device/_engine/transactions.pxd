cimport cython
from libc.stdint cimport uint32_t, uint64_t

from .platform cimport dbs_word
from .tables cimport PublishedTables, RangeEntry, RangeTable, SpaceId


cdef class ManagerState(PublishedTables):
    cdef object writer_lock
    cdef dbs_word writer  # identity of the thread whose transaction is open, or 0
    cdef object thread_exit_guard
    cdef dict callbacks
    cdef tuple counters  # the open AccessCounts


cdef struct Node:
    uint64_t base
    uint64_t last
    uint32_t priority
    uint32_t left  # 0: none
    uint32_t right


@cython.final
cdef class TableChanges:
    cdef RangeTable table
    cdef set removed  # indices of ranges of `table`
    cdef Node *nodes  # the treap of added ranges; node 0 is unused
    cdef uint32_t node_count
    cdef uint32_t node_capacity
    cdef uint32_t root
    cdef uint32_t random_state
    cdef list added  # at the index of a node, its RangeEntry, or None once it is removed again

    cdef RangeEntry overlapping(self, uint64_t base, uint64_t last)
    cdef RangeEntry find(self, uint64_t address)
    cdef RangeEntry exactly(self, uint64_t base, uint64_t last)
    cdef int add(self, RangeEntry entry) except -1
    cdef int remove(self, RangeEntry entry) except -1
    cdef list added_entries(self)
    cdef list removed_entries(self)
    cdef RangeTable build(self)
    cdef uint32_t last_node_at_or_below(self, uint64_t address) noexcept
    cdef void split(self, uint32_t root, uint64_t base, uint32_t *below, uint32_t *others) noexcept
    cdef uint32_t merge(self, uint32_t below, uint32_t above) noexcept
    cdef int collect(self, uint32_t root, list entries) except -1
    cdef bint is_removed(self, size_t index) except -1


@cython.final
cdef class Transaction:
    cdef object __weakref__
    cdef object _manager
    cdef ManagerState _state
    cdef TableChanges _pio
    cdef TableChanges _mmio
    cdef unsigned long _thread
    cdef bint _open

    cdef int check_open(self) except -1
    cdef int finish(self) except -1
    cdef void forget_changes(self) noexcept
    cdef bint is_big_endian(self) except -1
    cdef int release_writer_lock(self) except -1
    cdef TableChanges changes(self, SpaceId space)
    cdef int add_entries(self, list entries) except -1
    cdef int remove_ranges(self, tuple ranges_to_remove) except -1


cdef Transaction begin_transaction(object manager)
cdef list new_entries(object manager, object device, object resources, object name)
cdef tuple ranges_to_remove(object resources)
cdef RangeTable background_table(object device, bint big_endian)
cdef RangeTable counted_table(RangeTable table, tuple counters, bint big_endian)
cdef int change_counters(object manager, object counter, bint is_opened) except -1
