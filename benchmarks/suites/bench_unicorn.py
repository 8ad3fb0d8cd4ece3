"""One access of a guest under the Unicorn CPU emulator: the bridge, and Unicorn's own Python callbacks.

The guest is a loop of x86 instructions that makes one access a turn. ``unicorn/loop`` is the same loop on the guest's
own RAM, and ``unicorn/mapped Ram`` that on a ``Ram`` of the manager. ``idle C callback`` is a C function that does
nothing. ``own callback`` does by hand what the bus does for the same device: it makes a buffer, calls the device and
converts; ``own callback, manager`` calls ``IoManager`` instead, and ``own callback, empty`` nothing.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any

import compiled
from peers import lookups

from dbs_device import IoManager, NativeDevice, Resource
from suites.harness import Case, Plan, Timer, statement_timer
from suites.workloads import IdleDevice

ACCESSES = 4000  # of one run of the guest
CODE, RAM = 0x1000, 0x10000
MMIO, MMIO_SIZE, PORT = 0xFEE0_0000, 0x1000, 0x3F8
OTHER_RANGES = 15  # besides the one that is accessed
LOOP, MAPPED_RAM = "unicorn/loop", "unicorn/mapped Ram"

# Each between "mov ecx, ACCESSES" and "dec ecx; jnz".
INSTRUCTIONS = {
    "load": bytes.fromhex("8b03"),  # mov eax, [ebx]
    "store": bytes.fromhex("8903"),  # mov [ebx], eax
    "in": bytes.fromhex("ed"),  # in eax, dx
    "out": bytes.fromhex("ef"),  # out dx, eax
}


def guest_code(operation: str) -> bytes:
    body = INSTRUCTIONS[operation]
    turn = body + bytes.fromhex("49") + bytes([0x75, 0x100 - (len(body) + 3)])  # dec ecx; jnz
    return b"\xb9" + ACCESSES.to_bytes(4, "little") + turn


def new_guest(operation: str, address: int) -> Any:
    """Return a Uc with the code and its registers set; `address` is what loads and stores go to."""
    from unicorn import UC_ARCH_X86, UC_MODE_32, Uc
    from unicorn.x86_const import UC_X86_REG_EBX, UC_X86_REG_EDX

    uc = Uc(UC_ARCH_X86, UC_MODE_32)
    uc.mem_map(0, 0x20000)
    uc.mem_write(CODE, guest_code(operation))
    uc.reg_write(UC_X86_REG_EBX, address)
    uc.reg_write(UC_X86_REG_EDX, PORT)
    return uc


def guest_timer(uc: Any, operation: str, emu_start: Callable[[int, int], None] | None = None) -> Timer:
    end = CODE + len(guest_code(operation))
    # Unicorn translates the code again in every run, and IN and OUT search all translations: their time would depend on
    # the number of runs.
    statement = "flush(); emu_start(begin, end)"
    return statement_timer(statement, flush=uc.ctl_flush_tb, emu_start=emu_start or uc.emu_start, begin=CODE, end=end)


def prepare_guest_loop() -> Timer:
    return guest_timer(new_guest("load", RAM), "load")


def guest_manager(device: Any) -> IoManager:
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(MMIO, MMIO_SIZE), Resource.PioAddressRange(PORT, 8)])
    for index in range(OTHER_RANGES):
        resources = [
            Resource.MmioAddressRange(0xC000_0000 + index * 0x10000, 0x1000),
            Resource.PioAddressRange(0x1000 + index * 0x10, 8),
        ]
        manager.register_device_io(IdleDevice(), resources)
    return manager


def prepare_attached(operation: str, make_device: Callable[[], Any]) -> Timer:
    from dbs_device.unicorn import attach

    bridge = attach(new_guest(operation, MMIO), guest_manager(make_device()))
    return guest_timer(bridge.uc, operation, bridge.emu_start)


def prepare_mapped_ram() -> Timer:
    from dbs_device.memory import Ram
    from dbs_device.unicorn import attach

    manager = IoManager()
    manager.register_device_io(Ram(MMIO_SIZE), [Resource.MemAddressRange(MMIO, MMIO_SIZE)])
    bridge = attach(new_guest("load", MMIO), manager)
    return guest_timer(bridge.uc, "load", bridge.emu_start)


class OwnCallbacks:
    """Unicorn's own callbacks, as one writes them without a bus: one of each kind, for one device."""

    def __init__(self, device: IdleDevice) -> None:
        self.device = device

    def load(self, uc: Any, offset: int, size: int, data: Any) -> int:
        buffer = bytearray(size)
        self.device.read(MMIO, offset, memoryview(buffer))
        return int.from_bytes(buffer, "little")

    def store(self, uc: Any, offset: int, size: int, value: int, data: Any) -> None:
        self.device.write(MMIO, offset, memoryview(value.to_bytes(size, "little")))

    def port_in(self, uc: Any, port: int, size: int, data: Any) -> int:
        buffer = bytearray(size)
        self.device.pio_read(PORT, port - PORT, memoryview(buffer))
        return int.from_bytes(buffer, "little")

    def port_out(self, uc: Any, port: int, size: int, value: int, data: Any) -> None:
        self.device.pio_write(PORT, port - PORT, memoryview(value.to_bytes(size, "little")))


