"""Replays of traces."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import (
    EXAMPLE,
    LONG_EXAMPLE,
    MAP,
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

from dbs_device import DeviceIo, DeviceResources, IoManager, NativeDevice, NoDeviceError, Resource
from dbs_device.memory import Ram
from dbs_device.trace import ACCESS_DTYPE, Difference, Space, Trace, TraceRecorder, replay


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

    def test_a_change_of_the_map_applies_from_the_next_access_on(self):
        class Switch(DeviceIo):
            def store(self, base, offset, size, value):
                if value:
                    manager.register_device_io(Constant(), [Resource.MmioAddressRange(0x2000, 8)])
                else:
                    manager.unregister_device_io([Resource.MmioAddressRange(0x2000, 8)])

        class Constant(DeviceIo):
            def load(self, base, offset, size):
                return 7

        manager = IoManager(open_bus=0xFF)
        manager.register_device_io(Switch(), [Resource.MmioAddressRange(0, 8)])
        poll = (1, 0, 0x2000, 1, 7)
        trace = make_trace(poll, (1, 1, 0, 4, 1), poll, poll, (1, 1, 0, 4, 0), poll)
        assert replay(trace, manager).differing == (0, 5)

    def test_native_devices(self):
        manager = IoManager()
        ram = Ram(0x100)
        manager.register_device_io(ram, [Resource.MmioAddressRange(RAM_BASE, 0x100)])
        manager.register_device_io(NativeDevice(), [Resource.PioAddressRange(PORT_BASE, 8)])
        trace = make_trace(
            (1, 1, RAM_BASE, 3, 0x010203),
            (1, 0, RAM_BASE, 4, 0x010203),
            (0, 0, PORT_BASE, 2, 0),
            (0, 0, PORT_BASE, 1, 9),
        )
        assert replay(trace, manager).first == Difference(3, Space.PIO, PORT_BASE, 1, 9, 0)
        assert bytes(ram.view[:4]) == b"\x03\x02\x01\x00"

    def test_a_manager_with_accesses_of_its_own_is_called(self):
        class Logging(IoManager):
            def __init__(self):
                super().__init__(open_bus=0)
                self.loads = []

            def mmio_load(self, addr, size):
                self.loads.append(addr)
                return super().mmio_load(addr, size)

        trace = make_trace((1, 0, 0x10, 4, 0), (1, 1, 0x10, 4, 0), (1, 0, 0x18, 1, 0))
        manager = Logging()
        assert replay(trace, manager).differences == 0
        assert manager.loads == [0x10, 0x18]
        manager = Logging()
        manager.pio_in = manager.mmio_load  # on the instance
        recorder = TraceRecorder(manager)
        assert replay(make_trace((0, 0, 0x80, 4, 0)), recorder).differences == 0
        assert manager.loads == [0x80]
        assert len(recorder) == 1

    def test_a_recorder_with_accesses_of_its_own_is_called(self):
        class Loads(TraceRecorder):
            def mmio_load(self, addr, size):
                return 0x55

        recorder = Loads(IoManager(open_bus=0))
        result = replay(make_trace((1, 0, 0x10, 4, 0x55), (1, 0, 0x10, 3, 0)), recorder)
        assert (result.differences, len(recorder)) == (0, 1)

    def test_a_recorder_that_is_switched_off_records_nothing(self):
        recorder = TraceRecorder(IoManager(open_bus=0), enabled=False)
        replay(LONG_EXAMPLE, recorder)
        assert len(recorder) == 0

    @pytest.mark.parametrize("row", [(1, 1, 0, 2**63, 0), (0, 0, 0x10000, 1, 0), (1, 0, 0, 0, 0), (7, 1, 0, 1, 0)])
    def test_a_trace_that_a_device_changes(self, row):
        class Changing(DeviceIo):
            def store(self, base, offset, size, value):
                accesses[1] = (0, *row)

        manager = IoManager(open_bus=0)
        manager.register_device_io(Changing(), [Resource.MmioAddressRange(0, 8)])
        accesses = make_trace((1, 1, 0, 4, 0), (1, 0, 8, 4, 0)).accesses
        with pytest.raises(RuntimeError, match="changed while it was replayed") as caught:
            replay(Trace(accesses), manager)
        assert caught.value.__notes__[0].startswith("in the replay of access 1: a ")

    def test_every_second_access_of_a_trace(self):
        trace = make_trace(*((1, 0, 0x10 + index, 1, index % 2) for index in range(10)))
        assert replay(trace[::2], IoManager(open_bus=0)).differing == ()
        assert replay(trace[1::2], IoManager(open_bus=0)).differing == (0, 1, 2, 3, 4)

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that signals")
    def test_a_signal_interrupts_it(self):
        class AlarmError(Exception):
            pass

        def interrupt(*_):
            raise AlarmError

        def replay_until_interrupted():
            signal.setitimer(signal.ITIMER_REAL, 1e-3)
            while True:
                replay(trace, manager)

        manager = IoManager()
        manager.register_device_io(NativeDevice(), [Resource.MmioAddressRange(0, 8)])
        trace = Trace(np.tile(make_trace((1, 0, 0, 4, 0)).accesses, 1_000_000))
        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            with pytest.raises(AlarmError):
                replay_until_interrupted()
        finally:
            signal.signal(signal.SIGALRM, previous)


class Calls(IoManager):
    """A manager whose accesses are calls of Python: the replay makes them one by one."""

    def mmio_load(self, addr, size):
        return super().mmio_load(addr, size)


@given(
    accesses=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 1),
            st.integers(-3, 12),
            st.one_of(st.sampled_from([1, 2, 4, 8]), st.integers(1, 20)),
            st.integers(0, 3),
        ),
        max_size=30,
    ),
    options=st.fixed_dictionaries(
        {
            "byteorder": st.sampled_from(["little", "big"]),
            "open_bus": st.sampled_from([None, 0, 0xFF]),
            "straddle": st.sampled_from(["reject", "pass"]),
        }
    ),
    ignore=st.sampled_from(["ram", "com1", ()]),
    stop_at_first=st.booleans(),
    is_recorded=st.booleans(),
)
def test_the_loop_in_c_makes_the_accesses_that_calls_make(accesses, options, ignore, stop_at_first, is_recorded):
    rows, long_values = [], b""
    for space, write, offset, size, value in accesses:
        contents = (bytes([value]) * size) if write else bytes([value, *bytes(size - 1)])
        rows.append((0, space, write, (RAM_BASE if space else PORT_BASE) + offset, size, 0))
        if size > 8:
            rows[-1] = (*rows[-1][:-1], len(long_values))
            long_values += contents
        else:
            rows[-1] = (*rows[-1][:-1], int.from_bytes(contents, "little"))
    trace = Trace(np.array(rows, ACCESS_DTYPE), MAP, long_values)
    outcomes = []
    for cls in (Calls, IoManager):
        manager = make_manager(cls, **options)
        recorder = TraceRecorder(manager)
        try:
            result = replay(trace, recorder if is_recorded else manager, ignore=ignore, stop_at_first=stop_at_first)
        except NoDeviceError as error:
            result = (type(error), error.__notes__)
        contents = [bytes(each.device.contents) for each in manager.mapped_ranges()]
        outcomes.append((result, contents, [each[1:] for each in recorder.trace]))
    assert outcomes[0] == outcomes[1]


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
