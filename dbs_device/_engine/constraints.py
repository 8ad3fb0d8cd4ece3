"""What a device asks for: `ResourceConstraint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .records import (
    ADDRESS_ALIGN,
    BYTE_COUNT,
    NUMBER,
    OPTIONAL_NUMBER,
    PAGE_SIZE,
    PORT_ALIGN,
    PORT_COUNT,
    Record,
    variant_of,
)
from ..errors import InvalidRangeError

__all__ = ["ResourceConstraint"]


class ResourceConstraint(Record):
    """What a device asks of a `ResourceManager`: an amount, and where it has to lie.

    The variants are frozen dataclasses and work in `match`. A `range` is (lowest, highest), both inclusive: the whole
    allocation has to lie in it. Numbers are checked as those of `Resource` are.

    Examples
    --------
    >>> ResourceConstraint.new_mmio(0x2000)
    ResourceConstraint.MmioAddress(size=0x2000, range=None, align=0x1000)
    >>> ResourceConstraint.pio_with_constraints(8, (0x3F8, 0x3FF), 8)
    ResourceConstraint.PioAddress(size=0x8, range=(0x3f8, 0x3ff), align=0x8)
    """

    __slots__ = ()

    PioAddress: ClassVar[type[_PioConstraint]]
    MmioAddress: ClassVar[type[_MmioConstraint]]
    MemAddress: ClassVar[type[_MemConstraint]]
    LegacyIrq: ClassVar[type[_LegacyIrqConstraint]]
    PciMsiIrq: ClassVar[type[_PciMsiIrqConstraint]]
    PciMsixIrq: ClassVar[type[_PciMsixIrqConstraint]]
    GenericIrq: ClassVar[type[_GenericIrqConstraint]]
    KvmMemSlot: ClassVar[type[_KvmMemSlotConstraint]]

    @staticmethod
    def new_pio(size: int) -> _PioConstraint:
        """Ask for `size` ports anywhere."""
        return _PioConstraint(size)

    @staticmethod
    def pio_with_constraints(size: int, range: tuple[int, int] | None, align: int) -> _PioConstraint:
        """Ask for `size` ports within `range`, the first of them a multiple of `align`."""
        return _PioConstraint(size, range, align)

    @staticmethod
    def new_mmio(size: int) -> _MmioConstraint:
        """Ask for `size` bytes of MMIO anywhere, aligned to a page."""
        return _MmioConstraint(size)

    @staticmethod
    def mmio_with_constraints(size: int, range: tuple[int, int] | None, align: int) -> _MmioConstraint:
        """Ask for `size` bytes of MMIO within `range`, the first of them at a multiple of `align`."""
        return _MmioConstraint(size, range, align)

    @staticmethod
    def new_mem(size: int) -> _MemConstraint:
        """Ask for `size` bytes of guest memory anywhere, aligned to a page."""
        return _MemConstraint(size)

    @staticmethod
    def mem_with_constraints(size: int, range: tuple[int, int] | None, align: int) -> _MemConstraint:
        """Ask for `size` bytes of guest memory within `range`, the first of them at a multiple of `align`."""
        return _MemConstraint(size, range, align)

    @staticmethod
    def new_legacy_irq(irq: int | None = None) -> _LegacyIrqConstraint:
        """Ask for the legacy interrupt `irq`, or for any."""
        return _LegacyIrqConstraint(irq)

    @staticmethod
    def new_pci_msi_irq(size: int) -> _PciMsiIrqConstraint:
        """Ask for `size` PCI MSI interrupts in a row."""
        return _PciMsiIrqConstraint(size)

    @staticmethod
    def new_pci_msix_irq(size: int) -> _PciMsixIrqConstraint:
        """Ask for `size` PCI MSI-X interrupts in a row."""
        return _PciMsixIrqConstraint(size)

    @staticmethod
    def new_generic_irq(size: int) -> _GenericIrqConstraint:
        """Ask for `size` generic MSI interrupts in a row."""
        return _GenericIrqConstraint(size)

    @staticmethod
    def new_kvm_mem_slot(size: int, slot: int | None = None) -> _KvmMemSlotConstraint:
        """Ask for `size` memory slots in a row from `slot` on, or for any `size` slots."""
        return _KvmMemSlotConstraint(size, slot)


class _AddressConstraint(ResourceConstraint):
    """What the constraints of the three address spaces have in common."""

    __slots__ = ()

    size: int
    range: tuple[int, int] | None
    align: int

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.range is None:
            return
        try:
            lowest, highest = self.range
        except (TypeError, ValueError):
            raise TypeError(
                f"{type(self).__qualname__} takes (lowest, highest) or None as range, not {self.range!r}"
            ) from None
        limits = self._limits["size"]._replace(maximum=self._limits["size"].maximum - 1)
        for bound in (lowest, highest):
            limits.check(self, "range", bound)
        if lowest > highest:
            raise InvalidRangeError(f"{type(self).__qualname__}: range {lowest:#x}..{highest:#x} is empty")
        object.__setattr__(self, "range", (int(lowest), int(highest)))

    def _format(self, name: str) -> str:
        if name == "range" and self.range is not None:
            return f"({self.range[0]:#x}, {self.range[1]:#x})"
        return Record._format(self, name)


@variant_of(ResourceConstraint, "PioAddress")
@dataclass(frozen=True, repr=False, slots=True)
class _PioConstraint(_AddressConstraint):
    """A range of I/O ports.

    Parameters
    ----------
    size : int
        Number of ports.
    range : tuple of (int, int), optional
        Lowest and highest port that may be given.
    align : int
        The first port is a multiple of it.
    """

    size: int
    range: tuple[int, int] | None = None
    align: int = 1
    _limits: ClassVar = {"size": PORT_COUNT, "align": PORT_ALIGN}


@variant_of(ResourceConstraint, "MmioAddress")
@dataclass(frozen=True, repr=False, slots=True)
class _MmioConstraint(_AddressConstraint):
    """A range of memory-mapped I/O addresses.

    Parameters
    ----------
    size : int
        Bytes.
    range : tuple of (int, int), optional
        Lowest and highest address that may be given.
    align : int
        The first address is a multiple of it.
    """

    size: int
    range: tuple[int, int] | None = None
    align: int = PAGE_SIZE
    _limits: ClassVar = {"size": BYTE_COUNT, "align": ADDRESS_ALIGN}


@variant_of(ResourceConstraint, "MemAddress")
@dataclass(frozen=True, repr=False, slots=True)
class _MemConstraint(_AddressConstraint):
    """A range of guest memory.

    Parameters
    ----------
    size : int
        Bytes.
    range : tuple of (int, int), optional
        Lowest and highest address that may be given.
    align : int
        The first address is a multiple of it.
    """

    size: int
    range: tuple[int, int] | None = None
    align: int = PAGE_SIZE
    _limits: ClassVar = {"size": BYTE_COUNT, "align": ADDRESS_ALIGN}


@variant_of(ResourceConstraint, "LegacyIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _LegacyIrqConstraint(ResourceConstraint):
    """A legacy interrupt.

    Parameters
    ----------
    irq : int, optional
        Its number; any by default.
    """

    irq: int | None = None
    _limits: ClassVar = {"irq": OPTIONAL_NUMBER}


@variant_of(ResourceConstraint, "PciMsiIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _PciMsiIrqConstraint(ResourceConstraint):
    """PCI MSI interrupts in a row.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _limits: ClassVar = {"size": NUMBER}


@variant_of(ResourceConstraint, "PciMsixIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _PciMsixIrqConstraint(ResourceConstraint):
    """PCI MSI-X interrupts in a row.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _limits: ClassVar = {"size": NUMBER}


@variant_of(ResourceConstraint, "GenericIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _GenericIrqConstraint(ResourceConstraint):
    """Generic MSI interrupts in a row.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _limits: ClassVar = {"size": NUMBER}


@variant_of(ResourceConstraint, "KvmMemSlot")
@dataclass(frozen=True, repr=False, slots=True)
class _KvmMemSlotConstraint(ResourceConstraint):
    """Memory slots of the hypervisor.

    Parameters
    ----------
    size : int
        How many.
    slot : int, optional
        The first of them; any by default.
    """

    size: int
    slot: int | None = None
    _limits: ClassVar = {"size": NUMBER, "slot": OPTIONAL_NUMBER}
