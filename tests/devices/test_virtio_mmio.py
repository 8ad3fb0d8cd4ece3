"""The registers of virtio devices, and the queues behind them: what a driver may do, and what it must not."""

import json
import random
import struct

import pytest
from virtio_driver import BASE, EVENT_IDX, INDIRECT, NEXT, RAM, RAM_SIZE, WRITE, Machine

from dbs_device import DeviceIo, Resource
from dbs_device.devices.storage import MemoryStorage
from dbs_device.devices.virtio import VERSION_1, VirtioDevice
from dbs_device.devices.virtio_block import VirtioBlock
from dbs_device.devices.virtio_mmio import VirtioMmio
from dbs_device.errors import StateError
from dbs_device.memory import Ram


class Echo(VirtioDevice):
    """Writes what it reads, backwards."""

    device_id = 42

    def __init__(self):
        super().__init__(features=0b11, queue_sizes=[16, 4], config=b"\1\2\3\4\5")
        self.served = []
        self.is_ready = True

    def serve(self, queue, chain):
        if not self.is_ready:
            return None
        data = chain.read(1 << 20)
        self.served.append((queue.index, data))
        return chain.write(data[::-1])

    def write_config(self, offset, data):
        self.config[offset : offset + len(data)] = data


@pytest.fixture
def machine():
    return Machine(Echo()).start()


def test_a_driver_sends_and_receives(machine):
    assert machine.queues[0].send(b"hello ", b"virtio", 8, 8) == (12, [b"oitriv o", b"lleh\0\0\0\0"])
    assert machine.queues[1].send(b"x", 1) == (1, [b"x"])
    assert machine.device.served == [(0, b"hello virtio"), (1, b"x")]


def test_the_interrupt_stays_until_it_is_acknowledged(machine):
    machine.queues[0].send(b"a", 1)
    assert (machine.edges, machine.load(0x60)) == ([True], 1)
    machine.store(0x64, 1)
    assert (machine.edges, machine.load(0x60)) == ([True, False], 0)


def test_many_chains_are_served_by_one_notification(machine):
    queue = machine.queues[0]
    address = machine.allocate(64)
    for number in range(16):
        queue.describe(number, address, 4)
    queue.expose(*range(16))
    queue.notify()
    assert [head for head, _ in queue.used()] == list(range(16))
    for _ in range(8200):  # the indices wrap at 2**16
        queue.expose(*range(8))
        queue.notify()
        assert len(queue.used()) == 8
    assert not machine.needs_reset


def test_what_the_device_cannot_serve_waits(machine):
    machine.device.is_ready = False
    queue = machine.queues[0]
    queue.prepare(b"wait")
    queue.expose(0)
    queue.notify()
    assert queue.used() == []
    machine.device.is_ready = True
    machine.device.service(machine.device.queues[0])
    assert queue.used() == [(0, 0)]


def test_a_driver_that_does_not_want_interrupts_gets_none():
    machine = Machine(Echo()).start(features=0)
    queue = machine.queues[0]
    machine.write(queue.driver, b"\1\0")
    queue.send(b"x")
    assert machine.edges == []
    machine.write(queue.driver, b"\0\0")
    queue.send(b"x")
    assert machine.edges == [True]


def test_with_event_idx_the_driver_says_when(machine):
    assert machine.device.has_feature(EVENT_IDX)
    queue = machine.queues[0]
    queue.describe(0, machine.allocate(4), 4)
    used_event = queue.driver + 4 + 2 * queue.size
    avail_event = queue.device + 4 + 8 * queue.size
    machine.write(used_event, struct.pack("<H", 2))
    for expected in (False, False, True):
        queue.expose(0)
        queue.notify()
        assert (machine.edges == [True]) is expected
        assert machine.read(avail_event, 2) == struct.pack("<H", queue.available)


def test_features_that_were_not_offered_are_not_accepted():
    machine = Machine(Echo())
    assert machine.offered() == 0b11 | 1 << 28 | 1 << 29 | VERSION_1
    machine.store(0x14, 2)
    assert machine.load(0x10) == 0
    for words in [(0b111, 1), (0b11, 0), (0, 3)]:
        machine.store(0x70, 0)
        machine.store(0x70, 3)
        for select, word in enumerate(words):
            machine.store(0x24, select)
            machine.store(0x20, word)
        machine.store(0x70, 0xB)
        assert machine.load(0x70) == 3


