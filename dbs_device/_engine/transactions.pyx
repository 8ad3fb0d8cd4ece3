"""Changes of an `IoManager`: a transaction collects them, builds new tables, and publishes these."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from .access cimport address_of
from .adapters cimport is_memory, prepare
from .memory cimport HostMemory
from .platform cimport dbs_word_load, dbs_word_store, set_public_name
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    PublishedTables,
    RangeEntry,
    RangeTable,
    Slot,
    SpaceId,
    check_device,
    current_tables,
    empty_table,
    last_base_at_or_below,
    mapped_ranges,
    new_entry,
    new_table,
    published_tables_of,
    slot_of,
    space_id_of,
    space_of,
    table_of_one,
    warn_if_unhandled,
)

import gc
import threading
import weakref
from random import getrandbits

from ..errors import (
    DeviceOverlapError,
    InvalidRangeError,
    NoDeviceError,
    TransactionError,
    describe_device,
)
from .address_map import memory_ranges, trapped_ranges

__all__ = ["Transaction"]


cdef extern from "Python.h":
    PyObject **PySequence_Fast_ITEMS(object tuple_or_list) noexcept


# ----------------------------------------------------------------------------- the changes of one table


@cython.final
cdef class TableChanges:
    """An immutable table, with some of its ranges removed and others added.

    The added ranges are in a treap: a binary search tree over their bases that is a heap over random priorities, so
    that its expected depth is logarithmic whatever the order of insertion. The table is not copied before `build`,
    which is O(ranges); everything else is O(log(ranges)).
    """

    def __cinit__(self):
        self.removed = set()
        self.added = [None]
        self.node_count = 1
        # Unpredictable: a guest that chooses addresses must not be able to degrade the tree to a list.
        self.random_state = getrandbits(32) | 1

    def __dealloc__(self):
        PyMem_Free(self.nodes)

    # -- look-up

    cdef RangeEntry overlapping(self, uint64_t base, uint64_t last):
        """Return an entry that has an address of base..last, or None.

        Ranges do not overlap each other, so that among the added ones only the last to begin at or below `last` can.
        Removed ranges of the table are skipped.
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
        """Return the entry of exactly this range, or None."""
        cdef RangeEntry entry = self.find(base)
        if entry is not None and entry.base == base and entry.last == last:
            return entry
        return None

    cdef bint is_removed(self, size_t index) except -1:
        return len(self.removed) != 0 and index in self.removed

    # -- changes

    cdef int add(self, RangeEntry entry) except -1:
        """Add an entry that overlaps no other."""
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
            # Ranges above begin at entry.last + 1 at the earliest; at the very end of the space there are none.
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
        """Split a tree into the nodes with a base below `base`, and the others."""
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
        """Merge two trees; all bases of the first are below those of the second."""
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

    # -- results

    cdef list added_entries(self):
        """Return the added entries, sorted by base."""
        cdef list entries = []
        self.collect(self.root, entries)
        return entries

    cdef list removed_entries(self):
        """Return the entries of the table that were removed, sorted by base."""
        return [self.table.entries[index] for index in sorted(self.removed)]

    cdef RangeTable build(self):
        """Return the changed table, or the same one if nothing has changed."""
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
    """Return an empty set of changes of `table`."""
    cdef TableChanges changes = TableChanges.__new__(TableChanges)
    changes.table = table
    return changes


# ----------------------------------------------------------------------------- transactions


cdef class ManagerState(PublishedTables):
    """The state of an `IoManager`: its tables, the lock of its writers, and the callbacks of `on_change`."""

    def __cinit__(self):
        self.writer_lock = threading.Lock()
        self.thread_exit_guard = threading.local()
        self.callbacks = {}
        self.counters = ()


cdef list new_entries(object manager, object device, object resources, object name):
    """Check a registration and return its entries. Handlers are looked up here, without a lock held."""
    cdef PublishedTables published = published_tables_of(manager)
    cdef IoTables tables
    cdef list entries, ranges
    check_device(device)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {type(name).__name__}")
    ranges = trapped_ranges(resources, is_memory(device))
    tables = current_tables(<PyObject *>published)
    prepare(device, ranges, tables.options.big_endian)
    entries = [new_entry(<SpaceId><int>space, base, last, device, name) for space, base, last in ranges]
    warn_if_unhandled(entries)
    return entries


