"""The devices of the simulations, as they would be in any emulator."""

from __future__ import annotations

from collections import deque

from dbs_device.registers import RO, W1C, WO, Bits, Flag, Register, RegisterBank, on_read, on_write


class UartStatus(Register):
    RXNE = Flag(0, RO, doc="receive data register not empty")


class Uart(RegisterBank, size=0x10):
    """A UART with a FIFO in each direction: every read of RXDATA takes a byte, every write of TXDATA sends one."""

    STATUS = UartStatus(0x0)
    RXDATA = Register(0x4, access=RO)
    TXDATA = Register(0x8, access=WO)

    def __init__(self, received: bytes) -> None:
        super().__init__()
        self.received = deque(received)
        self.sent = bytearray()
        self.STATUS.RXNE = bool(self.received)

    @on_read(RXDATA)
    def receive(self, value: int) -> int:
        byte = self.received.popleft()
        self.STATUS.RXNE = bool(self.received)
        return byte

    @on_write(TXDATA)
    def send(self, new: int, old: int) -> None:
        self.sent.append(new & 0xFF)


class TimerControl(Register):
    ENABLE = Flag(0)
    MODE = Bits(4, 2)


class TimerStatus(Register):
    EXPIRED = Flag(0, W1C, reset=True)
    OVERRUN = Flag(1, W1C, reset=True)


class Timer(RegisterBank, size=0x10):
    """The model of timer.v."""

    CTRL = TimerControl(0x0, access=RO)
    STATUS = TimerStatus(0x4, access=RO)
    LOAD = Register(0x8)
    ID = Register(0xC, access=RO, reset=0x54494D31)
