"""PCI functions whose BARs the guest moves, and their configuration space in memory."""

import logging
import random

import pytest

from dbs_device import DeviceIo, IoManager, NoDeviceError, Resource
from dbs_device.devices.pci import PciBus, PciConfigPorts, PciFunction
from dbs_device.devices.pci_device import PciDevice, PciEcam
from dbs_device.errors import StateError
from dbs_device.memory import Ram

ECAM = 0x3F00_0000
FUNCTION = 1 << 15  # device 1 of bus 0
COMMAND, BAR = 0x04, 0x10
IO, MEMORY = 1, 2


class Ports(DeviceIo):
    def pio_in(self, base, offset, size):
        return 0x50 + offset


class Guest:
    def __init__(self):
        self.manager = IoManager()
        self.bus = PciBus()
        self.ecam = PciEcam(self.bus, buses=2)
        self.manager.register_device_io(self.ecam, [Resource.MmioAddressRange(ECAM, self.ecam.size)])
        self.ports = PciConfigPorts(reset=lambda: None, bus=self.bus)
        self.manager.register_device_io(self.ports, self.ports.get_trapped_io_resources())
        self.function = PciDevice(self.manager, vendor=0x1234, device=0x5678, class_code=0x0C0330, interrupt_pin=2)
        self.ram, self.wide = Ram(0x1000), Ram(0x10000)
        self.function.add_bar(0, self.ram, 0x1000)
        self.function.add_bar(1, Ports(), 8, io=True)
        self.function.add_bar(2, self.wide, 0x10000, wide=True, prefetchable=True)
        self.bus.plug((0, 1, 0), self.function)

    def load(self, register, size=4, function=FUNCTION):
        return self.manager.mmio_load(ECAM + function + register, size)

    def store(self, register, value, size=4):
        self.manager.mmio_store(ECAM + FUNCTION + register, size, value)

    @property
    def places(self):
        """Where the BARs are, by number."""
        ranges = {}
        for mapped in self.manager.mapped_ranges():
            if mapped.name and "BAR" in mapped.name:
                ranges[int(mapped.name[-1])] = mapped.base
        return ranges


@pytest.fixture
def guest():
    return Guest()


def test_the_guest_finds_the_function(guest):
    assert guest.load(0) == 0x5678_1234
    assert guest.load(8) == 0x0C0330_00
    assert guest.load(0x3D, 1) == 2
    assert guest.load(0, function=0) == 0xFFFF_FFFF
    assert guest.load(0, function=1 << 20 | FUNCTION) == 0xFFFF_FFFF


def test_both_ways_lead_to_the_same_registers(guest):
    guest.manager.pio_out(0xCF8, 4, 0x8000_0000 | 1 << 11 | BAR)
    guest.manager.pio_out(0xCFC, 4, 0x1000_0000)
    assert guest.load(BAR) == guest.manager.pio_in(0xCFC, 4) == 0x1000_0000


def test_bars_tell_their_sizes(guest):
    for register in range(BAR, BAR + 16, 4):
        guest.store(register, 0xFFFF_FFFF)
    assert [guest.load(register) for register in range(BAR, BAR + 24, 4)] == [
        0xFFFF_F000, 0xFFFF_FFF9, 0xFFFF_000C, 0xFFFF_FFFF, 0, 0,
    ]  # fmt: skip
    assert guest.places == {}


def test_devices_are_where_the_guest_puts_them(guest):
    guest.store(BAR, 0x1000_0000)
    guest.store(BAR + 4, 0xC000)
    guest.store(BAR + 8, 0x2000_0000)
    guest.store(BAR + 12, 1)
    assert guest.places == {}
    guest.store(COMMAND, MEMORY, 2)
    assert guest.places == {0: 0x1000_0000, 2: 0x1_2000_0000}
    guest.store(COMMAND, MEMORY | IO, 2)
    assert guest.places[1] == 0xC000
    assert guest.manager.pio_in(0xC003, 1) == 0x53
    guest.manager.mmio_store(0x1000_0010, 4, 77)
    guest.store(BAR, 0x1000_2000)
    assert guest.manager.mmio_load(0x1000_2010, 4) == 77
    with pytest.raises(NoDeviceError):
        guest.manager.mmio_load(0x1000_0010, 4)
    guest.store(COMMAND, 0, 2)
    assert guest.places == {}


def test_a_byte_of_a_bar_moves_it_too(guest):
    guest.store(BAR, 0x1000_0000)
    guest.store(COMMAND, MEMORY, 2)
    guest.store(BAR + 3, 0x20, 1)
    assert guest.places[0] == 0x2000_0000


