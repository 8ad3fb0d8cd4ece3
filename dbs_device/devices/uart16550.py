"""Serial port: a 16550A UART with its FIFOs.

Datasheet: National Semiconductor PC16550D.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._common import ByteSink, Irq, no_irq
from ._isa import IsaDevice

__all__ = ["Uart16550"]


class Register:
    """Offsets of the registers."""

    DATA = 0  # with DLAB set, the low byte of the divisor
    INTERRUPT_ENABLE = 1  # with DLAB set, the high byte of the divisor
    INTERRUPT_ID = 2  # read
    FIFO_CONTROL = 2  # written
    LINE_CONTROL = 3
    MODEM_CONTROL = 4
    LINE_STATUS = 5
    MODEM_STATUS = 6
    SCRATCH = 7


ENABLE_RECEIVED, ENABLE_TRANSMITTER_EMPTY, ENABLE_LINE_STATUS, ENABLE_MODEM_STATUS = 0x01, 0x02, 0x04, 0x08
ID_NONE, ID_MODEM_STATUS, ID_TRANSMITTER_EMPTY, ID_RECEIVED, ID_LINE_STATUS = 0x01, 0x00, 0x02, 0x04, 0x06
ID_TIMEOUT = 0x0C
ID_FIFOS_ENABLED = 0xC0
FIFO_ENABLE, FIFO_CLEAR_RECEIVER = 0x01, 0x02
DIVISOR_LATCH_ACCESS = 0x80  # line control
MODEM_OUT2, MODEM_LOOPBACK = 0x08, 0x10  # modem control
DATA_READY, OVERRUN_ERROR, TRANSMITTER_EMPTY = 0x01, 0x02, 0x60  # line status; the last one is THRE and TEMT
CTS, DSR, RING, DCD = 0x10, 0x20, 0x40, 0x80  # modem status; the lower half shows what has changed

FIFO_SIZE = 16
TRIGGER_LEVELS = (1, 4, 8, 14)
REGISTERS = 8


class Uart16550(IsaDevice):
    """The chip, with a peer that is always connected and accepts every byte at once.

    It serves ports, where a register is a byte, and MMIO, where registers may be wider or further apart.

    Parameters
    ----------
    sink : callable
        Called with each byte that the guest sends.
    irq : callable
        The interrupt line.
    out2_enables_irq : bool
        Whether the modem control register's OUT2 connects the line, as on every PC.
    base : int
        First of its ports.
    stride : int
        Distance of the registers in bytes (``1 << reg-shift`` of a device tree).
    frequency : int
        Of the crystal, in Hz: sixteen times the highest baud rate.

    Attributes
    ----------
    size : int
        Bytes to register.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_divisor": range(0x10000),
        "_interrupt_enable": range(0x10),
        "_fifo_control": range(0x100),
        "_line_control": range(0x100),
        "_modem_control": range(0x20),
        "_scratch": range(0x100),
        "_received": [range(0x100)],
        "_overrun": None,
        "_transmitter_empty_pending": None,
        "_modem_lines": range(0x100),
        "_modem_changes": range(0x10),
    }

    def __init__(
        self,
        *,
        sink: ByteSink,
        irq: Irq = no_irq,
        out2_enables_irq: bool = True,
        base: int = 0x3F8,
        stride: int = 1,
        frequency: int = 1_843_200,
    ) -> None:
        if stride < 1:
            raise ValueError(f"registers are 1 byte apart or more, not {stride}")
        self.size = REGISTERS * stride
        super().__init__(Resource.PioAddressRange(base, self.size))
        self._sink = sink
        self._irq = irq
        self._out2_enables_irq = out2_enables_irq
        self._stride = stride
        self._frequency = frequency
        self._divisor = 0
        self._interrupt_enable = 0
        self._fifo_control = 0
        self._line_control = 0
        self._modem_control = 0
        self._scratch = 0
        self._received: deque[int] = deque()
        self._overrun = False
        self._transmitter_empty_pending = False
        self._modem_lines = CTS | DSR | DCD
        self._modem_changes = 0

    @property
    def baud(self) -> float | None:
        """The baud rate of the divisor latch, or None if it is 0."""
        return self._frequency / (16 * self._divisor) if self._divisor else None

    @property
    def room(self) -> int:
        """How many bytes `receive` takes without a loss: none while the guest has the receiver in loopback."""
        if self._modem_control & MODEM_LOOPBACK:
            return 0
        return (FIFO_SIZE if self._fifos_enabled else 1) - len(self._received)

    def receive(self, received: Iterable[int]) -> None:
        """Receive bytes from the peer. Bytes that do not fit are lost, and an overrun is reported."""
        if not self._modem_control & MODEM_LOOPBACK:
            self._store_received(received)

    def _store_received(self, received: Iterable[int]) -> None:
        for byte in received:
            if len(self._received) < (FIFO_SIZE if self._fifos_enabled else 1):
                self._received.append(byte)
                continue
            self._overrun = True
            if not self._fifos_enabled:
                self._received[0] = byte  # the holding register is overwritten; a full FIFO is not
        self._update_irq()

    def load(self, base: int, offset: int, size: int) -> int:
        return self.pio_in(base, offset, size)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self.pio_out(base, offset, size, value)

    def in8(self, base: int, offset: int) -> int:
        register, within = divmod(offset, self._stride)
        return 0 if within else self._read(register)

    def out8(self, base: int, offset: int, value: int) -> None:
        register, within = divmod(offset, self._stride)
        if not within:
            self._write(register, value)

    def _read(self, offset: int) -> int:
        if offset <= Register.INTERRUPT_ENABLE and self._line_control & DIVISOR_LATCH_ACCESS:
            return self._divisor >> 8 * offset & 0xFF
        match offset:
            case Register.DATA:
                value = self._received.popleft() if self._received else 0
            case Register.INTERRUPT_ENABLE:
                value = self._interrupt_enable
            case Register.INTERRUPT_ID:
                value = self._interrupt_id()
                if value & 0x0F == ID_TRANSMITTER_EMPTY:
                    self._transmitter_empty_pending = False  # reading its identification clears it
                if self._fifos_enabled:
                    value |= ID_FIFOS_ENABLED
            case Register.LINE_CONTROL:
                value = self._line_control
            case Register.MODEM_CONTROL:
                value = self._modem_control
            case Register.LINE_STATUS:
                value = self._line_status()
                self._overrun = False
            case Register.MODEM_STATUS:
                value = self._modem_inputs() | self._modem_changes
                self._modem_changes = 0
            case _:
                value = self._scratch
        self._update_irq()
        return value

    def _write(self, offset: int, value: int) -> None:
        if offset <= Register.INTERRUPT_ENABLE and self._line_control & DIVISOR_LATCH_ACCESS:
            self._divisor = self._divisor & ~(0xFF << 8 * offset) | value << 8 * offset
            return
        match offset:
            case Register.DATA:
                self._transmit(value)
            case Register.INTERRUPT_ENABLE:
                if value & ~self._interrupt_enable & ENABLE_TRANSMITTER_EMPTY:
                    self._transmitter_empty_pending = True
                self._interrupt_enable = value & 0x0F
            case Register.FIFO_CONTROL:
                if (value ^ self._fifo_control) & FIFO_ENABLE or value & FIFO_CLEAR_RECEIVER:
                    self._received.clear()
                self._fifo_control = value
            case Register.LINE_CONTROL:
                self._line_control = value
            case Register.MODEM_CONTROL:
                before = self._modem_inputs()
                self._modem_control = value & 0x1F
                self._note_modem_changes(before)
            case Register.SCRATCH:
                self._scratch = value
        self._update_irq()

    def _transmit(self, byte: int) -> None:
        self._transmitter_empty_pending = True  # it has already been sent
        if self._modem_control & MODEM_LOOPBACK:
            self._store_received((byte,))
        else:
            self._sink(byte)

    @property
    def _fifos_enabled(self) -> bool:
        return bool(self._fifo_control & FIFO_ENABLE)

    def _line_status(self) -> int:
        return TRANSMITTER_EMPTY | (DATA_READY if self._received else 0) | (OVERRUN_ERROR if self._overrun else 0)

    def _modem_inputs(self) -> int:
        control = self._modem_control
        if not control & MODEM_LOOPBACK:
            return self._modem_lines
        # Loopback: DTR, RTS, OUT1 and OUT2 are read as DSR, CTS, RI and DCD.
        return (control & 1) << 5 | (control & 2) << 3 | (control & 4) << 4 | (control & 8) << 4

    def _note_modem_changes(self, before: int) -> None:
        after = self._modem_inputs()
        changed = before ^ after
        self._modem_changes |= (changed & (CTS | DSR | DCD)) >> 4 | (before & ~after & RING) >> 4

    def _interrupt_id(self) -> int:
        """Return the pending interrupt of the highest priority."""
        enabled = self._interrupt_enable
        if enabled & ENABLE_LINE_STATUS and self._overrun:
            return ID_LINE_STATUS
        if enabled & ENABLE_RECEIVED and self._received:
            trigger = TRIGGER_LEVELS[self._fifo_control >> 6] if self._fifos_enabled else 1
            # Bytes below the trigger level are reported once the line is idle, which it is: they arrive at once.
            return ID_RECEIVED if len(self._received) >= trigger else ID_TIMEOUT
        if enabled & ENABLE_TRANSMITTER_EMPTY and self._transmitter_empty_pending:
            return ID_TRANSMITTER_EMPTY
        if enabled & ENABLE_MODEM_STATUS and self._modem_changes:
            return ID_MODEM_STATUS
        return ID_NONE

    def state_loaded(self) -> None:
        self._update_irq()

    def _update_irq(self) -> None:
        connected = True
        if self._out2_enables_irq:
            connected = self._modem_control & (MODEM_OUT2 | MODEM_LOOPBACK) == MODEM_OUT2
        self._irq(connected and self._interrupt_id() != ID_NONE)
