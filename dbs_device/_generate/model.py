"""Description of a register bank as the readers make it, and the steps from there to what can be declared.

A reader fills in a `Bank`. `arrange` then makes of it what `dbs_device.registers` can declare: arrays of one dimension,
registers of 1, 2, 4 or 8 bytes, fields that do not overlap, pages for registers that do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

__all__ = ["Alias", "Bank", "Enumeration", "Field", "GenerateError", "Line", "Member", "Memory", "Register", "arrange"]

LARGEST_MEMORY = 4096  # bytes that are declared as an UnimplementedRange, which is an array of registers
MOST_PAGES = 256


class GenerateError(Exception):
    """A file that cannot be read, or describes what cannot be declared; the message is one line."""


@dataclass
class Member:
    """One named value of a field."""

    name: str
    value: int
    doc: str = ""


@dataclass
class Enumeration:
    """The named values of a field; `name` is empty where the file does not name them."""

    name: str
    members: list[Member]
    notes: list[str] = field(default_factory=list)


@dataclass
class Field:
    """A field of a register. `access` is the name of a member of `registers.Access`."""

    name: str
    lsb: int
    width: int
    access: str = "RW"
    reset: int = 0
    on_read: str | None = None
    doc: str = ""
    enum: Enumeration | None = None
    written_enum: Enumeration | None = None  # where written values have names of their own
    write_only: bool = False  # reads give 0, whatever the access
    notes: list[str] = field(default_factory=list)

    @property
    def mask(self) -> int:
        """Its bits in the register."""
        return (1 << self.width) - 1 << self.lsb

    @property
    def bits(self) -> str:
        """Its bits in words."""
        return f"bit {self.lsb}" if self.width == 1 else f"bits {self.lsb + self.width - 1}:{self.lsb}"


@dataclass
class Register:
    """A register, or an array of registers.

    `parts` is the name; None stands for an index, one for each dimension. `dims` has the count and the stride of each
    dimension, the outermost first. `reset` is that of the whole register, `access` that of the bits without a field.
    """

    parts: list[str | None]
    offset: int
    width: int  # in bits
    dims: list[tuple[int, int]] = field(default_factory=list)
    access: str = "RO"
    reset: int = 0
    fields: list[Field] = field(default_factory=list)
    doc: str = ""
    only: str | None = None  # "read" or "write": software cannot do the other
    access_sizes: tuple[int, ...] = ()
    group: str = ""  # registers of one group go on one page
    page: int | None = None
    readable: bool = True
    writable: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.width // 8

    @property
    def name(self) -> str:
        """The name, without indices."""
        return _joined(self.parts, ())

    @property
    def directions(self) -> tuple[bool, bool]:
        """Whether it is read, and whether it is written."""
        return self.readable, self.writable

    def offsets(self) -> Iterator[int]:
        """Yield the offset of each element."""
        for indices in product(*(range(count) for count, _ in self.dims)):
            yield self.offset + sum(index * stride for index, (_, stride) in zip(indices, self.dims, strict=True))

    def places(self) -> Iterator[tuple[bool, int]]:
        """Yield each (direction, byte) that is occupied; the direction is True for writes."""
        for is_write, applies in enumerate(self.directions):
            if applies:
                for offset in self.offsets():
                    for byte in range(offset, offset + self.size):
                        yield bool(is_write), byte


@dataclass
class Alias:
    """A second offset of a register, where a write sets, clears or toggles bits."""

    name: str
    register: Register
    offset: int
    action: str
    readable: bool


@dataclass
class Memory:
    """A range that is memory rather than registers."""

    name: str
    offset: int
    size: int
    doc: str = ""
    is_declared: bool = True


@dataclass
class Line:
    """An interrupt line: fields that ask for an interrupt, and for each the field that enables it, by name."""

    name: str
    status: list[tuple[Register, str]]
    enable: list[tuple[Register, str]]


@dataclass
class Bank:
    """A register bank."""

    name: str
    doc: str = ""
    size: int = 0
    byteorder: str = "little"
    granule: int = 4
    registers: list[Register] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    page_register: tuple[int, int] | None = None  # offset and bits of the number of the page


def _joined(parts: Sequence[str | None], indices: Sequence[int]) -> str:
    """Return a name with the first dimensions' indices; the others are those of the array."""
    name, remaining = "", list(indices)
    for part in parts:
        if part is not None:
            name += part
        elif remaining:
            name += ("_" if name[-1:].isdigit() else "") + str(remaining.pop(0))
    return name


# ----------------------------------------------------------------------------- the steps


def arrange(bank: Bank) -> None:
    """Make a bank one that can be declared, in place; `GenerateError` where that is not possible."""
    bank.registers = [word for register in bank.registers for word in _words(register)]
    bank.registers = [element for register in bank.registers for element in _arrays(register)]
    bank.registers.sort(key=lambda register: register.offset)
    for register in bank.registers:
        _separate_fields(register)
        _limit_enumerations(register)
        _note_write_only(register)
    _assign_directions(bank.registers)
    _assign_pages(bank)
    _place_memories(bank)
    _grow(bank)
    if any(register.page is not None for register in bank.registers):
        _place_page_register(bank)
    bank.granule = _granule(bank)


