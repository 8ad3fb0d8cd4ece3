"""UART, keyboard controller, fw_cfg, DMA and the small ports of the example PC, against their datasheets."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbs_device import DeviceIo, IoManager
from examples.pc.devices.debug_console import DebugConsole
from examples.pc.devices.dma8237 import Dma8237, DmaPages
from examples.pc.devices.fw_cfg import FwCfg
from examples.pc.devices.i8042 import I8042
from examples.pc.devices.port92 import SystemControlPortA
from examples.pc.devices.ps2_keyboard import CODES, PLAIN, SHIFTED, Ps2Keyboard
from examples.pc.devices.uart16550 import Uart16550
from examples.pc.devices.vbe_dispi import VbeDispi

COM1 = 0x3F8


def on_bus(*devices: DeviceIo) -> IoManager:
    manager = IoManager()
    for device in devices:
        manager.register_device_io(device, device.get_trapped_io_resources())
    return manager


class Uart:
    """A UART on a bus, with what it has sent and the level of its interrupt line."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.irq = False
        self.device = Uart16550(self.sent.append, self._set_irq, COM1)
        self.bus = on_bus(self.device)

    def _set_irq(self, level: bool) -> None:
        self.irq = level

    def __getitem__(self, register: int) -> int:
        return self.bus.pio_in(COM1 + register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.bus.pio_out(COM1 + register, 1, value)


@pytest.fixture
def uart() -> Uart:
    return Uart()


class TestUart:
    def test_after_reset(self, uart: Uart) -> None:
        assert [uart[register] for register in range(8)] == [0x00, 0x00, 0x01, 0x00, 0x00, 0x60, 0xB0, 0x00]

    def test_transmits(self, uart: Uart) -> None:
        for byte in b"ok":
            assert uart[5] & 0x20
            uart[0] = byte
        assert uart.sent == b"ok"

    def test_divisor_latch_hides_two_registers(self, uart: Uart) -> None:
        assert uart.device.baud is None
        uart[1] = 0x05
        uart[3] = 0x83
        uart[0], uart[1] = 0x0C, 0x00
        assert (uart[0], uart[1], uart.device.baud) == (0x0C, 0x00, 9600)
        uart.bus.pio_out(COM1, 2, 0x0180)
        assert (uart[0], uart[1], uart.device.baud) == (0x80, 0x01, 300)
        uart[3] = 0x03
        assert (uart[1], uart.sent) == (0x05, b"")

    def test_receives_and_interrupts_when_out2_connects_the_line(self, uart: Uart) -> None:
        uart[1] = 0x01
        uart.device.receive(b"A")
        assert (uart.irq, uart[2]) == (False, 0x04)
        uart[4] = 0x08
        assert uart.irq
        assert (uart[5], uart[0], uart[5], uart.irq) == (0x61, ord("A"), 0x60, False)

    def test_second_byte_overwrites_the_first_without_fifo(self, uart: Uart) -> None:
        uart.device.receive(b"AB")
        assert (uart[5], uart[5], uart[0]) == (0x63, 0x61, ord("B"))  # reading the status clears the overrun

    def test_full_fifo_loses_what_comes(self, uart: Uart) -> None:
        uart[2] = 0x01
        uart.device.receive(range(20))
        assert uart[5] == 0x63
        assert [uart[0] for _ in range(16)] == list(range(16))
        assert uart[5] == 0x60

    def test_trigger_level(self, uart: Uart) -> None:
        uart[2] = 0x41  # 4 bytes
        uart[1] = 0x01
        uart.device.receive(b"abc")
        assert uart[2] == 0xCC  # fewer: the line has been idle
        uart.device.receive(b"d")
        assert uart[2] == 0xC4

    def test_clearing_the_receiver_fifo(self, uart: Uart) -> None:
        uart[2] = 0x01
        uart.device.receive(b"abc")
        uart[2] = 0x03
        assert uart[5] == 0x60

    def test_transmitter_interrupt_is_identified_once(self, uart: Uart) -> None:
        uart[4] = 0x08
        uart[1] = 0x02
        assert uart.irq
        assert (uart[2], uart[2], uart.irq) == (0x02, 0x01, False)
        uart[0] = 0x41
        assert uart.irq

    def test_interrupts_have_priorities(self, uart: Uart) -> None:
        uart[1] = 0x07
        uart.device.receive(b"AB")
        assert uart[2] == 0x06
        assert uart[5] & 0x02
        assert uart[2] == 0x04
        assert uart[0] == ord("B")
        assert uart[2] == 0x02

    def test_loopback_returns_bytes_and_modem_lines(self, uart: Uart) -> None:
        uart[4] = 0x1F
        uart[0] = 0x5A
        uart.device.receive(b"from outside")
        assert (uart.sent, uart[0]) == (b"", 0x5A)
        assert uart[6] & 0xF0 == 0xF0
        uart[4] = 0x10
        assert uart[6] == 0x0F  # DSR, CTS and DCD have changed, RI has fallen
        assert uart[6] == 0x00

    def test_modem_interrupt(self, uart: Uart) -> None:
        uart[4] = 0x10
        uart[6]
        uart[1] = 0x08
        uart[4] = 0x11
        assert uart[2] == 0x00
        assert uart[6] == 0x22
        assert uart[2] == 0x01

    def test_scratch(self, uart: Uart) -> None:
        uart[7] = 0xA5
        assert uart[7] == 0xA5

    @given(st.lists(st.one_of(st.binary(max_size=20), st.just(None)), max_size=20))
    def test_fifo_is_a_queue_of_sixteen(self, steps: list[bytes | None]) -> None:
        uart, model = Uart(), deque[int]()
        uart[2] = 0x01
        for step in steps:
            if step is None:
                assert uart[0] == (model.popleft() if model else 0)
            else:
                uart.device.receive(step)
                model.extend(step[: 16 - len(model)])
            assert uart[5] & 0x01 == bool(model)


class Keyboard:
    """A keyboard controller on a bus."""

    def __init__(self) -> None:
        self.irq1, self.irq12 = False, False
        self.resets = 0
        self.edges = 0
        self.device = I8042(self._set_irq1, self._set_irq12, self._reset)
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


class TestI8042:
    def test_self_test_sets_the_system_flag(self, keyboard: Keyboard) -> None:
        assert keyboard.status == 0x10
        keyboard.command(0xAA)
        assert keyboard.status == 0x1D
        assert keyboard.answers() == [0x55]
        assert keyboard.status == 0x1C

    def test_interface_tests(self, keyboard: Keyboard) -> None:
        keyboard.command(0xAB)
        keyboard.command(0xA9)
        assert keyboard.answers() == [0x00, 0x00]

    def test_command_byte(self, keyboard: Keyboard) -> None:
        keyboard.command(0x60, 0x65)
        keyboard.command(0x20)
        assert keyboard.answers() == [0x65]
        for command, expected in ((0xAD, 0x75), (0xAE, 0x65), (0xA8, 0x45), (0xA7, 0x65)):
            keyboard.command(command)
            keyboard.command(0x20)
            assert keyboard.answers() == [expected]

    def test_memory(self, keyboard: Keyboard) -> None:
        keyboard.command(0x7F, 0x5A)
        keyboard.command(0x3F)
        assert keyboard.answers() == [0x5A]

    def test_data_port_reads_again_what_was_read_last(self, keyboard: Keyboard) -> None:
        keyboard.command(0xAA)
        assert [keyboard.bus.pio_in(0x60, 1) for _ in range(2)] == [0x55, 0x55]

    def test_input_port(self, keyboard: Keyboard) -> None:
        keyboard.command(0xC0)
        assert keyboard.answers() == [0x80]

    def test_output_port_says_which_buffer_is_full(self, keyboard: Keyboard) -> None:
        keyboard.send(0xEE)
        keyboard.command(0xD0)
        assert keyboard.answers() == [0xEE, 0x13]

    def test_output_port(self, keyboard: Keyboard) -> None:
        keyboard.command(0xD0)
        assert keyboard.answers() == [0x03]
        keyboard.command(0xD1, 0x01)
        keyboard.command(0xD0)
        assert (keyboard.answers(), keyboard.resets) == ([0x01], 0)
        keyboard.command(0xD1, 0x02)
        assert keyboard.resets == 1

    @pytest.mark.parametrize(("command", "resets"), [(0xFE, 1), (0xF0, 1), (0xFF, 0), (0xFD, 0)])
    def test_pulsing_the_reset_line(self, keyboard: Keyboard, command: int, resets: int) -> None:
        keyboard.command(command)
        assert keyboard.resets == resets

    def test_echo_into_both_output_buffers(self, keyboard: Keyboard) -> None:
        keyboard.command(0x60, 0x03)
        keyboard.command(0xD2, 0x11)
        assert (keyboard.irq1, keyboard.irq12) == (True, False)
        assert keyboard.answers() == [0x11]
        keyboard.command(0xD3, 0x22)
        assert (keyboard.irq1, keyboard.irq12, keyboard.status & 0x21) == (False, True, 0x21)
        assert keyboard.answers() == [0x22]
        assert not keyboard.irq12

    def test_nothing_is_plugged_into_the_auxiliary_port(self, keyboard: Keyboard) -> None:
        keyboard.command(0xD4, 0xFF)
        assert keyboard.status & 0x61 == 0x61
        assert keyboard.answers() == [0xFE]

    def test_interrupt_per_byte(self, keyboard: Keyboard) -> None:
        keyboard.command(0x60, 0x41)
        keyboard.device.keyboard.press(0x1C)
        assert keyboard.edges == 1
        assert (keyboard.answers(), keyboard.edges) == ([0x1E, 0x9E], 2)
        assert not keyboard.irq1

    def test_keyboard_waits_while_it_is_disabled(self, keyboard: Keyboard) -> None:
        keyboard.command(0xAD)
        keyboard.device.keyboard.press(0x1C)
        assert not keyboard.status & 0x01
        keyboard.command(0xAE)
        assert keyboard.answers() == [0x1C, 0xF0, 0x1C]

    def test_translation_leaves_answers_alone(self, keyboard: Keyboard) -> None:
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
    def test_keyboard_commands(self, keyboard: Keyboard, sent: list[int], answers: list[int]) -> None:
        keyboard.send(*sent)
        assert keyboard.answers() == answers

    def test_leds(self, keyboard: Keyboard) -> None:
        keyboard.send(0xED, 0x05)
        assert keyboard.device.keyboard.leds == 5
        keyboard.send(0xF6)
        assert keyboard.device.keyboard.leds == 0

    def test_last_byte_can_be_asked_for_again(self, keyboard: Keyboard) -> None:
        keyboard.send(0xF2)
        assert keyboard.answers()[-1] == 0x83
        keyboard.send(0xFE)
        assert keyboard.answers() == [0x83]

    def test_disabled_keyboard_does_not_scan(self, keyboard: Keyboard) -> None:
        keyboard.send(0xF5)
        keyboard.device.keyboard.type("aA")
        assert keyboard.answers() == [0xFA]
        keyboard.send(0xF4)
        keyboard.device.keyboard.type("a")
        assert keyboard.answers() == [0xFA, 0x1C, 0xF0, 0x1C]

    def test_reset_keyboard_scans_again(self, keyboard: Keyboard) -> None:
        keyboard.send(0xF5, 0xFF)
        keyboard.device.keyboard.type("a")
        assert keyboard.answers() == [0xFA, 0xFA, 0xAA, 0x1C, 0xF0, 0x1C]

    def test_typing_a_capital_letter(self, keyboard: Keyboard) -> None:
        keyboard.command(0x60, 0x40)
        keyboard.device.keyboard.type("A")
        assert keyboard.answers() == [0x2A, 0x1E, 0x9E, 0xAA]

    def test_every_key_of_the_layout_has_one_code(self) -> None:
        assert len(PLAIN) == len(CODES) == len(set(CODES))
        assert len(SHIFTED) == len(PLAIN) - len(" \n\t\b")

    def test_character_without_a_key(self) -> None:
        with pytest.raises(ValueError, match=r"^the keyboard has no key for 'é'$"):
            Ps2Keyboard(lambda: None).type("é")


class Firmware:
    """fw_cfg on a bus."""

    def __init__(self) -> None:
        self.device = FwCfg()
        self.bus = on_bus(self.device)

    def read(self, key: int, size: int) -> bytes:
        self.bus.pio_out(0x510, 2, key)
        return bytes(self.bus.pio_in(0x511, 1) for _ in range(size))


class TestFwCfg:
    def test_signature_and_interface(self) -> None:
        firmware = Firmware()
        assert (firmware.read(0, 4), firmware.read(1, 4)) == (b"QEMU", b"\1\0\0\0")

    def test_everything_past_the_end_is_zero(self) -> None:
        assert Firmware().read(0, 6) == b"QEMU\0\0"

    def test_selecting_again_starts_over(self) -> None:
        firmware = Firmware()
        assert [firmware.read(0, 2), firmware.read(0, 2)] == [b"QE", b"QE"]

    def test_unknown_key_reads_as_zero(self) -> None:
        assert Firmware().read(0x8000, 4) == bytes(4)

    def test_directory(self) -> None:
        firmware = Firmware()
        firmware.device.add_file("etc/one", b"1")
        firmware.device.add_file("etc/two", b"22")
        firmware.device.add_file("etc/one", b"111")
        count, *_ = struct.unpack(">I", firmware.read(0x19, 4))
        assert count == 2
        listing = firmware.read(0x19, 4 + 2 * 64)[4:]
        entries = [struct.unpack_from(">IHH56s", listing, 64 * number) for number in range(count)]
        assert [(size, key, reserved, name.rstrip(b"\0")) for size, key, reserved, name in entries] == [
            (3, 0x20, 0, b"etc/one"),
            (2, 0x21, 0, b"etc/two"),
        ]
        assert firmware.read(0x20, 3) == b"111"

    def test_file_name_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match=r"^fw_cfg takes file names of less than 56 bytes, not 'x{56}'$"):
            FwCfg().add_file("x" * 56, b"")

    def test_guest_cannot_write_an_item(self) -> None:
        firmware = Firmware()
        firmware.bus.pio_out(0x510, 2, 0)
        firmware.bus.pio_out(0x511, 1, 0x5A)
        assert firmware.read(0, 4) == b"QEMU"

    def test_selector_cannot_be_read(self) -> None:
        assert Firmware().bus.pio_in(0x510, 2) == 0


