"""Virtio devices without their transports: features, status, queues. `VirtioMmio` and `VirtioPci` are transports.

Specification: Virtual I/O Device (VIRTIO) 1.2, sections 2 and 3.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ..errors import StateError
from ..memory import GuestMemory
from ..state import AttributeState
from .virtqueue import Chain, Virtqueue, VirtqueueError

__all__ = ["EVENT_IDX", "INDIRECT_DESC", "VERSION_1", "VirtioDevice", "with_word", "word_of"]

INDIRECT_DESC, EVENT_IDX, VERSION_1 = 1 << 28, 1 << 29, 1 << 32  # features of every device
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 0x01, 0x02, 0x04, 0x08, 0x40, 0x80
U32 = 0xFFFF_FFFF
USED_BUFFERS, CONFIGURATION_CHANGED = 1, 2  # reasons of an interrupt

logger = logging.getLogger("dbs_device.devices.virtio")


class VirtioDevice(AttributeState, ABC):
    """A virtio device without its transport. A subclass says what it is, and serves chains of buffers.

    Any thread may call it. A driver that breaks the rules of its queues hurts itself alone: the device does nothing
    more until it is reset, as the specification says (DEVICE_NEEDS_RESET).

    Parameters
    ----------
    features : int
        Those of its own that it offers, one bit each; the ones that every device has are added.
    queue_sizes : sequence of int
        Of each queue, the most descriptors.
    config : bytes
        Its configuration space.

    Attributes
    ----------
    device_id : int
        What kind of device it is (a class attribute).
    queues : list of Virtqueue
        The queues.
    features : int
        All that it offers.
    driver_features : int
        Those that the driver has accepted.
    status : int
        The driver's progress, as in the specification.
    config : bytearray
        The configuration space. `update_config` changes it while the guest runs.
    lock : threading.RLock
        The lock that the device is under; held while it serves.
    guest_errors : int
        How often the driver has broken the rules. The first is logged (logger ``dbs_device.devices.virtio``).
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "driver_features": range(1 << 64),
        "status": range(1 << 8),
        "config": None,
        "config_generation": range(1 << 32),
        "queues": None,
    }
    device_id: ClassVar[int]

    def __init__(self, *, features: int = 0, queue_sizes: Sequence[int] = (256,), config: bytes = b"") -> None:
        self.features = features | INDIRECT_DESC | EVENT_IDX
        self.queues = [Virtqueue(index, size) for index, size in enumerate(queue_sizes)]
        self.config = bytearray(config)
        self.config_generation = 0
        self.driver_features = 0
        self.status = 0
        self.guest_errors = 0
        self.lock = threading.RLock()
        self._interrupt: Callable[[int], object] | None = None
        self._serving: set[int] = set()

    def connect(self, memory: GuestMemory, interrupt: Callable[[int], object]) -> None:
        """Give the device its transport.

        Parameters
        ----------
        memory : GuestMemory
            Where the queues and their buffers are.
        interrupt : callable
            Called with the reason: 1 for used buffers, 2 for a change of the configuration.

        Raises
        ------
        ValueError
            The device has a transport already.
        """
        if self._interrupt is not None:
            raise ValueError(f"{self!r} has a transport already")
        self._interrupt = interrupt
        for queue in self.queues:
            queue.memory = memory

    # What a subclass has.

    @abstractmethod
    def serve(self, queue: Virtqueue, chain: Chain) -> int | None:
        """Serve a chain of buffers.

        Parameters
        ----------
        queue : Virtqueue
            Where it is from.
        chain : Chain
            The buffers.

        Returns
        -------
        int or None
            How many bytes were written to it. None: it stays in the queue, since the device has nothing for it now;
            `service` tries again.
        """

    def write_config(self, offset: int, data: bytes) -> None:
        """Take a write of the driver to the configuration space; by default, it is ignored.

        Parameters
        ----------
        offset : int
            First byte.
        data : bytes
            What is written.
        """

    # What a subclass calls.

    def service(self, queue: Virtqueue) -> None:
        """Serve all chains of a queue that can be served, and interrupt the driver if it asks for that."""
        with self.lock:
            # The call under way takes what comes in the meantime: `serve` may lead here again.
            if queue.index in self._serving or not self._is_running:
                return
            self._serving.add(queue.index)
            try:
                self._serve_all(queue)
            except VirtqueueError as error:
                self._fail(error)
            finally:
                self._serving.discard(queue.index)
                self._signal(queue)  # not before: the interrupt may lead here again, with more to serve

    @property
    def _is_running(self) -> bool:
        return bool(self.status & DRIVER_OK) and not self.status & NEEDS_RESET

    def _serve_all(self, queue: Virtqueue) -> None:
        while self._is_running and (chain := queue.pop()) is not None:
            written: int | None = None
            try:
                written = self.serve(queue, chain)
            finally:
                if written is None and queue.ready:
                    queue.unpop()  # also if the backend has raised: it can be tried again
            if written is None or not queue.ready:
                break
            queue.push(chain, written)

    def _signal(self, queue: Virtqueue) -> None:
        try:
            is_due = queue.ready and queue.take_signal()
        except VirtqueueError as error:  # must not replace the exception of a backend
            if self._is_running:
                self._fail(error)
            return
        if is_due:
            self._raise_interrupt(USED_BUFFERS)

    def has_feature(self, feature: int) -> bool:
        """Return whether a feature, given as its bit's value, was negotiated."""
        return bool(self.driver_features & feature)

    def update_config(self, offset: int, data: bytes) -> None:
        """Change the configuration space, and tell the driver.

        Parameters
        ----------
        offset : int
            First byte.
        data : bytes
            New content, within the space.
        """
        if not 0 <= offset <= len(self.config) - len(data):
            raise ValueError(f"{len(data)} bytes at {offset} do not fit a configuration space of {len(self.config)}")
        with self.lock:
            self.config[offset : offset + len(data)] = data
            self._config_changed()

    def _config_changed(self) -> None:
        self.config_generation = self.config_generation + 1 & 0xFFFF_FFFF
        if self.status & DRIVER_OK:
            self._raise_interrupt(CONFIGURATION_CHANGED)

    def _raise_interrupt(self, reason: int) -> None:
        if self._interrupt is not None:
            self._interrupt(reason)

    def _fail(self, error: VirtqueueError) -> None:
        self.guest_errors += 1
        # Not every time: a hostile guest could fill the host's log.
        logger.log(logging.WARNING if self.guest_errors == 1 else logging.DEBUG, "%r needs a reset: %s", self, error)
        self.status |= NEEDS_RESET
        self._config_changed()

    # What a transport calls.

    def accept_features(self, features: int) -> None:
        """Take the features that the driver accepts; not any more once it has set FEATURES_OK."""
        if not self.status & FEATURES_OK:
            self.driver_features = features

    def set_status(self, status: int, *, is_legacy: bool) -> None:
        """Take a write to the status: 0 resets the device.

        FEATURES_OK is not accepted with features that the device does not offer, or, of a driver that is not a legacy
        one, without VERSION_1.
        """
        if status == 0:
            self.reset()
            return
        offered = self.features | (0 if is_legacy else VERSION_1)
        if status & FEATURES_OK and (
            self.driver_features & ~offered or (not is_legacy and not self.has_feature(VERSION_1))
        ):
            status &= ~FEATURES_OK
        was_running = self._is_running
        # A driver only adds bits; this one is the device's.
        self.status = (status & ~NEEDS_RESET) | self.status & NEEDS_RESET
        if self._is_running and not was_running:
            for queue in self.queues:
                self.service(queue)

    def enable_queue(self, queue: Virtqueue) -> None:
        """Begin to use a queue as the driver has set it up."""
        queue.event_idx = self.has_feature(EVENT_IDX)
        queue.ready = True

    def notify(self, index: int) -> None:
        """Serve a queue: the driver has made chains available. An index without a queue is ignored."""
        if index < len(self.queues):
            self.service(self.queues[index])

    def read_config(self, offset: int, size: int) -> int:
        """Return `size` bytes of the configuration space as an integer; 0 outside it."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def reset(self) -> None:
        """Return to the state after power-on. Backends are not touched."""
        self.status = 0
        self.driver_features = 0
        for queue in self.queues:
            queue.reset()

    def save_state(self) -> dict[str, Any]:
        """Return features, status, queues, and what a subclass adds to `saved`. The back end is not part of it."""
        return {"kind": self.device_id, "features": self.features, **super().save_state()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` if a state is of another kind of device, or of one with other features or queues."""
        here = {"kind": self.device_id, "features": self.features}
        if not isinstance(state, Mapping):
            raise StateError(f"the state of {type(self).__name__} is a dict, not {type(state).__name__}")
        super().check_state({name: value for name, value in state.items() if name not in here})
        for name, value in here.items():
            if state.get(name) != value:
                raise StateError(f"{type(self).__name__}.{name} is {value}, not {state.get(name)!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def word_of(value: int, select: int) -> int:
    """Return the word of 32 bits with a number, of a value that has two; 0 for any other number."""
    return value >> 32 * select & U32 if select < 2 else 0


def with_word(value: int, select: int, word: int) -> int:
    """Return a value of 64 bits with one word replaced; the value itself if it does not have that word."""
    return value & ~(U32 << 32 * select) | word << 32 * select if select < 2 else value
