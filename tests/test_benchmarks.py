"""The pieces of the benchmarks: that what is compared does the same, and that figures are judged and shown right.

Nothing is timed here.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, IoManager, Resource

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

check, counting, engines, peers, results, scaling, targets, workloads = map(
    importlib.import_module,
    ("check", "counting", "engines", "peers", "results", "scaling", "targets", "workloads"),
)

SUITES = ("native", "access", "find", "changes", "unicorn", "replay", "pc", "threads")
NEEDS_EXTRA = "it is part of the extra `bench`"


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    pytest.importorskip("pyperf", reason=NEEDS_EXTRA)
    return importlib.import_module("harness")


@pytest.fixture(scope="module")
def report() -> ModuleType:
    pytest.importorskip("matplotlib", reason=NEEDS_EXTRA)
    return importlib.import_module("report")


@pytest.fixture(scope="module")
def built() -> None:
    """Build the compiled loops, by the command that people use."""
    subprocess.run([sys.executable, str(BENCHMARKS / "compiled.py")], check=True, capture_output=True)


# ----------------------------------------------------------------------------- what is measured


@st.composite
def ranges_below(draw: st.DrawFn, highest_address: int) -> list[tuple[int, int]]:
    """Return ranges (base, size) that do not overlap, some of them neighbours, anywhere in the space."""
    gaps_and_sizes = draw(st.lists(st.tuples(st.integers(0, 0x3000), st.integers(1, 0x3000)), min_size=1, max_size=12))
    total = sum(gap + size for gap, size in gaps_and_sizes)
    base = draw(st.integers(0, highest_address - total + 1))
    ranges = []
    for gap, size in gaps_and_sizes:
        base += gap
        ranges.append((base, size))
        base += size
    return ranges


def manager_of(ranges: list[tuple[int, int]]) -> IoManager:
    manager = IoManager()
    for base, size in ranges:
        manager.register_device_io(workloads.IdleDevice(), [Resource.MmioAddressRange(base, size)])
    return manager


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_a_peer_finds_the_owner_that_the_bus_finds(peer: type[peers.Peer]) -> None:
    if peer.module is not None:
        pytest.importorskip(peer.module, reason=NEEDS_EXTRA)

    @given(ranges=ranges_below(peer.highest_address), data=st.data())
    def agrees(ranges: list[tuple[int, int]], data: st.DataObject) -> None:
        manager = manager_of(ranges)
        made = peer(peers.ranges_of(manager))
        anywhere = st.integers(0, peer.highest_address)
        edges = [edge for edge in peers.edges_of(peers.ranges_of(manager)) if edge <= peer.highest_address]
        peers.check(made, manager, [*edges, *data.draw(st.lists(anywhere, max_size=8))])

    agrees()


class Liar(peers.Peer):
    """Says for every address that the first range owns it."""

    name = "liar"

    def __init__(self, ranges: list[peers.Range]) -> None:
        self.first = ranges[0]

    def lookup(self, address: int) -> peers.Range:
        return self.first


def test_a_peer_that_finds_another_owner_is_caught() -> None:
    manager = manager_of([(0x1000, 0x10), (0x2000, 0x10)])
    liar = Liar(peers.ranges_of(manager))
    peers.check(liar, manager, [0x1000, 0x100F])
    with pytest.raises(AssertionError, match=r"liar finds .* at 0x2000"):
        peers.check(liar, manager, [0x2000])


@pytest.mark.parametrize("count", [1, 4, 64, 300])
def test_patterns_touch_what_they_say(count: int) -> None:
    ranges = workloads.address_map(count)
    bus = workloads.manager_of(ranges).mmio_bus
    owners = {pattern: bus.find_many(workloads.addresses_of(ranges, pattern, 1200)) for pattern in workloads.PATTERNS}
    assert len(set(owners["same"])) == 1
    assert len(set(owners["round-robin"])) == min(4, count)
    assert (owners["round-robin"][4:] == owners["round-robin"][:-4]).all()
    assert set(np.bincount(owners["random"], minlength=count)) <= {1200 // count, -(-1200 // count)}
    assert (owners["zipf"] >= 0).all()
    assert (owners["unowned"] == -1).all()
    assert list(bus.bases) == list(ranges.bases)
    assert list(bus.lasts) == list(ranges.lasts)


def test_a_few_random_addresses_are_spread_over_all_ranges() -> None:
    ranges = workloads.address_map(1024)
    owners = workloads.manager_of(ranges).mmio_bus.find_many(workloads.addresses_of(ranges, "random", 16))
    assert [owner // 64 for owner in sorted(owners)] == list(range(16))


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="no pattern is called 'sideways'"):
        workloads.addresses_of(workloads.address_map(4), "sideways", 8)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("count", [1, 4, 100])
def test_the_native_engines_give_the_same_answers(count: int) -> None:
    ranges = workloads.address_map(count)
    made = engines.accesses(ranges)
    assert {"held load", "held read", "manager load", "callback load"} <= made.keys()
    for pattern in workloads.PATTERNS:
        engines.check(made, workloads.addresses_of(ranges, pattern, 1000))


@pytest.mark.usefixtures("built")
def test_a_native_engine_with_other_answers_is_caught() -> None:
    ranges, others = workloads.address_map(4), workloads.address_map(3)
    made = engines.accesses(ranges)
    made["held load"] = engines.accesses(others)["held load"]
    with pytest.raises(AssertionError, match="the answers of the engines differ"):
        engines.check(made, workloads.addresses_of(ranges, "random", 100))


# ----------------------------------------------------------------------------- how it is measured


def test_a_statement_is_run_for_every_argument_in_every_pass(harness: ModuleType) -> None:
    seen: list[int] = []
    clock = iter([1.0, 3.5]).__next__
    timer = harness.statement_timer("seen.append(address)", [7, 8], clock=clock, seen=seen)
    assert timer(3) == 2.5
    assert seen == [7, 8, 7, 8, 7, 8]


def test_passes_are_doubled_until_they_take_long_enough(harness: ModuleType) -> None:
    assert harness.passes_for(lambda passes: passes * 0.001, 0.010) in range(10, 20)
    assert harness.passes_for(lambda passes: 5.0, 0.010) == 1


def test_what_is_reversed_keeps_the_order_of_sizes(harness: ModuleType) -> None:
    cases = [harness.Case(name, None) for name in ("a/64", "b/64", "a/4", "b/4", "c")]
    assert [case.name for case in harness.reverse_groups(cases)] == ["b/64", "a/64", "b/4", "a/4", "c"]


@pytest.mark.usefixtures("built")
def test_what_is_picked_comes_with_what_is_subtracted_from_it(harness: ModuleType) -> None:
    cases = [harness.Case("a/loop", None, always=True), harness.Case("a/b/4", None), harness.Case("a/c/4", None)]
    assert [case.name for case in harness.pick(cases, "b/")] == ["a/loop", "a/b/4"]
    assert harness.pick(cases, "nothing") == []
    assert harness.pick(cases, "") == cases


def test_every_target_is_about_cases_that_are_measured(harness: ModuleType) -> None:
    measured = set(names_of_cases(harness))
    for target in targets.TARGETS:
        for bound in target.bounds:
            wanted = {bound.case, bound.reference, bound.loop, *(bound.floor or ())} - {None}
            assert {name for name in wanted - measured if not is_optional(name)} == set(), target.work


def names_of_cases(harness: ModuleType) -> Iterator[str]:
    """Give the names of all cases that can be measured here."""
    for suite in SUITES:
        yield from (case.name for case in importlib.import_module(f"bench_{suite}").cases(harness.FULL))


def is_optional(name: str) -> bool:
    """Return whether a case needs a compiler that is not installed here."""
    return any(engine in name and engines.library(engine) is None for engine in engines.FOREIGN)


def test_every_target_names_an_operation_that_is_counted() -> None:
    for baseline in json.loads(check.BASELINE.read_text()).values():
        assert {target.profile for target in targets.TARGETS} - {None} <= baseline["operations"].keys()


# ----------------------------------------------------------------------------- figures


def measurement(name: str, *rounds: tuple[float, ...]) -> results.Measurement:
    return results.Measurement(name, rounds)


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine was ten times slower in the second round.
    measured = results.Results(
        [
            measurement("a", (3e-9,), (30e-9,), (3e-9,)),
            measurement("b", (5e-9,), (50e-9,), (5e-9,)),
            measurement("loop", (1e-9,), (10e-9,), (1e-9,)),
        ]
    )
    assert measured.ratio("a", "b", "loop") == pytest.approx(0.5)
    assert measured.net("a", "loop") == pytest.approx(2e-9)


def test_medians_and_spread_are_of_all_values() -> None:
    one = measurement("a", (1.0, 2.0, 3.0), (4.0, 100.0))
    assert one.median == 3.0
    assert one.spread == 1.0
    assert one.medians == [2.0, 52.0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 ns"),
        (3.14159e-9, "3.14 ns"),
        (9.996e-9, "10.0 ns"),
        (12.34e-6, "12.3 us"),
        (0.9999e-6, "1.00 us"),
        (0.370, "370 ms"),
        (2.0, "2.00 s"),
    ],
)
def test_times_are_shown_with_three_digits(seconds: float, text: str) -> None:
    assert results.format_time(seconds) == text


def test_cases_are_selected_by_the_parts_of_their_names() -> None:
    measured = results.Results([measurement(name, (1.0,)) for name in ("find/a/same/4", "find/a/same/64", "find/loop")])
    assert [count for count, _ in measured.select("find", "a", "same", None)] == ["4", "64"]
    assert measured.select("find", "b", "same", None) == []


def test_pyperfs_files_are_read_round_by_round(tmp_path: Path) -> None:
    pyperf = pytest.importorskip("pyperf", reason=NEEDS_EXTRA)
    metadata = {"name": "find/loop", "unit": "second", "clock": "thread CPU time"}
    runs = [pyperf.Run(values, metadata=metadata, collect_metadata=False) for values in ([1.0, 2.0], [3.0, 4.0])]
    path = tmp_path / "results.json"
    pyperf.BenchmarkSuite([pyperf.Benchmark(runs)]).dump(str(path))
    (read,) = results.Results.of_pyperf([path])
    assert read == results.Measurement("find/loop", ((1.0, 2.0), (3.0, 4.0)), "second", "thread CPU time")


COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 65536)


@pytest.mark.parametrize(
    ("law", "cost"),
    [
        ("constant", lambda n: 7.0),
        ("log2 n", lambda n: 5.0 + 3.0 * np.log2(n)),
        ("sqrt n", lambda n: 5.0 + 3.0 * np.sqrt(n)),
        ("n", lambda n: 5.0 + 3.0 * n),
    ],
)
def test_the_law_behind_noisy_points_is_found(law: str, cost: Any) -> None:
    random = np.random.default_rng(1)
    fitted = scaling.fit([(n, float(cost(n) * random.uniform(0.98, 1.02))) for n in COUNTS])
    assert fitted.law == law
    assert fitted(256) == pytest.approx(float(cost(256)), rel=0.1)
    assert fitted.error < 0.03


# ----------------------------------------------------------------------------- instruction counts

CALLGRIND = """\
version: 1
positions: line
events: Ir Bcm
summary: 30 3

