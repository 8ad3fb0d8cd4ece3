"""A device-model engine for emulators and virtual machine monitors: see the README, and `IoManager` to begin with."""

try:
    from ._bus import ABI_VERSION, IoManager
except ModuleNotFoundError as error:
    if not (error.name or "").startswith(f"{__name__}."):
        raise
    # Python searches the current directory first: in a clone, its sources hide the package that pip installed.
    raise ImportError(
        f"{__path__[0]} is a source folder, and is not compiled for this Python: to use the installed dbs-device, run "
        "from another directory; to use this source, run `pip install -e .` or `python setup.py build_ext --inplace`",
        name=error.name,
        path=__path__[0],
    ) from None
from ._address_map import MappedRange
from ._callbacks import CallbackHandle, callback_addresses
from ._include import get_include
from ._native import NativeDevice
from ._tables import IoTables
from ._transaction import Transaction
from ._version import __version__
from ._view import Bus
from .address import IoAddress, IoSize, PioAddress, PioSize
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
    "GuestMemoryError",
    "InvalidRangeError",
    "InvalidResourceRangeError",
    "IoAddress",
    "IoManager",
    "IoManagerContext",
    "IoSize",
    "IoTables",
    "KvmMemSlot",
    "LegacyIrq",
    "MacAddress",
    "ManagedDevice",
    "MappedRange",
    "MemAddressRange",
    "MmioAddressRange",
    "MsiIrq",
    "MsiIrqType",
    "Mutex",
    "NativeDevice",
    "NoAvailableResourceError",
    "NoDeviceError",
    "PioAddress",
    "PioAddressRange",
    "PioSize",
    "Resource",
    "ResourceConstraint",
    "ResourceError",
    "ResourceManager",
    "Transaction",
    "TransactionError",
    "UnknownDeviceError",
    "__version__",
    "callback_addresses",
    "get_include",
]
