"""From the declarations of a register bank to the native layout: places, rules, index; and what is told about it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import LayoutError, format_range
from .registers import Hook, Layout

if TYPE_CHECKING:
    from ..registers import Access, Field

__all__ = ["AliasSpec", "BankSpec", "HookSpec", "RegisterSpec", "Rule", "Target", "Term", "build_layout"]

LARGEST_INDEX = 1 << 22  # granules; 32 MiB a page
MOST_LINES = 64
MOST_PAGE_BITS = 8


class Rule(NamedTuple):
    """What accesses do to each bit of a register, as masks.

    A write makes of a bit `a` where it was 1 and 0 is written, `b`: 1 and 1, `c`: 0 and 0, `d`: 0 and 1.
    """

    readable: int
    clears: int
    sets: int
    a: int
    b: int
    c: int
    d: int

    def aliased(self, action: str) -> Rule:
        """Return the rule of an alias: bits that take what is written are set, cleared or toggled instead."""
        replaced = ~self.a & self.b & ~self.c & self.d
        toggled_or_cleared = self.b & ~replaced
        a = self.a | replaced
        if action == "set":
            return self._replace(a=a)
        if action == "clear":
            return self._replace(a=a, b=toggled_or_cleared, d=self.d & ~replaced)
        return self._replace(a=a, b=toggled_or_cleared)


@dataclass
class RegisterSpec:
    """A register, or an array of registers, as it was declared; `name` is None until its bank's class is made."""

    offset: int
    size: int
    reset: int
    access: Access
    page: int | None
    readable: bool
    writable: bool
    access_sizes: frozenset[int]
    lanes: str
    doc: str
    fields: dict[str, Field]
    name: str | None = None
    stride: int = 0
    count: int | None = None  # None: not an array

    @property
    def bits(self) -> int:
        """Every bit of the register."""
        return (1 << 8 * self.size) - 1

    @property
    def reset_value(self) -> int:
        """The reset value, those of the fields included."""
        value = self.reset
        for each in self.fields.values():
            value |= each.reset << each.lsb
        return value

    def rule(self) -> Rule:
        """Return what accesses do to the bits."""
        masks = [0] * 7
        unnamed = self.bits
        for each in self.fields.values():
            unnamed &= ~each.mask
            add_to_masks(masks, each.mask, each.access, each.on_read)
        add_to_masks(masks, unnamed, self.access, None)
        return Rule(*masks)

    def label(self, element: int) -> str:
        """Return what messages call an element."""
        return f"{self.name}[{element}]" if self.count is not None else str(self.name)


def add_to_masks(masks: list[int], bits: int, access: Access, on_read: str | None) -> None:
    """Add bits to those masks of a rule that apply to them."""
    values = (access.is_readable, on_read == "clear", on_read == "set", *access.rule)
    for number, value in enumerate(values):
        if value:
            masks[number] |= bits


class Target(NamedTuple):
    """Bits of a declared register; `element` is None for all elements of an array, and for what is not in one."""

    declaration: Any
    element: int | None
    mask: int
    shift: int
    field: str | None = None


@dataclass
class AliasSpec:
    """A second place of a register, where a write sets, clears or toggles bits."""

    name: str
    target: Target
    offset: int
    action: str
    readable: bool


@dataclass
class HookSpec:
    """A method, and one way in which it is called."""

    kind: str
    function: Callable[..., Any]
    description: str
    targets: Sequence[Target]


class Term(NamedTuple):
    """What one part of an interrupt is made of."""

    status: Target
    enable: Target | None


@dataclass
class BankSpec:
    """All that a bank's class says."""

    name: str
    size: int | None
    granule: int
    byteorder: str
    gap: str
    serialize: bool
    registers: dict[Any, RegisterSpec] = field(default_factory=dict)  # by declaration
    replaced: dict[Any, Any] = field(default_factory=dict)  # declarations of a base class, by those of a subclass
    tagged: set[Any] = field(default_factory=set)  # declarations of which each access is counted
    aliases: list[AliasSpec] = field(default_factory=list)
    bank_aliases: dict[str, int] = field(default_factory=dict)
    page_select: Target | None = None
    lines: list[tuple[str, list[Term]]] = field(default_factory=list)
    hooks: list[HookSpec] = field(default_factory=list)
    native_reads: list[Target] = field(default_factory=list)
    native_writes: list[Target] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)  # of registers and of aliases; empty until the layout is built

    def fingerprint(self) -> str:
        """Return 16 hex digits that differ where the state of another layout would not fit."""
        facts: list[object] = [self.size, self.byteorder, self.gap]
        for spec in self.registers.values():
            facts.append(
                (
                    *(spec.name, spec.offset, spec.size, spec.page, spec.stride, spec.count, spec.rule()),
                    *((each.name, each.lsb, each.width) for each in spec.fields.values()),
                )
            )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Place:
    """Where a register, or an alias of it, is reached."""

    label: str
    offset: int
    size: int
    page: int | None
    readable: bool
    writable: bool
    rule: Rule
    number: int

    def __str__(self) -> str:
        page = "" if self.page is None else f" of page {self.page}"
        return f"{self.label} at {format_range(self.offset, self.offset + self.size - 1)}{page}"