def test_a_place_that_is_taken_is_tried_again(guest, caplog):
    guest.store(BAR, 0x1000_0000)
    guest.store(BAR + 8, 0x1000_0000)
    with caplog.at_level(logging.WARNING):
        guest.store(COMMAND, MEMORY, 2)
    assert guest.places == {0: 0x1000_0000}
    assert "a BAR of <PciDevice 1234:5678> cannot be there" in caplog.text
    guest.store(BAR + 8, ECAM)
    assert guest.places == {0: 0x1000_0000}
    guest.store(BAR + 8, 0x1001_0000)
    assert guest.places == {0: 0x1000_0000, 2: 0x1001_0000}
    guest.store(BAR, 0x1001_0000)
    assert guest.places == {2: 0x1001_0000}
    guest.store(BAR + 8, 0x1002_0000)
    assert guest.places == {0: 0x1001_0000, 2: 0x1002_0000}


def test_a_guest_cannot_fill_the_log(guest, caplog):
    guest.store(BAR, 0x1000_0000)
    guest.store(BAR + 8, 0x1000_0000)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            guest.store(COMMAND, MEMORY, 2)
            guest.store(COMMAND, 0, 2)
    assert len(caplog.records) == 1


def test_two_bars_swap_their_places(guest):
    other = PciDevice(guest.manager, vendor=1, device=1, class_code=0)
    first, second = Ram(0x1000), Ram(0x1000)
    other.add_bar(0, first, 0x1000)
    other.add_bar(1, second, 0x1000)
    other.store(BAR, 8, 0x2000_1000_2000_0000)
    other.store(COMMAND, 2, MEMORY)
    other.store(BAR, 8, 0x2000_0000_2000_1000)  # one write, one moment
    assert guest.places == {0: 0x2000_1000, 1: 0x2000_0000}


def test_an_address_past_the_end_of_a_space_is_no_place(guest):
    guest.store(BAR + 4, 0xFFF8)
    guest.store(BAR + 8, 0xFFFF_FFFF)
    guest.store(BAR + 12, 0xFFFF_FFFF)
    guest.store(COMMAND, MEMORY | IO, 2)
    assert guest.places[1] == 0xFFF8


def test_the_list_of_capabilities(guest):
    first = guest.function.add_capability(9, b"\x10abc")
    second = guest.function.add_capability(5, bytes(6), writable=b"\xff\x00")
    assert guest.load(6, 2) & 1 << 4
    assert guest.load(0x34, 1) == first == 0x40
    assert guest.load(first, 2) == second << 8 | 9
    assert guest.load(second, 2) == 5
    guest.store(second + 2, 0xFFFF, 2)
    assert guest.load(second + 2, 2) == 0x00FF
    with pytest.raises(ValueError, match="leaves the configuration space"):
        guest.function.add_capability(9, bytes(250))


def test_what_is_beyond_the_configuration_space_reads_as_ones(guest):
    for register, size in ((0x100, 4), (0xFFC, 4), (0xFE, 4)):
        assert guest.load(register, size) == 0xFFFF_FFFF
        guest.store(register, 0, size)


def test_random_configuration_writes_are_harmless(guest):
    random_ = random.Random(4)
    for _ in range(3000):
        size = random_.choice([1, 2, 4, 8])
        register = random_.choice([COMMAND, *range(BAR, BAR + 24, 4), random_.randrange(0x1000 - 8)])
        value = random_.choice([0, MEMORY, MEMORY | IO, 0x1000_0000, ECAM, random_.getrandbits(8 * size)])
        guest.store(register, value & (1 << 8 * size) - 1, size)
        guest.load(register, size)


def test_unplugging_takes_everything_off_the_bus(guest):
    guest.store(BAR, 0x1000_0000)
    guest.store(COMMAND, MEMORY | IO, 2)
    guest.function.unplug()
    assert guest.places == {}


def test_a_state_puts_the_devices_where_they_were(guest):
    guest.store(BAR, 0x1000_0000)
    guest.store(BAR + 8, 0x2000_0000)
    guest.store(COMMAND, MEMORY, 2)
    other = Guest()
    other.store(BAR, 0x3000_0000)
    other.store(COMMAND, MEMORY, 2)
    other.bus.load_state(guest.bus.save_state())
    assert other.places == guest.places
    with pytest.raises(StateError, match="functions"):
        PciBus().load_state(guest.bus.save_state())


@pytest.mark.parametrize(
    ("index", "size", "options"),
    [
        (0, 0x1000, {}),
        (3, 0x1000, {}),
        (6, 0x1000, {}),
        (-1, 0x1000, {}),
        (5, 0x1000, {"wide": True}),
        (4, 0x1001, {}),
        (4, 8, {}),
        (4, 1 << 32, {}),
        (4, 512, {"io": True}),
        (4, 16, {"io": True, "wide": True}),
    ],
)
def test_bars_are_checked(guest, index, size, options):
    with pytest.raises(ValueError, match=f"BAR {index} cannot have"):
        guest.function.add_bar(index, Ports(), size, **options)


def test_what_else_is_checked(guest):
    with pytest.raises(ValueError, match="not 5"):
        PciDevice(guest.manager, vendor=0, device=0, class_code=0, interrupt_pin=5)
    with pytest.raises(ValueError, match="1 to 256 buses, not 0"):
        PciEcam(guest.bus, buses=0)
    with pytest.raises(ValueError, match="there already is"):
        guest.bus.plug((0, 1, 0), PciFunction(0, 0, 0, 0))
