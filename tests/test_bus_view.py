"""The map as seen from outside: the views of both spaces, equality, copies, and its text."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import MMIO, PIO, SPACES, Recorder, each_space, map_both, whole_map
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import (
    Bus,
    DeviceIo,
    DeviceResources,
    IoManager,
    NoDeviceError,
    Resource,
)

ARRAYS = ["bases", "lasts"]
each_array = pytest.mark.parametrize("name", ARRAYS)


def map_ranges(space, ranges):
    """Return a manager with a device of its own for each (base, last)."""
    manager = IoManager()
    for base, last in ranges:
        manager.register_device_io(Recorder(f"at {base:#x}"), [space.range(base, last - base + 1)])
    return manager


@st.composite
def layouts(draw):
    """Draw a space and ranges of it that do not overlap, in any order, at its ends with good probability."""
    space = draw(st.sampled_from(SPACES))
    near = st.sampled_from([0, 1, 2, space.last - 1, space.last, space.last // 2, space.last // 2 + 1])
    ends = sorted(draw(st.sets(near | st.integers(0, space.last), max_size=24)))
    ranges = []
    while ends:
        base = ends.pop(0)
        # A range of one address, or up to the next point.
        last = ends.pop(0) if ends and draw(st.booleans()) else base
        ranges.append((base, last))
    return space, draw(st.permutations(ranges))


def points_of(space, ranges):
    """Return every address at which the answer may change, and its neighbours."""
    points = {0, 1, space.last - 1, space.last}
    for base, last in ranges:
        points |= {base - 1, base, base + 1, last - 1, last, last + 1}
    return sorted(point for point in points if 0 <= point <= space.last)


# ----------------------------------------------------------------------------- finding


@given(layout=layouts(), more=st.lists(st.integers(0, 2**64 - 1), max_size=10))
def test_every_look_up_agrees_with_a_search_of_all_ranges(layout, more):
    space, ranges = layout
    manager = map_ranges(space, ranges)
    bus = space.bus(manager)
    entries = list(bus)
    assert [(base, last) for base, last, _ in entries] == sorted(ranges)
    points = points_of(space, ranges) + [address & space.last for address in more]
    found = bus.find_many(np.array(points, np.uint64))
    for address, index in zip(points, found.tolist(), strict=True):
        owners = [number for number, (base, last, _) in enumerate(entries) if base <= address <= last]
        assert index == (owners[0] if owners else -1)
        if owners:
            base, _, device = entries[index]
            assert bus.find(address) is device
            assert bus.resolve(address) == (device, base, address - base)
        else:
            assert bus.find(address) is None
            with pytest.raises(NoDeviceError, match=rf"^no device owns {space} address {address:#x}$"):
                bus.resolve(address)


@each_space
def test_resolve_gives_what_a_device_is_called_with(space):
    device = Recorder()
    manager = map_both(device, 0x100, 0x8000)
    for address in (0x100, 0x101, 0x80FF):
        owner, base, offset = space.bus(manager).resolve(address)
        space.load(manager, address, 1)
        assert owner is device
        assert device.calls.pop()[1:3] == (base, offset)
        assert type(base) is type(offset) is space.address_type


@each_space
@pytest.mark.parametrize("method", ["find", "resolve"])
def test_a_look_up_takes_addresses_of_its_space(space, method):
    bus = space.bus(IoManager())
    for outside in (-1, space.last + 1, 2**64, -(2**64)):
        with pytest.raises(OverflowError, match=rf"^{space} address {outside:#x} .*0x0\.\.{space.last:#x}$"):
            getattr(bus, method)(outside)
    for other in (1.0, "1", None):
        with pytest.raises(TypeError, match="integer"):
            getattr(bus, method)(other)


@pytest.mark.parametrize("count", [*range(20), 1000])
@pytest.mark.parametrize("ranges", [0, 1, 2, 3, 7, 8, 9])
def test_find_many_takes_any_number_of_addresses(count, ranges):
    manager = map_ranges(MMIO, [(base * 0x20, base * 0x20 + 0xF) for base in range(ranges)])
    addresses = np.random.default_rng(count).integers(0, 0x20 * 10, count, np.uint64)
    owned = (addresses % 0x20 < 0x10) & (addresses // 0x20 < ranges)
    found = manager.mmio_bus.find_many(addresses)
    assert found.dtype == np.intp
    assert found.tolist() == np.where(owned, (addresses // 0x20).astype(np.intp), -1).tolist()


@pytest.mark.parametrize(
    "addresses",
    [
        np.arange(0x1F0, 0x210, dtype=np.uint64),
        np.arange(0x1F0, 0x210, dtype=">u8"),
        np.arange(0x1F0, 0x210, dtype="<u4"),
        np.arange(0x1F0, 0x210, dtype=np.uint16),
        np.arange(0x80, 0xFF, dtype=np.uint8),
        np.arange(0x1F0, 0x210, dtype=np.uint64)[::-3],
        np.arange(0x1F0, 0x210, dtype=np.uint64).reshape(4, 2, 4),
        np.asfortranarray(np.arange(0x1F0, 0x210, dtype=np.uint64).reshape(4, 8)),
        np.arange(0x1F0, 0x210, dtype=np.uint64).reshape(4, 8).T[::2],
        np.empty((0, 3), np.uint64),
        np.uint64(0x1FF),
        np.array(0x200, np.uint64),
    ],
    ids=lambda addresses: f"{addresses.dtype.str}{addresses.shape}",
)
def test_find_many_takes_unsigned_arrays_of_any_width_and_shape(addresses):
    manager = map_both(Recorder())
    found = manager.mmio_bus.find_many(addresses)
    assert found.shape == addresses.shape
    assert found.dtype == np.intp
    assert (found == np.where((addresses >= 0x100) & (addresses <= 0x1FF), 0, -1)).all()


def test_find_many_leaves_its_argument_alone():
    addresses = np.array([0x100, 5], np.uint64)
    addresses.flags.writeable = False
    assert map_both(Recorder()).pio_bus.find_many(addresses).tolist() == [0, -1]
    assert addresses.tolist() == [0x100, 5]


@pytest.mark.parametrize(
    ("addresses", "dtype"),
    [
        ([1, 2], "int64"),
        ([], "float64"),
        (np.array([1]), "int64"),
        (np.array([1.0]), "float64"),
        (np.array([True]), "bool"),
        (np.array([2**70]), "object"),
        ("abc", "<U3"),
        (None, "object"),
        (-1, "int64"),
    ],
    ids=str,
)
def test_find_many_takes_nothing_else(addresses, dtype):
    with pytest.raises(TypeError, match=rf"^addresses .*\bunsigned\b.* {dtype}$"):
        map_both(Recorder()).mmio_bus.find_many(addresses)


def test_ports_above_the_space_are_unowned_in_find_many():
    manager = map_both(Recorder(), 0, 0x10000)
    found = manager.pio_bus.find_many(np.array([0xFFFF, 0x10000, 2**64 - 1], np.uint64))
    assert found.tolist() == [0, -1, -1]


# ----------------------------------------------------------------------------- arrays and iteration


@each_space
def test_a_view_shows_the_ranges_sorted_by_base(space):
    manager = map_ranges(space, [(0x30, 0x3F), (0, 0), (space.last, space.last), (0x10, 0x1F)])
    bus = space.bus(manager)
    assert len(bus) == 4
    assert [(base, last) for base, last, _ in bus] == [(0, 0), (0x10, 0x1F), (0x30, 0x3F), (space.last, space.last)]
    assert bus.bases.tolist() == [0, 0x10, 0x30, space.last]
    assert bus.lasts.tolist() == [0, 0x1F, 0x3F, space.last]
    assert bus.devices == tuple(device for _, _, device in bus)
    assert [device.name for device in bus.devices] == ["at 0x0", "at 0x10", "at 0x30", f"at {space.last:#x}"]
    assert repr(bus) == f"<{space} bus: 4 ranges>"


@each_space
def test_an_empty_view(space):
    bus = space.bus(IoManager())
    assert len(bus) == 0
    assert list(bus) == []
    assert bus.devices == ()
    assert repr(bus) == f"<{space} bus: 0 ranges>"
    for array in (bus.bases, bus.lasts):
        assert array.shape == (0,)
        assert array.dtype == np.uint64
    for address in (0, 1, space.last):
        assert bus.find(address) is None
    assert repr(space.bus(map_both(Recorder()))) == f"<{space} bus: 1 range>"


@each_space
def test_a_view_is_live_and_what_it_gave_before_is_not(space):
    manager = map_ranges(space, [(0x10, 0x1F), (0x20, 0x2F)])
    bus = space.bus(manager)
    bases, lasts, devices, iterator = bus.bases, bus.lasts, bus.devices, iter(bus)
    next(iterator)
    manager.unregister_device_io([space.range(0x20, 0x10)])
    manager.register_device_io(DeviceIo(), [space.range(0, 4)])
    assert bus.bases.tolist() == [0, 0x10]
    assert [base for base, _, _ in bus] == [0, 0x10]
    assert (bases.tolist(), lasts.tolist()) == ([0x10, 0x20], [0x1F, 0x2F])
    assert [device.name for device in devices] == ["at 0x10", "at 0x20"]
    assert [base for base, _, _ in iterator] == [0x20]
    # They outlive the manager.
    del manager, bus
    assert (bases.tolist(), lasts.tolist()) == ([0x10, 0x20], [0x1F, 0x2F])


@each_array
def test_the_arrays_are_not_copied(name):
    bus = map_ranges(MMIO, [(base, base) for base in range(4)]).mmio_bus
    one, other = getattr(bus, name), getattr(bus, name)
    assert np.shares_memory(one, other)
    assert one.dtype == np.uint64
    assert one.dtype.isnative
    assert one.flags.c_contiguous
    assert not one.flags.owndata


WAYS_TO_WRITE = {
    "item": lambda array: array.__setitem__(0, 5),
    "slice": lambda array: array.__setitem__(slice(None), 5),
    "in place": lambda array: array.__iadd__(np.uint64(1)),
    "out": lambda array: np.add(array, np.uint64(1), out=array),
    "fill": lambda array: array.fill(5),
    "sort": lambda array: array.sort(),
    "partition": lambda array: array.partition(1),
    "put": lambda array: array.put([0], [5]),
    "byteswap": lambda array: array.byteswap(inplace=True),
    "copyto": lambda array: np.copyto(array, np.uint64(5)),
    "put_along_axis": lambda array: np.put_along_axis(array, np.array([0]), np.uint64(5), 0),
    "flat": lambda array: array.flat.__setitem__(0, 5),
    "setfield": lambda array: array.setfield(5, np.uint64),
    "flags": lambda array: setattr(array.flags, "writeable", True),
    "setflags": lambda array: array.setflags(write=True),
    "flags of a view": lambda array: array.view().setflags(write=True),
    "flags of a slice": lambda array: array[1:].setflags(write=True),
    "flags of a reshaped one": lambda array: array.reshape(2, 2).setflags(write=True),
    "flags of another type": lambda array: array.view(np.uint8).setflags(write=True),
    "flags of a new array on it": lambda array: np.ndarray(4, np.uint64, array).setflags(write=True),
    "flags of one on its base": lambda array: np.frombuffer(array.base, np.uint64).setflags(write=True),
    "flags of a subclass": lambda array: array.view(np.recarray).setflags(write=True),
    "flags of an interface": lambda array: np.asarray(_Interface(array)).setflags(write=True),
    "a stridden one": lambda array: np.lib.stride_tricks.as_strided(array, writeable=True).__setitem__(0, 5),
    "memoryview": lambda array: memoryview(array).__setitem__(0, 5),
    "memoryview of its base": lambda array: memoryview(array.base).cast("B").__setitem__(0, 5),
    "resize": lambda array: array.resize(8, refcheck=False),
}


class _Interface:
    """Passes on the address of an array, as other libraries do."""

    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


@each_array
@pytest.mark.parametrize("write", WAYS_TO_WRITE.values(), ids=WAYS_TO_WRITE)
def test_the_arrays_are_read_only_for_good(name, write):
    manager = map_ranges(MMIO, [(base * 0x10, base * 0x10 + 3) for base in range(4)])
    before = getattr(manager.mmio_bus, name).tolist()
    with pytest.raises((ValueError, TypeError, BufferError)):
        write(getattr(manager.mmio_bus, name))
    assert getattr(manager.mmio_bus, name).tolist() == before
    assert manager.mmio_bus.find(0x13) is manager.mmio_bus.devices[1]


WAYS_TO_DISFIGURE = {
    "shape": lambda array: setattr(array, "shape", (2, 2)),
    "dtype": lambda array: setattr(array, "dtype", np.uint8),
    "strides": lambda array: setattr(array, "strides", (0,)),
    "state": lambda array: array.__setstate__((1, (4,), np.dtype(np.uint64), False, b"\5" * 32)),
}


@each_array
@pytest.mark.parametrize("disfigure", WAYS_TO_DISFIGURE.values(), ids=WAYS_TO_DISFIGURE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy means to forbid some of these
def test_what_one_caller_does_to_its_array_object_is_not_seen_by_others(name, disfigure):
    manager = map_ranges(MMIO, [(base, base) for base in range(4)])
    other = getattr(manager.mmio_bus, name)
    disfigure(getattr(manager.mmio_bus, name))
    for array in (other, getattr(manager.mmio_bus, name)):
        assert array.dtype == np.uint64
        assert array.shape == (4,)
        assert array.tolist() == [0, 1, 2, 3]


def test_a_view_is_not_made_by_users():
    with pytest.raises(TypeError, match=r"IoManager\.mmio_bus\b.*\bIoManager\.pio_bus\b"):
        Bus()
    with pytest.raises(TypeError):
        type("Mine", (Bus,), {})


def test_a_view_made_past_its_constructor_is_useless_but_harmless():
    """In a process of its own, which a failure would crash."""
    program = """
