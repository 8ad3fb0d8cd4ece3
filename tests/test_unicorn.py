"""A guest's accesses through the Unicorn bridge: which device they reach, and how Unicorn splits them."""

from __future__ import annotations

import pytest
from helpers import Recorder, on_another_thread
from unicorn import (
    UC_ARCH_ARM64,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_CODE,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_MODE_ARM,
    UC_PROT_ALL,
    Uc,
    UcError,
)
from unicorn.arm64_const import UC_ARM64_REG_X0, UC_ARM64_REG_X1
from unicorn.x86_const import UC_X86_REG_XMM0
from unicorn_guest import (
    ANSWER,
    CODE,
    DEVICE,
    LOOP_FOREVER,
    PAGE,
    PORT,
    RAM,
    SCRATCH,
    WORD,
    Calls,
    Guest,
    accesses_of,
    guest_with,
    load,
    load_8,
    make_uc,
    mmio,
    port_in,
    port_out,
    ports,
    set_eax,
    store,
    store_8,
    write_code,
)

from dbs_device import IoAddress, IoManager, NativeDevice, NoDeviceError, PioAddress, Resource
from dbs_device.memory import Ram
from dbs_device.unicorn import attach

each_size = pytest.mark.parametrize("size", [1, 2, 4])


# -- to the device and back


@each_size
def test_a_load_gives_what_the_device_answers(size: int) -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    eax = guest.run(set_eax(0), load(DEVICE + 0x10, size))
    assert eax == int.from_bytes(ANSWER[:size], "little")
    assert device.calls == [("read", DEVICE, 0x10, bytes(size))]


@each_size
def test_a_store_gives_the_device_the_bytes(size: int) -> None:
    guest = guest_with(device := Recorder())
    guest.run(set_eax(0x44332211), store(DEVICE + 0x10, size))
    assert device.calls == [("write", DEVICE, 0x10, bytes.fromhex("11223344")[:size])]


@each_size
def test_in_gives_what_the_device_answers_and_leaves_the_rest_of_the_register(size: int) -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    eax = guest.run(set_eax(0x11111111), port_in(PORT + 4, size))
    assert eax.to_bytes(4, "little") == ANSWER[:size] + b"\x11" * (4 - size)
    assert device.calls == [("pio_read", PORT, 4, bytes(size))]


@each_size
def test_out_gives_the_device_the_bytes(size: int) -> None:
    guest = guest_with(device := Recorder())
    guest.run(set_eax(0x44332211), port_out(PORT + 4, size))
    assert device.calls == [("pio_write", PORT, 4, bytes.fromhex("11223344")[:size])]


def test_the_port_may_be_part_of_the_instruction() -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    guest.run(bytes.fromhex("e465 e666"))  # in al, 0x65; out 0x66, al
    assert accesses_of(device) == [(5, 1), (6, ANSWER[:1])]


def test_string_instructions_reach_the_port_once_an_item() -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    # mov edi, SCRATCH; mov ecx, 3; mov dx, PORT; rep insb; mov esi, CODE; mov ecx, 2; rep outsb
    guest.run(bytes.fromhex("bf00200000 b903000000 66ba6000 f36c be00100000 b902000000 f36e"))
    assert accesses_of(device) == [(0, 1), (0, 1), (0, 1), (0, b"\xbf"), (0, b"\x00")]
    assert guest.uc.mem_read(SCRATCH, 4) == ANSWER[:1] * 3 + b"\0"


def test_addresses_have_the_types_of_their_bus() -> None:
    guest = guest_with(device := Recorder())
    guest.run(load(DEVICE + 0x40), port_in(PORT))
    assert [(type(base), type(offset)) for _, base, offset, _ in device.calls] == [
        (IoAddress, IoAddress),
        (PioAddress, PioAddress),
    ]


def test_a_device_may_do_nothing() -> None:
    guest = guest_with(Recorder())
    assert guest.run(set_eax(0xFFFFFFFF), load(DEVICE)) == 0


