"""A device-model engine for emulators and virtual machine monitors: see the README, and `IoManager` to begin with."""

from ._address_map import MappedRange
from ._bus import ABI_VERSION, IoManager
from ._callbacks import CallbackHandle, callback_addresses
from ._include import get_include
from ._native import NativeDevice
from ._tables import IoTables
from ._transaction import Transaction
from ._version import __version__
from ._view import Bus
from .address import IoAddress, IoSize, PioAddress, PioSize
from .device import DeviceIo, DeviceIoMut, Mutex
from .errors import (
    DeviceModelError,
    DeviceOverlapError,
    InvalidRangeError,
    InvalidResourceRangeError,
    NoAvailableResourceError,
    NoDeviceError,
    ResourceError,
    TransactionError,
)
from .resources import (
    DeviceResources,
    KvmMemSlot,
    LegacyIrq,
    MacAddress,
    MemAddressRange,
    MmioAddressRange,
    MsiIrq,
    MsiIrqType,
    PioAddressRange,
    Resource,
    ResourceConstraint,
)
