"""The board: Qiling's STM32F407 with its peripherals, and a device of ours on its external bus."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qiling import Qiling
from qiling.arch import cortex_m
from qiling.const import QL_ARCH, QL_OS, QL_VERBOSE
from qiling.extensions.mcu.stm32f4 import stm32f407
from qiling.extensions.multitask import MultiTaskUnicorn
from unicorn.unicorn_py3.arch.arm import UcAArch32

from dbs_device import IoManager, Resource
from dbs_device.registers import RO, Flag, Interrupt, Register, RegisterBank, on_change, on_read
from dbs_device.unicorn import attach

FIRMWARE = Path(__file__).with_name("firmware.bin")
FLASH = 0x0800_0000
EXTERNAL_BUS = 0x6000_0000
EXTERNAL_INTERRUPT = 6
MOST_INSTRUCTIONS = 100_000


class CortexMUnicorn(MultiTaskUnicorn, UcAArch32):
    """The emulator of Qiling's Cortex-M boards, for Unicorn 2.1.

    Qiling 1.4.6 is written for Unicorn 2.0. `Uc(...)` of 2.1 makes an object of a class of its own for each
    architecture, also where a subclass was asked for.
    """

    def __new__(cls, *arguments: Any) -> CortexMUnicorn:
        return object.__new__(cls)


cortex_m.MultiTaskUnicorn = CortexMUnicorn


class Status(Register, access=RO):
    READY = Flag(0, RO, doc="there is a byte in DATA")


class Control(Register):
    START = Flag(0, doc="pass the message")


class MessageSource(RegisterBank, size=0x10):
    """Passes a message, a byte with each interrupt and a 0 at its end.

    Parameters
    ----------
    message : bytes
        The message.
    interrupt : callable
        Called for each byte.
    stop : callable
        Called when the firmware has stopped it.
    """

    STATUS = Status(0x0)
    DATA = Register(0x4, access=RO)
    CONTROL = Control(0x8)
    irq = Interrupt(status=STATUS, enable=CONTROL)

    def __init__(self, message: bytes, interrupt: Callable[[], object], stop: Callable[[], object]) -> None:
        super().__init__()
        self._bytes = deque(message + b"\0")
        self._stop = stop
        self.irq.connect(lambda level: interrupt() if level else None)
        self.STATUS.READY = True

    @on_read(DATA)
    def take(self, value: int) -> int:
        byte = self._bytes.popleft()
        self.STATUS.READY = False
        self.STATUS.READY = bool(self._bytes)
        return byte

    @on_change(CONTROL.START)
    def switch(self, new: int, old: int) -> None:
        if not new:
            self._stop()


class OnTheBus:
    """In the place of peripherals of Qiling: has Qiling serve their addresses from a manager's devices."""

    base = 0  # the offsets that Qiling passes are addresses then

    def __init__(self, manager: IoManager) -> None:
        self._manager = manager

    def read(self, address: int, size: int) -> int:
        return self._manager.mmio_load(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        self._manager.mmio_store(address, size, value)


def make_board() -> Any:
    """Return Qiling's STM32F407 with the firmware and two peripherals."""
    ql = Qiling(
        [str(FIRMWARE), FLASH],
        archtype=QL_ARCH.CORTEX_M,
        ostype=QL_OS.MCU,
        env=stm32f407,
        verbose=QL_VERBOSE.OFF,
    )
    ql.hw.create("rcc")
    ql.hw.create("usart2")
    return ql


def run(message: bytes, ql: Any = None) -> bytes:
    """Run the firmware; return what it has sent on Qiling's USART2."""
    ql = ql or make_board()
    device = MessageSource(message, lambda: ql.hw.nvic.set_pending(EXTERNAL_INTERRUPT), ql.os.stop)
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(EXTERNAL_BUS, device.size)], name="message")
    attach(ql.uc, manager)
    ql.run(count=MOST_INSTRUCTIONS)
    return bytes(ql.hw.usart2.recv())
