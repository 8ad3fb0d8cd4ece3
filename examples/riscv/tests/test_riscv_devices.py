"""UART, CLINT and RTC are the same devices as Python classes, as register banks and in Cython."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

import rv32.devices as native
from hypothesis import example, given
from hypothesis import strategies as st
from rv32.core import Core

from dbs_device import IoManager, Resource
from dbs_device.devices.clint import Clint
from dbs_device.devices.goldfish_rtc import GoldfishRtc
from dbs_device.devices.uart16550 import Uart16550
from dbs_device.errors import StateError
from examples.riscv import banks, devices
from examples.riscv.board import MachineClock

START = datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)
KINDS = ["native", "banks", "python"]
each_kind = pytest.mark.parametrize("kind", KINDS)


class Edges(list[bool]):
    """An interrupt line that remembers its edges."""

    def __call__(self, level: bool) -> None:
        if level != (self[-1] if self else False):
            self.append(level)


class Rig:
    """A device of one kind on a bus of its own, with its lines, and a clock that is moved by hand."""

    def __init__(self, device: str, kind: str) -> None:
        self.manager = IoManager()
        self.clock = MachineClock(native.Timebase(Core(self.manager), 10))
        self.irq, self.software, self.sent = Edges(), Edges(), bytearray()
        self.device = getattr(self, f"_{device}")(kind)
        size = {"uart": 8, "clint": 0x10000, "rtc": 0x20, "power": 4}[device]
        self.manager.register_device_io(self.device, [Resource.MmioAddressRange(0, size)])

    def _uart(self, kind: str) -> Any:
        made = {"native": native.Uart16550, "banks": banks.Uart16550, "python": Uart16550}[kind]
        return made(sink=self.sent.append, irq=self.irq)

    def _clint(self, kind: str) -> Any:
        if kind == "python":
            lines = {"software_irqs": [self.software], "timer_irqs": [self.irq]}
            return Clint(clock=self.clock, frequency=10_000_000, **lines)
        made = native.Clint if kind == "native" else banks.Clint
        return made(clock=self.clock, frequency=10_000_000, software_irq=self.software, timer_irq=self.irq)

    def _rtc(self, kind: str) -> Any:
        made = {"native": native.GoldfishRtc, "banks": GoldfishRtc, "python": devices.GoldfishRtc}[kind]
        return made(clock=self.clock, start=START, irq=self.irq)

    def _power(self, kind: str) -> Any:
        made = {"native": native.PowerSwitch, "banks": banks.PowerSwitch, "python": devices.PowerSwitch}[kind]
        return made(stop=lambda reason: self.sent.extend(reason.encode()))

    def wait(self, duration: int) -> None:
        self.clock.wait_until(self.clock.read() + duration)
        self.clock.now()

    def do(self, step: tuple[Any, ...]) -> Any:
        """Do a step, and what the machine does after each: run the timers that are due."""
        result = self._do(*step)
        self.clock.now()
        return result

    def _do(self, name: str, *arguments: Any) -> Any:
        if name == "load":
            return self.manager.mmio_load(*arguments)
        if name == "store":
            return self.manager.mmio_store(*arguments)
        if name == "receive":
            return self.device.receive(*arguments)
        if name == "state":
            return self.device.load_state(self.device.save_state())
        return self.wait(*arguments)

    @property
    def seen(self) -> tuple[Any, ...]:
        return self.irq[-1:] == [True], self.software[-1:] == [True], bytes(self.sent)


def check_steps(device: str, steps: list[tuple[Any, ...]]) -> None:
    rigs = [Rig(device, kind) for kind in KINDS]
    for step in steps:
        results = {kind: (rig.do(step), rig.seen) for kind, rig in zip(KINDS, rigs, strict=True)}
        assert results["native"] == results["banks"] == results["python"], step
    assert rigs[0].irq == rigs[1].irq == rigs[2].irq


uart_step = st.one_of(
    st.tuples(st.just("load"), st.integers(0, 7), st.just(1)),
    st.tuples(st.just("store"), st.integers(0, 7), st.just(1), st.integers(0, 255)),
    st.tuples(st.just("store"), st.just(4), st.just(1), st.sampled_from([0x00, 0x08, 0x0B, 0x18])),
    st.tuples(st.just("store"), st.just(1), st.just(1), st.integers(0, 15)),
    st.tuples(st.just("store"), st.just(2), st.just(1), st.sampled_from([0x00, 0x01, 0x03, 0xC1])),
    st.tuples(st.just("receive"), st.binary(max_size=20)),
    st.tuples(st.just("load"), st.sampled_from([0, 4]), st.sampled_from([2, 4])),
    st.tuples(st.just("state")),
)


@given(st.lists(uart_step, max_size=60))
def test_uarts_do_the_same(steps: list[tuple[Any, ...]]) -> None:
    check_steps("uart", [("store", 4, 1, 8), *steps])


clint_step = st.one_of(
    st.tuples(st.just("load"), st.sampled_from([0, 0x4000, 0x4004, 0xBFF8, 0xBFFC, 0x8000]), st.just(4)),
    st.tuples(st.just("load"), st.sampled_from([0x4000, 0xBFF8]), st.just(8)),
    st.tuples(st.just("store"), st.just(0), st.just(4), st.integers(0, 3)),
    st.tuples(st.just("store"), st.sampled_from([0x4000, 0xBFF8]), st.just(4), st.integers(0, 3000)),
    st.tuples(st.just("store"), st.sampled_from([0x4004, 0xBFFC]), st.just(4), st.sampled_from([0, 0, 1, 0xFFFFFFFF])),
    st.tuples(st.just("wait"), st.integers(0, 100_000)),
    st.tuples(st.just("state")),
)


@given(st.lists(clint_step, max_size=40))
def test_clints_do_the_same(steps: list[tuple[Any, ...]]) -> None:
    check_steps("clint", [("store", 0x4004, 4, 0), *steps])


NOW = int(START.timestamp()) * 1_000_000_000
rtc_step = st.one_of(
    st.tuples(st.just("load"), st.sampled_from([0, 4, 8, 0xC, 0x10, 0x18]), st.just(4)),
    st.tuples(st.just("store"), st.just(8), st.just(4), st.integers(0, 1 << 17).map(lambda ns: NOW + ns & 0xFFFFFFFF)),
    st.tuples(st.just("store"), st.just(0xC), st.just(4), st.sampled_from([NOW >> 32, (NOW >> 32) + 1, 0])),
    st.tuples(st.just("store"), st.sampled_from([0x10, 0x14, 0x1C]), st.just(4), st.integers(0, 1)),
    st.tuples(st.just("store"), st.just(0), st.just(4), st.integers(0, 1 << 17).map(lambda ns: NOW + ns & 0xFFFFFFFF)),
    st.tuples(st.just("store"), st.just(4), st.just(4), st.sampled_from([NOW >> 32, (NOW >> 32) + 1])),
    st.tuples(st.just("wait"), st.integers(0, 50_000)),
    st.tuples(st.just("state")),
)


@example(
    [("store", 0x0C, 4, 397956486), ("store", 0x10, 4, 1), ("store", 0x08, 4, 1), ("store", 0x0C, 4, 0), ("state",)]
)
@given(st.lists(rtc_step, max_size=40))
def test_clocks_do_the_same(steps: list[tuple[Any, ...]]) -> None:
    check_steps("rtc", steps)


@each_kind
@pytest.mark.parametrize(("value", "reason"), [(0x5555, b"power off"), (0x7777, b"reset"), (0x1234, b"")])
def test_power_switches(kind: str, value: int, reason: bytes) -> None:
    rig = Rig("power", kind)
    rig.manager.mmio_store(0, 4, value)
    assert rig.manager.mmio_load(0, 4) == 0
    assert rig.sent == reason


@each_kind
def test_an_alarm_interrupts_when_its_time_has_come(kind: str) -> None:
    rig = Rig("rtc", kind)
    when = NOW + 5_000
    rig.manager.mmio_store(0x10, 4, 1)
    rig.manager.mmio_store(0x0C, 4, when >> 32)
    rig.manager.mmio_store(0x08, 4, when & 0xFFFFFFFF)
    rig.wait(4_990)
    assert rig.irq == []
    assert rig.manager.mmio_load(0x18, 4) == 1
    rig.wait(10)
    assert rig.irq == [True]
    assert rig.manager.mmio_load(0x18, 4) == 0
    rig.manager.mmio_store(0x1C, 4, 0)
    assert rig.irq == [True, False]


@each_kind
def test_the_room_of_a_uart(kind: str) -> None:
    rig = Rig("uart", kind)
    assert rig.device.room == 1
    rig.manager.mmio_store(2, 1, 1)
    assert rig.device.room == 16
    rig.device.receive(b"abc")
    assert rig.device.room == 13
    rig.manager.mmio_store(4, 1, 0x10)
    assert rig.device.room == 0


@pytest.mark.parametrize("device", ["uart", "clint", "rtc", "power"])
@each_kind
def test_states_that_do_not_fit_are_refused(kind: str, device: str) -> None:
    made = Rig(device, kind).device
    state = made.save_state()
    for wrong in ([], dict.fromkeys(state, "x") or {"x": 1}):
        with pytest.raises((StateError, ValueError)):
            made.load_state(wrong)
    assert made.save_state() == state
