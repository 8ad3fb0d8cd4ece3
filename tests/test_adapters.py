"""Adapters in front of devices: aliases, mirrors, access rules, partial decoding."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
from helpers import Recorder
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import (
    DeviceIo,
    DeviceIoMut,
    InvalidRangeError,
    IoManager,
    Mutex,
    NativeDevice,
    NoDeviceError,
    Resource,
    UnhandledSpaceWarning,
)
from dbs_device.memory import (
    AccessRule,
    AccessRuleError,
    Adapter,
    Alias,
    GuestMemory,
    MemoryBoundsError,
    Mirror,
    NotRamError,
    PartialDecode,
    Ram,
    Rom,
    memory_of,
)

MmioRange, MemRange, PioRange = Resource.MmioAddressRange, Resource.MemAddressRange, Resource.PioAddressRange
END = 2**64


class Registers(DeviceIo):
    """Memory by integer handlers, that remembers (direction, base, offset, size)."""

    def __init__(self, size=0x100):
        self.data = bytearray(range(size)) if size <= 0x100 else bytearray(size)
        self.calls = []

    def load(self, base, offset, size):
        self.calls.append(("load", base, offset, size))
        return int.from_bytes(self.data[offset : offset + size], self.byteorder or "little")

    def store(self, base, offset, size, value):
        self.calls.append(("store", base, offset, size))
        self.data[offset : offset + size] = value.to_bytes(size, self.byteorder or "little")

    pio_in, pio_out = load, store

    def __repr__(self):
        return "<registers>"


class BigRegisters(Registers):
    byteorder = "big"


class Unsafe(DeviceIoMut):
    def load(self, base, offset, size):
        return offset

    def store(self, base, offset, size, value):
        self.stored = offset, value


def at(base, device, size=0x100, **options):
    manager = IoManager(**options)
    manager.register_device_io(device, [MmioRange(base, size)])
    return manager


def every_adapter(device):
    return [Alias(device, 0), Mirror(device, 0xFF), AccessRule(device, {1, 2, 4, 8}), PartialDecode((device, 0, 0))]


each_adapter = pytest.mark.parametrize("number", range(4), ids=["Alias", "Mirror", "AccessRule", "PartialDecode"])


# ----------------------------------------------------------------------------- all of them


@each_adapter
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("make", [Registers, BigRegisters, lambda: Ram(bytearray(range(0x100)))])
def test_an_adapter_that_changes_nothing_changes_nothing(number, order, make):
    plain, adapted = make(), every_adapter(make())[number]
    one, other = at(0x1000, plain, byteorder=order), at(0x1000, adapted, byteorder=order)
    for size in (1, 2, 4, 8):
        for address in (0x1000, 0x1008, 0x10F8):
            assert one.mmio_load(address, size) == other.mmio_load(address, size)
            for manager in (one, other):
                manager.mmio_store(address + 8 - size, size, int.from_bytes(b"\x01\x02\x03\x04\x05\x06\x07\x08"[:size]))
    buffers = bytearray(0x100), bytearray(0x100)
    for manager, buffer in zip((one, other), buffers, strict=True):
        manager.mmio_write(0x1010, b"some bytes!!")
        manager.mmio_read(0x1000, buffer)
    assert buffers[0] == buffers[1]


@each_adapter
def test_base_and_offset_are_those_of_the_range(number):
    device = Registers()
    manager = IoManager()
    manager.register_device_io(every_adapter(device)[number], [MmioRange(0x1000, 0x80), MmioRange(0x8000, 0x80)])
    manager.register_device_io(every_adapter(device)[number], [PioRange(0x40, 0x40)])
    manager.mmio_load(0x1004, 4)
    manager.mmio_store(0x8010, 2, 1)
    manager.mmio_load(0x1004, 1)
    manager.pio_in(0x42, 2)
    manager.pio_out(0x42, 1, 9)
    assert device.calls == [
        ("load", 0x1000, 4, 4),
        ("store", 0x8000, 0x10, 2),
        ("load", 0x1000, 4, 1),
        ("load", 0x40, 2, 2),
        ("store", 0x40, 2, 1),
    ]


@each_adapter
def test_a_mutex_is_a_device(number):
    device = Unsafe()
    manager = at(0, every_adapter(Mutex(device))[number])
    assert manager.mmio_load(4, 4) == 4
    manager.mmio_store(8, 4, 5)
    assert device.stored == (8, 5)


@each_adapter
def test_adapters_stand_in_front_of_each_other(number):
    device = Registers()
    manager = at(0x1000, every_adapter(every_adapter(device)[number])[(number + 1) % 4], byteorder="big")
    assert manager.mmio_load(0x1010, 2) == 0x1110
    assert device.calls == [("load", 0x1000, 0x10, 2)]


@each_adapter
def test_an_exception_has_the_note_of_the_access_of_the_guest(number):
    class Broken(DeviceIo):
        def load(self, base, offset, size):
            raise LookupError("broken")

    manager = at(0x1000, every_adapter(Broken())[number])
    for access in (lambda: manager.mmio_load(0x1004, 4), lambda: manager.mmio_read(0x1004, bytearray(4))):
        with pytest.raises(LookupError, match="broken") as raised:
            access()
        [note] = raised.value.__notes__
        assert note.startswith("device access: MMIO read of 4 bytes at 0x1004, offset 0x4 of ")
        assert "Broken" in note


@each_adapter
def test_the_map_shows_the_adapter_and_the_device(number):
    adapter = every_adapter(Registers())[number]
    manager = at(0x1000, adapter)
    assert manager.mmio_bus.find(0x1000) is adapter
    assert type(adapter).__name__ in str(manager)
    assert "<registers>" in str(manager)
    assert adapter.devices == (adapter.device,) if number < 3 else (adapter.decodes[0][0],)


@each_adapter
@pytest.mark.parametrize(
    ("device", "message"),
    [(DeviceIoMut(), "register Mutex"), (Registers, "must be an instance"), (None, "NoneType"), (b"ram", "bytes")],
)
def test_what_is_not_a_device_has_no_adapter(number, device, message):
    with pytest.raises(TypeError, match=message):
        [
            lambda: Alias(device, 0),
            lambda: Mirror(device, 0),
            lambda: AccessRule(device),
            lambda: PartialDecode((device, 0, 0)),
        ][number]()


def test_the_base_class_is_not_made():
    with pytest.raises(TypeError, match="Adapter is a base class"):
        Adapter()


@pytest.mark.parametrize("cls", [Alias, Mirror, AccessRule, PartialDecode])
def test_one_that_is_not_initialised_is_silent(cls):
    adapter = cls.__new__(cls)
    manager = at(0, adapter)
    assert manager.mmio_load(0, 4) in (0, 0xFFFF_FFFF)
    manager.mmio_store(0, 8, 1)
    adapter.pio_read(0, 0, bytearray(16))
    assert isinstance(repr(adapter), str)


@each_adapter
def test_an_adapter_keeps_its_device(number):
    adapter = every_adapter(Registers())[number]
    with pytest.raises(TypeError, match="has its device already"):
        adapter.__init__(*[(Ram(4), 0), (Ram(4), 0), (Ram(4),), ((Ram(4), 0, 0),)][number])
    assert at(0, adapter).mmio_load(4, 1) == 4


@each_adapter
def test_copies_and_pickles(number):
    manager = at(0x1000, every_adapter(Ram(bytearray(range(0x100))))[number])
    for other in (copy.deepcopy(manager), pickle.loads(pickle.dumps(manager))):
        assert other == manager
        assert str(other) == str(manager)
        other.mmio_store(0x1000, 1, 0xFF)
        assert manager.mmio_load(0x1000, 1) == 0


@each_adapter
def test_a_cycle_with_a_device_is_collected(number):
    device = Registers()
    device.adapter = every_adapter(device)[number]
    alive = weakref.ref(device)
    del device
    gc.collect()
    assert alive() is None


@each_adapter
def test_a_device_without_handlers_for_the_space_is_warned_about(number):
    # A class for each adapter, since the warning comes once for each.
    cls = type(f"MmioOnly{number}", (DeviceIo,), {"load": lambda *_: 0})
    with pytest.warns(UnhandledSpaceWarning, match=cls.__name__):
        IoManager().register_device_io(every_adapter(cls())[number], [PioRange(0, 4)])


def test_a_virtual_device_with_handlers_of_one_space():
    class Duck:
        def read(self, base, offset, data):
            data[0] = offset

        def write(self, base, offset, data):
            pass

        def get_trapped_io_resources(self):
            return []

    DeviceIo.register(Duck)
    assert at(0, Alias(Duck(), 1)).mmio_load(4, 1) == 5


@each_adapter
def test_a_bus_of_the_other_byte_order(number):
    adapter = every_adapter(Registers())[number]
    at(0, adapter)
    with pytest.raises(ValueError, match="a bus of the other byte order"):
        at(0, adapter, byteorder="big")
    for device in (Ram(0x100), BigRegisters()):
        shared = every_adapter(device)[number]
        at(0, shared)
        at(0, shared, byteorder="big")


def test_a_handler_may_replace_its_adapter():
    class Switch(DeviceIo):
        def store(self, base, offset, size, value):
            manager.unregister_device_io([MmioRange(0, 0x100)])
            manager.register_device_io(Ram(bytearray(b"ram!")), [MmioRange(0, 4)])
            gc.collect()

    manager = at(0, Alias(Mirror(Switch(), 0xFF), 0))
    manager.mmio_store(0, 1, 1)
    assert manager.mmio_load(0, 1) == ord("r")


def test_a_handler_may_access_its_own_adapter():
    class Twice(DeviceIo):
        def load(self, base, offset, size):
            return 7 if offset == 1 else manager.mmio_load(1, 1) + 1

    manager = at(0, AccessRule(Alias(Twice(), 0)))
    assert manager.mmio_load(0, 1) == 8


def test_kept_views_of_a_device_behind_an_adapter_show_no_freed_memory():
    class Keeps(DeviceIo):
        def __init__(self):
            self.views = []

        def read(self, base, offset, data):
            data[:] = b"x" * len(data)
            self.views.append(data)

    device = Keeps()
    manager = at(0, Alias(device, 0))
    for size in (1, 3, 8, 100):
        manager.mmio_read(0, bytearray(size))
    assert [bytes(view) for view in device.views] == [b"x", b"xxx", b"x" * 8, b"x" * 100]


# ----------------------------------------------------------------------------- Alias


def test_an_alias_begins_at_its_offset():
    device = Registers()
    manager = at(0x8000, Alias(device, 0x10), 0x20)
    assert manager.mmio_load(0x8004, 1) == 0x14
    manager.mmio_store(0x8000, 1, 0xFF)
    assert device.data[0x10] == 0xFF
    assert repr(Alias(device, 16)) == "Alias(<registers>, 0x10)"


def test_an_alias_of_memory_is_memory():
    ram = Ram(0x2000)
    manager = IoManager()
    manager.register_device_io(ram, [MemRange(0x10_0000, 0x2000)])
    manager.register_device_io(Alias(Alias(ram, 0x800), 0x800), [MemRange(0, 0x1000)])
    manager.mmio_store(4, 4, 0xCAFE)
    assert manager.mmio_load(0x10_1004, 4) == 0xCAFE
    first, second = map(memory_of, manager.mapped_ranges())
    assert first[:4] == (0, 0xFFF, ram.address + 0x1000, True)
    assert second[:4] == (0x10_0000, 0x10_1FFF, ram.address, True)
    view = GuestMemory(manager).view(0xFFC, 4)
    view[:] = b"last"
    del manager, ram
    assert bytes(view) == b"last"


def test_an_alias_of_rom_passes_writes():
    writes = []
    rom = Rom(bytes(0x1000), on_write=lambda *write: writes.append(write))
    manager = IoManager()
    manager.register_device_io(Alias(rom, 0x800), [MemRange(0, 0x800)])
    manager.mmio_store(4, 1, 7)
    assert writes == [(0x804, b"\7")]
    assert memory_of(manager.mapped_ranges()[0]).writable is False


def test_memory_with_a_handler_is_not_memory_through_an_alias():
    class Watched(Ram):
        def load(self, base, offset, size):
            return 0x77

    manager = at(0, Alias(Watched(0x100), 0))
    assert manager.mmio_load(0, 1) == 0x77
    assert memory_of(manager.mapped_ranges()[0]) is None
    with pytest.raises(NotRamError):
        GuestMemory(manager).view(0, 1)


@pytest.mark.parametrize("offset", [-1, END])
def test_an_alias_has_an_offset_within_the_space(offset):
    with pytest.raises(InvalidRangeError, match=r"Alias takes an offset of 0x0\.\.0xffffffffffffffff"):
        Alias(Ram(1), offset)


def test_an_alias_fits_its_device():
    ram = Ram(0x1000)
    manager = IoManager()
    for alias in (
        Alias(ram, 1),
        Alias(ram, 0x1000),
        Mirror(Alias(ram, 1), 0xFFF),
        PartialDecode((Alias(ram, 1), 0, 0)),
    ):
        with pytest.raises(InvalidRangeError, match="larger than the 4096 bytes of <Ram"):
            manager.register_device_io(alias, [MmioRange(0, 0x1000)])
    with pytest.raises(InvalidRangeError, match="runs past the last offset of Alias"):
        manager.register_device_io(Alias(Registers(), END - 4), [MmioRange(0, 5)])
    manager.register_device_io(Alias(ram, 1), [MmioRange(0, 0xFFF)])
    assert len(manager.mapped_ranges()) == 1


# ----------------------------------------------------------------------------- Mirror


def test_ignored_lines_are_cleared():
    device = Registers()
    manager = at(0, Mirror(device, 0x0F), 0x1000)
    manager.mmio_load(0xFF4, 4)
    assert device.calls == [("load", 0, 4, 4)]


def test_an_access_that_wraps_around_is_split():
    device = Registers()
    manager = at(0, Mirror(device, 0x0F), 0x1000)
    assert manager.mmio_load(0x1E, 4) == 0x01000F0E
    assert device.calls == [("load", 0, 14, 2), ("load", 0, 0, 2)]
    ram = Ram(bytearray(range(16)))
    buffer = bytearray(40)
    at(0, Mirror(ram, 0x0F), 0x1000).mmio_read(5, buffer)
    assert buffer == (bytes(range(16)) * 3)[5:45]


def test_lines_in_the_middle_may_be_ignored():
    device = Registers()
    manager = at(0, Mirror(device, 0xFF & ~0x10), 0x1000)
    manager.mmio_load(0x0C, 4)
    manager.mmio_load(0x1C, 4)
    assert {offset for _, _, offset, _ in device.calls} == {0x0C}
    device.calls.clear()
    manager.mmio_load(0x0E, 4)
    assert device.calls == [("load", 0, 0x0E, 2), ("load", 0, 0, 2)]


@given(st.integers(0, 0xFF), st.integers(0, 0x3F0), st.binary(min_size=1, max_size=16))
def test_a_mirror_is_its_device_byte_by_byte(mask, address, data):
    ram = Ram(bytearray(range(0x100)))
    model = bytearray(ram)
    manager = at(0, Mirror(ram, mask), 0x400)
    read = bytearray(len(data))
    manager.mmio_read(address, read)
    assert read == bytes(model[(address + i) & mask] for i in range(len(data)))
    manager.mmio_write(address, data)
    for i, byte in enumerate(data):
        model[(address + i) & mask] = byte
    assert bytes(ram) == model


def test_a_mirror_at_the_end_of_the_space():
    manager = at(END - 16, Mirror(Ram(bytearray(range(4))), 3), 16)
    assert manager.mmio_load(END - 8, 8) == 0x0302010003020100
    with pytest.raises(InvalidRangeError):
        Mirror(Ram(4), END)
    everything = at(0, Mirror(Registers(), END - 1), END)
    assert everything.mmio_load(4, 8) == 0x0B0A090807060504


def test_a_mirror_of_memory_is_registered_as_memory():
    ram = Ram(0x800)
    manager = IoManager()
    manager.register_device_io(Mirror(ram, 0x7FF), [MemRange(0, 0x2000)])
    GuestMemory(manager).write(0x7FE, b"wrap")
    assert ram.view[0x7FE:] == b"wr"
    assert ram.view[:2] == b"ap"
    with pytest.raises(InvalidRangeError):
        manager.register_device_io(Mirror(ram, 0xFFF), [MemRange(0x4000, 0x2000)])
    manager.unregister_device_io([MemRange(0, 0x2000)])
    assert manager.mapped_ranges() == ()


# ----------------------------------------------------------------------------- AccessRule


def accesses(rule, offset, size, direction="load"):
    """Return (offset, size) of what a device sees of one access; registers of its own."""
    manager = at(0, rule)
    device = rule.device
    if size in (1, 2, 4, 8):
        value = manager.mmio_load(offset, size)
        assert value.to_bytes(size, "little") == device.data[offset : offset + size]
    else:
        data = bytearray(size)
        manager.mmio_read(offset, data)
        assert data == device.data[offset : offset + size]
    reads = [call[2:] for call in device.calls]
    device.calls.clear()
    manager.mmio_write(offset, bytes(0xF0 + i for i in range(size)))
    assert device.data[offset : offset + size] == bytes(0xF0 + i for i in range(size))
    assert [call[2:] for call in device.calls if call[0] == "store"] == reads
    return reads


@pytest.mark.parametrize(
    ("sizes", "options", "offset", "size", "expected"),
    [
        ({4}, {}, 8, 4, [(8, 4)]),
        ({4}, {}, 8, 8, [(8, 4), (12, 4)]),
        ({1, 2, 4}, {}, 8, 8, [(8, 4), (12, 4)]),
        ({1, 2, 4}, {}, 7, 4, [(7, 1), (8, 2), (10, 1)]),
        ({1, 2, 4}, {"unaligned": "pass"}, 7, 4, [(7, 4)]),
        ({1, 2, 4}, {"unaligned": "pass"}, 7, 8, [(7, 4), (11, 4)]),
        ({1, 4}, {}, 8, 2, [(8, 1), (9, 1)]),
        ({1}, {}, 3, 3, [(3, 1), (4, 1), (5, 1)]),
        ({1, 8}, {}, 4, 16, [(4, 1), (5, 1), (6, 1), (7, 1), (8, 8), *[(16 + i, 1) for i in range(4)]]),
        ({4}, {"narrow": "widen"}, 5, 1, [(4, 4)]),
        ({4}, {"narrow": "widen"}, 6, 4, [(4, 4), (8, 4)]),
        ({2, 4}, {"narrow": "widen"}, 1, 6, [(0, 2), (2, 2), (4, 2), (6, 2)]),
        ({8}, {"narrow": "widen"}, 7, 10, [(0, 8), (8, 8), (16, 8)]),
    ],
)
def test_accesses_are_split_by_the_rule(sizes, options, offset, size, expected):
    assert accesses(AccessRule(Registers(), sizes, **options), offset, size) == expected


@pytest.mark.parametrize(
    ("sizes", "options", "offset", "size", "reason"),
    [
        ({4}, {}, 8, 1, "narrow"),
        ({4}, {}, 6, 4, "narrow"),
        ({4}, {}, 8, 6, "narrow"),
        ({1, 2, 4}, {"wide": "raise"}, 8, 8, "wide"),
        ({1, 4}, {"wide": "raise"}, 8, 2, "wide"),
        ({1, 2, 4}, {"unaligned": "raise"}, 7, 4, "unaligned"),
        ({1, 2, 4}, {"unaligned": "raise"}, 6, 8, "unaligned"),
        ({4}, {"unaligned": "raise"}, 6, 2, "narrow"),
    ],
)
def test_a_refused_access_does_not_reach_the_device(sizes, options, offset, size, reason):
    rule = AccessRule(Registers(), sizes, **options)
    before = bytes(rule.device.data)
    manager = at(0, rule)
    with pytest.raises(AccessRuleError, match=reason) as raised:
        manager.mmio_read(offset, bytearray(size))
    assert (raised.value.offset, raised.value.size, raised.value.write) == (offset, size, False)
    with pytest.raises(AccessRuleError, match=f"a write of {size} byte"):
        manager.mmio_write(offset, bytes(size))
    assert rule.device.calls == []
    assert rule.device.data == before


@given(
    st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1),
    st.sampled_from(["split", "pass"]),
    st.integers(0, 0x40),
    st.binary(min_size=1, max_size=24),
)
def test_the_device_sees_allowed_accesses_that_add_up(sizes, unaligned, offset, data):
    device = Registers()
    model = bytearray(device.data)
    manager = at(0, AccessRule(device, sizes, unaligned=unaligned, narrow="widen"))
    read = bytearray(len(data))
    manager.mmio_read(offset, read)
    assert read == model[offset : offset + len(data)]
    manager.mmio_write(offset, data)
    model[offset : offset + len(data)] = data
    assert device.data == model
    for _, _, place, size in device.calls:
        assert size in sizes
        assert unaligned == "pass" or place % size == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": ()}, "not \\[\\]"),
        ({"sizes": {3}}, "1, 2, 4 and 8 bytes, not \\[3\\]"),
        ({"unaligned": "drop"}, "unaligned takes 'split', 'raise', 'pass', not 'drop'"),
        ({"wide": "pass"}, "wide takes 'split', 'raise', not 'pass'"),
        ({"narrow": "pad"}, "narrow takes"),
    ],
)
def test_what_is_not_a_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        AccessRule(Registers(), **arguments)


# ----------------------------------------------------------------------------- PartialDecode


class Port(DeviceIo):
    def __init__(self, value=0xFF):
        self.value, self.calls = value, []

    def pio_in(self, base, offset, size):
        self.calls.append(offset)
        return self.value

    def pio_out(self, base, offset, size, value):
        self.calls.append((offset, value))


def ports_of(*decodes, **options):
    manager = IoManager()
    manager.register_device_io(PartialDecode(*decodes, **options), [PioRange(0, 0x10000)])
    return manager


def test_a_device_answers_where_its_lines_match():
    ula = Port(0x1F)
    manager = ports_of((ula, 1, 0))
    assert [manager.pio_in(port, 1) for port in (0xFE, 0xFF, 0x7FFE, 0)] == [0x1F, 0xFF, 0x1F, 0x1F]
    assert ula.calls == [0xFE, 0x7FFE, 0]


def test_devices_that_share_a_port():
    ula, paging = Port(0xBF), Port(0xFD)
    manager = ports_of((ula, 1, 0), (paging, 0x8002, 0))
    manager.pio_out(0x7FFC, 1, 3)
    assert ula.calls == paging.calls == [(0x7FFC, 3)]
    assert manager.pio_in(0x7FFC, 1) == 0xBD
    assert manager.pio_in(0x7FFD, 1) == 0xFD


def test_ports_that_none_answers():
    assert ports_of(open_bus=0xA5).pio_in(4, 2) == 0xA5A5
    ports_of(open_bus=0).pio_out(4, 1, 1)
    manager = ports_of((Port(), 1, 0), open_bus=None)
    with pytest.raises(NoDeviceError, match="no device owns PIO address 0x401"):
        manager.pio_in(0x401, 1)
    with pytest.raises(NoDeviceError):
        manager.pio_out(0x401, 1, 0)


def test_memory_mapped_devices_are_decoded_by_address():
    device = Registers()
    manager = at(0x1000, PartialDecode((device, 0x30, 0x10), (Ram(bytearray(b"\x0f" * 0x100)), 0x10, 0x10)))
    assert manager.mmio_load(0x1014, 1) == 0x14 & 0x0F
    assert manager.mmio_load(0x1034, 1) == 0x0F
    assert manager.mmio_load(0x1004, 4) == 0xFFFF_FFFF
    buffer = bytearray(16)
    manager.mmio_read(0x1010, buffer)
    assert buffer == bytes(range(16))


def test_the_first_failure_of_several_devices_comes_out():
    class Broken(DeviceIo):
        def pio_in(self, base, offset, size):
            raise LookupError("broken")

    manager = ports_of((Port(), 1, 0), (Broken(), 2, 0))
    with pytest.raises(LookupError):
        manager.pio_in(0, 1)
    with pytest.raises(LookupError):
        manager.pio_read(0, bytearray(16))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([(Port(), 1, 3)], {}, InvalidRangeError, "no address matches mask 0x1, match 0x3"),
        ([(Port(), -1, 0)], {}, InvalidRangeError, "mask -0x1"),
        ([(Port(), 1)], {}, TypeError, "a device, a mask and a match"),
        ([Port()], {}, TypeError, "a device, a mask and a match"),
        ([(Port(), "1", 0)], {}, TypeError, "str"),
        ([], {"open_bus": 256}, ValueError, "0x0..0xff, or None, not 0x100"),
    ],
)
def test_what_cannot_be_decoded(arguments, options, error, message):
    with pytest.raises(error, match=message):
        PartialDecode(*arguments, **options)


def test_an_offset_past_the_end_of_memory_is_refused_when_it_comes():
    manager = at(0, Alias(Ram(0x100), 0), 0x100, straddle="pass")
    with pytest.raises(MemoryBoundsError):
        manager.mmio_load(0xFE, 4)


def test_a_native_subclass_in_python_is_called_through_its_handlers():
    class Doubled(NativeDevice):
        def read(self, base, offset, data):
            data[0] = 2 * offset

    assert at(0, Alias(Doubled(), 4)).mmio_load(1, 1) == 10


def test_a_logged_access_is_seen_once():
    log = Recorder()
    manager = at(0x1000, Alias(log, 0x20), 0x10)
    manager.mmio_write(0x1004, b"abc")
    assert log.calls == [("write", 0x1000, 0x24, b"abc")]
