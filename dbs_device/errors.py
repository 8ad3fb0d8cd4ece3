"""The exceptions that the package raises itself.

Their attributes are the constructor's parameters (integers, and the devices concerned), so that a caller can act on an
exception without parsing its message. Messages print addresses and ranges in hex, sizes and counts in decimal; ranges
are inclusive.
"""

from __future__ import annotations

from contextlib import suppress

from .address import Space

__all__ = [
    "AccessRuleError",
    "DeviceModelError",
    "DeviceOverlapError",
    "DuplicateDeviceError",
    "GuestMemoryError",
    "InvalidRangeError",
    "InvalidResourceRangeError",
    "LayoutError",
    "MemoryBoundsError",
    "NoAvailableResourceError",
    "NoDeviceError",
    "NotRamError",
    "RegisterAccessError",
    "ResourceError",
    "RomWriteError",
    "StateError",
    "TransactionError",
    "UnhandledSpaceWarning",
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


def describe_device(device: object, name: str | None = None) -> str:
    """Return `repr(device)`, or the name of its type if that fails, after the name that it is registered under.

    A message about a device must come out even when the device is half built, which is when its repr tends to raise.
    """
    try:
        description = repr(device)
    except Exception:
        description = f"<{type(device).__name__}>"
    return description if name is None else f"{name!r} {description}"


_ACCESS_NOTE = "device access: "


def add_access_note(
    error: BaseException, device: str, space: Space, base: int, address: int, size: int, is_write: bool
) -> None:
    """Add the access in which a device raised to the notes of its exception, unless they name one already.

    An exception that a device raises time and again, or that comes out of an access within an access, has one note.
    """
    if any(isinstance(note, str) and note.startswith(_ACCESS_NOTE) for note in getattr(error, "__notes__", ())):
        return
    error.add_note(
        f"{_ACCESS_NOTE}{space} {'write' if is_write else 'read'} of {format_count(size, 'byte')} at {address:#x}, "
        f"offset {address - base:#x} of {device}"
    )


def missing_exception(device: object) -> SystemError:
    """Return the error of a native device that has returned -1 without setting an exception."""
    return SystemError(f"{describe_device(device)} returned -1 without setting an exception")


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


def add_progress(error: BaseException, done: int, count: int) -> None:
    """Add to the exception of one of many accesses how many were made before it: `accesses_done`, and a note."""
    topic = "accesses were done before this one"
    add_note(error, f"{done} of {count} {topic}", topic)
    with suppress(Exception):  # the exception may refuse attributes
        error.accesses_done = done  # type: ignore[attr-defined]


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
    owner_name : str, optional
        The name that the owner is registered under.

    Attributes
    ----------
    space, address, size, owner, exact, owner_name
        The parameters.
    """

    owner_name: str | None = None

    def __init__(
        self,
        space: Space,
        address: int,
        size: int | None = None,
        owner: tuple[int, int, object] | None = None,
        exact: bool = False,
        owner_name: str | None = None,
    ) -> None:
        super().__init__(space, address, size, owner, exact, owner_name)
        self.space = space
        self.address = address
        self.size = size
        self.owner = owner
        self.exact = exact
        if owner_name is not None:  # a sixth attribute makes CPython allocate a larger dict
            self.owner_name = owner_name

    def __str__(self) -> str:
        owned = ""
        if self.owner is not None:
            base, last, device = self.owner
            owned = f"{format_range(base, last)} of {describe_device(device, self.owner_name)}"
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
    name, other_name : str, optional
        The names of the two.

    Attributes
    ----------
    space, base, last, device, other_base, other_last, other_device, name, other_name
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
        name: str | None = None,
        other_name: str | None = None,
    ) -> None:
        super().__init__(space, base, last, device, other_base, other_last, other_device, name, other_name)
        self.space = space
        self.base = base
        self.last = last
        self.device = device
        self.other_base = other_base
        self.other_last = other_last
        self.other_device = other_device
        self.name = name
        self.other_name = other_name

    def __str__(self) -> str:
        return (
            f"{self.space} range {format_range(self.base, self.last)} of {describe_device(self.device, self.name)} "
            f"overlaps {format_range(self.other_base, self.other_last)} of "
            f"{describe_device(self.other_device, self.other_name)}"
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


class UnhandledSpaceWarning(UserWarning):
    """A device is registered in a space for which its class has no handler: it will read as zero.

    Set ``unhandled = "ignore"`` on a class that is meant to be like this.
    """


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


class MemoryBoundsError(DeviceModelError, IndexError):
    """An access runs past the end of a memory.

    Parameters
    ----------
    device : object
        The memory.
    offset : int
        First byte of the access.
    size : int
        Bytes of it.
    write : bool
        Whether it is a write.

    Attributes
    ----------
    device, offset, size, write
        The parameters.
    """

    def __init__(self, device: object, offset: int, size: int, write: bool) -> None:
        super().__init__(device, offset, size, write)
        self.device = device
        self.offset = offset
        self.size = size
        self.write = write

    def __str__(self) -> str:
        verb = "write" if self.write else "read"
        access = f"a {verb} of {format_count(self.size, 'byte')} at offset {self.offset:#x}"
        return f"{access} runs past the end of {describe_device(self.device)}"


class RomWriteError(DeviceModelError):
    """The guest writes a `dbs_device.memory.Rom` that has ``on_write="raise"``.

    Parameters
    ----------
    device : object
        The memory.
    offset : int
        First byte of the write.
    size : int
        Bytes of it.

    Attributes
    ----------
    device, offset, size
        The parameters.
    """

    def __init__(self, device: object, offset: int, size: int) -> None:
        super().__init__(device, offset, size)
        self.device = device
        self.offset = offset
        self.size = size

    def __str__(self) -> str:
        write = f"a write of {format_count(self.size, 'byte')} at offset {self.offset:#x}"
        return f"{write} of {describe_device(self.device)}, which is read-only"


class NotRamError(DeviceModelError, ValueError):
    """A view of guest memory was asked for where there is not one piece of RAM.

    Parameters
    ----------
    address : int
        First byte of the view.
    size : int
        Bytes of it.
    ram_size : int
        Bytes of RAM from `address` on, in one piece.
    owner : object, optional
        The device that owns the first byte that does not belong to it; None if no device does.

    Attributes
    ----------
    address, size, ram_size, owner
        The parameters.
    """

    def __init__(self, address: int, size: int, ram_size: int, owner: object = None) -> None:
        super().__init__(address, size, ram_size, owner)
        self.address = address
        self.size = size
        self.ram_size = ram_size
        self.owner = owner

    def __str__(self) -> str:
        asked = format_range(self.address, self.address + self.size - 1)
        owner = "no device owns it" if self.owner is None else f"it belongs to {describe_device(self.owner)}"
        if self.ram_size == 0:
            return f"no view of {asked}: its first byte is not RAM; {owner}"
        return f"no view of {asked}: the RAM ends before {self.address + self.ram_size:#x}; {owner}"


class AccessRuleError(DeviceModelError, ValueError):
    """A `dbs_device.memory.AccessRule` refuses an access.

    Parameters
    ----------
    device : object
        The adapter.
    offset : int
        First byte of the access.
    size : int
        Bytes of it.
    write : bool
        Whether it is a write.
    reason : {"unaligned", "wide", "narrow"}
        The rule that refuses it.

    Attributes
    ----------
    device, offset, size, write, reason
        The parameters.
    """

    def __init__(self, device: object, offset: int, size: int, write: bool, reason: str) -> None:
        super().__init__(device, offset, size, write, reason)
        self.device = device
        self.offset = offset
        self.size = size
        self.write = write
        self.reason = reason

    def __str__(self) -> str:
        verb = "write" if self.write else "read"
        access = f"a {verb} of {format_count(self.size, 'byte')} at offset {self.offset:#x}"
        reason = self.reason if self.reason == "unaligned" else f"too {self.reason}"
        return f"{access} is {reason} for {describe_device(self.device)}"
