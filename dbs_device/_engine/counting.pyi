from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from typing_extensions import disjoint_base

from .._bus import IoManager
from ..device import DeviceIo

__all__ = ["AccessCounts", "DeviceCounts"]

class DeviceCounts(NamedTuple):
    device: DeviceIo
    name: str | None
    reads: int
    writes: int
    bytes_read: int
    bytes_written: int

@disjoint_base
class AccessCounts:
    def __init__(self, manager: IoManager) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __getitem__(self, device: DeviceIo, /) -> DeviceCounts: ...
    def __iter__(self) -> Iterator[DeviceCounts]: ...
    def __len__(self) -> int: ...
