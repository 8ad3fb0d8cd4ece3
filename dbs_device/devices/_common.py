"""Pieces of the devices: interrupt outputs, parts of registers, the state of banks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from ..errors import NotRamError, StateError
from ..memory import GuestMemory
from ..registers import RegisterBank
from ..state import AttributeState

__all__ = [
    "TIMES",
    "BankState",
    "ByteSink",
    "Irq",
    "Output",
    "merge",
    "no_irq",
    "outputs",
    "ram_views",
    "seconds_since_1970",
    "word_bits",
]

Irq: TypeAlias = Callable[[bool], object]
"""What a device calls with the level of an interrupt line. An `IrqLine` is one."""


TIMES = range(-(1 << 63), 1 << 63)
"""What a state may have as a time in ns."""

ByteSink: TypeAlias = Callable[[int], object]
"""What a device calls with each byte that it sends."""


def no_irq(level: bool) -> None:
    """Leave an interrupt line unconnected."""


class Output:
    """An interrupt line as its device sees it: calls it on edges only. The device's lock protects it.

    Parameters
    ----------
    irq : callable
        The line.
    """

    __slots__ = ("_irq", "level")

    def __init__(self, irq: Irq) -> None:
        if not callable(irq):
            raise TypeError(f"an interrupt line is called with its level, which {type(irq).__name__} cannot be")
        self._irq = irq
        self.level = False

    def set(self, level: bool) -> None:
        """Pass a level on if it is a new one."""
        if level != self.level:
            self.level = level
            self._irq(level)

    def save_state(self) -> bool:
        """Return the level."""
        return self.level

    def check_state(self, state: object) -> None:
        """Raise `StateError` if a state is not a level."""
        if not isinstance(state, bool):
            raise StateError(f"the level of an interrupt line is a bool, not {state!r}")

    def load_state(self, state: bool) -> None:
        """Set the level."""
        self.check_state(state)
        self.set(state)


def outputs(irqs: Sequence[Irq], count: int, what: str) -> list[Output]:
    """Return `count` outputs: to the lines given, in order, then unconnected ones.

    Raises
    ------
    ValueError
        More lines are given. The message calls what they belong to `what`.
    """
    if len(irqs) > count:
        raise ValueError(f"{len(irqs)} interrupt lines for {count} {what}")
    return [Output(irq) for irq in (*irqs, *[no_irq] * (count - len(irqs)))]


def ram_views(memory: GuestMemory, address: int, size: int) -> Iterator[memoryview]:
    """Yield a buffer of the guest, in pieces, where several `Ram` are side by side.

    Raises
    ------
    NotRamError
        The rest of the buffer does not begin in RAM. A device's registers are not: a guest could make a device access
        itself.
    OverflowError
        It runs past the end of the address space.
    """
    while size:
        try:
            view = memory.view(address, size)
        except NotRamError as error:
            if error.ram_size == 0:
                raise
            view = memory.view(address, error.ram_size)
        yield view
        address, size = address + len(view), size - len(view)


def seconds_since_1970(date: datetime | None) -> int:
    """Return a date as a Unix time; UTC if it has no time zone, the host's clock if it is None.

    >>> seconds_since_1970(datetime(2000, 1, 1))
    946684800
    """
    if date is None:
        date = datetime.now(UTC)
    elif date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return int(date.timestamp())


def word_bits(value: int, offset: int, size: int, word: int) -> int:
    """Return what a load of `size` bytes at `offset` sees of a register of `word` bytes with this value.

    >>> hex(word_bits(0x1122334455667788, 0x1004, 4, 8))
    '0x11223344'
    """
    return value >> 8 * (offset % word) & (1 << 8 * size) - 1


def merge(old: int, offset: int, size: int, value: int, word: int) -> int:
    """Return the value of a register of `word` bytes after a store of `size` bytes at `offset`.

    >>> hex(merge(0x1122334455667788, 0x1004, 4, 0, 8))
    '0x55667788'
    """
    shift = 8 * (offset % word)
    mask = (1 << 8 * size) - 1 << shift
    return (old & ~mask | value << shift & mask) & (1 << 8 * word) - 1


class BankState(AttributeState):
    """A mixin for register banks whose state is their registers, and some attributes."""

    def save_state(self) -> dict[str, Any]:
        """Return the registers, and the attributes that `saved` names."""
        return {"registers": RegisterBank.save_state(self._bank), **super().save_state()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state that does not fit."""
        if not isinstance(state, Mapping) or "registers" not in state:
            raise StateError(f"the state of {type(self).__name__} has registers, which are not in {state!r}")
        RegisterBank.check_state(self._bank, state["registers"])
        super().check_state({name: value for name, value in state.items() if name != "registers"})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load registers and attributes; `StateError` if they do not fit. Interrupt lines follow."""
        self.check_state(state)
        RegisterBank.load_state(self._bank, state["registers"])
        super().load_state(state)

    @property
    def _bank(self) -> RegisterBank:
        assert isinstance(self, RegisterBank)
        return self
