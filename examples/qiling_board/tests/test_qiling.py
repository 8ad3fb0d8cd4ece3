"""A device of ours beside Qiling's own peripherals."""

from __future__ import annotations

import pytest

pytest.importorskip("qiling", reason="the package qiling is not installed")

from unicorn import Uc

from dbs_device import GuestMemoryError, IoManager, NativeDevice, Resource
from dbs_device.registers import RO, Register, RegisterBank, on_write
from dbs_device.unicorn import attach
from examples.qiling_board import machine

SOURCE = machine.FIRMWARE.with_suffix(".s")


def test_the_firmware_is_what_its_source_says() -> None:
    keystone = pytest.importorskip("keystone", reason="the package keystone-engine is not installed")
    assembler = keystone.Ks(keystone.KS_ARCH_ARM, keystone.KS_MODE_THUMB)
    source = "\n".join(line.partition("@")[0] for line in SOURCE.read_text().splitlines())
    code, _ = assembler.asm(source, machine.FLASH)
    assert bytes(code) == machine.FIRMWARE.read_bytes()


@pytest.mark.parametrize("message", [b"", b"x", b"every byte once"])
def test_a_message_goes_from_our_device_to_qilings_usart(message: bytes) -> None:
    assert machine.run(message) == message


class Usart(RegisterBank, size=0x400):
    """The two registers of a USART that the firmware uses."""

    SR = Register(0x00, access=RO, reset=0x80)  # TXE
    DR = Register(0x04)

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()

    @on_write(DR)
    def send(self, new: int, old: int) -> None:
        self.sent.append(new & 0xFF)


def test_a_device_of_ours_takes_the_place_of_qilings_usart() -> None:
    usart = Usart()
    manager = IoManager()
    manager.register_device_io(usart, [Resource.MmioAddressRange(0x4000_4400, usart.size)])
    ql = machine.make_board()
    replaced = ql.hw.usart2
    ql.hw.entity["usart2"] = machine.OnTheBus(manager)
    ql.hw.region["usart2"] = [(0x4000_4400, 0x4000_4800)]
    ql.hw.stepable.pop("usart2")
    with pytest.raises(AttributeError):  # `run` asks Qiling's for what was sent
        machine.run(b"ours", ql)
    assert usart.sent == b"ours"
    assert replaced.recv() == b""


def test_an_exception_of_a_device_comes_out_of_qiling() -> None:
    class BrokenError(Exception):
        pass

    def fail() -> None:
        raise BrokenError

    original = machine.MessageSource
    try:
        machine.MessageSource = lambda message, interrupt, stop: original(message, fail, stop)  # type: ignore[assignment, misc]
        with pytest.raises(BrokenError):
            machine.run(b"x")
    finally:
        machine.MessageSource = original  # type: ignore[misc]


def test_the_pages_of_qilings_peripherals_are_qilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It maps all of 0x40000000..0x400fffff, whether there is a peripheral or not."""
    seen: list[Uc] = []
    monkeypatch.setattr(machine, "attach", lambda uc, manager: seen.append(uc))
    monkeypatch.setattr(machine, "MOST_INSTRUCTIONS", 1)
    machine.run(b"")
    manager = IoManager()
    manager.register_device_io(NativeDevice(), [Resource.MmioAddressRange(0x4000_4400, 0x400)])
    with pytest.raises(GuestMemoryError, match=r"0x40000000\.\.0x400fffff, which the guest has already mapped"):
        attach(seen[0], manager)
