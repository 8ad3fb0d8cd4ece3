"""Numbers of the RISC-V instruction set: instructions, causes of traps, control and status registers."""

# The low seven bits of an instruction.
cdef enum:
    LOAD = 0x03
    MISC_MEM = 0x0F
    OP_IMM = 0x13
    AUIPC = 0x17
    STORE = 0x23
    AMO = 0x2F
    OP = 0x33
    LUI = 0x37
    BRANCH = 0x63
    JALR = 0x67
    JAL = 0x6F
    SYSTEM = 0x73

# Whole instructions
cdef enum:
    ECALL = 0x00000073
    EBREAK = 0x00100073
    MRET = 0x30200073
    WFI = 0x10500073

# Bits 31..27 of the instructions for atomic memory accesses
cdef enum:
    AMOADD = 0x00
    AMOSWAP = 0x01
    LR = 0x02
    SC = 0x03
    AMOXOR = 0x04
    AMOOR = 0x08
    AMOAND = 0x0C
    AMOMIN = 0x10
    AMOMAX = 0x14
    AMOMINU = 0x18
    AMOMAXU = 0x1C

# mcause
cdef enum:
    INSTRUCTION_MISALIGNED = 0
    INSTRUCTION_ACCESS_FAULT = 1
    ILLEGAL_INSTRUCTION = 2
    BREAKPOINT = 3
    LOAD_MISALIGNED = 4
    LOAD_ACCESS_FAULT = 5
    STORE_MISALIGNED = 6
    STORE_ACCESS_FAULT = 7
    ECALL_FROM_USER = 8
    ECALL_FROM_MACHINE = 11

# Bits of mip and mie
cdef enum:
    SOFTWARE_INTERRUPT = 3
    TIMER_INTERRUPT = 7
    EXTERNAL_INTERRUPT = 11
    INTERRUPTS = 1 << SOFTWARE_INTERRUPT | 1 << TIMER_INTERRUPT | 1 << EXTERNAL_INTERRUPT

cdef enum:
    USER = 0
    MACHINE = 3

# mstatus
cdef enum:
    MIE = 1 << 3
    MPIE = 1 << 7
    MPP_SHIFT = 11
    MPP = 3 << MPP_SHIFT
    MPRV = 1 << 17
    TW = 1 << 21

cdef enum:
    CSR_MSTATUS = 0x300
    CSR_MISA = 0x301
    CSR_MIE = 0x304
    CSR_MTVEC = 0x305
    CSR_MCOUNTEREN = 0x306
    CSR_MENVCFG = 0x30A
    CSR_MSTATUSH = 0x310
    CSR_MENVCFGH = 0x31A
    CSR_MCOUNTINHIBIT = 0x320
    CSR_MHPMEVENT3 = 0x323
    CSR_MHPMEVENT31 = 0x33F
    CSR_MSCRATCH = 0x340
    CSR_MEPC = 0x341
    CSR_MCAUSE = 0x342
    CSR_MTVAL = 0x343
    CSR_MIP = 0x344
    CSR_MCYCLE = 0xB00
    CSR_MINSTRET = 0xB02
    CSR_MHPMCOUNTER3 = 0xB03
    CSR_MHPMCOUNTER31 = 0xB1F
    CSR_MCYCLEH = 0xB80
    CSR_MINSTRETH = 0xB82
    CSR_MHPMCOUNTER3H = 0xB83
    CSR_MHPMCOUNTER31H = 0xB9F
    CSR_CYCLE = 0xC00
    CSR_TIME = 0xC01
    CSR_INSTRET = 0xC02
    CSR_CYCLEH = 0xC80
    CSR_TIMEH = 0xC81
    CSR_INSTRETH = 0xC82
    CSR_MVENDORID = 0xF11
    CSR_MARCHID = 0xF12
    CSR_MIMPID = 0xF13
    CSR_MHARTID = 0xF14
    CSR_MCONFIGPTR = 0xF15
