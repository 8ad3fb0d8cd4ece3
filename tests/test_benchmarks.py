"""The benchmarks: what is compared does the same, every case runs, and figures are judged and shown right.

No time is tested here.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, IoManager, Resource

NEEDS_EXTRA = "it is part of the extra `bench`"
pyperf = pytest.importorskip("pyperf", reason=NEEDS_EXTRA)
pytest.importorskip("matplotlib", reason=NEEDS_EXTRA)
pytest.importorskip("rich", reason=NEEDS_EXTRA)

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

check, measure, run, callgrind, lookups, native, pages, results, targets, harness, workloads = map(
    importlib.import_module,
    (
        *("check", "measure", "run", "instructions.callgrind", "peers.lookups", "peers.native"),
        *("report.pages", "report.results", "report.targets", "suites.harness", "suites.workloads"),
    ),
)


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


@pytest.mark.parametrize("peer", lookups.PEERS, ids=lambda peer: peer.name)
def test_a_peer_finds_the_owner_that_the_bus_finds(peer: type[lookups.Peer]) -> None:
    if peer.module is not None:
        pytest.importorskip(peer.module, reason=NEEDS_EXTRA)

    @given(ranges=ranges_below(peer.highest_address), data=st.data())
    def agrees(ranges: list[tuple[int, int]], data: st.DataObject) -> None:
        manager = manager_of(ranges)
        made = peer(lookups.ranges_of(manager))
        anywhere = st.integers(0, peer.highest_address)
        edges = [edge for edge in lookups.edges_of(lookups.ranges_of(manager)) if edge <= peer.highest_address]
        lookups.check_lookups(made, manager, [*edges, *data.draw(st.lists(anywhere, max_size=8))])

    agrees()


class Liar(lookups.Peer):
    """Says for every address that the first range owns it."""

    name = "liar"

    def __init__(self, ranges: list[lookups.Range]) -> None:
        self.first = ranges[0]

    def lookup(self, address: int) -> lookups.Range:
        return self.first


def test_a_peer_that_finds_another_owner_is_caught() -> None:
    manager = manager_of([(0x1000, 0x10), (0x2000, 0x10)])
    liar = Liar(lookups.ranges_of(manager))
    lookups.check_lookups(liar, manager, [0x1000, 0x100F])
    with pytest.raises(AssertionError, match=r"liar finds .* at 0x2000"):
        lookups.check_lookups(liar, manager, [0x2000])


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
    with pytest.raises(ValueError, match="'sideways' is not a pattern"):
        workloads.addresses_of(workloads.address_map(4), "sideways", 8)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4, 100])
def test_native_accesses_give_the_same_answers(count: int) -> None:
    ranges = workloads.address_map(count)
    made = native.accesses_to(ranges)
    assert {"held read", "manager load", "entry point load", *native.native_peers()} == made.keys()
    for pattern in workloads.PATTERNS:
        native.check_accesses(made, workloads.addresses_of(ranges, pattern, 1000))


@pytest.mark.slow
def test_a_native_access_with_other_answers_is_caught() -> None:
    ranges, others = workloads.address_map(4), workloads.address_map(3)
    made = native.accesses_to(ranges)
    made["held read"] = native.accesses_to(others)["held read"]
    with pytest.raises(AssertionError, match="the answers differ"):
        native.check_accesses(made, workloads.addresses_of(ranges, "random", 100))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_installed(name: str) -> bool:
        return name not in ("intervaltree", "unicorn")

    def load_library(name: str) -> None:
        raise LookupError("rustc is not installed")

    monkeypatch.setattr(lookups, "is_module_installed", is_installed)
    monkeypatch.setattr(native, "NATIVE_PEERS", {"btree_map": "btree_map.rs"})
    monkeypatch.setattr(native, "load_library", load_library)
    assert run.skipped(["find", "unicorn"]) == {
        "unicorn": "unicorn is not installed",
        "intervaltree": "intervaltree is not installed",
        "btree_map": "rustc is not installed",
    }


# ----------------------------------------------------------------------------- how it is measured


def test_a_statement_is_run_for_every_argument_in_every_pass() -> None:
    seen: list[int] = []
    clock = iter([1.0, 3.5]).__next__
    timer = harness.statement_timer("seen.append(address)", [7, 8], clock=clock, seen=seen)
    assert timer(3) == 2.5
    assert seen == [7, 8, 7, 8, 7, 8]


def test_passes_are_doubled_until_they_take_long_enough() -> None:
    assert harness.passes_for(lambda passes: passes * 0.001, 0.010) in range(10, 20)
    assert harness.passes_for(lambda passes: 5.0, 0.010) == 1


def test_what_is_reversed_keeps_the_order_of_sizes() -> None:
    cases = [harness.Case(name, None) for name in ("a/64", "b/64", "a/4", "b/4", "c")]
    assert [case.name for case in harness.reverse_groups(cases)] == ["b/64", "a/64", "b/4", "a/4", "c"]


def test_what_is_picked_comes_with_what_is_subtracted_from_it() -> None:
    cases = [harness.Case("a/loop", None), *(harness.Case(name, None, loop="a/loop") for name in ("a/b/4", "a/c/4"))]
    assert [case.name for case in harness.pick(cases, "b/")] == ["a/loop", "a/b/4"]
    assert harness.pick(cases, "nothing") == []
    assert harness.pick(cases, "") == cases


@pytest.mark.slow
@pytest.mark.parametrize("suite", measure.SUITES)
def test_every_case_of_a_suite_runs(suite: str) -> None:
    if missing := measure.SUITES[suite].missing():
        pytest.skip(missing)
    cases = list(measure.SUITES[suite].cases(harness.Plan((16,), quick=True)))
    assert len({case.name for case in cases}) == len(cases)
    assert {case.loop for case in cases} - {None} <= {case.name for case in cases}
    for case in cases:
        assert case.prepare()(1) > 0, case.name


def is_optional(name: str) -> bool:
    """Return whether a case needs something that is not installed here."""
    skipped = run.skipped(list(measure.SUITES))
    return any(part in skipped for part in name.replace(" clone", "").split("/"))


@pytest.mark.slow
def test_targets_and_headlines_are_about_cases_that_are_measured() -> None:
    wanted = {name for target in targets.TARGETS for bound in target.bounds for name in (bound.case, *bound.references)}
    wanted |= {name for headline in pages.HEADLINES for name in (headline.case, headline.reference)}
    cases = {case.name for suite in measure.SUITES.values() for case in suite.cases(harness.FULL)}
    assert {name for name in wanted - cases if not is_optional(name)} == set()


@pytest.mark.slow
def test_every_case_is_in_the_report_or_subtracted_in_it() -> None:
    shown = {
        section.case.format(row=row, column=column)
        for chapter in pages.CHAPTERS
        for section in chapter.sections
        for row in section.rows
        for column in section.columns
    }
    cases = [case for suite in measure.SUITES.values() for case in suite.cases(harness.FULL)]
    shown |= {case.loop for case in cases} | set(pages.BOOT)
    # A look-up from Python has the same empty method beside it as an access.
    assert {case.name for case in cases} - shown == {"find/empty method"}


@pytest.mark.slow
def test_a_run_measures_what_matches_and_writes_its_report(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "find", "--quick", "--only=/same/1$|bisect/random/64$"]
    said = subprocess.run([*command, f"--output={tmp_path}"], check=True, capture_output=True, text=True).stdout
    assert "report.md" in said
    measured = results.Results.of_pyperf(tmp_path / "results.json")
    for name in ("find/loop", "find/find/same/1", "find/bisect/same/1", "find/bisect/random/64"):
        assert name in measured
    assert "find/find/random/64" not in measured
    assert f"CPython {sys.version.split()[0]}" in measured.metadata["versions"]
    assert "![The owner of an address, from Python](find.png)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "find.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_suite_is_a_script_of_pyperfs(tmp_path: Path) -> None:
    output = tmp_path / "find.json"
    once = ["--processes=1", "--values=1", "--warmups=0", "--loops=1", "--min-time=0.0001", f"--output={output}"]
    command = [sys.executable, str(BENCHMARKS / "measure.py"), "find", "--only=find/find/same/1$", *once]
    subprocess.run(command, check=True, capture_output=True)
    assert pyperf.BenchmarkSuite.load(str(output)).get_benchmark_names() == ["find/loop", "find/find/same/1"]


# ----------------------------------------------------------------------------- figures


def measurement(name: str, *rounds: tuple[float, ...], loop: str | None = None) -> results.Measurement:
    return results.Measurement(name, rounds, loop=loop)


# The machine was ten times slower in the second round.
UNEVEN = (
    measurement("loop", (1e-9,), (10e-9,), (1e-9,)),
    measurement("a", (3e-9,), (30e-9,), (3e-9,), loop="loop"),
    measurement("b", (5e-9,), (50e-9,), (5e-9,), loop="loop"),
    measurement("c", (4e-9,), (40e-9,), (4e-9,)),
)


def test_a_ratio_is_taken_within_each_round() -> None:
    measured = results.Results(UNEVEN)
    assert measured.net("a") == pytest.approx(2e-9)
    assert measured.ratio("a", "b") == pytest.approx(0.5)
    assert measured.ratio("a", "b", "c") == pytest.approx(0.25)


def test_the_median_of_each_round_is_what_counts() -> None:
    one = measurement("a", (1.0, 2.0, 3.0), (4.0, 100.0), (5.0,))
    assert one.medians == [2.0, 52.0, 5.0]
    assert results.Results([one]).net("a") == 5.0


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


def test_pyperfs_files_are_read_round_by_round(tmp_path: Path) -> None:
    metadata = {"name": "find/find", "unit": "second", "loop": "find/loop", "versions": "all of them"}
    runs = [pyperf.Run(values, metadata=metadata, collect_metadata=False) for values in ([1.0, 2.0], [3.0, 4.0])]
    path = tmp_path / "results.json"
    pyperf.BenchmarkSuite([pyperf.Benchmark(runs)]).dump(str(path))
    read = results.Results.of_pyperf(path)
    assert list(read) == [results.Measurement("find/find", ((1.0, 2.0), (3.0, 4.0)), "second", "find/loop")]
    assert read.metadata["versions"] == "all of them"


# ----------------------------------------------------------------------------- instruction counts

CALLGRIND = f"""\
version: 1
positions: line
events: Ir
summary: 30

