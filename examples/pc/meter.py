"""Counting the accesses to a device."""

from __future__ import annotations

from dbs_device import DeviceIo, DeviceResources

__all__ = ["AccessMeter"]


class AccessMeter(DeviceIo):
    """Forwards every access to a device, and counts it.

    Parameters
    ----------
    device : DeviceIo
        The device, in Python.

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

    def load(self, base: int, offset: int, size: int) -> int:
        self.reads += 1
        return self.device.load(base, offset, size)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self.writes += 1
        self.device.store(base, offset, size, value)

    def pio_in(self, base: int, offset: int, size: int) -> int:
        self.reads += 1
        return self.device.pio_in(base, offset, size)

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        self.writes += 1
        self.device.pio_out(base, offset, size, value)

    def get_assigned_resources(self) -> DeviceResources:
        return self.device.get_assigned_resources()

    def __repr__(self) -> str:
        return repr(self.device)
