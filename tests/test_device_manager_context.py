"""The context: the crate's five operations on transactions, over an IoManager."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from helpers import Worker, on_another_thread

from dbs_device.device import DeviceIo
from dbs_device.device_manager import DeviceManagerContext, IoManager, IoManagerContext
from dbs_device.errors import DeviceOverlapError, NoDeviceError, TransactionError
from dbs_device.resources import DeviceResources, Resource

SERIAL = DeviceResources([Resource.PioAddressRange(0x3F8, 8), Resource.LegacyIrq(4)])
DISK = DeviceResources([Resource.MmioAddressRange(0xD000_0000, 0x200), Resource.PioAddressRange(0x1F0, 8)])


@pytest.fixture
def context() -> DeviceManagerContext:
    return DeviceManagerContext(IoManager())


def ranges(context: DeviceManagerContext) -> list[tuple[int, int]]:
    return [(base, last) for bus in (context.io_manager.pio_bus, context.io_manager.mmio_bus) for base, last, _ in bus]


def assert_unlocked(context: DeviceManagerContext) -> None:
    on_another_thread(lambda: context.cancel_tx(context.begin_tx()))


def test_the_abstract_context_has_the_five_operations_of_the_crate() -> None:
    assert IoManagerContext.__abstractmethods__ == {
        "begin_tx",
        "commit_tx",
        "cancel_tx",
        "register_device_io",
        "unregister_device_io",
    }
    with pytest.raises(TypeError, match="abstract"):
        IoManagerContext()  # type: ignore[abstract]


def test_a_context_takes_an_io_manager() -> None:
    with pytest.raises(TypeError, match=r"\bIoManager\b.* not dict$"):
        DeviceManagerContext({})  # type: ignore[arg-type]
    assert repr(DeviceManagerContext(IoManager())) == "DeviceManagerContext(<IoManager: 0 MMIO ranges, 0 PIO ranges>)"


def test_changes_take_effect_at_commit_on_both_buses(context: DeviceManagerContext) -> None:
    old, new = DeviceIo(), DeviceIo()
    context.io_manager.register_device_io(old, SERIAL)
    ctx = context.begin_tx()
    context.unregister_device_io(ctx, SERIAL)
    context.register_device_io(ctx, new, DISK)
    assert ranges(context) == [(0x3F8, 0x3FF)]
    context.commit_tx(ctx)
    assert ranges(context) == [(0x1F0, 0x1F7), (0xD000_0000, 0xD000_01FF)]
    assert context.io_manager.mmio_bus.find(0xD000_0000) is new


def test_cancelled_changes_are_dropped(context: DeviceManagerContext) -> None:
    ctx = context.begin_tx()
    context.register_device_io(ctx, DeviceIo(), DISK)
    context.cancel_tx(ctx)
    assert ranges(context) == []
    assert_unlocked(context)


def test_a_transaction_goes_on_after_a_refused_change(context: DeviceManagerContext) -> None:
    ctx = context.begin_tx()
    context.register_device_io(ctx, DeviceIo(), SERIAL)
    with pytest.raises(DeviceOverlapError):
        context.register_device_io(ctx, DeviceIo(), [*DISK, Resource.PioAddressRange(0x3FF, 1)])
    with pytest.raises(NoDeviceError):
        context.unregister_device_io(ctx, [*SERIAL, Resource.PioAddressRange(0x60, 1)])
    context.commit_tx(ctx)
    assert ranges(context) == [(0x3F8, 0x3FF)]


def test_a_with_block_commits_at_its_end(context: DeviceManagerContext) -> None:
    with context.transaction() as tx:
        tx.register_device_io(DeviceIo(), SERIAL)
        context.register_device_io(tx, DeviceIo(), DISK)
        assert ranges(context) == []
    assert len(ranges(context)) == 3
    assert_unlocked(context)


def test_a_with_block_that_raises_cancels(context: DeviceManagerContext) -> None:
    with pytest.raises(DeviceOverlapError), context.transaction() as tx:  # noqa: PT012  # the block is what is tested
        tx.register_device_io(DeviceIo(), SERIAL)
        tx.register_device_io(DeviceIo(), SERIAL)
    assert ranges(context) == []
    assert_unlocked(context)


def test_a_with_block_may_finish_its_transaction_itself(context: DeviceManagerContext) -> None:
    with context.transaction() as tx:
        context.register_device_io(tx, DeviceIo(), SERIAL)
        context.cancel_tx(tx)
    with context.transaction() as tx:
        context.register_device_io(tx, DeviceIo(), DISK)
        context.commit_tx(tx)
    assert ranges(context) == [(0x1F0, 0x1F7), (0xD000_0000, 0xD000_01FF)]


def test_no_lock_is_taken_before_the_block_is_entered(context: DeviceManagerContext) -> None:
    block = context.transaction()
    assert_unlocked(context)
    with block:
        pass


FIVE = [
    pytest.param(lambda context, ctx: context.commit_tx(ctx), id="commit_tx"),
    pytest.param(lambda context, ctx: context.cancel_tx(ctx), id="cancel_tx"),
    pytest.param(lambda context, ctx: context.register_device_io(ctx, DeviceIo(), SERIAL), id="register_device_io"),
    pytest.param(lambda context, ctx: context.unregister_device_io(ctx, SERIAL), id="unregister_device_io"),
]


@pytest.mark.parametrize("use", FIVE)
def test_a_finished_transaction_is_refused(context: DeviceManagerContext, use: Callable[..., None]) -> None:
    for finish in (context.commit_tx, context.cancel_tx):
        ctx = context.begin_tx()
        finish(ctx)
        with pytest.raises(TransactionError, match="finished"):
            use(context, ctx)


@pytest.mark.parametrize("use", FIVE)
def test_a_transaction_of_another_manager_is_refused(context: DeviceManagerContext, use: Callable[..., None]) -> None:
    other = DeviceManagerContext(IoManager())
    ctx = other.begin_tx()
    with pytest.raises(TransactionError, match="another IoManager"):
        use(context, ctx)
    other.cancel_tx(ctx)
    with pytest.raises(TypeError, match=r"\bbegin_tx\b.* not NoneType$"):
        use(context, None)


@pytest.mark.parametrize("use", FIVE)
def test_a_transaction_of_another_thread_is_refused(context: DeviceManagerContext, use: Callable[..., None]) -> None:
    ctx = context.begin_tx()
    with pytest.raises(TransactionError, match="another thread"):
        on_another_thread(lambda: use(context, ctx))
    context.register_device_io(ctx, DeviceIo(), SERIAL)
    context.commit_tx(ctx)
    assert ranges(context) == [(0x3F8, 0x3FF)]


def test_a_second_transaction_on_one_thread_is_refused_instead_of_hanging(context: DeviceManagerContext) -> None:
    with context.transaction():
        with pytest.raises(TransactionError):
            context.begin_tx()
        with pytest.raises(TransactionError), DeviceManagerContext(context.io_manager).transaction():
            pass
        with pytest.raises(TransactionError):
            context.io_manager.register_device_io(DeviceIo(), SERIAL)
    assert ranges(context) == []


def test_contexts_of_one_manager_share_its_transactions(context: DeviceManagerContext) -> None:
    second = DeviceManagerContext(context.io_manager)
    ctx = context.begin_tx()
    second.register_device_io(ctx, DeviceIo(), SERIAL)
    second.commit_tx(ctx)
    assert ranges(context) == [(0x3F8, 0x3FF)]


def test_a_transaction_that_is_dropped_leaves_no_lock(context: DeviceManagerContext) -> None:
    context.register_device_io(context.begin_tx(), DeviceIo(), SERIAL)
    gc.collect()
    assert ranges(context) == []
    assert_unlocked(context)


def test_a_thread_that_ends_with_a_transaction_open_leaves_no_lock(context: DeviceManagerContext) -> None:
    kept = on_another_thread(context.begin_tx)
    assert_unlocked(context)
    with pytest.raises(TransactionError):
        context.commit_tx(kept)


def test_writers_on_several_threads_lose_no_change(context: DeviceManagerContext) -> None:
    contexts = [DeviceManagerContext(context.io_manager) for _ in range(4)]

    def work(mine: DeviceManagerContext, first: int) -> None:
        for base in range(first, first + 0x40):
            if base % 3:
                with mine.transaction() as tx:
                    tx.register_device_io(DeviceIo(), [Resource.PioAddressRange(base, 1)])
            else:
                mine.io_manager.register_device_io(DeviceIo(), [Resource.PioAddressRange(base, 1)])

    workers = [Worker(work, mine, 0x40 * index) for index, mine in enumerate(contexts)]
    for worker in workers:
        worker.result()
    assert [base for base, _ in ranges(context)] == list(range(0x100))
