"""Traces and their files."""

from __future__ import annotations

import copy
import pickle
import sys
import types
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import EXAMPLE, LONG_EXAMPLE, MAP, make_manager, make_trace

from dbs_device.errors import InvalidRangeError
from dbs_device.trace import ACCESS_DTYPE, Access, AccessCount, Space, Trace

DATA = Path(__file__).parent / "data"
TRACES = sorted(DATA.glob("*_trace.npz"))


class TestTrace:
    def test_items_are_accesses(self):
        assert len(EXAMPLE) == 5
        assert EXAMPLE[0] == Access(0, Space.PIO, True, 0x3F8, 1, 0x41)
        assert EXAMPLE[-1] == (4, Space.PIO, False, 0x80, 2, 0xFFFF)
        assert EXAMPLE[np.int64(2)].value == 2**64 - 1
        assert list(EXAMPLE) == [EXAMPLE[index] for index in range(5)]
        assert EXAMPLE[0] in EXAMPLE
        assert [type(part) for part in EXAMPLE[2]] == [int, Space, bool, int, int, int]
        with pytest.raises(IndexError):
            EXAMPLE[5]

    def test_long_values(self):
        table = np.array([(0, 1, 1, 0, 9, 1), (1, 1, 0, 8, 3, 5), (2, 1, 1, 0, 16, 0)], dtype=ACCESS_DTYPE)
        trace = Trace(table, long_values=bytes(range(16)))
        values = [int.from_bytes(range(1, 10), "little"), 5, int.from_bytes(range(16), "little")]
        assert [each.value for each in trace] == values
        assert [each.value for each in trace[1:]] == values[1:]
        assert trace[-1].value == values[-1]
        # Equal wherever the values are, and only if they are.
        table = np.array([(0, 1, 1, 0, 9, 0), (1, 1, 0, 8, 3, 5), (2, 1, 1, 0, 16, 9)], dtype=ACCESS_DTYPE)
        assert Trace(table, long_values=bytes([*range(1, 10), *range(16)])) == trace
        assert Trace(table, long_values=bytes([*range(1, 10), *range(15), 99])) != trace
        with pytest.raises(ValueError, match=r"access 2: 9 is not an offset of its bytes in the 24 of long_values$"):
            Trace(table, long_values=bytes(24))
        with pytest.raises(TypeError, match=r"^long_values must be bytes, not bytearray$"):
            Trace(table, long_values=bytearray(25))

    def test_parts_are_traces_with_the_same_map(self):
        for part in (EXAMPLE[1:3], EXAMPLE[[1, 2]], EXAMPLE[np.array([False, True, True, False, False])]):
            assert list(part) == list(EXAMPLE)[1:3]
            assert part.ranges == MAP
        assert len(EXAMPLE[:0]) == 0

    def test_a_trace_is_not_indexed_by_field_names(self):
        with pytest.raises(TypeError, match=r"^a Trace takes a 1-D array of ACCESS_DTYPE$"):
            EXAMPLE["addr"]

    def test_traces_are_equal_if_their_accesses_and_ranges_are(self):
        twin = Trace(EXAMPLE.accesses.copy(), MAP)
        assert twin == EXAMPLE
        assert EXAMPLE[:2] != EXAMPLE
        assert Trace(EXAMPLE.accesses) != EXAMPLE
        twin.accesses["value"][0] = 0
        assert twin != EXAMPLE
        assert list(EXAMPLE) != EXAMPLE
        with pytest.raises(TypeError, match="unhashable"):
            hash(EXAMPLE)

    def test_pickle_and_copy(self):
        for trace in (EXAMPLE, LONG_EXAMPLE):
            for twin in (pickle.loads(pickle.dumps(trace)), copy.copy(trace), copy.deepcopy(trace)):
                assert twin == trace
                assert twin.ranges[0].space is Space.MMIO

    def test_repr(self):
        assert repr(EXAMPLE) == "<Trace: 5 accesses, 2 ranges>"
        assert repr(EXAMPLE[:1]) == "<Trace: 1 access, 2 ranges>"
        assert repr(MAP[1]) == "TraceRange(PIO 0x3f8..0x3ff, 'com1')"

    @pytest.mark.parametrize(
        "accesses", [[], None, np.zeros(3), np.zeros((1, 1), ACCESS_DTYPE), np.zeros((), ACCESS_DTYPE)]
    )
    def test_it_takes_an_array_of_accesses_only(self, accesses):
        with pytest.raises(TypeError, match=r"^a Trace takes a 1-D array of ACCESS_DTYPE$"):
            Trace(accesses)

    @pytest.mark.parametrize(
        ("access", "message"),
        [
            ((2, 0, 0, 1, 0), "field 'space', access 1: 2 is not 0 (PIO) or 1 (MMIO)"),
            ((0, 2, 0, 1, 0), "field 'write', access 1: 2 is not 0 (read) or 1 (write)"),
            ((0, 0, 0, 0, 0), "field 'size', access 1: 0 is not 1 byte or more"),
            ((0, 0, 0x10000, 1, 0), "field 'addr', access 1: 0x10000 is not a port, 0x0..0xffff"),
            ((1, 0, 0, 4, 2**32), "field 'value', access 1: 0x100000000 is not a number of the access's size"),
            ((1, 0, 0, 3, 2**24), "field 'value', access 1: 0x1000000 is not a number of the access's size"),
            ((1, 0, 0, 9, 0), "field 'value', access 1: 0 is not an offset of its bytes in the 0 of long_values"),
            (
                (1, 0, 0, 2**64 - 1, 2**64 - 1),
                f"field 'value', access 1: {2**64 - 1} is not an offset of its bytes in the 0 of long_values",
            ),
        ],
    )
    def test_values_that_no_access_has(self, access, message):
        with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared below
            make_trace((1, 0, 2**64 - 1, 8, 2**64 - 1), access)
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("ranges", "error", "message"),
        [
            ([(0, 9, 8, "x")], InvalidRangeError, "TraceRange(PIO 0x9..0x8, 'x') is empty or outside its space"),
            (
                [(0, 9, 2**16, "x")],
                InvalidRangeError,
                "TraceRange(PIO 0x9..0x10000, 'x') is empty or outside its space",
            ),
            (
                [(1, -1, 2, "x")],
                InvalidRangeError,
                "TraceRange(MMIO -0x1..0x2, 'x') is empty or outside its space",
            ),
            (
                [(1, 8, 15, "b"), (1, 0, 8, "a")],
                ValueError,
                "TraceRange(MMIO 0x0..0x8, 'a') and TraceRange(MMIO 0x8..0xf, 'b') overlap",
            ),
            ([(3, 0, 1, "x")], ValueError, 'a space is "MMIO" or "PIO", not 3'),
            ([(0, "0", 1, "x")], TypeError, "'str' object cannot be interpreted as an integer"),
            ([(0, 0, 1, 5)], TypeError, "the name of a range must be a str, not int"),
        ],
    )
    def test_ranges_that_no_machine_has(self, ranges, error, message):
        with pytest.raises(error) as caught:
            Trace(EXAMPLE.accesses, ranges)
        assert str(caught.value) == message

    def test_ranges_of_the_two_spaces_do_not_overlap(self):
        assert len(Trace(EXAMPLE.accesses, [(0, 0, 9, "a"), (1, 0, 9, "a"), (0, 10, 11, "b")]).ranges) == 3

    @pytest.mark.parametrize(
        ("selectors", "expected"),
        [
            ((), []),
            ("com1", [0, 1]),
            (["com1"], [0, 1]),
            (["ram", "com1"], [0, 1, 2, 3]),
            ([MAP[0]], [2, 3]),
            ([(Space.PIO, 0x80, 0x80)], [4]),
            ([("PIO", 0x80, 0x80)], [4]),
            ([(0, 0, 0xFFFF), (1, 0, 2**64 - 1)], [0, 1, 2, 3, 4]),
            ([(1, 0x3F8, 0x3FF)], []),
        ],
    )
    def test_mask_selects_by_name_or_range(self, selectors, expected):
        assert np.flatnonzero(EXAMPLE.mask(selectors)).tolist() == expected

    def test_mask_takes_every_range_of_a_name(self):
        trace = Trace(EXAMPLE.accesses, [(0, 0x3F8, 0x3F8, "uart"), (0, 0x3FD, 0x3FD, "uart")])
        assert np.flatnonzero(trace.mask("uart")).tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("selectors", "error", "message"),
        [
            ("com2", ValueError, "the trace has no range named 'com2'; its ranges: 'ram', 'com1'"),
            ([5], TypeError, "a range must be a name or (space, base, last), not 5"),
            ([(1, 2)], TypeError, "a range must be a name or (space, base, last), not (1, 2)"),
            ([("DMA", 1, 2)], ValueError, """a space is "MMIO" or "PIO", not 'DMA'"""),
        ],
    )
    def test_what_mask_does_not_know(self, selectors, error, message):
        with pytest.raises(error) as caught:
            EXAMPLE.mask(selectors)
        assert str(caught.value) == message

    def test_mask_of_a_trace_without_a_map(self):
        with pytest.raises(ValueError, match=r"^the trace has no range named 'com1'; its ranges: none$"):
            Trace(EXAMPLE.accesses).mask("com1")


