"""`ResourceManager`: out of what devices ask for (`ResourceConstraint`) it makes what they get (`Resource`).

Without arguments a manager has the layout of a Dragonball guest on x86-64:

=================  =======================================================================================
ports              0x0..0xffff
MMIO               3 GiB..4 GiB - 64 MiB (above that lie LAPIC, IOAPIC and HPET), 32 TiB..64 TiB
guest memory       0..3 GiB, 4 GiB..32 TiB (the lower half of a 46-bit space; MMIO has the upper one)
legacy interrupts  6..15, and 5, which devices share
MSI interrupts     24..1023 (below lie the pins of the IOAPIC)
KVM memory slots   0..508
=================  =======================================================================================
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex, TypeAlias

from ._engine.pool import RangePool
from ._engine.records import MAX_ADDRESS, MAX_PORT, PAGE_SIZE
from .errors import InvalidRangeError, InvalidResourceRangeError, NoAvailableResourceError
from .resources import DeviceResources, LegacyIrq, MacAddress, MsiIrqType, Resource, ResourceConstraint

__all__ = ["ResourceManager"]

MAX_NUMBER = 0xFFFF_FFFF  # of an interrupt or a memory slot

_HALF_OF_46_BITS = 1 << 45
_PIO = (0x0, 0xFFFF)
_MMIO = ((0xC000_0000, 0xFBFF_FFFF), (_HALF_OF_46_BITS, 2 * _HALF_OF_46_BITS - 1))
_MEM = ((0x0, 0xBFFF_FFFF), (0x1_0000_0000, _HALF_OF_46_BITS - 1))
_LEGACY_IRQ = (6, 15)
_SHARED_IRQ = 5
_MSI_IRQ = (24, 1023)
_KVM_MEM_SLOTS = (0, 508)

Ranges: TypeAlias = tuple[int, int] | Iterable[tuple[int, int]]


def _pool(name: str, ranges: Ranges, maximum: int, number_format: str) -> RangePool:
    """Make a pool of one range, (first, last), or of several."""
    try:
        items: list[Any] = list(ranges)
        if items and isinstance(items[0], SupportsIndex):
            items = [items]
        pairs = [(operator.index(first), operator.index(last)) for first, last in items]
    except (TypeError, ValueError):
        raise TypeError(f"{name} takes a range (first, last) of integers or several of them, not {ranges!r}") from None
    return RangePool(name, pairs, maximum, number_format)


class ResourceManager:
    """Allocates ports, addresses, interrupts and memory slots, out of a pool for each kind.

    The lowest number that fits is allocated first, so that the same sequence of calls gives the same layout every time.
    Any thread may call any method. A method either does all it says or raises and changes nothing.

    Parameters
    ----------
    pio : ranges, optional
        Ports, within 0..0xFFFF. Each pool is given as one range, (first, last), or as several; both ends belong to the
        range, and an empty list makes an empty pool.
    mmio : ranges, optional
        Addresses for memory-mapped I/O, within 0..2**64 - 1.
    mem : ranges, optional
        Addresses for guest memory, within 0..2**64 - 1. That it does not overlap `mmio` is up to the caller.
    legacy_irq : ranges, optional
        Legacy interrupts, within 0..2**32 - 1.
    shared_irq : int, optional
        The legacy interrupt that any number of devices may hold at a time, which is not in `legacy_irq`; None for none.
    msi_irq : ranges, optional
        Message signalled interrupts, within 0..2**32 - 1.
    kvm_mem_slots : ranges, optional
        Memory slots of the hypervisor, within 0..2**32 - 1.

    Raises
    ------
    InvalidRangeError
        A range is empty, leaves its space or overlaps another one of its pool, or `shared_irq` is in `legacy_irq`.
    TypeError
        A pool is not given as ranges of integers.

    Notes
    -----
    An allocation and the free of it take some 35 microseconds together. How many ranges are live does not matter, only
    into how many pieces the rest of the pool is broken: 60 to 70 microseconds with 10000, whatever is asked for.

    Examples
    --------
    >>> manager = ResourceManager()
    >>> hex(manager.allocate_mmio_address(0x2000))
    '0xc0000000'
    >>> manager.allocate_device_resources([ResourceConstraint.new_pio(8), ResourceConstraint.new_legacy_irq()])
    DeviceResources([Resource.PioAddressRange(base=0x0, size=0x8), Resource.LegacyIrq(irq=6)])
    >>> manager.allocate_pio_address(8, range=(0x0, 0x9))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    dbs_device.errors.NoAvailableResourceError: cannot allocate ...: free is 0x8..0x9 within 0x0..0x9
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
            "pio": _pool("pio", pio, MAX_PORT, "#x"),
            "mmio": _pool("mmio", mmio, MAX_ADDRESS, "#x"),
            "mem": _pool("mem", mem, MAX_ADDRESS, "#x"),
            "legacy_irq": _pool("legacy_irq", legacy_irq, MAX_NUMBER, "d"),
            "msi_irq": _pool("msi_irq", msi_irq, MAX_NUMBER, "d"),
            "kvm_mem_slots": _pool("kvm_mem_slots", kvm_mem_slots, MAX_NUMBER, "d"),
        }
        self._shared_irq = None if shared_irq is None else Resource.LegacyIrq(shared_irq).irq
        self._shared_irq_users = 0
        for first, last in self._pools["legacy_irq"]:
            if self._shared_irq is not None and first <= self._shared_irq <= last:
                raise InvalidRangeError(
                    f"legacy_irq: range {first}..{last} has the shared interrupt {self._shared_irq}"
                )
        self._lock = threading.Lock()

    def allocate_device_resources(
        self, constraints: Iterable[ResourceConstraint], shared_irq: bool = False
    ) -> DeviceResources:
        """Allocate what a device asks for: all of it, or nothing.

        The constraints are met in their order, each with the lowest number that fits. One that leaves no choice (a
        fixed interrupt, a tight range) therefore belongs before those that take what comes.

        Parameters
        ----------
        constraints : iterable of ResourceConstraint
            What is asked for.
        shared_irq : bool
            Whether the shared interrupt will do for each legacy interrupt that is not asked for by its number.

        Returns
        -------
        DeviceResources
            One resource for each constraint, in their order; for one of memory slots, one for each slot. PCI MSI
            interrupts begin at a multiple of their count. Memory slots asked for without a number need not be in a row.

        Raises
        ------
        NoAvailableResourceError
            A constraint cannot be met.
        InvalidRangeError
            A constraint asks for nothing (size 0).
        TypeError
            Something is no constraint.
        """
        requests = list(constraints)  # before the lock is taken: it may run the caller's code
        resources = DeviceResources()
        with self._lock:
            try:
                for constraint in requests:
                    for resource in self._allocate(constraint, shared_irq):
                        resources.append(resource)
            except BaseException:
                for resource in resources:
                    self._free(resource)
                raise
        return resources

    def free_device_resources(self, resources: Iterable[Resource]) -> None:
        """Free what was allocated for a device: all of it, or nothing.

        Parameters
        ----------
        resources : DeviceResources or iterable of Resource
            What `allocate_device_resources`, or a single step, gave. A MAC address, which nobody allocated, is ignored.

        Raises
        ------
        InvalidResourceRangeError
            One of them is not allocated, is allocated with another size, or is named twice.
        """
        allocated = [each for each in DeviceResources(resources) if not isinstance(each, MacAddress)]
        freed = []
        with self._lock:
            try:
                for resource in allocated:
                    self._free(resource)
                    freed.append(resource)
            except BaseException:
                for resource in freed:
                    self._take_back(resource)
                raise

    def allocate_pio_address(self, size: int, range: tuple[int, int] | None = None, align: int = 1) -> int:
        """Allocate `size` ports and return the first of them.

        Parameters
        ----------
        size : int
            Number of ports.
        range : tuple of (int, int), optional
            Lowest and highest port that may be given, inclusive: all of the allocation lies within.
        align : int
            The first port is a multiple of it; any value from 1 on.

        Returns
        -------
        int
            The first port.

        Raises
        ------
        NoAvailableResourceError
            Nothing that is free fits.
        InvalidRangeError
            `size` is 0, or a number is outside of its space.
        """
        return self._allocate_one(ResourceConstraint.pio_with_constraints(size, range, align))

    def free_pio_address(self, base: int, size: int) -> None:
        """Free the `size` ports from `base` on; `InvalidResourceRangeError` if that is no allocation."""
        self.free_device_resources([Resource.PioAddressRange(base, size)])

    def allocate_mmio_address(self, size: int, range: tuple[int, int] | None = None, align: int = PAGE_SIZE) -> int:
        """Allocate `size` bytes of MMIO and return the first address.

        Parameters
        ----------
        size : int
            Bytes.
        range : tuple of (int, int), optional
            Lowest and highest address that may be given, inclusive: all of the allocation lies within.
        align : int
            The first address is a multiple of it; any value from 1 on.

        Returns
        -------
        int
            The first address.

        Raises
        ------
        NoAvailableResourceError
            Nothing that is free fits.
        InvalidRangeError
            `size` is 0, or a number is outside of its space.
        """
        return self._allocate_one(ResourceConstraint.mmio_with_constraints(size, range, align))

    def free_mmio_address(self, base: int, size: int) -> None:
        """Free the `size` bytes of MMIO from `base` on; `InvalidResourceRangeError` if that is no allocation."""
        self.free_device_resources([Resource.MmioAddressRange(base, size)])

    def allocate_mem_address(self, size: int, range: tuple[int, int] | None = None, align: int = PAGE_SIZE) -> int:
        """Allocate `size` bytes of guest memory and return the first address.

        Parameters
        ----------
        size : int
            Bytes.
        range : tuple of (int, int), optional
            Lowest and highest address that may be given, inclusive: all of the allocation lies within.
        align : int
            The first address is a multiple of it; any value from 1 on.

        Returns
        -------
        int
            The first address.

        Raises
        ------
        NoAvailableResourceError
            Nothing that is free fits.
        InvalidRangeError
            `size` is 0, or a number is outside of its space.
        """
        return self._allocate_one(ResourceConstraint.mem_with_constraints(size, range, align))

    def free_mem_address(self, base: int, size: int) -> None:
        """Free the `size` bytes of memory from `base` on; `InvalidResourceRangeError` if that is no allocation."""
        self.free_device_resources([Resource.MemAddressRange(base, size)])

    def allocate_legacy_irq(self, shared: bool = False, fixed: int | None = None) -> int:
        """Allocate a legacy interrupt and return its number.

        Parameters
        ----------
        shared : bool
            Whether the shared interrupt will do. It is what is given then, unless `fixed` asks for another one, and has
            to be freed as often as it was given.
        fixed : int, optional
            The number that is asked for; the lowest that is free by default.

        Returns
        -------
        int
            The number.

        Raises
        ------
        NoAvailableResourceError
            The interrupt, or every one, is taken; or it is the shared one, and `shared` is false.
        """
        return self._allocate_one(ResourceConstraint.new_legacy_irq(fixed), shared)

    def free_legacy_irq(self, irq: int) -> None:
        """Free a legacy interrupt, or one use of the shared one; `InvalidResourceRangeError` if it is not allocated."""
        self.free_device_resources([Resource.LegacyIrq(irq)])

    def allocate_msi_irq(self, count: int) -> int:
        """Allocate `count` message signalled interrupts in a row and return the first.

        Raises
        ------
        NoAvailableResourceError
            No `count` of them in a row are free.
        InvalidRangeError
            `count` is 0.
        """
        return self._allocate_one(ResourceConstraint.new_generic_irq(count))

    def allocate_msi_irq_aligned(self, count: int) -> int:
        """Allocate `count` message signalled interrupts in a row, the first a multiple of `count`, and return it.

        Raises
        ------
        NoAvailableResourceError
            No such `count` of them are free.
        InvalidRangeError
            `count` is 0.
        """
        return self._allocate_one(ResourceConstraint.new_pci_msi_irq(count))

    def free_msi_irq(self, irq: int, count: int) -> None:
        """Free the `count` interrupts from `irq` on; `InvalidResourceRangeError` if that is no allocation."""
        self.free_device_resources([Resource.MsiIrq(MsiIrqType.GENERIC_MSI, irq, count)])

    def allocate_kvm_mem_slot(self, fixed: int | None = None) -> int:
        """Allocate one memory slot, the lowest that is free or `fixed`, and return its number.

        Raises
        ------
        NoAvailableResourceError
            The slot, or every one, is taken.
        """
        return self._allocate_one(ResourceConstraint.new_kvm_mem_slot(1, fixed))

    def free_kvm_mem_slot(self, slot: int) -> None:
        """Free a memory slot; `InvalidResourceRangeError` if it is not allocated."""
        self.free_device_resources([Resource.KvmMemSlot(slot)])

    def get_free_ranges(self, pool: str) -> list[tuple[int, int]]:
        """Return what is free of one kind.

        Parameters
        ----------
        pool : str
            "pio", "mmio", "mem", "legacy_irq", "msi_irq" or "kvm_mem_slots", as the constructor names it.

        Returns
        -------
        list of (int, int)
            First and last number, inclusive, of each free range, in order. No two of them touch.

        Raises
        ------
        ValueError
            There is no such pool.

        Examples
        --------
        >>> manager = ResourceManager(pio=(0x100, 0x1FF))
        >>> manager.allocate_pio_address(8, align=0x80)
        256
        >>> [(hex(first), hex(last)) for first, last in manager.get_free_ranges("pio")]
        [('0x108', '0x1ff')]
        """
        if pool not in self._pools:
            raise ValueError(f"there is no pool {pool!r}; there are {', '.join(self._pools)}")
        with self._lock:
            return list(self._pools[pool])

    def __repr__(self) -> str:
        with self._lock:
            pools = [
                f"{name}: {pool.allocations} allocated, free {pool.describe_free()}"
                for name, pool in self._pools.items()
            ]
            shared = "" if self._shared_irq is None else f"; irq {self._shared_irq}: shared by {self._shared_irq_users}"
        return f"<{type(self).__name__} {'; '.join(pools)}{shared}>"

    def _allocate_one(self, constraint: ResourceConstraint, shared_irq: bool = False) -> int:
        [resource] = self.allocate_device_resources([constraint], shared_irq)
        return self._place(resource)[1]

    # What follows runs with the lock held.

    def _allocate(self, constraint: ResourceConstraint, shared_irq: bool) -> Iterator[Resource]:
        """Yield each resource as soon as it is taken, so that the caller can give it back when a later one fails."""
        match constraint:
            case ResourceConstraint.PioAddress(size, bounds, align):
                yield Resource.PioAddressRange(self._take("pio", constraint, size, align, bounds), size)
            case ResourceConstraint.MmioAddress(size, bounds, align):
                yield Resource.MmioAddressRange(self._take("mmio", constraint, size, align, bounds), size)
            case ResourceConstraint.MemAddress(size, bounds, align):
                yield Resource.MemAddressRange(self._take("mem", constraint, size, align, bounds), size)
            case ResourceConstraint.LegacyIrq(irq):
                yield Resource.LegacyIrq(self._take_legacy_irq(constraint, irq, shared_irq))
            case ResourceConstraint.PciMsiIrq(size):
                yield Resource.MsiIrq(MsiIrqType.PCI_MSI, self._take("msi_irq", constraint, size, align=size), size)
            case ResourceConstraint.PciMsixIrq(size):
                yield Resource.MsiIrq(MsiIrqType.PCI_MSIX, self._take("msi_irq", constraint, size), size)
            case ResourceConstraint.GenericIrq(size):
                yield Resource.MsiIrq(MsiIrqType.GENERIC_MSI, self._take("msi_irq", constraint, size), size)
            case ResourceConstraint.KvmMemSlot(size, slot):
                _refuse_nothing(constraint, size)
                for index in range(size):
                    bounds = None if slot is None else (slot + index, slot + index)
                    yield Resource.KvmMemSlot(self._take("kvm_mem_slots", constraint, 1, bounds=bounds))
            case _:
                raise TypeError(f"a device asks for ResourceConstraint objects, not {constraint!r}")

    def _take(
        self,
        name: str,
        constraint: ResourceConstraint,
        size: int,
        align: int = 1,
        bounds: tuple[int, int] | None = None,
    ) -> int:
        _refuse_nothing(constraint, size)
        pool = self._pools[name]
        lowest, highest = bounds or (0, None)
        base = pool.allocate(size, align, lowest, highest)
        if base is None:
            raise NoAvailableResourceError(constraint, pool.describe_free(lowest, highest))
        return base

    def _take_legacy_irq(self, constraint: ResourceConstraint, irq: int | None, shared: bool) -> int:
        if not shared or irq not in (None, self._shared_irq):
            return self._take("legacy_irq", constraint, 1, bounds=None if irq is None else (irq, irq))
        if self._shared_irq is None:
            raise NoAvailableResourceError(constraint, "no shared interrupt")
        self._shared_irq_users += 1
        return self._shared_irq

    def _place(self, resource: Resource) -> tuple[RangePool, int, int]:
        """Return the pool that a resource comes from, its first number and its size."""
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
                raise TypeError(f"{resource!r} is not a resource that is allocated")

    def _is_shared(self, resource: Resource) -> bool:
        return isinstance(resource, LegacyIrq) and resource.irq == self._shared_irq

    def _free(self, resource: Resource) -> None:
        if self._is_shared(resource):
            if not self._shared_irq_users:
                raise InvalidResourceRangeError(resource, "nobody holds the shared interrupt")
            self._shared_irq_users -= 1
            return
        pool, base, size = self._place(resource)
        try:
            pool.free(base, size)
        except ValueError as error:
            raise InvalidResourceRangeError(resource, str(error)) from None

    def _take_back(self, resource: Resource) -> None:
        """Undo `_free`."""
        if self._is_shared(resource):
            self._shared_irq_users += 1
        else:
            pool, base, size = self._place(resource)
            pool.allocate(size, 1, base, base + size - 1)


def _refuse_nothing(constraint: ResourceConstraint, size: int) -> None:
    if not size:
        raise InvalidRangeError(f"{constraint!r} asks for nothing")
