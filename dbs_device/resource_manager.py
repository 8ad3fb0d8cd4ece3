"""`ResourceManager`, which allocates the resources that devices ask for.

By default, it has the layout of a Dragonball guest on x86-64:

=================  =======================================================================================
ports              0x0..0xffff
MMIO               3 GiB..4 GiB - 64 MiB (LAPIC, IOAPIC and HPET are above), 32 TiB..64 TiB
guest memory       0..3 GiB, 4 GiB..32 TiB (the lower half of a 46-bit space; MMIO has the upper one)
legacy interrupts  6..15, and 5, which is shared
MSI interrupts     24..1023 (the pins of the IOAPIC are below)
KVM memory slots   0..508
=================  =======================================================================================
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex, TypeAlias

from ._engine.lock import ReentrantLock
from ._engine.pool import RangePool
from ._engine.records import NUMBER, PAGE_SIZE
from .address import Space
from .errors import InvalidRangeError, InvalidResourceRangeError, NoAvailableResourceError, format_count
from .resources import DeviceResources, LegacyIrq, MacAddress, MsiIrqType, Resource, ResourceConstraint

__all__ = ["ResourceManager"]

_HALF_OF_46_BITS = 1 << 45
_PIO = (0x0, 0xFFFF)
_MMIO = ((0xC000_0000, 0xFBFF_FFFF), (_HALF_OF_46_BITS, 2 * _HALF_OF_46_BITS - 1))
_MEM = ((0x0, 0xBFFF_FFFF), (0x1_0000_0000, _HALF_OF_46_BITS - 1))
_LEGACY_IRQ = (6, 15)
_SHARED_IRQ = 5
_MSI_IRQ = (24, 1023)
_KVM_MEM_SLOTS = (0, 508)

Ranges: TypeAlias = tuple[int, int] | Iterable[tuple[int, int]]
_Claim: TypeAlias = tuple[RangePool | None, int, int]  # first number and size; no pool for the shared interrupt


def _pool(name: str, ranges: Ranges, maximum: int, number_format: str) -> RangePool:
    """Make a pool of one range (first, last), or of several."""
    try:
        items: list[Any] = list(ranges)
        if items and isinstance(items[0], SupportsIndex):
            items = [items]
        pairs = [(operator.index(first), operator.index(last)) for first, last in items]
    except (TypeError, ValueError):
        raise TypeError(f"{name} takes one or several (first, last) pairs of integers, not {ranges!r}") from None
    return RangePool(name, pairs, maximum, number_format)


class ResourceManager:
    """Allocates ports, addresses, interrupts and memory slots, each kind from a pool of its own.

    The lowest number that fits is allocated, so that the same calls always give the same layout. Any thread may call
    any method. A method that raises changes nothing.

    Parameters
    ----------
    pio : ranges, optional
        Ports, within 0..0xFFFF. A pool is given as one inclusive range, (first, last), or as an iterable of them, which
        may be empty.
    mmio : ranges, optional
        Addresses for memory-mapped I/O, within 0..2**64 - 1.
    mem : ranges, optional
        Addresses for guest memory, within 0..2**64 - 1. Whether they overlap `mmio` is not checked.
    legacy_irq : ranges, optional
        Legacy interrupts, within 0..2**32 - 1.
    shared_irq : int, optional
        The legacy interrupt that any number of devices may use, which is not in `legacy_irq`; None for none.
    msi_irq : ranges, optional
        Message signalled interrupts, within 0..2**32 - 1.
    kvm_mem_slots : ranges, optional
        Memory slots of the hypervisor, within 0..2**32 - 1.

    Raises
    ------
    InvalidRangeError
        A range is empty, is outside its space or overlaps another one of its pool; `shared_irq` is in `legacy_irq`, or
        is not 0..2**32 - 1.
    TypeError
        A pool is not given as ranges of integers, or `shared_irq` is neither an integer nor None.

    Notes
    -----
    An allocation and its release together take about 35 microseconds, however many allocations there are; with 10000
    free ranges, 60 to 70 microseconds, whatever the constraint.

    Examples
    --------
    >>> manager = ResourceManager()
    >>> hex(manager.allocate_mmio_address(0x2000))
    '0xc0000000'
    >>> manager.allocate_device_resources([ResourceConstraint.new_pio(8), ResourceConstraint.new_legacy_irq()])
    DeviceResources([Resource.PioAddressRange(base=0x0, size=8), Resource.LegacyIrq(irq=6)])
    >>> manager.allocate_pio_address(8, range=(0x0, 0x9))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    dbs_device.errors.NoAvailableResourceError: cannot allocate ...; free: 0x8..0x9 within 0x0..0x9
    """

    def __init__(
        self,
        *,
        pio: Ranges = _PIO,
        mmio: Ranges = _MMIO,
        mem: Ranges = _MEM,
        legacy_irq: Ranges = _LEGACY_IRQ,
        shared_irq: int | None = _SHARED_IRQ,
        msi_irq: Ranges = _MSI_IRQ,
        kvm_mem_slots: Ranges = _KVM_MEM_SLOTS,
    ) -> None:
        self._pools = {
            "pio": _pool("pio", pio, Space.PIO.last_address, "#x"),
            "mmio": _pool("mmio", mmio, Space.MMIO.last_address, "#x"),
            "mem": _pool("mem", mem, Space.MMIO.last_address, "#x"),
            "legacy_irq": _pool("legacy_irq", legacy_irq, NUMBER.maximum, "d"),
            "msi_irq": _pool("msi_irq", msi_irq, NUMBER.maximum, "d"),
            "kvm_mem_slots": _pool("kvm_mem_slots", kvm_mem_slots, NUMBER.maximum, "d"),
        }
        self._shared_irq = None if shared_irq is None else Resource.LegacyIrq(shared_irq).irq
        self._shared_irq_users = 0
        for first, last in self._pools["legacy_irq"]:
            if self._shared_irq is not None and first <= self._shared_irq <= last:
                raise InvalidRangeError(
                    f"legacy_irq: range {first}..{last} contains the shared interrupt {self._shared_irq}"
                )
        self._lock = ReentrantLock()

    def allocate_device_resources(
        self, constraints: Iterable[ResourceConstraint], shared_irq: bool = False
    ) -> DeviceResources:
        """Allocate what a device asks for: all of it, or nothing.

        Constraints are met in the order given, each with the lowest number that fits: put those with a fixed number or
        a narrow range first.

        Parameters
        ----------
        constraints : iterable of ResourceConstraint
            The constraints.
        shared_irq : bool
            Whether a legacy interrupt may be the shared one. If so, a constraint without a number gets it.

        Returns
        -------
        DeviceResources
            One resource per constraint, in the order given; one per memory slot. PCI MSI interrupts start at a multiple
            of their count. Memory slots asked for without a number need not be contiguous.

        Raises
        ------
        NoAvailableResourceError
            No free resource meets a constraint, or it is the shared interrupt, and `shared_irq` is false.
        InvalidRangeError
            A constraint has size 0.
        TypeError
            An item is not a `ResourceConstraint`.
        """
        requests = list(constraints)  # before the lock is taken: this may run the caller's code
        resources = DeviceResources()
        claims: list[_Claim] = []
        try:
            self._lock.call(self._allocate_all, requests, shared_irq, claims, resources)
            return resources
        except BaseException:  # a signal handler's, as the lock was released
            if claims:
                self._lock.call(self._unclaim, claims)
            raise

    def free_device_resources(self, resources: Iterable[Resource]) -> None:
        """Free the resources of a device: all of them, or none.

        Parameters
        ----------
        resources : iterable of Resource
            Allocated resources. MAC addresses, which are not allocated, are ignored.

        Raises
        ------
        InvalidResourceRangeError
            A resource is not allocated, is allocated with another size, or is given twice.
        TypeError
            An item is not a `Resource`.
        """
        self._lock.call(
            self._free_all, [each for each in DeviceResources(resources) if not isinstance(each, MacAddress)]
        )

    def allocate_pio_address(self, size: int, range: tuple[int, int] | None = None, align: int = 1) -> int:
        """Allocate `size` ports and return the first.

        Parameters
        ----------
        size : int
            Number of ports.
        range : tuple of (int, int), optional
            Lowest and highest port of the allocation, inclusive.
        align : int
            The first port is a multiple of it; 1 or more.

        Returns
        -------
        int
            The first port.

        Raises
        ------
        NoAvailableResourceError
            No free range fits.
        InvalidRangeError
            `size` is 0, `range` is empty, or a number does not fit its field.
        TypeError
            A number is not an integer, or `range` is not a pair.
        """
        return self._allocate_one(ResourceConstraint.pio_with_constraints(size, range, align))

    def free_pio_address(self, base: int, size: int) -> None:
        """Free the `size` ports from `base` on.

        Raises
        ------
        InvalidResourceRangeError
            The ports are not one allocation.
        InvalidRangeError
            A number does not fit its field.
        TypeError
            A number is not an integer.
        """
        self.free_device_resources([Resource.PioAddressRange(base, size)])

    def allocate_mmio_address(self, size: int, range: tuple[int, int] | None = None, align: int = PAGE_SIZE) -> int:
        """Allocate `size` bytes of MMIO and return the first address.

        Parameters
        ----------
        size : int
            Number of bytes.
        range : tuple of (int, int), optional
            Lowest and highest address of the allocation, inclusive.
        align : int
            The first address is a multiple of it; 1 or more.

        Returns
        -------
        int
            The first address.

        Raises
        ------
        NoAvailableResourceError
            No free range fits.
        InvalidRangeError
            `size` is 0, `range` is empty, or a number does not fit its field.
        TypeError
            A number is not an integer, or `range` is not a pair.
        """
        return self._allocate_one(ResourceConstraint.mmio_with_constraints(size, range, align))

    def free_mmio_address(self, base: int, size: int) -> None:
        """Free the `size` bytes of MMIO from `base` on.

        Raises
        ------
        InvalidResourceRangeError
            The bytes are not one allocation.
        InvalidRangeError
            A number does not fit its field.
        TypeError
            A number is not an integer.
        """
        self.free_device_resources([Resource.MmioAddressRange(base, size)])

    def allocate_mem_address(self, size: int, range: tuple[int, int] | None = None, align: int = PAGE_SIZE) -> int:
        """Allocate `size` bytes of guest memory and return the first address.

        Parameters
        ----------
        size : int
            Number of bytes.
        range : tuple of (int, int), optional
            Lowest and highest address of the allocation, inclusive.
        align : int
            The first address is a multiple of it; 1 or more.

        Returns
        -------
        int
            The first address.

        Raises
        ------
        NoAvailableResourceError
            No free range fits.
        InvalidRangeError
            `size` is 0, `range` is empty, or a number does not fit its field.
        TypeError
            A number is not an integer, or `range` is not a pair.
        """
        return self._allocate_one(ResourceConstraint.mem_with_constraints(size, range, align))

    def free_mem_address(self, base: int, size: int) -> None:
        """Free the `size` bytes of guest memory from `base` on.

        Raises
        ------
        InvalidResourceRangeError
            The bytes are not one allocation.
        InvalidRangeError
            A number does not fit its field.
        TypeError
            A number is not an integer.
        """
        self.free_device_resources([Resource.MemAddressRange(base, size)])

    def allocate_legacy_irq(self, shared: bool = False, fixed: int | None = None) -> int:
        """Allocate a legacy interrupt and return its number.

        Parameters
        ----------
        shared : bool
            Whether to allocate the shared interrupt, unless `fixed` is another one. It is freed as often as it was
            allocated.
        fixed : int, optional
            The number; by default, the lowest free one.

        Returns
        -------
        int
            The number.

        Raises
        ------
        NoAvailableResourceError
            The interrupt is taken, all are, or it is the shared one and `shared` is false.
        InvalidRangeError
            `fixed` is not 0..2**32 - 1.
        TypeError
            `fixed` is neither an integer nor None.
        """
        return self._allocate_one(ResourceConstraint.new_legacy_irq(fixed), shared)

    def free_legacy_irq(self, irq: int) -> None:
        """Free a legacy interrupt, or one use of the shared one.

        Raises
        ------
        InvalidResourceRangeError
            The interrupt is not allocated.
        InvalidRangeError
            `irq` is not 0..2**32 - 1.
        TypeError
            `irq` is not an integer.
        """
        self.free_device_resources([Resource.LegacyIrq(irq)])

    def allocate_msi_irq(self, count: int) -> int:
        """Allocate `count` contiguous message signalled interrupts and return the first.

        Raises
        ------
        NoAvailableResourceError
            No `count` contiguous interrupts are free.
        InvalidRangeError
            `count` is not 1..2**32 - 1.
        TypeError
            `count` is not an integer.
        """
        return self._allocate_one(ResourceConstraint.new_generic_irq(count))

    def allocate_msi_irq_aligned(self, count: int) -> int:
        """Allocate `count` contiguous message signalled interrupts, the first a multiple of `count`, and return it.

        Raises
        ------
        NoAvailableResourceError
            No `count` contiguous interrupts that are so aligned are free.
        InvalidRangeError
            `count` is not 1..2**32 - 1.
        TypeError
            `count` is not an integer.
        """
        return self._allocate_one(ResourceConstraint.new_pci_msi_irq(count))

    def free_msi_irq(self, irq: int, count: int) -> None:
        """Free the `count` message signalled interrupts from `irq` on.

        Raises
        ------
        InvalidResourceRangeError
            The interrupts are not one allocation.
        InvalidRangeError
            A number does not fit its field.
        TypeError
            A number is not an integer.
        """
        self.free_device_resources([Resource.MsiIrq(MsiIrqType.GENERIC_MSI, irq, count)])

    def allocate_kvm_mem_slot(self, fixed: int | None = None) -> int:
        """Allocate one memory slot, `fixed` or the lowest free one, and return its number.

        Raises
        ------
        NoAvailableResourceError
            The slot is taken, or all are.
        InvalidRangeError
            `fixed` is not 0..2**32 - 1.
        TypeError
            `fixed` is neither an integer nor None.
        """
        return self._allocate_one(ResourceConstraint.new_kvm_mem_slot(1, fixed))

    def free_kvm_mem_slot(self, slot: int) -> None:
        """Free a memory slot.

        Raises
        ------
        InvalidResourceRangeError
            The slot is not allocated.
        InvalidRangeError
            `slot` is not 0..2**32 - 1.
        TypeError
            `slot` is not an integer.
        """
        self.free_device_resources([Resource.KvmMemSlot(slot)])

    def get_free_ranges(self, pool: str) -> list[tuple[int, int]]:
        """Return the free ranges of a pool.

        Parameters
        ----------
        pool : str
            "pio", "mmio", "mem", "legacy_irq", "msi_irq" or "kvm_mem_slots".

        Returns
        -------
        list of (int, int)
            First and last number, inclusive, of each free range, in order. Adjacent ranges are merged.

        Raises
        ------
        ValueError
            No pool has that name.

        Examples
        --------
        >>> manager = ResourceManager(pio=(0x100, 0x1FF))
        >>> manager.allocate_pio_address(8, align=0x80)
        256
        >>> [(hex(first), hex(last)) for first, last in manager.get_free_ranges("pio")]
        [('0x108', '0x1ff')]
        """
        if pool not in self._pools:
            raise ValueError(f"no pool is named {pool!r}; the pools are {', '.join(self._pools)}")
        return self._lock.call(list, self._pools[pool])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lock.call(self._describe)}>"

    # -- with the lock held

    def _describe(self) -> str:
        pools = [
            f"{name}: {pool.allocations} allocated, free: {pool.describe_free()}" for name, pool in self._pools.items()
        ]
        if self._shared_irq is not None:
            pools.append(f"shared irq {self._shared_irq}: {format_count(self._shared_irq_users, 'user')}")
        return "; ".join(pools)

    def _allocate_all(
        self,
        requests: list[ResourceConstraint],
        shared_irq: bool,
        claims: list[_Claim],
        resources: DeviceResources,
    ) -> None:
        try:
            for constraint in requests:
                for resource in self._allocate(constraint, shared_irq, claims):
                    resources.append(resource)
        except BaseException:
            self._unclaim(claims)
            raise

    def _free_all(self, resources: list[Resource]) -> None:
        freed = []
        try:
            for resource in resources:
                self._free(resource)
                freed.append(resource)
        except BaseException:
            for resource in freed:
                self._undo_free(resource)
            raise

    def _allocate_one(self, constraint: ResourceConstraint, shared_irq: bool = False) -> int:
        [resource] = self.allocate_device_resources([constraint], shared_irq)
        try:
            return self._place(resource)[1]
        except BaseException:  # a signal handler's
            self.free_device_resources([resource])
            raise

    # The methods below are called with the lock held.

    def _allocate(self, constraint: ResourceConstraint, shared_irq: bool, claims: list[_Claim]) -> Iterator[Resource]:
        """Yield each resource. What is allocated for them is added to `claims` at once, for `_unclaim`."""
        match constraint:
            case ResourceConstraint.PioAddress(size, bounds, align):
                yield Resource.PioAddressRange(self._claim(claims, "pio", constraint, size, align, bounds), size)
            case ResourceConstraint.MmioAddress(size, bounds, align):
                yield Resource.MmioAddressRange(self._claim(claims, "mmio", constraint, size, align, bounds), size)
            case ResourceConstraint.MemAddress(size, bounds, align):
                yield Resource.MemAddressRange(self._claim(claims, "mem", constraint, size, align, bounds), size)
            case ResourceConstraint.LegacyIrq(irq):
                yield Resource.LegacyIrq(self._claim_legacy_irq(claims, constraint, irq, shared_irq))
            case ResourceConstraint.PciMsiIrq(size):
                yield Resource.MsiIrq(
                    MsiIrqType.PCI_MSI, self._claim(claims, "msi_irq", constraint, size, align=size), size
                )
            case ResourceConstraint.PciMsixIrq(size):
                yield Resource.MsiIrq(MsiIrqType.PCI_MSIX, self._claim(claims, "msi_irq", constraint, size), size)
            case ResourceConstraint.GenericIrq(size):
                yield Resource.MsiIrq(MsiIrqType.GENERIC_MSI, self._claim(claims, "msi_irq", constraint, size), size)
            case ResourceConstraint.KvmMemSlot(size, slot):
                _check_not_empty(constraint, size)
                for index in range(size):
                    bounds = None if slot is None else (slot + index, slot + index)
                    yield Resource.KvmMemSlot(self._claim(claims, "kvm_mem_slots", constraint, 1, bounds=bounds))
            case _:
                raise TypeError(f"constraints must be ResourceConstraint objects, not {constraint!r}")

    def _claim(
        self,
        claims: list[_Claim],
        name: str,
        constraint: ResourceConstraint,
        size: int,
        align: int = 1,
        bounds: tuple[int, int] | None = None,
    ) -> int:
        _check_not_empty(constraint, size)
        pool = self._pools[name]
        lowest, highest = bounds or (0, None)
        base = pool.allocate(size, align, lowest, highest)
        if base is None:
            raise NoAvailableResourceError(constraint, pool.describe_free(lowest, highest))
        claims.append((pool, base, size))
        return base

    def _claim_legacy_irq(
        self, claims: list[_Claim], constraint: ResourceConstraint, irq: int | None, shared: bool
    ) -> int:
        if irq is not None and irq == self._shared_irq and not shared:
            raise NoAvailableResourceError(
                constraint,
                "none",
                f"interrupt {irq} is shared; to use it, pass shared_irq=True (allocate_legacy_irq: shared=True)",
            )
        if not shared or irq not in (None, self._shared_irq):
            return self._claim(claims, "legacy_irq", constraint, 1, bounds=None if irq is None else (irq, irq))
        if self._shared_irq is None:
            raise NoAvailableResourceError(constraint, "none", "the ResourceManager has no shared interrupt")
        self._shared_irq_users += 1
        claims.append((None, self._shared_irq, 1))
        return self._shared_irq

    def _unclaim(self, claims: list[_Claim]) -> None:
        while claims:
            pool, base, size = claims[-1]
            if pool is None:
                self._shared_irq_users -= 1
            else:
                pool.free(base, size)
            del claims[-1]

    def _place(self, resource: Resource) -> tuple[RangePool, int, int]:
        """Return the pool of a resource, its first number and its size."""
        match resource:
            case Resource.PioAddressRange(base, size):
                return self._pools["pio"], base, size
            case Resource.MmioAddressRange(base, size):
                return self._pools["mmio"], base, size
            case Resource.MemAddressRange(base, size):
                return self._pools["mem"], base, size
            case Resource.LegacyIrq(irq):
                return self._pools["legacy_irq"], irq, 1
            case Resource.MsiIrq(_, base, size):
                return self._pools["msi_irq"], base, size
            case Resource.KvmMemSlot(slot):
                return self._pools["kvm_mem_slots"], slot, 1
            case _:
                raise TypeError(f"{resource!r} is not an allocated resource")

    def _is_shared(self, resource: Resource) -> bool:
        return isinstance(resource, LegacyIrq) and resource.irq == self._shared_irq

    def _free(self, resource: Resource) -> None:
        if self._is_shared(resource):
            if not self._shared_irq_users:
                raise InvalidResourceRangeError(resource, "the shared interrupt has no users")
            self._shared_irq_users -= 1
            return
        pool, base, size = self._place(resource)
        try:
            pool.free(base, size)
        except ValueError as error:
            raise InvalidResourceRangeError(resource, str(error)) from None

    def _undo_free(self, resource: Resource) -> None:
        """Undo `_free`."""
        if self._is_shared(resource):
            self._shared_irq_users += 1
        else:
            pool, base, size = self._place(resource)
            pool.allocate(size, 1, base, base + size - 1)


def _check_not_empty(constraint: ResourceConstraint, size: int) -> None:
    if not size:
        raise InvalidRangeError(f"{constraint!r} is empty")
