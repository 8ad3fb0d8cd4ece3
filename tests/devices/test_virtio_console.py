"""The console on virtio, from the side of its driver."""

import pytest
from virtio_driver import Machine, collect, give

from dbs_device.devices.virtio_console import VirtioConsole

RECEIVE, TRANSMIT = 0, 1
each_transport = pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])


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


@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
def test_more_input_may_come_from_inside_the_interrupt(legacy):
    console = VirtioConsole(print)
    machine = Machine(console, legacy=legacy).start()
    more = [b"more"]

    def interrupt(level):
        if level and more:
            console.receive(more.pop())

    places = give(machine.queues[RECEIVE], 20, 20)
    machine.mmio._irq._irq = interrupt
    console.receive(b"first")
    assert collect(machine.queues[RECEIVE], places) == [b"first", b"more"]


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
