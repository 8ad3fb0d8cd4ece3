"""The naive model of a bus: lists that are searched from the front, bytes, and what devices are expected to be called.

It is written from docs/semantics.md, and shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LAST = {"MMIO": 2**64 - 1, "PIO": 0xFFFF}
SIZES = {"MMIO": (1, 2, 4, 8), "PIO": (1, 2, 4)}

Call = tuple[Any, ...]  # device, handler, base, offset, and size, value or bytes


class Unowned(Exception):  # noqa: N818
    """The model's NoDeviceError."""


class Refused(Exception):  # noqa: N818
    """Another error that an access is expected to end in; `what` is its type, or the very exception."""

    def __init__(self, what: Any) -> None:
        self.what = what


@dataclass
class Prank:
    """What a device does once, in its next call, besides answering."""

    kind: str  # raise, return, keep, release, access, unplug, plug
    what: Any = None


@dataclass(eq=False)
class Plan:
    """A device as both sides know it."""

    tag: int
    integers: bool
    buffers: bool
    byteorder: str | None = None
    memory: dict[int, int] | None = None  # of devices that are memory
    size: int = 0
    readonly: bool = False
    raises: str | None = None  # what a write to a ROM raises
    is_bank: bool = False  # memory that ends without an error
    shift: int = 0  # of an alias
    mask: int = -1  # of a mirror
    splits: bool = False  # whether an access that fails may have been made in part
    is_stale: bool = False  # whether that has happened
    pranks: list[Prank] = field(default_factory=list)
    device: Any = None

    def __repr__(self) -> str:
        return f"<{self.tag}>"

    @property
    def room(self) -> int | None:
        """Return the size of the largest range that fits it; None if any does."""
        return None if self.memory is None or self.is_bank or self.mask != -1 else self.size - self.shift

    def answer(self, offset: int, size: int) -> int:
        """Return what an integer handler returns, which may have more bits than asked for, or be negative."""
        value = (self.tag * 0x9E3779B97F4A7C15 + offset * 0xC2B2AE3D27D4EB4F) ^ (size << 3)
        return -value if self.tag % 3 == 0 else value

    def byte(self, offset: int, index: int) -> int:
        return (self.tag * 31 + offset * 7 + index * 3) & 0xFF


@dataclass
class Mapped:
    space: str
    base: int
    last: int
    plan: Plan
    name: str | None


