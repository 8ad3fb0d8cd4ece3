"""An emulator's CPU loop in Cython, and a device that was moved to Cython because it is hot."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from dbs_device._bus cimport (
    DBS_DEVICE_ABI_VERSION,
    IoManager,
    IoTables,
    NativeDevice,
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

if c_abi_version() != DBS_DEVICE_ABI_VERSION:
    raise ImportError(f"built against ABI {DBS_DEVICE_ABI_VERSION} of dbs_device, which now has ABI {c_abi_version()}")


cdef class Registers(NativeDevice):
    """64 bytes of registers, on either bus; the last offset and size are remembered."""

    cdef uint8_t registers[64]
    cdef public uint64_t last_base
    cdef public uint64_t last_offset
    cdef public size_t last_size
    cdef public bint broken

    cdef int check(self, uint64_t offset, size_t size) except -1 nogil:
        if self.broken or offset > 64 or size > 64 - offset:
            with gil:
                raise ArithmeticError(f"registers {offset:#x}, {size}")
        return 0

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        self.check(offset, size)
        self.last_base, self.last_offset, self.last_size = base, offset, size
        memcpy(data, self.registers + offset, size)
        return 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        self.check(offset, size)
        self.last_base, self.last_offset, self.last_size = base, offset, size
        memcpy(self.registers + offset, data, size)
        return 0

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:  # no-cython-lint
        self.check(offset, size)
        data[0] = <uint8_t>(self.registers[offset] ^ 0xFF)
        return 0

    cdef int c_pio_write(  # no-cython-lint
        self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) except -1 nogil:
        self.check(offset, size)
        self.registers[offset] = data[0] ^ 0xFF
        return 0


def count_to(IoManager manager, uint64_t register_address, uint64_t goal):
    """Run a guest loop that increments a register until it holds `goal`; return (accesses, refreshes of the tables)."""
    cdef IoTables tables = manager.tables()
    cdef uint64_t value = 0, accesses = 0, refreshes = 0
    with nogil:
        while value < goal:
            if not c_tables_are_current(manager, tables):
                with gil:
                    tables = manager.tables()
                refreshes += 1
            if c_mmio_load(tables, register_address, 8, &value) != 0:
                break
            value += 1
            if c_mmio_store(tables, register_address, 8, value) != 0:
                break
            accesses += 2
    return accesses, refreshes


def is_current(IoManager manager, IoTables tables):
    return c_tables_are_current(manager, tables)


def on_tables(IoTables tables, str name, uint64_t address, size_t size, uint64_t value=0):
    """Make one access on held tables, without the GIL; return (result, value)."""
    cdef int result = -2
    cdef uint8_t data[64]
    memcpy(data, &value, 8)
    if name == "mmio_load":
        with nogil:
            result = c_mmio_load(tables, address, size, &value)
    elif name == "mmio_store":
        with nogil:
            result = c_mmio_store(tables, address, size, value)
    elif name == "pio_in":
        with nogil:
            result = c_pio_in(tables, address, size, &value)
    elif name == "pio_out":
        with nogil:
            result = c_pio_out(tables, address, size, value)
    elif name == "mmio_read":
        with nogil:
            result = c_mmio_read(tables, address, data, size)
    elif name == "mmio_write":
        with nogil:
            result = c_mmio_write(tables, address, data, size)
    elif name == "pio_read":
        with nogil:
            result = c_pio_read(tables, address, data, size)
    elif name == "pio_write":
        with nogil:
            result = c_pio_write(tables, address, data, size)
    return result, value if name in ("mmio_load", "pio_in") else bytes(data[:size])


def on_manager(IoManager manager, str name, uint64_t address, size_t size, uint64_t value=0):
    """The same on the manager itself."""
    cdef int result = -2
    cdef uint8_t data[64]
    memcpy(data, &value, 8)
    if name == "mmio_load":
        with nogil:
            result = c_manager_mmio_load(manager, address, size, &value)
    elif name == "mmio_store":
        with nogil:
            result = c_manager_mmio_store(manager, address, size, value)
    elif name == "pio_in":
        with nogil:
            result = c_manager_pio_in(manager, address, size, &value)
    elif name == "pio_out":
        with nogil:
            result = c_manager_pio_out(manager, address, size, value)
    elif name == "mmio_read":
        with nogil:
            result = c_manager_mmio_read(manager, address, data, size)
    elif name == "mmio_write":
        with nogil:
            result = c_manager_mmio_write(manager, address, data, size)
    elif name == "pio_read":
        with nogil:
            result = c_manager_pio_read(manager, address, data, size)
    elif name == "pio_write":
        with nogil:
            result = c_manager_pio_write(manager, address, data, size)
    return result, value if name in ("mmio_load", "pio_in") else bytes(data[:size])
