"""The state of devices and machines: saved, restored in full or not at all, and read from files of any kind."""

import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections import deque
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from helpers import DEADLOCK, ENOUGH_TO_GO_WRONG, Worker
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import Card, Machine

from dbs_device import DeviceIo, DeviceIoMut, DuplicateDeviceError, Mutex, Resource
from dbs_device.clock import CountedClock
from dbs_device.interrupts import IrqLine
from dbs_device.memory import Ram
from dbs_device.registers import RW, Flag, Interrupt, Register, RegisterBank
from dbs_device.state import AttributeState, DeviceState, MachineState, StateError, Stateful

ROOT = Path(__file__).parent.parent


class Latch(AttributeState, DeviceIo):
    """A device with one value."""

    saved: ClassVar = {"value": None}

    def __init__(self, value=0):
        self.value = value


class Plain(DeviceIo):
    """A device that does it all by itself; `fails` counts down to the load that fails."""

    def __init__(self, state=None, fails=None):
        self.state = {} if state is None else state
        self.fails = fails

    def save_state(self):
        return self.state

    def load_state(self, state):
        if self.fails is not None:
            self.fails -= 1
            if self.fails == 0:
                self.state = "half loaded"
                raise OSError("medium")
        self.state = state


def round_trip(state, path):
    state.save(path)
    return MachineState.load(path)


# -- what a machine's state is


def test_parts_go_on_from_their_state():
    latch, clock = Latch(5), CountedClock(step=0)
    clock.count_work(100)
    state = MachineState.of({"latch": latch, "clock": clock})
    assert dict(state) == {
        "latch": DeviceState("Latch", 1, {"value": 5}),
        "clock": DeviceState("CountedClock", 1, {"time": 100, "order": 0}),
    }
    other, other_clock = Latch(6), CountedClock(step=0)
    state.restore({"clock": other_clock, "latch": other})
    assert (other.value, other_clock.read()) == (5, 100)


def test_a_state_is_a_copy_both_ways():
    contents = [1, [2], {"three": bytearray(b"3")}]
    device = Plain({"contents": contents})
    state = MachineState.of({"device": device})
    contents[1].append(4)
    contents[2]["three"][0] = 0
    state.restore({"device": device})
    assert device.state == {"contents": [1, [2], {"three": b"3"}]}
    device.state["contents"][1].append(5)
    assert state["device"].state == {"contents": [1, [2], {"three": b"3"}]}


def test_a_state_is_a_mapping_that_says_what_it_holds():
    state = MachineState.of({"uart": Latch(), "timer": Latch()})
    assert repr(state) == "<MachineState: uart, timer>"
    assert list(state) == ["uart", "timer"]
    assert len(state) == 2
    assert state == MachineState.of({"timer": Latch(), "uart": Latch()})
    assert state != MachineState.of({"timer": Latch(1), "uart": Latch()})
    with pytest.raises(TypeError):
        hash(state)


def test_the_device_in_a_mutex_is_saved_and_loaded_with_the_lock_held():
    class Inner(AttributeState, DeviceIoMut):
        saved: ClassVar = {"value": None}
        value = 1

        def load(self, base, offset, size):
            return self.value

        def state_loaded(self):
            workers.append(Worker(mutex.load, 0, 0, 1))
            workers[-1].join(ENOUGH_TO_GO_WRONG)
            assert workers[-1].is_alive()

    workers = []
    mutex = Mutex(Inner())
    state = MachineState.of({"device": mutex})
    assert state["device"].type.endswith("Inner")
    with mutex.lock() as inner:
        inner.value = 2
    state.restore({"device": mutex})
    assert [worker.result() for worker in workers] == [1, 1]


# -- what is refused

WITHOUT = [DeviceIo(), Mutex(DeviceIoMut()), object(), None]


