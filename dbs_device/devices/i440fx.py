"""Host bridge: PCI function 0:0.0, with the registers that map the addresses below 1 MiB.

Datasheet: Intel 82441FX (PMC).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import PlacedDevice
from .pci import PciFunction

__all__ = ["HostBridge", "Smram"]

PAM, PAM_SIZE = 0x59, 7
SMRAM_CONTROL = 0x72
SMRAM_COMPATIBLE = 0x02  # the segment at 0xA0000, the only one
SMRAM_OPEN, SMRAM_CLOSED, SMRAM_LOCKED, SMRAM_ENABLED = 0x40, 0x20, 0x10, 0x08
SMRAM_UNLOCKED = SMRAM_OPEN | SMRAM_CLOSED | SMRAM_LOCKED | SMRAM_ENABLED  # the writable bits


class HostBridge(PciFunction):
    """The 82441FX.

    The memory that PAM controls is RAM, and is expected to hold a copy of the ROM from the start: PAM has
    no effect. SMRAM is switched.

    Parameters
    ----------
    show_smram : callable
        Called with True when the guest opens the RAM behind the VGA memory, and with False when it closes it.
    """

    def __init__(self, *, show_smram: Callable[[bool], object]) -> None:
        super().__init__(0x8086, 0x1237, 0x02, 0x060000, command=0x0006, status=0x0280)
        self.define(PAM, PAM_SIZE, 0, writable=0x33_33_33_33_33_33_30)
        self.define(SMRAM_CONTROL, 1, SMRAM_COMPATIBLE, writable=SMRAM_UNLOCKED)
        self._show_smram = show_smram
        self._smram_shown = False

    def written(self, offsets: range) -> None:
        if SMRAM_CONTROL not in offsets:
            return
        control = self.config[SMRAM_CONTROL]
        if control & SMRAM_LOCKED:  # until the next reset
            self.define(SMRAM_CONTROL, 1, control & ~SMRAM_OPEN, writable=SMRAM_CLOSED)
        else:
            self.define(SMRAM_CONTROL, 1, control, writable=SMRAM_UNLOCKED)
        shown = bool(self.config[SMRAM_CONTROL] & SMRAM_OPEN)
        if shown != self._smram_shown:
            self._smram_shown = shown
            self._show_smram(shown)


class Smram(PlacedDevice):
    """The RAM behind the VGA memory, which is visible while SMRAM is open.

    Parameters
    ----------
    base, size : int
        Its address, and its size in bytes.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_memory": None}

    def __init__(self, *, base: int = 0xA0000, size: int = 0x20000) -> None:
        super().__init__(Resource.MmioAddressRange(base, size))
        self._memory = bytearray(size)

    def load(self, base: int, offset: int, size: int) -> int:
        return int.from_bytes(self._memory[offset : offset + size], "little")

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self._memory[offset : offset + size] = value.to_bytes(size, "little")