class TestSummary:
    def test_by_the_traces_own_map(self):
        trace = Trace(EXAMPLE.accesses, [*MAP, (1, 0, 0xFFF, "idle")])
        assert trace.summary() == [
            AccessCount("ram", 1, 1, 4, 8),
            AccessCount("com1", 1, 1, 1, 1),
            AccessCount("idle", 0, 0, 0, 0),
            AccessCount(None, 1, 0, 2, 0),
        ]

    def test_ranges_of_one_name_are_counted_together(self):
        trace = Trace(EXAMPLE.accesses, [(1, 0x1000, 0x10FF, "pc"), (0, 0, 0xFFFF, "pc")])
        assert trace.summary() == [AccessCount("pc", 3, 2, 7, 9)]

    def test_by_the_devices_of_a_manager(self):
        assert EXAMPLE.summary(make_manager()) == [
            AccessCount("Scratch", 1, 1, 1, 1),
            AccessCount("Memory", 1, 1, 4, 8),
            AccessCount(None, 1, 0, 2, 0),
        ]

    def test_of_nothing(self):
        assert EXAMPLE[:0].summary() == [AccessCount("ram", 0, 0, 0, 0), AccessCount("com1", 0, 0, 0, 0)]
        assert Trace(EXAMPLE.accesses[:0]).summary() == []
        assert Trace(EXAMPLE.accesses).summary() == [AccessCount(None, 3, 2, 7, 9)]

    def test_the_ends_of_the_spaces_and_of_ranges(self):
        top = 2**64 - 1
        trace = make_trace(
            *((1, 0, addr, 1, 0) for addr in (0, 1, 2**63 - 1, 2**63, 2**63 + 1, top - 1, top)),
            *((0, 0, port, 1, 0) for port in (0, 0xFFFF)),
            ranges=[(1, 2**63, 2**63, "middle"), (1, top, top, "top"), (1, 0, 0, "zero"), (0, 0, 0xFFFF, "ports")],
        )
        counts = {row.name: row.reads for row in trace.summary()}
        assert counts == {"middle": 1, "top": 1, "zero": 1, "ports": 2, None: 4}

    @given(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 40), st.sampled_from([1, 2, 4, 8]))),
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 35), st.integers(1, 5)), max_size=8),
    )
    def test_it_counts_what_a_loop_counts(self, accesses, wanted):
        ranges = []
        for index, (space, base, size) in enumerate(wanted):
            taken = [each for each in ranges if each[0] == space and base <= each[2] and each[1] <= base + size - 1]
            if not taken:
                ranges.append((space, base, base + size - 1, f"r{index % 3}"))
        trace = make_trace(*((*access, 0) for access in accesses), ranges=ranges)
        expected = {name: [0, 0, 0, 0] for name in [*(each[3] for each in ranges), None]}
        for space, write, addr, size in accesses:
            names = [name for s, base, last, name in ranges if s == space and base <= addr <= last]
            counts = expected[names[0] if names else None]
            counts[write] += 1
            counts[2 + write] += size
        if not any(expected[None]):
            del expected[None]
        assert {row.name: list(row[1:]) for row in trace.summary()} == expected


