"""Changes that take effect together, and the lock that writers share."""

from __future__ import annotations

import gc
import os
import random
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
from helpers import (
    ENOUGH_TO_GO_WRONG,
    MMIO,
    PIO,
    Recorder,
    Worker,
    assert_unlocked,
    check_in_child,
    each_space,
    map_both,
    on_another_thread,
    ranges_of,
    whole_map,
)

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

FINISHED = "finished"
FOREIGN = "another thread"
NESTED = r"\bthis thread\b.*\bopen\b"


@pytest.fixture
def without_collection():
    """Have the garbage collector run where it is called only."""
    gc.disable()
    yield
    gc.enable()


# ----------------------------------------------------------------------------- commit and cancel


def test_changes_take_effect_together_when_they_are_committed():
    old, new = Recorder("old"), Recorder("new")
    manager = map_both(old)
    before = whole_map(manager)
    transaction = manager.begin_tx()
    transaction.unregister_device_io([MMIO.range(0x100, 0x100), PIO.range(0x100, 0x100)])
    transaction.register_device_io(new, [MMIO.range(0x180, 0x10), PIO.range(0, 1)])
    assert whole_map(manager) == before
    manager.mmio_load(0x180, 1)
    assert len(old.calls) == 1
    assert transaction.commit() is None
    assert whole_map(manager) == [(0x180, 0x18F, new), (0, 0, new)]
    manager.mmio_load(0x180, 1)
    assert len(new.calls) == 1
    assert_unlocked(manager)


def test_cancelled_changes_have_no_effect():
    manager = map_both(Recorder())
    before = manager.tables()
    transaction = manager.begin_tx()
    transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
    transaction.register_device_io(Recorder(), [PIO.range(0, 1)])
    assert transaction.cancel() is None
    assert manager.tables() is before
    assert_unlocked(manager)


def test_a_block_commits_at_its_end():
    manager = IoManager()
    with manager.begin_tx() as transaction:
        assert isinstance(transaction, Transaction)
        transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
        assert len(manager.mmio_bus) == 0
    assert len(manager.mmio_bus) == 1
    assert_unlocked(manager)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_block_that_raises_cancels(error):
    def change_and_fail():
        with manager.begin_tx() as transaction:
            transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
            raise error

    manager = IoManager()
    with pytest.raises(error):
        change_and_fail()
    assert len(manager.mmio_bus) == 0
    assert_unlocked(manager)


@pytest.mark.parametrize("finish", ["commit", "cancel"])
@pytest.mark.parametrize("error", [None, OSError])
def test_a_block_may_finish_its_transaction_itself(finish, error):
    manager = IoManager()
    try:
        with manager.begin_tx() as transaction:
            transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
            getattr(transaction, finish)()
            if error is not None:
                raise error
    except OSError:
        pass
    assert len(manager.mmio_bus) == (finish == "commit")
    assert_unlocked(manager)


def test_a_transaction_knows_its_manager():
    manager = IoManager()
    transaction = manager.begin_tx()
    assert transaction.manager is manager
    transaction.cancel()
    assert transaction.manager is manager


def test_a_transaction_without_changes_changes_nothing():
    manager = map_both(Recorder())
    before = manager.tables()
    with manager.begin_tx():
        pass
    with manager.begin_tx() as transaction:
        transaction.register_device_io(Recorder(), [Resource.LegacyIrq(4)])
        transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
        transaction.unregister_device_io([MMIO.range(0, 1)])
    assert manager.tables() is before


@pytest.mark.parametrize("finish", ["commit", "cancel"])
def test_a_finished_transaction_refuses_everything(finish):
    manager = map_both(Recorder())
    transaction = manager.begin_tx()
    getattr(transaction, finish)()
    for use in (
        transaction.commit,
        transaction.cancel,
        transaction.__enter__,
        lambda: transaction.find("MMIO", 0),
        lambda: transaction.register_device_io(Recorder(), [MMIO.range(0, 1)]),
        lambda: transaction.unregister_device_io([MMIO.range(0x100, 0x100)]),
    ):
        with pytest.raises(TransactionError, match=FINISHED):
            use()
    assert len(manager.mmio_bus) == 1
    assert_unlocked(manager)


