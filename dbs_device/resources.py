"""What a device asks for (`ResourceConstraint`) and what it is given (`Resource`, `DeviceResources`)."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, SupportsIndex, TypeVar, overload

from .errors import InvalidRangeError

__all__ = [
    "DeviceResources",
    "KvmMemSlot",
    "LegacyIrq",
    "MacAddress",
    "MemAddressRange",
    "MmioAddressRange",
    "MsiIrq",
    "MsiIrqType",
    "PioAddressRange",
    "Resource",
    "ResourceConstraint",
]

MAX_PORT = 0xFFFF
MAX_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF
PAGE_SIZE = 0x1000  # alignment that the crate gives to memory by default


class _Limits(NamedTuple):
    """What an integer field may hold, and how it is printed."""

    minimum: int
    maximum: int
    format: str = "#x"
    optional: bool = False

    def check(self, owner: object, name: str, value: object) -> int | None:
        """Return `value` as a plain int, or raise `TypeError` or `InvalidRangeError`."""
        if value is None and self.optional:
            return None
        what = type(owner).__qualname__
        if not isinstance(value, SupportsIndex):
            raise TypeError(f"{what} takes an integer as {name}, not {type(value).__name__}")
        number = operator.index(value)
        if not self.minimum <= number <= self.maximum:
            raise InvalidRangeError(f"{what} takes {self.minimum:#x}..{self.maximum:#x} as {name}, not {number:#x}")
        return number


_PORT = _Limits(0, MAX_PORT)
_PORT_COUNT = _Limits(0, MAX_PORT + 1)
_PORT_ALIGN = _Limits(1, MAX_PORT)
_ADDRESS = _Limits(0, MAX_ADDRESS)
_BYTE_COUNT = _Limits(0, MAX_ADDRESS + 1)
_ADDRESS_ALIGN = _Limits(1, MAX_ADDRESS)
# IRQs and memory slots are u32 in the crate, and are numbered in decimal everywhere.
_NUMBER = _Limits(0, 0xFFFF_FFFF, format="d")
_OPTIONAL_NUMBER = _NUMBER._replace(optional=True)


class _Record:
    """A frozen dataclass that checks its integer fields, and prints addresses and sizes in hex."""

    __slots__ = ()

    _limits: ClassVar[dict[str, _Limits]] = {}

    def __init__(self, *_: object, **__: object) -> None:
        """Refuse to make the family itself: it stands for a Rust enum, which exists only as one of its variants."""
        raise TypeError(f"{type(self).__name__} is not made itself, but as one of its variants")

    def __post_init__(self) -> None:
        for name, limits in self._limits.items():
            object.__setattr__(self, name, limits.check(self, name, getattr(self, name)))

    def __repr__(self) -> str:
        arguments = (f"{name}={self._format(name)}" for name in self.__match_args__)  # type: ignore[attr-defined]
        return f"{type(self).__qualname__}({', '.join(arguments)})"

    def _format(self, name: str) -> str:
        value = getattr(self, name)
        limits = self._limits.get(name)
        return repr(value) if limits is None or value is None else format(value, limits.format)


_RecordT = TypeVar("_RecordT", bound=type[_Record])


def _variant_of(family: type[_Record], name: str | None = None) -> Callable[[_RecordT], _RecordT]:
    """Make a class reachable as an attribute of its family, as a Rust enum's variant is: `Resource.LegacyIrq`."""

    def place(variant: _RecordT) -> _RecordT:
        variant.__name__ = name or variant.__name__
        variant.__qualname__ = f"{family.__name__}.{variant.__name__}"
        setattr(family, variant.__name__, variant)
        return variant

    return place


class MsiIrqType(enum.Enum):
    """The kinds of message signalled interrupts."""

    PCI_MSI = "PciMsi"
    PCI_MSIX = "PciMsix"
    GENERIC_MSI = "GenericMsi"

    def __repr__(self) -> str:
        return str(self)


