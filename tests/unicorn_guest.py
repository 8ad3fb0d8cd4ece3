"""A 32-bit x86 guest for the tests of the Unicorn bridge, and the few instructions that they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers import Recorder
from unicorn import UC_ARCH_X86, UC_MODE_32, Uc
from unicorn.x86_const import UC_X86_REG_EAX, UC_X86_REG_EIP, UC_X86_REG_ESP

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.unicorn import Bridge, attach

PAGE = 0x1000
RAM = range(0x4000)
CODE = 0x1000
SCRATCH = 0x2000
DEVICE = 0x8000  # where most tests put their first MMIO range
PORT = 0x60
ANSWER = bytes(range(0x81, 0x91))  # of most devices
WORD = int.from_bytes(ANSWER[:4], "little")


def _prefixed(size: int, byte_code: str, word_code: str) -> bytes:
    """Return an opcode for operands of 1, 2 or 4 bytes."""
    return bytes.fromhex(byte_code if size == 1 else word_code if size == 4 else "66" + word_code)


def _little(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def load(address: int, size: int = 4) -> bytes:
    """Return the code of `mov al/ax/eax, [address]`."""
    return _prefixed(size, "a0", "a1") + _little(address)


def store(address: int, size: int = 4) -> bytes:
    """Return the code of `mov [address], al/ax/eax`."""
    return _prefixed(size, "a2", "a3") + _little(address)


def load_8(address: int) -> bytes:
    """Return the code of `movq xmm0, [address]`."""
    return bytes.fromhex("f30f7e05") + _little(address)


def store_8(address: int) -> bytes:
    """Return the code of `movq [address], xmm0`."""
    return bytes.fromhex("660fd605") + _little(address)


def port_in(port: int, size: int = 1) -> bytes:
    """Return the code of `mov dx, port` and `in al/ax/eax, dx`."""
    return b"\x66\xba" + _little(port, 2) + _prefixed(size, "ec", "ed")


def port_out(port: int, size: int = 1) -> bytes:
    """Return the code of `mov dx, port` and `out dx, al/ax/eax`."""
    return b"\x66\xba" + _little(port, 2) + _prefixed(size, "ee", "ef")


def set_eax(value: int) -> bytes:
    """Return the code of `mov eax, value`."""
    return b"\xb8" + _little(value)


LOOP_FOREVER = b"\xeb\xfe"  # jmp $


def make_uc() -> Uc:
    """Return an emulator with a little RAM."""
    uc = Uc(UC_ARCH_X86, UC_MODE_32)
    uc.mem_map(RAM.start, len(RAM))
    uc.reg_write(UC_X86_REG_ESP, SCRATCH + PAGE)
    return uc


class Guest:
    """An emulator that is attached to a manager, and runs what it is given."""

    def __init__(self, manager: IoManager | None = None) -> None:
        self.manager = IoManager() if manager is None else manager
        self.uc = make_uc()
        self.bridge: Bridge = attach(self.uc, self.manager)

    def run(self, *code: bytes, **limits: int) -> int:
        """Run code from its first instruction to its end, and return EAX."""
        end = write_code(self.uc, b"".join(code))
        self.bridge.emu_start(CODE, end, **limits)
        return self.eax

    @property
    def eax(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_EAX))

    @property
    def eip(self) -> int:
        return int(self.uc.reg_read(UC_X86_REG_EIP))

    @property
    def mapped(self) -> list[tuple[int, int]]:
        """The (first, last) addresses of what is mapped beside the RAM."""
        return mapped_beside_ram(self.uc)


def mapped_beside_ram(uc: Uc) -> list[tuple[int, int]]:
    return sorted((first, last) for first, last, _ in uc.mem_regions() if first not in RAM)


def write_code(uc: Uc, code: bytes) -> int:
    """Write code where programs begin, and return where it ends."""
    uc.mem_write(CODE, code)
    uc.ctl_remove_cache(CODE, CODE + len(code))
    return CODE + len(code)


def mmio(base: int, size: int = 0x100) -> list[Resource]:
    return [Resource.MmioAddressRange(base, size)]


def ports(base: int, size: int = 0x10) -> list[Resource]:
    return [Resource.PioAddressRange(base, size)]


def guest_with(device: DeviceIo, **options: Any) -> Guest:
    """Return a guest with a device at `DEVICE` and at `PORT`."""
    manager = IoManager(**options)
    manager.register_device_io(device, mmio(DEVICE) + ports(PORT))
    return Guest(manager)


class Calls(DeviceIo):
    """Calls a function for each access of whatever kind; what that returns is read, its lowest byte first."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def read(self, base, offset, data):
        data[:] = int(self.function() or 0).to_bytes(len(data), "little")

    def write(self, base, offset, data):
        self.function()

    pio_read = read
    pio_write = write


def accesses_of(device: Recorder) -> list[tuple[int, int | bytes]]:
    """Return (offset, size) of each read that a device has seen, and (offset, bytes) of each write."""
    return [(offset, len(data) if "read" in handler else data) for handler, _, offset, data in device.calls]
