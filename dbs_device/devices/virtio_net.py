"""A network card on virtio.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 5.1. Left out: checksum and segmentation offload, mergeable
receive buffers, the control queue, several pairs of queues.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .virtio import VERSION_1, VirtioDevice
from .virtqueue import Chain, Virtqueue, VirtqueueError

__all__ = ["VirtioNet"]

MAC, STATUS = 1 << 5, 1 << 16  # features
LINK_UP = 1
STATUS_OFFSET = 6
RECEIVE, TRANSMIT = 0, 1
LEGACY_HEADER, HEADER = 10, 12  # bytes; the last two are the number of buffers
MAX_FRAME = 65550


class VirtioNet(VirtioDevice):
    """A network card.

    Parameters
    ----------
    send : callable
        Called with each Ethernet frame that the guest sends, without a checksum at its end.
    mac : bytes or str
        The address: 6 bytes, or ``"52:54:00:12:34:56"``.
    queue_size : int
        Descriptors of each queue.
    backlog : int
        How many received frames may wait for a buffer of the guest; further ones are dropped.

    Attributes
    ----------
    dropped : int
        Frames that were dropped: to a link that is down, to a full backlog, or larger than the guest's buffer.
    """

    device_id: ClassVar[int] = 1
    saved: ClassVar[Mapping[str, Any]] = {**VirtioDevice.saved, "_received": [...]}

    def __init__(
        self,
        send: Callable[[bytes], object],
        *,
        mac: bytes | str = "52:54:00:12:34:56",
        queue_size: int = 256,
        backlog: int = 256,
    ) -> None:
        address = bytes.fromhex(mac.replace(":", "")) if isinstance(mac, str) else bytes(mac)
        if len(address) != 6:
            raise ValueError(f"a MAC address has 6 bytes, not {mac!r}")
        super().__init__(
            features=MAC | STATUS, queue_sizes=[queue_size] * 2, config=struct.pack("<6sH", address, LINK_UP)
        )
        self._send = send
        self._backlog = backlog
        self._received: deque[bytes] = deque()
        self.dropped = 0

    @property
    def link_up(self) -> bool:
        """Whether the cable is plugged in. Can be assigned; the guest is told."""
        return bool(self.config[STATUS_OFFSET] & LINK_UP)

    @link_up.setter
    def link_up(self, is_up: bool) -> None:
        self.update_config(STATUS_OFFSET, struct.pack("<H", LINK_UP if is_up else 0))

    def receive(self, frame: bytes) -> None:
        """Send an Ethernet frame to the guest. Any thread may call it, also from inside `send`."""
        with self.lock:
            if not self.link_up or len(self._received) >= self._backlog:
                self.dropped += 1
                return
            self._received.append(bytes(frame))
            self.service(self.queues[RECEIVE])

    @property
    def _header_size(self) -> int:
        return HEADER if self.has_feature(VERSION_1) else LEGACY_HEADER

    def serve(self, queue: Virtqueue, chain: Chain) -> int | None:
        return self._transmit(queue, chain) if queue.index == TRANSMIT else self._fill(chain)

    def _transmit(self, queue: Virtqueue, chain: Chain) -> int:
        if chain.readable_size < self._header_size:
            raise VirtqueueError(f"{queue}: a frame of {chain.readable_size} bytes, header included")
        chain.read(self._header_size)
        if self.link_up and chain.readable_size <= MAX_FRAME:
            self._send(chain.read(chain.readable_size))
        else:
            self.dropped += 1
        return 0

    def _fill(self, chain: Chain) -> int | None:
        header = bytes(10) + b"\1\0"  # no offload; one buffer
        while self._received:
            frame = self._received.popleft()
            if self._header_size + len(frame) <= chain.writable_size:
                return chain.write(header[: self._header_size]) + chain.write(frame)
            self.dropped += 1
        return None
