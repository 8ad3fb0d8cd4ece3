"""Guests of KVM that are a few bytes of real-mode code.

Makes a VM by the ioctls of ``/dev/kvm``, as users of `dbs_device.kvm` do. x86-64 only.
"""

import contextlib
import fcntl
import mmap
import os
import platform
import struct
import threading
import time
from pathlib import Path

import pytest

from dbs_device import IoManager, Resource
from dbs_device.memory import Ram

KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_TSS_ADDR = 0xAE47
KVM_CREATE_IRQCHIP = 0xAE60
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_MP_STATE = 0x4004AE99
KVM_CAP_COALESCED_MMIO = 15
UNUSED_ADDRESS = 0x7FFB_D000  # of the guest: KVM takes three pages there
RUNNABLE = 0
SEGMENT_SIZE, SREGS_SIZE = 24, 312
LETTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp")
REGISTERS = (*LETTERS, *(f"r{number}" for number in range(8, 16)), "rip", "rflags")

RAM_SIZE = 0x10000
CODE = 0x1000
STACK = 0x8000
PATIENCE = 120.0  # seconds, on a machine that is busy and interprets guests in software


def why_not():
    """Return why guests cannot run here, or None."""
    if platform.machine() != "x86_64":
        return "the guests are x86 code"
    if not Path("/dev/kvm").exists():
        return "there is no /dev/kvm"
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


needs_kvm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


class Machine:
    """A VM with 64 KiB of RAM at 0, as a `Ram` on its bus, and processors in real mode. A context manager.

    `code` is loaded at `CODE`, given in hex with comments as in assembly.
    """

    def __init__(self, code="", *, irqchip=False, **options):
        from dbs_device.kvm import Vm

        self._files = []
        self.kvm = self._opened(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        self.fd = self._opened(fcntl.ioctl(self.kvm, KVM_CREATE_VM, 0))
        fcntl.ioctl(self.fd, KVM_SET_TSS_ADDR, UNUSED_ADDRESS)
        if irqchip:
            fcntl.ioctl(self.fd, KVM_CREATE_IRQCHIP, 0)
        self.coalesced_ring = fcntl.ioctl(self.kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO)
        self.manager = IoManager(**options)
        self.ram = Ram(RAM_SIZE)
        self.manager.register_device_io(self.ram, [Resource.MemAddressRange(0, RAM_SIZE)])
        self.vm = Vm(self.fd, self.manager)
        self.load(CODE, code)

    def _opened(self, fd):
        self._files.append(fd)
        return fd

    def load(self, address, code):
        content = bytes.fromhex("".join(line.split(";")[0] for line in code.splitlines()))
        self.ram.view[address : address + len(content)] = content

    def plug(self, device, *resources):
        self.manager.register_device_io(device, resources)
        return device

    def processor(self, number=0, start=CODE, **options):
        fd = self._opened(fcntl.ioctl(self.fd, KVM_CREATE_VCPU, number))
        return Processor(self, fd, start, **options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.vm.close()
        for fd in reversed(self._files):
            os.close(fd)


class Processor:
    """A vCPU that starts at an address, with its stack below 0x8000, and interrupts disabled."""

    def __init__(self, machine, fd, start, **options):
        from dbs_device.kvm import Vcpu

        self.fd = fd
        self.run_mapping = mmap.mmap(fd, fcntl.ioctl(machine.kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        with contextlib.suppress(OSError):  # secondary processors wait for their start where there is an APIC
            fcntl.ioctl(fd, KVM_SET_MP_STATE, struct.pack("<I", RUNNABLE))
        special = bytearray(fcntl.ioctl(fd, KVM_GET_SREGS, bytes(SREGS_SIZE)))
        for offset in range(0, 6 * SEGMENT_SIZE, SEGMENT_SIZE):
            struct.pack_into("<Q", special, offset, 0)  # base
            struct.pack_into("<H", special, offset + 12, 0)  # selector
        fcntl.ioctl(fd, KVM_SET_SREGS, bytes(special))
        self.set(rip=start, rsp=STACK, rflags=2)
        self.vcpu = Vcpu(fd, self.run_mapping, machine.manager, **options)
        self.run = self.vcpu.run

    @property
    def registers(self):
        return dict(zip(REGISTERS, struct.unpack("<18Q", fcntl.ioctl(self.fd, KVM_GET_REGS, bytes(144))), strict=True))

    def set(self, **registers):
        fcntl.ioctl(self.fd, KVM_SET_REGS, struct.pack("<18Q", *(self.registers | registers).values()))

    def start(self):
        """Run on a thread of its own until an exit; return the thread, whose `result` is that or the exception."""
        return RunningThread(self.vcpu)


class RunningThread(threading.Thread):
    def __init__(self, vcpu):
        super().__init__(daemon=True)
        self.vcpu = vcpu
        self.result = None
        self.start()
        wait_for(lambda: vcpu.is_running or not self.is_alive())

    def run(self):
        try:
            self.result = self.vcpu.run()
        except BaseException as error:
            self.result = error

    def finish(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "the vCPU has not left its run"
        return self.result


def wait_for(condition):
    """Wait until a condition holds; fail after a long time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.001)
