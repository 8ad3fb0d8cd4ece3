"""The firmware configuration device, against QEMU's specification."""

from __future__ import annotations

import struct

import pytest
from isa_helpers import on_bus

from dbs_device import IoManager, Resource
from dbs_device.devices.fw_cfg import FwCfg, FwCfgMmio
from dbs_device.memory import GuestMemory, Ram


class Firmware:
    """fw_cfg on a bus."""

    def __init__(self) -> None:
        self.device = FwCfg()
        self.bus = on_bus(self.device)

    def read(self, key: int, size: int) -> bytes:
        self.bus.pio_out(0x510, 2, key)
        return bytes(self.bus.pio_in(0x511, 1) for _ in range(size))


def test_signature_and_interface() -> None:
    firmware = Firmware()
    assert (firmware.read(0, 4), firmware.read(1, 4)) == (b"QEMU", b"\1\0\0\0")


def test_everything_past_the_end_is_zero() -> None:
    assert Firmware().read(0, 6) == b"QEMU\0\0"


def test_selecting_again_starts_over() -> None:
    firmware = Firmware()
    assert [firmware.read(0, 2), firmware.read(0, 2)] == [b"QE", b"QE"]


def test_unknown_key_reads_as_zero() -> None:
    assert Firmware().read(0x8000, 4) == bytes(4)


def test_directory() -> None:
    firmware = Firmware()
    firmware.device.add_file("etc/one", b"1")
    firmware.device.add_file("etc/two", b"22")
    firmware.device.add_file("etc/one", b"111")
    count, *_ = struct.unpack(">I", firmware.read(0x19, 4))
    assert count == 2
    listing = firmware.read(0x19, 4 + 2 * 64)[4:]
    entries = [struct.unpack_from(">IHH56s", listing, 64 * number) for number in range(count)]
    assert [(size, key, reserved, name.rstrip(b"\0")) for size, key, reserved, name in entries] == [
        (3, 0x20, 0, b"etc/one"),
        (2, 0x21, 0, b"etc/two"),
    ]
    assert firmware.read(0x20, 3) == b"111"


def test_file_name_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^a file name must have less than 56 bytes, not 'x{56}'$"):
        FwCfg().add_file("x" * 56, b"")


def test_guest_cannot_write_an_item() -> None:
    firmware = Firmware()
    firmware.bus.pio_out(0x510, 2, 0)
    firmware.bus.pio_out(0x511, 1, 0x5A)
    assert firmware.read(0, 4) == b"QEMU"


def test_selector_cannot_be_read() -> None:
    assert Firmware().bus.pio_in(0x510, 2) == 0


RAM = 0x4000_0000


class Transfers:
    """The DMA interface of either version, beside RAM."""

    def __init__(self, kind: str) -> None:
        self.bus = IoManager()
        self.bus.register_device_io(Ram(0x4000), [Resource.MemAddressRange(RAM, 0x4000)])
        self.memory = GuestMemory(self.bus)
        self.kind = kind
        self.device: FwCfg | FwCfgMmio
        if kind == "ports":
            self.device = FwCfg(memory=self.memory)
            self.bus.register_device_io(self.device, self.device.get_trapped_io_resources())
        else:
            self.device = FwCfgMmio(memory=self.memory)
            self.bus.register_device_io(self.device, [Resource.MmioAddressRange(0x902_0000, self.device.size)])
        self.device.add_file("etc/data", b"0123456789")

    def start(self, address: int) -> None:
        swapped = int.from_bytes(address.to_bytes(8, "big"), "little")
        if self.kind == "memory":
            self.bus.mmio_store(0x902_0010, 8, swapped)
            return
        for half in (0, 4):
            value = swapped >> 8 * half & 0xFFFF_FFFF
            if self.kind == "ports":
                self.bus.pio_out(0x514 + half, 4, value)
            else:
                self.bus.mmio_store(0x902_0010 + half, 4, value)

    def do(self, control: int, length: int, address: int) -> int:
        self.memory.write(RAM, struct.pack(">IIQ", control, length, address))
        self.start(RAM)
        return int.from_bytes(self.memory.read(RAM, 4), "big")


