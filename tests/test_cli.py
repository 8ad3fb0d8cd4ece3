"""The command line: `python -m dbs_device`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import EXAMPLE, LONG_EXAMPLE, MAP, make_trace

from dbs_device import IoManager, Resource, Space
from dbs_device.__main__ import main
from dbs_device._cli.diff import compare
from dbs_device._cli.names import Names
from dbs_device._cli.output import Table, printable
from dbs_device._cli.timeline import BINS, count_accesses
from dbs_device.registers import Flag, Register, RegisterBank
from dbs_device.trace import ACCESS_DTYPE, Trace

DATA = Path(__file__).parent / "data"
SEABIOS = DATA / "seabios_uc_trace.npz"

MACHINE = """
from dbs_device import DeviceIo, DeviceIoMut, IoManager, Mutex, Resource
from dbs_device.registers import Bits, Flag, Register, RegisterBank


class Status(Register):
    READY = Flag(0)
    MODE = Bits(4, 2)


class Timer(RegisterBank, size=0x10):
    SR = Status(0x0)
    COUNT = Register(0x4)


class Disk(DeviceIo):
    def load(self, base, offset, size):
        return 0

    def pio_in(self, base, offset, size):
        return 0


def build():
    manager = IoManager(byteorder="big")
    manager.register_device_io(Timer(), [Resource.MmioAddressRange(0x1000, 0x10)], name="timer")
    manager.register_device_io(Disk(), [Resource.MmioAddressRange(0x1020, 0x1000), Resource.PioAddressRange(0x80, 1)])
    return manager


class Machine:
    manager = build()


def empty():
    return IoManager()


def nothing():
    return 5


def broken():
    raise LookupError("no\\nboard")
