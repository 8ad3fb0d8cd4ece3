"""CSRs, traps, interrupts, WFI and user mode."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rv32.core", reason="the core is not built: make riscv-core")

from riscv_helpers import HANDLER, RAM_BASE, U32, Bench, assemble, program
from rv32.core import Core, Stop

from dbs_device import DeviceIo, IoManager, Resource
from dbs_device.errors import StateError

MSTATUS, MISA, MIE, MTVEC, MCOUNTEREN, MSCRATCH = 0x300, 0x301, 0x304, 0x305, 0x306, 0x340
MEPC, MCAUSE, MTVAL, MIP = 0x341, 0x342, 0x343, 0x344
MCYCLE, MINSTRET, MCYCLEH, CYCLE, TIME, INSTRET, TIMEH = 0xB00, 0xB02, 0xB80, 0xC00, 0xC01, 0xC02, 0xC81
MHARTID = 0xF14
STATUS_MIE, STATUS_MPIE, STATUS_MPP, STATUS_MPRV, STATUS_TW = 1 << 3, 1 << 7, 3 << 11, 1 << 17, 1 << 21
SOFTWARE, TIMER, EXTERNAL = 1 << 3, 1 << 7, 1 << 11
INTERRUPT = 0x8000_0000


def bench_with_handler(*instructions, **options) -> Bench:
    bench = Bench(*instructions, **options)
    bench.core.set_csr("mtvec", HANDLER)
    bench.put(HANDLER, program(*[("addi", 0, 0, 0)] * 16))
    return bench


def in_user_mode(*instructions, **options) -> Bench:
    """A bench that has returned into user mode, to the instructions."""
    bench = bench_with_handler(("mret",), **options)
    bench.put(RAM_BASE + 0x100, program(*instructions))
    bench.core.set_csr("mepc", RAM_BASE + 0x100)
    bench.core.set_csr("mstatus", STATUS_MPIE)
    bench.step()
    assert bench.core.user_mode
    return bench


def trap_of(bench: Bench) -> tuple[int, int, int]:
    """mcause, mepc and mtval."""
    return tuple(bench.core.get_csr(name) for name in ("mcause", "mepc", "mtval"))


# CSRs


@pytest.mark.parametrize(
    ("name", "operand", "after"),
    [
        ("csrrw", 1, 0x0F0F_00FF),
        ("csrrs", 1, 0xFFFF_0FFF),
        ("csrrc", 1, 0xF0F0_0F00),
        ("csrrwi", 0x1F, 0x1F),
        ("csrrsi", 0x1F, 0xFFF0_0F1F),
        ("csrrci", 0x1F, 0xFFF0_0F00),
    ],
)
def test_the_six_instructions(name: str, operand: int, after: int) -> None:
    bench = Bench((name, 3, MSCRATCH, operand))
    bench.core.set_csr("mscratch", 0xFFF0_0F0F)
    bench.set({1: 0x0F0F_00FF})
    bench.step()
    assert (bench[3], bench.core.get_csr("mscratch")) == (0xFFF0_0F0F, after)


def test_the_register_may_be_source_and_destination() -> None:
    bench = Bench(("csrrw", 1, MSCRATCH, 1))
    bench.core.set_csr("mscratch", 7)
    bench.set({1: 9})
    bench.step()
    assert (bench[1], bench.core.get_csr("mscratch")) == (7, 9)


@pytest.mark.parametrize(
    ("csr", "written", "expected"),
    [
        (MSTATUS, U32, STATUS_MIE | STATUS_MPIE | STATUS_MPP | STATUS_MPRV | STATUS_TW),
        (MSTATUS, 0, 0),
        (MISA, 0, 1 << 30 | 1 << 20 | 1 << 12 | 1 << 8 | 1),
        (MIE, U32, SOFTWARE | TIMER | EXTERNAL),
        (MIP, U32, 0),
        (MTVEC, U32, U32 - 2),
        (MEPC, U32, U32 - 3),
        (MCAUSE, U32, U32),
        (MTVAL, U32, U32),
        (MCOUNTEREN, U32, 7),
        (0x310, U32, 0),  # mstatush
        (0x30A, U32, 1),  # menvcfg
        (0x31A, U32, 0),  # menvcfgh
        (0x320, U32, 0),  # mcountinhibit
        (0x323, U32, 0),  # mhpmevent3
        (0xB03, U32, 0),  # mhpmcounter3
        (0xB9F, U32, 0),  # mhpmcounter31h
    ],
    ids=lambda value: hex(value),
)
def test_bits_that_can_be_written(csr: int, written: int, expected: int) -> None:
    bench = Bench(("csrrw", 0, csr, 1), ("csrrs", 2, csr, 0))
    bench.set({1: written})
    bench.step(2)
    assert bench[2] == expected
    assert bench.core.get_csr(csr) == expected


@pytest.mark.parametrize("reserved", [1, 2])
def test_mpp_keeps_its_value_when_a_mode_that_does_not_exist_is_written(reserved: int) -> None:
    bench = Bench(("csrrw", 0, MSTATUS, 1))
    bench.core.set_csr("mstatus", STATUS_MPP)
    bench.set({1: reserved << 11 | STATUS_MIE})
    bench.step()
    assert bench.core.get_csr("mstatus") == STATUS_MPP | STATUS_MIE


@pytest.mark.parametrize("csr", [0xF11, 0xF12, 0xF13, MHARTID, 0xF15, CYCLE, INSTRET], ids=hex)
def test_read_only_registers(csr: int) -> None:
    reads = [(name, 1, csr, 0) for name in ("csrrs", "csrrc", "csrrsi")]
    bench = bench_with_handler(*reads, ("csrrw", 1, csr, 0), hart=3)
    bench.step(3)
    assert bench.core.retired == 3
    assert csr != MHARTID or bench[1] == 3
    bench.step()
    assert trap_of(bench) == (2, RAM_BASE + 12, assemble("csrrw", 1, csr, 0))


@pytest.mark.parametrize("csr", [0x000, 0x100, 0x180, 0x3A0, 0x3B0, 0x7A0, 0x7B0, 0xC03, TIME, TIMEH], ids=hex)
def test_registers_that_do_not_exist(csr: int) -> None:
    bench = bench_with_handler(("csrrs", 1, csr, 0))
    bench.step()
    assert trap_of(bench) == (2, RAM_BASE, assemble("csrrs", 1, csr, 0))
    with pytest.raises(KeyError):
        bench.core.get_csr(csr)


def test_counters_count_and_are_written() -> None:
    bench = bench_with_handler(
        ("csrrs", 1, MCYCLE, 0),
        ("csrrs", 2, MINSTRET, 0),
        ("csrrw", 0, MCYCLE, 5),
        ("csrrs", 3, MCYCLE, 0),  # the write has taken the place of the increment
        ("csrrw", 0, MINSTRET, 5),
        ("csrrs", 4, MINSTRET, 0),
        ("csrrw", 0, MCYCLEH, 5),
        ("csrrs", 6, MCYCLEH, 0),
        ("csrrs", 7, 0xC80, 0),  # cycleh
        ("ecall",),
    )
    bench.set({5: 1000})
    bench.step(10)
    assert [bench[number] for number in (1, 2, 3, 4, 6, 7)] == [0, 1, 1000, 1000, 1000, 1000]
    assert (bench.core.cycles, bench.core.retired) == (10, 9)
    assert bench.core.get_csr("minstret") == 1000 + 4
    assert bench.core.get_csr("mcycle") == 1000 + 6


def test_the_time_is_that_of_the_bus() -> None:
    class Counter(DeviceIo):
        def load(self, base, offset, size):
            return (0x1234_5678_9ABC_DEF0 >> 8 * offset) & U32

    bench = Bench(("csrrs", 1, TIME, 0), ("csrrs", 2, TIMEH, 0), time_address=0x1000)
    bench.manager.register_device_io(Counter(), [Resource.MmioAddressRange(0x1000, 8)])
    bench.step(2)
    assert (bench[1], bench[2]) == (0x9ABC_DEF0, 0x1234_5678)


# User mode


def test_mret_into_user_mode() -> None:
    bench = bench_with_handler(("mret",))
    bench.core.set_csr("mepc", RAM_BASE + 0x40)
    bench.core.set_csr("mstatus", STATUS_MPIE | STATUS_MPRV)
    bench.step()
    assert (bench.core.user_mode, bench.core.pc) == (True, RAM_BASE + 0x40)
    assert bench.core.get_csr("mstatus") == STATUS_MIE | STATUS_MPIE  # MPRV is cleared, and MPP is user mode


def test_mret_into_machine_mode_keeps_mprv() -> None:
    bench = bench_with_handler(("mret",))
    bench.core.set_csr("mstatus", STATUS_MPP | STATUS_MPRV)
    bench.step()
    assert not bench.core.user_mode
    assert bench.core.get_csr("mstatus") == STATUS_MPIE | STATUS_MPRV


@pytest.mark.parametrize(
    "instruction",
    [("mret",), ("csrrs", 1, MSCRATCH, 0), ("csrrs", 1, MHARTID, 0), ("csrrs", 1, CYCLE, 0), ("csrrs", 1, INSTRET, 0)],
)
def test_what_user_mode_may_not_do(instruction: tuple) -> None:
    bench = in_user_mode(instruction)
    bench.step()
    assert trap_of(bench) == (2, RAM_BASE + 0x100, assemble(*instruction))
    assert not bench.core.user_mode
    assert bench.core.get_csr("mstatus") == STATUS_MPIE  # MPP is user mode, and interrupts were enabled


def test_counters_that_machine_mode_has_allowed() -> None:
    bench = in_user_mode(("csrrs", 1, CYCLE, 0), ("csrrs", 2, INSTRET, 0))
    bench.core.set_csr("mcounteren", 1 << 0 | 1 << 2)
    bench.step(2)
    assert (bench[1], bench[2], bench.core.user_mode) == (1, 2, True)


def test_wfi_in_user_mode_waits_unless_tw_forbids_it() -> None:
    bench = in_user_mode(("wfi",))
    assert bench.step() is Stop.WAITING
    bench = in_user_mode(("wfi",))
    bench.core.set_csr("mstatus", bench.core.get_csr("mstatus") | STATUS_TW)
    bench.step()
    assert trap_of(bench)[0] == 2


# Traps


@pytest.mark.parametrize(("name", "cause", "value"), [("ecall", 11, 0), ("ebreak", 3, RAM_BASE)])
def test_traps_from_machine_mode(name: str, cause: int, value: int) -> None:
    bench = bench_with_handler((name,))
    bench.core.set_csr("mstatus", STATUS_MIE)
    bench.step()
    assert trap_of(bench) == (cause, RAM_BASE, value)
    assert bench.core.pc == HANDLER
    assert bench.core.get_csr("mstatus") == STATUS_MPIE | STATUS_MPP


def test_ecall_from_user_mode() -> None:
    bench = in_user_mode(("ecall",))
    bench.step()
    assert trap_of(bench) == (8, RAM_BASE + 0x100, 0)


def test_exceptions_do_not_use_vectors() -> None:
    bench = Bench(("ecall",))
    bench.core.set_csr("mtvec", HANDLER | 1)
    bench.step()
    assert bench.core.pc == HANDLER


def test_an_instruction_where_nothing_is() -> None:
    bench = bench_with_handler(("jalr", 0, 1, 0))
    bench.set({1: 0x4000})
    bench.step(2)
    assert trap_of(bench) == (1, 0x4000, 0x4000)


def test_a_handler_where_nothing_is_locks_the_core_up() -> None:
    bench = Bench(("ecall",))
    bench.core.set_csr("mtvec", 0x4000)
    assert bench.step(1000) is Stop.LOCKED_UP
    assert bench.core.pc == 0x4000
    assert bench.step(1000) is Stop.LOCKED_UP
    bench.core.pc = RAM_BASE
    assert bench.step(1) is Stop.LIMIT


# Interrupts


def enabled(bench: Bench, interrupts: int = SOFTWARE | TIMER | EXTERNAL) -> Core:
    bench.core.set_csr("mie", interrupts)
    bench.core.set_csr("mstatus", STATUS_MIE)
    return bench.core


@pytest.mark.parametrize(("line", "number"), [("software", 3), ("timer", 7), ("external", 11)])
@pytest.mark.parametrize("vectored", [False, True])
def test_an_interrupt_is_taken_before_the_next_instruction(line: str, number: int, vectored: bool) -> None:
    bench = Bench(*[("addi", 1, 1, 1)] * 4)
    core = enabled(bench)
    core.set_csr("mtvec", HANDLER | vectored)
    bench.put(HANDLER + (4 * number if vectored else 0), program(("addi", 2, 2, 1)))
    bench.step(2)
    getattr(core, line).set(True)
    bench.step()
    assert trap_of(bench) == (INTERRUPT | number, RAM_BASE + 8, 0)
    assert (bench[1], bench[2]) == (2, 1)
    assert core.get_csr("mip") == 1 << number
    assert core.get_csr("mstatus") == STATUS_MPIE | STATUS_MPP
    assert core.retired == 3
    getattr(core, line).set(False)
    assert core.get_csr("mip") == 0


def test_the_order_of_priorities() -> None:
    bench = bench_with_handler(*[("addi", 1, 1, 1)] * 4)
    core = enabled(bench)
    for line in (core.timer, core.software, core.external):
        line.set(True)
    taken = []
    for line in (core.external, core.software, core.timer):
        core.set_csr("mstatus", STATUS_MIE)
        bench.step()
        taken.append(core.get_csr("mcause") & U32 >> 1)
        line.set(False)
    assert taken == [11, 3, 7]


@pytest.mark.parametrize(("mie", "mstatus"), [(0, STATUS_MIE), (EXTERNAL, 0)])
def test_an_interrupt_that_is_disabled_waits(mie: int, mstatus: int) -> None:
    bench = bench_with_handler(*[("addi", 1, 1, 1)] * 4)
    bench.core.set_csr("mie", mie)
    bench.core.set_csr("mstatus", mstatus)
    bench.core.external.set(True)
    bench.step(2)
    assert bench[1] == 2


def test_user_mode_is_always_interrupted() -> None:
    bench = in_user_mode(("addi", 1, 1, 1))
    bench.core.set_csr("mie", TIMER)
    bench.core.set_csr("mstatus", 0)
    bench.core.timer.set(True)
    bench.step()
    assert trap_of(bench)[0] == INTERRUPT | 7
    assert bench[1] == 0


@pytest.mark.parametrize("how", ["mie", "mstatus", "mret"])
def test_an_instruction_that_enables_an_interrupt_is_followed_by_it(how: str) -> None:
    instruction = {"mie": ("csrrw", 0, MIE, 5), "mstatus": ("csrrsi", 0, MSTATUS, 8), "mret": ("mret",)}[how]
    bench = bench_with_handler(instruction, ("addi", 1, 1, 1))
    core = bench.core
    core.set_csr("mie", 0 if how == "mie" else EXTERNAL)
    core.set_csr("mstatus", {"mie": STATUS_MIE, "mstatus": 0, "mret": STATUS_MPIE | STATUS_MPP}[how])
    core.set_csr("mepc", RAM_BASE + 4)
    bench.set({5: EXTERNAL})
    core.external.set(True)
    bench.put(HANDLER, program(("addi", 2, 2, 1)))
    bench.step(2)
    assert trap_of(bench) == (INTERRUPT | 11, RAM_BASE + 4, 0)
    assert (bench[1], bench[2]) == (0, 1)


def test_a_device_that_raises_its_line_interrupts_after_the_access() -> None:
    bench = bench_with_handler(("sw", 0, 0, 1), ("addi", 2, 2, 1))
    core = enabled(bench)

    class Doorbell(DeviceIo):
        def store(self, base, offset, size, value):
            core.external.set(True)

    bench.manager.register_device_io(Doorbell(), [Resource.MmioAddressRange(0x1000, 4)])
    bench.set({1: 0x1000})
    bench.put(HANDLER, program(("addi", 3, 3, 1)))
    bench.step(2)
    assert trap_of(bench) == (INTERRUPT | 11, RAM_BASE + 4, 0)
    assert (bench[2], bench[3]) == (0, 1)


def test_set_interrupt_takes_the_interrupts_of_machine_mode() -> None:
    core = Bench().core
    core.set_interrupt(7, True)
    assert core.get_csr("mip") == TIMER
    for number in (-1, 0, 5, 9, 32, 1 << 20):
        with pytest.raises(ValueError, match="3, 7 or 11"):
            core.set_interrupt(number, True)


# WFI


def test_wfi_waits_for_an_interrupt_that_is_enabled_in_mie() -> None:
    bench = bench_with_handler(("wfi",), ("addi", 1, 1, 1))
    core = bench.core
    core.set_csr("mie", TIMER)
    assert bench.step(10) is Stop.WAITING
    assert (core.cycles, core.pc, core.is_interrupted) == (1, RAM_BASE + 4, False)
    core.external.set(True)
    assert bench.step(10) is Stop.WAITING
    core.timer.set(True)
    assert core.is_interrupted
    assert core.run(2) is Stop.LIMIT
    assert bench[1] == 1  # interrupts are disabled: it goes on after WFI


def test_wfi_with_a_pending_interrupt_does_not_wait() -> None:
    bench = bench_with_handler(("wfi",), ("addi", 1, 1, 1))
    bench.core.set_csr("mie", TIMER)
    bench.core.timer.set(True)
    assert bench.step(2) is Stop.LIMIT
    assert bench[1] == 1


def test_wfi_ends_in_the_interrupt() -> None:
    bench = bench_with_handler(("wfi",), ("addi", 1, 1, 1))
    core = enabled(bench)
    assert bench.step() is Stop.WAITING
    core.timer.set(True)
    bench.step()
    assert trap_of(bench)[:2] == (INTERRUPT | 7, RAM_BASE + 4)


# Threads


class Signal(DeviceIo):
    """Tells another thread that the core is running."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self.event.set()


