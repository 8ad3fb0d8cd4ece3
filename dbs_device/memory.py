"""Memory: RAM and ROM on the bus, and DMA.

Examples
--------
>>> from dbs_device import IoManager, Resource
>>> manager = IoManager()
>>> manager.register_device_io(Ram(0x10000), [Resource.MemAddressRange(0, 0x10000)], name="ram")
>>> manager.register_device_io(Rom(b"firmware"), [Resource.MemAddressRange(0xF_0000, 8)], name="rom")
>>> print(manager)
MMIO: 2 ranges
  0x0..0xffff        64 KiB  'ram' <Ram: 64 KiB>
  0x10000..0xeffff  896 KiB  -
  0xf0000..0xf0007  8 bytes  'rom' <Rom: 8 bytes>
PIO: 0 ranges
>>> dma = GuestMemory(manager)
>>> dma.write(0x100, dma.read(0xF_0000, 8))
>>> hex(manager.mmio_load(0x100, 4))
'0x6d726966'
"""

from __future__ import annotations

from ._engine.access_rules import AccessRule, PartialDecode
from ._engine.adapters import Adapter, Alias, Mirror
from ._engine.address_map import MappedMemory
from ._engine.guest_memory import GuestMemory, memory_of
from ._engine.memory import HostMemory, Ram, Rom
from ._engine.memory_view import MemoryView
from ._engine.unimplemented import Unimplemented, UnimplementedAccess, unimplemented_report
from .device import DeviceIo  # noqa: F401  (annotations of MappedMemory)
from .errors import AccessRuleError, MemoryBoundsError, NotRamError, RomWriteError

__all__ = [
    "AccessRule",
    "AccessRuleError",
    "Adapter",
    "Alias",
    "GuestMemory",
    "HostMemory",
    "MappedMemory",
    "MemoryBoundsError",
    "MemoryView",
    "Mirror",
    "NotRamError",
    "PartialDecode",
    "Ram",
    "Rom",
    "RomWriteError",
    "Unimplemented",
    "UnimplementedAccess",
    "memory_of",
    "unimplemented_report",
]