READ, SKIP, SELECT, WRITE, ERROR = 2, 4, 8, 16, 1


@pytest.fixture(params=["ports", "memory", "memory, in halves"])
def transfers(request: pytest.FixtureRequest) -> Transfers:
    return Transfers(request.param)


def test_a_file_is_transferred(transfers: Transfers) -> None:
    assert transfers.do(0x20 << 16 | SELECT | READ, 4, RAM + 0x100) == 0
    assert transfers.do(READ, 8, RAM + 0x104) == 0
    assert transfers.memory.read(RAM + 0x100, 12) == b"0123456789\0\0"
    assert transfers.do(0x20 << 16 | SELECT | SKIP, 7, 0) == 0
    assert transfers.do(READ, 2, RAM + 0x100) == 0
    assert transfers.memory.read(RAM + 0x100, 2) == b"78"


def test_the_interface_says_that_it_is_there(transfers: Transfers) -> None:
    load, base = (transfers.bus.pio_in, 0x514) if transfers.kind == "ports" else (transfers.bus.mmio_load, 0x902_0010)
    assert b"".join(load(base + half, 4).to_bytes(4, "little") for half in (0, 4)) == b"QEMU CFG"
    assert transfers.do(1 << 16 | SELECT | READ, 4, RAM + 0x100) == 0
    assert transfers.memory.read(RAM + 0x100, 4) == b"\3\0\0\0"


@pytest.mark.parametrize(
    ("length", "address"),
    [(4, 0), (8, RAM + 0x3FFC), (0xFFFF_FFFF, RAM), (16, 0x902_0010), (16, 2**64 - 8), (1, 2**64 - 1)],
)
def test_a_transfer_that_leaves_ram_fails(transfers: Transfers, length: int, address: int) -> None:
    assert transfers.do(0x20 << 16 | SELECT | READ, length, address) == ERROR
    assert transfers.do(0x20 << 16 | SELECT | READ, 4, RAM + 0x100) == 0


def test_items_are_not_written_by_transfers_either(transfers: Transfers) -> None:
    assert transfers.do(0x20 << 16 | SELECT | WRITE, 4, RAM + 0x100) == ERROR


@pytest.mark.parametrize("address", [0, RAM + 0x3FF8, 0x902_0000, 2**64 - 1, 2**64 - 8])
def test_a_structure_outside_ram_does_nothing(transfers: Transfers, address: int) -> None:
    before = transfers.memory.read(RAM, 0x4000)
    transfers.start(address)
    assert transfers.memory.read(RAM, 0x4000) == before


def test_registers_in_memory_without_transfers() -> None:
    bus = IoManager()
    device = FwCfgMmio()
    bus.register_device_io(device, [Resource.MmioAddressRange(0, device.size)])
    bus.mmio_store(8, 2, 0x0100)  # big-endian: the ID
    assert bus.mmio_load(0, 4) == 1
    bus.mmio_store(8, 2, 0)
    assert bus.mmio_load(0, 8).to_bytes(8, "little") == b"QEMU\0\0\0\0"
    bus.mmio_store(16, 8, 0)
    assert bus.mmio_load(16, 8) == bus.mmio_load(8, 2) == 0


def test_a_transfer_in_halves_goes_on_from_a_state() -> None:
    first, second = Transfers("memory, in halves"), Transfers("memory, in halves")
    first.bus.mmio_store(0x902_0010, 4, 0)
    first.bus.mmio_store(0x902_0008, 2, 0x2000)
    first.bus.mmio_load(0x902_0000, 2)
    second.device.load_state(first.device.save_state())
    assert second.bus.mmio_load(0x902_0000, 2).to_bytes(2, "little") == b"23"
