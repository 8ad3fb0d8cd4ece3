"""The changes that a transaction collects for one range table, and the table that they make of it."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from ._tables cimport RangeEntry, RangeTable, Slot, empty_table, last_base_at_or_below, new_table, slot_of

from random import getrandbits


cdef extern from "Python.h":
    PyObject **PySequence_Fast_ITEMS(object tuple_or_list) noexcept


@cython.final
cdef class TableChanges:
    """An immutable table, less some of its ranges, plus added ones.

    The added ranges are kept in a treap: a binary search tree over their bases which is a heap over random priorities,
    so that its expected depth is logarithmic whatever the order of arrival. The table itself is not copied before
    `build`, which is O(ranges); everything else is O(log(ranges)).
    """

    def __cinit__(self):
        self.removed = set()
        self.added = [None]
        self.node_count = 1
        # Not the same each time: a guest that chooses its addresses must not be able to make the tree a list.
        self.random_state = getrandbits(32) | 1

    def __dealloc__(self):
        PyMem_Free(self.nodes)

    # -- what is mapped

    cdef RangeEntry overlapping(self, uint64_t base, uint64_t last):
        """Return an entry that has an address of base..last, or None.

        Ranges do not overlap each other, so that among the added ones only the last to begin at or below `last` can.
        In the table, removed ones are passed over.
        """
        cdef uint32_t node = self.last_node_at_or_below(last)
        cdef size_t index = last_base_at_or_below(&self.table.ranges, last)
        if node != 0 and self.nodes[node].last >= base:
            return <RangeEntry>self.added[node]
        if self.table.ranges.count == 0 or self.table.ranges.bases[index] > last:
            return None
        while self.table.ranges.slots[index].last >= base:
            if not self.is_removed(index):
                return <RangeEntry>self.table.entries[index]
            if index == 0:
                return None
            index -= 1
        return None

    cdef RangeEntry find(self, uint64_t address):
        """Return the entry that owns an address, or None."""
        return self.overlapping(address, address)

    cdef RangeEntry exactly(self, uint64_t base, uint64_t last):
        """Return the entry of just this range, or None."""
        cdef RangeEntry entry = self.find(base)
        if entry is not None and entry.base == base and entry.last == last:
            return entry
        return None

    cdef bint is_removed(self, size_t index) except -1:
        return len(self.removed) != 0 and index in self.removed

    # -- changing it

    cdef int add(self, RangeEntry entry) except -1:
        """Add an entry that overlaps none."""
        cdef uint32_t node = self.node_count
        cdef uint32_t below, above, capacity
        cdef Node *nodes
        if node >= self.node_capacity:
            capacity = max(16, self.node_capacity * 2)
            nodes = <Node *>PyMem_Realloc(self.nodes, capacity * sizeof(Node))
            if nodes == NULL:
                raise MemoryError()
            self.nodes = nodes
            self.node_capacity = capacity
        self.added.append(entry)
        self.node_count += 1
        # xorshift32 (Marsaglia, "Xorshift RNGs", 2003)
        self.random_state ^= self.random_state << 13
        self.random_state ^= self.random_state >> 17
        self.random_state ^= self.random_state << 5
        self.nodes[node] = Node(entry.base, entry.last, self.random_state, 0, 0)
        self.split(self.root, entry.base, &below, &above)
        self.root = self.merge(self.merge(below, node), above)
        return 0

    cdef int remove(self, RangeEntry entry) except -1:
        """Remove an entry that `exactly` has returned."""
        cdef uint32_t node = self.last_node_at_or_below(entry.base)
        cdef uint32_t below, others, above, single
        if node != 0 and self.added[node] is entry:
            self.added[node] = None
            self.split(self.root, entry.base, &below, &others)
            # A range that begins at entry.last + 1 or above; at the very end of the space there is none.
            if entry.last == <uint64_t>-1:
                above = 0
            else:
                self.split(others, entry.last + 1, &single, &above)
            self.root = self.merge(below, above)
        else:
            self.removed.add(last_base_at_or_below(&self.table.ranges, entry.base))
        return 0

    # -- the treap

    cdef uint32_t last_node_at_or_below(self, uint64_t address) noexcept:
        """Return the node with the greatest base that is not above `address`, or 0."""
        cdef uint32_t node = self.root, found = 0
        while node != 0:
            if self.nodes[node].base <= address:
                found = node
                node = self.nodes[node].right
            else:
                node = self.nodes[node].left
        return found

    cdef void split(self, uint32_t root, uint64_t base, uint32_t *below, uint32_t *others) noexcept:
        """Part a tree into the nodes with a base below `base`, and the others."""
        cdef Node *node = &self.nodes[root]
        if root == 0:
            below[0] = others[0] = 0
        elif node.base < base:
            self.split(node.right, base, &node.right, others)
            below[0] = root
        else:
            self.split(node.left, base, below, &node.left)
            others[0] = root

    cdef uint32_t merge(self, uint32_t below, uint32_t above) noexcept:
        """Join two trees, all bases of the first being below those of the second."""
        if below == 0:
            return above
        if above == 0:
            return below
        if self.nodes[below].priority > self.nodes[above].priority:
            self.nodes[below].right = self.merge(self.nodes[below].right, above)
            return below
        self.nodes[above].left = self.merge(below, self.nodes[above].left)
        return above

    cdef int collect(self, uint32_t root, list entries) except -1:
        if root != 0:
            self.collect(self.nodes[root].left, entries)
            entries.append(self.added[root])
            self.collect(self.nodes[root].right, entries)
        return 0

    # -- the outcome

    cdef list added_entries(self):
        """Return the added entries, sorted by base."""
        cdef list entries = []
        self.collect(self.root, entries)
        return entries

    cdef list removed_entries(self):
        """Return the entries of the table that were removed, sorted by base."""
        return [self.table.entries[index] for index in sorted(self.removed)]

    cdef RangeTable build(self):
        """Return the changed table; the same one if nothing has changed."""
        cdef list added = self.added_entries()
        cdef size_t count
        cdef TableWriter writer
        cdef RangeEntry entry
        cdef size_t done = 0, end
        if not added and not self.removed:
            return self.table
        count = self.table.ranges.count + len(added) - len(self.removed)
        if count == 0:
            return empty_table(self.table.ranges.space)
        writer = TableWriter(count, sorted(self.removed))
        writer.source = self.table
        for entry in added:
            end = last_base_at_or_below(&self.table.ranges, entry.base)
            if self.table.ranges.bases[end] <= entry.base and self.table.ranges.count != 0:
                end += 1
            writer.copy_kept(done, end)
            writer.append(entry)
            done = end
        writer.copy_kept(done, self.table.ranges.count)
        return new_table(self.table.ranges.space, count, writer.bases, writer.lasts, writer.slots, writer.entries)


@cython.final
cdef class TableWriter:
    """Fills the memory of a new table from front to back."""

    cdef RangeTable source
    cdef bytes bases
    cdef bytes lasts
    cdef bytes slots
    cdef tuple entries
    cdef size_t written
    cdef list removed
    cdef size_t removed_passed

    def __cinit__(self, size_t count, list removed):
        self.bases = PyBytes_FromStringAndSize(NULL, 8 * count)
        self.lasts = PyBytes_FromStringAndSize(NULL, 8 * count)
        self.slots = PyBytes_FromStringAndSize(NULL, sizeof(Slot) * count)
        self.entries = PyTuple_New(count)
        self.removed = removed

    cdef int append(self, RangeEntry entry) except -1:
        (<uint64_t *>PyBytes_AS_STRING(self.bases))[self.written] = entry.base
        (<uint64_t *>PyBytes_AS_STRING(self.lasts))[self.written] = entry.last
        (<Slot *>PyBytes_AS_STRING(self.slots))[self.written] = slot_of(entry)
        Py_INCREF(entry)  # PyTuple_SET_ITEM takes over a reference
        PyTuple_SET_ITEM(self.entries, self.written, entry)
        self.written += 1
        return 0

    cdef int copy_kept(self, size_t begin, size_t end) except -1:
        """Copy the ranges begin..end - 1 of the source that are not removed."""
        cdef size_t removed
        while self.removed_passed < <size_t>len(self.removed):
            removed = self.removed[self.removed_passed]
            if removed >= end:
                break
            self.copy(begin, removed)
            begin = removed + 1
            self.removed_passed += 1
        self.copy(begin, end)
        return 0

    cdef void copy(self, size_t begin, size_t end) noexcept:
        cdef const Slot *slot = self.source.ranges.slots + begin
        cdef const Slot *slot_end = self.source.ranges.slots + end
        cdef PyObject **entry = PySequence_Fast_ITEMS(self.source.entries) + begin
        cdef uint64_t *last = <uint64_t *>PyBytes_AS_STRING(self.lasts) + self.written
        memcpy(PyBytes_AS_STRING(self.bases) + 8 * self.written, self.source.ranges.bases + begin, 8 * (end - begin))
        memcpy(
            PyBytes_AS_STRING(self.slots) + sizeof(Slot) * self.written, slot, sizeof(Slot) * (end - begin)
        )
        while slot < slot_end:
            last[0] = slot.last
            last += 1
            Py_INCREF(<object>entry[0])
            PyTuple_SET_ITEM(self.entries, self.written, <object>entry[0])
            entry += 1
            self.written += 1
            slot += 1


cdef TableChanges changes_of(RangeTable table):
    """Begin to collect changes of `table`."""
    cdef TableChanges changes = TableChanges.__new__(TableChanges)
    changes.table = table
    return changes
