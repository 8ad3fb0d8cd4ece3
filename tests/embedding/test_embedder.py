"""Run by tests/test_embedding.py in an environment of its own, against the installed wheel."""

import ctypes
import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from embedder import c_emulator, cxx_emulator
from embedder.accesses import (
    OPERATIONS,
    access_bus,
    access_on_new_thread,
    is_current,
    memory_at,
    pio_in_string,
    pio_out_string,
    record,
    unowned,
)
from embedder.cpu import Registers, count_to
from embedder.cxx_cpu import SparseMemory, fill_and_copy
from embedder.minimal import Counter, sum_of_loads

import dbs_device
from dbs_device import DeviceIo, IoManager, NoDeviceError, Resource, Space
from dbs_device.memory import AccessRule, AccessRuleError, Alias, Mirror, PartialDecode, Ram, Rom, RomWriteError
from dbs_device.trace import TraceRecorder

MMIO = [Resource.MmioAddressRange(0x1000, 64)]
INTEGERS = ["mmio_load", "mmio_store", "pio_in", "pio_out"]
BOTH = [*MMIO, Resource.PioAddressRange(0x40, 64)]


class Recorder(DeviceIo):
    """Keeps the views that it is given."""

    def __init__(self):
        self.views = []

    def read(self, base, offset, data):
        data[:] = bytes(range(1, len(data) + 1))
        self.views.append(data)

    def write(self, base, offset, data):
        self.views.append(data)

    pio_read, pio_write = read, write


class Broken(DeviceIo):
    def read(self, base, offset, data):
        raise KeyError("broken")

    write = pio_read = pio_write = read


def manager_with(device, resources=BOTH, **options):
    manager = IoManager(**options)
    manager.register_device_io(device, resources)
    return manager


def test_the_package_under_test_is_the_installed_wheel():
    assert "site-packages" in Path(dbs_device.__file__).parts


def test_a_loop_dispatches_millions_of_accesses_without_the_gil():
    device = Registers()
    assert count_to(manager_with(device), 0x1008, 1_000_000) == (2_000_000, 0)
    assert (device.last_base, device.last_offset, device.last_size) == (0x1000, 8, 8)


def test_a_loop_follows_a_change_of_the_map():
    manager = manager_with(Registers())
    ready = threading.Event()

    def hot_plug():
        ready.wait()
        for _ in range(10):
            manager.register_device_io(Recorder(), [Resource.MmioAddressRange(0x9000, 8)])
            manager.unregister_device_io([Resource.MmioAddressRange(0x9000, 8)])

    thread = threading.Thread(target=hot_plug)
    thread.start()
    ready.set()
    accesses, refreshes = count_to(manager, 0x1008, 5_000_000)
    thread.join()
    assert accesses == 10_000_000
    assert refreshes >= 1


def test_held_tables_say_whether_they_are_current():
    manager = manager_with(Registers())
    tables = manager.tables()
    assert is_current(manager, tables)
    manager.unregister_device_io(MMIO)
    assert not is_current(manager, tables)
    assert is_current(manager, manager.tables())
    assert access_bus(tables, "mmio_load", 0x1000, 4) == (0, 0)
    assert access_bus(manager.tables(), "mmio_load", 0x1000, 4) == (1, 0)


def targets(manager):
    return [manager.tables(), manager]


def address_of(operation):
    return 0x1000 if operation.startswith("mmio") else 0x40


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_integers_come_back_from_a_native_device(size, byteorder):
    value = 0x1122334455667788
    manager = manager_with(Registers(), byteorder=byteorder)
    for target in targets(manager):
        assert access_bus(target, "mmio_store", 0x1010, size, value)[0] == 0
        assert access_bus(target, "mmio_load", 0x1010, size) == (0, value & ((1 << 8 * size) - 1))
    masked = (value & ((1 << 8 * size) - 1)).to_bytes(size, byteorder)
    for target in targets(manager):
        assert access_bus(target, "mmio_read", 0x1010, size) == (0, masked)
    assert manager.mmio_load(0x1010, size) == int.from_bytes(masked, byteorder)


