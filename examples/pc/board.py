"""The motherboard: every device of the PC, on one I/O manager.

It needs no processor: a replayed trace drives it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from dbs_device import DeviceResources, IoManager, Transaction
from dbs_device.clock import Clock
from dbs_device.devices._common import Irq
from dbs_device.devices._isa import ByteSink, PcDevice
from dbs_device.devices.acpi_pm import AcpiPm
from dbs_device.devices.apm import ApmPorts
from dbs_device.devices.ata import AtaDisk, IdeChannel
from dbs_device.devices.debug_console import DebugConsole
from dbs_device.devices.dma8237 import Dma8237, DmaPages
from dbs_device.devices.fw_cfg import MAX_CPUS, NB_CPUS, FwCfg
from dbs_device.devices.i440fx import HostBridge, Smram
from dbs_device.devices.i8042 import I8042
from dbs_device.devices.io_apic import IoApic
from dbs_device.devices.local_apic import LocalApic
from dbs_device.devices.pci import PciConfigPorts
from dbs_device.devices.pic8259 import Elcr, PicPair
from dbs_device.devices.piix import IdeController, IsaBridge, PowerManagement
from dbs_device.devices.pit8254 import Pit8254
from dbs_device.devices.port61 import SystemControlPortB
from dbs_device.devices.port92 import SystemControlPortA
from dbs_device.devices.rtc_mc146818 import CmosRtc
from dbs_device.devices.uart16550 import Uart16550
from dbs_device.devices.vbe_dispi import VbeDispi
from dbs_device.devices.vga import Vga
from dbs_device.interrupts import IrqLine

from .meter import AccessMeter

__all__ = ["Board"]

MIB = 1 << 20
COM1 = 0x3F8

# The usual bytes of the CMOS memory.
CMOS_EXTENDED_MEMORY = 0x34  # and 0x35: above 16 MiB, in units of 64 KiB
CMOS_BOOT_ORDER = 0x3D
BOOT_DISK_THEN_FLOPPY = 0x21


class Board:
    """All devices, wired to each other and registered.

    Parameters
    ----------
    clock : Clock
        The machine's time.
    start : datetime
        Date and time at power-on.
    ram_size : int
        Bytes; above 16 MiB, a multiple of 64 KiB.
    disk : AtaDisk, optional
        The first disk.
    vgabios : bytes
        Option ROM of the VGA.
    serial, debug : callable
        Receive the bytes that the guest sends to COM1 and to the debug console.
    stop : callable
        Called with the reason when the guest powers the machine off or resets it.
    lines : callable, optional
        Returns the interrupt line of a number, 0..15, for a processor that has controllers of its own; the board's are
        then on the bus, with nothing on their inputs.

    Attributes
    ----------
    intr : IrqLine
        The output of the board's interrupt controllers, for a processor to connect to.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        start: datetime,
        ram_size: int,
        disk: AtaDisk | None,
        vgabios: bytes,
        serial: ByteSink,
        debug: ByteSink,
        stop: Callable[[str], None],
        lines: Callable[[int], Irq] | None = None,
    ) -> None:
        self.manager = IoManager(open_bus=0xFF)
        self.clock = clock

        def reset() -> None:
            stop("reset")

        self.intr = IrqLine()
        self.pics = PicPair(irq=self.intr)
        line = lines or self.pics.line
        self.pit = Pit8254(clock, lambda: _edge(line(0)))
        self.keyboard_controller = I8042(line(1), line(12), reset)
        self.uart = Uart16550(serial, line(4), COM1)
        self.rtc = CmosRtc(clock, line(8), start)
        self.ide = IdeChannel(line(14), disk)
        self.secondary_ide = IdeChannel(line(15), None, 0x170, 0x376)
        self.vga = Vga(clock)
        self.smram = Smram()
        self.fw_cfg = FwCfg()
        self.acpi = AcpiPm(clock, lambda: stop("power off"))

        power_management = PowerManagement(self._move_acpi)
        self.pci = PciConfigPorts(reset)
        self.pci.plug((0, 0, 0), HostBridge(self._show_smram))
        self.pci.plug((0, 1, 0), IsaBridge())
        self.pci.plug((0, 1, 1), IdeController())
        self.pci.plug((0, 1, 3), power_management)

        self._configure_firmware(ram_size, vgabios)
        self._meters: dict[PcDevice, AccessMeter] = {}
        devices = (
            self.pics.master,
            self.pics.slave,
            Elcr(self.pics),
            self.pit,
            SystemControlPortB(clock, self.pit),
            SystemControlPortA(reset),
            self.keyboard_controller,
            self.rtc,
            Dma8237(0x00),
            Dma8237(0xC0, stride=2),
            DmaPages(),
            self.uart,
            DebugConsole(debug),
            self.ide,
            self.secondary_ide,
            self.vga,
            VbeDispi(),
            self.fw_cfg,
            self.pci,
            ApmPorts(lambda: power_management.smi_on_apm_write),
            LocalApic(),
            IoApic(),
        )
        with self.manager.begin_tx() as transaction:
            for device in devices:
                self._register(transaction, device, device.get_trapped_io_resources())

    def _configure_firmware(self, ram_size: int, vgabios: bytes) -> None:
        """Describe the machine to the firmware."""
        above_16_mib = (ram_size - 16 * MIB) >> 16
        self.rtc[CMOS_EXTENDED_MEMORY], self.rtc[CMOS_EXTENDED_MEMORY + 1] = above_16_mib & 0xFF, above_16_mib >> 8
        self.rtc[CMOS_BOOT_ORDER] = BOOT_DISK_THEN_FLOPPY
        self.fw_cfg.add_item(NB_CPUS, b"\1\0")
        self.fw_cfg.add_item(MAX_CPUS, b"\1\0")
        self.fw_cfg.add_file("etc/sercon-port", COM1.to_bytes(2, "little"))
        self.fw_cfg.add_file("etc/show-boot-menu", b"\0\0")
        self.fw_cfg.add_file("vgaroms/vgabios.bin", vgabios)

    def _move_acpi(self, base: int | None) -> None:
        """Hot-plug the ACPI registers at the base that the guest has just set, from inside its own access."""
        resources = self.acpi.resources_at(base)
        with self.manager.begin_tx() as transaction:
            transaction.unregister_device_io(self.acpi.get_trapped_io_resources())
            self._register(transaction, self.acpi, resources)
        self.acpi.assign_resources(resources)

    def _show_smram(self, shown: bool) -> None:
        """Switch the window at 0xA0000 between the VGA and the RAM behind it. No access sees it without an owner."""
        with self.manager.begin_tx() as transaction:
            transaction.unregister_device_io(self.vga.memory_window)
            self._register(transaction, self.smram if shown else self.vga, self.vga.memory_window)

    def _register(self, transaction: Transaction, device: PcDevice, resources: DeviceResources) -> None:
        meter = self._meters.setdefault(device, AccessMeter(device))
        transaction.register_device_io(meter, resources)

    @property
    def meters(self) -> list[AccessMeter]:
        """The access counts of each device that has ever been registered."""
        return list(self._meters.values())


def _edge(line: Irq) -> None:
    """Make a rising edge. The level stays high: falling before the acknowledge would withdraw the request."""
    line(False)
    line(True)
