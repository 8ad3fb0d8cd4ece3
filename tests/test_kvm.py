"""`Vcpu`: a guest's accesses, exceptions, strings, kicks, signals, interrupts; several processors."""

import ctypes
import gc
import mmap
import os
import random
import re
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from kvm_guest import CODE, Machine, Running, needs_kvm, wait_for

from dbs_device import DeviceIo, IoManager, NoDeviceError, Resource
from dbs_device.trace import TraceRecorder

kvm = pytest.importorskip("dbs_device.kvm", reason="KVM is Linux's", exc_type=ImportError)
KICKED, Exit, Vcpu = kvm.KICKED, kvm.Exit, kvm.Vcpu

pytestmark = needs_kvm

PORTS = Resource.PioAddressRange(0x10, 0x10)
WINDOW = Resource.MmioAddressRange(0x20000, 0x1000)
DS_20000 = "bb 00 20  8e db  ; mov bx, 0x2000; mov ds, bx\n"
HLT = "f4\n"


class Registers(DeviceIo):
    """Keeps its accesses; reads give what `value` says."""

    def __init__(self, value=0x44332211):
        self.value = value
        self.reads = []
        self.writes = []

    def load(self, base, offset, size):
        self.reads.append((offset, size))
        return self.value

    def store(self, base, offset, size, value):
        self.writes.append((offset, size, value))

    pio_in, pio_out = load, store


class Broken(DeviceIo):
    def load(self, base, offset, size):
        raise LookupError("broken")

    def store(self, base, offset, size, value):
        raise LookupError("broken")

    pio_in, pio_out = load, store


class TestAccesses:
    def test_ports(self):
        with Machine(
            "e4 12  e7 14  ed  66 ef  f4  ; in al, 0x12; out 0x14, ax; in ax, dx; out dx, eax; hlt"
        ) as machine:
            device = machine.plug(Registers(), PORTS)
            processor = machine.processor()
            processor.set(rdx=0x18)
            assert processor.run() is Exit.HLT
            assert device.reads == [(2, 1), (8, 2)]
            assert device.writes == [(4, 2, 0x11), (8, 4, 0x2211)]
            assert processor.vcpu.counters[:3] == (5, 0, 4)

    def test_memory(self):
        code = (
            DS_20000
            + """
            a0 01 00  a3 02 00  66 a1 04 00  ; mov al, [1]; mov [2], ax; mov eax, [4]
            66 a3 fe 00 f4                   ; mov [0xfe], eax; hlt
        """
        )
        with Machine(code) as machine:
            device = machine.plug(Registers(), WINDOW)
            assert machine.processor().run() is Exit.HLT
            assert device.reads == [(1, 1), (4, 4)]
            assert device.writes == [(2, 2, 0x11), (0xFE, 4, 0x44332211)]

    def test_ranges_of_two_devices_share_a_page_and_an_access_across_pages_is_two(self):
        code = DS_20000 + "66 a3 fe 0f  66 a1 fe 0f f4  ; mov [0xffe], eax; mov eax, [0xffe]"
        with Machine(code) as machine:
            low = machine.plug(Registers(0x2211), WINDOW)
            high = machine.plug(Registers(0x4433), Resource.MmioAddressRange(0x21000, 2))
            processor = machine.processor()
            processor.set(rax=0xDDCCBBAA)
            assert processor.run() is Exit.HLT
            assert (low.writes, high.writes) == ([(0xFFE, 2, 0xBBAA)], [(0, 2, 0xDDCC)])
            assert processor.registers["rax"] == 0x44332211

    def test_what_no_device_owns_is_an_error(self):
        with Machine("e4 80 f4  ; in al, 0x80") as machine:
            processor = machine.processor()
            with pytest.raises(NoDeviceError, match=r"no device owns PIO address 0x80 \(1 byte\)"):
                processor.run()
            assert processor.run() is Exit.HLT
            assert processor.vcpu.counters.pio == 0

    def test_an_open_bus(self):
        with Machine("e4 80  e6 80  " + DS_20000 + "8a 26 00 00 f4  ; mov ah, [0]", open_bus=0xA5) as machine:
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert processor.registers["rax"] & 0xFFFF == 0xA5A5

    def test_a_recorder_records_what_was_served(self):
        with Machine("e4 12  e7 14  " + DS_20000 + "66 a3 08 00  e4 80 f4") as machine:
            machine.plug(Registers(), PORTS, WINDOW)
            recorder = TraceRecorder(machine.manager)
            processor = machine.processor(recorder=recorder)
            with pytest.raises(NoDeviceError):
                processor.run()
            accesses = recorder.trace.accesses
            assert accesses["write"].tolist() == [0, 1, 1]
            assert accesses["addr"].tolist() == [0x12, 0x14, 0x20008]
            assert accesses["size"].tolist() == [1, 2, 4]
            assert accesses["value"].tolist() == [0x11, 0x11, 0x11]

    def test_a_handler_may_move_the_range_that_it_serves(self):
        class Moving(Registers):
            def pio_out(self, base, offset, size, value):
                super().pio_out(base, offset, size, value)
                machine.manager.unregister_device_io([PORTS])
                machine.plug(self, Resource.PioAddressRange(0x40, 0x10))

        with Machine("e6 10  e4 42  f4") as machine:
            device = machine.plug(Moving(), PORTS)
            assert machine.processor().run() is Exit.HLT
            assert (device.writes, device.reads) == ([(0, 1, 0)], [(2, 1)])


