"""Every exception that the package raises on its own account.

Exceptions keep what they were made from as attributes (plain integers and the devices concerned), so that a caller can
act on them without parsing the message. Addresses, sizes and ranges are printed in hex; ranges are inclusive.
"""

from __future__ import annotations

__all__ = [
    "DeviceModelError",
    "DeviceOverlapError",
    "DuplicateDeviceError",
    "GuestMemoryError",
    "InvalidRangeError",
    "InvalidResourceRangeError",
    "LayoutError",
    "NoAvailableResourceError",
    "NoDeviceError",
    "RegisterAccessError",
    "ResourceError",
    "StateError",
    "TransactionError",
    "UnknownDeviceError",
]


def format_range(base: int, last: int) -> str:
    """Return an inclusive range as the messages print it.

    >>> format_range(0x3f8, 0x3ff)
    '0x3f8..0x3ff'
    """
    return f"{base:#x}..{last:#x}"


def format_count(count: int, unit: str) -> str:
    """Return a count with its unit, in the plural where that is due.

    >>> format_count(1, "byte"), format_count(4, "byte")
    ('1 byte', '4 bytes')
    """
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def describe_device(device: object) -> str:
    """Return `repr(device)`, or the name of its type where that repr itself fails.

    A message about a device must come out even when the device is half built, which is when its repr tends to raise.
    """
    try:
        return repr(device)
    except Exception:
        return f"<{type(device).__name__}>"


class DeviceModelError(Exception):
    """Base class of every exception of the package."""


class NoDeviceError(DeviceModelError, LookupError):
    """No device owns an address, or none is registered at exactly a given range.

    Parameters
    ----------
    bus : str
        "MMIO" or "PIO".
    address : int
        First address (or port) of the access or of the range.
    size : int, optional
        Bytes (or ports) of it; None for a bare look-up.
    owner : tuple of (int, int, object), optional
        (base, last, device) of the range that the access starts in and then leaves.
    exact : bool
        Whether a range of just that base and size was sought, to be unregistered, and not the owner of an access.

    Attributes
    ----------
    bus, address, size, owner, exact
        The parameters.
    """

    def __init__(
        self,
        bus: str,
        address: int,
        size: int | None = None,
        owner: tuple[int, int, object] | None = None,
        exact: bool = False,
    ) -> None:
        super().__init__(bus, address, size, owner, exact)
        self.bus = bus
        self.address = address
        self.size = size
        self.owner = owner
        self.exact = exact

    def __str__(self) -> str:
        if self.exact and self.size is not None:
            return f"no {self.bus} range {format_range(self.address, self.address + self.size - 1)} is registered"
        if self.size is None:
            return f"no device owns {self.bus} address {self.address:#x}"
        access = f"{self.bus} address {self.address:#x} ({format_count(self.size, 'byte')})"
        if self.owner is None:
            return f"no device owns {access}"
        base, last, device = self.owner
        return (
            f"the access to {access} runs past the end of range {format_range(base, last)} of {describe_device(device)}"
        )


class DeviceOverlapError(DeviceModelError, ValueError):
    """A range overlaps one that is registered on the same bus, or another one of the same call.

    Parameters
    ----------
    bus : str
        "MMIO" or "PIO".
    base, last : int
        The range that was refused, inclusive.
    device : object
        The device that it was meant for.
    other_base, other_last : int
        The range in the way, inclusive.
    other_device : object
        The device that owns the range in the way.

    Attributes
    ----------
    bus, base, last, device, other_base, other_last, other_device
        The parameters.
    """

    def __init__(
        self,
        bus: str,
        base: int,
        last: int,
        device: object,
        other_base: int,
        other_last: int,
        other_device: object,
    ) -> None:
        super().__init__(bus, base, last, device, other_base, other_last, other_device)
        self.bus = bus
        self.base = base
        self.last = last
        self.device = device
        self.other_base = other_base
        self.other_last = other_last
        self.other_device = other_device

    def __str__(self) -> str:
        return (
            f"{self.bus} range {format_range(self.base, self.last)} of {describe_device(self.device)} overlaps "
            f"{format_range(self.other_base, self.other_last)} of {describe_device(self.other_device)}"
        )