@pytest.mark.parametrize("finish", ["commit", "cancel"])
def test_a_finished_transaction_keeps_no_device_alive(finish):
    manager = IoManager()
    device = Recorder()
    gone = weakref.ref(device)
    manager.register_device_io(device, [MMIO.range(0, 1)])
    del device
    transaction = manager.begin_tx()
    transaction.unregister_device_io([MMIO.range(0, 1)])
    added = Recorder()
    never_there = weakref.ref(added)
    transaction.register_device_io(added, [PIO.range(0, 1)])
    del added
    getattr(transaction, finish)()
    gc.collect()
    assert (gone() is None) == (finish == "commit")
    assert (never_there() is None) == (finish == "cancel")
    with pytest.raises(TransactionError, match=FINISHED):
        transaction.commit()


def test_a_transaction_that_ends_while_a_call_reads_its_resources_refuses_the_call():
    manager = IoManager()
    transaction = manager.begin_tx()

    def resources():
        transaction.commit()
        yield MMIO.range(0, 1)

    with pytest.raises(TransactionError, match=FINISHED):
        transaction.register_device_io(Recorder(), resources())
    assert len(manager.mmio_bus) == 0


def test_a_finalizer_that_uses_a_transaction_in_the_middle_of_its_commit_does_no_harm():
    """The garbage collector may run it between any two steps. In a process of its own, which a failure would crash."""
    program = """
        import gc
        from dbs_device import DeviceIo, IoManager, Resource, TransactionError

        def commit_with_a_collection_after(allocations):
            manager, device = IoManager(), DeviceIo()
            ranges = [Resource.MmioAddressRange(number * 16, 1) for number in range(200)]
            manager.register_device_io(device, ranges)
            transaction = manager.begin_tx()
            transaction.unregister_device_io([ranges[0]])
            transaction.register_device_io(device, [Resource.MmioAddressRange(5, 1)])
            outcome = []

            class Finalizer:
                def __del__(self):
                    try:
                        transaction.unregister_device_io(ranges[10:150])
                        outcome.append("removed")
                    except TransactionError:
                        outcome.append("refused")

            garbage = Finalizer()
            garbage.itself = garbage
            del garbage
            gc.set_threshold(gc.get_count()[0] + allocations)
            gc.enable()
            transaction.commit()
            gc.disable()
            gc.collect()
            expected = [5] + [each.base for each in ranges[1:]]
            if outcome == ["removed"]:
                expected = [base for base in expected if not 160 <= base < 2400]
            assert manager.mmio_bus.bases.tolist() == expected, (allocations, outcome)
            assert list(manager.mmio_bus) == [(base, base, device) for base in expected], (allocations, outcome)

        gc.collect()
        gc.disable()
        for allocations in range(40):
            commit_with_a_collection_after(allocations)
        print("unharmed")
    """
    outcome = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert outcome.stdout == "unharmed\n", outcome.stderr


def test_a_transaction_is_not_made_by_users():
    with pytest.raises(TypeError, match=r"IoManager\.begin_tx\(\)"):
        Transaction()
    with pytest.raises(TypeError):
        type("Mine", (Transaction,), {})


# ----------------------------------------------------------------------------- one call of a transaction


