"""The farm replays the same on processes and on Dask, and names the traces that fail."""

from __future__ import annotations

import pytest

from examples.tests.running import ROOT, run_example

pytestmark = pytest.mark.slow

SEABIOS = ROOT / "tests" / "data" / "seabios_uc_trace.npz"


def lines_of(*arguments: str) -> list[str]:
    """Return what the farm prints, without the time that it took."""
    result = run_example("-m", "examples.farm", "--workers", "2", *arguments)
    assert result.returncode == 1  # some devices answer otherwise
    return [line.partition(" in ")[0] if " traces passed" in line else line for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def here() -> list[str]:
    return lines_of("--on", "here")


def test_processes_give_what_this_process_gives(here: list[str]) -> None:
    assert here[-1] == "13 of 23 traces passed, 67,151 accesses,"
    assert lines_of() == here


def poisoned(lines: list[str]) -> tuple[list[str], list[str]]:
    failed = [line for line in lines if line.startswith("FAILED")]
    return [line for line in lines if line not in failed], failed


def test_a_damaged_file_and_a_killed_worker_are_named(here: list[str]) -> None:
    rest, failed = poisoned(lines_of("--poison"))
    assert rest == [*here[:-1], "13 of 25 traces passed, 67,151 accesses,"]
    assert failed == [
        "FAILED   damaged.npz: ValueError: not an .npz file: File is not a zip file",
        "FAILED   deadly.npz: the process that replayed it died",
    ]


def test_dask_gives_the_same(here: list[str]) -> None:
    pytest.importorskip("distributed", reason="distributed is optional, and not installed here")
    rest, failed = poisoned(lines_of("--on", "dask", "--poison"))
    assert rest == [*here[:-1], "13 of 25 traces passed, 67,151 accesses,"]
    assert failed[0] == "FAILED   damaged.npz: ValueError: not an .npz file: File is not a zip file"
    assert failed[1].startswith("FAILED   deadly.npz: KilledWorker: ")
    assert len(failed) == 2


def test_traces_of_ones_own() -> None:
    (line, last) = lines_of("--on", "here", str(SEABIOS))
    assert line.startswith("DIFFERS  seabios_uc_trace.npz: ")
    assert last == "0 of 1 traces passed, 67,166 accesses,"