class TestExceptions:
    def test_a_write_is_not_repeated(self):
        with Machine("e6 10  40 f4  ; out 0x10, al; inc ax; hlt") as machine:
            machine.plug(Broken(), PORTS)
            processor = machine.processor()
            with pytest.raises(LookupError, match="broken") as caught:
                processor.run()
            assert caught.value.__notes__[0].startswith("device access: PIO write of 1 byte at 0x10")
            assert processor.run() is Exit.HLT
            assert processor.registers["rax"] == 1

    @pytest.mark.parametrize("code", ["e4 10 f4", DS_20000 + "a0 00 00 f4"])
    def test_a_read_gives_zeros(self, code):
        with Machine(code) as machine:
            machine.plug(Broken(), PORTS, WINDOW)
            processor = machine.processor()
            processor.set(rax=0x5555)
            with pytest.raises(LookupError):
                processor.run()
            assert processor.registers["rax"] == 0x5555
            processor.vcpu.complete()
            assert processor.registers["rax"] == 0x5500
            assert processor.run() is Exit.HLT

    def test_complete_makes_the_other_accesses_of_the_instruction(self):
        with Machine(DS_20000 + "66 a3 fe 0f f4  ; mov [0xffe], eax") as machine:
            machine.plug(Broken(), WINDOW)
            high = machine.plug(Registers(), Resource.MmioAddressRange(0x21000, 2))
            processor = machine.processor()
            with pytest.raises(LookupError):
                processor.run()
            assert high.writes == []
            processor.vcpu.complete()
            assert high.writes == [(0, 2, 0)]
            after = processor.registers["rip"]
            processor.vcpu.complete()
            assert (processor.registers["rip"], processor.run()) == (after, Exit.HLT)

    def test_complete_before_the_first_run(self):
        with Machine(HLT) as machine:
            processor = machine.processor()
            processor.vcpu.complete()
            assert (processor.registers["rip"], processor.run()) == (CODE, Exit.HLT)


class Fifo(DeviceIo):
    """Gives 1, 2, 3, ...; keeps what is written. Its item number `at` calls `action`."""

    def __init__(self, at=None, action=None):
        self.items = []
        self.at, self.action = at, action

    def pio_in(self, base, offset, size):
        if len(self.items) == self.at:
            self.action()
        self.items.append(size)
        return len(self.items)

    def pio_out(self, base, offset, size, value):
        if len(self.items) == self.at:
            self.action()
        self.items.append(value)


INS = "bf 00 30  b9 {:02x} 00  ba 10 00  f3 6c f4  ; di = 0x3000; cx; dx = 0x10; rep insb; hlt"
OUTS = "be 00 30  b9 {:02x} 00  ba 10 00  f3 6e f4"