def test_a_call_that_fails_leaves_the_transaction_unchanged_and_open():
    owner, first = Recorder("owner"), Recorder("first")
    manager = map_both(owner)
    with manager.begin_tx() as transaction:
        transaction.register_device_io(first, [MMIO.range(0x300, 0x10)])
        with pytest.raises(DeviceOverlapError) as refused:
            transaction.register_device_io(Recorder("second"), [MMIO.range(0x310, 1), MMIO.range(0x30F, 1)])
        assert str(refused.value) == "MMIO range 0x30f..0x30f of <second> overlaps 0x300..0x30f of <first>"
        with pytest.raises(DeviceOverlapError, match=r"of <owner>$"):
            transaction.register_device_io(
                Recorder("second"), [PIO.range(0, 1), MMIO.range(0x311, 1), PIO.range(0x1FF, 9)]
            )
        with pytest.raises(InvalidRangeError):
            transaction.register_device_io(Recorder("second"), [PIO.range(0, 1), PIO.range(0, 0)])
        with pytest.raises(TypeError):
            transaction.register_device_io(object(), [PIO.range(0, 1)])
        with pytest.raises(NoDeviceError, match=r"^no PIO range 0x0\.\.0x0 "):
            transaction.unregister_device_io([MMIO.range(0x300, 0x10), MMIO.range(0x100, 0x100), PIO.range(0, 1)])
        with pytest.raises(NoDeviceError):
            transaction.unregister_device_io([MMIO.range(0x300, 0x10), MMIO.range(0x300, 0x10)])
        with pytest.raises(TypeError):
            transaction.unregister_device_io([MMIO.range(0x300, 0x10), "range"])
        assert transaction.find("MMIO", 0x300) is first
        assert transaction.find("PIO", 0) is None
    assert whole_map(manager) == [(0x100, 0x1FF, owner), (0x300, 0x30F, first), (0x100, 0x1FF, owner)]


@each_space
def test_find_sees_what_will_be(space):
    old, new = Recorder("old"), Recorder("new")
    manager = map_both(old)
    with manager.begin_tx() as transaction:
        assert transaction.find(space.name, 0x100) is old
        assert transaction.find(space.name, 0xFF) is None
        transaction.unregister_device_io([space.range(0x100, 0x100)])
        assert transaction.find(space.name, 0x100) is None
        transaction.register_device_io(new, [space.range(0x1F0, 0x20), space.range(space.last, 1)])
        assert transaction.find(space.name, 0x1EF) is None
        assert transaction.find(space.name, 0x1F0) is transaction.find(space.name, 0x20F) is new
        assert transaction.find(space.name, 0x210) is None
        assert transaction.find(space.name, space.last) is new
        assert space.bus(manager).find(0x1F0) is old


@each_space
def test_find_takes_a_bus_by_name_and_an_address_of_it(space):
    transaction = IoManager().begin_tx()
    for bus in ("mmio", "ISA", None, 2, space.bus(IoManager())):
        with pytest.raises(ValueError, match=rf'"MMIO" or "PIO", not {re.escape(repr(bus))}$'):
            transaction.find(bus, 0)
    for outside in (-1, space.last + 1):
        with pytest.raises(OverflowError):
            transaction.find(space.name, outside)
    with pytest.raises(TypeError):
        transaction.find(space.name, 1.0)


@each_space
@pytest.mark.parametrize(
    ("base", "last"),
    [(0x100, 0x1FF), (0x180, 0x27F), (0x80, 0x17F), (0x100, 0x100), (0x1FF, 0x1FF), (0x140, 0x14F), (0x41, 0x2FF)],
)
def test_a_range_may_be_moved_over_its_own_old_place(space, base, last):
    device, below, above = Recorder("moved"), Recorder("below"), Recorder("above")
    manager = map_both(device)
    manager.register_device_io(below, [space.range(0x40, 1)])
    manager.register_device_io(above, [space.range(0x300, 1)])
    size = last - base + 1
    with manager.begin_tx() as transaction:
        if (base, last) != (0x100, 0x1FF):
            with pytest.raises((DeviceOverlapError, NoDeviceError)):
                transaction.unregister_device_io([space.range(base, size)])
        with pytest.raises(DeviceOverlapError):
            transaction.register_device_io(device, [space.range(base, size)])
        transaction.unregister_device_io([space.range(0x100, 0x100)])
        transaction.register_device_io(device, [space.range(base, size)])
    assert list(space.bus(manager)) == [(0x40, 0x40, below), (base, last, device), (0x300, 0x300, above)]