class TestDma:
    @pytest.mark.parametrize(("base", "stride"), [(0x00, 1), (0xC0, 2)])
    def test_addresses_and_counts_go_through_the_flip_flop(self, base: int, stride: int) -> None:
        bus = on_bus(Dma8237(base, stride))
        port = base + 5 * stride
        bus.pio_out(base + 12 * stride, 1, 0)
        for byte in (0xFF, 0xFF, 0x34, 0x12):
            bus.pio_out(port, 1, byte)
        assert [bus.pio_in(port, 1), bus.pio_in(port, 1)] == [0x34, 0x12]
        bus.pio_in(port, 1)
        bus.pio_out(base + 12 * stride, 1, 0)
        assert bus.pio_in(port, 1) == 0x34

    def test_master_clear_masks_all_channels(self) -> None:
        dma = Dma8237(0)
        bus = on_bus(dma)
        bus.pio_out(0x0E, 1, 0)
        assert dma.mask == 0x0
        bus.pio_out(0x0A, 1, 0x06)
        assert bus.pio_in(0x0F, 1) == 0xF4
        bus.pio_out(0x0A, 1, 0x02)
        assert dma.mask == 0x0
        bus.pio_out(0x0F, 1, 0x05)
        assert dma.mask == 0x5
        bus.pio_out(0x0D, 1, 0)
        assert dma.mask == 0xF

    def test_request_shows_in_the_status(self) -> None:
        bus = on_bus(Dma8237(0))
        bus.pio_out(0x09, 1, 0x06)
        assert bus.pio_in(0x08, 1) == 0x40
        bus.pio_out(0x09, 1, 0x02)
        assert bus.pio_in(0x08, 1) == 0x00

    def test_registers_that_cannot_be_read(self) -> None:
        bus = on_bus(Dma8237(0))
        assert [bus.pio_in(port, 1) for port in (0x0B, 0x0D)] == [0xFF, 0x00]

    def test_mode_of_a_channel(self) -> None:
        dma = Dma8237(0)
        on_bus(dma).pio_out(0x0B, 1, 0x46)
        assert dma.modes == [0, 0, 0x11, 0]

    def test_pages_are_scratch_and_the_first_one_takes_post_codes(self) -> None:
        pages = DmaPages()
        bus = on_bus(pages)
        bus.pio_out(0x80, 1, 0x55)
        bus.pio_out(0x87, 1, 0x12)
        assert (pages.post_code, bus.pio_in(0x87, 1)) == (0x55, 0x12)