class TestFiles:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "guest.trace"
        for trace in (EXAMPLE, LONG_EXAMPLE, LONG_EXAMPLE[:1]):
            trace.save(path)
            loaded = Trace.load(path)
            assert loaded == trace
            assert loaded.accesses.dtype == ACCESS_DTYPE
            assert Trace.load(str(path)) == trace
        assert [each.name for each in tmp_path.iterdir()] == ["guest.trace"]

    def test_round_trip_of_nothing_and_of_a_whole_space(self, tmp_path):
        path = tmp_path / "whole.npz"
        for ranges in ([], [(1, 0, 2**64 - 1, "everything"), (0, 0, 0xFFFF, "ports")]):
            trace = Trace(EXAMPLE.accesses[:0], ranges)
            trace.save(path)
            assert Trace.load(path) == trace

    def test_save_replaces_a_file(self, tmp_path):
        path = tmp_path / "guest.npz"
        EXAMPLE.save(path)
        EXAMPLE[:1].save(path)
        assert Trace.load(path) == EXAMPLE[:1]

    def test_a_subclass_loads_as_itself(self, tmp_path):
        class BootTrace(Trace):
            pass

        EXAMPLE.save(tmp_path / "boot.npz")
        loaded = BootTrace.load(tmp_path / "boot.npz")
        assert type(loaded) is type(loaded[:1]) is BootTrace

    @pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
    def test_recordings_of_real_firmware_load_and_save(self, path, tmp_path):
        trace = Trace.load(path)
        with np.load(path) as archive:
            fields = {name: archive[name] for name in archive.files}
        for name in ACCESS_DTYPE.names:
            np.testing.assert_array_equal(trace.accesses[name], fields[name])
        assert [each.name for each in trace.ranges] == fields["map_name"].tolist()
        assert [each.base for each in trace.ranges] == fields["map_base"].tolist()
        assert [each.last - each.base + 1 for each in trace.ranges] == fields["map_size"].tolist()
        trace.save(tmp_path / "again.npz")
        with np.load(tmp_path / "again.npz") as archive:
            assert sorted(archive.files) == sorted(fields)
            for name, expected in fields.items():
                assert archive[name].dtype == expected.dtype.newbyteorder("=")  # written in the host's order
                np.testing.assert_array_equal(archive[name], expected)

    def test_the_recordings_are_there(self):
        assert [path.name for path in TRACES] == [
            "seabios_uc_trace.npz",
            "stm32_md5_server_trace.npz",
            "uboot_x86_trace.npz",
        ]

    def test_seabios_makes_fifteen_unowned_accesses(self):
        *_, nobodys = Trace.load(DATA / "seabios_uc_trace.npz").summary()
        assert nobodys.name is None
        assert nobodys.reads + nobodys.writes == 15

    def test_a_map_may_be_absent(self, tmp_path):
        path = write_fields(tmp_path, **{name: None for name in FIELDS if name.startswith("map_")})
        assert Trace.load(path) == Trace(EXAMPLE.accesses)

    def test_fields_of_the_other_byte_order_load(self, tmp_path):
        path = write_fields(tmp_path, addr=FIELDS["addr"].astype(">u8"))
        assert Trace.load(path) == EXAMPLE

    def test_fields_that_are_not_known_are_left_alone(self, tmp_path):
        assert Trace.load(write_fields(tmp_path, cpu=np.array("x86"))) == EXAMPLE


