"""Guest memory: `Ram`, `Rom`, aliases and holes, by `GuestMemory`, `MemoryView` and the bus, against dicts of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbs_device import IoManager, Resource
from dbs_device.memory import Alias, GuestMemory, MemoryView, Ram, Rom

from .bus_buffers import READONLY, WRITABLE, content, filled
from .harness import Run

PAGE = 0x40
SPACE = 0x1000  # addresses that are used, at the bottom and at the top of the space
TOP = 2**64 - SPACE


class Memory:
    """Bytes of one memory, as the model has them."""

    def __init__(self, device: Ram | Rom, contents: bytes, *, writable: bool) -> None:
        self.device, self.writable = device, writable
        self.bytes = dict(enumerate(contents))


class Machine:
    def __init__(self, run: Run) -> None:
        self.run, self.random = run, run.random
        self.manager = IoManager(open_bus=run.random.choice([None, 0xFF]))
        self.dma = GuestMemory(self.manager, width=run.random.choice([1, 2, 4, 8]))
        self.ranges: list[tuple[int, int, Memory, int]] = []  # base, size, memory, offset in it
        self.memories: list[Memory] = []
        self.views: list[tuple[memoryview, Memory, int]] = []

    # -- the model

    def place(self, address: int) -> tuple[Memory, int] | None:
        for base, size, memory, offset in self.ranges:
            if base <= address < base + size:
                return memory, address - base + offset
        return None

    def bytes_at(self, address: int, size: int) -> bytes | int:
        """Return what is read, or how many bytes there are before a hole."""
        got = bytearray()
        for at in range(address, address + size):
            place = self.place(at)
            if place is None:
                if self.manager.open_bus is None or at >= 2**64:
                    return len(got)
                got.append(self.manager.open_bus)
            else:
                got.append(place[0].bytes[place[1]])
        return bytes(got)

    def room(self, address: int, size: int) -> int:
        """Return how many bytes there are before a hole."""
        got = self.bytes_at(address, size)
        return got if isinstance(got, int) else size

    def put(self, address: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            place = self.place(address + index)
            if place is not None and place[0].writable:
                place[0].bytes[place[1]] = byte

    # -- operations

    def address(self) -> int:
        random = self.random
        points = [0, SPACE, TOP, 2**64 - 1, *(base + random.choice([0, size]) for base, size, _, _ in self.ranges)]
        address = random.choice(points) + random.randint(-9, 9)
        return min(max(address, 0), 2**64 - 1)

    def plug(self) -> None:
        random = self.random
        if self.memories and random.random() < 0.4:
            memory = random.choice(self.memories)
        else:
            contents = random.randbytes(random.choice([1, 8, 0x33, PAGE, 4 * PAGE]))
            writable = random.random() < 0.7
            memory = Memory(Ram(bytearray(contents)) if writable else Rom(contents), contents, writable=writable)
            self.memories.append(memory)
        offset = random.choice([0, 0, random.randrange(memory.device.size)])
        size = random.randint(1, memory.device.size - offset)
        base = random.choice([self.address(), 0x100 + PAGE * random.randrange(16), 2**64 - size])
        device = Alias(memory.device, offset) if offset or random.random() < 0.2 else memory.device
        if random.random() < 0.2:
            device = Alias(device, 0)
        self.run.step("plug", hex(base), size, device)
        try:
            self.manager.register_device_io(device, [Resource.MemAddressRange(base, size)])
        except ValueError as error:
            overlaps = any(base < at + length and at < base + size for at, length, _, _ in self.ranges)
            assert overlaps or base + size > 2**64, error
            return
        assert base + size <= 2**64
        self.ranges.append((base, size, memory, offset))

    def unplug(self) -> None:
        if self.ranges:
            base, size, _, _ = self.ranges.pop(self.random.randrange(len(self.ranges)))
            self.run.step("unplug", hex(base))
            self.manager.unregister_device_io([Resource.MmioAddressRange(base, size)])

    def transfer(self) -> None:
        """Read or write by DMA; an error says how much was done, and that much was done."""
        random = self.random
        address, size = self.address(), random.choice([0, 1, 3, 8, 64, 200])
        write = random.random() < 0.5
        data = random.randbytes(size)
        self.run.step("dma write" if write else "dma read", hex(address), size)
        if address + size > 2**64:  # refused as a whole
            assert self.error_of(self.dma.write, address, data) is self.error_of(self.dma.read, address, size)
            return
        if write:
            buffer = filled(random, random.choice(WRITABLE + READONLY), data) if size else data
            done, _ = self.ends(lambda: self.dma.write(address, buffer), self.room(address, size), size)
            self.put(address, data[:done])
            return
        expected = self.bytes_at(address, size)
        done = self.room(address, size)
        if random.random() < 0.5 or not size:
            _, got = self.ends(lambda: self.dma.read(address, size), done, size)
            assert got is None or got == expected, f"{got!r}, not {expected!r}"
        else:
            buffer = filled(random, random.choice(WRITABLE), data)
            _, got = self.ends(lambda: self.dma.read_into(address, buffer) or content(buffer), done, size)
            assert got is None or got == expected, f"{got!r}, not {expected!r}"

    @staticmethod
    def error_of(call: Callable[..., Any], *arguments: Any) -> type[Exception]:
        try:
            call(*arguments)
        except OverflowError as error:
            return type(error)
        raise AssertionError(f"{call.__name__}{arguments} succeeds")

    def ends(self, transfer: Callable[[], Any], room: int, size: int) -> tuple[int, Any]:
        """Make a transfer, which ends at a hole if there is one; return how many bytes it says are done."""
        try:
            result = transfer()
        except (LookupError, OverflowError, ValueError) as error:
            assert room < size or size == 0, error
            done = getattr(error, "bytes_done", 0)
            # Accesses are naturally aligned: the one that fails may have begun before the hole.
            assert room - 8 < done <= room, f"{done} bytes done, not {room}"
            return done, None
        assert room == size, f"succeeds, with room for {room} bytes of {size}"
        return size, result

    def access(self) -> None:
        random = self.random
        address, size, write = self.address(), random.choice([1, 2, 4, 8]), random.random() < 0.5
        value = random.getrandbits(8 * size)
        self.run.step("store" if write else "load", hex(address), size, value)
        owners = {self.range_of(address + index) for index in range(size)}
        whole = len(owners) == 1 and None not in owners
        try:
            if write:
                self.manager.mmio_store(address, size, value)
            else:
                got = self.manager.mmio_load(address, size).to_bytes(size, "little")
        except LookupError:
            assert not whole and self.manager.open_bus is None
            return
        assert whole or self.manager.open_bus is not None
        if write and whole:
            self.put(address, value.to_bytes(size, "little"))
        elif not write:
            expected = self.bytes_at(address, size) if whole else b"\xff" * size
            assert got == expected, f"{got!r}, not {expected!r}"

    def range_of(self, address: int) -> int | None:
        for number, (base, size, _, _) in enumerate(self.ranges):
            if base <= address < base + size:
                return number
        return None

    def view(self) -> None:
        """Views are of RAM in one piece, and stay valid when it is unplugged."""
        random = self.random
        address, size = self.address(), random.choice([1, 5, 16, 100])
        self.run.step("view", hex(address), size)
        places = [self.place(address + index) for index in range(size)]
        first = places[0]
        try:
            view = self.dma.view(address, size)
        except (ValueError, OverflowError):
            number = self.range_of(address)
            is_ram = first is not None and first[0].writable
            assert not is_ram or number is None or self.ranges[number][0] + self.ranges[number][1] < address + size
            return
        assert first is not None and first[0].writable
        self.views = [*self.views[-4:], (view, *first)]

    def use_views(self) -> None:
        self.run.step("use views", len(self.views))
        for view, memory, offset in self.views:
            expected = bytes(memory.bytes[offset + index] for index in range(len(view)))
            assert bytes(view) == expected
            at, byte = self.random.randrange(len(view)), self.random.getrandbits(8)
            view[at] = byte
            memory.bytes[offset + at] = byte

    def list_view(self) -> None:
        random = self.random
        base = random.choice([0, 0x100, TOP])
        view = MemoryView(self.manager, base=base, size=SPACE)
        at = random.randrange(SPACE)
        self.run.step("MemoryView", hex(base), at)
        expected = self.bytes_at(base + at, 1)
        try:
            assert bytes([view[at]]) == expected
            byte = random.getrandbits(8)
            view[at] = byte
            self.put(base + at, bytes([byte]))
        except LookupError:
            assert isinstance(expected, int)

    def save(self) -> None:
        if self.memories:
            memory = self.random.choice(self.memories)
            self.run.step("state", memory.device)
            state = memory.device.save_state()
            memory.device.load_state(state)
            assert bytes(memory.device.view) == bytes(memory.bytes[index] for index in range(memory.device.size))

    def wrong(self) -> None:
        odd = [-1, 2**64, 2**200, -(2**100), None, 1.5, "0"]
        address, size = self.random.choice(odd), self.random.choice([1, -1, 2**63, 2**64, 1 << 40, None])
        self.run.step("wrong", address, size)
        for call in (self.dma.read, self.dma.view):
            for arguments in ((address, 4), (0, size) if size != 1 else (address, size)):
                try:
                    call(*arguments)
                except (TypeError, ValueError, OverflowError, LookupError, MemoryError):
                    continue
                raise AssertionError(f"{call.__name__}{arguments} succeeds")


def play(run: Run) -> None:
    machine = Machine(run)
    operations = [machine.plug] * 3 + [machine.unplug] + [machine.transfer] * 6 + [machine.access] * 4
    operations += [machine.view, machine.view, machine.use_views, machine.list_view, machine.save, machine.wrong]
    while run.more():
        run.random.choice(operations)()
