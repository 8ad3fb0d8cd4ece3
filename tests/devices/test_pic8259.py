"""The 8259A pair and its ELCR, against their datasheets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isa_helpers import on_bus

from dbs_device.devices._common import Irq, no_irq
from dbs_device.devices.pic8259 import Elcr, PicPair

EOI = 0x20


class Pics:
    """The pair on a bus, initialised as firmware does: vectors from 0x08 and from 0x70, everything enabled."""

    def __init__(self, irq: Irq = no_irq) -> None:
        self.pair = PicPair(irq=irq)
        self.bus = on_bus(self.pair.master, self.pair.slave, Elcr(pics=self.pair))
        for port, vectors, cascade in ((0x20, 0x08, 0x04), (0xA0, 0x70, 0x02)):
            self.bus.pio_out(port, 1, 0x11)
            for word in (vectors, cascade, 0x01):
                self.bus.pio_out(port + 1, 1, word)

    def raise_line(self, irq: int) -> None:
        self.pair.line(irq)(True)

    def lower(self, irq: int) -> None:
        self.pair.line(irq)(False)

    def take(self) -> int | None:
        """Return the vector of the interrupt that the processor takes, if there is one."""
        return self.pair.acknowledge() if self.pair.interrupting else None

    def in_service(self, port: int) -> int:
        self.bus.pio_out(port, 1, 0x0B)
        return self.bus.pio_in(port, 1)

    def requests(self, port: int) -> int:
        self.bus.pio_out(port, 1, 0x0A)
        return self.bus.pio_in(port, 1)


@pytest.fixture
def pics() -> Pics:
    return Pics()


def test_the_output_is_called_once_an_edge() -> None:
    levels: list[bool] = []
    pics = Pics(levels.append)
    pics.raise_line(4)
    pics.raise_line(1)
    assert levels == [True]
    assert pics.take() == 0x09
    assert levels == [True, False]  # line 4 waits for line 1, which is in service
    pics.bus.pio_out(0x20, 1, EOI)
    pics.take()
    assert levels == [True, False, True, False]


def test_lower_bits_of_a_vector_are_the_line(pics: Pics) -> None:
    pics.bus.pio_out(0x20, 1, 0x11)
    for word in (0x0F, 0x04, 0x01):
        pics.bus.pio_out(0x21, 1, word)
    pics.raise_line(3)
    assert pics.take() == 0x0B


def test_request_is_taken_once_and_blocks_until_it_has_ended(pics: Pics) -> None:
    pics.raise_line(4)
    assert (pics.requests(0x20), pics.in_service(0x20)) == (0x10, 0x00)
    assert pics.take() == 0x0C
    assert (pics.requests(0x20), pics.in_service(0x20)) == (0x00, 0x10)
    pics.lower(4)
    pics.raise_line(4)
    assert pics.take() is None
    pics.bus.pio_out(0x20, 1, EOI)
    assert pics.take() == 0x0C


def test_higher_priority_interrupts_a_lower_one(pics: Pics) -> None:
    pics.raise_line(4)
    assert pics.take() == 0x0C
    pics.raise_line(5)
    assert pics.take() is None
    pics.raise_line(1)
    assert pics.take() == 0x09
    pics.bus.pio_out(0x20, 1, EOI)
    assert pics.in_service(0x20) == 0x10
    pics.bus.pio_out(0x20, 1, EOI)
    assert pics.take() == 0x0D


def test_slave_comes_through_the_cascade(pics: Pics) -> None:
    pics.raise_line(14)
    assert pics.take() == 0x76
    assert (pics.in_service(0x20), pics.in_service(0xA0)) == (0x04, 0x40)
    pics.bus.pio_out(0xA0, 1, EOI)
    pics.bus.pio_out(0x20, 1, EOI)
    assert (pics.in_service(0x20), pics.in_service(0xA0)) == (0x00, 0x00)
    pics.raise_line(8)
    assert pics.take() == 0x70


def test_masked_request_waits(pics: Pics) -> None:
    pics.bus.pio_out(0x21, 1, 0x10)
    assert pics.bus.pio_in(0x21, 1) == 0x10
    pics.raise_line(4)
    assert pics.take() is None
    pics.bus.pio_out(0x21, 1, 0x00)
    assert pics.take() == 0x0C


def test_request_that_falls_before_it_is_acknowledged_is_spurious(pics: Pics) -> None:
    pics.raise_line(4)
    assert pics.pair.interrupting
    pics.lower(4)
    assert not pics.pair.interrupting
    assert pics.pair.acknowledge() == 0x0F
    assert pics.in_service(0x20) == 0x00


def test_edge_triggered_line_that_stays_high_asks_once(pics: Pics) -> None:
    pics.raise_line(4)
    pics.take()
    pics.bus.pio_out(0x20, 1, EOI)
    pics.raise_line(4)
    assert pics.take() is None


def test_level_triggered_line_asks_as_long_as_it_is_high(pics: Pics) -> None:
    pics.bus.pio_out(0x4D0, 2, 0x0C00)  # IRQ 10 and 11
    pics.raise_line(10)
    for _ in range(2):
        assert pics.take() == 0x72
        pics.bus.pio_out(0xA0, 1, EOI)
        pics.bus.pio_out(0x20, 1, EOI)
    pics.lower(10)
    assert pics.take() is None


def test_elcr_keeps_what_can_be_level_triggered(pics: Pics) -> None:
    pics.bus.pio_out(0x4D0, 2, 0xFFFF)
    assert pics.bus.pio_in(0x4D0, 2) == 0xDEF8


def test_specific_end_of_interrupt(pics: Pics) -> None:
    for irq in (5, 3):
        pics.raise_line(irq)
        pics.take()
    pics.bus.pio_out(0x20, 1, 0x60 | 5)
    assert pics.in_service(0x20) == 0x08


def test_rotation_makes_the_served_line_the_lowest(pics: Pics) -> None:
    pics.raise_line(0)
    pics.take()
    pics.bus.pio_out(0x20, 1, 0xA0)
    pics.lower(0)
    pics.raise_line(0)
    pics.raise_line(7)
    assert pics.take() == 0x0F


def test_priority_can_be_set(pics: Pics) -> None:
    pics.bus.pio_out(0x20, 1, 0xC0 | 3)
    for irq in (0, 3, 4):
        pics.raise_line(irq)
    assert pics.take() == 0x0C


def test_special_mask_mode_lets_lower_lines_through(pics: Pics) -> None:
    pics.raise_line(3)
    pics.take()
    pics.raise_line(6)
    pics.bus.pio_out(0x21, 1, 0x08)
    assert pics.take() is None
    pics.bus.pio_out(0x20, 1, 0x68)
    assert pics.take() == 0x0E
    pics.bus.pio_out(0x20, 1, EOI)  # does not end what is masked
    assert pics.in_service(0x20) == 0x08


def test_poll_acknowledges(pics: Pics) -> None:
    pics.bus.pio_out(0x20, 1, 0x0C)
    assert pics.bus.pio_in(0x20, 1) == 0x00
    pics.raise_line(5)
    pics.bus.pio_out(0x20, 1, 0x0C)
    assert pics.bus.pio_in(0x20, 1) == 0x85
    assert pics.in_service(0x20) == 0x20


def test_automatic_end_of_interrupt(pics: Pics) -> None:
    pics.bus.pio_out(0x20, 1, 0x11)
    for word in (0x08, 0x04, 0x03):
        pics.bus.pio_out(0x21, 1, word)
    pics.raise_line(1)
    assert pics.take() == 0x09
    assert pics.in_service(0x20) == 0x00


def test_rotation_on_automatic_end_of_interrupt(pics: Pics) -> None:
    pics.bus.pio_out(0x20, 1, 0x11)
    for word in (0x08, 0x04, 0x03):
        pics.bus.pio_out(0x21, 1, word)
    pics.bus.pio_out(0x20, 1, 0x80)
    taken = []
    for _ in range(2):
        for irq in (0, 1):
            pics.lower(irq)
            pics.raise_line(irq)
        taken.append(pics.take())
    assert taken == [0x08, 0x09]


def test_end_of_an_interrupt_that_never_was_changes_nothing(pics: Pics) -> None:
    for port in (0x20, 0xA0):
        pics.bus.pio_out(port, 1, EOI)
    pics.raise_line(1)
    assert pics.take() == 0x09


def test_initialisation_clears_mask_and_requests(pics: Pics) -> None:
    pics.bus.pio_out(0x21, 1, 0xFF)
    pics.raise_line(1)
    pics.bus.pio_out(0x20, 1, 0x13)  # single, so that no ICW3 comes
    for word in (0x40, 0x01):
        pics.bus.pio_out(0x21, 1, word)
    assert (pics.bus.pio_in(0x21, 1), pics.requests(0x20)) == (0x00, 0x00)
    pics.lower(1)
    pics.raise_line(1)
    assert pics.take() == 0x41


@given(st.lists(st.integers(0, 15).filter(lambda irq: irq != 2), unique=True), st.integers(0, 0xFFFF))
def test_interrupts_come_in_order_of_priority(irqs: list[int], mask: int) -> None:
    mask &= ~0x0004  # the cascade stays open
    pics = Pics()
    pics.bus.pio_out(0x21, 1, mask & 0xFF)
    pics.bus.pio_out(0xA1, 1, mask >> 8)
    for irq in irqs:
        pics.raise_line(irq)
    taken = []
    while (vector := pics.take()) is not None:
        taken.append(vector - 0x70 + 8 if vector >= 0x70 else vector - 0x08)
        for port in (0xA0, 0x20) if vector >= 0x70 else (0x20,):
            pics.bus.pio_out(port, 1, EOI)
    priority = [0, 1, *range(8, 16), 3, 4, 5, 6, 7]
    assert taken == [irq for irq in priority if irq in irqs and not mask >> irq & 1]
