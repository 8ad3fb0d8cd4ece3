"""Accesses on several threads while others change the map: the guarantees of a commit, and stress."""

from __future__ import annotations

import gc
import importlib
import pickle
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import weakref
from pathlib import Path

import pytest
from helpers import (
    ACCESSES,
    ENOUGH_TO_GO_WRONG,
    MMIO,
    PIO,
    SPACES,
    EveryAccess,
    Recorder,
    Worker,
    each_access,
    map_both,
    on_another_thread,
    ranges_of,
)

from dbs_device import DeviceIo, DeviceIoMut, IoManager, Mutex, NoDeviceError

READERS = 3


class Paused(EveryAccess):
    """Stays in its handler until `may_end` is set."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.may_end = threading.Event()

    def handle(self, data):
        self.inside.set()
        assert self.may_end.wait(30)
        if not data.readonly:
            data[:] = b"\x11" * len(data)


# ----------------------------------------------------------------------------- guarantees of a commit


@each_access
def test_an_access_under_way_finishes_with_its_device_and_a_commit_does_not_wait_for_it(access):
    old, new = Paused(), Recorder(answer=b"\x22\x22")
    inside, may_end, alive = old.inside, old.may_end, weakref.ref(old)
    manager = map_both(old)
    under_way = Worker(access, manager, 0x100, 2)
    inside.wait()
    with manager.begin_tx() as transaction:
        resources = [space.range(0x100, 0x100) for space in SPACES]
        transaction.unregister_device_io(resources)
        transaction.register_device_io(new, resources)
    # The commit is done, and the handler is still running.
    assert under_way.is_alive()
    assert access(manager, 0x100, 2) == (b"\x22\x22" if access.reads else b"")
    assert len(new.calls) == 1
    del old, transaction
    gc.collect()
    assert alive() is not None
    may_end.set()
    assert under_way.result() == (b"\x11\x11" if access.reads else b"")
    gc.collect()
    assert alive() is None


@each_access
def test_taking_the_mutex_after_the_commit_waits_for_accesses_under_way(access):
    class Disk(DeviceIoMut):
        unhandled = "ignore"

        def handle(self, base, offset, data):
            inside.set()
            assert may_end.wait(30)
            events.append("the handler ends")

        read = write = pio_read = pio_write = handle

    def unplug():
        with mutex.lock() as disk:
            assert isinstance(disk, Disk)
            events.append("the device may be taken apart")

    inside, may_end = threading.Event(), threading.Event()
    events = []
    mutex = Mutex(Disk())
    manager = map_both(mutex)
    under_way = Worker(access, manager, 0x100)
    inside.wait()
    manager.unregister_device_io([space.range(0x100, 0x100) for space in SPACES])
    with pytest.raises(NoDeviceError):
        access(manager, 0x100)
    unplugger = Worker(unplug)
    time.sleep(ENOUGH_TO_GO_WRONG)
    assert events == []
    may_end.set()
    under_way.result()
    unplugger.result()
    assert events == ["the handler ends", "the device may be taken apart"]


def test_an_access_that_waits_for_the_mutex_still_reaches_a_device_that_is_unplugged_meanwhile():
    """Taking the mutex after the commit ensures that no handler is running, not that none will run."""

    class Disk(DeviceIoMut):
        unhandled = "ignore"

        unplugged = False

        def read(self, base, offset, data):
            data[0] = self.unplugged

    class Begun:
        def __index__(self):
            # By now the access has the tables that it will use.
            begun.set()
            return 0x100

    begun = threading.Event()
    mutex = Mutex(Disk())
    manager = map_both(mutex)
    with mutex.lock() as disk:
        under_way = Worker(manager.mmio_load, Begun(), 1)
        begun.wait()
        manager.unregister_device_io([space.range(0x100, 0x100) for space in SPACES])
        disk.unplugged = True
    assert under_way.result() == 1
    with pytest.raises(NoDeviceError):
        manager.mmio_load(0x100, 1)


def test_two_threads_may_be_in_one_device_at_once_unless_a_mutex_guards_it():
    class Meeting(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            both_inside.wait(30)
            data[0] = 1

    both_inside = threading.Barrier(2)
    manager = map_both(Meeting())
    workers = [Worker(manager.mmio_load, 0x100, 1) for _ in range(2)]
    assert [worker.result() for worker in workers] == [1, 1]


@each_access
def test_accesses_of_several_threads_at_once_have_memory_of_their_own(access):
    threads, rounds = 3, 20

    class Crowded(EveryAccess):
        def handle(self, data):
            pattern = bytes([threading.get_ident() % 251 + 1]) * len(data)
            if data.readonly:
                pattern = bytes(data)
            else:
                assert bytes(data) == bytes(len(data))
                data[:] = pattern
            all_inside.wait(30)
            assert bytes(data) == pattern

    def work():
        pattern = bytes([threading.get_ident() % 251 + 1]) * 4
        for _ in range(rounds):
            assert access(manager, 0x100, 4) == (pattern if access.reads else b"")

    all_inside = threading.Barrier(threads)
    manager = map_both(Crowded())
    for worker in [Worker(work) for _ in range(threads)]:
        worker.result()


def test_a_device_may_plug_and_unplug_while_another_thread_is_in_its_handler():
    class Bridge(DeviceIo):
        """A write moves its window, on whatever thread, while a read is under way on another."""

        unhandled = "ignore"

        def read(self, base, offset, data):
            reading.set()
            assert moved.wait(30)
            assert manager.mmio_bus.find(0x100) is None
            with manager.begin_tx() as transaction:
                transaction.register_device_io(disk, [PIO.range(0x300, 1)])
            data[0] = 0x33

        def write(self, base, offset, data):
            with manager.begin_tx() as transaction:
                transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
                transaction.register_device_io(self, [MMIO.range(0x4000, 0x100)])
            moved.set()

    reading, moved = threading.Event(), threading.Event()
    bridge, disk = Bridge(), Recorder()
    manager = map_both(bridge)
    reader = Worker(manager.mmio_load, 0x100, 1)
    reading.wait()
    on_another_thread(manager.mmio_store, 0x100, 1, 0)
    assert reader.result() == 0x33
    assert list(manager.mmio_bus) == [(0x4000, 0x40FF, bridge)]
    assert manager.pio_bus.find(0x300) is disk


# ----------------------------------------------------------------------------- stress


class Token(DeviceIo):
    """One generation of the device that is swapped; it answers with its number, at a place that the number says."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def base(self) -> int:
        return BASES[self.number % 2]

    def read(self, base, offset, data):
        assert (base, base + offset) == (self.base, SHARED)
        data[:] = self.number.to_bytes(len(data), "little")

    pio_read = read


