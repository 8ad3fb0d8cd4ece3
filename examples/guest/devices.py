"""The devices of the demo, reduced to what its guest needs."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import datetime

from dbs_device import DeviceIo, IoAddress, PioAddress

__all__ = ["CmosClock", "CrcCard", "HotplugSlot", "PowerSwitch", "Screen", "SerialPort", "Timer"]


class Device(DeviceIo):
    """A device that the report shows by the name and the docstring of its type."""

    def __repr__(self) -> str:
        return type(self).__name__


class SerialPort(Device):
    """16550 UART: guest's console."""

    DATA, LINE_STATUS = 0, 5
    TRANSMITTER_EMPTY = 0x20

    def __init__(self, put: Callable[[str], None]) -> None:
        self.put = put
        self.is_sending = False

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == self.LINE_STATUS:
            # The transmitter is busy for one poll of the guest.
            data[0] = 0 if self.is_sending else self.TRANSMITTER_EMPTY
            self.is_sending = False

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == self.DATA:
            self.put(chr(data[0]))
            self.is_sending = True


class CmosClock(Device):
    """Real-time clock, in BCD."""

    INDEX, DATA = 0, 1
    STATUS_A, UPDATING = 0x0A, 0x80

    def __init__(self, now: datetime) -> None:
        digits = now.strftime("%S %M %H %d %m %y ") + f"{now.year // 100:02}"
        # "59" read as hexadecimal is the number 59 in BCD.
        self.registers = {
            register: int(two_digits, 16)
            for register, two_digits in zip((0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32), digits.split(), strict=True)
        }
        self.registers[self.STATUS_A] = self.UPDATING
        self.index = 0

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == self.INDEX:
            self.index = data[0]

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == self.DATA:
            data[0] = self.registers.get(self.index, 0)
            if self.index == self.STATUS_A:
                self.registers[self.STATUS_A] = 0


class Timer(Device):
    """Count-down timer, to be polled."""

    LOAD, LEFT = 0, 4
    TICKS_PER_READ = 625  # the time is the number of reads, so that every run is the same

    def __init__(self) -> None:
        self.left = 0

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        if offset == self.LOAD:
            self.left = int.from_bytes(data, "little")

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        if offset == self.LEFT:
            self.left = max(0, self.left - self.TICKS_PER_READ)
            data[:] = self.left.to_bytes(len(data), "little")


class Screen(Device):
    """Framebuffer of 64 x 16 cells."""

    WIDTH, HEIGHT = 64, 16
    SIZE = WIDTH * HEIGHT  # a colour byte per cell

    def __init__(self) -> None:
        self.cells = bytearray(self.SIZE)

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        data[:] = self.cells[offset : offset + len(data)]

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.cells[offset : offset + len(data)] = data

    def rows(self) -> list[bytes]:
        return [bytes(self.cells[start : start + self.WIDTH]) for start in range(0, self.SIZE, self.WIDTH)]


class CrcCard(Device):
    """CRC-32 engine, plugged in late."""

    ID, DATA, CRC = 0, 4, 8
    SIZE = 12

    def __init__(self) -> None:
        self.crc = 0

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        if offset == self.DATA:
            self.crc = zlib.crc32(data, self.crc)

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        if offset == self.ID:
            data[:] = b"CRC1"[: len(data)]
        elif offset == self.CRC:
            data[:] = self.crc.to_bytes(4, "little")[: len(data)]


class HotplugSlot(Device):
    """Says where a card is."""

    STATUS, ADDRESS = 0, 4
    PATIENCE = 3  # polls of the empty slot before a card is plugged in

    def __init__(self, plug: Callable[[], int]) -> None:
        self.plug = plug
        self.polls = 0
        self.address = 0

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == self.STATUS:
            self.polls += 1
            if self.polls == self.PATIENCE:
                self.address = self.plug()
            data[0] = self.address != 0
        elif offset == self.ADDRESS:
            data[:] = self.address.to_bytes(4, "little")[: len(data)]


class PowerSwitch(Device):
    """Stops the machine."""

    SOFT_OFF = 0x2000

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if int.from_bytes(data, "little") == self.SOFT_OFF:
            self.stop()
