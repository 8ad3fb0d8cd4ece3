"""South bridge: the PCI functions of the ISA bridge and IDE controller (PIIX3) and of the power management (PIIX4).

Datasheets: Intel 82371SB (PIIX3) for the first two functions, Intel 82371AB (PIIX4) for power management. Virtual
machines usually have this combination, which firmware supports.
"""

from __future__ import annotations

from collections.abc import Callable

from .pci import BAR_IO_SPACE, INTERRUPT_PIN, MULTI_FUNCTION, PciFunction

__all__ = ["IdeController", "IsaBridge", "PowerManagement"]

INTEL = 0x8086
STATUS = 0x0280  # medium DEVSEL timing, fast back-to-back

PIRQ_ROUTES = 0x60
PIRQ_DISABLED = 0x80

IDE_TIMING = 0x40

PM_BASE, PM_BASE_WRITABLE = 0x40, 0xFFC0
DEVICE_ACTIVITY_B = 0x58
APMC_ENABLE = 0x0200_0000
PM_MISC, PM_IO_ENABLE = 0x80, 0x01
SMBUS_BASE, SMBUS_CONFIG = 0x90, 0xD2


class IsaBridge(PciFunction):
    """Function 0: the routing of the PCI interrupts."""

    def __init__(self) -> None:
        super().__init__(INTEL, 0x7000, 0x00, 0x060100, command=0x0007, status=STATUS, header_type=MULTI_FUNCTION)
        self.define(PIRQ_ROUTES, 4, PIRQ_DISABLED * 0x01010101, writable=0x8F8F8F8F)


class IdeController(PciFunction):
    """Function 1: the IDE controller, whose channels are at the ISA ports.

    There is no bus master: its base address register reads as 0, and requests no space.
    """

    def __init__(self) -> None:
        super().__init__(INTEL, 0x7010, 0x00, 0x010180, status=STATUS)
        self.define(IDE_TIMING, 4, 0, writable=0xFFFF_FFFF)


class PowerManagement(PciFunction):
    """Function 3: power management, with the base address of the ACPI registers.

    Parameters
    ----------
    move : callable
        Called with the base port of the ACPI registers when it has changed, or with None if they are disabled.
    """

    def __init__(self, *, move: Callable[[int | None], object]) -> None:
        super().__init__(INTEL, 0x7113, 0x03, 0x068000, status=STATUS)
        self.define(INTERRUPT_PIN, 1, 1)
        self.define(PM_BASE, 4, BAR_IO_SPACE, writable=PM_BASE_WRITABLE)
        self.define(DEVICE_ACTIVITY_B, 4, 0, writable=0xFFFF_FFFF)
        self.define(PM_MISC, 1, 0, writable=PM_IO_ENABLE)
        self.define(SMBUS_BASE, 4, BAR_IO_SPACE, writable=0xFFF0)
        self.define(SMBUS_CONFIG, 1, 0, writable=0x0F)
        self._move = move
        self._base: int | None = None

    @property
    def smi_on_apm_write(self) -> bool:
        """Whether a write to the APM control port raises an SMI."""
        return bool(self.load(DEVICE_ACTIVITY_B, 4) & APMC_ENABLE)

    def written(self, offsets: range) -> None:
        enabled = self.config[PM_MISC] & PM_IO_ENABLE
        base = (self.load(PM_BASE, 4) & PM_BASE_WRITABLE if enabled else 0) or None  # 0: not yet set
        if base != self._base:
            self._move(base)
            self._base = base
