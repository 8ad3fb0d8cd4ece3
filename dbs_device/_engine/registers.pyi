from collections.abc import Callable
from typing import Any, ClassVar, Literal, NoReturn, Self, SupportsIndex, final, overload

from typing_extensions import disjoint_base

from dbs_device._engine.native import NativeDevice
from dbs_device.registers import Access

__all__ = ["EnumBase", "FieldBase", "FieldTarget", "FlagBase", "Hook", "Layout", "RegisterBase", "RegisterFile"]

@final
class Hook:
    def __init__(
        self,
        kind: str,
        function: Callable[..., Any],
        description: str,
        mask: SupportsIndex,
        shift: SupportsIndex,
        element: int | None,
    ) -> None: ...

@final
class Layout:
    declarations: list[tuple[Any, int | None]]
    numbers: dict[Any, int]
    counters: list[str]
    read_hooks: list[Hook | None]
    write_hooks: list[tuple[Hook, ...] | None]
    line_type: Callable[[], Any]
    serialize: bool
    def __init__(
        self,
        size: int,
        granule: int,
        big_endian: bool,
        gap: str,
        serialize: bool,
        declarations: list[tuple[Any, int | None]],
        registers: list[tuple[Any, ...]],
        counters: list[str],
        ports: list[tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]],
        indices: list[bytes],
        page_select: tuple[int, int, int],
        lines: list[list[tuple[int, int, int, int, int]]],
        read_hooks: list[Hook | None],
        write_hooks: list[tuple[Hook, ...] | None],
        line_type: Callable[[], Any],
    ) -> None: ...

@disjoint_base
class RegisterFile(NativeDevice):
    _layout: ClassVar[Layout]
    def reset(self) -> None: ...
    def peek(self, offset: SupportsIndex, size: SupportsIndex) -> int: ...
    def unimplemented_accesses(self) -> dict[str, int]: ...
    def _register_values(self) -> tuple[list[int], bytes | None]: ...
    def _set_register_values(self, values: list[int], ram: bytes | None) -> None: ...
    def register_number(self, name: str, element: int = 0) -> int: ...
    def _selected_page(self) -> int: ...
    def _irq_line(self, number: int) -> Any: ...

@disjoint_base
class RegisterBase:
    spec: Any
    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
    @overload
    def __get__(self, instance: RegisterFile, owner: type | None = None, /) -> Self: ...
    def __set__(self, instance: RegisterFile, value: NoReturn, /) -> None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> int: ...
    @value.setter
    def value(self, value: SupportsIndex) -> None: ...
    def _change(self, mask: int, value: int) -> None: ...
    def _of_bank(self, bank: RegisterFile, element: int | None) -> Self: ...
    def _element_of(self, element: int | None) -> Self: ...
    @property
    def _is_bound(self) -> bool: ...
    @property
    def _declared(self) -> tuple[Self, int | None]: ...

@final
class FieldTarget:
    register: Any
    field: Any  # a FieldBase, which as an attribute would be taken for a descriptor
    def __init__(self, register: Any, field: FieldBase) -> None: ...

@disjoint_base
class FieldBase:
    name: str | None
    lsb: int
    width: int
    access: Access
    reset: int
    on_read: Literal["clear", "set"] | None
    doc: str
    enum: Any
    def __init__(
        self,
        lsb: SupportsIndex,
        width: SupportsIndex,
        access: Access,
        reset: SupportsIndex,
        on_read: str | None,
        doc: str,
        enum: Any = None,
    ) -> None: ...
    @property
    def mask(self) -> int: ...
    # What a field is, subclasses say.
    def __get__(self, instance: RegisterBase | None, owner: type | None = None, /) -> Any: ...
    def __set__(self, instance: RegisterBase, value: Any, /) -> None: ...
    def _set_reset(self, reset: Any) -> None: ...
    def _decoded(self, register_value: int) -> Any: ...
    def _encoded(self, value: Any) -> int: ...

class FlagBase(FieldBase): ...
class EnumBase(FieldBase): ...
