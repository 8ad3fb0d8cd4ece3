"""The machine's devices as Python classes, where `dbs_device.devices` has none of that kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

from dbs_device import DeviceIo
from dbs_device.clock import NS_PER_SECOND, Clock
from dbs_device.state import AttributeState

__all__ = ["POWER_OFF", "RESET", "GoldfishRtc", "PowerSwitch"]

POWER_OFF, RESET = 0x5555, 0x7777
U32, U64 = (1 << 32) - 1, (1 << 64) - 1


class PowerSwitch(AttributeState, DeviceIo):
    """The register of SiFive's test finisher that ends the machine; a "syscon" to device trees.

    Parameters
    ----------
    stop : callable
        Called with "power off" or "reset" when the guest stores 0x5555 or 0x7777.
    """

    def __init__(self, *, stop: Callable[[str], object]) -> None:
        self._stop = stop

    def load(self, base: int, offset: int, size: int) -> int:
        return 0

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        if offset == 0 and value in (POWER_OFF, RESET):
            self._stop("power off" if value == POWER_OFF else "reset")


class RtcRegister:
    """Offsets of the registers of the real-time clock, of 32 bits each."""

    TIME_LOW = 0x00
    TIME_HIGH = 0x04
    ALARM_LOW = 0x08
    ALARM_HIGH = 0x0C
    IRQ_ENABLED = 0x10
    CLEAR_ALARM = 0x14
    ALARM_STATUS = 0x18
    CLEAR_INTERRUPT = 0x1C


class GoldfishRtc(AttributeState, DeviceIo):
    """Real-time clock of Android's emulator: nanoseconds since 1970, with an alarm.

    Specification: Android, `goldfish/docs/GOLDFISH-VIRTUAL-HARDWARE.TXT`, section "Goldfish timer".

    Parameters
    ----------
    clock : Clock
        The machine's time.
    start : datetime
        Date and time at power-on, with a time zone.
    irq : callable
        The interrupt line.
    """

    saved: ClassVar[Mapping[str, Any]] = dict.fromkeys(
        ("_offset", "_time_high", "_alarm_low", "_alarm_high", "_timer", "_enabled", "_pending", "_level")
    )

    def __init__(self, *, clock: Clock, start: datetime, irq: Callable[[bool], object]) -> None:
        self._clock = clock
        self._irq = irq
        self._offset = int(start.timestamp()) * NS_PER_SECOND - clock.read()
        self._timer = clock.timer(self._expire)
        self._time_high = self._alarm_low = self._alarm_high = 0  # as last read or written
        self._enabled = self._pending = self._level = False

    def load(self, base: int, offset: int, size: int) -> int:
        return self._load_register(offset & ~3) >> 8 * (offset & 3)

    def _load_register(self, offset: int) -> int:
        match offset:
            case RtcRegister.TIME_LOW:
                now = self._time()
                self._time_high = now >> 32
                return now & U32
            case RtcRegister.TIME_HIGH:
                return self._time_high
            case RtcRegister.ALARM_LOW:
                return self._alarm_low
            case RtcRegister.ALARM_HIGH:
                return self._alarm_high
            case RtcRegister.IRQ_ENABLED:
                return int(self._enabled)
            case RtcRegister.ALARM_STATUS:
                return int(self._timer.when is not None)
        return 0

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        if size != 4 or offset & 3:
            return  # the specification has whole registers
        match offset:
            case RtcRegister.TIME_LOW:
                self._set_time(self._time() & ~U32 | value)
            case RtcRegister.TIME_HIGH:
                self._time_high = value
                self._set_time(self._time() & U32 | value << 32)
            case RtcRegister.ALARM_LOW:
                self._alarm_low = value
                self._set_alarm()
            case RtcRegister.ALARM_HIGH:
                self._alarm_high = value
            case RtcRegister.IRQ_ENABLED:
                self._enabled = bool(value & 1)
            case RtcRegister.CLEAR_ALARM:
                self._timer.cancel()
            case RtcRegister.CLEAR_INTERRUPT:
                self._pending = False
        self._update_irq()

    def _time(self) -> int:
        return self._clock.now() + self._offset & U64

    def _set_time(self, time: int) -> None:
        self._offset += time - self._time()
        if self._timer.when is not None:
            self._set_alarm()

    def _set_alarm(self) -> None:
        self._timer.set((self._alarm_high << 32 | self._alarm_low) - self._offset)

    def _expire(self, now: int) -> None:
        self._pending = True
        self._update_irq()

    def state_loaded(self) -> None:
        self._irq(self._level)

    def _update_irq(self) -> None:
        level = self._enabled and self._pending
        if level != self._level:
            self._level = level
            self._irq(level)
