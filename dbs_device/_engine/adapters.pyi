from typing import SupportsIndex

from typing_extensions import disjoint_base

from ..device import DeviceIo
from .native import NativeDevice

__all__ = ["Adapter", "Alias", "Mirror", "is_memory"]

def is_memory(device: object) -> bool: ...

@disjoint_base
class Adapter(NativeDevice):
    @property
    def devices(self) -> tuple[DeviceIo, ...]: ...

@disjoint_base
class Alias(Adapter):
    def __init__(self, device: DeviceIo, offset: SupportsIndex) -> None: ...
    @property
    def device(self) -> DeviceIo: ...
    @property
    def offset(self) -> int: ...

@disjoint_base
class Mirror(Adapter):
    def __init__(self, device: DeviceIo, mask: SupportsIndex) -> None: ...
    @property
    def device(self) -> DeviceIo: ...
    @property
    def mask(self) -> int: ...
