"""A device-model engine for emulators and virtual machine monitors: see the README, and `IoManager` to begin with."""

try:
    from ._engine.tables import IoTables  # first: `_bus` takes this type from here
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

# isort: split
from ._bus import ABI_VERSION, IoManager
from ._engine.address_map import MappedRange
from ._engine.bus_view import Bus
from ._engine.counting import AccessCounts, DeviceCounts
from ._engine.entry_points import CallbackHandle, c_api, entry_point_addresses
from ._engine.include import get_include
from ._engine.native import NativeDevice
from ._engine.transactions import Transaction
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
    UnhandledSpaceWarning,
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

__version__ = "0.1.0"

__all__ = [
    "ABI_VERSION",
    "AccessCounts",
    "Bus",
    "CallbackHandle",
    "DeviceCounts",
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
    "UnhandledSpaceWarning",
    "UnknownDeviceError",
    "__version__",
    "c_api",
    "entry_point_addresses",
    "get_include",
]
