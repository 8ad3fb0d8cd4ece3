"""The generic interrupt controller, as its specification says, from the side of CPUs."""

import random

import pytest
from lines import Lines

from dbs_device import IoManager, Resource
from dbs_device.devices.gicv2 import GicV2
from dbs_device.errors import StateError

CTLR, TYPER, ISENABLER, ICENABLER, ISPENDR, ICPENDR = 0x000, 0x004, 0x100, 0x180, 0x200, 0x280
ISACTIVER, ICACTIVER, IPRIORITYR, ITARGETSR, ICFGR, SGIR = 0x300, 0x380, 0x400, 0x800, 0xC00, 0xF00
CPENDSGIR, SPENDSGIR = 0xF10, 0xF20
PMR, BPR, IAR, EOIR, RPR, HPPIR, DIR = 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1000
SPURIOUS = 1023
EDGE = 1


class Cpu:
    """A CPU's view of the controller."""

    def __init__(self, machine, number):
        self.manager, self.number = machine.manager, number
        self.gicd, self.gicc = 0x10_0000 * number, 0x10_0000 * number + 0x1_0000
        self.levels = machine.lines.levels

    def load(self, offset, size=4):
        return self.manager.mmio_load(self.gicd + offset, size)

    def store(self, offset, value, size=4):
        self.manager.mmio_store(self.gicd + offset, size, value)

    def acknowledge(self):
        return self.manager.mmio_load(self.gicc + IAR, 4)

    def end(self, acknowledged):
        self.manager.mmio_store(self.gicc + EOIR, 4, acknowledged)

    def interface(self, offset, value=None):
        if value is None:
            return self.manager.mmio_load(self.gicc + offset, 4)
        return self.manager.mmio_store(self.gicc + offset, 4, value)

    def enable(self, identifier, priority=0x80, targets=0xFF, config=0):
        self.store(IPRIORITYR + identifier, priority, 1)
        self.store(ITARGETSR + identifier, targets, 1)
        shift = 2 * (identifier % 16) + 1
        word = ICFGR + 4 * (identifier // 16)
        self.store(word, self.load(word) & ~(1 << shift) | config << shift)
        self.store(ISENABLER + 4 * (identifier // 32), 1 << identifier % 32)

    @property
    def irq(self):
        return self.levels[self.number]


class Machine:
    def __init__(self, cpus=2, interrupts=96):
        self.lines = Lines(cpus)
        self.gic = GicV2(interrupts=interrupts, irqs=self.lines.sinks())
        self.manager = IoManager()
        for cpu in range(cpus):
            for block, base in ((self.gic.distributors[cpu], 0), (self.gic.cpu_interfaces[cpu], 0x1_0000)):
                address = 0x10_0000 * cpu + base
                self.manager.register_device_io(block, [Resource.MmioAddressRange(address, block.size)])
        self.cpus = [Cpu(self, number) for number in range(cpus)]
        self.cpus[0].store(CTLR, 1)
        for cpu in self.cpus:
            cpu.interface(PMR, 0xF0)
            cpu.interface(0, 1)


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def cpu(machine):
    return machine.cpus[0]


def test_the_driver_learns_what_there_is(cpu):
    assert cpu.load(TYPER) == 1 << 5 | 2
    assert cpu.load(0xFE8) >> 4 & 0xF == 2
    assert cpu.interface(0xFC) == 0x2043B


def test_a_level_interrupt_from_input_to_end(machine, cpu):
    cpu.enable(40, targets=1)
    line = machine.gic.spi(8)
    line(True)
    assert machine.lines.levels == [True, False]
    assert cpu.load(ISPENDR + 4) == 1 << 8
    assert cpu.acknowledge() == 40
    assert not cpu.irq
    assert cpu.load(ISACTIVER + 4) == 1 << 8
    line(False)
    cpu.end(40)
    assert cpu.load(ISACTIVER + 4) == cpu.load(ISPENDR + 4) == 0
    assert cpu.acknowledge() == SPURIOUS
    line(True)
    assert cpu.acknowledge() == 40
    cpu.end(40)
    assert cpu.irq  # the device has not lowered its line


def test_an_edge_is_latched_until_it_is_acknowledged(machine, cpu):
    cpu.enable(33, config=EDGE)
    line = machine.gic.spi(1)
    line(True)
    line(False)
    assert cpu.acknowledge() == 33
    line(True)  # while it is active
    line(False)
    assert not cpu.irq
    cpu.end(33)
    assert cpu.acknowledge() == 33
    cpu.end(33)
    assert not cpu.irq


def test_the_highest_priority_comes_first_then_the_lowest_number(machine, cpu):
    for identifier, priority in [(40, 0x80), (35, 0x80), (50, 0x10), (60, 0xF0), (61, 0xFF)]:
        cpu.enable(identifier, priority)
        machine.gic.spi(identifier - 32)(True)
    order = []
    for _ in range(3):
        order.append(cpu.acknowledge())
        machine.gic.spi(order[-1] - 32)(False)
        cpu.end(order[-1])
    assert order == [50, 35, 40]
    assert not cpu.irq  # the mask register lets only priorities above 0xF0 pass
    cpu.interface(PMR, 0xFF)
    assert cpu.acknowledge() == 60


def test_a_higher_priority_preempts_and_an_equal_one_does_not(machine, cpu):
    cpu.enable(40, 0x80)
    cpu.enable(41, 0x80)
    cpu.enable(42, 0x40)
    machine.gic.spi(8)(True)
    assert (cpu.acknowledge(), cpu.interface(RPR)) == (40, 0x80)
    machine.gic.spi(9)(True)
    assert not cpu.irq
    assert cpu.interface(HPPIR) == 41
    machine.gic.spi(10)(True)
    assert cpu.irq
    assert (cpu.acknowledge(), cpu.interface(RPR)) == (42, 0x40)
    machine.gic.spi(10)(False)
    cpu.end(42)
    assert (cpu.interface(RPR), cpu.irq) == (0x80, False)
    machine.gic.spi(8)(False)
    cpu.end(40)
    assert cpu.acknowledge() == 41


def test_the_binary_point_makes_groups_that_do_not_preempt_each_other(machine, cpu):
    cpu.interface(BPR, 5)  # the upper two bits decide
    cpu.enable(40, 0x90)
    cpu.enable(41, 0x80)
    machine.gic.spi(8)(True)
    assert cpu.acknowledge() == 40
    machine.gic.spi(9)(True)
    assert not cpu.irq


def test_shared_interrupts_go_to_their_targets(machine):
    first, second = machine.cpus
    first.enable(40, targets=2)
    machine.gic.spi(8)(True)
    assert machine.lines.levels == [False, True]
    assert (first.acknowledge(), second.acknowledge()) == (SPURIOUS, 40)
    assert first.load(ITARGETSR) == 0x01010101
    assert second.load(ITARGETSR) == 0x02020202


def test_private_interrupts_are_each_cpu_s_own(machine):
    first, second = machine.cpus
    first.enable(27)
    machine.gic.ppi(1, 27)(True)
    assert machine.lines.levels == [False, False]
    second.enable(27, 0x20)
    assert machine.lines.levels == [False, True]
    assert (first.load(IPRIORITYR + 27, 1), second.load(IPRIORITYR + 27, 1)) == (0x80, 0x20)
    machine.gic.ppi(0, 27)(True)
    assert (first.acknowledge(), second.acknowledge()) == (27, 27)


@pytest.mark.parametrize(("target", "expected"), [(0, [False, True]), (1, [True, False]), (2, [False, True])])
def test_software_interrupts(machine, target, expected):
    """From CPU 1: to a list (CPU 1), to all others, to itself."""
    machine.cpus[1].store(SGIR, target << 24 | 2 << 16 | 5)
    assert machine.lines.levels == expected
    cpu = machine.cpus[expected.index(True)]
    assert cpu.acknowledge() == 1 << 10 | 5
    cpu.end(1 << 10 | 5)
    assert cpu.acknowledge() == SPURIOUS


def test_a_software_interrupt_of_two_cpus_comes_twice(machine):
    for cpu in machine.cpus:
        cpu.store(SGIR, 1 << 16 | 3)
    cpu = machine.cpus[0]
    assert cpu.load(SPENDSGIR) == 0x03000000
    for expected in (3, 1 << 10 | 3):
        assert cpu.acknowledge() == expected
        cpu.end(expected)
    cpu.store(SPENDSGIR + 7, 2, 1)
    assert cpu.interface(HPPIR) == 1 << 10 | 7
    cpu.store(CPENDSGIR + 7, 2, 1)
    assert cpu.acknowledge() == SPURIOUS
    cpu.store(ICENABLER, 0xFFFF)  # they cannot be disabled
    assert cpu.load(ISENABLER) == 0xFFFF


def test_pending_and_active_are_set_by_software(machine, cpu):
    cpu.enable(40)
    cpu.store(ISPENDR + 4, 1 << 8)
    assert cpu.irq
    cpu.store(ICPENDR + 4, 1 << 8)
    assert not cpu.irq
    machine.gic.spi(8)(True)
    cpu.store(ISACTIVER + 4, 1 << 8)
    assert not cpu.irq
    cpu.store(ICACTIVER + 4, 1 << 8)
    assert cpu.irq
    cpu.store(ICENABLER + 4, 1 << 8)
    assert not cpu.irq


def test_the_end_and_the_deactivation_can_be_separate(machine, cpu):
    cpu.interface(0, 1 << 9 | 1)
    cpu.enable(40, config=EDGE)
    cpu.enable(41, config=EDGE)
    machine.gic.spi(8)(True)
    assert cpu.acknowledge() == 40
    cpu.end(40)
    assert cpu.interface(RPR) == 0xFF
    assert cpu.load(ISACTIVER + 4) == 1 << 8
    cpu.interface(DIR, 40)
    assert cpu.load(ISACTIVER + 4) == 0


def test_an_end_of_what_does_not_run_is_ignored(machine, cpu):
    cpu.enable(40)
    machine.gic.spi(8)(True)
    cpu.acknowledge()
    for other in (39, SPURIOUS, 1 << 10 | 40, 0xFFFF_FFFF):
        cpu.end(other)
    assert cpu.load(ISACTIVER + 4) == 1 << 8


def test_everything_can_be_turned_off(machine, cpu):
    cpu.enable(40)
    machine.gic.spi(8)(True)
    cpu.store(CTLR, 0)
    assert not cpu.irq
    cpu.store(CTLR, 1)
    cpu.interface(0, 0)
    assert not cpu.irq
    cpu.interface(0, 1)
    assert cpu.irq


def test_with_one_cpu_there_are_no_targets():
    machine = Machine(cpus=1)
    [cpu] = machine.cpus
    cpu.enable(40, targets=0)
    machine.gic.spi(8)(True)
    assert cpu.irq
    assert cpu.load(ITARGETSR + 40) == 0


def test_random_accesses_anywhere_are_harmless():
    random_ = random.Random(2)
    for interrupts in (32, 96, 1024):
        machine = Machine(interrupts=interrupts)
        for _ in range(3000):
            size = random_.choice([1, 2, 4, 4, 8])
            offset = random_.choice([random_.randrange(0x1000 - 7), 0x1_0000 + random_.randrange(0x2000 - 7)])
            if random_.random() < 0.6:
                machine.manager.mmio_store(offset, size, random_.getrandbits(8 * size))
            else:
                machine.manager.mmio_load(offset, size)
            if interrupts > 32:
                machine.gic.spi(random_.randrange(min(interrupts, 1020) - 32))(random_.random() < 0.5)
            machine.gic.ppi(random_.randrange(2), random_.randrange(16, 32))(random_.random() < 0.5)


def test_it_goes_on_from_its_state(machine, cpu):
    cpu.enable(40, 0x80, targets=1)
    cpu.enable(41, 0x40, targets=1)
    cpu.enable(42, 0x90, targets=1, config=EDGE)
    machine.gic.spi(8)(True)
    assert cpu.acknowledge() == 40
    machine.gic.spi(9)(True)
    machine.gic.spi(10)(True)
    machine.gic.spi(10)(False)
    machine.cpus[1].store(SGIR, 1 << 16 | 3)
    other = Machine()
    other.gic.load_state(machine.gic.save_state())
    assert other.lines.levels == [True, False]
    for each in (machine, other):
        first = each.cpus[0]
        order = [first.acknowledge(), first.acknowledge()]
        for identifier in (8, 9):
            each.gic.spi(identifier)(False)
        for acknowledged in (order[1], order[0], 40):
            first.end(acknowledged)
        assert [*order, first.acknowledge()] == [1 << 10 | 3, SPURIOUS, 42]
    with pytest.raises(StateError, match="is a list of 2"):
        machine.gic.load_state(Machine(cpus=1).gic.save_state())


@pytest.mark.parametrize("options", [{"interrupts": 33}, {"interrupts": 1056}, {"cpus": 9}, {"cpus": 0}])
def test_it_checks_what_it_is_made_of(options):
    with pytest.raises(ValueError, match="a GIC has"):
        GicV2(**options)


def test_there_are_no_other_inputs(machine):
    for number in (-1, 64):
        with pytest.raises(ValueError, match="64 shared interrupts"):
            machine.gic.spi(number)
    for cpu, identifier in ((0, 15), (0, 32), (2, 27)):
        with pytest.raises(ValueError, match="16 to 31 of CPUs 0 to 1"):
            machine.gic.ppi(cpu, identifier)
