"""The bus for those who cimport it: the one door to everything that is compiled.

Ownership and the GIL
    * An embedder holds an `IoTables` (from `IoManager.tables()`, with the GIL) and dispatches on it without the GIL. It
      holds both range tables, their entries and so their devices, for as long as it lives. Without the GIL nothing can
      take a reference to the tables that a manager has now, which is why a loop must hold its own.
    * A change of the manager makes new tables; the held ones stay as they were. `c_tables_are_current` is one compare:
      when it says no, take the GIL and call `manager.tables()` again.
    * A call on the manager itself (`c_manager_...`) pins its current tables for just that call. The caller holds a
      reference to the manager.
    * For a `NativeDevice` no GIL is taken and no Python object is touched. For a Python device the GIL is taken for the
      time of the call. All functions here may be called with or without the GIL, from any thread.

Results of an access
    0   served.
    1   nobody owns the address, or the access leaves the range that it starts in (unless the manager passes such).
        No device was called and no exception is set. A read or load has the open-bus byte everywhere, else 0.
    -1  an exception is set. A load gives 0; the memory of a read is zero or what the device wrote before it failed. A
        size that is not 1, 2, 4 or 8 (ports: 1, 2, 4; buffers: 0) is a ValueError, and no memory is touched.

Memory
    The memory of a read is zeroed before the device sees it. A native device gets the caller's own memory for the time
    of the call, a Python device a copy, which it may keep.

Stability
    Free functions are checked against their signatures when a module that cimports them is loaded. The virtual method
    tables of classes are not: methods are only ever added at the end, and `ABI_VERSION` (in Python and from
    `c_abi_version`) changes when something else does. Compare it when your module is loaded. Everything that is not
    named in this file is private.
"""

from ._dispatch cimport (
    DBS_DEVICE_ABI_VERSION,
    c_abi_version,
    c_manager_mmio_load,
    c_manager_mmio_read,
    c_manager_mmio_store,
    c_manager_mmio_write,
    c_manager_pio_in,
    c_manager_pio_out,
    c_manager_pio_read,
    c_manager_pio_write,
    c_mmio_load,
    c_mmio_read,
    c_mmio_store,
    c_mmio_write,
    c_pio_in,
    c_pio_out,
    c_pio_read,
    c_pio_write,
    c_tables_are_current,
)
from ._native cimport NativeDevice
from ._owner cimport TablesOwner
from ._tables cimport IoTables


cdef class IoManager(TablesOwner):
    pass
