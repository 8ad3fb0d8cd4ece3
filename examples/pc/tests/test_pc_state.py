"""The PC, saved at any point and restored in another process, goes on as it did."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dbs_device import IoManager
from dbs_device.clock import NS_PER_SECOND
from dbs_device.state import MachineState, StateError
from dbs_device.trace import TraceRecorder
from examples.pc import unicorn_processor
from examples.pc.board import Board
from examples.pc.cpu import Bridge, connect_by_callbacks
from examples.pc.machine import DEBIAN_ROM, DEBIAN_VGABIOS, Machine
from examples.pc.unicorn_processor import UnicornProcessor
from examples.tests.running import ROOT, output_of, run_example

pytestmark = pytest.mark.skipif(
    not (DEBIAN_ROM.exists() and DEBIAN_VGABIOS.exists()), reason="SeaBIOS is not installed (Debian: seabios)"
)

BOOT = 63_000_000  # ns of guest time, nearly all of a boot
SLICE = 1_009  # instructions: many more places to stop at than there usually are
FIELDS = ("space", "write", "addr", "size", "value")


@pytest.fixture
def many_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_processor, "SLICE", SLICE)


class Run:
    """A PC whose accesses are recorded."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.machine = Machine(
            DEBIAN_ROM.read_bytes(),
            vgabios=DEBIAN_VGABIOS.read_bytes(),
            serial=self.output.append,
            debug=self.output.append,
            processor=self._processor,
        )

    def _processor(self, board: Board) -> UnicornProcessor:
        def connect(uc: Any, manager: IoManager) -> Bridge:
            self.recorder = TraceRecorder(manager)
            return connect_by_callbacks(uc, manager, self.recorder)

        return UnicornProcessor(board, connect)

    def end(self, since: int = 0) -> dict[str, Any]:
        """Return what can be compared at the end of two runs."""
        accesses = self.recorder.trace.accesses[since:]
        return {
            "stopped": self.machine.stopped,
            "screen": self.machine.board.vga.text(),
            "time": self.machine.clock.read(),
            **{field: accesses[field].tolist() for field in FIELDS},
        }


RESTORED = """
import json, sys
from pathlib import Path
from examples.pc import unicorn_processor
from examples.pc.tests.test_pc_state import SLICE, Run
unicorn_processor.SLICE = SLICE
state, end = map(Path, sys.argv[1:])
run = Run()
run.machine.restore(state)
run.machine.run()
end.write_text(json.dumps(run.end() | {"output": run.output.hex()}))
"""


def saved_and_restored(when: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how a run ends that was saved at a time (ns), and how it ends in another process."""
    state, end = folder / "machine.npz", folder / "end.json"
    run = Run()
    run.machine.run(when / NS_PER_SECOND)
    assert run.machine.stopped is None
    run.machine.save(state)
    since, output = len(run.recorder.trace), len(run.output)
    run.machine.run()
    subprocess.run([sys.executable, "-c", RESTORED, state, end], cwd=ROOT, check=True, timeout=120)
    here = run.end(since) | {"output": run.output[output:].hex()}
    return here, json.loads(end.read_text())


@pytest.fixture(scope="module")
def screen() -> list[str]:
    run = Run()
    run.machine.run()
    assert run.machine.board.vga.text()[0].startswith("SeaBIOS")
    return run.machine.board.vga.text()


@pytest.mark.slow
@pytest.mark.usefixtures("many_places")
@pytest.mark.parametrize("seed", range(6))
def test_a_machine_in_another_process_goes_on_to_the_same_end(seed: int, screen: list[str], tmp_path: Path) -> None:
    when = random.Random(seed).randrange(BOOT * (seed + 1) // 6)
    here, there = saved_and_restored(when, tmp_path)
    assert here == there
    assert (here["stopped"], here["screen"]) == ("power off", screen)


def test_a_machine_goes_back_to_where_it_was(tmp_path: Path) -> None:
    run = Run()
    run.machine.run(0.01)
    run.machine.save(tmp_path / "machine.npz")
    ends = []
    for _ in range(2):
        since = len(run.recorder.trace)
        run.machine.run()
        ends.append(run.end(since))
        with pytest.raises(ValueError, match="the machine has stopped: power off"):
            run.machine.save(tmp_path / "stopped.npz")
        run.machine.restore(tmp_path / "machine.npz")
    assert ends[0] == ends[1]
    assert len(ends[0]["addr"]) > 1000


def test_a_state_of_another_machine_changes_nothing(tmp_path: Path) -> None:
    path, run = tmp_path / "machine.npz", Run()
    run.machine.run(0.002)
    run.machine.save(path)
    saved = MachineState.load(path)
    other = Run()
    other.machine.run(0.004)
    before = MachineState.of(other.machine._parts)
    for name, part in (("rtc", saved["pit"]), ("processor", saved["rtc"]), ("com1", None), ("net", saved["com1"])):
        changed = {**saved, name: part} if part is not None else {key: saved[key] for key in saved if key != name}
        MachineState({key: each for key, each in changed.items() if each is not None}).save(path)
        with pytest.raises(StateError, match=rf"\b{name}' is |'{name}' only in the machine"):
            other.machine.restore(path)
        assert MachineState.of(other.machine._parts) == before


@pytest.mark.parametrize("damage", ["version", "context", "memory"])
def test_a_processor_refuses_a_state_that_does_not_fit(damage: str) -> None:
    processor = Run().machine.processor
    assert isinstance(processor, UnicornProcessor)
    before = processor.save_state()
    state = processor.save_state()
    if damage == "version":
        state["context"] |= {"unicorn": "0.9"}
    elif damage == "context":
        state["context"] |= {"context": bytes(10)}
    else:
        state["memory"] |= {"0x0": bytes(10)}
    with pytest.raises(StateError, match=r"Unicorn 0\.9|10 bytes"):
        processor.load_state(state)
    assert processor.save_state() == before


def test_the_example_saves_and_restores(tmp_path: Path) -> None:
    path = tmp_path / "machine.npz"
    first = output_of("-m", "examples.pc", "--seconds", "0.02", "--save", str(path))
    assert "The machine has stopped: time is up." in first
    assert "Hello from a boot sector" in output_of("-m", "examples.pc", "--restore", str(path))
    path.write_bytes(path.read_bytes()[:1000])
    damaged = run_example("-m", "examples.pc", "--restore", str(path))
    assert (damaged.returncode, damaged.stderr.count("\n")) == (2, 1)
    assert damaged.stderr.startswith(f"{path}: not an .npz file: ")
    missing = run_example("-m", "examples.pc", "--restore", str(tmp_path / "nothing"))
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
