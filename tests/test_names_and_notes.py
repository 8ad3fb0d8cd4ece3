"""Messages that say which device it was: names, notes on exceptions, warnings of missing handlers, unowned accesses."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from typing import Any

import pytest
from helpers import MMIO, PIO, Recorder, each_space, map_both, on_another_thread
from machine import Machine, SharedCard

from dbs_device import (
    CallbackHandle,
    DeviceIo,
    DeviceIoMut,
    DeviceOverlapError,
    IoManager,
    MappedRange,
    Mutex,
    NativeDevice,
    NoDeviceError,
    Resource,
    Space,
    UnhandledSpaceWarning,
    entry_point_addresses,
)
from dbs_device.trace import TraceRecorder

# ----------------------------------------------------------------------------- notes


class Failing(DeviceIo):
    """Raises the same exception in every handler."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self, *arguments):
        raise self.error

    load = store = pio_in = pio_out = fail

    def __repr__(self) -> str:
        return "<failing>"


class FailingBuffers(Failing):
    read = write = pio_read = pio_write = Failing.fail
    load = store = pio_in = pio_out = None  # type: ignore[assignment]


def device_notes(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("device access: ")]


ACCESSES = {
    "MMIO read of 4 bytes": lambda manager, address: manager.mmio_load(address, 4),
    "MMIO write of 2 bytes": lambda manager, address: manager.mmio_store(address, 2, 0),
    "PIO read of 1 byte": lambda manager, address: manager.pio_in(address, 1),
    "PIO write of 4 bytes": lambda manager, address: manager.pio_out(address, 4, 0),
    "MMIO read of 5 bytes": lambda manager, address: manager.mmio_read(address, bytearray(5)),
    "MMIO write of 7 bytes": lambda manager, address: manager.mmio_write(address, bytes(7)),
    "PIO read of 8 bytes": lambda manager, address: manager.pio_read(address, bytearray(8)),
    "PIO write of 3 bytes": lambda manager, address: manager.pio_write(address, bytes(3)),
}


@pytest.mark.parametrize("device_type", [Failing, FailingBuffers])
@pytest.mark.parametrize(("text", "access"), ACCESSES.items(), ids=ACCESSES)
@pytest.mark.parametrize("name", [None, "uart0"])
@pytest.mark.parametrize(
    "error", [OSError("no medium"), KeyboardInterrupt(), StopIteration(3), SystemExit(2)], ids=repr
)
def test_an_exception_of_a_device_has_one_note_of_the_access(device_type, text, access, name, error):
    error = copy.copy(error)
    arguments, cause = error.args, error.__cause__
    manager = IoManager()
    device = device_type(error)
    manager.register_device_io(device, [MMIO.range(0x100, 0x100), PIO.range(0x100, 0x100)], name=name)
    for address in (0x110, 0x120):  # the second one raises the same exception again
        with pytest.raises(type(error)) as caught:
            access(manager, address)
        assert caught.value is error
    who = "'uart0' <failing>" if name else "<failing>"
    assert error.__notes__ == [f"device access: {text} at 0x110, offset 0x10 of {who}"]
    assert (error.args, error.__cause__, error.__context__) == (arguments, cause, None)


def test_a_note_of_the_devices_own_comes_first():
    error = OSError("no medium")
    error.add_note("insert a disk")
    with pytest.raises(OSError, match="no medium"):
        map_both(Failing(error)).mmio_load(0x100, 1)
    assert error.__notes__[0] == "insert a disk"
    assert len(device_notes(error)) == 1 == len(error.__notes__) - 1


class FrozenError(Exception):
    """Refuses every attribute."""

    def __setattr__(self, name, value):
        raise AttributeError("frozen")

    def add_note(self, note):
        raise TypeError("frozen")


class OddError(Exception):
    __notes__: Any = 5


