"""Record the accesses of a guest, save them in a file, and replay them on any manager.

A trace is a regression test and a benchmark of devices that needs no guest.

Examples
--------
>>> from dbs_device import DeviceIo, DeviceResources, IoManager, Resource
>>> class Latch(DeviceIo):
...     value = 0
...     def pio_read(self, base, offset, data):
...         data[0] = self.value
...     def pio_write(self, base, offset, data):
...         self.value = data[0]
>>> manager = IoManager()
>>> manager.register_device_io(Latch(), DeviceResources([Resource.PioAddressRange(0x80, 1)]))
>>> recorder = TraceRecorder(manager)
>>> recorder.pio_out(0x80, 1, 0x5A)
>>> recorder.pio_in(0x80, 1)
90
>>> print(replay(recorder.trace, manager))
2 accesses, 1 read compared, no differences
>>> recorder.trace.summary()
[AccessCount(name='Latch', reads=1, writes=1, bytes_read=1, bytes_written=1)]
"""

from __future__ import annotations

from ._engine.recorder import TraceRecorder
from ._engine.replay_many import ReplayOutcome, replay_many
from ._engine.replaying import Difference, ReplayResult, replay
from ._engine.trace_data import ACCESS_DTYPE, Access, AccessCount, Trace, TraceRange
from .address import Space

__all__ = [
    "ACCESS_DTYPE",
    "Access",
    "AccessCount",
    "Difference",
    "ReplayOutcome",
    "ReplayResult",
    "Space",
    "Trace",
    "TraceRange",
    "TraceRecorder",
    "replay",
    "replay_many",
]
