"""Classes that are defined in a private module and imported from a public one."""

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
