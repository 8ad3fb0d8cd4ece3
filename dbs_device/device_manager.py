"""From a device that states its needs to one that answers the guest, and back: transactions and `DeviceManager`.

The flow is the crate's. The VMM makes an `IoManager`, a `ResourceManager` and a `DeviceManager`; then for each device:

1. the device states its constraints (`get_resource_constraints`);
2. the resource manager allocates what they ask for;
3. the device is given its resources (`assign_resources`);
4. the device manager registers it on the bus, in a transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ._bus import IoManager
from ._engine.context import DeviceManagerContext, IoManagerContext
from ._engine.transactions import Transaction
from .device import DeviceIo, DeviceIoMut, Mutex
from .errors import (
    DuplicateDeviceError,
    NoDeviceError,
    ResourceError,
    TransactionError,
    UnknownDeviceError,
)
from .resource_manager import ResourceManager
from .resources import DeviceResources, ResourceConstraint

__all__ = [
    "DeviceManager",
    "DeviceManagerContext",
    "DuplicateDeviceError",
    "IoManager",
    "IoManagerContext",
    "ManagedDevice",
    "UnknownDeviceError",
]


@runtime_checkable
class ManagedDevice(Protocol):
    """What a device that a `DeviceManager` manages has besides the methods of `DeviceIo`.

    A device has them itself, or is a `Mutex` around a `DeviceIoMut` that has them; these are then called with the lock
    held. It need not inherit from this class.

    A device may have a third method, ``release_resources()``: it is called, without arguments, when its resources are
    about to be taken away again: by `DeviceManager.remove_device`, or when `DeviceManager.add_device` fails after
    `assign_resources`. By then the bus no longer leads to the device.
    """

    def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
        """Return what the device asks for."""
        ...

    def assign_resources(self, resources: DeviceResources) -> None:
        """Take note of what the device is given, in the order of its constraints; it is the device's own copy.

        A device that raises here keeps nothing: `release_resources` is not called.
        """
        ...


@dataclass(frozen=True)
class _Entry:
    """A managed device; copies of its resources, since those that the device has are the device's to change."""

    device: DeviceIo
    resources: DeviceResources
    trapped: DeviceResources
    is_told: bool  # has release_resources()


