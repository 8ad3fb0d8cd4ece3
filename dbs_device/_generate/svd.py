"""Reader of CMSIS-SVD files.

cmsis-svd brings the schemas, against which a file is checked: the reader takes elements by name, and would pass over
one that is misspelt. The reading is our own, because cmsis-svd 0.6 gets several cases of the format wrong: fields that
are derived by a path raise IndexError, derived enumeratedValues lose their values, nested clusters lose the offset of
the outer one, registers do not inherit from clusters, don't-care bits become zeros, and the limits of a writeConstraint
become booleans. It also expands every peripheral of a file, of which one is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cmsis_svd.parser import SVDParser
from lxml import etree

from .model import Bank, Enumeration, Field, GenerateError, Member, Memory, Register

__all__ = ["read_svd"]

_ACCESSES = {
    "read-only": "RO",
    "write-only": "WO",
    "read-write": "RW",
    "writeOnce": "WO",
    "read-writeOnce": "RW",
}
_WRITES = {
    "oneToClear": "W1C",
    "oneToSet": "W1S",
    "oneToToggle": "W1T",
    "zeroToClear": "W0C",
    "zeroToSet": "W0S",
    "zeroToToggle": "W0T",
    "clear": "WC",
    "set": "WS",
}
_INHERITED = ("size", "access", "resetValue", "resetMask")
_NAMED = ("peripheral", "cluster", "register", "field", "enumeratedValues")
_DIM = ("dim", "dimIncrement", "dimIndex", "dimName", "dimArrayIndex")
_NUMBER = re.compile(
    r"\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|(?:#|0[bB])(?P<bin>[01]+)|(?P<dec>[0-9]+))(?P<unit>[kmgtKMGT]?)$"
)
_DONT_CARE = re.compile(r"(?:#|0[bB])(?P<bits>[01xX]+)$")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST_EXPANDED = 64  # values of one name with don't-care bits


def read_svd(path: Path, peripheral: str | None) -> tuple[Bank, list[str]]:
    """Read a peripheral.

    Parameters
    ----------
    path : Path
        The file.
    peripheral : str or None
        The name of the peripheral; one of an array has its own name. None is for a file that has only one.

    Returns
    -------
    bank : Bank
        As the file describes it, before `arrange`.
    warnings : list of str
        What does not fit the schema, a line each.

    Raises
    ------
    GenerateError
        For a file that is not an SVD file, a peripheral that it does not have, and values that make no sense.
    OSError
        For a file that cannot be read.
    """
    with path.open("rb") as file:
        try:
            tree = etree.parse(file, etree.XMLParser(remove_comments=True, remove_pis=True, no_network=True))
        except etree.XMLSyntaxError as error:
            raise GenerateError(f"{path}:{error.lineno or 1}: not well-formed XML: {error.msg}") from error
    root = tree.getroot()
    if root.tag != "device":
        raise GenerateError(f"{path}: the outermost element is <{root.tag}>, and <device> in an SVD file")
    return _Reader(path, root).bank(peripheral), _violations(path, tree)


def _violations(path: Path, tree: Any) -> list[str]:
    # By the newest schema: the version that most files state, 1.3, is not one that cmsis-svd has.
    is_valid, text = SVDParser.validate_xml_tree(tree, schema_version_detection=False)
    if is_valid:
        return []
    # "...: <string>:LINE:COLUMN:ERROR:SCHEMASV:NAME: text"
    found = re.findall(r"^.*?:(\d+):\d+:\w+:\w+:\w+: (.*)$", text, re.MULTILINE)
    return [f"{path}:{line}: {message}" for line, message in found] or [f"{path}: {text}"]


class _Node:
    """An element, and those that it is derived from: the own children hide those of the same name."""

    def __init__(self, reader: _Reader, elements: Sequence[Any]) -> None:
        self.reader = reader
        self.elements = elements

    @property
    def element(self) -> Any:
        return self.elements[0]

    def error(self, text: str) -> GenerateError:
        return GenerateError(f"{self.reader.path}:{self.element.sourceline}: {text}")

    def child(self, tag: str) -> Any | None:
        for element in self.elements:
            if element is not self.element and tag in _DIM and "%s" not in self.own_name:
                break
            found = element.find(tag)
            if found is not None:
                return found
        return None

    def text(self, tag: str, default: str = "") -> str:
        found = self.child(tag)
        return default if found is None or found.text is None else " ".join(found.text.split())

    def integer(self, tag: str, default: int | None = None) -> int:
        found = self.child(tag)
        if found is None:
            if default is None:
                raise self.error(f"<{self.element.tag}> does not have the element <{tag}>")
            return default
        return self.reader.integer(found)

    def nodes(self, *tags: str, within: str | None = None) -> list[_Node]:
        """Return the children of these names, of the first element that has any."""
        for element in self.elements:
            container = element if within is None else element.find(within)
            children = [] if container is None else [child for child in container if child.tag in tags]
            if children:
                return [self.reader.node(child) for child in children]
        return []

    @property
    def own_name(self) -> str:
        return str(self.element.findtext("name", "")).strip()

    @property
    def name(self) -> str:
        name = self.text("name")
        if not name:
            raise self.error(f"<{self.element.tag}> does not have a name")
        return name

    def properties(self, inherited: dict[str, Any]) -> dict[str, Any]:
        """Return the elements that registers and fields inherit."""
        found = {tag: self.child(tag) for tag in _INHERITED}
        return {**inherited, **{tag: element for tag, element in found.items() if element is not None}}

    def indices(self) -> list[str] | None:
        """Return the indices of an array or a list; None if it is neither."""
        if self.child("dim") is None:
            return None
        count = self.integer("dim")
        text = self.text("dimIndex")
        if not text:
            return [str(number) for number in range(count)]
        first, dash, last = (part.strip() for part in text.partition("-"))
        if not dash:
            indices = [index.strip() for index in text.split(",")]
        elif first.isdigit() and last.isdigit():
            indices = [str(number) for number in range(int(first), int(last) + 1)]
        elif len(first) == len(last) == 1:
            indices = [chr(number) for number in range(ord(first), ord(last) + 1)]
        else:
            raise self.error(f"the dimIndex {text!r} is neither a list nor a range")
        if len(indices) != count:
            raise self.error(f"the dimIndex {text!r} has {len(indices)} indices, and dim is {count}")
        return indices

    def copies(self) -> Iterator[tuple[list[str | None], int, list[tuple[int, int]]]]:
        """Yield (parts of the name, distance from the first, dimensions): an array is one, a list several."""
        indices = self.indices()
        name = self.name
        if indices is None:
            yield [name], 0, []
            return
        stride = self.integer("dimIncrement")
        if "[%s]" in name:
            before, _, after = name.partition("[%s]")
            yield [before, None, *([after] if after else [])], 0, [(len(indices), stride)]
            return
        if "%s" not in name:
            raise self.error(f"{name} has a dim, and no %s in its name")
        for number, index in enumerate(indices):
            yield [name.replace("%s", index)], number * stride, []


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, root: Any) -> None:
        self.path = path
        self.root = root

    def integer(self, element: Any) -> int:
        text = (element.text or "").strip()
        match = _NUMBER.match(text)
        if match is None:
            raise GenerateError(f"{self.path}:{element.sourceline}: <{element.tag}> is {text!r}, not a number")
        for group, base in (("hex", 16), ("bin", 2), ("dec", 10)):
            if match[group]:
                return int(match[group], base) * _UNITS[match["unit"].lower()]
        raise AssertionError(text)

    # ------------------------------------------------------------------------- derivedFrom

    def node(self, element: Any) -> _Node:
        """Return an element with all that it is derived from."""
        chain = [element]
        while (target := chain[-1].get("derivedFrom")) is not None:
            found = self.find(chain[-1], target)
            if found in chain:
                raise GenerateError(f"{self.path}:{element.sourceline}: derivedFrom {target!r} leads back to itself")
            chain.append(found)
        return _Node(self, chain)

    def find(self, element: Any, target: str) -> Any:
        """Return what a derivedFrom names: the nearest element of its kind whose path ends so."""
        wanted = _plain(target).split(".")
        for scope in element.iterancestors():
            for candidate in scope.iter(element.tag):
                if candidate is not element and _path(candidate)[-len(wanted) :] == wanted:
                    return candidate
        raise GenerateError(
            f"{self.path}:{element.sourceline}: derivedFrom {target!r} is not a {element.tag} of the file"
        )

    # ------------------------------------------------------------------------- peripherals

    def bank(self, wanted: str | None) -> Bank:
        found: dict[str, _Node] = {}
        for element in self.root.iterfind("peripherals/peripheral"):
            name = str(element.findtext("name", "")).strip()
            if "%s" in name:
                node = self.node(element)
                indices = node.indices() or []
                names = [name.replace("[%s]", index).replace("%s", index) for index in indices]
                found.update(dict.fromkeys(names, node))
            elif name == wanted or wanted is None:
                found[name] = self.node(element)
            else:
                found[name] = _Node(self, [element])
        if wanted is None and len(found) == 1:
            (wanted,) = found
        if wanted not in found:
            known = f"it has {', '.join(sorted(found))}" if found else "it has none"
            problem = "name one with --peripheral" if wanted is None else f"no peripheral {wanted!r}"
            raise GenerateError(f"{self.path}: {problem}: {known}")
        device = _Node(self, [self.root])
        if device.integer("addressUnitBits", 8) != 8:
            raise GenerateError(f"{self.path}: addressUnitBits is {device.text('addressUnitBits')}, and 8 for bytes")
        return self.peripheral(found[wanted], wanted, device)

    def peripheral(self, node: _Node, name: str, device: _Node) -> Bank:
        bank = Bank(name, doc=node.text("description"))
        self.endianness(bank)
        inherited = node.properties(device.properties({}))
        for child in node.nodes("register", "cluster", within="registers"):
            self.registers(bank, child, inherited, [], 0, [], "")
        before, after = node.text("prependToName"), node.text("appendToName")
        for register in bank.registers:
            register.parts = [part for part in (before, *register.parts, after) if part != ""]
        self.address_blocks(bank, node)
        for interrupt in node.nodes("interrupt"):
            doc = interrupt.text("description")
            bank.notes.append(
                f"TODO: interrupt {interrupt.name} (number {interrupt.integer('value')}{', ' + doc if doc else ''}): "
                "declare an Interrupt(status=..., enable=...)"
            )
        for tag in ("alternatePeripheral", "disableCondition"):
            if node.text(tag):
                bank.notes.append(f"{tag}: {node.text(tag)}")
        return bank

    def endianness(self, bank: Bank) -> None:
        endian = str(self.root.findtext("cpu/endian", "little")).strip()
        if endian == "big":
            bank.byteorder = "big"
        elif endian != "little":
            bank.notes.append(f'TODO: the byte order of the CPU is "{endian}" in the file, and little here')

    def address_blocks(self, bank: Bank, node: _Node) -> None:
        blocks = node.nodes("addressBlock")
        for number, block in enumerate(blocks):
            offset, size, usage = block.integer("offset"), block.integer("size"), block.text("usage", "registers")
            if usage == "buffer":
                bank.memories.append(Memory(f"BUFFER{number or ''}", offset, size))
            if len(blocks) > 1:
                bank.notes.append(f"address block: {size:#x} bytes at {offset:#x}, {usage}")
            bank.size = max(bank.size, offset + size)

    # ------------------------------------------------------------------------- registers

    def registers(
        self,
        bank: Bank,
        node: _Node,
        inherited: dict[str, Any],
        prefix: list[str | None],
        base: int,
        dims: list[tuple[int, int]],
        group: str,
    ) -> None:
        """Add a register, or the registers of a cluster; arrays of clusters make arrays of registers."""
        own = node.properties(inherited)
        offset = base + node.integer("addressOffset")
        for parts, distance, own_dims in node.copies():
            if node.element.tag == "cluster":
                inner = f"{node.name} of {node.text('alternateCluster')}" if node.text("alternateCluster") else group
                for child in node.nodes("register", "cluster"):
                    self.registers(
                        bank, child, own, [*prefix, *parts, "_"], offset + distance, [*dims, *own_dims], inner
                    )
            else:
                register = self.register(node, own)
                register.parts, register.offset = [*prefix, *parts], offset + distance
                register.dims = [*dims, *own_dims]
                register.group = node.text("alternateGroup") or group
                bank.registers.append(register)

    def register(self, node: _Node, own: dict[str, Any]) -> Register:
        width = self.integer(own["size"]) if "size" in own else 32
        register = Register([], 0, width, doc=node.text("description"))
        if not 1 <= width <= 1024:
            raise node.error(f"the register {node.name} has {width} bits")
        everything = (1 << width) - 1
        for tag in ("alternateRegister", "alternateGroup"):
            if node.text(tag):
                register.notes.append(f"{tag}: {node.text(tag)}")
        if "resetValue" in own:
            register.reset = self.integer(own["resetValue"]) & everything
            undefined = everything & ~self.reset_mask(node, own, everything)
            register.reset &= ~undefined
            if undefined:
                register.notes.append(f"TODO: the reset value of the bits {undefined:#x} is not defined")
        else:
            register.notes.append("TODO: no reset value")
        if node.child("dimArrayIndex") is not None:
            values = node.nodes("enumeratedValue", within="dimArrayIndex")
            register.notes.append("indices: " + ", ".join(f"{each.text('value')} {each.name}" for each in values))
        whole = Field("VALUE", 0, width)
        self.behaviour(whole, [node], own)
        register.fields = [
            field for child in node.nodes("field", within="fields") for field in self.fields(child, node, own)
        ]
        if register.fields:
            accesses = register.fields
        else:
            register.access = whole.access
            register.notes += whole.notes
            accesses = [whole]
            if whole.on_read is not None:
                whole.notes = []
                register.fields = [whole]
        if all(each.write_only for each in accesses):
            register.only = "write"
        elif all(each.access == "RO" for each in accesses):
            register.only = "read"
        return register

    def reset_mask(self, node: _Node, own: dict[str, Any], everything: int) -> int:
        if "resetMask" not in own:
            return everything
        mask = self.integer(own["resetMask"])
        # What is inherited is for registers of the usual width: for a wider one, all ones are still all bits.
        if node.child("resetMask") is None and mask in (0xFF, 0xFFFF, 0xFFFFFFFF):
            return everything
        return mask

    def fields(self, node: _Node, register: _Node, inherited: dict[str, Any]) -> Iterator[Field]:
        """Yield a field, or those of an array or list of fields."""
        own = node.properties(inherited)
        lsb, width = self.position(node)
        indices = node.indices()
        names = [node.name]
        if indices is not None:
            names = [node.name.replace("[%s]", index).replace("%s", index) for index in indices]
        for number, name in enumerate(names):
            if re.fullmatch(r"reserved\d*", name, re.IGNORECASE):
                continue
            distance = number * node.integer("dimIncrement") if number else 0
            field = Field(name, lsb + distance, width, doc=node.text("description"))
            self.behaviour(field, [node, register], own)
            self.enumerations(field, node)
            yield field

    def position(self, node: _Node) -> tuple[int, int]:
        """Return the lowest bit and the width of a field, which have three notations."""
        if node.child("bitRange") is not None:
            match = re.fullmatch(r"\[\s*(\d+)\s*:\s*(\d+)\s*\]", node.text("bitRange"))
            if match is None:
                raise node.error(f"the bitRange {node.text('bitRange')!r} is not [msb:lsb]")
            msb, lsb = int(match[1]), int(match[2])
        elif node.child("lsb") is not None:
            lsb, msb = node.integer("lsb"), node.integer("msb")
        else:
            lsb = node.integer("bitOffset")
            msb = lsb + node.integer("bitWidth", 1) - 1
        if msb < lsb:
            raise node.error(f"the field {node.name} ends at bit {msb}, and begins at bit {lsb}")
        return lsb, msb - lsb + 1

    def behaviour(self, field: Field, nodes: list[_Node], own: dict[str, Any]) -> None:
        """Set what accesses do. `nodes` are a field and its register, or a register: the first to state it counts."""

        def stated(tag: str) -> str:
            return next((node.text(tag) for node in nodes if node.text(tag)), "")

        access = (own["access"].text or "").strip() if "access" in own else ""
        if not access:
            field.access = "UNIMPLEMENTED"
            field.notes.append("TODO: the file does not state an access")
        elif access in _ACCESSES:
            field.access = _ACCESSES[access]
        else:
            raise nodes[0].error(f"the access {access!r} is not one of {', '.join(_ACCESSES)}")
        if access.endswith("Once"):
            field.notes.append(f"TODO: access={access}: write an on_write hook that undoes all writes but the first")
        field.write_only = field.access == "WO"
        if field.access != "RO":
            self.writes(field, stated("modifiedWriteValues"), nodes[0])
        action = stated("readAction")
        if action in ("clear", "set") and not field.write_only:
            field.on_read = action
        elif action in ("modify", "modifyExternal"):
            field.notes.append(f"TODO: readAction={action}: write an on_read hook")
        for node in nodes:
            constraint = node.child("writeConstraint")
            if constraint is not None:
                field.notes.append(f"TODO: writeConstraint: {self.constraint(constraint)}; not checked")
                break

    def writes(self, field: Field, modified: str, node: _Node) -> None:
        if modified in _WRITES:
            field.access = _WRITES[modified]
        elif modified == "modify":
            field.notes.append("TODO: modifiedWriteValues=modify: write an on_write hook")
        elif modified:
            raise node.error(f"the modifiedWriteValues {modified!r} is not one of {', '.join(_WRITES)}, modify")

    def constraint(self, element: Any) -> str:
        bounds = element.find("range")
        if bounds is not None:
            node = _Node(self, [bounds])
            return f"{node.integer('minimum'):#x} to {node.integer('maximum'):#x}"
        return ", ".join(child.tag for child in element if (child.text or "").strip() in ("true", "1")) or "none"

    # ------------------------------------------------------------------------- enumerated values

    def enumerations(self, field: Field, node: _Node) -> None:
        by_usage: dict[str, Enumeration] = {}
        for each in node.nodes("enumeratedValues"):
            by_usage[each.text("usage", "read-write")] = self.enumeration(each, field)
        read = by_usage.get("read-write") or by_usage.get("read")
        written = by_usage.get("write")
        field.enum = read or written
        field.written_enum = written if read is not None else None

    def enumeration(self, node: _Node, field: Field) -> Enumeration:
        enumeration = Enumeration(node.text("name"), [])
        for value in node.nodes("enumeratedValue"):
            name, doc = value.name, value.text("description")
            if value.text("isDefault") in ("true", "1"):
                enumeration.notes.append(f"All other values: {name}{', ' + doc if doc else ''}")
                continue
            numbers = self.values(value, field)
            if len(numbers) > _MOST_EXPANDED:
                enumeration.notes.append(
                    f"{name} = {value.text('value')}: {len(numbers)} values{', ' + doc if doc else ''}"
                )
                continue
            for number in numbers:
                suffix = f"_{number}" if len(numbers) > 1 else ""
                enumeration.members.append(Member(name + suffix, number, doc))
        return enumeration

    def values(self, node: _Node, field: Field) -> list[int]:
        """Return the numbers that an enumeratedValue stands for: several if it has don't-care bits."""
        match = _DONT_CARE.match(node.text("value"))
        if match is None:
            return [node.integer("value")]
        numbers = [0]
        for bit in match["bits"]:
            numbers = [2 * number + value for number in numbers for value in ((0, 1) if bit in "xX" else (int(bit),))]
            if len(numbers) > 1 << 16:
                raise node.error(f"the value {node.text('value')!r} has too many don't-care bits")
        return numbers


def _plain(name: str) -> str:
    """Return a name without the placeholders of arrays and lists."""
    return name.replace("[%s]", "").replace("%s", "")


def _path(element: Any) -> list[str]:
    """Return the names of an element and those around it."""
    names = [
        _plain(str(each.findtext("name", "")).strip())
        for each in (element, *element.iterancestors())
        if each.tag in _NAMED
    ]
    return names[::-1]
