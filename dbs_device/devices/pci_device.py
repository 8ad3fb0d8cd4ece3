"""PCI functions whose memory and ports are where the guest puts them, and PCI Express's configuration space.

Specifications: PCI Local Bus Specification 2.1, chapter 6.2.5; PCI Express Base Specification 2.0, section 7.2.2, which
is also called ECAM. Left out: bridges, expansion ROMs, extended configuration space, message-signalled interrupts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .._bus import IoManager
from ..device import DeviceIo
from ..errors import DeviceOverlapError, InvalidRangeError
from ..resources import Resource
from ..state import AttributeState, Saved
from .pci import BAR_COUNT, BAR_IO_SPACE, COMMAND, FIRST_BAR, INTERRUPT_PIN, PciBus, PciFunction

__all__ = ["PciDevice", "PciEcam"]

BAR_64_BIT, BAR_PREFETCHABLE = 0x04, 0x08
BAR_FLAGS = 0x0F
COMMAND_IO, COMMAND_MEMORY = 0x01, 0x02
STATUS_CAPABILITIES, CAPABILITIES = 1 << 4, 0x34
FIRST_CAPABILITY = 0x40
CONFIG_SIZE, EXTENDED_CONFIG_SIZE = 0x100, 0x1000
BUS_SHIFT, DEVICE_SHIFT, FUNCTION_SHIFT = 20, 15, 12

logger = logging.getLogger("dbs_device.devices.pci")


@dataclass
class _Bar:
    """A base address register, and the device behind it."""

    index: int
    device: DeviceIo
    size: int
    is_io: bool
    is_64_bit: bool
    at: Resource | None = None  # where it is registered


class PciDevice(PciFunction):
    """A function with base address registers: its devices move on the bus when the guest moves them.

    A device is on the bus while the guest has enabled its space in the command register. A guest that moves it to where
    something else is does not find it there: that is logged once, and tried again when the guest writes the registers
    again.

    Parameters
    ----------
    manager : IoManager
        The bus.
    vendor, device, revision, class_code : int
        Its identity, as of `PciFunction`.
    interrupt_pin : int
        1 to 4 for INTA# to INTD#; 0 for none.

    Examples
    --------
    >>> from dbs_device.memory import Ram
    >>> manager, bus = IoManager(), PciBus()
    >>> frame_buffer = PciDevice(manager, vendor=0x1234, device=0x1111, class_code=0x030000)
    >>> frame_buffer.add_bar(0, Ram(0x10000), 0x10000)
    >>> bus.plug((0, 2, 0), frame_buffer)
    >>> manager.register_device_io(PciEcam(bus), [Resource.MmioAddressRange(0x3F00_0000, 0x10_0000)])
    >>> manager.mmio_store(0x3F01_0010, 4, 0xFFFF_FFFF)  # how large is it?
    >>> hex(manager.mmio_load(0x3F01_0010, 4))
    '0xffff0000'
    >>> manager.mmio_store(0x3F01_0010, 4, 0x1000_0000)
    >>> manager.mmio_store(0x3F01_0004, 2, 2)  # memory space on
    >>> manager.mmio_store(0x1000_0008, 4, 0xC0FFEE)
    """

    def __init__(
        self,
        manager: IoManager,
        *,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        interrupt_pin: int = 0,
    ) -> None:
        super().__init__(vendor, device, revision, class_code)
        if not 0 <= interrupt_pin <= 4:
            raise ValueError(f"an interrupt pin is 1 to 4, or 0 for none, not {interrupt_pin}")
        self.define(INTERRUPT_PIN, 1, interrupt_pin)
        self.manager = manager
        self._bars: list[_Bar] = []
        self._lock = threading.RLock()  # a BAR is moved by one thread at a time
        self._has_warned = False
        self._capabilities_end = FIRST_CAPABILITY
        self._last_capability = CAPABILITIES

    def add_bar(
        self,
        index: int,
        device: DeviceIo,
        size: int,
        *,
        io: bool = False,
        wide: bool = False,
        prefetchable: bool = False,
    ) -> None:
        """Put a device behind a base address register.

        Parameters
        ----------
        index : int
            0 to 5. A wide one takes the next one, too.
        device : DeviceIo
            What is to be registered.
        size : int
            Bytes, a power of 2: 16 or more of memory, 4 to 256 ports.
        io : bool
            Whether it has ports instead of memory.
        wide : bool
            Whether it has 64 bits.
        prefetchable : bool
            Whether reads have no side effects.

        Raises
        ------
        ValueError
            The register is in use, or cannot have this size.
        """
        taken = {bar.index + half for bar in self._bars for half in range(1 + bar.is_64_bit)}
        wanted = {index, index + wide}
        limit = 256 if io else 1 << (63 if wide else 31)
        if taken & wanted or not wanted <= set(range(BAR_COUNT)) or size > limit or (io and (wide or prefetchable)):
            raise ValueError(f"BAR {index} cannot have {size:#x} bytes of {'ports' if io else 'memory'}")
        flags = BAR_IO_SPACE if io else (BAR_64_BIT * wide | BAR_PREFETCHABLE * prefetchable)
        self.define_bar(index, min(size, 1 << 31), flags)
        if wide:
            self.define(FIRST_BAR + 4 * (index + 1), 4, 0, writable=-size >> 32 & 0xFFFF_FFFF)
        if size == 1 << 32 or (wide and size > 1 << 31):
            self.define(FIRST_BAR + 4 * index, 4, flags)  # all bits of the low half are below the size
        self._bars.append(_Bar(index, device, size, io, wide))

    def add_capability(self, kind: int, content: bytes, *, writable: bytes = b"") -> int:
        """Append a capability to the list, and return its offset in the configuration space.

        Parameters
        ----------
        kind : int
            Its ID: 9 for one of the vendor's.
        content : bytes
            What follows ID and pointer.
        writable : bytes
            A mask of the bits of `content` that the guest can write.

        Raises
        ------
        ValueError
            It does not fit into the configuration space.
        """
        offset = self._capabilities_end
        end = offset + 2 + len(content)
        if end > CONFIG_SIZE:
            raise ValueError(f"a capability of {len(content)} bytes at {offset:#x} leaves the configuration space")
        self.define(offset, 2 + len(content), int.from_bytes(bytes([kind, 0]) + content, "little"),
                    writable=int.from_bytes(b"\0\0" + writable, "little"))  # fmt: skip
        self.config[self._last_capability] = offset
        self.config[COMMAND + 2] |= STATUS_CAPABILITIES
        self._last_capability, self._capabilities_end = offset + 1, end + 3 & ~3
        return offset

    def written(self, offsets: range) -> None:
        """Move what the guest has moved. A subclass that overrides this calls it."""
        if offsets.start < FIRST_BAR + 4 * BAR_COUNT and offsets.stop > COMMAND:
            self._move()

    def _move(self) -> None:
        with self._lock:
            changed = [(bar, place) for bar in self._bars if (place := self._place_of(bar)) != bar.at]
            if not changed:
                return
            try:
                self._register(changed)
            except (DeviceOverlapError, InvalidRangeError) as error:
                # Not every time: a hostile guest could fill the host's log.
                level = logging.DEBUG if self._has_warned else logging.WARNING
                self._has_warned = True
                logger.log(level, "a BAR of %r cannot be there: %s", self, error)
                for bar, place in changed:  # those that can
                    try:
                        self._register([(bar, place)])
                    except (DeviceOverlapError, InvalidRangeError):
                        self._register([(bar, None)])

    def _register(self, changed: list[tuple[_Bar, Resource | None]]) -> None:
        with self.manager.begin_tx() as transaction:
            for bar, _ in changed:
                if bar.at is not None:
                    transaction.unregister_device_io([bar.at])
            for bar, place in changed:
                if place is not None:
                    transaction.register_device_io(bar.device, [place], name=f"{self!r} BAR {bar.index}")
        for bar, place in changed:
            bar.at = place

    def _place_of(self, bar: _Bar) -> Resource | None:
        """Return where the registers say that a device is; None if its space is off."""
        if not self.config[COMMAND] & (COMMAND_IO if bar.is_io else COMMAND_MEMORY):
            return None
        base = self.load(FIRST_BAR + 4 * bar.index, 8 if bar.is_64_bit else 4)
        if bar.is_io:
            return Resource.PioAddressRange(base & 0xFFFF & ~3, bar.size)
        return Resource.MmioAddressRange(base & ~BAR_FLAGS, bar.size)

    def unplug(self) -> None:
        """Take its devices off the bus."""
        with self._lock:
            self._register([(bar, None) for bar in self._bars if bar.at is not None])

    def state_loaded(self) -> None:
        """Put the devices where the registers say."""
        self._move()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.load(0, 2):04x}:{self.load(2, 2):04x}>"


class PciEcam(AttributeState, DeviceIo):
    """The configuration space of all functions, mapped: 4 KiB for each. Its state is that of the functions.

    Parameters
    ----------
    bus : PciBus
        The functions.
    buses : int
        How many bus numbers there are: 1 MiB each.

    Attributes
    ----------
    size : int
        Bytes to register.
    """

    saved: ClassVar[Mapping[str, Saved]] = {"bus": None}

    def __init__(self, bus: PciBus, buses: int = 1) -> None:
        if not 1 <= buses <= 256:
            raise ValueError(f"there are 1 to 256 buses, not {buses}")
        self.bus = bus
        self.size = buses << BUS_SHIFT

    def _at(self, offset: int, size: int) -> PciFunction | None:
        """Return the function that has all of an access, if it is in the part that functions have."""
        location = (offset >> BUS_SHIFT, offset >> DEVICE_SHIFT & 0x1F, offset >> FUNCTION_SHIFT & 7)
        return self.bus.at(location) if offset % EXTENDED_CONFIG_SIZE + size <= CONFIG_SIZE else None

    def load(self, base: int, offset: int, size: int) -> int:
        function = self._at(offset, size)
        # All ones: no function responds, or it does not have that part of the space.
        return -1 if function is None else function.load(offset % EXTENDED_CONFIG_SIZE, size)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        function = self._at(offset, size)
        if function is not None:
            function.store(offset % EXTENDED_CONFIG_SIZE, size, value)

    def __repr__(self) -> str:
        return f"<PciEcam, {self.size >> BUS_SHIFT} buses>"
