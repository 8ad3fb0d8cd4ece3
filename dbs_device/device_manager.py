"""`DeviceManager`, which adds devices to a running machine and removes them.

The flow is the crate's. The VMM makes an `IoManager`, a `ResourceManager` and a `DeviceManager`; then, for each device:

1. the device states its constraints (`get_resource_constraints`);
2. the resource manager allocates the resources;
3. the device is assigned its resources (`assign_resources`);
4. the device manager registers it on the bus, in a transaction.

A signal handler may raise KeyboardInterrupt anywhere in this. CPython calls handlers when a Python function begins,
after a call of a C function, and when a loop starts over: no step is split from the assignment that records it, and
what is undone is what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from ._bus import IoManager
from ._engine.adapters import is_memory
from ._engine.address_map import trapped_ranges
from ._engine.lock import ReentrantLock
from ._engine.transactions import Transaction
from .context import DeviceManagerContext, IoManagerContext
from .device import DeviceIo, DeviceIoMut, Mutex
from .errors import (
    DuplicateDeviceError,
    NoDeviceError,
    ResourceError,
    TransactionError,
    UnknownDeviceError,
    add_note,
    format_range,
)
from .resource_manager import ResourceManager
from .resources import DeviceResources, MemAddressRange, ResourceConstraint
from .state import MachineState, Part

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
    """The methods that a device needs, besides those of `DeviceIo`, to be managed by a `DeviceManager`.

    The device has them itself, or is a `Mutex` around a `DeviceIoMut` that has them, which are then called with the
    lock held. It need not inherit from this class.

    A third method, ``release_resources()``, is optional. It is called without arguments before the resources are freed:
    by `DeviceManager.remove_device`, or when `DeviceManager.add_device` fails after `assign_resources`. By then the
    device is no longer registered.
    """

    def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
        """Return the resources that the device asks for."""
        ...

    def assign_resources(self, resources: DeviceResources) -> None:
        """Accept the device's own copy of its resources, in the order of its constraints.

        If it raises, the device must not keep them: `release_resources` is not called.
        """
        ...


@dataclass(eq=False)
class _Entry:
    """A managed device, or one that is being added, with what has been done so far. Its resources are copies."""

    device: DeviceIo
    resources: DeviceResources = field(default_factory=DeviceResources)  # that are allocated
    must_release: bool = False  # it has been assigned them, and has release_resources()
    trapped: DeviceResources = field(default_factory=DeviceResources)  # that it is registered for


class DeviceManager(Mapping[str, DeviceIo]):
    """The devices of a virtual machine, by name.

    It is a mapping: ``manager["console"]``, ``"disk" in manager``, ``len(manager)``, iteration in the order of
    addition. A device is in it from the end of `add_device` to the beginning of `remove_device`. Iteration is over a
    snapshot.

    Any thread may call any method, from device handlers too: no lock is held when a device is called, except its own
    `Mutex`.

    Parameters
    ----------
    io_context : IoManagerContext
        Registers the devices.
    resource_manager : ResourceManager
        Allocates their resources.

    Attributes
    ----------
    io_context, resource_manager
        The parameters.

    Raises
    ------
    TypeError
        `io_context` is not an `IoManagerContext`.

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
        # Guards the two dicts; not held while anything else is called.
        self._lock = ReentrantLock()
        self._entries: dict[str, _Entry] = {}  # replaced, never changed: readers need no lock
        self._busy: dict[str, _Entry] = {}  # being added or removed

    def add_device(self, name: str, device: DeviceIo, *, shared_irq: bool = False) -> DeviceResources:
        """Allocate the resources that a device asks for, assign them, and register the device.

        The device is registered for the resources that its `get_trapped_io_resources` returns after the assignment; if
        its `get_assigned_resources` returns none, for all that were assigned.

        Parameters
        ----------
        name : str
            Its name, which must be unique.
        device : DeviceIo
            A `ManagedDevice`, or a `Mutex` around one.
        shared_irq : bool
            Whether a legacy interrupt may be the shared one; see `ResourceManager.allocate_device_resources`.

        Returns
        -------
        DeviceResources
            A copy of the assigned resources.

        Raises
        ------
        DuplicateDeviceError
            The name exists, or is being added or removed; or the device is already managed.
        TypeError
            The name is not a str, or the device is not a `DeviceIo` or not a `ManagedDevice`.
        NoAvailableResourceError
            No free resource meets a constraint.
        InvalidRangeError
            A constraint has size 0, or a range to be registered is empty or runs past the end of its space.
        DeviceOverlapError
            A range to be registered overlaps another one.
        TransactionError
            This thread has a transaction open.
        Exception
            Whatever the device, or a callback of `IoManager.on_change`, raises.

        Notes
        -----
        When a step fails, the previous steps are undone and its error is raised. Errors while undoing are added to it
        as notes.
        """
        if not isinstance(name, str):
            raise TypeError(f"a device's name must be a str, not {type(name).__name__}")
        _check_managed(device)
        entry = _Entry(device)
        try:
            self._lock.call(self._begin_adding, name, entry)
            with _inner(device) as inner:
                constraints = list(inner.get_resource_constraints())
                has_release = hasattr(inner, "release_resources")
            entry.resources = self.resource_manager.allocate_device_resources(constraints, shared_irq)
            with _inner(device) as inner:
                inner.assign_resources(DeviceResources(entry.resources))
                entry.must_release = has_release
            trapped = _trapped(device, entry.resources)
            self._register(name, device, trapped)
            entry.trapped = trapped
            result = DeviceResources(entry.resources)
            self._lock.call(self._end_busy, name, entry)
        except BaseException as failure:
            if self._entries.get(name) is not entry:
                self._undo_adding(name, entry, failure)
            raise
        return result

    def remove_device(self, name: str) -> DeviceIo:
        """Unregister a device, call its ``release_resources()`` if there is one, and free its resources.

        Accesses in progress finish, and keep the device alive. They are waited for only if the device is a `Mutex` and
        has ``release_resources()``, which is called with the lock held. A device without a `Mutex` must itself ensure
        that a running handler does not use resources that have been released.

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
            No device has that name, or it is being added or removed.
        NoDeviceError
            A range of the device is no longer registered. The device is still managed, and unchanged.
        TransactionError
            This thread has a transaction open. The device is still managed, and unchanged.
        InvalidResourceRangeError
            A resource of the device has already been freed. The others are freed, and the device is removed.
        Exception
            Whatever ``release_resources()`` raises. The resources are freed, and the device is removed.
        Exception
            Whatever a callback of `IoManager.on_change` raises. The device is registered again and still managed.

        Notes
        -----
        A device that has moved its own ranges (as a PCI device does when the guest writes a base address register) is
        unregistered from the ranges that its `get_trapped_io_resources` returns.
        """
        taken: list[_Entry] = []
        try:
            self._lock.call(self._begin_removing, name, taken)
            [entry] = taken
            self._unregister(name, entry)
        except BaseException:
            if taken:
                self._lock.call(self._end_busy, name, taken[0])
            raise
        try:
            if entry.must_release:
                _release(entry.device)
        finally:
            try:
                self.resource_manager.free_device_resources(entry.resources)
            except BaseException:
                self._free_each(entry.resources)
                raise
            finally:
                del self._busy[name]
        return entry.device

    def get_resources(self, name: str) -> DeviceResources:
        """Return a copy of the resources that were assigned to a device.

        Raises
        ------
        UnknownDeviceError
            No device has that name, or it is being added or removed.
        """
        return DeviceResources(self._entry(name).resources)

    # -- the state

    def save_state(self, also: Mapping[str, object] | None = None) -> MachineState:
        """Return the states of all devices, with their resources and ranges. The guest must not run.

        Parameters
        ----------
        also : mapping of str to Stateful, optional
            Other parts of the machine, by names that no device has: a clock, memory, a CPU.

        Returns
        -------
        MachineState
            By the names of the devices and of the other parts.

        Raises
        ------
        StateError
            A device or part has no state (`dbs_device.state.Stateful`). It is named.
        DuplicateDeviceError
            A part has the name of a device.
        Exception
            Whatever a device or part raises.
        """
        return MachineState._collect(self._parts(also))

    def restore_state(self, state: MachineState, also: Mapping[str, object] | None = None) -> None:
        """Load a state into all devices, or into none. The guest must not run.

        A device that moves its ranges while the guest runs does so when it loads its state.

        Parameters
        ----------
        state : MachineState
            Of a manager with the same devices: their names, types, versions and resources.
        also : mapping of str to Stateful, optional
            As of `save_state`.

        Raises
        ------
        StateError
            The devices and parts are not those of the state, or one refuses its state, or is then not at the ranges
            at which it was. Nothing is changed: what had been loaded is undone.
        DuplicateDeviceError
            A part has the name of a device.
        """
        if not isinstance(state, MachineState):
            raise TypeError(f"a manager restores a MachineState, not {type(state).__name__}")
        state._apply(self._parts(also))

    def _parts(self, also: Mapping[str, object] | None) -> dict[str, Part]:
        parts = {}
        for name, entry in self._entries.items():
            if also is not None and name in also:
                raise DuplicateDeviceError(name, entry.device)
            parts[name] = Part(entry.device, tuple(map(repr, entry.resources)), partial(_ranges_of, entry))
        return parts | {name: Part(target) for name, target in (also or {}).items()}

    # -- as a mapping

    # A manager is equal only to itself, whatever it contains.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> DeviceIo:
        return self._entry(name).device

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> ItemsView[str, DeviceIo]:
        """Return a snapshot of the (name, device) pairs, as a set-like view."""
        return {name: entry.device for name, entry in self._entries.items()}.items()

    def values(self) -> ValuesView[DeviceIo]:
        """Return a snapshot of the devices."""
        return {name: entry.device for name, entry in self._entries.items()}.values()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self._entries) or 'no devices'}>"

    # -- names

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownDeviceError(name) from None

    def _check_is_new(self, name: str, device: DeviceIo) -> None:
        for other_name, other in (self._entries | self._busy).items():
            if other_name == name or other.device is device:
                raise DuplicateDeviceError(other_name, other.device)

    def _undo_adding(self, name: str, entry: _Entry, failure: BaseException) -> None:
        """Undo the steps that an addition has made before its failure. An interrupt does not skip the next one."""
        try:
            if entry.trapped:
                _attempt(lambda: self._unregister(name, entry), failure)
        finally:
            try:
                if entry.must_release:
                    _attempt(lambda: _release(entry.device), failure)
            finally:
                try:
                    if entry.resources:
                        _attempt(lambda: self._free(entry.resources), failure)
                finally:
                    if self._busy.get(name) is entry:
                        del self._busy[name]

    # -- the bus

    def _register(self, name: str, device: DeviceIo, trapped: DeviceResources) -> None:
        self._transact(
            lambda ctx: self.io_context.register_device_io(ctx, device, trapped, name),
            undo=lambda ctx: self._unmap(ctx, device, trapped),
        )

    def _unregister(self, name: str, entry: _Entry) -> None:
        try:
            self._unregister_from(name, entry.device, entry.trapped)
        except NoDeviceError:
            # Not asked before, because a Mutex waits for a running handler.
            self._unregister_from(name, entry.device, _trapped(entry.device, entry.resources))

    def _unregister_from(self, name: str, device: DeviceIo, trapped: DeviceResources) -> None:
        self._transact(
            lambda ctx: self._unmap(ctx, device, trapped),
            undo=lambda ctx: self.io_context.register_device_io(ctx, device, trapped, name),
        )

    def _unmap(self, ctx: Any, device: DeviceIo, trapped: DeviceResources) -> None:
        if not is_memory(device) and trapped.get_mem_address_ranges():
            # The device's memory is not on the bus, but that of another device may be at the same addresses.
            trapped = DeviceResources(each for each in trapped if not isinstance(each, MemAddressRange))
        if isinstance(ctx, Transaction):
            # Unregistering goes by base and size alone. If the device has moved, another one may own the range.
            for space, base, last in trapped_ranges(trapped, is_memory(device)):
                if ctx.find(space, base) is not device:
                    raise NoDeviceError(space, base, last - base + 1, exact=True)
        self.io_context.unregister_device_io(ctx, trapped)

    def _transact(self, change: Callable[[Any], None], undo: Callable[[Any], None] | None = None) -> None:
        """Make a change in a transaction of its own, or raise without having made it."""
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
                # It is finished: the change has been made, and a callback of `on_change` has raised.
                if undo is not None:
                    _attempt(lambda: self._transact(undo), failure)
            raise

    # -- with the lock held: an interrupt comes after a call or a loop, not between two assignments

    def _begin_adding(self, name: str, entry: _Entry) -> None:
        self._check_is_new(name, entry.device)
        self._busy[name] = entry

    def _begin_removing(self, name: str, taken: list[_Entry]) -> None:
        """Take a device out of the managed ones; it is then in `taken`."""
        entry = self._entry(name)
        others = {other: each for other, each in self._entries.items() if other != name}
        self._entries, self._busy[name] = others, entry
        taken.append(entry)

    def _end_busy(self, name: str, entry: _Entry) -> None:
        """Manage a device that was being added or removed."""
        self._entries = {**self._entries, name: entry}
        del self._busy[name]

    # -- the resources

    def _free(self, resources: DeviceResources) -> None:
        try:
            self.resource_manager.free_device_resources(resources)
        except BaseException:
            self._free_each(resources)
            raise

    def _free_each(self, resources: DeviceResources) -> None:
        """Free the resources that are still allocated: one may have been freed, or the freeing of all interrupted."""
        for resource in resources:
            with suppress(ResourceError):
                self.resource_manager.free_device_resources([resource])


