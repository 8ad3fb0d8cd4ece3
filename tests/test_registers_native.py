"""Banks whose hooks are written in Cython."""

import importlib.machinery
import importlib.util
import sysconfig
from pathlib import Path

import pytest
from Cython.Build import cythonize
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

from dbs_device import IoManager, Resource
from dbs_device.registers import Array, Interrupt, NativeHooks, Register, RegisterBank, on_write

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def native_echo(tmp_path_factory):
    """The class NativeEcho, compiled."""
    folder = tmp_path_factory.mktemp("native")
    modules = cythonize(
        [Extension("native_bank", [str(HERE / "native_bank.pyx")])],
        include_path=[str(HERE.parent)],
        build_dir=str(folder),
        quiet=True,
        compiler_directives={"language_level": 3, "freethreading_compatible": True},
    )
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib, command.build_temp = str(folder), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    product = folder / ("native_bank" + sysconfig.get_config_var("EXT_SUFFIX"))
    loader = importlib.machinery.ExtensionFileLoader("native_bank", str(product))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_file_location("native_bank", product, loader=loader)
    )
    loader.exec_module(module)
    return module.NativeEcho


@pytest.fixture
def echo_class(native_echo):
    class Echo(native_echo, RegisterBank):
        COUNT = Register(0x0)
        DATA = Register(0x4)
        OTHER = Register(0x8, reset=5)
        MANY = Array(Register(0xC), 2)
        native_hooks = NativeHooks(read=(DATA, OTHER), write=(DATA, MANY))
        irq = Interrupt(status=COUNT)

        def __init__(self):
            self.seen = []

        @on_write(DATA)
        def python_too(self, new, old):
            self.seen.append((new, self.COUNT.value))

    return Echo


def test_native_hooks(echo_class):
    echo, levels = echo_class(), []
    echo.irq.connect(levels.append)
    manager = IoManager()
    manager.register_device_io(echo, [Resource.MmioAddressRange(0, echo.size)])
    manager.mmio_store(0x4, 4, 0x12345678)
    assert manager.mmio_load(0x4, 4) == ~0x12345678 & 0xFFFFFFFF
    assert manager.mmio_load(0x4, 1) == ~0x78 & 0xFF
    assert manager.mmio_load(0x8, 4) == 5
    assert echo.seen == [(0x12345678, 1)]
    assert levels == [True]
    manager.mmio_store(0xC, 8, 0)
    manager.mmio_store(0x8, 4, 0)
    assert echo.COUNT.value == 3
    assert echo.peek(0x4, 4) == 0x12345678


def test_an_exception_of_a_native_hook_comes_out_and_the_store_stands(echo_class):
    echo, manager = echo_class(), IoManager()
    manager.register_device_io(echo, [Resource.MmioAddressRange(0, echo.size)])
    with pytest.raises(ArithmeticError, match="0x0"):
        manager.mmio_store(0x4, 4, 0xBAD)
    assert echo.DATA.value == 0xBAD
    assert echo.seen == []


def test_numbers_of_registers(echo_class):
    echo = echo_class()
    assert [echo.register_number(name) for name in ("COUNT", "DATA", "MANY")] == [0, 1, 3]
    assert echo.register_number("MANY", 1) == 4
    with pytest.raises(KeyError):
        echo.register_number("NOPE")
    assert echo.out_of_range() == (0, 0)
