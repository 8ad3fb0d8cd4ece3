"""Saving and restoring the state of devices, and of whole machines.

An object has a state if it has `save_state` and `load_state` (`Stateful`): devices, clocks, register banks, memory, and
whatever else of a machine goes on where it was. `MachineState` collects the states of many, by name, and restores all
of them or none.

Examples
--------
>>> from dbs_device import DeviceIo
>>> class Counter(AttributeState, DeviceIo):
...     saved = {"count": range(256)}
...     count = 0
>>> counter = Counter()
>>> counter.count = 5
>>> state = MachineState.of({"counter": counter})
>>> counter.count = 6
>>> state.restore({"counter": counter})
>>> counter.count
5
>>> state.restore({"counter": object()})
Traceback (most recent call last):
dbs_device.errors.StateError: 'counter' is Counter (version 1) in the state, object (no state) here
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

from .device import Mutex
from .errors import StateError, add_note

__all__ = ["AttributeState", "DeviceState", "MachineState", "StateError", "Stateful"]

DEEPEST = 32  # nesting of lists and dicts in the state of a device


@runtime_checkable
class Stateful(Protocol):
    """The methods of an object that has a state. It need not inherit from this class.

    Two attributes are optional. ``version``, an int, says how the state is to be read: a state of another version is
    refused. Without it, the version is 1. ``check_state(state)`` raises `StateError` for a state that `load_state`
    would refuse, and changes nothing: a machine is not touched if one of its states does not fit.
    """

    def save_state(self) -> Mapping[str, Any]:
        """Return a copy of the state: of int, bool, None, str, bytes, lists, and dicts with str as keys."""
        ...

    def load_state(self, state: Mapping[str, Any], /) -> None:
        """Go on from a state; a `StateError` if it does not fit, and nothing is changed.

        Interrupt lines that the object drives are set to their levels at the end. A controller saves the levels of its
        inputs: setting a line to the level that it has makes no edge.
        """
        ...


@dataclass(frozen=True)
class DeviceState:
    """The state of one device, or of another part of a machine.

    Attributes
    ----------
    type : str
        The name of its class.
    version : int
        Of the state.
    state : dict
        What its `save_state` returned.
    resources, ranges : tuple of str
        Of a device of a `DeviceManager`: what is assigned to it, and where it is registered.
    """

    type: str
    version: int
    state: Mapping[str, Any]
    resources: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of a machine, whose state is saved or loaded."""

    target: object
    resources: tuple[str, ...] = ()
    ranges: Callable[[], tuple[str, ...]] = field(default=tuple)  # where it is registered at the time


