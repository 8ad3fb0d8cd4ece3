"""ATA disk on an IDE channel, by programmed I/O.

Specification: ANSI X3.298 (ATA-3) and ATA/ATAPI-4 (T13/1153D); the ports are those of a PC's IDE channels.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import StateError
from ..resources import Resource
from ..state import Saved
from ._common import Irq, no_irq
from ._isa import PlacedDevice

__all__ = ["SECTOR_SIZE", "AtaDisk", "IdeChannel"]

SECTOR_SIZE = 512
HEADS, SECTORS_PER_TRACK = 16, 63
MAX_CYLINDERS = 16_383  # the most that IDENTIFY may report; larger disks are addressed by LBA
MAX_LBA28_SECTORS = 1 << 28


class Register:
    """Offsets of the command block registers."""

    DATA = 0
    ERROR = 1  # read
    FEATURES = 1  # written
    SECTOR_COUNT = 2
    SECTOR_NUMBER = 3
    CYLINDER_LOW = 4
    CYLINDER_HIGH = 5
    DEVICE_HEAD = 6
    STATUS = 7  # read
    COMMAND = 7  # written


# Status
ERROR, DATA_REQUEST, SEEK_COMPLETE, READY = 0x01, 0x08, 0x10, 0x40
IDLE = READY | SEEK_COMPLETE
# Error
ABORTED, ID_NOT_FOUND = 0x04, 0x10
DIAGNOSTIC_PASSED = 0x01
# Device/head
LBA, SECOND_DEVICE = 0x40, 0x10
# Device control
NO_INTERRUPT, SOFTWARE_RESET = 0x02, 0x04

SIGNATURE = {
    Register.SECTOR_COUNT: 1,
    Register.SECTOR_NUMBER: 1,
    Register.CYLINDER_LOW: 0,
    Register.CYLINDER_HIGH: 0,
    Register.DEVICE_HEAD: 0,
}


class Command:
    """The commands that the disk knows."""

    RECALIBRATE, RECALIBRATE_LAST = 0x10, 0x1F
    READ_SECTORS, READ_SECTORS_NO_RETRY = 0x20, 0x21
    WRITE_SECTORS, WRITE_SECTORS_NO_RETRY = 0x30, 0x31
    VERIFY_SECTORS, VERIFY_SECTORS_NO_RETRY = 0x40, 0x41
    SEEK, SEEK_LAST = 0x70, 0x7F
    DIAGNOSTIC = 0x90
    INITIALIZE_PARAMETERS = 0x91
    READ_MULTIPLE, WRITE_MULTIPLE, SET_MULTIPLE = 0xC4, 0xC5, 0xC6
    STANDBY_IMMEDIATE, IDLE_IMMEDIATE, STANDBY, IDLE, CHECK_POWER = 0xE0, 0xE1, 0xE2, 0xE3, 0xE5
    FLUSH_CACHE = 0xE7
    IDENTIFY = 0xEC
    SET_FEATURES = 0xEF
    NOTHING_TO_DO = (
        *range(RECALIBRATE, RECALIBRATE_LAST + 1),
        *range(SEEK, SEEK_LAST + 1),
        *(STANDBY_IMMEDIATE, IDLE_IMMEDIATE, STANDBY, IDLE, FLUSH_CACHE),
    )


POWER_ACTIVE = 0xFF
BLOCK_SIZES = (1, 2, 4, 8, 16)
# Write cache, transfer mode, look-ahead and power-on defaults, which have no effect.
FEATURES_ACCEPTED = (0x02, 0x03, 0x55, 0x66, 0x82, 0xAA, 0xCC)


# What is transferred through the data port.
NOTHING, IDENTITY, READ, WRITE = range(4)


class CommandError(Exception):
    """A command fails; the attribute is the value of the error register."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error