def test_features_are_fixed_once_they_are_accepted(machine):
    before = machine.device.driver_features
    machine.store(0x24, 0)
    machine.store(0x20, 0)
    assert machine.device.driver_features == before


def test_a_queue_in_use_does_not_change(machine):
    machine.store(0x30, 0)
    machine.store(0x38, 2)
    machine.store(0x80, 0)
    assert machine.queues[0].send(b"ab", 2) == (2, [b"ba"])
    machine.store(0x44, 0)
    assert machine.load(0x44) == 0
    machine.queues[0].expose(0)
    machine.queues[0].notify()
    assert machine.queues[0].used() == []


def test_sizes_that_a_queue_cannot_have_are_ignored():
    machine = Machine(Echo())
    for size in (0, 3, 32, 0xFFFF_FFFF):
        machine.store(0x38, size)
        assert machine.device.queues[0].size == 16
    machine.store(0x30, 2)  # there is no third
    assert (machine.load(0x34), machine.load(0x44)) == (0, 0)
    machine.store(0x38, 4)
    machine.store(0x44, 1)
    machine.store(0x50, 7)


def test_nothing_is_served_before_driver_ok():
    machine = Machine(Echo()).start()
    machine.store(0x70, 0)
    machine.store(0x70, 0xB)
    queue = machine.set_up(0)
    queue.prepare(b"early")
    queue.expose(0)
    queue.notify()
    assert machine.device.served == []
    machine.store(0x70, 0xF)
    assert machine.device.served == [(0, b"early")]


def test_the_configuration_space(machine):
    assert [machine.load(0x100 + i, 1) for i in range(6)] == [1, 2, 3, 4, 5, 0]
    assert machine.load(0x100, 8) == 0x05_0403_0201
    assert machine.load(0x1F8, 8) == 0
    generation = machine.load(0xFC)
    machine.device.update_config(1, b"\xff")
    assert machine.load(0x100, 2) == 0xFF01
    assert machine.load(0xFC) != generation
    assert machine.load(0x60) == 2
    with pytest.raises(ValueError, match="2 bytes at 4"):
        machine.device.update_config(4, b"ab")


def test_registers_take_words_only(machine):
    assert (machine.load(0, 1), machine.load(0, 2), machine.load(0, 8)) == (0, 0, 0)
    machine.store(0x70, 0, size=1)
    assert machine.load(0x70) == 0xF
    assert machine.load(0xB0) == 0xFFFF_FFFF  # the length of a shared memory region that does not exist


def test_a_legacy_driver():
    machine = Machine(Echo(), legacy=True).start()
    assert machine.load(0x4) == 1
    assert machine.device.driver_features == 0b11 | 1 << 28 | 1 << 29
    machine.store(0x30, 0)
    assert machine.load(0x40) == machine.queues[0].descriptors >> 12
    assert machine.queues[0].send(b"hello", 5) == (5, [b"olleh"])
    machine.store(0x40, 0)
    assert machine.load(0x40) == 0
    machine.queues[0].expose(0)
    machine.queues[0].notify()
    assert len(machine.device.served) == 1


# What a driver must not do.


def send(machine, *descriptors, head=0):
    """Describe, expose and notify; the machine's device needs a reset afterwards."""
    queue = machine.queues[0]
    for number, descriptor in enumerate(descriptors):
        queue.describe(number, *descriptor)
    queue.expose(head)
    queue.notify()


def loop(machine):
    send(machine, (RAM, 4, NEXT, 1), (RAM, 4, NEXT, 0))


def loop_to_itself(machine):
    send(machine, (RAM, 0, NEXT, 0))


def head_outside_the_table(machine):
    send(machine, (RAM, 4), head=16)


def next_outside_the_table(machine):
    send(machine, (RAM, 4, NEXT, 0xFFFF))


def available_index_jumps(machine):
    machine.write(machine.queues[0].driver + 2, struct.pack("<H", 17))
    machine.queues[0].notify()


def buffer_outside_ram(machine):
    send(machine, (RAM + RAM_SIZE, 4))


def buffer_that_runs_off_ram(machine):
    send(machine, (RAM + RAM_SIZE - 4, 5, WRITE))