def _words(register: Register) -> Iterator[Register]:
    """Yield the register with a width that can be declared: a wider one in words of 64 bits."""
    if register.width <= 64:
        width = next(width for width in (8, 16, 32, 64) if width >= register.width)
        if width != register.width:
            register.notes.append(f"{register.width} bits in the file")
            register.width = width
        yield register
        return
    count = (register.width + 63) // 64
    for number in range(count):
        lsb = 64 * number
        width = min(64, register.width - lsb)
        fields = [piece for each in register.fields for piece in _piece(each, lsb, width)]
        word = replace(
            register,
            parts=[*register.parts, f"_{number}"],
            offset=register.offset + lsb // 8,
            width=width,
            reset=register.reset >> lsb & (1 << width) - 1,
            fields=fields,
            access_sizes=(),
            notes=[*register.notes, f"bits {lsb + width - 1}:{lsb} of {register.width}"],
        )
        yield from _words(word)


def _piece(each: Field, lsb: int, width: int) -> Iterator[Field]:
    """Yield the part of a field that is in a word."""
    first, end = max(each.lsb, lsb), min(each.lsb + each.width, lsb + width)
    if first >= end:
        return
    if end - first == each.width:
        yield replace(each, lsb=each.lsb - lsb)
        return
    shift = first - each.lsb
    yield replace(
        each,
        lsb=first - lsb,
        width=end - first,
        enum=None,
        written_enum=None,
        notes=[*each.notes, f"bits {end - each.lsb - 1}:{shift} of the field {each.name}"],
    )


def _arrays(register: Register) -> Iterator[Register]:
    """Yield the register with at most one dimension: dimensions are merged, or the outer ones written out."""
    dims = list(register.dims)
    merged = False
    at = len(dims) - 2
    while at >= 0:
        (count, stride), (inner_count, inner_stride) = dims[at], dims[at + 1]
        if stride == inner_count * inner_stride:
            dims[at : at + 2] = [(count * inner_count, inner_stride)]
            merged = True
        at -= 1
    if merged and len(dims) == 1:
        counts = "".join(f"[{count}]" for count, _ in register.dims)
        register.notes.append(f"{counts} in the file, the last index the fastest")
        register.dims = dims
    if len(register.dims) <= 1 and all(stride >= register.size for _, stride in register.dims):
        yield register
        return
    kept = 1 if register.dims[-1][1] >= register.size else 0
    outer, inner = register.dims[: len(register.dims) - kept], register.dims[len(register.dims) - kept :]
    for indices in product(*(range(count) for count, _ in outer)):
        offset = register.offset + sum(index * stride for index, (_, stride) in zip(indices, outer, strict=True))
        yield replace(register, parts=[_joined(register.parts, indices)], offset=offset, dims=inner)


def _separate_fields(register: Register) -> None:
    """Leave out fields that overlap another one, or do not fit; the reset values go to the fields."""
    kept: list[Field] = []
    register.notes = list(register.notes)
    for each in sorted(register.fields, key=lambda each: each.lsb):
        if each.lsb + each.width > register.width:
            register.notes.append(f"TODO: {each.name} ({each.bits}) does not fit a register of {register.width} bits")
        elif kept and each.lsb < kept[-1].lsb + kept[-1].width:
            register.notes.append(f"TODO: {each.name} ({each.bits}) overlaps {kept[-1].name} ({kept[-1].bits})")
        else:
            kept.append(replace(each, reset=(register.reset & each.mask) >> each.lsb, notes=list(each.notes)))
    register.fields = kept


def _limit_enumerations(register: Register) -> None:
    for each in register.fields:
        for enumeration in (each.enum, each.written_enum):
            if enumeration is not None:
                for member in [member for member in enumeration.members if member.value >> each.width]:
                    enumeration.members.remove(member)
                    enumeration.notes.append(f"{member.name} = {member.value:#x} does not fit {each.bits}")
        if each.enum is not None and not each.enum.members:
            each.notes += each.enum.notes
            each.enum = None


def _note_write_only(register: Register) -> None:
    """Make reads of what is write-only give 0 where the access that describes the writes does not say so."""
    readable = [each for each in register.fields if each.write_only and each.access != "WO"]
    if register.only == "write" and (readable or (not register.fields and register.access != "WO")):
        register.readable = False
        return
    for each in readable:
        each.notes.append("TODO: write-only: reads give the value, write an on_read hook")


