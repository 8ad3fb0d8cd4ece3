"""A device with the state of another one goes on as that one does."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from dbs_device import DeviceIo, DeviceResources, IoManager, Resource
from dbs_device.clock import CountedClock
from dbs_device.devices.acpi_pm import AcpiPm
from dbs_device.devices.apm import ApmPorts
from dbs_device.devices.ata import AtaDisk, IdeChannel
from dbs_device.devices.cfi_flash import CfiFlash
from dbs_device.devices.clint import Clint
from dbs_device.devices.debug_console import DebugConsole
from dbs_device.devices.dma8237 import Dma8237, DmaPages
from dbs_device.devices.fw_cfg import FwCfg, FwCfgMmio
from dbs_device.devices.gicv2 import GicV2
from dbs_device.devices.goldfish_rtc import GoldfishRtc
from dbs_device.devices.i440fx import HostBridge, Smram
from dbs_device.devices.i8042 import I8042
from dbs_device.devices.io_apic import IoApic
from dbs_device.devices.local_apic import LocalApic
from dbs_device.devices.mc146818 import Mc146818
from dbs_device.devices.pci import PciBus, PciConfigPorts, PciFunction
from dbs_device.devices.pci_device import PciDevice, PciEcam
from dbs_device.devices.pic8259 import Elcr, PicPair
from dbs_device.devices.piix import IdeController, IsaBridge, PowerManagement
from dbs_device.devices.pit8254 import Pit8254
from dbs_device.devices.pl011 import Pl011
from dbs_device.devices.pl031 import Pl031
from dbs_device.devices.plic import Plic
from dbs_device.devices.port61 import SystemControlPortB
from dbs_device.devices.port92 import SystemControlPortA
from dbs_device.devices.storage import MemoryStorage
from dbs_device.devices.systick import SysTick
from dbs_device.devices.uart16550 import Uart16550
from dbs_device.devices.vbe_dispi import VbeDispi
from dbs_device.devices.vga import Vga
from dbs_device.devices.virtio_block import VirtioBlock
from dbs_device.devices.virtio_console import VirtioConsole
from dbs_device.devices.virtio_mmio import VirtioMmio
from dbs_device.devices.virtio_net import VirtioNet
from dbs_device.devices.virtio_pci import VirtioPci
from dbs_device.memory import GuestMemory, Ram
from dbs_device.state import MachineState, StateError

STEPS = 400
START = datetime(2024, 2, 29, 12)


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


def place(rig: Rig, device: Any, base: int, *offsets: int) -> Any:
    """Add a device at an address, and accesses of its words at some offsets."""
    rig.add(device, DeviceResources([Resource.MmioAddressRange(base, device.size)]))
    rig.stimuli.append(words(rig, base, *offsets))
    return device


def words(rig: Rig, base: int, *offsets: int) -> Callable[[random.Random], None]:
    """Accesses of words, with values that are likely to matter."""

    def access(choice: random.Random) -> None:
        address = base + choice.choice(offsets)
        if choice.random() < 0.3:
            rig.events.append(("load", rig.bus.mmio_load(address, 4)))
        else:
            values = [0, 1, 7, 1 << choice.randrange(32), choice.getrandbits(10), choice.getrandbits(32)]
            rig.bus.mmio_store(address, 4, choice.choice(values))

    return access


def lines(sinks: list[Callable[[bool], object]]) -> Callable[[random.Random], None]:
    return lambda choice: choice.choice(sinks)(choice.random() < 0.5) and None


def clint(rig: Rig) -> None:
    notes = [rig.note(f"hart {hart}") for hart in range(2)]
    device = Clint(clock=rig.clock, harts=2, software_irqs=notes, timer_irqs=notes)
    place(rig, device, 0x200_0000, 0, 4, 0x4000, 0x4004, 0x4008, 0x400C, 0xBFF8, 0xBFFC)


def plic(rig: Rig) -> None:
    device = Plic(sources=40, irqs=[rig.note("hart 0"), rig.note("hart 1")])
    claims = [0x20_0004, 0x20_1004]
    place(rig, device, 0xC00_0000, 4, 8, 0x84, 0x2000, 0x2004, 0x2080, 0x20_0000, 0x20_1000, *claims, *claims)
    rig.stimuli.append(lines([device.line(source) for source in (1, 2, 33)]))


def gic(rig: Rig) -> None:
    device = GicV2(interrupts=64, irqs=[rig.note("cpu 0"), rig.note("cpu 1")])
    rig.parts["gic"] = device
    for cpu in range(2):
        for block, base in ((device.distributors[cpu], 0x800_0000), (device.cpu_interfaces[cpu], 0x801_0000)):
            place_of = [Resource.MmioAddressRange(base + 0x10_0000 * cpu, 0x1000)]
            rig.bus.register_device_io(block, place_of)
        distributor = [0, 0x100, 0x104, 0x184, 0x204, 0x284, 0x304, 0x384, 0x420, 0x820, 0xC08, 0xF00, 0xF10, 0xF20]
        rig.stimuli.append(words(rig, 0x800_0000 + 0x10_0000 * cpu, *distributor))
        rig.stimuli.append(words(rig, 0x801_0000 + 0x10_0000 * cpu, 0, 4, 8, 0xC, 0xC, 0x10, 0x10, 0x14, 0x18))
    rig.stimuli.append(lines([device.spi(1), device.spi(2), device.ppi(0, 27), device.ppi(1, 30)]))


def pl011(rig: Rig) -> None:
    uart = Pl011(sink=rig.note("byte"), irq=rig.note("irq"))
    place(rig, uart, 0x900_0000, 0x00, 0x18, 0x2C, 0x30, 0x34, 0x38, 0x3C, 0x40, 0x44)
    rig.stimuli.append(lambda choice: uart.receive(choice.randbytes(choice.randint(1, 20))))


def pl031(rig: Rig) -> None:
    place(rig, Pl031(clock=rig.clock, start=START, irq=rig.note("irq")), 0x901_0000, *range(0, 0x20, 4))


def goldfish_rtc(rig: Rig) -> None:
    place(rig, GoldfishRtc(clock=rig.clock, start=START, irq=rig.note("irq")), 0x10_1000, *range(0, 0x20, 4))


def systick(rig: Rig) -> None:
    device = SysTick(clock=rig.clock, frequency=1_000_000, reference_frequency=100_000, irq=rig.note("irq"))
    place(rig, device, 0xE000_E010, 0, 0, 4, 8, 12)


def cfi_flash(rig: Rig) -> None:
    flash = CfiFlash(bytearray(random.Random(0).randbytes(0x4000)), sector_size=0x1000)
    rig.parts["flash"] = flash
    flash.register(rig.bus, 0x400_0000)

    def command(choice: random.Random) -> None:
        command = choice.choice([0xFF, 0x98, 0x90, 0x70, 0x50, 0x40, 0xE8, 0x20, 0x60, 0xD0, 0x01, 3])
        rig.bus.mmio_store(0x400_0000 + 4 * choice.randrange(0x1000), 4, command | command << 16)

    rig.stimuli += [command] * 3


def fw_cfg_mmio(rig: Rig) -> None:
    ram = rig.add(Ram(0x1000), DeviceResources([Resource.MemAddressRange(0x4000_0000, 0x1000)]))
    device = FwCfgMmio(memory=GuestMemory(rig.bus))
    device.add_file("etc/something", bytes(range(200)))
    place(rig, device, 0x902_0000, 0, 16, 20)

    def transfer(choice: random.Random) -> None:
        control = choice.choice([2, 4, 8 | 2 | 0x20 << 16, 8 | 4, 16])
        ram.view[:16] = struct.pack(">IIQ", control, choice.randrange(300), 0x4000_0000 + choice.randrange(0x1000))
        rig.bus.mmio_store(0x902_0014, 4, 0x40)  # the lower half, big-endian

    rig.stimuli += [transfer, lambda choice: rig.bus.mmio_store(0x902_0008, 2, choice.choice([0, 0x1900, 0x2000]))]


def pci_device(rig: Rig) -> None:
    bus = PciBus()
    rig.parts["pci"] = bus
    function = PciDevice(rig.bus, vendor=0x1234, device=0x5678, class_code=0x020000)
    rig.parts["bar"] = Ram(0x1000)
    function.add_bar(0, rig.parts["bar"], 0x1000)
    rig.parts["rtc"] = Pl031(clock=rig.clock, start=START)
    function.add_bar(2, rig.parts["rtc"], 0x1000, wide=True)
    function.add_capability(9, bytes(14), writable=b"\xff")
    bus.plug((0, 0, 0), function)
    rig.bus.register_device_io(PciEcam(bus), [Resource.MmioAddressRange(0x3F00_0000, 1 << 20)])

    def move(choice: random.Random) -> None:
        base = choice.choice([0x1000_0000, 0x1000_1000, 0x2000_0000, 0xFFFF_FFFF])
        rig.bus.mmio_store(0x3F00_0010 + choice.choice([0, 8]), 4, base)
        rig.bus.mmio_store(0x3F00_0018 + 4, 4, choice.choice([0, 1]))
        rig.bus.mmio_store(0x3F00_0004, 2, choice.choice([0, 2, 2]))

    rig.stimuli.append(move)


def virtio(rig: Rig) -> None:
    ram = rig.add(Ram(0x4000), DeviceResources([Resource.MemAddressRange(0x4000_0000, 0x4000)]))
    memory = GuestMemory(rig.bus)
    console = VirtioConsole(rig.note("sent"))
    disk = VirtioBlock(MemoryStorage(random.Random(0).randbytes(0x2000)), queue_size=4)
    place(rig, VirtioMmio(disk, memory=memory, irq=rig.note("disk")), 0xA00_0000, *range(0, 0xB0, 4))
    legacy = place(
        rig, VirtioMmio(console, memory=memory, irq=rig.note("console"), legacy=True), 0xA00_0200, *range(0, 0x80, 4)
    )
    function = VirtioPci(rig.bus, VirtioNet(rig.note("frame")), memory=memory, irq=rig.note("net"))
    rig.parts["function"] = function

    def start(choice: random.Random) -> None:
        """Initialise the disk, with everything that a driver does."""
        for register, value in (
            (0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0), (0x20, choice.choice([0, 1 << 28, 3 << 28])),
            (0x70, 0xB), (0x30, 0), (0x38, 4), (0x80, 0x4000_0000), (0x90, 0x4000_1000), (0xA0, 0x4000_2000),
            (0x84, 0), (0x94, 0), (0xA4, 0), (0x44, 1), (0x70, 0xF),
        ):  # fmt: skip
            rig.bus.mmio_store(0xA00_0000 + register, 4, value)

    def request(choice: random.Random) -> None:
        ram.view[0x3000:0x3010] = struct.pack("<IIQ", choice.choice([0, 0, 4, 8]), 0, choice.randrange(18))
        for i, (address, size, flags) in enumerate([(0x3000, 16, 1), (0x3200, 512, 3), (0x3100, 1, 2)]):
            ram.view[16 * i : 16 * i + 16] = struct.pack("<QIHH", 0x4000_0000 + address, size, flags, i + 1)
        available = struct.unpack_from("<H", ram.view, 0x1002)[0]
        struct.pack_into("<H", ram.view, 0x1004 + 2 * (available % 4), 0)
        struct.pack_into("<H", ram.view, 0x1002, available + 1 & 0xFFFF)
        rig.bus.mmio_store(0xA00_0050, 4, 0)
        rig.events.append(("status", ram.view[0x3100]))

    rig.stimuli += [start, request, request, lambda choice: console.receive(choice.randbytes(3))]
    assert legacy.legacy


def build(make: Callable[[Rig], None]) -> Rig:
    rig = Rig()
    make(rig)
    return rig


FAMILIES = [
    acpi_pm, apm, ata, debug_console, dma, fw_cfg, i8042, apics, rtc, pci, pics, pit, port92, uart, video, smram,
    clint, plic, gic, pl011, pl031, goldfish_rtc, systick, cfi_flash, fw_cfg_mmio, pci_device, virtio,
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