from dbs_device import Bus, Transaction
uses = {
    Bus: [len, list, repr, lambda bus: bus.find(0), lambda bus: bus.resolve(0), lambda bus: bus.bases],
    Transaction: [Transaction.commit, Transaction.cancel, Transaction.__enter__, lambda tx: tx.find("PIO", 0)],
}
for cls in uses:
    for use in uses[cls]:
        try:
            use(cls.__new__(cls))
        except Exception:
            print("refused")
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (outcome.returncode, outcome.stdout) == (0, "refused\n" * 10), outcome.stderr


# ----------------------------------------------------------------------------- equality


class Trapping(DeviceIo):
    unhandled = "ignore"

    def __init__(self, *resources):
        self.resources = DeviceResources(resources)

    def get_trapped_io_resources(self):
        return self.resources


def test_equal_managers_map_the_same_ranges_to_devices_that_trap_the_same():
    def make(size=0x10, irq=4, port=0x3F8, **options):
        manager = IoManager(**options)
        ranges = [MMIO.range(0x1000, size), PIO.range(port, 8)]
        manager.register_device_io(Trapping(Resource.LegacyIrq(irq), *ranges), ranges)
        return manager

    assert make() == make()
    assert (make() != make()) is False
    assert make() == make(open_bus=5, straddle="pass", byteorder="big")
    assert make() != make(size=0x20)
    assert make() != make(irq=5)
    assert make() != make(port=0x2F8)
    assert make() != IoManager()
    assert IoManager() == IoManager()
    assert IoManager() != make()
    manager = make()
    manager.register_device_io(Trapping(), [PIO.range(0, 1)])
    assert manager != make()