class Bus:
    """The model of a manager."""

    def __init__(self, open_bus: int | None, straddle: str, byteorder: str, log: bool, background: Plan | None) -> None:
        self.options = (open_bus, straddle, byteorder, log, background)
        self.open_bus, self.straddle, self.byteorder, self.log, self.background = self.options
        self.ranges: list[Mapped] = []
        self.unowned = 0
        self.calls: list[Call] = []
        self.busy = False  # whether a transaction of this thread is open
        self.hook: Callable[[Prank], None] = lambda prank: None

    def clone(self) -> Bus:
        other = Bus(*self.options)
        other.ranges = list(self.ranges)
        return other

    def owner(self, space: str, address: int) -> Mapped | None:
        for each in self.ranges:
            if each.space == space and each.base <= address <= each.last:
                return each
        return None

    def of(self, space: str) -> list[Mapped]:
        return sorted((each for each in self.ranges if each.space == space), key=lambda each: each.base)

    # -- changes: each returns the name of the expected error, or None

    def register(self, plan: Plan, wanted: list[tuple[str, int, int]], name: str | None) -> str | None:
        for space, base, size in wanted:
            if size < 1 or base + size - 1 > LAST[space] or size - 1 + plan.shift > LAST["MMIO"]:
                return "InvalidRangeError"
            if plan.room is not None and size > plan.room:
                return "InvalidRangeError"
        if self.busy:
            return "TransactionError"
        added: list[Mapped] = []
        for space, base, size in wanted:
            last = base + size - 1
            for each in self.ranges + added:
                if each.space == space and each.base <= last and base <= each.last:
                    return "DeviceOverlapError"
            added.append(Mapped(space, base, last, plan, name))
        self.ranges = self.ranges + added
        return None

    def unregister(self, wanted: list[tuple[str, int, int]]) -> str | None:
        if any(size < 1 or base + size - 1 > LAST[space] for space, base, size in wanted):
            return "InvalidRangeError"
        if self.busy:
            return "TransactionError"
        left = list(self.ranges)
        for space, base, size in wanted:
            exact = [each for each in left if (each.space, each.base, each.last) == (space, base, base + size - 1)]
            if not exact:
                return "NoDeviceError"
            left.remove(exact[0])
        self.ranges = left
        return None

    # -- accesses, of bytes in the order of addresses

    def access(self, space: str, address: int, data: bytearray, write: bool, integer: bool) -> bool:
        """Make an access, with `data` for what is read; return whether a device has served it.

        An exception leaves `data` as it was, or, if a device has raised it, in any state.
        """
        size = len(data)
        mapped = self.owner(space, address)
        if mapped is not None and not self.takes(mapped.base, mapped.last, address, size):
            mapped = None
        if mapped is not None:
            self.call(mapped.plan, space, mapped.base, address - mapped.base, data, write, integer)
            return True
        below = self.background
        if space == "MMIO" and below is not None and self.background_serves(below, address, size):
            self.call(below, space, 0, address, data, write, integer)
            return True
        if self.open_bus is None:
            raise Unowned
        self.unowned += self.log
        if not write:
            data[:] = bytes([self.open_bus]) * size
        return False

    def takes(self, base: int, last: int, address: int, size: int) -> bool:
        """Return whether an access that begins in a range belongs to it."""
        return address + size - 1 <= last or (self.straddle == "pass" and address - base + size <= 2**64)

    def background_serves(self, below: Plan, address: int, size: int) -> bool:
        last = LAST["MMIO"] if below.room is None else below.room - 1
        return address <= last and self.takes(0, last, address, size)

    def call(self, plan: Plan, space: str, base: int, offset: int, data: bytearray, write: bool, integer: bool) -> None:
        if plan.memory is not None:
            self.call_memory(plan, offset, data, write)
            return
        offset += plan.shift
        size = len(data)
        if plan.integers and (integer or size in SIZES[space]):
            self.call_integer(plan, space, base, offset, data, write, 0, size)
        elif plan.buffers:
            self.call_buffer(plan, space, base, offset, data, write)
        elif plan.integers:
            done = 0
            while done < size:
                piece = max(n for n in SIZES[space] if n <= size - done and (offset + done) % n == 0)
                self.call_integer(plan, space, base, offset + done, data, write, done, piece)
                done += piece
        elif not write:
            data[:] = bytes(size)

    def call_memory(self, plan: Plan, offset: int, data: bytearray, write: bool) -> None:
        memory = plan.memory
        assert memory is not None
        places = [(offset + plan.shift + index) & plan.mask for index in range(len(data))]
        if max(places) >= plan.size and not plan.is_bank:
            plan.is_stale = plan.splits and write
            raise Refused("MemoryBoundsError")
        if write and plan.raises is not None:
            raise Refused(plan.raises)
        if write and plan.readonly:
            return
        for index, place in enumerate(places):
            if not write:
                data[index] = memory.get(place, 0)
            elif place < plan.size:
                memory[place] = data[index]

    def call_integer(
        self, plan: Plan, space: str, base: int, offset: int, data: bytearray, write: bool, at: int, size: int
    ) -> None:
        order: Any = plan.byteorder or self.byteorder
        handler = {"MMIO": ("load", "store"), "PIO": ("pio_in", "pio_out")}[space][write]
        if write:
            value = int.from_bytes(data[at : at + size], order)
            self.calls.append((plan.tag, handler, base, offset, size, value))
            self.play(plan)
            return
        self.calls.append((plan.tag, handler, base, offset, size))
        returned = self.play(plan)
        value = plan.answer(offset, size) if returned is None else returned.what[0]
        if not hasattr(value, "__index__"):
            raise Refused("TypeError")
        data[at : at + size] = (value.__index__() % (1 << 8 * size)).to_bytes(size, order)

    def call_buffer(self, plan: Plan, space: str, base: int, offset: int, data: bytearray, write: bool) -> None:
        handler = ("" if space == "MMIO" else "pio_") + ("write" if write else "read")
        self.calls.append((plan.tag, handler, base, offset, bytes(data) if write else bytes(len(data))))
        if not write:
            data[:] = bytes(plan.byte(offset, index) for index in range(len(data)))
        returned = self.play(plan)
        if returned is not None and returned.what[0] is not None:
            raise Refused("TypeError")

    def play(self, plan: Plan) -> Prank | None:
        """Do what the device does besides answering; return a prank that gives its own answer."""
        if not plan.pranks:
            return None
        prank = plan.pranks.pop()
        if prank.kind == "raise":
            raise Refused(prank.what)
        self.hook(prank)
        return prank if prank.kind == "return" else None
