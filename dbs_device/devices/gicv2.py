"""Generic interrupt controller of ARM's A-profile machines, version 2.

Specification: ARM IHI 0048B, GIC Architecture Specification 2.0. Left out: the security extensions (one group), the
virtualization extensions, and bypass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from ..device import DeviceIo
from ..state import AttributeState
from ._common import Irq, merge, outputs, word_bits

__all__ = ["GicV2"]

SGIS, PRIVATE, MAX_INTERRUPTS, MAX_CPUS = 16, 32, 1020, 8
SPURIOUS = 1023
IDLE = 0x100  # lower than every priority: nothing runs
U32 = 0xFFFF_FFFF
PRIVATE_BITS = (1 << PRIVATE) - 1
SGI_BITS = (1 << SGIS) - 1
ALL_BITS = range(1 << 1024)
BYTES = range(1 << 8)


class Distributor:
    """Offsets of the distributor's registers."""

    CTLR, TYPER, IIDR = 0x000, 0x004, 0x008
    ISENABLER, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER = 0x100, 0x180, 0x200, 0x280, 0x300, 0x380
    IPRIORITYR, ITARGETSR, ICFGR = 0x400, 0x800, 0xC00
    SGIR, CPENDSGIR, SPENDSGIR, PIDR2 = 0xF00, 0xF10, 0xF20, 0xFE8


class CpuInterface:
    """Offsets of the CPU interface's registers."""

    CTLR, PMR, BPR, IAR, EOIR, RPR, HPPIR, IIDR, DIR = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0xFC, 0x1000


EOI_MODE = 1 << 9  # the end of an interrupt does not deactivate it
ARM = 0x43B


class _Bits(AttributeState):
    """One bit for each interrupt: the first 32 are every CPU's own."""

    saved: ClassVar[Mapping[str, Any]] = {"private": ALL_BITS, "shared": ALL_BITS}

    def __init__(self, cpus: int) -> None:
        self.private = [0] * cpus
        self.shared = 0

    def of(self, cpu: int) -> int:
        return self.private[cpu] | self.shared

    def set(self, cpu: int, bits: int) -> None:
        self.private[cpu] |= bits & PRIVATE_BITS
        self.shared |= bits & ~PRIVATE_BITS

    def clear(self, cpu: int, bits: int) -> None:
        self.private[cpu] &= ~bits
        self.shared &= ~(bits & ~PRIVATE_BITS)