@pytest.mark.parametrize("target", WITHOUT, ids=lambda target: type(target).__name__)
def test_a_part_without_a_state_is_named(target):
    latch = Latch(5)
    with pytest.raises(StateError, match=r"^'uart' is \w+ \(no state\): it needs save_state\(\) and"):
        MachineState.of({"latch": latch, "uart": target})
    state = MachineState.of({"latch": Latch(6), "uart": Latch()})
    with pytest.raises(StateError, match=r"^'uart' is Latch \(version 1\) in the state, \w+ \(no state\) here$"):
        state.restore({"latch": latch, "uart": target})
    assert latch.value == 5


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (1.5, "is of type float"),
        (object(), "is of type object"),
        ({1}, "is of type set"),
        ({1: 2}, "has the key 1, which is not a str"),
        (np.zeros(3), "is of type ndarray"),
        (lambda: None, "is of type function"),
    ],
)
def test_a_state_of_other_types_is_refused(value, complaint):
    with pytest.raises(StateError, match=rf"^the state of 'uart', \['fifo'\], \[1\] {complaint}"):
        MachineState.of({"uart": Plain({"fifo": [0, value]})})


def test_a_state_that_is_not_a_dict_is_refused():
    with pytest.raises(StateError, match="the state of 'uart' is a dict, not list"):
        MachineState.of({"uart": Plain([])})


def test_a_version_is_an_int():
    class Firmware(Latch):
        version = "1.0"

    with pytest.raises(StateError, match=r"Firmware\.version is an int, the version of its state, not '1\.0'"):
        MachineState.of({"latch": Firmware()})


def test_a_state_that_contains_itself_is_refused():
    state = {}
    state["self"] = state
    with pytest.raises(StateError, match=r"nested more than 32 deep$"):
        MachineState.of({"uart": Plain(state)})


class Version2(Latch):
    version = 2


Version2.__qualname__ = "Latch"


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({"a": Latch()}, "another machine: 'b' is only in the state, nothing only in the machine"),
        ({"a": Latch(), "b": Latch(), "c": Latch()}, "nothing is only in the state, 'c' only in the machine"),
        ({"a": Latch(), "c": Latch()}, "'b' is only in the state, 'c' only in the machine"),
        (
            {"a": Latch(), "b": Plain()},
            r"'b' is Latch \(version 1\) in the state, Plain \(version 1\) here",
        ),
        (
            {"a": Latch(), "b": Version2()},
            r"'b' is Latch \(version 1\) in the state, Latch \(version 2\) here",
        ),
        (
            {"a": Latch(), "b": Latch("text")},
            r"'b', Latch \(version 1\), refuses its state: Latch.value is str, not 2",
        ),
    ],
)
def test_a_state_of_another_machine_names_both_sides_and_changes_nothing(parts, complaint):
    state = MachineState.of({"a": Latch(1), "b": Latch(2)})
    with pytest.raises(StateError, match=complaint):
        state.restore(parts)
    assert parts["a"].value == 0


@pytest.mark.parametrize("nth", [1, 2])  # states are loaded twice
@pytest.mark.parametrize("position", range(3))
def test_when_a_load_fails_all_parts_are_as_before(position, nth):
    names = ["first", "second", "third"]
    state = MachineState.of({name: Plain({"value": name}) for name in names})
    parts = {name: Plain({"value": f"old {name}"}) for name in names}
    parts[names[position]].fails = nth
    complaint = rf"^'{names[position]}', Plain \(version 1\), refuses its state: OSError\('medium'\)"
    with pytest.raises(StateError, match=complaint) as raised:
        state.restore(parts)
    assert isinstance(raised.value.__cause__, OSError)
    assert [part.state for part in parts.values()] == [{"value": f"old {name}"} for name in names]


def test_an_interrupt_while_loading_undoes_it_and_comes_out():
    def interrupt(state):
        raise KeyboardInterrupt

    state = MachineState.of({"first": Latch(1), "second": Plain()})
    first, second = Latch(2), Plain()
    second.load_state = interrupt
    with pytest.raises(KeyboardInterrupt):
        state.restore({"first": first, "second": second})
    assert first.value == 2


def test_a_part_that_cannot_be_given_its_state_back_is_noted():
    def refuse(state):
        raise OSError("for ever")

    state = MachineState.of({"first": Latch(1), "second": Plain()})
    first, second = Latch(2), Plain()
    second.load_state = refuse
    with pytest.raises(StateError, match="'second'") as raised:
        state.restore({"first": first, "second": second})
    assert first.value == 2
    assert any("'second' does not load the state that it was in before" in note for note in raised.value.__notes__)


# -- register banks and lines