class DeviceManager(Mapping[str, DeviceIo]):
    """The devices of a virtual machine, by name.

    It is a mapping: ``manager["console"]``, ``"disk" in manager``, ``len(manager)``, iteration in the order of
    addition. A device is in it from the end of `add_device` to the beginning of `remove_device`. What is iterated over
    is what was there at the beginning, whatever comes and goes meanwhile.

    Any thread may call any method, device handlers included. Devices are called without any lock held but their own
    `Mutex`: not the manager's, and not that of a transaction. A device may therefore add and remove devices from its
    handlers.

    Parameters
    ----------
    io_context : IoManagerContext
        Where devices are registered.
    resource_manager : ResourceManager
        Where their resources come from.

    Attributes
    ----------
    io_context, resource_manager
        The parameters.

    Examples
    --------
    >>> from dbs_device import DeviceIo, ResourceConstraint
    >>> class Led(DeviceIo):
    ...     def get_resource_constraints(self):
    ...         return [ResourceConstraint.new_mmio(4)]
    ...     def assign_resources(self, resources):
    ...         self.resources = resources
    ...     def get_assigned_resources(self):
    ...         return self.resources
    ...     def write(self, base, offset, data):
    ...         print("on" if data[0] else "off")
    >>> bus = IoManager()
    >>> devices = DeviceManager(DeviceManagerContext(bus), ResourceManager())
    >>> [(base, size)] = devices.add_device("led", Led()).get_mmio_address_ranges()
    >>> bus.mmio_store(base, 1, 1)
    on
    >>> _ = devices.remove_device("led")
    >>> len(devices), len(bus.mmio_bus)
    (0, 0)
    """

    def __init__(self, io_context: IoManagerContext, resource_manager: ResourceManager) -> None:
        if not isinstance(io_context, IoManagerContext):
            raise TypeError(
                f"DeviceManager takes an IoManagerContext, such as DeviceManagerContext(io_manager), "
                f"not {type(io_context).__name__}"
            )
        self.io_context = io_context
        self.resource_manager = resource_manager
        # Held for the few lines that change the two, never while anything else is called.
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}  # replaced, not changed, so that readers need no lock
        self._busy: dict[str, DeviceIo] = {}  # being added or removed: the names are taken, the devices are not there

    def add_device(self, name: str, device: DeviceIo, *, shared_irq: bool = False) -> DeviceResources:
        """Allocate what a device asks for, give it to the device, and register it.

        The device is registered for what its `get_trapped_io_resources` returns once it has its resources; one that
        keeps no record of them (`get_assigned_resources` is empty) for all that it was given.

        Parameters
        ----------
        name : str
            Its name, which no other device has.
        device : DeviceIo
            A `ManagedDevice`, or a `Mutex` around one.
        shared_irq : bool
            Whether it may share an interrupt; see `ResourceManager.allocate_device_resources`.

        Returns
        -------
        DeviceResources
            What the device was given.

        Raises
        ------
        DuplicateDeviceError
            A device of that name exists, or is just being added or removed; or the device is managed already.
        TypeError
            The device is no `DeviceIo`, or no `ManagedDevice`.
        NoAvailableResourceError, InvalidRangeError
            From the resource manager.
        DeviceOverlapError, TransactionError
            From the bus: a range is taken, or this thread has a transaction open.
        Exception
            Whatever the device raises.

        Notes
        -----
        Whichever step fails, those before it are undone and the error of that step comes out. Errors on the way back
        are added to it as notes.
        """
        if not isinstance(name, str):
            raise TypeError(f"a device's name is a str, not {type(name).__name__}")
        _check_managed(device)
        self._begin_adding(name, device)
        undo: list[Callable[[], None]] = [lambda: self._end(name)]
        try:
            with _inner(device) as inner:
                constraints = list(inner.get_resource_constraints())
                is_told = hasattr(inner, "release_resources")
            resources = self.resource_manager.allocate_device_resources(constraints, shared_irq)
            undo.append(lambda: self._free(resources))
            with _inner(device) as inner:
                inner.assign_resources(DeviceResources(resources))
            if is_told:
                undo.append(lambda: _release(device))
            trapped = _trapped(device, resources)
            self._register(device, trapped)
        except BaseException as failure:
            for step in reversed(undo):
                _attempt(step, failure)
            raise
        self._end(name, _Entry(device, resources, trapped, is_told))
        return DeviceResources(resources)

    def remove_device(self, name: str) -> DeviceIo:
        """Unregister a device, tell it, and free its resources, in that order.

        Accesses that are under way in the device finish, and keep it alive. They are waited for only where the device
        is to be told (it has ``release_resources``) and is a `Mutex`, whose lock is taken for that. A device that is
        no Mutex has to see to it itself that a handler under way makes no use of resources that it has given back.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        DeviceIo
            The device, which may be added again.

        Raises
        ------
        UnknownDeviceError
            There is no device of that name, or it is just being added or removed.
        NoDeviceError, TransactionError
            From the bus: the device's ranges are no longer registered, or this thread has a transaction open. The
            device is then still there, as it was.
        InvalidResourceRangeError
            Somebody has freed resources of the device already. The rest are freed, and the device is gone.
        Exception
            Whatever the device raises when it is told. Its resources are freed then too, and the device is gone: once
            off the bus it cannot refuse to go.

        Notes
        -----
        A device that has moved its own ranges on the bus (as a PCI device does when the guest writes a base address
        register) is unregistered from where its `get_trapped_io_resources` says that it is.
        """
        entry = self._begin_removing(name)
        try:
            self._unregister(entry)
        except BaseException:
            self._end(name, entry)
            raise
        try:
            if entry.is_told:
                _release(entry.device)
        finally:
            try:
                self._free(entry.resources)
            finally:
                self._end(name)
        return entry.device

    def get_resources(self, name: str) -> DeviceResources:
        """Return a copy of what a device was given; `UnknownDeviceError` if there is none of that name."""
        return DeviceResources(self._entry(name).resources)

    # -- as a mapping

    # Two managers are never the same, whatever they hold.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> DeviceIo:
        return self._entry(name).device

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> ItemsView[str, DeviceIo]:
        """Return the (name, device) pairs of this moment, as a set-like view."""
        return {name: entry.device for name, entry in self._entries.items()}.items()

    def values(self) -> ValuesView[DeviceIo]:
        """Return the devices of this moment."""
        return {name: entry.device for name, entry in self._entries.items()}.values()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self._entries) or 'no devices'}>"

    # -- names

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownDeviceError(name) from None

    def _begin_adding(self, name: str, device: DeviceIo) -> None:
        with self._lock:
            taken = {other: entry.device for other, entry in self._entries.items()} | self._busy
            for other_name, other_device in taken.items():
                if other_name == name or other_device is device:
                    raise DuplicateDeviceError(other_name, other_device)
            self._busy[name] = device

    def _begin_removing(self, name: str) -> _Entry:
        with self._lock:
            entry = self._entry(name)
            self._entries = {other: kept for other, kept in self._entries.items() if other != name}
            self._busy[name] = entry.device
            return entry

    def _end(self, name: str, entry: _Entry | None = None) -> None:
        """End an addition or removal, with the device there (`entry`) or not."""
        with self._lock:
            del self._busy[name]
            if entry is not None:
                self._entries = {**self._entries, name: entry}

    # -- the bus

    def _register(self, device: DeviceIo, trapped: DeviceResources) -> None:
        self._transact(
            lambda ctx: self.io_context.register_device_io(ctx, device, trapped),
            undo=lambda ctx: self._take_off(ctx, device, trapped),
        )

    def _unregister(self, entry: _Entry) -> None:
        try:
            self._unregister_from(entry.device, entry.trapped)
        except NoDeviceError:
            # Asked only now: in a Mutex the question waits for a handler under way.
            self._unregister_from(entry.device, _trapped(entry.device, entry.resources))

    def _unregister_from(self, device: DeviceIo, trapped: DeviceResources) -> None:
        self._transact(
            lambda ctx: self._take_off(ctx, device, trapped),
            undo=lambda ctx: self.io_context.register_device_io(ctx, device, trapped),
        )

    def _take_off(self, ctx: Any, device: DeviceIo, trapped: DeviceResources) -> None:
        if isinstance(ctx, Transaction):
            # Ranges are unregistered by their numbers alone. Where the device has moved away, another may have come.
            for base, size in trapped.get_pio_address_ranges():
                _check_owner("PIO", base, size, ctx.find("PIO", base), device)
            for base, size in trapped.get_mmio_address_ranges():
                _check_owner("MMIO", base, size, ctx.find("MMIO", base), device)
        self.io_context.unregister_device_io(ctx, trapped)

    def _transact(self, change: Callable[[Any], None], undo: Callable[[Any], None] | None = None) -> None:
        """Make a change in a transaction of its own. If this raises, the change is not made."""
        ctx = self.io_context.begin_tx()
        try:
            change(ctx)
        except BaseException as failure:
            _attempt(lambda: self.io_context.cancel_tx(ctx), failure)
            raise
        try:
            self.io_context.commit_tx(ctx)
        except BaseException as failure:
            try:
                self.io_context.cancel_tx(ctx)
            except TransactionError:
                # It is finished: the change stands, and somebody who was told of it (`on_change`) has raised.
                if undo is not None:
                    _attempt(lambda: self._transact(undo), failure)
            raise

    # -- the resources

    def _free(self, resources: DeviceResources) -> None:
        try:
            self.resource_manager.free_device_resources(resources)
        except ResourceError:
            # Somebody has freed one of them. Those that are left must not leak.
            for resource in resources:
                with suppress(ResourceError):
                    self.resource_manager.free_device_resources([resource])
            raise


