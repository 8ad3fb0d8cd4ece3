"""The engines behind one C access: ours, and those that stand for the Rust crate, run by the loops of ``loops.pyx``."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import compiled
import numpy as np
import workloads
from workloads import AddressMap

FOREIGN = {"std_map": "C++ std::map", "btree_map": "Rust BTreeMap"}


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    path = compiled.engine_library(name)
    if path is None:
        return None
    loaded = ctypes.CDLL(str(path))
    loaded.engine_create.restype = ctypes.c_void_p
    loaded.engine_create.argtypes = []
    loaded.engine_destroy.restype = None
    loaded.engine_destroy.argtypes = [ctypes.c_void_p]
    loaded.engine_register.restype = None
    loaded.engine_register.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
    loaded.engine_clone_and_drop.restype = None
    loaded.engine_clone_and_drop.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return loaded


class ForeignEngine:
    """An engine of another language with a device for each range. Raises LookupError where it cannot be built."""

    def __init__(self, name: str, ranges: AddressMap) -> None:
        loaded = library(name)
        if loaded is None:
            raise LookupError(f"no compiler for {compiled.ENGINES[name]}")
        self._library = loaded
        self._engine = loaded.engine_create()
        for index in ranges.order.tolist():
            loaded.engine_register(self._engine, int(ranges.bases[index]), int(ranges.sizes[index]))
        self.function = ctypes.cast(loaded.engine_read, ctypes.c_void_p).value
        self.subject = self._engine

    def clone_and_drop(self, times: int) -> None:
        self._library.engine_clone_and_drop(self._engine, times)

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._library.engine_destroy(self._engine)


def accesses(ranges: AddressMap, **options: Any) -> dict[str, Any]:
    """Return each kind of native access to these ranges, by name; their answers are the same.

    `options` are those of our manager.
    """
    loops = compiled.module("loops")
    manager = workloads.manager_of(ranges, loops.OffsetDevice, **options)
    tables = manager.tables()
    made = {
        "held load": loops.held_load(tables),
        "held read": loops.held_read(tables),
    }
    for name in FOREIGN:
        if library(name) is not None:
            engine = ForeignEngine(name, ranges)
            made[name] = loops.foreign_read(engine.function, engine.subject, engine)
    made["manager load"] = loops.manager_load(manager)
    made["callback load"] = loops.callback_load(manager)
    return made


def idle_accesses() -> dict[str, Any]:
    """Return the twin that is subtracted from all, and what no access can do without: a call, and a device's call."""
    loops = compiled.module("loops")
    return {"loop": loops.empty_loop(), "idle call": loops.idle_call(), "direct call": loops.direct_read()}


def check(made: dict[str, Any], addresses: np.ndarray) -> None:
    """Raise AssertionError unless all accesses give the same answers."""
    outcomes = {name: access.time(addresses, 1)[1:] for name, access in made.items()}
    sums = {total for total, _ in outcomes.values()}
    # A callback does not say whether anybody owned the address.
    refusals = {refused for name, (_, refused) in outcomes.items() if name != "callback load"}
    if len(sums) != 1 or len(refusals) != 1:
        raise AssertionError(f"the answers of the engines differ: {outcomes}")
