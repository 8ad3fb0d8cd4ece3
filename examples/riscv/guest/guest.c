/* A guest without an operating system: it uses every device of the machine, and switches the power off.
 *
 *     make riscv-guest
 *
 * compiles it into guest.bin. A change of one needs a change of the other; a test compares what the two say.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define REGISTER(address, type) (*(volatile type *)(address))

/* The addresses of ../board.py. */
#define UART(offset) REGISTER(0x10000000u + (offset), u8)
#define DISK(offset) REGISTER(0x10001000u + (offset), u32)
#define RTC(offset) REGISTER(0x10002000u + (offset), u32)
#define PLIC(offset) REGISTER(0x0C000000u + (offset), u32)
#define MTIME_LOW REGISTER(0x1100BFF8u, u32)
#define MTIME_HIGH REGISTER(0x1100BFFCu, u32)
#define MTIMECMP_LOW REGISTER(0x11004000u, u32)
#define MTIMECMP_HIGH REGISTER(0x11004004u, u32)
#define POWER REGISTER(0x11100000u, u32)
#define POWER_OFF 0x5555u
#define TICKS_PER_MS 10000u

enum { DISK_SOURCE = 1, UART_SOURCE = 10 };

/* --- The CPU ------------------------------------------------------------------------------------------------------ */

__asm__(
    ".section .text.start, \"ax\"\n"
    ".globl _start\n"
    "_start:\n"
    "    la sp, stack_top\n"
    "    la t0, trap\n"
    "    csrw mtvec, t0\n"
    "    call main\n"
    "1:  wfi\n"
    "    j 1b\n"
    ".section .bss, \"aw\", @nobits\n"
    ".balign 16\n"
    "    .space 4096\n"
    "stack_top:\n"
    ".text\n");

#define LOAD_ACCESS_FAULT 5u
#define MIE_MTIE (1u << 7)
#define MIE_MEIE (1u << 11)
#define MSTATUS_MIE (1u << 3)
#define write_csr(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"(value))
#define set_csr(name, bits) __asm__ volatile("csrs " #name ", %0" ::"r"(bits) : "memory")
#define clear_csr(name, bits) __asm__ volatile("csrc " #name ", %0" ::"r"(bits) : "memory")
#define fence() __asm__ volatile("fence" ::: "memory")

static u32 read_mcause(void) {
    u32 value;
    __asm__ volatile("csrr %0, mcause" : "=r"(value));
    return value;
}

/* Wait until an interrupt has set something, which the condition looks at with interrupts disabled: one that comes
 * between the look and WFI is pending by then, and WFI returns at once. */
#define WAIT_UNTIL(condition)            \
    for (;;) {                           \
        clear_csr(mstatus, MSTATUS_MIE); \
        int is_done = (condition);       \
        if (!is_done) {                  \
            __asm__ volatile("wfi");     \
        }                                \
        set_csr(mstatus, MSTATUS_MIE);   \
        if (is_done) {                   \
            break;                       \
        }                                \
    }

/* --- The console -------------------------------------------------------------------------------------------------- */

enum { UART_DATA, UART_IER, UART_FCR, UART_LCR, UART_MCR, UART_LSR };
#define LSR_DATA_READY 0x01
#define LSR_TRANSMITTER_EMPTY 0x20

static void put(char character) {
    while (!(UART(UART_LSR) & LSR_TRANSMITTER_EMPTY)) {
    }
    UART(UART_DATA) = character;
}

static void print(const char *text) {
    for (; *text; text++) {
        put(*text);
    }
}

/* Print a number of up to nine digits, with leading zeros up to a width. */
static void print_number(u32 number, u32 width) {
    char digits[10];
    u32 count = 0;
    do {
        digits[count++] = '0' + number % 10;
        number /= 10;
    } while (number || count < width);
    while (count) {
        put(digits[--count]);
    }
}

/* --- Interrupts --------------------------------------------------------------------------------------------------- */

static volatile u32 ticks;
static volatile u8 typed[64];
static volatile u32 typed_count;
static volatile u32 disk_is_done;
static volatile u32 is_probing, is_absent; /* a load that may be of nothing, and one that was */
static u32 tick_length; /* of mtime */

static u64 time_now(void) {
    u32 high, low;
    do {
        high = MTIME_HIGH;
        low = MTIME_LOW;
    } while (high != MTIME_HIGH);
    return (u64)high << 32 | low;
}

static void set_timer(u64 when) {
    MTIMECMP_HIGH = 0xFFFFFFFF; /* no interrupt between the two stores */
    MTIMECMP_LOW = (u32)when;
    MTIMECMP_HIGH = (u32)(when >> 32);
}

static void start_ticks(u32 length) {
    ticks = 0;
    tick_length = length;
    set_timer(time_now() + length);
}

#define DISK_INTERRUPT_STATUS 0x060
#define DISK_INTERRUPT_ACK 0x064

