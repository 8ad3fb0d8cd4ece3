"""System timer of ARM's M-profile processors.

Specification: ARM DDI 0403, ARMv7-M Architecture Reference Manual, B3.3.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..registers import RO, WC, Bits, Flag, Register, RegisterBank, on_change, on_read, on_write
from ._common import BankState, Irq, Output, no_irq

__all__ = ["SysTick"]


class Control(Register, access=RO):
    """SYST_CSR: control and status."""

    ENABLE = Flag(0)
    TICKINT = Flag(1, doc="whether the counter interrupts at 0")
    CLKSOURCE = Flag(2, doc="1: the processor's clock; 0: the reference clock")
    COUNTFLAG = Flag(16, RO, on_read="clear", doc="the counter has reached 0 since the last read")


class Reload(Register, access=RO):
    """SYST_RVR: what the counter begins with after 0."""

    RELOAD = Bits(0, 24)


class Current(Register, access=WC):
    """SYST_CVR: the counter; any write clears it."""

    CURRENT = Bits(0, 24, WC)


class Calibration(Register, access=RO):
    """SYST_CALIB: the reload value for 10 ms of the reference clock."""

    TENMS = Bits(0, 24, RO)
    NOREF = Flag(31, RO, doc="there is no reference clock")


class SysTick(BankState, RegisterBank, size=0x10):
    """The timer: a 24-bit counter that counts down to 0 and begins again. Registered at 0xE000_E010, as a rule.

    The counter moves when the clock is read: several periods between two reads are one tick.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    frequency : int
        Of the processor's clock, in Hz.
    reference_frequency : int, optional
        Of the reference clock, in Hz. Without it, CLKSOURCE is always 1.
    irq : callable, optional
        Called with True, then False, when the counter reaches 0 and TICKINT is set: the exception becomes pending.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> from dbs_device.clock import CountedClock
    >>> clock, manager = CountedClock(step=0), IoManager()
    >>> timer = SysTick(clock=clock, frequency=1_000_000, irq=lambda level: print("tick") if level else None)
    >>> manager.register_device_io(timer, [Resource.MmioAddressRange(0xE000_E010, timer.size)])
    >>> manager.mmio_store(0xE000_E014, 4, 999)  # every ms
    >>> manager.mmio_store(0xE000_E018, 4, 0)
    >>> manager.mmio_store(0xE000_E010, 4, 7)
    >>> clock.count_work(1_000_000)
    >>> _ = clock.now()
    tick
    """

    CSR = Control(0x0)
    RVR = Reload(0x4)
    CVR = Current(0x8)
    CALIB = Calibration(0xC)

    saved: ClassVar[Mapping[str, Any]] = {"_zero_at": (None, range(1 << 80)), "_zero_until": None, "_timer": None}

    def __init__(
        self, *, clock: Clock, frequency: int, reference_frequency: int | None = None, irq: Irq = no_irq
    ) -> None:
        for each in (frequency, reference_frequency):
            if each is not None and each <= 0:
                raise ValueError(f"SysTick counts at {each} Hz: it must be positive")
        self.clock = clock
        self.frequency = frequency
        self.reference_frequency = reference_frequency
        self._irq = Output(irq)
        self._state_lock = threading.RLock()
        # While it counts: when it reaches 0, in cycles since power-on. None: it stands still.
        self._zero_at: int | None = None
        self._zero_until = -1  # the cycle before which it has not left 0
        self._timer = clock.timer(self._expire)
        self._calibrate()
        self._rate = self._chosen_rate()  # at which it counts; `_change_control` follows the registers

    def _calibrate(self) -> None:
        if self.reference_frequency is None:
            self.CALIB.NOREF = True
            self.CSR.CLKSOURCE = True
        else:
            self.CALIB.TENMS = min(max(self.reference_frequency // 100 - 1, 0), 0xFF_FFFF)

    def _chosen_rate(self) -> int:
        if self.reference_frequency is None or self.CSR.CLKSOURCE:
            return self.frequency
        return self.reference_frequency

    def _cycles_at(self, now: int) -> int:
        return now * self._rate // NS_PER_SECOND

    def _value_at(self, now: int) -> int:
        """Return the counter."""
        if self._zero_at is None:
            return self.CVR.CURRENT
        cycles = self._cycles_at(now)
        return 0 if cycles <= self._zero_until else max(self._zero_at - cycles, 0)

    def _start(self, now: int, value: int) -> None:
        """Begin to count down from a value; after 0 comes the reload value, unless that is 0 too."""
        if value == 0 and self.RVR.RELOAD == 0:
            self._stop(0)
            return
        cycles = self._cycles_at(now)
        self._zero_until = cycles if value == 0 else -1
        self._zero_at = cycles + (value or self.RVR.RELOAD + 1)
        self._timer.set(-(-self._zero_at * NS_PER_SECOND // self._rate))

    def _stop(self, value: int) -> None:
        self._zero_at = None
        self._timer.cancel()
        self.CVR.CURRENT = value

    def _expire(self, now: int) -> None:
        with self._state_lock:
            if self._zero_at is None:
                return
            reached, self._zero_at = self._zero_at, None
            self.CSR.COUNTFLAG = True
            period = self.RVR.RELOAD + 1
            if period == 1:
                self._stop(0)
            else:
                # Several periods between two reads of the clock are one tick.
                elapsed = max(self._cycles_at(now) - reached, 0)
                self._zero_until = reached + elapsed // period * period
                self._zero_at = self._zero_until + period
                self._timer.set(-(-self._zero_at * NS_PER_SECOND // self._rate))
            if self.CSR.TICKINT:
                self._irq.set(True)
                self._irq.set(False)

    @on_change(CSR.ENABLE, CSR.CLKSOURCE)
    def _change_control(self, new: int, old: int) -> None:
        now = self.clock.now()
        with self._state_lock:
            if self.reference_frequency is None:
                self.CSR.CLKSOURCE = True
            value = self._value_at(now)
            self._rate = self._chosen_rate()
            if self.CSR.ENABLE:
                self._start(now, value)
            else:
                self._stop(value)

    @on_read(CSR)
    def _read_control(self, value: int) -> int | None:
        self.clock.now()  # its timers set COUNTFLAG
        with self._state_lock:
            if self.CSR.COUNTFLAG:
                self.CSR.COUNTFLAG = False
                return value | 1 << 16
        return None

    @on_write(RVR)
    def _write_reload(self, new: int, old: int) -> None:
        now = self.clock.now()
        with self._state_lock:
            if self._zero_at is None and self.CSR.ENABLE:
                self._start(now, 0)

    @on_read(CVR)
    def _read_current(self, value: int) -> int:
        now = self.clock.now()
        with self._state_lock:
            return self._value_at(now)

    @on_write(CVR)
    def _clear_current(self, new: int, old: int) -> None:
        now = self.clock.now()
        with self._state_lock:
            self.CSR.COUNTFLAG = False
            self._stop(0)
            if self.CSR.ENABLE:
                self._start(now, 0)

    def reset(self) -> None:
        """Give every register its reset value: the counter stands still."""
        with self._state_lock:
            self._stop(0)
            super().reset()
            self._calibrate()
            self._rate = self._chosen_rate()

    def state_loaded(self) -> None:
        """Count at the rate of the clock that the registers choose."""
        self._rate = self._chosen_rate()
