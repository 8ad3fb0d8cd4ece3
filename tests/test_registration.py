"""Registration: which ranges and devices are accepted, and which handlers are called."""

from __future__ import annotations

import functools
import re

import pytest
from helpers import ACCESSES, MMIO, PIO, EveryAccess, Recorder, each_space, map_both, whole_map

from dbs_device import (
    DeviceIo,
    DeviceIoMut,
    DeviceOverlapError,
    DeviceResources,
    InvalidRangeError,
    IoManager,
    NoDeviceError,
    Resource,
)

# ----------------------------------------------------------------------------- ranges and devices


@each_space
def test_a_range_reaches_from_its_base_to_its_last_address_and_no_further(space):
    device = Recorder()
    manager = IoManager()
    manager.register_device_io(device, [space.range(0x100, 0x10)])
    assert list(space.bus(manager)) == [(0x100, 0x10F, device)]
    space.load(manager, 0x100, 1)
    space.load(manager, 0x10F, 1)
    assert [(base, offset) for _, base, offset, _ in device.calls] == [(0x100, 0), (0x100, 0xF)]
    for outside in (0xFF, 0x110):
        with pytest.raises(NoDeviceError):
            space.load(manager, outside, 1)


@each_space
def test_a_range_may_be_the_whole_space(space):
    device = Recorder()
    manager = IoManager()
    manager.register_device_io(device, [space.range(0, space.last + 1)])
    assert list(space.bus(manager)) == [(0, space.last, device)]
    for address in (0, 1, space.last // 2, space.last - 1, space.last):
        space.load(manager, address, 1)
        assert device.calls.pop()[1:3] == (0, address)
        assert space.bus(manager).find(address) is device
    with pytest.raises(
        NoDeviceError,
        match=rf"^the access to {space} address {space.last:#x} \(2 bytes\) runs past the end of range "
        rf"0x0\.\.{space.last:#x} of <recorder>$",
    ):
        space.load(manager, space.last, 2)


@each_space
@pytest.mark.parametrize(
    ("base", "size", "error", "message"),
    [
        (0x180, -5, InvalidRangeError, "is empty"),
        (-1, 5, InvalidRangeError, "begins below address 0"),
        (2**64, 5, InvalidRangeError, "runs past the last"),
        (0x180, 5.0, TypeError, "'float' object cannot be interpreted as an integer"),
    ],
)
def test_a_resource_whose_fields_were_not_checked(space, base, size, error, message):
    class Unchecked(type(space.range(0, 1))):
        __slots__ = ()

        def __post_init__(self):
            pass

    manager = IoManager()
    with pytest.raises(error, match=message):
        manager.register_device_io(DeviceIo(), [space.range(0x100, 1), Unchecked(base, size)])
    assert whole_map(manager) == []


@each_space
def test_one_address_at_either_end_of_the_space_can_be_a_range(space):
    first, last = Recorder("first"), Recorder("last")
    manager = IoManager()
    manager.register_device_io(first, [space.range(0, 1)])
    manager.register_device_io(last, [space.range(space.last, 1)])
    bus = space.bus(manager)
    assert list(bus) == [(0, 0, first), (space.last, space.last, last)]
    assert [bus.find(address) for address in (0, 1, space.last - 1, space.last)] == [first, None, None, last]
    manager.unregister_device_io([space.range(space.last, 1)])
    assert list(bus) == [(0, 0, first)]


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (MMIO.range(0, 0), "empty"),
        (MMIO.range(2**64 - 1, 0), "empty"),
        (PIO.range(0xFFFF, 0), "empty"),
        (MMIO.range(2**64 - 1, 2), "past the .*, 0xffffffffffffffff$"),
        (MMIO.range(1, 2**64), "past the .*, 0xffffffffffffffff$"),
        (PIO.range(0xFFFF, 2), "past the .*, 0xffff$"),
        (PIO.range(1, 0x10000), "past the .*, 0xffff$"),
    ],
    ids=str,
)
def test_an_empty_range_and_one_past_the_end_of_its_space_are_refused_with_all_others(resource, message):
    manager = IoManager()
    message = rf"^{re.escape(repr(resource))} .*{message}"
    with pytest.raises(InvalidRangeError, match=message) as refused:
        manager.register_device_io(DeviceIo(), [MMIO.range(0x10, 1), PIO.range(0x10, 1), resource])
    assert isinstance(refused.value, ValueError)
    assert whole_map(manager) == []
    with pytest.raises(InvalidRangeError, match=message):
        manager.unregister_device_io([resource])


