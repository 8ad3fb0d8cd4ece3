"""The operations on traces whose instructions are counted: a replay, and what recording adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dbs_device import IoManager, NativeDevice, Resource
from dbs_device.trace import ACCESS_DTYPE, Trace, TraceRecorder, replay

ACCESSES = 4096
CALLS = 64
WARM_UP = 100
BASE = 0x1000


def operations(counted: Any) -> dict[str, tuple[Callable[[], None], int]]:
    """Return by name: a function that counts so many operations, and how many."""
    manager = IoManager()
    manager.register_device_io(NativeDevice(), [Resource.MmioAddressRange(BASE, 0x100)])
    accesses = np.zeros(ACCESSES, ACCESS_DTYPE)
    accesses["space"], accesses["write"], accesses["addr"], accesses["size"] = 1, np.arange(ACCESSES) % 2, BASE, 4
    trace, recorder = Trace(accesses), TraceRecorder(manager)
    return {
        "C: replay, native device, per access": (
            lambda: counted.count_calls(replay, [(trace, manager)], 2),
            ACCESSES,
        ),
        "Python: mmio_load of a recorder, native device": (
            lambda: counted.count_calls(recorder.mmio_load, [(BASE, 4)] * CALLS, WARM_UP),
            CALLS,
        ),
    }