static void external_interrupt(void) {
    u32 source;
    while ((source = PLIC(0x200004)) != 0) { /* claim */
        if (source == UART_SOURCE) {
            while (UART(UART_LSR) & LSR_DATA_READY) {
                u8 byte = UART(UART_DATA);
                if (typed_count < sizeof typed) {
                    typed[typed_count++] = byte;
                }
            }
        } else if (source == DISK_SOURCE) {
            DISK(DISK_INTERRUPT_ACK) = DISK(DISK_INTERRUPT_STATUS);
            disk_is_done = 1;
        }
        PLIC(0x200004) = source; /* complete */
    }
}

__attribute__((interrupt("machine"), aligned(4), used)) static void trap(void) {
    u32 cause = read_mcause();
    if (cause == 0x80000007) {
        ticks++;
        set_timer(time_now() + tick_length);
    } else if (cause == 0x8000000B) {
        external_interrupt();
    } else if (cause == LOAD_ACCESS_FAULT && is_probing) {
        is_absent = 1;
        __asm__ volatile("csrr t0, mepc\n addi t0, t0, 4\n csrw mepc, t0" ::: "t0"); /* behind the load */
    } else {
        print("unexpected trap, mcause ");
        print_number(cause, 1);
        print("\n");
        POWER = POWER_OFF;
    }
}

/* --- The clock ---------------------------------------------------------------------------------------------------- */

/* Divide 64 by 32 bits, without the run-time library of a compiler. */
static u64 divide(u64 dividend, u32 divisor, u32 *remainder) {
    u64 quotient = 0, rest = 0;
    for (int bit = 63; bit >= 0; bit--) {
        rest = rest << 1 | (dividend >> bit & 1);
        if (rest >= divisor) {
            rest -= divisor;
            quotient |= 1ull << bit;
        }
    }
    *remainder = (u32)rest;
    return quotient;
}

static void print_date(void) {
    u32 low = RTC(0), high = RTC(4), rest, seconds;
    u32 unix_time = (u32)divide((u64)high << 32 | low, 1000000000, &rest);
    u32 days = (u32)divide(unix_time, 86400, &seconds);
    /* Years that begin in March have their leap day at the end. */
    u32 day = days + 719468, era = day / 146097;
    day -= era * 146097;
    u32 year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    day -= 365 * year + year / 4 - year / 100;
    u32 month = (5 * day + 2) / 153;
    day = day - (153 * month + 2) / 5 + 1;
    year += 400 * era + (month >= 10);
    month = month < 10 ? month + 3 : month - 9;
    print_number(year, 4);
    put('-');
    print_number(month, 2);
    put('-');
    print_number(day, 2);
    put(' ');
    print_number(seconds / 3600, 2);
    put(':');
    print_number(seconds / 60 % 60, 2);
    put(':');
    print_number(seconds % 60, 2);
}

/* --- The disk: virtio over MMIO ----------------------------------------------------------------------------------- */

enum { QUEUE_SIZE = 4, SECTOR = 512, TYPE_READ = 0, TYPE_WRITE = 1, NEXT = 1, WRITABLE = 2 };

static struct {
    u32 address, address_high, length;
    u16 flags, next;
} descriptors[QUEUE_SIZE] __attribute__((aligned(16)));
static volatile struct {
    u16 flags, index, ring[QUEUE_SIZE];
} available __attribute__((aligned(4)));
static volatile struct {
    u16 flags, index;
    struct {
        u32 id, length;
    } ring[QUEUE_SIZE];
} used __attribute__((aligned(4)));
static struct {
    u32 type, reserved, sector, sector_high;
} request;
static volatile u8 request_status;
static u8 sector_data[SECTOR];

/* Return whether there is a disk, ready for requests. */
static int disk_begin(void) {
    is_probing = 1;
    u32 magic = DISK(0x000);
    is_probing = 0;
    if (is_absent || magic != 0x74726976 || DISK(0x004) != 2 || DISK(0x008) != 2) {
        return 0;
    }
    DISK(0x070) = 0;     /* reset */
    DISK(0x070) = 1 | 2; /* acknowledge; driver */
    DISK(0x024) = 0;
    DISK(0x020) = 0; /* none of its features, */
    DISK(0x024) = 1;
    DISK(0x020) = 1; /* but VERSION_1 */
    DISK(0x070) = 1 | 2 | 8; /* features ok */
    if (!(DISK(0x070) & 8)) {
        return 0;
    }
    DISK(0x030) = 0; /* queue 0 */
    if (DISK(0x034) < QUEUE_SIZE) {
        return 0;
    }
    DISK(0x038) = QUEUE_SIZE;
    DISK(0x080) = (u32)descriptors;
    DISK(0x084) = 0;
    DISK(0x090) = (u32)&available;
    DISK(0x094) = 0;
    DISK(0x0A0) = (u32)&used;
    DISK(0x0A4) = 0;
    DISK(0x044) = 1; /* ready */
    DISK(0x070) = 1 | 2 | 4 | 8; /* driver ok */
    return 1;
}

