"""Interrupt lines as a test sees them, and a device on a bus of its own."""

from dbs_device import DeviceIo, IoManager, Resource


class Lines:
    """Levels of several lines, by number, and all edges."""

    def __init__(self, count):
        self.levels = [False] * count
        self.edges = []

    def sinks(self):
        return [lambda level, i=i: self.set(i, level) for i in range(len(self.levels))]

    def set(self, i, level):
        self.levels[i] = level
        self.edges.append((i, level))


def registered(device: DeviceIo, base: int = 0) -> IoManager:
    """A manager with the device at an address."""
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(base, device.size)])
    return manager
