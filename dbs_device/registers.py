"""Register banks: registers and fields declared once, executed natively.

Examples
--------
>>> class Status(Register):
...     READY = Flag(0, RO, reset=True)
...     ERROR = Flag(1, W1C)
>>> class Control(Register):
...     ENABLE = Flag(0)
...     MODE = Bits(4, 2)
>>> class Timer(RegisterBank, size=0x10):
...     SR = Status(0x0)
...     CR = Control(0x4)
...     COUNT = Register(0x8, access=RO)
...     @on_change(CR.ENABLE)
...     def switch(self, new, old):
...         self.COUNT.value = 100 if new else 0
>>> timer = Timer()
>>> from dbs_device import IoManager, Resource
>>> manager = IoManager()
>>> manager.register_device_io(timer, [Resource.MmioAddressRange(0x1000, timer.size)])
>>> manager.mmio_store(0x1004, 4, 0x21)
>>> timer.CR
<CR 0x00000021: ENABLE=1 MODE=0x2>
>>> manager.mmio_load(0x1008, 4)
100
>>> timer.SR.ERROR = True
>>> manager.mmio_load(0x1000, 4)
3
>>> manager.mmio_store(0x1000, 4, 2)
>>> timer.SR.ERROR
False
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NoReturn,
    Self,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    overload,
)

from ._engine import register_layout as layouts
from ._engine.registers import EnumBase, FieldBase, FieldTarget, FlagBase, RegisterBase, RegisterFile
from .errors import LayoutError, RegisterAccessError, StateError
from .interrupts import IrqLine

__all__ = [
    "RO",
    "RW",
    "UNIMPLEMENTED",
    "W0C",
    "W0S",
    "W0T",
    "W1C",
    "W1S",
    "W1T",
    "WC",
    "WO",
    "WS",
    "Access",
    "Array",
    "Bits",
    "EnumField",
    "Field",
    "Flag",
    "Interrupt",
    "LayoutError",
    "NativeHooks",
    "PageSelect",
    "Register",
    "RegisterAccessError",
    "RegisterAlias",
    "RegisterBank",
    "StateError",
    "UnimplementedRange",
    "on_change",
    "on_read",
    "on_write",
]

_GRANULES = (1, 2, 4, 8)
_REGISTER_SIZES = (1, 2, 4, 8)
# The handlers that an override would take from the native path.
_HANDLERS = ("read", "write", "load", "store", "pio_read", "pio_write", "pio_in", "pio_out")


class Access(Enum):
    """How the guest reads and writes bits.

    ============= ===================================================================================
    RW            read and write
    RO            read-only: a write does nothing
    WO            write-only: reads as zero
    W1C, W1S, W1T a written 1 clears, sets, toggles; a written 0 does nothing
    W0C, W0S, W0T a written 0 clears, sets, toggles; a written 1 does nothing
    WC, WS        any write clears, sets
    UNIMPLEMENTED as RW; the first use is logged, and all are counted (`RegisterBank.unimplemented_accesses`)
    ============= ===================================================================================

    Attributes
    ----------
    rule : tuple of int
        What a write makes of a bit: where it was 1 and 0 is written, 1 and 1, 0 and 0, 0 and 1.
    """

    rule: tuple[int, int, int, int]

    def __new__(cls, number: int, rule: tuple[int, int, int, int]) -> Access:
        """Make a member; the number keeps those of the same rule apart."""
        member = object.__new__(cls)
        member._value_ = number
        member.rule = rule
        return member

    RW = 0, (0, 1, 0, 1)
    RO = 1, (1, 1, 0, 0)
    WO = 2, (0, 1, 0, 1)
    W1C = 3, (1, 0, 0, 0)
    W1S = 4, (1, 1, 0, 1)
    W1T = 5, (1, 0, 0, 1)
    W0C = 6, (0, 1, 0, 0)
    W0S = 7, (1, 1, 1, 0)
    W0T = 8, (0, 1, 1, 0)
    WC = 9, (0, 0, 0, 0)
    WS = 10, (1, 1, 1, 1)
    UNIMPLEMENTED = 11, (0, 1, 0, 1)

    @property
    def is_readable(self) -> bool:
        """Whether the guest sees the bits when it reads."""
        return self is not Access.WO

    @property
    def is_unimplemented(self) -> bool:
        """Whether the use of the bits is logged and counted."""
        return self is Access.UNIMPLEMENTED


RW = Access.RW
RO = Access.RO
WO = Access.WO
W1C = Access.W1C
W1S = Access.W1S
W1T = Access.W1T
W0C = Access.W0C
W0S = Access.W0S
W0T = Access.W0T
WC = Access.WC
WS = Access.WS
UNIMPLEMENTED = Access.UNIMPLEMENTED

ReadEffect: TypeAlias = Literal["clear", "set"]


def _checked_access(access: Access) -> Access:
    if not isinstance(access, Access):
        raise LayoutError(f"an access is one of {', '.join(Access.__members__)}, not {access!r}")
    return access


# ----------------------------------------------------------------------------- fields


class Bits(FieldBase):
    """A field that is an integer.

    Parameters
    ----------
    lsb : int
        Its lowest bit.
    width : int
        How many bits it has.
    access : Access, optional
        How the guest reads and writes it.
    reset : int, optional
        Its value after a reset.
    on_read : {"clear", "set"}, optional
        What a read by the guest does to it, after it was read.
    doc : str, optional
        One line, for tables.
    """

    def __init__(
        self,
        lsb: SupportsIndex,
        width: SupportsIndex,
        access: Access = RW,
        *,
        reset: SupportsIndex = 0,
        on_read: ReadEffect | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(lsb, width, _checked_access(access), reset, on_read, doc)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
        @overload
        def __get__(self, instance: RegisterBase, owner: type | None = None, /) -> int: ...
        def __get__(self, instance: RegisterBase | None, owner: type | None = None, /) -> Self | int: ...
        def __set__(self, instance: RegisterBase, value: int, /) -> None: ...


class Flag(FlagBase):
    """A field of one bit, which is a bool.

    Parameters
    ----------
    bit : int
        Which one.
    access : Access, optional
        How the guest reads and writes it.
    reset : bool, optional
        Its value after a reset.
    on_read : {"clear", "set"}, optional
        What a read by the guest does to it, after it was read.
    doc : str, optional
        One line, for tables.
    """

    def __init__(
        self,
        bit: SupportsIndex,
        access: Access = RW,
        *,
        reset: bool = False,
        on_read: ReadEffect | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(bit, 1, _checked_access(access), bool(reset), on_read, doc)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
        @overload
        def __get__(self, instance: RegisterBase, owner: type | None = None, /) -> bool: ...
        def __get__(self, instance: RegisterBase | None, owner: type | None = None, /) -> Self | bool: ...
        def __set__(self, instance: RegisterBase, value: bool, /) -> None: ...


_EnumT = TypeVar("_EnumT", bound=Enum)


class EnumField(EnumBase, Generic[_EnumT]):
    """A field whose values are the members of an enum; a value that the enum does not have comes out as the integer.

    Parameters
    ----------
    lsb : int
        Its lowest bit.
    width : int
        How many bits it has.
    enum : type of Enum
        Its values are integers that fit.
    access : Access, optional
        How the guest reads and writes it.
    reset : Enum or int, optional
        Its value after a reset.
    on_read : {"clear", "set"}, optional
        What a read by the guest does to it, after it was read.
    doc : str, optional
        One line, for tables.
    """

    def __init__(
        self,
        lsb: SupportsIndex,
        width: SupportsIndex,
        enum: type[_EnumT],
        access: Access = RW,
        *,
        reset: _EnumT | int = 0,
        on_read: ReadEffect | None = None,
        doc: str = "",
    ) -> None:
        super().__init__(lsb, width, _checked_access(access), 0, on_read, doc, enum)
        for member in enum:
            self._encoded(member)
        self._set_reset(reset)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
        @overload
        def __get__(self, instance: RegisterBase, owner: type | None = None, /) -> _EnumT | int: ...
        def __get__(self, instance: RegisterBase | None, owner: type | None = None, /) -> Self | _EnumT | int: ...
        def __set__(self, instance: RegisterBase, value: _EnumT | int, /) -> None: ...


Field: TypeAlias = FieldBase


# ----------------------------------------------------------------------------- registers

_DEFAULTS: dict[str, Any] = {
    "size": 4,
    "reset": 0,
    "access": RW,
    "read": True,
    "write": True,
    "access_sizes": None,
    "lanes": "byte",
}


class Register(RegisterBase):
    """A register: declared in the body of a `RegisterBank`, as it is or as a subclass whose attributes are its fields.

    The same object is what a hook, an `Interrupt` or a `PageSelect` is given, and what a bank gives: `bank.SR.value` is
    the whole register, `bank.SR.TXE` a field. Both can be assigned, from any thread, in one atomic step; no access rule
    applies and no hook is called; interrupt lines follow.

    A subclass takes all parameters but `offset`, `page` and `doc` as class keywords, as defaults.

    Parameters
    ----------
    offset : int
        First byte in the bank.
    size : {4, 1, 2, 8}, optional
        Bytes.
    reset : int, optional
        Value after a reset; the fields' own reset values are added.
    access : Access, optional
        Of the bits that no field names; RW by default.
    page : int, optional
        The page that it is on; None for all. See `PageSelect`.
    read, write : bool, optional
        Whether a read, and whether a write, reaches it. Where one does not, another register may be at the same offset.
    doc : str, optional
        One line, for tables; the first line of the class's docstring by default.
    access_sizes : iterable of int, optional
        The sizes of naturally aligned accesses that it takes; others raise `RegisterAccessError`. None for all.
    lanes : {"byte", "register"}, optional
        How far the effects of an access to some of its bytes reach that do not depend on a written value (of reads,
        and of WC and WS): to those bytes, or to the whole register.

    Attributes
    ----------
    name : str or None
        The name of the register in its bank.
    offset : int
        First byte in the bank.
    value : int
        The whole register.
    """

    _defaults: ClassVar[dict[str, Any]] = _DEFAULTS
    _fields: ClassVar[dict[str, FieldBase]] = {}

    def __init_subclass__(
        cls,
        *,
        size: SupportsIndex | None = None,
        reset: SupportsIndex | None = None,
        access: Access | None = None,
        read: bool | None = None,
        write: bool | None = None,
        access_sizes: Iterable[SupportsIndex] | None = None,
        lanes: Literal["byte", "register"] | None = None,
    ) -> None:
        super().__init_subclass__()
        given = {
            "size": size,
            "reset": reset,
            "access": access,
            "read": read,
            "write": write,
            "access_sizes": access_sizes,
            "lanes": lanes,
        }
        cls._defaults = {**cls._defaults, **{name: value for name, value in given.items() if value is not None}}
        cls._fields = _fields_of(cls)

    def __init__(
        self,
        offset: SupportsIndex,
        *,
        size: SupportsIndex | None = None,
        reset: SupportsIndex | None = None,
        access: Access | None = None,
        page: SupportsIndex | None = None,
        read: bool | None = None,
        write: bool | None = None,
        doc: str = "",
        access_sizes: Iterable[SupportsIndex] | None = None,
        lanes: Literal["byte", "register"] | None = None,
    ) -> None:
        given: dict[str, Any] = {
            "size": size,
            "reset": reset,
            "access": access,
            "read": read,
            "write": write,
            "access_sizes": access_sizes,
            "lanes": lanes,
        }
        options = {name: self._defaults[name] if value is None else value for name, value in given.items()}
        own_doc = type(self).__doc__ or "" if type(self) is not Register else ""
        self.spec = layouts.RegisterSpec(
            offset=operator.index(offset),
            size=operator.index(options["size"]),
            reset=operator.index(options["reset"]),
            access=_checked_access(options["access"]),
            page=None if page is None else operator.index(page),
            readable=bool(options["read"]),
            writable=bool(options["write"]),
            access_sizes=frozenset(map(operator.index, options["access_sizes"] or ())),
            lanes=options["lanes"],
            doc=doc or own_doc.strip().split("\n")[0],
            fields=self._fields,
        )
        _check_register(self.spec)

    def update(self, **fields: Any) -> None:
        """Assign several fields in one atomic step.

        Parameters
        ----------
        **fields
            Values by name; `AttributeError` for one that is not a field, `ValueError` for one that does not fit.
        """
        mask = value = 0
        for name, new in fields.items():
            field = self._fields.get(name)
            if field is None:
                raise AttributeError(f"{type(self).__name__} does not have the field {name}")
            mask |= field.mask
            value |= field._encoded(new)
        self._change(mask, value)

    def __repr__(self) -> str:
        if not self._is_bound:
            return f"<{type(self).__name__} {self.name or ''} at {self.offset:#x}, declared>".replace("  ", " ")
        value = self.value
        fields = " ".join(f"{name}={_shown(field._decoded(value))}" for name, field in self._fields.items())
        return f"<{self._label} {value:#0{2 + 2 * self.spec.size}x}{': ' if fields else ''}{fields}>"

    @property
    def _label(self) -> str:
        _, element = self._declared
        return str(self.name) if element is None else self.spec.label(element)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Enum):
        return value.name
    return f"{value:#x}"


def _fields_of(cls: type[Register]) -> dict[str, FieldBase]:
    """Return the fields of a class by name, from the lowest bit; `LayoutError` where two overlap."""
    fields: dict[str, FieldBase] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, FieldBase):
                if hasattr(Register, name):
                    raise LayoutError(f"{cls.__name__}.{name}: every register has an attribute of this name")
                if value.name not in (None, name):
                    raise LayoutError(f"{cls.__name__}.{name} is the field {value.name} already")
                value.name = name
                fields[name] = value
            else:
                fields.pop(name, None)
    ordered = dict(sorted(fields.items(), key=lambda item: item[1].lsb))
    names = list(ordered)
    for lower, upper in itertools.pairwise(names):
        if ordered[upper].lsb < ordered[lower].lsb + ordered[lower].width:
            raise LayoutError(
                f"{cls.__name__}: the field {upper} (mask {ordered[upper].mask:#x}) overlaps {lower} "
                f"(mask {ordered[lower].mask:#x})"
            )
    return ordered


def _check_register(spec: layouts.RegisterSpec) -> None:
    at = f"the register at {spec.offset:#x}"
    if spec.offset < 0:
        raise LayoutError(f"a register is at an offset of 0 or more, not {spec.offset:#x}")
    if spec.size not in _REGISTER_SIZES:
        raise LayoutError(f"{at} has 1, 2, 4 or 8 bytes, not {spec.size}")
    if not 0 <= spec.reset <= spec.bits:
        raise LayoutError(f"{at}: the reset value {spec.reset:#x} does not fit {spec.size} bytes")
    if not spec.access_sizes <= set(_REGISTER_SIZES):
        raise LayoutError(f"{at}: access sizes are of 1, 2, 4, 8, not {sorted(spec.access_sizes)}")
    if spec.lanes not in ("byte", "register"):
        raise LayoutError(f'{at}: lanes is "byte" or "register", not {spec.lanes!r}')
    if not (spec.readable or spec.writable):
        raise LayoutError(f"{at} can be neither read nor written")
    for field in spec.fields.values():
        if field.mask > spec.bits:
            raise LayoutError(f"{at}: the field {field.name} (mask {field.mask:#x}) does not fit {spec.size} bytes")


_RegisterT = TypeVar("_RegisterT", bound=Register)


class Array(Generic[_RegisterT]):
    """Registers of one kind at equal distances. `bank.CH[2]` is one of them.

    A hook of the whole array is called with the element's index before its other arguments.

    Parameters
    ----------
    register : Register or type of Register
        The first one; a class stands for one at offset 0.
    count : int
        How many.
    stride : int, optional
        Bytes from one to the next; the size of the register by default.

    Attributes
    ----------
    each : Register
        The declaration of all elements, so that `on_change(CH.each.ENABLE)` is about a field of each.
    """

    _bank: RegisterBank | None = None

    def __init__(
        self, register: _RegisterT | type[_RegisterT], count: SupportsIndex, stride: SupportsIndex | None = None
    ) -> None:
        made = register(0) if isinstance(register, type) else register
        if not isinstance(made, Register) or made.spec.count is not None:
            raise LayoutError(f"an array is made of a Register that is not in use, not of {made!r}")
        count, stride = operator.index(count), operator.index(made.spec.size if stride is None else stride)
        if count < 1 or stride < made.spec.size:
            raise LayoutError(
                f"an array has at least 1 element and a stride of at least {made.spec.size}, not {count} and {stride}"
            )
        made.spec.count, made.spec.stride = count, stride
        self.each: _RegisterT = made

    def __get__(self, instance: RegisterBank | None, owner: type) -> Self:
        if instance is None:
            return self
        twin = type(self).__new__(type(self))
        twin._bank, twin.each = instance, self.each
        return twin

    def __set__(self, instance: RegisterBank, value: NoReturn) -> None:
        raise AttributeError(f"{self.each.name} is an array of registers: assign to the value of one, or to a field")

    def __len__(self) -> int:
        count: int = self.each.spec.count
        return count

    def __getitem__(self, index: SupportsIndex) -> _RegisterT:
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.each.name} has {len(self)} elements, and none of index {number}")
        number %= len(self)
        got: Any = self.each._element_of(number) if self._bank is None else self.each._of_bank(self._bank, number)
        return got  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[_RegisterT]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<Array {self.each.name or ''} of {len(self)} {type(self.each).__name__}>".replace("  ", " ")


class UnimplementedRange:
    """Bytes that a bank does not implement: they keep what is written; the first use is logged, and all are counted.

    Parameters
    ----------
    offset, size : int
        The range, in bytes: multiples of the bank's granule.
    doc : str, optional
        One line, for tables.
    """

    def __init__(self, offset: SupportsIndex, size: SupportsIndex, *, doc: str = "") -> None:
        self.offset, self.size, self.doc = operator.index(offset), operator.index(size), doc

    def _registers(self, granule: int) -> Register:
        if self.size < 1 or self.offset % granule or self.size % granule:
            raise LayoutError(
                f"an unimplemented range begins and ends at a multiple of the granule of {granule} bytes, not with "
                f"{self.size:#x} bytes at {self.offset:#x}"
            )
        register = Register(self.offset, size=granule, access=UNIMPLEMENTED, doc=self.doc)
        return Array(register, self.size // granule).each


class RegisterAlias:
    """A second offset of a register, where a write sets, clears or toggles its bits instead of replacing them.

    That concerns bits that take what is written (RW, WO, UNIMPLEMENTED). Others take the write as at the register
    itself: a 1 that is written to the "clear" alias of a W1C bit clears it. Reads are those of the register.

    Parameters
    ----------
    register : Register
        What it is an alias of; `array.each` for an alias of each element.
    offset : int
        Where.
    action : {"set", "clear", "toggle"}
        What a written 1 does.
    read : bool, optional
        Whether a read reaches the register.
    """

    def __init__(
        self,
        register: Register,
        offset: SupportsIndex,
        action: Literal["set", "clear", "toggle"],
        *,
        read: bool = True,
    ) -> None:
        if not isinstance(register, Register):
            raise LayoutError(f"an alias is one of a Register, not of {register!r}")
        _check_action(action)
        self.register, self.offset, self.action, self.read = register, operator.index(offset), action, read


def _check_action(action: str) -> None:
    if action not in ("set", "clear", "toggle"):
        raise LayoutError(f'an alias is for "set", "clear" or "toggle", not {action!r}')


# ----------------------------------------------------------------------------- what hooks and lines are about

# Type checkers see a field of a declared register as the value that it has in a bank.
Target: TypeAlias = Register | Array[Any] | int | Enum


def _resolve(target: object, purpose: str) -> layouts.Target:
    """Return what is meant by a register, an array, an element of one, or a field of any of these."""
    if isinstance(target, Array):
        target = target.each
    field: FieldBase | None = None
    if isinstance(target, FieldTarget):
        field, target = target.field, target.register
    if not isinstance(target, Register) or target._is_bound:
        raise LayoutError(f"{purpose} takes registers and fields as they are declared, not {target!r}")
    declaration, element = target._declared
    if field is None:
        return layouts.Target(declaration, element, target.spec.bits, 0)
    return layouts.Target(declaration, element, field.mask, field.lsb, field.name)


_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


def _hook(kind: str, targets: tuple[object, ...]) -> Callable[[_FunctionT], _FunctionT]:
    if not targets:
        raise LayoutError(f"on_{kind} takes at least one register")
    resolved = [_resolve(target, f"on_{kind}") for target in targets]
    if kind == "read" and any(isinstance(target, FieldTarget) for target in targets):
        raise LayoutError("on_read is about whole registers")

    def decorate(function: _FunctionT) -> _FunctionT:
        hooks = getattr(function, "_register_hooks", ())
        try:
            function._register_hooks = (*hooks, (kind, resolved))  # type: ignore[attr-defined]
        except AttributeError:
            raise TypeError(f"on_{kind} decorates a method, not {function!r}") from None
        return function

    return decorate


def on_read(*targets: Register | Array[Any]) -> Callable[[_FunctionT], _FunctionT]:
    """Call a method of the bank when the guest reads a register.

    Parameters
    ----------
    *targets : Register or Array
        The registers. One has one such hook at most.

    Returns
    -------
    callable
        A decorator of a method ``(self, value) -> int | None``, which gets what the read would give, and may return
        something else; bits beyond the register are cut off. Side effects of the read are done already.
    """
    return _hook("read", targets)


def on_write(*targets: Target) -> Callable[[_FunctionT], _FunctionT]:
    """Call a method of the bank when the guest writes a register.

    Parameters
    ----------
    *targets : Register, Array or field
        The registers, or fields of them.

    Returns
    -------
    callable
        A decorator of a method ``(self, new, old)``, which gets the values after and before the write.
    """
    return _hook("write", targets)


def on_change(*targets: Target) -> Callable[[_FunctionT], _FunctionT]:
    """Call a method of the bank when an access of the guest changes a field.

    Accesses that do not change it never reach Python.

    Parameters
    ----------
    *targets : Register, Array or field
        The fields, or whole registers.

    Returns
    -------
    callable
        A decorator of a method ``(self, new, old)``, which gets the values of the field (or register) as integers.
    """
    return _hook("change", targets)


class NativeHooks:
    """In the class body of a bank that is a Cython subclass: the registers that call `c_hook_read`, `c_hook_write`.

    Parameters
    ----------
    read, write : iterable of Register or Array, optional
        The registers of which a read, or a write, is passed on.
    """

    def __init__(
        self, *, read: Iterable[Register | Array[Any]] = (), write: Iterable[Register | Array[Any]] = ()
    ) -> None:
        self.reads = [_resolve(target, "NativeHooks") for target in read]
        self.writes = [_resolve(target, "NativeHooks") for target in write]


class PageSelect:
    """Several pages of registers at the same offsets, of which a field selects one. `bank.page` is its number.

    Parameters
    ----------
    field : field of a declared register
        Its value is the number of the page; there are as many as it has values.
    """

    def __init__(self, field: Target) -> None:
        if not isinstance(field, FieldTarget):
            raise LayoutError(f"PageSelect takes a field of a declared register, not {field!r}")
        self._target: layouts.Target = _resolve(field, "PageSelect")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: RegisterBank, owner: type) -> int: ...
    def __get__(self, instance: RegisterBank | None, owner: type) -> Self | int:
        if instance is None:
            return self
        return instance._selected_page()

    def __set__(self, instance: RegisterBank, value: NoReturn) -> None:
        raise AttributeError("a page is selected by the field that PageSelect names")


class Interrupt:
    """An interrupt line of a bank: high while a bit is set in the status and enabled. `bank.irq` is its `IrqLine`.

    The level is computed natively, after each access and each assignment that concerns it; the line's sink is called
    on edges only.

    Parameters
    ----------
    status : Register, Array, field, or tuple of these
        What asks for an interrupt.
    enable : Register, Array, field, or tuple of these, optional
        What enables it, bit by bit; a tuple of the same length, or one for all. Without it all bits are enabled.
    """

    def __init__(
        self, *, status: Target | tuple[Target, ...], enable: Target | tuple[Target, ...] | None = None
    ) -> None:
        statuses = [_resolve(each, "Interrupt") for each in (status if isinstance(status, tuple) else (status,))]
        enables: list[layouts.Target | None] = [None]
        if enable is not None:
            enables = [_resolve(each, "Interrupt") for each in (enable if isinstance(enable, tuple) else (enable,))]
        if len(enables) == 1:
            enables *= len(statuses)
        if len(statuses) != len(enables) or not statuses:
            raise LayoutError(f"an interrupt has {len(statuses)} status registers and {len(enables)} to enable them")
        self._terms = [layouts.Term(*pair) for pair in zip(statuses, enables, strict=True)]
        self._name: str | None = None

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: RegisterBank, owner: type) -> IrqLine: ...
    def __get__(self, instance: RegisterBank | None, owner: type) -> Self | IrqLine:
        if instance is None:
            return self
        line: IrqLine = instance._irq_line(instance._line_names.index(str(self._name)))
        return line

    def __set__(self, instance: RegisterBank, value: NoReturn) -> None:
        raise AttributeError("a bank's line is driven by the bank: connect a sink to it")


# ----------------------------------------------------------------------------- banks

_DECLARATIONS = (Register, Array, UnimplementedRange, RegisterAlias, PageSelect, Interrupt, NativeHooks)


class RegisterBank(RegisterFile):
    """A device made of registers. Subclass it, and declare them as class attributes.

    It serves memory-mapped accesses and ports, of any size and alignment: an access is taken apart by register, lowest
    address first. It does so natively, without the GIL, except where a register has a hook in Python.

    An access stores first, then calls hooks, then interrupt lines. When a hook raises, what was stored stays, lines
    follow it, and the exception comes out of the access. A hook may use its own bank, and the bus.

    A bank holds no reference to where it is registered, and its banks are independent of each other. Subclasses inherit
    registers and hooks; a hook is found by the name of its method, which a subclass may override.

    Class keywords
    --------------
    size : int, optional
        Bytes that are registered; up to the end of the last register by default.
    granule : {4, 1, 2, 8}, optional
        Bytes between places where a register may begin and another one may not continue.
    byteorder : {"little", "big"}, optional
        Of the registers, whatever the manager's is.
    gap : {"zero", "ones", "ram", "raise"}, optional
        What is between registers: zeros or ones, and writes do nothing; memory; or accesses raise
        `RegisterAccessError`, before anything is done.
    serialize : bool, optional
        Whether hooks run under a (re-entrant) lock of the bank.
    aliases : mapping of {"set", "clear", "toggle"} to int, optional
        Distance to a second copy of all registers, where writes act as at a `RegisterAlias`.

    Attributes
    ----------
    size : int
        Bytes.
    """

    __slots__ = ()

    size: ClassVar[int]
    _options: ClassVar[dict[str, Any]] = {
        "size": None,
        "granule": 4,
        "byteorder": "little",
        "gap": "zero",
        "serialize": False,
        "aliases": {},
    }
    _spec: ClassVar[layouts.BankSpec]
    _fingerprint: ClassVar[str]
    _line_names: ClassVar[list[str]]

    def __init_subclass__(
        cls,
        *,
        size: SupportsIndex | None = None,
        granule: SupportsIndex | None = None,
        byteorder: Literal["little", "big"] | None = None,
        gap: Literal["zero", "ones", "ram", "raise"] | None = None,
        serialize: bool | None = None,
        aliases: Mapping[Literal["set", "clear", "toggle"], SupportsIndex] | None = None,
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        given = {
            "size": size,
            "granule": granule,
            "byteorder": byteorder,
            "gap": gap,
            "serialize": serialize,
            "aliases": aliases,
        }
        cls._options = {**cls._options, **{name: value for name, value in given.items() if value is not None}}
        spec = _spec_of(cls)
        if spec.size is None and not spec.registers:
            cls._layout = None  # type: ignore[assignment]  # a base class for others
            return
        cls._layout = layouts.build_layout(spec, IrqLine)
        assert spec.size is not None
        cls.size, cls._spec, cls._fingerprint = spec.size, spec, spec.fingerprint()
        cls._line_names = [name for name, _ in spec.lines]

    def save_state(self) -> dict[str, Any]:
        """Return the values of all registers, and the memory in the gaps if there is any.

        Each register is read in one step, all of them are not: stop the guest first.

        Returns
        -------
        dict
            Of integers, strings, lists, bytes and dicts, with a fingerprint of the layout. `load_state` takes it.
        """
        values, gaps = self._register_values()
        iterator = iter(values)
        registers: dict[str, int | list[int]] = {}
        for spec in self._spec.registers.values():
            if spec.count is None:
                registers[str(spec.name)] = next(iterator)
            else:
                registers[str(spec.name)] = [next(iterator) for _ in range(spec.count)]
        state: dict[str, Any] = {"layout": self._fingerprint, "registers": registers}
        if gaps is not None:
            state["gaps"] = gaps
        return state

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `StateError` for a state of another layout, without any change."""
        self._values_in(state)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Give the registers the values of a state. No hook is called. Interrupt lines follow.

        Parameters
        ----------
        state : mapping
            What `save_state` returned, of a bank with the same layout; anything else is a `StateError`, and nothing is
            changed.
        """
        values = self._values_in(state)
        try:
            self._set_register_values(values, state.get("gaps"))
        except (TypeError, ValueError) as error:
            raise StateError(f"a state that does not fit {type(self).__name__}: {error}") from error

    def _values_in(self, state: Mapping[str, Any]) -> list[int]:
        """Return the values of all registers in a state of this layout."""
        if not isinstance(state, Mapping) or "layout" not in state:
            raise StateError(f"{type(self).__name__} loads what save_state returns, not {type(state).__name__}")
        if state["layout"] != self._fingerprint:
            raise StateError(
                f"the state of layout {state['layout']} does not fit {type(self).__name__}, which has layout "
                f"{self._fingerprint}"
            )
        registers = state.get("registers")
        specs = self._spec.registers.values()
        if not isinstance(registers, Mapping) or registers.keys() != {spec.name for spec in specs}:
            raise StateError(f"the registers of the state are not those of {type(self).__name__}")
        values: list[int] = []
        for spec in specs:
            value = registers[spec.name]
            elements = [value] if spec.count is None else value
            if not isinstance(elements, (list, tuple)) or len(elements) != (spec.count or 1):
                raise StateError(f"{type(self).__name__}.{spec.name} does not have the value {value!r}")
            values.extend(elements)
        return values

    def registers_at(
        self, offset: SupportsIndex, size: SupportsIndex = 1, *, write: bool = False
    ) -> list[tuple[int, Register]]:
        """Find the registers that an access reaches. It takes time proportional to the number of registers.

        Parameters
        ----------
        offset, size : int
            First byte, and number of bytes.
        write : bool, optional
            Whether the access is a write: some registers are only read, or only written.

        Returns
        -------
        list of (int, Register)
            The offset of each and the register, by offset, on the page that is selected now. For an alias it is the
            offset of the alias.

        Examples
        --------
        >>> class Uart(RegisterBank):
        ...     DATA = Register(0x0)
        ...     STATUS = Register(0x4)
        >>> Uart().registers_at(0x4, 4)
        [(4, <STATUS 0x00000000>)]
        """
        first = operator.index(offset)
        end = first + operator.index(size)
        page = self._selected_page()
        found = []
        for place in self._spec.places:
            if place.offset >= end or place.offset + place.size <= first or place.page not in (None, page):
                continue
            if place.writable if write else place.readable:
                declaration, element = self._layout.declarations[place.number]
                found.append((place.offset, declaration._of_bank(self, element)))
        return sorted(found, key=lambda each: each[0])

    @classmethod
    def table(cls) -> str:
        """Return the registers and fields as a table in Markdown, one row each."""
        rows = cls.table_rows()
        head, *lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        return "\n".join([head, "|---" * len(rows[0]) + "|", *lines])

    @classmethod
    def table_rows(cls) -> list[list[str]]:
        """Return the cells of that table, its head first."""
        rows = [["Offset", "Name", "Bits", "Access", "Reset", "Description"]]
        for spec in sorted(cls._spec.registers.values(), key=lambda spec: (spec.offset, spec.page or 0)):
            access = spec.access.name
            if not (spec.readable and spec.writable):
                access = "read" if spec.readable else "write"
            offset = f"{spec.offset:#05x}" + (f" (page {spec.page})" if spec.page is not None else "")
            name = str(spec.name)
            if spec.count is not None:
                name += f"[0..{spec.count - 1}]"
                offset += f" + {spec.stride:#x} n"
            bits = f"{8 * spec.size - 1}:0"
            rows.append([offset, name, bits, "" if spec.fields else access, f"{spec.reset_value:#x}", spec.doc])
            for field in reversed(spec.fields.values()):
                last = field.lsb + field.width - 1
                bits = str(field.lsb) if field.width == 1 else f"{last}:{field.lsb}"
                effect = f", {field.on_read}s on read" if field.on_read else ""
                rows.append(
                    ["", f"{spec.name}.{field.name}", bits, field.access.name + effect, f"{field.reset:#x}", field.doc]
                )
        for alias in cls._spec.aliases:
            text = f"{alias.action} alias of {alias.target.declaration.name}"
            rows.append([f"{alias.offset:#05x}", alias.name, "", "", "", text])
        for action, distance in cls._spec.bank_aliases.items():
            rows.append([f"+ {distance:#x}", "", "", "", "", f"{action} alias of all registers"])
        return rows

    def __repr__(self) -> str:
        values, _ = self._register_values()
        changed = []
        for (declaration, element), value in zip(self._layout.declarations, values, strict=True):
            if value != declaration.spec.reset_value:
                set_fields = [name for name, field in declaration._fields.items() if value & field.mask]
                fields = f" ({' '.join(set_fields)})" if set_fields else ""
                changed.append(f"{declaration.spec.label(element or 0)}={value:#x}{fields}")
        return f"<{type(self).__name__}: {', '.join(changed) or 'as after a reset'}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not copied or pickled: use save_state and load_state")


def _spec_of(cls: type[RegisterBank]) -> layouts.BankSpec:
    """Collect what a class and its bases declare."""
    options = cls._options
    size, granule, aliases = options["size"], operator.index(options["granule"]), options["aliases"]
    if granule not in _GRANULES:
        raise LayoutError(f"{cls.__name__}: a granule has 1, 2, 4 or 8 bytes, not {granule}")
    if options["byteorder"] not in ("little", "big"):
        raise LayoutError(f'{cls.__name__}: a byteorder is "little" or "big", not {options["byteorder"]!r}')
    if options["gap"] not in ("zero", "ones", "ram", "raise"):
        raise LayoutError(f'{cls.__name__}: a gap is "zero", "ones", "ram" or "raise", not {options["gap"]!r}')
    for action in aliases:
        _check_action(action)
    spec = layouts.BankSpec(
        name=cls.__name__,
        size=None if size is None else operator.index(size),
        granule=granule,
        byteorder=options["byteorder"],
        gap=options["gap"],
        serialize=bool(options["serialize"]),
        bank_aliases={action: operator.index(distance) for action, distance in aliases.items()},
    )
    for name, declared in _declarations_of(cls, spec.replaced).items():
        _add_declaration(cls, spec, name, declared)
    spec.hooks = _hooks_of(cls)
    return spec


def _declarations_of(cls: type[RegisterBank], replaced: dict[Any, Any]) -> dict[str, Any]:
    """Return what is declared, by name, the bases' first; refuse names and methods that would break a bank.

    `replaced` gets the registers that a subclass declares anew.
    """
    declared: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base in RegisterBank.__mro__:
            continue
        for name, value in vars(base).items():
            if name in _HANDLERS:
                raise LayoutError(
                    f"{base.__name__}.{name} would leave the native path: use on_read and on_write, or c_hook_read and "
                    "c_hook_write in Cython"
                )
            if isinstance(value, _DECLARATIONS):
                if hasattr(RegisterBank, name):
                    raise LayoutError(f"{base.__name__}.{name}: every bank has an attribute of this name")
                old = declared.get(name, value)
                if isinstance(old, Register) != isinstance(value, Register) or isinstance(old, Array) != isinstance(
                    value, Array
                ):
                    raise LayoutError(f"{base.__name__}.{name} is not what {name} is in a base class")
                if old is not value and isinstance(value, (Register, Array)):
                    replaced[_template(old)] = _template(value)
                declared[name] = value
            elif name in declared:
                raise LayoutError(f"{base.__name__}.{name} hides the declaration of {name} in a base class")
    return declared


def _add_declaration(cls: type[RegisterBank], spec: layouts.BankSpec, name: str, declared: Any) -> None:
    if isinstance(declared, RegisterAlias):
        spec.aliases.append(
            layouts.AliasSpec(name, _resolve(declared.register, name), declared.offset, declared.action, declared.read)
        )
    elif isinstance(declared, PageSelect):
        if spec.page_select is not None:
            raise LayoutError(f"{cls.__name__}.{name}: a bank has one PageSelect")
        spec.page_select = declared._target
    elif isinstance(declared, Interrupt):
        declared._name = _own_name(cls, declared._name, name)
        spec.lines.append((name, declared._terms))
    elif isinstance(declared, NativeHooks):
        spec.native_reads += declared.reads
        spec.native_writes += declared.writes
    else:
        if isinstance(declared, UnimplementedRange):
            register = declared._registers(spec.granule)
        else:
            register = _template(declared)
        if register in spec.registers or register._declared[0] is not register:
            raise LayoutError(f"{cls.__name__}.{name} is the register {register.name} already")
        register.spec.name = _own_name(cls, register.spec.name, name)
        spec.registers[register] = register.spec
        if register.spec.access.is_unimplemented and not register.spec.fields:
            spec.tagged.add(register)


def _template(declared: Register | Array[Any]) -> Register:
    register: Register = declared.each if isinstance(declared, Array) else declared
    return register


def _own_name(cls: type[RegisterBank], known: str | None, name: str) -> str:
    if known not in (None, name):
        raise LayoutError(f"{cls.__name__}.{name} is declared as {known} already")
    return name


def _hooks_of(cls: type[RegisterBank]) -> list[layouts.HookSpec]:
    """Return the hooks of a class and its bases; a method that a subclass overrides is still the hook."""
    hooks: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            targets = getattr(value, "_register_hooks", None) if callable(value) else None
            if targets is not None:
                hooks[name] = targets
    return [
        layouts.HookSpec(kind, getattr(cls, name), f"{cls.__name__}.{name} (on_{kind})", targets)
        for name, each in hooks.items()
        for kind, targets in each
    ]