@pytest.mark.parametrize("error", [FrozenError("cold"), OddError("five")], ids=["frozen", "notes are a number"])
@each_space
def test_an_exception_that_takes_no_note_comes_out_unchanged(space, error):
    manager = map_both(Failing(error))
    with pytest.raises(type(error)) as caught:
        space.load(manager, 0x100, 1)
    assert caught.value is error
    assert device_notes(error) == [] if isinstance(error, FrozenError) else error.__notes__ == 5


def test_a_device_whose_repr_fails_is_named_by_its_type():
    class Unprintable(Failing):
        def __repr__(self):
            raise RuntimeError("half built")

    error = OSError("no medium")
    with pytest.raises(OSError, match="no medium"):
        map_both(Unprintable(error)).mmio_load(0x104, 1)
    assert error.__notes__ == ["device access: MMIO read of 1 byte at 0x104, offset 0x4 of <Unprintable>"]


def test_of_nested_accesses_the_innermost_is_noted():
    class Bridge(DeviceIo):
        def load(self, base, offset, size):
            return manager.pio_in(0x40 + offset, size)

        def __repr__(self):
            return "<bridge>"

    manager = IoManager()
    manager.register_device_io(Bridge(), [MMIO.range(0x1000, 0x10)])
    manager.register_device_io(Failing(OSError("no medium")), [PIO.range(0x40, 4)], name="disk")
    with pytest.raises(OSError, match="no medium") as caught:
        manager.mmio_load(0x1001, 1)
    assert caught.value.__notes__ == ["device access: PIO read of 1 byte at 0x41, offset 0x1 of 'disk' <failing>"]
    with pytest.raises(NoDeviceError) as missing:
        manager.mmio_load(0x1008, 1)
    assert missing.value.__notes__ == ["device access: MMIO read of 1 byte at 0x1008, offset 0x8 of <bridge>"]


def test_an_unowned_access_has_no_note():
    with pytest.raises(NoDeviceError) as caught:
        IoManager().mmio_load(0, 1)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("wrap", [Mutex, type("Subclass", (Mutex,), {})])
def test_the_note_of_a_mutex_shows_its_device(wrap):
    class Inner(DeviceIoMut):
        def store(self, base, offset, size, value):
            raise OSError("no medium")

        def __repr__(self):
            return "<inner>"

    manager = IoManager()
    manager.register_device_io(wrap(Inner()), [MMIO.range(0, 4)])
    with pytest.raises(OSError, match="no medium") as caught:
        manager.mmio_store(0, 1, 0)
    assert caught.value.__notes__ == ["device access: MMIO write of 1 byte at 0x0, offset 0x0 of Mutex(<inner>)"]


def test_a_note_is_added_on_any_thread_and_on_the_way_to_c_code():
    import ctypes

    error = OSError("no medium")
    manager = map_both(Failing(error))
    handle = CallbackHandle(manager)
    load = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint)(
        entry_point_addresses()["mmio_load"]
    )
    assert on_another_thread(load, handle.address, 0x108, 8) == 0
    assert handle.pop_exception() is error
    assert error.__notes__ == ["device access: MMIO read of 8 bytes at 0x108, offset 0x8 of <failing>"]


# ----------------------------------------------------------------------------- names


def test_a_name_is_shown_where_the_device_is():
    uart, disk = Recorder("uart"), Recorder("disk")
    manager = IoManager()
    added: list[Any] = []
    manager.on_change(lambda new, old: added.extend(new))
    manager.register_device_io(uart, [PIO.range(0x3F8, 8)], name="com1")
    with manager.begin_tx() as transaction:
        transaction.register_device_io(disk, [MMIO.range(0x1000, 0x100)], name="disk0")
        transaction.register_device_io(Recorder("plain"), [MMIO.range(0x2000, 0x100)])
    assert [each.name for each in added] == ["com1", "disk0", None]
    assert repr(added[0]) == "MappedRange(PIO 0x3f8..0x3ff, 'com1' <uart>)"
    lines = manager.format_map().splitlines()
    assert any("0x3f8" in line and "'com1' <uart>" in line for line in lines)
    assert any("0x2000" in line and "<plain>" in line and "'" not in line for line in lines)
    with pytest.raises(DeviceOverlapError) as overlap:
        manager.register_device_io(Recorder("late"), [PIO.range(0x3FF, 2)], name="com2")
    assert str(overlap.value) == "PIO range 0x3ff..0x400 of 'com2' <late> overlaps 0x3f8..0x3ff of 'com1' <uart>"
    assert (overlap.value.name, overlap.value.other_name) == ("com2", "com1")
    with pytest.raises(NoDeviceError) as straddling:
        manager.mmio_load(0x10FE, 4)
    assert "runs past the end of range 0x1000..0x10ff of 'disk0' <disk>" in str(straddling.value)
    assert straddling.value.owner_name == "disk0"


