"""From the description of a register bank to the source of a module."""

from __future__ import annotations

import json
import keyword
import re
import textwrap
from collections.abc import Iterable

from .. import registers as declarations
from .model import Bank, Enumeration, Field, Line, Register

__all__ = ["print_module"]

_WIDTH = 120
_PUBLIC = {*declarations.__all__, *keyword.kwlist}
_RESERVED = {
    "register": {*dir(declarations.RegisterBank), *_PUBLIC, "page"},
    "field": {*dir(declarations.Register), *_PUBLIC},
    "value": {*dir(int), "name", "value", "mro", *keyword.kwlist},
    "class": {"IntEnum", *_PUBLIC},
}
_FALLBACK_FIRST = {"register": "REGISTER_", "field": "FIELD_", "value": "VALUE_", "class": "Class"}


class Names:
    """Python identifiers for the names of one scope of a file: distinct, and usable there."""

    def __init__(self, kind: str, taken: Iterable[str] = ()) -> None:
        self.kind = kind
        self.taken = {*_RESERVED[kind], *taken}

    def add(self, text: str) -> str:
        """Return an identifier for a name, and reserve it."""
        name = re.sub(r"\W", "_", text.strip(), flags=re.ASCII).lstrip("_")
        if not name or name[0].isdigit():
            name = _FALLBACK_FIRST[self.kind] + name
        if name in _RESERVED[self.kind]:
            name += "_"
        unique, number = name, 2
        while unique in self.taken:
            separator = "" if self.kind == "class" else "_"
            unique, number = f"{name.rstrip('_')}{separator}{number}", number + 1
        self.taken.add(unique)
        return unique