OLDER = (0x100, 0x1FF)
OVERLAPPING = {
    "the same": (0x100, 0x1FF),
    "its first address": (0x100, 0x100),
    "its last address": (0x1FF, 0x1FF),
    "inside": (0x140, 0x17F),
    "the same base, shorter": (0x100, 0x10F),
    "the same base, longer": (0x100, 0x2FF),
    "the same end, shorter": (0x1F0, 0x1FF),
    "the same end, longer": (0x80, 0x1FF),
    "around it": (0xFF, 0x200),
    "ends on its first": (0x80, 0x100),
    "begins on its last": (0x1FF, 0x240),
    "the whole space": (0, 0xFFFF),
}
BESIDE = {"ends before it": (0x80, 0xFF), "begins after it": (0x200, 0x240), "elsewhere": (0xF000, 0xFFFF)}


@each_space
@pytest.mark.parametrize("newer", OVERLAPPING.values(), ids=OVERLAPPING)
def test_an_overlap_is_refused_in_every_position_and_names_both_ranges_and_devices(space, newer):
    owner, intruder = Recorder("owner"), Recorder("intruder")
    manager = IoManager()
    manager.register_device_io(owner, [space.range(OLDER[0], OLDER[1] - OLDER[0] + 1)])
    before = manager.tables()
    with pytest.raises(DeviceOverlapError) as refused:
        manager.register_device_io(intruder, [space.range(newer[0], newer[1] - newer[0] + 1)])
    assert str(refused.value) == (
        f"{space} range {newer[0]:#x}..{newer[1]:#x} of <intruder> overlaps 0x100..0x1ff of <owner>"
    )
    assert isinstance(refused.value, ValueError)
    assert manager.tables() is before
    space.load(manager, 0x100, 1)
    assert len(owner.calls) == 1
    assert intruder.calls == []


@each_space
@pytest.mark.parametrize("newer", OVERLAPPING.values(), ids=OVERLAPPING)
def test_an_overlap_within_one_call_is_refused(space, newer):
    ranges = [space.range(base, last - base + 1) for base, last in (OLDER, newer)]
    manager = IoManager()
    for order in (ranges, ranges[::-1]):
        with pytest.raises(DeviceOverlapError, match=r"of <recorder> overlaps .* of <recorder>"):
            manager.register_device_io(Recorder(), order)
        assert whole_map(manager) == []


@each_space
@pytest.mark.parametrize("newer", BESIDE.values(), ids=BESIDE)
def test_neighbours_do_not_overlap(space, newer):
    manager = IoManager()
    manager.register_device_io(DeviceIo(), [space.range(base, last - base + 1) for base, last in (OLDER, newer)])
    assert [(base, last) for base, last, _ in space.bus(manager)] == sorted([OLDER, newer])


def test_the_two_spaces_do_not_overlap_each_other():
    ports, memory = Recorder("ports"), Recorder("memory")
    manager = IoManager()
    manager.register_device_io(ports, [PIO.range(0x100, 0x10)])
    manager.register_device_io(memory, [MMIO.range(0x100, 0x10)])
    manager.pio_in(0x100, 1)
    manager.mmio_load(0x100, 1)
    assert [call[0] for call in ports.calls] == ["pio_read"]
    assert [call[0] for call in memory.calls] == ["read"]


@pytest.mark.parametrize("at", range(4))
def test_a_call_registers_all_of_its_ranges_or_none(at):
    manager = map_both(Recorder("owner"))
    before = whole_map(manager)
    resources = [PIO.range(0x300, 1), MMIO.range(0x300, 1), MMIO.range(0x40, 8)]
    resources.insert(at, MMIO.range(0x1FF, 1))
    with pytest.raises(DeviceOverlapError):
        manager.register_device_io(Recorder(), resources)
    assert whole_map(manager) == before


def test_resources_that_are_not_trapped_are_passed_over():
    device = Recorder()
    manager = IoManager()
    resources = DeviceResources(
        [
            Resource.LegacyIrq(4),
            Resource.MemAddressRange(0, 2**64),
            PIO.range(0x3F8, 8),
            Resource.MacAddress("52:54:00:00:00:01"),
            Resource.KvmMemSlot(1),
        ]
    )
    manager.register_device_io(device, resources)
    assert whole_map(manager) == [(0x3F8, 0x3FF, device)]
    manager.unregister_device_io(resources)
    assert whole_map(manager) == []


