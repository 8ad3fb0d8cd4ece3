"""Devices of all kinds, each with its plan for the model."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from dbs_device import DeviceIo, DeviceIoMut, Mutex
from dbs_device.memory import AccessRule, Alias, Mirror, PartialDecode, Ram, Rom
from dbs_device.registers import RegisterBank

from .bus_model import Call, Plan, Prank

KEPT = 8  # views that rude devices keep, of all


class World:
    """What devices have in common."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.hook: Callable[[Prank], None] = lambda prank: None
        self.kept: list[memoryview] = []


class _Answers:
    """The parts of which devices are made: what is noted, and what is answered."""

    unhandled = "ignore"
    plan: Plan
    world: World

    def note(self, *call: Any) -> None:
        self.world.calls.append((self.plan.tag, *call))

    def play(self, view: memoryview | None = None) -> Prank | None:
        if not self.pranks:
            return None
        prank: Prank = self.pranks.pop()
        if prank.kind == "raise":
            raise prank.what
        if prank.kind == "keep" and view is not None:
            self.world.kept = [*self.world.kept[-KEPT:], view, view[::-1]]
        elif prank.kind == "release" and view is not None:
            view.release()
        else:
            self.world.hook(prank)
        return prank if prank.kind == "return" else None

    def __init__(self, plan: Plan | None = None, world: World | None = None) -> None:
        self.pranks: list[Prank] = []
        if plan is not None and world is not None:
            self.plan, self.world, self.byteorder = plan, world, plan.byteorder

    def __reduce__(self) -> Any:
        return type(self), ()

    def __repr__(self) -> str:
        return f"<device {self.plan.tag}>" if hasattr(self, "plan") else "<a copy>"


class _Integers:
    def answer_load(self: Any, handler: str, base: int, offset: int, size: int) -> Any:
        self.note(handler, base, offset, size)
        prank = self.play()
        return self.plan.answer(offset, size) if prank is None else prank.what[0]

    def load(self, base: int, offset: int, size: int) -> int:
        return self.answer_load("load", base, offset, size)

    def pio_in(self, base: int, offset: int, size: int) -> int:
        return self.answer_load("pio_in", base, offset, size)

    def answer_store(self: Any, handler: str, base: int, offset: int, size: int, value: int) -> Any:
        self.note(handler, base, offset, size, value)
        prank = self.play()
        return None if prank is None else prank.what[0]

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        return self.answer_store("store", base, offset, size, value)

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        return self.answer_store("pio_out", base, offset, size, value)


class _Buffers:
    def answer_read(self: Any, handler: str, base: int, offset: int, data: memoryview) -> Any:
        self.note(handler, base, offset, bytes(data))
        data[:] = bytes(self.plan.byte(offset, index) for index in range(len(data)))
        prank = self.play(data)
        return None if prank is None else prank.what[0]

    def read(self, base: int, offset: int, data: memoryview) -> None:
        return self.answer_read("read", base, offset, data)

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        return self.answer_read("pio_read", base, offset, data)

    def answer_write(self: Any, handler: str, base: int, offset: int, data: memoryview) -> Any:
        self.note(handler, base, offset, bytes(data))
        prank = self.play(data)
        return None if prank is None else prank.what[0]

    def write(self, base: int, offset: int, data: memoryview) -> None:
        return self.answer_write("write", base, offset, data)

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        return self.answer_write("pio_write", base, offset, data)


class Integer(_Integers, _Answers, DeviceIo):
    pass


class Buffer(_Buffers, _Answers, DeviceIo):
    pass


class Both(_Integers, _Buffers, _Answers, DeviceIo):
    pass


class Neither(_Answers, DeviceIo):
    pass


class LockedInteger(_Integers, _Answers, DeviceIoMut):
    pass


class LockedBoth(_Integers, _Buffers, _Answers, DeviceIoMut):
    pass


class Gaps(RegisterBank, size=0x40, gap="ram"):
    """A bank that is memory, but for its size."""


PYTHON = (Integer, Buffer, Both, Neither, LockedInteger, LockedBoth)


def new_device(random: Random, tag: int, world: World) -> Plan:
    """Return a new device with its plan."""
    make = random.choice([new_python, new_python, new_python, new_memory, new_bank, new_adapter])
    return make(random, tag, world)


def new_python(random: Random, tag: int, world: World) -> Plan:
    kind = random.choice(PYTHON)
    plan = Plan(
        tag,
        integers=issubclass(kind, _Integers),
        buffers=issubclass(kind, _Buffers),
        byteorder=random.choice([None, None, "little", "big"]),
    )
    device = kind(plan, world)
    plan.device = Mutex(device) if isinstance(device, DeviceIoMut) else device
    return plan


def target_of(plan: Plan) -> Any:
    """Return the object that plays pranks; None if there is none."""
    device = plan.device
    while True:
        if isinstance(device, Alias | Mirror):
            device = device.device
        elif isinstance(device, Mutex):
            with device.lock() as inner:
                return inner
        else:
            return device if hasattr(device, "pranks") else None


def refresh(plan: Plan) -> None:
    """Take over what a memory has, after an access that was made in part."""
    device = plan.device.device
    plan.memory, plan.is_stale = dict(enumerate(bytes(device.view))), False


def new_memory(random: Random, tag: int, world: World) -> Plan:
    size = random.choice([1, 7, 0x40, 0x1000, 0x10000])
    content = random.randbytes(min(size, 0x40)) + bytes(max(0, size - 0x40))
    plan = Plan(tag, False, False, memory=dict(enumerate(content)), size=size)
    if random.random() < 0.6:
        plan.device = Ram(random.choice([bytearray(content), memoryview(bytearray(content))]))
        return plan
    plan.readonly = True
    on_write = random.choice(["ignore", "raise"])
    if on_write == "raise":
        plan.raises = "RomWriteError"
    plan.device = Rom(content, on_write=on_write)
    return plan


def new_bank(random: Random, tag: int, world: World) -> Plan:
    return Plan(tag, False, False, memory={}, size=0x40, device=Gaps(), is_bank=True)


def new_adapter(random: Random, tag: int, world: World) -> Plan:
    kind = random.choice(["alias", "alias", "mirror", "rule", "decode"])
    if kind in ("rule", "decode"):
        plan = new_memory(random, tag, world)
        while plan.readonly:
            plan = new_memory(random, tag, world)
        if kind == "rule":
            sizes = random.choice([{1}, {1, 2}, {1, 4}, {1, 2, 4, 8}])
            plan.splits = True
            plan.device = AccessRule(plan.device, sizes, unaligned=random.choice(["split", "pass"]))
        else:
            plan.device = PartialDecode((plan.device, 0, 0))
        return plan
    plan = (new_python if random.random() < 0.6 else new_memory)(random, tag, world)
    if kind == "alias":
        plan.shift = random.randrange(plan.size if plan.memory is not None else 0x20)
        plan.device = Alias(plan.device, plan.shift)
    elif plan.memory is not None:
        plan.mask = (1 << (plan.size.bit_length() - 1)) - 1
        plan.device = Mirror(plan.device, plan.mask)
    return plan
