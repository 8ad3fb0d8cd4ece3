"""The peers of one access from C, which do what the Rust crate does, and our own ways beside them.

`accesses_to` returns them all, for the loops of ``suites/accesses.pyx``.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import compiled
import numpy as np
from suites import workloads
from suites.workloads import AddressMap

HERE = Path(__file__).resolve().parent
NATIVE_PEERS = {"btree_map": "btree_map.rs", "std_map": "std_map.cpp"}


@functools.cache
def load_library(name: str) -> ctypes.CDLL:
    """Return the library of a peer; LookupError where there is no compiler for it."""
    loaded = ctypes.CDLL(str(compiled.library(HERE / NATIVE_PEERS[name])))
    loaded.peer_create.restype = ctypes.c_void_p
    loaded.peer_create.argtypes = []
    loaded.peer_destroy.restype = None
    loaded.peer_destroy.argtypes = [ctypes.c_void_p]
    loaded.peer_register.restype = None
    loaded.peer_register.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
    loaded.peer_clone_and_drop.restype = None
    loaded.peer_clone_and_drop.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return loaded


def missing_native_peers() -> dict[str, str]:
    """Return the peers that cannot be built here, and why."""
    missing = {}
    for name in NATIVE_PEERS:
        try:
            load_library(name)
        except LookupError as error:
            missing[name] = str(error)
    return missing


def native_peers() -> list[str]:
    return [name for name in NATIVE_PEERS if name not in missing_native_peers()]


class NativePeer:
    """A peer in another language with a device for each range. Raises LookupError where it cannot be built."""

    def __init__(self, name: str, ranges: AddressMap) -> None:
        self._library = load_library(name)
        self._bus = self._library.peer_create()
        for index in ranges.order.tolist():
            self._library.peer_register(self._bus, int(ranges.bases[index]), int(ranges.sizes[index]))

    def access(self) -> Any:
        function = ctypes.cast(self._library.peer_read, ctypes.c_void_p).value
        return compiled.accesses().peer_read(function, self._bus, self)

    def clone_and_drop(self, times: int) -> None:
        self._library.peer_clone_and_drop(self._bus, times)

    def __del__(self) -> None:
        if hasattr(self, "_bus"):
            self._library.peer_destroy(self._bus)


def accesses_to(ranges: AddressMap, **options: Any) -> dict[str, Any]:
    """Return each kind of native access to these ranges, by name; their answers are the same.

    `options` are those of our manager.
    """
    ours = compiled.accesses()
    manager = workloads.manager_of(ranges, ours.OffsetDevice, **options)
    return {
        "held read": ours.held_read(manager.tables()),
        **{name: NativePeer(name, ranges).access() for name in native_peers()},
        "manager load": ours.manager_load(manager),
        "entry point load": ours.entry_point_load(manager),
    }


def check_accesses(made: dict[str, Any], addresses: np.ndarray) -> None:
    """Raise AssertionError unless all accesses give the same answers."""
    outcomes = {name: access.time(addresses, 1)[1:] for name, access in made.items()}
    sums = {total for total, _ in outcomes.values()}
    # An entry point does not report whether the address was owned.
    refusals = {refused for name, (_, refused) in outcomes.items() if name != "entry point load"}
    if len(sums) != 1 or len(refusals) != 1:
        raise AssertionError(f"the answers differ: {outcomes}")