def test_registering_nothing_changes_nothing():
    manager = IoManager()
    before = manager.tables()
    manager.register_device_io(DeviceIo(), [Resource.LegacyIrq(4)])
    manager.register_device_io(DeviceIo(), iter([]))
    manager.unregister_device_io(DeviceResources())
    assert manager.tables() is before


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([(0, 4)], r"\bResource\b.* not tuple$"),
        ([PIO.range(0, 1), None], r"\bResource\b.* not NoneType$"),
        (5, "'int' object is not iterable"),
        (MMIO.range(0, 4), "'MmioAddressRange' object is not iterable"),
    ],
    ids=str,
)
def test_resources_are_an_iterable_of_resources(resources, message):
    manager = IoManager()
    with pytest.raises(TypeError, match=message):
        manager.register_device_io(DeviceIo(), resources)
    with pytest.raises(TypeError, match=message):
        manager.unregister_device_io(resources)
    assert whole_map(manager) == []


class BareMut(DeviceIoMut):
    pass


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (BareMut(), r"\bBareMut\b.*\bDeviceIoMut\b.*\bMutex\(BareMut\(\.\.\.\)\)"),
        (object(), r"\bDeviceIo\b.*\bobject\b"),
        (None, r"\bDeviceIo\b.*\bNoneType\b"),
        (Recorder, r"^a device must be an instance: register Recorder\(\.\.\.\), not the class Recorder$"),
        (BareMut, r"^a device must be an instance: register Mutex\(BareMut\(\.\.\.\)\), not the class BareMut$"),
    ],
    ids=str,
)
def test_only_a_device_io_can_be_registered(device, message):
    manager = IoManager()
    for register in (manager.register_device_io, manager.begin_tx().register_device_io):
        with pytest.raises(TypeError, match=message):
            register(device, [MMIO.range(0, 4)])
    assert whole_map(manager) == []


def test_a_class_declared_to_be_a_device_io_is_one():
    class Elsewhere:
        read = write = pio_read = pio_write = staticmethod(lambda base, offset, data: None)

    with pytest.raises(TypeError):
        IoManager().register_device_io(Elsewhere(), [MMIO.range(0, 4)])
    DeviceIo.register(Elsewhere)
    manager = map_both(Elsewhere())
    assert manager.mmio_load(0x100, 4) == 0


# ----------------------------------------------------------------------------- unregistering


@each_space
@pytest.mark.parametrize("wrong", [(0x100, 0xFF), (0x100, 0x101), (0x101, 0xFF), (0x120, 1), (0xFF, 1), (0x200, 1)])
def test_only_the_exact_range_can_be_unregistered(space, wrong):
    manager = map_both(Recorder())
    before = manager.tables()
    base, size = wrong
    with pytest.raises(NoDeviceError, match=rf"^no {space} range {base:#x}\.\.{base + size - 1:#x} ") as refused:
        manager.unregister_device_io([space.range(*wrong)])
    assert (refused.value.space.name, refused.value.address, refused.value.size) == (space.name, base, size)
    assert isinstance(refused.value, LookupError)
    assert manager.tables() is before


@pytest.mark.parametrize("at", range(3))
def test_a_call_unregisters_all_of_its_ranges_or_none(at):
    manager = map_both(Recorder())
    before = manager.tables()
    resources = [MMIO.range(0x100, 0x100), PIO.range(0x100, 0x100)]
    resources.insert(at, MMIO.range(0x300, 1))
    with pytest.raises(NoDeviceError, match=r"^no MMIO range 0x300\.\.0x300 "):
        manager.unregister_device_io(resources)
    assert manager.tables() is before


def test_a_range_cannot_be_unregistered_twice_in_a_call():
    manager = map_both(Recorder())
    with pytest.raises(NoDeviceError):
        manager.unregister_device_io([MMIO.range(0x100, 0x100)] * 2)
    assert len(manager.mmio_bus) == 1


def test_ranges_of_several_devices_can_be_unregistered_in_one_call():
    manager = IoManager()
    for base in (0, 0x10, 0x20):
        manager.register_device_io(Recorder(), [MMIO.range(base, 0x10)])
    manager.unregister_device_io([MMIO.range(0x20, 0x10), MMIO.range(0, 0x10)])
    assert [base for base, _, _ in manager.mmio_bus] == [0x10]


# ----------------------------------------------------------------------------- handlers


