# cython: cdivision=True
"""An RV32IMA core with machine and user mode, on the bus of dbs-device.

The instruction loop runs without the GIL. It accesses RAM directly, and everything else by way of the bus.

Left out: compressed instructions, physical memory protection, debug and trigger registers.
Source: The RISC-V Instruction Set Manual, Volume I (20191213) and Volume II (20211203).
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from dbs_device._bus cimport (
    IoManager,
    c_check_abi,
    c_mmio_load,
    c_mmio_store,
    c_ram_at,
    c_tables_are_current,
    DBS_DEVICE_RAM,
)

from .isa cimport (
    AMO,
    AMOADD,
    AMOAND,
    AMOMAX,
    AMOMAXU,
    AMOMIN,
    AMOMINU,
    AMOOR,
    AMOSWAP,
    AMOXOR,
    AUIPC,
    BRANCH,
    BREAKPOINT,
    CSR_CYCLE,
    CSR_CYCLEH,
    CSR_INSTRET,
    CSR_INSTRETH,
    CSR_MCAUSE,
    CSR_MCONFIGPTR,
    CSR_MCOUNTEREN,
    CSR_MCOUNTINHIBIT,
    CSR_MCYCLE,
    CSR_MCYCLEH,
    CSR_MENVCFG,
    CSR_MENVCFGH,
    CSR_MEPC,
    CSR_MHARTID,
    CSR_MHPMCOUNTER3,
    CSR_MHPMCOUNTER31,
    CSR_MHPMCOUNTER31H,
    CSR_MHPMCOUNTER3H,
    CSR_MHPMEVENT3,
    CSR_MHPMEVENT31,
    CSR_MIE,
    CSR_MIMPID,
    CSR_MINSTRET,
    CSR_MINSTRETH,
    CSR_MIP,
    CSR_MISA,
    CSR_MSCRATCH,
    CSR_MSTATUS,
    CSR_MSTATUSH,
    CSR_MTVAL,
    CSR_MTVEC,
    CSR_MVENDORID,
    CSR_TIME,
    CSR_TIMEH,
    EBREAK,
    ECALL,
    ECALL_FROM_MACHINE,
    ECALL_FROM_USER,
    EXTERNAL_INTERRUPT,
    ILLEGAL_INSTRUCTION,
    INSTRUCTION_ACCESS_FAULT,
    INSTRUCTION_MISALIGNED,
    INTERRUPTS,
    JAL,
    JALR,
    LOAD,
    LOAD_ACCESS_FAULT,
    LOAD_MISALIGNED,
    LR,
    LUI,
    MACHINE,
    MIE,
    MISC_MEM,
    MPIE,
    MPP,
    MPP_SHIFT,
    MPRV,
    MRET,
    OP,
    OP_IMM,
    SC,
    SOFTWARE_INTERRUPT,
    STORE,
    STORE_ACCESS_FAULT,
    STORE_MISALIGNED,
    SYSTEM,
    TIMER_INTERRUPT,
    TW,
    USER,
    WFI,
)

import enum
import functools
import sys
from collections.abc import Mapping

from dbs_device.errors import StateError
from dbs_device.interrupts import IrqLine

__all__ = ["Core", "Stop"]

c_check_abi()
if sys.byteorder != "little":
    raise ImportError("rv32 copies integers between registers and RAM: it needs a little-endian host")

cdef extern from * nogil:
    """
    /* Other threads write these while the loop runs. */
    #define relaxed_load(pointer) __atomic_load_n(pointer, __ATOMIC_RELAXED)
    #define ordered_load(pointer) __atomic_load_n(pointer, __ATOMIC_SEQ_CST)
    #define ordered_store(pointer, value) __atomic_store_n(pointer, value, __ATOMIC_SEQ_CST)
    #define set_bits(pointer, bits) __atomic_fetch_or(pointer, bits, __ATOMIC_SEQ_CST)
    #define clear_bits(pointer, bits) __atomic_fetch_and(pointer, ~(uint32_t)(bits), __ATOMIC_SEQ_CST)

    #include <time.h>
    static uint64_t monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    """
    uint64_t relaxed_load(uint64_t *pointer)
    uint32_t ordered_load(uint32_t *pointer)
    void ordered_store(uint64_t *pointer, uint64_t value)
    void set_bits(uint32_t *pointer, uint32_t bits)
    void clear_bits(uint32_t *pointer, uint32_t bits)
    uint64_t monotonic_ns()


cdef uint32_t INTERRUPT = 0x80000000  # mcause
cdef uint32_t MISA = 1 << 30 | 1 << 20 | 1 << 12 | 1 << 8 | 1 << 0  # 32 bits; U, M, I, A

cdef dict CSR_NUMBERS = {
    "mstatus": CSR_MSTATUS, "misa": CSR_MISA, "mie": CSR_MIE, "mtvec": CSR_MTVEC, "mcounteren": CSR_MCOUNTEREN,
    "menvcfg": CSR_MENVCFG, "mscratch": CSR_MSCRATCH, "mepc": CSR_MEPC, "mcause": CSR_MCAUSE, "mtval": CSR_MTVAL,
    "mip": CSR_MIP, "mcycle": CSR_MCYCLE, "mcycleh": CSR_MCYCLEH, "minstret": CSR_MINSTRET,
    "minstreth": CSR_MINSTRETH, "mhartid": CSR_MHARTID, "time": CSR_TIME, "timeh": CSR_TIMEH,
}

cdef object WORD_END = 0x100000000, COUNT_END = 0x10000000000000000

cdef enum:
    METERS = 16
    PAGE_SHIFT = 12
    NO_PAGE = 0xFFFFFFFF  # the numbers of pages have 20 bits

# What the loop's slow paths return, where they do not raise
cdef enum:
    SERVED = 0
    TRAPPED = 1  # `next_pc` is the trap handler

cdef enum:
    STOP_LIMIT = 0
    STOP_WAITING = 1
    STOP_REQUESTED = 2
    STOP_LOCKED_UP = 3


class Stop(enum.Enum):
    """Why `Core.run` has returned."""

    LIMIT = STOP_LIMIT  #: The limit is reached.
    WAITING = STOP_WAITING  #: In WFI: nothing happens before an interrupt that is enabled in mie is pending.
    REQUESTED = STOP_REQUESTED  #: `Core.stop` was called.
    LOCKED_UP = STOP_LOCKED_UP  #: The trap handler is where no instruction can be fetched.


cdef inline bint has(const Window *window, uint32_t address, uint32_t size) noexcept nogil:
    """Return whether all bytes of an access are in a window."""
    return <uint64_t><uint32_t>(address - window.base) + size <= window.size


cdef inline uint8_t *at(const Window *window, uint32_t address) noexcept nogil:
    return window.memory + <uint32_t>(address - window.base)


cdef inline uint32_t immediate_i(uint32_t word) noexcept nogil:
    return <uint32_t>(<int32_t>word >> 20)


cdef inline uint32_t immediate_s(uint32_t word) noexcept nogil:
    return <uint32_t>(<int32_t>(word & 0xFE000000U) >> 20) | word >> 7 & 0x1F


cdef inline uint32_t immediate_b(uint32_t word) noexcept nogil:
    return <uint32_t>(<int32_t>(word & 0x80000000U) >> 19) | word << 4 & 0x800 | word >> 20 & 0x7E0 | word >> 7 & 0x1E


cdef inline uint32_t immediate_j(uint32_t word) noexcept nogil:
    return <uint32_t>(<int32_t>(word & 0x80000000U) >> 11) | word & 0xFF000 | word >> 9 & 0x800 | word >> 20 & 0x7FE


cdef inline uint32_t shift_right_arithmetic(uint32_t value, uint32_t count) noexcept nogil:
    return <uint32_t>(<int32_t>value >> count)


cdef inline uint32_t multiply_high(int64_t a, int64_t b) noexcept nogil:
    return <uint32_t>(<uint64_t>(a * b) >> 32)


cdef inline uint32_t divide(int32_t dividend, int32_t divisor) noexcept nogil:
    if divisor == 0:
        return 0xFFFFFFFF
    if divisor == -1:
        return 0 - <uint32_t>dividend  # the quotient of the most negative number does not fit, and is that number
    return <uint32_t>(dividend / divisor)


cdef inline uint32_t remainder(int32_t dividend, int32_t divisor) noexcept nogil:
    if divisor == 0:
        return <uint32_t>dividend
    if divisor == -1:
        return 0
    return <uint32_t>(dividend % divisor)


cdef class Core:
    """A hart, which begins at `pc` in machine mode.

    Parameters
    ----------
    manager : IoManager
        The bus, with RAM and devices.
    pc : int
        Address of the first instruction.
    hart : int
        The value of mhartid.
    time_address : int, optional
        Where the bus has the 64-bit counter that the CSRs time and timeh show: mtime of the CLINT. Without it, these
        CSRs do not exist.

    Attributes
    ----------
    manager : IoManager
        The bus.
    software, timer, external : IrqLine
        The interrupts of machine mode: for the CLINT, and for the PLIC or a device. Any thread may set them.
    loads, stores : int
        Number of accesses that went to the bus.
    refreshes : int
        How often the core has taken new tables, because the map had changed.
    """

    version = 1

    def __cinit__(self, IoManager manager not None, *, uint32_t pc=0, uint32_t hart=0, time_address=None):
        if pc & 3:
            raise ValueError(f"pc must be a multiple of 4, not {pc:#x}")
        self.manager = manager
        self.tables = manager.tables()
        self.next_pc = pc
        self.hart = hart
        self.has_time = time_address is not None
        self.time_address = time_address or 0
        self.privilege = MACHINE
        self.device_page = NO_PAGE
        self.software, self.timer, self.external = [
            IrqLine(functools.partial(self.set_interrupt, number))
            for number in (SOFTWARE_INTERRUPT, TIMER_INTERRUPT, EXTERNAL_INTERRUPT)
        ]

    # Running

    def run(self, uint64_t limit):
        """Execute instructions until `cycles` is `limit`, or there is another reason to return.

        Parameters
        ----------
        limit : int
            A number of cycles, counted from the beginning.

        Returns
        -------
        Stop
            The reason.

        Raises
        ------
        RuntimeError
            The core is running: on another thread, or the caller is a device that it has called.
        Exception
            A device's. `pc` is the instruction that made the access. It has not been executed; the next `run` begins
            with it, and makes the access again.
        """
        cdef int stop
        if self.running:
            raise RuntimeError("the core is running already")
        self.running = True
        self.limit = limit
        try:
            with nogil:
                stop = self.run_to_limit()
        finally:
            self.running = False
        return Stop(stop)

    def stop(self):
        """Make `run` return before its next instruction; if it is not under way, the next one. From any thread."""
        set_bits(&self.stop_requested, 1)
        self.pause()

    def run_no_further(self, uint64_t limit):
        """Lower the limit of the `run` under way, for an event that a device has scheduled.

        Parameters
        ----------
        limit : int
            A number of cycles. One that has passed makes `run` return before the next instruction.
        """
        self.c_run_no_further(limit)

    def set_interrupt(self, int number, bint level):
        """Set the level of an interrupt of machine mode. Any thread may call it.

        Parameters
        ----------
        number : int
            Its bit in mip: 3 (software), 7 (timer) or 11 (external).
        level : bool
            Whether it is pending.
        """
        if not 0 <= number < 32 or not INTERRUPTS >> number & 1:
            raise ValueError(f"interrupt {number} is not one of machine mode: 3, 7 or 11")
        self.c_set_interrupt(number, level)

    cdef uint64_t c_cycles(self) noexcept nogil:
        return self.cycle_count

    cdef void c_set_interrupt(self, uint32_t number, bint level) noexcept nogil:
        if level:
            set_bits(&self.mip, <uint32_t>1 << number)
            self.pause()
        else:
            clear_bits(&self.mip, <uint32_t>1 << number)

    cdef void c_run_no_further(self, uint64_t cycles) noexcept nogil:
        if cycles < self.limit:
            self.limit = cycles
            self.pause()

    cdef void pause(self) noexcept nogil:
        """Leave the inner loop before its next instruction, for `run_to_limit` to look at what has changed."""
        ordered_store(&self.pause_at, 0)

    cdef int run_to_limit(self) except -1 nogil:
        cdef uint32_t pending
        while True:
            # First of all: whoever sets one of the flags after it was looked at pauses the inner loop again.
            ordered_store(&self.pause_at, self.limit)
            if ordered_load(&self.stop_requested):
                clear_bits(&self.stop_requested, 1)
                return STOP_REQUESTED
            if self.locked_up:
                return STOP_LOCKED_UP
            pending = ordered_load(&self.mip) & self.mie
            if self.waiting:
                if pending == 0:
                    return STOP_WAITING
                self.waiting = False
            if pending != 0 and (self.privilege == USER or self.mstatus & MIE):
                self.take_interrupt(pending)
            if self.cycle_count >= self.limit:
                return STOP_LIMIT
            if not c_tables_are_current(self.manager, self.tables):
                self.refresh()
            self.execute()

    cdef int execute(self) except -1 nogil:
        """Execute instructions until `pause_at`."""
        cdef uint32_t *x = self.x
        cdef uint32_t pc = self.next_pc
        cdef uint64_t cycles = self.cycle_count
        cdef uint32_t word = 0, opcode, funct3, rd, a, b, following, address, size, value = 0
        cdef uint8_t *memory
        cdef uint16_t half
        cdef bint taken
        while cycles < relaxed_load(&self.pause_at):
            x[0] = 0
            if has(&self.code, pc, 4):
                memcpy(&word, at(&self.code, pc), 4)
            else:
                self.next_pc, self.cycle_count = pc, cycles
                if self.fetch(&word) == TRAPPED:
                    pc, cycles = self.next_pc, self.cycle_count
                    continue
            opcode = word & 0x7F
            rd = word >> 7 & 0x1F
            funct3 = word >> 12 & 7
            a = x[word >> 15 & 0x1F]
            b = x[word >> 20 & 0x1F]
            following = pc + 4

            if opcode == LOAD:
                address = a + immediate_i(word)
                size = 1U << (funct3 & 3)
                if has(&self.data, address, size):
                    memory = at(&self.data, address)
                    if funct3 == 0:  # LB
                        x[rd] = <uint32_t><int8_t>memory[0]
                    elif funct3 == 1:  # LH
                        memcpy(&half, memory, 2)
                        x[rd] = <uint32_t><int16_t>half
                    elif funct3 == 2:  # LW
                        memcpy(&value, memory, 4)
                        x[rd] = value
                    elif funct3 == 4:  # LBU
                        x[rd] = memory[0]
                    elif funct3 == 5:  # LHU
                        memcpy(&half, memory, 2)
                        x[rd] = half
                    else:
                        opcode = 0
                elif funct3 == 3 or funct3 > 5:
                    opcode = 0
                else:
                    self.next_pc, self.cycle_count = pc, cycles
                    if self.load(address, size, &value) == TRAPPED:
                        pc, cycles = self.next_pc, self.cycle_count
                        continue
                    if funct3 == 0:
                        value = <uint32_t><int8_t>value
                    elif funct3 == 1:
                        value = <uint32_t><int16_t>value
                    x[rd] = value

            elif opcode == STORE:
                address = a + immediate_s(word)
                size = 1U << funct3
                if funct3 > 2:
                    opcode = 0
                elif has(&self.data, address, size):
                    memory = at(&self.data, address)
                    if funct3 == 0:  # SB
                        memory[0] = <uint8_t>b
                    elif funct3 == 1:  # SH
                        memcpy(memory, &b, 2)
                    else:  # SW
                        memcpy(memory, &b, 4)
                else:
                    self.next_pc, self.cycle_count = pc, cycles
                    if self.store(address, size, b) == TRAPPED:
                        pc, cycles = self.next_pc, self.cycle_count
                        continue

            elif opcode == OP_IMM:
                value = immediate_i(word)
                if funct3 == 0:  # ADDI
                    x[rd] = a + value
                elif funct3 == 1:  # SLLI
                    if value < 32:
                        x[rd] = a << value
                    else:
                        opcode = 0
                elif funct3 == 2:  # SLTI
                    x[rd] = <int32_t>a < <int32_t>value
                elif funct3 == 3:  # SLTIU
                    x[rd] = a < value
                elif funct3 == 4:  # XORI
                    x[rd] = a ^ value
                elif funct3 == 5:
                    if value < 32:  # SRLI
                        x[rd] = a >> value
                    elif value & ~0x1FU == 0x400:  # SRAI
                        x[rd] = shift_right_arithmetic(a, value & 0x1F)
                    else:
                        opcode = 0
                elif funct3 == 6:  # ORI
                    x[rd] = a | value
                else:  # ANDI
                    x[rd] = a & value

            elif opcode == OP:
                value = word >> 25
                if value == 0:
                    if funct3 == 0:  # ADD
                        x[rd] = a + b
                    elif funct3 == 1:  # SLL
                        x[rd] = a << (b & 0x1F)
                    elif funct3 == 2:  # SLT
                        x[rd] = <int32_t>a < <int32_t>b
                    elif funct3 == 3:  # SLTU
                        x[rd] = a < b
                    elif funct3 == 4:  # XOR
                        x[rd] = a ^ b
                    elif funct3 == 5:  # SRL
                        x[rd] = a >> (b & 0x1F)
                    elif funct3 == 6:  # OR
                        x[rd] = a | b
                    else:  # AND
                        x[rd] = a & b
                elif value == 1:
                    if funct3 == 0:  # MUL
                        x[rd] = a * b
                    elif funct3 == 1:  # MULH
                        x[rd] = multiply_high(<int32_t>a, <int32_t>b)
                    elif funct3 == 2:  # MULHSU
                        x[rd] = multiply_high(<int32_t>a, b)
                    elif funct3 == 3:  # MULHU
                        x[rd] = <uint32_t>(<uint64_t>a * b >> 32)
                    elif funct3 == 4:  # DIV
                        x[rd] = divide(<int32_t>a, <int32_t>b)
                    elif funct3 == 5:  # DIVU
                        x[rd] = a / b if b != 0 else 0xFFFFFFFFU
                    elif funct3 == 6:  # REM
                        x[rd] = remainder(<int32_t>a, <int32_t>b)
                    else:  # REMU
                        x[rd] = a % b if b != 0 else a
                elif value == 0x20 and funct3 == 0:  # SUB
                    x[rd] = a - b
                elif value == 0x20 and funct3 == 5:  # SRA
                    x[rd] = shift_right_arithmetic(a, b & 0x1F)
                else:
                    opcode = 0

            elif opcode == BRANCH:
                if funct3 == 0:  # BEQ
                    taken = a == b
                elif funct3 == 1:  # BNE
                    taken = a != b
                elif funct3 == 4:  # BLT
                    taken = <int32_t>a < <int32_t>b
                elif funct3 == 5:  # BGE
                    taken = <int32_t>a >= <int32_t>b
                elif funct3 == 6:  # BLTU
                    taken = a < b
                elif funct3 == 7:  # BGEU
                    taken = a >= b
                else:
                    taken = False
                    opcode = 0
                if taken:
                    following = pc + immediate_b(word)

            elif opcode == JAL:
                value = following
                following = pc + immediate_j(word)
                if following & 2 == 0:
                    x[rd] = value

            elif opcode == JALR:
                if funct3 == 0:
                    value = following
                    following = (a + immediate_i(word)) & ~1U
                    if following & 2 == 0:
                        x[rd] = value
                else:
                    opcode = 0

            elif opcode == LUI:
                x[rd] = word & 0xFFFFF000U

            elif opcode == AUIPC:
                x[rd] = pc + (word & 0xFFFFF000U)

            elif opcode == AMO:
                self.next_pc, self.cycle_count = pc, cycles
                self.execute_atomic(word)
                pc, cycles = self.next_pc, self.cycle_count
                continue

            elif opcode == SYSTEM:
                self.next_pc, self.cycle_count = pc, cycles
                self.execute_system(word)
                pc, cycles = self.next_pc, self.cycle_count
                continue

            elif opcode == MISC_MEM:  # FENCE, FENCE.I: accesses happen in program order, and no instruction is cached
                if funct3 > 1:
                    opcode = 0

            else:
                opcode = 0

            if opcode == 0 or following & 2:
                self.next_pc, self.cycle_count = pc, cycles
                if opcode == 0:
                    self.trap(ILLEGAL_INSTRUCTION, word)
                else:
                    self.trap(INSTRUCTION_MISALIGNED, following)
                pc, cycles = self.next_pc, self.cycle_count
                continue
            pc = following
            cycles += 1
        x[0] = 0
        self.next_pc, self.cycle_count = pc, cycles
        return 0

    # Memory

    cdef int refresh(self) except -1 nogil:
        """Take the tables that the manager has now, and forget what was found in the old ones."""
        with gil:
            self.tables = self.manager.tables()
        self.code.size = self.data.size = 0
        self.device_page = NO_PAGE
        self.refreshes += 1
        return 0

    cdef bint find_memory(self, Window *window, uint32_t address, uint32_t size, bint writable) noexcept nogil:
        """Make a window show the memory at an address, if that has the whole access."""
        cdef uint8_t *memory = NULL
        cdef uint64_t last = 0
        cdef uint32_t base = window.base
        # Memory is found from an address to its end: the lowest address that was found before is tried first.
        cdef int kind = c_ram_at(self.tables, base, &memory, &last) if base <= address else 0
        if kind == 0 or last < address:
            base = address
            kind = c_ram_at(self.tables, base, &memory, &last)
        if kind == 0 or (writable and kind != DBS_DEVICE_RAM) or last - address < size - 1:
            return False
        window.memory, window.base = memory, base
        window.size = min(last, <uint64_t>0xFFFFFFFFU) - base + 1
        return True

    cdef int fetch(self, uint32_t *word) except -1 nogil:
        """Fetch the instruction at `next_pc`, which is not in the window: from other memory, or from the bus."""
        cdef uint64_t value = 0
        cdef uint32_t address = self.next_pc
        if not c_tables_are_current(self.manager, self.tables):
            self.refresh()
        if self.find_memory(&self.code, address, 4, False):
            memcpy(word, at(&self.code, address), 4)
            return SERVED
        if c_mmio_load(self.tables, address, 4, &value) == 0:
            word[0] = <uint32_t>value
            return SERVED
        if self.mtvec & ~3U == address:
            self.locked_up = True
            self.pause()
            return TRAPPED
        return self.trap(INSTRUCTION_ACCESS_FAULT, address)

    cdef int load(self, uint32_t address, uint32_t size, uint32_t *value) except -1 nogil:
        """Load from an address that is not in the window: from other RAM, or from the bus."""
        cdef uint64_t wide = 0, begin = 0
        cdef int unowned
        if not c_tables_are_current(self.manager, self.tables):
            self.refresh()
        if address >> PAGE_SHIFT != self.device_page:
            if self.find_memory(&self.data, address, size, True):
                value[0] = 0
                memcpy(value, at(&self.data, address), size)
                return SERVED
            self.device_page = address >> PAGE_SHIFT
        if address & (size - 1):
            return self.trap(LOAD_MISALIGNED, address)
        self.loads += 1
        if self.meter_count:
            begin = monotonic_ns()
        unowned = c_mmio_load(self.tables, address, size, &wide)
        if self.meter_count:
            self.measure(address, True, begin)
        if not c_tables_are_current(self.manager, self.tables):
            self.pause()  # the device has changed the map, maybe that of the memory
        if unowned:
            return self.trap(LOAD_ACCESS_FAULT, address)
        value[0] = <uint32_t>wide
        return SERVED

    cdef int store(self, uint32_t address, uint32_t size, uint32_t value) except -1 nogil:
        """Store to an address that is not in the window: to other RAM, or to the bus."""
        cdef uint64_t begin = 0
        cdef int unowned
        if not c_tables_are_current(self.manager, self.tables):
            self.refresh()
        if address >> PAGE_SHIFT != self.device_page:
            if self.find_memory(&self.data, address, size, True):
                memcpy(at(&self.data, address), &value, size)
                return SERVED
            self.device_page = address >> PAGE_SHIFT
        if address & (size - 1):
            return self.trap(STORE_MISALIGNED, address)
        self.stores += 1
        if size < 4:
            value &= (1U << 8 * size) - 1
        if self.meter_count:
            begin = monotonic_ns()
        unowned = c_mmio_store(self.tables, address, size, value)
        if self.meter_count:
            self.measure(address, False, begin)
        if not c_tables_are_current(self.manager, self.tables):
            self.pause()
        if unowned:
            return self.trap(STORE_ACCESS_FAULT, address)
        return SERVED

    cdef void measure(self, uint32_t address, bint is_load, uint64_t begin) noexcept nogil:
        """Count an access, with its time from `begin` to now."""
        cdef uint64_t end = monotonic_ns()
        cdef Meter *meter
        cdef uint32_t index
        for index in range(self.meter_count):
            meter = &self.meters[index]
            if meter.base <= address <= meter.last:
                meter.loads += is_load
                meter.stores += not is_load
                meter.ns += end - begin
                return

    # Instructions outside the loop: they leave `next_pc` and `cycles` as they are after the instruction, or its trap.

    cdef int execute_atomic(self, uint32_t word) except -1 nogil:
        cdef uint32_t function = word >> 27, rd = word >> 7 & 0x1F, old = 0, new
        cdef uint32_t address = self.x[word >> 15 & 0x1F], b = self.x[word >> 20 & 0x1F]
        cdef bint loads = function == LR
        if word >> 12 & 7 != 2 or (loads and word >> 20 & 0x1F != 0):
            return self.trap(ILLEGAL_INSTRUCTION, word)
        if address & 3:
            return self.trap(LOAD_MISALIGNED if loads else STORE_MISALIGNED, address)
        if not has(&self.data, address, 4) and not self.find_memory(&self.data, address, 4, True):
            return self.trap(LOAD_ACCESS_FAULT if loads else STORE_ACCESS_FAULT, address)  # devices have no atomics
        memcpy(&old, at(&self.data, address), 4)
        if function == LR:
            self.is_reserved = True
            self.reserved_address, self.reserved_value = address, old
            new = old
        elif function == SC:
            # A device that has written to the word takes the reservation away; a new value tells.
            if self.is_reserved and self.reserved_address == address and self.reserved_value == old:
                new = b
                old = 0
            else:
                new = old
                old = 1
            self.is_reserved = False
        elif function == AMOSWAP:
            new = b
        elif function == AMOADD:
            new = old + b
        elif function == AMOXOR:
            new = old ^ b
        elif function == AMOAND:
            new = old & b
        elif function == AMOOR:
            new = old | b
        elif function == AMOMIN:
            new = old if <int32_t>old < <int32_t>b else b
        elif function == AMOMAX:
            new = old if <int32_t>old > <int32_t>b else b
        elif function == AMOMINU:
            new = old if old < b else b
        elif function == AMOMAXU:
            new = old if old > b else b
        else:
            return self.trap(ILLEGAL_INSTRUCTION, word)
        memcpy(at(&self.data, address), &new, 4)
        self.x[rd] = old
        self.next_pc += 4
        self.cycle_count += 1
        return SERVED

    cdef int execute_system(self, uint32_t word) except -1 nogil:
        if word >> 12 & 7:
            return self.execute_csr(word)
        if word == ECALL:
            return self.trap(ECALL_FROM_USER if self.privilege == USER else ECALL_FROM_MACHINE, 0)
        if word == EBREAK:
            return self.trap(BREAKPOINT, self.next_pc)
        if word == WFI and (self.privilege == MACHINE or not self.mstatus & TW):
            self.waiting = True
            self.next_pc += 4
        elif word == MRET and self.privilege == MACHINE:
            self.return_from_trap()
        else:
            return self.trap(ILLEGAL_INSTRUCTION, word)
        self.pause()
        self.cycle_count += 1
        return SERVED

    cdef int execute_csr(self, uint32_t word) except -1 nogil:
        cdef uint32_t number = word >> 20, funct3 = word >> 12 & 7, source = word >> 15 & 0x1F, old = 0, new
        cdef bint writes = funct3 & 3 == 1 or source != 0  # CSRRS and CSRRC with x0 or 0 only read
        new = source if funct3 & 4 else self.x[source]
        if funct3 == 4 or self.privilege < (number >> 8 & 3) or (writes and number >> 10 == 3):
            return self.trap(ILLEGAL_INSTRUCTION, word)
        if not self.read_csr(number, &old):
            return self.trap(ILLEGAL_INSTRUCTION, word)
        if writes:
            if funct3 & 3 == 2:
                new |= old
            elif funct3 & 3 == 3:
                new = old & ~new
            self.write_csr(number, new)
            self.pause()  # it may have enabled an interrupt
        self.x[word >> 7 & 0x1F] = old
        self.next_pc += 4
        self.cycle_count += 1
        return SERVED

    cdef int read_csr(self, uint32_t number, uint32_t *value) except -1 nogil:
        """Read a CSR, and return whether it exists, and is accessible at this privilege."""
        cdef uint64_t wide = 0
        cdef uint64_t mcycle = self.cycle_count + self.cycle_offset
        cdef uint64_t minstret = self.cycle_count - self.trap_count + self.retired_offset
        if CSR_CYCLE <= number & ~0x80U <= CSR_INSTRET and self.privilege == USER:
            if not self.mcounteren >> (number & 3) & 1:
                return False
        value[0] = 0
        if number == CSR_MSTATUS:
            value[0] = self.mstatus
        elif number == CSR_MISA:
            value[0] = MISA
        elif number == CSR_MIE:
            value[0] = self.mie
        elif number == CSR_MTVEC:
            value[0] = self.mtvec
        elif number == CSR_MCOUNTEREN:
            value[0] = self.mcounteren
        elif number == CSR_MENVCFG:
            value[0] = self.menvcfg
        elif number == CSR_MSCRATCH:
            value[0] = self.mscratch
        elif number == CSR_MEPC:
            value[0] = self.mepc
        elif number == CSR_MCAUSE:
            value[0] = self.mcause
        elif number == CSR_MTVAL:
            value[0] = self.mtval
        elif number == CSR_MIP:
            value[0] = ordered_load(&self.mip)
        elif number == CSR_MHARTID:
            value[0] = self.hart
        elif number == CSR_MCYCLE or number == CSR_CYCLE:
            value[0] = <uint32_t>mcycle
        elif number == CSR_MCYCLEH or number == CSR_CYCLEH:
            value[0] = <uint32_t>(mcycle >> 32)
        elif number == CSR_MINSTRET or number == CSR_INSTRET:
            value[0] = <uint32_t>minstret
        elif number == CSR_MINSTRETH or number == CSR_INSTRETH:
            value[0] = <uint32_t>(minstret >> 32)
        elif (number == CSR_TIME or number == CSR_TIMEH) and self.has_time:
            if not c_tables_are_current(self.manager, self.tables):
                self.refresh()
            self.loads += 1
            if c_mmio_load(self.tables, self.time_address + (4 if number == CSR_TIMEH else 0), 4, &wide) != 0:
                return False
            value[0] = <uint32_t>wide
        else:
            return (
                CSR_MVENDORID <= number <= CSR_MIMPID
                or number == CSR_MCONFIGPTR
                or number == CSR_MSTATUSH
                or number == CSR_MENVCFGH
                or number == CSR_MCOUNTINHIBIT
                or CSR_MHPMEVENT3 <= number <= CSR_MHPMEVENT31
                or CSR_MHPMCOUNTER3 <= number <= CSR_MHPMCOUNTER31
                or CSR_MHPMCOUNTER3H <= number <= CSR_MHPMCOUNTER31H
            )
        return True

    cdef bint write_csr(self, uint32_t number, uint32_t value) noexcept nogil:
        """Write a CSR that exists. Bits that cannot be written keep their values."""
        # A write of a counter takes the place of its increment by this instruction.
        cdef uint64_t mcycle = self.cycle_count + self.cycle_offset
        cdef uint64_t minstret = self.cycle_count - self.trap_count + self.retired_offset
        if number == CSR_MSTATUS:
            if value & MPP != USER << MPP_SHIFT and value & MPP != MACHINE << MPP_SHIFT:
                value = value & ~<uint32_t>MPP | self.mstatus & MPP
            self.mstatus = value & (MIE | MPIE | MPP | MPRV | TW)
        elif number == CSR_MIE:
            self.mie = value & INTERRUPTS
        elif number == CSR_MTVEC:
            self.mtvec = value & ~2U
        elif number == CSR_MCOUNTEREN:
            self.mcounteren = value & 7
        elif number == CSR_MENVCFG:
            self.menvcfg = value & 1  # FIOM
        elif number == CSR_MSCRATCH:
            self.mscratch = value
        elif number == CSR_MEPC:
            self.mepc = value & ~3U
        elif number == CSR_MCAUSE:
            self.mcause = value
        elif number == CSR_MTVAL:
            self.mtval = value
        elif number == CSR_MCYCLE:
            self.cycle_offset += (mcycle & 0xFFFFFFFF00000000ULL | value) - mcycle - 1
        elif number == CSR_MCYCLEH:
            self.cycle_offset += (mcycle & 0xFFFFFFFFULL | <uint64_t>value << 32) - mcycle - 1
        elif number == CSR_MINSTRET:
            self.retired_offset += (minstret & 0xFFFFFFFF00000000ULL | value) - minstret - 1
        elif number == CSR_MINSTRETH:
            self.retired_offset += (minstret & 0xFFFFFFFFULL | <uint64_t>value << 32) - minstret - 1
        return True

    # Traps

    cdef int trap(self, uint32_t cause, uint32_t value) noexcept nogil:
        """Trap at the instruction at `next_pc`, which does not retire but takes a cycle."""
        self.enter_machine_mode(cause, value)
        self.next_pc = self.mtvec & ~3U
        self.cycle_count += 1
        self.trap_count += 1
        return TRAPPED

    cdef void take_interrupt(self, uint32_t pending) noexcept nogil:
        """Take the interrupt of the highest priority."""
        cdef uint32_t number
        if pending & 1 << EXTERNAL_INTERRUPT:
            number = EXTERNAL_INTERRUPT
        elif pending & 1 << SOFTWARE_INTERRUPT:
            number = SOFTWARE_INTERRUPT
        else:
            number = TIMER_INTERRUPT
        self.enter_machine_mode(INTERRUPT | number, 0)
        self.next_pc = (self.mtvec & ~3U) + (4 * number if self.mtvec & 1 else 0)

    cdef void enter_machine_mode(self, uint32_t cause, uint32_t value) noexcept nogil:
        self.mepc, self.mcause, self.mtval = self.next_pc, cause, value
        self.mstatus = (
            self.mstatus & ~<uint32_t>(MIE | MPIE | MPP)
            | (MPIE if self.mstatus & MIE else 0)
            | self.privilege << MPP_SHIFT
        )
        self.privilege = MACHINE

    cdef void return_from_trap(self) noexcept nogil:
        self.privilege = (self.mstatus & MPP) >> MPP_SHIFT
        self.mstatus = self.mstatus & ~<uint32_t>(MIE | MPP) | MPIE | (MIE if self.mstatus & MPIE else 0)
        if self.privilege == USER:
            self.mstatus &= ~<uint32_t>MPRV
        self.next_pc = self.mepc

    # Measuring

    def meter(self, ranges):
        """Count the accesses to ranges, and measure how long they take, from now on. An access then takes 50 ns more.

        Parameters
        ----------
        ranges : sequence of (int, int)
            First and last address of each; up to 16.
        """
        ranges = list(ranges)
        if len(ranges) > METERS:
            raise ValueError(f"up to {METERS} ranges are measured, not {len(ranges)}")
        meters = [(<uint64_t>base, <uint64_t>last) for base, last in ranges]
        self.meter_count = 0
        for index, (base, last) in enumerate(meters):
            self.meters[index] = Meter(base, last, 0, 0, 0)
        self.meter_count = len(meters)

    @property
    def metered(self):
        """Loads, stores and nanoseconds of each range of `meter`, as a list of tuples."""
        cdef uint32_t index
        return [
            (self.meters[index].loads, self.meters[index].stores, self.meters[index].ns)
            for index in range(self.meter_count)
        ]

    # Its state, for Python

    @property
    def pc(self):
        """Address of the next instruction: in a device that is called, of the one that makes the access."""
        return self.next_pc

    @pc.setter
    def pc(self, uint32_t address):
        if address & 3:
            raise ValueError(f"pc must be a multiple of 4, not {address:#x}")
        self.next_pc = address
        self.waiting = self.locked_up = False

    @property
    def cycles(self):
        """Number of instructions so far, those that have trapped included."""
        return self.cycle_count

    @property
    def retired(self):
        """Number of instructions that have not trapped."""
        return self.cycle_count - self.trap_count

    @property
    def registers(self):
        """The registers x0 to x31, as a list of 32 integers; assigned as a sequence of 32, of which the first is 0."""
        return [self.x[number] for number in range(32)]

    @registers.setter
    def registers(self, values):
        cdef uint32_t[32] x
        values = list(values)
        if len(values) != 32 or values[0] != 0:
            raise ValueError("32 registers are assigned, the first of them 0")
        for number, value in enumerate(values):
            x[number] = value
        memcpy(self.x, x, sizeof(x))

    @property
    def user_mode(self):
        """Whether the hart is in user mode, not in machine mode."""
        return self.privilege == USER

    @property
    def is_interrupted(self):
        """Whether an interrupt is pending and enabled in mie, which ends a WFI."""
        return ordered_load(&self.mip) & self.mie != 0

    def get_csr(self, name):
        """Read a control and status register, at the highest privilege.

        Parameters
        ----------
        name : str or int
            Its name, such as "mepc", or its number.

        Returns
        -------
        int
            Its value, 32 bits.

        Raises
        ------
        KeyError
            There is no such register.
        """
        cdef uint32_t value = 0, privilege = self.privilege
        self.privilege = MACHINE
        try:
            if not self.read_csr(CSR_NUMBERS[name] if isinstance(name, str) else name, &value):
                raise KeyError(name)
        finally:
            self.privilege = privilege
        return value

    def set_csr(self, name, uint32_t value):
        """Write a control and status register: the bits that can be written.

        Parameters
        ----------
        name : str or int
            As of `get_csr`, as is the `KeyError`.
        value : int
            32 bits.
        """
        self.get_csr(name)
        self.write_csr(CSR_NUMBERS[name] if isinstance(name, str) else name, value)

    def __repr__(self):
        return f"<Core, pc={self.next_pc:#x}, {'user' if self.privilege == USER else 'machine'} mode>"

    # Saving and restoring

    def save_state(self):
        """Return registers, counts and pending interrupts, in the form of `dbs_device.state`."""
        return {
            "registers": self.registers,
            "pc": self.next_pc,
            "privilege": self.privilege,
            "waiting": bool(self.waiting),
            "locked_up": bool(self.locked_up),
            "pending": self.mip,
            "is_reserved": bool(self.is_reserved),
            "reservation": [self.reserved_address, self.reserved_value],
            "counts": [
                self.cycle_count, self.trap_count, self.cycle_offset, self.retired_offset, self.loads, self.stores,
            ],
            "csrs": [
                self.mstatus, self.mie, self.mtvec, self.mscratch, self.mepc, self.mcause, self.mtval,
                self.mcounteren, self.menvcfg,
            ],
        }

    def check_state(self, state):
        """Raise `StateError` for a state that `load_state` would refuse."""
        expected = self.save_state()
        if not isinstance(state, Mapping) or state.keys() != expected.keys():
            raise StateError(f"the state of a Core has {', '.join(expected)}, not {state!r:.80}")
        for key, like in expected.items():
            value = state[key]
            if isinstance(like, list):
                bound = COUNT_END if key == "counts" else WORD_END
                if (
                    not isinstance(value, list)
                    or len(value) != len(like)
                    or not all(type(each) is int and 0 <= each < bound for each in value)
                ):
                    raise StateError(
                        f"Core.{key} is a list of {len(like)} integers below {bound:#x}, not {value!r:.80}"
                    )
            elif type(value) is not type(like) or not 0 <= value < WORD_END:
                raise StateError(f"Core.{key} is {type(like).__name__} below {WORD_END:#x}, not {value!r:.80}")
        if state["registers"][0] != 0 or state["pc"] & 3 or state["privilege"] not in (USER, MACHINE):
            raise StateError("in a state of a Core, x0 is 0, pc a multiple of 4, and privilege 0 or 3")

    def load_state(self, state):
        """Go on from a state; `StateError` if it is not one, or the core is running, with nothing changed."""
        if self.running:
            raise StateError("a core that is running loads no state")
        self.check_state(state)
        self.registers = state["registers"]
        self.next_pc = state["pc"]
        self.privilege = state["privilege"]
        self.waiting = state["waiting"]
        self.locked_up = state["locked_up"]
        clear_bits(&self.mip, INTERRUPTS)
        set_bits(&self.mip, <uint32_t>state["pending"] & INTERRUPTS)
        self.is_reserved = state["is_reserved"]
        self.reserved_address, self.reserved_value = state["reservation"]
        (
            self.cycle_count, self.trap_count, self.cycle_offset, self.retired_offset, self.loads, self.stores,
        ) = state["counts"]
        (
            self.mstatus, self.mie, self.mtvec, self.mscratch, self.mepc, self.mcause, self.mtval,
            self.mcounteren, self.menvcfg,
        ) = state["csrs"]
