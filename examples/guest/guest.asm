; The guest of the demo: 32-bit x86 code that looks after seven devices and tells what it finds.
;
;     nasm -f bin -o guest.bin guest.asm

        bits    32
        org     0x1000

STACK           equ     0x8000

UART            equ     0x3F8
LINE_STATUS     equ     UART + 5
TRANSMITTER_EMPTY equ   0x20

CMOS_INDEX      equ     0x70
CMOS_DATA       equ     0x71
STATUS_A        equ     0x0A
UPDATING        equ     0x80            ; the clock is just being set forward

TIMER           equ     0xFED00000
TIMER_LEFT      equ     TIMER + 4

SCREEN          equ     0xFED00400      ; one byte of colour a cell, in the timer's page
WIDTH           equ     64
HEIGHT          equ     16
WHITE           equ     231
BLACK           equ     16

SOUND_CARD      equ     0x220           ; where old games look for one

SLOT_STATUS     equ     0xAE00
SLOT_ADDRESS    equ     0xAE04

CARD_ID         equ     0               ; from the card's address on
CARD_DATA       equ     4
CARD_CRC        equ     8

POWER           equ     0x604
SOFT_OFF        equ     0x2000

start:  mov     esp, STACK
        mov     esi, hello
        call    print
        call    tell_date
        call    wait_for_timer
        call    draw
        call    look_for_sound_card
        call    use_card
        mov     esi, goodbye
        call    print
        mov     dx, POWER
        mov     ax, SOFT_OFF
        out     dx, ax
        jmp     $

; -- the clock

tell_date:
        mov     esi, the_date
        call    print
.updating:
        mov     al, STATUS_A
        call    read_cmos
        test    al, UPDATING
        jnz     .updating
        mov     esi, date_registers
.next:  lodsb                           ; a register, then what to print after its two digits, or 0
        call    read_cmos
        call    print_byte              ; BCD: its digits are the decimal ones
        lodsb
        test    al, al
        jz      .next
        call    put
        cmp     al, 10
        jne     .next
        ret

read_cmos:
        out     CMOS_INDEX, al
        in      al, CMOS_DATA
        ret

; -- the timer

wait_for_timer:
        mov     esi, the_timer
        call    print
        mov     dword [TIMER], 10000
        xor     ebx, ebx
.poll:  inc     ebx
        cmp     dword [TIMER_LEFT], 0
        jne     .poll
        mov     eax, ebx
        call    print_decimal
        mov     esi, polls
        jmp     print

; -- the screen

draw:   mov     esi, the_screen
        call    print
        mov     esi, picture
        mov     edi, SCREEN
        xor     edx, edx                ; row
.row:   xor     ecx, ecx                ; column
.cell:  lodsb
        mov     ah, WHITE
        cmp     al, '#'
        je      .put
        mov     ah, BLACK
        cmp     al, ':'
        je      .put
        lea     ebx, [ecx + edx]        ; a rainbow from the upper left to the lower right
        shr     ebx, 1
        mov     ah, [rainbow + ebx]
.put:   mov     [edi], ah
        inc     edi
        inc     ecx
        cmp     ecx, WIDTH
        jb      .cell
        inc     edx
        cmp     edx, HEIGHT
        jb      .row
        mov     esi, drawn
        jmp     print

; -- a port without an owner

look_for_sound_card:
        mov     esi, the_sound_card
        call    print
        mov     dx, SOUND_CARD
        in      al, dx
        mov     ebx, eax
        call    print_byte
        mov     esi, no_card
        cmp     bl, 0xFF
        je      print
        mov     esi, a_card
        jmp     print

; -- a card that is plugged in while the guest runs

use_card:
        mov     esi, the_slot
        call    print
        mov     dx, SLOT_STATUS
.empty: in      al, dx
        test    al, 1
        jz      .empty
        mov     esi, found_card
        call    print
        mov     dx, SLOT_ADDRESS
        in      eax, dx
        mov     ebp, eax
        call    print_hex
        mov     esi, named
        call    print
        mov     ebx, [ebp + CARD_ID]    ; four letters
        mov     ecx, 4