def test_a_native_device_is_served_too() -> None:
    guest = guest_with(NativeDevice())
    assert guest.run(set_eax(0xFFFFFFFF), store(DEVICE), load(DEVICE)) == 0
    assert guest.run(set_eax(0xFFFFFFFF), port_out(PORT, 4), port_in(PORT, 4)) == 0


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_the_byte_order_of_the_manager_is_for_its_own_integers(byteorder: str) -> None:
    """The guest's order is Unicorn's: a manager may serve guests of both."""
    guest = guest_with(Recorder(answer=ANSWER), byteorder=byteorder)
    assert guest.run(load(DEVICE)) == int.from_bytes(ANSWER[:4], "little")
    assert guest.manager.mmio_load(DEVICE, 4) == int.from_bytes(ANSWER[:4], byteorder)  # type: ignore[arg-type]


def test_a_range_may_end_with_the_address_space() -> None:
    last_page = 2**64 - PAGE
    manager = IoManager()
    manager.register_device_io(device := Recorder(), mmio(last_page + 0x800, 0x800))
    uc = make_uc()
    bridge = attach(uc, manager)
    assert (last_page, 2**64 - 1) in [(first, last) for first, last, _ in uc.mem_regions()]
    bridge.detach()
    assert device.calls == []


def test_a_64_bit_guest_reaches_the_last_bytes_of_the_address_space() -> None:
    base = 2**64 - 0x800
    manager = IoManager()
    manager.register_device_io(device := Recorder(answer=ANSWER), mmio(base, 0x800))
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    uc.mem_map(RAM.start, len(RAM))
    uc.reg_write(UC_ARM64_REG_X1, 2**64 - 4)
    attach(uc, manager).emu_start(CODE, write_code(uc, bytes.fromhex("200040b9")))  # ldr w0, [x1]
    assert device.calls == [("read", base, 0x7FC, bytes(4))]
    assert uc.reg_read(UC_ARM64_REG_X0) == int.from_bytes(ANSWER[:4], "little")


# -- several devices, and unowned addresses


def guest_with_two_devices_in_a_page(**options: int | str) -> tuple[Guest, Recorder, Recorder]:
    manager = IoManager(**options)
    low, high = Recorder("low", answer=ANSWER), Recorder("high", answer=ANSWER[8:])
    manager.register_device_io(low, mmio(DEVICE + 0x100, 0x10) + ports(0x60, 4))
    manager.register_device_io(high, mmio(DEVICE + 0x200, 0x10) + ports(0x68, 4))
    return Guest(manager), low, high


def test_two_devices_share_a_page() -> None:
    guest, low, high = guest_with_two_devices_in_a_page()
    assert guest.mapped == [(DEVICE, DEVICE + PAGE - 1)]
    assert guest.run(load(DEVICE + 0x10C)) == int.from_bytes(ANSWER[:4], "little")
    assert guest.run(load(DEVICE + 0x200)) == int.from_bytes(ANSWER[8:12], "little")
    assert accesses_of(low) == [(0xC, 4)]
    assert accesses_of(high) == [(0, 4)]


UNOWNED = [
    (load(DEVICE + 0x180), "MMIO", DEVICE + 0x180, 4),
    (store(DEVICE + 0xFF, 1), "MMIO", DEVICE + 0xFF, 1),
    (load(DEVICE, 2), "MMIO", DEVICE, 2),
    (store(DEVICE + 0xFFC), "MMIO", DEVICE + 0xFFC, 4),
    (port_in(0x64, 2), "PIO", 0x64, 2),
    (port_out(0xFFFF, 1), "PIO", 0xFFFF, 1),
]
each_unowned = pytest.mark.parametrize(("code", "bus", "address", "size"), UNOWNED)


