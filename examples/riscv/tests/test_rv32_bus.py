"""The core on the bus: accesses, exceptions of devices, changes of the map, memory that it accesses directly."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

from riscv_helpers import HANDLER, RAM_BASE, RAM_SIZE, Bench, program
from rv32.core import Core, Stop

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.memory import GuestMemory, Ram, Rom

DEVICE = 0x1000_0000


class Log(DeviceIo):
    """Remembers accesses, and where the core was."""

    def __init__(self, core: Core, value: int = 0) -> None:
        self.core = core
        self.value = value
        self.accesses: list[tuple[Any, ...]] = []

    def load(self, base, offset, size):
        self.accesses.append(("load", offset, size, self.core.pc, self.core.cycles))
        return self.value

    def store(self, base, offset, size, value):
        self.accesses.append(("store", offset, size, value, self.core.pc, self.core.cycles))


def bench_with_log(*instructions: Any, value: int = 0) -> tuple[Bench, Log]:
    bench = Bench(*instructions)
    log = Log(bench.core, value)
    bench.manager.register_device_io(log, [Resource.MmioAddressRange(DEVICE, 0x100)])
    bench.set({1: DEVICE, 2: 0xAABB_CCDD})
    return bench, log


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("lb", 1, 0xFFFF_FFF0),
        ("lbu", 1, 0xF0),
        ("lh", 2, 0xFFFF_F1F0),
        ("lhu", 2, 0xF1F0),
        ("lw", 4, 0xF3F2_F1F0),
    ],
)
def test_loads(name: str, size: int, expected: int) -> None:
    bench, log = bench_with_log(("addi", 0, 0, 0), (name, 3, 8, 1), value=0xF3F2_F1F0)
    bench.step(2)
    assert bench[3] == expected
    assert log.accesses == [("load", 8, size, RAM_BASE + 4, 1)]
    assert (bench.core.loads, bench.core.stores) == (1, 0)


@pytest.mark.parametrize(("name", "size", "value"), [("sb", 1, 0xDD), ("sh", 2, 0xCCDD), ("sw", 4, 0xAABB_CCDD)])
def test_stores(name: str, size: int, value: int) -> None:
    bench, log = bench_with_log(("addi", 0, 0, 0), (name, 2, 8, 1))
    bench.step(2)
    assert log.accesses == [("store", 8, size, value, RAM_BASE + 4, 1)]
    assert (bench.core.loads, bench.core.stores) == (0, 1)


@pytest.mark.parametrize(
    ("name", "offset", "cause"),
    [("lh", 1, 4), ("lw", 2, 4), ("sh", 3, 6), ("sw", 1, 6), ("lw", 0x100, 5), ("sb", 0x100, 7), ("lb", -1, 5)],
)
def test_accesses_that_trap_reach_no_device(name: str, offset: int, cause: int) -> None:
    bench, log = bench_with_log((name, 3, offset, 1))
    bench.set({1: DEVICE, 3: 5})
    bench.step()
    assert (bench.core.get_csr("mcause"), bench.core.get_csr("mtval")) == (cause, DEVICE + offset)
    assert bench.core.get_csr("mepc") == RAM_BASE
    assert (log.accesses, bench[3]) == ([], 5)


# Exceptions


class Faulty(DeviceIo):
    def __init__(self) -> None:
        self.works = False
        self.stored: list[int] = []

    def load(self, base, offset, size):
        if not self.works:
            raise LookupError("not now")
        return 7

    def store(self, base, offset, size, value):
        if not self.works:
            raise LookupError("not now")
        self.stored.append(value)


@pytest.mark.parametrize("instruction", [("lw", 3, 0, 1), ("sw", 2, 0, 1)])
def test_a_device_that_raises_leaves_the_core_at_the_instruction_and_it_may_be_repeated(instruction: tuple) -> None:
    bench = Bench(("addi", 2, 2, 1), instruction, ("addi", 2, 2, 1))
    faulty = Faulty()
    bench.manager.register_device_io(faulty, [Resource.MmioAddressRange(DEVICE, 4)])
    bench.set({1: DEVICE, 3: 99})
    for _ in range(2):
        with pytest.raises(LookupError, match="not now"):
            bench.step(3)
        assert (bench.core.pc, bench.core.cycles, bench.core.retired) == (RAM_BASE + 4, 1, 1)
        assert (bench[2], bench[3]) == (1, 99)
    faulty.works = True
    assert bench.core.run(3) is Stop.LIMIT
    assert (bench.core.pc, bench[2]) == (RAM_BASE + 12, 2)
    assert bench[3] == (7 if instruction[0] == "lw" else 99)
    assert faulty.stored == ([] if instruction[0] == "lw" else [1])


def test_an_exception_where_an_instruction_is_fetched_from_a_device() -> None:
    bench = Bench(("jalr", 0, 1, 0))
    bench.manager.register_device_io(Faulty(), [Resource.MmioAddressRange(DEVICE, 4)])
    bench.set({1: DEVICE})
    with pytest.raises(LookupError):
        bench.step(2)
    assert (bench.core.pc, bench.core.cycles) == (DEVICE, 1)


# The map changes


class Switch(DeviceIo):
    """Calls a function when it is stored to."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def store(self, base, offset, size, value):
        self.call()


