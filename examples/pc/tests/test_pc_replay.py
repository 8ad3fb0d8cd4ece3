"""The recorded boot of SeaBIOS, replayed into the devices of the example PC without a processor.

Every read is compared. The few that may differ are named one by one in `ALLOWANCES`, with the bits, the reason and how
many there are; everything else a device answers is a function of what was written before, and has to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from dbs_device.clock import CountedClock
from dbs_device.devices.ata import SECTOR_SIZE, AtaDisk
from dbs_device.trace import Access, Space, Trace, replay
from examples.pc.board import Board

TRACE = Path(__file__).parents[3] / "tests" / "data" / "seabios_uc_trace.npz"

# The recorded machine. Its clock was half a second past a full one when the recording began.
MODEL = "PYDEV ATA DISK"
DISK_SIZE = 1 << 20
RAM_SIZE = 32 << 20
START = datetime(2020, 11, 22, 1, 28, 1, 500_000)
VGABIOS_SELECTOR = 0x22

ACCESSES, READS, UNOWNED = 67_166, 41_511, 15

PM_TIMER = 0xB008
PM_TIMER_TICKS = 1 << 24
PM_TIMER_JITTER = 16  # ticks, 4.5 us: between looking at the timer and noting the time of the access
CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, range(0xCFC, 0xD00)
CMOS_INDEX, CMOS_DATA, RTC_REGISTER_C = 0x70, 0x71, 0x0C
IDE_DATA = 0x1F0
IDENTIFY_CURRENT_CAPACITY = 57


class Read(NamedTuple):
    """A read of the trace, with the devices' answer, and what the writes before have selected."""

    index: int
    access: Access
    answer: int
    config_address: int  # of the PCI cycle that it is part of, if it is one
    cmos_index: int
    data_word: int  # its number among the reads from the disk

    def is_at(self, port: int) -> bool:
        return (self.access.space, self.access.addr) == (Space.PIO, port)

    def is_config(self, register: int) -> bool:
        return self.access.space == Space.PIO and self.access.addr in CONFIG_DATA and self.config_address == register


class Allowance(NamedTuple):
    """Reads of which some bits may differ."""

    reads: int
    bits: int
    applies: Callable[[Read], bool]


TIMER = "the timer's value: a clock, compared in a test of its own"
ALLOWANCES = {
    "the beam of the CRT: a clock": Allowance(22, 0x09, lambda read: read.is_at(0x3DA)),
    TIMER: Allowance(38, 0xFFFF_FFFF, lambda read: read.is_at(PM_TIMER)),
    "periodic flag of the RTC, whose divider has been running: the recorded one had none": Allowance(
        1, 0x40, lambda read: read.is_at(CMOS_DATA) and read.cmos_index & 0x7F == RTC_REGISTER_C
    ),
    "the recorded 8042 kept the system flag set and the command/data flag clear, whatever was written": Allowance(
        43, 0x0C, lambda read: read.is_at(0x64)
    ),
    "command register of 0:0.0 after reset: 6 by the 82441FX's datasheet, recorded as 0": Allowance(
        1, 0x0006, lambda read: read.is_config(0x8000_0004)
    ),
    "command register of 0:1.0 after reset: 7 by the 82371SB's datasheet, recorded as 0": Allowance(
        1, 0x0007, lambda read: read.is_config(0x8000_0804)
    ),
    "command register of 0:1.1 after reset: 0 by the 82371SB's datasheet, recorded as 1": Allowance(
        1, 0x0001, lambda read: read.is_config(0x8000_0904)
    ),
    "interrupt pin of 0:1.3: INTA by the 82371AB's datasheet, recorded as none": Allowance(
        2, 0x01, lambda read: read.is_config(0x8000_0B3C) and read.access.addr == 0xCFD
    ),
    "IDENTIFY declares its word 57, the capacity, to be valid, and the recorded disk left it empty": Allowance(
        1, 0xFFFF, lambda read: read.is_at(IDE_DATA) and read.data_word == IDENTIFY_CURRENT_CAPACITY
    ),
}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.load(TRACE)


class Output(NamedTuple):
    serial: bytearray
    debug: bytearray
    stops: list[str]


class Replayed(NamedTuple):
    """A board that the trace has been replayed into."""

    board: Board
    output: Output
    reads: list[Read]


def recorded_disk(trace: Trace) -> AtaDisk:
    """Return the disk that was recorded: its first sector is what was read after the answer to IDENTIFY."""
    words = [access.value for access in trace[trace.mask([(Space.PIO, IDE_DATA, IDE_DATA)])]]
    image = bytearray(DISK_SIZE)
    image[:SECTOR_SIZE] = b"".join(word.to_bytes(2, "little") for word in words[256:])
    return AtaDisk(image, model=MODEL)


def recorded_vgabios(trace: Trace) -> bytes:
    """Return the option ROM that was read from fw_cfg."""
    selector, content = None, bytearray()
    for access in trace[trace.mask("fw_cfg")]:
        if access.write:
            selector = access.value
        elif selector == VGABIOS_SELECTOR:
            content.append(access.value)
    return bytes(content)


