"""The tests of py65, a 6502 emulator whose memory is a list, on the bus: with RAM as a range, and under all ranges."""

from __future__ import annotations

import importlib
import unittest

import pytest

from dbs_device import IoManager, Resource
from dbs_device.memory import MemoryView, Ram

pytest.importorskip("py65", reason="py65 is not installed")

SIZE = 0x10000
FILL = b"\xaa" * SIZE  # what py65's tests fill a list with


def ram_as_background():
    return IoManager(background=Ram(bytearray(FILL)))


def ram_as_range():
    manager = IoManager()
    manager.register_device_io(Ram(bytearray(FILL)), [Resource.MemAddressRange(0, SIZE)])
    return manager


def on_the_bus(tests, make_manager):
    """Return a class of py65's tests with memory on the bus in place of a list."""

    def _make_mpu(self, *arguments, **options):
        options.setdefault("memory", MemoryView(make_manager(), size=SIZE))
        return tests._make_mpu(self, *arguments, **options)

    return type(tests.__name__, (tests,), {"_make_mpu": _make_mpu, "__module__": __name__})


for _module in ("test_mpu6502", "test_mpu65c02"):
    for _name, _tests in vars(importlib.import_module(f"py65.tests.devices.{_module}")).items():
        if isinstance(_tests, type) and issubclass(_tests, unittest.TestCase):
            for _make_manager in (ram_as_background, ram_as_range):
                _class_name = f"Test_{_module}_{_name}_{_make_manager.__name__}"
                globals()[_class_name] = on_the_bus(_tests, _make_manager)


def test_the_tests_of_both_processors_are_collected():
    assert len([each for each in globals() if each.startswith("Test_")]) == 4