.letter:
        mov     al, bl
        call    put
        shr     ebx, 8
        loop    .letter
        mov     esi, of_digits
        call    print
        mov     esi, digits
        mov     ecx, digits_end - digits
.feed:  lodsb
        mov     [ebp + CARD_DATA], al
        loop    .feed
        mov     eax, [ebp + CARD_CRC]
        call    print_hex
        mov     esi, end_of_line
        jmp     print

; -- the console

print:  lodsb                           ; the text at ESI, up to a zero
        test    al, al
        jz      .done
        call    put
        jmp     print
.done:  ret

put:    push    edx                     ; the character in AL, which is kept
        push    eax
        mov     ah, al
        mov     dx, LINE_STATUS
.busy:  in      al, dx
        test    al, TRANSMITTER_EMPTY
        jz      .busy
        mov     al, ah
        mov     dx, UART
        out     dx, al
        pop     eax
        pop     edx
        ret

print_byte:                             ; AL, as two hexadecimal digits
        push    eax
        shr     al, 4
        call    print_digit
        pop     eax
        and     al, 0x0F
print_digit:
        add     al, '0'
        cmp     al, '9'
        jbe     put
        add     al, 'A' - '9' - 1
        jmp     put

print_hex:                              ; EAX
        push    ecx
        mov     ecx, 4
.byte:  rol     eax, 8
        push    eax
        call    print_byte
        pop     eax
        loop    .byte
        pop     ecx
        ret

print_decimal:                          ; EAX
        push    edx
        push    ecx
        mov     ecx, 10
        xor     edx, edx
        div     ecx
        test    eax, eax
        jz      .last
        call    print_decimal
.last:  mov     al, dl
        call    print_digit
        pop     ecx
        pop     edx
        ret

; -- texts

hello:          db      "Hello from 32-bit x86 code. My devices are Python.", 10, 0
the_date:       db      "RTC:     it is ", 0
the_timer:      db      "Timer:   10000 ticks ... done after ", 0
polls:          db      " polls.", 10, 0
the_screen:     db      "Screen:  drawing 64 x 16 cells ... ", 0
drawn:          db      "done.", 10, 0
the_sound_card: db      "Sound:   port 0x220 reads 0x", 0
no_card:         db      ", so there is no card.", 10, 0
a_card:       db      ", so there is a card.", 10, 0
the_slot:       db      "Slot:    empty. I wait for a card ...", 10, 0
found_card:     db      "Slot:    a card at 0x", 0
named:          db      ", named ", 0
of_digits:      db      ".", 10, "Card:    the CRC-32 of 123456789 is 0x", 0
end_of_line:    db      ".", 10, 0
goodbye:        db      "Bye. I switch the power off.", 10, 0

digits:         db      "123456789"
digits_end:

; Century, year, month, day, hours, minutes, seconds.
date_registers: db      0x32, 0, 0x09, "-", 0x08, "-", 0x07, " ", 0x04, ":", 0x02, ":", 0x00, 10

rainbow:        db      196, 196, 202, 202, 208, 208, 214, 214, 220, 226, 190, 154, 118, 82, 46, 46, 47, 48, 49, 50
                db      51, 45, 45, 39, 39, 33, 33, 27, 27, 21, 21, 57, 57, 93, 93, 129, 129, 165, 201, 200

picture:
        db      "................................................................"
        db      "................................................................"
        db      "................................................................"
        db      "................................................................"
        db      "......#.#.....................#...............#................."
        db      "......#:#:....................#:...............:................"
        db      "...####:####...####........####:.###..#...#..##....####..###...."
        db      "..#.::#:#:::#.#.::::#####.#.::#:#.::#.#:..#:..#:..#.::::#.::#..."
        db      "..#:..#:#:..#:.###...:::::#:..#:#####:#:..#:..#:..#:....#####:.."
        db      "..#:..#:#:..#:..::#.......#:..#:#:::::.#.#.:..#:..#:....#:::::.."
        db      "...####:####.:####.:.......####:.####...#.:..###...####..####..."
        db      "....::::.::::..::::.........::::..::::...:....:::...::::..::::.."
        db      "................................................................"
        db      "................................................................"
        db      "................................................................"
        db      "................................................................"