class GicV2(AttributeState):
    """The controller: a distributor and the interfaces of up to 8 CPUs. Any thread may access it.

    A bus does not tell which CPU accesses it: each CPU has a view of the distributor of its own, with its private
    interrupts, and its own interface. A machine with one CPU registers `distributors[0]` and `cpu_interfaces[0]`.

    Parameters
    ----------
    interrupts : int
        How many, private ones included: a multiple of 32 up to 1020 (1024 stands for 1020).
    irqs : sequence of callable
        Of each CPU, the line of its IRQ exception. Missing ones are not connected.
    cpus : int, optional
        How many there are, if more than `irqs` has.

    Attributes
    ----------
    distributors, cpu_interfaces : list of DeviceIo
        What is to be registered; each has a `size`.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> gic, manager = GicV2(irqs=[lambda level: print("IRQ", level)]), IoManager()
    >>> manager.register_device_io(gic.distributors[0], [Resource.MmioAddressRange(0x800_0000, 0x1000)])
    >>> manager.register_device_io(gic.cpu_interfaces[0], [Resource.MmioAddressRange(0x801_0000, 0x2000)])
    >>> manager.mmio_store(0x800_0000, 4, 1)  # the distributor on
    >>> manager.mmio_store(0x800_0104, 4, 1 << 1)  # interrupt 33 enabled
    >>> manager.mmio_store(0x801_0004, 4, 0xF0)  # priorities above 0xF0 pass
    >>> manager.mmio_store(0x801_0000, 4, 1)  # the interface on
    >>> uart_irq = gic.spi(1)
    >>> uart_irq(True)
    IRQ True
    >>> manager.mmio_load(0x801_000C, 4)  # acknowledge
    IRQ False
    33
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "_enabled": None,
        "_levels": None,
        "_latched": None,
        "_active": None,
        "_edge": None,
        "_private_priorities": BYTES,
        "_priorities": BYTES,
        "_targets": BYTES,
        "_sgi_sources": BYTES,
        "_is_on": None,
        "_control": range(1 << 10),
        "_mask": BYTES,
        "_binary_point": range(8),
        "_running": [[range(1 << 13)]],
    }

    def __init__(self, *, interrupts: int = 288, irqs: Sequence[Irq] = (), cpus: int | None = None) -> None:
        cpus = max(len(irqs), 1) if cpus is None else cpus
        if interrupts % 32 or not PRIVATE <= interrupts <= 1024:
            raise ValueError(f"a GIC has a multiple of 32 interrupts, 32 to 1024, not {interrupts}")
        if not 1 <= cpus <= MAX_CPUS:
            raise ValueError(f"a GIC has 1 to {MAX_CPUS} CPUs, not {cpus}")
        self.interrupts = interrupts
        self.cpus = cpus
        self._irqs = outputs(irqs, cpus, "CPUs")
        self._lock = threading.RLock()
        self._existing = (1 << min(interrupts, MAX_INTERRUPTS)) - 1
        self._enabled = _Bits(cpus)
        self._levels = _Bits(cpus)  # the inputs
        self._latched = _Bits(cpus)  # pending by an edge or by software
        self._active = _Bits(cpus)
        self._edge = _Bits(cpus)
        for cpu in range(cpus):
            self._enabled.set(cpu, SGI_BITS)
            self._edge.set(cpu, SGI_BITS)
        self._private_priorities = [bytearray(PRIVATE) for _ in range(cpus)]
        self._priorities = bytearray(interrupts)
        self._targets = bytearray(interrupts)
        self._sgi_sources = [bytearray(SGIS) for _ in range(cpus)]  # a bit for each CPU that asks
        self._is_on = False
        self._control = [0] * cpus
        self._mask = [0] * cpus
        self._binary_point = [0] * cpus
        self._running: list[list[int]] = [[] for _ in range(cpus)]  # what was acknowledged: id, SGIs' source << 10
        self.distributors = [
            _Port(0x1000, partial(self._load_distributor, cpu), partial(self._store_distributor, cpu), f"GICD {cpu}")
            for cpu in range(cpus)
        ]
        self.cpu_interfaces = [
            _Port(0x2000, partial(self._load_interface, cpu), partial(self._store_interface, cpu), f"GICC {cpu}")
            for cpu in range(cpus)
        ]

    def spi(self, number: int) -> Irq:
        """Return the input of a shared interrupt.

        Parameters
        ----------
        number : int
            From 0: 32 less than the interrupt's ID. A `ValueError` if there is no such interrupt.

        Returns
        -------
        callable
            Called with the level.
        """
        identifier = PRIVATE + number
        if not PRIVATE <= identifier < min(self.interrupts, MAX_INTERRUPTS):
            raise ValueError(f"this GIC has {self.interrupts - PRIVATE} shared interrupts: there is no {number}")
        return partial(self._set_input, 0, 1 << identifier)

    def ppi(self, cpu: int, identifier: int) -> Irq:
        """Return the input of a private interrupt of a CPU.

        Parameters
        ----------
        cpu : int
            Which one.
        identifier : int
            16 to 31: the interrupt's ID. A `ValueError` for any other.

        Returns
        -------
        callable
            Called with the level.
        """
        if not SGIS <= identifier < PRIVATE or not 0 <= cpu < self.cpus:
            raise ValueError(f"private interrupts are 16 to 31 of CPUs 0 to {self.cpus - 1}: not {identifier} of {cpu}")
        return partial(self._set_input, cpu, 1 << identifier)

    def _set_input(self, cpu: int, bit: int, level: bool) -> None:
        with self._lock:
            if level:
                if not self._levels.of(cpu) & bit and self._edge.of(cpu) & bit:
                    self._latched.set(cpu, bit)
                self._levels.set(cpu, bit)
            else:
                self._levels.clear(cpu, bit)
            self._update()

    # Which interrupt comes first.

    def _pending(self, cpu: int) -> int:
        sgis = sum(1 << number for number, sources in enumerate(self._sgi_sources[cpu]) if sources)
        return self._latched.of(cpu) & ~SGI_BITS | self._levels.of(cpu) & ~self._edge.of(cpu) | sgis

    def _priority(self, cpu: int, identifier: int) -> int:
        return self._private_priorities[cpu][identifier] if identifier < PRIVATE else self._priorities[identifier]

    def _best(self, cpu: int) -> tuple[int, int]:
        """Return ID and priority of the first interrupt that could be acknowledged."""
        if not self._is_on:
            return SPURIOUS, IDLE
        candidates = self._pending(cpu) & self._enabled.of(cpu) & ~self._active.of(cpu)
        best, highest = SPURIOUS, IDLE
        while candidates:
            identifier = (candidates & -candidates).bit_length() - 1
            candidates &= candidates - 1
            if identifier >= PRIVATE and self.cpus > 1 and not self._targets[identifier] >> cpu & 1:
                continue
            priority = self._priority(cpu, identifier)
            if priority < highest:
                best, highest = identifier, priority
        return best, highest

    def _running_priority(self, cpu: int) -> int:
        return min((self._priority(cpu, each & 0x3FF) for each in self._running[cpu]), default=IDLE)

    def _group(self, cpu: int, priority: int) -> int:
        """Return the part of a priority that decides whether an interrupt preempts another one."""
        return priority & ~((2 << self._binary_point[cpu]) - 1)

    def _signalled(self, cpu: int) -> int:
        """Return the interrupt that the CPU is told of, or 1023."""
        identifier, priority = self._best(cpu)
        if not self._control[cpu] & 1 or priority >= self._mask[cpu]:
            return SPURIOUS
        if self._group(cpu, priority) >= self._group(cpu, self._running_priority(cpu)):
            return SPURIOUS
        return identifier

    def _update(self) -> None:
        for cpu, irq in enumerate(self._irqs):
            irq.set(self._signalled(cpu) != SPURIOUS)

    # The CPU interface.

    def _load_interface(self, cpu: int, offset: int, size: int) -> int:
        with self._lock:
            return word_bits(self._interface_word(cpu, offset & ~3), offset, size, 4)

    def _interface_word(self, cpu: int, offset: int) -> int:
        match offset:
            case CpuInterface.CTLR:
                return self._control[cpu]
            case CpuInterface.PMR:
                return self._mask[cpu]
            case CpuInterface.BPR:
                return self._binary_point[cpu]
            case CpuInterface.IAR:
                return self._acknowledge(cpu)
            case CpuInterface.RPR:
                return min(self._running_priority(cpu), 0xFF)
            case CpuInterface.HPPIR:
                identifier, _ = self._best(cpu)
                return self._with_source(cpu, identifier)
            case CpuInterface.IIDR:
                return 2 << 16 | ARM
        return 0

    def _with_source(self, cpu: int, identifier: int) -> int:
        """Return what an acknowledgement reads: the ID, and of an SGI the first CPU that has sent it."""
        if identifier >= SGIS:
            return identifier
        sources = self._sgi_sources[cpu][identifier]
        return identifier | (sources & -sources).bit_length() - 1 << 10

    def _acknowledge(self, cpu: int) -> int:
        identifier = self._signalled(cpu)
        if identifier == SPURIOUS:
            return SPURIOUS
        acknowledged = self._with_source(cpu, identifier)
        if identifier < SGIS:
            self._sgi_sources[cpu][identifier] &= ~(1 << (acknowledged >> 10))
        self._latched.clear(cpu, 1 << identifier)
        self._active.set(cpu, 1 << identifier)
        self._running[cpu].append(acknowledged)
        self._update()
        return acknowledged

    def _store_interface(self, cpu: int, offset: int, size: int, value: int) -> None:
        value &= U32
        with self._lock:
            match offset & ~3:
                case CpuInterface.CTLR:
                    self._control[cpu] = merge(self._control[cpu], offset, size, value, 4) & (EOI_MODE | 1)
                case CpuInterface.PMR:
                    self._mask[cpu] = merge(self._mask[cpu], offset, size, value, 4) & 0xFF
                case CpuInterface.BPR:
                    self._binary_point[cpu] = merge(self._binary_point[cpu], offset, size, value, 4) & 7
                case CpuInterface.EOIR:
                    if value & 0x1FFF in self._running[cpu]:
                        self._running[cpu].remove(value & 0x1FFF)
                        if not self._control[cpu] & EOI_MODE:
                            self._active.clear(cpu, 1 << (value & 0x3FF))
                case CpuInterface.DIR:
                    if self._control[cpu] & EOI_MODE:
                        self._active.clear(cpu, 1 << (value & 0x3FF))
            self._update()

    # The distributor.

    def _load_distributor(self, cpu: int, offset: int, size: int) -> int:
        with self._lock:
            return word_bits(self._distributor_word(cpu, offset & ~3), offset, size, 4)

    def _distributor_word(self, cpu: int, offset: int) -> int:
        bits = self._bits_at(cpu, offset)
        if bits is not None:
            return bits >> 8 * (offset % 0x80) & U32
        first = offset - Distributor.IPRIORITYR
        if 0 <= first < self.interrupts:
            return sum(self._priority(cpu, first + i) << 8 * i for i in range(4))
        first = offset - Distributor.ITARGETSR
        if 0 <= first < self.interrupts and self.cpus == 1:
            return 0  # there is nothing to choose
        if 0 <= first < PRIVATE:
            return (1 << cpu) * 0x0101_0101
        if 0 <= first < self.interrupts:
            return int.from_bytes(self._targets[first : first + 4], "little")
        first = 4 * (offset - Distributor.ICFGR)
        if 0 <= first < self.interrupts:
            edge = self._edge.of(cpu) >> first
            return sum((edge >> i & 1) << 2 * i + 1 for i in range(16))
        for start in (Distributor.CPENDSGIR, Distributor.SPENDSGIR):
            if 0 <= offset - start < SGIS:
                return int.from_bytes(self._sgi_sources[cpu][offset - start : offset - start + 4], "little")
        match offset:
            case Distributor.CTLR:
                return int(self._is_on)
            case Distributor.TYPER:
                return self.interrupts // 32 - 1 | self.cpus - 1 << 5
            case Distributor.IIDR:
                return ARM
            case Distributor.PIDR2:
                return 0x2B
        return 0

    def _bits_at(self, cpu: int, offset: int) -> int | None:
        """Return what a group of registers with a bit for each interrupt reads as."""
        match offset & ~0x7F:
            case Distributor.ISENABLER | Distributor.ICENABLER:
                return self._enabled.of(cpu)
            case Distributor.ISPENDR | Distributor.ICPENDR:
                return self._pending(cpu)
            case Distributor.ISACTIVER | Distributor.ICACTIVER:
                return self._active.of(cpu)
        return None

    def _store_distributor(self, cpu: int, offset: int, size: int, value: int) -> None:
        with self._lock:
            if not self._store_bits(cpu, offset & ~0x7F, (value & U32) << 8 * (offset % 0x80) & self._existing):
                self._store_word(cpu, offset, min(size, 4), value & U32)
            self._update()

    def _store_bits(self, cpu: int, group: int, bits: int) -> bool:
        """Store to a group of registers with a bit for each interrupt; return whether it is one."""
        match group:
            case Distributor.ISENABLER:
                self._enabled.set(cpu, bits)
            case Distributor.ICENABLER:
                self._enabled.clear(cpu, bits & ~SGI_BITS)  # SGIs are always enabled
            case Distributor.ISPENDR:
                self._latched.set(cpu, bits & ~SGI_BITS)
            case Distributor.ICPENDR:
                self._latched.clear(cpu, bits)
            case Distributor.ISACTIVER:
                self._active.set(cpu, bits)
            case Distributor.ICACTIVER:
                self._active.clear(cpu, bits)
            case _:
                return False
        return True

    def _store_word(self, cpu: int, offset: int, size: int, value: int) -> None:
        if Distributor.IPRIORITYR <= offset < Distributor.IPRIORITYR + self.interrupts:
            for i, byte in enumerate(value.to_bytes(4, "little")[:size]):
                self._set_priority(cpu, offset - Distributor.IPRIORITYR + i, byte)
        elif Distributor.ITARGETSR + PRIVATE <= offset < Distributor.ITARGETSR + self.interrupts:
            for i, byte in enumerate(value.to_bytes(4, "little")[:size]):
                identifier = offset - Distributor.ITARGETSR + i
                if identifier < self.interrupts:
                    self._targets[identifier] = byte & (1 << self.cpus) - 1
        elif Distributor.ICFGR <= offset < Distributor.ICFGR + self.interrupts // 4:
            word = offset & ~3
            flags = merge(self._distributor_word(cpu, word), offset, size, value, 4)
            for i in range(16):
                bit = 1 << 4 * (word - Distributor.ICFGR) + i & ~SGI_BITS
                (self._edge.set if flags >> 2 * i + 1 & 1 else self._edge.clear)(cpu, bit)
        elif offset == Distributor.SGIR:
            self._send_sgi(cpu, value)
        elif offset == Distributor.CTLR:
            self._is_on = bool(value & 1)
        else:
            for start, change in ((Distributor.CPENDSGIR, self._clear_sgi), (Distributor.SPENDSGIR, self._set_sgi)):
                for i, byte in enumerate(value.to_bytes(4, "little")[:size]):
                    if 0 <= offset + i - start < SGIS:
                        change(cpu, offset + i - start, byte & (1 << self.cpus) - 1)

    def _set_priority(self, cpu: int, identifier: int, priority: int) -> None:
        if identifier < PRIVATE:
            self._private_priorities[cpu][identifier] = priority
        elif identifier < self.interrupts:
            self._priorities[identifier] = priority

    def _set_sgi(self, cpu: int, number: int, sources: int) -> None:
        self._sgi_sources[cpu][number] |= sources

    def _clear_sgi(self, cpu: int, number: int, sources: int) -> None:
        self._sgi_sources[cpu][number] &= ~sources

    def _send_sgi(self, cpu: int, value: int) -> None:
        match value >> 24 & 3:
            case 0:
                targets = value >> 16 & 0xFF
            case 1:
                targets = ~(1 << cpu)
            case 2:
                targets = 1 << cpu
            case _:
                targets = 0
        for target in range(self.cpus):
            if targets >> target & 1:
                self._sgi_sources[target][value & 0xF] |= 1 << cpu

    def state_loaded(self) -> None:
        """Set the lines."""
        self._update()

    def __repr__(self) -> str:
        return f"<GicV2, {self.interrupts} interrupts, {self.cpus} CPUs>"


class _Port(DeviceIo):
    """One of the register blocks, as a CPU sees it."""

    def __init__(
        self, size: int, load: Callable[[int, int], int], store: Callable[[int, int, int], None], name: str
    ) -> None:
        self.size = size
        self._load = load
        self._store = store
        self._name = name

    def load(self, base: int, offset: int, size: int) -> int:
        return self._load(offset, size)

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        self._store(offset, size, value)

    def __repr__(self) -> str:
        return f"<{self._name}>"