class AtaDisk:
    """The disk: its sectors and its geometry.

    Parameters
    ----------
    image : bytearray or mmap
        The contents, which the guest may change. An incomplete last sector is not used.
    model, serial, firmware : str
        As reported by IDENTIFY; an empty one as not specified.
    """

    version: ClassVar[int] = 1

    def __init__(
        self, image: bytearray | mmap.mmap, *, model: str = "PYTHON ATA DISK", serial: str = "", firmware: str = ""
    ) -> None:
        self.image = image
        self.sectors = min(len(image) // SECTOR_SIZE, MAX_LBA28_SECTORS)
        if not self.sectors:
            raise ValueError(f"a disk image must have at least one sector ({SECTOR_SIZE} bytes)")
        self.cylinders = max(1, min(self.sectors // (HEADS * SECTORS_PER_TRACK), MAX_CYLINDERS))
        self._names = (model, serial, firmware)

    def save_state(self) -> dict[str, Any]:
        """Return the contents."""
        return {"image": bytes(self.image)}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for the contents of a disk of another size."""
        image = state.get("image") if isinstance(state, Mapping) else state
        if not isinstance(image, bytes) or len(image) != len(self.image):
            there = f"{len(image)} bytes" if isinstance(image, bytes) else repr(image)
            raise StateError(f"the image of a disk of {len(self.image)} bytes is not {there}")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace the contents."""
        self.check_state(state)
        self.image[:] = state["image"]

    def identify(self) -> bytes:
        """Return the answer to IDENTIFY DEVICE."""
        model, serial, firmware = self._names
        chs_sectors = self.cylinders * HEADS * SECTORS_PER_TRACK
        words = {
            0: 0x0040,  # fixed disk
            1: self.cylinders,
            3: HEADS,
            6: SECTORS_PER_TRACK,
            **_identify_string(10, 10, serial),
            **_identify_string(23, 4, firmware),
            **_identify_string(27, 20, model),
            49: 0x0200,  # LBA
            53: 0x0001,  # words 54 to 58 are valid
            54: self.cylinders,
            55: HEADS,
            56: SECTORS_PER_TRACK,
            57: chs_sectors & 0xFFFF,
            58: chs_sectors >> 16,
            60: self.sectors & 0xFFFF,
            61: self.sectors >> 16,
            80: 0x001E,  # ATA-1 to ATA-4
        }
        return struct.pack("<256H", *(words.get(number, 0) for number in range(256)))


def _identify_string(first: int, count: int, text: str) -> dict[int, int]:
    """Return the words of a string: padded with spaces, the first of two characters in the upper byte."""
    if not text:
        return {}
    words = struct.unpack(f">{count}H", text.encode("ascii").ljust(2 * count)[: 2 * count])
    return dict(enumerate(words, first))


class IdeChannel(PlacedDevice):
    """A channel with up to one disk, as device 0. The disk has a state of its own.

    Parameters
    ----------
    irq : callable
        The interrupt line.
    disk : AtaDisk, optional
        The disk. Without one, all registers read as 0, as do those of device 1, for which device 0 responds.
    command_base, control_port : int
        First of the eight command block ports, and the port of alternate status and device control.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_registers": None,
        "_control": range(0x100),
        "_heads": range(1, 17),
        "_sectors_per_track": range(1, 0x100),
        "_multiple": range(max(BLOCK_SIZES) + 1),
        "_error": range(0x100),
        "_status": range(0x100),
        "_interrupting": None,
        "_transfer": range(WRITE + 1),
        "_block": ...,
        "_position": range(1 << 32),
        "_sector": range(MAX_LBA28_SECTORS + 1),
        "_remaining": range(0x101),
        "_sectors_per_block": range(1, max(BLOCK_SIZES) + 1),
    }

    def __init__(
        self,
        *,
        irq: Irq = no_irq,
        disk: AtaDisk | None = None,
        command_base: int = 0x1F0,
        control_port: int = 0x3F6,
    ) -> None:
        super().__init__(Resource.PioAddressRange(command_base, 8), Resource.PioAddressRange(control_port, 1))
        self._irq = irq
        self._disk = disk
        self._control_port = control_port
        self._registers = bytearray(8)  # as the host wrote them
        self._control = 0
        self._heads, self._sectors_per_track = HEADS, SECTORS_PER_TRACK
        self._multiple = 0  # sectors per block of READ and WRITE MULTIPLE; 0 until the host has set it
        self._reset()

    def _reset(self) -> None:
        """Perform a hardware or software reset, which leaves the device's signature in the registers."""
        for register, value in SIGNATURE.items():
            self._registers[register] = value
        self._error = DIAGNOSTIC_PASSED
        self._status = IDLE
        self._interrupting = False
        self._block = bytearray()  # the data being transferred through the data port
        self._position = 0
        self._transfer = NOTHING
        self._sector = 0  # first of the block
        self._remaining = 0  # sectors of the command, the block's own included
        self._sectors_per_block = 1

    @property
    def _selected(self) -> AtaDisk | None:
        return None if self._registers[Register.DEVICE_HEAD] & SECOND_DEVICE else self._disk

    # Registers

    def pio_in(self, base: int, offset: int, size: int) -> int:
        if self._selected is None:
            return 0
        if base == self._control_port:
            return self._status
        match offset:
            case Register.DATA:
                return self._read_data(size)
            case Register.ERROR:
                return self._error
            case Register.STATUS:
                self._set_interrupt(False)
                return self._status
        return self._registers[offset]

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        if base == self._control_port:
            released = self._control & ~value & SOFTWARE_RESET
            self._control = value & 0xFF
            if released:
                self._reset()
            self._drive_irq()
        elif offset == Register.DATA:
            self._write_data(value.to_bytes(size, "little"))
        elif offset != Register.COMMAND:
            self._registers[offset] = value & 0xFF
        elif self._disk is not None and (self._selected or value & 0xFF == Command.DIAGNOSTIC):
            self._execute(self._disk, value & 0xFF)

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        if state["transfer"] not in (READ, WRITE):
            return
        end, sectors = state["sector"] + state["remaining"], 0 if self._disk is None else self._disk.sectors
        if end > sectors:
            raise StateError(f"a transfer that ends before sector {end}, on a disk of {sectors} sectors")
        size = SECTOR_SIZE * min(state["sectors_per_block"], state["remaining"])
        if len(state["block"]) != size:
            raise StateError(f"a block of {len(state['block'])} bytes, in a transfer in blocks of {size}")

    def state_loaded(self) -> None:
        self._drive_irq()

    def _set_interrupt(self, pending: bool) -> None:
        self._interrupting = pending
        self._drive_irq()

    def _drive_irq(self) -> None:
        self._irq(self._interrupting and not self._control & NO_INTERRUPT)

    # Commands

    def _execute(self, disk: AtaDisk, command: int) -> None:
        self._error = 0
        self._status = IDLE
        self._transfer = NOTHING
        self._set_interrupt(False)
        try:
            self._dispatch(disk, command)
        except CommandError as failure:
            self._fail(failure.error)

    def _dispatch(self, disk: AtaDisk, command: int) -> None:
        registers = self._registers
        match command:
            case Command.READ_SECTORS | Command.READ_SECTORS_NO_RETRY:
                self._start_transfer(disk, 1)
                self._read_block(disk)
                return
            case Command.WRITE_SECTORS | Command.WRITE_SECTORS_NO_RETRY:
                self._start_transfer(disk, 1)
                self._write_block(disk)
                return  # no interrupt before the first block
            case Command.READ_MULTIPLE if self._multiple:
                self._start_transfer(disk, self._multiple)
                self._read_block(disk)
                return
            case Command.WRITE_MULTIPLE if self._multiple:
                self._start_transfer(disk, self._multiple)
                self._write_block(disk)
                return
            case Command.IDENTIFY:
                self._offer(IDENTITY, disk.identify())
                return
            case Command.SET_MULTIPLE:
                if registers[Register.SECTOR_COUNT] not in BLOCK_SIZES:
                    raise CommandError(ABORTED)
                self._multiple = registers[Register.SECTOR_COUNT]
            case Command.VERIFY_SECTORS | Command.VERIFY_SECTORS_NO_RETRY:
                self._start_transfer(disk, 1)
            case Command.INITIALIZE_PARAMETERS if registers[Register.SECTOR_COUNT]:
                self._heads = (registers[Register.DEVICE_HEAD] & 0x0F) + 1
                self._sectors_per_track = registers[Register.SECTOR_COUNT]
            case Command.DIAGNOSTIC:
                self._reset()
            case Command.CHECK_POWER:
                registers[Register.SECTOR_COUNT] = POWER_ACTIVE
            case Command.SET_FEATURES if registers[Register.FEATURES] in FEATURES_ACCEPTED:
                pass
            case _ if command in Command.NOTHING_TO_DO:
                pass
            case _:
                raise CommandError(ABORTED)
        self._set_interrupt(True)

    def _fail(self, error: int) -> None:
        self._error = error
        self._status = IDLE | ERROR
        self._transfer = NOTHING
        self._set_interrupt(True)

    # Addressing

    def _address(self) -> int:
        """Return the sector number that the registers address."""
        registers = self._registers
        number = registers[Register.SECTOR_NUMBER]
        cylinder = registers[Register.CYLINDER_HIGH] << 8 | registers[Register.CYLINDER_LOW]
        head = registers[Register.DEVICE_HEAD] & 0x0F
        if registers[Register.DEVICE_HEAD] & LBA:
            return head << 24 | cylinder << 8 | number
        if not 1 <= number <= self._sectors_per_track or head >= self._heads:
            raise CommandError(ID_NOT_FOUND)
        return (cylinder * self._heads + head) * self._sectors_per_track + number - 1

    def _store_address(self, sector: int) -> None:
        """Store a sector's address in the registers, for the host to read after a command."""
        registers = self._registers
        if registers[Register.DEVICE_HEAD] & LBA:
            head, cylinder, number = sector >> 24, sector >> 8 & 0xFFFF, sector & 0xFF
        else:
            track, index = divmod(sector, self._sectors_per_track)
            cylinder, head = divmod(track, self._heads)
            number = index + 1
        registers[Register.SECTOR_NUMBER] = number
        registers[Register.CYLINDER_LOW] = cylinder & 0xFF
        registers[Register.CYLINDER_HIGH] = cylinder >> 8
        registers[Register.DEVICE_HEAD] = registers[Register.DEVICE_HEAD] & 0xF0 | head

    # Data transfer

    def _start_transfer(self, disk: AtaDisk, sectors_per_block: int) -> None:
        self._sector = self._address()
        self._remaining = self._registers[Register.SECTOR_COUNT] or 256
        self._sectors_per_block = sectors_per_block
        if self._sector + self._remaining > disk.sectors:
            self._store_address(min(self._sector, disk.sectors))
            raise CommandError(ID_NOT_FOUND)

    def _block_range(self) -> slice:
        """Return the block's slice of the image."""
        count = min(self._sectors_per_block, self._remaining)
        return slice(self._sector * SECTOR_SIZE, (self._sector + count) * SECTOR_SIZE)

    def _read_block(self, disk: AtaDisk) -> None:
        self._offer(READ, disk.image[self._block_range()])

    def _block_was_read(self, disk: AtaDisk) -> None:
        self._count_block()
        if self._remaining:
            self._read_block(disk)

    def _write_block(self, disk: AtaDisk) -> None:
        area = self._block_range()
        self._block = bytearray(area.stop - area.start)
        self._position = 0
        self._transfer = WRITE
        self._status = IDLE | DATA_REQUEST

    def _block_was_written(self, disk: AtaDisk) -> None:
        disk.image[self._block_range()] = self._block
        self._count_block()
        if self._remaining:
            self._write_block(disk)
        self._set_interrupt(True)

    def _count_block(self) -> None:
        count = len(self._block) // SECTOR_SIZE
        self._store_address(self._sector + count - 1)
        self._sector += count
        self._remaining -= count
        self._registers[Register.SECTOR_COUNT] = self._remaining & 0xFF

    def _offer(self, transfer: int, block: bytes | bytearray) -> None:
        """Let the host read a block."""
        self._block = bytearray(block)
        self._position = 0
        self._transfer = transfer
        self._status = IDLE | DATA_REQUEST
        self._set_interrupt(True)

    def _read_data(self, size: int) -> int:
        if self._transfer not in (IDENTITY, READ):
            return 0
        chunk = self._block[self._position : self._position + size]
        self._advance(size)
        return int.from_bytes(chunk, "little")

    def _write_data(self, data: bytes) -> None:
        if self._transfer == WRITE:
            room = min(len(data), len(self._block) - self._position)
            self._block[self._position : self._position + room] = data[:room]
            self._advance(len(data))

    def _advance(self, size: int) -> None:
        self._position += size
        if self._position < len(self._block):
            return
        transfer, self._transfer = self._transfer, NOTHING
        self._status = IDLE
        if self._disk is not None and transfer == READ:
            self._block_was_read(self._disk)
        elif self._disk is not None and transfer == WRITE:
            self._block_was_written(self._disk)