# Each generation overlaps the place of the one before it.
BASES = (0x100, 0x180)
PLACES = [[space.range(base, 0x100) for space in SPACES] for base in BASES]
SHARED = 0x1C0  # an address that every generation has


@pytest.mark.parametrize("swaps", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_reader_ever_sees_a_mixture_while_devices_are_swapped(impatient_interpreter, swaps):
    manager = IoManager()
    manager.register_device_io(Token(0), PLACES[0])
    begun = committed = 0  # generations whose commit has begun, and is done
    stop = False

    def swap_devices():
        nonlocal begun, committed, stop
        try:
            for number in range(1, swaps + 1):
                with manager.begin_tx() as transaction:
                    transaction.unregister_device_io(PLACES[(number - 1) % 2])
                    transaction.register_device_io(Token(number), PLACES[number % 2])
                    begun = number
                committed = number
        finally:
            stop = True

    def load(space):
        before = committed
        number = space.load(manager, SHARED, 4)
        assert before <= number <= begun

    def resolve(space):
        before = committed
        device, base, offset = space.bus(manager).resolve(SHARED)
        assert before <= device.number <= begun
        assert (base, base + offset) == (device.base, SHARED)

    def look_at_one_moment():
        snapshot = manager.clone()
        [(mmio_base, mmio_last, mmio_device)] = snapshot.mmio_bus
        [(pio_base, pio_last, pio_device)] = snapshot.pio_bus
        assert mmio_device is pio_device
        assert (mmio_base, mmio_last) == (pio_base, pio_last) == (mmio_device.base, mmio_device.base + 0xFF)
        assert snapshot.mmio_load(SHARED, 4) == snapshot.pio_in(SHARED, 4) == mmio_device.number

    def look_at_both_in_turn():
        # Both spaces change in one step: a later look-up never finds an older device.
        first = manager.mmio_bus.find(SHARED).number
        second = manager.pio_bus.find(SHARED).number
        third = manager.mmio_load(SHARED, 4)
        assert first <= second <= third

    def look_outside():
        for address in (0xFF, 0x280):
            with pytest.raises(NoDeviceError):
                manager.mmio_load(address, 1)

    def read():
        rounds = 0
        all_run.wait(30)
        while rounds == 0 or not stop:
            for space in SPACES:
                load(space)
                resolve(space)
            look_at_one_moment()
            look_at_both_in_turn()
            if rounds % 64 == 0:
                look_outside()
            rounds += 1
        return rounds

    all_run = threading.Barrier(READERS + 1)
    readers = [Worker(read) for _ in range(READERS)]
    all_run.wait(30)
    writer = Worker(swap_devices)
    writer.join(120)
    assert all(reader.result() > 0 for reader in readers)
    writer.result()
    assert manager.mmio_load(SHARED, 4) == swaps
    # The devices of all other generations are gone.
    del writer, readers
    gc.collect()
    assert [each.number for each in gc.get_objects() if type(each) is Token] == [swaps]


def test_no_change_of_several_writers_is_lost(impatient_interpreter):
    writers, changes = 4, 300

    def change(writer):
        device = DeviceIo()
        for number in range(changes):
            resources = [space.range((number * writers + writer) * 4, 4) for space in SPACES]
            if number % 3 == 0:
                manager.register_device_io(device, resources)
            elif number % 3 == 1:
                with manager.begin_tx() as transaction:
                    transaction.register_device_io(device, resources)
            else:
                manager.register_device_io(device, resources)
                manager.unregister_device_io(resources)

    told = []
    manager = IoManager()
    manager.on_change(lambda added, removed: told.append((len(added), len(removed))))
    for worker in [Worker(change, writer) for writer in range(writers)]:
        worker.result()
    expected = [
        (base, base + 3)
        for number in range(changes)
        if number % 3 != 2
        for base in range(number * writers * 4, (number + 1) * writers * 4, 4)
    ]
    assert ranges_of(manager.mmio_bus) == ranges_of(manager.pio_bus) == expected
    # Each change is reported once, whichever thread made it.
    assert sorted(told) == sorted([(2, 0)] * (writers * changes) + [(0, 2)] * (writers * changes // 3))


@pytest.mark.parametrize("shows", ["picture", "repr", "pickle", "equality"])
def test_what_shows_the_whole_map_shows_one_moment_of_it(impatient_interpreter, shows):
    """A device goes to and fro between the buses: there is always one range in all."""
    there, back = [MMIO.range(0x10, 4)], [PIO.range(0x10, 4)]
    device = DeviceIo()
    moments = IoManager(), IoManager()
    mixtures = IoManager(), IoManager()
    moments[0].register_device_io(device, there)
    moments[1].register_device_io(device, back)
    mixtures[0].register_device_io(device, there + back)
    manager = moments[0].clone()
    moves = 0
    stop = False

    def move():
        nonlocal moves
        old, new = there, back
        while not stop:
            with manager.begin_tx() as transaction:
                transaction.unregister_device_io(old)
                transaction.register_device_io(device, new)
            old, new = new, old
            moves += 1

    mover = Worker(move)
    try:
        looks = 0
        while moves < 20_000 or looks < 5000:
            looks += 1
            if shows == "picture":
                assert manager.format_map() in [moment.format_map() for moment in moments]
            elif shows == "repr":
                assert repr(manager) in [repr(moment) for moment in moments]
            elif shows == "pickle":
                twin = pickle.loads(pickle.dumps(manager))
                assert len(twin.mmio_bus) + len(twin.pio_bus) == 1
            else:
                assert manager not in mixtures
    finally:
        stop = True
        mover.result()


def test_a_mutex_keeps_a_device_that_is_not_safe_in_order(impatient_interpreter):
    threads, rounds = 4, 1500

    class Counter(DeviceIoMut):
        count = 0

        def handle(self, base, offset, data):
            count = self.count
            for _ in range(5):
                pass
            self.count = count + 1

        read = write = pio_read = pio_write = handle

    mutex = Mutex(Counter())
    manager = map_both(mutex)

    def work():
        for _ in range(rounds):
            for access in ACCESSES:
                access(manager, 0x100)

    for worker in [Worker(work) for _ in range(threads)]:
        worker.result()
    with mutex.lock() as counter:
        assert counter.count == threads * rounds * len(ACCESSES)


def test_callbacks_may_be_added_and_removed_while_changes_are_made(impatient_interpreter):
    manager = IoManager()
    stop = threading.Event()
    always = []
    manager.on_change(lambda added, removed: always.append(added or removed))

    class Listener:
        def told(self, added, removed):
            pass

    def subscribe():
        while not stop.is_set():
            listeners = [Listener() for _ in range(5)]
            unsubscribe = [manager.on_change(listener.told) for listener in listeners]
            unsubscribe += [manager.on_change(lambda added, removed: None) for _ in range(5)]
            for each in unsubscribe[::2]:
                each()
            del listeners
            for each in unsubscribe:
                each()

    subscribers = [Worker(subscribe) for _ in range(2)]
    try:
        for _ in range(1000):
            manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
            manager.unregister_device_io([MMIO.range(0, 1)])
    finally:
        stop.set()
    for subscriber in subscribers:
        subscriber.result()
    assert len(always) == 2000


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None, reason="the guests are compiled"
)
def test_guests_in_c_reach_the_right_devices_while_the_map_changes(tmp_path, monkeypatch):
    """The stress that `make tsan` runs."""
    folder = Path(__file__).with_name("sanitize")
    build = [sys.executable, folder / "build_guests.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(tmp_path)
    stress = importlib.import_module("stress")
    assert stress.Stress(30_000, python_every=64).run() == []