def _check_managed(device: DeviceIo) -> None:
    if isinstance(device, DeviceIoMut):
        name = type(device).__name__
        raise TypeError(f"{name} is a DeviceIoMut, which is not safe to call from any thread: add Mutex({name}(...))")
    if not isinstance(device, DeviceIo):
        raise TypeError(f"a device must be a DeviceIo, which {type(device).__name__} is not")
    with _inner(device) as inner:
        if not isinstance(inner, ManagedDevice):
            raise TypeError(
                f"a managed device must have get_resource_constraints() and assign_resources(), "
                f"which {type(inner).__name__} does not"
            )


@contextmanager
def _inner(device: DeviceIo) -> Iterator[Any]:
    """Yield the object with the methods of a managed device: the device, or that inside a Mutex, with its lock held."""
    if isinstance(device, Mutex) and not isinstance(device, ManagedDevice):
        with device.lock() as inner:
            yield inner
    else:
        yield device


def _release(device: DeviceIo) -> None:
    with _inner(device) as inner:
        inner.release_resources()


def _trapped(device: DeviceIo, resources: DeviceResources) -> DeviceResources:
    """Return the resources that a device, to which `resources` are assigned, is to be registered for."""
    trapped = DeviceResources(device.get_trapped_io_resources())
    return trapped if trapped or device.get_assigned_resources() else resources


def _ranges_of(entry: _Entry) -> tuple[str, ...]:
    """Return where a device says that it is to be registered now."""
    trapped = trapped_ranges(_trapped(entry.device, entry.resources), is_memory(entry.device))
    return tuple(f"{space} {format_range(base, last)}" for space, base, last in trapped)


def _attempt(step: Callable[[], None], failure: BaseException) -> None:
    """Undo a step after a failure. An exception in it is added to the failure as a note."""
    try:
        step()
    except Exception as error:
        note = f"while undoing the previous steps: {error!r}"
        add_note(failure, note, topic=note)