def test_handlers_are_looked_up_at_registration_only():
    calls = []

    class Device(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            calls.append("old")

    device = Device()
    manager = map_both(device)
    Device.read = lambda self, base, offset, data: calls.append("new")
    device.write = lambda base, offset, data: calls.append("instance")
    manager.mmio_load(0x100, 1)
    manager.mmio_store(0x100, 1, 0)
    assert calls == ["old"]
    clone = manager.clone()
    manager.unregister_device_io([MMIO.range(0x100, 0x100)])
    manager.register_device_io(device, [MMIO.range(0x100, 0x100)])
    manager.mmio_load(0x100, 1)
    manager.mmio_store(0x100, 1, 0)
    assert calls == ["old", "new", "instance"]
    clone.mmio_load(0x100, 1)
    assert calls.pop() == "old"


HANDLERS = ("read", "write", "pio_read", "pio_write")
ON_THE_CLASS = {
    "method": lambda note: lambda self, base, offset, data: note(base, offset, data),
    "static method": staticmethod,
    "class method": lambda note: classmethod(lambda cls, base, offset, data: note(base, offset, data)),
    "property": lambda note: property(lambda self: note),
    # In a static method: a bare partial on a class will be bound to its instances in a future Python.
    "callable object": lambda note: staticmethod(functools.partial(note)),
}
ON_THE_INSTANCE = {
    "function": lambda note: note,
    "partial": lambda note: functools.partial(lambda tag, base, offset, data: note(base, offset, data), "tag"),
    "method of another object": lambda note: Recorded(note).method,
}


class Recorded:
    def __init__(self, note):
        self.note = note

    def method(self, base, offset, data):
        self.note(base, offset, data)


@pytest.mark.parametrize("kind", [*ON_THE_CLASS, *ON_THE_INSTANCE])
@pytest.mark.parametrize("slots", [False, True], ids=["dict", "slots"])
def test_a_handler_may_be_any_callable(kind, slots):
    given = []

    def note(base, offset, data):
        given.append((base, offset, bytes(data)))

    if kind in ON_THE_CLASS:
        namespace = dict.fromkeys(HANDLERS, ON_THE_CLASS[kind](note)) | ({"__slots__": ()} if slots else {})
        device = type("Device", (DeviceIo,), namespace)()
    else:
        device = type("Device", (DeviceIo,), {"__slots__": HANDLERS} if slots else {})()
        for name in HANDLERS:
            setattr(device, name, ON_THE_INSTANCE[kind](note))
    manager = map_both(device)
    for access in ACCESSES:
        access(manager, 0x104, 2)
        assert given.pop() == (0x100, 4, b"\0\0" if access.reads else access.payload[:2])
    assert given == []


@pytest.mark.parametrize("answer", [0, False, b"", NotImplemented], ids=repr)
@pytest.mark.parametrize("is_method", [True, False], ids=["method", "function"])
def test_a_buffer_handler_that_returns_a_value_is_an_error(answer, is_method):
    class Chatty(DeviceIo):
        def read(self, base, offset, data):
            return answer

        write = pio_read = pio_write = read

    device = Chatty()
    if not is_method:
        device = EveryAccess()
        for handler in HANDLERS:
            setattr(device, handler, lambda base, offset, data: answer)
    manager = map_both(device)
    for access in ACCESSES:
        with pytest.raises(TypeError) as caught:
            access(manager, 0x100)
        assert f"returned {answer!r}: a buffer handler fills `data` and returns None" in str(caught.value)
        [note] = caught.value.__notes__
        assert note.startswith(
            f"device access: {access.space} {'read' if access.reads else 'write'} of 1 byte at 0x100"
        )


def test_a_handler_that_is_a_generator_by_mistake_is_an_error():
    class Lazy(DeviceIo):
        unhandled = "ignore"

        def read(self, base, offset, data):
            yield data

    with pytest.raises(TypeError, match=r"Lazy\.read returned <generator"):
        map_both(Lazy()).mmio_load(0x100, 4)


def test_a_handler_that_cannot_be_looked_up_keeps_the_device_out():
    class Broken(DeviceIo):
        unhandled = "ignore"

        @property
        def write(self):
            raise OSError("no handler today")

    manager = IoManager()
    with pytest.raises(OSError, match="no handler today"):
        manager.register_device_io(Broken(), [PIO.range(0, 1), MMIO.range(0, 1)])
    assert whole_map(manager) == []
    # A port range does not need the MMIO handlers.
    manager.register_device_io(Broken(), [PIO.range(0, 1)])


def test_a_device_may_own_many_ranges_and_gets_the_base_of_the_one_accessed():
    device = Recorder()
    manager = IoManager()
    manager.register_device_io(device, [MMIO.range(0x1000, 0x10), MMIO.range(0x40, 4), PIO.range(0x40, 4)])
    manager.mmio_load(0x1003, 1)
    manager.mmio_load(0x42, 1)
    manager.pio_in(0x41, 1)
    assert [call[:3] for call in device.calls] == [("read", 0x1000, 3), ("read", 0x40, 2), ("pio_read", 0x40, 1)]
    manager.unregister_device_io([MMIO.range(0x40, 4)])
    assert manager.mmio_bus.find(0x40) is None
    assert manager.mmio_bus.find(0x1000) is device
