"""The keyboard controller and the keyboard behind it, against their datasheets."""

from __future__ import annotations

import pytest
from isa_helpers import on_bus

from dbs_device.devices.i8042 import I8042
from dbs_device.devices.ps2_keyboard import CODES, PLAIN, SHIFTED, Ps2Keyboard


class Keyboard:
    """A keyboard controller on a bus."""

    def __init__(self) -> None:
        self.irq1, self.irq12 = False, False
        self.resets = 0
        self.edges = 0
        self.device = I8042(irq=self._set_irq1, aux_irq=self._set_irq12, reset=self._reset)
        self.bus = on_bus(self.device)

    def _set_irq1(self, level: bool) -> None:
        self.edges += level and not self.irq1
        self.irq1 = level

    def _set_irq12(self, level: bool) -> None:
        self.irq12 = level

    def _reset(self) -> None:
        self.resets += 1

    @property
    def status(self) -> int:
        return self.bus.pio_in(0x64, 1)

    def command(self, command: int, *parameters: int) -> None:
        self.bus.pio_out(0x64, 1, command)
        for parameter in parameters:
            self.bus.pio_out(0x60, 1, parameter)

    def send(self, *data: int) -> None:
        for byte in data:
            self.bus.pio_out(0x60, 1, byte)

    def answers(self) -> list[int]:
        """Return what can be read from the data port."""
        answers = []
        while self.status & 0x01:
            answers.append(self.bus.pio_in(0x60, 1))
        return answers


@pytest.fixture
def keyboard() -> Keyboard:
    return Keyboard()


def test_self_test_sets_the_system_flag(keyboard: Keyboard) -> None:
    assert keyboard.status == 0x10
    keyboard.command(0xAA)
    assert keyboard.status == 0x1D
    assert keyboard.answers() == [0x55]
    assert keyboard.status == 0x1C


def test_interface_tests(keyboard: Keyboard) -> None:
    keyboard.command(0xAB)
    keyboard.command(0xA9)
    assert keyboard.answers() == [0x00, 0x00]


def test_command_byte(keyboard: Keyboard) -> None:
    keyboard.command(0x60, 0x65)
    keyboard.command(0x20)
    assert keyboard.answers() == [0x65]
    for command, expected in ((0xAD, 0x75), (0xAE, 0x65), (0xA8, 0x45), (0xA7, 0x65)):
        keyboard.command(command)
        keyboard.command(0x20)
        assert keyboard.answers() == [expected]


def test_memory(keyboard: Keyboard) -> None:
    keyboard.command(0x7F, 0x5A)
    keyboard.command(0x3F)
    assert keyboard.answers() == [0x5A]


def test_data_port_reads_again_what_was_read_last(keyboard: Keyboard) -> None:
    keyboard.command(0xAA)
    assert [keyboard.bus.pio_in(0x60, 1) for _ in range(2)] == [0x55, 0x55]


def test_input_port(keyboard: Keyboard) -> None:
    keyboard.command(0xC0)
    assert keyboard.answers() == [0x80]


def test_output_port_says_which_buffer_is_full(keyboard: Keyboard) -> None:
    keyboard.send(0xEE)
    keyboard.command(0xD0)
    assert keyboard.answers() == [0xEE, 0x13]


def test_output_port(keyboard: Keyboard) -> None:
    keyboard.command(0xD0)
    assert keyboard.answers() == [0x03]
    keyboard.command(0xD1, 0x01)
    keyboard.command(0xD0)
    assert (keyboard.answers(), keyboard.resets) == ([0x01], 0)
    keyboard.command(0xD1, 0x02)
    assert keyboard.resets == 1


@pytest.mark.parametrize(("command", "resets"), [(0xFE, 1), (0xF0, 1), (0xFF, 0), (0xFD, 0)])
def test_pulsing_the_reset_line(keyboard: Keyboard, command: int, resets: int) -> None:
    keyboard.command(command)
    assert keyboard.resets == resets