def _check_managed(device: DeviceIo) -> None:
    if isinstance(device, DeviceIoMut):
        name = type(device).__name__
        raise TypeError(f"{name} is a DeviceIoMut, which is not safe to call from any thread: add Mutex({name}(...))")
    if not isinstance(device, DeviceIo):
        raise TypeError(f"a device must be a DeviceIo, which {type(device).__name__} is not")
    with _inner(device) as inner:
        if not isinstance(inner, ManagedDevice):
            raise TypeError(
                f"a managed device has get_resource_constraints() and assign_resources(), "
                f"which {type(inner).__name__} has not"
            )


@contextmanager
def _inner(device: DeviceIo) -> Iterator[Any]:
    """Yield what has the methods of a managed device: the device, or with its lock held what a Mutex protects."""
    if isinstance(device, Mutex) and not isinstance(device, ManagedDevice):
        with device.lock() as inner:
            yield inner
    else:
        yield device


def _check_owner(bus: str, base: int, size: int, owner: DeviceIo | None, device: DeviceIo) -> None:
    if owner is not device:
        raise NoDeviceError(bus, base, size, exact=True)


def _release(device: DeviceIo) -> None:
    with _inner(device) as inner:
        inner.release_resources()


def _trapped(device: DeviceIo, resources: DeviceResources) -> DeviceResources:
    """Return what a device with these resources is to be registered for."""
    trapped = DeviceResources(device.get_trapped_io_resources())
    return trapped if trapped or device.get_assigned_resources() else resources


def _attempt(step: Callable[[], None], failure: BaseException) -> None:
    """Take a step back after a failure, which must come out whatever happens on the way."""
    try:
        step()
    except Exception as error:
        failure.add_note(f"and while undoing what was done before: {error!r}")
