from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, SupportsIndex

from typing_extensions import Buffer, disjoint_base

from .native import NativeDevice

__all__ = ["HostMemory", "Ram", "Rom"]

@disjoint_base
class HostMemory(NativeDevice):
    version: ClassVar[int]
    @property
    def size(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def view(self) -> memoryview: ...
    def save_state(self) -> dict[str, bytes]: ...
    def check_state(self, state: Mapping[str, Any]) -> None: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Ram(HostMemory):
    def __init__(self, memory: SupportsIndex | Buffer) -> None: ...

@disjoint_base
class Rom(HostMemory):
    def __init__(
        self,
        contents: Buffer,
        *,
        on_write: Literal["ignore", "raise"] | Callable[[int, bytes], object] = "ignore",
    ) -> None: ...
    @property
    def on_write(self) -> Literal["ignore", "raise"] | Callable[[int, bytes], object]: ...
