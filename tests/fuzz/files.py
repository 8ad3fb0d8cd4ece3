"""Damaged files: mutated traces and states of machines are read, or refused with the documented error."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from dbs_device.errors import StateError
from dbs_device.state import MachineState
from dbs_device.trace import ACCESS_DTYPE, Trace

from .harness import Run

MOST = 1 << 24  # bytes of contents that are accepted


@functools.cache
def good_files() -> tuple[tuple[str, bytes], ...]:
    """Return (kind, contents) of files as the package writes them."""
    rows = np.zeros(40, ACCESS_DTYPE)
    rows["t_ns"] = np.arange(40)
    rows["space"], rows["write"], rows["addr"] = 1, np.arange(40) % 2, 0x1000 + np.arange(40)
    rows["size"] = 4
    rows["size"][7], rows["value"][7] = 32, 0
    ranges = [("MMIO", 0x1000, 0x10FF, "uart"), ("MMIO", 0x1100, 2**64 - 1, "ram"), ("PIO", 0, 0xFFFF, "ports")]
    traces = [Trace(rows, ranges, bytes(range(32))), Trace(rows[:0]), Trace(rows[:7])]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for trace in traces:
            trace.save(Path(folder, "file"))
            files.append(("trace", Path(folder, "file").read_bytes()))
        state_of_machine().save(Path(folder, "file"))
        files.append(("state", Path(folder, "file").read_bytes()))
    # The time in an archive would make cases differ from run to run.
    return tuple((kind, archive_of(members_of(data))) for kind, data in files)


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, contents in members.items():
            archive.writestr(zipfile.ZipInfo(name), contents, zipfile.ZIP_DEFLATED)
    return file.getvalue()


class Device:
    version = 3

    def save_state(self) -> dict[str, Any]:
        return {"memory": bytes(range(256)) * 4, "few": b"abc", "list": [1, -5, None, True, "x", {"$hex": "k"}]}

    def load_state(self, state: Any) -> None:
        pass


def state_of_machine() -> MachineState:
    return MachineState.of({"one": Device(), "two": Device()})


# ----------------------------------------------------------------------------- damage


def damage_bytes(random: Random, data: bytes) -> bytes:
    """Return data with some bytes changed, removed, inserted or repeated."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        if not changed:
            break
        at, length = random.randrange(len(changed)), random.choice([1, 2, 4, 8, 50])
        kind = random.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[at : at + length] = random.choice([b"\0", b"\xff", b"\x7f", b"9"]) * length
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = random.randbytes(length)
        elif kind == 4:
            changed[at:at] = changed[at : at + 8 * length]
        else:
            del changed[at:]
    return bytes(changed)


def damage_members(random: Random, data: bytes) -> bytes:
    """Return an archive with damaged members, whose own structure is right: what reads the members sees the damage."""
    members = members_of(data)
    name = random.choice(list(members))
    kind = random.randrange(5)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = random.choice(list(members.values()))
    elif kind == 2:
        members[name] = new_array(random)
    elif name.endswith(".json") and kind == 3:
        members[name] = damage_json(random, members[name])
    else:
        members[name] = damage_bytes(random, members[name])
    return archive_of(members)


def new_array(random: Random) -> bytes:
    """Return an array of a type, a length and values that do not belong."""
    dtype = random.choice(["u1", "u8", ">u8", "i8", "f8", "U3", "S3", "?", "O", "V4", "c16", "M8[s]"])
    length = random.choice([0, 1, 40, 3])
    file = io.BytesIO()
    array = np.zeros(random.choice([length, (length, 2), ()]), dtype)
    np.lib.format.write_array(file, array, allow_pickle=True)
    data = file.getvalue()
    if random.random() < 0.5:
        shape = random.choice([b"(9999999999999,)", b"(-1,)", b"(4611686018427387904, 8)", b"(" + b"1," * 90 + b")"])
        data = data.replace(b"(40,)", shape).replace(b"(1,)", shape).replace(b"(3,)", shape)
    return data


def damage_json(random: Random, data: bytes) -> bytes:
    """Replace a value somewhere in the text."""
    document = json.loads(data)
    values: list[Any] = [None, -1, 10**400, [], {}, "x", {"$array": 0}, {"$array": -1}, {"$array": 10**30}]
    values += [{"$hex": "0"}, {"$hex": "zz"}, {"$dict": {}}, {"$odd": 1}]
    values.append(functools.reduce(lambda inner, _: [inner], range(500), 1))
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = random.choice(keys)
        if random.random() < 0.4 or not isinstance(place[key], dict | list):
            place[key] = random.choice(values)
            break
        place = place[key]
    return json.dumps(document).encode()


# ----------------------------------------------------------------------------- the target


def read_trace(path: Path) -> None:
    trace = Trace.load(path, max_size=MOST)
    assert len(list(trace)) == len(trace)
    trace.summary()
    trace.save(path)
    assert Trace.load(path) == trace


def read_state(path: Path) -> None:
    state = MachineState.load(path, max_size=MOST)
    names = list(state)
    state.save(path)
    assert list(MachineState.load(path)) == names


READERS: dict[str, tuple[Callable[[Path], None], type[Exception]]] = {
    "trace": (read_trace, ValueError),
    "state": (read_state, StateError),
}


def play(run: Run) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        while run.more():
            kind, data = run.random.choice(good_files())
            if run.chance(0.03):
                kind = run.random.choice(list(READERS))
            damages = run.random.choice(
                [[damage_members], [damage_members], [damage_bytes], [damage_members, damage_bytes]]
            )
            for damage in damages:
                data = damage(run.random, data)
            run.step(kind, damages[-1].__name__, data)
            path.write_bytes(data)
            read, refusal = READERS[kind]
            try:
                read(path)
            except refusal as error:
                assert str(path) in str(error), error
