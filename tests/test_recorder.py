"""Recording: `TraceRecorder`, and what bridges and embedders append to it."""

from __future__ import annotations

import array
import copy
import gc
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from helpers import DEADLOCK, EveryAccess, Worker, map_both
from traces import PORT_BASE, PORT_COUNT, RAM_BASE, RAM_SIZE, Failing, Memory, Scratch, make_manager, rows

from dbs_device import DeviceIo, DeviceIoMut, DeviceResources, IoAddress, IoManager, Mutex, NoDeviceError, Resource
from dbs_device.trace import ACCESS_DTYPE, Space, TraceRecorder, replay


class Level(DeviceIoMut):
    """Something for a Mutex."""

    unhandled = "ignore"


class TestRecorder:
    def test_all_eight_accesses_are_served_and_recorded(self):
        recorder = TraceRecorder(make_manager())
        recorder.mmio_write(RAM_BASE, b"\x01\x02\x03\x04")
        buffer = bytearray(2)
        recorder.mmio_read(RAM_BASE + 1, buffer)
        recorder.mmio_store(RAM_BASE + 8, 8, 2**64 - 1)
        assert recorder.mmio_load(RAM_BASE + 8, 4) == 0xFFFFFFFF
        recorder.pio_write(PORT_BASE, b"\x41")
        port = bytearray(1)
        recorder.pio_read(PORT_BASE, port)
        recorder.pio_out(PORT_BASE + 2, 2, 0xC107)
        assert recorder.pio_in(PORT_BASE + 2, 1) == 0x07
        assert buffer == b"\x02\x03"
        assert port == b"\x41"
        assert len(recorder) == 8
        assert rows(recorder.trace) == [
            (Space.MMIO, True, RAM_BASE, 4, 0x04030201),
            (Space.MMIO, False, RAM_BASE + 1, 2, 0x0302),
            (Space.MMIO, True, RAM_BASE + 8, 8, 2**64 - 1),
            (Space.MMIO, False, RAM_BASE + 8, 4, 0xFFFFFFFF),
            (Space.PIO, True, PORT_BASE, 1, 0x41),
            (Space.PIO, False, PORT_BASE, 1, 0x41),
            (Space.PIO, True, PORT_BASE + 2, 2, 0xC107),
            (Space.PIO, False, PORT_BASE + 2, 1, 0x07),
        ]

    def test_the_array_has_the_documented_fields(self):
        recorder = TraceRecorder(make_manager())
        recorder.pio_out(PORT_BASE, 1, 3)
        accesses = recorder.trace.accesses
        assert accesses.dtype == ACCESS_DTYPE
        assert {name: str(accesses.dtype[name]) for name in accesses.dtype.names} == {
            "t_ns": "uint64",
            "space": "uint8",
            "write": "uint8",
            "addr": "uint64",
            "size": "uint64",
            "value": "uint64",
        }

    def test_time_does_not_run_backwards(self):
        recorder = TraceRecorder(make_manager())
        for _ in range(100):
            recorder.pio_in(PORT_BASE, 1)
        times = recorder.trace.accesses["t_ns"].astype(np.int64)
        assert (np.diff(times) >= 0).all()
        assert times[-1] > times[0]

    def test_times_are_those_of_the_performance_counter(self):
        recorder = TraceRecorder(make_manager())
        recorder.pio_in(PORT_BASE, 1)
        start = time.perf_counter_ns() - recorder.trace[0].t_ns
        recorder.clear()
        brackets = [time.perf_counter_ns()]
        while brackets[-1] < brackets[0] + 20_000_000:  # many times as long as it interpolates
            recorder.pio_in(PORT_BASE, 1)
            brackets.append(time.perf_counter_ns())
        slack = 1_000_000  # for which it may go wrong
        for before, access, after in zip(brackets, recorder.trace, brackets[1:], strict=False):
            assert before - slack <= start + access.t_ns <= after + slack

    @pytest.mark.parametrize(("byteorder", "value"), [("little", 0x0201), ("big", 0x0102)])
    def test_buffers_become_integers_in_the_managers_byteorder(self, byteorder, value):
        recorder = TraceRecorder(make_manager(byteorder=byteorder))
        assert recorder.byteorder == byteorder
        recorder.mmio_write(RAM_BASE, b"\x01\x02")
        recorder.mmio_load(RAM_BASE, 2)
        assert recorder.trace.accesses["value"].tolist() == [value, value]

    @pytest.mark.parametrize("byteorder", ["little", "big"])
    @pytest.mark.parametrize("size", [3, 5, 7, 9, 16, 255, 256, 70_000])
    def test_an_access_of_any_size_is_one_record(self, size, byteorder):
        manager = IoManager(byteorder=byteorder)
        resources = [Resource.MmioAddressRange(RAM_BASE, 2 * size), Resource.PioAddressRange(PORT_BASE, 2 * PORT_COUNT)]
        manager.register_device_io(Memory(2 * size), resources)
        recorder = TraceRecorder(manager)
        contents = bytes(value % 251 + 1 for value in range(size))
        recorder.mmio_write(RAM_BASE, contents)
        recorder.mmio_read(RAM_BASE + 1, bytearray(size))
        value = int.from_bytes(contents, byteorder)
        read_value = int.from_bytes(contents[1:] + bytes(1), byteorder)
        assert rows(recorder.trace) == [
            (Space.MMIO, True, RAM_BASE, size, value),
            (Space.MMIO, False, RAM_BASE + 1, size, read_value),
        ]
        assert recorder.trace[-1].value == read_value
        assert replay(recorder.trace, manager).differences == 0

    def test_an_access_beyond_the_end_of_its_space(self):
        recorder = TraceRecorder(IoManager(open_bus=0xFF))
        recorder.pio_read(0xFFFE, bytearray(3))
        recorder.mmio_read(2**64 - 1, bytearray(9))
        assert rows(recorder.trace) == [
            (Space.PIO, False, 0xFFFE, 3, 2**24 - 1),
            (Space.MMIO, False, 2**64 - 1, 9, 2**72 - 1),
        ]

    @pytest.mark.parametrize(
        "buffer",
        [
            bytearray(4),
            array.array("I", [0]),
            np.zeros((2, 2), dtype=np.uint8),
            np.zeros(1, dtype=">u4"),
            memoryview(bytearray(4)).cast("I"),
        ],
        ids=lambda buffer: type(buffer).__name__,
    )
    def test_any_buffer_that_the_manager_takes(self, buffer):
        recorder = TraceRecorder(make_manager())
        recorder.mmio_store(RAM_BASE, 4, 0x04030201)
        recorder.mmio_read(RAM_BASE, buffer)
        assert rows(recorder.trace)[-1] == (Space.MMIO, False, RAM_BASE, 4, 0x04030201)

    @pytest.mark.parametrize("number", [np.uint64, IoAddress, np.array])
    def test_any_integer_that_the_manager_takes(self, number):
        recorder = TraceRecorder(make_manager())
        recorder.mmio_store(number(RAM_BASE), number(2), number(0x1234))
        recorder.mmio_read(number(RAM_BASE), bytearray(3))
        assert rows(recorder.trace) == [
            (Space.MMIO, True, RAM_BASE, 2, 0x1234),
            (Space.MMIO, False, RAM_BASE, 3, 0x1234),
        ]

    def test_an_access_that_raises_is_not_recorded(self):
        recorder = TraceRecorder(make_manager())
        recorder.manager.register_device_io(Failing(), DeviceResources([Resource.MmioAddressRange(0, 8)]))
        with pytest.raises(OSError, match="no medium"):
            recorder.mmio_load(0, 1)
        with pytest.raises(NoDeviceError):
            recorder.pio_in(0x80, 1)
        with pytest.raises(NoDeviceError):
            recorder.mmio_write(RAM_BASE + RAM_SIZE - 1, b"12")
        with pytest.raises(OverflowError):
            recorder.pio_out(0x10000, 1, 0)
        with pytest.raises(ValueError, match="3"):
            recorder.mmio_load(RAM_BASE, 3)
        with pytest.raises(TypeError):
            recorder.mmio_read(RAM_BASE, "text")
        assert len(recorder) == 0
        assert len(recorder.trace) == 0

    def test_an_access_that_open_bus_answers_is_recorded(self):
        recorder = TraceRecorder(make_manager(open_bus=0xFF))
        assert recorder.pio_in(0x80, 2) == 0xFFFF
        recorder.pio_out(0x80, 1, 5)
        assert rows(recorder.trace) == [(Space.PIO, False, 0x80, 2, 0xFFFF), (Space.PIO, True, 0x80, 1, 5)]

    def test_it_can_be_switched_off_and_on(self):
        recorder = TraceRecorder(make_manager(), enabled=False)
        recorder.mmio_write(RAM_BASE, b"\x01")
        recorder.mmio_read(RAM_BASE, bytearray(1))
        recorder.pio_write(PORT_BASE, b"\x02")
        recorder.pio_read(PORT_BASE, bytearray(1))
        recorder.mmio_store(RAM_BASE, 1, 3)
        recorder.pio_out(PORT_BASE, 1, 4)
        recorder.record(Space.PIO, True, 0, 1, 0)
        assert recorder.mmio_load(RAM_BASE, 1) == 3
        assert recorder.pio_in(PORT_BASE, 1) == 4
        assert len(recorder) == 0
        recorder.enabled = True
        recorder.pio_out(PORT_BASE, 1, 5)
        recorder.enabled = False
        recorder.pio_out(PORT_BASE, 1, 6)
        assert rows(recorder.trace) == [(Space.PIO, True, PORT_BASE, 1, 5)]

    def test_it_grows_without_losing_anything(self):
        recorder = TraceRecorder(make_manager())
        count = 5000
        for value in range(count):
            recorder.mmio_store(RAM_BASE, 4, value)
        assert recorder.trace.accesses["value"].tolist() == list(range(count))

    def test_a_trace_is_a_copy_that_recording_leaves_alone(self):
        recorder = TraceRecorder(make_manager())
        recorder.pio_out(PORT_BASE, 1, 1)
        trace = recorder.trace
        recorder.pio_out(PORT_BASE, 1, 2)
        assert len(trace) == 1
        trace.accesses["value"] = 9
        assert recorder.trace.accesses["value"].tolist() == [1, 2]

    def test_a_recorder_is_not_copied(self):
        recorder = TraceRecorder(make_manager())
        for duplicate in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot pickle"):
                duplicate(recorder)

    def test_clear_begins_anew(self):
        recorder = TraceRecorder(make_manager())
        recorder.pio_out(PORT_BASE, 1, 1)
        before = recorder.trace[0].t_ns
        recorder.clear()
        assert len(recorder) == 0
        recorder.pio_out(PORT_BASE, 1, 2)
        assert rows(recorder.trace) == [(Space.PIO, True, PORT_BASE, 1, 2)]
        assert recorder.trace[0].t_ns >= before

    def test_a_bridge_appends_what_it_served_itself(self):
        recorder = TraceRecorder(make_manager())
        recorder.record(Space.MMIO, False, 2**64 - 1, 1, 0xFF)
        recorder.record(0, 1, np.uint16(0xFFFF), 8, 2**64 - 1)
        recorder.record("PIO", False, 0x80, 1, 7)
        recorder.record("MMIO", True, 0x80, 12, 2**96 - 1)
        assert rows(recorder.trace) == [
            (Space.MMIO, False, 2**64 - 1, 1, 0xFF),
            (Space.PIO, True, 0xFFFF, 8, 2**64 - 1),
            (Space.PIO, False, 0x80, 1, 7),
            (Space.MMIO, True, 0x80, 12, 2**96 - 1),
        ]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((2, 0, 0, 1, 0), ValueError, 'a space is "MMIO" or "PIO", not 2'),
            (("DMA", 0, 0, 1, 0), ValueError, """a space is "MMIO" or "PIO", not 'DMA'"""),
            ((0, 0, -1, 1, 0), OverflowError, "PIO address -0x1 is outside 0x0..0xffff"),
            ((0, 0, 0x10000, 1, 0), OverflowError, "PIO address 0x10000 is outside 0x0..0xffff"),
            ((1, 0, 2**64, 1, 0), OverflowError, f"MMIO address {2**64:#x} is outside 0x0..{2**64 - 1:#x}"),
            ((0, 0, 0, 0, 0), ValueError, "a recorded access has at least 1 byte, not 0"),
            ((0, 0, 0, -1, 0), ValueError, "a recorded access has at least 1 byte, not -1"),
            ((0, 0, 0, 1, 0x100), ValueError, "value 0x100 does not fit 1 byte"),
            ((0, 0, 0, 2, -1), ValueError, "value -0x1 does not fit 2 bytes"),
            ((0, 0, 0, 9, 2**72), ValueError, f"value {2**72:#x} does not fit 9 bytes"),
            ((0, 0, "0", 1, 0), TypeError, "'str' object cannot be interpreted as an integer"),
            ((0, 0, 0, 1.0, 0), TypeError, "'float' object cannot be interpreted as an integer"),
            ((0, 0, 0, 1, None), TypeError, "'NoneType' object cannot be interpreted as an integer"),
        ],
    )
    def test_what_no_access_can_be_is_not_recorded(self, arguments, error, message):
        recorder = TraceRecorder(make_manager())
        with pytest.raises(error) as caught:
            recorder.record(*arguments)
        assert str(caught.value) == message
        assert len(recorder) == 0

    def test_two_threads_lose_nothing(self):
        recorder = TraceRecorder(make_manager(straddle="pass"))
        count, start = 3000, threading.Barrier(3)

        def guest(offset, access):
            start.wait(DEADLOCK)
            for value in range(count):
                access(RAM_BASE + offset, value)

        def store(addr, value):
            recorder.mmio_store(addr, 4, value)

        def write_long(addr, value):
            recorder.mmio_write(addr, value.to_bytes(12, "little"))

        for worker in [Worker(guest, *job) for job in ((0, store), (8, write_long), (24, write_long))]:
            worker.result()
        accesses = list(recorder.trace)
        assert len(accesses) == 3 * count
        for offset in (0, 8, 24):
            assert [each.value for each in accesses if each.addr == RAM_BASE + offset] == list(range(count))

    @pytest.mark.parametrize("read", [True, False], ids=["read", "write"])
    def test_a_device_that_releases_its_view(self, read):
        class Releasing(EveryAccess):
            def handle(self, data):
                with data:
                    if not data.readonly:
                        data[0] = 7

        recorder = TraceRecorder(map_both(Releasing()))
        for base in (0x100, 0x101):
            contents = memoryview(bytearray(1) if read else b"\x07")
            (recorder.mmio_read if read else recorder.mmio_write)(base, contents)
            contents = memoryview(bytearray(1) if read else b"\x07")
            (recorder.pio_read if read else recorder.pio_write)(base, contents)
        assert recorder.trace.accesses["value"].tolist() == [7] * 4

    def test_a_write_is_recorded_as_it_was_when_the_device_was_called(self):
        class Overwriting(DeviceIo):
            def write(self, base, offset, data):
                contents[:] = b"\xff"

        manager = IoManager()
        manager.register_device_io(Overwriting(), [Resource.MmioAddressRange(0, 8)])
        recorder = TraceRecorder(manager)
        contents = bytearray(b"\x01")
        recorder.mmio_write(0, contents)
        assert recorder.trace[0].value == 1

    def test_an_access_within_the_recording_of_another_one(self):
        class Number:
            """An integer whose conversion makes an access, as a finaliser or a signal handler may."""

            def __init__(self, value):
                self.value = value

            def __index__(self):
                recorder.mmio_write(RAM_BASE + 32, bytes(12))
                return self.value

        recorder = TraceRecorder(make_manager())
        recorder.mmio_store(Number(RAM_BASE), Number(4), Number(7))
        recorder.mmio_write(Number(RAM_BASE + 8), bytes(range(12)))
        recorder.record("PIO", False, Number(0x80), Number(9), Number(2**70))
        trace = recorder.trace
        assert all(each[4:] == (12, 0) for each in trace if each.addr == RAM_BASE + 32)
        assert [each[1:] for each in trace if each.addr != RAM_BASE + 32] == [
            (Space.MMIO, True, RAM_BASE, 4, 7),
            (Space.MMIO, True, RAM_BASE + 8, 12, int.from_bytes(range(12), "little")),
            (Space.PIO, False, 0x80, 9, 2**70),
        ]

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that signals")
    def test_a_signal_handler_may_record_at_any_time(self):
        recorder = TraceRecorder(make_manager(straddle="pass"))
        handled = []

        def access(*_):
            handled.append(len(handled))
            recorder.mmio_write(RAM_BASE, handled[-1].to_bytes(12, "little"))

        previous = signal.signal(signal.SIGALRM, access)
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        try:
            count = 0
            while len(handled) < 50:
                recorder.mmio_write(RAM_BASE + 32, count.to_bytes(9, "little"))
                recorder.mmio_store(RAM_BASE + 64, 4, count)
                count += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        accesses = list(recorder.trace)
        for offset, recorded in ((0, handled), (32, range(count)), (64, range(count))):
            assert [each.value for each in accesses if each.addr == RAM_BASE + offset] == list(recorded)

    def test_what_a_finaliser_clears_while_a_trace_is_taken(self):
        class Clearing:
            """Cleared from the cycle that it is in when the collector runs."""

            def __init__(self):
                self.cycle = self

            def __del__(self):
                recorder.clear()
                recorder.mmio_write(RAM_BASE, b"\x01" * 9)

        recorder = TraceRecorder(make_manager())
        thresholds = gc.get_threshold()
        gc.collect()
        try:
            for _ in range(20):
                for _ in range(3000):
                    recorder.mmio_store(RAM_BASE + 16, 4, 5)
                recorder.mmio_write(RAM_BASE + 32, bytes(range(20)))
                Clearing()
                gc.set_threshold(1)
                trace = recorder.trace
                gc.set_threshold(*thresholds)
                values = {RAM_BASE: int.from_bytes(b"\x01" * 9, "little"), RAM_BASE + 16: 5}
                values[RAM_BASE + 32] = int.from_bytes(range(20), "little")
                assert all(each.value == values[each.addr] for each in trace)
        finally:
            gc.set_threshold(*thresholds)

    def test_traces_are_taken_and_cleared_while_threads_record(self):
        recorder = TraceRecorder(make_manager(straddle="pass"))

        def guest(offset, size):
            for value in range(20_000):
                recorder.mmio_write(RAM_BASE + offset, value.to_bytes(size, "little"))

        jobs = [(0, 4), (8, 12)]
        workers = [Worker(guest, *job) for job in jobs]
        while any(worker.is_alive() for worker in workers):
            trace = recorder.trace
            for offset, _ in jobs:
                part = trace[trace.accesses["addr"] == RAM_BASE + offset]
                values = [each.value for each in part[:: max(1, len(part) // 50)]]
                assert values == sorted(set(values))
            recorder.clear()
        for worker in workers:
            worker.result()

    def test_its_trace_has_the_managers_map(self):
        manager = make_manager()
        shared = Mutex(Level())
        manager.register_device_io(
            shared, DeviceResources([Resource.PioAddressRange(0x20, 2), Resource.MmioAddressRange(0, 2**12)])
        )
        manager.register_device_io(Scratch(), DeviceResources([Resource.PioAddressRange(0x2F8, 8)]))
        assert TraceRecorder(manager).trace.ranges == (
            (Space.PIO, 0x20, 0x21, "Level"),
            (Space.PIO, 0x2F8, 0x2FF, "Scratch"),
            (Space.PIO, 0x3F8, 0x3FF, "Scratch#2"),
            (Space.MMIO, 0, 0xFFF, "Level"),
            (Space.MMIO, RAM_BASE, RAM_BASE + RAM_SIZE - 1, "Memory"),
        )

    def test_repr_of_a_recorder(self):
        recorder = TraceRecorder(make_manager())
        recorder.pio_out(PORT_BASE, 1, 1)
        assert repr(recorder) == f"<TraceRecorder of {recorder.manager!r}: 1 access, on>"
        recorder.enabled = False
        recorder.clear()
        assert repr(recorder) == f"<TraceRecorder of {recorder.manager!r}: 0 accesses, off>"