def _class_name(*parts: str) -> str:
    words = [word for part in parts for word in re.split(r"[\W_]+", part, flags=re.ASCII) if word]
    return "".join(
        word.capitalize() if word.isupper() or word.islower() else word[0].upper() + word[1:] for word in words
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _hex(number: int, digits: int = 1) -> str:
    return f"0x{number:0{digits}X}"


def _decimal(number: int) -> str:
    return str(number) if number < 10 else _hex(number)


def _string(text: str) -> str:
    return json.dumps(_line(text), ensure_ascii=False)


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        _line(text),
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _escaped(text: str) -> str:
    """Return text for the inside of a docstring."""
    return _line(text).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _docstring(text: str, indent: str) -> list[str]:
    text = _escaped(text)
    if text.endswith('"'):
        text = text[:-1] + '\\"'
    if text and text[-1] not in ".!?":
        text += "."
    if len(indent) + len(text) + 6 <= _WIDTH:
        return [f'{indent}"""{text}"""']
    summary, _, rest = text.partition(". ")
    if not rest or len(indent) + len(summary) + 4 > _WIDTH:
        width = _WIDTH - len(indent) - 8
        summary, rest = textwrap.shorten(text, width, placeholder=" ..."), text
    else:
        summary += "."
    body = textwrap.wrap(rest, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [f'{indent}"""{summary}', "", *body, f'{indent}"""']


def _call(indent: str, prefix: str, arguments: list[str]) -> list[str]:
    """Return a call on one line if it fits, else with its arguments in one line or one to a line, as formatters do."""
    line = f"{indent}{prefix}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        return [line]
    inner = indent + "    "
    together = inner + ", ".join(arguments)
    if len(together) <= _WIDTH:
        return [f"{indent}{prefix}(", together, f"{indent})"]
    return [f"{indent}{prefix}(", *(f"{inner}{argument}," for argument in arguments), f"{indent})"]


class Printer:
    """Prints one bank."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.used: set[str] = set()
        self.digits = len(f"{max(bank.size - 1, 0):x}")
        self.register_names: dict[int, str] = {}  # by id
        self.field_names: dict[int, dict[str, str]] = {}  # by id of the register, then by name in the file
        self.class_of: dict[int, str] = {}
        self.doc_of_class: dict[str, str] = {}
        self.classes: list[list[str]] = []
        self.enumerations: dict[str, str] = {}  # names by content
        names = Names("register")
        self.member_names = names
        for register in bank.registers:
            self.register_names[id(register)] = names.add(register.name)
        self.alias_names = [names.add(alias.name) for alias in bank.aliases]
        self.memory_names = [names.add(memory.name) for memory in bank.memories]
        self.line_names = [names.add(line.name) for line in bank.lines]
        self.page_name = names.add("PAGE") if bank.page_register is not None else ""
        # A class that has the name of a register would be hidden by it in the body of the bank.
        self.class_names = Names("class", names.taken)
        self.bank_name = self.class_names.add(_class_name(bank.name))
        self.known_classes: dict[str, str] = {}  # names by content

    def use(self, name: str) -> str:
        """Note that the module imports a name, and return it."""
        self.used.add(name)
        return name

    def offset(self, offset: int) -> str:
        """Return an offset as the source has it."""
        return _hex(offset, self.digits)

    # ------------------------------------------------------------------------- enumerations

    def enumeration(
        self, each: Enumeration, register: Register, name: str, purpose: str = ""
    ) -> tuple[str, dict[int, str]]:
        """Return the name of the class, and the names of its members by value; print the class once."""
        names = Names("value")
        members = [(names.add(member.name), member) for member in each.members]
        by_value: dict[int, str] = {}
        body: list[str] = []
        for note in each.notes:
            body += _comment(note, "    ")
        for identifier, member in members:
            by_value.setdefault(member.value, identifier)
            line = f"    {identifier} = {_decimal(member.value)}"
            doc = _line(member.doc)
            if member.name != identifier:
                doc = f"{member.name}: {doc}" if doc else f"{member.name} in the file"
            if doc and len(line) + len(doc) + 4 <= _WIDTH:
                line += f"  # {doc}"
            elif doc:
                body += _comment(doc, "    ")
            body.append(line)
        content = "\n".join([each.name, *body])
        if content not in self.enumerations:
            wanted = _class_name(each.name) if each.name else _class_name(register.name, name, purpose)
            class_name = self.class_names.add(wanted)
            self.enumerations[content] = class_name
            doc = f"Values of {register.name}.{name}{', ' + purpose if purpose else ''}."
            self.classes.append([f"class {class_name}(IntEnum):", *_docstring(doc, "    "), "", *body])
        return self.enumerations[content], by_value

    # ------------------------------------------------------------------------- fields and registers

    def field(self, each: Field, register: Register, identifier: str) -> list[str]:
        arguments = [str(each.lsb)]
        notes = list(each.notes)
        reset = _decimal(each.reset)
        if each.enum is not None:
            kind = "EnumField"
            class_name, members = self.enumeration(each.enum, register, each.name)
            arguments += [str(each.width), class_name]
            if each.reset in members:
                reset = f"{class_name}.{members[each.reset]}"
        elif each.width == 1:
            kind, reset = "Flag", "True"
        else:
            kind = "Bits"
            arguments.append(str(each.width))
        if each.written_enum is not None:
            written, _ = self.enumeration(each.written_enum, register, each.name, "written")
            notes.append(f"{written} has the values that are written")
        if each.access != "RW":
            arguments.append(self.use(each.access))
        if each.reset:
            arguments.append(f"reset={reset}")
        if each.on_read is not None:
            arguments.append(f'on_read="{each.on_read}"')
        if identifier != each.name:
            notes.append(f"{each.name} in the file")
        if each.doc:
            arguments.append(f"doc={_string(each.doc)}")
        lines = [line for note in notes for line in _comment(note, "    ")]
        return lines + _call("    ", f"{identifier} = {self.use(kind)}", arguments)

    def register_class(self, register: Register) -> str:
        """Return the name of the class of a register; print it unless there is one with the same content."""
        names = Names("field")
        identifiers = [names.add(each.name) for each in register.fields]
        self.field_names[id(register)] = {
            each.name: identifier for each, identifier in zip(register.fields, identifiers, strict=True)
        }
        if not register.fields:
            return self.use("Register")
        keywords = [f"{self.use('Register')}"]
        if register.size != 4:
            keywords.append(f"size={register.size}")
        covered = sum(each.mask for each in register.fields)
        if covered != (1 << register.width) - 1 and register.access != "RW":
            keywords.append(f"access={self.use(register.access)}")
        if register.access_sizes:
            keywords.append(f"access_sizes={register.access_sizes}")
        body: list[str] = []
        for each, identifier in zip(register.fields, identifiers, strict=True):
            body += self.field(each, register, identifier)
        content = "\n".join([*keywords, *body])
        if content not in self.known_classes:
            name = self.class_names.add(_class_name(register.name) + "Register")
            self.known_classes[content] = name
            self.doc_of_class[name] = _line(register.doc)
            head = _call("", f"class {name}", keywords)
            head[-1] += ":"
            doc = _docstring(register.doc or f"{register.name}.", "    ")
            self.classes.append([*head, *doc, "", *body])
        return self.known_classes[content]

    def register(self, register: Register) -> list[str]:
        name = self.register_names[id(register)]
        class_name = self.register_class(register)
        arguments = [self.offset(register.offset)]
        if not register.fields:
            if register.size != 4:
                arguments.append(f"size={register.size}")
            if register.access != "RW":
                arguments.append(f"access={self.use(register.access)}")
        unnamed = register.reset & ~sum(each.mask for each in register.fields)
        if unnamed:
            arguments.append(f"reset={_hex(unnamed)}")
        if register.page is not None:
            arguments.append(f"page={register.page}")
        if not register.readable:
            arguments.append("read=False")
        if not register.writable:
            arguments.append("write=False")
        doc = _line(register.doc)
        if doc and doc != self.doc_of_class.get(class_name):
            arguments.append(f"doc={_string(doc)}")
        notes = list(register.notes)
        if name != register.name:
            notes.append(f"{register.name} in the file")
        lines = [line for note in notes for line in _comment(note, "    ")]
        if not register.dims:
            return lines + _call("    ", f"{name} = {class_name}", arguments)
        ((count, stride),) = register.dims
        array = [f"{class_name}({', '.join(arguments)})", str(count)]
        if stride != register.size:
            array.append(_hex(stride))
        return lines + _call("    ", f"{name} = {self.use('Array')}", array)

    # ------------------------------------------------------------------------- what refers to registers

    def reference(self, register: Register, field_name: str = "") -> str | None:
        """Return the expression for a register or a field of it; None if it is not declared as one."""
        name = self.register_names.get(id(register))
        if name is None:
            return None
        expression = f"{name}.each" if register.dims else name
        if field_name:
            identifier = self.field_names[id(register)].get(field_name)
            return f"{expression}.{identifier}" if identifier is not None else None
        return expression

    def line(self, line: Line, name: str) -> list[str]:
        references = [
            [self.reference(register, field_name) for register, field_name in pairs]
            for pairs in (line.status, line.enable)
        ]
        if None in references[0] or None in references[1]:
            return _comment(f"TODO: interrupt {line.name}: {name} = Interrupt(status=..., enable=...)", "    ")
        arguments = []
        for keyword_name, expressions in zip(("status", "enable"), references, strict=True):
            texts = [str(expression) for expression in expressions]
            if texts:
                text = texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
                arguments.append(f"{keyword_name}={text}")
        return _call("    ", f"{name} = {self.use('Interrupt')}", arguments)

    # ------------------------------------------------------------------------- the module

    def body(self) -> list[str]:
        bank = self.bank
        registers = [(register.offset, self.register(register)) for register in bank.registers]
        for memory, name in zip(bank.memories, self.memory_names, strict=True):
            place = f"{memory.size:#x} bytes at {memory.offset:#x}"
            if memory.is_declared:
                arguments = [self.offset(memory.offset), _hex(memory.size)]
                if memory.doc:
                    arguments.append(f"doc={_string(memory.doc)}")
                lines = _comment("TODO: memory; it keeps what is written, and its use is logged", "    ")
                lines += _call("    ", f"{name} = {self.use('UnimplementedRange')}", arguments)
            else:
                doc = f" ({memory.doc})" if memory.doc else ""
                lines = _comment(f"TODO: memory {memory.name}{doc}: {place}, not declared", "    ")
            registers.append((memory.offset, lines))
        registers.sort(key=lambda item: item[0])
        lines = [line for _, each in registers for line in each]
        for alias, name in zip(bank.aliases, self.alias_names, strict=True):
            reference = self.reference(alias.register)
            if reference is None:
                lines += _comment(f"TODO: {alias.action} alias {alias.name} at {alias.offset:#x}", "    ")
                continue
            arguments = [reference, self.offset(alias.offset), f'"{alias.action}"']
            if not alias.readable:
                arguments.append("read=False")
            lines += _call("    ", f"{name} = {self.use('RegisterAlias')}", arguments)
        if bank.page_register is not None:
            lines += self.pages(*bank.page_register)
        for line, name in zip(bank.lines, self.line_names, strict=True):
            lines += self.line(line, name)
        return lines

    def pages(self, offset: int, width: int) -> list[str]:
        """Return the declaration of a page select, whose register the guest cannot reach."""
        name = self.class_names.add("PageRegister")
        flag = f"    NUMBER = {self.use('Bits')}(0, {width}, {self.use('RO')})"
        doc = '    """The page that is selected; the guest does not reach it."""'
        self.classes.append([f"class {name}({self.use('Register')}, access=RO):", doc, "", flag])
        text = (
            "TODO: registers overlap, and the file does not say what selects them: name the field that does in "
            f"PageSelect, or assign to {self.page_name}.NUMBER in a hook."
        )
        return [
            *_comment(text, "    "),
            f"    {self.page_name} = {name}({self.offset(offset)}, read=False)",
            f"    page = {self.use('PageSelect')}({self.page_name}.NUMBER)",
        ]

    def module(self, source: str, command: str) -> str:
        bank = self.bank
        body = self.body()
        keywords = [self.use("RegisterBank"), f"size={_hex(bank.size)}"]
        if bank.granule != 4:
            keywords.append(f"granule={bank.granule}")
        if bank.byteorder != "little":
            keywords.append(f'byteorder="{bank.byteorder}"')
        head = _call("", f"class {self.bank_name}", keywords)
        head[-1] += ":"
        notes = [line for note in bank.notes for line in _comment(note, "    ")]
        doc = _docstring(bank.doc or f"{bank.name}.", "    ")
        classes = [*self.classes, [*head, *doc, "", *notes, *body]]
        introduction = [
            f'"""Register bank of {_escaped(bank.name)}, made from {_escaped(source)}.',
            "",
            f"Generated by `{_escaped(command)}`, to be edited:",
            "TODO marks what the file does not say, or a declaration cannot.",
            '"""',
        ]
        ordered = sorted(self.used, key=lambda name: (not name.isupper(), name))
        imports = [f"from dbs_device.registers import {', '.join(ordered)}"]
        if len(imports[0]) > _WIDTH:
            imports = ["from dbs_device.registers import (", *(f"    {name}," for name in ordered), ")"]
        if any("(IntEnum):" in each[0] for each in self.classes):
            imports = ["from enum import IntEnum", "", *imports]
        head_of_module = "\n".join([*introduction, "", *imports])
        return "\n\n\n".join([head_of_module, *("\n".join(each) for each in classes)]) + "\n"


def print_module(bank: Bank, source: str, command: str) -> str:
    """Return the source of a module.

    Parameters
    ----------
    bank : Bank
        As `arrange` left it.
    source : str
        The name of the file, without a directory.
    command : str
        What generates the module again.
    """
    return Printer(bank).module(source, command)
