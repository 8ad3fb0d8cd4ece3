"""The core for those who cimport it: devices in Cython that read its counters or set its interrupts without the GIL."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dbs_device._bus cimport IoManager, IoTables


# Memory that is accessed directly. Held tables keep it alive.
cdef struct Window:
    uint8_t *memory
    uint32_t base
    uint64_t size  # 0: there is none


# The accesses to a range.
cdef struct Meter:
    uint64_t base
    uint64_t last
    uint64_t loads
    uint64_t stores
    uint64_t ns


cdef class Core:
    cdef object __weakref__
    cdef readonly IoManager manager
    cdef IoTables tables
    cdef Window code
    cdef Window data
    cdef uint32_t device_page  # the last page where an access has not found RAM

    # The hart. In the loop, `next_pc` and `cycles` are up to date while something is called that may look at them.
    cdef uint32_t x[32]
    cdef uint32_t next_pc
    cdef uint64_t cycle_count
    cdef uint64_t trap_count  # instructions that have trapped, and so have not retired
    cdef uint32_t privilege
    cdef uint32_t hart
    cdef uint32_t mstatus, mie, mtvec, mscratch, mepc, mcause, mtval, mcounteren, menvcfg
    cdef uint64_t cycle_offset, retired_offset  # from the counts above to mcycle and minstret
    cdef uint32_t mip  # atomic: any thread sets interrupts
    cdef bint waiting  # in WFI
    cdef bint locked_up
    cdef bint is_reserved
    cdef uint32_t reserved_address, reserved_value
    cdef bint has_time
    cdef uint64_t time_address

    # The loop
    cdef bint running
    cdef uint64_t limit
    cdef uint64_t pause_at  # atomic: where the inner loop is left
    cdef uint32_t stop_requested  # atomic

    cdef readonly object software, timer, external
    cdef readonly uint64_t loads, stores, refreshes
    cdef Meter meters[16]
    cdef uint32_t meter_count

    cdef uint64_t c_cycles(self) noexcept nogil
    cdef void c_set_interrupt(self, uint32_t number, bint level) noexcept nogil
    cdef void c_run_no_further(self, uint64_t cycles) noexcept nogil

    cdef int run_to_limit(self) except -1 nogil
    cdef int execute(self) except -1 nogil
    cdef int refresh(self) except -1 nogil
    cdef bint find_memory(self, Window *window, uint32_t address, uint32_t size, bint writable) noexcept nogil
    cdef int fetch(self, uint32_t *word) except -1 nogil
    cdef int load(self, uint32_t address, uint32_t size, uint32_t *value) except -1 nogil
    cdef int store(self, uint32_t address, uint32_t size, uint32_t value) except -1 nogil
    cdef void measure(self, uint32_t address, bint is_load, uint64_t begin) noexcept nogil
    cdef int execute_atomic(self, uint32_t word) except -1 nogil
    cdef int execute_system(self, uint32_t word) except -1 nogil
    cdef int execute_csr(self, uint32_t word) except -1 nogil
    cdef int read_csr(self, uint32_t number, uint32_t *value) except -1 nogil
    cdef bint write_csr(self, uint32_t number, uint32_t value) noexcept nogil
    cdef int trap(self, uint32_t cause, uint32_t value) noexcept nogil
    cdef void take_interrupt(self, uint32_t pending) noexcept nogil
    cdef void enter_machine_mode(self, uint32_t cause, uint32_t value) noexcept nogil
    cdef void return_from_trap(self) noexcept nogil
    cdef void pause(self) noexcept nogil