def test_ports_reach_the_port_methods():
    manager = manager_with(Registers())
    for target in targets(manager):
        assert access_bus(target, "pio_out", 0x41, 1, 0x5A)[0] == 0
        assert access_bus(target, "pio_in", 0x41, 1) == (0, 0x5A)
        assert access_bus(target, "pio_write", 0x42, 1, 0x77)[0] == 0
        assert access_bus(target, "pio_read", 0x42, 1) == (0, b"\x77")
        assert access_bus(target, "pio_in", 0x10041, 1) == (1, 0)
    assert manager.mmio_load(0x1001, 1) == 0x5A ^ 0xFF


def test_unowned_and_straddling_accesses_return_1_and_fill():
    for manager, byte in ((manager_with(Registers()), 0), (manager_with(Registers(), open_bus=0xA5), 0xA5)):
        for target in targets(manager):
            for address in (0x2000, 0x103E):
                assert access_bus(target, "mmio_load", address, 4) == (1, int.from_bytes(bytes([byte] * 4)))
                assert access_bus(target, "mmio_read", address, 4) == (1, bytes([byte] * 4))
                assert access_bus(target, "mmio_store", address, 4, 1)[0] == 1
                assert access_bus(target, "mmio_write", address, 4, 1)[0] == 1


def test_a_straddling_access_is_passed_where_the_manager_says_so():
    manager = manager_with(Recorder(), straddle="pass")
    for target in targets(manager):
        assert access_bus(target, "mmio_load", 0x103E, 4) == (0, 0x04030201)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("size", [0, 3, 5, 16, 2**40])
def test_a_wrong_size_of_an_integer_is_a_value_error(name, size):
    for target in targets(manager_with(Registers())):
        with pytest.raises(ValueError, match="access size must be"):
            access_bus(target, name, 0x1000, size)


@pytest.mark.parametrize("name", ["mmio_read", "mmio_write", "pio_read", "pio_write"])
def test_an_empty_access_is_a_value_error(name):
    for target in targets(manager_with(Registers())):
        with pytest.raises(ValueError, match="at least 1 byte"):
            access_bus(target, name, 0x1000, 0)


def test_exceptions_come_out_of_native_and_python_devices():
    for device, error in ((Broken(), KeyError), (Registers(), ArithmeticError)):
        device.broken = True
        for target in targets(manager_with(device)):
            with pytest.raises(error):
                access_bus(target, "mmio_load", 0x1000, 4)
            with pytest.raises(error):
                access_bus(target, "mmio_read", 0x1000, 3)


def test_a_python_device_may_keep_what_it_was_given():
    device = Recorder()
    for target in targets(manager_with(device)):
        device.views.clear()
        for size in (1, 2, 3, 4, 8, 24):
            assert access_bus(target, "mmio_read", 0x1000, size) == (0, bytes(range(1, size + 1)))
            access_bus(target, "mmio_write", 0x1000, min(size, 8), 0x1111111111111111)
        kept = [bytes(view) for view in device.views]
        for size in (1, 2, 3, 4, 8, 24):
            access_bus(target, "mmio_write", 0x1000, min(size, 8), 0x2222222222222222)
        assert [bytes(view) for view in device.views[: len(kept)]] == kept
        assert all(view.readonly for view in device.views[1::2])


def test_a_native_device_is_an_ordinary_device_from_python():
    device = Registers()
    manager = manager_with(device)
    assert isinstance(device, DeviceIo)
    assert manager.mmio_bus.find(0x1000) is device
    manager.mmio_write(0x1004, b"abcd")
    data = bytearray(4)
    manager.mmio_read(0x1004, memoryview(data))
    assert data == b"abcd"
    data = bytearray(4)
    device.read(0x1000, 4, data)
    assert data == b"abcd"
    device.write(0x1000, 4, b"xy")
    assert manager.mmio_load(0x1004, 2) == int.from_bytes(b"xy", "little")
    device.pio_write(0x40, 4, b"\x00")
    device.pio_read(0x40, 4, data)
    assert data[0] == 0
    assert list(device.get_trapped_io_resources()) == []
    device.broken = True
    with pytest.raises(ArithmeticError):
        manager.mmio_read(0x1000, data)
    with pytest.raises(BufferError):
        device.read(0x1000, 0, b"1234")


