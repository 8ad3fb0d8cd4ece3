@ Firmware of an STM32F407: sends on USART2, which is Qiling's, what it receives from a device on the external bus, which
@ is ours. The device interrupts for each byte; a 0 ends the message.

    .syntax unified
    .thumb

vectors:
    .word 0x20001000            @ initial stack pointer
    .word reset + 1
    .space 4 * 20               @ exceptions, and interrupts 0 to 5
    .word received + 1          @ interrupt 6

reset:
    ldr r0, usart2
    movw r1, #0x200c            @ UE, TE, RE
    str r1, [r0, #0xc]          @ CR1
    ldr r2, nvic
    movs r1, #0x40              @ interrupt 6
    str r1, [r2]                @ ISER0
    ldr r4, device
    movs r7, #0                 @ whether the message has ended
    movs r1, #1
    str r1, [r4, #8]            @ CONTROL.START
wait:
    cmp r7, #0
    beq wait
    movs r1, #0
    str r1, [r4, #8]            @ CONTROL: stop
    b .

received:
    ldr r5, [r4, #4]            @ DATA
    cbz r5, end
busy:
    ldr r6, [r0]                @ SR
    lsls r6, r6, #24            @ TXE
    bpl busy
    str r5, [r0, #4]            @ DR
    bx lr
end:
    movs r7, #1
    bx lr

    .balign 4
usart2:
    .word 0x40004400
nvic:
    .word 0xe000e100
device:
    .word 0x60000000