FIELDS = {
    **{name: EXAMPLE.accesses[name] for name in ACCESS_DTYPE.names},
    "map_space": np.array([1, 0], dtype=np.uint8),
    "map_base": np.array([0x1000, 0x3F8], dtype=np.uint64),
    "map_size": np.array([0x100, 8], dtype=np.uint64),
    "map_name": np.array(["ram", "com1"]),
}


def write_fields(folder, *, compressed=False, **changes):
    """Write a trace file with some fields changed, added, or (None) left out."""
    path = folder / "bad.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, **{name: value for name, value in {**FIELDS, **changes}.items() if value is not None})
    return path


def error_of(path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  callers compare the whole message
        Trace.load(path)
    prefix = f"{path}: "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


class TestBadFiles:
    @pytest.mark.parametrize("field", FIELDS)
    def test_a_missing_field(self, tmp_path, field):
        assert error_of(write_fields(tmp_path, **{field: None})) == f"field {field!r} is missing"

    @pytest.mark.parametrize("field", [name for name in FIELDS if name not in ("t_ns", "map_space")])
    def test_a_field_of_another_length(self, tmp_path, field):
        first = "map_space" if field.startswith("map") else "t_ns"
        length = len(FIELDS[field])
        assert error_of(write_fields(tmp_path, **{field: FIELDS[field][:-1]})) == (
            f"field {field!r} has {length - 1} items, {first!r} has {length}"
        )

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("addr", FIELDS["addr"].astype(np.int64), "field 'addr' is 1-D of type int64, not 1-D of uint64"),
            ("addr", FIELDS["addr"].astype(np.uint32), "field 'addr' is 1-D of type uint32, not 1-D of uint64"),
            ("value", FIELDS["value"].astype(float), "field 'value' is 1-D of type float64, not 1-D of uint64"),
            ("write", FIELDS["write"].astype(bool), "field 'write' is 1-D of type bool, not 1-D of uint8"),
            ("size", FIELDS["size"].reshape(1, -1), "field 'size' is 2-D of type uint64, not 1-D of uint64"),
            ("t_ns", np.uint64(3), "field 't_ns' is 0-D of type uint64, not 1-D of uint64"),
            ("map_name", np.array([b"a", b"b"]), "field 'map_name' is 1-D of type |S1, not 1-D of str"),
            ("map_name", np.array([1, 2], np.int64), "field 'map_name' is 1-D of type int64, not 1-D of str"),
        ],
    )
    def test_a_field_of_another_type(self, tmp_path, field, value, message):
        assert error_of(write_fields(tmp_path, **{field: value})) == message

    @pytest.mark.parametrize("field", FIELDS)
    def test_objects_are_refused_and_not_unpickled(self, tmp_path, field):
        objects = np.array([Trap()] * len(FIELDS[field]), dtype=object)
        message = error_of(write_fields(tmp_path, **{field: objects}))
        assert message.startswith(f"field {field!r} is 1-D of type object, not 1-D of ")
        assert Trap.sprung == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"size": np.zeros(5, np.uint8)}, "field 'size', access 0: 0 is not 1 byte or more"),
            (
                {"size": np.full(5, 255, np.uint8), "long_values": np.zeros(0x3F8 + 255, np.uint8)},
                f"field 'value', access 2: {2**64 - 1} is not an offset of its bytes in the 1271 of long_values",
            ),
            ({"map_name": np.frombuffer(b"\xff" * 8, "<U1")}, "field 'map_name' is not text"),
            ({"space": np.full(5, 9, np.uint8)}, "field 'space', access 0: 9 is not 0 (PIO) or 1 (MMIO)"),
            (
                {"map_space": np.array([1, 2], np.uint8)},
                "field 'map_space', range 1: 2 is not 0 (PIO) or 1 (MMIO)",
            ),
            (
                {"map_size": np.array([0, 8], np.uint64)},
                "field 'map_size', range 0: 0 from 0x1000 on is empty or ends outside its space",
            ),
            (
                {"map_base": np.array([0, 0xFFFF], np.uint64)},
                "field 'map_size', range 1: 8 from 0xffff on is empty or ends outside its space",
            ),
            (
                {"map_base": np.array([2**64 - 1, 0], np.uint64)},
                "field 'map_size', range 0: 256 from 0xffffffffffffffff on is empty or ends outside its space",
            ),
            (
                {"map_space": np.array([1, 1], np.uint8), "map_base": np.array([0, 8], np.uint64)},
                "TraceRange(MMIO 0x0..0xff, 'ram') and TraceRange(MMIO 0x8..0xf, 'com1') overlap",
            ),
        ],
    )
    def test_values_that_cannot_be(self, tmp_path, changes, message):
        assert error_of(write_fields(tmp_path, **changes)) == message

    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "trace.npz"
        for contents in (b"", b"accesses", b"PK\x03\x04", pickle.dumps([1])):
            path.write_bytes(contents)
            assert error_of(path).startswith("not an .npz file: ")
        with path.open("wb") as file:
            np.save(file, EXAMPLE.accesses)
        assert error_of(path) == "not an .npz file: File is not a zip file"

    def test_a_file_that_is_cut_short(self, tmp_path):
        path = tmp_path / "trace.npz"
        EXAMPLE.save(path)
        whole = path.read_bytes()
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            assert error_of(path).startswith("not an .npz file: ")

    def test_a_field_that_is_damaged(self, tmp_path):
        path = tmp_path / "trace.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t_ns.npy", b"\x93NUMPY\x01\x00 nothing that numpy knows")
        assert error_of(path).startswith("field 't_ns' cannot be read: ")
        EXAMPLE.save(path)
        whole = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("t_ns.npy").header_offset + 60
        whole[start : start + 8] = b"\xff" * 8
        path.write_bytes(whole)
        assert error_of(path).startswith("field 't_ns' cannot be read: ")

    def test_a_field_that_is_not_an_array(self, tmp_path):
        path = tmp_path / "trace.npz"
        EXAMPLE.save(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        header = members["t_ns.npy"][: -8 * len(EXAMPLE)]
        for contents, message in (
            (b"no array at all", "field 't_ns' cannot be read: the magic string is not correct"),
            (b"\x93NUMPY\x02" + header[7:], "field 't_ns' cannot be read: version (2, 0) of the .npy format"),
            (header, "field 't_ns' has 0 bytes, not 5 items of 8"),
            (header.replace(b"(5,)", b"(9,)") + bytes(40), "field 't_ns' has 40 bytes, not 9 items of 8"),
            (header.replace(b"<u8", b"|O"), "field 't_ns' cannot be read: "),
            (header + bytes(48), "field 't_ns' has 48 bytes, not 5 items of 8"),
        ):
            with zipfile.ZipFile(path, "w") as archive:
                for name, whole in {**members, "t_ns.npy": contents}.items():
                    archive.writestr(name, whole)
            assert error_of(path).startswith(message)

    def test_a_small_file_of_huge_arrays_is_refused_before_they_are_read(self, tmp_path, monkeypatch):
        path = write_fields(tmp_path, compressed=True, map_name=np.zeros(9_000_000, "<U8"))
        assert path.stat().st_size < 2**20
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        monkeypatch.setattr(zipfile.ZipFile, "open", None)
        assert error_of(path) == f"its arrays take {size} bytes, more than max_size, {2**28}"

    def test_the_size_of_the_arrays_can_be_limited(self, tmp_path):
        path = tmp_path / "trace.npz"
        LONG_EXAMPLE.save(path)
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        assert Trace.load(path, max_size=size) == LONG_EXAMPLE
        with pytest.raises(ValueError, match=f"its arrays take {size} bytes, more than max_size, {size - 1}$"):
            Trace.load(path, max_size=size - 1)

    def test_a_member_whose_compression_has_no_limit(self, tmp_path):
        path = tmp_path / "trace.npz"  # zipfile would decompress all of it
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("t_ns.npy", bytes(1000))
        assert error_of(path) == "t_ns.npy is neither stored nor deflated"

    @given(data=st.data())
    def test_a_damaged_file_loads_or_is_refused(self, data, tmp_path_factory):
        path = tmp_path_factory.mktemp("traces") / "trace.npz"
        np.savez(path, **FIELDS)
        whole = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[place] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        with suppress(ValueError):
            Trace.load(path)

    def test_a_file_that_is_absent(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Trace.load(tmp_path / "nothing.npz")
        with pytest.raises(IsADirectoryError):
            Trace.load(tmp_path)


class Trap:
    """Counts how often it was unpickled."""

    sprung = 0

    def __setstate__(self, state):
        Trap.sprung += 1

    def __getstate__(self):
        return {"armed": True}


class TestPandas:
    def test_without_pandas_the_error_says_so(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match=r"^Trace.to_pandas needs pandas, which is not installed$") as caught:
            EXAMPLE.to_pandas()
        assert caught.value.name == "pandas"

    def test_the_columns_that_pandas_is_given(self, monkeypatch):
        class Categorical:
            @staticmethod
            def from_codes(codes, categories):
                return [categories[code] for code in codes]

        monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(Categorical=Categorical, DataFrame=dict))
        columns = EXAMPLE.to_pandas()
        assert list(columns) == [*ACCESS_DTYPE.names, "range"]
        assert columns["space"] == ["PIO", "PIO", "MMIO", "MMIO", "PIO"]
        assert columns["write"].tolist() == [True, False, True, False, False]
        assert columns["addr"].tolist() == EXAMPLE.accesses["addr"].tolist()
        assert columns["range"].tolist() == ["com1", "com1", "ram", "ram", None]
        assert LONG_EXAMPLE.to_pandas()["value"].tolist() == [each.value for each in LONG_EXAMPLE]

    def test_a_data_frame(self):
        pandas = pytest.importorskip("pandas", reason="pandas is optional, and not installed here")
        frame = EXAMPLE.to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert frame["value"].tolist() == EXAMPLE.accesses["value"].tolist()
        assert frame["space"].tolist() == ["PIO", "PIO", "MMIO", "MMIO", "PIO"]
        assert frame.groupby("range")["size"].sum().to_dict() == {"com1": 2, "ram": 12}
        frame.loc[0, "value"] = 0
        assert EXAMPLE[0].value == 0x41
