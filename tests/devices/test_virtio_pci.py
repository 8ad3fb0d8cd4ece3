"""Virtio devices on PCI, from the side of their driver."""

import struct
import threading

import pytest
from helpers import DEADLOCK, Worker
from virtio_driver import RAM, RAM_SIZE, Queue

from dbs_device import IoManager, Resource
from dbs_device.devices.pci import PciBus
from dbs_device.devices.pci_device import PciEcam
from dbs_device.devices.storage import MemoryStorage
from dbs_device.devices.virtio import VERSION_1
from dbs_device.devices.virtio_block import VirtioBlock
from dbs_device.devices.virtio_console import VirtioConsole
from dbs_device.devices.virtio_pci import VirtioPci
from dbs_device.memory import GuestMemory, Ram

ECAM, BAR = 0x3F00_0000, 0x1_1000_0000
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4


class Machine:
    """RAM, PCI and a virtio device, with its driver's side, which finds everything by the capabilities."""

    def __init__(self, device, manager=None):
        self.manager = manager or IoManager()
        self.ram = Ram(RAM_SIZE)
        self.manager.register_device_io(self.ram, [Resource.MemAddressRange(RAM, RAM_SIZE)])
        self.memory = GuestMemory(self.manager)
        self.edges = []
        self.function = VirtioPci(self.manager, device, memory=self.memory, irq=self.edges.append)
        self.device = device
        bus = PciBus()
        bus.plug((0, 0, 0), self.function)
        self.manager.register_device_io(PciEcam(bus), [Resource.MmioAddressRange(ECAM, 1 << 20)])
        self._free = RAM + 0x1000

    def allocate(self, size):
        address, self._free = self._free, self._free + size + 63 & -64
        return address

    def read(self, address, size):
        return self.memory.read(address, size)

    def write(self, address, data):
        self.memory.write(address, data)

    def config(self, offset, size):
        return self.manager.mmio_load(ECAM + offset, size)

    def find(self):
        """Put the BAR somewhere, and return where the structures are."""
        self.manager.mmio_store(ECAM + 0x20, 4, BAR & 0xFFFF_FFFF)
        self.manager.mmio_store(ECAM + 0x24, 4, BAR >> 32)
        self.manager.mmio_store(ECAM + 4, 2, 6)
        found, at = {}, self.config(0x34, 1)
        while at:
            if self.config(at, 1) == 9:
                assert self.config(at + 4, 1) == 4
                found[self.config(at + 3, 1)] = BAR + self.config(at + 8, 4)
                if self.config(at + 3, 1) == NOTIFY:
                    self.multiplier = self.config(at + 16, 4)
            at = self.config(at + 1, 1)
        return found

    def load(self, offset, size=4):
        return self.manager.mmio_load(self.at[COMMON] + offset, size)

    def common(self, offset, size, value):
        self.manager.mmio_store(self.at[COMMON] + offset, size, value)

    def store(self, offset, value):
        """The notification of `Queue`, which knows the registers in memory."""
        assert offset == 0x50
        self.common(0x16, 2, value)
        address = self.at[NOTIFY] + self.load(0x1E, 2) * self.multiplier
        self.manager.mmio_store(address, 2, value)

    def start(self):
        self.at = self.find()
        self.common(0x14, 1, 0)
        self.common(0x14, 1, 3)
        offered = 0
        for select in (0, 1):
            self.common(0x00, 4, select)
            offered |= self.load(0x04) << 32 * select
        for select in (0, 1):
            self.common(0x08, 4, select)
            self.common(0x0C, 4, offered >> 32 * select & 0xFFFF_FFFF)
        self.common(0x14, 1, 0xB)
        assert self.load(0x14, 1) == 0xB
        assert offered & VERSION_1
        self.queues = []
        for index in range(self.load(0x12, 2)):
            self.common(0x16, 2, index)
            queue = Queue(self, index, min(self.load(0x18, 2), 16))
            self.common(0x18, 2, queue.size)
            for register, address in ((0x20, queue.descriptors), (0x28, queue.driver), (0x30, queue.device)):
                self.common(register, 4, address & 0xFFFF_FFFF)
                self.common(register + 4, 4, address >> 32)
                assert self.load(register, 8) == address
            self.common(0x1C, 2, 1)
            self.queues.append(queue)
        self.common(0x14, 1, 0xF)
        return self