"""


@pytest.fixture
def machine(tmp_path):
    path = tmp_path / "machine.py"
    path.write_text(MACHINE)
    return str(path)


@pytest.fixture
def save(tmp_path):
    def save(trace, name="trace.npz"):
        path = tmp_path / name
        trace.save(path)
        return str(path)

    return save


def run(capsys, *arguments, status=0):
    assert main([*map(str, arguments)]) == status
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def error_of(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1, "an error is one line"
    return output.err.removeprefix("error: ").rstrip("\n")


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        ["", "map", "trace", "trace summary", "trace plot", "trace diff", "trace export", "generate", "generate svd"],
    )
    def test_every_command_explains_itself_in_80_columns(self, command, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: python -m dbs_device {command}".rstrip())
        assert max(map(len, text.splitlines())) <= 80

    def test_without_a_command_it_says_what_there_is(self, capsys):
        with pytest.raises(SystemExit) as left:
            main([])
        assert left.value.code == 2
        assert "COMMAND" in capsys.readouterr().err

    def test_a_reader_that_closes_the_pipe(self):
        command = f"{sys.executable} -m dbs_device trace summary {SEABIOS} | head -1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=DATA.parents[1])
        assert (done.stdout.count("\n"), done.stderr) == (1, "")


class TestMap:
    def test_ranges_gaps_and_devices(self, machine, capsys):
        assert run(capsys, "map", machine) == (
            "PIO: 1 range\n"
            "range         size  device  type\n"
            "0x80..0x80  1 port          Disk\n"
            "MMIO: 2 ranges\n"
            "range               size  device  type\n"
            "0x1000..0x100f  16 bytes  timer   Timer\n"
            "0x1010..0x101f  16 bytes  -\n"
            "0x1020..0x201f     4 KiB          Disk\n"
        )

    def test_other_functions_and_what_has_a_manager(self, machine, capsys):
        assert run(capsys, "map", f"{machine}:Machine") == run(capsys, "map", machine)
        assert run(capsys, "map", f"{machine}:empty") == "no ranges are registered\n"

    def test_a_module_by_its_name(self, machine, capsys, monkeypatch):
        monkeypatch.chdir(Path(machine).parent)
        assert "timer" in run(capsys, "map", "machine")

    def test_what_is_not_a_machine(self, machine, capsys):
        assert error_of(capsys, "map", "no_such_module_here") == (
            "no_such_module_here: ModuleNotFoundError: No module named 'no_such_module_here'"
        )
        assert error_of(capsys, "map", "nothing.py") == "nothing.py: not a file"
        assert error_of(capsys, "map", f"{machine}:absent") == f"{machine} does not have a function absent()"
        message = f"nothing() of {machine} returns an object of type int, not an IoManager"
        assert error_of(capsys, "map", f"{machine}:nothing") == message
        assert error_of(capsys, "map", f"{machine}:broken") == f"{machine}:broken: LookupError: no board"


class TestSummary:
    def test_accesses_by_device(self, save, capsys):
        path = save(EXAMPLE)
        assert run(capsys, "trace", "summary", path) == (
            f"{path}: 5 accesses in 4 ns\n"
            "device     reads  writes  bytes read  bytes written   share\n"
            "ram            1       1           4              8   40.0%\n"
            "com1           1       1           1              1   40.0%\n"
            "(unowned)      1       0           2              0   20.0%\n"
            "all            3       2           7              9  100.0%\n"
        )

    def test_the_registers_of_one_device(self, save, machine, capsys):
        trace = make_trace((1, 0, 0x1000, 4, 1), (1, 1, 0x1000, 4, 1), (1, 0, 0x1000, 8, 1), (1, 0, 0x100C, 4, 0))
        assert run(capsys, "trace", "summary", save(trace), "--registers", "timer", "-m", machine) == (
            "register   address  reads  writes  share\n"
            "SR         0x1000       1       1  50.0%\n"
            "SR, COUNT  0x1000       1       0  25.0%\n"
            "+0xc       0x100c       1       0  25.0%\n"
        )

    def test_a_device_that_is_not_in_the_map(self, save, capsys):
        message = error_of(capsys, "trace", "summary", save(EXAMPLE), "--registers", "com2")
        assert message == "no device is named 'com2'; there are: ram, com1"

    def test_nothing(self, save, capsys):
        assert "0 accesses in 0 ns\n" in run(capsys, "trace", "summary", save(EXAMPLE[:0]))

    def test_a_name_cannot_control_the_terminal(self, save, capsys):
        trace = make_trace((0, 0, 1, 1, 0), ranges=[(0, 0, 9, "\x1b[31mred\nline")])
        assert r"\x1b[31mred\nline" in run(capsys, "trace", "summary", save(trace))


def bad_files(tmp_path):
    whole = SEABIOS.read_bytes()
    with np.load(SEABIOS) as archive:
        fields = dict(archive)
    files = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello\n"}
    for name, contents in files.items():
        (tmp_path / f"{name}.npz").write_bytes(contents)
    np.savez(tmp_path / "dtype.npz", **{**fields, "addr": fields["addr"].astype(float)})
    np.savez(tmp_path / "pickle.npz", **{**fields, "map_name": fields["map_name"].astype(object)})
    np.savez(tmp_path / "values.npz", **{**fields, "space": fields["space"] + 7})
    return [*files, "dtype", "pickle", "values", "missing"]


@pytest.mark.parametrize("command", [["summary"], ["plot"], ["diff", SEABIOS], ["export", "--format", "vcd"]], ids=str)
def test_bad_files_get_one_line(command, tmp_path, capsys):
    for name in bad_files(tmp_path):
        path = tmp_path / f"{name}.npz"
        assert error_of(capsys, "trace", *command, path).startswith(f"{path}: ")
    assert error_of(capsys, "trace", *command, tmp_path) == f"{tmp_path}: Is a directory"


def nonsense(seed, count):
    random = np.random.default_rng(seed)
    accesses = np.zeros(count, ACCESS_DTYPE)
    for name, end in (("t_ns", 2**64 - 1), ("space", 2), ("write", 2), ("addr", 2**64 - 1), ("value", 256)):
        accesses[name] = random.integers(0, end, count, dtype=np.uint64)
    accesses["size"] = 1 << random.integers(0, 4, count)
    accesses["addr"][accesses["space"] == 0] &= 0xFFFF
    return Trace(accesses)


@pytest.mark.slow
def test_a_million_rows_of_nonsense(save, capsys, tmp_path):
    path, other = save(nonsense(1, 1_000_000), "one.npz"), save(nonsense(2, 20_000), "other.npz")
    assert "1,000,000" in run(capsys, "trace", "summary", path)
    run(capsys, "trace", "plot", path, "-o", tmp_path / "one.png", "-o", tmp_path / "one.html")
    assert (tmp_path / "one.html").stat().st_size < 2_000_000
    another = save(nonsense(3, 50_000), "another.npz")
    assert "other places" in run(capsys, "trace", "diff", other, another, status=1)
    run(capsys, "trace", "export", other, "--format", "vcd")


class TestPlot:
    def test_pictures(self, save, capsys, tmp_path):
        path = save(EXAMPLE)
        assert run(capsys, "trace", "plot", path) == f"{tmp_path / 'trace.png'}\n"
        outputs = [tmp_path / f"picture.{suffix}" for suffix in ("png", "svg", "html")]
        printed = run(capsys, "trace", "plot", path, *(part for each in outputs for part in ("-o", each)))
        assert printed == "".join(f"{each}\n" for each in outputs)
        assert outputs[0].read_bytes().startswith(b"\x89PNG")
        assert "com1" in outputs[1].read_text()

    @pytest.mark.parametrize("trace", [EXAMPLE[:0], EXAMPLE[:1], LONG_EXAMPLE], ids=["none", "one", "long"])
    @pytest.mark.parametrize("by", ["time", "access"])
    def test_small_traces(self, trace, by, save, capsys, tmp_path):
        for suffix in ("png", "html"):
            run(capsys, "trace", "plot", save(trace), "--by", by, "-o", tmp_path / f"out.{suffix}")

    def test_names_that_would_be_markup(self, save, capsys, tmp_path):
        name = "</script><b>$x_1$ [bold]"
        trace = make_trace((0, 0, 1, 1, 0), ranges=[(0, 0, 9, name)])
        page = tmp_path / "page.html"
        run(capsys, "trace", "plot", save(trace), "--title", "<&@DATA@>", "-o", page, "-o", tmp_path / "page.png")
        text = page.read_text()
        assert text.count("</script>") == 1
        assert "<title>&lt;&amp;@DATA@&gt;</title>" in text
        data = json.loads(re.search(r"^const data = (.*);$", text, re.MULTILINE)[1])
        assert data["bands"][0][0] == name

    def test_another_kind_of_file(self, save, capsys):
        assert error_of(capsys, "trace", "plot", save(EXAMPLE), "-o", "out.gif") == (
            "out.gif: a picture is a .png, .svg, .pdf or .html file"
        )

    def test_a_folder_that_is_absent(self, save, capsys, tmp_path):
        for suffix in ("png", "html"):
            output = tmp_path / "nowhere" / f"out.{suffix}"
            message = error_of(capsys, "trace", "plot", save(EXAMPLE), "-o", output)
            assert message == f"{output}: No such file or directory"

    def test_without_matplotlib(self, save, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        message = error_of(capsys, "trace", "plot", save(EXAMPLE))
        assert message == "trace plot needs the module matplotlib.figure: pip install 'dbs-device[cli]'"


class TestTimeline:
    def test_each_access_is_counted_once_where_it_belongs(self):
        trace = Trace.load(SEABIOS)
        timeline = count_accesses(trace, Names(trace))
        counts = {row.name: (row.reads, row.writes) for row in trace.summary() if row.reads or row.writes}
        first = 0
        for band in timeline.bands:
            rows = slice(first, first + len(band.rows))
            first += len(band.rows)
            reads, writes = timeline.reads[rows], timeline.writes[rows]
            assert [row.reads for row in band.rows] == reads.sum(axis=1).tolist()
            assert [row.writes for row in band.rows] == writes.sum(axis=1).tolist()
            assert (reads.sum(), writes.sum()) == counts.pop(None if band.name.startswith("unowned") else band.name)
        assert counts == {}
        assert timeline.reads.shape == timeline.writes.shape == (first, BINS)
        assert timeline.idle == 5

    def test_rows_are_registers_in_the_order_of_their_addresses(self):
        trace = make_trace((1, 0, 0x1008, 4, 0), (1, 0, 0x1000, 4, 0), (1, 1, 0x1008, 4, 0), ranges=MAP)
        (band,) = count_accesses(trace, Names(trace)).bands
        assert [tuple(each) for each in band.rows] == [("+0x0", 1, 0), ("+0x8", 1, 1)]

    def test_time_goes_across(self):
        trace = make_trace(*((1, 0, 0x1000, 4, 0) for _ in range(BINS)), ranges=MAP)
        for by_time in (True, False):
            assert (count_accesses(trace, Names(trace), by_time).reads == 1).all()

    def test_many_ranges_and_addresses_share_rows(self):
        ranges = [(1, index * 0x1000, index * 0x1000 + 0xFFF, f"r{index}") for index in range(1000)]
        accesses = [(1, 0, index * 0x1000 + offset, 1, 0) for index in range(1000) for offset in range(3)]
        trace = make_trace(*accesses, ranges=ranges)
        timeline = count_accesses(trace, Names(trace))
        assert timeline.reads.sum() == 3000
        assert len(timeline.reads) <= 500
        assert timeline.bands[-1].name == "880 others"


class TestDiff:
    def lines(self, capsys, *arguments, status=1):
        return run(capsys, "trace", "diff", *arguments, status=status).splitlines()

    def test_equal_traces(self, save, capsys):
        later = EXAMPLE.accesses.copy()
        later["t_ns"] += 1000
        lines = self.lines(capsys, save(EXAMPLE, "a.npz"), save(Trace(later, MAP), "b.npz"), status=0)
        assert lines[-1] == "no differences, but for times"

    def test_a_value_of_a_field(self, save, machine, capsys):
        a = make_trace((1, 1, 0x1004, 4, 9), (1, 0, 0x1000, 4, 0x11000000), (1, 0, 0x1000, 4, 0x11000000))
        b = make_trace((1, 1, 0x1004, 4, 9), (1, 0, 0x1000, 4, 0x20000000), (1, 0, 0x1000, 4, 0x20000000))
        # The machine's bus is big-endian, the bank little-endian.
        lines = self.lines(capsys, save(a, "a.npz"), save(b, "b.npz"), "-m", machine)
        assert lines[2:] == [
            "1 access agrees; 2 differences",
            "",
            "the first: access 1 of A, 1 of B",
            "    write MMIO 0x1004 4 timer COUNT = 0x9",
            "  A read  MMIO 0x1000 4 timer SR = 0x11000000",
            "  B read  MMIO 0x1000 4 timer SR = 0x20000000",
            "",
            "device  register  access  what differs  count  first  for example",
            "timer   SR        read    value             2      1  0x11000000 -> 0x20000000 "
            "(READY 1 -> 0, MODE 0x1 -> 0x2)",
        ]

    def test_what_only_one_trace_has(self):
        trace = Trace.load(SEABIOS)
        parts = np.ones(len(trace), bool)
        parts[30_000:30_005] = False
        comparison = compare(trace, trace[parts], Names(trace))
        assert [(each.kind, each.count, each.first) for each in comparison.groups] == [("only in A", 5, 30_000)]
        comparison = compare(trace[parts], trace, Names(trace))
        assert [(each.kind, each.count, each.first) for each in comparison.groups] == [("only in B", 5, 30_000)]

    def test_long_values(self):
        changed = Trace(LONG_EXAMPLE.accesses, MAP, bytes(5) + LONG_EXAMPLE.long_values[5:])
        moved = Trace(np.array([(0, 1, 1, 0x1000, 12, 0)], ACCESS_DTYPE), MAP, LONG_EXAMPLE.long_values[4:16])
        assert [each.count for each in compare(LONG_EXAMPLE, changed, Names(changed)).groups] == [1, 1]
        assert compare(LONG_EXAMPLE[:1], moved, Names(moved)).groups == []

    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 3), st.integers(0, 2)), max_size=60
        ),
        edits=st.lists(st.tuples(st.sampled_from(["insert", "delete", "change"]), st.integers(0, 60)), max_size=4),
    )
    def test_every_access_of_both_is_accounted_for(self, rows, edits):
        a = [(space, write, addr, 1, value) for space, write, addr, value in rows]
        b = list(a)
        for edit, place in edits:
            if edit == "insert":
                b.insert(place, (0, 1, 9, 1, 7))
            elif b and edit == "delete":
                del b[place % len(b)]
            elif b:
                b[place % len(b)] = (*b[place % len(b)][:4], 200)
        one, other = make_trace(*a), make_trace(*b)
        comparison = compare(one, other, Names(one))
        counts = {"value": 0, "only in A": 0, "only in B": 0}
        for group in comparison.groups:
            counts[group.kind] += group.count
        assert comparison.same + counts["value"] + counts["only in A"] == len(a)
        assert comparison.same + counts["value"] + counts["only in B"] == len(b)
        assert (comparison.first is None) == (a == b)
        if comparison.first is not None:
            at_a, at_b = comparison.first
            assert at_a == at_b
            assert a[:at_a] == b[:at_b]
            assert a[at_a : at_a + 1] != b[at_b : at_b + 1]


class TestExport:
    def test_chrome(self, save, capsys, tmp_path):
        output = tmp_path / "trace.json"
        assert run(capsys, "trace", "export", save(EXAMPLE), "--format", "chrome") == f"{output}\n"
        events = json.loads(output.read_text())["traceEvents"]
        threads = {(each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"}
        accesses = [each for each in events if each["ph"] == "i"]
        assert [threads[each["pid"], each["tid"]] for each in accesses] == ["com1", "com1", "ram", "ram", "unowned"]
        assert accesses[1]["name"] == "read +0x5"
        assert accesses[2]["ts"] == 0.002
        assert accesses[2]["args"] == {"address": "0x1000", "size": 8, "value": hex(2**64 - 1), "access": 2}

    @pytest.mark.parametrize("form", ["chrome", "vcd"])
    def test_an_empty_trace(self, form, save, capsys, tmp_path):
        if form == "vcd":
            pytest.importorskip("vcd", reason="pyvcd is not installed")
        run(capsys, "trace", "export", save(EXAMPLE[:0]), "--format", form, "-o", tmp_path / "out")
        if form == "chrome":
            assert json.loads((tmp_path / "out").read_text())["traceEvents"]

    def test_vcd(self, save, capsys, tmp_path):
        reader = pytest.importorskip("vcd.reader", reason="pyvcd is not installed")
        trace = Trace(EXAMPLE.accesses, [*MAP, (0, 0, 0, "com1"), (0, 1, 1, "com 1"), (1, 0, 0, "ü$")])
        trace.accesses["t_ns"][1:3] = 0
        output = tmp_path / "out.vcd"
        run(capsys, "trace", "export", save(trace), "--format", "vcd", "-o", output)
        time, scope, names, changes = None, [], {}, []
        with output.open("rb") as file:
            for token in reader.tokenize(file):
                if token.kind is reader.TokenKind.SCOPE:
                    scope.append(token.scope.ident)
                elif token.kind is reader.TokenKind.UPSCOPE:
                    scope.pop()
                elif token.kind is reader.TokenKind.VAR:
                    names[token.var.id_code] = ".".join([*scope, token.var.reference])
                elif token.kind is reader.TokenKind.CHANGE_TIME:
                    time = token.time_change
                elif token.kind is reader.TokenKind.CHANGE_VECTOR and isinstance(token.vector_change.value, int):
                    changes.append((time, names[token.vector_change.id_code], token.vector_change.value))
        assert (0, "PIO_com1.address", 0x3F8) in changes
        assert (1, "PIO_com1.address", 0x3FD) in changes
        assert (2, "MMIO_ram.value", 2**64 - 1) in changes
        assert (4, "PIO_unowned.value", 0xFFFF) in changes
        assert len({name.partition(".")[0] for name in names.values()}) == 6

    def test_without_pyvcd(self, save, capsys, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "vcd", None)
        message = error_of(capsys, "trace", "export", save(EXAMPLE), "--format", "vcd", "-o", tmp_path / "out")
        assert message == "trace export --format vcd needs the module vcd: pip install 'dbs-device[cli]'"

    def test_to_standard_output(self, save, capsys):
        text = run(capsys, "trace", "export", save(EXAMPLE), "--format", "chrome", "-o", "-")
        assert len(json.loads(text)["traceEvents"]) > 5


class TestTerminal:
    """What a terminal shows, by a pseudo-terminal of 80 columns."""

    def shown(self, *arguments, **variables):
        pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
        parent, child = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        process = subprocess.Popen(
            [sys.executable, "-m", "dbs_device", *map(str, arguments)],
            stdout=child,
            stderr=child,
            cwd=DATA.parents[1],
            env={**environment, "COLUMNS": "80", "TERM": "xterm-256color", **variables},
        )
        os.close(child)
        output = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            output += part
        os.close(parent)
        process.wait()
        return output.decode()

    def test_a_table_is_drawn_and_coloured(self):
        pytest.importorskip("rich", reason="rich is not installed")
        text = self.shown("trace", "summary", SEABIOS)
        assert "─" in text
        assert "\x1b[36m" in text
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        assert max(len(line) for line in plain.splitlines()) <= 80

    def test_without_colours(self):
        pytest.importorskip("rich", reason="rich is not installed")
        text = self.shown("trace", "summary", SEABIOS, NO_COLOR="1")
        assert "─" in text
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)

    def test_a_table_without_rich(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "rich", None)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        table = Table("a", ">b")
        table.add("x", 1)
        table.print()
        assert capsys.readouterr().out == "a  b\nx  1\n"


def test_text_from_files_is_printable():
    assert printable("uart0 ü") == "uart0 ü"
    assert printable("a\x1b\n\x00\u202e") == r"a\x1b\n\x00\u202e"


def test_fields_of_a_part_of_a_register():
    class Status(Register):
        LOW = Flag(0)
        HIGH = Flag(31)

    class Bank(RegisterBank, size=8):
        A = Status(0)
        B = Status(4)

    manager = IoManager()
    manager.register_device_io(Bank(), [Resource.MmioAddressRange(0x100, 8)], name="bank")
    trace = make_trace((1, 0, 0x103, 1, 0), (1, 0, 0x100, 8, 0), (1, 0, 0x200, 1, 0))
    names = Names(trace, manager)
    assert names.owner(Space.MMIO, 0x107).name == "bank"
    assert names.fields(trace[0], 0, 0xFF) == ["HIGH 0 -> 1"]
    assert names.fields(trace[1], 0, 1 << 63 | 1) == ["A.LOW 0 -> 1", "B.HIGH 0 -> 1"]
    assert names.fields(trace[2], 0, 1) == []
