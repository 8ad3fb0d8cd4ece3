from collections.abc import Iterable
from typing import Literal, SupportsIndex

from typing_extensions import disjoint_base

from ..device import DeviceIo
from .adapters import Adapter

__all__ = ["AccessRule", "PartialDecode"]

@disjoint_base
class AccessRule(Adapter):
    def __init__(
        self,
        device: DeviceIo,
        sizes: Iterable[SupportsIndex] = (1, 2, 4),
        *,
        unaligned: Literal["split", "raise", "pass"] = "split",
        wide: Literal["split", "raise"] = "split",
        narrow: Literal["raise", "widen"] = "raise",
    ) -> None: ...
    @property
    def device(self) -> DeviceIo: ...
    @property
    def sizes(self) -> frozenset[int]: ...

@disjoint_base
class PartialDecode(Adapter):
    def __init__(
        self, *decodes: tuple[DeviceIo, SupportsIndex, SupportsIndex], open_bus: SupportsIndex | None = 0xFF
    ) -> None: ...
    @property
    def decodes(self) -> tuple[tuple[DeviceIo, int, int], ...]: ...
    @property
    def open_bus(self) -> int | None: ...