def test_debug_console_says_that_it_is_there_and_takes_bytes() -> None:
    log = bytearray()
    bus = on_bus(DebugConsole(log.append))
    for byte in b"log":
        bus.pio_out(0x402, 1, byte)
    assert (bus.pio_in(0x402, 1), log) == (0xE9, b"log")


def test_fast_a20_and_fast_reset() -> None:
    resets: list[None] = []
    port = SystemControlPortA(lambda: resets.append(None))
    bus = on_bus(port)
    bus.pio_out(0x92, 1, 0xFE)
    assert (bus.pio_in(0x92, 1), port.a20_enabled, len(resets)) == (0x02, True, 0)
    bus.pio_out(0x92, 1, 0x01)
    assert (port.a20_enabled, len(resets)) == (False, 1)
    bus.pio_out(0x92, 1, 0x01)  # no step
    assert len(resets) == 1


def test_display_interface_agrees_to_no_version_but_has_registers() -> None:
    bus = on_bus(VbeDispi())

    def register(index: int) -> int:
        bus.pio_out(0x1CE, 2, index)
        assert bus.pio_in(0x1CE, 2) == index
        return 0x1CF

    for version in range(0xB0C0, 0xB0C6):
        bus.pio_out(register(0), 2, version)
        assert bus.pio_in(0x1CF, 2) == 0xB000
    bus.pio_out(register(1), 2, 1024)
    assert bus.pio_in(register(1), 2) == 1024
    for index in (11, 0xFFFF):
        bus.pio_out(register(index), 2, 1)
        assert bus.pio_in(0x1CF, 2) == 0
