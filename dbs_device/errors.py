"""The exceptions that the package raises itself.

Their attributes are the constructor's parameters (integers, and the devices concerned), so that a caller can act on an
exception without parsing its message. Messages print addresses and ranges in hex, sizes and counts in decimal; ranges
are inclusive.
"""

from __future__ import annotations

from contextlib import suppress

from .address import Space

__all__ = [
    "DeviceModelError",
    "DeviceOverlapError",
    "DuplicateDeviceError",
    "GuestMemoryError",
    "InvalidRangeError",
    "InvalidResourceRangeError",
    "NoAvailableResourceError",
    "NoDeviceError",
    "ResourceError",
    "TransactionError",
    "UnknownDeviceError",
]


def format_range(base: int, last: int) -> str:
    """Return an inclusive range as messages print it.

    >>> format_range(0x3f8, 0x3ff)
    '0x3f8..0x3ff'
    """
    return f"{base:#x}..{last:#x}"


def format_count(count: int, unit: str) -> str:
    """Return a count with its unit, in the plural if needed.

    >>> format_count(1, "byte"), format_count(4, "byte")
    ('1 byte', '4 bytes')
    """
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def describe_device(device: object) -> str:
    """Return `repr(device)`, or the name of its type if the repr raises.

    A message must also come out for a half-built device, whose repr tends to raise.
    """
    try:
        return repr(device)
    except Exception:
        return f"<{type(device).__name__}>"


def add_note(error: BaseException, note: str, topic: str) -> None:
    """Add a note to an exception, in place of an earlier one that contains `topic`.

    A device may raise one exception again and again, whose notes must not pile up, or one that refuses attributes,
    which must come out unchanged.
    """
    with suppress(Exception):
        notes: list[str] = getattr(error, "__notes__", [])
        if any(topic in each for each in notes):
            error.__notes__ = [each for each in notes if topic not in each]
        error.add_note(note)


class DeviceModelError(Exception):
    """Base class of the package's exceptions."""


class NoDeviceError(DeviceModelError, LookupError):
    """No device owns an address, or no registered range has a given base and size.

    Parameters
    ----------
    space : Space
        The I/O space.
    address : int
        First address (or port) of the access or the range.
    size : int, optional
        Its bytes (or ports); None for the look-up of an address.
    owner : tuple of (int, int, object), optional
        (base, last, device) of a registered range: the one in which the access starts and beyond which it ends or, if
        `exact`, one that overlaps the range.
    exact : bool
        Whether a range was to be unregistered, which takes its exact base and size.

    Attributes
    ----------
    space, address, size, owner, exact
        The parameters.
    """

    def __init__(
        self,
        space: Space,
        address: int,
        size: int | None = None,
        owner: tuple[int, int, object] | None = None,
        exact: bool = False,
    ) -> None:
        self.space = space
        super().__init__(space, address, size, owner, exact)
        self.address = address
        self.size = size
        self.owner = owner
        self.exact = exact

    def __str__(self) -> str:
        owned = ""
        if self.owner is not None:
            base, last, device = self.owner
            owned = f"{format_range(base, last)} of {describe_device(device)}"
        if self.exact and self.size is not None:
            asked = format_range(self.address, self.address + self.size - 1)
            return f"no {self.space} range {asked} is registered" + (f"; {owned} is" if owned else "")
        address = f"{self.space} address {self.address:#x}"
        if self.size is None:
            return f"no device owns {address}"
        access = f"{address} ({format_count(self.size, 'byte')})"
        return f"the access to {access} runs past the end of range {owned}" if owned else f"no device owns {access}"


class DeviceOverlapError(DeviceModelError, ValueError):
    """A range overlaps one that is registered in the same space, or another range of the same call.

    Parameters
    ----------
    space : Space
        The I/O space.
    base, last : int
        The rejected range, inclusive.
    device : object
        The device to be registered.
    other_base, other_last : int
        The range that it overlaps, inclusive.
    other_device : object
        The device that owns that range.

    Attributes
    ----------
    space, base, last, device, other_base, other_last, other_device
        The parameters.
    """

    def __init__(
        self,
        space: Space,
        base: int,
        last: int,
        device: object,
        other_base: int,
        other_last: int,
        other_device: object,
    ) -> None:
        self.space = space
        super().__init__(space, base, last, device, other_base, other_last, other_device)
        self.base = base
        self.last = last
        self.device = device
        self.other_base = other_base
        self.other_last = other_last
        self.other_device = other_device

    def __str__(self) -> str:
        return (
            f"{self.space} range {format_range(self.base, self.last)} of {describe_device(self.device)} overlaps "
            f"{format_range(self.other_base, self.other_last)} of {describe_device(self.other_device)}"
        )


class InvalidRangeError(DeviceModelError, ValueError):
    """A range is empty or outside its space, or a number does not fit its field."""


class GuestMemoryError(DeviceModelError, ValueError):
    """A page that a range needs is already mapped in the guest, as RAM or by other code.

    Parameters
    ----------
    base, last : int
        The range, inclusive.
    device : object
        Its device.
    page, page_last : int
        First and last address of the guest's region that contains the page.

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
            f"{format_range(self.page, self.page_last)}, which the guest has already mapped"
        )


class TransactionError(DeviceModelError):
    """A transaction is finished, belongs to another thread or manager, or is already open on this thread."""


class DuplicateDeviceError(DeviceModelError, ValueError):
    """A name is taken, or a device is already managed.

    Parameters
    ----------
    name : str
        The name.
    device : object
        The device of that name.

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
    """No device has the given name.

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
    """Base class of the exceptions of `ResourceManager`."""


class NoAvailableResourceError(ResourceError):
    """No free resource meets a constraint.

    Parameters
    ----------
    constraint : object
        The constraint.
    free : str
        The free resources of that kind, as the message prints them.
    reason : str, optional
        Why the constraint cannot be met; by default, the message says what is free.

    Attributes
    ----------
    constraint, free, reason
        The parameters.
    """

    def __init__(self, constraint: object, free: str, reason: str | None = None) -> None:
        super().__init__(constraint, free, reason)
        self.constraint = constraint
        self.free = free
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot allocate {self.constraint!r}" + (f": {self.reason}" if self.reason else f"; free: {self.free}")


class InvalidResourceRangeError(ResourceError):
    """A resource to be freed is not allocated with exactly that base and size.

    Parameters
    ----------
    resource : object
        The resource.
    reason : str
        Why it cannot be freed.

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
