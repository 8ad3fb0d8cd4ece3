"""Devices at fixed addresses on a bus of their own."""

from __future__ import annotations

from dbs_device import IoManager
from dbs_device.devices._isa import PlacedDevice


def on_bus(*devices: PlacedDevice) -> IoManager:
    """Return a manager with the devices where they are wired to."""
    manager = IoManager()
    for device in devices:
        manager.register_device_io(device, device.get_trapped_io_resources())
    return manager


def make_every_byte_access(bus: IoManager) -> None:
    """Write every byte to every port of a bus, and read each back: no device may raise."""
    ports = [port for base, last, _ in bus.pio_bus for port in range(base, last + 1)]
    for value in range(256):
        for port in ports:
            bus.pio_out(port, 1, value)
            bus.pio_in(port, 1)
