"""Resources and constraints: what they accept, how they print, compare, match and travel."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import resources as module
from dbs_device.address import IoAddress, PioAddress, PioSize
from dbs_device.errors import InvalidRangeError
from dbs_device.resources import DeviceResources, MsiIrqType, Resource, ResourceConstraint

ONE_OF_EACH = [
    Resource.PioAddressRange(0x3F8, 8),
    Resource.MmioAddressRange(0xFEC00000, 0x1000),
    Resource.MemAddressRange(0x100000, 2**32),
    Resource.LegacyIrq(4),
    Resource.MsiIrq(MsiIrqType.PCI_MSI, 24, 2),
    Resource.MsiIrq(MsiIrqType.PCI_MSIX, 26, 3),
    Resource.MsiIrq(MsiIrqType.GENERIC_MSI, 29, 4),
    Resource.MacAddress("02:00:00:00:00:01"),
    Resource.KvmMemSlot(7),
]
CONSTRAINTS = [
    ResourceConstraint.PioAddress(8, (0x3F8, 0x3FF), 8),
    ResourceConstraint.MmioAddress(0x1000, (0, 2**64 - 1), 1),
    ResourceConstraint.MemAddress(2**64),
    ResourceConstraint.LegacyIrq(),
    ResourceConstraint.LegacyIrq(5),
    ResourceConstraint.PciMsiIrq(1),
    ResourceConstraint.PciMsixIrq(2),
    ResourceConstraint.GenericIrq(3),
    ResourceConstraint.KvmMemSlot(1),
    ResourceConstraint.KvmMemSlot(2, 5),
]
EVERYTHING = ONE_OF_EACH + CONSTRAINTS

PORT, ADDRESS, NUMBER = 0xFFFF, 2**64 - 1, 2**32 - 1
# (make, highest value) for every integer field; addresses are printed in hex, all others in decimal.
FIELDS = {
    "pio base": (lambda value: Resource.PioAddressRange(value, 1), PORT),
    "pio size": (lambda value: Resource.PioAddressRange(0, value), PORT + 1),
    "mmio base": (lambda value: Resource.MmioAddressRange(value, 1), ADDRESS),
    "mmio size": (lambda value: Resource.MmioAddressRange(0, value), ADDRESS + 1),
    "mem base": (lambda value: Resource.MemAddressRange(value, 1), ADDRESS),
    "mem size": (lambda value: Resource.MemAddressRange(0, value), ADDRESS + 1),
    "irq": (Resource.LegacyIrq, NUMBER),
    "msi base": (lambda value: Resource.MsiIrq(MsiIrqType.PCI_MSI, value, 1), NUMBER),
    "msi size": (lambda value: Resource.MsiIrq(MsiIrqType.PCI_MSI, 0, value), NUMBER),
    "slot": (Resource.KvmMemSlot, NUMBER),
    "pio amount": (ResourceConstraint.new_pio, PORT + 1),
    "mmio amount": (ResourceConstraint.new_mmio, ADDRESS + 1),
    "mem amount": (ResourceConstraint.new_mem, ADDRESS + 1),
    "wanted irq": (ResourceConstraint.new_legacy_irq, NUMBER),
    "msi amount": (ResourceConstraint.new_pci_msi_irq, NUMBER),
    "msi-x amount": (ResourceConstraint.new_pci_msix_irq, NUMBER),
    "generic amount": (ResourceConstraint.new_generic_irq, NUMBER),
    "slot amount": (ResourceConstraint.new_kvm_mem_slot, NUMBER),
    "wanted slot": (lambda value: ResourceConstraint.new_kvm_mem_slot(1, value), NUMBER),
    "highest port": (lambda value: ResourceConstraint.pio_with_constraints(1, (0, value), 1), PORT),
    "highest address": (lambda value: ResourceConstraint.mmio_with_constraints(1, (0, value), 1), ADDRESS),
    "highest memory": (lambda value: ResourceConstraint.mem_with_constraints(1, (0, value), 1), ADDRESS),
}
ALIGNMENTS = {
    "pio": (lambda value: ResourceConstraint.pio_with_constraints(1, None, value), PORT),
    "mmio": (lambda value: ResourceConstraint.mmio_with_constraints(1, None, value), ADDRESS),
    "mem": (lambda value: ResourceConstraint.mem_with_constraints(1, None, value), ADDRESS),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_takes_its_whole_width_and_no_more(name):
    make, highest = FIELDS[name]
    make(0)
    make(highest)
    for value in (-1, highest + 1, -(2**100), 2**100):
        is_address = name.endswith(("base", "port", "address", "memory")) and not name.startswith("msi")
        number_format = "#x" if is_address else "d"
        accepted = rf"{0:{number_format}}\.\.{highest:{number_format}}"
        with pytest.raises(InvalidRangeError, match=rf"takes {accepted} as \w+, not {value:{number_format}}$"):
            make(value)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_an_alignment_is_at_least_one(name):
    make, highest = ALIGNMENTS[name]
    assert make(1).align == 1
    assert make(highest).align == highest
    assert make(3).align == 3
    for value in (0, -1, highest + 1):
        with pytest.raises(InvalidRangeError, match=rf"takes 1\.\.{highest} as align, not {value}$"):
            make(value)


@pytest.mark.parametrize("name", [*FIELDS, *(f"{name} alignment" for name in ALIGNMENTS)])
@pytest.mark.parametrize("value", ["1", b"1", 1.0, np.float64(1), [1], np.array([1, 2]), object()], ids=repr)
def test_a_field_takes_integers_only(name, value):
    make, _ = FIELDS.get(name) or ALIGNMENTS[name.removesuffix(" alignment")]
    with pytest.raises(TypeError):
        make(value)


def test_none_is_an_integer_only_where_any_will_do():
    assert ResourceConstraint.new_legacy_irq(None).irq is None
    assert ResourceConstraint.new_kvm_mem_slot(1, None).slot is None
    with pytest.raises(TypeError, match=r"^Resource.LegacyIrq takes an integer as irq, not NoneType$"):
        Resource.LegacyIrq(None)


@pytest.mark.parametrize(
    ("value", "number"), [(True, 1), (np.uint8(8), 8), (np.int64(8), 8), (PioAddress(8), 8), (IoAddress(8), 8)]
)
def test_numbers_are_kept_as_plain_integers(value, number):
    resource = Resource.PioAddressRange(value, value)
    assert (resource.base, resource.size) == (number, number)
    assert type(resource.base) is int
    assert type(resource.size) is int
    constraint = ResourceConstraint.pio_with_constraints(value, (value, value), value)
    assert constraint.range == (number, number)
    assert {type(each) for each in (constraint.size, constraint.align, *constraint.range)} == {int}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Resource.PioAddressRange(0x10000, 1),
            InvalidRangeError,
            "Resource.PioAddressRange takes 0x0..0xffff as base, not 0x10000",
        ),
        (
            lambda: Resource.MmioAddressRange("0x10", 1),
            TypeError,
            "Resource.MmioAddressRange takes an integer as base, not str",
        ),
        (lambda: Resource.MsiIrq("PciMsi", 0, 1), TypeError, "Resource.MsiIrq takes a MsiIrqType as ty, not str"),
        (lambda: Resource.MacAddress(b"02"), TypeError, "Resource.MacAddress takes a str as addr, not bytes"),
        (
            lambda: ResourceConstraint.PioAddress(8, 5),
            TypeError,
            "ResourceConstraint.PioAddress takes (lowest, highest) or None as range, not 5",
        ),
        (
            lambda: ResourceConstraint.MmioAddress(8, (1, 2, 3)),
            TypeError,
            "ResourceConstraint.MmioAddress takes (lowest, highest) or None as range, not (1, 2, 3)",
        ),
        (
            lambda: ResourceConstraint.MemAddress(8, ("a", 2)),
            TypeError,
            "ResourceConstraint.MemAddress takes an integer as range, not str",
        ),
        (
            lambda: ResourceConstraint.PioAddress(8, (9, 8)),
            InvalidRangeError,
            "ResourceConstraint.PioAddress: range 0x9..0x8 is empty",
        ),
        (
            lambda: ResourceConstraint.PioAddress(8, (-1, 8)),
            InvalidRangeError,
            "ResourceConstraint.PioAddress takes 0x0..0xffff as range, not -0x1",
        ),
        (Resource, TypeError, "Resource cannot be instantiated: use one of its variants"),
        (ResourceConstraint, TypeError, "ResourceConstraint cannot be instantiated: use one of its variants"),
    ],
)
def test_messages(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


def test_a_resource_may_be_empty_or_run_past_its_space():
    assert Resource.PioAddressRange(0xFFFF, 0).size == 0
    assert Resource.MmioAddressRange(2**64 - 1, 2**64).size == 2**64


@pytest.mark.parametrize("name", ["PioAddressRange", "MmioAddressRange", "MemAddressRange", "LegacyIrq", "MsiIrq"])
def test_a_resource_is_also_importable_by_its_own_name(name):
    assert getattr(module, name) is getattr(Resource, name)
    assert name in module.__all__


@pytest.mark.parametrize("name", ["MacAddress", "KvmMemSlot"])
def test_the_other_resources_are_importable_too(name):
    assert getattr(module, name) is getattr(Resource, name)
    assert name in module.__all__


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (ResourceConstraint.new_pio(8), ResourceConstraint.PioAddress(8, None, 1)),
        (ResourceConstraint.pio_with_constraints(8, (1, 9), 2), ResourceConstraint.PioAddress(8, (1, 9), 2)),
        (ResourceConstraint.new_mmio(8), ResourceConstraint.MmioAddress(8, None, 0x1000)),
        (ResourceConstraint.mmio_with_constraints(8, (1, 9), 2), ResourceConstraint.MmioAddress(8, (1, 9), 2)),
        (ResourceConstraint.new_mem(8), ResourceConstraint.MemAddress(8, None, 0x1000)),
        (ResourceConstraint.mem_with_constraints(8, (1, 9), 2), ResourceConstraint.MemAddress(8, (1, 9), 2)),
        (ResourceConstraint.new_legacy_irq(), ResourceConstraint.LegacyIrq(None)),
        (ResourceConstraint.new_legacy_irq(5), ResourceConstraint.LegacyIrq(5)),
        (ResourceConstraint.new_pci_msi_irq(8), ResourceConstraint.PciMsiIrq(8)),
        (ResourceConstraint.new_pci_msix_irq(8), ResourceConstraint.PciMsixIrq(8)),
        (ResourceConstraint.new_generic_irq(8), ResourceConstraint.GenericIrq(8)),
        (ResourceConstraint.new_kvm_mem_slot(8), ResourceConstraint.KvmMemSlot(8, None)),
        (ResourceConstraint.new_kvm_mem_slot(8, 3), ResourceConstraint.KvmMemSlot(8, 3)),
    ],
)
def test_the_constructors_of_the_crate(made, expected):
    assert made == expected


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (ONE_OF_EACH[0], "Resource.PioAddressRange(base=0x3f8, size=8)"),
        (ONE_OF_EACH[1], "Resource.MmioAddressRange(base=0xfec00000, size=4096)"),
        (ONE_OF_EACH[2], "Resource.MemAddressRange(base=0x100000, size=4294967296)"),
        (ONE_OF_EACH[3], "Resource.LegacyIrq(irq=4)"),
        (ONE_OF_EACH[4], "Resource.MsiIrq(ty=MsiIrqType.PCI_MSI, base=24, size=2)"),
        (ONE_OF_EACH[7], "Resource.MacAddress(addr='02:00:00:00:00:01')"),
        (ONE_OF_EACH[8], "Resource.KvmMemSlot(slot=7)"),
        (CONSTRAINTS[0], "ResourceConstraint.PioAddress(size=8, range=(0x3f8, 0x3ff), align=8)"),
        (CONSTRAINTS[2], "ResourceConstraint.MemAddress(size=18446744073709551616, range=None, align=4096)"),
        (CONSTRAINTS[3], "ResourceConstraint.LegacyIrq(irq=None)"),
        (CONSTRAINTS[9], "ResourceConstraint.KvmMemSlot(size=2, slot=5)"),
    ],
)
def test_addresses_print_in_hex_and_numbers_in_decimal(thing, text):
    assert repr(thing) == text


@pytest.mark.parametrize("thing", EVERYTHING, ids=repr)
def test_the_repr_evaluates_to_an_equal_object(thing):
    assert eval(repr(thing)) == thing


@pytest.mark.parametrize("thing", EVERYTHING, ids=repr)
def test_pickle_and_copy(thing):
    twins = [pickle.loads(pickle.dumps(thing, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    twins += [copy.copy(thing), copy.deepcopy(thing)]
    for twin in twins:
        assert twin == thing
        assert type(twin) is type(thing)
        assert hash(twin) == hash(thing)


def test_equal_means_same_variant_and_same_fields():
    assert len(set(EVERYTHING)) == len(EVERYTHING)
    assert Resource.PioAddressRange(1, 2) == Resource.PioAddressRange(1, 2)
    assert Resource.PioAddressRange(1, 2) != Resource.PioAddressRange(1, 3)
    assert Resource.PioAddressRange(1, 2) != Resource.MmioAddressRange(1, 2)
    assert Resource.MmioAddressRange(1, 2) != Resource.MemAddressRange(1, 2)
    assert Resource.LegacyIrq(1) != Resource.KvmMemSlot(1)
    assert Resource.LegacyIrq(1) != 1
    assert Resource.LegacyIrq(1) != ResourceConstraint.LegacyIrq(1)


@pytest.mark.parametrize("thing", EVERYTHING, ids=repr)
def test_they_are_immutable(thing):
    for name in thing.__match_args__:
        before = getattr(thing, name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(thing, name)
        assert getattr(thing, name) == before
    with pytest.raises((AttributeError, TypeError)):
        thing.anything = 1


def test_replace_checks_as_making_one_does():
    assert dataclasses.replace(Resource.PioAddressRange(1, 2), size=3) == Resource.PioAddressRange(1, 3)
    with pytest.raises(InvalidRangeError):
        dataclasses.replace(Resource.PioAddressRange(1, 2), base=-1)


def describe(thing: Resource | ResourceConstraint) -> tuple[object, ...]:
    """Take anything apart with `match`, the way user code does."""
    match thing:
        case (
            Resource.PioAddressRange(base, size)
            | Resource.MmioAddressRange(base, size)
            | Resource.MemAddressRange(base, size)
        ):
            return base, size
        case Resource.MsiIrq(ty, base, size):
            return ty, base, size
        case Resource.LegacyIrq(number) | Resource.KvmMemSlot(slot=number) | ResourceConstraint.LegacyIrq(number):
            return (number,)
        case Resource.MacAddress(addr=text):
            return (text,)
        case (
            ResourceConstraint.PioAddress(size, range, align)
            | ResourceConstraint.MmioAddress(size, range, align)
            | ResourceConstraint.MemAddress(size, range, align)
        ):
            return size, range, align
        case ResourceConstraint.KvmMemSlot(size, slot):
            return size, slot
        case (
            ResourceConstraint.PciMsiIrq(size)
            | ResourceConstraint.PciMsixIrq(size)
            | ResourceConstraint.GenericIrq(size)
        ):
            return (size,)


@pytest.mark.parametrize("thing", EVERYTHING, ids=repr)
def test_match_takes_every_variant_apart(thing):
    assert describe(thing) == tuple(getattr(thing, name) for name in thing.__match_args__)


def test_match_tells_the_variants_apart():
    match Resource.MmioAddressRange(1, 2):
        case Resource.PioAddressRange():
            pytest.fail("an MMIO range matched as ports")
        case Resource.MmioAddressRange(base=1):
            pass
        case _:
            pytest.fail("an MMIO range did not match itself")


def test_the_kinds_of_msi_print_by_name_and_pickle_to_themselves():
    assert [repr(kind) for kind in MsiIrqType] == [
        "MsiIrqType.PCI_MSI",
        "MsiIrqType.PCI_MSIX",
        "MsiIrqType.GENERIC_MSI",
    ]
    for kind in MsiIrqType:
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert copy.deepcopy(kind) is kind


class TestDeviceResources:
    def test_the_getters_find_their_own_kind(self):
        resources = DeviceResources(ONE_OF_EACH)
        assert resources.get_pio_address_ranges() == [(0x3F8, 8)]
        assert resources.get_mmio_address_ranges() == [(0xFEC00000, 0x1000)]
        assert resources.get_mem_address_ranges() == [(0x100000, 2**32)]
        assert resources.get_legacy_irq() == 4
        assert resources.get_pci_msi_irqs() == (24, 2)
        assert resources.get_pci_msix_irqs() == (26, 3)
        assert resources.get_generic_msi_irqs() == (29, 4)
        assert resources.get_kvm_mem_slots() == [7]
        assert resources.get_mac_address() == "02:00:00:00:00:01"
        assert resources.get_all_resources() == ONE_OF_EACH

    def test_the_getters_of_nothing(self):
        resources = DeviceResources()
        assert resources.get_pio_address_ranges() == []
        assert resources.get_mmio_address_ranges() == []
        assert resources.get_mem_address_ranges() == []
        assert resources.get_kvm_mem_slots() == []
        assert resources.get_legacy_irq() is None
        assert resources.get_pci_msi_irqs() is None
        assert resources.get_pci_msix_irqs() is None
        assert resources.get_generic_msi_irqs() is None
        assert resources.get_mac_address() is None
        assert resources.get_all_resources() == []

    def test_lists_keep_the_order_and_single_ones_are_the_first(self):
        resources = DeviceResources(
            [
                Resource.PioAddressRange(2, 1),
                Resource.LegacyIrq(0),
                Resource.PioAddressRange(1, 1),
                Resource.LegacyIrq(5),
                Resource.KvmMemSlot(9),
                Resource.KvmMemSlot(3),
                Resource.MsiIrq(MsiIrqType.PCI_MSI, 5, 1),
                Resource.MsiIrq(MsiIrqType.PCI_MSI, 4, 1),
                Resource.MacAddress("first"),
                Resource.MacAddress("second"),
            ]
        )
        assert resources.get_pio_address_ranges() == [(2, 1), (1, 1)]
        assert resources.get_kvm_mem_slots() == [9, 3]
        assert resources.get_legacy_irq() == 0
        assert resources.get_pci_msi_irqs() == (5, 1)
        assert resources.get_mac_address() == "first"

    @given(st.lists(st.sampled_from(ONE_OF_EACH)), st.data())
    def test_it_is_the_sequence_that_was_put_in(self, items, data):
        resources = DeviceResources(iter(items))
        assert list(resources) == items
        assert len(resources) == len(items)
        assert bool(resources) == bool(items)
        assert list(reversed(resources)) == items[::-1]
        part = data.draw(st.slices(len(items)))
        assert resources[part] == DeviceResources(items[part])
        for item in ONE_OF_EACH:
            assert (item in resources) == (item in items)
            assert resources.count(item) == items.count(item)
        if items:
            index = data.draw(st.integers(-len(items), len(items) - 1))
            assert resources[index] is items[index]
            assert resources[np.int64(index)] is items[index]
            assert resources.index(items[index]) == items.index(items[index])

    @pytest.mark.parametrize("index", [2, -3])
    def test_an_index_out_of_range(self, index):
        with pytest.raises(IndexError):
            DeviceResources(ONE_OF_EACH[:2])[index]

    def test_an_index_of_another_type(self):
        with pytest.raises(TypeError):
            DeviceResources(ONE_OF_EACH)["0"]

    @pytest.mark.parametrize("value", [None, (0x3F8, 8), ResourceConstraint.new_pio(8), Resource.PioAddressRange])
    def test_it_takes_resources_only(self, value):
        resources = DeviceResources(ONE_OF_EACH[:1])
        with pytest.raises(TypeError, match=rf"^DeviceResources takes Resource objects, not {type(value).__name__}$"):
            resources.append(value)
        assert list(resources) == ONE_OF_EACH[:1]
        with pytest.raises(TypeError, match=r"^DeviceResources takes Resource objects, not"):
            DeviceResources([ONE_OF_EACH[0], value])

    def test_it_only_grows(self):
        resources = DeviceResources(ONE_OF_EACH)
        with pytest.raises(TypeError):
            resources[0] = ONE_OF_EACH[1]
        with pytest.raises(TypeError):
            del resources[0]
        resources.get_all_resources().clear()
        resources.get_kvm_mem_slots().clear()
        assert list(resources) == ONE_OF_EACH

    def test_device_resources_are_equal_if_contents_and_order_are(self):
        assert DeviceResources(ONE_OF_EACH) == DeviceResources(ONE_OF_EACH)
        assert DeviceResources(ONE_OF_EACH) != DeviceResources(ONE_OF_EACH[::-1])
        assert DeviceResources() != []
        assert DeviceResources() != ()

    def test_it_is_unhashable_since_it_grows(self):
        with pytest.raises(TypeError, match="unhashable"):
            hash(DeviceResources())

    def test_it_prints_as_it_is_made(self):
        resources = DeviceResources(ONE_OF_EACH)
        assert repr(DeviceResources(ONE_OF_EACH[3:4])) == "DeviceResources([Resource.LegacyIrq(irq=4)])"
        assert eval(repr(resources)) == resources

    def test_copies_are_equal_and_grow_alone(self):
        resources = DeviceResources(ONE_OF_EACH)
        twins = [pickle.loads(pickle.dumps(resources, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        twins += [copy.copy(resources), copy.deepcopy(resources), resources[:]]
        for twin in twins:
            assert type(twin) is DeviceResources
            assert twin == resources
            twin.append(Resource.LegacyIrq(1))
            assert len(twin) == len(resources) + 1
        assert list(resources) == ONE_OF_EACH

    def test_a_subclass_keeps_its_type_and_attributes(self):
        resources = NamedResources("uart", ONE_OF_EACH)
        assert repr(resources).startswith("NamedResources([")
        for twin in (pickle.loads(pickle.dumps(resources)), copy.copy(resources), copy.deepcopy(resources)):
            assert type(twin) is NamedResources
            assert twin.name == "uart"
            assert list(twin) == ONE_OF_EACH

    def test_it_can_be_referred_to_weakly(self):
        resources = DeviceResources()
        assert weakref.ref(resources)() is resources


class NamedResources(DeviceResources):
    """A subclass with an attribute of its own."""

    def __init__(self, name, resources=()):
        super().__init__(resources)
        self.name = name


def test_ports_and_sizes_of_the_address_module_fit_in():
    assert Resource.PioAddressRange(PioAddress(0xFFFF), PioSize(1)) == Resource.PioAddressRange(0xFFFF, 1)
