"""The lock of `Mutex`: one thread at a time, taken again by its holder, interruptible, and free after a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import pytest
from helpers import check_in_child

from dbs_device._engine.lock import ReentrantLock


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_its_holder_takes_it_again_and_others_wait_for_the_last_release():
    lock = ReentrantLock()
    taken = threading.Event()

    def take() -> None:
        with lock:
            taken.set()

    lock.acquire()
    lock.acquire()
    thread = threading.Thread(target=take)
    thread.start()
    lock.release()
    assert not taken.wait(0.05)
    lock.release()
    assert taken.wait(30)
    thread.join(30)


def test_only_its_holder_releases_it():
    lock = ReentrantLock()
    lock.acquire()
    refused = []

    def release() -> None:
        with pytest.raises(RuntimeError, match="not held by this thread"):
            lock.release()
        refused.append(True)

    in_thread(release)
    assert refused
    lock.release()
    with pytest.raises(RuntimeError, match="not held by this thread"):
        lock.release()


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_update_is_lost_among_threads(rounds):
    lock, counts = ReentrantLock(), [0]

    def count() -> None:
        for step in range(rounds):
            with lock, lock:
                before = counts[0]
                if step % 50 == 0:
                    time.sleep(0)  # lets the others run into the lock
                counts[0] = before + 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert counts[0] == 8 * rounds


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the platform has no interval timers")
def test_a_signal_handler_that_raises_ends_the_wait():
    lock, holding, done = ReentrantLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            done.wait(30)

    def interrupt(number, frame):
        raise InterruptedError

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(30)
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            lock.acquire()
    finally:
        signal.signal(signal.SIGALRM, previous)
        done.set()
        thread.join(30)
    with lock:  # and it works as before
        pass
    in_thread(lambda: lock.__enter__().release())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_process_does_not_wait_for_a_thread_that_it_does_not_have():
    lock, holding, done = ReentrantLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(30)
    check_in_child(lambda: lock.__enter__().release())
    done.set()
    thread.join(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_process_still_holds_what_its_thread_held():
    lock = ReentrantLock()
    with lock:
        check_in_child(lock.release)


def test_a_call_holds_the_lock_and_returns_or_raises_what_the_function_does():
    lock = ReentrantLock()

    def check(*arguments):
        other = threading.Thread(target=lambda: lock.__enter__().release())
        other.start()
        other.join(0.03)
        assert other.is_alive()
        if not arguments:
            raise LookupError
        return arguments

    assert lock.call(check, 1, 2) == (1, 2)
    with pytest.raises(LookupError):
        lock.call(check)
    in_thread(lambda: lock.__enter__().release())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the platform has no interval timers")
def test_a_signal_handler_that_raises_in_a_call_leaves_the_lock_free():
    lock = ReentrantLock()

    def interrupt(number, frame):
        raise InterruptedError

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in range(1, 200):
            with suppress(InterruptedError):
                signal.setitimer(signal.ITIMER_REAL, delay * 1e-6)
                while True:
                    lock.call(lambda: None)
            in_thread(lambda: lock.__enter__().release())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