def test_managers_are_compared_range_by_range():
    one, other = Trapping(MMIO.range(0, 1)), Trapping(MMIO.range(1, 1))
    managers = []
    for first, second in [(one, other), (other, one)]:
        manager = IoManager()
        manager.register_device_io(first, [MMIO.range(0, 1)])
        manager.register_device_io(second, [MMIO.range(1, 1)])
        managers.append(manager)
    assert managers[0] != managers[1]


def test_a_manager_equals_itself_and_no_object_of_another_type():
    manager = map_both(DeviceIo())
    assert manager == manager
    assert manager != 5
    assert manager != None  # noqa: E711
    assert (manager == object()) is False
    assert manager.__eq__(5) is NotImplemented

    class Subclass(IoManager):
        pass

    assert Subclass() == IoManager()


def test_an_exception_of_a_device_comes_out_of_a_comparison():
    class Failing(DeviceIo):
        unhandled = "ignore"

        def get_trapped_io_resources(self):
            raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        assert map_both(Failing()) == map_both(Failing())
    device = Failing()
    assert map_both(device) == map_both(device)


def test_a_manager_cannot_be_hashed():
    with pytest.raises(TypeError, match=r"^unhashable type: '.*IoManager'$"):
        hash(IoManager())
    with pytest.raises(TypeError):
        {IoManager()}