@each_space
def test_a_range_that_was_added_can_be_removed_and_added_again(space):
    manager = map_both(Recorder("owner"))
    device = Recorder()
    with manager.begin_tx() as transaction:
        for base in (0, 0x200, space.last):
            for _ in range(3):
                transaction.register_device_io(device, [space.range(base, 1)])
                assert transaction.find(space.name, base) is device
                transaction.unregister_device_io([space.range(base, 1)])
                assert transaction.find(space.name, base) is None
        transaction.register_device_io(device, [space.range(0x200, 1)])
    assert ranges_of(space.bus(manager)) == [(0x100, 0x1FF), (0x200, 0x200)]


@each_space
def test_everything_can_be_removed_and_another_thing_put_in_its_place(space):
    manager = IoManager()
    for base in range(0, 0x100, 0x10):
        manager.register_device_io(Recorder(), [space.range(base, 0x10)])
    with manager.begin_tx() as transaction:
        transaction.unregister_device_io([space.range(base, 0x10) for base in range(0, 0x100, 0x10)])
        transaction.register_device_io(Recorder("whole"), [space.range(0, space.last + 1)])
        with pytest.raises(DeviceOverlapError, match=r"of <whole>$"):
            transaction.register_device_io(Recorder(), [space.range(0x80, 1)])
    assert ranges_of(space.bus(manager)) == [(0, space.last)]
    with manager.begin_tx() as transaction:
        transaction.unregister_device_io([space.range(0, space.last + 1)])
    assert ranges_of(space.bus(manager)) == []


@pytest.mark.parametrize(
    ("order", "count"),
    [
        ("random", 4096),
        ("ascending", 4096),
        ("descending", 4096),
        pytest.param("random", 65536, marks=pytest.mark.slow),
    ],
)
def test_many_ranges_in_one_transaction_in_any_order(order, count):
    manager = IoManager()
    device = DeviceIo()
    ranges = [MMIO.range(number * 0x40, 0x20) for number in range(count)]
    ordered = {"random": random.Random(1).sample(ranges, count), "ascending": ranges, "descending": ranges[::-1]}
    with manager.begin_tx() as transaction:
        for resource in ordered[order]:
            transaction.register_device_io(device, [resource])
        with pytest.raises(DeviceOverlapError):
            transaction.register_device_io(device, [MMIO.range(0x1F, 2)])
    bus = manager.mmio_bus
    assert (bus.bases == np.arange(count, dtype=np.uint64) * 0x40).all()
    assert (bus.lasts == bus.bases + np.uint64(0x1F)).all()
    assert (bus.find_many(bus.lasts) == np.arange(count)).all()


@pytest.mark.parametrize("count", [4096, pytest.param(65536, marks=pytest.mark.slow)])
def test_many_ranges_in_one_call(count):
    manager = IoManager()
    device = DeviceIo()
    ranges = [MMIO.range(number * 0x40, 0x20) for number in range(count)]
    manager.register_device_io(device, ranges)
    assert len(manager.mmio_bus) == count
    # Every second one goes, and comes back elsewhere.
    with manager.begin_tx() as transaction:
        transaction.unregister_device_io(ranges[::2])
        transaction.register_device_io(device, [MMIO.range(resource.base + 0x20, 0x20) for resource in ranges[1::2]])
    expected = [base for number in range(1, count, 2) for base in (number * 0x40, number * 0x40 + 0x20)]
    assert manager.mmio_bus.bases.tolist() == expected