class Resource(_Record):
    """One resource that a device has been given. The variants are frozen dataclasses and work in `match`.

    Numbers are checked when a resource is made: `TypeError` for what is no integer, `InvalidRangeError` for one that
    its field cannot hold. Whether a range is empty or runs past the end of its space is checked where that matters:
    when it is registered or allocated.

    Examples
    --------
    >>> Resource.PioAddressRange(0x3F8, 8)
    Resource.PioAddressRange(base=0x3f8, size=0x8)
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


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class PioAddressRange(Resource):
    """A range of I/O ports.

    Parameters
    ----------
    base : int
        First port, 0..0xFFFF.
    size : int
        Number of ports, 0..0x10000.
    """

    base: int
    size: int
    _limits: ClassVar = {"base": _PORT, "size": _PORT_COUNT}


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MmioAddressRange(Resource):
    """A range of memory-mapped I/O addresses.

    Parameters
    ----------
    base : int
        First address, 0..2**64 - 1.
    size : int
        Bytes, 0..2**64.
    """

    base: int
    size: int
    _limits: ClassVar = {"base": _ADDRESS, "size": _BYTE_COUNT}


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MemAddressRange(Resource):
    """A range of guest memory, whose accesses are not trapped.

    Parameters
    ----------
    base : int
        First address, 0..2**64 - 1.
    size : int
        Bytes, 0..2**64.
    """

    base: int
    size: int
    _limits: ClassVar = {"base": _ADDRESS, "size": _BYTE_COUNT}


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class LegacyIrq(Resource):
    """A line of the legacy interrupt controller.

    Parameters
    ----------
    irq : int
        Its number, 0..2**32 - 1.
    """

    irq: int
    _limits: ClassVar = {"irq": _NUMBER}


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MsiIrq(Resource):
    """A run of message signalled interrupts.

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
    _limits: ClassVar = {"base": _NUMBER, "size": _NUMBER}

    def __post_init__(self) -> None:
        if not isinstance(self.ty, MsiIrqType):
            raise TypeError(f"Resource.MsiIrq takes a MsiIrqType as ty, not {type(self.ty).__name__}")
        _Record.__post_init__(self)


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class MacAddress(Resource):
    """A network interface's hardware address.

    Parameters
    ----------
    addr : str
        The address as text, as the crate keeps it. (The crate spells the variant `MacAddresss`.)
    """

    addr: str

    def __post_init__(self) -> None:
        if not isinstance(self.addr, str):
            raise TypeError(f"Resource.MacAddress takes a str as addr, not {type(self.addr).__name__}")


@_variant_of(Resource)
@dataclass(frozen=True, repr=False, slots=True)
class KvmMemSlot(Resource):
    """A memory slot of the hypervisor.

    Parameters
    ----------
    slot : int
        Its number, 0..2**32 - 1.
    """

    slot: int
    _limits: ClassVar = {"slot": _NUMBER}


class ResourceConstraint(_Record):
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
        _Record.__post_init__(self)
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
        return _Record._format(self, name)


@_variant_of(ResourceConstraint, "PioAddress")
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
    _limits: ClassVar = {"size": _PORT_COUNT, "align": _PORT_ALIGN}


@_variant_of(ResourceConstraint, "MmioAddress")
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
    _limits: ClassVar = {"size": _BYTE_COUNT, "align": _ADDRESS_ALIGN}


@_variant_of(ResourceConstraint, "MemAddress")
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
    _limits: ClassVar = {"size": _BYTE_COUNT, "align": _ADDRESS_ALIGN}


@_variant_of(ResourceConstraint, "LegacyIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _LegacyIrqConstraint(ResourceConstraint):
    """A legacy interrupt.

    Parameters
    ----------
    irq : int, optional
        Its number; any by default.
    """

    irq: int | None = None
    _limits: ClassVar = {"irq": _OPTIONAL_NUMBER}


@_variant_of(ResourceConstraint, "PciMsiIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _PciMsiIrqConstraint(ResourceConstraint):
    """PCI MSI interrupts in a row.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _limits: ClassVar = {"size": _NUMBER}


@_variant_of(ResourceConstraint, "PciMsixIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _PciMsixIrqConstraint(ResourceConstraint):
    """PCI MSI-X interrupts in a row.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _limits: ClassVar = {"size": _NUMBER}


@_variant_of(ResourceConstraint, "GenericIrq")
@dataclass(frozen=True, repr=False, slots=True)
class _GenericIrqConstraint(ResourceConstraint):
    """Generic MSI interrupts in a row.

    Parameters
    ----------
    size : int
        How many.
    """

    size: int
    _limits: ClassVar = {"size": _NUMBER}


@_variant_of(ResourceConstraint, "KvmMemSlot")
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
    _limits: ClassVar = {"size": _NUMBER, "slot": _OPTIONAL_NUMBER}


class DeviceResources(Sequence[Resource]):
    """The resources of a device, in the order in which they were given: a sequence that only grows.

    Parameters
    ----------
    resources : iterable of Resource, optional
        What it begins with.

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

    __hash__ = None  # type: ignore[assignment]  # it is mutable, and compared by its contents

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._resources: list[Resource] = []
        for resource in resources:
            self.append(resource)

    def append(self, resource: Resource) -> None:
        """Add a resource at the end; `TypeError` if it is none. Amortised O(1)."""
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
        """Return (base, size) of the first run of PCI MSI interrupts, or None."""
        return self._first_msi_irqs(MsiIrqType.PCI_MSI)

    def get_pci_msix_irqs(self) -> tuple[int, int] | None:
        """Return (base, size) of the first run of PCI MSI-X interrupts, or None."""
        return self._first_msi_irqs(MsiIrqType.PCI_MSIX)

    def get_generic_msi_irqs(self) -> tuple[int, int] | None:
        """Return (base, size) of the first run of generic MSI interrupts, or None."""
        return self._first_msi_irqs(MsiIrqType.GENERIC_MSI)

    def _first_msi_irqs(self, ty: MsiIrqType) -> tuple[int, int] | None:
        runs = ((each.base, each.size) for each in self._resources if isinstance(each, MsiIrq) and each.ty is ty)
        return next(runs, None)

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
        # A shallow copy must not grow together with its original.
        return attributes, {**slots, "_resources": list(self._resources)}
