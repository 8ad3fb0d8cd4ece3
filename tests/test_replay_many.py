"""Replays of many trace files, on executors."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple

import pytest
from traces import EXAMPLE, RAM_BASE, make_manager, make_trace

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.trace import Difference, ReplayOutcome, Space, replay_many

DEADLY, RAISING = 0x4000, 0x5000


class Deadly(DeviceIo):
    """Kills its process."""

    def store(self, base, offset, size, value):
        os.kill(os.getpid(), signal.SIGKILL)


class Raising(DeviceIo):
    def store(self, base, offset, size, value):
        raise OSError("no medium")


def build():
    manager = make_manager(open_bus=0xFF)
    manager.register_device_io(Raising(), [Resource.MmioAddressRange(RAISING, 4)])
    return manager


def build_deadly():
    manager = build()
    manager.register_device_io(Deadly(), [Resource.MmioAddressRange(DEADLY, 4)])
    return manager


def never_built():
    raise LookupError("no such machine")


GOOD = make_trace((1, 1, RAM_BASE, 4, 7), (1, 0, RAM_BASE, 4, 7))
BAD = make_trace((1, 0, RAM_BASE, 4, 5), (1, 0, RAM_BASE, 4, 6))


@pytest.fixture
def files(tmp_path):
    """Trace files of every kind, and what becomes of them."""

    def save(name, trace):
        path = str(tmp_path / name)
        trace.save(path)
        return path

    poisoned, missing = tmp_path / "poisoned.npz", tmp_path / "missing.npz"
    poisoned.write_bytes(b"PK\x03\x04")
    failing = save("failing.npz", make_trace((1, 1, RAISING, 4, 0)))
    outcomes = [
        ReplayOutcome(save("good.npz", GOOD), 2, 1),
        ReplayOutcome(save("bad.npz", BAD), 2, 2, 2, Difference(0, Space.MMIO, RAM_BASE, 4, 5, 0)),
        ReplayOutcome(str(poisoned), error="ValueError: not an .npz file: File is not a zip file"),
        ReplayOutcome(str(missing), error=f"FileNotFoundError: [Errno 2] No such file or directory: '{missing}'"),
        ReplayOutcome(
            failing,
            error="OSError: no medium; device access: MMIO write of 4 bytes at 0x5000, offset 0x0 of <Raising>; "
            "in the replay of access 0: a write of 4 bytes at MMIO 0x5000",
        ),
        ReplayOutcome(save("last.npz", GOOD), 2, 1),
    ]
    return [each.path for each in outcomes], outcomes


def processes(count=2):
    # Not forked: other tests leave threads behind.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def without_addresses(outcomes):
    """Return the outcomes without the default repr of a device, which differs by process."""
    return [(astuple(each)[:-1], str(each.error).partition("; device access")[0]) for each in outcomes]


def test_each_trace_has_an_outcome_in_the_order_of_the_paths(files):
    paths, expected = files
    done = []
    outcomes = replay_many(paths, build, on_done=done.append)
    assert without_addresses(outcomes) == without_addresses(expected)
    assert done == outcomes
    assert [each.passed for each in outcomes] == [True, False, False, False, False, True]
    assert "in the replay of access 0: a write of 4 bytes at MMIO 0x5000" in outcomes[4].error


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, pytest.param(processes, marks=pytest.mark.slow)])
def test_an_executor_gives_the_same(executor, files):
    paths, expected = files
    with executor(2) as pool:
        assert without_addresses(replay_many(paths, build, pool)) == without_addresses(expected)


@pytest.mark.slow
def test_a_trace_that_kills_its_worker_is_named_and_the_rest_finish(files, tmp_path):
    paths, expected = files
    deadly = str(tmp_path / "deadly.npz")
    make_trace((1, 1, DEADLY, 4, 0)).save(deadly)
    with processes() as pool:
        outcomes = replay_many([deadly, *paths, deadly], build_deadly, pool)
    died = ReplayOutcome(deadly, error="the process that replayed it died")
    assert without_addresses(outcomes) == without_addresses([died, *expected, died])


@pytest.mark.slow
def test_an_executor_that_is_broken_already(files):
    class Broken(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            raise BrokenProcessPool

    paths, expected = files
    with Broken() as pool:
        assert without_addresses(replay_many(paths, build, pool)) == without_addresses(expected)


def test_what_an_executor_raises_is_the_outcome_of_its_trace(files):
    class Killing(ThreadPoolExecutor):
        """Reports the death of a worker by an exception of its own, as Dask does."""

        def submit(self, function, *arguments):
            future = Future()
            future.set_exception(MemoryError("worker exceeded 95% memory budget"))
            return future

    paths, _ = files
    with Killing() as pool:
        assert replay_many(paths[:1], build, pool) == [
            ReplayOutcome(paths[0], error="MemoryError: worker exceeded 95% memory budget")
        ]


def test_a_machine_that_cannot_be_built(files):
    paths, _ = files
    outcomes = replay_many(paths[:2], never_built)
    assert [each.error for each in outcomes] == ["LookupError: no such machine"] * 2
    assert str(outcomes[0]) == f"{paths[0]}: LookupError: no such machine"


def test_options_reach_the_replay(tmp_path):
    EXAMPLE.save(tmp_path / "example.npz")
    BAD.save(tmp_path / "bad.npz")
    (outcome,) = replay_many([tmp_path / "example.npz"], lambda: IoManager(open_bus=0), ignore=iter(["ram", "com1"]))
    assert (outcome.reads_compared, outcome.differences) == (1, 1)
    (outcome,) = replay_many([tmp_path / "bad.npz"], build, stop_at_first=True)
    assert (outcome.accesses, outcome.differences) == (1, 1)
    assert str(outcome).endswith(
        "1 difference; the first is access 0: the read of 4 bytes at MMIO 0x1000 gave 0x0, not 0x5"
    )


def test_an_exception_of_the_caller_comes_out_and_cancels_the_rest(files):
    def stop(outcome):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        replay_many(files[0], build, pool, on_done=stop)


def test_no_traces():
    assert replay_many([], build) == []