def test_echo_into_both_output_buffers(keyboard: Keyboard) -> None:
    keyboard.command(0x60, 0x03)
    keyboard.command(0xD2, 0x11)
    assert (keyboard.irq1, keyboard.irq12) == (True, False)
    assert keyboard.answers() == [0x11]
    keyboard.command(0xD3, 0x22)
    assert (keyboard.irq1, keyboard.irq12, keyboard.status & 0x21) == (False, True, 0x21)
    assert keyboard.answers() == [0x22]
    assert not keyboard.irq12


def test_nothing_is_plugged_into_the_auxiliary_port(keyboard: Keyboard) -> None:
    keyboard.command(0xD4, 0xFF)
    assert keyboard.status & 0x61 == 0x61
    assert keyboard.answers() == [0xFE]


def test_interrupt_per_byte(keyboard: Keyboard) -> None:
    keyboard.command(0x60, 0x41)
    keyboard.device.keyboard.press(0x1C)
    assert keyboard.edges == 1
    assert (keyboard.answers(), keyboard.edges) == ([0x1E, 0x9E], 2)
    assert not keyboard.irq1


def test_keyboard_waits_while_it_is_disabled(keyboard: Keyboard) -> None:
    keyboard.command(0xAD)
    keyboard.device.keyboard.press(0x1C)
    assert not keyboard.status & 0x01
    keyboard.command(0xAE)
    assert keyboard.answers() == [0x1C, 0xF0, 0x1C]


def test_translation_leaves_answers_alone(keyboard: Keyboard) -> None:
    keyboard.command(0x60, 0x40)
    keyboard.send(0xF2)
    assert keyboard.answers() == [0xFA, 0xAB, 0x41]


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([0xFF], [0xFA, 0xAA]),
        ([0xEE], [0xEE]),
        ([0xF2], [0xFA, 0xAB, 0x83]),
        ([0xF0, 0x00], [0xFA, 0xFA, 0x02]),
        ([0xF0, 0x02], [0xFA, 0xFA]),
        ([0xF3, 0x20], [0xFA, 0xFA]),
        ([0xF6], [0xFA]),
        ([0x01], [0xFE]),
    ],
)
def test_keyboard_commands(keyboard: Keyboard, sent: list[int], answers: list[int]) -> None:
    keyboard.send(*sent)
    assert keyboard.answers() == answers


def test_leds(keyboard: Keyboard) -> None:
    keyboard.send(0xED, 0x05)
    assert keyboard.device.keyboard.leds == 5
    keyboard.send(0xF6)
    assert keyboard.device.keyboard.leds == 0


def test_last_byte_can_be_asked_for_again(keyboard: Keyboard) -> None:
    keyboard.send(0xF2)
    assert keyboard.answers()[-1] == 0x83
    keyboard.send(0xFE)
    assert keyboard.answers() == [0x83]


def test_disabled_keyboard_does_not_scan(keyboard: Keyboard) -> None:
    keyboard.send(0xF5)
    keyboard.device.keyboard.type("aA")
    assert keyboard.answers() == [0xFA]
    keyboard.send(0xF4)
    keyboard.device.keyboard.type("a")
    assert keyboard.answers() == [0xFA, 0x1C, 0xF0, 0x1C]


def test_reset_keyboard_scans_again(keyboard: Keyboard) -> None:
    keyboard.send(0xF5, 0xFF)
    keyboard.device.keyboard.type("a")
    assert keyboard.answers() == [0xFA, 0xFA, 0xAA, 0x1C, 0xF0, 0x1C]


def test_typing_a_capital_letter(keyboard: Keyboard) -> None:
    keyboard.command(0x60, 0x40)
    keyboard.device.keyboard.type("A")
    assert keyboard.answers() == [0x2A, 0x1E, 0x9E, 0xAA]


def test_every_key_of_the_layout_has_one_code() -> None:
    assert len(PLAIN) == len(CODES) == len(set(CODES))
    assert len(SHIFTED) == len(PLAIN) - len(" \n\t\b")


def test_character_without_a_key() -> None:
    with pytest.raises(ValueError, match=r"^the keyboard has no key for 'é'$"):
        Ps2Keyboard(data_ready=lambda: None).type("é")
