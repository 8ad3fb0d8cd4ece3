"""Parallel NOR flash with the command set of Intel, as on most development boards and QEMU's "virt" machines.

Datasheets: JEDEC JESD68.01, Common Flash Interface; Intel 28F640J3, StrataFlash Memory. Left out: protection registers,
suspended operations, burst modes. Operations take no time.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .._bus import IoManager
from ..device import DeviceIo
from ..errors import StateError
from ..memory import Rom
from ..resources import Resource
from ..state import AttributeState

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["CfiFlash"]

# Commands, in the low byte of each chip.
READ_ARRAY, READ_IDENTIFIERS, READ_CFI, READ_STATUS, CLEAR_STATUS = 0xFF, 0x90, 0x98, 0x70, 0x50
PROGRAM, PROGRAM_ALTERNATIVE, WRITE_TO_BUFFER, ERASE, LOCK = 0x40, 0x10, 0xE8, 0x20, 0x60
CONFIRM, LOCK_BLOCK, LOCK_DOWN = 0xD0, 0x01, 0x2F
# Status.
READY, ERASE_ERROR, PROGRAM_ERROR, PROTECTED = 0x80, 0x20, 0x10, 0x02
SEQUENCE_ERROR = ERASE_ERROR | PROGRAM_ERROR
# Identifiers.
INTEL = 0x89
BLOCK_LOCKED = 2  # word of the block
BUFFER_LOG2 = 11  # bytes a chip
ANY_ADDRESS = range(1 << 64)
CYCLE = struct.Struct("<QB")  # of a write to the buffer: address and length, before its data


class CfiFlash(AttributeState):
    """Flash of one or more chips side by side.

    While it is read as an array, which is nearly always, a `Rom` over its contents is on the bus: a bridge that maps
    memory lets the guest read and execute it at full speed. Commands, which are writes, are trapped; while one is
    under way, a device takes the place of the `Rom`. Any thread may access it.

    Parameters
    ----------
    contents : buffer or int
        Its bytes, which the guest can change: a `bytearray`, or an `mmap` of a file, which keeps them. An int is a size
        in bytes: an erased flash. Bridges map what is page-aligned, such as an `mmap`.
    sector_size : int
        Bytes that are erased at once, by all chips together.
    width : {4, 1, 2, 8}
        Bytes of the data bus.
    chip_width : {2, 1, 4}
        Bytes of one chip.

    Attributes
    ----------
    size : int
        Bytes to register.
    rom : Rom
        The array, as the guest reads it.
    mode : str
        What a read gives: "array", "status", "identifiers" or "cfi".

    Examples
    --------
    >>> manager, flash = IoManager(), CfiFlash(bytearray(b"firmware".ljust(0x20000, bytes([255]))), sector_size=0x10000)
    >>> flash.register(manager, 0x400_0000)
    >>> manager.mmio_load(0x400_0000, 8).to_bytes(8, "little")
    b'firmware'
    >>> manager.mmio_store(0x400_0154, 4, 0x00980098)  # CFI query: word 0x55
    >>> [chr(manager.mmio_load(0x400_0000 + 4 * word, 1)) for word in (0x10, 0x11, 0x12)]
    ['Q', 'R', 'Y']
    >>> manager.mmio_store(0x400_0000, 4, 0x00FF00FF)
    >>> flash.mode
    'array'
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "_contents": ...,
        "mode": ...,
        "_status": range(1 << 8),
        "_command": range(1 << 8),
        "_address": ANY_ADDRESS,
        "_remaining": ANY_ADDRESS,
        "_buffered": ...,
        "_locked": None,
    }

    def __init__(
        self, contents: WriteableBuffer | int, *, sector_size: int = 0x40000, width: int = 4, chip_width: int = 2
    ) -> None:
        if isinstance(contents, int):
            erased = mmap.mmap(-1, contents)
            erased[:] = b"\xff" * contents
            contents = erased
        self._view = memoryview(contents).cast("B")
        self.size = len(self._view)
        if self._view.readonly:
            raise TypeError("a flash has contents that can be changed: a bytearray or an mmap, say")
        if width not in (1, 2, 4, 8) or chip_width not in (1, 2, 4) or chip_width > width:
            raise ValueError(f"chips of {chip_width} bytes do not make a bus of {width}")
        self._chips = width // chip_width
        if sector_size <= 0 or sector_size % (256 * self._chips) or self.size % sector_size:
            raise ValueError(f"{self.size:#x} bytes are not a number of sectors of {sector_size:#x}")
        if self.size & self.size - 1:
            raise ValueError(f"the size of a flash is a power of 2, not {self.size:#x}")
        self.sector_size = sector_size
        self.width = width
        self.chip_width = chip_width
        self.rom = Rom(self._view, on_write=self._write)
        self._lock = threading.RLock()
        self._busy = _Commands(self)
        self._shown: Rom | DeviceIo = self.rom
        self._places: list[tuple[IoManager, Resource, str | None]] = []
        self._query = self._cfi_query()
        self._locked = [False] * (self.size // sector_size)
        self._buffer_size = self._chips << BUFFER_LOG2
        self.reset()

    def reset(self) -> None:
        """Return to reading the array. The contents and the locks of sectors stay."""
        self._status = READY
        self._command = 0  # whose second cycle is to come
        self._address = 0
        self._remaining = 0  # words that are to come into the buffer
        self._buffered = bytearray()  # address, length, data of each cycle
        self._set_mode("array")

    def register(self, manager: IoManager, base: int, name: str | None = None) -> None:
        """Register it at an address, and have the right device there from now on.

        Parameters
        ----------
        manager : IoManager
            The bus.
        base : int
            The address.
        name : str, optional
            A name for maps and errors.
        """
        resource = Resource.MmioAddressRange(base, self.size)
        manager.register_device_io(self._shown, [resource], name=name)
        self._places.append((manager, resource, name))

    def _set_mode(self, mode: str) -> None:
        self.mode = mode
        self._show()

    def _show(self) -> None:
        """Have the device on the bus that the mode asks for."""
        shown = self.rom if self.mode == "array" else self._busy
        if shown is self._shown:
            return
        before, self._shown = self._shown, shown
        try:
            for manager, resource, name in self._places:
                with manager.begin_tx() as transaction:
                    transaction.unregister_device_io([resource])
                    transaction.register_device_io(shown, [resource], name=name)
        except BaseException:
            self._shown = before  # the thread may have a transaction open, and try again
            raise

    # Reading, in other modes than that of the array.

    def _load(self, offset: int, size: int) -> int:
        if self.mode == "status":
            return self._replicated(self._status)
        word = offset // self.width
        if self.mode == "cfi":
            return self._replicated(self._query[word] if word < len(self._query) else 0)
        # Identifiers: manufacturer and device at the start, whether a sector is locked in each.
        word_of_sector = offset % self.sector_size // self.width
        if word_of_sector == BLOCK_LOCKED:
            return self._replicated(int(self._locked[offset // self.sector_size]))
        return self._replicated({0: INTEL, 1: self.size.bit_length() - 1}.get(word, 0))

    def _replicated(self, value: int) -> int:
        """Return what a word reads when every chip gives the same value."""
        return sum(value << 8 * self.chip_width * chip for chip in range(self._chips))

    # Writing.

    def _write(self, offset: int, data: bytes) -> None:
        """Take a write cycle, or several if the write is wider than the bus."""
        with self._lock:
            if len(data) <= self.width:
                self._cycle(offset, data)
            else:
                for position in range(0, len(data), self.width):
                    self._cycle(offset + position, data[position : position + self.width])

    def _cycle(self, offset: int, data: bytes) -> None:
        if self._remaining:
            self._fill(offset, data)
        elif self._command:
            command, self._command = self._command, 0
            self._second_cycle(command, offset, data)
        else:
            self._first_cycle(data[0], offset)

    def _first_cycle(self, command: int, offset: int) -> None:
        if command == READ_ARRAY:
            self._set_mode("array")
        elif command == READ_IDENTIFIERS:
            self._set_mode("identifiers")
        elif command == READ_CFI:
            self._set_mode("cfi")
        elif command == READ_STATUS:
            self._set_mode("status")
        elif command == CLEAR_STATUS:
            self._status = READY
        elif command in (PROGRAM, PROGRAM_ALTERNATIVE, ERASE, WRITE_TO_BUFFER, LOCK):
            self._command = command
            self._address = offset
            self._set_mode("status")
        # Others are reserved: drivers that look for other kinds of flash write them.

    def _second_cycle(self, command: int, offset: int, data: bytes) -> None:
        sector = offset // self.sector_size
        if command in (PROGRAM, PROGRAM_ALTERNATIVE):
            self._program(offset, data)
        elif command == ERASE:
            if data[0] != CONFIRM:
                self._status |= SEQUENCE_ERROR
            elif self._locked[sector]:
                self._status |= ERASE_ERROR | PROTECTED
            else:
                first = sector * self.sector_size
                self._view[first : first + self.sector_size] = b"\xff" * self.sector_size
        elif command == WRITE_TO_BUFFER:
            # One less than the number of words, from each chip; the confirmation follows them.
            words = int.from_bytes(data[: self.chip_width], "little") + 1
            if words * self.width > self._buffer_size:
                self._status |= SEQUENCE_ERROR
            else:
                self._remaining = words + 1
                self._buffered.clear()
        elif data[0] == CONFIRM:
            self._locked = [False] * len(self._locked)  # "clear block lock bits" is about all of them
        elif data[0] in (LOCK_BLOCK, LOCK_DOWN):
            self._locked[sector] = True
        elif data[0] == READ_ARRAY:  # how a driver ends a sequence that it does not know
            self._set_mode("array")
        else:
            self._status |= SEQUENCE_ERROR

    def _fill(self, offset: int, data: bytes) -> None:
        self._remaining -= 1
        if self._remaining:
            self._buffered += CYCLE.pack(offset, len(data)) + data
            return
        buffered = bytes(self._buffered)
        self._buffered.clear()
        runs = list(_runs(buffered))
        sector = self._address // self.sector_size
        is_inside = all(
            start // self.sector_size == (start + len(run) - 1) // self.sector_size == sector for start, run in runs
        )
        if data[0] != CONFIRM or not is_inside:
            self._status |= SEQUENCE_ERROR
            return
        for start, run in runs:
            self._program(start, run)

    def _program(self, offset: int, data: bytes | bytearray) -> None:
        if self._locked[offset // self.sector_size]:
            self._status |= PROGRAM_ERROR | PROTECTED
            return
        old = self._view[offset : offset + len(data)]
        # Programming only clears bits.
        bits = int.from_bytes(old, "little") & int.from_bytes(data, "little")
        old[:] = bits.to_bytes(len(old), "little")

    def _cfi_query(self) -> bytes:
        chip_size = self.size // self._chips
        blocks, block = self.size // self.sector_size, self.sector_size // self._chips
        return (
            bytes(0x10)
            + b"QRY"
            + struct.pack("<HHHH", 1, 0x31, 0, 0)  # command set, its table below; no alternative
            + bytes([0x27, 0x36, 0, 0])  # 2.7 to 3.6 V, no programming voltage
            + bytes([7, 7, 10, 0, 4, 4, 4, 0])  # typical times, log2 of us and ms; factors of the longest, log2
            + bytes([chip_size.bit_length() - 1])
            + struct.pack("<HH", {1: 0, 2: 1, 4: 3}[self.chip_width], BUFFER_LOG2)
            + bytes([1])  # kinds of sectors
            + struct.pack("<HH", blocks - 1, block // 256)
            + b"PRI10"
            + bytes([0, 0, 0, 0, 0, 1, 0, 0x33, 0])  # no optional features; block locks
        )

    # State.

    @property
    def _contents(self) -> bytes:
        return bytes(self._view)

    @_contents.setter
    def _contents(self, contents: bytes) -> None:
        self._view[:] = contents

    def state_loaded(self) -> None:
        """Have the right device on the bus."""
        self._show()

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state that does not fit."""
        super().check_state(state)
        if len(state["contents"]) != self.size or len(state["locked"]) != len(self._locked):
            raise StateError(f"{self!r} has {self.size:#x} bytes, not {len(state['contents']):#x}")
        if state["mode"] not in ("array", "status", "identifiers", "cfi"):
            raise StateError(f"CfiFlash.mode is not {state['mode']!r}")

    def __repr__(self) -> str:
        return f"<CfiFlash, {self.size:#x} bytes, {self.mode}>"


class _Commands(DeviceIo):
    """What is on the bus while a flash does not show its array."""

    def __init__(self, flash: CfiFlash) -> None:
        self._flash = flash

    def load(self, base: int, offset: int, size: int) -> int:
        flash = self._flash
        return flash._load(offset, size) >> 8 * (offset % flash.width)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self._flash._write(offset, value.to_bytes(size, "little"))

    def __repr__(self) -> str:
        return f"{self._flash!r}"


def _runs(buffered: bytes) -> Iterator[tuple[int, bytearray]]:
    """Yield address and data of each run of cycles at consecutive addresses."""
    start, run, position = 0, bytearray(), 0
    while position < len(buffered):
        offset, size = CYCLE.unpack_from(buffered, position)
        position += CYCLE.size
        if run and offset != start + len(run):
            yield start, run
            run = bytearray()
        if not run:
            start = offset
        run += buffered[position : position + size]
        position += size
    if run:
        yield start, run