def test_a_device_that_is_plugged_in_by_an_access_is_seen_by_the_next() -> None:
    bench, log = bench_with_log(("lw", 3, 0, 1), ("sw", 0, 0, 4), ("lw", 3, 0, 5), value=7)
    later = [Resource.MmioAddressRange(0x2000, 4)]
    switch = Switch(lambda: bench.manager.register_device_io(log, later))
    bench.manager.register_device_io(switch, [Resource.MmioAddressRange(0x3000, 4)])
    bench.set({1: DEVICE, 4: 0x3000, 5: 0x2000})
    before = bench.core.refreshes
    bench.step(3)
    assert bench[3] == 7
    assert [access[3] for access in log.accesses] == [RAM_BASE, RAM_BASE + 8]
    assert bench.core.refreshes > before


def test_ram_that_is_unplugged_is_not_accessed_any_more() -> None:
    bench = Bench(("lw", 3, 0, 1), ("sw", 0, 0, 4), ("lw", 5, 0, 1))
    extra = [Resource.MemAddressRange(0x9000_0000, 0x1000)]
    ram = Ram(0x1000)
    ram.view[:4] = b"\x05\0\0\0"
    bench.manager.register_device_io(ram, extra)
    switch = Switch(lambda: bench.manager.unregister_device_io(extra))
    bench.manager.register_device_io(switch, [Resource.MmioAddressRange(0x3000, 4)])
    bench.set({1: 0x9000_0000, 4: 0x3000})
    bench.step(3)
    assert bench[3] == 5
    assert (bench.core.get_csr("mcause"), bench.core.get_csr("mtval")) == (5, 0x9000_0000)


def test_the_memory_that_a_core_holds_lives_until_the_core_takes_new_tables() -> None:
    bench = Bench(*[("addi", 0, 0, 0)] * 8)
    bench.step()
    ram = weakref.ref(bench.ram)
    bench.manager.unregister_device_io([Resource.MemAddressRange(RAM_BASE, RAM_SIZE)])
    del bench.ram
    gc.collect()
    assert ram() is not None
    bench.step()
    gc.collect()
    assert ram() is None
    assert bench.core.get_csr("mcause") == 1


def test_a_core_does_not_keep_a_manager_or_itself_alive() -> None:
    bench = Bench(("addi", 0, 0, 0))
    bench.step()
    references = weakref.ref(bench.core), weakref.ref(bench.manager)
    del bench
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_thread_that_changes_the_map_changes_nothing_of_the_run() -> None:
    def run(changes: int) -> tuple[Any, ...]:
        # A loop of 200,000 rounds that adds up what a device gives, in RAM.
        bench, log = bench_with_log(
            ("lw", 3, 0, 1), ("lw", 4, 0, 6), ("add", 4, 4, 3), ("sw", 4, 0, 6), ("addi", 5, 5, -1), ("bne", 5, 0, -20),
            ("wfi",), value=3,
        )  # fmt: skip
        bench.set({1: DEVICE, 5: 20_000, 6: RAM_BASE + 0x1000})

        def change() -> None:
            place = [Resource.MmioAddressRange(0x5000, 0x10)]
            for _ in range(changes):
                bench.manager.register_device_io(DeviceIo(), place)
                bench.manager.unregister_device_io(place)

        thread = threading.Thread(target=change)
        thread.start()
        assert bench.core.run(1 << 60) is Stop.WAITING
        thread.join()
        return bench.core.cycles, bench.core.loads, bench.core.stores, bench.word(RAM_BASE + 0x1000), len(log.accesses)

    assert run(1000) == run(0) == (6 * 20_000 + 1, 20_000, 0, 60_000, 20_000)


# Memory


def test_two_rams_and_a_hole_between() -> None:
    bench = Bench(*[("lw", 3, 0, 1), ("sw", 3, 0, 2)] * 3)
    second = Ram(0x1000)
    second.view[-4:] = b"\x11\x22\x33\x44"
    bench.manager.register_device_io(second, [Resource.MemAddressRange(0x2000, 0x1000)])
    bench.set({1: 0x2FFC, 2: RAM_BASE + 0x100})
    bench.step(6)
    assert bench.word(RAM_BASE + 0x100) == 0x4433_2211
    assert (bench.core.loads, bench.core.stores) == (0, 0)  # neither went to the bus


def test_memory_is_found_from_high_addresses_down() -> None:
    bench = Bench(*[("lw", 3, 0, 1), ("addi", 1, 1, -4), ("add", 2, 2, 3)] * 4)
    for place in range(4):
        bench.put(RAM_BASE + 0x8000 + 4 * place, bytes([1 << place, 0, 0, 0]))
    bench.set({1: RAM_BASE + 0x800C})
    bench.step(12)
    assert (bench[2], bench.core.loads) == (0xF, 0)