def bench_that_loops() -> tuple[Bench, threading.Event]:
    bench = bench_with_handler(("sw", 0, 0, 1), ("jal", 0, 0))
    signal = Signal()
    bench.manager.register_device_io(signal, [Resource.MmioAddressRange(0x1000, 4)])
    bench.set({1: 0x1000})
    return bench, signal.event


@pytest.mark.parametrize("_", range(20))
def test_another_thread_interrupts_a_loop(_: int) -> None:
    bench, is_running = bench_that_loops()
    core = enabled(bench)
    bench.put(HANDLER, program(("jal", 0, 0)))

    def interrupt() -> None:
        is_running.wait()
        core.timer.set(True)
        core.stop()

    threading.Thread(target=interrupt, daemon=True).start()
    assert core.run(1 << 62) is Stop.REQUESTED
    core.run(core.cycles + 1)
    assert trap_of(bench) == (INTERRUPT | 7, RAM_BASE + 4, 0)


def test_no_stop_of_another_thread_is_lost() -> None:
    bench, is_running = bench_that_loops()
    core = bench.core
    core.stop()
    assert core.run(1 << 62) is Stop.REQUESTED
    for _ in range(50):
        is_running.clear()
        core.pc = RAM_BASE
        threading.Thread(target=lambda: (is_running.wait(), core.stop()), daemon=True).start()
        assert core.run(1 << 62) is Stop.REQUESTED
    assert core.run(core.cycles + 10) is Stop.LIMIT


