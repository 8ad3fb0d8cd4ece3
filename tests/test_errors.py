"""Errors are told apart by type, carry what they are about, and say it in hex."""

from __future__ import annotations

import copy
import pickle

import pytest

from dbs_device import errors
from dbs_device.address import Space
from dbs_device.errors import (
    AccessRuleError,
    DeviceModelError,
    DeviceOverlapError,
    DuplicateDeviceError,
    GuestMemoryError,
    InvalidRangeError,
    InvalidResourceRangeError,
    LayoutError,
    MemoryBoundsError,
    NoAvailableResourceError,
    NoDeviceError,
    NotRamError,
    RegisterAccessError,
    ResourceError,
    RomWriteError,
    StateError,
    TransactionError,
    UnknownDeviceError,
    describe_device,
    format_count,
    format_range,
)
from dbs_device.resources import Resource, ResourceConstraint


class Broken:
    """A device whose repr fails, as that of a half-built one does."""

    def __repr__(self) -> str:
        raise AttributeError("no name yet")


EXAMPLES = {
    NoDeviceError(Space.MMIO, 0xFEE00000): "no device owns MMIO address 0xfee00000",
    NoDeviceError(Space.PIO, 0x402, 1): "no device owns PIO address 0x402 (1 byte)",
    NoDeviceError(Space.PIO, 0xCF8, 4): "no device owns PIO address 0xcf8 (4 bytes)",
    NoDeviceError(Space.MMIO, 0x1FFE, 4, (0x1000, 0x1FFF, "uart")): (
        "the access to MMIO address 0x1ffe (4 bytes) runs past the end of range 0x1000..0x1fff of 'uart'"
    ),
    NoDeviceError(Space.PIO, 0x3F8, 8, exact=True): "no PIO range 0x3f8..0x3ff is registered",
    NoDeviceError(Space.MMIO, 0x1000, 0x100, (0x1000, 0x1FFF, "uart"), exact=True): (
        "no MMIO range 0x1000..0x10ff is registered; 0x1000..0x1fff of 'uart' is"
    ),
    NoDeviceError(Space.PIO, 0x3F8, exact=True): "no device owns PIO address 0x3f8",
    DeviceOverlapError(Space.PIO, 0x3F8, 0x3FF, "new", 0x3FC, 0x403, "old"): (
        "PIO range 0x3f8..0x3ff of 'new' overlaps 0x3fc..0x403 of 'old'"
    ),
    GuestMemoryError(0x1800, 0x180F, "timer", 0x1000, 0x1FFF): (
        "MMIO range 0x1800..0x180f of 'timer' needs a page of 0x1000..0x1fff, which the guest has already mapped"
    ),
    DuplicateDeviceError("console", "uart"): "the name 'console' belongs to 'uart'",
    UnknownDeviceError("disk"): "no device is named 'disk'",
    InvalidRangeError("size 0x0 is empty"): "size 0x0 is empty",
    TransactionError("finished"): "finished",
    NoAvailableResourceError(ResourceConstraint.new_pio(8), "none"): (
        "cannot allocate ResourceConstraint.PioAddress(size=8, range=None, align=1); free: none"
    ),
    NoAvailableResourceError(ResourceConstraint.new_legacy_irq(5), "none", "interrupt 5 is shared"): (
        "cannot allocate ResourceConstraint.LegacyIrq(irq=5): interrupt 5 is shared"
    ),
    InvalidResourceRangeError(Resource.LegacyIrq(4), "it is not allocated"): (
        "cannot free Resource.LegacyIrq(irq=4): it is not allocated"
    ),
    RegisterAccessError("uart", 0x1F, 4, True): "a write of 4 bytes at 0x1f of 'uart' reaches no register",
    RegisterAccessError("uart", 0x2, 1, False, "SR"): (
        "a read of 1 byte at 0x2 of 'uart' has a size or alignment that SR does not allow"
    ),
    AccessRuleError("uart", 0x8, 1, False, "narrow"): "a read of 1 byte at offset 0x8 is too narrow for 'uart'",
    AccessRuleError("uart", 0x7, 4, True, "unaligned"): "a write of 4 bytes at offset 0x7 is unaligned for 'uart'",
    MemoryBoundsError("dimm0", 0xFFE, 4, False): "a read of 4 bytes at offset 0xffe runs past the end of 'dimm0'",
    RomWriteError("flash", 0x10, 1): "a write of 1 byte at offset 0x10 of 'flash', which is read-only",
    NotRamError(0x1000, 0x20, 0x10, "uart"): (
        "no view of 0x1000..0x101f: the RAM ends before 0x1010; it belongs to 'uart'"
    ),
    NotRamError(0x1000, 0x20, 0): "no view of 0x1000..0x101f: its first byte is not RAM; no device owns it",
    LayoutError("A overlaps B"): "A overlaps B",
    StateError("another layout"): "another layout",
    DeviceModelError("anything"): "anything",
    ResourceError("anything"): "anything",
}