def test_an_access_across_the_end_of_ram_into_another() -> None:
    bench = Bench(("lw", 3, 0, 1))
    bench.manager.register_device_io(Ram(0x1000), [Resource.MemAddressRange(RAM_BASE + RAM_SIZE, 0x1000)])
    bench.set({1: RAM_BASE + RAM_SIZE - 2})
    bench.step()
    assert (bench.core.get_csr("mcause"), bench.core.get_csr("mtval")) == (4, RAM_BASE + RAM_SIZE - 2)


def test_a_program_in_rom_that_writes_to_it() -> None:
    written = []
    code = program(("lw", 3, 0, 1), ("sw", 2, 0, 1), ("addi", 4, 4, 1))
    manager = IoManager()
    rom = Rom(code, on_write=lambda offset, data: written.append((offset, bytes(data))))
    manager.register_device_io(rom, [Resource.MemAddressRange(0x4000, len(code))])
    core = Core(manager, pc=0x4000)
    registers = core.registers
    registers[1], registers[2] = 0x4004, 0x1234
    core.registers = registers
    core.run(3)
    assert core.registers[3] == int.from_bytes(code[4:8], "little")
    assert written == [(4, b"\x34\x12\0\0")]
    assert core.registers[4] == 1


def test_a_program_behind_a_device() -> None:
    code = program(("addi", 4, 4, 1), ("addi", 4, 4, 2))

    class Flash(DeviceIo):
        def load(self, base, offset, size):
            return int.from_bytes(code[offset : offset + size], "little")

    manager = IoManager()
    manager.register_device_io(Flash(), [Resource.MmioAddressRange(0x4000, len(code))])
    core = Core(manager, pc=0x4000)
    core.run(2)
    assert core.registers[4] == 3


def test_code_that_changes_itself() -> None:
    bench = Bench(("sw", 2, 8, 1), ("fence.i",), ("addi", 3, 0, 1))
    bench.set({1: RAM_BASE, 2: int.from_bytes(program(("addi", 3, 0, 99)), "little")})
    bench.step(3)
    assert bench[3] == 99


def test_what_a_device_writes_by_dma_is_seen_by_the_next_instruction() -> None:
    bench = Bench(("lw", 3, 0, 6), ("sw", 0, 0, 1), ("lw", 4, 0, 6))
    memory = GuestMemory(bench.manager)
    target = RAM_BASE + 0x2000
    dma = Switch(lambda: memory.write(target, b"\x2a\0\0\0"))
    bench.manager.register_device_io(dma, [Resource.MmioAddressRange(DEVICE, 4)])
    bench.set({1: DEVICE, 6: target})
    bench.step(3)
    assert (bench[3], bench[4]) == (0, 42)


# Times of accesses, and states


def test_accesses_are_metered_by_range_where_that_is_asked_for() -> None:
    bench, _ = bench_with_log(*[("lw", 3, 0, 1), ("sw", 2, 4, 1), ("sb", 2, 0x10, 1)] * 2)
    bench.step(3)
    assert bench.core.metered == []
    bench.core.meter([(DEVICE, DEVICE + 3), (DEVICE + 4, DEVICE + 7), (0, 10)])
    bench.step(3)
    first, second, third = bench.core.metered
    assert (first[:2], second[:2], third) == ((1, 0), (0, 1), (0, 0, 0))
    assert first[2] > 0
    assert second[2] > 0
    with pytest.raises(ValueError, match="16"):
        bench.core.meter([(0, 1)] * 17)
    assert len(bench.core.metered) == 3


def test_a_state_goes_on_in_another_core() -> None:
    code = [("addi", 2, 2, 1), ("lr.w", 3, 1), ("csrrw", 0, 0x340, 2), ("ecall",), ("sc.w", 4, 2, 1), ("wfi",)]
    one, other = Bench(*code), Bench(*code)
    for bench in (one, other):
        bench.core.set_csr("mtvec", HANDLER)
        bench.put(HANDLER, program(("sc.w", 4, 2, 1), ("wfi",), ("addi", 5, 5, 1)))
    one.set({1: RAM_BASE + 0x100})
    one.core.timer.set(True)
    one.step(4)
    state = one.core.save_state()
    other.core.load_state(state)
    assert other.core.save_state() == state
    for bench in (one, other):
        bench.step(1)
        assert bench[4] == 0
        assert bench.step(5) is Stop.WAITING
    assert other.core.save_state() == one.core.save_state()


@pytest.mark.parametrize(
    "change",
    [
        {"registers": [1] + [0] * 31},
        {"registers": [0] * 31},
        {"registers": [0] * 31 + [1 << 32]},
        {"registers": "x"},
        {"pc": 2},
        {"pc": True},
        {"pc": 1 << 32},
        {"privilege": 1},
        {"waiting": 1},
        {"pending": -1},
        {"counts": [0, 0, 0, 0, 0, 1 << 64]},
        {"csrs": [0]},
        {"more": 1},
    ],
    ids=str,
)
def test_states_that_are_refused_change_nothing(change: dict[str, Any]) -> None:
    core = Bench(("addi", 1, 1, 1)).core
    core.run(1)
    state = core.save_state()
    with pytest.raises(ValueError, match="Core"):
        core.load_state({**state, **change})
    assert core.save_state() == state
    with pytest.raises(ValueError, match="Core"):
        core.load_state([])