def test_a_python_subclass_that_overrides_a_handler_is_a_python_device():
    class Logged(Registers):
        log = ()

        def read(self, base, offset, data):
            self.log += (int(offset),)
            super().read(base, offset, data)

    class Renamed(Registers):
        """Overrides nothing that the bus calls."""

    device = Logged()
    manager = manager_with(device)
    manager.mmio_store(0x1000, 4, 7)
    assert manager.mmio_load(0x1000, 4) == 7
    assert access_bus(manager.tables(), "mmio_load", 0x1000, 4) == (0, 7)
    assert device.log == (0, 0)
    assert manager_with(Renamed()).mmio_load(0x1000, 4) == 0


def test_an_override_on_the_instance_counts_when_it_is_registered():
    class Patched(Registers):
        pass

    device = Patched()
    device.read = lambda base, offset, data: data.__setitem__(0, 9)
    manager = manager_with(device)
    assert manager.mmio_load(0x1000, 1) == 9
    del device.read
    assert manager.mmio_load(0x1000, 1) == 9
    manager.unregister_device_io(BOTH)
    manager.register_device_io(device, BOTH)
    assert manager.mmio_load(0x1000, 1) == 0


def test_a_c_emulator_reaches_devices_from_a_thread_that_python_does_not_know():
    native = manager_with(Registers())
    assert c_emulator.run_on_foreign_thread(native, 0, 0x1000, 4, 100_000) == (sum(range(100_000)), None)
    assert c_emulator.run_on_foreign_thread(native, 0x1000, 0, 1, 256) == (sum(range(256)), None)
    python = manager_with(Recorder())
    assert c_emulator.run_on_foreign_thread(python, 0, 0x1000, 4, 100) == (100 * 0x04030201, None)


def test_an_exception_on_such_a_thread_is_latched_and_stops_the_accesses():
    class Fails(Recorder):
        def write(self, base, offset, data):
            super().write(base, offset, data)
            if data[0] == 2:
                raise LookupError("two")

    device = Fails()
    total, error = c_emulator.run_on_foreign_thread(manager_with(device), 0, 0x1000, 1, 1000)
    assert total == 2
    assert type(error) is LookupError
    assert error.__traceback__ is not None
    assert len(device.views) == 5
    native = Registers()
    native.broken = True
    total, error = c_emulator.run_on_foreign_thread(manager_with(native), 0, 0x1000, 1, 10)
    assert (total, type(error)) == (0, ArithmeticError)
    total, error = c_emulator.run_on_foreign_thread(manager_with(Registers()), 0, 0x1000, 3, 10)
    assert (total, type(error)) == (0, ValueError)


def test_an_unowned_access_is_not_an_exception_for_a_c_emulator():
    assert c_emulator.run_on_foreign_thread(IoManager(), 0, 0, 4, 10) == (0, None)
    assert c_emulator.run_on_foreign_thread(IoManager(open_bus=1), 0, 0, 2, 10) == (10 * 0x0101, None)
    with pytest.raises(TypeError, match="an IoManager is required, not object"):
        c_emulator.run_on_foreign_thread(object(), 0, 0, 2, 10)


def test_batches_reach_native_devices():
    np = pytest.importorskip("numpy")
    manager = manager_with(Registers())
    addresses = np.arange(0x1000, 0x1040, 4, dtype=np.uint64)
    manager.mmio_store_many(addresses, 4, np.arange(16, dtype=np.uint64))
    assert manager.mmio_load_many(addresses, 4).tolist() == list(range(16))
    with pytest.raises(NoDeviceError) as caught:
        manager.mmio_load_many(np.append(addresses, np.uint64(0x1040)), 4)
    assert caught.value.accesses_done == 16


# ----------------------------------------------------------------------------- threads that Python does not know


def number_of_thread_states():
    python = ctypes.pythonapi
    for function in (python.PyInterpreterState_Get, python.PyInterpreterState_ThreadHead, python.PyThreadState_Next):
        function.restype = ctypes.c_void_p
    state = python.PyInterpreterState_ThreadHead(ctypes.c_void_p(python.PyInterpreterState_Get()))
    number = 0
    while state:
        number += 1
        state = python.PyThreadState_Next(ctypes.c_void_p(state))
    return number


