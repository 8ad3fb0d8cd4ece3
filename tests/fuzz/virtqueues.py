"""Virtio devices with a hostile driver: random registers, rings and chains in RAM.

There is no model of what a broken driver gets. Whatever it does: no exception comes out of an access, nothing outside
the disk is touched, and after a reset the device serves a driver that keeps the rules.
"""

from __future__ import annotations

import struct
from typing import Any

from dbs_device import IoManager, Resource
from dbs_device.devices.storage import MemoryStorage
from dbs_device.devices.virtio_block import VirtioBlock
from dbs_device.devices.virtio_console import VirtioConsole
from dbs_device.devices.virtio_mmio import VirtioMmio
from dbs_device.devices.virtio_rng import VirtioRng
from dbs_device.memory import GuestMemory, Ram, Rom

from .harness import Run

RAM_BASE, RAM_SIZE, ROM_BASE, DEVICE = 0x8000_0000, 0x8000, 0x9000_0000, 0xA000_0000
SECTORS = 16
STATUS, NOTIFY, SELECT, SIZE, READY, PFN = 0x70, 0x50, 0x30, 0x38, 0x44, 0x40
REGISTERS = (0x14, 0x20, 0x24, 0x28, 0x30, 0x38, 0x3C, 0x40, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4)


class Machine:
    def __init__(self, run: Run) -> None:
        self.run, self.random = run, run.random
        self.ram = Ram(RAM_SIZE)
        self.bus = IoManager(open_bus=run.random.choice([None, 0xFF]))
        self.disk = bytearray(run.random.randbytes(512 * SECTORS))
        legacy = run.random.random() < 0.4
        self.device = run.random.choice([self.block, self.block, self.console, self.rng])()
        self.mmio = VirtioMmio(self.device, memory=GuestMemory(self.bus), legacy=legacy)
        self.run.step("machine", self.mmio, legacy)
        self.bus.register_device_io(self.ram, [Resource.MemAddressRange(RAM_BASE, RAM_SIZE)])
        self.bus.register_device_io(Rom(bytes(0x1000)), [Resource.MemAddressRange(ROM_BASE, 0x1000)])
        self.bus.register_device_io(self.mmio, [Resource.MmioAddressRange(DEVICE, 0x200)])

    def block(self) -> Any:
        # A guest may not reach the bytes around the disk.
        self.around = bytearray(b"\xa5" * 512) + self.disk + bytearray(b"\xa5" * 512)
        return VirtioBlock(MemoryStorage(memoryview(self.around)[512:-512]), queue_size=8)

    def console(self) -> Any:
        return VirtioConsole(lambda data: None)

    def rng(self) -> Any:
        return VirtioRng()

    # -- the driver

    def store(self, offset: int, value: int, size: int = 4) -> None:
        self.run.step("store", hex(offset), value, size)
        self.bus.mmio_store(DEVICE + offset, size, value)

    def address(self) -> int:
        """Return an address for a ring or a buffer: most are in RAM."""
        random = self.random
        if random.random() < 0.85:
            return RAM_BASE + 8 * random.randrange(RAM_SIZE // 8)
        ends = [0, RAM_BASE - 4, RAM_BASE + RAM_SIZE - random.randrange(40), ROM_BASE, DEVICE, 2**64 - 8, 2**63]
        return random.choice(ends)

    def set_up(self) -> None:
        """Initialise the device, more or less as a driver should."""
        random = self.random
        for status in (0, 1, 3):
            self.store(STATUS, status)
        for select in (0, 1):
            self.store(0x24, select)
            self.store(0x20, random.choice([0, 1 << 14, 1 << 28, 1 << 29, 3 << 28, random.getrandbits(32)]) | select)
        self.store(STATUS, 11)
        for queue in range(len(self.device.queues)):
            self.store(SELECT, queue)
            self.store(SIZE, random.choice([1, 2, 4, 8, 8, 64, 3, 0, 32768]))
            if self.mmio.legacy:
                self.store(0x28, 0x1000)
                self.store(PFN, random.choice([RAM_BASE >> 12, (RAM_BASE >> 12) + 4, random.getrandbits(32)]))
                continue
            for low in (0x80, 0x90, 0xA0):
                address = self.address()
                self.store(low, address & 0xFFFF_FFFF)
                self.store(low + 4, address >> 32)
            self.store(READY, 1)
        self.store(STATUS, 15)

    def write_rings(self) -> None:
        """Write descriptors and an available ring where the device looks for them."""
        random = self.random
        queue = random.choice(self.device.queues)
        self.run.step("rings", hex(queue.descriptors), hex(queue.driver), queue.size)
        count = random.randint(1, 8)
        table = queue.descriptors - RAM_BASE
        for index in range(count):
            size = random.choice([0, 1, 16, 16, 512, 1024, 0x7FFF, 0xFFFF_FFFF, random.getrandbits(32)])
            flags = random.choice([0, 1, 1, 1, 2, 3, 4, 5, 7, random.getrandbits(16)])
            entry = struct.pack("<QIHH", self.address(), size, flags, random.choice([index + 1, 0, index, 0xFFFF]))
            self.poke(table + 16 * index, entry)
        if random.random() < 0.5:
            self.poke_request(table)
        ring = queue.driver - RAM_BASE
        behind = getattr(queue, "_available", 0)
        ahead = random.choice([0, 1, 1, 2, queue.size, 0xFFFF])
        self.poke(ring, struct.pack("<HH", random.choice([0, 1]), behind + ahead & 0xFFFF))
        for index in range(8):
            self.poke(ring + 4 + 2 * index, struct.pack("<H", random.choice([0, index, random.getrandbits(16)])))

    def poke_request(self, table: int) -> None:
        """Write a header in RAM, and the descriptors of a request that is nearly right."""
        random = self.random
        header = RAM_SIZE - 0x1000
        sector = random.choice([0, 1, SECTORS - 1, SECTORS, 2**63, 2**64 - 1])
        self.poke(header, struct.pack("<IIQ", random.choice([0, 0, 1, 4, 8, 11, 13, 99]), 0, sector))
        self.poke(header + 0x800, struct.pack("<QII", sector, random.choice([1, SECTORS, 2**32 - 1]), 0))
        data = random.choice([header + 0x800, header + 0x100])
        for index, (at, size, flags) in enumerate(
            [
                (header, 16, 1),
                (data, random.choice([512, 1024, 16, 511]), random.choice([1, 3])),
                (header + 0xF00, 1, 2),
            ]
        ):
            self.poke(table + 16 * index, struct.pack("<QIHH", RAM_BASE + at, size, flags, index + 1))

    def poke(self, offset: int, data: bytes) -> None:
        if 0 <= offset <= RAM_SIZE - len(data):
            self.ram.view[offset : offset + len(data)] = data

    def anything(self) -> None:
        random = self.random
        if random.random() < 0.3:
            self.poke(random.randrange(RAM_SIZE), random.randbytes(random.choice([2, 16, 256])))
            return
        offset = random.choice([*REGISTERS, random.randrange(0x200)])
        size = random.choice([4, 4, 4, 1, 2, 8])
        value = random.choice([0, 1, 2, 0x8000_0000, 2**32 - 1, random.getrandbits(32), self.address()])
        if offset + size <= 0x200:
            self.store(offset, value % (1 << 8 * size), size)
            self.bus.mmio_load(DEVICE + offset, size)

    def receive(self) -> None:
        if isinstance(self.device, VirtioConsole):
            self.run.step("receive")
            self.device.receive(self.random.randbytes(100))

    def notify(self) -> None:
        self.store(NOTIFY, self.random.choice([0, 0, 1, 2, 0xFFFF_FFFF]))
        if isinstance(self.device, VirtioBlock):
            assert self.around[:512] == self.around[-512:] == b"\xa5" * 512

    def check_that_it_recovers(self) -> None:
        """Reset the device, and read a sector by the rules."""
        if not isinstance(self.device, VirtioBlock):
            return
        self.run.step("recover")
        for offset, value in (
            (STATUS, 0),
            (STATUS, 3),
            (0x24, 0),
            (0x20, 0),
            (0x24, 1),
            (0x20, int(not self.mmio.legacy)),
        ):
            self.store(offset, value)
        self.store(STATUS, 11)
        self.store(SELECT, 0)
        self.store(SIZE, 8)
        self.ram.view[:] = bytes(RAM_SIZE)
        if self.mmio.legacy:
            self.store(0x28, 0x1000)
            self.store(0x3C, 0x1000)
            self.store(PFN, RAM_BASE >> 12)
        else:
            for low, address in ((0x80, RAM_BASE), (0x90, RAM_BASE + 0x800), (0xA0, RAM_BASE + 0x1000)):
                self.store(low, address)
                self.store(low + 4, 0)
            self.store(READY, 1)
        self.store(STATUS, 15)
        available = self.device.queues[0].driver - RAM_BASE
        header, data, status = 0x4000, 0x4100, 0x4800
        self.poke(header, struct.pack("<IIQ", 0, 0, 5))
        self.poke(status, b"\xff")
        for index, entry in enumerate([(header, 16, 1), (data, 512, 3), (status, 1, 2)]):
            self.poke(16 * index, struct.pack("<QIHH", RAM_BASE + entry[0], *entry[1:], index + 1))
        self.poke(available, struct.pack("<HHH", 0, 1, 0))
        self.store(NOTIFY, 0)
        assert self.ram.view[status] == 0, "a request by the rules is not served"
        assert self.ram.view[data : data + 512] == self.around[6 * 512 : 7 * 512]


def play(run: Run) -> None:
    machine = Machine(run)
    while run.more():
        operations = [machine.write_rings, machine.write_rings, machine.notify, machine.notify, machine.anything]
        run.random.choice([machine.set_up, *operations * 2, machine.receive])()
    machine.check_that_it_recovers()
