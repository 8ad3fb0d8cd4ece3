"""Serial port: ARM's PrimeCell UART.

Datasheet: ARM DDI 0183, PrimeCell UART (PL011), r1p4. Left out: DMA, IrDA, framing, parity and break of received bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ..registers import RO, UNIMPLEMENTED, WC, WO, Bits, Flag, Interrupt, Register, on_change, on_read, on_write
from ._common import BankState, ByteSink, Irq
from ._primecell import PrimeCell

__all__ = ["Pl011"]

FIFO_SIZE = 16
TRIGGER_LEVELS = (2, 4, 8, 12, 14)  # 1/8, 1/4, 1/2, 3/4, 7/8 of the FIFO
OVERRUN = 1 << 11  # in the data register
RX, TX, RX_TIMEOUT, OVERRUN_ERROR = 1 << 4, 1 << 5, 1 << 6, 1 << 10  # interrupts


class Data(Register):
    """Data: what was received, and what is to be sent."""

    DATA = Bits(0, 8)
    FE = Flag(8, RO, doc="framing error")
    PE = Flag(9, RO, doc="parity error")
    BE = Flag(10, RO, doc="break")
    OE = Flag(11, RO, doc="overrun")


class Flags(Register, access=RO):
    """Flags."""

    CTS = Flag(0, RO, reset=True)
    DSR = Flag(1, RO, reset=True)
    DCD = Flag(2, RO, reset=True)
    BUSY = Flag(3, RO)
    RXFE = Flag(4, RO, reset=True, doc="receive FIFO empty")
    TXFF = Flag(5, RO, doc="transmit FIFO full")
    RXFF = Flag(6, RO, doc="receive FIFO full")
    TXFE = Flag(7, RO, reset=True, doc="transmit FIFO empty")


class LineControl(Register):
    """Line control."""

    BRK = Flag(0)
    PEN = Flag(1)
    EPS = Flag(2)
    STP2 = Flag(3)
    FEN = Flag(4, doc="FIFOs enabled")
    WLEN = Bits(5, 2)
    SPS = Flag(7)


class Control(Register, access=RO):
    """Control."""

    UARTEN = Flag(0)
    SIREN = Flag(1, UNIMPLEMENTED)
    SIRLP = Flag(2, UNIMPLEMENTED)
    LBE = Flag(7, doc="loopback")
    TXE = Flag(8, reset=True)
    RXE = Flag(9, reset=True)
    MODEM = Bits(10, 6, doc="outputs and hardware flow control; nothing is connected")


class FifoLevels(Register, access=RO):
    """Trigger levels of the FIFOs."""

    TXIFLSEL = Bits(0, 3, reset=2)
    RXIFLSEL = Bits(3, 3, reset=2)


class InterruptMask(Register, access=RO):
    """Interrupts that are enabled."""

    MODEM = Bits(0, 4)
    RX = Flag(4)
    TX = Flag(5)
    RT = Flag(6, doc="receive timeout")
    FE = Flag(7)
    PE = Flag(8)
    BE = Flag(9)
    OE = Flag(10)


class Pl011(BankState, PrimeCell, size=0x1000):
    """The chip, with a peer that accepts every byte at once.

    The guest is told of a byte below the trigger level by the receive timeout at once, since the line is idle then. Any
    thread may call `receive`.

    Parameters
    ----------
    sink : callable
        Called with each byte (an int) that the guest sends.
    irq : callable, optional
        The combined interrupt line, UARTINTR. `bank.irq` is that line, and can be connected later.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> uart, manager = Pl011(sink=lambda byte: print(chr(byte))), IoManager()
    >>> manager.register_device_io(uart, [Resource.MmioAddressRange(0x900_0000, uart.size)])
    >>> manager.mmio_store(0x900_0000, 4, ord("A"))
    A
    >>> manager.mmio_store(0x900_0030, 4, 0x301)  # enabled, transmitter and receiver too
    >>> uart.receive(b"xyz")
    >>> uart.FR.RXFE, chr(manager.mmio_load(0x900_0000, 4))
    (False, 'x')
    """

    DR = Data(0x000)
    RSR = Register(0x004, access=WC, doc="receive status, cleared by a write")
    FR = Flags(0x018)
    ILPR = Register(0x020, access=UNIMPLEMENTED)
    IBRD = Register(0x024, doc="baud rate divisor, integer part")
    FBRD = Register(0x028, doc="baud rate divisor, fraction")
    LCRH = LineControl(0x02C)
    CR = Control(0x030)
    IFLS = FifoLevels(0x034)
    IMSC = InterruptMask(0x038)
    RIS = Register(0x03C, access=RO, doc="raw interrupt status")
    MIS = Register(0x040, access=RO, doc="masked interrupt status")
    ICR = Register(0x044, access=WO, doc="clears interrupts")
    DMACR = Register(0x048, access=UNIMPLEMENTED)
    irq = Interrupt(status=RIS, enable=IMSC)

    identity = 0x0014_1011, 0xB105_F00D

    saved: ClassVar[Mapping[str, Any]] = {"_received": [range(1 << 12)], "_overrun": None}

    def __init__(self, *, sink: ByteSink, irq: Irq | None = None) -> None:
        self._sink = sink
        self._received: deque[int] = deque()  # with the overrun flag
        self._overrun = False  # a byte was lost after the last one of the FIFO
        self._state_lock = threading.RLock()
        self.irq.connect(irq)

    def receive(self, data: Iterable[int]) -> None:
        """Receive bytes from the peer. Bytes that do not fit are lost, and an overrun is reported.

        Parameters
        ----------
        data : bytes
            What the peer sends. Nothing is received while the UART or its receiver is disabled, or in loopback.
        """
        if self.CR.UARTEN and self.CR.RXE and not self.CR.LBE:
            self._store_received(data)

    @property
    def room(self) -> int:
        """How many bytes `receive` can take now without a loss."""
        return (FIFO_SIZE if self.LCRH.FEN else 1) - len(self._received)

    def _store_received(self, data: Iterable[int]) -> None:
        with self._state_lock:
            for byte in data:
                if self.room > 0:
                    self._received.append(byte | (OVERRUN if self._overrun else 0))
                    self._overrun = False
                else:
                    self._overrun = True
                    self._raise(OVERRUN_ERROR)
            self._update_receiver()

    def _update_receiver(self) -> None:
        """Make flags and interrupts agree with what was received."""
        count = len(self._received)
        self.FR.update(RXFE=count == 0, RXFF=self.room <= 0)
        trigger = TRIGGER_LEVELS[min(self.IFLS.RXIFLSEL, 4)] if self.LCRH.FEN else 1
        asserted = (RX if count >= trigger else 0) | (RX_TIMEOUT if 0 < count < trigger else 0)
        self.RIS.value = self.RIS.value & ~(RX | RX_TIMEOUT) | asserted

    def _raise(self, interrupt: int) -> None:
        self.RIS.value |= interrupt

    @on_read(DR)
    def _read_data(self, value: int) -> int:
        with self._state_lock:
            if self._received:
                value = self._received.popleft()
                self.DR.value = value
                self.RSR.value = value >> 8
                self._update_receiver()
            return value

    @on_write(DR)
    def _write_data(self, new: int, old: int) -> None:
        byte = new & 0xFF
        with self._state_lock:
            self.DR.value = old  # what is written does not show in what is read
            self._raise(TX)  # it has been sent
            if self.CR.LBE:
                self._store_received((byte,))
                return
        self._sink(byte)

    @on_change(LCRH.FEN)
    def _switch_fifos(self, new: int, old: int) -> None:
        with self._state_lock:
            self._received.clear()
            self._update_receiver()

    @on_change(IFLS.RXIFLSEL)
    def _change_level(self, new: int, old: int) -> None:
        with self._state_lock:
            self._update_receiver()

    @on_read(MIS)
    def _read_masked(self, value: int) -> int:
        return self.RIS.value & self.IMSC.value

    @on_write(ICR)
    def _clear(self, new: int, old: int) -> None:
        with self._state_lock:
            self.RIS.value &= ~new

    def reset(self) -> None:
        """Give every register its reset value, and empty the FIFO."""
        with self._state_lock:
            super().reset()
            self._received.clear()
            self._overrun = False
