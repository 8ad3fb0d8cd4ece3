"""Split virtqueues, from the device's side, with a driver that is not trusted.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ..errors import DeviceModelError, NotRamError, StateError
from ..memory import GuestMemory
from ..state import AttributeState
from ._common import ram_views

__all__ = ["Chain", "Virtqueue", "VirtqueueError"]

DESCRIPTOR = struct.Struct("<QIHH")
USED_ELEMENT = struct.Struct("<II")
U16 = struct.Struct("<H")
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1
RING_HEADER = 4  # flags and idx
MAX_SIZE = 32768
MAX_CHAIN_BYTES = 1 << 32
ADDRESSES = range(1 << 66)  # a legacy queue begins at a page number of 32 bits times a page size of up to 31


class VirtqueueError(DeviceModelError):
    """The driver has broken the rules of a queue. The device asks for a reset."""


class Chain:
    """A chain of buffers from the driver: first those that the device reads, then those that it writes.

    Attributes
    ----------
    head : int
        Its first descriptor.
    readable_size, writable_size : int
        Bytes that are left to read and to write.
    """

    __slots__ = ("_readable", "_writable", "head", "readable_size", "writable_size")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        self.head = head
        self._readable = readable
        self._writable = writable
        self.readable_size = sum(map(len, readable))
        self.writable_size = sum(map(len, writable))

    def readable(self, size: int) -> list[memoryview]:
        """Take the next `size` bytes to read as views of the guest's memory: less at the end of the chain."""
        views = _take(self._readable, min(size, self.readable_size))
        self.readable_size -= sum(map(len, views))
        return views

    def writable(self, size: int) -> list[memoryview]:
        """Take the next `size` bytes to write as views of the guest's memory: less at the end of the chain."""
        views = _take(self._writable, min(size, self.writable_size))
        self.writable_size -= sum(map(len, views))
        return views

    def read(self, size: int) -> bytes:
        """Read the next `size` bytes, or less at the end of the chain."""
        return b"".join(self.readable(size))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write as much of some data as there is room for; return how many bytes."""
        done = 0
        for view in self.writable(len(data)):
            view[:] = data[done : done + len(view)]
            done += len(view)
        return done


def _take(views: list[memoryview], size: int) -> list[memoryview]:
    """Remove `size` bytes from the front of a list of views, and return them."""
    taken = []
    while size > 0:
        view = views[0]
        if len(view) > size:
            taken.append(view[:size])
            views[0] = view[size:]
            break
        taken.append(view)
        size -= len(view)
        del views[0]
    return taken


class Virtqueue(AttributeState):
    """One queue. Everything that it finds in the guest's memory is checked; what is read twice may have changed.

    Parameters
    ----------
    index : int
        Its number in the device.
    max_size : int
        The most descriptors that it can have: a power of 2, up to 32768.

    Attributes
    ----------
    size : int
        Descriptors, as the driver has set it.
    ready : bool
        Whether the driver has set it up.
    descriptors, driver, device : int
        Guest addresses of the descriptor table, of the driver area (available ring) and of the device area (used ring).
    event_idx : bool
        Whether VIRTIO_F_EVENT_IDX was negotiated.
    memory : GuestMemory or None
        The guest's memory. Queues and buffers are in RAM, each part of a queue in one `Ram`.
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "size": range(MAX_SIZE + 1),
        "ready": None,
        "descriptors": ADDRESSES,
        "driver": ADDRESSES,
        "device": ADDRESSES,
        "event_idx": None,
        "_available": range(1 << 16),
        "_used": range(1 << 16),
        "_signalled": range(1 << 16),
    }

    def __init__(self, index: int, max_size: int) -> None:
        if not 1 <= max_size <= MAX_SIZE or max_size & max_size - 1:
            raise ValueError(f"the size of a queue is a power of 2 up to {MAX_SIZE}, not {max_size}")
        self.index = index
        self.max_size = max_size
        self.memory: GuestMemory | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what the driver has set up."""
        self.size = self.max_size
        self.ready = False
        self.descriptors = self.driver = self.device = 0
        self.event_idx = False
        self._available = 0  # the next entry of the available ring, modulo 2**16
        self._used = 0  # likewise
        self._signalled = 0  # `_used` when the driver was last told

    def pop(self) -> Chain | None:
        """Take the next chain that the driver has made available; None if there is none.

        Raises
        ------
        VirtqueueError
            The driver has broken the rules: a ring or a buffer that is not in RAM, an index that is too large, a loop
            of descriptors, a buffer to read after one to write, indirect tables of a wrong length or inside each other.
        """
        if not self.ready:
            return None
        ring = self._view(self.driver, RING_HEADER + 2 * self.size + 2 * self.event_idx, "the available ring")
        waiting = self._waiting(ring)
        if not waiting and self.event_idx:
            self._ask_for_event()
            waiting = self._waiting(ring)  # it may have come before the driver saw that
        if not waiting:
            return None
        (head,) = U16.unpack_from(ring, RING_HEADER + 2 * (self._available % self.size))
        readable, writable = self._buffers(head)
        self._available = self._available + 1 & 0xFFFF
        return Chain(head, readable, writable)

    def _waiting(self, ring: memoryview) -> int:
        """Return how many chains the driver has made available that were not popped."""
        waiting: int = U16.unpack_from(ring, 2)[0] - self._available & 0xFFFF
        if waiting > self.size:
            raise VirtqueueError(f"{self}: {waiting} chains are available, of {self.size} descriptors")
        return waiting

    def unpop(self) -> None:
        """Give the chain of the last `pop` back: the next one returns it again."""
        self._available = self._available - 1 & 0xFFFF

    def push(self, chain: Chain, written: int) -> None:
        """Return a chain to the driver, with the number of bytes that were written to it."""
        ring = self._view(self.device, RING_HEADER + 8 * self.size + 2 * self.event_idx, "the used ring")
        USED_ELEMENT.pack_into(ring, RING_HEADER + 8 * (self._used % self.size), chain.head, written)
        self._used = self._used + 1 & 0xFFFF
        U16.pack_into(ring, 2, self._used)  # last: the driver may look at any time

    def take_signal(self) -> bool:
        """Return whether the driver is to be interrupted for what was pushed since the last call."""
        before, self._signalled = self._signalled, self._used
        if before == self._used:
            return False
        ring = self._view(self.driver, RING_HEADER + 2 * self.size + 2 * self.event_idx, "the available ring")
        if not self.event_idx:
            return not U16.unpack_from(ring, 0)[0] & NO_INTERRUPT
        event: int = U16.unpack_from(ring, RING_HEADER + 2 * self.size)[0]
        return (self._used - event - 1 & 0xFFFF) < (self._used - before & 0xFFFF)

    def _ask_for_event(self) -> None:
        """Ask the driver for a notification when it makes the next chain available."""
        ring = self._view(self.device, RING_HEADER + 8 * self.size + 2, "the used ring")
        U16.pack_into(ring, RING_HEADER + 8 * self.size, self._available)

    def _buffers(self, head: int) -> tuple[list[memoryview], list[memoryview]]:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        total = 0
        for address, length, is_writable in self._descriptors(head):
            total += length
            if total >= MAX_CHAIN_BYTES:
                raise VirtqueueError(f"{self}: the chain at descriptor {head} has 4 GiB or more")
            if writable and not is_writable:
                raise VirtqueueError(f"{self}: the chain at descriptor {head} has a buffer to read after one to write")
            if length:  # an empty buffer has no address that matters
                (writable if is_writable else readable).extend(self._views(address, length))
        return readable, writable

    def _descriptors(self, head: int) -> Iterator[tuple[int, int, bool]]:
        """Yield address, length and direction of each buffer of a chain."""
        table = self._view(self.descriptors, DESCRIPTOR.size * self.size, "the descriptor table")
        size, index, is_indirect = self.size, head, False
        for _ in range(self.size + 1):  # the descriptor of an indirect table is not one of the chain
            if index >= size:
                raise VirtqueueError(f"{self}: descriptor {index} of a table of {size}")
            address, length, flags, following = DESCRIPTOR.unpack_from(table, DESCRIPTOR.size * index)
            if flags & INDIRECT:
                if is_indirect or flags & NEXT:
                    raise VirtqueueError(f"{self}: an indirect table in another one, or followed by a descriptor")
                if length == 0 or length % DESCRIPTOR.size or length > DESCRIPTOR.size * MAX_SIZE:
                    raise VirtqueueError(f"{self}: an indirect table of {length} bytes")
                table = self._view(address, length, "an indirect table")
                size, index, is_indirect = length // DESCRIPTOR.size, 0, True
                continue
            yield address, length, bool(flags & WRITE)
            if not flags & NEXT:
                return
            index = following
        raise VirtqueueError(f"{self}: the chain at descriptor {head} has a loop, or more than {self.size} descriptors")

    def _view(self, address: int, size: int, what: str) -> memoryview:
        """Return a part of the RAM."""
        assert self.memory is not None
        try:
            return self.memory.view(address, size)
        except (NotRamError, OverflowError) as error:
            raise VirtqueueError(f"{self}: {what} of {size:#x} bytes at {address:#x} is not in RAM") from error

    def _views(self, address: int, size: int) -> Iterator[memoryview]:
        """Yield the pieces of a buffer."""
        assert self.memory is not None
        try:
            yield from ram_views(self.memory, address, size)
        except (NotRamError, OverflowError) as error:
            raise VirtqueueError(f"{self}: a buffer of {size:#x} bytes at {address:#x} is not in RAM") from error

    def check_size(self, size: int) -> bool:
        """Return whether the queue can have that many descriptors."""
        return 1 <= size <= self.max_size and not size & size - 1

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state that does not fit."""
        super().check_state(state)
        if not self.check_size(state["size"]):
            raise StateError(f"{self} cannot have {state['size']} descriptors")

    def __str__(self) -> str:
        return f"virtqueue {self.index}"
