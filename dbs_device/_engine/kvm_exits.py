"""What `Vcpu.run` returns, and what a `Vcpu` counts."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from .public import exported_from

__all__ = ["Counters", "Exit"]


@exported_from("dbs_device.kvm")
class Exit(IntEnum):
    """Why `Vcpu.run` has returned: the exit reasons of ``linux/kvm.h``, and KICKED.

    A reason that a newer kernel has becomes a member with the name ``REASON_`` and its number.
    """

    KICKED = -1
    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    WATCHDOG = 21
    EPR = 23
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    HYPERV = 27
    ARM_NISV = 28
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    AP_RESET_HOLD = 32
    X86_BUS_LOCK = 33
    XEN = 34
    NOTIFY = 37
    MEMORY_FAULT = 39

    @classmethod
    def _missing_(cls, value: object) -> Exit | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"REASON_{value}"
        member._value_ = value
        return cls._value2member_map_.setdefault(value, member)  # type: ignore[return-value]


@exported_from("dbs_device.kvm")
class Counters(NamedTuple):
    """What a `Vcpu` has counted since it was made.

    Attributes
    ----------
    exits : int
        Exits of the guest, of any kind.
    mmio, pio : int
        Accesses served, to memory and to ports; each item of a string is one.
    strings : int
        Exits for several items of a port.
    coalesced : int
        Writes taken from the ring of coalesced ones; part of `mmio` and `pio`.
    interrupts : int
        Vectors injected.
    windows : int
        Exits for the interrupt window.
    interruptions : int
        Entries that a kick or a signal has interrupted.
    """

    exits: int
    mmio: int
    pio: int
    strings: int
    coalesced: int
    interrupts: int
    windows: int
    interruptions: int
