"""Ram and Rom under the Unicorn bridge: accessed and executed directly, except for the writes of a Rom."""

from __future__ import annotations

import gc
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers import Recorder, on_another_thread
from hypothesis import given
from hypothesis import strategies as st
from unicorn import (
    UC_ARCH_ARM,
    UC_ARCH_M68K,
    UC_ARCH_X86,
    UC_ERR_FETCH_PROT,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_CODE,
    UC_MODE_32,
    UC_MODE_ARM,
    UC_MODE_BIG_ENDIAN,
    Uc,
    UcError,
)
from unicorn.arm_const import UC_ARM_REG_R0, UC_ARM_REG_R1
from unicorn.m68k_const import UC_M68K_REG_A0, UC_M68K_REG_D0
from unicorn.x86_const import UC_X86_REG_EAX
from unicorn_guest import (
    ANSWER,
    CODE,
    DEVICE,
    PAGE,
    PORT,
    SCRATCH,
    WORD,
    Calls,
    Guest,
    accesses_of,
    load,
    load_8,
    mapped_beside_ram,
    mmio,
    port_out,
    ports,
    set_eax,
    store,
    store_8,
)

from dbs_device import DeviceIo, DeviceModelError, GuestMemoryError, IoManager, NativeDevice, Resource
from dbs_device.errors import RomWriteError
from dbs_device.memory import GuestMemory, Ram, Rom
from dbs_device.trace import TraceRecorder
from dbs_device.unicorn import attach

MEMORY = 0x40000  # where most tests put their memory
SWITCH = 0x500  # the port whose device makes a change


def memory(base: int, size: int) -> list[Resource]:
    return [Resource.MemAddressRange(base, size)]


def guest_with_memory(device: Ram | Rom, base: int = MEMORY, size: int | None = None) -> Guest:
    manager = IoManager()
    manager.register_device_io(device, memory(base, device.size if size is None else size))
    return Guest(manager)


class CountedRam(Ram):
    """Still a Ram: it can be told when it is served as a device by a trace of the bus."""


def write_log() -> tuple[list[tuple[int, bytes]], Callable[[int, bytes], None]]:
    log: list[tuple[int, bytes]] = []
    return log, lambda offset, data: log.append((offset, data))


def pages_of(contents: bytes, pages: int = 1) -> bytes:
    return contents.ljust(pages * PAGE, b"\0")


RETURN = b"\xc3"
CALL_MEMORY = bytes.fromhex("b900000400 ffd1")  # mov ecx, MEMORY; call ecx


# -- direct accesses


def test_the_guest_and_the_host_see_the_same_memory() -> None:
    guest = guest_with_memory(ram := Ram(2 * PAGE))
    ram.view[8:12] = ANSWER[:4]
    assert guest.mapped == [(MEMORY, MEMORY + 2 * PAGE - 1)]
    assert guest.run(load(MEMORY + 8), store(MEMORY + PAGE)) == WORD
    assert ram.view[PAGE : PAGE + 4] == ANSWER[:4]
    assert guest.manager.mmio_load(MEMORY + PAGE, 4) == WORD
    assert guest.uc.mem_read(MEMORY + PAGE, 4) == ANSWER[:4]
    guest.uc.mem_write(MEMORY, b"host")
    assert ram.view[:4] == b"host"


def test_accesses_of_memory_do_not_reach_the_bus() -> None:
    manager = IoManager()
    manager.register_device_io(Ram(PAGE), memory(MEMORY, PAGE))
    guest = Guest(manager)
    recorder = TraceRecorder(manager)
    guest.bridge.detach()
    attach(guest.uc, manager, recorder).emu_start(CODE, CODE)
    guest.bridge = guest.uc._dbs_device_bridge  # type: ignore[attr-defined]
    guest.run(load(MEMORY), store(MEMORY + 1), load_8(MEMORY + 12))
    assert len(recorder.trace) == 0


