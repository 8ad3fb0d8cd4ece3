"""What all devices of the library have in common."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

from dbs_device import DeviceIo, DeviceIoMut, devices
from dbs_device.state import Stateful

MODULES = [
    importlib.import_module(f"dbs_device.devices.{each.name}")
    for each in pkgutil.iter_modules(devices.__path__)
    if not each.name.startswith("_")
]
CLASSES = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if isinstance(getattr(module, name), type) and issubclass(getattr(module, name), (DeviceIo, DeviceIoMut))
}


@pytest.mark.parametrize("path", CLASSES)
def test_a_device_has_a_state(path: str) -> None:
    cls = CLASSES[path]
    assert issubclass(cls, Stateful)
    assert isinstance(getattr(cls, "version", 1), int)


@pytest.mark.parametrize("path", CLASSES)
def test_lines_clock_and_memory_are_keywords(path: str) -> None:
    for name, parameter in inspect.signature(CLASSES[path]).parameters.items():
        if name.endswith(("irq", "irqs", "clock", "memory")):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            if "irq" in name:
                assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_module_names_what_it_follows(module: object) -> None:
    name = str(getattr(module, "__name__", ""))
    if name.rpartition(".")[2] not in ("storage",):
        assert any(word in (module.__doc__ or "") for word in ("Datasheet", "Specification"))


def test_a_device_is_imported_without_the_others() -> None:
    program = "import sys, dbs_device.devices.uart16550; print(*(m for m in sys.modules if '.devices.' in m))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(run.stdout.split()) == {f"dbs_device.devices.{name}" for name in ("_common", "_isa", "uart16550")}
