"""Callbacks of `on_change`, called after each change of the map."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import pytest
from helpers import MMIO, PIO, Recorder, assert_unlocked, map_both, on_another_thread, ranges_of

from dbs_device import DeviceIo, DeviceOverlapError, IoManager, MappedRange, NoDeviceError, Space


class Listener:
    """Remembers the arguments of `told`."""

    def __init__(self, error=None):
        self.error = error
        self.calls = []

    def told(self, added, removed):
        self.calls.append((added, removed))
        if self.error is not None:
            raise self.error


def test_callbacks_get_the_ranges_added_and_removed_sorted_by_space_and_base():
    one, other = Recorder("one"), Recorder("other")
    listener = Listener()
    manager = IoManager()
    manager.on_change(listener.told)
    manager.register_device_io(one, [PIO.range(0x10, 4), MMIO.range(0x20, 1), PIO.range(0, 1), MMIO.range(0, 8)])
    [(added, removed)] = listener.calls
    assert added == (
        (Space.MMIO, 0, 7, one, None),
        (Space.MMIO, 0x20, 0x20, one, None),
        (Space.PIO, 0, 0, one, None),
        (Space.PIO, 0x10, 0x13, one, None),
    )
    assert removed == ()
    assert type(added) is type(removed) is tuple
    assert {type(each) for each in added} == {MappedRange}
    assert added[3].space is Space.PIO
    assert (added[3].base, added[3].last, added[3].device) == (0x10, 0x13, one)
    assert repr(added[3]) == "MappedRange(PIO 0x10..0x13, <one>)"
    with manager.begin_tx() as transaction:
        transaction.register_device_io(other, [PIO.range(0xFFFF, 1)])
        transaction.unregister_device_io([PIO.range(0x10, 4), MMIO.range(0x20, 1), MMIO.range(0, 8)])
        transaction.register_device_io(one, [MMIO.range(4, 8)])
        transaction.register_device_io(other, [MMIO.range(0x50, 1)])
        transaction.unregister_device_io([MMIO.range(0x50, 1)])
        assert len(listener.calls) == 1
    assert listener.calls[1] == (
        ((Space.MMIO, 4, 0xB, one, None), (Space.PIO, 0xFFFF, 0xFFFF, other, None)),
        ((Space.MMIO, 0, 7, one, None), (Space.MMIO, 0x20, 0x20, one, None), (Space.PIO, 0x10, 0x13, one, None)),
    )
    manager.unregister_device_io([PIO.range(0, 1)])
    assert listener.calls[2] == ((), ((Space.PIO, 0, 0, one, None),))


def test_a_range_that_is_removed_and_added_again_is_reported_as_both():
    device = Recorder()
    listener = Listener()
    manager = map_both(device)
    manager.on_change(listener.told)
    with manager.begin_tx() as transaction:
        transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
        transaction.register_device_io(device, [MMIO.range(0x100, 0x100)])
    [(added, removed)] = listener.calls
    assert added == removed == ((Space.MMIO, 0x100, 0x1FF, device, None),)


def test_callbacks_are_not_called_without_a_change():
    listener = Listener()
    manager = map_both(Recorder())
    manager.on_change(listener.told)
    with pytest.raises(DeviceOverlapError):
        manager.register_device_io(Recorder(), [MMIO.range(0x100, 1)])
    with pytest.raises(NoDeviceError):
        manager.unregister_device_io([MMIO.range(0x100, 1)])
    transaction = manager.begin_tx()
    transaction.unregister_device_io([MMIO.range(0x100, 0x100)])
    transaction.cancel()
    with manager.begin_tx() as transaction:
        transaction.register_device_io(Recorder(), [MMIO.range(0, 1)])
        transaction.unregister_device_io([MMIO.range(0, 1)])
    manager.register_device_io(Recorder(), [])
    manager.mmio_load(0x100, 1)
    assert listener.calls == []


def test_a_callback_sees_the_change_and_may_make_others():
    """It runs outside the lock: this thread and others may change the map from it."""

    def extend(added, removed):
        assert manager.mmio_bus.find(added[0].base) is added[0].device
        base = added[0].base
        if base < 6:
            manager.register_device_io(device, [MMIO.range(base + 1, 1)])
        elif base < 8:
            on_another_thread(manager.register_device_io, device, [MMIO.range(base + 1, 1)])
        elif base < 10:
            with manager.begin_tx() as transaction:
                transaction.register_device_io(device, [MMIO.range(base + 1, 1)])

    device = Recorder()
    manager = IoManager()
    manager.on_change(extend)
    manager.register_device_io(device, [MMIO.range(0, 1)])
    assert ranges_of(manager.mmio_bus) == [(base, base) for base in range(11)]


def test_a_callback_runs_on_the_thread_that_made_the_change():
    threads = []
    manager = IoManager()
    manager.on_change(lambda added, removed: threads.append(threading.get_ident()))
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])

    def change():
        manager.register_device_io(DeviceIo(), [MMIO.range(1, 1)])
        return threading.get_ident()

    other = on_another_thread(change)
    assert threads == [threading.get_ident(), other]


def test_a_callback_is_no_longer_called_after_unsubscribing():
    listener, other = Listener(), Listener()
    manager = IoManager()
    unsubscribe = manager.on_change(listener.told)
    manager.on_change(other.told)
    manager.on_change(listener.told)
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
    assert (len(listener.calls), len(other.calls)) == (2, 1)
    for _ in range(2):
        unsubscribe()
    manager.register_device_io(DeviceIo(), [MMIO.range(1, 1)])
    assert (len(listener.calls), len(other.calls)) == (3, 2)


def test_a_callback_may_unsubscribe_itself_and_others_at_once():
    calls = []

    def first(added, removed):
        calls.append("first")
        for unsubscribe in subscriptions:
            unsubscribe()

    manager = IoManager()
    subscriptions = [manager.on_change(first)]
    subscriptions.append(manager.on_change(lambda added, removed: calls.append("second")))
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
    manager.register_device_io(DeviceIo(), [MMIO.range(1, 1)])
    assert calls == ["first"]


def test_a_callback_may_subscribe_another_one_which_gets_later_changes():
    listener = Listener()
    manager = IoManager()
    unsubscribe = manager.on_change(lambda added, removed: manager.on_change(listener.told))
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
    assert listener.calls == []
    unsubscribe()
    manager.register_device_io(DeviceIo(), [MMIO.range(1, 1)])
    assert len(listener.calls) == 1


def test_a_bound_method_is_held_weakly_and_anything_else_strongly():
    manager = IoManager()
    calls = []
    listener, held = Listener(), Listener()
    manager.on_change(listener.told)
    manager.on_change(functools.partial(Listener.told, held))
    manager.on_change(lambda added, removed: calls.append("lambda"))
    gone, kept = weakref.ref(listener), weakref.ref(held)
    del listener, held
    gc.collect()
    assert gone() is None
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
    manager.register_device_io(DeviceIo(), [MMIO.range(1, 1)])
    assert len(kept().calls) == 2
    assert calls == ["lambda", "lambda"]


def test_what_unsubscribes_does_not_keep_the_object_of_a_bound_method_alive():
    manager = IoManager()
    listener = Listener()
    gone = weakref.ref(listener)
    unsubscribe = manager.on_change(listener.told)
    del listener
    gc.collect()
    assert gone() is None
    unsubscribe()
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
    unsubscribe()


def test_a_method_of_the_manager_itself_can_be_a_callback():
    class Machine(IoManager):
        def __init__(self):
            super().__init__()
            self.told = []
            self.on_change(self.changed)

        def changed(self, added, removed):
            self.told.append(len(added))

    machine = Machine()
    machine.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
    assert machine.told == [1]
    gone = weakref.ref(machine)
    del machine
    gc.collect()
    assert gone() is None


def make_change(manager, way):
    """Register a range by one of the three ways."""
    resources = [MMIO.range(0, 1)]
    if way == "direct":
        manager.register_device_io(DeviceIo(), resources)
    elif way == "commit":
        transaction = manager.begin_tx()
        transaction.register_device_io(DeviceIo(), resources)
        transaction.commit()
    else:
        with manager.begin_tx() as transaction:
            transaction.register_device_io(DeviceIo(), resources)


each_way = pytest.mark.parametrize("way", ["direct", "commit", "block"])


@each_way
@pytest.mark.parametrize("error", [OSError("no bridge"), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_an_exception_of_a_callback_comes_out_and_the_change_stands(way, error):
    before, failing, after = Listener(), Listener(error), Listener()
    manager = IoManager()
    for listener in (before, failing, after):
        manager.on_change(listener.told)
    with pytest.raises(type(error)) as raised:
        make_change(manager, way)
    assert raised.value is error
    assert [len(listener.calls) for listener in (before, failing, after)] == [1, 1, 1]
    assert ranges_of(manager.mmio_bus) == [(0, 0)]
    assert_unlocked(manager)


@each_way
def test_exceptions_of_several_callbacks_come_out_as_a_group(way):
    listeners = [Listener(ValueError("one")), Listener(), Listener(OSError("two"))]
    manager = IoManager()
    for listener in listeners:
        manager.on_change(listener.told)
    with pytest.raises(ExceptionGroup, match=r"\bon_change\b") as raised:
        make_change(manager, way)
    assert raised.value.exceptions == (listeners[0].error, listeners[2].error)
    assert len(manager.mmio_bus) == 1
    manager.on_change(Listener(KeyboardInterrupt()).told)
    unlucky = Listener(KeyboardInterrupt())
    manager.on_change(unlucky.told)
    with pytest.raises(BaseExceptionGroup) as raised:
        manager.unregister_device_io([MMIO.range(0, 1)])
    assert unlucky.error in raised.value.exceptions
    assert_unlocked(manager)


def test_an_exception_of_a_block_is_not_hidden_by_callbacks():
    def change_and_fail():
        with manager.begin_tx() as transaction:
            transaction.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
            raise KeyError("mine")

    listener = Listener(OSError("bridge"))
    manager = IoManager()
    manager.on_change(listener.told)
    with pytest.raises(KeyError, match="mine"):
        change_and_fail()
    assert listener.calls == []


@pytest.mark.parametrize("callback", [None, 5, "callback", [print]], ids=repr)
def test_a_callback_must_be_callable(callback):
    with pytest.raises(TypeError, match=rf"\bcallable\b.* not {type(callback).__name__}$"):
        IoManager().on_change(callback)


def test_a_bound_method_of_what_cannot_be_referred_to_weakly_is_refused():
    class Rigid:
        __slots__ = ()

        def told(self, added, removed):
            pass

    with pytest.raises(TypeError, match="weak reference"):
        IoManager().on_change(Rigid().told)