def test_an_embedder_records_what_it_has_served():
    recorder = TraceRecorder(manager_with(Recorder()))
    record(recorder, True, False, 2**64 - 1, 8, 2**64 - 1)
    record(recorder, False, True, 0xFFFF, 1, 0x1FF)  # masked to the size
    assert [each[1:] for each in recorder.trace] == [
        (Space.MMIO, False, 2**64 - 1, 8, 2**64 - 1),
        (Space.PIO, True, 0xFFFF, 1, 0xFF),
    ]
    recorder.enabled = False
    record(recorder, True, False, 0x1000, 4, 0)
    assert len(recorder) == 2
    for arguments, error in (
        ((recorder.manager, True, False, 0, 4, 0), TypeError),
        ((recorder, True, False, 0, 0, 0), ValueError),
        ((recorder, True, False, 0, 9, 0), ValueError),
        ((recorder, False, False, 0x10000, 4, 0), OverflowError),
    ):
        with pytest.raises(error):
            record(*arguments)


def test_a_c_emulator_records_what_it_has_served():
    recorder = TraceRecorder(manager_with(Registers()))
    assert c_emulator.record(recorder.manager, recorder, 0x1000, 8, 4, 0x1_0000_0055) is None
    assert [each[1:] for each in recorder.trace] == [
        (Space.MMIO, True, 0x1008, 4, 0x55),
        (Space.MMIO, False, 0x1008, 4, 0x55),
    ]
    assert type(c_emulator.record(recorder.manager, recorder.manager, 0x1000, 8, 4, 0)) is TypeError


def test_threads_record_without_the_gil():
    recorder = TraceRecorder(IoManager(open_bus=0))
    count = 100_000
    threads = [threading.Thread(target=record, args=(recorder, 1, 0, each, 4, 0, count)) for each in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accesses = recorder.trace.accesses
    assert [int((accesses["addr"] == each).sum()) for each in range(2)] == [count, count]
    assert (accesses["t_ns"][1:] >= accesses["t_ns"][:-1]).all()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["unknown", "attached"])
class TestOnANewThread:
    def test_an_access_is_served(self, operation, kind):
        before = number_of_thread_states()
        for device in (Registers(), Recorder()):
            for target in targets(manager_with(device)):
                assert access_on_new_thread(target, operation, address_of(operation), 1, 7, kind=kind)[::2] == (0, None)
                assert access_on_new_thread(target, operation, 0x8000, 1, kind=kind)[::2] == (1, None)
        assert number_of_thread_states() == before

    def test_the_exception_of_a_python_device_reaches_the_caller(self, operation, kind):
        for target in targets(manager_with(Broken())):
            for size in (1, 4) if operation in INTEGERS else (1, 3, 4, 24):
                result, _, error = access_on_new_thread(target, operation, address_of(operation), size, kind=kind)
                assert (result, repr(error)) == (-1, "KeyError('broken')")
                traceback = error.__traceback__
                while traceback.tb_next:
                    traceback = traceback.tb_next
                assert traceback.tb_frame.f_code.co_name == "read"

    def test_a_wrong_size_reaches_the_caller(self, operation, kind):
        for target in targets(manager_with(Registers())):
            for size in (0, 3, 2**40) if operation in INTEGERS else (0,):
                result, _, error = access_on_new_thread(target, operation, address_of(operation), size, kind=kind)
                assert (result, type(error)) == (-1, ValueError)

    def test_a_native_device_that_sets_no_exception_gives_a_system_error(self, operation, kind):
        device = Registers()
        device.faulty = True
        for target in targets(manager_with(device)):
            result, _, error = access_on_new_thread(target, operation, address_of(operation), 4, kind=kind)
            assert (result, type(error)) == (-1, SystemError)
            assert str(error) == f"{device!r} returned -1 without setting an exception"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_on_an_attached_thread_the_exception_of_a_native_device_reaches_the_caller(operation):
    device = Registers()
    device.broken = True
    before = number_of_thread_states()
    for target in targets(manager_with(device)):
        result, _, error = access_on_new_thread(target, operation, address_of(operation), 4, kind="attached")
        assert (result, repr(error)) == (-1, "ArithmeticError('registers 0x0, 4')")
    assert number_of_thread_states() == before


