"""Virtio devices behind memory-mapped registers, for machines without PCI.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 4.2, and 4.2.4 for the legacy interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..device import DeviceIo
from ..errors import StateError
from ..memory import GuestMemory
from ..state import AttributeState
from ._common import Irq, Output, no_irq
from .virtio import VERSION_1, VirtioDevice, with_word, word_of
from .virtqueue import Virtqueue

__all__ = ["VirtioMmio"]

MAGIC = int.from_bytes(b"virt", "little")
VENDOR = int.from_bytes(b"DBSD", "little")
LEGACY_ALIGN = 4096
U32 = 0xFFFF_FFFF
WORDS = range(1 << 32)


class Register:
    """Offsets of the registers, of 32 bits each."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SELECT = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SELECT = 0x024
    GUEST_PAGE_SIZE = 0x028  # legacy
    QUEUE_SELECT = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_ALIGN = 0x03C  # legacy
    QUEUE_PFN = 0x040  # legacy
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESCRIPTORS = 0x080
    QUEUE_DRIVER = 0x090
    QUEUE_DEVICE = 0x0A0
    SHARED_MEMORY = range(0x0B0, 0x0C0, 4)  # length and base of the selected region
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


ADDRESSES = {
    Register.QUEUE_DESCRIPTORS: "descriptors",
    Register.QUEUE_DRIVER: "driver",
    Register.QUEUE_DEVICE: "device",
}