class TestStrings:
    def test_in(self):
        with Machine(INS.format(200)) as machine:
            device = machine.plug(Fifo(), PORTS)
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            assert len(device.items) == 200
            assert bytes(machine.ram.view[0x3000:0x30C8]) == bytes(range(1, 201))
            counters = processor.vcpu.counters
            assert counters.pio == 200
            assert counters.strings > 0
            assert counters.exits < 100

    def test_out(self):
        with Machine(OUTS.format(100)) as machine:
            machine.load(0x3000, bytes(range(100)).hex())
            device = machine.plug(Fifo(), PORTS)
            assert machine.processor().run() is Exit.HLT
            assert device.items == list(range(100))

    def test_a_range_that_moves_in_the_middle(self):
        def move():
            machine.manager.unregister_device_io([PORTS])
            machine.plug(second, PORTS)

        first, second = Fifo(49, move), Fifo()
        with Machine(INS.format(100)) as machine:
            machine.plug(first, PORTS)
            assert machine.processor().run() is Exit.HLT
            assert (len(first.items), len(second.items)) == (50, 50)
            assert bytes(machine.ram.view[0x3000:0x3064]) == bytes([*range(1, 51), *range(1, 51)])

    def test_an_exception_ends_it(self):
        def fail():
            raise LookupError("empty")

        with Machine(INS.format(100)) as machine:
            machine.ram.view[0x3000:0x3064] = b"\xee" * 100
            device = machine.plug(Fifo(10, fail), PORTS)
            recorder = TraceRecorder(machine.manager)
            processor = machine.processor(recorder=recorder)
            with pytest.raises(LookupError, match="empty") as caught:
                processor.run()
            assert caught.value.accesses_done == len(recorder) == 10
            assert "10 of 100 accesses were done before this one" in caught.value.__notes__
            processor.vcpu.complete()
            assert bytes(machine.ram.view[0x3000:0x3064]) == bytes([*range(1, 11)]) + bytes(90)
            assert processor.run() is Exit.HLT
            assert len(device.items) == 10

    @pytest.mark.parametrize("open_bus", [None, 0xFF])
    def test_that_no_device_owns(self, open_bus):
        with Machine(INS.format(8), open_bus=open_bus) as machine:
            processor = machine.processor()
            if open_bus is None:
                with pytest.raises(NoDeviceError) as caught:
                    processor.run()
                assert caught.value.accesses_done == 0
            assert processor.run() is Exit.HLT
            assert bytes(machine.ram.view[0x3000:0x3008]) == bytes([open_bus or 0]) * 8


@pytest.fixture(params=["computing", "halted"])
def endless(request):
    """A processor that never leaves the guest by itself: it computes, or waits in KVM for an interrupt."""
    computing = request.param == "computing"
    with Machine("eb fe" if computing else "f4 eb fd", irqchip=not computing) as machine:
        yield machine.processor()


