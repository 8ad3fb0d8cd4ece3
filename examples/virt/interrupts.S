// A program that lives on interrupts: a dot every millisecond, an echo of what is typed, and "q" to power off.
//
// clang --target=aarch64-none-elf -c -o interrupts.o interrupts.S
// ld.lld -Ttext=0 --oformat=binary -o interrupts.bin interrupts.o

        .equ GICD, 0x08000000
        .equ GICC, 0x08010000
        .equ UART, 0x09000000
        .equ TIMER, 30                  // private interrupts of the GIC: the physical timer
        .equ UART_SPI, 33               // shared ones begin at 32
        .equ MILLISECOND, 62500         // ticks
        .equ PSCI_SYSTEM_OFF, 0x84000008

        .globl _start
_start:
        b       main

        .balign 0x800
vectors:
        .skip   0x280                   // from EL1 with its own stack pointer: an IRQ
irq:
        ldr     x1, =GICC
        ldr     w2, [x1, #0x0C]         // acknowledge
        cmp     w2, #TIMER
        b.eq    tick
        cmp     w2, #UART_SPI
        b.eq    receive
        eret                            // spurious
tick:
        mov     w3, #'.'
        str     w3, [x0]
        ldr     w3, =MILLISECOND
        msr     cntp_tval_el0, x3
        b       end
receive:
        ldr     w3, [x0, #0x18]         // flags
        tbnz    w3, #4, end             // the FIFO is empty
        ldr     w3, [x0]
        str     w3, [x0]
        cmp     w3, #'q'
        b.ne    receive
        ldr     w0, =PSCI_SYSTEM_OFF
        hvc     #0
end:
        str     w2, [x1, #0x10]         // end of interrupt
        eret

main:
        ldr     x0, =vectors
        msr     vbar_el1, x0
        ldr     x0, =GICD
        mov     w1, #1
        str     w1, [x0]
        mov     w1, #1 << TIMER
        str     w1, [x0, #0x100]
        mov     w1, #1 << (UART_SPI - 32)
        str     w1, [x0, #0x104]
        ldr     x0, =GICC
        mov     w1, #0xF0
        str     w1, [x0, #0x04]         // priority mask
        mov     w1, #1
        str     w1, [x0]
        ldr     x0, =UART
        mov     w1, #0x10
        str     w1, [x0, #0x2C]         // FIFOs
        mov     w1, #0x301
        str     w1, [x0, #0x30]         // enabled, with both directions
        mov     w1, #0x50
        str     w1, [x0, #0x38]         // interrupts: receive, and its timeout
        ldr     w1, =MILLISECOND
        msr     cntp_tval_el0, x1
        mov     x1, #1
        msr     cntp_ctl_el0, x1
        msr     daifclr, #2
wait:
        wfi
        b       wait