def test_cython_reports_an_exception_that_such_a_thread_does_not_catch(monkeypatch, capfd):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    for target in targets(manager_with(Broken())):
        access_on_new_thread(target, "mmio_load", 0x1000, 4, kind="unraisable")
    assert [repr(each.exc_value) for each in reported] == ["KeyError('broken')"] * 2
    assert "KeyError: 'broken'" in capfd.readouterr().err


def test_a_native_device_that_sets_no_exception_is_named_wherever_it_is_called():
    np = pytest.importorskip("numpy")
    device = Registers()
    device.faulty = True
    manager = manager_with(device)
    addresses = np.array([0x1000], np.uint64)
    data = memoryview(bytearray(4))
    calls = [
        *(partial(access_bus, target, each, address_of(each), 4) for target in targets(manager) for each in OPERATIONS),
        lambda: manager.mmio_load(0x1000, 4),
        lambda: manager.mmio_store(0x1000, 4, 1),
        lambda: manager.mmio_read(0x1000, data),
        lambda: manager.mmio_read(0x1000, bytearray(3)),
        lambda: manager.mmio_write(0x1000, data),
        lambda: manager.mmio_write(0x1000, b"123"),
        lambda: manager.pio_in(0x40, 4),
        lambda: manager.pio_out(0x40, 4, 1),
        lambda: manager.pio_read(0x40, data),
        lambda: manager.pio_write(0x40, data),
        lambda: manager.mmio_load_many(addresses, 4),
        lambda: manager.mmio_store_many(addresses, 4, addresses),
        lambda: manager.pio_in_string(0x40, 1, data),
        lambda: manager.pio_out_string(0x40, 1, data),
        lambda: device.read(0x1000, 0, data),
        lambda: device.write(0x1000, 0, data),
        lambda: device.pio_read(0x40, 0, data),
        lambda: device.pio_write(0x40, 0, data),
    ]
    for call in calls:
        with pytest.raises(SystemError) as caught:
            call()
        assert str(caught.value) == f"{device!r} returned -1 without setting an exception"
    _, error = c_emulator.run_on_foreign_thread(manager, 0, 0x1000, 4, 1)
    assert str(error) == f"{device!r} returned -1 without setting an exception"


# ----------------------------------------------------------------------------- other consumers


def test_the_minimal_consumer_runs_its_loop():
    assert sum_of_loads(manager_with(Counter()), 0x1000, 10) == sum(range(1, 11))
    assert sum_of_loads(IoManager(open_bus=3), 0x1000, 10) == 30


def test_a_cython_consumer_in_cxx_mode_has_a_device_and_a_loop():
    device = SparseMemory()
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(0, 0x10000)])
    assert fill_and_copy(manager, 0x100, 0x8000, 100) == sum(range(1, 101))
    assert len(device) == 1600
    assert manager.mmio_load(0x8008, 8) == 2
    assert manager.mmio_load(0x9000, 8) == 0


def test_cpus_in_cxx_share_a_handle():
    assert cxx_emulator.run_cpus(manager_with(Registers()), 0x1000, 4, 10_000) == ([10_000] * 4, None)
    done, error = cxx_emulator.run_cpus(manager_with(Broken()), 0x1000, 4, 1000)
    assert type(error) is KeyError
    assert all(number < 1000 for number in done)


def test_an_address_that_the_base_takes_past_the_end_of_the_space_is_unowned():
    for device in (Registers(), Recorder()):
        for open_bus, value in ((None, 0), (0xA5, 0xA5A5)):
            manager = manager_with(device, open_bus=open_bus)
            for base, address in ((2**64 - 0x1000, 0x2000), (1, 2**64 - 1), (2**64 - 1, 0x1001)):
                assert c_emulator.run_on_foreign_thread(manager, base, address, 2, 1) == (value, None)
    assert manager.mmio_load(0x1000, 2) == 0x0201
    assert len(device.views) == 1


