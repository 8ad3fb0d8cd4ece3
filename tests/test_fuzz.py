"""A little fuzzing in every run of the tests, from a new seed each time, and what fuzzing has found."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import pytest
from fuzz import harness, memory, registers

OPERATIONS = {
    "bus": 3000,
    "registers": 500_000,
    "memory": 20_000,
    "files": 400,
    "threads": 4000,
    "virtqueues": 20_000,
}


@pytest.mark.parametrize("target", harness.TARGETS)
def test_random_use_agrees_with_the_model(target):
    if target == "registers" and registers.driver() is None:
        pytest.skip("no C compiler")
    seed = SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    harness.fuzz(target, seed, operations=OPERATIONS[target])


def run(*options):
    command = [sys.executable, str(Path(__file__).parent / "fuzz"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_finding_says_how_it_is_seen_again(monkeypatch):
    monkeypatch.setattr(memory.Machine, "bytes_at", lambda machine, address, size: b"wrong")
    with pytest.raises(harness.Finding) as found:
        harness.fuzz("memory", 7, operations=10_000)
    text = str(found.value)
    assert "memory: finding in case 0 of seed 7, step" in text
    assert "--targets memory --seed 7 --case 0" in text
    assert "  step " in text


def test_a_case_is_the_same_each_time():
    runs = [run("--targets", "memory", "--seed", "5", "--case", "3") for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stdout + runs[0].stderr
    assert runs[0].stderr == runs[1].stderr != ""


def test_a_process_that_dies_is_a_finding():
    options = ["--targets", "memory", "--seed", "5", "--seconds", "30"]
    command = [sys.executable, str(Path(__file__).parent / "fuzz"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "fuzz: seed 5, 30 seconds, targets memory\n"
        child = wait_for_child(process.pid)
        os.kill(child, signal.SIGSEGV)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "has died with status -11 in case" in output
    assert "--targets memory --seed 5 --case" in output


def wait_for_child(parent):
    """Return the process that another one has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    if not children.exists():
        pytest.skip("this kernel does not tell which processes another one has started")
    while not (text := children.read_text().split()):
        pass
    return int(text[0])