# ----------------------------------------------------------------------------- copies


def test_a_clone_has_the_same_devices_and_changes_on_its_own():
    device, other = Recorder("one"), Recorder("other")
    manager = map_both(device)
    clone = manager.clone()
    assert clone is not manager
    assert clone == manager
    assert whole_map(clone) == whole_map(manager)
    assert np.shares_memory(clone.mmio_bus.bases, manager.mmio_bus.bases)
    clone.register_device_io(other, [MMIO.range(0x300, 1)])
    manager.unregister_device_io([MMIO.range(0x100, 0x100)])
    assert [found for _, _, found in clone.mmio_bus] == [device, other]
    assert list(manager.mmio_bus) == []
    assert manager.pio_bus.find(0x100) is clone.pio_bus.find(0x100) is device
    clone.mmio_load(0x100, 1)
    assert len(device.calls) == 1


def test_callbacks_and_open_transactions_stay_with_the_original():
    told = []
    manager = IoManager()
    manager.on_change(lambda added, removed: told.append((added, removed)))
    with manager.begin_tx() as transaction:
        transaction.register_device_io(DeviceIo(), [MMIO.range(0, 1)])
        clone = manager.clone()
        assert whole_map(clone) == []
        clone.register_device_io(DeviceIo(), [PIO.range(0, 1)])
        assert told == []
    assert len(told) == 1
    assert len(clone.mmio_bus) == 0
    clone.unregister_device_io([PIO.range(0, 1)])
    assert len(told) == 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda manager: pickle.loads(pickle.dumps(manager))])
