"""Run by tests/test_embedding.py in an environment of its own, against the installed wheel."""

import threading
from pathlib import Path

import pytest
from embedder import engine
from embedder.cpu import Registers, count_to, is_current, on_manager, on_tables

import dbs_device
from dbs_device import DeviceIo, IoManager, NoDeviceError, Resource

MMIO = [Resource.MmioAddressRange(0x1000, 64)]
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
    assert on_tables(tables, "mmio_load", 0x1000, 4) == (0, 0)
    assert on_tables(manager.tables(), "mmio_load", 0x1000, 4) == (1, 0)


def targets(manager):
    return [(on_tables, manager.tables()), (on_manager, manager)]


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_integers_come_back_from_a_native_device(size, byteorder):
    value = 0x1122334455667788
    manager = manager_with(Registers(), byteorder=byteorder)
    for access, target in targets(manager):
        assert access(target, "mmio_store", 0x1010, size, value)[0] == 0
        assert access(target, "mmio_load", 0x1010, size) == (0, value & ((1 << 8 * size) - 1))
    masked = (value & ((1 << 8 * size) - 1)).to_bytes(size, byteorder)
    for access, target in targets(manager):
        assert access(target, "mmio_read", 0x1010, size) == (0, masked)
    assert manager.mmio_load(0x1010, size) == int.from_bytes(masked, byteorder)


def test_ports_reach_the_port_methods():
    manager = manager_with(Registers())
    for access, target in targets(manager):
        assert access(target, "pio_out", 0x41, 1, 0x5A)[0] == 0
        assert access(target, "pio_in", 0x41, 1) == (0, 0x5A)
        assert access(target, "pio_write", 0x42, 1, 0x77)[0] == 0
        assert access(target, "pio_read", 0x42, 1) == (0, b"\x77")
        assert access(target, "pio_in", 0x10041, 1) == (1, 0)
    assert manager.mmio_load(0x1001, 1) == 0x5A ^ 0xFF


def test_unowned_and_straddling_accesses_return_1_and_fill():
    for manager, byte in ((manager_with(Registers()), 0), (manager_with(Registers(), open_bus=0xA5), 0xA5)):
        for access, target in targets(manager):
            for address in (0x2000, 0x103E):
                assert access(target, "mmio_load", address, 4) == (1, int.from_bytes(bytes([byte] * 4)))
                assert access(target, "mmio_read", address, 4) == (1, bytes([byte] * 4))
                assert access(target, "mmio_store", address, 4, 1)[0] == 1
                assert access(target, "mmio_write", address, 4, 1)[0] == 1


def test_a_straddling_access_is_passed_where_the_manager_says_so():
    manager = manager_with(Recorder(), straddle="pass")
    for access, target in targets(manager):
        assert access(target, "mmio_load", 0x103E, 4) == (0, 0x04030201)


@pytest.mark.parametrize("name", ["mmio_load", "mmio_store", "pio_in", "pio_out"])
@pytest.mark.parametrize("size", [0, 3, 5, 16, 2**40])
def test_a_wrong_size_of_an_integer_is_a_value_error(name, size):
    for access, target in targets(manager_with(Registers())):
        with pytest.raises(ValueError, match="integers have"):
            access(target, name, 0x1000, size)


@pytest.mark.parametrize("name", ["mmio_read", "mmio_write", "pio_read", "pio_write"])
def test_an_empty_access_is_a_value_error(name):
    for access, target in targets(manager_with(Registers())):
        with pytest.raises(ValueError, match="at least 1 byte"):
            access(target, name, 0x1000, 0)


def test_exceptions_come_out_of_native_and_python_devices():
    for device, error in ((Broken(), KeyError), (Registers(), ArithmeticError)):
        device.broken = True
        for access, target in targets(manager_with(device)):
            with pytest.raises(error):
                access(target, "mmio_load", 0x1000, 4)
            with pytest.raises(error):
                access(target, "mmio_read", 0x1000, 3)


def test_a_python_device_may_keep_what_it_was_given():
    device = Recorder()
    for access, target in targets(manager_with(device)):
        device.views.clear()
        for size in (1, 2, 3, 4, 8, 24):
            assert access(target, "mmio_read", 0x1000, size) == (0, bytes(range(1, size + 1)))
            access(target, "mmio_write", 0x1000, min(size, 8), 0x1111111111111111)
        kept = [bytes(view) for view in device.views]
        for size in (1, 2, 3, 4, 8, 24):
            access(target, "mmio_write", 0x1000, min(size, 8), 0x2222222222222222)
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
    assert on_tables(manager.tables(), "mmio_load", 0x1000, 4) == (0, 7)
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


def test_a_c_engine_reaches_devices_from_a_thread_that_python_does_not_know():
    native = manager_with(Registers())
    assert engine.run_on_foreign_thread(native, 0, 0x1000, 4, 100_000) == (sum(range(100_000)), None)
    assert engine.run_on_foreign_thread(native, 0x1000, 0, 1, 256) == (sum(range(256)), None)
    python = manager_with(Recorder())
    assert engine.run_on_foreign_thread(python, 0, 0x1000, 4, 100) == (100 * 0x04030201, None)


def test_an_exception_on_such_a_thread_is_kept_and_stops_the_accesses():
    class Fails(Recorder):
        def write(self, base, offset, data):
            super().write(base, offset, data)
            if data[0] == 2:
                raise LookupError("two")

    device = Fails()
    total, error = engine.run_on_foreign_thread(manager_with(device), 0, 0x1000, 1, 1000)
    assert total == 2
    assert type(error) is LookupError
    assert error.__traceback__ is not None
    assert len(device.views) == 5
    native = Registers()
    native.broken = True
    total, error = engine.run_on_foreign_thread(manager_with(native), 0, 0x1000, 1, 10)
    assert (total, type(error)) == (0, ArithmeticError)
    total, error = engine.run_on_foreign_thread(manager_with(Registers()), 0, 0x1000, 3, 10)
    assert (total, type(error)) == (0, ValueError)


def test_nobody_is_no_exception_for_a_c_engine():
    assert engine.run_on_foreign_thread(IoManager(), 0, 0, 4, 10) == (0, None)
    assert engine.run_on_foreign_thread(IoManager(open_bus=1), 0, 0, 2, 10) == (10 * 0x0101, None)
    with pytest.raises(TypeError, match="an IoManager, not object"):
        engine.run_on_foreign_thread(object(), 0, 0, 2, 10)


def test_batches_reach_native_devices():
    np = pytest.importorskip("numpy")
    manager = manager_with(Registers())
    addresses = np.arange(0x1000, 0x1040, 4, dtype=np.uint64)
    manager.mmio_store_many(addresses, 4, np.arange(16, dtype=np.uint64))
    assert manager.mmio_load_many(addresses, 4).tolist() == list(range(16))
    with pytest.raises(NoDeviceError) as caught:
        manager.mmio_load_many(np.append(addresses, np.uint64(0x1040)), 4)
    assert caught.value.accesses_done == 16
