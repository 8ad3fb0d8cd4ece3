; Boot sector: prints a line through the BIOS, waits for the BIOS clock to tick, and powers the machine off through ACPI.
;
;     nasm -f bin -o boot.bin boot.asm

        bits    16
        org     0x7C00

TICKS           equ     0x046C          ; BIOS data area: timer ticks since midnight
PCI_ADDRESS     equ     0xCF8
PCI_DATA        equ     0xCFC
PM_BASE         equ     0x80000B40      ; register 0x40 of PCI function 0:1.3 (PIIX4 power management)
PM_BASE_MASK    equ     0xFFC0
PM_CONTROL      equ     4               ; PMCNTRL, from PM_BASE on
SOFT_OFF        equ     0x2000          ; SUS_EN, with 0 as SUS_TYP

        jmp     0x0000:start            ; whatever the firmware has chosen of the segments that mean the same

start:  cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7C00
        sti
        cld

        mov     si, line
print:  lodsb
        test    al, al
        jz      wait_for_tick
        mov     ah, 0x0E                ; teletype output
        mov     bx, 0x0007
        int     0x10
        jmp     print

wait_for_tick:
        mov     ax, [TICKS]
.again: hlt
        cmp     ax, [TICKS]
        je      .again

        mov     eax, PM_BASE
        mov     dx, PCI_ADDRESS
        out     dx, eax
        mov     dx, PCI_DATA
        in      ax, dx
        and     ax, PM_BASE_MASK
        add     ax, PM_CONTROL
        mov     dx, ax
        mov     ax, SOFT_OFF
        out     dx, ax

        cli                             ; it is off; not reached
.dead:  hlt
        jmp     .dead

line:   db      "Hello from a boot sector: this disk, screen and power switch are Python.", 13, 10, 0

        times   510 - ($ - $$) db 0
        dw      0xAA55