class TestKicks:
    def test_kick_before_the_run(self, endless):
        endless.vcpu.kick()
        endless.vcpu.kick()
        assert endless.run() is KICKED
        thread = Running(endless.vcpu)
        time.sleep(0.05)
        assert thread.is_alive()  # two kicks were one
        endless.vcpu.kick()
        assert thread.finish() is KICKED

    def test_thousands_at_any_moment_and_none_is_lost(self, endless):
        count = 2000
        kicks = threading.Semaphore(0)

        def kick_each():
            wait = random.Random(1)
            for _ in range(count):
                kicks.acquire()
                for _ in range(wait.randrange(300)):
                    pass
                endless.vcpu.kick()

        thread = threading.Thread(target=kick_each, daemon=True)
        thread.start()
        for _ in range(count):
            kicks.release()
            assert endless.run() is KICKED
        thread.join()
        assert endless.vcpu.counters.interruptions >= count

    def test_a_device_kicks_its_own_processor(self):
        class Stop(DeviceIo):
            def pio_out(self, base, offset, size, value):
                processor.vcpu.kick()

        with Machine("e6 10  40  eb fe") as machine:
            machine.plug(Stop(), PORTS)
            processor = machine.processor()
            assert processor.run() is KICKED
            assert processor.registers["rip"] == CODE + 2  # the OUT is complete, and nothing behind it has run

    def test_a_kick_outlives_an_exception(self):
        with Machine("e6 10  eb fe") as machine:
            machine.plug(Broken(), PORTS)
            processor = machine.processor()
            processor.vcpu.kick()
            assert processor.run() is KICKED

            class Late(DeviceIo):
                def pio_out(self, base, offset, size, value):
                    processor.vcpu.kick()
                    raise LookupError("late")

            machine.manager.unregister_device_io([PORTS])
            machine.plug(Late(), PORTS)
            with pytest.raises(LookupError, match="late"):
                processor.run()
            assert processor.run() is KICKED

    def test_one_run_at_a_time(self, endless):
        thread = Running(endless.vcpu)
        with pytest.raises(RuntimeError, match="the vCPU is running already"):
            endless.run()
        with pytest.raises(RuntimeError, match="the vCPU is running already"):
            endless.vcpu.complete()
        assert endless.vcpu.is_running
        endless.vcpu.kick()
        assert thread.finish() is KICKED
        assert not endless.vcpu.is_running

    def test_a_device_runs_another_processor(self):
        class Nested(DeviceIo):
            def pio_out(self, base, offset, size, value):
                self.result = inner.run()

        with Machine("e6 10 f4") as machine:
            machine.load(0x2000, "eb fe")
            device = machine.plug(Nested(), PORTS)
            outer, inner = machine.processor(0), machine.processor(1, start=0x2000)
            thread = Running(outer.vcpu)
            wait_for(lambda: inner.vcpu.is_running)
            inner.vcpu.kick()
            assert thread.finish() is Exit.HLT
            assert device.result is KICKED

    def test_a_thread_that_blocks_all_signals(self, endless):
        results = []

        def run():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            results.append(endless.run())
            results.append(signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        wait_for(lambda: endless.vcpu.is_running)
        time.sleep(0.01)
        endless.vcpu.kick()
        thread.join(60)
        assert results == [KICKED, True]


class Raises(DeviceIo):
    """Its port is a signal, which a write sends to the thread itself, by a C function: no bytecode runs behind it.

    So the signal is in the window between the loop's last look at the flags and KVM_RUN.
    """

    pio_out = staticmethod(getattr(ctypes.CDLL(None), "raise"))  # its other arguments do no harm


def test_a_signal_of_kicks_that_comes_just_before_the_guest_is_entered():
    with Machine() as machine:
        processor = machine.processor()
        caught = int(re.search(r"SigCgt:\s*(\w+)", Path("/proc/self/status").read_text())[1], 16)
        kick_signal = next(number for number in range(signal.SIGRTMIN, 64) if caught >> number - 1 & 1)
        machine.load(CODE, f"e6 {kick_signal:02x}  eb fe")
        machine.plug(Raises(), Resource.PioAddressRange(kick_signal, 1))
        thread = Running(processor.vcpu)
        wait_for(lambda: processor.vcpu.counters.interruptions == 1)
        processor.vcpu.kick()
        assert thread.finish() is KICKED
        assert processor.vcpu.counters.interruptions == 2


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send_when_running(vcpu, number, delay=0.0, thread=None):
    """Send a signal from another thread once the vCPU runs: to the process, or to one thread."""

    def send():
        wait_for(lambda: vcpu.is_running)
        time.sleep(delay)
        if thread is None:
            os.kill(os.getpid(), number)
        else:
            signal.pthread_kill(thread, number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    return sender


@pytest.mark.usefixtures("interruptible")
class TestSignals:
    def test_ctrl_c_at_any_moment(self, endless):
        wait = random.Random(2)
        for _ in range(200):
            sender = send_when_running(endless.vcpu, signal.SIGINT, wait.random() * 1e-3)
            with pytest.raises(KeyboardInterrupt):
                endless.run()
            sender.join()
        endless.vcpu.kick()
        assert endless.run() is KICKED

    @pytest.mark.parametrize("code", ["e6 02  eb fe  ; computes", "e6 02  f4 eb fd  ; halts"])
    def test_ctrl_c_just_before_the_guest_is_entered(self, code):
        with Machine(code, irqchip=code.endswith("halts")) as machine:
            machine.plug(Raises(), Resource.PioAddressRange(signal.SIGINT, 1))
            with pytest.raises(KeyboardInterrupt):
                machine.processor().run()

    def test_a_signal_that_another_thread_gets_interrupts_the_main_one(self, endless):
        done = threading.Event()
        other = threading.Thread(target=done.wait, daemon=True)
        other.start()
        for _ in range(20):
            sender = send_when_running(endless.vcpu, signal.SIGINT, 1e-3, other.ident)
            with pytest.raises(KeyboardInterrupt):
                endless.run()
            sender.join()
        done.set()
        other.join()

    def test_a_handler_that_raises_nothing_lets_the_guest_go_on(self, endless):
        seen = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number) or endless.vcpu.kick())
        try:
            send_when_running(endless.vcpu, signal.SIGUSR1, 1e-3)
            assert endless.run() is KICKED
            assert seen == [signal.SIGUSR1]
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_a_handler_set_before_the_run_is_in_place_behind_it(self, endless):
        seen = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        try:
            endless.vcpu.kick()
            assert endless.run() is KICKED
            signal.raise_signal(signal.SIGUSR1)
            assert seen == [signal.SIGUSR1]
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_ctrl_c_on_the_main_thread_leaves_the_others_running(self):
        with Machine("eb fe") as machine:
            first, second = machine.processor(0), machine.processor(1)
            thread = Running(second.vcpu)
            send_when_running(first.vcpu, signal.SIGINT, 1e-2)
            with pytest.raises(KeyboardInterrupt):
                first.run()
            assert thread.is_alive()
            second.vcpu.kick()
            assert thread.finish() is KICKED

    def test_ctrl_c_in_a_handler_of_a_device(self):
        class Busy(DeviceIo):
            def pio_out(self, base, offset, size, value):
                signal.raise_signal(signal.SIGINT)

        with Machine("e6 10 f4") as machine:
            machine.plug(Busy(), PORTS)
            processor = machine.processor()
            with pytest.raises(KeyboardInterrupt):
                processor.run()
            assert processor.run() is Exit.HLT