cdef RangeTable background_table(object device, bint big_endian):
    """Return the table of the device behind all ranges: it is called for the whole space, memory for its size."""
    cdef uint64_t last = <uint64_t>-1
    cdef list entries
    check_device(device)
    if isinstance(device, HostMemory):
        if device.size == 0:
            raise InvalidRangeError(f"{describe_device(device)} has no memory")
        last = device.size - 1
    prepare(device, [(space_of(MMIO), 0, last)], big_endian)
    entries = [new_entry(MMIO, 0, last, device, "background")]
    warn_if_unhandled(entries)
    return table_of_one(entries[0])


cdef tuple ranges_to_remove(object resources):
    """Return the PIO and MMIO ranges among resources to be unregistered, and the (base, last) of those of memory."""
    resources = list(resources)
    return trapped_ranges(resources), memory_ranges(resources)


cdef int acquire_writer_lock(ManagerState state) except -1:
    """Wait until no other thread has a transaction open.

    One that was dropped in a reference cycle is open until the garbage collector runs, for which threads that wait give
    no cause: so they run it themselves, less and less often.
    """
    cdef double patience = 0.05  # seconds
    if state.writer_lock.acquire(False):
        return 0
    while not state.writer_lock.acquire(timeout=patience):
        gc.collect()
        patience *= 2
    return 0


cdef Transaction begin_transaction(object manager):
    """Take the writer lock and begin to collect changes: see `IoManager.begin_tx`."""
    cdef ManagerState state = published_tables_of(manager)
    cdef unsigned long thread = <unsigned long>PyThread_get_thread_ident()
    cdef Transaction transaction
    cdef CancelAtThreadExit guard
    cdef IoTables tables
    if dbs_word_load(&state.writer) == thread:
        gc.collect()  # it may have been dropped, in a reference cycle
    if dbs_word_load(&state.writer) == thread:
        raise TransactionError(
            "this thread has a transaction open on this IoManager: make the change in it, or finish it first"
        )
    transaction = Transaction.__new__(Transaction)
    guard = CancelAtThreadExit.__new__(CancelAtThreadExit)
    guard.transaction = weakref.ref(transaction)
    acquire_writer_lock(state)
    dbs_word_store(&state.writer, thread)
    transaction._manager = manager
    transaction._state = state
    transaction._thread = thread
    transaction._open = True
    tables = current_tables(<PyObject *>state)
    transaction._pio = changes_of(tables.pio)
    transaction._mmio = changes_of(tables.mmio)
    state.thread_exit_guard.guard = guard
    return transaction


@cython.final
cdef class CancelAtThreadExit:
    """Cancels a transaction when its thread ends: it is in thread-local storage, and is destroyed with it."""

    cdef object transaction

    def __del__(self):
        cdef Transaction transaction = self.transaction()
        if transaction is not None and transaction._open:
            transaction.finish()