def build_board(trace: Trace, output: Output) -> Board:
    return Board(
        CountedClock(step=0),
        start=START,
        ram_size=RAM_SIZE,
        disk=recorded_disk(trace),
        vgabios=recorded_vgabios(trace),
        serial=output.serial.append,
        debug=output.debug.append,
        stop=output.stops.append,
    )


def make_accesses(trace: Trace, board: Board) -> Iterator[Read]:
    """Make the accesses of the trace, each at the time at which it was recorded, and yield what was read."""
    written = {CONFIG_ADDRESS: 0, CMOS_INDEX: 0}
    data_words = 0
    for index, access in enumerate(trace):
        board.clock.wait_until(access.t_ns)
        mmio = access.space == Space.MMIO
        if access.write:
            store = board.manager.mmio_store if mmio else board.manager.pio_out
            store(access.addr, access.size, access.value)
            if not mmio and access.addr in written:
                written[access.addr] = access.value
            continue
        load = board.manager.mmio_load if mmio else board.manager.pio_in
        answer = load(access.addr, access.size)
        yield Read(index, access, answer, written[CONFIG_ADDRESS], written[CMOS_INDEX], data_words)
        data_words += not mmio and access.addr == IDE_DATA


@pytest.fixture(scope="module")
def replayed(trace: Trace) -> Replayed:
    output = Output(bytearray(), bytearray(), [])
    board = build_board(trace, output)
    return Replayed(board, output, list(make_accesses(trace, board)))


def test_every_read_is_answered_as_recorded_but_for_the_named_bits(replayed: Replayed) -> None:
    assert len(replayed.reads) == READS
    allowed = dict.fromkeys(ALLOWANCES, 0)
    for read in replayed.reads:
        free_bits = 0
        for why, allowance in ALLOWANCES.items():
            if allowance.applies(read):
                free_bits |= allowance.bits
                allowed[why] += 1
        assert (read.answer ^ read.access.value) & ~free_bits == 0, read
    assert allowed == {why: allowance.reads for why, allowance in ALLOWANCES.items()}


def test_power_management_timer_runs_as_recorded_from_another_beginning(replayed: Replayed) -> None:
    offsets = [(read.access.value - read.answer) % PM_TIMER_TICKS for read in replayed.reads if read.is_at(PM_TIMER)]
    assert len(offsets) == ALLOWANCES[TIMER].reads
    assert max(offsets) - min(offsets) <= PM_TIMER_JITTER


def test_devices_are_mapped_where_the_recorded_ones_were(trace: Trace, replayed: Replayed) -> None:
    manager = replayed.board.manager
    buses = {Space.PIO: manager.pio_bus, Space.MMIO: manager.mmio_bus}
    mapped = {(space, base, last) for space, bus in buses.items() for base, last, _ in bus}
    recorded = {(each.space, each.base, each.last) for each in trace.ranges}
    # The display interface has two 16-bit ports; and port 0x80 is the first of the DMA pages, not a device of its own.
    assert recorded - mapped == {(Space.PIO, 0x1CE, 0x1D1), (Space.PIO, 0x80, 0x80), (Space.PIO, 0x81, 0x8F)}
    assert mapped - recorded == {(Space.PIO, 0x1CE, 0x1D0), (Space.PIO, 0x80, 0x8F)}


def test_guest_is_heard_and_seen(replayed: Replayed) -> None:
    # The firmware's serial console runs behind the screen: a tick of the timer brings it up to date, which never came.
    assert bytes(replayed.output.serial).endswith(b"Booting from Hard Disk...\r\nHELLO FROM PYTHON ATA DIS")
    assert bytes(replayed.output.debug).startswith(b"SeaBIOS (version 1.16.2-debian-1.16.2-1)\n")
    assert [line for line in replayed.board.vga.text() if line] == [
        "SeaBIOS (version 1.16.2-debian-1.16.2-1)",
        "Booting from Hard Disk...",
        "HELLO FROM PYTHON ATA DISK",
    ]


def test_unowned_ports_read_as_all_ones(trace: Trace, replayed: Replayed) -> None:
    manager = replayed.board.manager
    buses = {Space.PIO: manager.pio_bus, Space.MMIO: manager.mmio_bus}
    unowned = [access for access in trace if buses[access.space].find(access.addr) is None]
    assert len(unowned) == UNOWNED
    assert all(access.value == (1 << 8 * access.size) - 1 for access in unowned if not access.write)
    assert sum(meter.reads + meter.writes for meter in replayed.board.meters) == ACCESSES - UNOWNED


def test_recorded_suspend_type_does_not_power_off(replayed: Replayed) -> None:
    # The recorded machine took any. It is 5, which a PIIX4 does not call "soft off".
    assert replayed.output.stops == []


def test_library_replay_finds_the_same(trace: Trace) -> None:
    board = build_board(trace, Output(bytearray(), bytearray(), []))
    result = replay(trace, board.manager, ignore=["acpi-pm", "cmos", "i8042-cmd", (Space.PIO, 0x3DA, 0x3DA)])
    assert (result.accesses, result.reads_compared) == (ACCESSES, 41_138)
    assert [trace[index].addr for index in result.differing] == [0xCFC, 0xCFC, 0xCFC, 0xCFD, 0xCFD, IDE_DATA]
    assert str(result.first) == "access 1664: the read of 2 bytes at PIO 0xcfc gave 0x6, not 0x0"
