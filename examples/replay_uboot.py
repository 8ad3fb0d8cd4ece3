"""Replay a recorded boot of U-Boot on Python devices, without a CPU.

The trace contains the accesses of U-Boot 2023.01 on an emulated PC, from its first instruction to its prompt, through a
few typed commands, to the reset. Each range of the trace's map gets a device. The serial port is a model of a 16550;
the other devices return the recorded values, in order. Every value that is read is compared with the recording.

    python examples/replay_uboot.py
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from dbs_device import DeviceIo, DeviceResources, IoAddress, IoManager, PioAddress, Resource
from dbs_device.errors import format_range
from dbs_device.trace import Access, ReplayResult, Space, Trace, TraceRange, replay

TRACE = Path(__file__).parents[1] / "tests" / "data" / "uboot_x86_trace.npz"
SERIAL_PORT = "com1"

# Registers of the 16550 (National Semiconductor PC16550D, table II). The first two are the divisor while DLAB is set.
DATA, INTERRUPT_ENABLE, INTERRUPT_ID, LINE_CONTROL, MODEM_CONTROL, LINE_STATUS, MODEM_STATUS, SCRATCH = range(8)
FIFO_CONTROL = INTERRUPT_ID  # the same address, written
DLAB = 0x80  # of line control
DATA_READY, TRANSMITTER_EMPTY = 0x01, 0x60  # of line status
FIFO_ENABLE = 0x01  # of FIFO control
FIFOS_ENABLED, NO_INTERRUPT = 0xC0, 0x01  # of interrupt identification
CARRIER_READY_CLEAR = 0xB0  # of modem status: DCD, DSR, CTS, as from a terminal that is on


class CountingDevice(DeviceIo):
    """Counts its accesses; serves PIO and MMIO."""

    def __init__(self, place: TraceRange) -> None:
        self.place = place
        self.reads = 0
        self.writes = 0

    def get_assigned_resources(self) -> DeviceResources:
        base, size = self.place.base, self.place.last - self.place.base + 1
        is_port = self.place.space is Space.PIO
        return DeviceResources(
            [Resource.PioAddressRange(base, size) if is_port else Resource.MmioAddressRange(base, size)]
        )

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.reads += 1
        data[:] = self.answer(offset, len(data)).to_bytes(len(data), "little")

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.writes += 1
        self.accept(offset, int.from_bytes(data, "little"))

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        self.read(IoAddress(base), IoAddress(offset), data)

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        self.write(IoAddress(base), IoAddress(offset), data)

    def answer(self, offset: int, size: int) -> int:
        """Return the value of a read of `size` bytes."""
        raise NotImplementedError

    def accept(self, offset: int, value: int) -> None:
        """Accept a write."""


class RecordedDevice(CountingDevice):
    """Returns the recorded values, in order."""

    def __init__(self, place: TraceRange, accesses: Iterable[Access]) -> None:
        super().__init__(place)
        self.answers = deque(access.value for access in accesses if not access.write)

    def answer(self, offset: int, size: int) -> int:
        return self.answers.popleft()


class Uart16550(CountingDevice):
    """A polled 16550: transmitter, receiver and their control registers; no interrupts, no loopback.

    `sent` collects the bytes that the guest sends. `typed` contains those that the terminal sends, each with the access
    to the UART before which it arrives: a replay has no clock but the accesses.
    """

    def __init__(self, place: TraceRange, typed: Iterable[tuple[int, bytes]] = ()) -> None:
        super().__init__(place)
        self.sent = bytearray()
        self.typed = deque(typed)
        self.received: deque[int] = deque()
        self.registers = bytearray(8)
        self.divisor = bytearray(2)
        self.fifo_control = 0

    def answer(self, offset: int, size: int) -> int:
        self.let_terminal_type()
        if offset in (DATA, INTERRUPT_ENABLE) and self.registers[LINE_CONTROL] & DLAB:
            return self.divisor[offset]
        if offset == DATA:
            return self.received.popleft() if self.received else 0
        if offset == INTERRUPT_ID:
            return NO_INTERRUPT | (FIFOS_ENABLED if self.fifo_control & FIFO_ENABLE else 0)
        if offset == LINE_STATUS:
            # Bytes are sent at once: the transmitter is always empty.
            return TRANSMITTER_EMPTY | (DATA_READY if self.received else 0)
        if offset == MODEM_STATUS:
            return CARRIER_READY_CLEAR
        return self.registers[offset]

    def accept(self, offset: int, value: int) -> None:
        self.let_terminal_type()
        if offset in (DATA, INTERRUPT_ENABLE) and self.registers[LINE_CONTROL] & DLAB:
            self.divisor[offset] = value
        elif offset == DATA:
            self.sent.append(value)
        elif offset == FIFO_CONTROL:
            self.fifo_control = value
        elif offset not in (LINE_STATUS, MODEM_STATUS):
            self.registers[offset] = value

    def let_terminal_type(self) -> None:
        while self.typed and self.typed[0][0] < self.reads + self.writes:
            self.received.extend(self.typed.popleft()[1])


def typed_lines(accesses: Iterable[Access], base: int) -> Iterator[tuple[int, bytes]]:
    """Recover the typed bytes: those read while the recorded line status is "data ready"."""
    line, begin = bytearray(), None
    for number, access in enumerate(accesses):
        register = access.addr - base
        if access.write or register not in (DATA, LINE_STATUS):
            continue
        if register == DATA and begin is not None:
            line.append(access.value)
        elif register == LINE_STATUS and access.value & DATA_READY and begin is None:
            begin = number
        elif register == LINE_STATUS and not access.value & DATA_READY and begin is not None:
            yield begin, bytes(line)
            line, begin = bytearray(), None
    if begin is not None:
        yield begin, bytes(line)


def make_devices(trace: Trace) -> list[CountingDevice]:
    """Make a device for each range of the trace's map."""
    devices: list[CountingDevice] = []
    for place in trace.ranges:
        accesses = trace[trace.mask([place])]
        if place.name == SERIAL_PORT:
            devices.append(Uart16550(place, typed_lines(accesses, place.base)))
        else:
            devices.append(RecordedDevice(place, accesses))
    return devices


