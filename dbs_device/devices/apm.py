"""Advanced power management control and status ports (0xB2, 0xB3), through which software asks for an SMI.

Datasheet: Intel 82371AB (PIIX4), "APMC" and "APMS".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import Saved
from ._isa import IsaDevice

__all__ = ["ApmPorts"]

CONTROL, STATUS = 0, 1


class ApmPorts(IsaDevice):
    """Two scratch registers; a write to the first one raises an SMI if that is enabled.

    The processor has no system management mode. The only effect of the SMI handler that firmware waits for is
    emulated: the handler acknowledges a request by writing 0 to the status port.

    Parameters
    ----------
    smi_enabled : callable
        Returns whether the power management function enables SMIs (PIIX4's DEVACTB, APMC_EN).
    base : int
        The control port; the status port is the next one.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"_registers": None}

    def __init__(self, *, smi_enabled: Callable[[], bool], base: int = 0xB2) -> None:
        super().__init__(Resource.PioAddressRange(base, 2))
        self._smi_enabled = smi_enabled
        self._registers = bytearray(2)

    def in8(self, base: int, offset: int) -> int:
        return self._registers[offset]

    def out8(self, base: int, offset: int, value: int) -> None:
        self._registers[offset] = value
        if offset == CONTROL and self._smi_enabled():
            self._registers[STATUS] = 0