class MachineState(Mapping[str, DeviceState]):
    """The states of the parts of a machine by their names: a mapping of `DeviceState`, which is not changed.

    `MachineState.of` or `DeviceManager.save_state` makes one. The guest must not run while it is made or restored.

    Parameters
    ----------
    parts : mapping of str to DeviceState
        The states.
    """

    __hash__ = None  # type: ignore[assignment]  # compared by contents

    def __init__(self, parts: Mapping[str, DeviceState]) -> None:
        self._parts = dict(parts)

    @classmethod
    def of(cls, parts: Mapping[str, object]) -> Self:
        """Return the states of the parts of a machine.

        Parameters
        ----------
        parts : mapping of str to Stateful
            By name. A `Mutex` stands for the device in it, which is called with the lock held.

        Raises
        ------
        StateError
            A part has no state, or one of other types than those of `Stateful.save_state`. It is named.
        Exception
            Whatever a part raises.
        """
        return cls._collect({name: Part(target) for name, target in parts.items()})

    @classmethod
    def _collect(cls, parts: Mapping[str, Part]) -> Self:
        """Return the states of parts, with their resources and ranges."""
        states = {}
        for name, part in parts.items():
            with _stateful(name, part) as target:
                state = _copy(target.save_state(), f"the state of {name!r}")
                if not isinstance(state, dict):
                    raise StateError(f"the state of {name!r} is a dict, not {type(state).__name__}")
                states[name] = DeviceState(
                    type(target).__qualname__, _version_of(target), state, part.resources, part.ranges()
                )
        return cls(states)

    def restore(self, parts: Mapping[str, object]) -> None:
        """Load the states into the parts of a machine: into all of them, or none.

        Parameters
        ----------
        parts : mapping of str to Stateful
            By the names of the states. A `Mutex` stands for the device in it.

        Raises
        ------
        StateError
            The names, types or versions of parts and states differ, or a part refuses its state.
            Nothing is changed: parts that had loaded their state have been given back the one before it.
        """
        self._apply({name: Part(target) for name, target in parts.items()})

    def _apply(self, parts: Mapping[str, Part]) -> None:
        """Load the states into parts, and compare resources and ranges with theirs."""
        self._check(parts)
        before = self._collect(parts)
        try:
            # Twice: a line may fall and rise while the sources that share it are loaded one by one, which a controller
            # that has been loaded takes for an edge. The second time, all lines are at their levels already.
            for name in itertools.chain(parts, parts):
                _load(name, parts[name], self._parts[name])
            for name, part in parts.items():
                if (ranges := part.ranges()) != self._parts[name].ranges:
                    raise StateError(
                        f"{name!r} is at {_listing(self._parts[name].ranges)} in the state, and at {_listing(ranges)} "
                        f"after it has loaded it"
                    )
        except BaseException as failure:
            for name in itertools.chain(parts, parts):
                try:
                    _load(name, parts[name], before[name])
                except BaseException as error:  # an interrupt must not leave the others half way
                    note = f"{name!r} does not load the state that it was in before: {error!r}"
                    add_note(failure, note, topic=note)
            raise

    def _check(self, parts: Mapping[str, Part]) -> None:
        """Raise `StateError` if the states do not fit the parts, as far as can be told without loading them."""
        missing = [name for name in self._parts if name not in parts]
        unknown = [name for name in parts if name not in self._parts]
        if missing or unknown:
            raise StateError(
                f"the state is of another machine: {_listing(map(repr, missing))} is only in the state, "
                f"{_listing(map(repr, unknown))} only in the machine"
            )
        for name, part in parts.items():
            saved = self._parts[name]
            try:
                with _stateful(name, part) as target:
                    here = _describe(type(target).__qualname__, _version_of(target))
                    check = getattr(target, "check_state", None)
                    if here == _describe(saved.type, saved.version) and check is not None:
                        _call(name, check, saved)
            except _NoStateError as error:
                here = error.what
            if here != (there := _describe(saved.type, saved.version)):
                raise StateError(f"{name!r} is {there} in the state, {here} here")
            if part.resources != saved.resources:
                raise StateError(
                    f"{name!r} has {_listing(saved.resources)} in the state, {_listing(part.resources)} here"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the states to a file: an .npz file with a JSON text, `machine.json`, and an array for each long bytes.

        Parameters
        ----------
        path : path
            The file. No suffix is added; an existing file is replaced when the new one is complete.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        parts: dict[str, Any] = {}
        for name, part in self._parts.items():
            parts[name] = {"type": part.type, "version": part.version, "state": part.state}
            if part.resources or part.ranges:
                parts[name] |= {"resources": list(part.resources), "ranges": list(part.ranges)}
        from ._engine.state_file import write_state_file  # here, as in `load`: few programs use either

        write_state_file(path, parts)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_size: int | None = None) -> Self:
        """Read states from a file that `save` has written. Nothing in it is executed or unpickled.

        Parameters
        ----------
        path : path
            The file.
        max_size : int, optional
            Bytes of its contents above which a file is refused, before they are read: a small file may hold huge ones.
            By default, 1 GiB, or 64 times the size of the file if that is more.

        Raises
        ------
        StateError
            The file is damaged, too large, or not one of machine states. The message names it.
        OSError
            The file cannot be opened.
        """
        from ._engine.state_file import read_state_file

        try:
            parts = read_state_file(path, max_size, DEEPEST)
            return cls({name: _device_state(name, part) for name, part in parts.items()})
        except ValueError as error:
            raise StateError(f"{os.fspath(path)}: {error}") from error

    def __getitem__(self, name: str) -> DeviceState:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {_listing(self._parts)}>"


class _NoStateError(StateError):
    """A part of a machine has no state. `what` says what it is."""

    def __init__(self, name: str, target: object) -> None:
        self.what = f"{type(target).__qualname__} (no state)"
        super().__init__(f"{name!r} is {self.what}: it needs save_state() and load_state()")