@cython.final
cdef class Transaction:
    """Changes of an `IoManager` that take effect together. Made by `IoManager.begin_tx`.

    While it is open, no other thread can change the manager, and accesses use the ranges from before. It is used on the
    thread that began it. As a context manager, it commits at the end of the block, and cancels if the block raises.
    """

    def __init__(self):
        raise TypeError("a Transaction is made by IoManager.begin_tx()")

    def __del__(self):
        if self._open:
            self.finish()

    @property
    def manager(self):
        """IoManager : the manager that the transaction changes."""
        return self._manager

    cdef int check_open(self) except -1:
        if self._thread != <unsigned long>PyThread_get_thread_ident():
            raise TransactionError("the transaction belongs to another thread")
        if not self._open:
            raise TransactionError("the transaction is finished")
        return 0

    cdef int finish(self) except -1:
        """Drop the changes. Called on the thread that began it, or when that thread or the transaction ends."""
        self._open = False
        self.release_writer_lock()
        self.forget_changes()
        return 0

    cdef void forget_changes(self) noexcept:
        """Release the devices: a finished transaction keeps none alive."""
        self._pio = None
        self._mmio = None

    cdef bint is_big_endian(self) except -1:
        return current_tables(<PyObject *>self._state).options.big_endian

    cdef int release_writer_lock(self) except -1:
        dbs_word_store(&self._state.writer, 0)
        self._state.writer_lock.release()
        return 0

    cdef TableChanges changes(self, SpaceId space):
        return self._pio if space == PIO else self._mmio

    cdef int add_entries(self, list entries) except -1:
        """Add all entries or none."""
        cdef RangeEntry entry, other
        cdef TableChanges changes
        cdef list added = []
        for entry in entries:
            if self._state.counters:
                entry = counted_entry(entry, self._state.counters, self.is_big_endian())
            changes = self.changes(entry.space)
            other = changes.overlapping(entry.base, entry.last)
            if other is not None:
                for done in added:
                    self.changes((<RangeEntry>done).space).remove(done)
                raise DeviceOverlapError(
                    space_of(entry.space),
                    entry.base,
                    entry.last,
                    entry.device,
                    other.base,
                    other.last,
                    other.device,
                    entry.name,
                    other.name,
                )
            changes.add(entry)
            added.append(entry)
        return 0

    cdef int remove_ranges(self, tuple ranges_to_remove) except -1:
        """Remove the entries of all ranges or of none. Where no memory is mapped, ranges of memory are passed over."""
        cdef RangeEntry entry
        cdef TableChanges changes
        cdef set entries = set()
        ranges, memory = ranges_to_remove
        for base, last in memory:
            entry = self._mmio.exactly(base, last)
            if entry is not None and is_memory(entry.device):
                entries.add(entry)
        for space, base, last in ranges:
            changes = self.changes(<SpaceId><int>space)
            entry = changes.exactly(base, last)
            if entry is None or entry in entries:
                entry = None if entry is not None else changes.overlapping(base, last)
                if entry is None:
                    raise NoDeviceError(space, base, last - base + 1, exact=True)
                owner = (entry.base, entry.last, entry.device)
                raise NoDeviceError(space, base, last - base + 1, owner, exact=True, owner_name=entry.name)
            entries.add(entry)
        for entry in entries:
            self.changes(entry.space).remove(entry)
        return 0

    def register_device_io(self, device, resources, name=None):
        """Map a device to the PIO and MMIO ranges among some resources, when the transaction is committed.

        The device's handlers are looked up, and overlaps detected, now. If it raises, this call has no effect; the
        transaction stays open. O(log(ranges)) for each range.

        Parameters
        ----------
        device : DeviceIo
            The device.
        resources : iterable of Resource
            Those other than PIO and MMIO ranges are ignored. Memory (`dbs_device.memory.Ram` and `Rom`) is also mapped
            to `MemAddressRange` resources.
        name : str, optional
            The device's name in the map, errors, notes and traces.

        Raises
        ------
        DeviceOverlapError
            A range overlaps one that is registered or was added before, or another one of `resources`.
        InvalidRangeError
            A range is empty, runs past the end of its space, or is larger than the memory to be mapped there.
        TransactionError
            The transaction is finished, or belongs to another thread.
        TypeError
            `device` is not a `DeviceIo` (wrap a `DeviceIoMut` in `Mutex`), `resources` holds something other than
            resources, or `name` is not a str.
        ValueError
            The device's `byteorder` is not "little", "big" or None.

        Warns
        -----
        UnhandledSpaceWarning
            The device's class has no handler for the space of a range. Once for each class.
        """
        self.check_open()
        entries = new_entries(self._manager, device, resources, name)
        self.check_open()  # again: the resources may be a generator, which can have finished the transaction
        self.add_entries(entries)

    def unregister_device_io(self, resources):
        """Unmap the PIO and MMIO ranges among some resources, when the transaction is committed.

        If it raises, this call has no effect; the transaction stays open. O(log(ranges)) for each range.

        Parameters
        ----------
        resources : iterable of Resource
            Each range must be registered, or added in this transaction, with the same base and size. A
            `MemAddressRange` unmaps memory that is registered with this base and size, and is ignored otherwise, as
            all other resources are.

        Raises
        ------
        NoDeviceError
            A range is not registered, or is given twice.
        InvalidRangeError
            A range is empty, or runs past the end of its space.
        TransactionError
            The transaction is finished, or belongs to another thread.
        TypeError
            `resources` holds something other than resources.
        """
        self.check_open()
        ranges = ranges_to_remove(resources)
        self.check_open()
        self.remove_ranges(ranges)

    def find(self, space, addr):
        """Return the device that will own an address when the transaction is committed. O(log(ranges)).

        Parameters
        ----------
        space : Space or {"MMIO", "PIO"}
            The space of the address.
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
        TransactionError
            The transaction is finished, or belongs to another thread.
        TypeError
            `addr` is not an integer.
        ValueError
            `space` is not a space.
        """
        cdef SpaceId space_id = space_id_of(space)
        cdef RangeEntry entry
        self.check_open()
        entry = self.changes(space_id).find(address_of(addr, space_id))
        return None if entry is None else entry.device

    def commit(self):
        """Apply all changes at once, in both spaces, and finish the transaction. O(ranges).

        The callbacks of `IoManager.on_change` are called afterwards, when other threads may change the map again.

        Raises
        ------
        TransactionError
            The transaction is finished, or belongs to another thread.
        BaseException
            Whatever a callback of `on_change` raised, or a `BaseExceptionGroup` if several did. The changes stand.
        """
        cdef IoTables tables
        cdef RangeTable pio, mmio
        self.check_open()
        self._open = False  # now: the garbage collector may run a finalizer that uses this transaction
        try:
            tables = current_tables(<PyObject *>self._state)
            pio = self._pio.build()
            mmio = self._mmio.build()
            is_change = pio is not tables.pio or mmio is not tables.mmio
            if is_change:
                self._state.publish(pio, mmio, tables.background, tables.options)
        finally:
            self.release_writer_lock()
        try:
            if is_change and self._state.callbacks:
                notify(self._state, self)
        finally:
            self.forget_changes()

    def cancel(self):
        """Drop all changes, and finish the transaction.

        Raises
        ------
        TransactionError
            The transaction is finished, or belongs to another thread.
        """
        self.check_open()
        self.finish()

    def __enter__(self):
        self.check_open()
        return self

    def __exit__(self, exception_type, exception, traceback):
        if not self._open:
            return
        if exception_type is None:
            self.commit()
        else:
            self.cancel()


