"""Exits of a KVM guest: by `Vcpu`, by a loop in C that calls its device directly, and by a loop in Python.

A guest loads from, or stores to, one register of a device, ``EXITS`` times, or transfers a string. ``raw`` is the loop
in C (``peers/kvm_loop.cpp``), ``native`` and ``python`` are `Vcpu` with an `OffsetDevice` and with a Python device that
does nothing, ``python loop`` is ``fcntl.ioctl`` in Python, with the native device. ``strings`` reads a string by
`c_pio_in_string`, without KVM, and item by item. Needs ``/dev/kvm``, x86-64 and a C++ compiler.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import platform
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compiled

from dbs_device import IoManager, Resource
from suites.harness import Case, Plan, Timer
from suites.workloads import DEVICES

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where the examples are

EXITS = 1000
ITEMS = 4096
KVM_RUN = 0xAE80
EXIT_IO, EXIT_MMIO, EXIT_HLT = 2, 6, 5
PORT, ADDRESS = 0x10, 0x20000
HERE = Path(__file__).resolve().parent
RAW_LOOP = HERE.parent / "peers" / "kvm_loop.cpp"

PROLOGUE = "bb 00 20  8e db  ba 10 00  fc  ; mov bx, 0x2000; mov ds, bx; mov dx, 0x10; cld\n"
LOOP = "b9 e8 03  {access}  e2 {back}  f4  eb {start}  ; mov cx, 1000; next: ...; loop next; hlt; jmp"
GUESTS = {
    "in": PROLOGUE + LOOP.format(access="ec", back="fd", start="f7"),
    "out": PROLOGUE + LOOP.format(access="ee", back="fd", start="f7"),
    "load": PROLOGUE + LOOP.format(access="66 a1 00 00", back="fa", start="f4"),
    "store": PROLOGUE + LOOP.format(access="66 a3 00 00", back="fa", start="f4"),
    "string": PROLOGUE + "bf 00 30  b9 e8 03  f3 6c  f4  eb f5  ; mov di, 0x3000; mov cx, 1000; rep insb; hlt; jmp",
}
SUBJECTS = ("raw", "native", "python", "python loop")


def missing_for_kvm() -> str | None:
    """Return what is missing for a guest of KVM, if anything."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return "the guest is x86 code, for Linux"
    from examples.vmm import Kvm, KvmError

    try:
        Kvm().close()
        compiled.library(RAW_LOOP)
    except (KvmError, LookupError) as error:
        return str(error)
    return None


def machine_with(device: Any, guest: str) -> Any:
    from examples.vmm import Machine

    machine = Machine(GUESTS[guest])
    machine.manager.register_device_io(
        device, [Resource.PioAddressRange(PORT, 16), Resource.MmioAddressRange(ADDRESS, 0x1000)]
    )
    return machine


def raw_loop(processor: Any) -> Callable[[], int]:
    run: Callable[[int, int], int] = ctypes.CDLL(str(compiled.library(RAW_LOOP))).kvm_run_raw
    run.argtypes = [ctypes.c_int, ctypes.c_void_p]  # type: ignore[attr-defined]
    mapping = ctypes.addressof(ctypes.c_char.from_buffer(processor.run_mapping))
    return functools.partial(run, processor.fd, mapping)


def python_loop(processor: Any) -> Callable[[], int]:
    view, manager, fd = memoryview(processor.run_mapping), processor.vcpu.manager, processor.fd

    def run() -> int:
        while True:
            fcntl.ioctl(fd, KVM_RUN)
            (reason,) = struct.unpack_from("<I", view, 8)
            if reason == EXIT_IO:
                is_out, size, port, count, offset = struct.unpack_from("<BBHIQ", view, 32)
                for item in range(offset, offset + count * size, size):
                    data = view[item : item + size]
                    manager.pio_write(port, data) if is_out else manager.pio_read(port, data)
            elif reason == EXIT_MMIO:
                address, size, is_write = struct.unpack_from("<Q8xIB", view, 32)
                data = view[40 : 40 + size]
                manager.mmio_write(address, data) if is_write else manager.mmio_read(address, data)
            else:
                return int(reason)

    return run


def prepare_exits(subject: str, guest: str) -> Timer:
    device = DEVICES["python"]() if subject == "python" else compiled.accesses().OffsetDevice()
    machine = machine_with(device, guest)
    processor = machine.processor()  # the timer's, as long as it is used
    run: Callable[[], int] = processor.run
    if subject == "raw":
        run = raw_loop(processor)
    elif subject == "python loop":
        run = python_loop(processor)

    def timer(passes: int) -> float:
        began = time.thread_time()
        for _ in range(passes):
            if run() != EXIT_HLT:
                raise AssertionError(f"the guest has not halted: {processor.registers}")
        return time.thread_time() - began

    return timer


def string_manager(kind: str) -> IoManager:
    manager = IoManager()
    device = compiled.accesses().OffsetDevice() if kind == "native" else DEVICES["python"]()
    manager.register_device_io(device, [Resource.PioAddressRange(PORT, 16)])
    return manager


def prepare_string(kind: str, by_item: bool, is_in: bool) -> Timer:
    return functools.partial(compiled.accesses().time_string, string_manager(kind), PORT, ITEMS, is_in, by_item)


def kvm_cases(plan: Plan) -> Iterator[Case]:
    for guest in GUESTS:
        for subject in SUBJECTS:
            yield Case(f"kvm/{guest}/{subject}", functools.partial(prepare_exits, subject, guest), EXITS)
    for kind in ("native", "python"):
        for direction in ("in", "out"):
            for way in ("string", "by item"):
                prepare = functools.partial(prepare_string, kind, way == "by item", direction == "in")
                yield Case(f"kvm/strings, {direction}/{kind}, {way}", prepare, ITEMS)