@each_unowned
def test_an_address_that_no_device_owns_is_refused(code: bytes, bus: str, address: int, size: int) -> None:
    guest, low, high = guest_with_two_devices_in_a_page()
    with pytest.raises(NoDeviceError) as caught:
        guest.run(code)
    assert (caught.value.space.name, caught.value.address, caught.value.size) == (bus, address, size)
    assert low.calls == high.calls == []


@each_unowned
def test_an_open_bus_answers_instead(code: bytes, bus: str, address: int, size: int) -> None:
    guest, low, high = guest_with_two_devices_in_a_page(open_bus=0xFF)
    guest.run(set_eax(0), code)
    is_read = code[0] in (0xA0, 0xA1) or code[:2] == b"\x66\xa1" or code[-1] in (0xEC, 0xED)
    assert guest.eax == ((1 << 8 * size) - 1 if is_read else 0)
    assert low.calls == high.calls == []


@pytest.mark.parametrize(("code", "size"), [(port_in(0x62, 4), 4), (port_out(0x63, 2), 2)])
def test_an_access_that_runs_past_a_range_is_refused(code: bytes, size: int) -> None:
    guest, low, _ = guest_with_two_devices_in_a_page()
    with pytest.raises(NoDeviceError, match=r"runs past the end of range 0x60\.\.0x63 of <low>") as caught:
        guest.run(code)
    assert caught.value.owner == (0x60, 0x63, low)
    assert caught.value.size == size
    assert low.calls == []


def test_an_mmio_access_that_runs_past_a_range_is_refused() -> None:
    manager = IoManager()
    manager.register_device_io(device := Recorder("short"), mmio(DEVICE, 6))
    with pytest.raises(NoDeviceError, match=r"0x8004 \(4 bytes\) runs past the end of range 0x8000..0x8005 of <short>"):
        Guest(manager).run(load(DEVICE + 4))
    assert device.calls == []


def test_a_straddling_access_is_passed_if_the_manager_allows_it() -> None:
    guest, low, _ = guest_with_two_devices_in_a_page(straddle="pass")
    assert guest.run(port_in(0x62, 4)) == int.from_bytes(ANSWER[:4], "little")
    assert accesses_of(low) == [(2, 4)]


def test_a_straddling_access_reads_as_the_open_bus() -> None:
    guest, low, _ = guest_with_two_devices_in_a_page(open_bus=0xAB)
    assert guest.run(port_in(0x62, 4)) == 0xABABABAB
    assert low.calls == []


@pytest.mark.parametrize(
    ("code", "errno"),
    [(load(DEVICE + PAGE), UC_ERR_READ_UNMAPPED), (store(DEVICE - 4), UC_ERR_WRITE_UNMAPPED)],
)
@pytest.mark.parametrize("options", [{}, {"open_bus": 0xFF}])
def test_a_page_that_holds_no_range_stays_an_error_of_unicorn(code: bytes, errno: int, options: dict[str, int]) -> None:
    guest = guest_with(Recorder(), **options)
    with pytest.raises(UcError) as caught:
        guest.run(code)
    assert caught.value.errno == errno


# -- a background


def test_a_background_serves_what_no_range_owns() -> None:
    background = Recorder(answer=ANSWER)
    guest = guest_with(device := Recorder(), background=background)
    guest.run(load(DEVICE))
    assert guest.mapped == [(DEVICE, DEVICE + PAGE - 1)]
    assert guest.run(load(DEVICE + 0x800), store(0x20004), load(0x20008)) == int.from_bytes(ANSWER[:4], "little")
    assert accesses_of(device) == [(0, 4)]
    assert background.calls == [
        ("read", 0, DEVICE + 0x800, bytes(4)),
        ("write", 0, 0x20004, ANSWER[:4]),
        ("read", 0, 0x20008, bytes(4)),
    ]


