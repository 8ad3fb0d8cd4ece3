"""A driver of virtio devices, as its specification describes one, and a machine for it."""

from __future__ import annotations

import struct

from dbs_device import IoManager, Resource
from dbs_device.devices.virtio import VERSION_1, VirtioDevice
from dbs_device.devices.virtio_mmio import VirtioMmio
from dbs_device.memory import GuestMemory, Ram

RAM, RAM_SIZE = 0x4000_0000, 0x10_0000
BASE = 0x0A00_0000
NEXT, WRITE, INDIRECT = 1, 2, 4
EVENT_IDX, INDIRECT_DESC = 1 << 29, 1 << 28


class Queue:
    """A queue as its driver has it, at a place of its own in RAM."""

    def __init__(self, machine: Machine, index: int, size: int) -> None:
        self.machine, self.index, self.size = machine, index, size
        self.descriptors = machine.allocate(16 * size)
        self.driver = machine.allocate(6 + 2 * size)
        self.device = machine.allocate(6 + 8 * size)
        self.available = 0
        self.seen = 0

    def describe(self, number: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Fill a descriptor of the table."""
        self.machine.write(self.descriptors + 16 * number, struct.pack("<QIHH", address, length, flags, following))

    def expose(self, *heads: int) -> None:
        """Make chains available, without a notification."""
        for head in heads:
            entry = self.driver + 4 + 2 * (self.available % self.size)
            self.machine.write(entry, struct.pack("<H", head))
            self.available += 1
        self.machine.write(self.driver + 2, struct.pack("<H", self.available & 0xFFFF))

    def notify(self) -> None:
        self.machine.store(0x50, self.index)

    def used(self) -> list[tuple[int, int]]:
        """(head, bytes written) of the chains that came back since the last call."""
        index = struct.unpack("<H", self.machine.read(self.device + 2, 2))[0]
        found = []
        while self.seen & 0xFFFF != index:
            entry = self.device + 4 + 8 * (self.seen % self.size)
            found.append(struct.unpack("<II", self.machine.read(entry, 8)))
            self.seen += 1
        return found

    def send(self, *buffers: bytes | int, indirect: bool = False) -> tuple[int, list[bytes]]:
        """Make one chain of buffers to read (bytes) and to write (their sizes) available, and wait for it.

        Returns the number of bytes written, and the contents of the buffers to write.
        """
        places, head = self.prepare(*buffers, indirect=indirect)
        self.expose(head)
        self.notify()
        [(used, written)] = self.used()
        assert used == head
        return written, [self.machine.read(*place) for place in places]

    def prepare(self, *buffers: bytes | int, indirect: bool = False) -> tuple[list[tuple[int, int]], int]:
        """Describe one chain; return address and size of the buffers to write, and its first descriptor."""
        table = self.machine.allocate(16 * len(buffers)) if indirect else self.descriptors
        places = []
        for number, buffer in enumerate(buffers):
            is_last = number == len(buffers) - 1
            size = buffer if isinstance(buffer, int) else len(buffer)
            address = self.machine.allocate(size)
            if isinstance(buffer, int):
                places.append((address, size))
            else:
                self.machine.write(address, buffer)
            flags = (WRITE if isinstance(buffer, int) else 0) | (0 if is_last else NEXT)
            entry = struct.pack("<QIHH", address, size, flags, 0 if is_last else number + 1)
            self.machine.write(table + 16 * number, entry)
        if indirect:
            self.describe(0, table, 16 * len(buffers), INDIRECT)
        return places, 0


class Machine:
    """RAM, a virtio device behind its registers, and the driver's side of both."""

    def __init__(self, device: VirtioDevice, *, legacy: bool = False) -> None:
        self.manager = IoManager()
        self.ram = Ram(RAM_SIZE)
        self.manager.register_device_io(self.ram, [Resource.MmioAddressRange(RAM, RAM_SIZE)])
        self.memory = GuestMemory(self.manager)
        self.edges: list[bool] = []
        self.mmio = VirtioMmio(device, memory=self.memory, irq=self.edges.append, legacy=legacy)
        self.manager.register_device_io(self.mmio, [Resource.MmioAddressRange(BASE, self.mmio.size)])
        self.device = device
        self.legacy = legacy
        self.queues: list[Queue] = []
        self._free = RAM + 0x1000

    def allocate(self, size: int) -> int:
        address, self._free = self._free, self._free + size + 63 & -64
        assert self._free <= RAM + RAM_SIZE
        return address

    def read(self, address: int, size: int) -> bytes:
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self.memory.write(address, data)

    def load(self, offset: int, size: int = 4) -> int:
        return self.manager.mmio_load(BASE + offset, size)

    def store(self, offset: int, value: int, size: int = 4) -> None:
        self.manager.mmio_store(BASE + offset, size, value)

    def offered(self) -> int:
        words = []
        for select in (0, 1):
            self.store(0x14, select)
            words.append(self.load(0x10))
        return words[0] | words[1] << 32

    def start(self, features: int | None = None, size: int = 16) -> Machine:
        """Initialise the device as section 3.1.1 says, with all features that it offers, or these."""
        features = self.offered() if features is None else features | (0 if self.legacy else VERSION_1)
        self.store(0x70, 0)
        for status in (1, 3):
            self.store(0x70, status)
        for select in (0, 1):
            self.store(0x24, select)
            self.store(0x20, features >> 32 * select & 0xFFFF_FFFF)
        if not self.legacy:
            self.store(0x70, 0xB)
            assert self.load(0x70) == 0xB
        self.queues = [self.set_up(index, size) for index in range(len(self.device.queues))]
        self.store(0x70, 7 if self.legacy else 0xF)
        return self

    def set_up(self, index: int, size: int = 16) -> Queue:
        self.store(0x30, index)
        size = min(size, self.load(0x34))
        queue = Queue(self, index, size)
        self.store(0x38, size)
        if self.legacy:
            self._free = self._free + 4095 & -4096
            pages = self.allocate(3 * 4096)
            queue.descriptors = pages
            queue.driver = pages + 16 * size
            queue.device = pages + 4096
            self.store(0x28, 4096)
            self.store(0x3C, 4096)
            self.store(0x40, pages >> 12)
            return queue
        for offset, address in ((0x80, queue.descriptors), (0x90, queue.driver), (0xA0, queue.device)):
            self.store(offset, address & 0xFFFF_FFFF)
            self.store(offset + 4, address >> 32)
        self.store(0x44, 1)
        assert self.load(0x44) == 1
        return queue

    @property
    def needs_reset(self) -> bool:
        return bool(self.load(0x70) & 0x40)


def give(queue: Queue, *sizes: int) -> list[tuple[int, int]]:
    """Give the device buffers of its own to write, a chain each; return where they are."""
    places = []
    for number, size in enumerate(sizes):
        places.append((queue.machine.allocate(size), size))
        queue.describe(number, *places[-1], 2)
    queue.expose(*range(len(sizes)))
    queue.notify()
    return places


def collect(queue: Queue, places: list[tuple[int, int]]) -> list[bytes]:
    """What has come into the buffers."""
    return [queue.machine.read(places[head][0], written) for head, written in queue.used()]
