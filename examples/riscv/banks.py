"""The machine's devices as register banks: what needs no decision is native, the rest are hooks in Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dbs_device.clock import NS_PER_SECOND, Clock
from dbs_device.errors import StateError
from dbs_device.interrupts import IrqLine
from dbs_device.registers import (
    RO,
    WO,
    Bits,
    Flag,
    Interrupt,
    PageSelect,
    Register,
    RegisterBank,
    on_read,
    on_write,
)

from .devices import POWER_OFF, RESET

__all__ = ["Clint", "PowerSwitch", "Uart16550"]

FIFO_SIZE = 16
TRIGGER_LEVELS = (1, 4, 8, 14)
NO_INTERRUPT, TRANSMITTER_EMPTY, RECEIVED, LINE_STATUS, TIMEOUT = 0x01, 0x02, 0x04, 0x06, 0x0C
MODEM_STATUS, FIFOS_ENABLED = 0x00, 0xC0
ALL_ONES = (1 << 64) - 1
NEVER = 1 << 63  # ticks: centuries


class InterruptEnable(Register, size=1, access=RO):
    RDI = Flag(0, doc="received data")
    THRI = Flag(1, doc="transmitter empty")
    RLSI = Flag(2, doc="line status")
    MSI = Flag(3, doc="modem status")


class FifoControl(Register, size=1):
    ENABLE = Flag(0)
    CLEAR_RECEIVER = Flag(1)
    TRIGGER = Bits(6, 2)


class LineControl(Register, size=1):
    DLAB = Flag(7)


class ModemControl(Register, size=1, access=RO):
    DTR = Flag(0)
    RTS = Flag(1)
    OUT1 = Flag(2)
    OUT2 = Flag(3, doc="connects the interrupt line")
    LOOP = Flag(4)


class LineStatus(Register, size=1, access=RO):
    DR = Flag(0, RO, doc="data ready")
    OE = Flag(1, RO, on_read="clear", doc="overrun")
    THRE = Flag(5, RO, reset=True)
    TEMT = Flag(6, RO, reset=True)


class ModemStatus(Register, size=1, access=RO):
    DCTS = Flag(0, RO, on_read="clear")
    DDSR = Flag(1, RO, on_read="clear")
    TERI = Flag(2, RO, on_read="clear")
    DDCD = Flag(3, RO, on_read="clear")
    LINES = Bits(4, 4, RO, reset=0b1011)  # CTS, DSR and DCD


class Pending(Register, size=1):
    THRE = Flag(1, doc="the transmitter has become empty, and nobody has read so in IIR")


class Uart16550(RegisterBank, size=10, granule=1):
    """Serial port: a 16550A with its FIFOs, and a peer that is always connected and accepts every byte at once.

    Polling the line status, as drivers do for each byte, is native.

    Datasheet: National Semiconductor PC16550D.

    Parameters
    ----------
    sink : callable
        Called with each byte that the guest sends.
    irq : callable
        The interrupt line, which OUT2 enables.
    """

    RBR = Register(0, size=1, page=0, write=False)
    THR = Register(0, size=1, page=0, access=WO, read=False)
    IER = InterruptEnable(1, page=0)
    DLL = Register(0, size=1, page=1)
    DLM = Register(1, size=1, page=1)
    IIR = Register(2, size=1, write=False)
    FCR = FifoControl(2, read=False)
    LCR = LineControl(3)
    MCR = ModemControl(4)
    LSR = LineStatus(5)
    MSR = ModemStatus(6)
    SCR = Register(7, size=1)
    # Behind what the guest reaches: a latch of the chip, and the enable bits as far as OUT2 connects them.
    PENDING = Pending(8)
    CONNECTED = InterruptEnable(9)

    page = PageSelect(LCR.DLAB)
    irq = Interrupt(
        status=(LSR.DR, PENDING.THRE, LSR.OE, MSR.DCTS, MSR.DDSR, MSR.TERI, MSR.DDCD),
        enable=(CONNECTED.RDI, CONNECTED.THRI, CONNECTED.RLSI, *[CONNECTED.MSI] * 4),
    )

    def __init__(self, *, sink: Callable[[int], object], irq: Callable[[bool], object] | None = None) -> None:
        self._sink = sink
        self._received: deque[int] = deque()
        self.irq.connect(irq)

    @property
    def room(self) -> int:
        """How many bytes `receive` takes without a loss; none while the guest has the receiver in loopback."""
        return 0 if self.MCR.LOOP else self._capacity - len(self._received)

    @property
    def _capacity(self) -> int:
        return FIFO_SIZE if self.FCR.ENABLE else 1

    def receive(self, received: Iterable[int]) -> None:
        """Receive bytes from the peer. Bytes that do not fit are lost, and an overrun is reported."""
        if not self.MCR.LOOP:
            self._store_received(received)

    def _store_received(self, received: Iterable[int]) -> None:
        for byte in received:
            if len(self._received) < self._capacity:
                self._received.append(byte)
                continue
            self.LSR.OE = True
            if not self.FCR.ENABLE:
                self._received[0] = byte  # the holding register is overwritten; a full FIFO is not
        self.LSR.DR = bool(self._received)

    @on_read(RBR)
    def _pop(self, value: int) -> int:
        if not self._received:
            return 0
        byte = self._received.popleft()
        self.LSR.DR = bool(self._received)
        return byte

    @on_write(THR)
    def _transmit(self, new: int, old: int) -> None:
        self.PENDING.THRE = True  # it has been sent by then
        if self.MCR.LOOP:
            self._store_received((new,))
        else:
            self._sink(new)

    @on_write(IER)
    def _enable(self, new: int, old: int) -> None:
        if new & ~old & 0x02:
            self.PENDING.THRE = True
        self._connect()

    @on_read(IIR)
    def _identify(self, value: int) -> int:
        found = self._interrupt_id()
        if found == TRANSMITTER_EMPTY:
            self.PENDING.THRE = False  # reading its identification clears it
        return found | FIFOS_ENABLED if self.FCR.ENABLE else found

    def _interrupt_id(self) -> int:
        """Return the pending interrupt of the highest priority."""
        enabled = self.IER
        if enabled.RLSI and self.LSR.OE:
            return LINE_STATUS
        if enabled.RDI and self._received:
            trigger = TRIGGER_LEVELS[self.FCR.TRIGGER] if self.FCR.ENABLE else 1
            # Bytes below the trigger level are reported once the line is idle, which it is: they arrive at once.
            return RECEIVED if len(self._received) >= trigger else TIMEOUT
        if enabled.THRI and self.PENDING.THRE:
            return TRANSMITTER_EMPTY
        if enabled.MSI and self.MSR.value & 0x0F:
            return MODEM_STATUS
        return NO_INTERRUPT

    @on_write(FCR)
    def _control_fifos(self, new: int, old: int) -> None:
        if (new ^ old) & 0x01 or new & 0x02:
            self._received.clear()
            self.LSR.DR = False

    @on_write(MCR)
    def _control_modem(self, new: int, old: int) -> None:
        if self.MCR.LOOP:
            self._connect()  # first: what changes below is not to reach the line
        lines, before = _modem_lines(new), self.MSR.LINES
        changed = lines ^ before
        deltas = changed & 0b1011 | changed & before & 0b0100  # RI: its trailing edge
        self.MSR.value = lines << 4 | self.MSR.value & 0x0F | deltas
        self._connect()

    def _connect(self) -> None:
        """Let the enable bits reach the interrupt line where OUT2 does, and the modem is not in loopback."""
        self.CONNECTED.value = self.IER.value if self.MCR.OUT2 and not self.MCR.LOOP else 0

    def save_state(self) -> dict[str, Any]:
        return {"registers": super().save_state(), "received": bytes(self._received)}

    def check_state(self, state: Mapping[str, Any]) -> None:
        match state:
            case {"registers": registers, "received": bytes(received), **rest} if (
                not rest and len(received) <= FIFO_SIZE
            ):
                super().check_state(registers)
            case _:
                raise StateError(f"a UART's state is registers and up to {FIFO_SIZE} bytes, not {state!r:.80}")

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        super().load_state(state["registers"])
        self._received = deque(state["received"])


def _modem_lines(control: int) -> int:
    """Return the upper half of MSR for a value of MCR."""
    if not control & 0x10:
        return 0b1011  # CTS, DSR, DCD
    # Loopback: DTR, RTS, OUT1 and OUT2 are read as DSR, CTS, RI and DCD.
    return (control & 1) << 1 | (control & 2) >> 1 | control & 0b1100


class SoftwareInterrupt(Register):
    PENDING = Flag(0)


class Clint(RegisterBank, size=0x10000):
    """Core-local interruptor of one hart.

    Datasheet: SiFive FU540-C000 manual, chapter 9.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    frequency : int
        Of mtime, in Hz.
    software_irq, timer_irq : callable
        The lines.
    """

    MSIP = SoftwareInterrupt(0x0000, access=RO)
    MTIMECMP = Register(0x4000, size=8, reset=(1 << 64) - 1)
    MTIME_LOW = Register(0xBFF8)
    MTIME_HIGH = Register(0xBFFC)

    software = Interrupt(status=MSIP)

    def __init__(
        self,
        *,
        clock: Clock,
        frequency: int,
        software_irq: Callable[[bool], object],
        timer_irq: Callable[[bool], object],
    ) -> None:
        self._clock = clock
        self._frequency = frequency
        self._timer_irq = IrqLine(timer_irq)  # passes edges on only
        self._delta = 0  # what software has added to the ticks since power-on
        self._alarm = clock.timer(self._update_timer)
        self.software.connect(software_irq)

    def _mtime(self) -> int:
        return self._mtime_at(self._clock.now())

    def _mtime_at(self, now: int) -> int:
        return now * self._frequency // NS_PER_SECOND + self._delta & ALL_ONES

    @on_read(MTIME_LOW)
    def _read_low(self, value: int) -> int:
        return self._mtime() & 0xFFFF_FFFF

    @on_read(MTIME_HIGH)
    def _read_high(self, value: int) -> int:
        return self._mtime() >> 32

    @on_write(MTIME_LOW)
    def _write_low(self, new: int, old: int) -> None:
        now = self._mtime()
        self._delta += (now & ~0xFFFF_FFFF | new) - now
        self._update_timer(self._clock.now())

    @on_write(MTIME_HIGH)
    def _write_high(self, new: int, old: int) -> None:
        now = self._mtime()
        self._delta += (now & 0xFFFF_FFFF | new << 32) - now
        self._update_timer(self._clock.now())

    @on_write(MTIMECMP)
    def _compare(self, new: int, old: int) -> None:
        self._update_timer(self._clock.now())

    def _update_timer(self, now: int) -> None:
        """Set the level of the timer interrupt, and the time of its next edge."""
        remaining = self.MTIMECMP.value - self._mtime_at(now)
        if 0 < remaining < NEVER:
            ticks = now * self._frequency // NS_PER_SECOND + remaining
            self._alarm.set(-(-ticks * NS_PER_SECOND // self._frequency))
        else:
            self._alarm.cancel()
        self._timer_irq.set(remaining <= 0)

    def save_state(self) -> dict[str, Any]:
        return {"registers": super().save_state(), "delta": self._delta}

    def check_state(self, state: Mapping[str, Any]) -> None:
        match state:
            case {"registers": registers, "delta": int(), **rest} if not rest:
                super().check_state(registers)
            case _:
                raise StateError(f"a CLINT's state is registers and an offset of mtime, not {state!r:.80}")

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        super().load_state(state["registers"])
        self._delta = state["delta"]
        self._update_timer(self._clock.read())


class PowerSwitch(RegisterBank):
    """The register of SiFive's test finisher that ends the machine; a "syscon" to device trees.

    Parameters
    ----------
    stop : callable
        Called with "power off" or "reset" when the guest stores 0x5555 or 0x7777.
    """

    FINISH = Register(0, access=WO)

    def __init__(self, *, stop: Callable[[str], object]) -> None:
        self._stop = stop

    @on_write(FINISH)
    def _finish(self, new: int, old: int) -> None:
        if new in (POWER_OFF, RESET):
            self._stop("power off" if new == POWER_OFF else "reset")
