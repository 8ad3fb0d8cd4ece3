"""Reader of SystemRDL 2.0 files, on systemrdl-compiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from systemrdl.compiler import RDLCompiler
from systemrdl.messages import MessagePrinter, RDLCompileError, Severity
from systemrdl.node import AddressableNode, AddrmapNode, FieldNode, MemNode, Node, RegNode, SignalNode
from systemrdl.rdltypes.builtin_enums import AccessType, OnReadType, OnWriteType
from systemrdl.rdltypes.references import PropertyReference
from systemrdl.source_ref import DetailedFileSourceRef, FileSourceRef, SourceRefBase

from .model import Alias, Bank, Enumeration, Field, GenerateError, Line, Member, Memory, Register

__all__ = ["read_rdl"]

_ACCESSES = {
    AccessType.rw: "RW",
    AccessType.rw1: "RW",
    AccessType.r: "RO",
    AccessType.w: "WO",
    AccessType.w1: "WO",
}
_WRITES = {
    OnWriteType.woclr: "W1C",
    OnWriteType.woset: "W1S",
    OnWriteType.wot: "W1T",
    OnWriteType.wzc: "W0C",
    OnWriteType.wzs: "W0S",
    OnWriteType.wzt: "W0T",
    OnWriteType.wclr: "WC",
    OnWriteType.wset: "WS",
}
_READS = {OnReadType.rclr: "clear", OnReadType.rset: "set"}
_ALIAS_ACTIONS = {"W1S": "set", "W1C": "clear", "W1T": "toggle"}
# What a field of a bank does not do by itself, and how to.
_BEHAVIOUR = {
    "singlepulse": "clear the field in an on_write hook",
    "swmod": "write an on_write hook",
    "swacc": "write an on_read and an on_write hook",
    "swwe": "undo writes in an on_write hook while they are disabled",
    "swwel": "undo writes in an on_write hook while they are disabled",
    "hwclr": "clear the field from the device",
    "hwset": "set the field from the device",
    "haltenable": "halt is not declared",
    "haltmask": "halt is not declared",
    "resetsignal": "reset() resets all registers",
}
_COUNTER = (
    "incr",
    "incrvalue",
    "incrwidth",
    "incrsaturate",
    "incrthreshold",
    "decr",
    "decrvalue",
    "decrwidth",
    "decrsaturate",
    "decrthreshold",
    "saturate",
    "threshold",
    "overflow",
    "underflow",
)


class _Messages(MessagePrinter):
    """Keeps messages, one line each."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def print_message(self, severity: Severity, text: str, src_ref: SourceRefBase | None) -> None:
        place = ""
        if isinstance(src_ref, DetailedFileSourceRef):
            place = f"{src_ref.path}:{src_ref.line}:{src_ref.line_selection[0] + 1}: "
        elif isinstance(src_ref, FileSourceRef):
            place = f"{src_ref.path}: "
        messages = self.errors if severity >= Severity.ERROR else self.warnings
        messages.append(place + " ".join(text.split()))


