"""What of the bridge to Unicorn needs two things at once: two exceptions, two neighbours, a change after the end."""

import pytest

from dbs_device import DeviceIo, GuestMemoryError, IoManager, Resource

unicorn = pytest.importorskip("unicorn", reason="the extra `unicorn` is not installed")

from dbs_device.unicorn import attach  # noqa: E402  # needs the extra

NOP = b"\x90"


class Named(DeviceIo):
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


def guest_with_ram_at(address):
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    uc.mem_map(address, 0x1000)
    uc.mem_write(address, NOP)
    return uc


def test_of_several_exceptions_the_first_comes_out_and_the_others_are_forgotten():
    bridge = attach(guest_with_ram_at(0x5000), IoManager())
    for error in (KeyError("first"), KeyError("second")):
        bridge._bus.keep(error)  # as two threads would, of which each fails in a device
    with pytest.raises(KeyError, match="first"):
        bridge.emu_start(0x5000, 0x5001)
    bridge.emu_start(0x5000, 0x5001)


def test_the_range_in_the_way_is_named_and_not_its_neighbour():
    manager = IoManager()
    manager.register_device_io(Named("neighbour"), [Resource.MmioAddressRange(0x4000, 16)])
    manager.register_device_io(Named("culprit"), [Resource.MmioAddressRange(0x5800, 16)])
    uc = guest_with_ram_at(0x5000)
    with pytest.raises(
        GuestMemoryError, match=r"^MMIO range 0x5800\.\.0x580f of culprit needs a page of 0x5000\.\.0x5"
    ):
        attach(uc, manager)
    assert [region[:2] for region in uc.mem_regions()] == [(0x5000, 0x5FFF)]


def test_a_change_that_is_told_after_the_end_maps_nothing():
    """A callback that was under way on another thread may come when the bridge is gone."""
    manager = IoManager()
    uc = guest_with_ram_at(0x5000)
    bridge = attach(uc, manager)
    bridge.detach()
    manager.register_device_io(Named("late"), [Resource.MmioAddressRange(0x9000, 16)])
    bridge._on_change((), ())
    assert [region[:2] for region in uc.mem_regions()] == [(0x5000, 0x5FFF)]