# ----------------------------------------------------------------------------- counts of accesses


cdef RangeEntry counted_entry(RangeEntry entry, tuple counters, bint big_endian):
    """Return an entry that is served through these counters and no others."""
    while entry.interposed is not None:
        entry = entry.interposed.counted_entry
    for counter in counters:
        entry = counter._interpose(entry, big_endian)
    return entry


cdef RangeTable counted_table(RangeTable table, tuple counters, bint big_endian):
    cdef TableWriter writer
    cdef RangeEntry entry
    if not table.entries:
        return table
    writer = TableWriter(table.ranges.count, [])
    for entry in table.entries:
        writer.append(counted_entry(entry, counters, big_endian))
    return new_table(
        table.ranges.space, table.ranges.count, writer.bases, writer.lasts, writer.slots, writer.entries
    )


cdef int change_counters(object manager, object counter, bint is_opened) except -1:
    """Publish tables whose accesses a counter counts, or no longer counts. The map stays as it is."""
    cdef Transaction transaction = begin_transaction(manager)
    cdef ManagerState state = transaction._state
    cdef IoTables tables
    cdef tuple counters
    cdef bint big_endian
    try:
        tables = current_tables(<PyObject *>state)
        big_endian = tables.options.big_endian
        counters = tuple([each for each in state.counters if each is not counter])
        if is_opened:
            counters += (counter,)
        state.publish(
            counted_table(tables.pio, counters, big_endian),
            counted_table(tables.mmio, counters, big_endian),
            counted_table(tables.background, counters, big_endian),
            tables.options,
        )
        state.counters = counters
    finally:
        transaction.finish()
    return 0


cdef int notify(ManagerState state, Transaction transaction) except -1:
    """Call all callbacks with the changes of a transaction."""
    cdef list errors = []
    added = mapped_ranges(transaction._mmio.added_entries() + transaction._pio.added_entries())
    removed = mapped_ranges(transaction._mmio.removed_entries() + transaction._pio.removed_entries())
    for token, reference in list(state.callbacks.items()):
        if token not in state.callbacks:
            continue  # unsubscribed by an earlier callback
        callback = reference()
        if callback is None:
            state.callbacks.pop(token, None)
            continue
        try:
            callback(added, removed)
        except BaseException as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("callbacks of IoManager.on_change failed", errors)
    return 0


set_public_name(Transaction, b"dbs_device.Transaction")
