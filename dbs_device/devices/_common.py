"""Pieces of the devices: interrupt outputs, parts of registers, and the check of a saved state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ..errors import StateError

__all__ = ["Irq", "Output", "Stateful", "check_state", "merge", "no_irq", "outputs", "word_bits"]

Irq: TypeAlias = Callable[[bool], object]
"""What a device calls with the level of an interrupt line. An `IrqLine` is one."""


class Stateful(Protocol):
    """A device with a state."""

    def save_state(self) -> dict[str, Any]:
        """Return the state."""


def no_irq(level: bool) -> None:
    """Leave an interrupt line unconnected."""


class Output:
    """An interrupt line as its device sees it: calls it on edges only. The device's lock protects it.

    Parameters
    ----------
    irq : callable
        The line.
    """

    __slots__ = ("_irq", "level")

    def __init__(self, irq: Irq) -> None:
        if not callable(irq):
            raise TypeError(f"an interrupt line is called with its level, which {type(irq).__name__} cannot be")
        self._irq = irq
        self.level = False

    def set(self, level: bool) -> None:
        """Pass a level on if it is a new one."""
        if level != self.level:
            self.level = level
            self._irq(level)


def outputs(irqs: Sequence[Irq], count: int, what: str) -> list[Output]:
    """Return `count` outputs: to the lines given, in order, then unconnected ones.

    Raises
    ------
    ValueError
        More lines are given. The message calls what they belong to `what`.
    """
    if len(irqs) > count:
        raise ValueError(f"{len(irqs)} interrupt lines for {count} {what}")
    return [Output(irq) for irq in (*irqs, *[no_irq] * (count - len(irqs)))]


def word_bits(value: int, offset: int, size: int, word: int) -> int:
    """Return what a load of `size` bytes at `offset` sees of a register of `word` bytes with this value.

    >>> hex(word_bits(0x1122334455667788, 0x1004, 4, 8))
    '0x11223344'
    """
    return value >> 8 * (offset % word) & (1 << 8 * size) - 1


def merge(old: int, offset: int, size: int, value: int, word: int) -> int:
    """Return the value of a register of `word` bytes after a store of `size` bytes at `offset`.

    >>> hex(merge(0x1122334455667788, 0x1004, 4, 0, 8))
    '0x55667788'
    """
    shift = 8 * (offset % word)
    mask = (1 << 8 * size) - 1 << shift
    return (old & ~mask | value << shift & mask) & (1 << 8 * word) - 1


def check_state(device: Stateful, state: object, *, variable: Collection[str] = ()) -> dict[str, Any]:
    """Return a state that a device is to load, if it has the shape of the device's own.

    Parameters
    ----------
    device : object
        Its `save_state` is the pattern: the same keys, values of the same types, lists and bytes of the same lengths.
    state : object
        What is to be loaded.
    variable : collection of str
        Keys of the lists and bytes that may have any length.

    Raises
    ------
    StateError
        The state differs. It names the device and the value.
    """
    pattern = device.save_state()
    if not isinstance(state, Mapping) or state.keys() != pattern.keys():
        found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise StateError(f"the state of a {type(device).__name__} has {', '.join(pattern)}, not {found}")
    for key, like in pattern.items():
        _check_value(f"{type(device).__name__}.{key}", like, state[key], key in variable)
    return dict(state)


def _check_value(name: str, like: Any, value: Any, is_variable: bool) -> None:
    if isinstance(like, (list, tuple)):
        if not isinstance(value, (list, tuple)):
            raise StateError(f"{name} is a list, not {value!r}")
        if is_variable:
            return
        if len(value) != len(like):
            raise StateError(f"{name} has {len(like)} elements, not {len(value)}")
        for index, (each, other) in enumerate(zip(like, value, strict=True)):
            _check_value(f"{name}[{index}]", each, other, False)
    elif isinstance(like, dict):
        if not isinstance(value, Mapping) or value.keys() != like.keys():
            raise StateError(f"{name} has the keys {', '.join(like)}, not {value!r}")
        for key, each in like.items():
            _check_value(f"{name}.{key}", each, value[key], is_variable)
    elif type(value) is not type(like):
        raise StateError(f"{name} is of type {type(like).__name__}, not {value!r}")
    elif isinstance(like, bytes) and not is_variable and len(value) != len(like):
        raise StateError(f"{name} has {len(like)} bytes, not {len(value)}")