def test_pages_of_the_background_give_way_to_ranges() -> None:
    background = Recorder(answer=ANSWER)
    guest = guest_with(Recorder(), background=background)
    guest.run(load(0x20000), load(0x30000))
    guest.manager.register_device_io(device := Recorder(answer=ANSWER[4:]), mmio(0x20000))
    guest.manager.register_device_io(ram := Ram(PAGE), [Resource.MemAddressRange(0x30000, PAGE)])
    ram.view[:4] = ANSWER[8:12]
    assert guest.run(load(0x20000)) == int.from_bytes(ANSWER[4:8], "little")
    assert guest.run(load(0x30000)) == int.from_bytes(ANSWER[8:12], "little")
    guest.manager.unregister_device_io(mmio(0x20000))
    assert guest.run(load(0x20000)) == WORD
    assert len(background.calls) == 3
    assert len(device.calls) == 1


def test_a_background_of_memory_ends_where_its_memory_ends() -> None:
    ram = Ram(0x20800)
    ram.view[0x20400:0x20404] = ANSWER[:4]
    guest = Guest(IoManager(background=ram))
    assert guest.run(load(0x20400)) == WORD
    with pytest.raises(UcError) as caught:
        guest.run(load(0x21000))
    assert caught.value.errno == UC_ERR_READ_UNMAPPED
    with pytest.raises(UcError):
        guest.run(b"\xe9" + (0x20400 - CODE - 5).to_bytes(4, "little"))  # jmp


# -- how Unicorn splits accesses: the sentences of the module's documentation


def test_an_access_wider_than_four_bytes_arrives_as_several_of_four() -> None:
    guest = guest_with(device := Recorder())
    guest.uc.reg_write(UC_X86_REG_XMM0, int.from_bytes(ANSWER, "little"))
    guest.run(store_8(DEVICE + 8), load_8(DEVICE + 8))
    assert accesses_of(device) == [(8, ANSWER[:4]), (12, ANSWER[4:8]), (8, 4), (12, 4)]


UNALIGNED_READS = [
    (load(DEVICE + 1, 2), [(0, 2), (2, 2)]),
    (load(DEVICE + 3, 2), [(2, 2), (4, 2)]),
    (load(DEVICE + 1), [(0, 4), (4, 4)]),
    (load(DEVICE + 2), [(0, 4), (4, 4)]),
    (load(DEVICE + 3), [(0, 4), (4, 4)]),
    (load_8(DEVICE + 4), [(0, 4), (4, 4), (8, 4), (12, 4)]),
]


@pytest.mark.parametrize(("code", "parts"), UNALIGNED_READS)
def test_an_unaligned_read_arrives_as_the_two_aligned_ones_that_cover_it(
    code: bytes, parts: list[tuple[int, int]]
) -> None:
    guest = guest_with(device := Recorder())
    guest.run(code)
    assert accesses_of(device) == parts


def test_an_unaligned_read_gives_the_right_bytes() -> None:
    guest = Guest()
    count = iter(range(0x80, 0x100, 4))
    guest.manager.register_device_io(
        Calls(lambda: int.from_bytes(bytes(range(first := next(count), first + 4)), "little")), mmio(DEVICE)
    )
    assert guest.run(load(DEVICE + 1)) == 0x84838281


UNALIGNED_WRITES = [
    (store(DEVICE + 1, 2), [(1, b"\x11"), (2, b"\x22")]),
    (store(DEVICE + 2), [(2, b"\x11"), (3, b"\x22"), (4, b"\x33"), (5, b"\x44")]),
]


@pytest.mark.parametrize(("code", "parts"), UNALIGNED_WRITES)
def test_an_unaligned_write_arrives_as_single_bytes(code: bytes, parts: list[tuple[int, bytes]]) -> None:
    guest = guest_with(device := Recorder())
    guest.run(set_eax(0x44332211), code)
    assert accesses_of(device) == parts


def test_alignment_is_to_the_size_of_the_access() -> None:
    guest = guest_with(device := Recorder())
    guest.run(set_eax(0x44332211), store(DEVICE + 2, 2), load(DEVICE + 2, 2))
    assert accesses_of(device) == [(2, b"\x11\x22"), (2, 2)]


