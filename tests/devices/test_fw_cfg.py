"""The firmware configuration device of the example PC, against QEMU's specification."""

from __future__ import annotations

import struct

import pytest
from isa_helpers import on_bus

from dbs_device.devices.fw_cfg import FwCfg


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
