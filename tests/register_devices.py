"""Devices as register banks, as an author would write them; and a timer on buffers, to compare the two."""

from __future__ import annotations

from collections import deque

from dbs_device import DeviceIo
from dbs_device.interrupts import IrqLine
from dbs_device.registers import RO, W0C, WO, Bits, Flag, Interrupt, Register, RegisterBank, on_read, on_write


class Status(Register, access=RO):
    """Status register."""

    RXNE = Flag(5, W0C, doc="receive data register not empty")
    TC = Flag(6, W0C, reset=True, doc="transmission complete")
    TXE = Flag(7, RO, reset=True, doc="transmit data register empty")


class Data(Register, access=RO):
    """Data register."""

    DR = Bits(0, 9)


class Control1(Register):
    """Control register 1."""

    RXNEIE = Flag(5, doc="RXNE interrupt enable")
    TCIE = Flag(6, doc="TC interrupt enable")
    TXEIE = Flag(7, doc="TXE interrupt enable")
    UE = Flag(13, doc="USART enable")


class Usart(RegisterBank, size=0x400):
    """The USART of an STM32F4."""

    SR = Status(0x00)
    DR = Data(0x04)
    BRR = Register(0x08)
    CR1 = Control1(0x0C)
    CR2 = Register(0x10)
    CR3 = Register(0x14)
    irq = Interrupt(status=SR, enable=CR1)

    def __init__(self) -> None:
        self.sent = bytearray()
        self.received: deque[int] = deque()

    def receive(self, data: bytes) -> None:
        """Take bytes from the line."""
        self.received.extend(data)
        self.SR.RXNE = bool(self.received)

    @on_read(DR)
    def pull(self, value: int) -> int:
        if self.received:
            value = self.received.popleft()
        self.SR.RXNE = bool(self.received)
        return value

    @on_write(DR)
    def push(self, new: int, _old: int) -> None:
        self.sent.append(new & 0xFF)


# The timer, twice. A test compares them, and their lengths.


class TimerControl(Register):
    CEN = Flag(0)
    OPM = Flag(3)


class TimerStatus(Register, access=RO):
    UIF = Flag(0, W0C)
    CC1IF = Flag(1, W0C)


class TimerEvents(Register, access=WO):
    UG = Flag(0, WO)


class Timer(RegisterBank, size=0x400):
    CR1 = TimerControl(0x00)
    DIER = Register(0x0C)
    SR = TimerStatus(0x10)
    EGR = TimerEvents(0x14)
    CNT = Register(0x24)
    PSC = Register(0x28)
    ARR = Register(0x2C, reset=0xFFFFFFFF)
    CCR1 = Register(0x34)
    irq = Interrupt(status=SR, enable=DIER)

    @on_write(EGR.UG)
    def update(self, new: int, _old: int) -> None:
        if new:
            self.CNT.value = 0
            self.SR.UIF = True

    def tick(self) -> None:
        if self.CR1.CEN:
            self.CNT.value = count = 0 if self.CNT.value >= self.ARR.value else self.CNT.value + 1
            self.SR.update(UIF=self.SR.UIF or count == 0, CC1IF=self.SR.CC1IF or count == self.CCR1.value)
            if count == 0 and self.CR1.OPM:
                self.CR1.CEN = False


class TimerOnBuffers(DeviceIo):
    CR1, DIER, SR, EGR, CNT, PSC, ARR, CCR1 = 0x00, 0x0C, 0x10, 0x14, 0x24, 0x28, 0x2C, 0x34
    CEN, OPM = 1 << 0, 1 << 3
    UIF, CC1IF = 1 << 0, 1 << 1
    UG = 1 << 0

    def __init__(self) -> None:
        self.irq = IrqLine()
        self.control = 0
        self.interrupt_enable = 0
        self.status = 0
        self.count = 0
        self.prescaler = 0
        self.reload = 0xFFFFFFFF
        self.compare = 0

    def get_register(self, offset: int) -> int:
        if offset == self.CR1:
            return self.control
        if offset == self.DIER:
            return self.interrupt_enable
        if offset == self.SR:
            return self.status
        if offset == self.CNT:
            return self.count
        if offset == self.PSC:
            return self.prescaler
        if offset == self.ARR:
            return self.reload
        if offset == self.CCR1:
            return self.compare
        return 0

    def set_register(self, offset: int, value: int, mask: int) -> None:
        if offset == self.CR1:
            self.control = self.control & ~mask | value
        elif offset == self.DIER:
            self.interrupt_enable = self.interrupt_enable & ~mask | value
        elif offset == self.SR:
            self.status &= value | ~mask
        elif offset == self.EGR:
            if value & self.UG:
                self.count = 0
                self.status |= self.UIF
        elif offset == self.CNT:
            self.count = self.count & ~mask | value
        elif offset == self.PSC:
            self.prescaler = self.prescaler & ~mask | value
        elif offset == self.ARR:
            self.reload = self.reload & ~mask | value
        elif offset == self.CCR1:
            self.compare = self.compare & ~mask | value
        self.update_irq()

    def read(self, base, offset, data):
        for index in range(len(data)):
            address = offset + index
            data[index] = self.get_register(address & ~3) >> 8 * (address & 3) & 0xFF

    def write(self, base, offset, data):
        last = offset + len(data)
        while offset < last:
            first = offset & 3
            size = min(4 - first, last - offset)
            value = int.from_bytes(data[:size], "little") << 8 * first
            self.set_register(offset - first, value, ((1 << 8 * size) - 1) << 8 * first)
            data = data[size:]
            offset += size

    def update_irq(self) -> None:
        self.irq.set(bool(self.status & self.interrupt_enable))

    def tick(self) -> None:
        if not self.control & self.CEN:
            return
        self.count = 0 if self.count >= self.reload else self.count + 1
        if self.count == 0:
            self.status |= self.UIF
            if self.control & self.OPM:
                self.control &= ~self.CEN
        if self.count == self.compare:
            self.status |= self.CC1IF
        self.update_irq()