class Uart(RegisterBank, size=8):
    class Status(Register):
        RXNE = Flag(0, RW)

    SR = Status(0)
    CR = Status(4)
    irq = Interrupt(status=SR, enable=CR)


class Other(RegisterBank, size=8):
    SR = Register(0)


Other.__qualname__ = "Uart"


def test_a_bank_has_a_state_and_refuses_that_of_another_layout_before_anything_is_changed():
    uart, latch = Uart(), Latch(1)
    uart.SR.value = 1
    state = MachineState.of({"latch": Latch(2), "uart": uart})
    with pytest.raises(StateError, match=r"'uart', Uart \(version 1\), refuses its state: the state of layout"):
        state.restore({"latch": latch, "uart": Other()})
    assert latch.value == 1
    fresh = Uart()
    state.restore({"latch": latch, "uart": fresh})
    assert (latch.value, fresh.SR.value) == (2, 1)


class EdgeController(AttributeState):
    """Latches the rising edges of one input, as an 8259A does."""

    saved: ClassVar = {"level": None, "requests": None}

    def __init__(self):
        self.level = False
        self.requests = 0

    def set(self, level):
        if level and not self.level:
            self.requests += 1
        elif not level:
            self.requests = 0
        self.level = level


@pytest.mark.parametrize("order", [("pic", "one", "other"), ("one", "pic", "other"), ("one", "other", "pic")])
def test_sources_of_a_shared_line_restored_one_by_one_make_no_edge(order):
    def build():
        pic, one, other = EdgeController(), Uart(), Uart()
        line = IrqLine(pic.set)
        for uart in (one, other):
            uart.CR.value = 1
            uart.irq.connect(line.shared())
        return {"pic": pic, "one": one, "other": other}

    saved = build()
    saved["one"].SR.value = 1
    saved["pic"].requests = 0  # acknowledged, and the line still high
    state = MachineState.of({name: saved[name] for name in order})

    running = build()
    running["other"].SR.value = 1
    state.restore({name: running[name] for name in order})
    assert (running["pic"].level, running["pic"].requests) == (True, 0)
    running["one"].SR.value = 0
    assert running["pic"].level is False
    running["other"].SR.value = 1
    assert (running["pic"].level, running["pic"].requests) == (True, 1)


# -- attributes


class Everything(AttributeState):
    version = 3
    saved: ClassVar = {
        "_number": range(10),
        "_flag": None,
        "_text": None,
        "_name": ...,
        "_memory": range(128),
        "_buffer": ...,
        "_words": range(0x10000),
        "_fifo": [range(256)],
        "_maybe": (None, range(5)),
        "_late": (None, range(5)),
        "_by_name": range(4),
        "_timer": None,
        "_counters": None,
    }

    def __init__(self, clock=None):
        self._number = 1
        self._flag = True
        self._text = "text"
        self._name = "name"
        self._memory = bytearray(4)
        self._buffer = b"abc"
        self._words = [1, 2]
        self._fifo = deque([1])
        self._maybe = 1
        self._late = None
        self._by_name = {"a": 1, "b": 2}
        self._timer = (clock or CountedClock()).call_at(10, print)
        self._counters = (Latch(1), Latch(2))
        self.events = []

    def state_loaded(self):
        self.events.append(self._number)


CHANGED = {
    "number": 9,
    "flag": False,
    "text": "other",
    "name": "other and longer",
    "memory": bytes([1, 2, 3, 127]),
    "buffer": b"",
    "words": [0, 0xFFFF],
    "fifo": [5, 6, 7],
    "maybe": None,
    "late": 4,
    "by_name": {"a": 3, "b": 0},
    "timer": None,
    "counters": [{"value": 5}, {"value": 6}],
}


