"""A console on virtio.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 5.3. Left out: several ports.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .virtio import VirtioDevice
from .virtqueue import Chain, Virtqueue

__all__ = ["VirtioConsole"]

SIZE, EMERGENCY_WRITE = 1 << 0, 1 << 2  # features
CONFIG = struct.Struct("<HHII")  # columns, rows, most ports, emergency write
EMERGENCY_OFFSET = 8
RECEIVE, TRANSMIT = 0, 1
CHUNK = 1 << 16


class VirtioConsole(VirtioDevice):
    """A console with one port.

    Parameters
    ----------
    sink : callable
        Called with the bytes that the guest sends.
    columns, rows : int, optional
        The size of the terminal. 0: the guest is not told.
    """

    device_id: ClassVar[int] = 3
    saved: ClassVar[Mapping[str, Any]] = {**VirtioDevice.saved, "_received": ...}

    def __init__(self, sink: Callable[[bytes], object], *, columns: int = 0, rows: int = 0) -> None:
        has_size = columns > 0 and rows > 0
        super().__init__(
            features=EMERGENCY_WRITE | (SIZE if has_size else 0),
            queue_sizes=[64, 64],
            config=CONFIG.pack(columns, rows, 1, 0),
        )
        self._sink = sink
        self._received = bytearray()

    def receive(self, data: bytes) -> None:
        """Send bytes to the guest; they wait until it has a buffer for them. Any thread may call it."""
        with self.lock:
            self._received += data
            self.service(self.queues[RECEIVE])

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the new size of the terminal."""
        self.update_config(0, struct.pack("<HH", columns, rows))

    def serve(self, queue: Virtqueue, chain: Chain) -> int | None:
        if queue.index == TRANSMIT:
            while data := chain.read(CHUNK):
                self._sink(data)
            return 0
        if not chain.writable_size:
            return 0
        written = chain.write(self._received)
        del self._received[:written]
        return written or None

    def write_config(self, offset: int, data: bytes) -> None:
        if offset == EMERGENCY_OFFSET:
            self._sink(data[:1])
