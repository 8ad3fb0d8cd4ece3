"""PCI configuration space through ports 0xCF8..0xCFF (configuration mechanism 1).

Specification: PCI Local Bus Specification 2.1, chapters 3.2.2.3.2 and 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from ..resources import Resource
from ..state import AttributeState, Saved
from ._isa import PlacedDevice

__all__ = ["PciBus", "PciConfigPorts", "PciFunction"]

VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION, CLASS = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
HEADER_TYPE, FIRST_BAR, INTERRUPT_LINE, INTERRUPT_PIN = 0x0E, 0x10, 0x3C, 0x3D
CACHE_LINE_SIZE, LATENCY_TIMER = 0x0C, 0x0D
BAR_COUNT = 6

COMMAND_WRITABLE = 0x0147  # I/O, memory, bus master, parity response, SERR
STATUS_WRITE_1_TO_CLEAR = 0xF900
MULTI_FUNCTION = 0x80
BAR_IO_SPACE = 0x01

ENABLE = 0x8000_0000
ADDRESS_WRITABLE = 0x80FF_FFFC
RESET_CONTROL = 1  # 0xCF9, in the middle of the address register
RESET_CPU = 0x04
DATA = 4  # offset of the data ports

Location = tuple[int, int, int]
"""Bus, device and function."""


class PciFunction(AttributeState):
    """A function's 256 bytes of configuration space: the standard header, and the registers of a subclass.

    Every byte has a mask of writable bits, and one of write-1-to-clear bits.

    Parameters
    ----------
    vendor, device, revision : int
        Its identity.
    class_code : int
        Base class, sub-class and programming interface: 0x060000 is a host bridge.
    command, status : int
        Reset values of the two registers.
    header_type : int
        0, or MULTI_FUNCTION for function 0 of a device with several.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"config": None}

    def __init__(
        self,
        vendor: int,
        device: int,
        revision: int,
        class_code: int,
        *,
        command: int = 0,
        status: int = 0,
        header_type: int = 0,
    ) -> None:
        self.config = bytearray(256)
        self._writable = bytearray(256)
        self._clearable = bytearray(256)
        self.define(VENDOR_ID, 2, vendor)
        self.define(DEVICE_ID, 2, device)
        self.define(COMMAND, 2, command, writable=COMMAND_WRITABLE)
        self.define(STATUS, 2, status, clearable=STATUS_WRITE_1_TO_CLEAR)
        self.define(REVISION, 1, revision)
        self.define(CLASS, 3, class_code)
        self.define(CACHE_LINE_SIZE, 1, 0, writable=0xFF)
        self.define(LATENCY_TIMER, 1, 0, writable=0xF8)
        self.define(HEADER_TYPE, 1, header_type)
        self.define(INTERRUPT_LINE, 1, 0, writable=0xFF)

    def define(self, offset: int, size: int, value: int, *, writable: int = 0, clearable: int = 0) -> None:
        """Define a register: its reset value, its writable bits and its write-1-to-clear bits."""
        area = slice(offset, offset + size)
        self.config[area] = value.to_bytes(size, "little")
        self._writable[area] = writable.to_bytes(size, "little")
        self._clearable[area] = clearable.to_bytes(size, "little")

    def define_bar(self, index: int, size: int, flags: int = 0) -> None:
        """Define a 32-bit base address register; `size` is a power of two, `flags` its read-only low bits.

        Software sizes it by writing all ones: the bits below the size remain 0.
        """
        minimum = 4 if flags & BAR_IO_SPACE else 16
        if not 0 <= index < BAR_COUNT or size < minimum or size & (size - 1):
            raise ValueError(f"BAR {index} cannot have {size} bytes and flags {flags:#x}")
        self.define(FIRST_BAR + 4 * index, 4, flags, writable=-size & 0xFFFF_FFFF)

    def load(self, offset: int, size: int) -> int:
        """Return a register's value: serve a configuration read."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def store(self, offset: int, size: int, value: int) -> None:
        """Serve a configuration write, then notify the subclass."""
        for position, byte in enumerate(value.to_bytes(size, "little"), offset):
            writable = self._writable[position]
            kept = self.config[position] & ~writable & ~(byte & self._clearable[position])
            self.config[position] = kept | byte & writable
        self.written(range(offset, offset + size))

    def written(self, offsets: range) -> None:
        """React to a write of registers."""

    def state_loaded(self) -> None:
        self.written(range(len(self.config)))


class PciBus(AttributeState):
    """The functions of a machine, of all its buses."""

    saved: ClassVar[Mapping[str, Saved]] = {"_functions": None}

    def __init__(self) -> None:
        self._by_location: dict[Location, PciFunction] = {}
        self._functions: dict[str, PciFunction] = {}  # the same, by names for the state

    def plug(self, location: Location, function: PciFunction) -> None:
        """Add a function at (bus, device, function); `ValueError` if there already is one."""
        if location in self._by_location:
            raise ValueError(f"there already is a PCI function at {location}")
        self._by_location[location] = function
        self._functions["{:02x}:{:02x}.{}".format(*location)] = function

    def at(self, location: Location) -> PciFunction | None:
        """Return the function at (bus, device, function), or None."""
        return self._by_location.get(location)


class PciConfigPorts(PlacedDevice):
    """The address port and the data ports, with the functions behind them.

    Parameters
    ----------
    reset : callable
        Called when the guest resets the processor through port 0xCF9.
    bus : PciBus, optional
        The functions; by default, there is none until `plug` adds them.

    Attributes
    ----------
    bus : PciBus
        The functions.
    """

    saved: ClassVar[Mapping[str, Saved]] = {
        "_address": range(1 << 32),
        "_reset_control": range(0x100),
        "bus": None,
    }

    def __init__(self, *, reset: Callable[[], object], bus: PciBus | None = None) -> None:
        super().__init__(Resource.PioAddressRange(0xCF8, 8))
        self._reset = reset
        self._address = 0
        self._reset_control = 0
        self.bus = PciBus() if bus is None else bus
        self.plug = self.bus.plug

    def _selected(self) -> tuple[PciFunction | None, int]:
        """Return the function that the address register selects, and the offset of its doubleword."""
        address = self._address
        if not address & ENABLE:
            return None, 0
        location = (address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 0x07)
        return self.bus.at(location), address & 0xFC

    def pio_in(self, base: int, offset: int, size: int) -> int:
        if offset >= DATA:
            function, register = self._selected()
            # -1: a master abort, since no function responds.
            return -1 if function is None else function.load(register + offset - DATA, size)
        if offset == 0 and size == 4:  # narrower accesses are not configuration cycles
            return self._address
        return self._reset_control if offset == RESET_CONTROL and size == 1 else -1

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        if offset >= DATA:
            function, register = self._selected()
            if function is not None:
                function.store(register + offset - DATA, size, value)
        elif offset == 0 and size == 4:
            self._address = value & ADDRESS_WRITABLE
        elif offset == RESET_CONTROL and size == 1:
            pulsed = value & ~self._reset_control & RESET_CPU
            self._reset_control = value & 0x06
            if pulsed:
                self._reset()