@each_space
@pytest.mark.parametrize("seed", range(4))
def test_a_long_transaction_agrees_with_a_list(space, seed):
    """Thousands of changes of all kinds at once, on top of a table that already has ranges."""
    chance = random.Random(seed)
    slots = 400  # each of 16 addresses; the last one at the very end of the space
    start = space.last + 1 - slots * 16
    manager, model = IoManager(), {}

    def draw():
        base = start + chance.randrange(slots * 16)
        return base, min(base + chance.choice((0, 1, 5, 15, 40)), space.last)

    def change(target):
        if model and chance.random() < 0.45:
            base, last = chance.choice(list(model.items()))
            target.unregister_device_io([space.range(base, last - base + 1)])
            del model[base]
            return
        base, last = draw()
        resource = space.range(base, last - base + 1)
        if any(base <= other_last and other_base <= last for other_base, other_last in model.items()):
            with pytest.raises(DeviceOverlapError):
                target.register_device_io(device, [resource])
        else:
            target.register_device_io(device, [resource])
            model[base] = last

    device = DeviceIo()
    for _ in range(5):
        with manager.begin_tx() as transaction:
            for _ in range(chance.choice((1, 30, 600))):
                change(transaction)
                address = draw()[0]
                owned = any(base <= address <= last for base, last in model.items())
                assert (transaction.find(space.name, address) is device) == owned
        assert ranges_of(space.bus(manager)) == sorted(model.items())


# ----------------------------------------------------------------------------- the lock that writers share


def test_a_thread_with_a_transaction_open_makes_no_change_beside_it():
    manager = map_both(Recorder())
    transaction = manager.begin_tx()
    for change in (
        manager.begin_tx,
        lambda: manager.register_device_io(Recorder(), [MMIO.range(0, 1)]),
        lambda: manager.unregister_device_io([MMIO.range(0x100, 0x100)]),
    ):
        with pytest.raises(TransactionError, match=NESTED):
            change()
    transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
    transaction.commit()
    assert ranges_of(manager.mmio_bus) == [(0, 0), (0x100, 0x1FF)]


def test_transactions_of_several_managers_do_not_exclude_each_other():
    one, other = IoManager(), IoManager()
    with one.begin_tx() as first, other.begin_tx() as second:
        first.register_device_io(Recorder(), [MMIO.range(0, 1)])
        second.register_device_io(Recorder(), [MMIO.range(1, 1)])
    assert (ranges_of(one.mmio_bus), ranges_of(other.mmio_bus)) == ([(0, 0)], [(1, 1)])
    # A clone has a lock of its own.
    with one.begin_tx():
        one.clone().register_device_io(Recorder(), [MMIO.range(1, 1)])


def test_a_transaction_is_used_by_the_thread_that_began_it_alone():
    manager = IoManager()
    with manager.begin_tx() as transaction:
        transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
        for use in (
            transaction.commit,
            transaction.cancel,
            transaction.__enter__,
            lambda: transaction.__exit__(None, None, None),
            lambda: transaction.find("MMIO", 0),
            lambda: transaction.register_device_io(Recorder(), [MMIO.range(1, 1)]),
            lambda: transaction.unregister_device_io([MMIO.range(0, 1)]),
        ):
            with pytest.raises(TransactionError, match=FOREIGN):
                on_another_thread(use)
    assert ranges_of(manager.mmio_bus) == [(0, 0)]


@pytest.mark.parametrize("finish", ["commit", "cancel", "drop"])
@pytest.mark.parametrize("change", ["register", "unregister", "begin_tx"])
def test_a_change_waits_for_the_transaction_of_another_thread(finish, change):
    manager = map_both(Recorder("owner"))
    transaction = manager.begin_tx()
    transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
    transaction.register_device_io(Recorder("new"), [MMIO.range(0, 1)])
    started = threading.Event()
    outcome = []

    def work():
        started.set()
        try:
            if change == "register":
                manager.register_device_io(Recorder("other"), [MMIO.range(0, 1)])
            elif change == "unregister":
                manager.unregister_device_io([MMIO.range(0x100, 0x100)])
            else:
                with manager.begin_tx() as other:
                    other.unregister_device_io([MMIO.range(0, 1)])
        finally:
            outcome.append(ranges_of(manager.mmio_bus))

    worker = Worker(work)
    started.wait()
    time.sleep(ENOUGH_TO_GO_WRONG)
    assert outcome == []
    assert ranges_of(manager.mmio_bus) == [(0x100, 0x1FF)]
    if finish == "drop":
        del transaction
        gc.collect()
    else:
        getattr(transaction, finish)()
    # Each change works on what the transaction has left, not on what was there when it began to wait.
    committed = finish == "commit"
    expected = {
        ("register", True): DeviceOverlapError,
        ("register", False): [(0, 0), (0x100, 0x1FF)],
        ("unregister", True): NoDeviceError,
        ("unregister", False): [],
        ("begin_tx", True): [],
        ("begin_tx", False): NoDeviceError,
    }[change, committed]
    if isinstance(expected, list):
        worker.result()
        assert ranges_of(manager.mmio_bus) == expected
    else:
        with pytest.raises(expected):
            worker.result()
        assert ranges_of(manager.mmio_bus) == ([(0, 0)] if committed else [(0x100, 0x1FF)])