def test_a_core_runs_once_at_a_time() -> None:
    bench, is_running = bench_that_loops()
    runner = threading.Thread(target=bench.core.run, args=(1 << 62,), daemon=True)
    runner.start()
    is_running.wait()
    with pytest.raises(RuntimeError, match="running"):
        bench.core.run(1)
    with pytest.raises(StateError, match="running"):
        bench.core.load_state(bench.core.save_state())
    bench.core.stop()
    runner.join()


def test_a_device_cannot_run_the_core_that_calls_it() -> None:
    bench = Bench(("sw", 0, 0, 1))

    class Recursive(DeviceIo):
        def store(self, base, offset, size, value):
            bench.core.run(1)

    bench.manager.register_device_io(Recursive(), [Resource.MmioAddressRange(0x1000, 4)])
    bench.set({1: 0x1000})
    with pytest.raises(RuntimeError, match="running"):
        bench.step()


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError):
        Core(None)
    with pytest.raises(ValueError, match="0x2"):
        Core(IoManager(), pc=2)
    core = Core(IoManager())
    with pytest.raises(ValueError, match="multiple of 4"):
        core.pc = 6
    with pytest.raises(ValueError, match="32 registers"):
        core.registers = [0] * 31
    with pytest.raises(ValueError, match="32 registers"):
        core.registers = [1] * 32
    with pytest.raises(OverflowError):
        core.registers = [0] * 31 + [1 << 32]
    with pytest.raises(OverflowError):
        core.run(-1)
    with pytest.raises(KeyError):
        core.get_csr("nope")
    assert core.registers == [0] * 32
    assert repr(core) == "<Core, pc=0x0, machine mode>"
