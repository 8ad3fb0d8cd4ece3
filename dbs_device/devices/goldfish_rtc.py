"""Real-time clock of Android's emulator, QEMU's RISC-V "virt" machine and others.

Specification: Android, `goldfish/docs/GOLDFISH-VIRTUAL-HARDWARE.TXT`, section "Goldfish timer".
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..registers import RO, WC, WO, Flag, Interrupt, Register, RegisterBank, on_read, on_write
from ._common import BankState, Irq, seconds_since_1970

__all__ = ["GoldfishRtc"]


U32, U64 = (1 << 32) - 1, (1 << 64) - 1


class Enable(Register, access=RO):
    """Whether the alarm interrupts."""

    ALARM = Flag(0)


class GoldfishRtc(BankState, RegisterBank, size=0x1000):
    """The clock: nanoseconds since 1970, with an alarm.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    start : datetime, optional
        Date and time at power-on; UTC if it has no time zone. By default, the host's.
    irq : callable, optional
        The interrupt line. `bank.irq` is that line, and can be connected later.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.clock import CountedClock
    >>> rtc, manager = GoldfishRtc(clock=CountedClock(step=0), start=datetime(2024, 2, 29, 12)), IoManager()
    >>> manager.register_device_io(rtc, [Resource.MmioAddressRange(0x10_1000, rtc.size)])
    >>> low, high = manager.mmio_load(0x10_1000, 4), manager.mmio_load(0x10_1004, 4)
    >>> high << 32 | low
    1709208000000000000
    """

    TIME_LOW = Register(0x00, doc="low half of the time; a read latches the high half, a write sets the time")
    TIME_HIGH = Register(0x04, doc="high half of the time")
    ALARM_LOW = Register(0x08, doc="low half of the alarm; a write sets the alarm")
    ALARM_HIGH = Register(0x0C, doc="high half of the alarm")
    IRQ_ENABLED = Enable(0x10)
    CLEAR_ALARM = Register(0x14, access=WO)
    ALARM_STATUS = Register(0x18, access=RO, doc="1 while an alarm is set")
    CLEAR_INTERRUPT = Register(0x1C, access=WC, read=False, doc="any write clears the interrupt")
    irq = Interrupt(status=CLEAR_INTERRUPT, enable=IRQ_ENABLED)

    saved: ClassVar[Mapping[str, Any]] = {"_offset": None, "_alarm": None}

    def __init__(self, *, clock: Clock, start: datetime | None = None, irq: Irq | None = None) -> None:
        self.clock = clock
        self._state_lock = threading.RLock()
        self._offset = seconds_since_1970(start) * NS_PER_SECOND - clock.read()
        self._alarm = clock.timer(self._expire)
        self.irq.connect(irq)

    @property
    def time(self) -> int:
        """Nanoseconds since 1970, now."""
        return self.clock.now() + self._offset & U64

    @on_read(TIME_LOW)
    def _read_time(self, value: int) -> int:
        time = self.time
        self.TIME_HIGH.value = time >> 32
        return time

    @on_write(TIME_LOW)
    def _set_low(self, new: int, old: int) -> None:
        self._set_time(U32, new)

    @on_write(TIME_HIGH)
    def _set_high(self, new: int, old: int) -> None:
        self._set_time(U32 << 32, new << 32)

    def _set_time(self, mask: int, value: int) -> None:
        time = self.time
        with self._state_lock:
            self._offset += (time & ~mask | value) - time
            if self._alarm.when is not None:
                self._set_alarm()

    @on_write(ALARM_LOW)
    def _write_alarm(self, new: int, old: int) -> None:
        with self._state_lock:
            self._set_alarm()

    def _set_alarm(self) -> None:
        self.ALARM_STATUS.value = 1
        # One that has passed is due at the next read of the clock, which is not before the driver can see it.
        self._alarm.set((self.ALARM_HIGH.value << 32 | self.ALARM_LOW.value) - self._offset)

    def _expire(self, now: int) -> None:
        with self._state_lock:
            self.ALARM_STATUS.value = 0
            self.CLEAR_INTERRUPT.value = 1

    @on_write(CLEAR_ALARM)
    def _clear_alarm(self, new: int, old: int) -> None:
        with self._state_lock:
            self._alarm.cancel()
            self.ALARM_STATUS.value = 0
