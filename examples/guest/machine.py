"""The machine: a CPU, its memory, and a bus with the devices on it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from unicorn import UC_ARCH_X86, UC_MODE_32, Uc

from dbs_device import IoManager, Resource
from dbs_device.trace import TraceRecorder
from dbs_device.unicorn import attach

from .devices import CmosClock, CrcCard, HotplugSlot, PowerSwitch, Screen, SerialPort, Timer

__all__ = ["Machine"]

PROGRAM = Path(__file__).with_name("guest.bin")
LOAD_ADDRESS = 0x1000
MEMORY_SIZE = 0x10000
CARD_ADDRESS = 0xE0000000


class Machine:
    """Runs the guest.

    Parameters
    ----------
    put : callable
        Receives each character that the guest sends to its serial port.
    tell : callable
        Receives a line about each action of the host.
    now : datetime
        The time of the clock.
    """

    def __init__(self, put: Callable[[str], None], tell: Callable[[str], None], now: datetime) -> None:
        self.tell = tell
        self.screen = Screen()
        self.bus = IoManager(open_bus=0xFF)
        for device, resource in (
            (CmosClock(now), Resource.PioAddressRange(0x70, 2)),
            (SerialPort(put), Resource.PioAddressRange(0x3F8, 8)),
            (PowerSwitch(self.power_off), Resource.PioAddressRange(0x604, 2)),
            (HotplugSlot(self.plug_card), Resource.PioAddressRange(0xAE00, 8)),
            (Timer(), Resource.MmioAddressRange(0xFED00000, 8)),
            (self.screen, Resource.MmioAddressRange(0xFED00400, Screen.SIZE)),
        ):
            self.bus.register_device_io(device, [resource])
        self.recorder = TraceRecorder(self.bus)
        self.cpu = Uc(UC_ARCH_X86, UC_MODE_32)
        self.cpu.mem_map(0, MEMORY_SIZE)
        attach(self.cpu, self.bus, self.recorder)

    def run(self) -> None:
        program = PROGRAM.read_bytes()
        self.cpu.mem_write(LOAD_ADDRESS, program)
        self.cpu.emu_start(LOAD_ADDRESS, LOAD_ADDRESS + len(program))

    def plug_card(self) -> int:
        """Register a new device, from inside the guest's access to the slot, and return its address."""
        self.bus.register_device_io(CrcCard(), [Resource.MmioAddressRange(CARD_ADDRESS, CrcCard.SIZE)])
        self.tell(f"plugs a card in at {CARD_ADDRESS:#x}, while the guest runs")
        return CARD_ADDRESS

    def power_off(self) -> None:
        self.tell("stops the CPU")
        self.cpu.emu_stop()