def buffer_that_wraps(machine):
    send(machine, (2**64 - 2, 4, WRITE))


def buffer_in_registers(machine):
    send(machine, (BASE, 0x100, WRITE))


def huge_buffer(machine):
    send(machine, (RAM, 0xFFFF_FFFF, NEXT, 1), (RAM, 0xFFFF_FFFF))


def read_after_write(machine):
    send(machine, (RAM, 4, WRITE | NEXT, 1), (RAM, 4))


def indirect_of_odd_length(machine):
    send(machine, (RAM, 17, INDIRECT))


def empty_indirect(machine):
    send(machine, (RAM, 0, INDIRECT))


def indirect_with_next(machine):
    send(machine, (RAM, 16, INDIRECT | NEXT, 1), (RAM, 4))


def indirect_in_indirect(machine):
    machine.write(RAM + 0x800, struct.pack("<QIHH", RAM + 0x800, 16, INDIRECT, 0))
    send(machine, (RAM + 0x800, 16, INDIRECT))


def indirect_with_a_loop(machine):
    machine.write(RAM + 0x800, struct.pack("<QIHH", RAM, 4, NEXT, 0))
    send(machine, (RAM + 0x800, 16, INDIRECT))


def indirect_outside_ram(machine):
    send(machine, (RAM - 16, 32, INDIRECT))


def reset_queue_with(offset, value):
    def set_up(machine):
        machine.store(0x30, 0)
        machine.store(0x44, 0)
        machine.store(offset, value)
        machine.store(0x44, 1)
        # Serving begins at the next notification.
        machine.queues[0].expose(0)
        machine.queues[0].notify()

    return set_up


table_outside_ram = reset_queue_with(0x80, 0x10)
available_ring_outside_ram = reset_queue_with(0x90, 0x10)
used_ring_outside_ram = reset_queue_with(0xA4, 0xFFFF_FFFF)
table_that_runs_off_ram = reset_queue_with(0x80, RAM + RAM_SIZE - 16)