ob=(1) {callgrind.PACKAGE}/_engine/view.cpython-311-x86_64-linux-gnu.so
fl=(1) view.c
fn=(1) __pyx_pw_10dbs_device_7_engine_4view_3Bus_3find
10 6
+3 4
cob=(2) /usr/lib/libpython3.so
cfi=(2) longobject.c
cfn=(2) PyLong_AsUnsignedLongLong
calls=2 50
* 20

ob=(2)
fl=(2)
fn=(2)
50 20

ob=(1)
fl=(1)
fn=(1)
90 1
totals: 31
""".splitlines()


def test_costs_of_functions_are_read_without_what_they_call() -> None:
    profile = callgrind.parse(CALLGRIND)
    assert {str(function): count for function, count in profile.functions.items()} == {
        "dbs_device._engine.view.Bus.find": 11.0,
        "PyLong_AsUnsignedLongLong (libpython3)": 20.0,
    }
    assert (profile.total, profile.engine) == (31.0, 11.0)
    assert [str(function) for function, _ in profile.largest(1)] == ["PyLong_AsUnsignedLongLong (libpython3)"]


def test_what_is_counted_is_that_of_one_operation_without_the_functions_around() -> None:
    ours = callgrind.Function(callgrind.PACKAGE / "_bus.so", "find")
    around = callgrind.Function(Path("/elsewhere/accesses.so"), "counted_call")
    assert callgrind.for_each(callgrind.Profile({ours: 11.0, around: 6.0}), 2) == callgrind.Profile({ours: 5.5})


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("__pyx_f_10dbs_device_7_engine_12entry_points_c_mmio_load", "dbs_device._engine.entry_points.c_mmio_load"),
        ("__pyx_pw_10dbs_device_4_bus_9IoManager_3mmio_read", "dbs_device._bus.IoManager.mmio_read"),
        ("_PyEval_EvalFrameDefault'2", "_PyEval_EvalFrameDefault"),
        ("__Pyx_PyLong_As_size_t", "__Pyx_PyLong_As_size_t"),
    ],
)
def test_names_of_functions_are_shown_as_they_are_written(name: str, plain: str) -> None:
    assert callgrind.plain_name(name) == plain


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


def count_as(monkeypatch: pytest.MonkeyPatch, **totals: float) -> None:
    """Let callgrind count so many instructions for these operations, all in our own code."""
    function = callgrind.Function(callgrind.PACKAGE / "_bus.so", "find")
    profiles = {name: callgrind.Profile({function: total}) for name, total in totals.items()}
    monkeypatch.setattr(callgrind, "count_operations", lambda: profiles)


@pytest.fixture
def baseline_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "baseline.json"
    monkeypatch.setattr(check, "BASELINE", path)
    monkeypatch.setattr(check, "key", lambda: "cp311-gcc12-x86_64")
    monkeypatch.setattr(check, "interpreter", lambda: "this build")
    monkeypatch.setattr(callgrind, "valgrind", lambda: "/usr/bin/valgrind")
    count_as(monkeypatch, load=100.0)
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
    count_as(monkeypatch, load=150.0)
    capsys.readouterr()
    assert check.main([]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["load", "engine", "100.0", "150.0", "+50.0", "WORSE"]
    assert "More instructions than before." in said


def test_an_operation_that_is_no_longer_counted_fails(
    baseline_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--update"]) == 0
    count_as(monkeypatch, other=1.0)
    assert check.main([]) == 1
    assert "In the baseline, but not counted: load." in capsys.readouterr().out


def test_the_functions_of_an_operation_are_shown(baseline_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--functions", "lo"]) == 0
    assert ["find", "100.0"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert check.main(["--functions", "store"]) == 0
    assert capsys.readouterr().out == ""


def test_without_valgrind_nothing_is_counted_and_nothing_fails(
    baseline_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callgrind, "valgrind", lambda: None)
    assert check.main([]) == 0
    assert capsys.readouterr().out == "valgrind is not installed: instructions are not counted.\n"


# ----------------------------------------------------------------------------- the report


def made_up_results(slow: str = "nothing") -> results.Results:
    """Return results of all cases that targets and headlines are about; ours with `slow` in the name are slow."""
    names = {name for headline in pages.HEADLINES for name in (headline.case, headline.reference)}
    names |= {name for target in targets.TARGETS for bound in target.bounds for name in bound.references}
    ours = {bound.case for target in targets.TARGETS for bound in target.bounds}
    seconds = {**dict.fromkeys(names, 100e-9), **dict.fromkeys(ours, 1e-9)}
    seconds |= {name: 1e-3 for name in ours if slow in name}
    return results.Results(
        [results.Measurement(name, ((value,), (value,))) for name, value in seconds.items()],
        {"cpu_model_name": "made up", "versions": "CPython 3; gcc 1", "skipped": "ncls: ncls is not installed"},
    )


def test_each_target_is_judged_by_the_bound_that_comes_worst_off() -> None:
    assert {outcome.row()[-1] for outcome in targets.outcomes(made_up_results())} == {"reached"}
    found = targets.outcomes(made_up_results(slow="unicorn/store/bridge, native"))
    assert len(found) == len(targets.TARGETS)
    assert [outcome.row() for outcome in found if outcome.missed] == [
        (
            "Unicorn, a native device, against Unicorn's own callback",
            "0.05x",
            "1e+04x",
            "store/bridge, native",
            "missed in 1 of 4",
        )
    ]


def test_a_target_of_which_nothing_was_measured_has_no_outcome() -> None:
    assert targets.outcomes(results.Results([measurement("find/loop", (1e-9,))])) == []


def test_the_report_shows_what_was_measured_and_what_was_skipped(tmp_path: Path) -> None:
    pages.write(tmp_path, made_up_results())
    text = (tmp_path / "report.md").read_text()
    assert "* made up" in text
    assert "* ncls: ncls is not installed" in text
    assert "| an empty method of a cdef class | 100 ns |" in text
    images = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert set(pages.SUMMARY_PLOTS) <= set(images)
    assert all((tmp_path / image).stat().st_size > 1000 for image in images)


def test_what_was_not_measured_is_not_in_the_report(tmp_path: Path) -> None:
    pages.write(tmp_path, results.Results([measurement("find/loop", (1e-9,))]))
    text = (tmp_path / "report.md").read_text()
    assert "![" not in text
    assert "find" not in text


def test_what_is_published_is_the_summary_and_three_plots(tmp_path: Path) -> None:
    report, published = tmp_path / "report", tmp_path / "published"
    report.mkdir()
    published.mkdir()
    pages.write(report, made_up_results())
    pages.publish(made_up_results(), report, published)
    assert {path.name for path in published.iterdir()} == {"README.md", *pages.SUMMARY_PLOTS}
    text = (published / "README.md").read_text()
    assert text.count("x |\n") == len(pages.HEADLINES)
    assert "missed" not in text


@pytest.mark.parametrize("arguments", [["--publish", "--quick"], ["--publish", "find"], ["fnid"]])
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert "error: " in capsys.readouterr().err


def test_a_device_that_is_registered_many_times_does_nothing() -> None:
    device: DeviceIo = workloads.IdleDevice()
    view = memoryview(bytearray(b"abcd"))
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(0, 4)])
    manager.mmio_write(0, b"wxyz")
    manager.mmio_read(0, view)
    assert bytes(view) == b"\0\0\0\0"
