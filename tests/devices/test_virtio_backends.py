"""Console, random numbers and network card on virtio, from the side of their drivers."""

import random
import struct
import threading

import pytest
from virtio_driver import Machine

from dbs_device.devices.virtio_console import VirtioConsole
from dbs_device.devices.virtio_net import VirtioNet
from dbs_device.devices.virtio_rng import VirtioRng

RECEIVE, TRANSMIT = 0, 1
each_transport = pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])


def give(queue, *sizes):
    """Give the device buffers of its own to write, a chain each; return where they are."""
    places = []
    for number, size in enumerate(sizes):
        places.append((queue.machine.allocate(size), size))
        queue.describe(number, *places[-1], 2)
    queue.expose(*range(len(sizes)))
    queue.notify()
    return places


def collect(queue, places):
    """What has come into the buffers."""
    return [queue.machine.read(places[head][0], written) for head, written in queue.used()]


@each_transport
def test_a_console_in_both_directions(legacy):
    sent = []
    console = VirtioConsole(sent.append)
    machine = Machine(console, legacy=legacy).start()
    machine.queues[TRANSMIT].send(b"hello ", b"host\n")
    assert b"".join(sent) == b"hello host\n"
    console.receive(b"before a buffer")
    places = give(machine.queues[RECEIVE], 10, 100, 100)
    assert collect(machine.queues[RECEIVE], places) == [b"before a b", b"uffer"]
    console.receive(b"after")
    assert collect(machine.queues[RECEIVE], places) == [b"after"]


def test_a_console_is_written_before_its_driver_is_there():
    sent = []
    machine = Machine(VirtioConsole(sent.append))
    machine.store(0x108, ord("!"))
    machine.store(0x104, ord("?"))
    assert sent == [b"!"]


def test_a_console_tells_the_size_of_its_terminal():
    console = VirtioConsole(print, columns=80, rows=25)
    machine = Machine(console).start()
    assert machine.offered() & 1
    assert (machine.load(0x100, 2), machine.load(0x102, 2)) == (80, 25)
    console.resize(132, 50)
    assert (machine.load(0x100, 2), machine.load(0x102, 2)) == (132, 50)
    assert machine.load(0x60) == 2
    assert not Machine(VirtioConsole(print)).offered() & 1


def test_an_echo_on_the_console_may_come_from_inside_the_sink():
    console = VirtioConsole(lambda data: console.receive(data.upper()))
    machine = Machine(console).start()
    places = give(machine.queues[RECEIVE], 20)
    machine.queues[TRANSMIT].send(b"echo")
    assert collect(machine.queues[RECEIVE], places) == [b"ECHO"]


def test_input_that_waits_is_part_of_the_state():
    console = VirtioConsole(print)
    machine = Machine(console).start()
    console.receive(b"typed ahead")
    other = Machine(VirtioConsole(print))
    other.ram.view[:] = machine.ram.view
    other.mmio.load_state(machine.mmio.save_state())
    queue = machine.queues[RECEIVE]
    queue.machine = other
    assert collect(queue, give(queue, 20)) == [b"typed ahead"]


def test_random_numbers():
    machine = Machine(VirtioRng(random.Random(1).randbytes)).start()
    written, [data] = machine.queues[0].send(100)
    assert (written, data) == (100, random.Random(1).randbytes(100))
    written, parts = machine.queues[0].send(0x8000, 0x8000, 16)
    assert written == 0x10000  # never more at once
    assert parts[-1] == bytes(16)
    assert Machine(VirtioRng()).start().queues[0].send(64)[0] == 64


def test_a_driver_waits_while_the_source_has_nothing():
    supply = [b"", b"random"]
    device = VirtioRng(lambda size: supply.pop(0))
    machine = Machine(device).start()
    queue = machine.queues[0]
    [place], _ = queue.prepare(6)
    queue.expose(0)
    queue.notify()
    assert queue.used() == []
    device.service(device.queues[0])
    assert queue.used() == [(0, 6)]
    assert machine.read(*place) == b"random"


@each_transport
def test_frames_in_both_directions(legacy):
    sent = []
    net = VirtioNet(sent.append, mac="52:54:00:ab:cd:ef")
    machine = Machine(net, legacy=legacy).start()
    header = bytes(10 if legacy else 12)
    assert bytes(machine.load(0x100 + i, 1) for i in range(6)) == bytes.fromhex("525400abcdef")
    machine.queues[TRANSMIT].send(header, b"frame " * 10)
    machine.queues[TRANSMIT].send(header + b"in one piece")
    assert sent == [b"frame " * 10, b"in one piece"]
    net.receive(b"a frame that waits")
    places = give(machine.queues[RECEIVE], 2000, 2000)
    net.receive(b"another")
    frames = collect(machine.queues[RECEIVE], places)
    assert [frame[len(header) :] for frame in frames] == [b"a frame that waits", b"another"]
    assert [frame[: len(header)] for frame in frames] == [header if legacy else bytes(10) + b"\1\0"] * 2


def test_frames_that_find_no_room_are_dropped():
    net = VirtioNet(print, backlog=2)
    machine = Machine(net).start()
    for frame in (b"x" * 100, b"small", b"too many"):
        net.receive(frame)
    assert net.dropped == 1
    places = give(machine.queues[RECEIVE], 12 + 50)
    assert [frame[12:] for frame in collect(machine.queues[RECEIVE], places)] == [b"small"]
    assert net.dropped == 2


def test_a_link_that_is_down_carries_nothing():
    net = VirtioNet(print)
    machine = Machine(net).start()
    assert net.link_up
    assert machine.load(0x106, 2) == 1
    net.link_up = False
    assert (machine.load(0x106, 2), machine.load(0x60)) == (0, 2)
    machine.queues[TRANSMIT].send(bytes(12), b"frame")
    net.receive(b"frame")
    assert net.dropped == 2


def test_a_frame_without_a_header_breaks_the_rules():
    machine = Machine(VirtioNet(print)).start()
    queue = machine.queues[TRANSMIT]
    queue.prepare(b"short")
    queue.expose(0)
    queue.notify()
    assert machine.needs_reset


def test_threads_send_to_a_guest_that_takes_buffers_meanwhile():
    net = VirtioNet(print, backlog=10_000)
    machine = Machine(net).start()
    queue = machine.queues[RECEIVE]
    frames = [[struct.pack("<II", thread, i) for i in range(500)] for thread in range(3)]
    threads = [threading.Thread(target=lambda each=each: [net.receive(f) for f in each]) for each in frames]
    for thread in threads:
        thread.start()
    places = [(machine.allocate(64), 64) for _ in range(8)]
    for number, place in enumerate(places):
        queue.describe(number, *place, 2)
    queue.expose(*range(8))
    queue.notify()
    seen = []
    while len(seen) < 1500 and not net.dropped:
        for head, written in queue.used():
            seen.append(machine.read(places[head][0], written)[12:])
            queue.expose(head)
        queue.notify()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == sorted(frame for each in frames for frame in each)
    assert [frame for frame in seen if frame[0] == 0] == frames[0]


@pytest.mark.parametrize("mac", ["52:54", b"12345", bytes(7)])
def test_a_mac_address_has_six_bytes(mac):
    with pytest.raises(ValueError, match="6 bytes"):
        VirtioNet(print, mac=mac)