HANDLER = 0x2000


def with_vector(machine, vector, code):
    """Have an interrupt vector lead to code."""
    machine.load(HANDLER, code)
    machine.load(4 * vector, HANDLER.to_bytes(4, "little").hex())


class Pic:
    """As simple as a controller can be: one request at a time, which the guest ends by writing to its port."""

    VECTOR = 0x21

    def __init__(self, wanted):
        self.wanted = wanted
        self.taken = 0
        self.processor = None

    def acknowledge(self):
        self.processor.vcpu.set_intr(False)
        return self.VECTOR

    def pio_out(self, base, offset, size, value):
        self.taken += 1
        if self.taken == self.wanted:
            self.processor.vcpu.kick()


class PicDevice(DeviceIo):
    def __init__(self, pic):
        self.pic = pic

    def pio_out(self, base, offset, size, value):
        self.pic.pio_out(base, offset, size, value)


def with_pic(machine, wanted):
    pic = Pic(wanted)
    machine.plug(PicDevice(pic), PORTS)
    with_vector(machine, pic.VECTOR, "e6 10 cf  ; out 0x10, al; iret")
    pic.processor = machine.processor(acknowledge=pic.acknowledge)
    return pic, pic.processor


class TestInterrupts:
    @pytest.mark.parametrize("code", ["fb eb fe  ; sti; jmp $", "fa 90 90 fb 90 eb f9  ; cli; nop; nop; sti; nop; jmp"])
    def test_each_request_is_taken_once(self, code):
        with Machine(code) as machine:
            pic, processor = with_pic(machine, 200)
            thread = Running(processor.vcpu)
            for number in range(200):
                wait_for(lambda number=number: pic.taken == number and not processor.vcpu.intr)
                processor.vcpu.set_intr(True)
            assert thread.finish() is KICKED
            assert (pic.taken, processor.vcpu.counters.interrupts) == (200, 200)

    def test_the_guest_says_when_it_can(self):
        with Machine("b0 01  e6 10  fb 90 eb fe  ; interrupts are disabled at the write, and then enabled") as machine:

            class Raise(DeviceIo):
                def pio_out(self, base, offset, size, value):
                    processor.vcpu.set_intr(True)

            pic, processor = with_pic(machine, 1)
            machine.manager.unregister_device_io([PORTS])
            machine.plug(Raise(), Resource.PioAddressRange(0x10, 1))
            machine.load(HANDLER, "e6 20 cf")
            machine.plug(PicDevice(pic), Resource.PioAddressRange(0x20, 1))
            assert processor.run() is KICKED
            assert (pic.taken, processor.vcpu.counters.windows) == (1, 1)

    def test_a_halted_guest(self):
        with Machine("fb f4 eb fd  ; sti; hlt; jmp $ - 1") as machine:
            pic, processor = with_pic(machine, 5)
            for _ in range(4):
                assert processor.run() is Exit.HLT
                assert processor.vcpu.interrupts_enabled
                processor.vcpu.set_intr(True)
            assert processor.run() is Exit.HLT
            assert pic.taken == 4
            assert not processor.vcpu.intr

    def test_an_exception_of_acknowledge(self):
        def acknowledge():
            raise LookupError("no request")

        with Machine("fb eb fe") as machine:
            processor = machine.processor(acknowledge=acknowledge)
            processor.vcpu.set_intr(True)
            with pytest.raises(LookupError, match="no request"):
                processor.run()

    @pytest.mark.parametrize("vector", [-1, 0x100])
    def test_a_vector_that_there_is_not(self, vector):
        with Machine("fb eb fe") as machine:
            processor = machine.processor(acknowledge=lambda: vector)
            processor.vcpu.set_intr(True)
            with pytest.raises(ValueError, match=rf"acknowledge returns a vector, 0x0\.\.0xff, not {vector}"):
                processor.run()

    def test_a_processor_without_acknowledge_has_no_input(self):
        with Machine(HLT) as machine, pytest.raises(ValueError, match="cannot take interrupts"):
            machine.processor().vcpu.set_intr(True)


