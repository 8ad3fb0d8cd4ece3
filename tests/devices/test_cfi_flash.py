"""NOR flash: what a driver of Intel's command set does, and what it reads in between."""

import mmap
import random
import struct

import pytest

from dbs_device import IoManager
from dbs_device.devices.cfi_flash import CfiFlash
from dbs_device.errors import StateError, TransactionError
from dbs_device.memory import Rom

BASE, SIZE, SECTOR = 0x400_0000, 0x10_0000, 0x4_0000
READY = 0x80


class Driver:
    """A bus with a flash, and a driver for any number of chips side by side."""

    def __init__(self, contents=None, width=4, chip_width=2):
        self.contents = bytearray(b"\xff" * SIZE) if contents is None else contents
        self.flash = CfiFlash(self.contents, sector_size=SECTOR, width=width, chip_width=chip_width)
        self.manager = IoManager()
        self.flash.register(self.manager, BASE, name="flash")
        self.width, self.chip_width = width, chip_width

    def each(self, value):
        return sum(value << 8 * i for i in range(0, self.width, self.chip_width))

    def command(self, value, offset=0):
        self.manager.mmio_store(BASE + offset, self.width, self.each(value))

    def load(self, offset):
        return self.manager.mmio_load(BASE + offset, self.width)

    def word(self, number):
        """A word in the mode of identifiers or CFI: of all chips alike."""
        value = self.load(self.width * number)
        assert value == self.each(value & 0xFF)
        return value & 0xFF

    def status(self):
        self.command(0x70)
        return self.word(0)

    def erase(self, offset):
        self.command(0x20, offset)
        self.command(0xD0, offset)
        return self.status()

    def program(self, offset, data):
        """Through the write buffer, as U-Boot and Linux do."""
        self.command(0xE8, offset)
        assert self.word(0) & READY
        self.command(len(data) // self.width - 1, offset)
        for position in range(0, len(data), self.width):
            value = int.from_bytes(data[position : position + self.width], "little")
            self.manager.mmio_store(BASE + offset + position, self.width, value)
        self.command(0xD0, offset)
        return self.status()

    def read(self, offset, size):
        self.command(0xFF)
        data = bytearray(size)
        self.manager.mmio_read(BASE + offset, data)
        return data

    @property
    def owner(self):
        return self.manager.mapped_ranges()[0].device


@pytest.fixture(params=[(4, 2), (2, 2), (1, 1), (4, 4), (8, 2)], ids=str)
def driver(request):
    return Driver(width=request.param[0], chip_width=request.param[1])


def test_a_driver_finds_it_by_its_query(driver):
    driver.command(0x98, 0x55 * driver.width)
    assert bytes(driver.word(0x10 + i) for i in range(3)) == b"QRY"
    assert driver.word(0x13) | driver.word(0x14) << 8 == 1  # Intel's command set
    table = driver.word(0x15) | driver.word(0x16) << 8
    assert bytes(driver.word(table + i) for i in range(3)) == b"PRI"
    chips = driver.width // driver.chip_width
    assert chips << driver.word(0x27) == SIZE
    assert driver.word(0x2C) == 1
    assert driver.word(0x2D) + (driver.word(0x2E) << 8) + 1 == SIZE // SECTOR
    assert (driver.word(0x2F) + (driver.word(0x30) << 8)) * 256 * chips == SECTOR


def test_while_it_is_read_as_an_array_a_rom_is_on_the_bus(driver):
    assert isinstance(driver.owner, Rom)
    driver.command(0x98)
    assert not isinstance(driver.owner, Rom)
    assert driver.flash.mode == "cfi"
    driver.command(0xFF)
    assert driver.owner is driver.flash.rom
    assert driver.manager.mapped_ranges()[0].name == "flash"


def test_sectors_are_erased_and_programmed(driver):
    data = random.Random(1).randbytes(128)
    assert driver.program(SECTOR + 64, data) == READY
    assert driver.read(SECTOR + 64, 128) == data
    assert driver.read(SECTOR, 64) == b"\xff" * 64
    assert driver.contents[SECTOR + 64 : SECTOR + 192] == data
    assert driver.erase(SECTOR + 1000 * driver.width) == READY
    assert driver.contents == b"\xff" * SIZE


def test_programming_only_clears_bits(driver):
    driver.contents[0:8] = b"\x0f" * 8
    driver.command(0x40)
    driver.manager.mmio_store(BASE, driver.width, int.from_bytes(b"\x3c" * driver.width, "little"))
    assert driver.status() == READY
    assert driver.read(0, driver.width) == b"\x0c" * driver.width


def test_identifiers_and_locks(driver):
    driver.command(0x60, SECTOR)
    driver.command(0x01, SECTOR)
    driver.command(0x90)
    assert driver.word(0) == 0x89
    assert driver.word(2) == 0
    assert driver.word(SECTOR // driver.width + 2) == 1
    assert driver.erase(SECTOR) == READY | 0x22
    driver.command(0x50)
    assert driver.program(SECTOR, bytes(32)) == READY | 0x12
    assert driver.read(SECTOR, 32) == b"\xff" * 32
    driver.command(0x60)
    driver.command(0xD0)
    driver.command(0x50)
    assert driver.erase(SECTOR) == READY


def test_sequences_that_are_not_finished_change_nothing(driver):
    driver.contents[:] = bytes(SIZE)
    before = bytes(driver.contents)
    driver.command(0x20)
    driver.command(0xFF)
    assert driver.status() == READY | 0x30
    driver.command(0x50)
    driver.command(0xE8)
    driver.command(0)
    driver.command(0x55)
    driver.command(0x77)
    assert driver.status() == READY | 0x30
    driver.command(0x50)
    driver.command(0xE8)
    too_many = (1 << 8 * driver.chip_width) - 1  # words; more than the buffer has in chips of more than a byte
    driver.manager.mmio_store(BASE, driver.width, driver.each(too_many))
    if driver.chip_width > 1:
        assert driver.status() == READY | 0x30
        assert driver.contents == before


def test_a_buffer_that_leaves_its_sector_is_refused():
    driver = Driver()
    driver.command(0xE8, 0)
    driver.command(1)
    driver.manager.mmio_store(BASE, 4, 0)
    driver.manager.mmio_store(BASE + SECTOR, 4, 0)
    driver.command(0xD0)
    assert driver.status() == READY | 0x30
    assert driver.contents[SECTOR : SECTOR + 4] == b"\xff" * 4


def test_an_unknown_command_leaves_the_array_readable():
    driver = Driver()
    for command in (0xF0, 0xAA, 0x55, 0x00):
        driver.command(command)
    assert driver.flash.mode == "array"


def test_random_writes_reach_nothing_but_the_flash():
    random_ = random.Random(3)
    driver = Driver()
    commands = [0xFF, 0x98, 0x90, 0x70, 0x50, 0x40, 0x10, 0xE8, 0x20, 0x60, 0xD0, 0x01]
    for _ in range(5000):
        size = random_.choice([1, 2, 4, 8])
        offset = random_.choice([random_.randrange(SIZE - 8), SIZE - size])
        value = random_.choice([random_.choice(commands), random_.getrandbits(8 * size)])
        driver.manager.mmio_store(BASE + offset, size, value)
        driver.manager.mmio_load(BASE + offset, size)
    assert len(driver.contents) == SIZE


def test_a_file_keeps_what_is_programmed(tmp_path):
    path = tmp_path / "flash.img"
    path.write_bytes(b"\xff" * SIZE)
    with path.open("r+b") as file:
        driver = Driver(mmap.mmap(file.fileno(), 0))
    driver.program(0, b"kept" * 4)
    assert path.read_bytes()[:16] == b"kept" * 4
    assert driver.flash.rom.address % 4096 == 0  # bridges can map it


def test_a_size_makes_an_erased_flash():
    flash = CfiFlash(SIZE, sector_size=SECTOR)
    assert bytes(flash.rom.view[:4]) == b"\xff" * 4
    assert flash.rom.address % 4096 == 0


def test_a_mode_that_cannot_be_shown_during_a_transaction_can_be_set_again():
    flash = CfiFlash(0x4000, sector_size=0x1000)
    manager = IoManager()
    flash.register(manager, 0)
    with manager.begin_tx(), pytest.raises(TransactionError):
        manager.mmio_store(0, 4, 0x0070_0070)
    manager.mmio_store(0, 4, 0x0070_0070)
    assert manager.mmio_load(0, 4) == 0x0080_0080


def test_it_is_on_several_buses_at_once():
    driver, other = Driver(), IoManager()
    driver.flash.register(other, 0)
    driver.command(0x98)
    assert other.mmio_load(0x40, 4) == 0x00510051


def test_it_goes_on_from_its_state():
    driver = Driver()
    driver.program(0, b"data" * 8)
    driver.command(0x60, SECTOR)
    driver.command(0x01, SECTOR)
    driver.command(0xE8, 0x100)
    driver.command(1)
    driver.manager.mmio_store(BASE + 0x100, 4, 0x11223344)
    other = Driver()
    other.flash.load_state(driver.flash.save_state())
    assert not isinstance(other.owner, Rom)
    for each in (driver, other):
        each.manager.mmio_store(BASE + 0x104, 4, 0x55667788)
        each.command(0xD0)
        assert each.read(0x100, 8) == struct.pack("<II", 0x11223344, 0x55667788)
        assert each.erase(SECTOR) == READY | 0x22
    assert other.contents == driver.contents
    state = driver.flash.save_state()
    for bad, message in [
        ({**state, "contents": b"short"}, "has 0x100000 bytes, not 0x5"),
        ({**state, "mode": "odd"}, "not 'odd'"),
        ({**state, "locked": [False]}, "locked is a list of 4"),
    ]:
        with pytest.raises(StateError, match=message):
            driver.flash.load_state(bad)


@pytest.mark.parametrize(
    ("contents", "options", "error"),
    [
        (bytearray(0x30000), {"sector_size": 0x10000}, ValueError),
        (bytearray(0x20000), {"sector_size": 0x18000}, ValueError),
        (bytearray(0x20000), {"sector_size": 100}, ValueError),
        (bytearray(0x20000), {"sector_size": 0x10000, "width": 3}, ValueError),
        (bytearray(0x20000), {"sector_size": 0x10000, "width": 1}, ValueError),
        (bytes(0x20000), {"sector_size": 0x10000}, TypeError),
    ],
)
def test_it_checks_what_it_is_made_of(contents, options, error):
    with pytest.raises(error):
        CfiFlash(contents, **options)
