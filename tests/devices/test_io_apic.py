"""The I/O APIC, against its datasheet."""

from __future__ import annotations

from isa_helpers import on_bus

from dbs_device.devices.io_apic import IoApic


def test_io_apic_registers_are_behind_a_window() -> None:
    bus = on_bus(IoApic())

    def select(register: int) -> int:
        bus.mmio_store(0xFEC0_0000, 4, register)
        assert bus.mmio_load(0xFEC0_0000, 4) == register
        return 0xFEC0_0010

    assert bus.mmio_load(select(0x01), 4) == 0x0017_0011
    assert bus.mmio_load(select(0x10), 4) == 0x0001_0000
    bus.mmio_store(select(0x3E), 4, 0xFFFF_FFFF)
    assert bus.mmio_load(select(0x3E), 4) == 0x0001_AFFF
    bus.mmio_store(select(0x3F), 4, 0xFFFF_FFFF)
    assert bus.mmio_load(select(0x3F), 4) == 0xFF00_0000
    bus.mmio_store(select(0x00), 4, 0xFFFF_FFFF)
    assert [bus.mmio_load(select(register), 4) for register in (0x00, 0x02, 0x40)] == [0x0F00_0000, 0x0F00_0000, 0]
