"""Flattened device trees, as dtc reads them."""

from __future__ import annotations

import doctest
import shutil
import subprocess

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

from examples.riscv import device_tree
from examples.riscv.board import RAM_BASE
from examples.riscv.device_tree import Node, flatten
from examples.riscv.machine import Machine
from examples.riscv.serial_line import Script


def test_the_examples() -> None:
    assert doctest.testmod(device_tree) == (0, 2)


def decompiled(blob: bytes) -> str:
    if shutil.which("dtc") is None:
        pytest.skip("dtc is not installed")
    command = ["dtc", "--in-format", "dtb", "--out-format", "dts", "--quiet", "--quiet"]
    return subprocess.run(command, input=blob, stdout=subprocess.PIPE, check=True).stdout.decode()


EXPECTED = """
/dts-v1/;
/ {
    cell = <0x12345678>;
    cells = <0x01 0x02>;
    text = "a";
    texts = "ab\\0c";
    bytes = [01 02 03];
    flag;
    child@10 { cell = <0x01>; inner { }; };
    last { };
};
"""


def test_every_kind_of_value() -> None:
    tree = Node(
        "",
        {
            "cell": 0x12345678,
            "cells": [1, 2],
            "text": "a",
            "texts": ["ab", "c"],
            "bytes": b"\x01\x02\x03",
            "flag": None,
        },
        [Node("child@10", {"cell": 1}, [Node("inner")]), Node("last")],
    )
    assert decompiled(flatten(tree)).split() == EXPECTED.split()


def test_the_tree_of_the_machine_is_found_where_a1_points() -> None:
    machine = Machine(b"", Script(), disk=bytearray(1024), arguments="console=ttyS0")
    registers = machine.board.core.registers
    assert registers[10] == 0
    tree = decompiled(bytes(machine.board.ram.view[registers[11] - RAM_BASE :]))
    assert 'bootargs = "console=ttyS0";' in tree
    for node in ("memory@80000000", "serial@10000000", "virtio@10001000", "rtc@10002000", "clint@11000000"):
        assert f"{node} {{" in tree