def test_a_deep_copy_has_devices_of_its_own_shared_in_the_same_way(duplicate):
    device = Recorder(answer=b"\x21")
    manager = map_both(device)
    manager.register_device_io(Recorder("other"), [MMIO.range(0x300, 1)])
    twin = duplicate(manager)
    assert [(base, last) for base, last, _ in whole_map(twin)] == [(base, last) for base, last, _ in whole_map(manager)]
    own = twin.mmio_bus.find(0x100)
    assert own is twin.pio_bus.find(0x100)
    assert own is not device
    assert twin.mmio_load(0x100, 1) == 0x21
    assert (len(own.calls), len(device.calls)) == (1, 0)


def test_a_view_can_be_copied_and_pickled_with_its_manager():
    manager = map_both(Recorder())
    bus, same_manager = pickle.loads(pickle.dumps((manager.pio_bus, manager)))
    same_manager.register_device_io(Recorder(), [PIO.range(0, 1)])
    assert len(bus) == 2
    assert repr(copy.copy(manager.mmio_bus)) == "<MMIO bus: 1 range>"


# ----------------------------------------------------------------------------- pictures


def test_the_repr_is_one_line():
    manager = IoManager()
    assert repr(manager) == "<IoManager: 0 MMIO ranges, 0 PIO ranges>"
    manager.register_device_io(DeviceIo(), [MMIO.range(0, 1), MMIO.range(1, 1), PIO.range(0, 1)])
    assert repr(manager) == "<IoManager: 2 MMIO ranges, 1 PIO range>"

    class Machine(IoManager):
        pass

    assert repr(Machine()) == "<Machine: 0 MMIO ranges, 0 PIO ranges>"


def test_the_map_shows_both_spaces_with_their_holes():
    manager = IoManager()
    for name, resources in {
        "rtc": [PIO.range(0x70, 2)],
        "uart": [PIO.range(0x3F8, 8)],
        "post": [PIO.range(0x80, 1)],
        "flash": [MMIO.range(0xFFFF_FFFF_FF00_0000, 0x100_0000)],
        "ioapic": [MMIO.range(0xFEC0_0000, 0x1000)],
        "hpet": [MMIO.range(0xFED0_0000, 0x400)],
        "tpm": [MMIO.range(0xFED0_0400, 0x600)],
        "odd": [MMIO.range(0x10, 3)],
    }.items():
        manager.register_device_io(Recorder(name), resources)
    picture = """\
MMIO: 5 ranges
  0x10..0x12                                 3 bytes  <odd>
  0x13..0xfebfffff                         ~3.98 GiB  -
  0xfec00000..0xfec00fff                       4 KiB  <ioapic>
  0xfec01000..0xfecfffff                    1020 KiB  -
  0xfed00000..0xfed003ff                       1 KiB  <hpet>
  0xfed00400..0xfed009ff                  1536 bytes  <tpm>
  0xfed00a00..0xfffffffffeffffff             ~16 EiB  -
  0xffffffffff000000..0xffffffffffffffff      16 MiB  <flash>
PIO: 3 ranges
  0x70..0x71                                 2 ports  <rtc>
  0x72..0x7f                                14 ports  -
  0x80..0x80                                  1 port  <post>
  0x81..0x3f7                              887 ports  -
  0x3f8..0x3ff                               8 ports  <uart>"""
    assert manager.format_map() == picture
    assert str(manager) == picture


def test_the_map_of_an_empty_manager():
    assert str(IoManager()) == "MMIO: 0 ranges\nPIO: 0 ranges"


def test_a_picture_shows_one_moment_even_if_a_repr_changes_the_map():
    class Leaving(DeviceIo):
        unhandled = "ignore"

        def __repr__(self):
            if len(manager.pio_bus):
                manager.unregister_device_io([PIO.range(0x10, 1)])
            return "<leaving>"

    manager = IoManager()
    manager.register_device_io(Leaving(), [MMIO.range(0, 1), PIO.range(0x10, 1)])
    assert str(manager) == (
        "MMIO: 1 range\n  0x0..0x0    1 byte  <leaving>\nPIO: 1 range\n  0x10..0x10  1 port  <leaving>"
    )
    assert str(manager) == "MMIO: 1 range\n  0x0..0x0  1 byte  <leaving>\nPIO: 0 ranges"