@pytest.mark.parametrize(("error", "message"), EXAMPLES.items(), ids=lambda value: str(value)[:40])
def test_messages(error, message):
    assert str(error) == message


def test_every_error_has_an_example_and_one_base():
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__) - {"UnhandledSpaceWarning"}
    assert all(isinstance(error, DeviceModelError) for error in EXAMPLES)


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (NoDeviceError, (DeviceModelError, LookupError)),
        (DeviceOverlapError, (DeviceModelError, ValueError)),
        (InvalidRangeError, (DeviceModelError, ValueError)),
        (TransactionError, (DeviceModelError,)),
        (LayoutError, (DeviceModelError, ValueError)),
        (AccessRuleError, (DeviceModelError, ValueError)),
        (MemoryBoundsError, (DeviceModelError, IndexError)),
        (NotRamError, (DeviceModelError, ValueError)),
        (RomWriteError, (DeviceModelError,)),
        (RegisterAccessError, (DeviceModelError, LookupError)),
        (StateError, (DeviceModelError, ValueError)),
        (ResourceError, (DeviceModelError,)),
        (NoAvailableResourceError, (ResourceError,)),
        (InvalidResourceRangeError, (ResourceError,)),
    ],
)
def test_errors_have_the_documented_bases(error, bases):
    assert error.__bases__ == bases


def test_errors_have_the_documented_attributes():
    device, other = object(), object()
    missing = NoDeviceError(Space.MMIO, 0x1FFE, 4, (0x1000, 0x1FFF, device))
    assert (missing.space, missing.address, missing.size) == (Space.MMIO, 0x1FFE, 4)
    assert missing.owner == (0x1000, 0x1FFF, device)
    assert NoDeviceError(Space.PIO, 1).size is None
    assert NoDeviceError(Space.PIO, 1).owner is None
    assert NoDeviceError(Space.PIO, 1).exact is False
    assert NoDeviceError(Space.PIO, 1, 1, exact=True).exact is True
    overlap = DeviceOverlapError(Space.PIO, 1, 2, device, 2, 3, other)
    assert (overlap.space, overlap.base, overlap.last) == (Space.PIO, 1, 2)
    assert (overlap.other_base, overlap.other_last) == (2, 3)
    assert overlap.device is device
    assert overlap.other_device is other
    constraint = ResourceConstraint.new_legacy_irq(5)
    exhausted = NoAvailableResourceError(constraint, "none")
    assert exhausted.constraint is constraint
    assert exhausted.free == "none"
    assert exhausted.reason is None
    assert NoAvailableResourceError(constraint, "none", "why").reason == "why"
    resource = Resource.KvmMemSlot(1)
    unknown = InvalidResourceRangeError(resource, "why")
    assert unknown.resource is resource
    assert unknown.reason == "why"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda value: str(value)[:40])
def test_pickle_and_copy_keep_everything(error):
    error = copy.copy(error)
    error.add_note("seen at boot")
    twins = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    twins += [copy.copy(error), copy.deepcopy(error)]
    for twin in twins:
        assert type(twin) is type(error)
        assert twin is not error
        assert str(twin) == str(error)
        assert twin.args == error.args
        assert vars(twin) == vars(error)
        assert twin.__notes__ == ["seen at boot"]


def test_a_device_whose_repr_fails_does_not_hide_the_error():
    assert describe_device(Broken()) == "<Broken>"
    assert str(DeviceOverlapError(Space.MMIO, 0, 1, Broken(), 1, 2, Broken())) == (
        "MMIO range 0x0..0x1 of <Broken> overlaps 0x1..0x2 of <Broken>"
    )
    assert str(NoDeviceError(Space.MMIO, 1, 2, (0, 1, Broken()))).endswith("0x0..0x1 of <Broken>")


def test_a_repr_that_is_interrupted_stays_interrupted():
    class Interrupted:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe_device(Interrupted())


def test_ranges_and_counts_are_printed_one_way():
    assert format_range(0, 2**64 - 1) == "0x0..0xffffffffffffffff"
    assert format_count(0, "port") == "0 ports"
    assert format_count(1, "port") == "1 port"
    assert format_count(2, "port") == "2 ports"
