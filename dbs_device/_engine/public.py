"""The class of an object as pickles and users see it: its public module, its attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_ClassT = TypeVar("_ClassT", bound=type[Any])


def exported_from(module: str) -> Callable[[_ClassT], _ClassT]:
    """Make a class report the public module that users import it from, in its repr, in pickles and in `help`.

    >>> exported_from("dbs_device.trace")(type("Access", (), {}))
    <class 'dbs_device.trace.Access'>
    """

    def set_module(cls: _ClassT) -> _ClassT:
        """Set the class's module."""
        cls.__module__ = module
        return cls

    return set_module


def set_attributes(instance: object, state: Any) -> None:
    """Set the attributes that `object.__getstate__` returned for the original: its __dict__, and slots if any."""
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        vars(instance).update(attributes)
    if slots:
        for name, value in slots.items():
            setattr(instance, name, value)
