"""A guest that writes the same again and again, and reads nothing, does not make the host's memory grow."""

from __future__ import annotations

import functools
import gc
import random
import sys
import types

import pytest
from test_device_states import build, each_family

from dbs_device import IoManager
from dbs_device.devices.i8042 import I8042
from dbs_device.devices.ps2_keyboard import Ps2Keyboard

WRITES, REPEATED = 60, 300
GROWTH = 0x8000  # bytes that registers and queues may grow by from the first writes on
NOT_STATE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)


def size_of(roots):
    """Return the bytes of all objects that are reachable from some, but for code."""
    seen, waiting, size = set(), list(roots), 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, NOT_STATE):
            continue
        seen.add(id(each))
        size += sys.getsizeof(each)
        waiting += gc.get_referents(each)
    return size


def write_again_and_again(rig, seed):
    choice = random.Random(seed)
    for _ in range(WRITES):
        space, base, last, *_ = choice.choice(rig.bus.mapped_ranges())
        size = choice.choice([1, 1, 2, 4])
        address = choice.randint(base, min(last, base + 0x3F))
        if address + size - 1 > last:
            address, size = last, 1
        value = choice.choice([0, 1, choice.getrandbits(8), choice.getrandbits(8 * size)])
        store = rig.bus.pio_out if space.name == "PIO" else rig.bus.mmio_store
        for _ in range(REPEATED):
            store(address, size, value)


@each_family
def test_writes_do_not_pile_up(make):
    rig = build(make)
    write_again_and_again(rig, 0)
    rig.events.clear()
    before = size_of(rig.parts.values())
    for seed in range(1, 4):
        write_again_and_again(rig, seed)
        rig.events.clear()
    assert size_of(rig.parts.values()) - before < GROWTH


@pytest.mark.parametrize("commands", [[0xAA], [0xAB], [0xC0], [0xD0], [0x20]])
def test_answers_of_a_keyboard_controller_that_are_not_read_do_not_pile_up(commands):
    controller = I8042(reset=lambda: None)
    manager = IoManager()
    manager.register_device_io(controller, controller.get_trapped_io_resources())
    before = size_of([controller])
    for _ in range(20_000):
        for command in commands:
            manager.pio_out(0x64, 1, command)
    assert size_of([controller]) - before < GROWTH
    for _ in range(1000):
        manager.pio_in(0x60, 1)
    manager.pio_out(0x64, 1, 0xAA)
    assert manager.pio_in(0x60, 1) == 0x55


@pytest.mark.parametrize("byte", [0xEE, 0xF2, 0x00, 0xF4, 0xFE, 0xFF, 0xED])
def test_answers_of_a_keyboard_that_are_not_read_do_not_pile_up(byte):
    keyboard = Ps2Keyboard(data_ready=lambda: None)
    before = size_of([keyboard])
    for _ in range(20_000):
        keyboard.write(byte)
    assert size_of([keyboard]) - before < GROWTH
    keyboard.write(0xFF)
    keyboard.write(0xFF)
    assert [keyboard.next_byte() for _ in range(3)] == [0xFA, 0xAA, None]
