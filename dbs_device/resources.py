"""The resources of a device: what it asks for (`ResourceConstraint`) and what it is given (`DeviceResources`)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, SupportsIndex, overload

from ._engine.constraints import (
    GenericIrqConstraint,
    KvmMemSlotConstraint,
    LegacyIrqConstraint,
    MemAddressConstraint,
    MmioAddressConstraint,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)
from ._engine.records import (
    ADDRESS,
    BYTE_COUNT,
    NUMBER,
    PORT,
    PORT_COUNT,
    Record,
    variant_of,
)

__all__ = [
    "DeviceResources",
    "GenericIrqConstraint",
    "KvmMemSlot",
    "KvmMemSlotConstraint",
    "LegacyIrq",
    "LegacyIrqConstraint",
    "MacAddress",
    "MemAddressConstraint",
    "MemAddressRange",
    "MmioAddressConstraint",
    "MmioAddressRange",
    "MsiIrq",
    "MsiIrqType",
    "PciMsiIrqConstraint",
    "PciMsixIrqConstraint",
    "PioAddressConstraint",
    "PioAddressRange",
    "Resource",
    "ResourceConstraint",
]


class MsiIrqType(enum.Enum):
    """The kinds of message signalled interrupts."""

    PCI_MSI = "PciMsi"
    PCI_MSIX = "PciMsix"
    GENERIC_MSI = "GenericMsi"

    def __repr__(self) -> str:
        return str(self)


class Resource(Record):
    """One resource of a device. The variants are frozen dataclasses and work in `match`.

    Whether a range is empty or runs past the end of its space is checked when it is registered or allocated.

    Raises
    ------
    InvalidRangeError
        A number does not fit its field.
    TypeError
        A field has the wrong type, or `Resource` itself is called.

    Examples
    --------
    >>> Resource.PioAddressRange(0x3F8, 8)
    Resource.PioAddressRange(base=0x3f8, size=8)
    >>> match Resource.LegacyIrq(4):
    ...     case Resource.LegacyIrq(irq):
    ...         irq
    4
    """

    __slots__ = ()

    PioAddressRange: ClassVar[type[PioAddressRange]]
    MmioAddressRange: ClassVar[type[MmioAddressRange]]
    MemAddressRange: ClassVar[type[MemAddressRange]]
    LegacyIrq: ClassVar[type[LegacyIrq]]
    MsiIrq: ClassVar[type[MsiIrq]]
    MacAddress: ClassVar[type[MacAddress]]
    KvmMemSlot: ClassVar[type[KvmMemSlot]]


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class PioAddressRange(Resource):
    """A range of I/O ports.

    Parameters
    ----------
    base : int
        First port, 0..0xFFFF.
    size : int
        Number of ports, 0..65536.
    """

    base: int
    size: int
    _limits: ClassVar = {"base": PORT, "size": PORT_COUNT}


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MmioAddressRange(Resource):
    """A range of memory-mapped I/O addresses.

    Parameters
    ----------
    base : int
        First address, 0..2**64 - 1.
    size : int
        Number of bytes, 0..2**64.
    """

    base: int
    size: int
    _limits: ClassVar = {"base": ADDRESS, "size": BYTE_COUNT}


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MemAddressRange(Resource):
    """A range of guest memory, accesses to which are not trapped.

    Parameters
    ----------
    base : int
        First address, 0..2**64 - 1.
    size : int
        Number of bytes, 0..2**64.
    """

    base: int
    size: int
    _limits: ClassVar = {"base": ADDRESS, "size": BYTE_COUNT}


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class LegacyIrq(Resource):
    """A line of the legacy interrupt controller.

    Parameters
    ----------
    irq : int
        Its number, 0..2**32 - 1.
    """

    irq: int
    _limits: ClassVar = {"irq": NUMBER}


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MsiIrq(Resource):
    """Contiguous message signalled interrupts.

    Parameters
    ----------
    ty : MsiIrqType
        Their kind.
    base : int
        First interrupt number, 0..2**32 - 1.
    size : int
        Number of interrupts, 0..2**32 - 1.
    """

    ty: MsiIrqType
    base: int
    size: int
    _limits: ClassVar = {"base": NUMBER, "size": NUMBER}

    def __post_init__(self) -> None:
        if not isinstance(self.ty, MsiIrqType):
            raise TypeError(f"Resource.MsiIrq takes a MsiIrqType as ty, not {type(self.ty).__name__}")
        Record.__post_init__(self)


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MacAddress(Resource):
    """A network interface's hardware address.

    Parameters
    ----------
    addr : str
        The address as text, as in the crate (which spells the variant `MacAddresss`).
    """

    addr: str

    def __post_init__(self) -> None:
        if not isinstance(self.addr, str):
            raise TypeError(f"Resource.MacAddress takes a str as addr, not {type(self.addr).__name__}")


@variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class KvmMemSlot(Resource):
    """A memory slot of the hypervisor.

    Parameters
    ----------
    slot : int
        Its number, 0..2**32 - 1.
    """

    slot: int
    _limits: ClassVar = {"slot": NUMBER}


class DeviceResources(Sequence[Resource]):
    """The resources of a device, in the order in which they were given: a sequence that only grows.

    Parameters
    ----------
    resources : iterable of Resource, optional
        The initial resources.

    Raises
    ------
    TypeError
        An item is not a `Resource`.

    Examples
    --------
    >>> resources = DeviceResources([Resource.PioAddressRange(0x3F8, 8), Resource.LegacyIrq(4)])
    >>> resources.append(Resource.PioAddressRange(0x2F8, 8))
    >>> [(hex(base), size) for base, size in resources.get_pio_address_ranges()]
    [('0x3f8', 8), ('0x2f8', 8)]
    >>> resources.get_legacy_irq()
    4
    """

    __slots__ = ("__weakref__", "_resources")

    __hash__ = None  # type: ignore[assignment]  # mutable, and compared by contents

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._resources: list[Resource] = []
        for resource in resources:
            self.append(resource)

    def append(self, resource: Resource) -> None:
        """Append a resource. Amortised O(1).

        Raises
        ------
        TypeError
            It is not a `Resource`.
        """
        if not isinstance(resource, Resource):
            raise TypeError(f"DeviceResources takes Resource objects, not {type(resource).__name__}")
        self._resources.append(resource)

    def get_pio_address_ranges(self) -> list[tuple[int, int]]:
        """Return (base, size) of each range of ports."""
        return [(each.base, each.size) for each in self._resources if isinstance(each, PioAddressRange)]

    def get_mmio_address_ranges(self) -> list[tuple[int, int]]:
        """Return (base, size) of each MMIO range."""
        return [(each.base, each.size) for each in self._resources if isinstance(each, MmioAddressRange)]

    def get_mem_address_ranges(self) -> list[tuple[int, int]]:
        """Return (base, size) of each range of guest memory."""
        return [(each.base, each.size) for each in self._resources if isinstance(each, MemAddressRange)]

    def get_legacy_irq(self) -> int | None:
        """Return the first legacy interrupt, or None."""
        return next((each.irq for each in self._resources if isinstance(each, LegacyIrq)), None)

    def get_pci_msi_irqs(self) -> tuple[int, int] | None:
        """Return (base, size) of the first PCI MSI interrupts, or None."""
        return self._first_msi_irqs(MsiIrqType.PCI_MSI)

    def get_pci_msix_irqs(self) -> tuple[int, int] | None:
        """Return (base, size) of the first PCI MSI-X interrupts, or None."""
        return self._first_msi_irqs(MsiIrqType.PCI_MSIX)

    def get_generic_msi_irqs(self) -> tuple[int, int] | None:
        """Return (base, size) of the first generic MSI interrupts, or None."""
        return self._first_msi_irqs(MsiIrqType.GENERIC_MSI)

    def _first_msi_irqs(self, ty: MsiIrqType) -> tuple[int, int] | None:
        ranges = ((each.base, each.size) for each in self._resources if isinstance(each, MsiIrq) and each.ty is ty)
        return next(ranges, None)

    def get_kvm_mem_slots(self) -> list[int]:
        """Return the number of each memory slot."""
        return [each.slot for each in self._resources if isinstance(each, KvmMemSlot)]

    def get_mac_address(self) -> str | None:
        """Return the first MAC address, or None."""
        return next((each.addr for each in self._resources if isinstance(each, MacAddress)), None)

    def get_all_resources(self) -> list[Resource]:
        """Return a new list of all resources."""
        return list(self._resources)

    def __len__(self) -> int:
        return len(self._resources)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._resources)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Resource: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(self._resources[index])
        return self._resources[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeviceResources):
            return NotImplemented
        return self._resources == other._resources

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._resources!r})"

    def __getstate__(self) -> Any:
        state: Any = super().__getstate__()
        attributes, slots = state
        # A shallow copy must not share the list, or both would grow.
        return attributes, {**slots, "_resources": list(self._resources)}
