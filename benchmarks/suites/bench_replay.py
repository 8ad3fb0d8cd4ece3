"""Accesses of real firmware: the recorded traces, access by access, through the bus and through each peer.

The ranges are those of the recorded machine; their devices do nothing, so that the bus is what is measured. From Python
(``manager`` and the peers) every access is an integer of the recorded size and value. A peer is what stands in an
emulator without this library: a look-up in each space, then the device's method with a buffer. The native peers get the
addresses of both spaces side by side in one map.

``on integers``, the devices have a value for each register, in the shape that device code mostly has: a read returns an
integer. By hand, they are found by bisect and called with integers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compiled
import numpy as np
from peers import lookups, native

from dbs_device import IoManager, Resource, Space
from dbs_device.trace import Trace
from suites import workloads
from suites.harness import Case, Plan, Timer, statement_timer
from suites.workloads import IdleDevice, Registers

DATA = Path(__file__).resolve().parents[2] / "tests" / "data"
TRACES = {"seabios": "seabios_uc_trace", "u-boot": "uboot_x86_trace", "stm32": "stm32_md5_server_trace"}
LONG, SLOW = 20_000, 2000.0  # accesses; ns a look-up: slow peers are not sent through long traces
MMIO_OFFSET = 1 << 40  # of the MMIO addresses in the map of the native peers
VARIABLES = "is_mmio, is_write, address, size, value"
REPLAY = """if is_mmio:
                if is_write:
                    {store}
                else:
                    {load}
            elif is_write:
                {port_out}
            else:
                {port_in}"""
BUS_CALLS = {
    "load": "bus.mmio_load(address, size)",
    "store": "bus.mmio_store(address, size, value)",
    "port_in": "bus.pio_in(address, size)",
    "port_out": "bus.pio_out(address, size, value)",
}


@functools.cache
def trace_of(name: str) -> Trace:
    return Trace.load(DATA / f"{TRACES[name]}.npz")


def accesses_in(name: str) -> list[tuple[bool, bool, int, int, int]]:
    return [
        (access.space == Space.MMIO, bool(access.write), access.addr, access.size, access.value)
        for access in trace_of(name)
    ]


@functools.cache
def replay_manager(name: str, make_device: Callable[[], Any] = IdleDevice) -> IoManager:
    manager = IoManager(open_bus=0xFF)
    kinds = {Space.MMIO: Resource.MmioAddressRange, Space.PIO: Resource.PioAddressRange}
    for each in trace_of(name).ranges:
        manager.register_device_io(make_device(), [kinds[each.space](each.base, each.last - each.base + 1)])
    return manager


class PeerBus:
    """A bus as one writes it oneself, on a peer for each space; unowned reads give ones, as on an open bus."""

    def __init__(self, peer: type[lookups.Peer], manager: IoManager) -> None:
        self.find_mmio = peer(list(manager.mmio_bus)).lookup
        self.find_port = peer(list(manager.pio_bus)).lookup if len(manager.pio_bus) else lambda port: None

    def mmio_load(self, address: int, size: int) -> int:
        found = self.find_mmio(address)
        if found is None:
            return (1 << 8 * size) - 1
        buffer = bytearray(size)
        found[2].read(found[0], address - found[0], memoryview(buffer))
        return int.from_bytes(buffer, "little")

    def mmio_store(self, address: int, size: int, value: int) -> None:
        found = self.find_mmio(address)
        if found is not None:
            found[2].write(found[0], address - found[0], memoryview(value.to_bytes(size, "little")))

    def pio_in(self, port: int, size: int) -> int:
        found = self.find_port(port)
        if found is None:
            return (1 << 8 * size) - 1
        buffer = bytearray(size)
        found[2].pio_read(found[0], port - found[0], memoryview(buffer))
        return int.from_bytes(buffer, "little")

    def pio_out(self, port: int, size: int, value: int) -> None:
        found = self.find_port(port)
        if found is not None:
            found[2].pio_write(found[0], port - found[0], memoryview(value.to_bytes(size, "little")))


class IntegerPeerBus(PeerBus):
    """The same for devices on integers: nothing is converted."""

    def mmio_load(self, address: int, size: int) -> int:
        found = self.find_mmio(address)
        return (1 << 8 * size) - 1 if found is None else found[2].load(found[0], address - found[0], size)

    def mmio_store(self, address: int, size: int, value: int) -> None:
        found = self.find_mmio(address)
        if found is not None:
            found[2].store(found[0], address - found[0], size, value)

    def pio_in(self, port: int, size: int) -> int:
        found = self.find_port(port)
        return (1 << 8 * size) - 1 if found is None else found[2].pio_in(found[0], port - found[0], size)

    def pio_out(self, port: int, size: int, value: int) -> None:
        found = self.find_port(port)
        if found is not None:
            found[2].pio_out(found[0], port - found[0], size, value)


def check_replay(bus: PeerBus, manager: IoManager, name: str) -> None:
    """Raise AssertionError unless the peers find what we find at every address of the trace."""
    for is_mmio, _, address, _, _ in set(accesses_in(name)):
        found = (bus.find_mmio if is_mmio else bus.find_port)(address)
        owner = (manager.mmio_bus if is_mmio else manager.pio_bus).find(address)
        if (found and found[2]) is not owner:
            raise AssertionError(f"{name}: {found} and {owner} at {address:#x}")


def prepare_replay_loop(name: str) -> Timer:
    statement = REPLAY.format_map(dict.fromkeys(BUS_CALLS, "pass"))
    return statement_timer(statement, accesses_in(name), VARIABLES)


def prepare_replay(name: str, peer: type[lookups.Peer] | None = None) -> Timer:
    """Return the timer of a replay through the manager, or through a peer."""
    bus = replay_manager(name)
    if peer is not None:
        bus = PeerBus(peer, replay_manager(name))
        check_replay(bus, replay_manager(name), name)
    return statement_timer(REPLAY.format_map(BUS_CALLS), accesses_in(name), VARIABLES, bus=bus)


def prepare_replay_on_integers(name: str, by_hand: bool) -> Timer:
    bus = manager = replay_manager(name, Registers)
    if by_hand:
        bus = IntegerPeerBus(lookups.BisectList, manager)
        check_replay(bus, manager, name)
    return statement_timer(REPLAY.format_map(BUS_CALLS), accesses_in(name), VARIABLES, bus=bus)


# ----------------------------------------------------------------------------- native


def combined_map(name: str) -> workloads.AddressMap:
    """Return the ranges of both spaces in one."""
    ranges = sorted((each.base + MMIO_OFFSET * (each.space == Space.MMIO), each) for each in trace_of(name).ranges)
    bases = np.array([base for base, _ in ranges], np.uint64)
    sizes = np.array([each.last - each.base + 1 for _, each in ranges], np.uint64)
    return workloads.AddressMap(bases, sizes, np.random.default_rng(workloads.SEED).permutation(len(ranges)))


def combined_addresses(name: str) -> np.ndarray:
    return np.array([address + MMIO_OFFSET * is_mmio for is_mmio, _, address, _, _ in accesses_in(name)], np.uint64)


@functools.lru_cache(1)
def native_replays(name: str) -> dict[str, Any]:
    # All accesses take 4 bytes here, also where a register has 1: the peers do not look at that.
    made = native.accesses_to(combined_map(name), straddle="pass")
    native.check_accesses(made, combined_addresses(name))
    return made | {"loop": compiled.accesses().empty_loop()}


def prepare_native_replay(subject: str, name: str) -> Timer:
    access, addresses = native_replays(name)[subject], combined_addresses(name)
    return lambda passes: access.time(addresses, passes)[0]


def replay_cases(plan: Plan) -> Iterator[Case]:
    for name in TRACES if not plan.quick else ("u-boot",):
        total = len(trace_of(name))
        loop, native_loop = f"replay/{name}/loop", f"replay/{name}/native loop"
        yield Case(loop, functools.partial(prepare_replay_loop, name), total)
        yield Case(f"replay/{name}/manager", functools.partial(prepare_replay, name), total, loop)
        for peer in lookups.installed_peers():
            if peer.lookup_time <= SLOW or total < LONG:
                yield Case(f"replay/{name}/{peer.name}", functools.partial(prepare_replay, name, peer), total, loop)
        for subject, by_hand in (("manager", False), ("bisect", True)):
            prepare = functools.partial(prepare_replay_on_integers, name, by_hand)
            yield Case(f"replay/{name}/{subject} on integers", prepare, total, loop)
        yield Case(native_loop, functools.partial(prepare_native_replay, "loop", name), total)
        for subject in ("held read", *native.native_peers()):
            prepare = functools.partial(prepare_native_replay, subject, name)
            yield Case(f"replay/{name}/native {subject}", prepare, total, native_loop)
