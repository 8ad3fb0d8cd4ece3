"""The names of what an access reaches: device, register, fields."""

from __future__ import annotations

import bisect
from typing import Any, NamedTuple

from .. import IoManager, Space
from .._engine.trace_data import ranges_of
from ..device import Mutex
from ..registers import RegisterBank, _shown
from ..trace import Access, Trace, TraceRange

__all__ = ["Names", "Owner"]


class Owner(NamedTuple):
    """The range that an access begins in; without one, `name` is None and `base` is 0."""

    name: str | None
    base: int
    bank: RegisterBank | None


def _overlaps(one: TraceRange, others: tuple[TraceRange, ...]) -> bool:
    return any(each.space == one.space and each.base <= one.last and one.base <= each.last for each in others)


class Names:
    """Names by a machine's map, or else by that of a trace.

    Parameters
    ----------
    trace : Trace
        Its map is used where the manager has no range.
    manager : IoManager, optional
        The machine, whose register banks name registers and fields.
    """

    def __init__(self, trace: Trace, manager: IoManager | None = None) -> None:
        own = () if manager is None else ranges_of(manager)
        self.ranges: tuple[TraceRange, ...] = (*own, *(each for each in trace.ranges if not _overlaps(each, own)))
        self._order: Any = "little" if manager is None else manager.byteorder
        self._banks: dict[tuple[Space, int], RegisterBank] = {}
        for each in () if manager is None else manager.mapped_ranges():
            device = each.device._device if isinstance(each.device, Mutex) else each.device
            if isinstance(device, RegisterBank):
                self._banks[each.space, each.base] = device
        self._sorted = {space: sorted(each for each in self.ranges if each.space == space) for space in Space}
        self._bases = {space: [each.base for each in ranges] for space, ranges in self._sorted.items()}
        self._registers: dict[tuple[Space, bool, int, int], str] = {}

    def owner(self, space: Space, address: int) -> Owner:
        """Return the range that has an address."""
        index = bisect.bisect(self._bases[space], address) - 1
        if index >= 0:
            found = self._sorted[space][index]
            if address <= found.last:
                return Owner(found.name, found.base, self._banks.get((space, found.base)))
        return Owner(None, 0, None)

    def register(self, access: Access) -> str:
        """Return the registers that an access reaches, or its offset in the range, or its address."""
        key = (access.space, access.write, access.addr, access.size)
        name = self._registers.get(key)
        if name is None:
            name = self._registers[key] = self._find_register(access)
        return name

    def _find_register(self, access: Access) -> str:
        owner = self.owner(access.space, access.addr)
        if owner.name is None:
            return f"{access.addr:#x}"
        labels = [register._label for _, register in self._reached(owner, access)]
        return ", ".join(labels) or f"+{access.addr - owner.base:#x}"

    @staticmethod
    def _reached(owner: Owner, access: Access) -> list[tuple[int, Any]]:
        if owner.bank is None:
            return []
        return owner.bank.registers_at(access.addr - owner.base, access.size, write=access.write)

    def fields(self, access: Access, one: int, other: int) -> list[str]:
        """Return how two values of an access differ: "RXNE 0 -> 1" for each field, where a bank is known."""
        owner = self.owner(access.space, access.addr)
        reached = self._reached(owner, access)
        first = access.addr - owner.base
        texts = []
        for offset, register in reached:
            assert owner.bank is not None
            order: Any = owner.bank._spec.byteorder
            size = register.spec.size
            values = []
            for value in (one, other):
                data: Any = value.to_bytes(access.size, self._order)
                content = bytearray(size)
                known = bytearray(size)
                for index in range(size):
                    if 0 <= offset + index - first < access.size:
                        content[index] = data[offset + index - first]
                        known[index] = 0xFF
                values.append((int.from_bytes(content, order), int.from_bytes(known, order)))
            (before, known_bits), (after, _) = values
            for name, field in register._fields.items():
                if (before ^ after) & field.mask and field.mask & ~known_bits == 0:
                    prefix = f"{register._label}." if len(reached) > 1 else ""
                    shown = f"{_shown(field._decoded(before))} -> {_shown(field._decoded(after))}"
                    texts.append(f"{prefix}{name} {shown}")
        return texts
