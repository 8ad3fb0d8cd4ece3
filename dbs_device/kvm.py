"""The bus behind KVM, for the author of a small VMM (Linux on x86-64 and arm64).

The caller makes the virtual machine, by the ioctls of ``/dev/kvm``. A `Vcpu` runs a virtual processor, and serves its
I/O and MMIO exits from a manager's devices, without the GIL for native ones. A `Vm` gives the kernel what it can do
without an exit: `Ram` and `Rom` become memory slots, doorbells become eventfds, interrupt lines reach the controllers
in the kernel.

How a device sees accesses is KVM's doing:

* An access that crosses a page, or is wider than 8 bytes, is split; MMIO of 3, 5, 6 and 7 bytes occurs. REP INS and REP
  OUTS are strings: each item is an access.
* Memory that no slot covers exits, byte-granular: ranges of several devices may share a page. A range in a writable
  slot is never trapped, and refused (`GuestMemoryError`); in a read-only one its writes are trapped, its reads are not.
* If a device raises, the guest is resumed *behind* the instruction, unlike with Unicorn: see `Vcpu`.
"""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

try:
    from ._engine.kvm import Vcpu
    from ._engine.kvm_vm import set_coalescing, set_ioeventfd, set_irq_line, set_irqfd, set_memory_slot
except ModuleNotFoundError as error:
    if error.name != "dbs_device._engine.kvm":
        raise
    raise ImportError("dbs_device.kvm needs Linux on x86-64 or arm64", name="dbs_device.kvm") from None

from ._bus import IoManager
from ._engine.address_map import MappedRange
from ._engine.kvm_exits import Counters, Exit
from .address import Space
from .errors import GuestMemoryError, NoDeviceError, format_range
from .interrupts import IrqLine
from .memory import HostMemory, Rom, memory_of

__all__ = ["KICKED", "Coalescing", "Counters", "Doorbell", "Exit", "Irqfd", "Vcpu", "Vm"]

KICKED = Exit.KICKED
"""What `Vcpu.run` returns for a `Vcpu.kick`."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


_FollowerT = TypeVar("_FollowerT", bound="_Follower")


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Closing:
    """A context manager that closes at its end."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Slot:
    """Guest memory that the host's backs."""

    base: int
    size: int
    address: int
    read_only: bool
    device: object = field(compare=False)  # keeps the memory alive

    @property
    def last(self) -> int:
        return self.base + self.size - 1

    def overlaps(self, base: int, last: int) -> bool:
        return self.base <= last and base <= self.last


