"""ATA disk and IDE channel, against the ATA-4 standard."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_helpers import on_bus

from dbs_device.devices.ata import AtaDisk, IdeChannel

SECTORS = 2048
CHS = 0xA0
LBA = 0xE0


class Ide:
    """A channel with a disk of numbered sectors on a bus, driven as a host does."""

    def __init__(self, disk: AtaDisk | None = None, *, empty: bool = False) -> None:
        self.irq = False
        self.edges = 0
        image = b"".join(struct.pack("<128I", *range(128 * sector, 128 * sector + 128)) for sector in range(SECTORS))
        self.disk = disk or AtaDisk(bytearray(image), model="A DISK", serial="1234", firmware="0.1")
        self.channel = IdeChannel(irq=self._set_irq, disk=None if empty else self.disk)
        self.bus = on_bus(self.channel)

    def _set_irq(self, level: bool) -> None:
        self.edges += level and not self.irq
        self.irq = level

    def __getitem__(self, register: int) -> int:
        return self.bus.pio_in(0x1F0 + register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.bus.pio_out(0x1F0 + register, 1, value)

    def command(self, command: int, lba: int = 0, count: int = 1) -> None:
        self[2], self[3], self[4], self[5] = count & 0xFF, lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
        self[6] = LBA | lba >> 24
        self[7] = command

    def read(self, sectors: int = 1, size: int = 2) -> bytes:
        """Read sectors through the data port."""
        return b"".join(self.bus.pio_in(0x1F0, size).to_bytes(size, "little") for _ in range(512 * sectors // size))

    def write(self, data: bytes) -> None:
        for (word,) in struct.iter_unpack("<H", data):
            self.bus.pio_out(0x1F0, 2, word)

    def sector(self, lba: int, count: int = 1) -> bytes:
        return bytes(self.disk.image[512 * lba : 512 * (lba + count)])


@pytest.fixture
def ide() -> Ide:
    return Ide()


def text(words: tuple[int, ...]) -> str:
    return b"".join(struct.pack(">H", word) for word in words).decode("ascii").rstrip()


def test_identify(ide: Ide) -> None:
    ide.command(0xEC)
    assert ide[7] == 0x58
    words = struct.unpack("<256H", ide.read())
    assert ide[7] == 0x50
    assert (words[0], words[1], words[3], words[6]) == (0x0040, 2, 16, 63)
    assert (text(words[10:20]), text(words[23:27]), text(words[27:47])) == ("1234", "0.1", "A DISK")
    assert words[49] & 0x0200
    assert words[54:59] == (2, 16, 63, 2016, 0)
    assert words[60] | words[61] << 16 == SECTORS


def test_names_that_are_not_given_are_reported_as_such() -> None:
    ide = Ide(AtaDisk(bytearray(512)))
    ide.command(0xEC)
    words = struct.unpack("<256H", ide.read())
    assert (words[10:20], words[23:27], words[1]) == ((0,) * 10, (0,) * 4, 1)


@pytest.mark.parametrize("size", [2, 4])
def test_read_by_lba(ide: Ide, size: int) -> None:
    ide.command(0x20, 5, 2)
    assert ide[7] == 0x58
    assert ide.read(size=size) == ide.sector(5)
    assert ide[7] == 0x58
    assert ide.read(size=size) == ide.sector(6)
    assert ide[7] == 0x50
    assert [ide[register] for register in (2, 3, 4, 5)] == [0, 6, 0, 0]  # nothing left; the last sector


def test_read_by_cylinder_head_and_sector(ide: Ide) -> None:
    ide[2], ide[3], ide[4], ide[5], ide[6] = 2, 63, 1, 0, CHS | 2
    ide[7] = 0x20
    lba = (1 * 16 + 2) * 63 + 62
    assert ide.read(2) == ide.sector(lba, 2)
    assert [ide[register] for register in (3, 4, 5, 6)] == [1, 1, 0, CHS | 3]


def test_geometry_can_be_set(ide: Ide) -> None:
    ide[2], ide[6] = 32, CHS | 3
    ide[7] = 0x91
    ide[2], ide[3], ide[4], ide[5], ide[6] = 1, 1, 1, 0, CHS
    ide[7] = 0x20
    assert ide.read() == ide.sector(4 * 32)


@pytest.mark.parametrize(("head", "sector"), [(0, 0), (0, 64)])
def test_sector_number_that_no_track_has(ide: Ide, head: int, sector: int) -> None:
    ide[2], ide[3], ide[6] = 1, sector, CHS | head
    ide[7] = 0x20
    assert (ide[7], ide[1]) == (0x51, 0x10)


def test_count_of_zero_is_256(ide: Ide) -> None:
    ide.command(0x20, 0, 0)
    assert ide.read(256) == ide.sector(0, 256)
    assert ide[7] == 0x50


def test_write(ide: Ide) -> None:
    ide.command(0x30, 7, 2)
    assert (ide[7], ide.edges) == (0x58, 0)  # the first sector is asked for without an interrupt
    ide.write(b"\x11" * 512)
    assert ide.irq
    assert ide[7] == 0x58
    ide.write(b"\x22" * 512)
    assert (ide[7], ide.edges) == (0x50, 2)
    assert ide.sector(7, 2) == b"\x11" * 512 + b"\x22" * 512


def test_reading_the_status_clears_the_interrupt_and_the_alternate_status_does_not(ide: Ide) -> None:
    ide.command(0x20)
    assert ide.irq
    assert ide.bus.pio_in(0x3F6, 1) == 0x58
    assert ide.irq
    assert ide[7] == 0x58
    assert not ide.irq


def test_interrupt_can_be_disabled(ide: Ide) -> None:
    ide.bus.pio_out(0x3F6, 1, 0x02)
    ide.command(0x20)
    assert not ide.irq
    ide.bus.pio_out(0x3F6, 1, 0x00)
    assert ide.irq


def test_multiple_sectors_per_block(ide: Ide) -> None:
    ide.command(0xC4, 0, 4)
    assert (ide[7], ide[1]) == (0x51, 0x04)  # the block size has not been set
    ide.command(0xC6, count=3)
    assert (ide[7], ide[1]) == (0x51, 0x04)
    ide.command(0xC6, count=2)
    edges = ide.edges
    ide.command(0xC4, 10, 5)
    assert [(ide[7], ide.read(count)) for count in (2, 2, 1)] == [
        (0x58, ide.sector(10, 2)),
        (0x58, ide.sector(12, 2)),
        (0x58, ide.sector(14, 1)),
    ]
    assert (ide[7], ide.edges - edges) == (0x50, 3)
    ide.command(0xC5, 10, 3)
    ide.write(bytes(3 * 512))
    assert (ide[7], ide.sector(10, 3)) == (0x50, bytes(3 * 512))


@pytest.mark.parametrize(("lba", "count"), [(SECTORS, 1), (SECTORS - 1, 2), (0x0FFF_FFFF, 1)])
def test_beyond_the_end_nothing_is_transferred(ide: Ide, lba: int, count: int) -> None:
    for command in (0x20, 0x30, 0x40):
        ide.command(command, lba, count)
        assert (ide[7], ide[1]) == (0x51, 0x10)
        assert ide.bus.pio_in(0x1F0, 2) == 0


@pytest.mark.parametrize("command", [0x10, 0x40, 0x70, 0xE0, 0xE1, 0xE2, 0xE3, 0xE7])
def test_commands_without_data(ide: Ide, command: int) -> None:
    ide.command(command)
    assert (ide.irq, ide[7], ide[1]) == (True, 0x50, 0x00)


@pytest.mark.parametrize("command", [0x00, 0x08, 0xA0, 0xA1, 0xC8, 0xFF])
def test_unknown_commands_are_aborted(ide: Ide, command: int) -> None:
    ide.command(command)
    assert (ide.irq, ide[7], ide[1]) == (True, 0x51, 0x04)


@pytest.mark.parametrize(("feature", "status"), [(0x03, 0x50), (0x82, 0x50), (0x99, 0x51)])
def test_set_features(ide: Ide, feature: int, status: int) -> None:
    ide[1] = feature
    ide.command(0xEF)
    assert ide[7] == status


def test_power_mode(ide: Ide) -> None:
    ide.command(0xE5)
    assert (ide[7], ide[2]) == (0x50, 0xFF)


@pytest.mark.parametrize("software_reset", [True, False])
def test_reset_and_diagnostic_leave_the_signature(ide: Ide, software_reset: bool) -> None:
    ide.command(0x20, 0x010203)
    if software_reset:
        ide.bus.pio_out(0x3F6, 1, 0x04)
        ide.bus.pio_out(0x3F6, 1, 0x00)
    else:
        ide[7] = 0x90
    assert [ide[register] for register in (7, 1, 2, 3, 4, 5)] == [0x50, 0x01, 1, 1, 0, 0]


def test_absent_second_device_reads_as_zero_and_ignores_commands(ide: Ide) -> None:
    ide[6] = 0xB0
    ide[2] = 0x55
    ide[7] = 0xEC
    assert [ide[register] for register in range(1, 8)] == [0] * 7
    assert (ide.bus.pio_in(0x3F6, 1), ide.irq) == (0, False)
    ide[6] = 0xA0
    assert ide[7] == 0x50


def test_empty_channel_reads_as_zero() -> None:
    ide = Ide(empty=True)
    ide.command(0xEC)
    assert [ide[register] for register in range(8)] == [0] * 8


def test_disk_smaller_than_a_sector() -> None:
    with pytest.raises(ValueError, match=r"^a disk image must have at least one sector \(512 bytes\)$"):
        AtaDisk(bytearray(511))


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.booleans(), st.integers(0, 30), st.integers(1, 4), st.binary(min_size=1, max_size=8)
        ),
        max_size=8,
    )
)
def test_disk_is_its_image(steps: list[tuple[bool, bool, int, int, bytes]]) -> None:
    model = bytearray(range(256)) * 2 * 64
    ide = Ide(AtaDisk(bytearray(model)))
    for writes, by_lba, sector, count, pattern in steps:
        area = slice(512 * sector, 512 * (sector + count))
        content = (pattern * 512 * count)[: 512 * count]
        ide.command(0x30 if writes else 0x20, sector, count) if by_lba else ide_chs(ide, writes, sector, count)
        if writes:
            ide.write(content)
            model[area] = content
        else:
            assert ide.read(count) == model[area]
        assert ide[7] == 0x50
    assert ide.disk.image == model


def ide_chs(ide: Ide, writes: bool, sector: int, count: int) -> None:
    """Start a transfer on the first track by cylinder, head and sector."""
    ide[2], ide[3], ide[4], ide[5], ide[6] = count, sector + 1, 0, 0, CHS
    ide[7] = 0x30 if writes else 0x20