def read_rdl(path: Path, top: str | None, include: Sequence[Path] = ()) -> tuple[Bank, list[str]]:
    """Read an address map, with all that is in it.

    Parameters
    ----------
    path : Path
        The file.
    top : str or None
        The name of the addrmap; None for the last one that the file defines.
    include : sequence of Path, optional
        Directories in which included files are searched for.

    Returns
    -------
    bank : Bank
        As the file describes it, before `arrange`.
    warnings : list of str
        What the compiler says, a line each.

    Raises
    ------
    GenerateError
        For what the compiler does not accept, with the first of its messages.
    OSError
        For a file that cannot be read.
    """
    path.open("rb").close()
    messages = _Messages()
    compiler = RDLCompiler(message_printer=messages)
    try:
        compiler.compile_file(str(path), incl_search_paths=[str(each) for each in include])
        known = [name for name, each in compiler.root.comp_defs.items() if _is_addrmap(each)]
        if not known:
            raise GenerateError(f"{path}: no addrmap is defined")
        if top is not None and top not in known:
            raise GenerateError(f"{path}: no addrmap {top!r}: it has {', '.join(sorted(known))}")
        node = compiler.elaborate(top_def_name=top).top
    except RDLCompileError as error:
        raise GenerateError(messages.errors[0] if messages.errors else f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise GenerateError(f"{path}: it, or a file that it includes, is not text in UTF-8") from error
    return _Reader(node).bank(), messages.warnings


def _is_addrmap(component: object) -> bool:
    return type(component).__name__ == "Addrmap"


class _Reader:
    """Reads one elaborated address map."""

    def __init__(self, top: AddrmapNode) -> None:
        self.top = top
        self.registers: dict[str, Register] = {}  # by path
        self.nodes: list[tuple[RegNode, Register]] = []
        self.aliases: list[tuple[RegNode, Register]] = []

    def bank(self) -> Bank:
        top = self.top
        bank = Bank(top.inst_name, doc=_doc(top), size=top.size)
        if top.get_property("bigendian"):
            bank.byteorder = "big"
        self.walk(bank, top, 0, [], [])
        for node, register in self.aliases:
            self.alias(bank, node, register)
        for node, register in self.nodes:
            self.line(bank, node, register)
        if len(bank.lines) == 1:
            bank.lines[0].name = "irq"
        return bank

    def walk(
        self, bank: Bank, parent: AddressableNode, base: int, parts: list[str | None], dims: list[tuple[int, int]]
    ) -> None:
        for node in parent.children():
            if isinstance(node, SignalNode):
                bank.notes.append(f"signal {node.inst_name}: not part of the registers")
            if not isinstance(node, AddressableNode):
                continue
            offset = base + node.raw_address_offset
            own_dims = _dims(node)
            name: list[str | None] = [*parts, node.inst_name, *([None] * len(own_dims))]
            if isinstance(node, RegNode):
                register = self.register(node, name, offset, [*dims, *own_dims])
                (self.aliases if node.is_alias else self.nodes).append((node, register))
                if not node.is_alias:
                    bank.registers.append(register)
                continue
            if isinstance(node, MemNode):
                self.memory(bank, node, name, offset, dims)
            elif isinstance(node, AddrmapNode) and node.get_property("bigendian") != (bank.byteorder == "big"):
                bank.notes.append(f"TODO: {node.inst_name} has the other byte order in the file")
            self.walk(bank, node, offset, [*name, "_"], [*dims, *own_dims])

    def memory(
        self, bank: Bank, node: MemNode, name: list[str | None], offset: int, dims: list[tuple[int, int]]
    ) -> None:
        entries, width = node.get_property("mementries"), node.get_property("memwidth")
        text = f"{entries} entries of {width} bits, sw={node.get_property('sw').name}"
        doc = _doc(node)
        place = Register(name, offset, 8, dims)
        for element in place.offsets():
            label = place.name if element == offset else f"{place.name}_{element:x}"
            bank.memories.append(Memory(label, element, node.total_size, f"{doc}: {text}" if doc else text))

    # ------------------------------------------------------------------------- registers

    def register(self, node: RegNode, parts: list[str | None], offset: int, dims: list[tuple[int, int]]) -> Register:
        width = node.get_property("regwidth")
        register = Register(parts, offset, width, dims, doc=_doc(node))
        if "accesswidth" in node.list_properties():
            smallest = node.get_property("accesswidth") // 8
            register.access_sizes = tuple(size for size in (1, 2, 4, 8) if smallest <= size <= width // 8)
        undefined: list[str] = []
        for each in node.fields():
            field = self.field(each)
            reset = each.get_property("reset")
            if isinstance(reset, int):
                register.reset |= _in_order(each, reset) << each.low
            elif reset is not None:
                field.notes.append(f"TODO: reset={_value(reset)}")
            elif each.is_sw_writable or not each.is_hw_writable:
                undefined.append(each.inst_name)
            register.fields.append(field)
        if undefined:
            register.notes.append(f"TODO: no reset value: {', '.join(undefined)}")
        if node.external:
            register.notes.append("external: implemented elsewhere in the file's design")
        if register.fields and not node.has_sw_writable:
            register.only = "read"
        elif register.fields and not node.has_sw_readable:
            register.only = "write"
        self.registers[_path(node)] = register
        return register

    def field(self, node: FieldNode) -> Field:
        sw = node.get_property("sw")
        field = Field(node.inst_name, node.low, node.width, _ACCESSES[sw], doc=_doc(node))
        if sw in (AccessType.rw1, AccessType.w1):
            field.notes.append(f"TODO: sw={sw.name}: write an on_write hook that undoes all writes but the first")
        field.write_only = not node.is_sw_readable
        if node.is_sw_writable:
            effect = node.get_property("onwrite")
            if effect in _WRITES:
                field.access = _WRITES[effect]
            elif effect is not None:
                field.notes.append(f"TODO: onwrite={effect.name}: write an on_write hook")
        action = node.get_property("onread")
        if node.is_sw_readable and action in _READS:
            field.on_read = _READS[action]
        elif node.is_sw_readable and action is not None:
            field.notes.append(f"TODO: onread={action.name}: write an on_read hook")
        if node.parent.is_msb0_order and node.width > 1:
            field.notes.append(f"msb0: the first bit in the file, {node.low}, is the most significant")
        self.behaviour(field, node)
        encode = node.get_property("encode")
        if encode is not None:
            members = [
                Member(member.name, _in_order(node, member.value), _joined(member.rdl_name, member.rdl_desc))
                for member in encode
            ]
            field.enum = Enumeration(encode.type_name, members)
        return field

    def behaviour(self, field: Field, node: FieldNode) -> None:
        """Add comments on what happens without software."""
        stated = set(node.list_properties())
        if node.get_property("counter"):
            details = [_setting(name, node.get_property(name)) for name in _COUNTER if name in stated]
            text = f" ({', '.join(detail for detail in details if detail)})" if details else ""
            field.notes.append(f"TODO: counter{text}: count in the device")
        for name, advice in _BEHAVIOUR.items():
            if name in stated:
                setting = _setting(name, node.get_property(name))
                if setting:
                    field.notes.append(f"TODO: {setting}: {advice}")
        if node.get_property("intr"):
            kind = node.get_property("intr type")
            assert kind is not None
            sticky = next((name for name in ("sticky", "stickybit") if node.get_property(name)), "not sticky")
            field.notes.append(f"intr, {kind.name}, {sticky}")

    # ------------------------------------------------------------------------- what refers to registers

    def alias(self, bank: Bank, node: RegNode, register: Register) -> None:
        """Add an alias; one that a `RegisterAlias` is not the same as becomes a register of its own."""
        primary = self.registers[_path(node.alias_primary)]
        action = _alias_action(register, primary)
        if action is not None and [count for count, _ in register.dims] == [count for count, _ in primary.dims]:
            alias = Alias(register.name, primary, register.offset, action, register.only != "write")
            bank.aliases.append(alias)
            return
        register.notes.append(f"TODO: an alias of {primary.name} in the file: share the values in hooks")
        bank.registers.append(register)
        self.nodes.append((node, register))

    def line(self, bank: Bank, node: RegNode, register: Register) -> None:
        """Add the interrupt line of a register that has intr fields."""
        fields = [each for each in node.fields() if each.get_property("intr")]
        if not fields:
            return
        name = f"irq_{register.name.lower()}"
        status = [(register, each.inst_name) for each in fields]
        enable: list[tuple[Register, str]] = []
        for each in fields:
            by, mask = each.get_property("enable"), each.get_property("mask")
            if mask is not None:
                bank.notes.append(
                    f"TODO: interrupt: {register.name}.{each.inst_name} is masked by {_value(mask)}, where 1 disables"
                )
            if by is None:
                enable.append((register, each.inst_name))  # enabled by itself: always
            elif isinstance(by, FieldNode) and _path(by.parent) in self.registers:
                enable.append((self.registers[_path(by.parent)], by.inst_name))
            else:
                bank.notes.append(f"TODO: interrupt: {register.name}.{each.inst_name} is enabled by {_value(by)}")
                enable.append((register, each.inst_name))
        bank.lines.append(Line(name, status, [] if enable == status else enable))


def _alias_action(alias: Register, primary: Register) -> str | None:
    """Return what a `RegisterAlias` would do that is the same as the alias."""
    of_primary = {field.name: field for field in primary.fields}
    names = {field.name for field in alias.fields}
    # Fields that the alias does not have would be written all the same.
    if any(field.access != "RO" and field.name not in names for field in primary.fields):
        return None
    actions = set()
    for field in alias.fields:
        original = of_primary.get(field.name)
        if original is None or original.mask != field.mask or field.on_read != original.on_read:
            return None
        if field.access == "RO" and original.access == "RO":
            continue
        if original.access not in ("RW", "WO") or field.access not in _ALIAS_ACTIONS:
            return None
        actions.add(_ALIAS_ACTIONS[field.access])
    if len(actions) != 1:
        return None
    return actions.pop()


def _in_order(node: FieldNode, value: int) -> int:
    """Return a value as it is in the register: in msb0 order, the lowest bit is the most significant one."""
    return int(f"{value:0{node.width}b}"[::-1], 2) if node.parent.is_msb0_order else value


def _dims(node: AddressableNode) -> list[tuple[int, int]]:
    """Return count and stride of each dimension."""
    if not node.is_array:
        return []
    stride = node.array_stride
    dims: list[tuple[int, int]] = []
    for count in reversed(node.array_dimensions or []):
        assert stride is not None
        dims.insert(0, (count, stride))
        stride *= count
    return dims


def _path(node: Any) -> str:
    return str(node.get_path(array_suffix="", empty_array_suffix=""))


def _joined(name: str | None, description: str | None) -> str:
    return ". ".join(" ".join(text.split()).rstrip(".") for text in (name, description) if text)


def _doc(node: Node) -> str:
    name = node.get_property("name") if "name" in node.list_properties() else None
    return _joined(name, node.get_property("desc"))


def _value(value: object) -> str:
    if isinstance(value, Node):
        return _path(value)
    if isinstance(value, PropertyReference):
        return f"{_path(value.node)}->{value.name}"
    return str(value)


def _setting(name: str, value: object) -> str:
    """Return a property with its value; an empty string for one that is switched off."""
    if value is False or value is None:
        return ""
    return name if value is True else f"{name}={_value(value)}"
