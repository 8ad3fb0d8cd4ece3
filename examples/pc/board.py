"""The motherboard: every device of the PC, on one I/O manager.

It needs no processor: a replayed trace drives it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from dbs_device import DeviceIo, DeviceResources, IoManager, Transaction
from dbs_device.clock import Clock
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
from dbs_device.devices.mc146818 import Mc146818
from dbs_device.devices.pci import PciConfigPorts
from dbs_device.devices.pic8259 import Elcr, PicPair
from dbs_device.devices.piix import IdeController, IsaBridge, PowerManagement
from dbs_device.devices.pit8254 import Pit8254
from dbs_device.devices.port61 import SystemControlPortB
from dbs_device.devices.port92 import SystemControlPortA
from dbs_device.devices.uart16550 import Uart16550
from dbs_device.devices.vbe_dispi import VbeDispi
from dbs_device.devices.vga import Vga
from dbs_device.interrupts import IrqLine
from dbs_device.state import Stateful

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
    reset : callable
        Resets the machine, as when the processor has shut down.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        start: datetime,
        ram_size: int,
        disk: AtaDisk | None,
        vgabios: bytes,
        serial: Callable[[int], object],
        debug: Callable[[int], object],
        stop: Callable[[str], None],
        lines: Callable[[int], Callable[[bool], object]] | None = None,
    ) -> None:
        self.manager = IoManager(open_bus=0xFF)
        self.clock = clock

        def reset() -> None:
            stop("reset")

        self.reset = reset
        self.intr = IrqLine()
        self.pics = PicPair(irq=self.intr)
        line = lines or self.pics.line
        self.pit = Pit8254(clock=clock, irq=line(0))
        self.keyboard_controller = I8042(irq=line(1), aux_irq=line(12), reset=reset)
        self.uart = Uart16550(sink=serial, irq=line(4), base=COM1)
        self.rtc = Mc146818(clock=clock, irq=line(8), start=start)
        self.disk = disk
        self.ide = IdeChannel(irq=line(14), disk=disk)
        self.secondary_ide = IdeChannel(irq=line(15), command_base=0x170, control_port=0x376)
        self.vga = Vga(clock=clock)
        self.smram = Smram()
        self.fw_cfg = FwCfg()
        self.acpi = AcpiPm(clock=clock, power_off=lambda: stop("power off"))

        power_management = PowerManagement(move=self._move_acpi)
        self.pci = PciConfigPorts(reset=reset)
        self.pci.plug((0, 0, 0), HostBridge(show_smram=self._show_smram))
        self.pci.plug((0, 1, 0), IsaBridge())
        self.pci.plug((0, 1, 1), IdeController())
        self.pci.plug((0, 1, 3), power_management)

        self._configure_firmware(ram_size, vgabios)
        self._meters: dict[DeviceIo, AccessMeter] = {}
        registered = {
            "pic0": self.pics.master,
            "pic1": self.pics.slave,
            "elcr": Elcr(pics=self.pics),
            "pit": self.pit,
            "port61": SystemControlPortB(clock=clock, pit=self.pit),
            "port92": SystemControlPortA(reset=reset),
            "i8042": self.keyboard_controller,
            "rtc": self.rtc,
            "dma0": Dma8237(base=0x00),
            "dma1": Dma8237(base=0xC0, stride=2),
            "dma_pages": DmaPages(),
            "com1": self.uart,
            "debug_console": DebugConsole(sink=debug),
            "ide0": self.ide,
            "ide1": self.secondary_ide,
            "vga": self.vga,
            "vbe": VbeDispi(),
            "fw_cfg": self.fw_cfg,
            "pci": self.pci,
            "apm": ApmPorts(smi_enabled=lambda: power_management.smi_on_apm_write),
            "local_apic": LocalApic(),
            "io_apic": IoApic(),
        }
        # The clock comes first: devices set their timers at times of the state.
        self._parts: dict[str, Stateful] = {"clock": clock, **registered, "smram": self.smram, "acpi": self.acpi}
        if disk is not None:
            self._parts["disk"] = disk
        with self.manager.begin_tx() as transaction:
            for device in registered.values():
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

    def _register(self, transaction: Transaction, device: DeviceIo, resources: DeviceResources) -> None:
        meter = self._meters.setdefault(device, AccessMeter(device))
        transaction.register_device_io(meter, resources)

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """Everything on the board that has a state, by name."""
        return self._parts

    @property
    def meters(self) -> list[AccessMeter]:
        """The access counts of each device that has ever been registered."""
        return list(self._meters.values())