def test_the_guest_executes_memory() -> None:
    for device in (Ram(bytearray(PAGE)), Ram(PAGE), Rom(pages_of(set_eax(7) + RETURN))):
        if isinstance(device, Ram):
            device.view[: len(set_eax(7)) + 1] = set_eax(7) + RETURN
        if device.address % PAGE:
            continue  # it is served as a device
        assert guest_with_memory(device).run(CALL_MEMORY) == 7


def test_code_that_the_guest_changes_is_executed_as_it_is_then() -> None:
    guest = guest_with_memory(ram := Ram(PAGE))
    ram.view[:6] = set_eax(1) + RETURN
    change = bytes.fromhex("c6050100040002")  # mov byte [MEMORY + 1], 2
    assert guest.run(CALL_MEMORY, change, CALL_MEMORY) == 2


def test_a_device_in_a_page_of_its_own_is_beside_memory() -> None:
    guest = guest_with_memory(ram := Ram(PAGE))
    guest.manager.register_device_io(device := Recorder(answer=ANSWER), mmio(MEMORY + PAGE))
    assert guest.run(load(MEMORY + PAGE), store(MEMORY)) == WORD
    assert accesses_of(device) == [(0, 4)]
    assert ram.view[:4] == ANSWER[:4]


def test_memory_that_shares_a_page_is_served_as_a_device_there() -> None:
    """0x800 bytes before the first whole page, and 0x800 after the last."""
    guest = guest_with_memory(ram := Ram(2 * PAGE), MEMORY + 0x800)
    guest.manager.register_device_io(device := Recorder(answer=ANSWER), mmio(MEMORY, 0x800))
    ram.view[:] = bytes(index // 0x100 for index in range(2 * PAGE))
    for offset in (0, 0x7FC, 0x800, 0x17FC, 0x1800, 0x1FFC):
        assert guest.run(load(MEMORY + 0x800 + offset)) == offset // 0x100 * 0x01010101
        guest.run(set_eax(offset), store(MEMORY + 0x800 + offset))
        assert int.from_bytes(ram.view[offset : offset + 4], "little") == offset
    assert device.calls == []
    assert guest.run(load(MEMORY + 0x7FC)) == WORD


def test_memory_across_a_mapped_page_and_a_window() -> None:
    guest = guest_with_memory(ram := Ram(2 * PAGE), MEMORY, PAGE + 0x800)
    guest.manager.register_device_io(Recorder(answer=ANSWER), mmio(MEMORY + PAGE + 0x800, 0x800))
    ram.view[PAGE - 4 : PAGE + 4] = ANSWER[:8]
    assert guest.run(load(MEMORY + PAGE - 2)) == int.from_bytes(ANSWER[2:6], "little")
    guest.run(set_eax(0x44332211), store(MEMORY + PAGE - 2))
    assert ram.view[PAGE - 2 : PAGE + 2] == bytes.fromhex("11223344")


@pytest.mark.parametrize("shift", [1, 0x10, 0x800])
def test_memory_that_does_not_begin_a_page_of_the_host_is_served_as_a_device(shift: int) -> None:
    host = mmap.mmap(-1, 2 * PAGE)
    ram = Ram(memoryview(host)[shift : shift + PAGE])
    guest = guest_with_memory(ram)
    guest.run(set_eax(0x44332211), store(MEMORY + 4))
    assert host[shift + 4 : shift + 8] == bytes.fromhex("11223344")
    assert guest.run(load(MEMORY + 4)) == 0x44332211
    with pytest.raises(UcError) as caught:
        guest.run(CALL_MEMORY)
    assert caught.value.errno == UC_ERR_FETCH_PROT


def test_memory_at_an_unaligned_address_may_fit_the_pages_of_the_host() -> None:
    host = mmap.mmap(-1, 3 * PAGE)
    ram = Ram(memoryview(host)[0x100:])
    ram.view[PAGE - 0x100 : PAGE - 0x100 + 6] = set_eax(9) + RETURN
    assert guest_with_memory(ram, MEMORY - PAGE + 0x100).run(CALL_MEMORY) == 9


def test_a_subclass_whose_accesses_do_something_else_is_trapped() -> None:
    class Loud(Ram):
        def load(self, base, offset, size):
            return 0x55

        def store(self, base, offset, size, value):
            pass

    assert guest_with_memory(Loud(PAGE)).run(load(MEMORY, 1)) & 0xFF == 0x55


def test_dma_from_a_handler_is_seen_by_the_guest() -> None:
    guest = guest_with_memory(Ram(PAGE))
    dma = GuestMemory(guest.manager)
    guest.manager.register_device_io(Calls(lambda: dma.write(MEMORY + 0x10, ANSWER[:4])), ports(PORT))
    assert guest.run(load(MEMORY + 0x10), port_out(PORT), load(MEMORY + 0x10)) == WORD


# -- the writes of a Rom

WRITES = {
    "1": (store(MEMORY + 3, 1), [(3, b"\x11")]),
    "2": (store(MEMORY + 2, 2), [(2, b"\x11\x22")]),
    "4": (store(MEMORY + 4), [(4, b"\x11\x22\x33\x44")]),
    "8": (store_8(MEMORY + 8), [(8, ANSWER[:8])]),
    "2 unaligned": (store(MEMORY + 1, 2), [(1, b"\x11"), (2, b"\x22")]),
    "4 unaligned": (store(MEMORY + 2), [(2, b"\x11"), (3, b"\x22"), (4, b"\x33"), (5, b"\x44")]),
    "4 across pages": (
        store(MEMORY + PAGE - 1),
        [(PAGE - 1, b"\x11"), (PAGE, b"\x22"), (PAGE + 1, b"\x33"), (PAGE + 2, b"\x44")],
    ),
    "8 unaligned": (store_8(MEMORY + 4), [(4 + index, ANSWER[index : index + 1]) for index in range(8)]),
    "read and modify": (bytes.fromhex("010500000400"), [(0, (0x44332211 + WORD & 0xFFFFFFFF).to_bytes(4, "little"))]),
    "exchange": (bytes.fromhex("870500000400"), [(0, b"\x11\x22\x33\x44")]),
}


@pytest.mark.parametrize(("code", "expected"), WRITES.values(), ids=WRITES.keys())
def test_each_write_of_a_rom_reaches_on_write_once_and_changes_nothing(
    code: bytes, expected: list[tuple[int, bytes]]
) -> None:
    from unicorn.x86_const import UC_X86_REG_XMM0

    log, on_write = write_log()
    rom = Rom(pages_of(ANSWER[:4], 2), on_write=on_write)
    guest = guest_with_memory(rom)
    guest.uc.reg_write(UC_X86_REG_XMM0, int.from_bytes(ANSWER[:8], "little"))
    guest.run(set_eax(0x44332211), code)
    assert log == expected
    assert bytes(rom.view) == pages_of(ANSWER[:4], 2)
    guest.run(set_eax(0), load(MEMORY))
    assert guest.eax == WORD


def test_the_writes_of_a_rom_may_be_ignored_or_raise() -> None:
    guest = guest_with_memory(Rom(pages_of(ANSWER[:4])))
    assert guest.run(set_eax(0), store(MEMORY), load(MEMORY)) == WORD
    guest = guest_with_memory(rom := Rom(pages_of(ANSWER[:4]), on_write="raise"))
    with pytest.raises(RomWriteError) as caught:
        guest.run(set_eax(0), store(MEMORY + 8), set_eax(7))
    assert (caught.value.device, caught.value.offset, caught.value.size) == (rom, 8, 4)
    assert guest.eax == 0
    assert guest.eip == CODE + len(set_eax(0))  # as at an MMIO access, the instruction would be repeated
    assert guest.run(load(MEMORY)) == WORD


def test_an_exception_of_on_write_comes_out_and_stops_the_guest() -> None:
    error = LookupError("on_write")

    def fail(offset: int, data: bytes) -> None:
        raise error

    guest = guest_with_memory(Rom(pages_of(b""), on_write=fail))
    guest.manager.register_device_io(other := Recorder(), ports(PORT))
    with pytest.raises(LookupError) as caught:
        guest.run(store(MEMORY), port_out(PORT))
    assert caught.value is error
    assert other.calls == []
    assert guest.run(set_eax(7)) == 7


def test_the_writes_of_a_rom_are_recorded() -> None:
    log, on_write = write_log()
    manager = IoManager()
    manager.register_device_io(Rom(pages_of(b""), on_write=on_write), memory(MEMORY, PAGE))
    recorder = TraceRecorder(manager)
    guest = Guest(IoManager())
    guest.bridge.detach()
    guest.bridge = attach(guest.uc, manager, recorder)
    guest.run(set_eax(0x1234), store(MEMORY + 4, 2), load(MEMORY))
    assert log == [(4, b"\x34\x12")]
    assert [(each.write, each.addr, each.size, each.value) for each in recorder.trace] == [
        (True, MEMORY + 4, 2, 0x1234)
    ]


def test_a_read_only_region_of_the_guest_is_unicorns_affair() -> None:
    guest = guest_with_memory(Rom(pages_of(b"")))
    guest.uc.mem_map(0x20000, PAGE, 1)
    with pytest.raises(UcError):
        guest.run(store(0x20000))


def test_the_host_may_write_a_rom_over_writable_memory_only() -> None:
    log, on_write = write_log()
    host = mmap.mmap(-1, PAGE)
    guest = guest_with_memory(Rom(host, on_write=on_write))
    guest.uc.mem_write(MEMORY + 4, b"load")
    assert host[4:8] == b"load"
    assert log == []
    guest = guest_with_memory(rom := Rom(pages_of(b"")))
    with pytest.raises(RomWriteError) as caught:
        guest.uc.mem_write(MEMORY - 2 + PAGE, b"1234")
    assert (caught.value.device, caught.value.offset, caught.value.size) == (rom, PAGE - 2, 2)


BIG_ENDIAN_GUESTS = {
    "m68k": (UC_ARCH_M68K, UC_MODE_BIG_ENDIAN, UC_M68K_REG_D0, UC_M68K_REG_A0, "2080"),  # move.l d0, (a0)
    "arm": (UC_ARCH_ARM, UC_MODE_ARM | UC_MODE_BIG_ENDIAN, UC_ARM_REG_R0, UC_ARM_REG_R1, "e5810000"),  # str r0, [r1]
}


@pytest.mark.parametrize(
    ("arch", "mode", "value", "pointer", "code"), BIG_ENDIAN_GUESTS.values(), ids=BIG_ENDIAN_GUESTS.keys()
)
def test_a_big_endian_guest_writes_a_rom_in_address_order(
    arch: int, mode: int, value: int, pointer: int, code: str
) -> None:
    log, on_write = write_log()
    manager = IoManager()
    manager.register_device_io(Rom(pages_of(b""), on_write=on_write), memory(MEMORY, PAGE))
    uc = Uc(arch, mode)
    uc.mem_map(CODE, PAGE)
    uc.mem_write(CODE, bytes.fromhex(code))
    uc.reg_write(value, 0x11223344)
    uc.reg_write(pointer, MEMORY)
    attach(uc, manager).emu_start(CODE, CODE + len(code) // 2)
    assert log == [(0, bytes.fromhex("11223344"))]


# -- memory that comes and goes


def by_the_host(guest: Guest, change: Callable[[], object], *rest: bytes) -> int:
    change()
    return guest.run(*rest)


def by_a_port_handler(guest: Guest, change: Callable[[], object], *rest: bytes) -> int:
    guest.manager.register_device_io(Calls(change), ports(SWITCH, 1))
    return guest.run(port_out(SWITCH), *rest)


def by_an_mmio_handler(guest: Guest, change: Callable[[], object], *rest: bytes) -> int:
    guest.manager.register_device_io(Calls(change), mmio(0x30000, 4))
    return guest.run(load(0x30000), *rest)


def by_another_thread(guest: Guest, change: Callable[[], object], *rest: bytes) -> int:
    guest.manager.register_device_io(Calls(lambda: on_another_thread(change)), ports(SWITCH, 1))
    return guest.run(port_out(SWITCH), *rest)


each_way = pytest.mark.parametrize("way", [by_the_host, by_a_port_handler, by_an_mmio_handler, by_another_thread])
Way = Callable[..., int]


@each_way
def test_memory_is_plugged(way: Way) -> None:
    guest, ram = Guest(), Ram(2 * PAGE)
    ram.view[PAGE : PAGE + 4] = ANSWER[:4]
    plug = lambda: guest.manager.register_device_io(ram, memory(MEMORY, ram.size))  # noqa: E731
    assert way(guest, plug, load(MEMORY + PAGE), store(MEMORY)) == WORD
    assert ram.view[:4] == ANSWER[:4]


@each_way
def test_code_in_memory_that_was_plugged_is_executed(way: Way) -> None:
    guest, ram = Guest(), Ram(PAGE)
    ram.view[:6] = set_eax(5) + RETURN
    plug = lambda: guest.manager.register_device_io(ram, memory(MEMORY, PAGE))  # noqa: E731
    assert way(guest, plug, CALL_MEMORY) == 5


@each_way
@pytest.mark.parametrize(
    ("code", "errno"), [(load(MEMORY), UC_ERR_READ_UNMAPPED), (store(MEMORY), UC_ERR_WRITE_UNMAPPED)]
)
def test_memory_that_was_unplugged_is_gone_at_once_and_let_go(way: Way, code: bytes, errno: int) -> None:
    ram = Ram(PAGE)
    alive = weakref.ref(ram)
    guest = guest_with_memory(ram)
    del ram
    guest.run(load(MEMORY))
    with pytest.raises(UcError) as caught:
        way(guest, lambda: guest.manager.unregister_device_io(memory(MEMORY, PAGE)), code)
    assert caught.value.errno == errno
    gc.collect()
    assert alive() is None


@each_way
def test_memory_moves(way: Way) -> None:
    guest = guest_with_memory(ram := Ram(PAGE))
    ram.view[:6] = set_eax(3) + RETURN

    def move() -> None:
        with guest.manager.begin_tx() as tx:
            tx.unregister_device_io(memory(MEMORY, PAGE))
            tx.register_device_io(ram, memory(MEMORY + 4 * PAGE, PAGE))

    moved = bytes.fromhex("b900400400 ffd1")  # mov ecx, MEMORY + 4 * PAGE; call ecx
    assert way(guest, move, moved) == 3
    with pytest.raises(UcError):
        guest.run(load(MEMORY))


@each_way
def test_other_memory_takes_the_place(way: Way) -> None:
    guest = guest_with_memory(first := Ram(PAGE))
    first.view[:6] = set_eax(1) + RETURN
    second = Ram(PAGE)
    second.view[:6] = set_eax(2) + RETURN

    def replace() -> None:
        with guest.manager.begin_tx() as tx:
            tx.unregister_device_io(memory(MEMORY, PAGE))
            tx.register_device_io(second, memory(MEMORY, PAGE))

    guest.run(CALL_MEMORY)
    assert way(guest, replace, CALL_MEMORY) == 2


@each_way
def test_a_device_takes_the_place_of_memory_and_back(way: Way) -> None:
    """As shadow RAM is opened and closed by a chipset."""
    guest = guest_with_memory(ram := Ram(PAGE))
    device = Recorder(answer=ANSWER)
    current: list[DeviceIo] = [device, ram]

    def swap() -> None:
        with guest.manager.begin_tx() as tx:
            tx.unregister_device_io(mmio(MEMORY, PAGE))
            tx.register_device_io(current[0], mmio(MEMORY, PAGE))
        current.reverse()

    ram.view[:4] = b"\x11\x11\x11\x11"
    assert way(guest, swap, load(MEMORY), store(MEMORY + 4)) == WORD
    assert accesses_of(device) == [(0, 4), (4, ANSWER[:4])]
    assert ram.view[4:8] == bytes(4)
    if way is not by_the_host:
        guest.manager.unregister_device_io(ports(SWITCH, 1) if way is not by_an_mmio_handler else mmio(0x30000, 4))
    ram.view[8:14] = set_eax(6) + RETURN
    call = bytes.fromhex("b908000400 ffd1")  # mov ecx, MEMORY + 8; call ecx
    assert way(guest, swap, load(MEMORY), call) == 6
    assert len(device.calls) == 2


class Flash(DeviceIo):
    """A flash in miniature: a write of 0x90 has it answer reads itself, a write of 0xFF shows the array again."""

    def __init__(self, manager: IoManager, contents: Any) -> None:
        self.manager = manager
        self.rom = Rom(contents, on_write=self.command)
        self.accesses: list[tuple[str, int, int]] = []
        self.shown: DeviceIo = self.rom
        manager.register_device_io(self.rom, mmio(MEMORY, self.rom.size))

    def show(self, device: DeviceIo) -> None:
        if device is self.shown:
            return
        self.shown = device
        with self.manager.begin_tx() as tx:
            tx.unregister_device_io(mmio(MEMORY, self.rom.size))
            tx.register_device_io(device, mmio(MEMORY, self.rom.size))

    def command(self, offset: int, data: bytes) -> None:
        self.accesses.append(("command", offset, data[0]))
        self.show(self if data[0] == 0x90 else self.rom)

    def load(self, base, offset, size):
        self.accesses.append(("load", offset, size))
        return 0x89

    def store(self, base, offset, size, value):
        self.command(offset, value.to_bytes(size, "little"))


IDENTIFY = set_eax(0x90) + store(MEMORY + 0x20, 1)
ARRAY = set_eax(0xFF) + store(MEMORY + 0x20, 1)


def test_a_flash_switches_between_its_array_and_commands() -> None:
    guest = Guest()
    flash = Flash(guest.manager, mmap.mmap(-1, 2 * PAGE))
    flash.rom.view[:4] = ANSWER[:4]
    assert guest.run(load(MEMORY), IDENTIFY, load(MEMORY, 1)) & 0xFF == 0x89
    assert guest.run(set_eax(0), load(MEMORY + 4, 1), ARRAY, load(MEMORY)) == WORD
    assert guest.run(load(MEMORY)) == WORD
    assert flash.accesses == [("command", 0x20, 0x90), ("load", 0, 1), ("load", 4, 1), ("command", 0x20, 0xFF)]


def test_a_flash_shows_what_was_programmed_and_runs_it() -> None:
    guest = Guest()
    contents = mmap.mmap(-1, PAGE)
    flash = Flash(guest.manager, contents)
    contents[:6] = set_eax(1) + RETURN
    guest.manager.register_device_io(Calls(lambda: contents.__setitem__(1, 2)), ports(PORT))
    # Between the command that shows the array and the call, the guest accesses another device.
    program = (CALL_MEMORY, IDENTIFY, port_out(PORT), ARRAY, port_out(PORT), CALL_MEMORY)
    assert guest.run(*program) == 2
    assert [each[0] for each in flash.accesses] == ["command", "command"]
    assert guest.run(CALL_MEMORY) == 2


def test_an_unaligned_command_switches_in_the_middle_of_a_write() -> None:
    guest = Guest()
    flash = Flash(guest.manager, mmap.mmap(-1, PAGE))
    guest.run(set_eax(0x90909090), store(MEMORY + 1), load(MEMORY, 1))
    assert flash.accesses == [*[("command", offset, 0x90) for offset in (1, 2, 3, 4)], ("load", 0, 1)]


def test_a_window_that_the_guest_is_in_still_serves_what_takes_its_place() -> None:
    """Unicorn cannot unmap it then. Reads give the array, and the next access to another device maps it."""
    guest = Guest()
    flash = Flash(guest.manager, mmap.mmap(-1, PAGE))
    flash.rom.view[:4] = ANSWER[:4]
    guest.manager.register_device_io(other := Recorder(), ports(PORT))
    guest.run(IDENTIFY)
    windows = lambda: [perms for first, _, perms in guest.uc.mem_regions() if first == MEMORY]  # noqa: E731
    before = windows()
    seen: list[list[int]] = []
    guest.uc.hook_add(UC_HOOK_CODE, lambda *_: seen.append(windows()))
    assert guest.run(ARRAY, load(MEMORY), load_8(MEMORY + 8), port_out(PORT), set_eax(1)) == 1
    assert seen[0] == seen[3] == before
    assert seen[-1] != before
    assert len(other.calls) == 1


def test_memory_in_the_way_of_the_guests_own_stops_it_at_the_next_access() -> None:
    """The access whose handler has made the change is not repeated."""
    guest = Guest()
    guest.uc.mem_map(MEMORY, PAGE)
    changes = []

    def plug() -> None:
        changes.append(True)
        if len(changes) == 1:
            guest.manager.register_device_io(Ram(PAGE), memory(MEMORY, PAGE))

    guest.manager.register_device_io(Calls(plug), mmio(DEVICE))
    with pytest.raises(GuestMemoryError, match=r"0x40000\.\.0x40fff of <Ram"):
        guest.run(store(DEVICE), set_eax(7), store(DEVICE))
    assert len(changes) == 1
    assert guest.eax == 7
    guest.uc.mem_unmap(MEMORY, PAGE)
    guest.bridge.emu_start(guest.eip, guest.eip + len(store(DEVICE)))
    assert len(changes) == 2


def test_a_handler_may_replace_memory_in_a_nested_run() -> None:
    guest = guest_with_memory(ram := Ram(PAGE))
    ram.view[:4] = ANSWER[:4]
    other = Ram(PAGE)
    other.view[:4] = ANSWER[4:8]
    guest.uc.mem_write(SCRATCH, port_out(PORT + 1) + load(MEMORY))

    def replace() -> None:
        with guest.manager.begin_tx() as tx:
            tx.unregister_device_io(memory(MEMORY, PAGE))
            tx.register_device_io(other, memory(MEMORY, PAGE))

    def nest() -> int:
        guest.bridge.emu_start(SCRATCH, SCRATCH + len(port_out(PORT + 1) + load(MEMORY)))
        return guest.eax

    guest.manager.register_device_io(Calls(replace), ports(PORT + 1, 1))
    guest.manager.register_device_io(Calls(nest), mmio(DEVICE))
    assert guest.run(load(MEMORY), load(DEVICE), load(MEMORY)) == int.from_bytes(ANSWER[4:8], "little")


# -- lifetime


def test_memory_outlives_its_mapping() -> None:
    ram = Ram(PAGE)
    alive = weakref.ref(ram)
    manager = IoManager()
    manager.register_device_io(ram, memory(MEMORY, PAGE))
    guest = Guest(manager)
    del ram, manager
    guest.manager = IoManager()
    gc.collect()
    assert guest.run(store(MEMORY), load(MEMORY)) == guest.eax
    assert alive() is not None
    del guest
    gc.collect()
    assert alive() is None


def test_detaching_unmaps_memory_and_lets_it_go() -> None:
    guest = guest_with_memory(ram := Ram(PAGE))
    alive = weakref.ref(ram)
    guest.bridge.detach()
    assert guest.mapped == []
    uc = guest.uc
    del ram, guest
    gc.collect()
    assert mapped_beside_ram(uc) == []
    assert alive() is None


def test_what_is_mapped_for_memory_cannot_be_changed_by_others() -> None:
    guest = guest_with_memory(Ram(2 * PAGE))
    for change in (guest.uc.mem_unmap, lambda first, size: guest.uc.mem_protect(first, size, 1)):
        with pytest.raises(DeviceModelError, match=r"0x40000\.\.0x41fff is mapped for ranges of the manager"):
            change(MEMORY + PAGE, PAGE)


def test_memory_in_the_way_of_the_guests_own_is_refused() -> None:
    manager = IoManager()
    manager.register_device_io(Ram(PAGE), memory(MEMORY, PAGE))
    uc = Uc(UC_ARCH_X86, UC_MODE_32)
    uc.mem_map(MEMORY, PAGE)
    with pytest.raises(GuestMemoryError, match=r"MMIO range 0x40000\.\.0x40fff of <Ram"):
        attach(uc, manager)


def test_two_emulators_share_memory() -> None:
    manager = IoManager()
    manager.register_device_io(Ram(PAGE), memory(MEMORY, PAGE))
    first, second = Guest(manager), Guest(manager)
    first.run(set_eax(0x1234), store(MEMORY))
    assert second.run(load(MEMORY)) == 0x1234
    assert second.uc.reg_read(UC_X86_REG_EAX) == 0x1234


# -- any sequence of changes

SLOTS = 6


@given(changes=st.lists(st.tuples(st.integers(0, SLOTS - 1), st.sampled_from(["ram", "rom", "device", "half"]))))
def test_whatever_changes_while_the_guest_runs_it_sees_what_is_registered(changes: list[tuple[int, str]]) -> None:
    guest = Guest()
    rams = [Ram(PAGE) for _ in range(SLOTS)]
    for number, ram in enumerate(rams):
        ram.view[0x800] = 0x10 + number
    roms = [Rom(bytes(0x800) + bytes([0x20 + number]) + bytes(0x7FF)) for number in range(SLOTS)]
    devices = [Recorder(answer=bytes([0x30 + number])) for number in range(SLOTS)]
    registered: dict[int, tuple[str, list[Resource]]] = {}
    steps = iter(changes)

    def change() -> None:
        number, kind = next(steps)
        with guest.manager.begin_tx() as tx:
            before, resources = registered.pop(number, ("", []))
            if resources:
                tx.unregister_device_io(resources)
            if before == kind:
                return
            base = MEMORY + number * PAGE
            resources = memory(base, PAGE)
            if kind == "device":
                resources = [Resource.MmioAddressRange(base, PAGE)]
            elif kind == "half":
                resources = memory(base + 0x800, 0x800)
            device = {"ram": rams, "rom": roms, "device": devices, "half": rams}[kind][number]
            tx.register_device_io(device, resources)
            registered[number] = kind, resources

    guest.manager.register_device_io(Calls(change), ports(SWITCH, 1))
    expected = {"ram": 0x10, "rom": 0x20, "device": 0x30}
    for _ in changes:
        guest.run(port_out(SWITCH))
        for number in range(SLOTS):
            code = load(MEMORY + number * PAGE + 0x800, 1)
            if number not in registered:
                with pytest.raises(UcError):
                    guest.run(code)
            elif registered[number][0] != "half":
                assert guest.run(code) & 0xFF == expected[registered[number][0]] + number
            else:
                assert guest.run(code) & 0xFF == 0
    assert sum(last - first + 1 for first, last in guest.mapped) == PAGE * len(registered)


def test_a_native_device_beside_memory_is_not_taken_for_memory() -> None:
    manager = IoManager()
    manager.register_device_io(NativeDevice(), [Resource.MmioAddressRange(MEMORY, PAGE)])
    guest = Guest(manager)
    assert guest.run(set_eax(1), store(MEMORY), load(MEMORY)) == 0
