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
from .address import IoAddress, IoSize, PioAddress, PioSize, Space
from .device import DeviceIo, DeviceIoMut, Mutex
from .device_manager import DeviceManager, DeviceManagerContext, IoManagerContext, ManagedDevice
from .errors import (
    DeviceModelError,
    DeviceOverlapError,
    DuplicateDeviceError,
    GuestMemoryError,
    InvalidRangeError,
    InvalidResourceRangeError,
    NoAvailableResourceError,
    NoDeviceError,
    ResourceError,
    TransactionError,
    UnknownDeviceError,
)
from .resource_manager import ResourceManager
from .resources import (
    DeviceResources,
    GenericIrqConstraint,
    KvmMemSlot,
    KvmMemSlotConstraint,
    LegacyIrq,
    LegacyIrqConstraint,
    MacAddress,
    MemAddressConstraint,
    MemAddressRange,
    MmioAddressConstraint,
    MmioAddressRange,
    MsiIrq,
    MsiIrqType,
    PciMsiIrqConstraint,
    PciMsixIrqConstraint,
    PioAddressConstraint,
    PioAddressRange,
    Resource,
    ResourceConstraint,
)

__all__ = [
    "ABI_VERSION",
    "Bus",
    "CallbackHandle",
    "DeviceIo",
    "DeviceIoMut",
    "DeviceManager",
    "DeviceManagerContext",
    "DeviceModelError",
    "DeviceOverlapError",
    "DeviceResources",
    "DuplicateDeviceError",
    "GenericIrqConstraint",
    "GuestMemoryError",
    "InvalidRangeError",
    "InvalidResourceRangeError",
    "IoAddress",
    "IoManager",
    "IoManagerContext",
    "IoSize",
    "IoTables",
    "KvmMemSlot",
    "KvmMemSlotConstraint",
    "LegacyIrq",
    "LegacyIrqConstraint",
    "MacAddress",
    "ManagedDevice",
    "MappedRange",
    "MemAddressConstraint",
    "MemAddressRange",
    "MmioAddressConstraint",
    "MmioAddressRange",
    "MsiIrq",
    "MsiIrqType",
    "Mutex",
    "NativeDevice",
    "NoAvailableResourceError",
    "NoDeviceError",
    "PciMsiIrqConstraint",
    "PciMsixIrqConstraint",
    "PioAddress",
    "PioAddressConstraint",
    "PioAddressRange",
    "PioSize",
    "Resource",
    "ResourceConstraint",
    "ResourceError",
    "ResourceManager",
    "Space",
    "Transaction",
    "TransactionError",
    "UnknownDeviceError",
    "__version__",
    "callback_addresses",
    "get_include",
]
