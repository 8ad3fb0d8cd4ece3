"""Recording a guest's accesses through the Unicorn bridge."""

from __future__ import annotations

from typing import Literal

import pytest
from helpers import Recorder
from unicorn import UC_ARCH_M68K, UC_MODE_BIG_ENDIAN, Uc
from unicorn.m68k_const import UC_M68K_REG_A0, UC_M68K_REG_D0
from unicorn_guest import (
    ANSWER,
    CODE,
    DEVICE,
    PORT,
    RAM,
    Calls,
    Guest,
    load,
    load_8,
    mmio,
    port_in,
    port_out,
    ports,
    set_eax,
    store,
    write_code,
)

from dbs_device import IoManager, NoDeviceError
from dbs_device.trace import AccessCount, Space, TraceRecorder, replay
from dbs_device.unicorn import attach

ByteOrder = Literal["little", "big"]
each_byteorder = pytest.mark.parametrize("byteorder", ["little", "big"])


def recorded_guest(manager: IoManager) -> tuple[Guest, TraceRecorder]:
    """Return a guest whose accesses are recorded."""
    recorder = TraceRecorder(manager)
    guest = Guest(manager)
    guest.bridge.detach()
    guest.bridge = attach(guest.uc, manager, recorder)
    return guest, recorder


def manager_with_recorder(**options: object) -> IoManager:
    manager = IoManager(**options)  # type: ignore[arg-type]
    manager.register_device_io(Recorder(answer=ANSWER), mmio(DEVICE) + ports(PORT))
    return manager


def test_each_access_is_recorded_as_the_device_saw_it() -> None:
    guest, recorder = recorded_guest(manager_with_recorder())
    guest.run(set_eax(0x44332211), store(DEVICE + 2, 1), port_out(PORT, 2), load(DEVICE + 4), port_in(PORT + 1, 4))
    assert [access[1:] for access in recorder.trace] == [
        (Space.MMIO, True, DEVICE + 2, 1, 0x11),
        (Space.PIO, True, PORT, 2, 0x2211),
        (Space.MMIO, False, DEVICE + 4, 4, 0x84838281),
        (Space.PIO, False, PORT + 1, 4, 0x84838281),
    ]


def test_the_parts_of_a_split_access_are_recorded() -> None:
    guest, recorder = recorded_guest(manager_with_recorder())
    guest.run(load_8(DEVICE + 8))
    assert [(access.addr, access.size) for access in recorder.trace] == [(DEVICE + 8, 4), (DEVICE + 12, 4)]


def test_what_the_open_bus_answers_is_recorded_and_what_is_refused_is_not() -> None:
    guest, recorder = recorded_guest(manager_with_recorder(open_bus=0xFF))
    guest.run(port_in(0x99))
    assert recorder.trace.summary() == [AccessCount("Recorder", 0, 0, 0, 0), AccessCount(None, 1, 0, 1, 0)]
    guest, recorder = recorded_guest(manager_with_recorder())
    with pytest.raises(NoDeviceError):
        guest.run(load(DEVICE), port_in(0x99), load(DEVICE))
    assert [access.addr for access in recorder.trace] == [DEVICE]


def test_what_a_device_does_on_the_bus_is_part_of_the_access() -> None:
    manager = manager_with_recorder()
    manager.register_device_io(Calls(lambda: manager.mmio_load(DEVICE, 1)), ports(0x500))
    guest, recorder = recorded_guest(manager)
    guest.run(port_in(0x500))
    assert [access.addr for access in recorder.trace] == [0x500]


@each_byteorder
def test_a_recording_replays_without_differences(byteorder: ByteOrder) -> None:
    guest, recorder = recorded_guest(manager_with_recorder(byteorder=byteorder))
    guest.run(set_eax(0x44332211), store(DEVICE), load(DEVICE, 2), port_out(PORT, 4), port_in(PORT, 4))
    manager = IoManager(byteorder=byteorder)
    manager.register_device_io(device := Recorder(answer=ANSWER), mmio(DEVICE) + ports(PORT))
    assert str(replay(recorder.trace, manager)) == "4 accesses, 2 reads compared, no differences"
    assert device.calls[0] == ("write", DEVICE, 0, bytes.fromhex("11223344"))


@each_byteorder
def test_a_big_endian_guest_replays_without_differences(byteorder: ByteOrder) -> None:
    uc = Uc(UC_ARCH_M68K, UC_MODE_BIG_ENDIAN)
    uc.mem_map(RAM.start, len(RAM))
    manager = manager_with_recorder(byteorder=byteorder)
    bridge = attach(uc, manager, recorder := TraceRecorder(manager))
    uc.reg_write(UC_M68K_REG_A0, DEVICE)
    uc.reg_write(UC_M68K_REG_D0, 0x11223344)
    bridge.emu_start(CODE, write_code(uc, bytes.fromhex("2080 2010")))  # move.l d0, (a0); move.l (a0), d0
    assert uc.reg_read(UC_M68K_REG_D0) == int.from_bytes(ANSWER[:4], "big")
    again = IoManager(byteorder=byteorder)
    again.register_device_io(device := Recorder(answer=ANSWER), mmio(DEVICE))
    assert str(replay(recorder.trace, again)) == "2 accesses, 1 read compared, no differences"
    assert device.calls[0] == ("write", DEVICE, 0, bytes.fromhex("11223344"))


def test_recording_may_be_switched_off_and_on() -> None:
    guest, recorder = recorded_guest(manager_with_recorder())
    recorder.enabled = False
    guest.run(load(DEVICE))
    assert len(recorder) == 0
    recorder.enabled = True
    guest.run(load(DEVICE))
    assert len(recorder) == 1


def test_an_exception_of_the_recorder_stops_the_guest() -> None:
    class Full(TraceRecorder):
        def record(self, space, write, addr, size, value):
            raise MemoryError("no room")

    manager = manager_with_recorder()
    guest = Guest(manager)
    guest.bridge.detach()
    guest.bridge = attach(guest.uc, manager, Full(manager))
    with pytest.raises(MemoryError, match="no room"):
        guest.run(load(DEVICE))