def _assign_directions(registers: list[Register]) -> None:
    """Let a register that is only read and one that is only written share an offset."""
    by_byte: dict[int, list[Register]] = {}
    for register in registers:
        for byte in {byte for _, byte in register.places()}:
            by_byte.setdefault(byte, []).append(register)
    for sharing in by_byte.values():
        if {"read", "write"} <= {register.only for register in sharing}:
            for register in sharing:
                if register.only is not None:
                    register.readable, register.writable = register.only == "read", register.only == "write"


def _assign_pages(bank: Bank) -> None:
    """Put registers that share an offset and a direction on different pages."""
    users: dict[tuple[bool, int], list[int]] = {}
    places = [set(register.places()) for register in bank.registers]
    for number, occupied in enumerate(places):
        for place in occupied:
            users.setdefault(place, []).append(number)
    paged = {number for numbers in users.values() if len(numbers) > 1 for number in numbers}
    pages: list[set[tuple[bool, int]]] = []
    page_of_group: dict[str, int] = {}
    # Registers of no group first: these are the ones that others are alternatives to.
    for number in sorted(paged, key=lambda number: (bank.registers[number].group != "", number)):
        register = bank.registers[number]
        preferred = page_of_group.get(register.group, 1 if register.group else 0)
        candidates = [preferred, *(page for page in range(len(pages) + 2) if page != preferred)]
        for page in candidates:
            while page >= len(pages):
                pages.append(set())
            if not pages[page] & places[number]:
                break
        pages[page] |= places[number]
        page_of_group.setdefault(register.group, page)
        register.page = page
    used = sorted({register.page for register in bank.registers if register.page is not None})
    for register in bank.registers:
        if register.page is not None:
            register.page = used.index(register.page)
    if len(used) > MOST_PAGES:
        raise GenerateError(f"{bank.name}: {len(used)} registers overlap, and a bank has at most {MOST_PAGES} pages")
    bank.registers.sort(key=lambda register: (register.offset, register.page or 0))


def _place_memories(bank: Bank) -> None:
    """Declare small memories that no register is in; leave others to a comment."""
    occupied = _occupied(bank)
    for memory in bank.memories:
        memory.is_declared = memory.size <= LARGEST_MEMORY and occupied.isdisjoint(
            range(memory.offset, memory.offset + memory.size)
        )


def _occupied(bank: Bank) -> set[int]:
    occupied = {byte for register in bank.registers for _, byte in register.places()}
    for alias in bank.aliases:
        distance = alias.offset - alias.register.offset
        occupied |= {byte + distance for _, byte in alias.register.places()}
    return occupied


def _grow(bank: Bank) -> None:
    """Make the bank as large as what it declares."""
    end = max(_occupied(bank), default=-1) + 1
    for memory in bank.memories:
        if memory.is_declared:
            end = max(end, memory.offset + memory.size)
    if end == 0 and bank.size == 0:
        raise GenerateError(f"{bank.name} does not have any registers")
    if end > bank.size:
        if bank.size:
            bank.notes.append(f"registers end at {end:#x}, behind the {bank.size:#x} bytes that the file states")
        bank.size = end


def _place_page_register(bank: Bank) -> None:
    """Find a place in a gap for the number of the page, from the end."""
    count = 1 + max(register.page for register in bank.registers if register.page is not None)
    occupied = _occupied(bank)
    for memory in bank.memories:
        if memory.is_declared:
            occupied |= set(range(memory.offset, memory.offset + memory.size))
    for offset in range((bank.size - 4) & ~3, -1, -4):
        if occupied.isdisjoint(range(offset, offset + 4)):
            break
    else:
        offset = (bank.size + 3) & ~3
        bank.size = offset + 4
    bank.page_register = offset, max(1, (count - 1).bit_length())


def _granule(bank: Bank) -> int:
    """Return the largest granule that no two registers share."""
    for granule in (4, 2):
        owners: dict[tuple[int | None, bool, int], int] = {}
        if any((memory.offset | memory.size) % granule for memory in bank.memories if memory.is_declared):
            continue
        if all(
            owners.setdefault((page, is_write, byte // granule), number) == number
            for number, (page, is_write, byte) in _elements(bank)
        ):
            return granule
    return 1


def _elements(bank: Bank) -> Iterator[tuple[int, tuple[int | None, bool, int]]]:
    """Yield for each byte of each register the number of the element, and where the byte is, on all pages."""
    pages: list[int | None] = [*{register.page for register in bank.registers if register.page is not None}] or [None]
    number = 0
    everything = [(register, 0) for register in bank.registers]
    everything += [(alias.register, alias.offset - alias.register.offset) for alias in bank.aliases]
    for register, distance in everything:
        on = pages if register.page is None else [register.page]
        for offset in register.offsets():
            number += 1
            for is_write, applies in enumerate(register.directions):
                for byte in range(offset + distance, offset + distance + register.size) if applies else ():
                    for page in on:
                        yield number, (page, bool(is_write), byte)
    if bank.page_register is not None:
        for byte in range(bank.page_register[0], bank.page_register[0] + 4):
            for page in pages:
                yield number + 1, (page, True, byte)
