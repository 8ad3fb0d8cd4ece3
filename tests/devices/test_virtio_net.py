"""The network card on virtio, from the side of its driver."""

import struct
import threading

import pytest
from virtio_driver import Machine, collect, give

from dbs_device.devices.virtio_net import VirtioNet

RECEIVE, TRANSMIT = 0, 1
each_transport = pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])


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
