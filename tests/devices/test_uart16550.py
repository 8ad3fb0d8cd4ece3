"""The UART, against its datasheet."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_helpers import on_bus

from dbs_device import IoManager, Resource
from dbs_device.devices.uart16550 import Uart16550

COM1 = 0x3F8


class Uart:
    """A UART on a bus, with what it has sent and the level of its interrupt line."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.irq = False
        self.device = Uart16550(sink=self.sent.append, irq=self._set_irq, base=COM1)
        self.bus = on_bus(self.device)

    def _set_irq(self, level: bool) -> None:
        self.irq = level

    def __getitem__(self, register: int) -> int:
        return self.bus.pio_in(COM1 + register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.bus.pio_out(COM1 + register, 1, value)


@pytest.fixture
def uart() -> Uart:
    return Uart()


def test_after_reset(uart: Uart) -> None:
    assert [uart[register] for register in range(8)] == [0x00, 0x00, 0x01, 0x00, 0x00, 0x60, 0xB0, 0x00]


def test_transmits(uart: Uart) -> None:
    for byte in b"ok":
        assert uart[5] & 0x20
        uart[0] = byte
    assert uart.sent == b"ok"


def test_divisor_latch_hides_two_registers(uart: Uart) -> None:
    assert uart.device.baud is None
    uart[1] = 0x05
    uart[3] = 0x83
    uart[0], uart[1] = 0x0C, 0x00
    assert (uart[0], uart[1], uart.device.baud) == (0x0C, 0x00, 9600)
    uart.bus.pio_out(COM1, 2, 0x0180)
    assert (uart[0], uart[1], uart.device.baud) == (0x80, 0x01, 300)
    uart[3] = 0x03
    assert (uart[1], uart.sent) == (0x05, b"")


def test_receives_and_interrupts_when_out2_connects_the_line(uart: Uart) -> None:
    uart[1] = 0x01
    uart.device.receive(b"A")
    assert (uart.irq, uart[2]) == (False, 0x04)
    uart[4] = 0x08
    assert uart.irq
    assert (uart[5], uart[0], uart[5], uart.irq) == (0x61, ord("A"), 0x60, False)


def test_second_byte_overwrites_the_first_without_fifo(uart: Uart) -> None:
    uart.device.receive(b"AB")
    assert (uart[5], uart[5], uart[0]) == (0x63, 0x61, ord("B"))  # reading the status clears the overrun


def test_full_fifo_loses_what_comes(uart: Uart) -> None:
    uart[2] = 0x01
    uart.device.receive(range(20))
    assert uart[5] == 0x63
    assert [uart[0] for _ in range(16)] == list(range(16))
    assert uart[5] == 0x60


def test_room_is_what_it_receives_without_a_loss(uart: Uart) -> None:
    assert uart.device.room == 1
    uart[2] = 0x01
    uart.device.receive(b"abc")
    assert uart.device.room == 13
    uart.device.receive(bytes(uart.device.room))
    assert (uart.device.room, uart[5] & 0x02) == (0, 0)
    uart[2], uart[4] = 0x03, 0x10  # empty, and in loopback
    assert uart.device.room == 0


def test_trigger_level(uart: Uart) -> None:
    uart[2] = 0x41  # 4 bytes
    uart[1] = 0x01
    uart.device.receive(b"abc")
    assert uart[2] == 0xCC  # fewer: the line has been idle
    uart.device.receive(b"d")
    assert uart[2] == 0xC4


def test_clearing_the_receiver_fifo(uart: Uart) -> None:
    uart[2] = 0x01
    uart.device.receive(b"abc")
    uart[2] = 0x03
    assert uart[5] == 0x60


def test_transmitter_interrupt_is_identified_once(uart: Uart) -> None:
    uart[4] = 0x08
    uart[1] = 0x02
    assert uart.irq
    assert (uart[2], uart[2], uart.irq) == (0x02, 0x01, False)
    uart[0] = 0x41
    assert uart.irq


def test_interrupts_have_priorities(uart: Uart) -> None:
    uart[1] = 0x07
    uart.device.receive(b"AB")
    assert uart[2] == 0x06
    assert uart[5] & 0x02
    assert uart[2] == 0x04
    assert uart[0] == ord("B")
    assert uart[2] == 0x02


def test_loopback_returns_bytes_and_modem_lines(uart: Uart) -> None:
    uart[4] = 0x1F
    uart[0] = 0x5A
    uart.device.receive(b"from outside")
    assert (uart.sent, uart[0]) == (b"", 0x5A)
    assert uart[6] & 0xF0 == 0xF0
    uart[4] = 0x10
    assert uart[6] == 0x0F  # DSR, CTS and DCD have changed, RI has fallen
    assert uart[6] == 0x00


def test_modem_interrupt(uart: Uart) -> None:
    uart[4] = 0x10
    uart[6]
    uart[1] = 0x08
    uart[4] = 0x11
    assert uart[2] == 0x00
    assert uart[6] == 0x22
    assert uart[2] == 0x01


def test_scratch(uart: Uart) -> None:
    uart[7] = 0xA5
    assert uart[7] == 0xA5


@given(st.lists(st.one_of(st.binary(max_size=20), st.just(None)), max_size=20))
def test_fifo_is_a_queue_of_sixteen(steps: list[bytes | None]) -> None:
    uart, model = Uart(), deque[int]()
    uart[2] = 0x01
    for step in steps:
        if step is None:
            assert uart[0] == (model.popleft() if model else 0)
        else:
            uart.device.receive(step)
            model.extend(step[: 16 - len(model)])
        assert uart[5] & 0x01 == bool(model)


def mapped(**options: object) -> tuple[Uart16550, IoManager, bytearray, list[bool]]:
    """Return a UART at an address that firmware would know, its bus, what it sends and the levels of its line."""
    sent, levels = bytearray(), [False]
    uart = Uart16550(sink=sent.append, irq=levels.append, **options)  # type: ignore[arg-type]
    bus = IoManager()
    bus.register_device_io(uart, [Resource.MmioAddressRange(0x1000_0000, uart.size)])
    return uart, bus, sent, levels


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_registers_on_mmio_are_a_stride_apart(stride: int, size: int) -> None:
    uart, bus, sent, _ = mapped(stride=stride)
    size = min(size, stride)
    assert uart.size == 8 * stride
    bus.mmio_store(0x1000_0000 + 7 * stride, size, 0x5A)
    assert bus.mmio_load(0x1000_0000 + 7 * stride, size) == 0x5A
    bus.mmio_store(0x1000_0000, size, ord("x"))
    assert sent == b"x"
    if stride > 1:
        assert bus.mmio_load(0x1000_0000 + 7 * stride + 1, 1) == 0


def test_a_line_that_out2_does_not_connect() -> None:
    uart, bus, _, levels = mapped(out2_enables_irq=False)
    bus.mmio_store(0x1000_0001, 1, 0x01)
    uart.receive(b"a")
    assert levels[-1]
    assert bus.mmio_load(0x1000_0000, 1) == ord("a")
    assert not levels[-1]


def test_the_crystal_sets_the_baud_rate() -> None:
    uart, bus, _, _ = mapped(frequency=3_686_400)
    bus.mmio_store(0x1000_0003, 1, 0x80)
    bus.mmio_store(0x1000_0000, 1, 2)
    assert uart.baud == 115_200
    with pytest.raises(ValueError, match="1 byte apart or more, not 0"):
        Uart16550(sink=print, stride=0)
