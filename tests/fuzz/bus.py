"""The bus: managers, changes and accesses of all kinds, by devices of all kinds, against the model."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from dbs_device import IoManager, Resource, Space

from .bus_accesses import ACCESSES
from .bus_devices import World, new_device, new_memory, new_python, refresh, target_of
from .bus_model import LAST, Bus, Plan, Prank, Refused, Unowned
from .harness import Run

MOST_MANAGERS = 3
RANGES = {"MMIO": Resource.MmioAddressRange, "PIO": Resource.PioAddressRange}
Range = tuple[str, int, int]


class Pair:
    """A manager and its model."""

    def __init__(self, manager: IoManager, model: Bus) -> None:
        self.manager, self.model = manager, model


class Error(Exception):
    """What a device raises."""


class Machine:
    """All that a case works on."""

    def __init__(self, run: Run) -> None:
        self.run, self.random = run, run.random
        self.world = World()
        self.world.hook = lambda prank: self.real_prank(prank)
        self.expected: list[Any] = []  # calls of devices
        self.plans: list[Plan] = []
        self.pairs = [self.new_pair()]
        self.open: tuple[Pair, Any, Bus] | None = None
        self.held: list[Any] = []  # tables that have been replaced, perhaps

    # -- drawing

    def new_plan(self, new: Callable[..., Plan] = new_device) -> Plan:
        plan = new(self.random, len(self.plans) + 1, self.world)
        self.plans.append(plan)
        return plan

    def new_pair(self) -> Pair:
        random = self.random
        open_bus = random.choice([None, 0, 0xFF, 0x5A])
        background = self.new_plan(random.choice([new_python, new_memory])) if random.random() < 0.25 else None
        log = open_bus is not None and random.random() < 0.3
        straddle = random.choice(["reject", "reject", "pass"])
        model = Bus(open_bus, straddle, random.choice(["little", "big"]), log, background)
        options: dict[str, Any] = {"open_bus": open_bus, "straddle": straddle, "byteorder": model.byteorder}
        device = background.device if background else None
        self.run.step("IoManager", options, log, device)
        manager = IoManager(**options, log_unowned=log, background=device)
        self.adopt(model)
        return Pair(manager, model)

    def adopt(self, model: Bus) -> None:
        model.calls = self.expected
        model.hook = self.model_prank

    def address(self, space: str, model: Bus) -> int:
        """Return an address, most likely one at the edge of a range."""
        random = self.random
        points = [0, LAST[space], 0x1000]
        for each in model.ranges:
            if each.space == space:
                points += [each.base, each.last]
        address = random.choice(points) + random.randint(-3, 6)
        if random.random() < 0.1:
            address = random.randrange(LAST[space] + 1)
        return min(max(address, 0), LAST[space])

    def range(self, model: Bus, room: int | None = None) -> Range:
        space = self.random.choice(["MMIO", "MMIO", "PIO"])
        base = self.address(space, model)
        size = self.random.choice([1, 2, 4, 8, 8, 0x10, 0x40, 0x100, 0, LAST[space] + 1 - base])
        if room is not None and self.random.random() < 0.9:
            size = min(size, room)
        return space, base, size

    # -- comparing

    def compare(self, what: Callable[[], Any], expected: Callable[[], Any], *, value: bool = True) -> Any:
        """Do the same on both sides, which have to end in the same way, with the same calls of devices."""
        real = outcome_of(what)
        modelled = outcome_of(expected)
        self.check_calls()
        for plan in self.plans:
            if plan.is_stale:
                refresh(plan)
        assert same_outcome(real, modelled, value), f"{real}, not {modelled}"
        return real

    def check_calls(self) -> None:
        real, modelled = list(self.world.calls), list(self.expected)
        self.world.calls.clear()
        self.expected.clear()
        assert real == modelled, f"devices were called {real}, not {modelled}"

    # -- changes

    def change(self, real: Callable[[], Any], modelled: Callable[[], str | None]) -> None:
        name, expected = error_name(real), modelled()
        assert name == expected, f"{name}, not {expected}"

    def resources(self, ranges: list[Range]) -> list[Any]:
        return [RANGES[space](base, size) for space, base, size in ranges]

    def plan_for(self, model: Bus) -> Plan:
        """Return a new plan, or one that is used already; its adapters are for one byte order."""
        old = [plan for plan in self.plans if plan.mask == -1 and not plan.shift]
        if old and self.random.random() < 0.3:
            return self.random.choice(old)
        return self.new_plan()

    def register(self, target: Any, model: Bus) -> None:
        plan = self.plan_for(model)
        ranges = [self.range(model, plan.room) for _ in range(self.random.choice([1, 1, 2, 3]))]
        name = self.random.choice([None, "a", "b"])
        self.run.step("register", plan.device, ranges, name)
        resources = self.resources(ranges)
        self.change(
            lambda: target.register_device_io(plan.device, resources, name),
            lambda: model.register(plan, ranges, name),
        )

    def some_ranges(self, model: Bus) -> list[Range]:
        ranges = [(each.space, each.base, each.last - each.base + 1) for each in model.ranges]
        chosen = self.random.sample(ranges, min(len(ranges), self.random.choice([1, 1, 2])))
        if not chosen or self.random.random() < 0.15:
            chosen.append(self.range(model))
        return chosen

    def unregister(self, target: Any, model: Bus) -> None:
        ranges = self.some_ranges(model)
        self.run.step("unregister", ranges)
        resources = self.resources(ranges)
        self.change(lambda: target.unregister_device_io(resources), lambda: model.unregister(ranges))

    def change_map(self, pair: Pair) -> None:
        action = self.register if self.random.random() < 0.65 or not pair.model.ranges else self.unregister
        action(pair.manager, pair.model)

    def transaction(self, pair: Pair) -> None:
        if self.open is None:
            self.run.step("begin_tx")
            self.open = (pair, pair.manager.begin_tx(), pair.model.clone())
            pair.model.busy = True
            return
        pair, transaction, model = self.open
        end = self.random.random()
        if end < 0.4:
            self.register(transaction, model)
        elif end < 0.7:
            self.unregister(transaction, model)
        else:
            commits = end < 0.88
            self.run.step("commit" if commits else "cancel")
            self.open = None
            (transaction.commit if commits else transaction.cancel)()
            assert error_name(transaction.commit) == "TransactionError"
            pair.model.busy = False
            if commits:
                pair.model.ranges = model.ranges

    def copy(self, pair: Pair) -> None:
        self.held = [*self.held[-3:], pair.manager.tables()]
        if self.random.random() < 0.6:
            self.run.step("clone")
            model = pair.model.clone()
            self.adopt(model)
            new = Pair(pair.manager.clone(), model)
            self.pairs = [*self.pairs, new][-MOST_MANAGERS:]
            if self.open is not None and self.open[0] not in self.pairs:
                self.pairs[0] = self.open[0]
            assert new.manager == pair.manager
        else:
            self.run.step("pickle")
            background = pair.model.background
            if any(plan.is_bank for plan in [*(each.plan for each in pair.model.ranges), *filter(None, [background])]):
                assert error_name(lambda: pickle.dumps(pair.manager)) == "TypeError"  # banks are not pickled
                return
            other = pickle.loads(pickle.dumps(pair.manager))
            described = [
                [(each.space, each.base, each.last, each.name) for each in manager.mapped_ranges()]
                for manager in (pair.manager, other)
            ]
            assert described[0] == described[1]
            assert other.open_bus == pair.manager.open_bus

    # -- looking

    def look(self, pair: Pair) -> None:
        self.run.step("look")
        for space, bus in (("MMIO", pair.manager.mmio_bus), ("PIO", pair.manager.pio_bus)):
            mapped = pair.model.of(space)
            assert len(bus) == len(mapped)
            assert list(bus) == [(each.base, each.last, each.plan.device) for each in mapped]
            assert bus.bases.tolist() == [each.base for each in mapped]
            assert bus.lasts.tolist() == [each.last for each in mapped]
            points = [self.address(space, pair.model) for _ in range(4)]
            owners = [pair.model.owner(space, point) for point in points]
            assert [bus.find(point) for point in points] == [owner and owner.plan.device for owner in owners]
            indices = bus.find_many(np.array(points, np.uint64)).tolist()
            assert indices == [-1 if owner is None else mapped.index(owner) for owner in owners]
            for point, owner in zip(points, owners, strict=True):
                expected = (owner.plan.device, owner.base, point - owner.base) if owner else "NoDeviceError"
                kind, found = outcome_of(lambda bus=bus, point=point: bus.resolve(point))
                assert (found if kind == "value" else name_of(found)) == expected, f"{found}, not {expected}"
        names = [(each.space, each.base, each.name) for each in pair.manager.mapped_ranges()]
        expected_names = [(Space[s], each.base, each.name) for s in ("MMIO", "PIO") for each in pair.model.of(s)]
        assert sorted(names, key=str) == sorted(expected_names, key=str)
        assert pair.manager.format_map()
        assert pair.manager.unowned_accesses == pair.model.unowned
        if self.open is not None:
            space = self.random.choice(["MMIO", "PIO"])
            point = self.address(space, self.open[2])
            owner = self.open[2].owner(space, point)
            assert self.open[1].find(space, point) is (owner.plan.device if owner else None)

    # -- pranks

    def prepare_prank(self) -> None:
        able = [plan for plan in self.plans if target_of(plan) is not None and (plan.integers or plan.buffers)]
        if not able:
            return
        plan = self.random.choice(able)
        kind = self.random.choice(["raise", "return", "keep", "release", "access", "unplug", "plug"])
        pair = self.random.choice(self.pairs)
        prank = Prank(kind)
        if kind == "raise":
            prank.what = self.random.choice([Error, ValueError, KeyError, LookupError, MemoryError, SystemError])("x")
        elif kind == "return":
            prank.what = [self.random.choice([None, "text", 1 << 200, -1, True, 0, b"x", Indexed(), 1.5])]
        elif kind == "access":
            space = self.random.choice(["MMIO", "PIO"])
            size = self.random.choice([1, 2, 3, 4, 8])
            prank.what = (pair, space, self.address(space, pair.model), size, self.random.random() < 0.5)
        elif kind == "unplug":
            prank.what = (pair, self.some_ranges(pair.model))
        elif kind == "plug":
            new = self.plan_for(pair.model)
            prank.what = (pair, new, [self.range(pair.model, new.room)])
        self.run.step("prank", plan.device, kind, prank.what)
        plan.pranks.append(prank)
        target_of(plan).pranks.append(prank)

    def real_prank(self, prank: Prank) -> None:
        if prank.kind == "access":
            pair, space, address, size, write = prank.what
            data = bytearray(size)
            read_or_write = {
                ("MMIO", False): pair.manager.mmio_read,
                ("MMIO", True): pair.manager.mmio_write,
                ("PIO", False): pair.manager.pio_read,
                ("PIO", True): pair.manager.pio_write,
            }[space, write]
            name = error_name(lambda: read_or_write(address, data))
            self.world.calls.append(("nested", name, bytes(data) if name is None and not write else b""))
        elif prank.kind == "unplug":
            pair, ranges = prank.what
            name = error_name(lambda: pair.manager.unregister_device_io(self.resources(ranges)))
            self.world.calls.append(("unplug", name))
        elif prank.kind == "plug":
            pair, plan, ranges = prank.what
            name = error_name(lambda: pair.manager.register_device_io(plan.device, self.resources(ranges)))
            self.world.calls.append(("plug", name))

    def model_prank(self, prank: Prank) -> None:
        if prank.kind == "access":
            pair, space, address, size, write = prank.what
            data = bytearray(size)
            name = error_name(lambda: pair.model.access(space, address, data, write, False))
            self.expected.append(("nested", name, bytes(data) if name is None and not write else b""))
        elif prank.kind == "unplug":
            pair, ranges = prank.what
            name = pair.model.unregister(ranges)
            self.expected.append(("unplug", name))
        elif prank.kind == "plug":
            pair, plan, ranges = prank.what
            name = pair.model.register(plan, ranges, None)
            self.expected.append(("plug", name))


class Indexed:
    def __index__(self) -> int:
        return -0x1234_5678_9ABC


# ----------------------------------------------------------------------------- outcomes


def outcome_of(action: Callable[[], Any]) -> tuple[str, Any]:
    """Return ("value", result), or ("error", name or exception)."""
    try:
        return "value", action()
    except Unowned:
        return "error", "NoDeviceError"
    except Refused as refused:
        return "error", refused.what
    except (AssertionError, RecursionError):
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        assert sum(note.startswith("device access") for note in notes) <= 1, notes
        return "error", error


def same_outcome(real: tuple[str, Any], modelled: tuple[str, Any], value: bool) -> bool:
    if real[0] != modelled[0]:
        return False
    if real[0] == "value":
        return not value or real[1] == modelled[1]
    expected = modelled[1]
    if isinstance(expected, BaseException):
        return real[1] is expected
    return name_of(real[1]) in (expected if isinstance(expected, tuple) else (expected,))


def name_of(error: Any) -> str:
    return error if isinstance(error, str) else type(error).__name__


def error_name(action: Callable[[], Any]) -> str | None:
    """Return the name of the exception that an action raises, or returns the name of; None if it succeeds."""
    kind, what = outcome_of(action)
    return name_of(what) if kind == "error" else None


# ----------------------------------------------------------------------------- the target


def play(run: Run) -> None:
    machine = Machine(run)
    try:
        while run.more():
            pair = run.random.choice(machine.pairs)
            choice = run.random.random()
            if choice < 0.2:
                machine.change_map(pair)
            elif choice < 0.27:
                machine.transaction(pair)
            elif choice < 0.29:
                machine.copy(pair)
            elif choice < 0.33:
                machine.look(pair)
            elif choice < 0.42:
                machine.prepare_prank()
            else:
                run.random.choice(ACCESSES)(machine, pair)
    finally:
        if machine.open is not None:
            machine.open[1].cancel()