def test_attributes_are_saved_and_set(tmp_path):
    device = Everything()
    memory, fifo, words = memoryview(device._memory), device._fifo, device._words
    before = device.save_state()
    assert before.keys() == CHANGED.keys()
    device.load_state(CHANGED)
    assert device.save_state() == CHANGED
    assert (device._fifo, device._words) == (deque([5, 6, 7]), [0, 0xFFFF])
    assert device._fifo is fifo
    assert device._words is words
    assert bytes(memory) == CHANGED["memory"]
    assert device.events == [9]
    state = round_trip(MachineState.of({"device": device}), tmp_path / "state")
    other = Everything()
    state.restore({"device": other})
    assert other.save_state() == CHANGED


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"number": 10}, r"Everything.number is in range\(0, 10\), not 10"),
        ({"number": -1}, "number is in"),
        ({"number": True}, "number is in"),
        ({"number": None}, "number is in"),
        ({"flag": 1}, "flag is bool, not 1"),
        ({"text": b"text"}, "text is str, not"),
        ({"name": 5}, "name is str"),
        ({"memory": bytes(5)}, "memory has 4 bytes, not 5"),
        ({"memory": [0] * 4}, "memory is bytes"),
        ({"memory": b"\xff\0\0\0"}, r"memory\[0\] is in range\(0, 128\), not 255"),
        ({"buffer": "abc"}, "buffer is bytes"),
        ({"words": [1]}, "words is a list of 2, not"),
        ({"words": [1, 0x10000]}, r"words\[1\] is in"),
        ({"words": "12"}, "words is a list of 2"),
        ({"fifo": 1}, "fifo is a list"),
        ({"fifo": [1, 256]}, r"fifo\[1\] is in"),
        ({"maybe": 5}, "maybe is in"),
        ({"by_name": {"a": 1}}, "by_name has a, b, not"),
        ({"by_name": {"a": 1, "b": 9}}, r"by_name\['b'\] is in"),
        ({"timer": [1]}, "a Timer is set for"),
        ({"counters": [{"value": 1}]}, "counters is a list of 2"),
        ({"counters": [{"value": 1}, {"value": "2"}]}, "Latch.value is int, not '2'"),
        ({"more": 1}, "the state of Everything has number, .*, not number, .*, more"),
    ],
)
def test_an_attribute_that_does_not_fit_is_named_and_nothing_is_changed(change, complaint):
    device = Everything()
    before = device.save_state()
    with pytest.raises(StateError, match=complaint):
        device.load_state(CHANGED | change)
    assert device.save_state() == before
    assert device.events == []


@pytest.mark.parametrize("wrong", [None, [], 5, "state", {}])
def test_a_state_of_attributes_is_a_dict_with_all_of_them(wrong):
    with pytest.raises(StateError, match="the state of Everything has number, "):
        Everything().load_state(wrong)


def test_names_that_would_be_one_in_the_state_are_refused():
    with pytest.raises(TypeError, match=r"Twice\.saved has names that differ by leading underscores only"):

        class Twice(AttributeState):
            saved: ClassVar = {"_value": None, "value": None}


def test_protocol():
    assert isinstance(Latch(), Stateful)
    assert isinstance(Uart(), Stateful)
    assert isinstance(CountedClock(), Stateful)
    assert not isinstance(DeviceIo(), Stateful)


def test_memory_has_a_state(tmp_path):
    ram, other = Ram(0x10000), Ram(0x10000)
    ram.view[0x1234] = 5
    state = round_trip(MachineState.of({"ram": ram}), tmp_path / "machine.npz")
    state.restore({"ram": other})
    assert other.view == ram.view
    latch = Latch(1)
    with pytest.raises(
        StateError, match=r"'ram', Ram \(version 1\), refuses its state: the state has 65536 bytes, .* 4096"
    ):
        MachineState.of({"ram": ram, "latch": Latch(2)}).restore({"latch": latch, "ram": Ram(0x1000)})
    assert latch.value == 1


# -- a device manager


class SavedCard(AttributeState, Card, DeviceIo):
    saved: ClassVar = {"value": None}
    value = 0


class MovingCard(SavedCard):
    """A card that moves, as a PCI device does: by a register, and with `moves` also when it loads its state."""

    saved: ClassVar = {"value": None, "base": None}
    base = 0x1000

    def __init__(self, bus, moves=True):
        super().__init__([])
        self.bus, self.moves, self.at = bus, moves, self.base

    def get_trapped_io_resources(self):
        return [Resource.MmioAddressRange(self.at, 0x10)]

    def get_assigned_resources(self):
        return self.get_trapped_io_resources()

    def move(self, base):
        old, self.base, self.at = self.get_trapped_io_resources(), base, base
        with self.bus.begin_tx() as transaction:
            transaction.unregister_device_io(old)
            transaction.register_device_io(self, self.get_trapped_io_resources())

    def state_loaded(self):
        if self.moves and self.at != self.base:
            self.move(self.base)