def test_copies_keep_the_names():
    manager = IoManager()
    manager.register_device_io(SharedCard(), [PIO.range(0, 8)], name="card")
    for twin in (manager.clone(), copy.copy(manager), copy.deepcopy(manager)):
        assert "'card'" in twin.format_map()
    restored = pickle.loads(pickle.dumps(map_named()))
    assert "'bare'" in restored.format_map()


def map_named() -> IoManager:
    manager = IoManager()
    manager.register_device_io(DeviceIo(), [PIO.range(0, 8)], name="bare")
    return manager


def test_names_need_not_differ_and_do_not_count_in_a_comparison():
    manager = IoManager()
    manager.register_device_io(Recorder("one"), [PIO.range(0, 1)], name="uart")
    manager.register_device_io(Recorder("two"), [PIO.range(1, 1)], name="uart")
    assert manager.format_map().count("'uart'") == 2
    assert map_named() == map_named()


@pytest.mark.parametrize("name", [5, b"uart", ("uart",)], ids=repr)
def test_a_name_is_a_string(name):
    manager = IoManager()
    for register in (manager.register_device_io, manager.begin_tx().register_device_io):
        with pytest.raises(TypeError, match=rf"^name must be a str or None, not {type(name).__name__}$"):
            register(Recorder(), [PIO.range(0, 1)], name=name)
    assert len(manager.pio_bus) == 0


def test_a_managed_device_is_registered_under_its_name():
    machine = Machine()
    changes: list[MappedRange] = []
    machine.bus.on_change(lambda added, removed: changes.extend(added))
    machine.devices.add_device("card", SharedCard())
    assert {each.name for each in changes} == {"card"}


# ----------------------------------------------------------------------------- spaces without a handler


