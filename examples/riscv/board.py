"""The board: the addresses of its devices, the devices themselves, and the device tree that describes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeAlias

import rv32.devices as native
from rv32.core import Core

from dbs_device import IoManager, Resource
from dbs_device.clock import Clock
from dbs_device.devices.clint import Clint
from dbs_device.devices.goldfish_rtc import GoldfishRtc
from dbs_device.devices.plic import Plic
from dbs_device.devices.storage import MemoryStorage
from dbs_device.devices.uart16550 import Uart16550
from dbs_device.devices.virtio_block import VirtioBlock
from dbs_device.devices.virtio_mmio import VirtioMmio
from dbs_device.memory import GuestMemory, Ram

from . import banks
from . import devices as python
from .device_tree import Node

__all__ = ["BOOT_ARGUMENTS", "DEVICE_KINDS", "MTIME", "RAM_BASE", "Board", "DeviceKind", "MachineClock"]

DeviceKind: TypeAlias = Literal["native", "banks", "python"]
DEVICE_KINDS: tuple[DeviceKind, ...] = ("native", "banks", "python")

PLIC_BASE, PLIC_SOURCES = 0x0C00_0000, 31
UART_BASE, UART_SIZE, UART_SOURCE = 0x1000_0000, 8, 10
DISK_BASE, DISK_SIZE, DISK_SOURCE = 0x1000_1000, 0x200, 1
RTC_BASE, RTC_SIZE, RTC_SOURCE = 0x1000_2000, 0x20, 11
CLINT_BASE, CLINT_SIZE = 0x1100_0000, 0x1_0000
POWER_BASE, POWER_SIZE = 0x1110_0000, 4
RAM_BASE = 0x8000_0000
MTIME = CLINT_BASE + 0xBFF8

NS_PER_CYCLE = 10
TICKS_PER_SECOND = 10_000_000  # of mtime
UART_CLOCK = 1_843_200  # Hz
BOOT_ARGUMENTS = f"earlycon=uart8250,mmio,{UART_BASE:#x} console=ttyS0"


class MachineClock(Clock):
    """The time of the machine: that of the core's cycles, and of what passes while it waits for an interrupt.

    Parameters
    ----------
    timebase : rv32.devices.Timebase
        The same time, without timers, for devices in Cython.
    """

    def __init__(self, timebase: native.Timebase) -> None:
        super().__init__()
        self.timebase = timebase

    def read(self) -> int:
        return self.timebase.now()

    def wait_until(self, when: int) -> None:
        self.timebase.set_now(max(when, self.timebase.now()))

    def count_work(self, duration: int) -> None:
        """Do nothing: work is counted in cycles of the core."""

    def _set_time(self, now: int) -> None:
        self.timebase.set_now(now)


class Board:
    """RAM, devices and a bus, wired to a core.

    Parameters
    ----------
    kind : {"native", "banks", "python"}
        What UART, CLINT, RTC and power switch are.
    ram_size : int
        Bytes of RAM.
    disk : writable buffer, optional
        The contents of the virtio disk.
    start : datetime
        Date and time at power-on.
    serial : callable
        Receives the bytes that the guest sends.
    stop : callable
        Called with "power off" or "reset".

    Attributes
    ----------
    manager : IoManager
        The bus.
    core : rv32.core.Core
        The core.
    clock : MachineClock
        The time.
    ram : Ram
        The memory.
    devices : dict
        The devices by name.
    """

    def __init__(
        self,
        kind: DeviceKind,
        *,
        ram_size: int,
        disk: Any | None,
        start: datetime,
        serial: Callable[[int], object],
        stop: Callable[[str], object],
    ) -> None:
        if kind not in DEVICE_KINDS:
            raise ValueError(f"devices are {', '.join(DEVICE_KINDS)}, not {kind!r}")
        self.manager = IoManager()
        self.core = core = Core(self.manager, pc=RAM_BASE, time_address=MTIME)
        self.clock = MachineClock(native.Timebase(core, NS_PER_CYCLE))
        self.ram = Ram(ram_size)
        self.plic = Plic(sources=PLIC_SOURCES, irqs=[core.external])
        self.uart, clint, rtc, power = self._make(kind, start, serial, stop)
        places = {
            "plic": (self.plic, PLIC_BASE, self.plic.size),
            "uart": (self.uart, UART_BASE, UART_SIZE),
            "rtc": (rtc, RTC_BASE, RTC_SIZE),
            "clint": (clint, CLINT_BASE, CLINT_SIZE),
            "power": (power, POWER_BASE, POWER_SIZE),
        }
        if disk is not None:
            block = VirtioBlock(MemoryStorage(disk))
            mapped = VirtioMmio(block, memory=GuestMemory(self.manager), irq=self.plic.line(DISK_SOURCE))
            places["disk"] = (mapped, DISK_BASE, DISK_SIZE)
        self.devices = {name: device for name, (device, _, _) in places.items()}
        with self.manager.begin_tx() as transaction:
            transaction.register_device_io(self.ram, [Resource.MemAddressRange(RAM_BASE, ram_size)], name="ram")
            for name, (device, base, size) in places.items():
                transaction.register_device_io(device, [Resource.MmioAddressRange(base, size)], name=name)

    def _make(
        self, kind: DeviceKind, start: datetime, serial: Callable[[int], object], stop: Callable[[str], object]
    ) -> tuple[Any, Any, Any, Any]:
        """Return UART, CLINT, RTC and power switch."""
        core, clock = self.core, self.clock
        uart_irq, rtc_irq = self.plic.line(UART_SOURCE), self.plic.line(RTC_SOURCE)
        if kind == "native":
            return (
                native.Uart16550(sink=serial, irq=uart_irq),
                native.Clint(clock=clock, frequency=TICKS_PER_SECOND, software_irq=core.software, timer_irq=core.timer),
                native.GoldfishRtc(clock=clock, start=start, irq=rtc_irq),
                native.PowerSwitch(stop=stop),
            )
        if kind == "banks":
            return (
                banks.Uart16550(sink=serial, irq=uart_irq),
                banks.Clint(clock=clock, frequency=TICKS_PER_SECOND, software_irq=core.software, timer_irq=core.timer),
                GoldfishRtc(clock=clock, start=start, irq=rtc_irq),
                banks.PowerSwitch(stop=stop),
            )
        return (
            Uart16550(sink=serial, irq=uart_irq),
            Clint(clock=clock, frequency=TICKS_PER_SECOND, software_irqs=[core.software], timer_irqs=[core.timer]),
            python.GoldfishRtc(clock=clock, start=start, irq=rtc_irq),
            python.PowerSwitch(stop=stop),
        )

    def device_tree(self, arguments: str) -> Node:
        """Return the description of the board for a kernel.

        Parameters
        ----------
        arguments : str
            The kernel's command line.
        """
        intc, plic, power = 1, 2, 3  # phandles
        cpu = Node(
            "cpu@0",
            {
                "device_type": "cpu",
                "reg": 0,
                "status": "okay",
                "compatible": "riscv",
                "riscv,isa": "rv32ima_zicsr_zifencei",
                "riscv,isa-base": "rv32i",
                "riscv,isa-extensions": ["i", "m", "a", "zicsr", "zifencei"],
                "mmu-type": "riscv,none",
            },
            [
                Node(
                    "interrupt-controller",
                    {
                        "compatible": "riscv,cpu-intc",
                        "interrupt-controller": None,
                        "#interrupt-cells": 1,
                        "phandle": intc,
                    },
                )
            ],
        )
        devices = [
            Node(
                f"interrupt-controller@{PLIC_BASE:x}",
                {
                    "compatible": ["sifive,plic-1.0.0", "riscv,plic0"],
                    "reg": [PLIC_BASE, self.plic.size],
                    "interrupt-controller": None,
                    "#address-cells": 0,
                    "#interrupt-cells": 1,
                    "interrupts-extended": [intc, 11],
                    "riscv,ndev": PLIC_SOURCES,
                    "phandle": plic,
                },
            ),
            Node(
                f"serial@{UART_BASE:x}",
                {
                    "compatible": "ns16550a",
                    "reg": [UART_BASE, UART_SIZE],
                    "clock-frequency": UART_CLOCK,
                    "interrupts": UART_SOURCE,
                },
            ),
            Node(
                f"rtc@{RTC_BASE:x}",
                {"compatible": "google,goldfish-rtc", "reg": [RTC_BASE, RTC_SIZE], "interrupts": RTC_SOURCE},
            ),
            Node(
                f"clint@{CLINT_BASE:x}",
                {
                    "compatible": ["sifive,clint0", "riscv,clint0"],
                    "reg": [CLINT_BASE, CLINT_SIZE],
                    "interrupts-extended": [intc, 3, intc, 7],
                },
            ),
            Node(f"syscon@{POWER_BASE:x}", {"compatible": "syscon", "reg": [POWER_BASE, POWER_SIZE], "phandle": power}),
        ]
        if "disk" in self.devices:
            disk = Node(f"virtio@{DISK_BASE:x}", {"compatible": "virtio,mmio", "reg": [DISK_BASE, DISK_SIZE]})
            disk.properties["interrupts"] = DISK_SOURCE
            devices.append(disk)
        return Node(
            "",
            {"#address-cells": 1, "#size-cells": 1, "compatible": "dbs-device,riscv", "model": "dbs-device RV32IMA"},
            [
                Node("chosen", {"bootargs": arguments, "stdout-path": f"/soc/serial@{UART_BASE:x}"}),
                Node(f"memory@{RAM_BASE:x}", {"device_type": "memory", "reg": [RAM_BASE, self.ram.size]}),
                Node("cpus", {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": TICKS_PER_SECOND}, [cpu]),
                Node(
                    "soc",
                    {
                        "compatible": "simple-bus",
                        "#address-cells": 1,
                        "#size-cells": 1,
                        "interrupt-parent": plic,
                        "ranges": None,
                    },
                    devices,
                ),
                Node(
                    "poweroff",
                    {"compatible": "syscon-poweroff", "regmap": power, "offset": 0, "value": python.POWER_OFF},
                ),
                Node("reboot", {"compatible": "syscon-reboot", "regmap": power, "offset": 0, "value": python.RESET}),
            ],
        )
