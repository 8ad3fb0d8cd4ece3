"""Devices written as banks: against a recorded guest, and against the same device on buffers."""

import hashlib
import inspect
from pathlib import Path
from random import Random

import pytest
import register_devices
from register_devices import Timer, TimerOnBuffers, Usart

from dbs_device import IoManager, Resource
from dbs_device.trace import Trace, replay

DATA = Path(__file__).parent / "data"
USART2 = 0x40004400


def test_an_stm32_firmware_reads_from_the_bank_what_it_read_when_it_was_recorded():
    trace = Trace.load(DATA / "stm32_md5_server_trace.npz")
    accesses = trace[trace.mask("usart2")]
    usart, manager = Usart(), IoManager()
    manager.register_device_io(usart, [Resource.MmioAddressRange(USART2, usart.size)])
    usart.receive(b"hello\n")
    result = replay(accesses, manager)
    assert result.differences == 0
    assert result.reads_compared == int((accesses.accesses["write"] == 0).sum()) > 3000
    assert usart.sent.decode() == hashlib.md5(b"hello").hexdigest() + "\n"
    assert usart.CR1.UE


def test_the_usart_asks_for_an_interrupt_while_there_is_a_byte():
    usart, levels, manager = Usart(), [], IoManager()
    manager.register_device_io(usart, [Resource.MmioAddressRange(0, usart.size)])
    usart.irq.connect(levels.append)
    manager.mmio_store(0x0C, 4, 1 << 5)
    usart.receive(b"ab")
    assert [manager.mmio_load(4, 1), manager.mmio_load(4, 1)] == list(b"ab")
    assert levels == [True, False]


@pytest.mark.parametrize("seed", range(20))
def test_the_timer_is_the_same_as_a_bank_and_on_buffers(seed):
    random = Random(seed)
    devices = [Timer(), TimerOnBuffers()]
    managers, levels = [IoManager(), IoManager()], ([], [])
    for device, manager, seen in zip(devices, managers, levels, strict=True):
        manager.register_device_io(device, [Resource.MmioAddressRange(0, 0x400)])
        device.irq.connect(seen.append)
    offsets = [0x00, 0x0C, 0x10, 0x14, 0x24, 0x28, 0x2C, 0x34, 0x38, 0x11, 0x26]
    for _ in range(400):
        offset, size = random.choice(offsets), random.choice([1, 2, 4, 4, 4, 8])
        value = random.choice([0, 1, 2, 3, 5, 9, random.getrandbits(8 * size)]) & (1 << 8 * size) - 1
        for device, manager in zip(devices, managers, strict=True):
            manager.mmio_store(offset, size, value)
            device.tick()
        bank, on_buffers = (
            [manager.mmio_load(offset, size) for offset in offsets for size in (1, 4)] for manager in managers
        )
        assert bank == on_buffers
        assert devices[0].irq.level == devices[1].irq.level
    assert levels[0] == levels[1]


def lines_of_code(*objects):
    lines = "".join(inspect.getsource(each) for each in objects).splitlines()
    return sum(bool(line.strip()) for line in lines)


def test_the_bank_has_at_most_half_the_lines():
    fields = [register_devices.TimerControl, register_devices.TimerStatus, register_devices.TimerEvents]
    assert 2 * lines_of_code(Timer, *fields) <= lines_of_code(TimerOnBuffers)
