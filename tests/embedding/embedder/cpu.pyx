"""An emulator's CPU loop in Cython, and a device that was moved to Cython because it is hot."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from dbs_device._bus cimport (
    IoManager,
    IoTables,
    NativeDevice,
    c_check_abi,
    c_mmio_load,
    c_mmio_store,
    c_tables_are_current,
)

c_check_abi()


cdef class Registers(NativeDevice):
    """64 bytes of registers, on either bus; the last offset and size are remembered."""

    cdef uint8_t registers[64]
    cdef public uint64_t last_base
    cdef public uint64_t last_offset
    cdef public size_t last_size
    cdef public bint broken  # raises
    cdef public bint faulty  # returns -1 without an exception, against the contract

    cdef int check(self, uint64_t offset, size_t size) except -1 nogil:
        if self.broken or offset > 64 or size > 64 - offset:
            with gil:
                raise ArithmeticError(f"registers {offset:#x}, {size}")
        return 0

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        if self.faulty:
            return -1
        self.check(offset, size)
        self.last_base, self.last_offset, self.last_size = base, offset, size
        memcpy(data, self.registers + offset, size)
        return 0

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        if self.faulty:
            return -1
        self.check(offset, size)
        self.last_base, self.last_offset, self.last_size = base, offset, size
        memcpy(self.registers + offset, data, size)
        return 0

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:  # no-cython-lint
        if self.faulty:
            return -1
        self.check(offset, size)
        data[0] = <uint8_t>(self.registers[offset] ^ 0xFF)
        return 0

    cdef int c_pio_write(  # no-cython-lint
        self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) except -1 nogil:
        if self.faulty:
            return -1
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