def as_on_screen(sent: bytes) -> str:
    """Return text as a terminal shows it in the end: lines end in newlines, backspaces are applied."""
    screen: list[str] = []
    line: list[str] = []
    column = 0
    for character in sent.decode("latin-1"):
        if character == "\b":
            column = max(column - 1, 0)
        elif character == "\r":
            column = 0
        elif character == "\n":
            screen.append("".join(line).rstrip())
            line, column = [], 0
        else:
            line[column : column + 1] = [character]
            column += 1
    screen.append("".join(line).rstrip())
    return "\n".join(screen).expandtabs().strip("\n")


def show(devices: list[CountingDevice], text: str, result: ReplayResult, seconds: float) -> None:
    """Print the devices that were accessed, and the output of the serial port."""
    rows: list[tuple[str, ...]] = [
        (
            device.place.name,
            device.place.space.name,
            format_range(device.place.base, device.place.last),
            "16550 model" if isinstance(device, Uart16550) else "recording",
            str(device.reads),
            str(device.writes),
        )
        for device in devices
        if device.reads or device.writes
    ]
    headings = ("device", "bus", "range", "answers by", "reads", "writes")
    idle = len(devices) - len(rows)
    try:
        from rich.console import Console
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        show_plainly(headings, rows, text)
    else:
        table = Table(title="Accesses of U-Boot, per device", title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="right" if heading in ("reads", "writes") else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console = Console(highlight=False)
        console.print(table)
        console.print(Panel(Text(text), title=f"{SERIAL_PORT}: what U-Boot printed", title_align="left"))
    print(f"{idle} of {len(devices)} devices were left alone. In {seconds * 1000:.0f} ms: {result}.")


def show_plainly(headings: tuple[str, ...], rows: list[tuple[str, ...]], text: str) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    print("Accesses of U-Boot, per device")
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if heading in ("reads", "writes") else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        ]
        print("  " + "  ".join(cells))
    print(f"\n{SERIAL_PORT}: what U-Boot printed\n")
    print("\n".join(f"  {line}" for line in text.split("\n")))
    print()


def main() -> int:
    trace = Trace.load(TRACE)
    devices = make_devices(trace)
    manager = IoManager()
    for device in devices:
        manager.register_device_io(device, device.get_trapped_io_resources())
    start = time.perf_counter()
    result = replay(trace, manager)
    seconds = time.perf_counter() - start
    text = "".join(as_on_screen(bytes(device.sent)) for device in devices if isinstance(device, Uart16550))
    show(devices, text, result, seconds)
    return 0 if result.first is None else 1


if __name__ == "__main__":
    sys.exit(main())
