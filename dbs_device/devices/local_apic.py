"""Local APIC: registers only, for firmware to initialise. Interrupts are delivered by the 8259A pair.

Datasheet: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3, "Advanced programmable interrupt
controller".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import PlacedDevice

__all__ = ["LocalApic"]

SIZE = 0x1000
REGISTER_STRIDE = 0x10  # registers are 32 bits wide and aligned to 16 bytes

ID, VERSION, TASK_PRIORITY, LOGICAL_DESTINATION, DESTINATION_FORMAT = 0x20, 0x30, 0x80, 0xD0, 0xE0
SPURIOUS_VECTOR, COMMAND_LOW, COMMAND_HIGH = 0xF0, 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR = range(0x320, 0x380, REGISTER_STRIDE)
TIMER_INITIAL, TIMER_DIVIDE = 0x380, 0x3E0

MASKED = 0x0001_0000
VERSION_VALUE = 0x0005_0014  # six entries in the local vector table
WRITABLE = {
    ID: 0xFF00_0000,
    TASK_PRIORITY: 0xFF,
    LOGICAL_DESTINATION: 0xFF00_0000,
    DESTINATION_FORMAT: 0xF000_0000,
    SPURIOUS_VECTOR: 0x0000_03FF,
    COMMAND_LOW: 0x000C_CFFF,  # the delivery status is read-only: no message is pending
    COMMAND_HIGH: 0xFF00_0000,
    LVT_TIMER: 0x0003_00FF,
    LVT_THERMAL: 0x0001_07FF,
    LVT_PERFORMANCE: 0x0001_07FF,
    LVT_LINT0: 0x0001_A7FF,
    LVT_LINT1: 0x0001_A7FF,
    LVT_ERROR: 0x0001_00FF,
    TIMER_INITIAL: 0xFFFF_FFFF,
    TIMER_DIVIDE: 0x0000_000B,
}
RESET = {
    VERSION: VERSION_VALUE,
    DESTINATION_FORMAT: 0xFFFF_FFFF,
    SPURIOUS_VECTOR: 0xFF,
    **dict.fromkeys(range(LVT_TIMER, TIMER_INITIAL, REGISTER_STRIDE), MASKED),
}


class LocalApic(PlacedDevice):
    """The register page; the timer does not count.

    Parameters
    ----------
    base : int
        Its address.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_registers": range(1 << 32)}

    def __init__(self, *, base: int = 0xFEE0_0000) -> None:
        super().__init__(Resource.MmioAddressRange(base, SIZE))
        self._registers = [RESET.get(offset, 0) for offset in range(0, SIZE, REGISTER_STRIDE)]

    def load(self, base: int, offset: int, size: int) -> int:
        register, within = divmod(offset, REGISTER_STRIDE)
        return self._registers[register] >> 8 * within

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        writable = WRITABLE.get(offset, 0)
        if writable and size == 4:  # nothing else is defined
            register = offset // REGISTER_STRIDE
            self._registers[register] = self._registers[register] & ~writable | value & writable