@pytest.fixture
def machine():
    return Machine(VirtioBlock(MemoryStorage(bytearray(b"sector" * 1024)))).start()


def test_the_guest_recognises_it(machine):
    assert machine.config(0, 4) == 0x1042_1AF4
    assert machine.config(8, 4) == 0x010000_01
    assert machine.config(0x3D, 1) == 1
    assert machine.manager.mmio_load(machine.at[DEVICE], 8) == 12


def test_a_driver_reads_sectors(machine):
    _, [data, status] = machine.queues[0].send(struct.pack("<IIQ", 0, 0, 3), 512, 1)
    assert (data, status) == ((b"sector" * 1024)[3 * 512 : 4 * 512], b"\0")
    assert machine.edges == [True]
    assert machine.manager.mmio_load(machine.at[ISR], 1) == 1  # a read acknowledges
    assert machine.edges == [True, False]
    assert machine.manager.mmio_load(machine.at[ISR], 1) == 0


def test_it_goes_on_after_the_guest_has_moved_it(machine):
    machine.manager.mmio_store(ECAM + 0x24, 4, 7)
    machine.at = {kind: address - BAR + (7 << 32 | BAR & 0xFFFF_FFFF) for kind, address in machine.at.items()}
    assert machine.load(0x14, 1) == 0xF
    machine.queues[0].send(struct.pack("<IIQ", 4, 0, 0), 1)


def test_the_status_registers(machine):
    machine.common(0x16, 2, 5)  # there is no such queue
    assert [machine.load(offset, 2) for offset in (0x18, 0x1C, 0x1E)] == [0, 0, 0]
    assert machine.load(0x10, 2) == 0xFFFF
    machine.common(0x14, 1, 0)
    assert machine.load(0x14, 1) == 0
    machine.common(0x16, 2, 0)
    assert machine.load(0x1C, 2) == 0
    machine.common(0x18, 2, 3)
    assert machine.load(0x18, 2) == 256


def test_a_change_of_the_configuration_interrupts():
    machine = Machine(VirtioConsole(print, columns=80, rows=25)).start()
    generation = machine.load(0x15, 1)
    machine.device.resize(100, 30)
    assert machine.manager.mmio_load(machine.at[DEVICE], 4) == 30 << 16 | 100
    assert machine.load(0x15, 1) != generation
    assert machine.manager.mmio_load(machine.at[ISR], 1) == 2


def test_a_back_end_is_not_held_up_by_a_bar_that_waits_for_a_transaction():
    waits = threading.Event()

    class Manager(IoManager):
        def begin_tx(self):
            waits.set()
            return super().begin_tx()

    machine = Machine(console := VirtioConsole(print), Manager())
    machine.find()
    with machine.manager.begin_tx():
        waits.clear()
        guest = Worker(machine.manager.mmio_store, ECAM + 4, 2, 0)  # memory space off
        assert waits.wait(DEADLOCK)
        Worker(console.receive, b"typed").result()
    guest.result()


def test_the_driver_writes_the_configuration():
    sent = []
    machine = Machine(VirtioConsole(sent.append)).start()
    machine.manager.mmio_store(machine.at[DEVICE] + 8, 4, ord("!"))
    assert sent == [b"!"]


def test_a_broken_queue_needs_a_reset(machine):
    queue = machine.queues[0]
    queue.describe(0, RAM, 4, 1, 0)
    queue.expose(0)
    queue.notify()
    assert machine.load(0x14, 1) & 0x40
    assert machine.manager.mmio_load(machine.at[ISR], 1) == 2


def test_it_goes_on_from_its_state(machine):
    other = Machine(VirtioBlock(MemoryStorage(bytearray(b"sector" * 1024))))
    other.ram.view[:] = machine.ram.view
    other.function.load_state(machine.function.save_state())
    other.at, other.multiplier = machine.at, machine.multiplier
    queue = machine.queues[0]
    queue.machine = other
    other._free = machine._free
    _, [data, status] = queue.send(struct.pack("<IIQ", 0, 0, 1), 512, 1)
    assert (data, status) == ((b"sector" * 1024)[512:1024], b"\0")
