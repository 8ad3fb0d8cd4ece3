"""ARM's PrimeCell UART, from the side of its driver."""

import pytest
from lines import Lines, registered

from dbs_device.devices.pl011 import Pl011
from dbs_device.errors import StateError

DR, RSR, FR, LCRH, CR, IFLS, IMSC, RIS, MIS, ICR = 0x00, 0x04, 0x18, 0x2C, 0x30, 0x34, 0x38, 0x3C, 0x40, 0x44
RXFE, TXFF, RXFF, TXFE = 1 << 4, 1 << 5, 1 << 6, 1 << 7
RX, TX, RT, OE = 1 << 4, 1 << 5, 1 << 6, 1 << 10
FEN = 1 << 4


class Machine:
    def __init__(self):
        self.sent = bytearray()
        self.lines = Lines(1)
        self.uart = Pl011(sink=self.sent.append, irq=self.lines.sinks()[0])
        self.manager = registered(self.uart)
        self.store(CR, 0x301)
        self.store(LCRH, FEN | 3 << 5)

    def load(self, offset):
        return self.manager.mmio_load(offset, 4)

    def store(self, offset, value):
        self.manager.mmio_store(offset, 4, value)

    def pull(self):
        """All received bytes, as a polling driver reads them."""
        data = bytearray()
        while not self.load(FR) & RXFE:
            data.append(self.load(DR) & 0xFF)
        return data


@pytest.fixture
def machine():
    return Machine()


def test_a_driver_sends_when_there_is_room(machine):
    for byte in b"hello":
        assert not machine.load(FR) & TXFF
        machine.store(DR, byte)
    assert machine.sent == b"hello"
    assert machine.load(FR) & TXFE


def test_a_driver_receives_until_the_fifo_is_empty(machine):
    machine.uart.receive(b"0123456789abcdef")
    assert machine.load(FR) & RXFF
    assert machine.uart.room == 0
    assert machine.pull() == b"0123456789abcdef"
    assert machine.load(FR) & (RXFE | RXFF) == RXFE


def test_what_does_not_fit_is_lost_and_reported(machine):
    machine.uart.receive(b"0123456789abcdefXY")
    assert machine.load(RIS) & OE
    for byte in b"0123456789abcdef":
        assert machine.load(DR) == byte
    machine.uart.receive(b"next")
    assert machine.load(DR) == ord("n") | 1 << 11
    assert machine.load(RSR) & 8
    machine.store(RSR, 0)
    assert machine.load(RSR) == 0
    assert machine.pull() == b"ext"


def test_without_the_fifo_there_is_room_for_one_byte(machine):
    machine.store(LCRH, 3 << 5)
    machine.uart.receive(b"a")
    assert machine.load(FR) & RXFF
    machine.uart.receive(b"b")
    assert machine.pull() == b"a"


@pytest.mark.parametrize(("select", "level"), [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14)])
def test_the_receive_interrupt_comes_at_its_level(machine, select, level):
    machine.store(IFLS, select << 3)
    machine.store(IMSC, RX)
    machine.uart.receive(b"x" * (level - 1))
    assert machine.lines.levels == [False]
    assert machine.load(RIS) & RT  # the line is idle: the timeout tells of what is below the level
    machine.uart.receive(b"x")
    assert machine.lines.levels == [True]
    assert machine.load(MIS) == RX
    machine.load(DR)
    assert machine.lines.levels == [False]


def test_an_interrupt_driver_of_a_keyboard(machine):
    machine.store(IMSC, RX | RT)
    machine.uart.receive(b"k")
    assert machine.lines.levels == [True]
    assert machine.load(MIS) == RT
    machine.store(ICR, RT)
    assert machine.pull() == b"k"
    assert machine.lines.edges == [(0, True), (0, False)]


def test_the_transmit_interrupt_comes_after_a_byte_and_is_cleared(machine):
    machine.store(IMSC, TX)
    assert machine.lines.levels == [False]
    machine.store(DR, ord("x"))
    assert machine.lines.levels == [True]
    machine.store(ICR, TX)
    assert machine.lines.levels == [False]


def test_loopback(machine):
    machine.store(CR, 0x381)
    machine.store(DR, ord("l"))
    machine.uart.receive(b"from outside")
    assert (machine.pull(), machine.sent) == (b"l", b"")


def test_a_disabled_uart_receives_nothing(machine):
    machine.store(CR, 0x300)
    machine.uart.receive(b"x")
    assert machine.load(FR) & RXFE


def test_a_driver_recognises_it(machine):
    identity = [machine.load(0xFE0 + 4 * i) for i in range(8)]
    assert identity == [0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1]


def test_it_goes_on_from_its_state(machine):
    machine.store(IMSC, RX | RT)
    machine.uart.receive(b"waiting")
    other = Machine()
    other.uart.load_state(machine.uart.save_state())
    assert other.lines.levels == [True]
    assert other.pull() == b"waiting"
    state = machine.uart.save_state()
    with pytest.raises(StateError, match=r"Pl011\.received is a list"):
        machine.uart.load_state({**state, "received": 5})
    with pytest.raises(StateError, match="registers"):
        machine.uart.load_state({**state, "registers": {**state["registers"], "registers": {}}})
    assert machine.uart.save_state() == state


def test_reset_empties_it(machine):
    machine.store(IMSC, RX | RT)
    machine.uart.receive(b"x")
    machine.uart.reset()
    assert machine.lines.levels == [False]
    assert machine.load(FR) & RXFE
