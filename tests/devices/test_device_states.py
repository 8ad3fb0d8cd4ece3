"""A device with the state of another one goes on as that one does."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from dbs_device import DeviceIo, DeviceResources, IoManager
from dbs_device.clock import CountedClock
from dbs_device.devices.acpi_pm import AcpiPm
from dbs_device.devices.apm import ApmPorts
from dbs_device.devices.ata import AtaDisk, IdeChannel
from dbs_device.devices.debug_console import DebugConsole
from dbs_device.devices.dma8237 import Dma8237, DmaPages
from dbs_device.devices.fw_cfg import FwCfg
from dbs_device.devices.i440fx import HostBridge, Smram
from dbs_device.devices.i8042 import I8042
from dbs_device.devices.io_apic import IoApic
from dbs_device.devices.local_apic import LocalApic
from dbs_device.devices.mc146818 import Mc146818
from dbs_device.devices.pci import PciConfigPorts, PciFunction
from dbs_device.devices.pic8259 import Elcr, PicPair
from dbs_device.devices.piix import IdeController, IsaBridge, PowerManagement
from dbs_device.devices.pit8254 import Pit8254
from dbs_device.devices.port61 import SystemControlPortB
from dbs_device.devices.port92 import SystemControlPortA
from dbs_device.devices.uart16550 import Uart16550
from dbs_device.devices.vbe_dispi import VbeDispi
from dbs_device.devices.vga import Vga
from dbs_device.state import MachineState, StateError

STEPS = 400


@dataclass
class Rig:
    """Devices on a bus, with a clock of their own; what they call is noted in `events`."""

    clock: CountedClock = field(default_factory=lambda: CountedClock(step=100))
    bus: IoManager = field(default_factory=IoManager)
    parts: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, Any]] = field(default_factory=list)
    stimuli: list[Callable[[random.Random], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts["clock"] = self.clock

    def note(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.events.append((name, arguments))

    def add(self, device: DeviceIo, resources: DeviceResources | None = None) -> Any:
        self.parts[f"device{len(self.parts)}"] = device
        self.bus.register_device_io(device, resources or device.get_trapped_io_resources())
        return device

    def step(self, choice: random.Random) -> int | None:
        """Make a random access, let time pass, or stimulate a device; return what was read."""
        what = choice.random()
        if what < 0.1:
            self.clock.count_work(choice.choice([100, 10_000, 1_000_000, 300_000_000]))
            self.clock.now()
            return None
        if what < 0.2 and self.stimuli:
            choice.choice(self.stimuli)(choice)
            return None
        space, base, last, *_ = choice.choice(self.bus.mapped_ranges())
        is_pio = space.name == "PIO"
        size = choice.choice([1, 1, 2, 4])
        address = choice.randint(base, min(last, base + 0x1FF))
        if address + size - 1 > last:
            address, size = last, 1
        value = choice.choice([0, 1, (1 << 8 * size) - 1, choice.getrandbits(8 * size)])
        if what < 0.6:
            return self.bus.pio_in(address, size) if is_pio else self.bus.mmio_load(address, size)
        (self.bus.pio_out if is_pio else self.bus.mmio_store)(address, size, value)
        return None


def acpi_pm(rig: Rig) -> None:
    rig.add(AcpiPm(clock=rig.clock, power_off=rig.note("off")), AcpiPm.resources_at(0x600))


def apm(rig: Rig) -> None:
    rig.add(ApmPorts(smi_enabled=lambda: True))


def ata(rig: Rig) -> None:
    disk = AtaDisk(bytearray(random.Random(0).randbytes(512 * 2048)))
    rig.parts["disk"] = disk
    rig.add(IdeChannel(irq=rig.note("irq"), disk=disk))

    def command(choice: random.Random) -> None:
        for port, value in ((0x1F2, choice.randint(1, 4)), (0x1F3, choice.randint(1, 60)), (0x1F4, 0), (0x1F5, 0)):
            rig.bus.pio_out(port, 1, value)
        rig.bus.pio_out(0x1F6, 1, choice.choice([0xE0, 0xA0]))
        rig.bus.pio_out(0x1F7, 1, choice.choice([0x20, 0x30, 0xEC, 0xC6, 0xC4, 0xC5]))

    def transfer(choice: random.Random) -> None:
        for _ in range(choice.choice([1, 128, 256, 700])):
            if choice.random() < 0.5:
                rig.events.append(("data", rig.bus.pio_in(0x1F0, 2)))
            else:
                rig.bus.pio_out(0x1F0, 2, choice.getrandbits(16))

    rig.stimuli += [command, transfer]


def debug_console(rig: Rig) -> None:
    rig.add(DebugConsole(sink=rig.note("byte")))


def dma(rig: Rig) -> None:
    rig.add(Dma8237())
    rig.add(Dma8237(base=0xC0, stride=2))
    rig.add(DmaPages())


def fw_cfg(rig: Rig) -> None:
    device = rig.add(FwCfg())
    device.add_file("etc/something", bytes(range(200)))

    def select(choice: random.Random) -> None:
        rig.bus.pio_out(0x510, 2, choice.choice([0, 0x19, 0x20]))

    rig.stimuli.append(select)


def i8042(rig: Rig) -> None:
    device = rig.add(I8042(irq=rig.note("irq"), aux_irq=rig.note("aux"), reset=rig.note("reset")))
    rig.stimuli.append(lambda choice: device.keyboard.type(choice.choice("aB1\n")))


def apics(rig: Rig) -> None:
    rig.add(IoApic())
    rig.add(LocalApic())


def rtc(rig: Rig) -> None:
    rig.add(Mc146818(clock=rig.clock, irq=rig.note("irq"), start=datetime(2024, 2, 28, 23, 59, 50)))

    def enable(choice: random.Random) -> None:
        rig.bus.pio_out(0x70, 2, choice.choice([0x700B, 0x420B, 0x220B, 0x260A, 0x2F0A, 0x0005, 0xFF05]))

    rig.stimuli.append(enable)


def pci(rig: Rig) -> None:
    ports = rig.add(PciConfigPorts(reset=rig.note("reset")))
    ports.plug((0, 0, 0), HostBridge(show_smram=rig.note("smram")))
    ports.plug((0, 1, 0), IsaBridge())
    ports.plug((0, 1, 1), IdeController())
    ports.plug((0, 1, 3), PowerManagement(move=rig.note("move")))
    ports.plug((0, 2, 0), PciFunction(0x1234, 0x5678, 1, 0x020000))

    def address(choice: random.Random) -> None:
        device, function = choice.choice([(0, 0), (1, 0), (1, 1), (1, 3), (2, 0)])
        register = choice.choice([0x04, 0x10, 0x40, 0x58, 0x60, 0x70, 0x80])
        rig.bus.pio_out(0xCF8, 4, 0x8000_0000 | device << 11 | function << 8 | register)

    rig.stimuli.append(address)


def pics(rig: Rig) -> None:
    pair = PicPair(irq=rig.note("intr"))
    for device in (pair.master, pair.slave, Elcr(pics=pair)):
        rig.add(device)

    def initialise(choice: random.Random) -> None:
        for port in (0x20, 0xA0):
            for offset, word in ((0, 0x11), (1, 8), (1, 4), (1, choice.choice([1, 3])), (1, choice.getrandbits(8))):
                rig.bus.pio_out(port + offset, 1, word)

    def set_line(choice: random.Random) -> None:
        pair.line(choice.randrange(16))(choice.random() < 0.5)

    def acknowledge(choice: random.Random) -> None:
        if pair.interrupting:
            rig.events.append(("vector", pair.acknowledge()))

    rig.stimuli += [initialise, set_line, set_line, set_line, acknowledge]


def pit(rig: Rig) -> None:
    device = rig.add(Pit8254(clock=rig.clock, irq=rig.note("irq")))
    rig.add(SystemControlPortB(clock=rig.clock, pit=device))


def port92(rig: Rig) -> None:
    rig.add(SystemControlPortA(reset=rig.note("reset")))


def uart(rig: Rig) -> None:
    device = rig.add(Uart16550(sink=rig.note("byte"), irq=rig.note("irq")))
    rig.stimuli.append(lambda choice: device.receive(choice.randbytes(choice.randint(1, 20))))


def video(rig: Rig) -> None:
    rig.add(Vga(clock=rig.clock))
    rig.add(VbeDispi())


def smram(rig: Rig) -> None:
    rig.add(Smram(size=0x1000))


def build(make: Callable[[Rig], None]) -> Rig:
    rig = Rig()
    make(rig)
    return rig


FAMILIES = [
    acpi_pm, apm, ata, debug_console, dma, fw_cfg, i8042, apics, rtc, pci, pics, pit, port92, uart, video, smram
]  # fmt: skip
each_family = pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)


@each_family
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("used", [False, True], ids=["into new devices", "into used ones"])
def test_devices_go_on_as_those_whose_state_they_have(
    make: Callable[[Rig], None], seed: int, used: bool, tmp_path: Any
) -> None:
    choice = random.Random(seed)
    first = build(make)
    for _ in range(STEPS):
        first.step(choice)
    MachineState.of(first.parts).save(tmp_path / "state.npz")

    second = build(make)
    if used:
        other = random.Random(seed + 1)
        for _ in range(STEPS):
            second.step(other)
    MachineState.load(tmp_path / "state.npz").restore(second.parts)
    assert MachineState.of(second.parts) == MachineState.of(first.parts)

    first.events.clear()
    second.events.clear()
    again = copy.copy(choice)
    again.setstate(choice.getstate())
    for _ in range(STEPS):
        assert first.step(choice) == second.step(again)
    assert first.events == second.events
    assert MachineState.of(second.parts) == MachineState.of(first.parts)


def leaves(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a state that is not a container, and of each container."""
    yield path
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from leaves(value, (*path, key))
    elif isinstance(state, list):
        for index, value in enumerate(state[:3]):
            yield from leaves(value, (*path, index))


def replaced(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = dict(state) if isinstance(state, Mapping) else list(state)
    changed[path[0]] = replaced(state[path[0]], path[1:], value)
    return changed


WRONG = [None, True, -1, 1 << 70, 255, "text", b"bytes", bytes(70_000), [], [1, 2, 3, 4, 5], {}, {"a": 1}]


@each_family
def test_a_wrong_value_in_a_state_is_refused_or_does_no_harm(make: Callable[[Rig], None]) -> None:
    choice = random.Random(7)
    source = build(make)
    for _ in range(STEPS):
        source.step(choice)
    refused = 0
    for name, part in source.parts.items():
        good = part.save_state()
        for path in leaves(good):
            for value in WRONG:
                rig = build(make)
                before = rig.parts[name].save_state()
                try:
                    rig.parts[name].load_state(replaced(good, path, value))
                except StateError:
                    refused += 1
                    assert rig.parts[name].save_state() == before
                else:
                    for _ in range(20):
                        rig.step(choice)
    assert refused > 10
