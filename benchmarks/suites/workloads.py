"""Workloads of the benchmarks: maps of N ranges, the orders in which a guest accesses them, and devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dbs_device import DeviceIo, DeviceIoMut, DeviceResources, IoManager, Mutex, NativeDevice, Resource

SIZES = (1, 4, 16, 64, 256, 1024, 4096, 65536)
PATTERNS = ("same", "round-robin", "random", "zipf", "unowned")

FIRST_SLOT = 0x10_0000_0000
SLOT = 0x4000  # each range is in the lower half of a slot of its own, the upper half is a gap
ZIPF_EXPONENT = 1.1
SEED = 20240229


class AddressMap(NamedTuple):
    """Ranges that do not overlap, sorted by base; `order` is the order in which they are registered."""

    bases: np.ndarray
    sizes: np.ndarray
    order: np.ndarray

    @property
    def lasts(self) -> np.ndarray:
        return self.bases + (self.sizes - np.uint64(1))


def address_map(count: int) -> AddressMap:
    """Return `count` ranges of 0x100 to 0x1000 bytes, at uneven distances of about 16 KiB."""
    random = np.random.default_rng([SEED, count])
    slots = np.uint64(FIRST_SLOT) + np.arange(count, dtype=np.uint64) * np.uint64(SLOT)
    bases = slots + random.integers(0, 0x10, count, dtype=np.uint64) * np.uint64(0x100)
    sizes = random.integers(1, 0x11, count, dtype=np.uint64) * np.uint64(0x100)
    return AddressMap(bases, sizes, random.permutation(count))


def addresses_of(ranges: AddressMap, pattern: str, count: int) -> np.ndarray:
    """Return `count` addresses (uint64, multiples of 4) in the order that `pattern` names."""
    if pattern not in PATTERNS:
        raise ValueError(f"{pattern!r} is not a pattern")
    random = np.random.default_rng([SEED, len(ranges.bases), PATTERNS.index(pattern)])
    total = len(ranges.bases)
    if pattern == "unowned":
        slots = np.uint64(FIRST_SLOT) + random.integers(0, total, count, dtype=np.uint64) * np.uint64(SLOT)
        return slots + random.integers(SLOT // 2 // 4, SLOT // 4, count, dtype=np.uint64) * np.uint64(4)
    if pattern == "same":
        chosen = np.full(count, total // 3)
    elif pattern == "round-robin":
        chosen = np.resize((np.arange(4) * total) // 4, count)
    elif pattern == "random":
        # Each range as often as any other, also where only a few addresses are asked for.
        chosen = random.permutation((np.arange(count) * total) // count if count >= total else spread(total, count))
    else:
        weights = np.arange(1, total + 1, dtype=float) ** -ZIPF_EXPONENT
        chosen = random.permutation(total)[random.choice(total, count, p=weights / weights.sum())]
    bases, sizes = ranges.bases[chosen], ranges.sizes[chosen]
    if pattern == "same":
        return bases + np.uint64(8)
    return bases + random.integers(0, sizes // np.uint64(4), dtype=np.uint64) * np.uint64(4)


def spread(total: int, count: int) -> np.ndarray:
    """Return `count` numbers below `total`, evenly apart, so that their mean is that of all."""
    return ((np.arange(count) + 0.5) * total / count).astype(np.intp)


PORTS = 8


def port_map(count: int) -> list[int]:
    """Return the bases of `count` ranges of 8 ports, 8 apart; 4096 at most."""
    return [2 * PORTS * index for index in range(count)]


class IdleDevice(DeviceIo):
    """A Python device that does nothing, so that what is measured is the way to it."""

    def read(self, base, offset, data):
        pass

    def write(self, base, offset, data):
        pass

    def pio_read(self, base, offset, data):
        pass

    def pio_write(self, base, offset, data):
        pass


class IdleDeviceMut(DeviceIoMut):
    """The same, to be wrapped in a Mutex."""

    read = IdleDevice.read
    write = IdleDevice.write
    pio_read = IdleDevice.pio_read
    pio_write = IdleDevice.pio_write


DEVICES: dict[str, Callable[[], Any]] = {
    "python": IdleDevice,
    "mutex": lambda: Mutex(IdleDeviceMut()),
    "native": NativeDevice,
}


class Registers(DeviceIo):
    """A device with a value for each register, on integers."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}

    def load(self, base, offset, size):
        return self.values.get(offset, 0)

    def store(self, base, offset, size, value):
        self.values[offset] = value

    pio_in, pio_out = load, store


class RegistersOnBuffers(DeviceIo):
    """The same device on buffers."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}

    def read(self, base, offset, data):
        data[:] = self.values.get(offset, 0).to_bytes(len(data), "little")

    def write(self, base, offset, data):
        self.values[offset] = int.from_bytes(data, "little")

    pio_read, pio_write = read, write


REGISTER_DEVICES: dict[str, Callable[[], Any]] = {
    "registers on integers": Registers,
    "registers on buffers": RegistersOnBuffers,
}


def resources_of(ranges: AddressMap) -> list[DeviceResources]:
    """Return the resources of each range's device, in the order of the bases."""
    return [
        DeviceResources([Resource.MmioAddressRange(base, size)])
        for base, size in zip(ranges.bases.tolist(), ranges.sizes.tolist(), strict=True)
    ]


def fill(manager: IoManager, devices: list[Any], resources: list[DeviceResources]) -> None:
    """Register the devices in one transaction."""
    with manager.begin_tx() as transaction:
        for device, device_resources in zip(devices, resources, strict=True):
            transaction.register_device_io(device, device_resources)


def manager_of(ranges: AddressMap, make_device: Callable[[], Any] = IdleDevice, **options: Any) -> IoManager:
    """Return a manager with a device of its own for each range, registered in `ranges.order`."""
    manager = IoManager(**options)
    resources = resources_of(ranges)
    shuffled = [resources[index] for index in ranges.order.tolist()]
    fill(manager, [make_device() for _ in shuffled], shuffled)
    return manager


@functools.lru_cache(2)
def shared_manager(count: int, device: str = "python", open_bus: int | None = None) -> IoManager:
    """Return a manager of `count` ranges, which all cases that ask for it share."""
    return manager_of(address_map(count), (DEVICES | REGISTER_DEVICES)[device], open_bus=open_bus)


@functools.lru_cache(2 * len(PATTERNS))
def shared_addresses(count: int, pattern: str, accesses: int) -> list[int]:
    """Return addresses in a map of `count` ranges as integers, which all cases that ask for them share."""
    return addresses_of(address_map(count), pattern, accesses).tolist()