def _slot_of(mapped: MappedRange) -> _Slot | None:
    """Return the slot of the pages that are whole in a range of memory and in the host's; None if there are none."""
    memory = memory_of(mapped)
    if memory is None or (memory.base - memory.address) % _PAGE:
        return None
    first = -(-memory.base // _PAGE) * _PAGE
    size = (memory.last + 1) // _PAGE * _PAGE - first
    if size <= 0:
        return None
    return _Slot(first, size, memory.address + first - memory.base, not memory.writable, memory.device)


def _check_trapped(slots: list[_Slot], ranges: tuple[MappedRange, ...]) -> None:
    """Raise `GuestMemoryError` if a range is inside a writable slot."""
    for slot, mapped in itertools.product(slots, ranges):
        if mapped.space is Space.MMIO and not slot.read_only and slot.overlaps(mapped.base, mapped.last):
            raise GuestMemoryError(mapped.base, mapped.last, mapped.device, slot.base, slot.last)


class Vm(_Closing):
    """What the kernel does for a manager's devices without an exit.

    The page-aligned part of every range of a `Ram` or `Rom` is a memory slot, which the guest reads and executes, and
    writes where it is a `Ram`, at full speed; the writes to a `Rom` exit and reach its `on_write`. The slots follow the
    ranges: a change of the map changes them before it returns. If that fails (`GuestMemoryError`, `OSError`), the
    exception comes out of the change, which stands.

    Parameters
    ----------
    fd : int or file object
        The VM, from KVM_CREATE_VM. It is not closed.
    manager : IoManager
        The bus.
    first_slot : int
        Number of the first memory slot to use; those below are the caller's.

    Raises
    ------
    GuestMemoryError
        A range is inside a writable slot.
    OSError
        The kernel refuses a slot: it overlaps one of the caller's, or is beyond the guest's physical addresses.
    TypeError
        `manager` is not an `IoManager`.

    Notes
    -----
    A `Vm` lives as long as its manager, unless it is closed. What is to be closed is a context manager as well: `Vm`,
    `Doorbell`, `Coalescing` and `Irqfd`.
    """

    def __init__(self, fd: int | _HasFileno, manager: IoManager, *, first_slot: int = 0) -> None:
        if not isinstance(manager, IoManager):
            raise TypeError(f"Vm takes an IoManager, not {type(manager).__name__}")
        self._file = fd
        self._fd = fd if isinstance(fd, int) else fd.fileno()
        self.manager = manager
        self._lock = threading.RLock()  # guards what follows, and the kernel's view of it
        self._first_slot = first_slot
        self._slots: dict[int, _Slot] = {}  # by number
        self._own: dict[int, _Slot] = {}  # what `map` has been given, by base
        self._followers: list[_Follower] = []
        self._is_open = True
        # Not a bound method, which the manager would hold weakly: the kernel uses the memory of devices that only
        # `_slots` may keep alive.
        self._unsubscribe = manager.on_change(lambda added, removed: self._sync())
        try:
            self._sync()
        except BaseException:
            self.close()
            raise

    def map(self, base: int, memory: HostMemory, *, read_only: bool = False) -> None:
        """Map memory that is not on the bus.

        Parameters
        ----------
        base : int
            Guest address; a multiple of the page size.
        memory : Ram or Rom
            The memory: whole pages, at a page-aligned host address.
        read_only : bool
            Whether writes exit, as they do for a `Rom`. A device may then own the addresses, and unmap and map the
            memory from its own handlers: so does flash, which reads as its array or as its registers.

        Raises
        ------
        GuestMemoryError
            A device has a range there, and the memory is writable. Nothing is mapped.
        ValueError
            It is not aligned, or overlaps memory that is mapped.
        OSError
            The kernel refuses it.
        """
        slot = _Slot(base, memory.size, memory.address, read_only or isinstance(memory, Rom), memory)
        if (base | slot.size | slot.address) % _PAGE or base < 0:
            raise ValueError(
                f"memory is mapped by pages of {_PAGE:#x} bytes, not at {base:#x} with {slot.size:#x} bytes "
                f"at {slot.address:#x} of the host"
            )
        with self._lock:
            self._check_open()
            for other in self._slots.values():
                if other.overlaps(slot.base, slot.last):
                    new, old = format_range(slot.base, slot.last), format_range(other.base, other.last)
                    raise ValueError(f"{new} overlaps memory that is mapped at {old}")
            _check_trapped([slot], self.manager.mapped_ranges())
            self._add(slot)
            self._own[base] = slot

    def unmap(self, base: int) -> None:
        """Undo `map`.

        Raises
        ------
        ValueError
            Nothing has been mapped there by `map`.
        """
        with self._lock:
            slot = self._own.pop(base, None)
            if slot is None:
                raise ValueError(f"no memory has been mapped at {base:#x}")
            self._remove(slot)

    def irq_line(self, gsi: int) -> IrqLine:
        """Return a line that drives an input of the interrupt controllers in the kernel (KVM_IRQ_LINE).

        Parameters
        ----------
        gsi : int
            On x86 the number of the input; on arm64 the fields that KVM_IRQ_LINE packs into ``irq``.
        """
        return IrqLine(partial(set_irq_line, self._fd, gsi))

    def irqfd(self, gsi: int) -> Irqfd:
        """Return an eventfd that raises an interrupt: an edge, from any thread, without the GIL (KVM_IRQFD).

        Parameters
        ----------
        gsi : int
            The number of the input.

        Raises
        ------
        OSError
            The VM has no interrupt controllers in the kernel.
        """
        return Irqfd(self, gsi)

    def doorbell(
        self, address: int, size: int, value: int | None = None, *, space: Space | str = Space.MMIO
    ) -> Doorbell:
        """Have writes to a register signal an eventfd in place of an exit (KVM_IOEVENTFD).

        The doorbell follows the range that owns the register when the device is registered elsewhere, and rests while
        it is not registered. The device does not see the writes.

        Parameters
        ----------
        address : int
            Where the register is now.
        size : int
            Bytes of a write: 1, 2, 4 or 8. Others exit.
        value : int, optional
            The only value that rings; others exit. By default, any does.
        space : Space or str
            The space.

        Raises
        ------
        NoDeviceError
            No range owns the register.
        ValueError
            `size` is not one of these, or `value` does not fit it.
        OSError
            The kernel refuses it, for example because the register has such a doorbell.
        """
        return self._follow(Doorbell(self, Space(space), address, size, value), address)

    def coalesce(self, address: int, size: int, *, space: Space | str = Space.MMIO) -> Coalescing:
        """Have writes to registers wait until the next exit (KVM_REGISTER_COALESCED_MMIO): see `Vcpu`.

        For registers whose writes may be late: the memory of a screen, the ports that select its registers. It follows
        the range as a `doorbell` does.

        Parameters
        ----------
        address, size : int
            The registers, which one range owns.
        space : Space or str
            The space.

        Raises
        ------
        NoDeviceError
            No range owns all of them.
        ValueError
            `size` is not 1 or more.
        OSError
            The kernel refuses it.
        """
        return self._follow(Coalescing(self, Space(space), address, size), address)

    def close(self) -> None:
        """Remove the slots, doorbells and coalescing. The interrupt lines go on to work."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            self._unsubscribe()
            for follower in list(self._followers):
                follower.close()
            for slot in list(self._slots.values()):
                self._remove(slot)

    def __repr__(self) -> str:
        return f"<Vm of {self.manager!r}: {len(self._slots)} memory slots, {len(self._followers)} doorbells and zones>"

    # -- following the map

    def _check_open(self) -> None:
        if not self._is_open:
            raise ValueError("the Vm is closed")

    def _sync(self) -> None:
        """Make slots and followers agree with the ranges, as far as the kernel allows; raise the first error."""
        with self._lock:
            if not self._is_open:
                return
            # Not what the callback was told: changes of several threads may be reported out of order.
            ranges = self.manager.mapped_ranges()
            wanted = [slot for each in ranges if (slot := _slot_of(each)) is not None]
            for slot in set(self._slots.values()) - {*wanted, *self._own.values()}:
                self._remove(slot)
            moving = [(each, target) for each in self._followers if (target := each._target(ranges)) != each.address]
            for follower, _ in moving:
                follower._disarm()
            errors: list[Exception] = []
            for act in (
                *(partial(self._add, slot) for slot in wanted if slot not in self._slots.values()),
                *(partial(follower._arm, target) for follower, target in moving if target is not None),
                partial(_check_trapped, list(self._own.values()), ranges),  # the manager's own ranges do not overlap
            ):
                try:
                    act()
                except Exception as error:
                    errors.append(error)
            if errors:
                raise errors[0]

    def _add(self, slot: _Slot) -> None:
        number = self._first_slot
        while number in self._slots:
            number += 1
        set_memory_slot(self._fd, number, slot.base, slot.size, slot.address, slot.read_only)
        self._slots[number] = slot

    def _remove(self, slot: _Slot) -> None:
        number = next(number for number, each in self._slots.items() if each == slot)
        set_memory_slot(self._fd, number, slot.base, 0, slot.address, False)
        del self._slots[number]

    def _follow(self, follower: _FollowerT, address: int) -> _FollowerT:
        with self._lock:
            self._check_open()
            self._followers.append(follower)
            try:
                follower._arm(address)
            except BaseException:
                follower.close()
                raise
        return follower


class _Follower(_Closing):
    """What the kernel does at a register of a device, wherever the device is registered."""

    def __init__(self, vm: Vm, space: Space, address: int, size: int) -> None:
        owner = next(
            (each for each in vm.manager.mapped_ranges() if each.space is space and each.base <= address <= each.last),
            None,
        )
        if owner is None or address + size - 1 > owner.last:
            raise NoDeviceError(space, address, size, owner and (owner.base, owner.last, owner.device))
        self.space = space
        self.size = size
        self.address: int | None = None
        self._vm = vm
        self._device = owner.device
        self._offset = address - owner.base
        self._range_size = owner.last - owner.base + 1

    def _target(self, ranges: tuple[MappedRange, ...]) -> int | None:
        """Return where the register is: in a range of the device that is as long as the one in which it was."""
        found = [
            each.base + self._offset
            for each in ranges
            if (each.space, each.last - each.base + 1) == (self.space, self._range_size) and each.device is self._device
        ]
        return self.address if self.address in found else next(iter(found), None)

    def _arm(self, address: int) -> None:
        self._set(address, True)
        self.address = address

    def _disarm(self) -> None:
        if self.address is not None:
            self._set(self.address, False)
            self.address = None

    def _set(self, address: int, on: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End it: writes exit again."""
        with self._vm._lock:
            if self in self._vm._followers:
                self._vm._followers.remove(self)
                self._disarm()


class Doorbell(_Follower):
    """An eventfd that the kernel signals for writes to a register. Made by `Vm.doorbell`.

    It can be waited for like any file: `select`, `selectors`, `asyncio.loop.add_reader`.

    Attributes
    ----------
    space : Space
        The space of the register.
    address : int or None
        Where the register is; None while its device is not registered.
    size : int
        Bytes of the writes that ring.
    value : int or None
        The value that rings; None for any.
    """

    def __init__(self, vm: Vm, space: Space, address: int, size: int, value: int | None) -> None:
        if size not in (1, 2, 4, 8):
            raise ValueError(f"a doorbell takes writes of 1, 2, 4 or 8 bytes, not {size}")
        if value is not None and not 0 <= value < 1 << 8 * size:
            raise ValueError(f"value {value:#x} does not fit {size} bytes")
        super().__init__(vm, space, address, size)
        self.value = value
        self._event = _Event()

    def fileno(self) -> int:
        """Return the eventfd, which is nonblocking."""
        return self._event.fileno()

    def read(self) -> int:
        """Return how often it has rung since the last read; 0 if it has not."""
        try:
            return os.eventfd_read(self._event.fileno())
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """End it: writes exit again. The eventfd is closed."""
        super().close()
        self._event.close()

    def _set(self, address: int, on: bool) -> None:
        set_ioeventfd(self._vm._fd, self.space, address, self.size, self.value, self._event.fileno(), on)


class Coalescing(_Follower):
    """A zone of registers whose writes wait until the next exit. Made by `Vm.coalesce`.

    Attributes
    ----------
    space : Space
        The space of the registers.
    address : int or None
        The first of them; None while their device is not registered.
    size : int
        Bytes of the zone.
    """

    def __init__(self, vm: Vm, space: Space, address: int, size: int) -> None:
        if size < 1:
            raise ValueError(f"a zone has 1 byte or more, not {size}")
        super().__init__(vm, space, address, size)

    def _set(self, address: int, on: bool) -> None:
        set_coalescing(self._vm._fd, self.space, address, self.size, on)


class Irqfd(_Closing):
    """An eventfd that raises an edge of an interrupt. Made by `Vm.irqfd`.

    It is called with a level, as the sink of an `IrqLine` is, and a rising edge raises the interrupt. Code without the
    GIL writes the 8 bytes of the integer 1 to the file instead.

    Attributes
    ----------
    gsi : int
        The number of the input.
    """

    def __init__(self, vm: Vm, gsi: int) -> None:
        self.gsi = gsi
        self._vm = vm
        self._event = _Event()
        set_irqfd(vm._fd, gsi, self._event.fileno(), True)

    def __call__(self, level: bool) -> None:
        """Take a level: a high one raises the interrupt."""
        if level:
            os.eventfd_write(self._event.fileno(), 1)

    def fileno(self) -> int:
        """Return the eventfd."""
        return self._event.fileno()

    def close(self) -> None:
        """Disconnect it, and close the eventfd."""
        if self._event.fileno() >= 0:
            set_irqfd(self._vm._fd, self.gsi, self._event.fileno(), False)
            self._event.close()


class _Event:
    """A nonblocking eventfd."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close  # the kernel disconnects what is closed
