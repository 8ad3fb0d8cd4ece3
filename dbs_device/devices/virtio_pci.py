"""Virtio devices on PCI.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 4.1. Left out: the legacy interface, MSI-X.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, ClassVar

from .._bus import IoManager
from ..device import DeviceIo
from ..memory import GuestMemory
from ._common import Irq, Output, merge, no_irq, word_bits
from .pci_device import PciDevice
from .virtio import VERSION_1, VirtioDevice, with_word, word_of
from .virtqueue import Virtqueue

__all__ = ["VirtioPci"]

VENDOR, FIRST_DEVICE = 0x1AF4, 0x1040
REVISION_1 = 1  # of devices without the legacy interface
BAR, BAR_SIZE = 4, 0x4000
CLASSES = {1: 0x020000, 2: 0x010000, 3: 0x078000}  # network, storage, communication
OTHER_CLASS = 0xFF0000

# Structures in the BAR: kind of the capability, offset, length.
VENDOR_CAPABILITY = 9
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4
COMMON_AT, ISR_AT, DEVICE_AT, NOTIFY_AT = 0x0000, 0x1000, 0x2000, 0x3000
COMMON_SIZE, ISR_SIZE, STRUCTURE_SIZE = 0x38, 4, 0x1000
NOTIFY_MULTIPLIER = 4
NO_VECTOR = 0xFFFF
WORDS = range(1 << 32)


class Common:
    """Offsets in the common configuration, and what is 1, 2 or 8 bytes wide there instead of 4."""

    DEVICE_FEATURE_SELECT, DEVICE_FEATURE = 0x00, 0x04
    DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x08, 0x0C
    CONFIG_VECTOR, QUEUES = 0x10, 0x12
    STATUS, CONFIG_GENERATION, QUEUE_SELECT = 0x14, 0x15, 0x16
    QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY_OFFSET = 0x18, 0x1A, 0x1C, 0x1E
    QUEUE_DESCRIPTORS, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30


ADDRESSES = {
    Common.QUEUE_DESCRIPTORS: "descriptors",
    Common.QUEUE_DRIVER: "driver",
    Common.QUEUE_DEVICE: "device",
}


class VirtioPci(PciDevice):
    """A virtio device as a PCI function: its structures are in a BAR of 16 KiB.

    The guest is little-endian.

    Parameters
    ----------
    manager : IoManager
        The bus, where the guest puts the BAR.
    device : VirtioDevice
        What is behind it: a `VirtioBlock`, say.
    memory : GuestMemory
        The guest's memory, for the queues and their buffers.
    irq : callable, optional
        The interrupt line that the pin leads to.
    interrupt_pin : int
        1 to 4 for INTA# to INTD#.

    Attributes
    ----------
    device : VirtioDevice
        The parameter.
    """

    saved: ClassVar[Mapping[str, Any]] = {
        **PciDevice.saved,
        "_device_feature_select": WORDS,
        "_driver_feature_select": WORDS,
        "_queue_select": range(1 << 16),
        "_interrupt_status": range(4),
        "device": None,
    }

    def __init__(
        self,
        manager: IoManager,
        device: VirtioDevice,
        *,
        memory: GuestMemory,
        irq: Irq = no_irq,
        interrupt_pin: int = 1,
    ) -> None:
        super().__init__(
            manager,
            vendor=VENDOR,
            device=FIRST_DEVICE + device.device_id,
            class_code=CLASSES.get(device.device_id, OTHER_CLASS),
            revision=REVISION_1,
            interrupt_pin=interrupt_pin,
        )
        self.device = device
        self._irq = Output(irq)
        device.connect(memory, self._interrupt)
        self.define(0x2C, 4, (0x40 + device.device_id) << 16 | VENDOR)  # subsystem
        self.add_bar(BAR, _Structures(self), BAR_SIZE, wide=True)
        for kind, offset, size, extra in (
            (COMMON, COMMON_AT, COMMON_SIZE, b""),
            (NOTIFY, NOTIFY_AT, STRUCTURE_SIZE, struct.pack("<I", NOTIFY_MULTIPLIER)),
            (ISR, ISR_AT, ISR_SIZE, b""),
            (DEVICE, DEVICE_AT, STRUCTURE_SIZE, b""),
        ):
            # Length with the header, kind, BAR, ID, padding, offset, length.
            self.add_capability(
                VENDOR_CAPABILITY,
                struct.pack("<BBBBxxII", 16 + len(extra), kind, BAR, 0, offset, size) + extra,
            )
        self._reset()

    def _reset(self) -> None:
        self._device_feature_select = 0
        self._driver_feature_select = 0
        self._queue_select = 0
        self._interrupt_status = 0
        self._irq.set(False)

    def _interrupt(self, reason: int) -> None:
        self._interrupt_status |= reason
        self._irq.set(True)

    def _load(self, offset: int, size: int) -> int:
        with self.device.lock:
            if offset < ISR_AT:
                width = _width_at(offset)
                return word_bits(self._load_common(offset - offset % width), offset, size, width)
            if offset < DEVICE_AT:
                if offset > ISR_AT:
                    return 0
                status, self._interrupt_status = self._interrupt_status, 0  # a read acknowledges
                self._irq.set(False)
                return status
            return self.device.read_config(offset - DEVICE_AT, size) if offset < NOTIFY_AT else 0

    def _load_common(self, offset: int) -> int:
        device, queue = self.device, self._queue
        match offset:
            case Common.DEVICE_FEATURE_SELECT:
                return self._device_feature_select
            case Common.DEVICE_FEATURE:
                return word_of(device.features | VERSION_1, self._device_feature_select)
            case Common.DRIVER_FEATURE_SELECT:
                return self._driver_feature_select
            case Common.DRIVER_FEATURE:
                return word_of(device.driver_features, self._driver_feature_select)
            case Common.CONFIG_VECTOR | Common.QUEUE_VECTOR:
                return NO_VECTOR
            case Common.QUEUES:
                return len(device.queues)
            case Common.STATUS:
                return device.status
            case Common.CONFIG_GENERATION:
                return device.config_generation & 0xFF
            case Common.QUEUE_SELECT:
                return self._queue_select
        if queue is None:
            return 0
        match offset:
            case Common.QUEUE_SIZE:
                return queue.size
            case Common.QUEUE_ENABLE:
                return int(queue.ready)
            case Common.QUEUE_NOTIFY_OFFSET:
                return queue.index
        name = ADDRESSES.get(offset)
        return getattr(queue, name) if name else 0

    @property
    def _queue(self) -> Virtqueue | None:
        """The selected queue."""
        queues = self.device.queues
        return queues[self._queue_select] if self._queue_select < len(queues) else None

    def _store(self, offset: int, size: int, value: int) -> None:
        with self.device.lock:
            if offset < ISR_AT:
                width = _width_at(offset)
                first = offset - offset % width
                self._store_common(first, merge(self._load_common(first), offset, min(size, width), value, width))
            elif DEVICE_AT <= offset < NOTIFY_AT:
                self.device.write_config(offset - DEVICE_AT, value.to_bytes(size, "little"))
            elif offset >= NOTIFY_AT:
                self.device.notify((offset - NOTIFY_AT) // NOTIFY_MULTIPLIER)

    def _store_common(self, offset: int, value: int) -> None:
        device, queue = self.device, self._queue
        match offset:
            case Common.DEVICE_FEATURE_SELECT:
                self._device_feature_select = value
            case Common.DRIVER_FEATURE_SELECT:
                self._driver_feature_select = value
            case Common.DRIVER_FEATURE:
                device.accept_features(with_word(device.driver_features, self._driver_feature_select, value))
            case Common.STATUS:
                device.set_status(value, is_legacy=False)
                if value == 0:
                    self._reset()
            case Common.QUEUE_SELECT:
                self._queue_select = value
        if queue is None or queue.ready:
            return
        if offset == Common.QUEUE_SIZE:
            if queue.check_size(value):
                queue.size = value
        elif offset == Common.QUEUE_ENABLE:
            if value == 1:
                device.enable_queue(queue)
        elif name := ADDRESSES.get(offset):
            setattr(queue, name, value)

    def state_loaded(self) -> None:
        """Put the BAR where the registers say, and set the interrupt line."""
        super().state_loaded()
        self._irq.set(self._interrupt_status != 0)

    def __repr__(self) -> str:
        return f"<VirtioPci of {self.device!r}>"


class _Structures(DeviceIo):
    """What is in the BAR."""

    def __init__(self, function: VirtioPci) -> None:
        self._function = function

    def load(self, base: int, offset: int, size: int) -> int:
        return self._function._load(offset, size)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self._function._store(offset, size, value)

    def __repr__(self) -> str:
        return f"{self._function!r}"


def _width_at(offset: int) -> int:
    """Return how many bytes the field of the common configuration at an offset has."""
    if offset >= Common.QUEUE_DESCRIPTORS:
        return 8
    if offset < Common.CONFIG_VECTOR:
        return 4
    return 1 if offset in (Common.STATUS, Common.CONFIG_GENERATION) else 2