class InvalidRangeError(DeviceModelError, ValueError):
    """A range, or a number that describes one, is empty or lies outside its space."""


class GuestMemoryError(DeviceModelError, ValueError):
    """A page that a range needs is mapped in the guest already, as RAM or by somebody else.

    Parameters
    ----------
    base, last : int
        The range, inclusive.
    device : object
        Its device.
    page, page_last : int
        First and last address of the guest's own region, of which the range needs a page.

    Attributes
    ----------
    base, last, device, page, page_last
        The parameters.
    """

    def __init__(self, base: int, last: int, device: object, page: int, page_last: int) -> None:
        super().__init__(base, last, device, page, page_last)
        self.base = base
        self.last = last
        self.device = device
        self.page = page
        self.page_last = page_last

    def __str__(self) -> str:
        return (
            f"MMIO range {format_range(self.base, self.last)} of {describe_device(self.device)} needs a page of "
            f"{format_range(self.page, self.page_last)}, which the guest has mapped already"
        )


class TransactionError(DeviceModelError):
    """A transaction is finished, belongs to another thread, or is open where none may be."""


class DuplicateDeviceError(DeviceModelError, ValueError):
    """A name is taken, or a device is managed already.

    Parameters
    ----------
    name : str
        The name in question.
    device : object
        The device that has it.

    Attributes
    ----------
    name, device
        The parameters.
    """

    def __init__(self, name: str, device: object) -> None:
        super().__init__(name, device)
        self.name = name
        self.device = device

    def __str__(self) -> str:
        return f"the name {self.name!r} belongs to {describe_device(self.device)}"


class UnknownDeviceError(DeviceModelError, KeyError):
    """No device has a name.

    Parameters
    ----------
    name : str
        The name.

    Attributes
    ----------
    name
        The parameter.
    """

    def __init__(self, name: object) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no device is named {self.name!r}"


class ResourceError(DeviceModelError):
    """Base class of what `ResourceManager` raises."""


class NoAvailableResourceError(ResourceError):
    """A resource constraint cannot be met by what is free.

    Parameters
    ----------
    constraint : object
        What was asked for.
    free : str
        What is free of that kind, as the message prints it.

    Attributes
    ----------
    constraint, free
        The parameters.
    """

    def __init__(self, constraint: object, free: str) -> None:
        super().__init__(constraint, free)
        self.constraint = constraint
        self.free = free

    def __str__(self) -> str:
        return f"cannot allocate {self.constraint!r}: free is {self.free}"


class InvalidResourceRangeError(ResourceError):
    """A resource to be freed is not allocated, or not exactly as named.

    Parameters
    ----------
    resource : object
        What was to be freed.
    reason : str
        Why it cannot be.

    Attributes
    ----------
    resource, reason
        The parameters.
    """

    def __init__(self, resource: object, reason: str) -> None:
        super().__init__(resource, reason)
        self.resource = resource
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot free {self.resource!r}: {self.reason}"


class LayoutError(DeviceModelError, ValueError):
    """A register bank is declared in a way that does not fit together."""


class RegisterAccessError(DeviceModelError, LookupError):
    """A bank refuses an access: in a gap of a bank with ``gap="raise"``, or of a size that a register does not have.

    Parameters
    ----------
    device : object
        The bank.
    offset : int
        First byte of the part of the access that is refused.
    size : int
        Bytes of it.
    write : bool
        Whether it is a write.
    register : str, optional
        The register that is not accessed in this size; None in a gap.

    Attributes
    ----------
    device, offset, size, write, register
        The parameters.
    """

    def __init__(self, device: object, offset: int, size: int, write: bool, register: str | None = None) -> None:
        super().__init__(device, offset, size, write, register)
        self.device = device
        self.offset = offset
        self.size = size
        self.write = write
        self.register = register

    def __str__(self) -> str:
        verb = "write" if self.write else "read"
        access = f"a {verb} of {format_count(self.size, 'byte')} at {self.offset:#x} of {describe_device(self.device)}"
        if self.register is None:
            return f"{access} reaches no register"
        return f"{access} has a size or alignment that {self.register} does not allow"


class StateError(DeviceModelError, ValueError):
    """A saved state does not belong to the device that is to load it."""
