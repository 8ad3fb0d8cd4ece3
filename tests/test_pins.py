"""Accesses without the GIL: what they use lives as long as they run, and no longer; so it does in a child process."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import weakref

import pytest
from helpers import MMIO, Worker, assert_child_passes, check_in_child, exit_child

from dbs_device import CallbackHandle, DeviceIo, IoManager, NativeDevice, entry_point_addresses

# ctypes releases the GIL for the call.
LOAD = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint)(
    entry_point_addresses()["mmio_load"]
)
OTHER = [MMIO.range(0x2000, 0x100)]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
with_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Device(DeviceIo):
    """Calls a function at each load."""

    def __init__(self, function):
        self.load = lambda base, offset, size: function()


def handle_on(function):
    """Return a manager of two devices, a handle on it, and a weak reference to the second, on which nothing calls.

    It lives as long as a map that has it.
    """
    manager = IoManager()
    other = NativeDevice()
    manager.register_device_io(Device(function), [MMIO.range(0x1000, 0x100)])
    manager.register_device_io(other, OTHER)
    return manager, CallbackHandle(manager), weakref.ref(other)


def is_alive(reference):
    gc.collect()
    return reference() is not None


# ----------------------------------------------------------------------------- lifetimes


@pytest.mark.parametrize("depth", [1, 2, 15, 16, 17, 40, 100])
def test_nested_accesses_keep_their_maps_until_each_has_ended(depth):
    calls = 0

    def call_again():
        nonlocal calls
        calls += 1
        if calls < depth:
            return LOAD(handle.address, 0x1000, 4) + 1
        manager.unregister_device_io(OTHER)
        assert is_alive(other)
        return 1

    manager, handle, other = handle_on(call_again)
    assert LOAD(handle.address, 0x1000, 4) == depth
    assert handle.pop_exception() is None
    assert calls == depth
    assert not is_alive(other)


def test_each_nested_access_keeps_the_map_from_when_it_began_and_no_other():
    depth = 20
    devices = []

    def replace_and_call():
        device = NativeDevice()
        with manager.begin_tx() as transaction:
            transaction.unregister_device_io(OTHER)
            transaction.register_device_io(device, OTHER)
        del transaction
        devices.append(weakref.ref(device))
        del device
        if len(devices) < depth:
            LOAD(handle.address, 0x1000, 4)
        # Each but the last was the device of a map that one access began with; those that have ended let it go.
        assert [is_alive(each) for each in devices] == [True] * level() + [False] * (depth - 1 - level()) + [True]
        ended.append(True)
        return 0

    def level():
        return depth - 1 - len(ended)

    ended = []
    manager, handle, first = handle_on(replace_and_call)
    LOAD(handle.address, 0x1000, 4)
    assert handle.pop_exception() is None
    assert len(ended) == depth
    assert not is_alive(first)


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_the_last_of_many_threads_that_use_a_map_releases_it(threads):
    inside = threading.Barrier(threads + 1)
    may_end = threading.Semaphore(0)

    def wait():
        inside.wait(30)
        assert may_end.acquire(timeout=30)
        return 7

    manager, handle, other = handle_on(wait)
    workers = [Worker(LOAD, handle.address, 0x1000, 4) for _ in range(threads)]
    inside.wait(30)
    manager.unregister_device_io(OTHER)
    for left in range(threads, 0, -1):
        assert is_alive(other)
        may_end.release()
        while sum(worker.is_alive() for worker in workers) >= left:
            time.sleep(0.001)
    assert [worker.result() for worker in workers] == [7] * threads
    assert handle.pop_exception() is None
    assert not is_alive(other)


def test_threads_that_come_and_go_leave_nothing():
    manager, handle, other = handle_on(lambda: 1)
    for _ in range(200):
        assert Worker(LOAD, handle.address, 0x1000, 4).result() == 1
    manager.unregister_device_io(OTHER)
    assert not is_alive(other)


def test_accesses_without_the_gil_under_changes():
    numbers = iter(range(1, 2000))
    loads = 0
    stop = False

    class Numbered(DeviceIo):
        def __init__(self):
            self.number = next(numbers)

        def load(self, base, offset, size):
            return self.number

    def read():
        nonlocal loads
        last = 0
        while not stop:
            number = LOAD(handle.address, 0x2000, 4)
            assert number >= last  # never an older device, nor one that is gone
            last = number
            loads += 1

    manager = IoManager()
    manager.register_device_io(Numbered(), OTHER)
    handle = CallbackHandle(manager)
    readers = [Worker(read) for _ in range(3)]
    try:
        for _ in range(1500):
            with manager.begin_tx() as transaction:
                transaction.unregister_device_io(OTHER)
                transaction.register_device_io(Numbered(), OTHER)
    finally:
        stop = True
    for reader in readers:
        reader.result()
    assert loads > 0
    assert handle.pop_exception() is None
    gc.collect()
    assert len([each for each in gc.get_objects() if type(each) is Numbered]) == 1


# ----------------------------------------------------------------------------- child processes


@forks
@with_threads
def test_a_child_process_releases_what_only_the_accesses_of_other_threads_used():
    inside, may_end = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert may_end.wait(30)
        return 7

    def check():
        manager.unregister_device_io(OTHER)
        assert not is_alive(other)
        with manager.begin_tx() as transaction:
            transaction.unregister_device_io([MMIO.range(0x1000, 0x100)])
            transaction.register_device_io(NativeDevice(), OTHER)
        assert LOAD(handle.address, 0x2000, 4) == 0
        assert handle.pop_exception() is None

    manager, handle, other = handle_on(wait)
    workers = [Worker(LOAD, handle.address, 0x1000, 4) for _ in range(20)]
    assert inside.wait(30)
    check_in_child(check)
    assert is_alive(other)
    may_end.set()
    assert [worker.result() for worker in workers] == [7] * 20


@forks
@with_threads
def test_a_child_process_releases_the_map_before_a_change_when_the_access_of_another_thread_used_it():
    inside, may_end = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert may_end.wait(30)
        return 7

    manager, handle, other = handle_on(wait)
    worker = Worker(LOAD, handle.address, 0x1000, 4)
    assert inside.wait(30)
    manager.unregister_device_io(OTHER)
    check_in_child(lambda: exit_child(lambda: None) if not is_alive(other) else os._exit(1))
    assert is_alive(other)
    may_end.set()
    assert worker.result() == 7
    assert not is_alive(other)


@forks
def test_an_access_that_forks_ends_in_both_processes():
    children = []

    def fork():
        children.append(os.fork())
        manager.unregister_device_io(OTHER)
        assert is_alive(other)
        return 7

    manager, handle, other = handle_on(fork)
    value = LOAD(handle.address, 0x1000, 4)

    def check():
        assert value == 7
        assert handle.pop_exception() is None
        assert not is_alive(other)
        manager.register_device_io(NativeDevice(), OTHER)
        assert LOAD(handle.address, 0x2000, 4) == 0

    if children == [0]:
        exit_child(check)
    check()
    assert_child_passes(children[0])


@forks
@with_threads
def test_child_processes_of_a_process_whose_threads_access_and_change_the_map():
    stop = False

    def access():
        while not stop:
            for _ in range(50):
                LOAD(handle.address, 0x2000, 4)

    def change():
        while not stop:
            manager.register_device_io(DeviceIo(), [MMIO.range(0x3000, 0x100)])
            manager.unregister_device_io([MMIO.range(0x3000, 0x100)])

    def check():
        with manager.begin_tx() as transaction:
            transaction.unregister_device_io(OTHER)
            transaction.register_device_io(Device(lambda: 5), OTHER)
        assert LOAD(handle.address, 0x2000, 4) == 5
        assert manager.mmio_load(0x2000, 4) == 5

    manager, handle, _ = handle_on(lambda: 0)
    workers = [Worker(access), Worker(access), Worker(change)]
    try:
        for _ in range(40):
            check_in_child(check)
    finally:
        stop = True
    for worker in workers:
        worker.result()