class Builder:
    """Makes the layout of one class."""

    def __init__(self, bank: BankSpec, line_type: Callable[[], Any]) -> None:
        self.bank = bank
        self.line_type = line_type
        self.declarations: list[tuple[Any, int | None]] = []
        self.first_number: dict[Any, int] = {}
        self.places: list[Place] = []
        for declaration, spec in bank.registers.items():
            self.first_number[declaration] = len(self.declarations)
            if spec.count is None:
                self.declarations.append((declaration, None))
            else:
                self.declarations.extend((declaration, element) for element in range(spec.count))
        self.total = len(self.declarations)

    def error(self, text: str) -> LayoutError:
        """Return an error of this bank."""
        return LayoutError(f"{self.bank.name}: {text}")

    def current(self, target: Target, purpose: str) -> Target:
        """Return the target in the declaration that a subclass has replaced its own with, if one has."""
        declaration = target.declaration
        while declaration in self.bank.replaced:
            declaration = self.bank.replaced[declaration]
        if declaration is target.declaration:
            return target
        spec: RegisterSpec = declaration.spec
        if target.field is None:
            return target._replace(declaration=declaration, mask=spec.bits)
        field = spec.fields.get(target.field)
        if field is None:
            raise self.error(f"{purpose} names {spec.name}.{target.field}, which {spec.name} does not have any more")
        return target._replace(declaration=declaration, mask=field.mask, shift=field.lsb)

    def numbers(self, target: Target, purpose: str) -> Iterable[tuple[int | None, int]]:
        """Return (element of an array if the target is all of one, number) of each register that a target means."""
        target = self.current(target, purpose)
        spec = self.bank.registers.get(target.declaration)
        if spec is None:
            name = getattr(target.declaration, "name", None) or repr(target.declaration)
            raise self.error(f"{purpose} names {name}, which is not a register of the bank")
        first = self.first_number[target.declaration]
        if target.element is not None:
            if target.element >= (spec.count or 1):
                raise self.error(f"{purpose} names {spec.label(target.element)}, which the bank does not have")
            return [(None, first + target.element)]
        if spec.count is None:
            return [(None, first)]
        return [(element, first + element) for element in range(spec.count)]

    # ------------------------------------------------------------------------- places

    def place_registers(self) -> None:
        """Find the places of all registers, those of aliases included."""
        rules = {declaration: spec.rule() for declaration, spec in self.bank.registers.items()}
        own: list[Place] = []
        for number, (declaration, element) in enumerate(self.declarations):
            spec = self.bank.registers[declaration]
            offset = spec.offset + (element or 0) * spec.stride
            label = spec.label(element or 0)
            rule = rules[declaration]
            own.append(Place(label, offset, spec.size, spec.page, spec.readable, spec.writable, rule, number))
        self.places = self.bank.places
        self.places += own
        for alias in self.bank.aliases:
            for element, number in self.numbers(alias.target, f"the alias {alias.name}"):
                original = own[number]
                label = alias.name if element is None else f"{alias.name}[{element}]"
                stride = self.bank.registers[self.declarations[number][0]].stride
                self.places.append(
                    replace(
                        original,
                        label=label,
                        offset=alias.offset + (element or 0) * stride,
                        readable=alias.readable,
                        writable=True,
                        rule=original.rule.aliased(alias.action),
                    )
                )
        for action, distance in self.bank.bank_aliases.items():
            for original in own:
                self.places.append(
                    replace(
                        original,
                        label=f"the {action} alias of {original.label}",
                        offset=original.offset + distance,
                        rule=original.rule.aliased(action),
                    )
                )

    def check_size(self) -> int:
        """Return the size of the bank; a `LayoutError` if a register ends outside of it."""
        end = max((place.offset + place.size for place in self.places), default=0)
        size = self.bank.size
        if size is None:
            size = end
        if not 0 < size <= 1 << 62:
            raise self.error(f"a bank has a size of at least 1 byte, not {size}")
        for place in self.places:
            if place.offset + place.size > size:
                raise self.error(f"{place} ends behind the bank, which has a size of {size:#x}")
        return size

    # ------------------------------------------------------------------------- ports and index

    def page_count(self) -> int:
        """Return how many pages the select field can name."""
        return self.select[2] + 1

    def index(self) -> tuple[list[tuple[Any, Any]], list[bytes]]:
        """Return the ports, and by page the port of each granule."""
        pages, granule = self.page_count(), self.bank.granule
        end = max((place.offset + place.size for place in self.places), default=1)
        granules = (end + granule - 1) // granule
        length = max(1 << (granules - 1).bit_length(), 2)
        if length > LARGEST_INDEX:
            raise self.error(
                f"registers up to {end - 1:#x} take more than {LARGEST_INDEX:#x} granules of {granule} bytes"
            )
        watched_reads, watched_writes = self.watched()
        # By what is read and what is written, and whether it is the last granule, which has ports of its own.
        numbers: dict[tuple[int | None, int | None, bool], int] = {(None, None, False): 0}
        indices = []
        for page in range(pages):
            of_granule: dict[int, list[int | None]] = {}
            for number, place in enumerate(self.places):
                if place.page is not None and not 0 <= place.page < pages:
                    raise self.error(f"{place}: the bank has {pages} page{'s' if pages > 1 else ''}")
                if place.page is None or place.page == page:
                    self.enter(of_granule, number, place)
            index = array("I", bytes(4 * length))
            of_granule.setdefault(length - 1, [None, None])
            for at, (read, write) in of_granule.items():
                index[at] = numbers.setdefault((read, write, at == length - 1), len(numbers))
            indices.append(index.tobytes())
        ports = [
            (
                None if read is None else self.read_port(self.places[read], watched_reads),
                None if write is None else self.write_port(self.places[write], watched_writes),
            )
            for read, write, _ in numbers
        ]
        return ports, indices

    def enter(self, of_granule: dict[int, list[int | None]], number: int, place: Place) -> None:
        """Note a place in its granules, a `LayoutError` if another one has them in the same direction."""
        granule = self.bank.granule
        for at in range(place.offset // granule, (place.offset + place.size - 1) // granule + 1):
            ports = of_granule.setdefault(at, [None, None])
            for direction, applies in enumerate((place.readable, place.writable)):
                if not applies:
                    continue
                occupied = ports[direction]
                if occupied is not None:
                    raise self.conflict(self.places[occupied], place)
                ports[direction] = number

    def conflict(self, first: Place, second: Place) -> LayoutError:
        """Return the error of two places in one granule."""
        if first.offset < second.offset + second.size and second.offset < first.offset + first.size:
            return self.error(f"{first} overlaps {second}")
        return self.error(
            f"{first} and {second} share a granule of {self.bank.granule} bytes: declare the class with a smaller one"
        )

    def common(self, place: Place, watched: set[int]) -> tuple[Any, ...]:
        """Return what the ports of both directions begin with."""
        spec = self.bank.registers[self.declarations[place.number][0]]
        sizes = sum(1 << size for size in spec.access_sizes)
        is_watched = place.number in watched or bool(sizes)
        return place.offset, place.size, place.number, sizes, spec.lanes == "register", is_watched

    def read_port(self, place: Place, watched: set[int]) -> tuple[Any, ...]:
        """Return the port of reads, as `Layout` takes it."""
        rule = place.rule
        return *self.common(place, watched), rule.readable, rule.clears, rule.sets

    def write_port(self, place: Place, watched: set[int]) -> tuple[Any, ...]:
        """Return the port of writes, as `Layout` takes it."""
        rule = place.rule
        return *self.common(place, watched), rule.a, rule.b, rule.c, rule.d

    # ------------------------------------------------------------------------- what follows an access

    def find_hooks(self) -> None:
        """Find the hooks of each register."""
        self.read_hooks: list[Hook | None] = [None] * self.total
        self.write_hooks: list[list[Hook]] = [[] for _ in range(self.total)]
        for hook in self.bank.hooks:
            called = [
                (element, number, target)
                for target in [self.current(target, hook.description) for target in hook.targets]
                for element, number in self.numbers(target, hook.description)
            ]
            if len({element is None for element, _, _ in called}) > 1:
                raise self.error(f"{hook.description} takes the index of an array's element for some targets only")
            for element, number, target in called:
                made = Hook(hook.kind, hook.function, hook.description, target.mask, target.shift, element)
                if hook.kind != "read":
                    self.write_hooks[number].append(made)
                elif self.read_hooks[number] is None:
                    self.read_hooks[number] = made
                else:
                    label = self.bank.registers[target.declaration].name
                    raise self.error(f"{hook.description}: {label} has an on_read hook already")

    def native(self, targets: Sequence[Target]) -> set[int]:
        """Return the numbers of the registers of native hooks."""
        return {number for target in targets for _, number in self.numbers(target, "NativeHooks")}

    def find_tags(self) -> None:
        """Find what is to be counted: by register its (mask, counter), and the names of the counters."""
        self.counters: list[str] = []
        self.tags: list[list[tuple[int, int]]] = [[] for _ in range(self.total)]
        for declaration, spec in self.bank.registers.items():
            masks = [(0, str(spec.name))] if declaration in self.bank.tagged else []
            masks += [
                (each.mask, f"{spec.name}.{each.name}") for each in spec.fields.values() if each.access.is_unimplemented
            ]
            for mask, name in masks:
                for _, number in self.numbers(Target(declaration, None, 0, 0), ""):
                    self.tags[number].append((mask, len(self.counters)))
                self.counters.append(name)

    def find_lines(self) -> None:
        """Find the terms of each interrupt line, and the lines of each register."""
        if len(self.bank.lines) > MOST_LINES:
            raise self.error(f"{len(self.bank.lines)} interrupt lines are more than {MOST_LINES}")
        self.lines: list[list[tuple[int, int, int, int, int]]] = []
        self.lines_of_register = [0] * self.total
        for name, terms in self.bank.lines:
            made: list[tuple[int, int, int, int, int]] = []
            for term in terms:
                made.extend(self.native_terms(f"the interrupt {name}", term))
            for status, _, enable, _, _ in made:
                self.lines_of_register[status] |= 1 << len(self.lines)
                self.lines_of_register[enable] |= 1 << len(self.lines)
            self.lines.append(made)

    def native_terms(self, purpose: str, term: Term) -> list[tuple[int, int, int, int, int]]:
        """Return what `Layout` takes for a term, one for each status register."""
        statuses = [number for _, number in self.numbers(term.status, purpose)]
        status = self.current(term.status, purpose)
        enable, enables = status, statuses
        if term.enable is not None:
            enable = self.current(term.enable, purpose)
            enables = [number for _, number in self.numbers(enable, purpose)]
        if len(enables) == 1:
            enables = enables * len(statuses)
        if len(statuses) != len(enables):
            raise self.error(f"{purpose} has {len(statuses)} status registers and {len(enables)} to enable them")
        mask = (status.mask >> status.shift) & (enable.mask >> enable.shift)
        return [
            (number, status.shift, enabling, enable.shift, mask)
            for number, enabling in zip(statuses, enables, strict=True)
        ]

    def watched(self) -> tuple[set[int], set[int]]:
        """Return the registers that a read, and that a write, does more with than their rule says."""
        reads, writes = set(self.native_reads), set(self.native_writes)
        for number in range(self.total):
            if self.read_hooks[number] or any(mask == 0 for mask, _ in self.tags[number]):
                reads.add(number)
            if self.write_hooks[number] or self.tags[number] or self.lines_of_register[number]:
                writes.add(number)
            if number == self.select[0] and self.page_count() > 1:
                writes.add(number)
        for place in self.places:
            if place.rule.clears | place.rule.sets:
                reads.add(place.number)
        return reads, writes

    def find_page_select(self) -> None:
        """Find the field that selects the page."""
        select = self.bank.page_select
        if select is None:
            self.select = (0, 0, 0)
            return
        select = self.current(select, "PageSelect")
        ((_, number),) = self.numbers(select, "PageSelect")
        mask = select.mask >> select.shift
        if mask.bit_length() > MOST_PAGE_BITS:
            raise self.error(f"PageSelect takes a field of at most {MOST_PAGE_BITS} bits, not {mask.bit_length()}")
        self.select = (number, select.shift, mask)

    def build(self) -> Layout:
        """Return the layout; a `LayoutError` if the declarations make none."""
        bank = self.bank
        self.place_registers()
        bank.size = self.check_size()
        self.find_hooks()
        self.native_reads, self.native_writes = self.native(bank.native_reads), self.native(bank.native_writes)
        self.find_tags()
        self.find_lines()
        self.find_page_select()
        ports, indices = self.index()
        registers = [
            (
                spec.reset_value,
                spec.bits,
                self.lines_of_register[number],
                self.tags[number],
                self.read_hooks[number] is not None,
                bool(self.write_hooks[number]),
                number in self.native_reads,
                number in self.native_writes,
                self.page_count() > 1 and number == self.select[0],
            )
            for number, spec in enumerate(self.bank.registers[declaration] for declaration, _ in self.declarations)
        ]
        return Layout(
            bank.size,
            bank.granule,
            bank.byteorder == "big",
            bank.gap,
            bank.serialize,
            self.declarations,
            registers,
            self.counters,
            ports,
            indices,
            self.select,
            self.lines,
            self.read_hooks,
            [tuple(hooks) or None for hooks in self.write_hooks],
            self.line_type,
        )


def build_layout(bank: BankSpec, line_type: Callable[[], Any]) -> Layout:
    """Check what a class declares and make its layout; `LayoutError` where something does not fit.

    The size of the bank is set where it was None.
    """
    return Builder(bank, line_type).build()
