"""System control port A (0x92): fast A20 gate and fast reset.

Datasheet: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A"; Intel 82371AB (PIIX4), "PORT 92".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import IsaDevice

__all__ = ["SystemControlPortA"]

FAST_RESET = 0x01
A20_ENABLE = 0x02


class SystemControlPortA(IsaDevice):
    """Holds the state of the A20 gate, and resets the machine.

    The address line itself is always enabled: since the 80286, software has not relied on masking it.

    Parameters
    ----------
    reset : callable
        Called when the guest sets the reset bit.
    port : int
        Its port.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_value": range(4)}

    def __init__(self, *, reset: Callable[[], object], port: int = 0x92) -> None:
        super().__init__(Resource.PioAddressRange(port, 1))
        self._reset = reset
        self._value = 0

    @property
    def a20_enabled(self) -> bool:
        """Whether the guest has opened the gate."""
        return bool(self._value & A20_ENABLE)

    def in8(self, base: int, offset: int) -> int:
        return self._value

    def out8(self, base: int, offset: int, value: int) -> None:
        pulsed = value & ~self._value & FAST_RESET  # it acts on a change from 0 to 1
        self._value = value & (FAST_RESET | A20_ENABLE)
        if pulsed:
            self._reset()