@contextmanager
def _stateful(name: str, part: Part) -> Iterator[Any]:
    """Yield the object that has the state of a part: itself, or the device in a Mutex, with the lock held."""
    target = part.target
    if isinstance(target, Mutex):
        with target.lock() as inner:
            if not isinstance(inner, Stateful):
                raise _NoStateError(name, inner)
            yield inner
    elif isinstance(target, Stateful):
        yield target
    else:
        raise _NoStateError(name, target)


def _version_of(target: object) -> int:
    version = getattr(target, "version", 1)
    if not isinstance(version, int):
        raise StateError(f"{type(target).__qualname__}.version is an int, the version of its state, not {version!r}")
    return version


def _describe(type_name: str, version: int) -> str:
    return f"{type_name} (version {version})"


def _listing(items: Iterable[str]) -> str:
    return ", ".join(items) or "nothing"


def _load(name: str, part: Part, saved: DeviceState) -> None:
    with _stateful(name, part) as target:
        _call(name, target.load_state, saved)


def _call(name: str, method: Callable[[Any], object], saved: DeviceState) -> None:
    """Call a method with a copy of a state, which it may keep. What it does not raise as a `StateError` becomes one."""
    try:
        method(_copy(saved.state, ""))
    except Exception as error:
        what = error if isinstance(error, StateError) else repr(error)
        raise StateError(f"{name!r}, {_describe(saved.type, saved.version)}, refuses its state: {what}") from error