/* Read or write a sector, with `sector_data` as the buffer, and return the status: 0 is good. */
static u32 disk_transfer(u32 type, u32 sector) {
    request.type = type;
    request.sector = sector;
    request_status = 0xFF;
    descriptors[0].address = (u32)&request;
    descriptors[0].length = sizeof request;
    descriptors[0].flags = NEXT;
    descriptors[0].next = 1;
    descriptors[1].address = (u32)sector_data;
    descriptors[1].length = SECTOR;
    descriptors[1].flags = NEXT | (type == TYPE_READ ? WRITABLE : 0);
    descriptors[1].next = 2;
    descriptors[2].address = (u32)&request_status;
    descriptors[2].length = 1;
    descriptors[2].flags = WRITABLE;
    disk_is_done = 0;
    available.ring[available.index % QUEUE_SIZE] = 0;
    fence();
    available.index++;
    fence();
    DISK(0x050) = 0; /* notify */
    WAIT_UNTIL(disk_is_done);
    fence();
    return request_status;
}

static void print_sector_text(void) {
    for (u32 i = 0; i < SECTOR && sector_data[i] && sector_data[i] != '\n'; i++) {
        put(sector_data[i]);
    }
}

/* --- The program -------------------------------------------------------------------------------------------------- */

static void use_timer(void) {
    print("Timer:  ");
    start_ticks(100 * TICKS_PER_MS);
    for (u32 seen = 0; seen < 5;) {
        WAIT_UNTIL(ticks > seen);
        seen++;
        print(" tick");
    }
    set_timer(~0ull);
    print(", half a second in all.\n");
}

static void use_disk(void) {
    static const char greeting[] = "Written by the guest.\n";
    print("Disk:    ");
    if (!disk_begin()) {
        print("there is none.\n");
        return;
    }
    print_number(DISK(0x100), 1);
    print(" sectors.\n");
    if (disk_transfer(TYPE_READ, 0) == 0) {
        print("         Sector 0 says: ");
        print_sector_text();
        print("\n");
    }
    for (u32 i = 0; i < SECTOR; i++) {
        sector_data[i] = i < sizeof greeting ? greeting[i] : 0;
    }
    u32 failed = disk_transfer(TYPE_WRITE, 1);
    for (u32 i = 0; i < SECTOR; i++) {
        sector_data[i] = 0xAA;
    }
    failed |= disk_transfer(TYPE_READ, 1);
    print("         Sector 1 says: ");
    print_sector_text();
    print(failed ? " There was an error.\n" : "\n");
    failed = disk_transfer(TYPE_READ, DISK(0x100));
    print(failed == 1 ? "         The sector after the last is an error, as it should be.\n"
                      : "         The sector after the last is no error!\n");
}

static void use_keyboard(void) {
    print("Console: type a line, within five seconds: ");
    typed_count = 0;
    UART(UART_MCR) = 8; /* OUT2 connects the interrupt line */
    UART(UART_IER) = 1;
    start_ticks(5000 * TICKS_PER_MS);
    u32 shown = 0;
    int has_ended = 0;
    while (!has_ended) {
        WAIT_UNTIL(ticks > 0 || typed_count > shown);
        has_ended = typed_count == shown; /* five seconds have passed */
        for (; !has_ended && shown < typed_count; shown++) {
            u8 byte = typed[shown];
            has_ended = byte == '\r' || byte == '\n' || shown + 1 == sizeof typed;
            if (!has_ended) {
                put(byte);
            }
        }
    }
    set_timer(~0ull);
    UART(UART_IER) = 0;
    u32 length = 0;
    while (length < shown && typed[length] != '\r' && typed[length] != '\n') {
        length++;
    }
    if (length == 0) {
        print("\n         Nothing, then.\n");
        return;
    }
    print("\n         Backwards, that is: ");
    while (length) {
        put(typed[--length]);
    }
    print("\n");
}

__attribute__((used)) static int main(void) {
    UART(UART_FCR) = 1; /* FIFOs */
    UART(UART_LCR) = 3; /* eight bits */
    PLIC(4 * UART_SOURCE) = 1;
    PLIC(4 * DISK_SOURCE) = 1;
    PLIC(0x2000) = 1 << UART_SOURCE | 1 << DISK_SOURCE;
    PLIC(0x200000) = 0;
    write_csr(mie, MIE_MTIE | MIE_MEIE);
    set_csr(mstatus, MSTATUS_MIE);

    print("Hello from RV32IMA.\n");
    print("Clock:   it is ");
    print_date();
    print("\n");
    use_timer();
    use_disk();
    use_keyboard();
    print("Clock:   it is ");
    print_date();
    print("\nBye. I switch the power off.\n");
    POWER = POWER_OFF;
    return 0;
}
