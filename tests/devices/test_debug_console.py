"""The debug console."""

from __future__ import annotations

from isa_helpers import on_bus

from dbs_device.devices.debug_console import DebugConsole


def test_debug_console_says_that_it_is_there_and_takes_bytes() -> None:
    log = bytearray()
    bus = on_bus(DebugConsole(sink=log.append))
    for byte in b"log":
        bus.pio_out(0x402, 1, byte)
    assert (bus.pio_in(0x402, 1), log) == (0xE9, b"log")
