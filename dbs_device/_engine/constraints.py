"""The resources that a device asks for: `ResourceConstraint` and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InvalidRangeError
from .public import exported_from
from .records import (
    ADDRESS,
    ADDRESS_ALIGN,
    BYTE_COUNT,
    NUMBER,
    OPTIONAL_NUMBER,
    PAGE_SIZE,
    PORT,
    PORT_ALIGN,
    PORT_COUNT,
    Limits,
    Record,
    variant_of,
)

__all__ = [
    "GenericIrqConstraint",
    "KvmMemSlotConstraint",
    "LegacyIrqConstraint",
    "MemAddressConstraint",
    "MmioAddressConstraint",
    "PciMsiIrqConstraint",
    "PciMsixIrqConstraint",
    "PioAddressConstraint",
    "ResourceConstraint",
]


@exported_from("dbs_device.resources")
class ResourceConstraint(Record):
    """One resource that a device asks of a `ResourceManager`: an amount, and where it may be.

    The variants are frozen dataclasses and work in `match`: `ResourceConstraint.MmioAddress` is
    `MmioAddressConstraint`, and so on. A `range` is (lowest, highest), both inclusive, and contains the whole
    allocation.

    Raises
    ------
    InvalidRangeError
        A number does not fit its field, or `range` is empty.
    TypeError
        A number is not an integer, `range` is not a pair, or `ResourceConstraint` itself is called.

    Examples
    --------
    >>> ResourceConstraint.new_mmio(0x2000)
    ResourceConstraint.MmioAddress(size=8192, range=None, align=4096)
    >>> ResourceConstraint.pio_with_constraints(8, (0x3F8, 0x3FF), 8)
    ResourceConstraint.PioAddress(size=8, range=(0x3f8, 0x3ff), align=8)
    """

    __slots__ = ()

    PioAddress: ClassVar[type[PioAddressConstraint]]
    MmioAddress: ClassVar[type[MmioAddressConstraint]]
    MemAddress: ClassVar[type[MemAddressConstraint]]
    LegacyIrq: ClassVar[type[LegacyIrqConstraint]]
    PciMsiIrq: ClassVar[type[PciMsiIrqConstraint]]
    PciMsixIrq: ClassVar[type[PciMsixIrqConstraint]]
    GenericIrq: ClassVar[type[GenericIrqConstraint]]
    KvmMemSlot: ClassVar[type[KvmMemSlotConstraint]]

    @staticmethod
    def new_pio(size: int) -> PioAddressConstraint:
        """Ask for `size` ports anywhere.

        Raises
        ------
        InvalidRangeError
            `size` is not 0..0x10000.
        TypeError
            `size` is not an integer.
        """
        return PioAddressConstraint(size)

    @staticmethod
    def pio_with_constraints(size: int, range: tuple[int, int] | None, align: int) -> PioAddressConstraint:
        """Ask for `size` ports within `range`, the first one a multiple of `align`.

        Raises
        ------
        InvalidRangeError
            A number does not fit its field, or `range` is empty.
        TypeError
            A number is not an integer, or `range` is not a pair.
        """
        return PioAddressConstraint(size, range, align)

    @staticmethod
    def new_mmio(size: int) -> MmioAddressConstraint:
        """Ask for `size` bytes of MMIO anywhere, aligned to a page.

        Raises
        ------
        InvalidRangeError
            `size` is not 0..2**64.
        TypeError
            `size` is not an integer.
        """
        return MmioAddressConstraint(size)

    @staticmethod
    def mmio_with_constraints(size: int, range: tuple[int, int] | None, align: int) -> MmioAddressConstraint:
        """Ask for `size` bytes of MMIO within `range`, the first address a multiple of `align`.

        Raises
        ------
        InvalidRangeError
            A number does not fit its field, or `range` is empty.
        TypeError
            A number is not an integer, or `range` is not a pair.
        """
        return MmioAddressConstraint(size, range, align)

    @staticmethod
    def new_mem(size: int) -> MemAddressConstraint:
        """Ask for `size` bytes of guest memory anywhere, aligned to a page.

        Raises
        ------
        InvalidRangeError
            `size` is not 0..2**64.
        TypeError
            `size` is not an integer.
        """
        return MemAddressConstraint(size)

    @staticmethod
    def mem_with_constraints(size: int, range: tuple[int, int] | None, align: int) -> MemAddressConstraint:
        """Ask for `size` bytes of guest memory within `range`, the first address a multiple of `align`.

        Raises
        ------
        InvalidRangeError
            A number does not fit its field, or `range` is empty.
        TypeError
            A number is not an integer, or `range` is not a pair.
        """
        return MemAddressConstraint(size, range, align)

    @staticmethod
    def new_legacy_irq(irq: int | None = None) -> LegacyIrqConstraint:
        """Ask for the legacy interrupt `irq`, or for any.

        Raises
        ------
        InvalidRangeError
            `irq` is not 0..2**32 - 1.
        TypeError
            `irq` is neither an integer nor None.
        """
        return LegacyIrqConstraint(irq)

    @staticmethod
    def new_pci_msi_irq(size: int) -> PciMsiIrqConstraint:
        """Ask for `size` contiguous PCI MSI interrupts.

        Raises
        ------
        InvalidRangeError
            `size` is not 0..2**32 - 1.
        TypeError
            `size` is not an integer.
        """
        return PciMsiIrqConstraint(size)

    @staticmethod
    def new_pci_msix_irq(size: int) -> PciMsixIrqConstraint:
        """Ask for `size` contiguous PCI MSI-X interrupts.

        Raises
        ------
        InvalidRangeError
            `size` is not 0..2**32 - 1.
        TypeError
            `size` is not an integer.
        """
        return PciMsixIrqConstraint(size)

    @staticmethod
    def new_generic_irq(size: int) -> GenericIrqConstraint:
        """Ask for `size` contiguous generic MSI interrupts.

        Raises
        ------
        InvalidRangeError
            `size` is not 0..2**32 - 1.
        TypeError
            `size` is not an integer.
        """
        return GenericIrqConstraint(size)

    @staticmethod
    def new_kvm_mem_slot(size: int, slot: int | None = None) -> KvmMemSlotConstraint:
        """Ask for the `size` memory slots from `slot` on, or for any `size` slots.

        Raises
        ------
        InvalidRangeError
            A number is not 0..2**32 - 1.
        TypeError
            `size` is not an integer, or `slot` is neither an integer nor None.
        """
        return KvmMemSlotConstraint(size, slot)


class _AddressConstraint(ResourceConstraint):
    """The common base of the constraints on ports, MMIO and guest memory."""

    __slots__ = ()

    size: int
    range: tuple[int, int] | None
    align: int
    _bounds: ClassVar[Limits]

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
        for bound in (lowest, highest):
            self._bounds.check(self, "range", bound)
        if lowest > highest:
            raise InvalidRangeError(f"{type(self).__qualname__}: range {lowest:#x}..{highest:#x} is empty")
        object.__setattr__(self, "range", (int(lowest), int(highest)))

    def _format(self, name: str) -> str:
        if name == "range" and self.range is not None:
            return f"({self.range[0]:#x}, {self.range[1]:#x})"
        return Record._format(self, name)


@variant_of(ResourceConstraint, "PioAddress")
@dataclass(frozen=True, repr=False, slots=True)
class PioAddressConstraint(_AddressConstraint):
    """A range of I/O ports.

    Parameters
    ----------
    size : int
        Number of ports.
    range : tuple of (int, int), optional
        Lowest and highest port of the allocation.
    align : int
        The first port is a multiple of it.
    """

    size: int
    range: tuple[int, int] | None = None
    align: int = 1
    _limits: ClassVar = {"size": PORT_COUNT, "align": PORT_ALIGN}
    _bounds: ClassVar = PORT


@variant_of(ResourceConstraint, "MmioAddress")
@dataclass(frozen=True, repr=False, slots=True)
class MmioAddressConstraint(_AddressConstraint):
    """A range of memory-mapped I/O addresses.

    Parameters
    ----------
    size : int
        Number of bytes.
    range : tuple of (int, int), optional
        Lowest and highest address of the allocation.
    align : int
        The first address is a multiple of it.
    """

    size: int
    range: tuple[int, int] | None = None
    align: int = PAGE_SIZE
    _limits: ClassVar = {"size": BYTE_COUNT, "align": ADDRESS_ALIGN}
    _bounds: ClassVar = ADDRESS


@variant_of(ResourceConstraint, "MemAddress")
@dataclass(frozen=True, repr=False, slots=True)
class MemAddressConstraint(_AddressConstraint):
    """A range of guest memory.

    Parameters
    ----------
    size : int
        Number of bytes.
    range : tuple of (int, int), optional
        Lowest and highest address of the allocation.
    align : int
        The first address is a multiple of it.
    """

    size: int
    range: tuple[int, int] | None = None
    align: int = PAGE_SIZE
    _limits: ClassVar = {"size": BYTE_COUNT, "align": ADDRESS_ALIGN}
    _bounds: ClassVar = ADDRESS


@variant_of(ResourceConstraint, "LegacyIrq")
@dataclass(frozen=True, repr=False, slots=True)
class LegacyIrqConstraint(ResourceConstraint):
    """A legacy interrupt.

    Parameters
    ----------
    irq : int, optional
        Its number; by default, any.
    """

    irq: int | None = None
    _limits: ClassVar = {"irq": OPTIONAL_NUMBER}


@variant_of(ResourceConstraint, "PciMsiIrq")
@dataclass(frozen=True, repr=False, slots=True)
class PciMsiIrqConstraint(ResourceConstraint):
    """Contiguous PCI MSI interrupts.

    Parameters
    ----------
    size : int
        Number of interrupts.
    """

    size: int
    _limits: ClassVar = {"size": NUMBER}


@variant_of(ResourceConstraint, "PciMsixIrq")
@dataclass(frozen=True, repr=False, slots=True)
class PciMsixIrqConstraint(ResourceConstraint):
    """Contiguous PCI MSI-X interrupts.

    Parameters
    ----------
    size : int
        Number of interrupts.
    """

    size: int
    _limits: ClassVar = {"size": NUMBER}


@variant_of(ResourceConstraint, "GenericIrq")
@dataclass(frozen=True, repr=False, slots=True)
class GenericIrqConstraint(ResourceConstraint):
    """Contiguous generic MSI interrupts.

    Parameters
    ----------
    size : int
        Number of interrupts.
    """

    size: int
    _limits: ClassVar = {"size": NUMBER}


@variant_of(ResourceConstraint, "KvmMemSlot")
@dataclass(frozen=True, repr=False, slots=True)
class KvmMemSlotConstraint(ResourceConstraint):
    """Memory slots of the hypervisor.

    Parameters
    ----------
    size : int
        Number of slots.
    slot : int, optional
        The first slot; by default, any.
    """

    size: int
    slot: int | None = None
    _limits: ClassVar = {"size": NUMBER, "slot": OPTIONAL_NUMBER}
