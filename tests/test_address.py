"""Addresses and sizes are integers that refuse what does not fit their width."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device.address import IoAddress, IoSize, PioAddress, PioSize

WIDE = [IoAddress, IoSize]
NARROW = [PioAddress, PioSize]
EVERY = WIDE + NARROW
MAXIMUM = {IoAddress: 2**64 - 1, IoSize: 2**64 - 1, PioAddress: 0xFFFF, PioSize: 0xFFFF}


class Indexable:
    """An integer by `__index__` alone."""

    def __index__(self) -> int:
        return 0x3F8


@pytest.mark.parametrize("cls", EVERY)
def test_the_whole_width_is_accepted(cls):
    for value in (0, 1, MAXIMUM[cls]):
        number = cls(value)
        assert number == value
        assert number.raw_value() == value
        assert type(number.raw_value()) is int
        assert type(number) is cls


@pytest.mark.parametrize("cls", EVERY)
def test_the_default_is_zero(cls):
    assert cls() == 0


@pytest.mark.parametrize(
    ("cls", "value", "message"),
    [
        (IoAddress, -1, "IoAddress takes 0x0..0xffffffffffffffff, not -0x1"),
        (IoAddress, 2**64, "IoAddress takes 0x0..0xffffffffffffffff, not 0x10000000000000000"),
        (IoSize, 2**64, "IoSize takes 0x0..0xffffffffffffffff, not 0x10000000000000000"),
        (IoSize, -(2**200), f"IoSize takes 0x0..0xffffffffffffffff, not {-(2**200):#x}"),
        (PioAddress, 0x10000, "PioAddress takes 0x0..0xffff, not 0x10000"),
        (PioAddress, np.int64(-3), "PioAddress takes 0x0..0xffff, not -0x3"),
        (PioSize, 0x10000, "PioSize takes 0x0..0xffff, not 0x10000"),
        (PioSize, -1, "PioSize takes 0x0..0xffff, not -0x1"),
    ],
)
def test_what_does_not_fit_is_a_value_error(cls, value, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared below
        cls(value)
    assert str(caught.value) == message


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("value", [None, "0x3f8", b"1", 1.0, 1j, [1], np.float64(1), np.array([1, 2]), int, object()])
def test_an_object_that_is_not_an_integer_is_a_type_error(cls, value):
    with pytest.raises(TypeError):
        cls(value)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize(
    ("value", "number"), [(True, 1), (np.uint16(7), 7), (np.int64(9), 9), (np.array(5), 5), (Indexable(), 0x3F8)]
)
def test_whatever_python_takes_for_an_integer_is_one_here(cls, value, number):
    assert cls(value).raw_value() == number
    assert type(cls(value).raw_value()) is int


def test_wide_addresses_convert_to_narrow_ones_if_they_fit():
    assert PioAddress(IoAddress(0xFFFF)) == PioAddress(0xFFFF)
    assert PioSize(IoSize(0xFFFF)) == PioSize(0xFFFF)
    with pytest.raises(ValueError, match=r"PioAddress takes 0x0..0xffff, not 0x10000"):
        PioAddress(IoAddress(0x10000))
    with pytest.raises(ValueError, match=r"PioSize takes 0x0..0xffff, not 0x10000"):
        PioSize(IoSize(0x10000))


def test_narrow_addresses_convert_to_wide_ones():
    assert type(IoAddress(PioAddress(0xFFFF))) is IoAddress
    assert type(IoSize(PioSize(0xFFFF))) is IoSize


@given(st.integers(-(2**70), 2**70))
def test_a_number_is_kept_or_refused_never_changed(value):
    for cls in EVERY:
        try:
            number = cls(value)
        except ValueError:
            assert not 0 <= value <= MAXIMUM[cls]
        else:
            assert number.raw_value() == value


def test_they_compare_hash_sort_and_index_as_their_value():
    assert IoAddress(5) == PioAddress(5) == 5
    assert hash(IoAddress(5)) == hash(5)
    assert {5: "five"}[PioAddress(5)] == "five"  # type: ignore[index]
    assert sorted([IoAddress(3), IoAddress(1)]) == [1, 3]
    assert IoAddress(2**63) > PioAddress(1)
    assert operator.index(PioSize(3)) == 3
    assert "abc"[PioSize(1)] == "b"
    assert not IoSize(0)


def test_arithmetic_gives_plain_integers_that_do_not_wrap():
    assert type(PioAddress(0xFFFF) + 1) is int
    assert PioAddress(0xFFFF) + 1 == 0x10000
    assert IoAddress(0) - 1 == -1


def test_numpy_takes_them():
    assert np.array([IoAddress(2**64 - 1)], dtype=np.uint64)[0] == 2**64 - 1


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (IoAddress(0xFEC00000), "IoAddress(0xfec00000)"),
        (IoSize(16), "IoSize(0x10)"),
        (PioAddress(0x3F8), "PioAddress(0x3f8)"),
        (PioSize(0), "PioSize(0x0)"),
    ],
)
def test_they_print_in_hex(number, text):
    assert repr(number) == text
    assert str(number) == text
    assert eval(text) == number


def test_they_format_as_integers():
    assert f"{PioAddress(0x3F8):#06x}" == "0x03f8"
    assert "%d" % PioAddress(10) == "10"  # noqa: UP031  the old form has to work as well


@pytest.mark.parametrize("cls", EVERY)
def test_pickle_and_copy_keep_value_and_type(cls):
    number = cls(MAXIMUM[cls])
    twins = [pickle.loads(pickle.dumps(number, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    twins += [copy.copy(number), copy.deepcopy(number)]
    for twin in twins:
        assert twin == number
        assert type(twin) is cls


@pytest.mark.parametrize("cls", EVERY)
def test_they_are_immutable(cls):
    number = cls(1)
    with pytest.raises(AttributeError):
        number.anything = 1
    with pytest.raises(AttributeError):
        number.real = 2


def test_a_subclass_keeps_the_check_and_its_own_name():
    class Register(PioAddress):
        pass

    assert repr(Register(2)) == "Register(0x2)"
    with pytest.raises(ValueError, match=r"^Register takes 0x0..0xffff, not 0x10000$"):
        Register(0x10000)


def test_they_work_in_match():
    match PioAddress(0x3F8):
        case PioAddress(value):
            assert value == 0x3F8
        case _:
            pytest.fail("PioAddress did not match itself")