def test_ports_are_never_split() -> None:
    guest = guest_with(device := Recorder())
    guest.run(set_eax(0x44332211), port_out(PORT + 1, 4), port_in(PORT + 3, 4), port_in(PORT + 1, 2))
    assert accesses_of(device) == [(1, bytes.fromhex("11223344")), (3, 4), (1, 2)]


# -- beside the user's own


def test_limits_of_a_run_are_passed_on() -> None:
    guest = guest_with(device := Recorder())
    guest.run(port_in(PORT), port_in(PORT), count=2)
    assert accesses_of(device) == [(0, 1)]  # mov dx, PORT; in al, dx
    guest.run(LOOP_FOREVER, timeout=200_000)  # Unicorn loses one that is over before the guest has started
    assert guest.eip == CODE


def test_a_device_may_stop_the_guest() -> None:
    guest = Guest()
    guest.manager.register_device_io(Calls(lambda: guest.uc.emu_stop()), ports(PORT))
    guest.run(port_out(PORT), LOOP_FOREVER)
    assert guest.eip == CODE + len(port_out(PORT))


def test_a_device_may_access_the_bus_and_the_guests_memory() -> None:
    guest = Guest()
    guest.manager.register_device_io(inner := Recorder(answer=ANSWER), mmio(DEVICE))
    guest.manager.register_device_io(
        Calls(lambda: guest.manager.mmio_load(DEVICE + 4, 1) + guest.uc.mem_read(CODE, 1)[0]), ports(PORT)
    )
    assert guest.run(port_in(PORT)) & 0xFF == ANSWER[0] + port_in(PORT)[0] & 0xFF
    assert accesses_of(inner) == [(4, 1)]


def test_a_device_may_run_the_guest() -> None:
    """As an emulator does that calls a guest's function from a hook."""
    guest = Guest()
    guest.manager.register_device_io(inner := Recorder(answer=ANSWER), mmio(DEVICE))
    nested = load(DEVICE, 1)
    guest.uc.mem_write(SCRATCH, nested)

    def run_nested() -> int:
        guest.bridge.emu_start(SCRATCH, SCRATCH + len(nested))
        return 0x77

    guest.manager.register_device_io(Calls(run_nested), ports(PORT))
    guest.run(port_in(PORT))
    assert accesses_of(inner) == [(0, 1)]
    assert guest.eax & 0xFF == 0x77


def test_unicorns_own_hooks_see_the_guest_as_before() -> None:
    guest = guest_with(Recorder(answer=ANSWER))
    seen = []
    guest.uc.hook_add(UC_HOOK_CODE, lambda uc, address, size, _: seen.append(("code", address)))
    guest.uc.hook_add(UC_HOOK_MEM_READ, lambda uc, access, address, size, value, _: seen.append(("read", address)))
    guest.run(load(DEVICE))
    assert seen == [("code", CODE), ("read", DEVICE)]


def test_a_hook_of_the_user_may_serve_unmapped_memory() -> None:
    guest = guest_with(Recorder(answer=ANSWER))

    def map_it(uc, access, address, size, value, user_data):
        uc.mem_map(address & ~0xFFF, PAGE, UC_PROT_ALL)
        return True

    guest.uc.hook_add(UC_HOOK_MEM_READ_UNMAPPED, map_it)
    assert guest.run(load(DEVICE), load(0x20000)) == 0


def test_a_guest_may_run_on_any_thread() -> None:
    guest = guest_with(device := Recorder(answer=ANSWER))
    assert on_another_thread(guest.run, load(DEVICE)) == int.from_bytes(ANSWER[:4], "little")
    assert guest.run(load(DEVICE + 4)) == int.from_bytes(ANSWER[:4], "little")
    assert accesses_of(device) == [(0, 4), (4, 4)]
