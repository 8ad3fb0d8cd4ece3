"""The resource manager: every kind of resource, all or nothing, and nothing is ever lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from helpers import DEADLOCK, Worker
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dbs_device.errors import (
    DeviceModelError,
    InvalidRangeError,
    InvalidResourceRangeError,
    NoAvailableResourceError,
    ResourceError,
)
from dbs_device.resource_manager import ResourceManager
from dbs_device.resources import DeviceResources, MsiIrqType, Resource, ResourceConstraint

POOLS = ("pio", "mmio", "mem", "legacy_irq", "msi_irq", "kvm_mem_slots")
TOP = 0xFFFF_FFFF_FFFF_FFFF


def free_of(manager: ResourceManager) -> dict[str, list[tuple[int, int]]]:
    return {pool: manager.get_free_ranges(pool) for pool in POOLS}


# -- the layout


def test_the_default_layout_is_that_of_dragonball_on_x86_64() -> None:
    assert free_of(ResourceManager()) == {
        "pio": [(0x0, 0xFFFF)],
        "mmio": [(0xC000_0000, 0xFBFF_FFFF), (0x2000_0000_0000, 0x3FFF_FFFF_FFFF)],
        "mem": [(0x0, 0xBFFF_FFFF), (0x1_0000_0000, 0x1FFF_FFFF_FFFF)],
        "legacy_irq": [(6, 15)],
        "msi_irq": [(24, 1023)],
        "kvm_mem_slots": [(0, 508)],
    }
    assert ResourceManager().allocate_legacy_irq(shared=True) == 5


def test_any_layout_may_be_given_as_one_range_or_as_several() -> None:
    manager = ResourceManager(
        pio=[],
        mmio=(0, TOP),
        mem=[(0x8000_0000, 0x8FFF_FFFF), (0x2000_0000, 0x2000_FFFF)],
        legacy_irq=iter([(32, 63)]),
        shared_irq=None,
        msi_irq=[[0, 7]],
        kvm_mem_slots=((3, 3), (1, 2)),
    )
    assert free_of(manager) == {
        "pio": [],
        "mmio": [(0, TOP)],
        "mem": [(0x2000_0000, 0x2000_FFFF), (0x8000_0000, 0x8FFF_FFFF)],
        "legacy_irq": [(32, 63)],
        "msi_irq": [(0, 7)],
        "kvm_mem_slots": [(1, 3)],
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pio": (0, 0x10000)}, InvalidRangeError, r"^pio: range 0x0\.\.0x10000 .*0x0\.\.0xffff$"),
        ({"mmio": [(0, 2**64)]}, InvalidRangeError, rf"^mmio: range 0x0\.\.{2**64:#x} .*0x0\.\.{TOP:#x}$"),
        ({"mem": [(0, 9), (9, 10)]}, InvalidRangeError, r"^mem: range 0x9\.\.0xa overlaps 0x0\.\.0x9$"),
        ({"legacy_irq": (7, 6)}, InvalidRangeError, r"^legacy_irq: range 7\.\.6 .*\b0\.\.4294967295$"),
        ({"legacy_irq": (5, 15)}, InvalidRangeError, r"^legacy_irq: range 5\.\.15 .*\bshared interrupt 5$"),
        ({"shared_irq": -1}, InvalidRangeError, r"\birq\b.* not -1$"),
        ({"pio": 7}, TypeError, r"^pio .*\(first, last\).* not 7$"),
        ({"msi_irq": (1, 2, 3)}, TypeError, r"^msi_irq .*\(first, last\).* not \(1, 2, 3\)$"),
        ({"kvm_mem_slots": [(0, 1.5)]}, TypeError, r"^kvm_mem_slots .*\(first, last\).* not \[\(0, 1\.5\)\]$"),
    ],
)
def test_a_bad_layout_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ResourceManager(**arguments)


# -- addresses

ADDRESS_KINDS = ("pio", "mmio", "mem")


@pytest.fixture(params=ADDRESS_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small() -> ResourceManager:
    """A manager with 64 KiB of each kind of address."""
    return ResourceManager(pio=(0, 0xFFFF), mmio=(0, 0xFFFF), mem=(0, 0xFFFF))


def steps(manager: ResourceManager, kind: str) -> tuple[Callable[..., int], Callable[[int, int], None]]:
    return getattr(manager, f"allocate_{kind}_address"), getattr(manager, f"free_{kind}_address")


def test_the_lowest_address_that_fits_is_given_first(small: ResourceManager, kind: str) -> None:
    allocate, free = steps(small, kind)
    assert [allocate(0x1000), allocate(0x2000), allocate(0x1000)] == [0, 0x1000, 0x3000]
    free(0x1000, 0x2000)
    assert [allocate(0x3000), allocate(0x1000), allocate(0x1000)] == [0x4000, 0x1000, 0x2000]


def test_memory_is_aligned_to_pages_by_default_and_ports_are_not(small: ResourceManager) -> None:
    assert [small.allocate_pio_address(3), small.allocate_pio_address(3)] == [0, 3]
    assert [small.allocate_mmio_address(3), small.allocate_mmio_address(3)] == [0, 0x1000]
    assert [small.allocate_mem_address(3), small.allocate_mem_address(3)] == [0, 0x1000]


def test_any_alignment_is_honoured(small: ResourceManager, kind: str) -> None:
    allocate, _ = steps(small, kind)
    allocate(1)
    assert [allocate(4, align=align) for align in (7, 24, 0x100, 999)] == [7, 24, 0x100, 999]


def test_the_whole_allocation_is_within_its_range(small: ResourceManager, kind: str) -> None:
    allocate, _ = steps(small, kind)
    assert allocate(0x10, range=(0x805, 0x823), align=0x10) == 0x810
    with pytest.raises(NoAvailableResourceError):
        allocate(0x10, range=(0x825, 0x83E), align=0x10)
    assert allocate(0x10, range=(0x825, 0x83F), align=0x10) == 0x830


def test_all_of_the_space_can_be_allocated_and_freed(kind: str) -> None:
    last = 0xFFFF if kind == "pio" else TOP
    manager = ResourceManager(**{kind: (0, last)})
    allocate, free = steps(manager, kind)
    assert allocate(last + 1) == 0
    assert manager.get_free_ranges(kind) == []
    free(0, last + 1)
    assert manager.get_free_ranges(kind) == [(0, last)]


def test_an_exhausted_pool_refuses_and_recovers(small: ResourceManager, kind: str) -> None:
    allocate, free = steps(small, kind)
    bases = [allocate(0x1000) for _ in range(16)]
    with pytest.raises(NoAvailableResourceError):
        allocate(1)
    assert small.get_free_ranges(kind) == []
    free(bases[5], 0x1000)
    assert allocate(0x1000) == bases[5]
    for base in random.Random(4).sample(bases, len(bases)):
        free(base, 0x1000)
    assert small.get_free_ranges(kind) == [(0, 0xFFFF)]


def test_the_message_of_a_refusal_names_the_constraint_and_what_is_free(small: ResourceManager) -> None:
    small.allocate_pio_address(8, range=(0x3F8, 0x3FF))
    with pytest.raises(NoAvailableResourceError) as caught:
        small.allocate_pio_address(8, range=(0x3F4, 0x3FF), align=2)
    assert caught.value.constraint == ResourceConstraint.pio_with_constraints(8, (0x3F4, 0x3FF), 2)
    assert repr(caught.value.constraint) in str(caught.value)
    assert str(caught.value).endswith(" 0x3f4..0x3f7 within 0x3f4..0x3ff")
    assert isinstance(caught.value, ResourceError)
    with pytest.raises(NoAvailableResourceError) as caught:
        small.allocate_mmio_address(0x10001)
    assert repr(ResourceConstraint.new_mmio(0x10001)) in str(caught.value)
    assert str(caught.value).endswith(" 0x0..0xffff")


def test_size_0_is_refused(small: ResourceManager, kind: str) -> None:
    allocate, _ = steps(small, kind)
    with pytest.raises(InvalidRangeError, match=r"^ResourceConstraint\.\w+\(size=0, .*\) "):
        allocate(0)


def test_numbers_outside_of_their_space_are_refused(small: ResourceManager, kind: str) -> None:
    allocate, free = steps(small, kind)
    for arguments in ({"size": 2**65}, {"size": 1, "align": 0}, {"size": 1, "range": (5, 4)}):
        with pytest.raises(InvalidRangeError):
            allocate(**arguments)
    with pytest.raises(InvalidRangeError):
        free(-1, 1)
    with pytest.raises(TypeError):
        allocate("8")


def test_freeing_what_is_not_allocated_is_refused(small: ResourceManager, kind: str) -> None:
    allocate, free = steps(small, kind)
    allocate(0x1000)
    before = small.get_free_ranges(kind)
    for base, size in ((0, 0xFFF), (0, 0x1001), (1, 0xFFF), (0x1000, 0x1000), (0, 0), (0xFFFF, 3)):
        with pytest.raises(InvalidResourceRangeError):
            free(base, size)
    assert small.get_free_ranges(kind) == before
    free(0, 0x1000)
    with pytest.raises(InvalidResourceRangeError):
        free(0, 0x1000)


def test_the_message_of_a_refused_free_names_the_resource_and_the_reason(small: ResourceManager) -> None:
    small.allocate_mmio_address(0x2000)
    with pytest.raises(InvalidResourceRangeError) as caught:
        small.free_mmio_address(0, 0x1000)
    assert repr(caught.value.resource) in str(caught.value)
    assert str(caught.value).endswith(" 0x0..0x1fff")
    with pytest.raises(InvalidResourceRangeError) as caught:
        small.free_mmio_address(0x1000, 0x1000)
    assert caught.value.resource == Resource.MmioAddressRange(0x1000, 0x1000)
    assert repr(caught.value.resource) in str(caught.value)
    assert str(caught.value).endswith(" 0x1000")


# -- interrupts and memory slots


def test_legacy_irqs_are_given_one_by_one_or_by_number() -> None:
    manager = ResourceManager()
    assert [manager.allocate_legacy_irq(fixed=7), manager.allocate_legacy_irq(), manager.allocate_legacy_irq()] == [
        7,
        6,
        8,
    ]
    with pytest.raises(NoAvailableResourceError, match=r"\bLegacyIrq\(irq=7\)"):
        manager.allocate_legacy_irq(fixed=7)
    manager.free_legacy_irq(7)
    assert manager.allocate_legacy_irq() == 7
    for irq in (4, 16):
        with pytest.raises(NoAvailableResourceError):
            manager.allocate_legacy_irq(fixed=irq)
        with pytest.raises(InvalidResourceRangeError):
            manager.free_legacy_irq(irq)


def test_the_shared_irq_is_given_to_any_number_of_devices_and_freed_by_each() -> None:
    manager = ResourceManager()
    assert [manager.allocate_legacy_irq(shared=True) for _ in range(3)] == [5, 5, 5]
    assert manager.allocate_legacy_irq(shared=True, fixed=5) == 5
    for _ in range(4):
        manager.free_legacy_irq(5)
    with pytest.raises(InvalidResourceRangeError, match=r"\bLegacyIrq\(irq=5\).*\bshared interrupt\b"):
        manager.free_legacy_irq(5)
    assert manager.get_free_ranges("legacy_irq") == [(6, 15)]


def test_the_shared_irq_is_not_given_to_one_device_alone() -> None:
    manager = ResourceManager()
    for allocate in (
        lambda: manager.allocate_legacy_irq(fixed=5),
        lambda: manager.allocate_device_resources([ResourceConstraint.new_legacy_irq(5)]),
    ):
        with pytest.raises(NoAvailableResourceError) as caught:
            allocate()
        assert str(caught.value) == (
            "cannot allocate ResourceConstraint.LegacyIrq(irq=5): interrupt 5 is shared; to use it, pass "
            "shared_irq=True (allocate_legacy_irq: shared=True)"
        )


def test_a_number_that_is_asked_for_is_never_replaced_by_the_shared_one() -> None:
    assert ResourceManager().allocate_legacy_irq(shared=True, fixed=9) == 9


def test_a_layout_without_a_shared_irq_refuses_to_allocate_it() -> None:
    manager = ResourceManager(shared_irq=None)
    with pytest.raises(NoAvailableResourceError, match=r"\bLegacyIrq\(irq=None\).*\bno shared interrupt$"):
        manager.allocate_legacy_irq(shared=True)


def test_msi_irqs_are_contiguous_and_aligned_where_asked() -> None:
    manager = ResourceManager()
    assert manager.allocate_msi_irq(3) == 24
    assert manager.allocate_msi_irq_aligned(8) == 32
    assert manager.allocate_msi_irq_aligned(7) == 42
    assert manager.allocate_msi_irq_aligned(512) == 512
    assert manager.allocate_msi_irq(5) == 27
    with pytest.raises(NoAvailableResourceError, match=r"\bGenericIrq\(size=1000\).* 40\.\.41, 49\.\.511$"):
        manager.allocate_msi_irq(1000)
    with pytest.raises(InvalidRangeError, match=r"\bGenericIrq\(size=0\) "):
        manager.allocate_msi_irq(0)
    with pytest.raises(InvalidResourceRangeError):
        manager.free_msi_irq(24, 2)
    for base, count in ((24, 3), (32, 8), (42, 7), (512, 512), (27, 5)):
        manager.free_msi_irq(base, count)
    assert manager.get_free_ranges("msi_irq") == [(24, 1023)]


def test_kvm_memory_slots_are_given_one_by_one_or_by_number() -> None:
    manager = ResourceManager()
    assert [manager.allocate_kvm_mem_slot(), manager.allocate_kvm_mem_slot(200)] == [0, 200]
    assert manager.allocate_kvm_mem_slot(fixed=508) == 508
    for slot in (200, 509):
        with pytest.raises(NoAvailableResourceError):
            manager.allocate_kvm_mem_slot(slot)
    manager.free_kvm_mem_slot(200)
    assert manager.allocate_kvm_mem_slot(200) == 200
    with pytest.raises(InvalidResourceRangeError):
        manager.free_kvm_mem_slot(201)


# -- whole devices


def test_a_device_gets_a_resource_for_each_constraint_in_their_order() -> None:
    manager = ResourceManager()
    resources = manager.allocate_device_resources(
        [
            ResourceConstraint.new_kvm_mem_slot(2),
            ResourceConstraint.new_mmio(0x200),
            ResourceConstraint.pio_with_constraints(8, (0x3F8, 0x3FF), 1),
            ResourceConstraint.new_mem(0x5000),
            ResourceConstraint.new_legacy_irq(9),
            ResourceConstraint.new_pci_msi_irq(16),
            ResourceConstraint.new_pci_msix_irq(3),
            ResourceConstraint.new_generic_irq(4),
        ]
    )
    assert resources == DeviceResources(
        [
            Resource.KvmMemSlot(0),
            Resource.KvmMemSlot(1),
            Resource.MmioAddressRange(0xC000_0000, 0x200),
            Resource.PioAddressRange(0x3F8, 8),
            Resource.MemAddressRange(0, 0x5000),
            Resource.LegacyIrq(9),
            Resource.MsiIrq(MsiIrqType.PCI_MSI, 32, 16),
            Resource.MsiIrq(MsiIrqType.PCI_MSIX, 24, 3),
            Resource.MsiIrq(MsiIrqType.GENERIC_MSI, 27, 4),
        ]
    )
    manager.free_device_resources(resources)
    assert free_of(manager) == free_of(ResourceManager())


def test_a_device_may_share_its_interrupt() -> None:
    manager = ResourceManager()
    wishes = [ResourceConstraint.new_legacy_irq(), ResourceConstraint.new_legacy_irq(10)]
    resources = manager.allocate_device_resources(wishes, shared_irq=True)
    assert resources == DeviceResources([Resource.LegacyIrq(5), Resource.LegacyIrq(10)])
    manager.free_device_resources(resources)
    with pytest.raises(InvalidResourceRangeError, match="shared interrupt"):
        manager.free_legacy_irq(5)


def test_memory_slots_are_contiguous_only_if_the_first_is_given() -> None:
    manager = ResourceManager(kvm_mem_slots=(0, 9))
    manager.allocate_kvm_mem_slot(1)
    any_slots = manager.allocate_device_resources([ResourceConstraint.new_kvm_mem_slot(3)])
    assert any_slots.get_kvm_mem_slots() == [0, 2, 3]
    row = manager.allocate_device_resources([ResourceConstraint.new_kvm_mem_slot(3, slot=5)])
    assert row.get_kvm_mem_slots() == [5, 6, 7]
    before = free_of(manager)
    for wish in (ResourceConstraint.new_kvm_mem_slot(3, slot=3), ResourceConstraint.new_kvm_mem_slot(4)):
        with pytest.raises(NoAvailableResourceError) as caught:
            manager.allocate_device_resources([wish])
        assert caught.value.constraint is wish
        assert free_of(manager) == before
    manager.free_device_resources(any_slots)
    manager.free_device_resources(row)
    assert manager.get_free_ranges("kvm_mem_slots") == [(0, 0), (2, 9)]


@dataclass(frozen=True)
class HugePages(ResourceConstraint):
    """A constraint of a kind that the manager does not know."""


@dataclass(frozen=True)
class HugePage(Resource):
    """A resource of a kind that the manager does not know."""


ONE_OF_EACH = [
    ResourceConstraint.new_pio(8),
    ResourceConstraint.new_mmio(8),
    ResourceConstraint.new_mem(8),
    ResourceConstraint.new_legacy_irq(),
    ResourceConstraint.new_pci_msi_irq(2),
    ResourceConstraint.new_pci_msix_irq(2),
    ResourceConstraint.new_generic_irq(2),
    ResourceConstraint.new_kvm_mem_slot(2),
]
IMPOSSIBLE = [
    (ResourceConstraint.pio_with_constraints(8, (0, 6), 1), NoAvailableResourceError),
    (ResourceConstraint.mmio_with_constraints(1, (0, 0xFFF), 1), NoAvailableResourceError),
    (ResourceConstraint.new_mem(2**60), NoAvailableResourceError),
    (ResourceConstraint.new_legacy_irq(3), NoAvailableResourceError),
    (ResourceConstraint.new_pci_msi_irq(1000), NoAvailableResourceError),
    (ResourceConstraint.new_pci_msix_irq(1001), NoAvailableResourceError),
    (ResourceConstraint.new_generic_irq(0), InvalidRangeError),
    (ResourceConstraint.new_kvm_mem_slot(1, 509), NoAvailableResourceError),
    (ResourceConstraint.new_kvm_mem_slot(0), InvalidRangeError),
    (HugePages(), TypeError),
    ("8 ports", TypeError),
]


@pytest.mark.parametrize(("impossible", "error"), IMPOSSIBLE, ids=[repr(each) for each, _ in IMPOSSIBLE])
@pytest.mark.parametrize("shared_irq", [False, True])
def test_one_constraint_that_cannot_be_met_leaves_nothing_allocated(
    impossible: Any, error: type[Exception], shared_irq: bool
) -> None:
    manager = ResourceManager()
    for position in range(len(ONE_OF_EACH) + 1):
        with pytest.raises(error):
            manager.allocate_device_resources(
                [*ONE_OF_EACH[:position], impossible, *ONE_OF_EACH[position:]], shared_irq=shared_irq
            )
    assert free_of(manager) == free_of(ResourceManager())
    with pytest.raises(InvalidResourceRangeError):
        manager.free_legacy_irq(5)


def test_an_object_that_is_not_a_constraint_is_named() -> None:
    with pytest.raises(TypeError, match=r"\bResourceConstraint\b.* not '8 ports'$"):
        ResourceManager().allocate_device_resources(["8 ports"])  # type: ignore[list-item]


@pytest.mark.parametrize("shared_irq", [False, True])
def test_resources_of_which_one_cannot_be_freed_all_stay_allocated(shared_irq: bool) -> None:
    manager = ResourceManager()
    resources = manager.allocate_device_resources(ONE_OF_EACH, shared_irq=shared_irq)
    before = free_of(manager)
    strangers = [
        Resource.PioAddressRange(0x4000, 4),
        Resource.MmioAddressRange(0xC000_0000, 9),
        Resource.LegacyIrq(15),
        resources[0],  # twice
    ]
    for stranger in strangers:
        with pytest.raises(InvalidResourceRangeError):
            manager.free_device_resources([*resources, stranger])
        assert free_of(manager) == before
    with pytest.raises(TypeError, match=r"^HugePage\(\) "):
        manager.free_device_resources([*resources, HugePage()])
    assert free_of(manager) == before
    manager.free_device_resources(resources)
    assert free_of(manager) == free_of(ResourceManager())


def test_freeing_passes_over_a_mac_address() -> None:
    manager = ResourceManager()
    resources = manager.allocate_device_resources([ResourceConstraint.new_pio(4)])
    resources.append(Resource.MacAddress("52:54:00:12:34:56"))
    manager.free_device_resources(resources)
    assert manager.get_free_ranges("pio") == [(0, 0xFFFF)]


def test_a_caller_may_use_the_manager_while_it_makes_up_its_constraints() -> None:
    manager = ResourceManager()

    def wishes() -> Iterator[ResourceConstraint]:
        yield ResourceConstraint.new_pio(8)
        manager.allocate_pio_address(4)
        yield ResourceConstraint.new_pio(8)

    resources = manager.allocate_device_resources(wishes())
    assert resources.get_pio_address_ranges() == [(4, 8), (12, 8)]
    manager.free_device_resources(each for each in resources if manager.get_free_ranges("pio"))
    assert manager.get_free_ranges("pio") == [(4, 0xFFFF)]


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'dma'.* pio, mmio, mem, legacy_irq, msi_irq, kvm_mem_slots$"):
        ResourceManager().get_free_ranges("dma")


def test_repr_tells_the_state_of_each_pool() -> None:
    manager = ResourceManager(mmio=(0, 0xFFF), mem=[])
    manager.allocate_pio_address(8)
    manager.allocate_legacy_irq(shared=True)
    assert repr(manager) == (
        "<ResourceManager pio: 1 allocated, free: 0x8..0xffff; mmio: 0 allocated, free: 0x0..0xfff; "
        "mem: 0 allocated, free: none; legacy_irq: 0 allocated, free: 6..15; msi_irq: 0 allocated, free: 24..1023; "
        "kvm_mem_slots: 0 allocated, free: 0..508; shared irq 5: 1 user>"
    )
    assert repr(ResourceManager(shared_irq=None)).endswith("kvm_mem_slots: 0 allocated, free: 0..508>")


def test_every_error_is_one_of_the_package() -> None:
    assert issubclass(NoAvailableResourceError, DeviceModelError)
    assert issubclass(InvalidResourceRangeError, DeviceModelError)


# -- against a naive model

SMALL_LAYOUT: dict[str, Any] = {
    "pio": (0xFFE0, 0xFFFF),
    "mmio": [(0, 40), (TOP - 20, TOP)],
    "mem": (100, 130),
    "legacy_irq": (6, 9),
    "msi_irq": (24, 40),
    "kvm_mem_slots": (0, 6),
}


class NaiveManager:
    """The same rules over sets of integers, every candidate tried in turn."""

    def __init__(self) -> None:
        self.free = {
            pool: {
                number
                for first, last in ([ranges] if isinstance(ranges, tuple) else ranges)
                for number in range(first, last + 1)
            }
            for pool, ranges in SMALL_LAYOUT.items()
        }

    def take(self, pool: str, size: int, align: int = 1, bounds: tuple[int, int] | None = None) -> int | None:
        lowest, highest = bounds or (0, TOP)
        for base in sorted(self.free[pool]):
            wanted = range(base, base + size)
            if base % align == 0 and lowest <= base and wanted[-1] <= highest and self.free[pool].issuperset(wanted):
                self.free[pool].difference_update(wanted)
                return base
        return None

    def allocate(self, constraints: list[ResourceConstraint], shared_irq: bool) -> list[Resource] | None:
        before = {pool: set(numbers) for pool, numbers in self.free.items()}
        resources: list[Resource] = []
        for constraint in constraints:
            given = self.allocate_one(constraint, shared_irq)
            if any(base is None for base, _ in given):
                self.free = before
                return None
            resources += [resource for _, resource in given]
        return resources

    def allocate_one(self, constraint: ResourceConstraint, shared_irq: bool) -> list[tuple[int | None, Any]]:
        make: Callable[[int], Resource]
        match constraint:
            case ResourceConstraint.PioAddress(size, bounds, align):
                base, make = self.take("pio", size, align, bounds), lambda base: Resource.PioAddressRange(base, size)
            case ResourceConstraint.MmioAddress(size, bounds, align):
                base, make = self.take("mmio", size, align, bounds), lambda base: Resource.MmioAddressRange(base, size)
            case ResourceConstraint.MemAddress(size, bounds, align):
                base, make = self.take("mem", size, align, bounds), lambda base: Resource.MemAddressRange(base, size)
            case ResourceConstraint.LegacyIrq(irq):
                own = None if irq is None else (irq, irq)
                base = 5 if shared_irq and irq in (None, 5) else self.take("legacy_irq", 1, bounds=own)
                make = Resource.LegacyIrq
            case ResourceConstraint.PciMsiIrq(size):
                base, make = (
                    self.take("msi_irq", size, size),
                    lambda base: Resource.MsiIrq(MsiIrqType.PCI_MSI, base, size),
                )
            case ResourceConstraint.PciMsixIrq(size):
                base, make = self.take("msi_irq", size), lambda base: Resource.MsiIrq(MsiIrqType.PCI_MSIX, base, size)
            case ResourceConstraint.GenericIrq(size):
                base, make = (
                    self.take("msi_irq", size),
                    lambda base: Resource.MsiIrq(MsiIrqType.GENERIC_MSI, base, size),
                )
            case ResourceConstraint.KvmMemSlot(size, slot):
                own_slots = [None if slot is None else (slot + index, slot + index) for index in range(size)]
                slots = [self.take("kvm_mem_slots", 1, bounds=bounds) for bounds in own_slots]
                return [(slot, None if slot is None else Resource.KvmMemSlot(slot)) for slot in slots]
        return [(base, None if base is None else make(base))]

    def release(self, resources: list[Resource]) -> None:
        for resource in resources:
            match resource:
                case Resource.PioAddressRange(base, size):
                    self.free["pio"].update(range(base, base + size))
                case Resource.MmioAddressRange(base, size):
                    self.free["mmio"].update(range(base, base + size))
                case Resource.MemAddressRange(base, size):
                    self.free["mem"].update(range(base, base + size))
                case Resource.LegacyIrq(irq):
                    self.free["legacy_irq"].update({irq} - {5})
                case Resource.MsiIrq(_, base, size):
                    self.free["msi_irq"].update(range(base, base + size))
                case Resource.KvmMemSlot(slot):
                    self.free["kvm_mem_slots"].add(slot)


def address_constraints(
    make: Callable[..., ResourceConstraint], lowest: int, highest: int
) -> st.SearchStrategy[ResourceConstraint]:
    bounds = st.tuples(st.integers(lowest, highest), st.integers(lowest, highest)).map(lambda pair: tuple(sorted(pair)))
    return st.builds(make, st.integers(1, 12), st.none() | bounds, st.integers(1, 9))


CONSTRAINTS = st.one_of(
    address_constraints(ResourceConstraint.pio_with_constraints, 0xFFD8, 0xFFFF),
    address_constraints(ResourceConstraint.mmio_with_constraints, 0, 48),
    address_constraints(ResourceConstraint.mmio_with_constraints, TOP - 30, TOP),
    address_constraints(ResourceConstraint.mem_with_constraints, 90, 140),
    st.builds(ResourceConstraint.new_legacy_irq, st.none() | st.integers(4, 10)),
    st.builds(ResourceConstraint.new_pci_msi_irq, st.integers(1, 9)),
    st.builds(ResourceConstraint.new_pci_msix_irq, st.integers(1, 9)),
    st.builds(ResourceConstraint.new_generic_irq, st.integers(1, 9)),
    st.builds(ResourceConstraint.new_kvm_mem_slot, st.integers(1, 4), st.none() | st.integers(0, 7)),
)


class ManagerAgainstTheModel(RuleBasedStateMachine):
    """Devices come and go; the manager gives, refuses and has free exactly what the model does."""

    @initialize()
    def make(self) -> None:
        self.manager = ResourceManager(**SMALL_LAYOUT)
        self.model = NaiveManager()
        self.devices: list[DeviceResources] = []

    @rule(constraints=st.lists(CONSTRAINTS, max_size=4), shared_irq=st.booleans())
    def allocate(self, constraints: list[ResourceConstraint], shared_irq: bool) -> None:
        expected = self.model.allocate(constraints, shared_irq)
        if expected is None:
            with pytest.raises(NoAvailableResourceError):
                self.manager.allocate_device_resources(constraints, shared_irq)
        else:
            resources = self.manager.allocate_device_resources(constraints, shared_irq)
            assert list(resources) == expected
            self.devices.append(resources)

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if self.devices:
            resources = self.devices.pop(data.draw(st.integers(0, len(self.devices) - 1)))
            self.manager.free_device_resources(resources)
            self.model.release(list(resources))

    @invariant()
    def agrees(self) -> None:
        free = {
            pool: {number for first, last in ranges for number in range(first, last + 1)}
            for pool, ranges in free_of(self.manager).items()
        }
        assert free == self.model.free


TestManagerAgainstTheModel = ManagerAgainstTheModel.TestCase
TestManagerAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.mark.parametrize("operations", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_random_operations_leak_nothing(operations: int) -> None:
    manager = ResourceManager()
    before = free_of(manager)
    choose = random.Random(20240601)
    kinds: list[tuple[Callable[[], int], Callable[[int], None]]] = [
        (lambda: manager.allocate_pio_address(8, align=4), lambda base: manager.free_pio_address(base, 8)),
        (lambda: manager.allocate_mmio_address(0x1234), lambda base: manager.free_mmio_address(base, 0x1234)),
        (
            lambda: manager.allocate_mem_address(0x3000, align=0x10000),
            lambda base: manager.free_mem_address(base, 0x3000),
        ),
        (manager.allocate_legacy_irq, manager.free_legacy_irq),
        (lambda: manager.allocate_legacy_irq(shared=True), manager.free_legacy_irq),
        (lambda: manager.allocate_msi_irq(3), lambda base: manager.free_msi_irq(base, 3)),
        (lambda: manager.allocate_msi_irq_aligned(4), lambda base: manager.free_msi_irq(base, 4)),
        (manager.allocate_kvm_mem_slot, manager.free_kvm_mem_slot),
    ]
    live: list[tuple[Callable[[int], None], int]] = []
    refused = 0
    for _ in range(operations):
        if live and choose.random() < 0.499:
            position = choose.randrange(len(live))
            live[position], live[-1] = live[-1], live[position]
            free, base = live.pop()
            free(base)
        else:
            allocate, free = choose.choice(kinds)
            try:
                live.append((free, allocate()))
            except NoAvailableResourceError:
                refused += 1
    assert refused  # the ten legacy interrupts at least run out
    for free, base in live:
        free(base)
    assert free_of(manager) == before
    with pytest.raises(InvalidResourceRangeError):
        manager.free_legacy_irq(5)


# -- threads


@pytest.mark.usefixtures("impatient_interpreter")
def test_threads_never_hold_the_same_numbers() -> None:
    manager = ResourceManager(pio=(0, 0xFF), mmio=(0, 0x1F_FFFF))
    wishes = [ResourceConstraint.new_pio(8), ResourceConstraint.new_mmio(0x3000), ResourceConstraint.new_pci_msi_irq(8)]
    held: set[tuple[str, int]] = set()
    held_lock = threading.Lock()

    def numbers(resources: DeviceResources) -> set[tuple[str, int]]:
        return {
            (kind, number)
            for kind, ranges in (
                ("pio", resources.get_pio_address_ranges()),
                ("page", [(base >> 12, size >> 12) for base, size in resources.get_mmio_address_ranges()]),
                ("msi", [resources.get_pci_msi_irqs() or (0, 0)]),
            )
            for base, size in ranges
            for number in range(base, base + size)
        }

    def work() -> None:
        for _ in range(300):
            resources = manager.allocate_device_resources(wishes)
            mine = numbers(resources)
            with held_lock:
                assert not held & mine
                held.update(mine)
            with held_lock:
                held.difference_update(mine)
            manager.free_device_resources(resources)

    workers = [Worker(work) for _ in range(4)]
    for worker in workers:
        worker.result()
    assert manager.get_free_ranges("pio") == [(0, 0xFF)]
    assert manager.get_free_ranges("mmio") == [(0, 0x1F_FFFF)]
    assert manager.get_free_ranges("msi_irq") == [(24, 1023)]


@pytest.mark.usefixtures("impatient_interpreter")
def test_one_of_many_threads_gets_the_last_one() -> None:
    manager = ResourceManager(legacy_irq=(6, 6))
    start = threading.Barrier(4)

    def work() -> int | None:
        start.wait(DEADLOCK)
        try:
            return manager.allocate_legacy_irq()
        except NoAvailableResourceError:
            return None

    for _ in range(50):
        outcome = [worker.result() for worker in [Worker(work) for _ in range(4)]]
        assert sorted(outcome, key=str) == [6, None, None, None]
        manager.free_legacy_irq(6)