class TestSeveralProcessors:
    def test_two_threads_while_the_map_changes(self):
        accesses, least_changes = 400, 50

        class Counter(DeviceIo):
            def __init__(self):
                self.calls = 0

            def pio_out(self, base, offset, size, value):
                with lock:
                    self.calls += 1
                if self.calls >= accesses and changes >= least_changes:
                    for each in processors:
                        each.vcpu.kick()

        lock = threading.Lock()
        with Machine("e6 10  " + DS_20000 + "a3 00 00  eb f4  ; out 0x10, al; ...; mov [0], ax; jmp") as machine:
            counter, memory = machine.plug(Counter(), PORTS), machine.plug(Registers(), WINDOW)
            processors = [machine.processor(0), machine.processor(1)]
            changes = 0
            threads = [Running(each.vcpu) for each in processors]
            while any(thread.is_alive() for thread in threads):
                other = Resource.MmioAddressRange(0x40000 + 0x1000 * (changes % 16), 0x800)
                machine.manager.register_device_io(Registers(), [other])
                machine.manager.unregister_device_io([other])
                changes += 1
            assert [thread.finish() for thread in threads] == [KICKED, KICKED]
            counters = [each.vcpu.counters for each in processors]
            assert counter.calls == sum(each.pio for each in counters) >= accesses
            assert len(memory.writes) == sum(each.mmio for each in counters)
            assert changes >= least_changes

    def test_a_big_lock_keeps_them_apart(self):
        class Alone(DeviceIo):
            inside = calls = 0

            def pio_out(self, base, offset, size, value):
                self.inside += 1
                assert self.inside == 1
                time.sleep(1e-5)  # lets the other thread run
                self.inside -= 1
                self.calls += 1
                if self.calls == 200:
                    for each in processors:
                        each.vcpu.kick()

        big_lock = threading.Lock()
        with Machine("e6 10  eb fc") as machine:
            machine.plug(Alone(), PORTS)
            processors = [machine.processor(number, big_lock=big_lock) for number in (0, 1)]
            threads = [Running(each.vcpu) for each in processors]
            assert [thread.finish() for thread in threads] == [KICKED, KICKED]
            assert not big_lock.locked()

    def test_an_exit_that_waits_for_the_lock_is_served_in_the_next_run(self):
        class Refusing:
            refuses = True

            def acquire(self):
                if self.refuses:
                    raise KeyboardInterrupt

            def release(self):
                assert not self.refuses

        with Machine("e4 10 f4") as machine:
            device = machine.plug(Registers(), PORTS)
            lock = Refusing()
            processor = machine.processor(big_lock=lock)
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    processor.run()
            lock.refuses = False
            assert device.reads == []
            assert processor.run() is Exit.HLT
            assert (device.reads, processor.registers["rax"]) == ([(0, 1)], 0x11)