def warnings_of(manager: IoManager, device: DeviceIo, *resources: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.register_device_io(device, resources)
    assert all(each.category is UnhandledSpaceWarning for each in caught)
    assert all(each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


def test_a_class_without_a_handler_for_a_space_warns_once():
    class Misspelt(DeviceIo):
        def laod(self, base, offset, size):
            return 1

        def pio_in(self, base, offset, size):
            return 1

    manager = IoManager()
    assert warnings_of(manager, Misspelt(), PIO.range(0, 1)) == []
    assert warnings_of(manager, Misspelt(), MMIO.range(0x10, 2), MMIO.range(0x20, 2)) == [
        "Misspelt is registered for MMIO 0x10..0x11 and has no handler for it (read, load, write, store); if that is "
        'intended: unhandled = "ignore"'
    ]
    assert warnings_of(manager, Misspelt(), MMIO.range(0x30, 2)) == []
    assert manager.mmio_load(0x10, 2) == 0

    class Child(Misspelt):
        pass

    assert len(warnings_of(manager, Child(), MMIO.range(0x40, 2))) == 1


@pytest.mark.parametrize("handler", ["read", "write", "load", "store"])
@pytest.mark.parametrize("place", ["class", "instance"])
def test_one_handler_of_a_space_is_enough(handler, place):
    for space, name in ((MMIO, handler), (PIO, {"load": "pio_in", "store": "pio_out"}.get(handler, f"pio_{handler}"))):
        device_type = type("Partly", (DeviceIo,), {name: lambda *arguments: None} if place == "class" else {})
        device = device_type()
        if place == "instance":
            setattr(device, name, lambda *arguments: None)
        assert warnings_of(IoManager(), device, space.range(0, 1)) == []
        other = PIO if space is MMIO else MMIO
        assert len(warnings_of(IoManager(), device, other.range(0, 1))) == 1


@each_space
def test_devices_that_do_nothing_on_purpose_do_not_warn(space):
    class Silent(DeviceIo):
        unhandled = "ignore"

    class SilentMut(DeviceIoMut):
        unhandled = "ignore"

    class SilentMutex(Mutex[Any]):
        unhandled = "ignore"

    class Empty(DeviceIoMut):
        pass

    class Native(NativeDevice):
        pass

    for device in (DeviceIo(), Silent(), Mutex(SilentMut()), SilentMutex(Empty()), Mutex(DeviceIoMut()), Native()):
        assert warnings_of(IoManager(), device, space.range(0, 1)) == []


def test_a_mutex_warns_of_the_class_of_its_device():
    class Lost(DeviceIoMut):
        pass

    class Found(DeviceIoMut):
        def load(self, base, offset, size):
            return 1

    class Logging(Mutex[Any]):
        pass

    manager = IoManager()
    [message] = warnings_of(manager, Mutex(Lost()), MMIO.range(0, 1))
    assert message.startswith("Lost is registered for MMIO 0x0..0x0 and has no handler for it")
    assert warnings_of(manager, Logging(Lost()), MMIO.range(1, 1)) == []  # of a class that has been warned about
    assert warnings_of(manager, Mutex(Found()), MMIO.range(2, 1)) == []
    assert warnings_of(manager, Logging(Found()), MMIO.range(3, 1)) == []
    [message] = warnings_of(manager, Logging(Found()), PIO.range(3, 1))
    assert message.startswith("Found is registered for PIO 0x3..0x3")


def test_a_warning_that_is_an_error_registers_nothing():
    class Strict(DeviceIo):
        pass

    manager = IoManager()
    with pytest.raises(UnhandledSpaceWarning):
        manager.register_device_io(Strict(), [MMIO.range(0, 1)])
    assert len(manager.mmio_bus) == 0


# ----------------------------------------------------------------------------- the log of unowned accesses


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "dbs_device"]


def test_each_unowned_address_is_logged_once_and_every_access_counted(caplog):
    manager = IoManager(open_bus=0xFF, log_unowned=True)
    assert (manager.log_unowned, manager.unowned_accesses) == (True, 0)
    manager.register_device_io(Recorder(), [MMIO.range(0x100, 4)])
    for _ in range(2):
        assert manager.mmio_load(0x1000, 4) == 0xFFFFFFFF
        manager.mmio_store(0x1000, 2, 0)
        manager.pio_write(0x1000, bytes(3))
        manager.mmio_read(0x102, bytearray(4))  # leaves its range
        manager.mmio_load(0x100, 4)
    assert logged(caplog) == [
        "unowned MMIO read of 4 bytes at 0x1000",
        "unowned PIO write of 3 bytes at 0x1000",
        "unowned MMIO read of 4 bytes at 0x102",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert manager.unowned_accesses == 8


def test_the_log_is_bounded_and_the_count_is_not(caplog):
    manager = IoManager(open_bus=0, log_unowned=True)
    for address in range(5000):
        manager.mmio_load(address, 1)
    messages = logged(caplog)
    assert messages[4095:] == [
        "unowned MMIO read of 1 byte at 0xfff",
        "4096 unowned addresses have been logged; others are only counted",
    ]
    assert manager.unowned_accesses == 5000


def test_nothing_is_logged_or_counted_unless_asked(caplog):
    manager = IoManager(open_bus=0xFF)
    manager.mmio_load(0, 1)
    assert (manager.log_unowned, manager.unowned_accesses, logged(caplog)) == (False, 0, [])
    with pytest.raises(ValueError, match=r"^log_unowned takes an open_bus"):
        IoManager(log_unowned=True)


def test_a_copy_logs_and_counts_for_itself(caplog):
    manager = IoManager(open_bus=0xFF, log_unowned=True)
    manager.mmio_load(0, 1)
    for twin in (manager.clone(), pickle.loads(pickle.dumps(manager))):
        assert (twin.log_unowned, twin.unowned_accesses) == (True, 0)
        twin.mmio_load(0, 1)
        assert twin.unowned_accesses == 1
    assert manager.unowned_accesses == 1
    assert len(logged(caplog)) == 3


def test_the_count_goes_on_when_the_map_changes(caplog):
    manager = IoManager(open_bus=0xFF, log_unowned=True)
    manager.mmio_load(0, 1)
    manager.register_device_io(Recorder(), [MMIO.range(0, 1)])
    manager.mmio_load(0, 1)
    manager.unregister_device_io([MMIO.range(0, 1)])
    manager.mmio_load(0, 1)
    assert manager.unowned_accesses == 2
    assert len(logged(caplog)) == 1


class Refusing(logging.Filter):
    def filter(self, record):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "access",
    [
        lambda manager: manager.mmio_load(0, 4),
        lambda manager: manager.pio_out(0, 4, 0),
        lambda manager: manager.mmio_read(0, bytearray(3)),
        lambda manager: manager.pio_write(0, bytes(3)),
    ],
    ids=["load", "out", "read", "write"],
)
def test_an_exception_while_logging_comes_out_of_the_access(access):
    manager = IoManager(open_bus=0xFF, log_unowned=True)
    logger = logging.getLogger("dbs_device")
    refusing = Refusing()
    logger.addFilter(refusing)
    try:
        with pytest.raises(KeyboardInterrupt):
            access(manager)
    finally:
        logger.removeFilter(refusing)
    assert manager.unowned_accesses == 1


def test_unowned_accesses_of_a_guest_are_counted_by_its_manager(caplog):
    pytest.importorskip("unicorn")
    from unicorn_guest import DEVICE, Guest, load, mmio, port_in, set_eax

    manager = IoManager(open_bus=0xFF, log_unowned=True)
    manager.register_device_io(Recorder(), mmio(DEVICE, 0x100))
    guest = Guest(manager)
    assert guest.run(set_eax(0), load(DEVICE + 0x200, 2)) == 0xFFFF  # in a page that has a range
    assert guest.run(set_eax(0), port_in(0x77, 1), port_in(0x77, 1)) == 0xFF
    assert logged(caplog) == [
        f"unowned MMIO read of 2 bytes at {DEVICE + 0x200:#x}",
        "unowned PIO read of 1 byte at 0x77",
    ]
    assert manager.unowned_accesses == 3


# ----------------------------------------------------------------------------- in traces


def test_a_trace_calls_ranges_by_the_names_of_their_devices():
    manager = IoManager(open_bus=0)
    named = DeviceIo()
    manager.register_device_io(named, [Resource.MmioAddressRange(0x1000, 16), Resource.PioAddressRange(0x60, 1)], "kbd")
    manager.register_device_io(DeviceIo(), [Resource.MmioAddressRange(0x2000, 16)])
    manager.register_device_io(DeviceIo(), [Resource.MmioAddressRange(0x3000, 16)], "kbd")
    recorder = TraceRecorder(manager)
    recorder.mmio_load(0x1000, 4)
    ranges = recorder.trace.ranges
    assert [(each.space, each.base, each.name) for each in ranges] == [
        (Space.PIO, 0x60, "kbd"),
        (Space.MMIO, 0x1000, "kbd"),
        (Space.MMIO, 0x2000, "DeviceIo"),
        (Space.MMIO, 0x3000, "kbd#2"),
    ]


def test_the_mapped_ranges_of_a_moment_have_names():
    manager = IoManager()
    device = DeviceIo()
    manager.register_device_io(
        device, [Resource.MmioAddressRange(0x1000, 16), Resource.PioAddressRange(0x60, 1)], "kbd"
    )
    assert manager.mapped_ranges() == (
        (Space.MMIO, 0x1000, 0x100F, device, "kbd"),
        (Space.PIO, 0x60, 0x60, device, "kbd"),
    )
