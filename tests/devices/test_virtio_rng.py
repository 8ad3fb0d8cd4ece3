"""Random numbers on virtio, from the side of the driver."""

import random

from virtio_driver import Machine

from dbs_device.devices.virtio_rng import VirtioRng


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
