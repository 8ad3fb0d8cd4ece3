"""Counting the accesses to a device."""

from __future__ import annotations

from dbs_device import DeviceIo, DeviceResources, IoAddress, PioAddress

__all__ = ["AccessMeter"]


class AccessMeter(DeviceIo):
    """Forwards every access to a device, and counts it.

    Parameters
    ----------
    device : DeviceIo
        The device.

    Attributes
    ----------
    device : DeviceIo
        The device.
    reads, writes : int
        Number of MMIO and PIO accesses of each direction.
    """

    def __init__(self, device: DeviceIo) -> None:
        self.device = device
        self.reads = 0
        self.writes = 0

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.reads += 1
        self.device.read(base, offset, data)

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        self.writes += 1
        self.device.write(base, offset, data)

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        self.reads += 1
        self.device.pio_read(base, offset, data)

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        self.writes += 1
        self.device.pio_write(base, offset, data)

    def get_assigned_resources(self) -> DeviceResources:
        return self.device.get_assigned_resources()

    def __repr__(self) -> str:
        return repr(self.device)
