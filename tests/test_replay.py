"""Replays of traces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import (
    EXAMPLE,
    PORT_BASE,
    PORT_COUNT,
    RAM_BASE,
    RAM_SIZE,
    Clock,
    Failing,
    Memory,
    make_manager,
    make_trace,
    rows,
)

from dbs_device import DeviceIo, DeviceResources, IoManager, NoDeviceError, Resource
from dbs_device.trace import Difference, Space, Trace, TraceRecorder, replay


class TestReplay:
    def test_an_equal_machine_gives_no_difference(self):
        recorder = TraceRecorder(make_manager())
        recorder.mmio_store(RAM_BASE, 8, 0x0102030405060708)
        recorder.mmio_load(RAM_BASE + 2, 2)
        recorder.pio_write(PORT_BASE, bytes(range(8)))
        recorder.pio_read(PORT_BASE, bytearray(8))
        recorder.pio_in(PORT_BASE + 4, 4)
        result = replay(recorder.trace, make_manager())
        assert (result.accesses, result.reads_compared, result.differences) == (5, 3, 0)
        assert result.first is None
        assert result.differing == ()
        assert str(result) == "5 accesses, 3 reads compared, no differences"

    def test_a_replay_makes_the_recorded_accesses(self):
        recorder = TraceRecorder(make_manager(open_bus=0))
        result = replay(EXAMPLE, recorder)
        assert result.accesses == 5
        # Values of reads come from this machine, everything else from the trace.
        assert [row[:4] for row in rows(recorder.trace)] == [row[:4] for row in rows(EXAMPLE)]
        assert [row[4] for row in rows(recorder.trace) if row[1]] == [row[4] for row in rows(EXAMPLE) if row[1]]

    def test_the_first_difference_is_reported(self):
        trace = make_trace(
            (1, 1, RAM_BASE, 1, 0x60),
            (1, 0, RAM_BASE, 1, 0x60),
            (1, 0, RAM_BASE, 1, 0x61),
            (0, 0, PORT_BASE, 2, 0xFFFF),
        )
        result = replay(trace, make_manager())
        assert result.first == Difference(2, Space.MMIO, RAM_BASE, 1, 0x61, 0x60)
        assert result.differing == (2, 3)
        assert (result.accesses, result.reads_compared, result.differences) == (4, 3, 2)
        assert list(trace[list(result.differing)]) == [trace[2], trace[3]]
        assert str(result) == (
            "4 accesses, 3 reads compared, 2 differences; the first is access 2: "
            "the read of 1 byte at MMIO 0x1000 gave 0x60, not 0x61"
        )

    def test_it_can_stop_at_the_first_difference(self):
        trace = make_trace(*((1, 0, RAM_BASE, 1, value) for value in (0, 5, 6)))
        result = replay(trace, make_manager(), stop_at_first=True)
        assert (result.accesses, result.reads_compared, result.differing) == (2, 2, (1,))
        assert str(result).startswith("2 accesses, 2 reads compared, 1 difference; the first is access 1")

    @pytest.mark.parametrize("ignore", ["Clock", ["Clock"], [(Space.MMIO, 0, 7)]])
    def test_ignored_ranges_are_driven_and_not_compared(self, ignore):
        manager = make_manager()
        clock = Clock()
        manager.register_device_io(clock, DeviceResources([Resource.MmioAddressRange(0, 8)]))
        recorder = TraceRecorder(manager)
        for _ in range(3):
            recorder.mmio_load(0, 1)
            recorder.mmio_load(RAM_BASE, 1)
        trace = recorder.trace
        assert replay(trace, manager).differing == (0, 2, 4)
        result = replay(trace, manager, ignore=ignore)
        assert (result.accesses, result.reads_compared, result.differences) == (6, 3, 0)
        assert clock.ticks == 9

    def test_an_unknown_range_is_noticed_before_anything_is_driven(self):
        manager = make_manager()
        recorder = TraceRecorder(manager)
        with pytest.raises(ValueError, match=r"^the trace has no range named 'rtc'"):
            replay(EXAMPLE, recorder, ignore="rtc")
        assert len(recorder) == 0

    def test_an_exception_comes_out_with_a_note_that_names_the_access(self):
        manager = IoManager()
        manager.register_device_io(Failing(), DeviceResources([Resource.MmioAddressRange(0, 8)]))
        with pytest.raises(OSError, match="no medium") as caught:
            replay(make_trace((1, 1, 4, 2, 0)), manager)
        of_device, of_replay = caught.value.__notes__
        assert of_device.startswith("device access: MMIO write of 2 bytes at 0x4, offset 0x4 of <")
        assert of_replay == "in the replay of access 0: a write of 2 bytes at MMIO 0x4"
        with pytest.raises(NoDeviceError) as missing:
            replay(make_trace((0, 0, 0x80, 1, 0xFF)), manager)
        assert missing.value.__notes__ == ["in the replay of access 0: a read of 1 byte at PIO 0x80"]

    def test_an_exception_that_comes_out_again_has_one_note(self):
        class Busy(DeviceIo):
            def read(self, base, offset, data):
                raise error

        error = OSError("busy")
        manager = IoManager()
        manager.register_device_io(Busy(), DeviceResources([Resource.MmioAddressRange(0, 8)]))
        for offset in (4, 6):
            with pytest.raises(OSError, match="busy"):
                replay(make_trace((1, 0, offset, 2, 0)), manager)
        of_device, of_replay = error.__notes__
        assert of_device.startswith("device access: MMIO read of 2 bytes at 0x4, ")  # the first of them
        assert of_replay == "in the replay of access 0: a read of 2 bytes at MMIO 0x6"

    def test_an_open_bus_answers_unowned_accesses(self):
        trace = make_trace((0, 0, 0x80, 1, 0xFF), (0, 1, 0x80, 1, 0), (1, 0, 0, 8, 2**64 - 1))
        assert replay(trace, IoManager(open_bus=0xFF)).differences == 0
        assert replay(trace, IoManager(open_bus=0)).differing == (0, 2)

    def test_one_devices_part_of_a_trace_replays_alone(self):
        manager = IoManager()
        manager.register_device_io(Memory(), DeviceResources([Resource.PioAddressRange(PORT_BASE, PORT_COUNT)]))
        result = replay(EXAMPLE[EXAMPLE.mask("com1")], manager)
        assert (result.accesses, result.reads_compared) == (2, 1)
        assert result.first == Difference(1, Space.PIO, 0x3FD, 1, 0x60, 0)

    def test_a_replay_of_nothing(self):
        assert str(replay(EXAMPLE[:0], IoManager())) == "0 accesses, 0 reads compared, no differences"

    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    @pytest.mark.parametrize("byteorder", ["little", "big"])
    def test_every_size_on_both_buses(self, size, byteorder):
        value = int.from_bytes(range(1, size + 1), "big")
        trace = make_trace(
            (0, 1, PORT_BASE, size, value),
            (0, 0, PORT_BASE, size, value),
            (1, 1, RAM_BASE, size, value),
            (1, 0, RAM_BASE, size, value),
        )
        manager = make_manager(byteorder=byteorder)
        assert replay(trace, manager).differences == 0
        for bus, base in ((manager.pio_bus, PORT_BASE), (manager.mmio_bus, RAM_BASE)):
            assert bus.find(base).contents[:size] == value.to_bytes(size, byteorder)


ACCESSES = st.lists(
    st.tuples(
        st.sampled_from(["mmio", "pio"]),
        st.sampled_from(["buffer", "integer"]),
        st.booleans(),
        st.integers(-3, 12),
        st.integers(1, 20),
        st.integers(0, 2**160 - 1),
    ),
    max_size=40,
)


@pytest.mark.parametrize("size", [3, 5, 9, 300])
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_an_access_that_the_open_bus_answered_replays_without_difference(write, size):
    recorder = TraceRecorder(make_manager(open_bus=0xFF))
    # Two bytes before the range and those from its beginning: the device is not called.
    if write:
        recorder.mmio_write(RAM_BASE - 2, b"\x11" * size)
    else:
        recorder.mmio_read(RAM_BASE - 2, bytearray(size))
    recorder.mmio_load(RAM_BASE, 1)
    assert recorder.trace[-1].value == 0
    assert replay(recorder.trace, make_manager(open_bus=0xFF)).differences == 0


@pytest.mark.parametrize("size", [3, 5, 9, 16])
def test_an_access_that_was_passed_to_its_device_replays_without_difference(size):
    recorder = TraceRecorder(make_manager(straddle="pass"))
    recorder.mmio_write(RAM_BASE + RAM_SIZE - 1, b"\x11" * size)
    assert replay(recorder.trace, make_manager(straddle="pass")).differences == 0


@given(
    accesses=ACCESSES,
    options=st.fixed_dictionaries(
        {
            "byteorder": st.sampled_from(["little", "big"]),
            "open_bus": st.sampled_from([None, 0, 0xFF]),
            "straddle": st.sampled_from(["reject", "pass"]),
        }
    ),
)
def test_what_was_recorded_replays_without_difference(accesses, options, tmp_path_factory):
    recorder = TraceRecorder(make_manager(**options))
    for bus, form, write, offset, size, bits in accesses:
        base = RAM_BASE if bus == "mmio" else PORT_BASE
        contents = bytearray((bits % 256**size).to_bytes(size, "little"))
        try:
            if form == "buffer":
                getattr(recorder, f"{bus}_{'write' if write else 'read'}")(base + offset, contents)
            elif write:
                store = recorder.mmio_store if bus == "mmio" else recorder.pio_out
                store(base + offset, size, int.from_bytes(contents, options["byteorder"]))
            else:
                (recorder.mmio_load if bus == "mmio" else recorder.pio_in)(base + offset, size)
        except (NoDeviceError, ValueError):
            continue
    path = tmp_path_factory.mktemp("traces") / "trace.npz"
    recorder.trace.save(path)
    trace = Trace.load(path)
    assert trace == recorder.trace
    result = replay(trace, make_manager(**options))
    assert result.accesses == len(recorder)
    assert result.first is None