class VirtioMmio(AttributeState, DeviceIo):
    """A virtio device, mapped. Any thread may access it.

    Registers take naturally aligned accesses of 4 bytes, the configuration space any; other accesses read as 0 and do
    nothing. The guest is little-endian.

    Parameters
    ----------
    device : VirtioDevice
        What is mapped: a `VirtioBlock`, say.
    memory : GuestMemory
        The guest's memory, for the queues and their buffers.
    irq : callable, optional
        The interrupt line.
    legacy : bool, optional
        Whether to have the registers of version 1, of drivers before VIRTIO 1.0, instead of version 2.

    Attributes
    ----------
    size : int
        Bytes to register.
    device : VirtioDevice
        The parameter.
    """

    size = 0x200
    saved: ClassVar[Mapping[str, Any]] = {
        "legacy": None,
        "_device_features_select": WORDS,
        "_driver_features_select": WORDS,
        "_queue_select": WORDS,
        "_interrupt_status": WORDS,
        "_page_size": WORDS,
        "_aligns": WORDS,
        "device": None,
    }

    def __init__(self, device: VirtioDevice, *, memory: GuestMemory, irq: Irq = no_irq, legacy: bool = False) -> None:
        self.device = device
        self.legacy = legacy
        self._irq = Output(irq)
        self._lock = device.lock
        device.connect(memory, self._interrupt)
        self._reset()

    def _reset(self) -> None:
        self._device_features_select = 0
        self._driver_features_select = 0
        self._queue_select = 0
        self._interrupt_status = 0
        self._page_size = LEGACY_ALIGN
        self._aligns = [LEGACY_ALIGN] * len(self.device.queues)
        self._irq.set(False)

    def _interrupt(self, reason: int) -> None:
        self._interrupt_status |= reason
        self._irq.set(True)

    @property
    def _queue(self) -> Virtqueue | None:
        """The selected queue."""
        queues = self.device.queues
        return queues[self._queue_select] if self._queue_select < len(queues) else None

    @property
    def _offered(self) -> int:
        return self.device.features | (0 if self.legacy else VERSION_1)

    def load(self, base: int, offset: int, size: int) -> int:
        with self._lock:
            if offset >= Register.CONFIG:
                return self.device.read_config(offset - Register.CONFIG, size)
            if size != 4 or offset % 4:
                return 0
            return self._load_register(offset)

    def _load_register(self, offset: int) -> int:
        queue = self._queue
        match offset:
            case Register.MAGIC_VALUE:
                return MAGIC
            case Register.VERSION:
                return 1 if self.legacy else 2
            case Register.DEVICE_ID:
                return self.device.device_id
            case Register.VENDOR_ID:
                return VENDOR
            case Register.DEVICE_FEATURES:
                return word_of(self._offered, self._device_features_select)
            case Register.QUEUE_SIZE_MAX:
                return queue.max_size if queue is not None else 0
            case Register.QUEUE_PFN if self.legacy:
                return queue.descriptors // self._page_size if queue is not None else 0
            case Register.QUEUE_READY if not self.legacy:
                return int(queue is not None and queue.ready)
            case Register.INTERRUPT_STATUS:
                return self._interrupt_status
            case Register.STATUS:
                return self.device.status
            case Register.CONFIG_GENERATION if not self.legacy:
                return self.device.config_generation
        if offset in Register.SHARED_MEMORY and not self.legacy:
            return U32  # there is no such region
        return 0

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        with self._lock:
            if offset >= Register.CONFIG:
                self.device.write_config(offset - Register.CONFIG, value.to_bytes(size, "little"))
            elif size == 4 and offset % 4 == 0:
                self._store_register(offset, value)

    def _store_register(self, offset: int, value: int) -> None:
        match offset:
            case Register.DEVICE_FEATURES_SELECT:
                self._device_features_select = value
            case Register.DRIVER_FEATURES:
                features = with_word(self.device.driver_features, self._driver_features_select, value)
                # A legacy driver has no FEATURES_OK by which it could learn of a refusal.
                self.device.accept_features(features & self._offered if self.legacy else features)
            case Register.DRIVER_FEATURES_SELECT:
                self._driver_features_select = value
            case Register.QUEUE_SELECT:
                self._queue_select = value
            case Register.QUEUE_NOTIFY:
                self.device.notify(value)
            case Register.INTERRUPT_ACK:
                self._interrupt_status &= ~value
                self._irq.set(self._interrupt_status != 0)
            case Register.STATUS:
                self.device.set_status(value & 0xFF, is_legacy=self.legacy)
                if value & 0xFF == 0:
                    self._reset()
            case _ if self.legacy:
                self._store_legacy_register(offset, value)
            case _:
                self._store_queue_register(offset, value)

    def _store_queue_register(self, offset: int, value: int) -> None:
        queue = self._queue
        if queue is None:
            return
        if offset == Register.QUEUE_READY:
            if value & 1 and not queue.ready:
                self.device.enable_queue(queue)
            elif not value & 1:
                queue.ready = False
        elif queue.ready:
            return  # the driver must not change a queue that is in use
        elif offset == Register.QUEUE_SIZE:
            if queue.check_size(value):
                queue.size = value
        elif name := ADDRESSES.get(offset & ~4):
            setattr(queue, name, with_word(getattr(queue, name), offset >> 2 & 1, value))

    def _store_legacy_register(self, offset: int, value: int) -> None:
        queue = self._queue
        if offset == Register.GUEST_PAGE_SIZE:
            if _is_power_of_2(value):
                self._page_size = value
        elif queue is None:
            return
        elif offset == Register.QUEUE_SIZE:
            if queue.check_size(value):
                queue.size = value
        elif offset == Register.QUEUE_ALIGN:
            if _is_power_of_2(value):
                self._aligns[self._queue_select] = value
        elif offset == Register.QUEUE_PFN:
            size = queue.size
            queue.reset()
            queue.size = size
            if value:
                align = self._aligns[self._queue_select]
                queue.descriptors = value * self._page_size
                queue.driver = queue.descriptors + 16 * size
                # Flags, index, the ring, and used_event, whether or not it was negotiated.
                queue.device = queue.driver + 6 + 2 * size + align - 1 & -align
                self.device.enable_queue(queue)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state of another device, or behind other registers."""
        super().check_state(state)
        if state["legacy"] != self.legacy:
            raise StateError(f"VirtioMmio.legacy is {self.legacy}, not {state['legacy']}")
        if not all(map(_is_power_of_2, [state["page_size"], *state["aligns"]])):
            raise StateError("VirtioMmio: page sizes and alignments are powers of 2")

    def state_loaded(self) -> None:
        """Set the interrupt line."""
        self._irq.set(self._interrupt_status != 0)

    def __repr__(self) -> str:
        return f"<VirtioMmio of {self.device!r}>"


def _is_power_of_2(value: int) -> bool:
    return value > 0 and not value & value - 1
