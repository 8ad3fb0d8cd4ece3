"""The display interface."""

from __future__ import annotations

from isa_helpers import on_bus

from dbs_device.devices.vbe_dispi import VbeDispi


def test_display_interface_agrees_to_no_version_but_has_registers() -> None:
    bus = on_bus(VbeDispi())

    def register(index: int) -> int:
        bus.pio_out(0x1CE, 2, index)
        assert bus.pio_in(0x1CE, 2) == index
        return 0x1CF

    for version in range(0xB0C0, 0xB0C6):
        bus.pio_out(register(0), 2, version)
        assert bus.pio_in(0x1CF, 2) == 0xB000
    bus.pio_out(register(1), 2, 1024)
    assert bus.pio_in(register(1), 2) == 1024
    for index in (11, 0xFFFF):
        bus.pio_out(register(index), 2, 1)
        assert bus.pio_in(0x1CF, 2) == 0
