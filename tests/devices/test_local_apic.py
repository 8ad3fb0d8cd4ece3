"""The local APIC, against its datasheet."""

from __future__ import annotations

from isa_helpers import on_bus

from dbs_device.devices.local_apic import LocalApic


def test_local_apic_after_reset() -> None:
    bus = on_bus(LocalApic())
    offsets = (0x20, 0x30, 0x80, 0xE0, 0xF0, 0x320, 0x370, 0x390)
    assert [bus.mmio_load(0xFEE0_0000 + offset, 4) for offset in offsets] == [
        0, 0x0005_0014, 0, 0xFFFF_FFFF, 0xFF, 0x0001_0000, 0x0001_0000, 0,
    ]  # fmt: skip


def test_local_apic_keeps_what_can_be_written() -> None:
    bus = on_bus(LocalApic())
    bus.mmio_store(0xFEE0_00F0, 4, 0x1FF)
    bus.mmio_store(0xFEE0_0350, 4, 0x8700)
    bus.mmio_store(0xFEE0_0300, 4, 0x000C_5610)  # the delivery status, bit 12, is read-only
    bus.mmio_store(0xFEE0_0030, 4, 0)
    offsets = (0xF0, 0x350, 0x300, 0x30)
    assert [bus.mmio_load(0xFEE0_0000 + offset, 4) for offset in offsets] == [0x1FF, 0x8700, 0x000C_4610, 0x0005_0014]
    assert bus.mmio_load(0xFEE0_0351, 1) == 0x87
    assert bus.mmio_load(0xFEE0_00E1, 1) == 0xFF
    assert bus.mmio_load(0xFEE0_0354, 4) == 0  # between two registers