ATTACKS = [
    loop, loop_to_itself, head_outside_the_table, next_outside_the_table, available_index_jumps, buffer_outside_ram,
    buffer_that_runs_off_ram, buffer_that_wraps, buffer_in_registers, huge_buffer, read_after_write,
    indirect_of_odd_length, empty_indirect, indirect_with_next, indirect_in_indirect, indirect_with_a_loop,
    indirect_outside_ram, table_outside_ram, available_ring_outside_ram, used_ring_outside_ram, table_that_runs_off_ram,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_driver_that_breaks_the_rules_has_to_reset_the_device(attack, caplog):
    machine = Machine(Echo()).start()
    attack(machine)
    assert machine.needs_reset
    assert machine.load(0x60) & 2  # it is told
    assert "needs a reset: virtqueue 0" in caplog.text
    served = list(machine.device.served)
    machine.queues[0].notify()
    machine.queues[1].notify()
    assert machine.device.served == served
    caplog.clear()
    attack(machine.start())
    assert machine.needs_reset
    assert machine.device.guest_errors == 2
    assert caplog.text == ""  # the first time is enough for the log
    assert machine.start().queues[0].send(b"again", 5) == (5, [b"niaga"])


def test_empty_buffers_do_no_harm(machine):
    send(machine, (2**64 - 1, 0, NEXT, 1), (RAM, 0, WRITE))
    assert machine.queues[0].used() == [(0, 0)]
    assert not machine.needs_reset


def test_a_buffer_may_span_two_rams(machine):
    neighbour = Ram(0x1000)
    machine.manager.register_device_io(neighbour, [Resource.MmioAddressRange(RAM + RAM_SIZE, 0x1000)])
    machine.write(RAM + RAM_SIZE - 3, b"abc")
    machine.write(RAM + RAM_SIZE, b"def")
    send(machine, (RAM + RAM_SIZE - 3, 6))
    assert machine.device.served == [(0, b"abcdef")]


def test_ram_that_is_unplugged_is_not_read(machine):
    machine.manager.unregister_device_io([Resource.MmioAddressRange(RAM, RAM_SIZE)])
    machine.queues[0].notify()
    assert machine.needs_reset


def test_a_reset_from_inside_the_device_ends_the_service(machine):
    class Backend(DeviceIo):
        def store(self, base, offset, size, value):
            machine.store(0x70, 0)

    serve = machine.device.serve

    def serve_and_reset(queue, chain):
        machine.store(0x70, 0)
        return serve(queue, chain)

    machine.device.serve = serve_and_reset
    queue = machine.queues[0]
    queue.prepare(b"x")
    queue.expose(0, 0)
    queue.notify()
    assert len(machine.device.served) == 1
    assert queue.used() == []
    assert machine.load(0x70) == 0


@pytest.mark.parametrize("seed", range(60))
def test_random_rings_and_registers_never_reach_the_host(seed):
    random_ = random.Random(seed)
    disk = bytearray(8 * 512)
    machine = Machine(VirtioBlock(MemoryStorage(disk), queue_size=16), legacy=random_.random() < 0.3).start()
    queue = machine.queues[0]
    places = [RAM, RAM + RAM_SIZE - 8, queue.descriptors, queue.device, BASE, 0, 2**64 - 4]
    for _ in range(30):
        for number in range(8):
            address = random_.choice(places) + random_.randrange(64)
            length = random_.choice([0, 1, 15, 16, 32, 512, 0x1000, 0xFFFF_FFFF])
            flags = random_.choice([0, 0, NEXT, NEXT, WRITE, NEXT | WRITE, INDIRECT, random_.getrandbits(16)])
            following = random_.choice([number + 1, random_.randrange(20)])
            queue.describe(number, address & 2**64 - 1, length, flags, following)
        queue.expose(random_.choice([0, 0, 0, random_.randrange(20)]))
        queue.notify()
        if random_.random() < 0.3:
            machine.store(4 * random_.randrange(0x80), random_.choice([0, 1, 3, 0xF, random_.getrandbits(32)]))
        if random_.random() < 0.2:
            machine.load(random_.randrange(0x1F8), random_.choice([1, 2, 4, 8]))
        if machine.needs_reset:
            queue = machine.start().queues[0]
            machine._free = RAM + 0x1000


def test_random_accesses_to_all_registers_are_harmless():
    random_ = random.Random(1)
    for legacy in (False, True):
        machine = Machine(Echo(), legacy=legacy)
        for _ in range(5000):
            offset, value = 4 * random_.randrange(0x80), random_.choice([0, 1, 2, 4, 0xF, random_.getrandbits(32)])
            machine.store(offset, value)
            machine.load(4 * random_.randrange(0x80))


# State.


def test_a_device_goes_on_from_its_state(machine):
    queue = machine.queues[0]
    machine.device.is_ready = False
    queue.prepare(b"saved", 5)
    queue.expose(0)
    queue.notify()
    machine.device.update_config(0, b"\7")
    other = Machine(Echo())
    other.ram.view[:] = machine.ram.view
    other.mmio.load_state(json.loads(json.dumps(machine.mmio.save_state(), default=list), object_hook=as_bytes))
    assert other.edges == [True]
    assert other.load(0x100, 1) == 7
    other.device.service(other.device.queues[0])
    assert other.device.served == [(0, b"saved")]


def as_bytes(value):
    """JSON has no bytes: make what was one again."""
    return {**value, "config": bytes(value["config"])} if "config" in value else value


def test_states_of_others_are_refused(machine):
    before = machine.mmio.save_state()
    other = Machine(VirtioBlock(MemoryStorage(bytes(512))))
    odd = json.loads(json.dumps(before, default=list), object_hook=as_bytes)
    odd["device"]["queues"][0]["size"] = 3
    for state, message in [
        (other.mmio.save_state(), "VirtioMmio.aligns is a list of 2"),
        ({**before, "page_size": 0}, "powers of 2"),
        ({**before, "legacy": True}, "legacy is False, not True"),
        ({**before, "device": {**before["device"], "kind": 1}}, "Echo.kind is 42, not 1"),
        ({**before, "device": {**before["device"], "features": 1}}, "Echo.features"),
        (odd, "virtqueue 0 cannot have 3 descriptors"),
    ]:
        with pytest.raises(StateError, match=message):
            machine.mmio.load_state(state)
        assert machine.mmio.save_state() == before


def test_a_device_has_one_transport(machine):
    with pytest.raises(ValueError, match="has a transport already"):
        VirtioMmio(machine.device, memory=machine.memory)
