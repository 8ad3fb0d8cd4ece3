"""A miniature virtual machine monitor: devices are plugged, used, unplugged and plugged again while a guest runs.

It follows the crate's documentation: the VMM makes a resource manager, a device manager and an I/O manager; a device
states its constraints, the resource manager allocates resources, the device is assigned them, and the device manager
registers it; the I/O manager dispatches the guest's accesses. Here, the guest is a thread that accesses the bus as the
exits of a virtual CPU would.

    python examples/hotplug.py
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator

from dbs_device import (
    DeviceIo,
    DeviceIoMut,
    DeviceModelError,
    DeviceResources,
    IoAddress,
    Mutex,
    NoDeviceError,
    PioAddress,
    ResourceConstraint,
)
from dbs_device.device_manager import DeviceManager, DeviceManagerContext, IoManager
from dbs_device.resource_manager import ResourceManager

COM1 = 0x3F8
DATA, LINE_STATUS = 0, 5  # registers of a 16550
TRANSMITTER_EMPTY = 0x60

SECTOR_SIZE = 512
SECTOR, STATUS, BUFFER = 0x0, 0x4, 0x200  # registers of the disk
READY, OUT_OF_RANGE = 0, 1

POOLS = ("pio", "mmio", "mem", "legacy_irq", "msi_irq", "kvm_mem_slots")


# -- the devices


class Console(DeviceIo):
    """A serial port that only sends. The only state that threads share is a list, so it needs no lock."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.resources = DeviceResources()

    def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
        return [ResourceConstraint.pio_with_constraints(8, (COM1, COM1 + 7), 8), ResourceConstraint.new_legacy_irq()]

    def assign_resources(self, resources: DeviceResources) -> None:
        self.resources = resources

    def get_assigned_resources(self) -> DeviceResources:
        return self.resources

    def pio_read(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == LINE_STATUS:
            data[0] = TRANSMITTER_EMPTY

    def pio_write(self, base: PioAddress, offset: PioAddress, data: memoryview) -> None:
        if offset == DATA:
            self.text.append(chr(data[0]))

    def __repr__(self) -> str:
        return "console"


class Timer(DeviceIo):
    """A counter that is incremented by each read."""

    def __init__(self, name: str, ticks: Iterator[int]) -> None:
        self.name = name
        self.ticks = ticks
        self.was_read = False
        self.resources = DeviceResources()

    def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
        return [ResourceConstraint.new_mmio(0x1000), ResourceConstraint.new_legacy_irq()]

    def assign_resources(self, resources: DeviceResources) -> None:
        self.resources = resources

    def get_assigned_resources(self) -> DeviceResources:
        return self.resources

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        data[:] = next(self.ticks).to_bytes(len(data), "little")
        self.was_read = True

    def __repr__(self) -> str:
        return self.name


class Disk(DeviceIoMut):
    """A disk: write a sector number, then read the buffer. The two accesses belong together, hence the Mutex."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.sector = 0
        self.resources = DeviceResources()

    def get_resource_constraints(self) -> Iterable[ResourceConstraint]:
        return [
            ResourceConstraint.new_mmio(0x1000),
            ResourceConstraint.new_pci_msix_irq(2),
            ResourceConstraint.new_kvm_mem_slot(1),
        ]

    def assign_resources(self, resources: DeviceResources) -> None:
        self.resources = resources

    def release_resources(self) -> None:
        # In a Mutex, no handler is running now, and none will be called any more.
        self.resources = DeviceResources()
        self.sector = 0

    def get_assigned_resources(self) -> DeviceResources:
        return self.resources

    def read(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        start = self.sector * SECTOR_SIZE
        if offset == STATUS:
            data[0] = READY if start < len(self.image) else OUT_OF_RANGE
        elif offset >= BUFFER:
            part = self.image[start + offset - BUFFER :][: len(data)]
            data[: len(part)] = part

    def write(self, base: IoAddress, offset: IoAddress, data: memoryview) -> None:
        if offset == SECTOR:
            self.sector = int.from_bytes(data, "little")

    def __repr__(self) -> str:
        return f"disk of {len(self.image) // SECTOR_SIZE} sectors"


# -- the guest


class Guest(threading.Thread):
    """Accesses the timer and the disk in turn, and reports on the console, until it is halted."""

    def __init__(self, bus: IoManager, timer: int, disk: int) -> None:
        super().__init__(name="guest")
        self.bus = bus
        self.timer, self.disk = timer, disk
        self.last_tick = 0
        self.disk_is_there = False
        self.sectors_read = 0
        self.disk_missing = 0
        self.rounds = 0
        self.trouble: list[str] = []
        self.progress = threading.Condition()
        self.halted = False

    def run(self) -> None:
        try:
            self.say("booted\n")
            while not self.halted:
                self.use_timer()
                self.use_disk(self.rounds % 4)
                with self.progress:
                    self.rounds += 1
                    self.progress.notify_all()
        except Exception as error:
            with self.progress:
                self.trouble.append(f"{type(error).__name__}: {error}")
                self.progress.notify_all()

    def use_timer(self) -> None:
        tick = self.bus.mmio_load(self.timer, 8)
        if tick <= self.last_tick:
            self.trouble.append(f"the timer went from {self.last_tick} to {tick}")
        self.last_tick = tick

    def use_disk(self, sector: int) -> None:
        buffer = bytearray(SECTOR_SIZE)
        try:
            self.bus.mmio_store(self.disk + SECTOR, 4, sector)
            status = self.bus.mmio_load(self.disk + STATUS, 1)
            self.bus.mmio_read(self.disk + BUFFER, buffer)
        except NoDeviceError:
            self.disk_missing += 1
            self.notice_disk(False)
            return
        self.notice_disk(True)
        self.sectors_read += 1
        # A disk that was plugged in between has not received the sector number, and returns sector 0.
        if status != READY or buffer not in (sector_of(sector), sector_of(0)):
            self.trouble.append(f"sector {sector} is wrong")

    def notice_disk(self, is_there: bool) -> None:
        if is_there != self.disk_is_there:
            self.disk_is_there = is_there
            self.say("disk is there\n" if is_there else "disk is gone\n")

    def say(self, text: str) -> None:
        for character in text:
            while self.bus.pio_in(COM1 + LINE_STATUS, 1) != TRANSMITTER_EMPTY:
                pass
            self.bus.pio_out(COM1 + DATA, 1, ord(character))

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Wait, on the VMM's thread, until a condition holds."""
        with self.progress:
            self.progress.wait_for(lambda: reached() or self.trouble, timeout=30)
        if self.trouble or not reached():
            raise SystemExit(f"the guest is in trouble: {', '.join(self.trouble) or 'it is stuck'}")

    def halt(self) -> None:
        self.halted = True
        self.join()


def sector_of(number: int) -> bytes:
    """Return the contents of a sector of the disk image."""
    return f"sector {number} ".encode().ljust(SECTOR_SIZE, b"-")


# -- the VMM


class Vmm:
    """Owns the three managers, and prints what it does."""

    def __init__(self) -> None:
        self.io = IoManager()
        self.resources = ResourceManager()
        self.context = DeviceManagerContext(self.io)
        self.devices = DeviceManager(self.context, self.resources)

    def free(self) -> list[list[tuple[int, int]]]:
        return [self.resources.get_free_ranges(pool) for pool in POOLS]

    def plug(self, name: str, device: DeviceIo) -> DeviceResources:
        given = self.devices.add_device(name, device)
        print(f"  plugged {name}:")
        for resource in given:
            print(f"    {resource!r}")
        return given

    def unplug(self, name: str) -> None:
        self.devices.remove_device(name)
        print(f"  unplugged {name}; there is {', '.join(self.devices) or 'nothing'} left")

    def swap(self, old: Timer, new: Timer) -> None:
        """Replace a timer by another one at the same addresses."""
        resources = old.get_assigned_resources()
        new.assign_resources(resources)
        with self.context.transaction() as tx:
            tx.unregister_device_io(resources)
            tx.register_device_io(new, resources)
        print(f"  {first_mmio(resources):#x} now leads to {new!r}")


def first_mmio(resources: DeviceResources) -> int:
    return resources.get_mmio_address_ranges()[0][0]


def main() -> None:
    print("1. The VMM makes its managers.")
    vmm = Vmm()
    free_at_first = vmm.free()

    print("\n2. Devices state their constraints, are given resources, and are registered.")
    console = Console()
    disk = Mutex(Disk(b"".join(map(sector_of, range(4)))))
    vmm.plug("console", console)
    timer = Timer("timer", itertools.count(1))
    timer_base = first_mmio(vmm.plug("timer", timer))
    disk_base = first_mmio(vmm.plug("disk", disk))
    print(f"\n{vmm.io.format_map()}")

    print("\n3. The guest runs, on a thread of its own.")
    guest = Guest(vmm.io, timer_base, disk_base)
    guest.start()
    try:
        guest.run_until(lambda: guest.sectors_read >= 20)
        print("  it has read sectors")

        print("\n4. The disk is unplugged while the guest uses it.")
        vmm.unplug("disk")
        guest.run_until(lambda: guest.disk_missing >= 20)
        print("  the guest goes on without it")

        print("\n5. It is plugged again, and gets what it had: nothing was lost.")
        before = guest.sectors_read
        again = first_mmio(vmm.plug("disk", disk))
        print(f"  same address as before: {'yes' if again == disk_base else 'no'}")
        guest.run_until(lambda: guest.sectors_read >= before + 20)
        print("  the guest reads sectors again")

        print("\n6. Another timer takes over, and gives back, in one transaction each: at no moment is there none.")
        stand_in = Timer("stand-in timer", timer.ticks)
        vmm.swap(timer, stand_in)
        guest.run_until(lambda: stand_in.was_read)
        vmm.swap(stand_in, timer)
        print("  the guest has read it, and has not noticed")

        print("\n7. A second console wants the same ports. It is refused, and nothing has changed.")
        try:
            vmm.devices.add_device("console2", Console())
        except DeviceModelError as error:
            print(f"  {type(error).__name__}: {error}")
    finally:
        guest.halt()

    print("\n8. The guest halts; every device is unplugged.")
    for name in list(vmm.devices):
        vmm.unplug(name)
    print(f"  ranges on the bus: {len(vmm.io.mmio_bus) + len(vmm.io.pio_bus)}")
    print(f"  all resources free again: {'yes' if vmm.free() == free_at_first else 'no'}")
    print(
        f"\nThe guest read the timer {guest.rounds} times and {guest.sectors_read} sectors, "
        f"and found no disk {guest.disk_missing} times. On its console:"
    )
    for line in "".join(console.text).splitlines():
        print(f"  {line}")
    if guest.trouble:
        raise SystemExit(f"the guest was in trouble: {', '.join(guest.trouble)}")
    print("It met no trouble.")


if __name__ == "__main__":
    main()
