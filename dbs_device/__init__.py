"""A device-model engine for emulators and virtual machine monitors: see the README, and `IoManager` to begin with."""

from ._bus import ABI_VERSION, Bus, IoManager, Transaction
from ._native import NativeDevice
from ._tables import IoTables
from ._version import __version__
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
