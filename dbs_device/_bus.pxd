"""The bus for those who cimport it: the one door to everything that is compiled.

Classes
    `IoManager` and `IoTables` are opaque. `NativeDevice` is subclassed: override the C methods that the device needs.

Ownership and the GIL
    * An embedder holds an `IoTables` (from `IoManager.tables()`, with the GIL) and dispatches on it without the GIL. It
      holds both range tables, their entries and so their devices, for as long as it lives. Without the GIL nothing can
      take a reference to the tables that a manager has now, which is why a loop must hold its own.
    * A change of the manager makes new tables; the held ones do not change. `c_tables_are_current` is one comparison:
      when it is false, take the GIL and call `manager.tables()` again.
    * A call on the manager itself (`c_manager_...`) pins its current tables for that call only. The caller holds a
      reference to the manager.
    * For a `NativeDevice` no GIL is taken and no Python object is touched. For a Python device the GIL is taken for the
      time of the call, as it is for an unowned access that is logged (`IoManager(log_unowned=True)`). All functions
      here may be called with or without the GIL, from any thread.

Results of an access
    0   served.
    1   unowned: no range has the address, or the access leaves the range that it starts in (unless the manager passes
        such accesses). No device was called and no exception is set. A read or load gives the open-bus byte in every
        place, or 0.
    -1  an exception is set. A load gives 0; the memory of a read is zero or what the device wrote before it failed. A
        size other than 1, 2, 4 or 8 (ports: 1, 2, 4; buffers: at least 1) is a ValueError, and no memory is touched. A
        native device that returns -1 without an exception is a SystemError.

Threads that Python does not know
    The functions work there too. A thread that makes more than a few accesses should have a Python thread state for as
    long as it runs. In Cython, its outermost function is `with gil`, and releases the GIL inside:

        cdef void *run_cpu(void *argument) noexcept with gil:
            with nogil:
                ...  # the loop

    In C: `PyGILState_Ensure` and `PyEval_SaveThread`, and at its end `PyEval_RestoreThread` and `PyGILState_Release`.
    Otherwise CPython makes a thread state for each call of a Python device, and
    * when -1 is returned, the thread keeps the state in which the exception is set, so that the caller finds it with
      the GIL. That state is not freed when the thread ends;
    * a native device must not raise: the end of its `with gil` block deletes the exception with the thread state. The
      access then fails with a `SystemError`, or the process crashes (CPython 3.12 and later, in the traceback that
      Cython adds).

Memory
    The memory of a read is zeroed before the device sees it. A native device gets the caller's own memory for the time
    of the call, a Python device a copy, which it may keep.

Stability
    A module that cimports this file imports `dbs_device`, `dbs_device._bus` and `dbs_device._engine.native`, and no
    others. Everything that is not named in this file is private.

    Call `c_check_abi()` when your module is imported. Cython checks the signatures of the functions then, but neither
    the methods of `NativeDevice` nor the layout of the classes. As long as `ABI_VERSION` is the same, functions are
    added, and nothing else changes. Not even a method at the end of `NativeDevice`, which would take the place of the
    first one that a subclass adds.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._engine.native cimport NativeDevice


cdef extern from *:
    # Its layout is the engine's own. It is taken from the package, where its name is public.
    ctypedef class dbs_device.IoTables [object PyObject, check_size ignore]:
        pass


cdef class IoManager:
    cdef object __weakref__
    cdef readonly object _published


cdef enum:
    DBS_DEVICE_ABI_VERSION = 1  # the version of this file; c_abi_version() is that of the package that is loaded


cdef uint32_t c_abi_version() noexcept nogil


cdef inline int c_check_abi() except -1:
    """Raise `ImportError` unless the loaded package has the binary interface that this file declares."""
    if c_abi_version() != DBS_DEVICE_ABI_VERSION:
        raise ImportError(
            f"built against version {DBS_DEVICE_ABI_VERSION} of the C interface of dbs_device; "
            f"the installed package has version {c_abi_version()}: rebuild"
        )
    return 0


# Whether `tables`, which came from `manager`, are still current.
cdef bint c_tables_are_current(IoManager manager, IoTables tables) noexcept nogil

# Accesses on held tables.
cdef int c_mmio_load(IoTables tables, uint64_t address, size_t size, uint64_t *value) except -1 nogil
cdef int c_mmio_store(IoTables tables, uint64_t address, size_t size, uint64_t value) except -1 nogil
cdef int c_mmio_read(IoTables tables, uint64_t address, uint8_t *data, size_t size) except -1 nogil
cdef int c_mmio_write(IoTables tables, uint64_t address, const uint8_t *data, size_t size) except -1 nogil
cdef int c_pio_in(IoTables tables, uint64_t port, size_t size, uint64_t *value) except -1 nogil
cdef int c_pio_out(IoTables tables, uint64_t port, size_t size, uint64_t value) except -1 nogil
cdef int c_pio_read(IoTables tables, uint64_t port, uint8_t *data, size_t size) except -1 nogil
cdef int c_pio_write(IoTables tables, uint64_t port, const uint8_t *data, size_t size) except -1 nogil

# The host's memory behind an address of the MMIO space, for an emulator that reads and writes RAM without the bus.
# Returns DBS_DEVICE_RAM, DBS_DEVICE_ROM (a write must go through the bus), or 0: `pointer` is then NULL. Otherwise it
# is that of the byte at `address`, and the memory is in one piece up to the address `last`, inclusive. It is valid as
# long as the tables are held, and it is what the guest has mapped as long as they are current.
cdef enum:
    DBS_DEVICE_RAM = 1
    DBS_DEVICE_ROM = 2

cdef int c_ram_at(IoTables tables, uint64_t address, uint8_t **pointer, uint64_t *last) noexcept nogil

# Strings: `count` items of `size` bytes of one port, as REP INS and REP OUTS access it. There is one look-up, and for a
# Python device the GIL is taken once. The first `done` items have been made before. Each item is an access of its own:
# a handler may change the map, and the next item goes by the new one. The result is
#   0   `done` is `count`; or at least one more item was done, and the tables are no longer current: take the manager's
#       new ones, and call again.
#   1   item number `done` is unowned. To go on behind it (an open bus), count it yourself, and call again.
#   -1  the device has failed in item number `done`; or ValueError, as above.
# `tables` came from `manager`.
cdef int c_pio_in_string(
    IoManager manager, IoTables tables, uint64_t port, size_t size, uint8_t *data, size_t count, size_t *done
) except -1 nogil
cdef int c_pio_out_string(
    IoManager manager, IoTables tables, uint64_t port, size_t size, const uint8_t *data, size_t count, size_t *done
) except -1 nogil

# What the methods of `IoManager` do when the result of an access is 1: nothing (0) where the bus is open, else -1 with
# the `NoDeviceError`. Call it with the tables, address and size of the access.
cdef int c_mmio_unowned(IoTables tables, uint64_t address, size_t size) except -1 nogil
cdef int c_pio_unowned(IoTables tables, uint64_t port, size_t size) except -1 nogil

# The accesses on the tables that the manager has at the moment of the call.
cdef int c_manager_mmio_load(IoManager manager, uint64_t address, size_t size, uint64_t *value) except -1 nogil
cdef int c_manager_mmio_store(IoManager manager, uint64_t address, size_t size, uint64_t value) except -1 nogil
cdef int c_manager_mmio_read(IoManager manager, uint64_t address, uint8_t *data, size_t size) except -1 nogil
cdef int c_manager_mmio_write(IoManager manager, uint64_t address, const uint8_t *data, size_t size) except -1 nogil
cdef int c_manager_pio_in(IoManager manager, uint64_t port, size_t size, uint64_t *value) except -1 nogil
cdef int c_manager_pio_out(IoManager manager, uint64_t port, size_t size, uint64_t value) except -1 nogil
cdef int c_manager_pio_read(IoManager manager, uint64_t port, uint8_t *data, size_t size) except -1 nogil
cdef int c_manager_pio_write(IoManager manager, uint64_t port, const uint8_t *data, size_t size) except -1 nogil

# Append an access that was served to a `dbs_device.trace.TraceRecorder`, if it is enabled: the value that was read or
# written, of 1 to 8 bytes. -1 and an exception if it is not a recorder, if the size or the port does not exist, or
# without memory.
cdef int c_record(
    object recorder, bint is_mmio, bint is_write, uint64_t address, size_t size, uint64_t value
) except -1 nogil
