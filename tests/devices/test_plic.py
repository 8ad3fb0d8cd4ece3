"""The platform-level interrupt controller, as its specification says, from the side of harts."""

import json
import random
import threading

import pytest
from lines import Lines, registered

from dbs_device.devices.plic import Plic
from dbs_device.errors import StateError

PRIORITY, PENDING, ENABLE, THRESHOLD, CLAIM = 0x0, 0x1000, 0x2000, 0x20_0000, 0x20_0004


class PlicMachine:
    def __init__(self, sources=63, contexts=2):
        self.lines = Lines(contexts)
        self.plic = Plic(sources=sources, irqs=self.lines.sinks())
        self.manager = registered(self.plic)
        self.load, self.store = self.manager.mmio_load, self.manager.mmio_store

    def enable(self, source, priority=1, context=0):
        self.store(PRIORITY + 4 * source, 4, priority)
        address = ENABLE + 0x80 * context + 4 * (source // 32)
        self.store(address, 4, self.load(address, 4) | 1 << source % 32)

    def claim(self, context=0):
        return self.load(CLAIM + 0x1000 * context, 4)

    def complete(self, source, context=0):
        self.store(CLAIM + 0x1000 * context, 4, source)


@pytest.fixture
def plic():
    return PlicMachine()


def test_an_interrupt_from_input_to_completion(plic):
    plic.enable(40, priority=3)
    line = plic.plic.line(40)
    line(True)
    assert plic.lines.levels == [True, False]
    assert plic.load(PENDING + 4, 4) == 1 << 8
    assert plic.claim() == 40
    assert plic.lines.levels == [False, False]
    assert plic.load(PENDING + 4, 4) == 0
    assert plic.claim() == 0
    line(False)
    plic.complete(40)
    assert plic.lines.edges == [(0, True), (0, False)]


def test_a_level_that_is_still_high_when_it_is_completed_comes_again(plic):
    plic.enable(5)
    plic.plic.line(5)(True)
    assert plic.claim() == 5
    plic.complete(5)
    assert plic.claim() == 5


def test_a_request_stays_pending_when_the_level_falls_before_it_is_claimed(plic):
    line = plic.plic.line(5)
    line(True)
    line(False)
    plic.enable(5)
    assert plic.claim() == 5
    plic.complete(5)
    assert plic.claim() == 0


def test_the_highest_priority_comes_first_then_the_lowest_number(plic):
    for source, priority in [(7, 2), (3, 2), (9, 5), (11, 0)]:
        plic.enable(source, priority)
        plic.plic.line(source)(True)
    assert [plic.claim() for _ in range(4)] == [9, 3, 7, 0]  # priority 0 never interrupts


def test_the_threshold_masks_notifications_and_not_claims(plic):
    plic.store(THRESHOLD, 4, 3)
    plic.enable(7, priority=3)
    plic.plic.line(7)(True)
    assert plic.lines.levels == [False, False]
    assert plic.claim() == 7
    plic.complete(7)
    plic.store(THRESHOLD, 4, 2)
    assert plic.lines.levels == [True, False]


def test_contexts_share_sources_and_one_of_them_gets_it(plic):
    plic.enable(1)
    plic.enable(1, context=1)
    plic.plic.line(1)(True)
    assert plic.lines.levels == [True, True]
    assert plic.claim(1) == 1
    assert plic.claim(0) == 0
    assert plic.lines.levels == [False, False]


def test_a_completion_of_what_is_not_enabled_is_ignored(plic):
    plic.enable(1)
    plic.plic.line(1)(True)
    assert plic.claim() == 1
    for source in (0, 2, 63, 64, 0xFFFF_FFFF):
        plic.complete(source)
    plic.complete(1, context=1)
    assert plic.claim() == 0
    plic.complete(1)
    assert plic.claim() == 1


def test_registers_keep_what_exists(plic):
    plic.store(PRIORITY + 4, 4, 0xFFFF_FFFF)
    assert plic.load(PRIORITY + 4, 4) == 7
    plic.store(ENABLE, 4, 0xFFFF_FFFF)
    assert plic.load(ENABLE, 4) == 0xFFFF_FFFE  # there is no source 0
    plic.store(ENABLE + 8, 4, 0xFFFF_FFFF)
    assert plic.load(ENABLE + 8, 4) == 0
    plic.store(PENDING, 4, 0xFF)
    assert plic.load(PENDING, 4) == 0
    assert plic.load(PRIORITY, 4) == plic.load(PRIORITY + 4 * 64, 4) == 0
    assert plic.load(THRESHOLD + 0x2000, 4) == 0


def test_random_accesses_anywhere_are_harmless(plic):
    random_ = random.Random(5)
    for _ in range(3000):
        size = random_.choice([1, 2, 4, 8])
        offset = random_.choice([0, 0x1000, 0x2000, 0x20_0000, 0x3FF_F000]) + random_.randrange(0x1100)
        offset = min(offset, plic.plic.size - size)
        if random_.random() < 0.5:
            plic.store(offset, size, random_.getrandbits(8 * size))
        else:
            plic.load(offset, size)
        plic.plic.line(random_.randint(1, 63))(random_.random() < 0.5)


def test_two_harts_and_a_device_share_the_plic():
    plic = PlicMachine(sources=31, contexts=2)
    for context in (0, 1):
        for source in range(1, 32):
            plic.enable(source, priority=1, context=context)
    claimed, finished = [[], []], threading.Event()

    def serve(context):
        while not finished.is_set() or plic.load(PENDING, 4):
            source = plic.claim(context)
            if source:
                claimed[context].append(source)
                plic.complete(source, context)

    harts = [threading.Thread(target=serve, args=(context,)) for context in (0, 1)]
    for hart in harts:
        hart.start()
    for i in range(3000):
        line = plic.plic.line(1 + i % 31)
        line(True)
        line(False)
    finished.set()
    for hart in harts:
        hart.join(30)
    assert set(claimed[0] + claimed[1]) == set(range(1, 32))
    assert plic.lines.levels == [False, False]


def test_a_plic_goes_on_from_its_state(plic):
    plic.enable(5, 2)
    plic.enable(40, 4, context=1)
    plic.plic.line(5)(True)
    plic.plic.line(40)(True)
    assert plic.claim(0) == 5
    other = PlicMachine()
    other.plic.load_state(json.loads(json.dumps(plic.plic.save_state())))
    assert other.lines.levels == [False, True]
    assert other.claim(1) == 40
    other.complete(5)
    assert other.claim() == 5  # the input is high
    for bad in (Plic(sources=31).save_state(), Plic(sources=63, contexts=1).save_state()):
        with pytest.raises(StateError, match=r"Plic\.(priorities|thresholds) is a list of \d+, not "):
            plic.plic.load_state(bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": 0}, "1 to 1023 sources, not 0"),
        ({"sources": 1024}, "not 1024"),
        ({"contexts": 0}, "1 to 15872 contexts, not 0"),
        ({"priorities": 6}, r"2\*\*n - 1"),
        ({"irqs": [print] * 2, "contexts": 1}, "2 interrupt lines for 1 contexts"),
    ],
)
def test_a_plic_checks_what_it_is_made_of(options, message):
    with pytest.raises(ValueError, match=message):
        Plic(**options)


def test_a_plic_has_no_line_for_sources_that_do_not_exist(plic):
    for source in (0, 64, -1):
        with pytest.raises(ValueError, match=f"sources 1 to 63, not {source}"):
            plic.plic.line(source)
