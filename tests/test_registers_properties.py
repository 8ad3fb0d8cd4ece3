"""Random banks against a bit-by-bit model, and what threads must not lose."""

import logging
from random import Random

import pytest
from fuzz import registers
from hypothesis import given, settings
from hypothesis import strategies as st
from register_model import Model, random_plan

from dbs_device import IoManager, Resource


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("dbs_device.registers").setLevel(logging.ERROR)
    yield
    logging.getLogger("dbs_device.registers").setLevel(logging.NOTSET)


@given(seed=st.integers(0, 2**64), spaces=st.sampled_from(["MMIO", "PIO"]), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_bank_does_what_the_model_does(seed, spaces, data):
    plan = random_plan(Random(seed))
    bank, model = plan.bank_class()(), Model(plan)
    manager = IoManager(straddle="pass")
    if spaces == "MMIO":
        manager.register_device_io(bank, [Resource.MmioAddressRange(0, plan.size + 16)])
        read, write = manager.mmio_read, manager.mmio_write
    else:
        manager.register_device_io(bank, [Resource.PioAddressRange(0, plan.size + 16)])
        read, write = manager.pio_read, manager.pio_write
    accesses = st.tuples(
        st.booleans(), st.integers(0, plan.size + 15), st.sampled_from([1, 2, 3, 4, 4, 4, 8, 8, 21]), st.randoms()
    )
    for is_write, offset, size, random in data.draw(st.lists(accesses, min_size=20, max_size=60)):
        # What software does most: a register, whole.
        if random.random() < 0.5:
            place = random.choice(model.places)
            offset, size = place.offset, place.size
        if is_write:
            payload = random.randbytes(size)
            write(offset, payload)
            model.write(offset, payload)
        else:
            peeked = None
            if size in (1, 2, 4, 8) and offset + size <= plan.size:
                peeked = bank.peek(offset, size).to_bytes(size, plan.byteorder)
            buffer = bytearray(size)
            read(offset, buffer)
            page, values = model.page, model.register_values()
            assert buffer == model.read(offset, size)
            # A peek cannot show what the first of several registers does to the others: a page that its read switches,
            # or side effects on a register that the access reaches again, by an alias.
            is_one_register = any((place.offset, place.size) == (offset, size) for place in model.places)
            is_unchanged = model.register_values() == values
            if peeked is not None and page == model.page and (is_one_register or is_unchanged):
                assert peeked == buffer
        assert list(bank.save_state()["registers"].values()) == model.register_values()
    state = bank.save_state()
    bank.reset()
    assert list(bank.save_state()["registers"].values()) == Model(plan).register_values()
    bank.load_state(state)
    assert bank.save_state() == state


@pytest.mark.parametrize("seed", range(4))
def test_many_random_accesses_agree_with_a_model_in_c(seed):
    driver = registers.driver()
    if driver is None:
        pytest.skip("no C compiler")
    for bank in range(20):
        assert registers.differences_of_bank(driver, Random(f"{seed}-{bank}"), accesses=50_000) == [], f"bank {bank}"


def test_no_update_of_four_threads_is_lost():
    driver = registers.driver()
    if driver is None:
        pytest.skip("no C compiler")
    assert registers.differences_of_threads(driver, accesses=200_000) == []