class ManagerCallbacks:
    """The same, calling a manager."""

    def __init__(self, manager: IoManager) -> None:
        self.manager = manager

    def load(self, uc: Any, offset: int, size: int, data: Any) -> int:
        return self.manager.mmio_load(MMIO + offset, size)

    def store(self, uc: Any, offset: int, size: int, value: int, data: Any) -> None:
        self.manager.mmio_store(MMIO + offset, size, value)

    def port_in(self, uc: Any, port: int, size: int, data: Any) -> int:
        return self.manager.pio_in(port, size)

    def port_out(self, uc: Any, port: int, size: int, value: int, data: Any) -> None:
        self.manager.pio_out(port, size, value)


class EmptyCallbacks:
    """The least that callbacks cost."""

    def load(self, uc: Any, offset: int, size: int, data: Any) -> int:
        return 0

    def store(self, uc: Any, offset: int, size: int, value: int, data: Any) -> None:
        pass

    port_in = load
    port_out = store


def prepare_own(operation: str, make_callbacks: Callable[[], Any]) -> Timer:
    from unicorn import UC_HOOK_INSN
    from unicorn.x86_const import UC_X86_INS_IN, UC_X86_INS_OUT

    uc = new_guest(operation, MMIO)
    callbacks = make_callbacks()
    uc.mmio_map(MMIO, MMIO_SIZE, callbacks.load, None, callbacks.store, None)
    uc.hook_add(UC_HOOK_INSN, callbacks.port_in, None, 1, 0, UC_X86_INS_IN)
    uc.hook_add(UC_HOOK_INSN, callbacks.port_out, None, 1, 0, UC_X86_INS_OUT)
    return guest_timer(uc, operation)


def prepare_idle_c(operation: str) -> Timer:
    """Attach C functions that do nothing: the rest of the time is Unicorn's own."""
    from unicorn import UC_HOOK_INSN
    from unicorn.unicorn_py3.unicorn import uclib
    from unicorn.x86_const import UC_X86_INS_IN, UC_X86_INS_OUT

    uc = new_guest(operation, MMIO)
    functions = {name: ctypes.c_void_p(address) for name, address in compiled.accesses().IDLE_UNICORN_CALLBACKS.items()}
    size, start, end = ctypes.c_size_t(MMIO_SIZE), ctypes.c_uint64(1), ctypes.c_uint64(0)
    mapped = uclib.uc_mmio_map(uc._uch, ctypes.c_uint64(MMIO), size, functions["load"], None, functions["store"], None)
    statuses = [mapped]
    for name, instruction in (("in", UC_X86_INS_IN), ("out", UC_X86_INS_OUT)):
        hook = ctypes.byref(ctypes.c_size_t())
        statuses.append(uclib.uc_hook_add(uc._uch, hook, UC_HOOK_INSN, functions[name], None, start, end, instruction))
    if any(statuses):
        raise AssertionError(f"Unicorn has refused the callbacks: {statuses}")
    return guest_timer(uc, operation)


SUBJECTS: dict[str, Callable[[str], Timer]] = {
    "own callback": functools.partial(prepare_own, make_callbacks=lambda: OwnCallbacks(IdleDevice())),
    "bridge, python": functools.partial(prepare_attached, make_device=IdleDevice),
    "bridge, native": functools.partial(prepare_attached, make_device=NativeDevice),
    "own callback, manager": functools.partial(
        prepare_own, make_callbacks=lambda: ManagerCallbacks(guest_manager(IdleDevice()))
    ),
    "idle C callback": prepare_idle_c,
    "own callback, empty": functools.partial(prepare_own, make_callbacks=EmptyCallbacks),
}


def missing_for_guest() -> str | None:
    return None if lookups.is_module_installed("unicorn") else "unicorn is not installed"


def unicorn_cases(plan: Plan) -> Iterator[Case]:
    if missing_for_guest():
        return
    yield Case(LOOP, prepare_guest_loop, ACCESSES)
    yield Case(MAPPED_RAM, prepare_mapped_ram, ACCESSES)
    for operation in INSTRUCTIONS:
        for subject, prepare in SUBJECTS.items():
            yield Case(f"unicorn/{operation}/{subject}", functools.partial(prepare, operation), ACCESSES, LOOP)
