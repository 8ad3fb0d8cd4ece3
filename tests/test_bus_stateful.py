"""Random sequences of changes, clones, transactions and accesses, against lists that are searched from end to end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import MMIO, PIO, SPACES, Space
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dbs_device import (
    DeviceIo,
    DeviceOverlapError,
    InvalidRangeError,
    IoManager,
    NoDeviceError,
    Resource,
    Transaction,
    TransactionError,
)

MOST_MANAGERS = 4


class Tagged(DeviceIo):
    """Answers with its tag, and remembers the last access."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.last_call: tuple[Any, ...] | None = None

    def read(self, base, offset, data):
        self.last_call = ("read", base, offset, bytes(data))
        data[:] = bytes([self.tag]) * len(data)

    def write(self, base, offset, data):
        self.last_call = ("write", base, offset, bytes(data))

    def pio_read(self, base, offset, data):
        self.last_call = ("pio_read", base, offset, bytes(data))
        data[:] = bytes([self.tag]) * len(data)

    def pio_write(self, base, offset, data):
        self.last_call = ("pio_write", base, offset, bytes(data))

    def __repr__(self) -> str:
        return f"<device {self.tag:#x}>"


@dataclass(frozen=True)
class Range:
    """A range to be mapped, which may be invalid."""

    space: Space
    base: int
    size: int

    @property
    def last(self) -> int:
        return self.base + self.size - 1

    @property
    def is_valid(self) -> bool:
        return self.size >= 1 and self.last <= self.space.last

    @property
    def resource(self) -> Resource:
        return self.space.range(self.base, self.size)

    def overlaps(self, other: Range) -> bool:
        return self.space is other.space and self.base <= other.last and other.base <= self.last


@dataclass
class Model:
    """The expected ranges of a manager, in no order, each with its device."""

    open_bus: int | None
    straddle: str
    ranges: list[tuple[Range, Tagged]] = field(default_factory=list)

    def copy(self) -> Model:
        return Model(self.open_bus, self.straddle, list(self.ranges))

    def owner(self, space: Space, address: int) -> tuple[Range, Tagged] | None:
        for mapped, device in self.ranges:
            if mapped.space is space and mapped.base <= address <= mapped.last:
                return mapped, device
        return None

    def of(self, space: Space) -> list[tuple[int, int, Tagged]]:
        ours = [(mapped.base, mapped.last, device) for mapped, device in self.ranges if mapped.space is space]
        return sorted(ours, key=lambda entry: entry[0])

    def points(self, space: Space) -> list[int]:
        """Return the addresses next to which something begins or ends."""
        points = {0, 1, space.last - 1, space.last}
        for base, last, _ in self.of(space):
            points |= {base - 1, base, base + 1, last - 1, last, last + 1}
        return sorted(point for point in points if 0 <= point <= space.last)

    def register(self, device: Tagged, ranges: list[Range]) -> type[Exception] | None:
        """Add the ranges, or return the expected error and change nothing."""
        if not all(each.is_valid for each in ranges):
            return InvalidRangeError
        for index, each in enumerate(ranges):
            if any(each.overlaps(other) for other in [mapped for mapped, _ in self.ranges] + ranges[:index]):
                return DeviceOverlapError
        self.ranges += [(each, device) for each in ranges]
        return None

    def unregister(self, ranges: list[Range]) -> type[Exception] | None:
        """Remove the ranges, or return the expected error and change nothing."""
        if not all(each.is_valid for each in ranges):
            return InvalidRangeError
        mapped = [entry[0] for entry in self.ranges]
        if len(set(ranges)) < len(ranges) or not set(ranges) <= set(mapped):
            return NoDeviceError
        self.ranges = [entry for entry in self.ranges if entry[0] not in ranges]
        return None


@dataclass
class OpenTransaction:
    manager: IoManager
    model: Model
    transaction: Transaction
    changed: Model


class BusAgainstTheModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.managers: list[tuple[IoManager, Model]] = []
        self.open: OpenTransaction | None = None
        self.tags = 0

    # -- drawing

    def new_device(self) -> Tagged:
        self.tags = self.tags % 0xEF + 1
        return Tagged(self.tags)

    def draw_manager(self, data) -> tuple[IoManager, Model]:
        return data.draw(st.sampled_from(self.managers), "manager")

    def draw_address(self, data, space: Space, model: Model) -> int:
        points = model.points(space)
        point = data.draw(st.sampled_from(points) | st.integers(0, space.last), "address")
        return min(max(point + data.draw(st.integers(-3, 3), "shift"), 0), space.last)

    def draw_range(self, data, model: Model) -> Range:
        space = data.draw(st.sampled_from(SPACES), "space")
        base = self.draw_address(data, space, model)
        to_the_end = space.last + 1 - base
        size = data.draw(st.sampled_from([1, 2, 3, 8, 0x100, to_the_end, to_the_end - 1, to_the_end + 1, 0]), "size")
        return Range(space, base, min(max(size, 0), space.last + 1))

    def draw_ranges(self, data, model: Model) -> list[Range]:
        return [self.draw_range(data, model) for _ in range(data.draw(st.integers(1, 3), "ranges"))]

    def draw_some_of(self, data, model: Model) -> list[Range]:
        """Draw ranges that are mapped, with luck, and perhaps one that is wrong."""
        mapped = [each for each, _ in model.ranges]
        chosen = data.draw(st.lists(st.sampled_from(mapped), min_size=1, max_size=3), "mapped") if mapped else []
        if not chosen or data.draw(st.integers(0, 4), "wrong too") == 0:
            chosen.append(self.draw_range(data, model))
        return chosen

    # -- changes

    @initialize(open_bus=st.sampled_from([None, 0, 0xFF]), straddle=st.sampled_from(["reject", "pass"]), data=st.data())
    def begin(self, open_bus, straddle, data):
        manager, model = IoManager(open_bus=open_bus, straddle=straddle), Model(open_bus, straddle)
        self.managers.append((manager, model))
        for space in SPACES:
            self.attempt(manager.register_device_io, model.register, self.new_device(), [Range(space, space.last, 1)])

    def attempt(self, change, model_change, *arguments) -> None:
        """Make the same change to both, which have to agree on whether it can be made."""
        *device, ranges = arguments
        expected = model_change(*arguments)
        raised = None
        try:
            change(*device, [each.resource for each in ranges])
        except (InvalidRangeError, DeviceOverlapError, NoDeviceError) as error:
            # A traceback would keep this frame alive, and with it a transaction that is to be dropped.
            raised = error.with_traceback(None)
        assert (raised and type(raised)) is expected
        if isinstance(raised, DeviceOverlapError):
            self.check_overlap(raised, *arguments)

    def check_overlap(self, error: DeviceOverlapError, device: Tagged, ranges: list[Range]) -> None:
        """The error names a range that was asked for, and one in its way with the device that owns that."""
        space = MMIO if error.space.name == "MMIO" else PIO
        refused = Range(space, error.base, error.last - error.base + 1)
        other = Range(space, error.other_base, error.other_last - error.other_base + 1)
        assert refused in ranges
        assert refused.overlaps(other)
        assert error.device is device
        assert isinstance(error.other_device, Tagged)
        if error.other_device is device:
            assert other in ranges

    @rule(data=st.data())
    def register(self, data):
        manager, model = self.draw_manager(data)
        ranges = self.draw_ranges(data, model)
        if self.is_busy(manager):
            self.expect_refusal(lambda: manager.register_device_io(self.new_device(), [MMIO.range(5, 1)]))
        else:
            self.attempt(manager.register_device_io, model.register, self.new_device(), ranges)

    @rule(data=st.data())
    def unregister(self, data):
        manager, model = self.draw_manager(data)
        ranges = self.draw_some_of(data, model)
        if self.is_busy(manager):
            self.expect_refusal(lambda: manager.unregister_device_io([MMIO.range(5, 1)]))
        else:
            self.attempt(manager.unregister_device_io, model.unregister, ranges)

    def is_busy(self, manager: IoManager) -> bool:
        return self.open is not None and self.open.manager is manager

    def expect_refusal(self, change) -> None:
        try:
            change()
        except TransactionError:
            return
        raise AssertionError("a change beside an open transaction of the same thread was not refused")

    @precondition(lambda self: len(self.managers) < MOST_MANAGERS)
    @rule(data=st.data())
    def clone(self, data):
        manager, model = self.draw_manager(data)
        self.managers.append((manager.clone(), model.copy()))

    @precondition(lambda self: len(self.managers) > 1)
    @rule(data=st.data())
    def drop_a_manager(self, data):
        dropped = data.draw(st.integers(0, len(self.managers) - 1), "dropped")
        if not self.is_busy(self.managers[dropped][0]):
            del self.managers[dropped]

    # -- transactions

    @precondition(lambda self: self.open is None)
    @rule(data=st.data())
    def begin_tx(self, data):
        manager, model = self.draw_manager(data)
        self.open = OpenTransaction(manager, model, manager.begin_tx(), model.copy())

    @precondition(lambda self: self.open is not None)
    @rule(data=st.data())
    def register_in_transaction(self, data):
        ranges = self.draw_ranges(data, self.open.changed)
        self.attempt(self.open.transaction.register_device_io, self.open.changed.register, self.new_device(), ranges)

    @precondition(lambda self: self.open is not None)
    @rule(data=st.data())
    def unregister_in_transaction(self, data):
        ranges = self.draw_some_of(data, self.open.changed)
        self.attempt(self.open.transaction.unregister_device_io, self.open.changed.unregister, ranges)

    @precondition(lambda self: self.open is not None)
    @rule(data=st.data())
    def move_in_transaction(self, data):
        """Take a range away and put the same device on top of its old place."""
        if not self.open.changed.ranges:
            return
        old, device = data.draw(st.sampled_from(self.open.changed.ranges), "moved")
        self.attempt(self.open.transaction.unregister_device_io, self.open.changed.unregister, [old])
        base = min(max(old.base + data.draw(st.integers(-2, 2), "by"), 0), old.space.last)
        new = Range(old.space, base, min(old.size, old.space.last + 1 - base))
        self.attempt(self.open.transaction.register_device_io, self.open.changed.register, device, [new])

    @precondition(lambda self: self.open is not None)
    @rule(commits=st.booleans())
    def finish(self, commits):
        if commits:
            self.open.transaction.commit()
            self.open.model.ranges = self.open.changed.ranges
        else:
            self.open.transaction.cancel()
        self.open = None

    @precondition(lambda self: self.open is not None)
    @rule()
    def drop_the_transaction(self):
        self.open = None

    # -- accesses

    @rule(data=st.data(), reads=st.booleans(), by_integer=st.booleans())
    def access(self, data, reads, by_integer):
        manager, model = self.draw_manager(data)
        space = data.draw(st.sampled_from(SPACES), "space")
        address = self.draw_address(data, space, model)
        size = data.draw(st.sampled_from(space.sizes if by_integer else (1, 2, 3, 4, 8, 0x101)), "bytes")
        owner = model.owner(space, address)
        if owner is not None and address + size - 1 > owner[0].last and model.straddle == "reject":
            owner = None
        payload = b"\xf5" * size
        buffer = bytearray(payload)
        refused = None
        try:
            if by_integer and reads:
                buffer[:] = space.load(manager, address, size).to_bytes(size, "little")
            elif by_integer:
                space.store(manager, address, size, int.from_bytes(payload, "little"))
            elif reads:
                space.read(manager, address, buffer)
            else:
                space.write(manager, address, payload)
        except NoDeviceError as error:
            refused = (error.space.name, error.address, error.size)
        if owner is None and model.open_bus is None:
            assert refused == (space.name, address, size)
            assert buffer == payload
            return
        assert refused is None
        if owner is None:
            assert not reads or buffer == bytes([model.open_bus]) * size
            return
        mapped, device = owner
        handler = ("" if space is MMIO else "pio_") + ("read" if reads else "write")
        assert device.last_call == (handler, mapped.base, address - mapped.base, bytes(size) if reads else payload)
        assert not reads or buffer == bytes([device.tag]) * size
        device.last_call = None

    # -- invariants

    @invariant()
    def every_manager_is_as_its_model(self):
        for manager, model in self.managers:
            for space in SPACES:
                bus, expected = space.bus(manager), model.of(space)
                assert len(bus) == len(expected)
                assert list(bus) == expected
                assert bus.bases.tolist() == [base for base, _, _ in expected]
                assert bus.lasts.tolist() == [last for _, last, _ in expected]
                assert bus.devices == tuple(device for _, _, device in expected)
                points = model.points(space)
                owners = [model.owner(space, point) for point in points]
                found = [bus.find(point) for point in points]
                assert found == [owner and owner[1] for owner in owners]
                indices = bus.find_many(np.array(points, np.uint64)).tolist()
                assert [None if index < 0 else bus.devices[index] for index in indices] == found

    @invariant()
    def the_open_transaction_is_as_its_model(self):
        if self.open is None:
            return
        for space in SPACES:
            for point in self.open.changed.points(space):
                owner = self.open.changed.owner(space, point)
                assert self.open.transaction.find(space.name, point) is (owner and owner[1])

    @invariant()
    def managers_are_equal_if_their_models_are(self):
        first, first_model = self.managers[0]
        for manager, model in self.managers[1:]:
            # Devices of this test trap no resources, so that their ranges alone are compared.
            same = all(
                [entry[:2] for entry in model.of(space)] == [entry[:2] for entry in first_model.of(space)]
                for space in SPACES
            )
            assert (first == manager) is same


TestBusAgainstTheModel = BusAgainstTheModel.TestCase
TestBusAgainstTheModel.settings = settings(max_examples=100, stateful_step_count=40)
