"""The board: RAM, flash, and devices of the library, wired to each other and described in a device tree.

It needs no processor: its manager has the whole address map, memory included.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.clock import Clock
from dbs_device.devices.cfi_flash import CfiFlash
from dbs_device.devices.fw_cfg import FwCfgMmio
from dbs_device.devices.gicv2 import GicV2
from dbs_device.devices.pci import PciBus, PciFunction
from dbs_device.devices.pci_device import PciEcam
from dbs_device.devices.pl011 import Pl011
from dbs_device.devices.pl031 import Pl031
from dbs_device.devices.storage import MemoryStorage, Storage
from dbs_device.devices.virtio import VirtioDevice
from dbs_device.devices.virtio_block import VirtioBlock
from dbs_device.devices.virtio_console import VirtioConsole
from dbs_device.devices.virtio_mmio import VirtioMmio
from dbs_device.devices.virtio_net import VirtioNet
from dbs_device.devices.virtio_pci import VirtioPci
from dbs_device.devices.virtio_rng import VirtioRng
from dbs_device.memory import GuestMemory, Ram
from examples.riscv.device_tree import Node, Value, flatten

__all__ = ["FLASH_SIZE", "RAM_BASE", "Board"]

MIB = 1 << 20

# QEMU's memory map.
FLASH, FLASH_BANK = 0x0000_0000, 0x0400_0000
GIC_DISTRIBUTOR, GIC_CPU = 0x0800_0000, 0x0801_0000
UART, RTC, FW_CFG = 0x0900_0000, 0x0901_0000, 0x0902_0000
VIRTIO = 0x0A00_0000
PCI_MEMORY, PCI_CONFIG = 0x1000_0000, 0x3F00_0000
PCI_MEMORY_SIZE = 0x2EFF_0000
RAM_BASE = 0x4000_0000

FLASH_SIZE = 4 * MIB  # of each bank
SECTOR_SIZE = 256 << 10

# Shared interrupts.
UART_IRQ, RTC_IRQ, PCI_IRQ, VIRTIO_IRQ = 1, 2, 3, 16
TIMER_PPIS = 30, 27  # the physical timer of the non-secure EL1, and the virtual timer

# Phandles and cells of the device tree.
GIC_PHANDLE, CLOCK_PHANDLE = 1, 2
SPI, PPI, LEVEL_HIGH = 0, 1, 4
PCI_32_BIT_MEMORY = 0x0200_0000
UART_CLOCK = 24_000_000


class Board:
    """All devices.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    start : datetime, optional
        Date and time at power-on; the host's by default.
    ram_size : int
        Bytes, a multiple of a page.
    flash : sequence of buffer
        The contents of both banks, `FLASH_SIZE` bytes each: firmware, and what it stores.
    disk : Storage, optional
        The disk; without it there is an empty one of 1 MiB.
    legacy : bool
        Whether the virtio devices have the registers of version 1, of drivers before VIRTIO 1.0.
    serial : callable
        Receives the bytes that the guest sends to its UART.
    network : callable
        Receives the frames that it sends to the network.
    random : callable
        Makes random bytes for the guest.
    irq : callable
        The line of the CPU's IRQ exception.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        flash: tuple[Any, Any],
        start: datetime | None = None,
        ram_size: int = 128 * MIB,
        disk: Storage | None = None,
        legacy: bool = False,
        serial: Callable[[int], object],
        network: Callable[[bytes], object],
        random: Callable[[int], bytes],
        irq: Callable[[bool], object],
    ) -> None:
        self.clock = clock
        self.manager = IoManager(open_bus=0, log_unowned=True)
        self.memory = GuestMemory(self.manager)
        self.ram = Ram(ram_size)
        self.manager.register_device_io(self.ram, [Resource.MemAddressRange(RAM_BASE, ram_size)], name="ram")
        self.flash = [CfiFlash(contents, sector_size=SECTOR_SIZE) for contents in flash]
        for number, bank in enumerate(self.flash):
            bank.register(self.manager, FLASH + number * FLASH_BANK, name=f"flash{number}")
        self.gic = GicV2(interrupts=288, irqs=[irq])
        self.timer_irqs = self.gic.ppi(0, TIMER_PPIS[0]), self.gic.ppi(0, TIMER_PPIS[1])
        self.uart = Pl011(sink=serial, irq=self.gic.spi(UART_IRQ))
        self.rtc = Pl031(clock=clock, start=start, irq=self.gic.spi(RTC_IRQ))
        self.console = VirtioConsole(serial_bytes(serial))
        self.net = VirtioNet(network)
        self.virtio = [
            self._virtio(number, device, legacy)
            for number, device in enumerate(
                [
                    VirtioBlock(disk or MemoryStorage(bytearray(MIB)), serial="virt-disk"),
                    self.net,
                    VirtioRng(random),
                    self.console,
                ]
            )
        ]
        self.fw_cfg = FwCfgMmio(memory=self.memory)
        self.fw_cfg.add_file("opt/board", b"virt")
        self.pci = PciBus()
        self.pci.plug((0, 0, 0), PciFunction(0x1B36, 0x0008, 0, 0x060000))  # a host bridge without registers
        self.pci_disk = VirtioPci(
            self.manager,
            VirtioBlock(MemoryStorage(bytearray(MIB)), serial="pci-disk"),
            memory=self.memory,
            irq=self.gic.spi(PCI_IRQ),
        )
        self.pci.plug((0, 1, 0), self.pci_disk)
        ecam = PciEcam(self.pci)
        self._register("pci config", ecam, PCI_CONFIG, ecam.size)
        self._register("fw_cfg", self.fw_cfg, FW_CFG, self.fw_cfg.size)
        self._register("gic distributor", self.gic.distributors[0], GIC_DISTRIBUTOR, 0x1000)
        self._register("gic cpu interface", self.gic.cpu_interfaces[0], GIC_CPU, 0x2000)
        self._register("uart", self.uart, UART, self.uart.size)
        self._register("rtc", self.rtc, RTC, self.rtc.size)
        for number, transport in enumerate(self.virtio):
            self._register(f"virtio{number}", transport, VIRTIO + number * transport.size, transport.size)

    def _virtio(self, number: int, device: VirtioDevice, legacy: bool) -> VirtioMmio:
        return VirtioMmio(device, memory=self.memory, irq=self.gic.spi(VIRTIO_IRQ + number), legacy=legacy)

    def _register(self, name: str, device: DeviceIo, base: int, size: int) -> None:
        self.manager.register_device_io(device, [Resource.MmioAddressRange(base, size)], name=name)

    def device_tree(self) -> bytes:
        """Return the description of the board that firmware gets."""
        primecell = ("arm,primecell",)
        nodes = [
            Node("chosen", {"stdout-path": f"/serial@{UART:x}"}),
            Node("aliases", {"serial0": f"/serial@{UART:x}"}),
            Node(f"memory@{RAM_BASE:x}", {"device_type": "memory", "reg": at((RAM_BASE, self.ram.size))}),
            Node(
                "cpus",
                {"#address-cells": 1, "#size-cells": 0},
                [
                    Node(
                        "cpu@0",
                        {"device_type": "cpu", "compatible": "arm,cortex-a57", "reg": 0, "enable-method": "psci"},
                    )
                ],
            ),
            Node("psci", {"compatible": ("arm,psci-1.0", "arm,psci-0.2"), "method": "hvc"}),
            Node(
                "timer",
                {
                    "compatible": "arm,armv8-timer",
                    "always-on": None,
                    "interrupts": [
                        cell for ppi in (29, *TIMER_PPIS, 26) for cell in (PPI, ppi - 16, 1 << 8 | LEVEL_HIGH)
                    ],
                },
            ),
            Node(
                "apb-pclk",
                {
                    "compatible": "fixed-clock",
                    "#clock-cells": 0,
                    "clock-frequency": UART_CLOCK,
                    "clock-output-names": "clk24mhz",
                    "phandle": CLOCK_PHANDLE,
                },
            ),
            Node(
                f"flash@{FLASH:x}",
                {
                    "compatible": "cfi-flash",
                    "reg": at(*[(FLASH + number * FLASH_BANK, bank.size) for number, bank in enumerate(self.flash)]),
                    "bank-width": self.flash[0].width,
                },
            ),
            Node(
                f"interrupt-controller@{GIC_DISTRIBUTOR:x}",
                {
                    "compatible": "arm,cortex-a15-gic",
                    "reg": at((GIC_DISTRIBUTOR, 0x1000), (GIC_CPU, 0x2000)),
                    "interrupt-controller": None,
                    "#interrupt-cells": 3,
                    "#address-cells": 2,
                    "#size-cells": 2,
                    "phandle": GIC_PHANDLE,
                },
            ),
            Node(
                f"serial@{UART:x}",
                {
                    "compatible": ("arm,pl011", *primecell),
                    "reg": at((UART, self.uart.size)),
                    "interrupts": (SPI, UART_IRQ, LEVEL_HIGH),
                    "clocks": (CLOCK_PHANDLE, CLOCK_PHANDLE),
                    "clock-names": ("uartclk", "apb_pclk"),
                },
            ),
            Node(
                f"rtc@{RTC:x}",
                {
                    "compatible": ("arm,pl031", *primecell),
                    "reg": at((RTC, self.rtc.size)),
                    "interrupts": (SPI, RTC_IRQ, LEVEL_HIGH),
                    "clocks": CLOCK_PHANDLE,
                    "clock-names": "apb_pclk",
                },
            ),
        ]
        nodes += [
            Node(
                f"fw-cfg@{FW_CFG:x}",
                {"compatible": "qemu,fw-cfg-mmio", "reg": at((FW_CFG, self.fw_cfg.size)), "dma-coherent": None},
            ),
            Node(
                f"pcie@{PCI_MEMORY:x}",
                {
                    "compatible": "pci-host-ecam-generic",
                    "device_type": "pci",
                    "reg": at((PCI_CONFIG, 1 << 20)),
                    "bus-range": (0, 0),
                    "#address-cells": 3,
                    "#size-cells": 2,
                    "ranges": (PCI_32_BIT_MEMORY, *at((PCI_MEMORY, PCI_MEMORY)), 0, PCI_MEMORY_SIZE),
                    "#interrupt-cells": 1,
                    "interrupt-map-mask": (0, 0, 0, 7),
                    "interrupt-map": (0, 0, 0, 1, GIC_PHANDLE, 0, 0, SPI, PCI_IRQ, LEVEL_HIGH),
                    "dma-coherent": None,
                },
            ),
        ]
        for number, transport in enumerate(self.virtio):
            base = VIRTIO + number * transport.size
            properties: dict[str, Value] = {
                "compatible": "virtio,mmio",
                "reg": at((base, transport.size)),
                "interrupts": (SPI, VIRTIO_IRQ + number, 1),
                "dma-coherent": None,
            }
            nodes.append(Node(f"virtio_mmio@{base:x}", properties))
        root: dict[str, Value] = {
            "compatible": "linux,dummy-virt",
            "model": "dbs-device virt",
            "#address-cells": 2,
            "#size-cells": 2,
            "interrupt-parent": GIC_PHANDLE,
        }
        return flatten(Node("", root, nodes))


def serial_bytes(serial: Callable[[int], object]) -> Callable[[bytes], None]:
    """Return a receiver of bytes that passes them on one by one."""

    def receive(data: bytes) -> None:
        for byte in data:
            serial(byte)

    return receive


def at(*ranges: tuple[int, int]) -> list[int]:
    """Return base and size of ranges as the cells of a `reg` property."""
    return [cell for pair in ranges for value in pair for cell in (value >> 32, value & 0xFFFF_FFFF)]