def _copy(value: object, what: str, depth: int = 0) -> Any:
    """Return a deep copy of a value of a state, as the types that a file has; a `StateError` for any other type."""
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if depth == DEEPEST:
        raise StateError(f"{what} is nested more than {DEEPEST} deep")
    if isinstance(value, (list, tuple, deque)):
        return [_copy(each, f"{what}, [{index}]", depth + 1) for index, each in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise StateError(f"{what} has the key {key!r}, which is not a str")
        return {key: _copy(each, f"{what}, [{key!r}]", depth + 1) for key, each in value.items()}
    raise StateError(
        f"{what} is of type {type(value).__name__}, and a state is made of int, bool, None, str, bytes, list and dict"
    )


def _device_state(name: str, part: object) -> DeviceState:
    """Return the state of a part in a file; a `ValueError` if it is not one."""
    match part:
        case {"type": str(type_name), "version": int(version), "state": dict(state), **rest}:
            resources, ranges = (_strings(rest.pop(key, [])) for key in ("resources", "ranges"))
            if not rest and resources is not None and ranges is not None:
                return DeviceState(type_name, version, state, resources, ranges)
    raise ValueError(f"{name!r} is not the state of a device")


def _strings(value: object) -> tuple[str, ...] | None:
    """Return a list of strings as a tuple, or None for anything else."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    return None


Saved: TypeAlias = range | EllipsisType | list[Any] | tuple[None, Any] | None
"""What `AttributeState.saved` says of an attribute."""


class AttributeState:
    """A mixin for devices whose state is some of their attributes.

    `saved` names them, and says what a state may have for each:

    - None: what the attribute has now, by type and length; in a list, a tuple or a dict, for each element.
    - A `range`: an int in it; in a list, a tuple or bytes, as many as there are now, each in it.
    - ``[x]``: a list or `collections.deque` of any length, each element as `x` says.
    - ``...``: bytes or a str of any length.
    - ``(None, x)``: None, or as `x` says.

    The attributes may be int, bool, None, str, bytes, bytearray, list, tuple, deque, dict (with str as keys), and
    objects that have a state themselves, such as a `dbs_device.clock.Timer`. Bytearrays, lists, dicts and deques are
    filled, not replaced.

    Attributes
    ----------
    version : int
        To be raised when the meaning of the state changes.
    saved : mapping of str
        By the name of the attribute, whose leading underscores are not part of the state.

    Examples
    --------
    >>> class Fifo(AttributeState):
    ...     saved = {"_bytes": [range(256)], "_enabled": None}
    ...     def __init__(self):
    ...         self._bytes = deque([1, 2])
    ...         self._enabled = True
    >>> fifo = Fifo()
    >>> fifo.save_state()
    {'bytes': [1, 2], 'enabled': True}
    >>> fifo.load_state({"bytes": [1, 2, 300], "enabled": False})
    Traceback (most recent call last):
    dbs_device.errors.StateError: Fifo.bytes[2] is in range(0, 256), not 300
    """

    __slots__ = ()

    version: ClassVar[int] = 1
    saved: ClassVar[Mapping[str, Saved]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        names = [name.lstrip("_") for name in cls.saved]
        if len(names) != len(set(names)):
            raise TypeError(f"{cls.__qualname__}.saved has names that differ by leading underscores only: {names}")

    def save_state(self) -> dict[str, Any]:
        """Return the attributes that `saved` names."""
        return {name.lstrip("_"): _saved(getattr(self, name)) for name in self.saved}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state that `saved` does not allow. It names the attribute, and what it may be."""
        names = [name.lstrip("_") for name in self.saved]
        if not isinstance(state, Mapping) or state.keys() != set(names):
            there = _listing(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise StateError(f"the state of {type(self).__name__} has {_listing(names)}, not {there}")
        for name, rule in self.saved.items():
            key = name.lstrip("_")
            _check_value(f"{type(self).__name__}.{key}", rule, getattr(self, name), state[key])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the attributes, then call `state_loaded`. A `StateError` of `check_state` leaves all as they are."""
        self.check_state(state)
        for name in self.saved:
            setattr(self, name, _loaded(getattr(self, name), state[name.lstrip("_")]))
        self.state_loaded()

    def state_loaded(self) -> None:
        """Follow the attributes that have just been set: compute what depends on them, and set interrupt lines."""


def _saved(value: Any) -> Any:
    if hasattr(value, "save_state"):
        return value.save_state()
    if isinstance(value, (list, tuple, deque)):
        return [_saved(each) for each in value]
    if isinstance(value, dict):
        return {key: _saved(each) for key, each in value.items()}
    return bytes(value) if isinstance(value, bytearray) else value


def _check_value(name: str, rule: Saved, current: Any, value: Any) -> None:
    """Raise `StateError` if a value of a state is not what a rule of `AttributeState` says."""
    if isinstance(rule, tuple):
        if value is not None:
            _check_value(name, rule[1], current, value)
    elif isinstance(rule, list):
        if not isinstance(value, (list, tuple)):
            raise StateError(f"{name} is a list, not {value!r}")
        for index, each in enumerate(value):
            _check_value(f"{name}[{index}]", rule[0], None, each)
    elif hasattr(current, "load_state"):
        if hasattr(current, "check_state"):
            current.check_state(value)
    elif isinstance(current, (bytes, bytearray, str)) or rule is ...:
        expected = str if isinstance(current, str) else bytes
        if type(value) is not expected:
            raise StateError(f"{name} is {expected.__name__}, not {value!r}")
        if rule is not ... and not isinstance(current, str) and len(value) != len(current):
            raise StateError(f"{name} has {len(current)} bytes, not {len(value)}")
        if isinstance(rule, range):
            _check_elements(name, rule, value, value)
    elif isinstance(current, (list, tuple, deque)):
        if not isinstance(value, (list, tuple)) or len(value) != len(current):
            raise StateError(f"{name} is a list of {len(current)}, not {value!r}")
        _check_elements(name, rule, current, value)
    elif isinstance(current, dict):
        if not isinstance(value, Mapping) or value.keys() != current.keys():
            raise StateError(f"{name} has {_listing(map(str, current))}, not {value!r}")
        for key, each in value.items():
            _check_value(f"{name}[{key!r}]", rule, current[key], each)
    elif isinstance(rule, range):
        if type(value) is not int or value not in rule:
            raise StateError(f"{name} is in {rule}, not {value!r}")
    elif type(value) is not type(current):
        raise StateError(f"{name} is {type(current).__name__}, not {value!r}")


def _check_elements(name: str, rule: Saved, current: Any, value: Any) -> None:
    for index, (one, other) in enumerate(zip(current, value, strict=True)):
        _check_value(f"{name}[{index}]", rule, one, other)


def _loaded(current: Any, value: Any) -> Any:
    """Return what an attribute is to be, which is the same object if it can be filled."""
    if hasattr(current, "load_state"):
        current.load_state(value)
    elif isinstance(current, bytearray):
        current[:] = value
    elif isinstance(current, dict):
        for key, each in value.items():
            current[key] = _loaded(current[key], each)
    elif isinstance(current, deque):
        current.clear()
        current.extend(value)
    elif isinstance(current, list):
        same = len(current) == len(value)
        current[:] = [_loaded(*pair) for pair in zip(current, value, strict=True)] if same else value
    elif isinstance(current, tuple):
        return tuple(_loaded(*pair) for pair in zip(current, value, strict=True))
    else:
        return value
    return current