def test_accesses_do_not_wait_for_a_transaction():
    device = Recorder(answer=b"\x5a")
    manager = map_both(device)
    with manager.begin_tx() as transaction:
        transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
        assert on_another_thread(manager.mmio_load, 0x100, 1) == 0x5A
        assert on_another_thread(manager.mmio_bus.find, 0x100) is device
        assert on_another_thread(lambda: len(manager.clone().mmio_bus)) == 1


def test_a_transaction_that_is_dropped_is_cancelled():
    manager = map_both(Recorder())
    before = manager.tables()
    transaction = manager.begin_tx()
    transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
    del transaction
    gc.collect()
    assert manager.tables() is before
    assert_unlocked(manager)


def test_a_transaction_in_a_cycle_of_garbage_is_cancelled():
    class Holder(DeviceIo):
        unhandled = "ignore"

    manager = IoManager()
    holder = Holder()
    holder.transaction = manager.begin_tx()
    holder.transaction.register_device_io(holder, [MMIO.range(0, 1)])
    del holder
    gc.collect()
    assert_unlocked(manager)
    assert len(manager.mmio_bus) == 0


def drop_in_a_cycle(manager):
    """Begin a transaction, and leave it with an exception whose traceback leads to itself."""
    transaction = manager.begin_tx()
    transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
    try:
        raise ValueError
    except ValueError as error:
        kept = [error]
        kept.append(kept)


@pytest.mark.parametrize("waits_already", [False, True])
def test_a_transaction_dropped_in_a_cycle_holds_up_no_other_thread(waits_already, without_collection):
    manager = IoManager()
    if waits_already:
        transaction = manager.begin_tx()
        worker = Worker(lambda: manager.begin_tx().cancel())
        worker.join(ENOUGH_TO_GO_WRONG)
        assert worker.is_alive()
        cycle = [transaction]
        cycle.append(cycle)
        del cycle, transaction
    else:
        drop_in_a_cycle(manager)
        worker = Worker(lambda: manager.begin_tx().cancel())
    worker.result()
    assert len(manager.mmio_bus) == 0


def test_a_transaction_dropped_in_a_cycle_does_not_hold_up_its_own_thread(without_collection):
    manager = IoManager()
    drop_in_a_cycle(manager)
    manager.register_device_io(Recorder(), [MMIO.range(0, 1)])
    assert len(manager.mmio_bus) == 1


def test_a_transaction_dropped_by_another_thread_is_cancelled():
    manager = IoManager()
    transactions = [manager.begin_tx()]
    on_another_thread(transactions.clear)
    gc.collect()
    assert_unlocked(manager)


@pytest.mark.parametrize("ending", ["return", "exception"])
def test_a_thread_that_ends_with_a_transaction_open_cancels_it(ending):
    manager = IoManager()
    kept = []

    def work():
        kept.append(manager.begin_tx())
        kept[0].register_device_io(Recorder(), [MMIO.range(0, 1)])
        if ending == "exception":
            raise OSError("dies")

    if ending == "exception":
        with pytest.raises(OSError, match="dies"):
            on_another_thread(work)
    else:
        on_another_thread(work)
    assert_unlocked(manager)
    assert len(manager.mmio_bus) == 0
    with pytest.raises(TransactionError):
        kept[0].commit()