class TestArguments:
    def test_wrong_ones_are_refused(self):
        with Machine(HLT) as machine:
            processor = machine.processor()
            run = processor.run_mapping
            with pytest.raises(TypeError, match="IoManager"):
                Vcpu(processor.fd, run, None)
            with pytest.raises(ValueError, match="little-endian"):
                Vcpu(processor.fd, run, IoManager(byteorder="big"))
            with pytest.raises(ValueError, match="the kvm_run mapping has 0x1000 bytes or more, not 0x10"):
                Vcpu(processor.fd, bytearray(16), machine.manager)
            with pytest.raises(ValueError, match="the kvm_run mapping has"):
                Vcpu(processor.fd, run, machine.manager, coalesced_ring=1000)
            with pytest.raises(ValueError, match="the kvm_run mapping has"):
                Vcpu(processor.fd, run, machine.manager, coalesced_ring=2**64 - 1)
            with pytest.raises(BufferError):
                Vcpu(processor.fd, bytes(mmap.PAGESIZE), machine.manager)
            with pytest.raises(TypeError, match="acknowledge is called"):
                Vcpu(processor.fd, run, machine.manager, acknowledge=3)
            with pytest.raises(TypeError, match="recorder is a TraceRecorder, not int"):
                Vcpu(processor.fd, run, machine.manager, recorder=3)
            with pytest.raises(TypeError):
                Vcpu("vcpu", run, machine.manager)

    def test_a_file_that_is_not_a_vcpu(self, tmp_path):
        with (tmp_path / "file").open("w+b") as file:
            vcpu = Vcpu(file, bytearray(4 * mmap.PAGESIZE), IoManager())
            with pytest.raises(OSError, match="ioctl"):
                vcpu.run()

    def test_the_kernel_says_why_it_cannot_go_on(self):
        with Machine("ea 00 00 00 20  ; jmp 0x2000:0, where a device is") as machine:
            machine.plug(Registers(), WINDOW)
            processor = machine.processor()
            assert processor.vcpu.exit_details == {}
            assert processor.run() is Exit.INTERNAL_ERROR
            assert processor.vcpu.exit_details["suberror"] == 1  # KVM_INTERNAL_ERROR_EMULATION

    def test_reasons_that_a_newer_kernel_has(self):
        assert Exit(1000) is Exit(1000)
        assert (Exit(1000).name, int(Exit(1000))) == ("REASON_1000", 1000)
        with pytest.raises(ValueError, match="'HLT' is not a valid Exit"):
            Exit("HLT")

    def test_it_keeps_what_it_needs_and_no_more(self):
        with Machine(HLT) as machine:
            device = machine.plug(Registers(), PORTS)
            processor = machine.processor()
            assert processor.run() is Exit.HLT
            machine.manager.unregister_device_io([PORTS])
            gone = weakref.ref(device)
            del device
            gc.collect()
            assert gone() is None
            with pytest.raises(BufferError):
                processor.run_mapping.close()
            assert repr(processor.vcpu) == "<Vcpu, stopped, 1 exits>"

    def test_it_is_freed_with_the_devices_that_know_it(self):
        """A callback that a finalizer makes may run it when the garbage collector has cleared its manager."""
        results = []

        class Part:
            pass

        class Device(Registers):
            def __del__(self):
                device = weakref.ref(self)
                references.append(weakref.ref(self.holder.part, lambda _: results.append(run(device()))))

        def run(device):
            try:
                return device.run()
            except ReferenceError as error:
                return str(error)

        references = []
        with Machine(HLT) as machine:
            processor = machine.processor()
            gc.collect()
            gc.disable()
            try:
                manager = IoManager()
                vcpu = Vcpu(processor.fd, processor.run_mapping, manager)
                gone = weakref.ref(vcpu)
                holder = Part()
                holder.part = Part()
                holder.device = device = Device()
                device.run = (lambda vcpu: lambda: vcpu.run())(vcpu)
                device.holder = holder
                manager.register_device_io(device, [PORTS])
                del manager, vcpu, holder, device
                gc.collect()
            finally:
                gc.enable()
        message = "the IoManager has been cleared by the garbage collector"
        assert results == ([] if sys.version_info >= (3, 14) else [message])  # seen on 3.14: the callback is not made
        assert gone() is None
