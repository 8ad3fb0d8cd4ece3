"""The binary interface is the recorded one, or its version says otherwise."""

import copy
import json

import pytest

from tools import record_abi

RECORDED = json.loads(record_abi.RECORD.read_text())


def test_the_recorded_interface_is_the_present_one():
    record_abi.main([])


def test_the_modules_that_consumers_import_are_the_documented_ones():
    assert RECORDED["modules"] == ["dbs_device", "dbs_device._bus", "dbs_device._engine.native"]
    text = " ".join((record_abi.PACKAGE / "_bus.pxd").read_text().split())
    assert "imports `dbs_device`, `dbs_device._bus` and `dbs_device._engine.native`, and no others" in text


def swap(members, i, j):
    members[i], members[j] = members[j], members[i]


BREAKS = {
    "a function is removed": lambda abi: abi["functions"].pop("c_mmio_load"),
    "a signature changes": lambda abi: abi["functions"].update(c_abi_version="uint64_t (void)"),
    "methods change places": lambda abi: swap(abi["classes"]["NativeDevice"], 1, 2),
    "a method is added": lambda abi: abi["classes"]["NativeDevice"].append("int c_load(self) except -1 nogil"),
    "an attribute is added": lambda abi: abi["classes"]["IoManager"].append("object attribute"),
    "a member of the struct moves": lambda abi: swap(abi["struct"], 4, 5),
    "a member of the struct is removed": lambda abi: abi["struct"].pop(),
    "the capsule is renamed": lambda abi: abi.update(capsule="dbs_device.api"),
    "another module is imported": lambda abi: abi["modules"].append("dbs_device._engine.tables"),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS.keys())
def test_a_change_that_consumers_break_on_needs_another_version(change, monkeypatch):
    current = copy.deepcopy(RECORDED)
    change(current)
    assert len(record_abi.incompatibilities(RECORDED, current)) == 1
    monkeypatch.setattr(record_abi, "current_abi", lambda: current)
    for arguments in ([], ["--update"]):
        with pytest.raises(SystemExit, match="changed, and its version is still 1"):
            record_abi.main(arguments)
    current["version"] = 2
    with pytest.raises(SystemExit, match="not up to date"):
        record_abi.main([])


@pytest.mark.parametrize("addition", ["function", "member", "version"])
def test_an_allowed_change_has_to_be_recorded(addition, monkeypatch, tmp_path):
    current = copy.deepcopy(RECORDED)
    if addition == "function":
        current["functions"]["c_new"] = "int (void)"
    elif addition == "member":
        current["struct"].append("int (*added)(void)")
    else:
        current["version"] += 1
    assert record_abi.incompatibilities(RECORDED, current) == []
    record = tmp_path / "abi.json"
    record.write_text(json.dumps(RECORDED))
    monkeypatch.setattr(record_abi, "ROOT", tmp_path)
    monkeypatch.setattr(record_abi, "RECORD", record)
    monkeypatch.setattr(record_abi, "current_abi", lambda: current)
    with pytest.raises(SystemExit, match="not up to date"):
        record_abi.main([])
    record_abi.main(["--update"])
    record_abi.main([])
    assert json.loads(record.read_text()) == current


def test_the_header_and_the_pxd_must_have_the_same_version():
    header, bus = "#define DBS_DEVICE_ABI_VERSION 3\n", "cdef enum:\n    DBS_DEVICE_ABI_VERSION = {}\n"
    assert record_abi.version(header, bus.format(3)) == 3
    with pytest.raises(SystemExit, match=r"3 in dbs_device\.h and 4 in _bus\.pxd"):
        record_abi.version(header, bus.format(4))
