"""The DMA controllers and page registers, against their datasheet."""

from __future__ import annotations

import pytest
from isa_helpers import on_bus

from dbs_device.devices.dma8237 import Dma8237, DmaPages


@pytest.mark.parametrize(("base", "stride"), [(0x00, 1), (0xC0, 2)])
def test_addresses_and_counts_go_through_the_flip_flop(base: int, stride: int) -> None:
    bus = on_bus(Dma8237(base=base, stride=stride))
    port = base + 5 * stride
    bus.pio_out(base + 12 * stride, 1, 0)
    for byte in (0xFF, 0xFF, 0x34, 0x12):
        bus.pio_out(port, 1, byte)
    assert [bus.pio_in(port, 1), bus.pio_in(port, 1)] == [0x34, 0x12]
    bus.pio_in(port, 1)
    bus.pio_out(base + 12 * stride, 1, 0)
    assert bus.pio_in(port, 1) == 0x34


def test_master_clear_masks_all_channels() -> None:
    dma = Dma8237()
    bus = on_bus(dma)
    bus.pio_out(0x0E, 1, 0)
    assert dma.mask == 0x0
    bus.pio_out(0x0A, 1, 0x06)
    assert bus.pio_in(0x0F, 1) == 0xF4
    bus.pio_out(0x0A, 1, 0x02)
    assert dma.mask == 0x0
    bus.pio_out(0x0F, 1, 0x05)
    assert dma.mask == 0x5
    bus.pio_out(0x0D, 1, 0)
    assert dma.mask == 0xF


def test_request_shows_in_the_status() -> None:
    bus = on_bus(Dma8237())
    bus.pio_out(0x09, 1, 0x06)
    assert bus.pio_in(0x08, 1) == 0x40
    bus.pio_out(0x09, 1, 0x02)
    assert bus.pio_in(0x08, 1) == 0x00


def test_registers_that_cannot_be_read() -> None:
    bus = on_bus(Dma8237())
    assert [bus.pio_in(port, 1) for port in (0x0B, 0x0D)] == [0xFF, 0x00]


def test_mode_of_a_channel() -> None:
    dma = Dma8237()
    on_bus(dma).pio_out(0x0B, 1, 0x46)
    assert dma.modes == [0, 0, 0x11, 0]


def test_pages_are_scratch_and_the_first_one_takes_post_codes() -> None:
    pages = DmaPages()
    bus = on_bus(pages)
    bus.pio_out(0x80, 1, 0x55)
    bus.pio_out(0x87, 1, 0x12)
    assert (pages.post_code, bus.pio_in(0x87, 1)) == (0x55, 0x12)