def test_a_thread_that_ends_admits_the_writers_that_wait():
    manager = IoManager()
    begun, may_end = threading.Event(), threading.Event()
    kept = []

    def leave_open():
        kept.append(manager.begin_tx())
        begun.set()
        may_end.wait()

    holder = Worker(leave_open)
    begun.wait()
    waiter = Worker(manager.register_device_io, Recorder(), [MMIO.range(0, 1)])
    time.sleep(ENOUGH_TO_GO_WRONG)
    assert len(manager.mmio_bus) == 0
    may_end.set()
    holder.result()
    waiter.result()
    assert len(manager.mmio_bus) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("waits", [False, True])
def test_a_child_process_cancels_the_transaction_of_another_thread(waits):
    manager = IoManager()
    begun, may_end = threading.Event(), threading.Event()

    def work():
        with manager.begin_tx() as transaction:
            transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
            begun.set()
            assert may_end.wait(30)

    def check():
        assert len(manager.mmio_bus) == 0
        manager.register_device_io(Recorder(), [MMIO.range(0, 2)])
        assert_unlocked(manager)

    worker = Worker(work)
    assert begun.wait(30)
    if waits:
        waiter = Worker(lambda: manager.begin_tx().cancel())
        waiter.join(ENOUGH_TO_GO_WRONG)
    check_in_child(check)
    may_end.set()
    worker.result()
    if waits:
        waiter.result()
    assert ranges_of(manager.mmio_bus) == [(0, 0)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_transaction_of_the_thread_that_forks_is_open_in_both_processes():
    manager = IoManager()
    transaction = manager.begin_tx()
    transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])

    def check():
        transaction.register_device_io(Recorder(), [MMIO.range(1, 1)])
        transaction.commit()
        assert len(manager.mmio_bus) == 2
        assert_unlocked(manager)

    check_in_child(check)
    transaction.commit()
    assert len(manager.mmio_bus) == 1
    assert_unlocked(manager)


def test_the_end_of_a_thread_does_not_touch_transactions_that_are_not_its_own():
    manager = IoManager()

    def several():
        for base in range(3):
            with manager.begin_tx() as transaction:
                transaction.register_device_io(Recorder(), [MMIO.range(base, 1)])

    on_another_thread(several)
    with manager.begin_tx() as transaction:
        on_another_thread(lambda: None)
        gc.collect()
        transaction.register_device_io(Recorder(), [MMIO.range(3, 1)])
    assert len(manager.mmio_bus) == 4


def test_a_manager_dropped_with_a_transaction_open_is_freed():
    manager = IoManager()
    gone = weakref.ref(manager)
    transaction = manager.begin_tx()
    del manager
    transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
    transaction.commit()
    del transaction
    gc.collect()
    assert gone() is None


def test_a_call_that_fails_releases_the_lock():
    manager = map_both(Recorder())

    def broken():
        yield MMIO.range(0, 1)
        raise OSError("no more")

    for resources, error in (
        ([MMIO.range(0x100, 1)], DeviceOverlapError),
        ([MMIO.range(0, 0)], InvalidRangeError),
        ([None], TypeError),
        (broken(), OSError),
    ):
        with pytest.raises(error):
            manager.register_device_io(Recorder(), resources)
        assert_unlocked(manager)
    with pytest.raises(NoDeviceError):
        manager.unregister_device_io([MMIO.range(0, 1)])
    assert_unlocked(manager)


def test_no_code_of_users_runs_with_the_lock_held():
    """A registration evaluates properties of the device and the iterator of resources, which may make changes."""

    class Looked(DeviceIo):
        @property
        def read(self):
            on_another_thread(manager.register_device_io, DeviceIo(), [MMIO.range(1, 1)])
            return lambda base, offset, data: None

    def resources():
        on_another_thread(manager.register_device_io, DeviceIo(), [MMIO.range(0, 1)])
        yield MMIO.range(2, 1)

    manager = IoManager()
    manager.register_device_io(Looked(), resources())
    assert ranges_of(manager.mmio_bus) == [(0, 0), (1, 1), (2, 2)]
