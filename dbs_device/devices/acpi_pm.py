"""ACPI power management registers, in a range that firmware sets.

Datasheet: Intel 82371AB (PIIX4), "Power management I/O space registers".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from ..clock import NS_PER_SECOND, Clock
from ..resources import DeviceResources, Resource
from ..state import Saved
from ._isa import PlacedDevice

__all__ = ["AcpiPm"]

SIZE = 0x40

STATUS, CONTROL, TIMER, GENERAL_STATUS, GLOBAL_STATUS, INPUTS = 0x00, 0x04, 0x08, 0x0C, 0x18, 0x30
WRITE_1_TO_CLEAR = frozenset((*range(STATUS, 0x02), *range(GENERAL_STATUS, 0x0E), *range(GLOBAL_STATUS, 0x20)))
READ_ONLY = frozenset((*range(TIMER, 0x0C), *range(INPUTS, 0x33)))

TIMER_FREQUENCY = 3_579_545  # Hz
TIMER_BITS = 24
TIMER_CARRY = 0x01  # status: the timer's top bit has changed

# Control, the upper byte
SUSPEND_ENABLE = 0x20
SUSPEND_TYPE = 0x1C
SOFT_OFF = 0x00


class AcpiPm(PlacedDevice):
    """The registers. A guest powers the machine off by suspending it to "soft off".

    The system control interrupt is not wired, and the other sleeping states are not implemented.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    power_off : callable
        Called when the guest powers the machine off.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_registers": None, "_carries_seen": None}

    def __init__(self, *, clock: Clock, power_off: Callable[[], object]) -> None:
        super().__init__()
        self._clock = clock
        self._power_off = power_off
        self._registers = bytearray(SIZE)
        self._carries_seen = 0

    @staticmethod
    def resources_at(base: int | None) -> DeviceResources:
        """Return the range of the registers at a base port, or none."""
        return DeviceResources() if base is None else DeviceResources([Resource.PioAddressRange(base, SIZE)])

    def assign_resources(self, resources: DeviceResources) -> None:
        """Set the base port of the registers."""
        self._resources = resources

    def _ticks(self) -> int:
        return self._clock.now() * TIMER_FREQUENCY // NS_PER_SECOND

    def pio_in(self, base: int, offset: int, size: int) -> int:
        if offset < CONTROL:
            self._note_carry()
        elif TIMER <= offset < GENERAL_STATUS:
            timer = self._ticks() & ((1 << TIMER_BITS) - 1)
            self._registers[TIMER:GENERAL_STATUS] = timer.to_bytes(4, "little")
        return int.from_bytes(self._registers[offset : offset + size], "little")

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        if offset < CONTROL:
            self._note_carry()
        for position, byte in enumerate(value.to_bytes(size, "little"), offset):
            if position in WRITE_1_TO_CLEAR:
                self._registers[position] &= ~byte
            elif position == CONTROL + 1:
                self._registers[position] = byte & ~SUSPEND_ENABLE  # reads as 0
                if byte & SUSPEND_ENABLE and byte & SUSPEND_TYPE == SOFT_OFF:
                    self._power_off()
            elif position not in READ_ONLY:
                self._registers[position] = byte

    def _note_carry(self) -> None:
        carries = self._ticks() >> TIMER_BITS - 1
        if carries != self._carries_seen:
            self._carries_seen = carries
            self._registers[STATUS] |= TIMER_CARRY
