"""A virtual machine monitor in little more than a hundred lines: a guest in real mode, on KVM.

Run it with ``python -m examples.vmm`` (Linux on x86-64). The guest is given in hex, with comments as in assembly.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import platform
import struct
import sys
from types import TracebackType
from typing import Any, Self

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.kvm import Vcpu, Vm
from dbs_device.memory import Ram

__all__ = ["Kvm", "KvmError", "Machine", "Processor", "assembled", "main", "read_registers"]

# linux/kvm.h
API_VERSION = 12
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_TSS_ADDR = 0xAE47
KVM_CREATE_IRQCHIP = 0xAE60
KVM_GET_REGS, KVM_SET_REGS = 0x8090AE81, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
KVM_SET_MP_STATE, RUNNABLE = 0x4004AE99, 0
KVM_CAP_COALESCED_MMIO = 15

SEGMENT_SIZE, SREGS_SIZE, REGS_SIZE = 24, 312, 144
REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *(f"r{number}" for number in range(8, 16)),
    *("rip", "rflags"),
)
UNUSED_ADDRESS = 0x7FFB_D000  # three pages of the guest's, which Intel's processors need in real mode

RAM_SIZE = 0x10000
CODE, STACK = 0x1000, 0x8000

HELLO = """
    be 20 10        ; mov si, text
    ac              ; next: lodsb
    84 c0           ; test al, al
    74 04           ; jz done
    e6 e9           ; out 0xe9, al
    eb f7           ; jmp next
    f4              ; done: hlt
"""


class KvmError(OSError):
    """The host has no KVM."""


class Kvm:
    """An open ``/dev/kvm`` and a new VM. A context manager, which closes what it has opened.

    Parameters
    ----------
    irqchip : bool
        Whether the kernel has the interrupt controllers.

    Attributes
    ----------
    fd : int
        The VM.
    coalesced_ring : int
        What a `Vcpu` takes as its `coalesced_ring`.
    """

    def __init__(self, irqchip: bool = False) -> None:
        self._files: list[int] = []
        try:
            self._kvm = self._opened(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
            if fcntl.ioctl(self._kvm, KVM_GET_API_VERSION) != API_VERSION:
                raise OSError(errno.ENOTSUP, "another version of its interface")
            self.fd = self._opened(fcntl.ioctl(self._kvm, KVM_CREATE_VM, 0))
            if platform.machine() == "x86_64":
                fcntl.ioctl(self.fd, KVM_SET_TSS_ADDR, UNUSED_ADDRESS)
            if irqchip:
                fcntl.ioctl(self.fd, KVM_CREATE_IRQCHIP, 0)
        except OSError as error:
            self.close()
            raise KvmError(f"KVM cannot be used: /dev/kvm: {error.strerror}") from error
        self.coalesced_ring: int = fcntl.ioctl(self._kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO)

    def _opened(self, fd: int) -> int:
        self._files.append(fd)
        return fd

    def new_vcpu(self, number: int = 0) -> tuple[int, mmap.mmap]:
        """Return a new vCPU's file and its ``kvm_run``."""
        fd = self._opened(fcntl.ioctl(self.fd, KVM_CREATE_VCPU, number))
        return fd, mmap.mmap(fd, fcntl.ioctl(self._kvm, KVM_GET_VCPU_MMAP_SIZE))

    def close(self) -> None:
        """Close the VM and its vCPUs, which cannot run any more."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_registers(fd: int) -> dict[str, int]:
    """Return the general registers of a vCPU, by name."""
    values = struct.unpack("<18Q", fcntl.ioctl(fd, KVM_GET_REGS, bytes(REGS_SIZE)))
    return dict(zip(REGISTERS, values, strict=True))


def assembled(code: str) -> bytes:
    """Return code that is given in hex, with comments as in assembly."""
    return bytes.fromhex("".join(line.split(";")[0] for line in code.splitlines()))


class Machine(Kvm):
    """A VM with 64 KiB of RAM at 0, and code at 0x1000.

    Parameters
    ----------
    code : str
        See `assembled`.
    irqchip : bool
        See `Kvm`.
    options
        Of the `IoManager`.
    """

    def __init__(self, code: str = "", *, irqchip: bool = False, **options: Any) -> None:
        super().__init__(irqchip)
        self.manager = IoManager(**options)
        self.ram = Ram(RAM_SIZE)
        self.manager.register_device_io(self.ram, [Resource.MemAddressRange(0, RAM_SIZE)], name="ram")
        self.vm = Vm(self.fd, self.manager)
        self.load(CODE, code)

    def load(self, address: int, code: str) -> None:
        """Put code into the RAM."""
        content = assembled(code)
        self.ram.view[address : address + len(content)] = content

    def processor(self, number: int = 0, start: int = CODE, **options: Any) -> Processor:
        """Return a processor that starts at an address; the options are those of its `Vcpu`."""
        return Processor(self.manager, *self.new_vcpu(number), start, **options)

    def close(self) -> None:
        """Close the VM, and remove its memory first."""
        if hasattr(self, "vm"):  # not if there is no KVM
            self.vm.close()
        super().close()


class Processor:
    """A vCPU in real mode, with its stack below 0x8000 and interrupts disabled."""

    def __init__(self, manager: IoManager, fd: int, run: mmap.mmap, start: int, **options: Any) -> None:
        self.fd = fd
        self.run_mapping = run
        with contextlib.suppress(OSError):  # where there is an APIC, a secondary processor waits for its start
            fcntl.ioctl(fd, KVM_SET_MP_STATE, struct.pack("<I", RUNNABLE))
        special = bytearray(fcntl.ioctl(fd, KVM_GET_SREGS, bytes(SREGS_SIZE)))
        for offset in range(0, 6 * SEGMENT_SIZE, SEGMENT_SIZE):
            struct.pack_into("<Q", special, offset, 0)  # base
            struct.pack_into("<H", special, offset + 12, 0)  # selector
        fcntl.ioctl(fd, KVM_SET_SREGS, bytes(special))
        self.set(rip=start, rsp=STACK, rflags=2)
        self.vcpu = Vcpu(fd, run, manager, **options)
        self.run = self.vcpu.run

    @property
    def registers(self) -> dict[str, int]:
        """The general registers, by name."""
        return read_registers(self.fd)

    def set(self, **registers: int) -> None:
        """Set some of them."""
        fcntl.ioctl(self.fd, KVM_SET_REGS, struct.pack("<18Q", *(self.registers | registers).values()))


class Console(DeviceIo):
    """Prints the bytes that are written to its port."""

    def pio_out(self, base: int, offset: int, size: int, value: int) -> None:
        print(chr(value & 0xFF), end="")


def main() -> int:
    try:
        machine = Machine(HELLO)
    except KvmError as error:
        print(error, file=sys.stderr)
        return 2
    with machine:
        machine.load(0x1020, (b"Hello from a guest of KVM.\n\0").hex())
        machine.manager.register_device_io(Console(), [Resource.PioAddressRange(0xE9, 1)], name="console")
        processor = machine.processor()
        reason = processor.run()
        print(f"{reason!r} after {processor.vcpu.counters.exits} exits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
