"""`replay_many`: many traces, on any executor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from .._bus import IoManager
from ..errors import format_count
from .public import exported_from
from .replaying import Difference, replay
from .trace_data import RangeSelector, Trace, format_accesses

__all__ = ["ReplayOutcome", "replay_many"]


@exported_from("dbs_device.trace")
@dataclass(frozen=True)
class ReplayOutcome:
    """What became of one of many traces. It is small, whatever the size of the trace.

    Attributes
    ----------
    path : str
        The file.
    accesses : int
        Number of accesses replayed.
    reads_compared : int
        Number of reads whose value was compared.
    differences : int
        Number of reads whose value differed.
    first : Difference or None
        The first of them.
    error : str or None
        Why the trace was not replayed to its end: type, message and notes of an exception, or the death of a worker.
    """

    path: str
    accesses: int = 0
    reads_compared: int = 0
    differences: int = 0
    first: Difference | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the trace was replayed to its end, without a difference."""
        return self.error is None and self.differences == 0

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.path}: {self.error}"
        done = f"{self.path}: {format_accesses(self.accesses)}, {format_count(self.reads_compared, 'read')} compared"
        if self.first is None:
            return f"{done}, no differences"
        return f"{done}, {format_count(self.differences, 'difference')}; the first is {self.first}"


_Work = Callable[[str], ReplayOutcome]


def replay_many(
    paths: Iterable[str | os.PathLike[str]],
    build: Callable[[], IoManager],
    executor: Executor | None = None,
    *,
    ignore: str | Iterable[RangeSelector] = (),
    stop_at_first: bool = False,
    on_done: Callable[[ReplayOutcome], object] | None = None,
) -> list[ReplayOutcome]:
    """Replay many trace files, each on a machine of its own.

    Paths travel to the workers, and small outcomes travel back. A file that cannot be read, a device that raises and a
    worker that dies are outcomes of their traces; the others are replayed all the same.

    Parameters
    ----------
    paths : iterable of path
        The files, which the workers can read under these names.
    build : callable
        Called without arguments for each trace; returns the manager that it is replayed on. Workers in other processes
        must be able to import it: a function of a module.
    executor : concurrent.futures.Executor, optional
        Where the traces are replayed: processes, threads, loky, mpi4py, `Client.get_executor()` of Dask. By default,
        here, one after the other.
    ignore : str or iterable, optional
        Ranges whose reads are not compared, as `replay` takes them.
    stop_at_first : bool, optional
        Whether to stop each trace after its first difference.
    on_done : callable, optional
        Called here with each outcome, as they come.

    Returns
    -------
    list of ReplayOutcome
        One for each path, in their order.

    Notes
    -----
    A pool of processes is broken once one of them dies, and does not say which trace it was at. Those that are not done
    are replayed again, on processes that have one trace at a time: a trace may kill two processes.

    Examples
    --------
    >>> from dbs_device import IoManager
    >>> [outcome] = replay_many(["nothing.npz"], IoManager)
    >>> print(outcome)
    nothing.npz: FileNotFoundError: [Errno 2] No such file or directory: 'nothing.npz'
    """
    names = [os.fspath(path) for path in paths]
    ignored = ignore if isinstance(ignore, str) else tuple(ignore)
    work = partial(_replay_file, build=build, ignore=ignored, stop_at_first=stop_at_first)
    outcomes: dict[int, ReplayOutcome] = {}
    for index, outcome in _run(names, work, executor):
        outcomes[index] = outcome
        if on_done is not None:
            on_done(outcome)
    return [outcomes[index] for index in range(len(names))]


def _run(names: list[str], work: _Work, executor: Executor | None) -> Iterator[tuple[int, ReplayOutcome]]:
    if executor is None:
        yield from ((index, work(name)) for index, name in enumerate(names))
        return
    futures: dict[Future[ReplayOutcome], int] = {}
    undone = []
    try:
        for index, name in enumerate(names):
            try:
                futures[executor.submit(work, name)] = index
            except BrokenExecutor:
                undone.append(index)
        for future in as_completed(futures):
            index = futures[future]
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                undone.append(index)
            else:
                yield index, future.result() if error is None else _failed(names[index], error)
    finally:  # of an exception of `on_done`, or Ctrl-C
        for future in futures:
            future.cancel()
    if undone:
        yield from _run_apart(sorted(undone), names, work)


def _run_apart(undone: list[int], names: list[str], work: _Work) -> Iterator[tuple[int, ReplayOutcome]]:
    """Replay traces on processes that have one at a time."""
    count = min(len(undone), os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as threads:
        parts = [
            threads.submit(_run_part, [names[index] for index in undone[first::count]], work) for first in range(count)
        ]
        for first, part in enumerate(parts):
            yield from zip(undone[first::count], part.result(), strict=True)


def _run_part(names: list[str], work: _Work) -> list[ReplayOutcome]:
    outcomes = []
    pool = None
    for name in names:
        pool = pool or ProcessPoolExecutor(1, get_context("spawn"))  # a fork would copy the locks of threads
        try:
            outcomes.append(pool.submit(work, name).result())
        except BrokenExecutor:
            outcomes.append(ReplayOutcome(name, error="the process that replayed it died"))
            pool.shutdown()
            pool = None
        except Exception as error:
            outcomes.append(_failed(name, error))
    if pool is not None:
        pool.shutdown()
    return outcomes


def _replay_file(
    path: str, build: Callable[[], IoManager], ignore: str | tuple[RangeSelector, ...], stop_at_first: bool
) -> ReplayOutcome:
    try:
        result = replay(Trace.load(path), build(), ignore=ignore, stop_at_first=stop_at_first)
    except Exception as error:
        return _failed(path, error)
    return ReplayOutcome(path, result.accesses, result.reads_compared, result.differences, result.first)


def _failed(path: str, error: BaseException) -> ReplayOutcome:
    # A ValueError of a file begins with its path.
    lines = [str(error).removeprefix(f"{path}: "), *getattr(error, "__notes__", ())]
    text = "; ".join(" ".join(each.split()) for each in lines)
    return ReplayOutcome(path, error=f"{type(error).__name__}: {text}")