def machine_with(*names, **layout):
    machine = Machine(**layout)
    for name in names:
        machine.devices.add_device(name, SavedCard())
    return machine


def test_a_manager_saves_its_devices_with_resources_and_ranges():
    machine = machine_with("disk", "net")
    machine.devices["disk"].value = 5
    state = machine.devices.save_state({"clock": CountedClock()})
    assert list(state) == ["disk", "net", "clock"]
    assert state["disk"] == DeviceState(
        "SavedCard",
        1,
        {"value": 5},
        tuple(map(repr, machine.devices.get_resources("disk"))),
        ("PIO 0x0..0x7", "MMIO 0xc0000000..0xc0000fff"),
    )
    assert state["clock"].ranges == ()


def test_a_manager_restores_its_devices(tmp_path):
    machine, clock = machine_with("disk", "net"), CountedClock(step=0)
    machine.devices["disk"].value, machine.devices["net"].value = 5, 6
    clock.count_work(7)
    state = round_trip(machine.devices.save_state({"clock": clock}), tmp_path / "machine.npz")
    other, other_clock = machine_with("disk", "net"), CountedClock(step=0)
    other.devices.restore_state(state, {"clock": other_clock})
    assert (other.devices["disk"].value, other.devices["net"].value, other_clock.read()) == (5, 6, 7)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (lambda: machine_with("disk"), "'net' is only in the state"),
        (lambda: machine_with("disk", "net", "usb"), "'usb' only in the machine"),
        (lambda: machine_with("net", "disk"), r"'net' has Resource.* in the state, Resource.* here"),
    ],
)
def test_a_manager_with_other_devices_or_resources_refuses(other, complaint):
    saved = machine_with("disk", "net")
    saved.devices["disk"].value = 5
    state, machine = saved.devices.save_state(), other()
    with pytest.raises(StateError, match=complaint):
        machine.devices.restore_state(state)
    assert machine.devices["disk"].value == 0


def test_a_device_without_a_state_in_a_manager_is_named():
    class Stateless(Card, DeviceIo):
        pass

    saved, machine = machine_with("disk", "net"), machine_with("disk")
    saved.devices["disk"].value = 5
    machine.devices.add_device("net", Stateless())
    with pytest.raises(StateError, match=r"^'net' is .*Stateless \(no state\)"):
        machine.devices.save_state()
    with pytest.raises(
        StateError, match=r"^'net' is SavedCard \(version 1\) in the state, .*Stateless \(no state\) here"
    ):
        machine.devices.restore_state(saved.devices.save_state())
    assert machine.devices["disk"].value == 0


def test_a_device_that_has_moved_moves_when_it_is_restored():
    saved, machine = Machine(), Machine()
    for each in (saved, machine):
        each.devices.add_device("card", MovingCard(each.bus))
    saved.devices["card"].move(0x5000)
    machine.devices.restore_state(saved.devices.save_state())
    assert [base for base, _, _ in machine.bus.mmio_bus] == [0x5000]


def test_a_device_that_should_have_moved_is_named_and_everything_undone():
    saved, machine = Machine(), Machine()
    saved.devices.add_device("card", MovingCard(saved.bus))
    machine.devices.add_device("card", MovingCard(machine.bus, moves=False))
    saved.devices["card"].move(0x5000)
    with pytest.raises(
        StateError, match=r"^'card' is at MMIO 0x5000\.\.0x500f in the state, and at MMIO 0x1000\.\.0x100f after it"
    ):
        machine.devices.restore_state(saved.devices.save_state())
    assert machine.devices["card"].base == 0x1000
    assert [base for base, _, _ in machine.bus.mmio_bus] == [0x1000]


def test_another_part_has_a_name_of_its_own():
    machine = machine_with("disk")
    with pytest.raises(DuplicateDeviceError, match="disk"):
        machine.devices.save_state({"disk": CountedClock()})
    with pytest.raises(DuplicateDeviceError, match="disk"):
        machine.devices.restore_state(MachineState({}), {"disk": CountedClock()})


@pytest.mark.parametrize("wrong", [None, {}, b"state", "machine.npz"])
def test_a_manager_restores_a_machine_state(wrong):
    with pytest.raises(TypeError, match="a manager restores a MachineState, not"):
        Machine().devices.restore_state(wrong)


