"""Random register banks, and a naive model of them that works bit by bit and shares no code with the engine."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from random import Random

from dbs_device.registers import Access, Bits, PageSelect, Register, RegisterAlias, RegisterBank

TAKES_WHAT_IS_WRITTEN = ("RW", "WO", "UNIMPLEMENTED")


@dataclass
class FieldPlan:
    lsb: int
    width: int
    access: str
    on_read: str | None
    reset: int


@dataclass
class RegisterPlan:
    name: str
    offset: int
    size: int
    page: int | None
    read: bool
    write: bool
    access: str
    lanes: str
    reset: int
    fields: list[FieldPlan]

    def bits(self) -> list[tuple[str, str | None, int]]:
        """Return (access, on_read, reset) of each bit."""
        bits = [(self.access, None, self.reset >> number & 1) for number in range(8 * self.size)]
        for each in self.fields:
            for number in range(each.width):
                reset = each.reset >> number & 1 | self.reset >> (each.lsb + number) & 1
                bits[each.lsb + number] = (each.access, each.on_read, reset)
        return bits


@dataclass
class Place:
    register: int
    offset: int
    size: int
    page: int | None
    read: bool
    write: bool
    action: str | None


@dataclass
class BankPlan:
    size: int
    granule: int
    byteorder: str
    gap: str
    page_bits: int  # 0: no pages; the page is selected by the lowest bits of register 0
    registers: list[RegisterPlan] = field(default_factory=list)
    aliases: list[tuple[int, int, str]] = field(default_factory=list)  # register, offset, action
    bank_aliases: dict[str, int] = field(default_factory=dict)

    def places(self) -> list[Place]:
        own = [
            Place(number, plan.offset, plan.size, plan.page, plan.read, plan.write, None)
            for number, plan in enumerate(self.registers)
        ]
        more = [
            Place(number, offset, self.registers[number].size, self.registers[number].page, True, True, action)
            for number, offset, action in self.aliases
        ]
        more += [
            Place(each.register, each.offset + distance, each.size, each.page, each.read, each.write, action)
            for action, distance in self.bank_aliases.items()
            for each in own
        ]
        return own + more

    def bank_class(self) -> type[RegisterBank]:
        def body(namespace):
            for plan in self.registers:
                fields = {
                    f"F{each.lsb}": Bits(
                        each.lsb, each.width, Access[each.access], reset=each.reset, on_read=each.on_read
                    )
                    for each in plan.fields
                }
                cls = type(f"Kind{plan.name}", (Register,), fields)
                namespace[plan.name] = cls(
                    plan.offset,
                    size=plan.size,
                    reset=plan.reset,
                    access=Access[plan.access],
                    page=plan.page,
                    read=plan.read,
                    write=plan.write,
                    lanes=plan.lanes,
                )
            for number, (register, offset, action) in enumerate(self.aliases):
                namespace[f"alias{number}"] = RegisterAlias(namespace[f"R{register}"], offset, action)
            if self.page_bits:
                namespace["page"] = PageSelect(namespace["R0"].F0)

        options = {
            "size": self.size,
            "granule": self.granule,
            "byteorder": self.byteorder,
            "gap": self.gap,
            "aliases": self.bank_aliases,
        }
        return types.new_class("RandomBank", (RegisterBank,), options, body)


def random_fields(random: Random, size: int, unimplemented: bool) -> list[FieldPlan]:
    names = [access.name for access in Access if unimplemented or access is not Access.UNIMPLEMENTED]
    fields, lsb = [], 0
    while lsb < 8 * size:
        width = random.randint(1, min(12, 8 * size - lsb))
        if random.random() < 0.7:
            on_read = random.choice([None, None, None, "clear", "set"])
            fields.append(FieldPlan(lsb, width, random.choice(names), on_read, random.getrandbits(width)))
        lsb += width
    return fields


def random_register(random: Random, number: int, offset: int, room: int, page: int | None) -> RegisterPlan:
    size = random.choice([size for size in (1, 2, 4, 8) if size <= room])
    plain = random.random() < 0.3
    return RegisterPlan(
        f"R{number}",
        offset,
        size,
        page,
        True,
        True,
        "RW" if plain else random.choice(["RW", "RO", "WO", "W1C", "W0S"]),
        random.choice(["byte", "byte", "register"]),
        random.getrandbits(8 * size),
        [] if plain else random_fields(random, size, unimplemented=random.random() < 0.2),
    )


def random_plan(random: Random) -> BankPlan:
    """Return the plan of a bank: pages, aliases, registers at one offset for reads and for writes, gaps."""
    granule = random.choice([1, 2, 4, 8])
    page_bits = random.choice([0, 0, 1, 2])
    plan = BankPlan(0, granule, random.choice(["little", "big"]), random.choice(["zero", "ones", "ram"]), page_bits)
    offset = 0
    if page_bits:
        select = random_register(random, 0, 0, 8, None)
        select.fields = [each for each in select.fields if each.lsb >= page_bits]
        select.fields.insert(0, FieldPlan(0, page_bits, "RW", random.choice([None, "clear"]), 0))
        plan.registers.append(select)
        offset = 8
    while offset < 64 or not plan.registers:
        room = random.choice([granule, 8])
        kind = random.choice(["register", "register", "gap", "pages", "split", "alias"])
        if kind == "register":
            plan.registers.append(random_register(random, len(plan.registers), offset, room, None))
        elif kind == "pages" and page_bits:
            for page in range(1 << page_bits):
                if random.random() < 0.8:
                    plan.registers.append(random_register(random, len(plan.registers), offset, room, page))
        elif kind == "split":
            for reads in (True, False):
                one = random_register(random, len(plan.registers), offset, room, None)
                one.read, one.write = reads, not reads
                plan.registers.append(one)
        elif kind == "alias" and plan.registers:
            original = random.randrange(len(plan.registers))
            if plan.registers[original].size <= room:
                plan.aliases.append((original, offset, random.choice(["set", "clear", "toggle"])))
        offset += room + -room % granule
    plan.size = offset + random.choice([0, 0, 5, 64])
    if random.random() < 0.2:
        for action in ("toggle", "set", "clear"):
            plan.bank_aliases[action] = plan.size + -plan.size % 8
            plan.size = 2 * plan.bank_aliases[action]
            plan.aliases = []
    return plan


class Model:
    """What a bank does, bit by bit."""

    def __init__(self, plan: BankPlan) -> None:
        self.plan = plan
        self.places = plan.places()
        self.kinds = [register.bits() for register in plan.registers]
        self.values = [[reset for _, _, reset in bits] for bits in self.kinds]
        self.ram = bytearray(plan.size)

    @property
    def page(self) -> int:
        return sum(bit << number for number, bit in enumerate(self.values[0][: self.plan.page_bits]))

    def find(self, position: int, write: bool) -> Place | None:
        for place in self.places:
            if (
                (place.write if write else place.read)
                and place.offset <= position < place.offset + place.size
                and place.page in (None, self.page)
            ):
                return place
        return None

    def reached(self, place: Place, position: int, count: int) -> list[tuple[int, int, int]]:
        """Return (bit of the register, byte of the access, bit in that byte) for `count` bytes."""
        bits = []
        for byte in range(count):
            lane = position + byte - place.offset
            if self.plan.byteorder == "big":
                lane = place.size - 1 - lane
            bits += [(8 * lane + bit, byte, bit) for bit in range(8)]
        return bits

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        done = 0
        while done < size:
            position = offset + done
            place = self.find(position, write=False)
            if place is None:
                data[done] = {"zero": 0, "ones": 0xFF}.get(self.plan.gap, 0)
                if self.plan.gap == "ram" and position < len(self.ram):
                    data[done] = self.ram[position]
                done += 1
                continue
            count = min(size - done, place.offset + place.size - position)
            values, kinds = self.values[place.register], self.kinds[place.register]
            touched = set()
            for number, byte, bit in self.reached(place, position, count):
                touched.add(number)
                if values[number] and kinds[number][0] != "WO":
                    data[done + byte] |= 1 << bit
            if self.plan.registers[place.register].lanes == "register":
                touched = set(range(len(values)))
            for number in touched:
                if kinds[number][1] is not None:
                    values[number] = int(kinds[number][1] == "set")
            done += count
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            position = offset + done
            place = self.find(position, write=True)
            if place is None:
                if self.plan.gap == "ram" and position < len(self.ram):
                    self.ram[position] = data[done]
                done += 1
                continue
            count = min(len(data) - done, place.offset + place.size - position)
            values, kinds = self.values[place.register], self.kinds[place.register]
            touched = set()
            for number, byte, bit in self.reached(place, position, count):
                touched.add(number)
                new = data[done + byte] >> bit & 1
                values[number] = written(kinds[number][0], place.action, values[number], new)
            if self.plan.registers[place.register].lanes == "register":
                for number, (access, _, _) in enumerate(kinds):
                    if number not in touched and access in ("WC", "WS"):
                        values[number] = int(access == "WS")
            done += count

    def register_values(self) -> list[int]:
        return [sum(bit << number for number, bit in enumerate(bits)) for bits in self.values]


def written(access: str, action: str | None, old: int, new: int) -> int:
    """Return what one bit becomes."""
    if access in TAKES_WHAT_IS_WRITTEN:
        if action == "set":
            return old or new
        if action == "clear":
            return 0 if new else old
        if action == "toggle":
            return 1 - old if new else old
        return new
    if access == "RO":
        return old
    if access in ("WC", "WS"):
        return int(access == "WS")
    if new != int(access[1]):  # W1. and W0.: the value that acts
        return old
    return {"C": 0, "S": 1, "T": 1 - old}[access[2]]