ob=(1) /somewhere/dbs_device/_view.cpython-311-x86_64-linux-gnu.so
fl=(1) _view.c
fn=(1) __pyx_pw_10dbs_device_5_view_3Bus_3find
10 6 1
+3 4
cob=(2) /usr/lib/libpython3.so
cfi=(2) longobject.c
cfn=(2) PyLong_AsUnsignedLongLong
calls=2 50
* 20 2

ob=(2)
fl=(2)
fn=(2)
50 20 2

ob=(1)
fl=(1)
fn=(1)
90 1
totals: 31 3
""".splitlines()


def test_costs_of_functions_are_read_without_what_they_call() -> None:
    profile = counting.parse(CALLGRIND)
    ours, pythons = profile.functions
    assert (str(ours), profile.functions[ours]) == ("dbs_device._view.Bus.find", {"Ir": 11.0, "Bcm": 1.0})
    assert (str(pythons), profile.functions[pythons]) == (
        "PyLong_AsUnsignedLongLong (libpython3)",
        {"Ir": 20.0, "Bcm": 2.0},
    )
    assert (profile.total(), profile.engine(), profile.total("Bcm")) == (31.0, 11.0, 3.0)
    assert profile.largest(1) == [(pythons, 20.0)]
    each = counting.for_each(profile, 2, "PyLong")
    assert each.functions == {ours: {"Ir": 5.5, "Bcm": 0.5}}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("__pyx_f_10dbs_device_9_dispatch_c_mmio_load", "dbs_device._dispatch.c_mmio_load"),
        ("__pyx_pw_10dbs_device_4_bus_9IoManager_3mmio_read", "dbs_device._bus.IoManager.mmio_read"),
        ("_PyEval_EvalFrameDefault'2", "_PyEval_EvalFrameDefault"),
        ("__Pyx_PyLong_As_size_t", "__Pyx_PyLong_As_size_t"),
    ],
)
def test_names_of_functions_are_shown_as_they_are_written(name: str, plain: str) -> None:
    assert counting.plain_name(name) == plain


def counts(**engine_and_total: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {name: {"engine": engine, "total": total} for name, (engine, total) in engine_and_total.items()}


BASELINE = {"interpreter": "this build", "operations": counts(load=(100.0, 100.0), read=(300.0, 1000.0))}


def test_the_same_counts_are_neither_worse_nor_better() -> None:
    compared = check.compare(BASELINE, BASELINE["operations"], "this build")
    assert [(each.operation, each.part) for each in compared] == [
        ("load", "engine"),
        ("load", "total"),
        ("read", "engine"),
        ("read", "total"),
    ]
    assert not any(each.is_worse or each.is_better for each in compared)


@pytest.mark.parametrize(
    ("engine", "total", "worse", "better"),
    [
        (303.0, 1030.0, [], []),
        (303.1, 1000.0, ["engine"], []),
        (300.0, 1030.1, ["total"], []),
        (296.9, 969.9, [], ["engine", "total"]),
        (330.0, 960.0, ["engine"], ["total"]),
    ],
)
def test_a_count_beyond_the_tolerance_is_noticed(
    engine: float, total: float, worse: list[str], better: list[str]
) -> None:
    compared = check.compare(BASELINE, counts(read=(engine, total)), "this build")
    assert [each.part for each in compared if each.is_worse] == worse
    assert [each.part for each in compared if each.is_better] == better


def test_one_instruction_more_is_allowed_where_that_is_more_than_the_tolerance() -> None:
    baseline = {"interpreter": "this build", "operations": counts(tiny=(10.0, 10.0))}
    assert not any(each.is_worse for each in check.compare(baseline, counts(tiny=(11.0, 11.0)), "this build"))
    assert all(each.is_worse for each in check.compare(baseline, counts(tiny=(11.5, 11.5)), "this build"))


def test_totals_are_compared_with_those_of_the_same_interpreter_only() -> None:
    compared = check.compare(BASELINE, counts(read=(300.0, 2000.0)), "another build")
    assert [(each.part, each.is_worse) for each in compared] == [("engine", False)]


@pytest.fixture
def baseline_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "baseline.json"
    monkeypatch.setattr(check, "BASELINE", path)
    monkeypatch.setattr(check, "key", lambda: "cp311-gcc12-x86_64")
    monkeypatch.setattr(check, "interpreter", lambda: "this build")
    monkeypatch.setattr(check, "counts", lambda: counts(load=(100.0, 100.0)))
    monkeypatch.setattr(counting, "valgrind", lambda: "/usr/bin/valgrind")
    return path


def test_an_unknown_machine_is_reported_and_does_not_fail(
    baseline_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([]) == 0
    said = capsys.readouterr().out
    assert "load" in said
    assert "baseline.json has no counts for cp311-gcc12-x86_64: nothing is compared." in said
    assert not baseline_file.exists()


def test_an_update_is_what_the_next_run_is_compared_with(
    baseline_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline_file.write_text('{"cp313-gcc14-aarch64": {"interpreter": "theirs", "operations": {}}}')
    assert check.main(["--update"]) == 0
    assert json.loads(baseline_file.read_text()).keys() == {"cp311-gcc12-x86_64", "cp313-gcc14-aarch64"}
    assert check.main([]) == 0
    monkeypatch.setattr(check, "counts", lambda: counts(load=(150.0, 150.0)))
    capsys.readouterr()
    assert check.main([]) == 1
    said = capsys.readouterr().out
    assert "150.0     +50.0  WORSE" in said
    assert "More instructions than before." in said


def test_an_operation_that_is_no_longer_counted_fails(
    baseline_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--update"]) == 0
    monkeypatch.setattr(check, "counts", lambda: counts(other=(1.0, 1.0)))
    assert check.main([]) == 1
    assert "In the baseline, but not counted: load." in capsys.readouterr().out


def test_without_valgrind_nothing_is_counted_and_nothing_fails(
    baseline_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counting, "valgrind", lambda: None)
    assert check.main([]) == 0
    assert capsys.readouterr().out == "valgrind is not installed: instructions are not counted.\n"


# ----------------------------------------------------------------------------- the report


def made_up_results(slow: str) -> results.Results:
    """Return results of all cases that targets are about; the cases whose name has `slow` in it take far too long."""
    names = {"native/idle call": 1.2e-9}
    for target in targets.TARGETS:
        for bound in target.bounds:
            for name in (bound.reference, bound.loop, *(bound.floor or ())):
                if name:
                    names.setdefault(name, 1e-9 if name == bound.loop else 101e-9)
            names[bound.case] = 1e-6 if slow in bound.case else 1.5e-9
    rounds = ((1.0,), (1.01,), (0.99,))
    return results.Results(
        results.Measurement(name, tuple((value * factor,) for (factor,) in rounds), "second", "thread CPU time")
        for name, value in names.items()
    )


PROFILES = {"Python: find, same range": counting.parse(CALLGRIND)}


def test_the_report_says_of_each_target_whether_it_is_reached(report: ModuleType, tmp_path: Path) -> None:
    page = report.write(tmp_path, made_up_results(slow="find/find/same"), PROFILES, {}, {"processor": "made up"})
    text = (tmp_path / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith(("reached |", "missed** |"))]
    assert len(rows) == len(targets.TARGETS)
    assert [row for row in rows if "missed" in row] == [
        "| find(addr), 64 ranges, same address, against an empty method of a cdef class "
        "| at most 1.3 times | 9.99x | **missed** |"
    ]
    assert "| `dbs_device._view.Bus.find` | 11.0 |" in text
    assert "made up" in page.read_text()
    images = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert "native.png" in images
    assert all((tmp_path / image).stat().st_size > 1000 for image in images)


def test_what_was_not_measured_is_said_so(report: ModuleType, tmp_path: Path) -> None:
    report.write(tmp_path, results.Results([measurement("find/loop", (1e-9,))]), {}, {}, {})
    text = (tmp_path / "report.md").read_text()
    assert text.count("| not measured |") == len(targets.TARGETS)
    assert "Not counted: that takes valgrind, and a run of all cases." in text
    assert "![" not in text


def test_a_device_that_is_registered_many_times_does_nothing() -> None:
    device: DeviceIo = workloads.IdleDevice()
    view = memoryview(bytearray(b"abcd"))
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(0, 4)])
    manager.mmio_write(0, b"wxyz")
    manager.mmio_read(0, view)
    assert bytes(view) == b"\0\0\0\0"
