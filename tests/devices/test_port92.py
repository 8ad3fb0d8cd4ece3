"""System control port A."""

from __future__ import annotations

from isa_helpers import on_bus

from dbs_device.devices.port92 import SystemControlPortA


def test_fast_a20_and_fast_reset() -> None:
    resets: list[None] = []
    port = SystemControlPortA(reset=lambda: resets.append(None))
    bus = on_bus(port)
    bus.pio_out(0x92, 1, 0xFE)
    assert (bus.pio_in(0x92, 1), port.a20_enabled, len(resets)) == (0x02, True, 0)
    bus.pio_out(0x92, 1, 0x01)
    assert (port.a20_enabled, len(resets)) == (False, 1)
    bus.pio_out(0x92, 1, 0x01)  # no step
    assert len(resets) == 1
