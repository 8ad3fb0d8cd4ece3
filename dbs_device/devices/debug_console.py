"""Debug console at port 0x402, where SeaBIOS writes its log (QEMU's `isa-debugcon`, after the Bochs 0xE9 port).

Specification: QEMU, `hw/char/debugcon.c`; SeaBIOS, `docs/Debugging.md`.
"""

from __future__ import annotations

from ..resources import Resource
from ._common import ByteSink
from ._isa import IsaDevice

__all__ = ["DebugConsole"]

PRESENT = 0xE9  # firmware reads this before it writes


class DebugConsole(IsaDevice):
    """A port that accepts characters.

    Parameters
    ----------
    sink : callable
        Called with each byte.
    port : int
        Its port.
    """

    def __init__(self, *, sink: ByteSink, port: int = 0x402) -> None:
        super().__init__(Resource.PioAddressRange(port, 1))
        self._sink = sink

    def in8(self, base: int, offset: int) -> int:
        return PRESENT

    def out8(self, base: int, offset: int, value: int) -> None:
        self._sink(value)