# -- files

NAMES = st.text(max_size=4) | st.sampled_from(["$hex", "$array", "$dict", "$"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.binary(max_size=200),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just("$hex"), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.text(max_size=6) | st.just("$array"), st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
)
@settings(max_examples=60, deadline=None)
def test_any_state_comes_back_from_a_file(tmp_path_factory, states):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    state = MachineState.of({name: Plain(each) for name, each in states.items()})
    assert round_trip(state, path) == state


def test_the_file_is_an_npz_file_with_a_readable_text(tmp_path):
    path = tmp_path / "machine.npz"
    MachineState.of({"ram": Plain({"contents": bytes(range(256)) * 16, "id": b"\1\2"})}).save(path)
    with np.load(path) as arrays:
        assert arrays["0"].tobytes() == bytes(range(256)) * 16
    with zipfile.ZipFile(path) as archive:
        text = json.loads(archive.read("machine.json"))
    assert text == {
        "format": "dbs-device machine state",
        "version": 1,
        "parts": {"ram": {"type": "Plain", "version": 1, "state": {"contents": {"$array": 0}, "id": {"$hex": "0102"}}}},
    }
    assert os.listdir(tmp_path) == ["machine.npz"]


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "machine.npz"
    MachineState.of({"latch": Latch(1)}).save(path)
    with pytest.raises(TypeError):
        MachineState({"latch": DeviceState("Latch", 1, {"value": object()})}).save(path)
    assert MachineState.load(path)["latch"].state == {"value": 1}
    assert os.listdir(tmp_path) == ["machine.npz"]
    with pytest.raises(FileNotFoundError):
        MachineState.of({}).save(tmp_path / "nowhere" / "machine.npz")


def test_a_state_is_restored_in_another_process(tmp_path):
    path = tmp_path / "machine.npz"
    clock = CountedClock(step=0)
    clock.count_work(123)
    MachineState.of({"clock": clock}).save(path)
    program = f"""
from dbs_device.clock import CountedClock
from dbs_device.state import MachineState
clock = CountedClock(step=0)
MachineState.load({str(path)!r}).restore({{"clock": clock}})
print(clock.now())
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLOCK, check=True
    )
    assert run.stdout == "123\n"


def write_text(path, text, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if text is not None:
            archive.writestr("machine.json", text if isinstance(text, (str, bytes)) else json.dumps(text))
        for name, contents in members.items():
            archive.writestr(f"{name}.npy", contents)


def text_with(state, **more):
    return {
        "format": "dbs-device machine state",
        "version": 1,
        "parts": {"uart": {"type": "Plain", "version": 1, "state": state} | more},
    }


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "not the state of a machine: it has no machine.json"),
        ("", "machine.json cannot be read"),
        (b"\xff\xff", "machine.json cannot be read"),
        ("[" * 100_000, "machine.json cannot be read"),
        ("{}", "machine.json is not the state of a machine"),
        ("[]", "machine.json is not the state of a machine"),
        ('{"format": "dbs-device machine state", "version": 1}', "machine.json is not the state"),
        ('{"format": "dbs-device machine state", "version": 1, "parts": []}', "machine.json is not the state"),
        ('{"format": "dbs-device machine state", "version": 2, "parts": {}}', "version 2 of the format .*, not 1"),
        (text_with([]), "'uart' is not the state of a device"),
        (text_with({}, version="1"), "'uart' is not the state"),
        (text_with({}, type=None), "'uart' is not the state"),
        (text_with({}, more=1), "'uart' is not the state"),
        (text_with({}, ranges=[5]), "'uart' is not the state"),
        (text_with({}, ranges="MMIO"), "'uart' is not the state"),
        (text_with({"a": 1.5}), "1.5 is not an integer"),
        (text_with({"a": float("nan")}), "NaN is not an integer"),
        (json.dumps(text_with({"a": 7})).replace("7", "7" * 10_000), "machine.json cannot be read: Exceeds the limit"),
        (text_with({"a": {"$hex": "xy"}}), "non-hexadecimal"),
        (text_with({"a": {"$hex": 5}}), r"machine.json has an object with \$hex"),
        (text_with({"a": {"$array": 0, "more": 1}}), r"machine.json has an object with \$array, more"),
        (text_with({"a": {"$pickle": 0}}), r"machine.json has an object with \$pickle"),
        (text_with({"a": {"$array": 0}}), "0.npy is missing"),
        (text_with({"a": json.loads("[" * 40 + "]" * 40)}), "machine.json is nested more than 32 deep"),
    ],
)
def test_a_file_with_another_text_is_refused(tmp_path, text, complaint):
    path = tmp_path / "bad.npz"
    write_text(path, text)
    with pytest.raises(StateError, match=complaint) as raised:
        MachineState.load(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"", "0.npy cannot be read"),
        (b"not an array", "0.npy cannot be read"),
        (npy(np.zeros(4, "u2")), r"0.npy is an array of uint16, \(4,\)"),
        (npy(np.zeros((2, 2), "u1")), r"0.npy is an array of uint8, \(2, 2\)"),
        (npy(np.zeros(4, "u1"))[:-1], r"0.npy is an array of uint8, \(4,\), in 3 bytes"),
        (npy(np.array([print], object)), "0.npy is an array of object|0.npy cannot be read"),
    ],
)
def test_a_file_with_another_array_is_refused(tmp_path, contents, complaint):
    path = tmp_path / "bad.npz"
    write_text(path, text_with({"a": {"$array": 0}}), **{"0": contents})
    with pytest.raises(StateError, match=complaint):
        MachineState.load(path)


def test_a_small_file_with_huge_contents_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    state = MachineState.of({"ram": Plain({"contents": bytes(1 << 24)})})
    state.save(path)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(StateError, match=r"its arrays take \d+ bytes, more than max_size, 1048576"):
        MachineState.load(path, max_size=1 << 20)
    assert MachineState.load(path) == state
    lying = bytearray(path.read_bytes())
    for size in (b"\x80\x00\x00\x01", (len(npy(np.zeros(1 << 24, "u1")))).to_bytes(4, "little")):
        while (at := lying.find(size)) >= 0:  # the sizes in the directory, now smaller than the contents
            lying[at : at + 4] = (200).to_bytes(4, "little")
    path.write_bytes(lying)
    with pytest.raises(StateError):
        MachineState.load(path, max_size=1 << 20)


def test_a_text_that_is_longer_than_it_says_is_not_decompressed(tmp_path):
    path = tmp_path / "bomb.npz"
    write_text(path, b" " * (1 << 26))
    lying = bytearray(path.read_bytes())
    at = lying.rindex((1 << 26).to_bytes(4, "little"))  # its size, in the directory
    lying[at : at + 4] = (200).to_bytes(4, "little")
    path.write_bytes(lying)
    tracemalloc.start()
    try:
        with pytest.raises(StateError, match=r"machine\.json cannot be read"):
            MachineState.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_an_array_that_the_text_names_often_is_read_once(tmp_path):
    path = tmp_path / "shared.npz"
    write_text(path, text_with({"a": [{"$array": 0}] * 10_000}), **{"0": npy(np.zeros(1 << 20, "u1"))})
    values = MachineState.load(path)["uart"].state["a"]
    assert len({id(each) for each in values}) == 1


def test_a_text_that_is_huge_is_refused(tmp_path):
    path = tmp_path / "huge.npz"
    write_text(path, " " * (1 << 26) + " ")
    with pytest.raises(StateError, match=r"machine.json has 67108865 bytes, and may have 67108864"):
        MachineState.load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(tmp_path, method):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("machine.json", json.dumps(text_with({})))
    with pytest.raises(StateError, match=r"machine.json is neither stored nor deflated"):
        MachineState.load(path)


def test_a_file_that_is_missing_or_a_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        MachineState.load(tmp_path / "nothing.npz")
    with pytest.raises(IsADirectoryError):
        MachineState.load(tmp_path)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused_or_gives_a_state(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    MachineState.of({"ram": Plain({"contents": bytes(range(200)), "more": [1, "two", b"3"]}), "a": Latch()}).save(path)
    contents = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del contents[data.draw(st.integers(0, len(contents) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if contents:
            contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(contents)
    try:
        state = MachineState.load(path)
    except StateError:
        return
    assert all(isinstance(each, DeviceState) for each in state.values())