def test_a_handle_that_is_destroyed_reports_its_pending_exception(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    manager = manager_with(Broken())
    assert c_emulator.load_and_destroy(manager, 0x1000) == 0
    (report,) = reported
    assert repr(report.exc_value) == "KeyError('broken')"
    assert report.exc_traceback is not None
    assert report.object is manager
    assert c_emulator.load_and_destroy(manager, 0x8000) == 0
    assert len(reported) == 1


IMPORTS = """
import builtins, importlib, json, sys
import dbs_device

names = set()
original = builtins.__import__
def traced(name, *arguments, **keywords):
    names.add(name)
    return original(name, *arguments, **keywords)
builtins.__import__ = traced
importlib.import_module("embedder." + sys.argv[1])
print(json.dumps(sorted(name for name in names if name.startswith("dbs_device"))))
"""


@pytest.mark.parametrize("module", ["minimal", "cpu", "cxx_cpu", "accesses", "c_emulator", "cxx_emulator"])
def test_a_built_consumer_imports_the_recorded_modules(module):
    output = subprocess.check_output([sys.executable, "-c", IMPORTS, module], text=True)
    recorded = json.loads(Path(__file__).with_name("abi.json").read_text())["modules"]
    assert json.loads(output) == (["dbs_device"] if module.endswith("emulator") else recorded)


def test_memory_is_found_in_the_host():
    ram, rom, background = Ram(0x2000), Rom(b"firmware"), Ram(0x1_0000)
    manager = IoManager(background=background)
    manager.register_device_io(ram, [Resource.MemAddressRange(0x4000, 0x1000)])
    manager.register_device_io(rom, [Resource.MemAddressRange(2**64 - 8, 8)])
    manager.register_device_io(Registers(), [Resource.MmioAddressRange(0x8000, 64)])
    tables = manager.tables()
    assert memory_at(tables, 0x4000) == ("RAM", ram.address, 0x4FFF)
    assert memory_at(tables, 0x4FFF) == ("RAM", ram.address + 0xFFF, 0x4FFF)
    assert memory_at(tables, 2**64 - 1) == ("ROM", rom.address + 7, 2**64 - 1)
    assert memory_at(tables, 0x8000) == (None, 0, 0)
    assert memory_at(tables, 0x5000) == ("RAM", background.address + 0x5000, 0x7FFF)
    assert memory_at(tables, 0x8040) == ("RAM", background.address + 0x8040, 0xFFFF)
    assert memory_at(tables, 0x1_0000) == (None, 0, 0)
    assert memory_at(IoManager().tables(), 0) == (None, 0, 0)


class RamWithAHandler(Ram):
    def read(self, base, offset, data):
        data[0] = 1


def test_memory_with_handlers_in_python_is_not_found():
    manager = manager_with(RamWithAHandler(64), MMIO)
    assert memory_at(manager.tables(), 0x1000) == (None, 0, 0)


def test_c_callers_reach_the_background():
    manager = IoManager(background=Ram(bytearray(range(16))))
    for target in (manager, manager.tables()):
        assert access_bus(target, "mmio_load", 4, 4) == (0, 0x07060504)
        assert access_bus(target, "mmio_read", 4, 4) == (0, bytes(range(4, 8)))
        assert access_bus(target, "mmio_load", 14, 4) == (1, 0)
        assert access_bus(target, "pio_in", 4, 4) == (1, 0)
    python = IoManager(background=Recorder())
    assert access_on_new_thread(python, "mmio_load", 4, 4) == (0, 0x04030201, None)


def test_a_write_to_rom_raises_on_a_thread_that_python_does_not_know():
    manager = manager_with(Rom(bytes(64), on_write="raise"), MMIO)
    for target in (manager, manager.tables()):
        result, _, error = access_on_new_thread(target, "mmio_store", 0x1008, 4, 1)
        assert result == -1
        assert isinstance(error, RomWriteError)
        assert (error.offset, error.size) == (8, 4)


class Fifo(DeviceIo):
    def __init__(self, at_item=None, action=None):
        self.items = []
        self.at_item, self.action = at_item, action

    def pio_in(self, base, offset, size):
        if len(self.items) == self.at_item:
            self.action()
        self.items.append(offset)
        return len(self.items)

    def pio_out(self, base, offset, size, value):
        if len(self.items) == self.at_item:
            self.action()
        self.items.append(value)


PORTS = [Resource.PioAddressRange(0x40, 4)]


@pytest.mark.parametrize("make_device", [Fifo, Registers])
def test_a_string_is_one_call(make_device):
    manager = manager_with(make_device(), PORTS)
    data, calls = pio_in_string(manager, 0x40, 2, 100)
    assert (len(data), calls) == (200, 1)
    assert pio_out_string(manager, 0x40, 4, bytes(400)) == (100, 0)
    assert pio_out_string(manager, 0x40, 4, b"") == (0, 0)


def test_a_string_goes_on_with_the_ranges_that_a_handler_leaves():
    first = Fifo(2, lambda: manager.unregister_device_io(PORTS) or manager.register_device_io(second, PORTS))
    second = Fifo()
    manager = manager_with(first, PORTS)
    assert pio_in_string(manager, 0x40, 1, 5) == (bytes([1, 2, 3, 1, 2]), 2)
    first.items.clear()
    manager.unregister_device_io(PORTS)
    manager.register_device_io(first, PORTS)
    assert pio_out_string(manager, 0x40, 1, b"abcde") == (3, 0)


def test_a_string_that_fails_says_where():
    def fail():
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken") as caught:
        pio_in_string(manager_with(Fifo(2, fail), PORTS), 0x40, 2, 4)
    assert caught.value.__notes__[-1] == "2 items are done: 010002000000eeee"
    with pytest.raises(ValueError, match="PIO access size must be 1, 2 or 4 bytes, not 3"):
        pio_in_string(manager_with(Fifo(), PORTS), 0x40, 3, 4)


def test_unowned_items_follow_the_rule_of_the_manager():
    assert pio_in_string(manager_with(Fifo(), PORTS, open_bus=0xFF), 0x80, 2, 3) == (b"\xff" * 6, 3)
    with pytest.raises(dbs_device.NoDeviceError) as caught:
        pio_in_string(manager_with(Fifo(), PORTS), 0x80, 2, 3)
    assert caught.value.__notes__ == ["0 items are done: 0000eeeeeeee"]
    assert pio_out_string(manager_with(Fifo(), PORTS), 0x80, 1, b"ab") == (0, 1)


def test_the_rule_of_unowned_accesses():
    assert unowned(manager_with(Fifo(), PORTS, open_bus=0), 0x80, 2) == []
    memory, ports = unowned(manager_with(Fifo(), PORTS), 0x43, 2)
    assert str(memory) == "no device owns MMIO address 0x43 (2 bytes)"
    assert str(ports).startswith("the access to PIO address 0x43 (2 bytes) runs past the end of range 0x40..0x43 of ")


def adapters_of(device):
    return [Alias(device, 0), Mirror(device, 0x3F), AccessRule(device), PartialDecode((device, 0, 0))]


@pytest.mark.parametrize("number", range(4))
def test_adapters_reach_devices_from_a_thread_that_python_does_not_know(number):
    native, python, broken = (adapters_of(make())[number] for make in (Registers, Recorder, Broken))
    manager = manager_with(native)
    assert access_on_new_thread(manager, "mmio_store", 0x1008, 4, 5)[0] == 0
    assert access_on_new_thread(manager, "mmio_load", 0x1008, 4) == (0, 5, None)
    assert access_on_new_thread(manager_with(python), "mmio_load", 0x1008, 4) == (0, 0x04030201, None)
    result, _, error = access_on_new_thread(manager_with(broken), "mmio_load", 0x1008, 4)
    assert result == -1
    assert isinstance(error, KeyError)


def test_a_refused_access_raises_on_a_thread_that_python_does_not_know():
    manager = manager_with(AccessRule(Recorder(), {8}))
    result, _, error = access_on_new_thread(manager, "mmio_load", 0x1008, 4)
    assert result == -1
    assert isinstance(error, AccessRuleError)


def test_an_alias_of_memory_is_found_in_the_host():
    ram = Ram(0x2000)
    tables = manager_with(Alias(ram, 0x10), MMIO).tables()
    assert memory_at(tables, 0x1008) == ("RAM", ram.address + 0x18, 0x103F)
