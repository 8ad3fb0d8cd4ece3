from collections.abc import Callable
from typing import SupportsIndex, final

from .._bus import IoManager

__all__ = ["GuestBus", "Window", "entry_point_addresses"]

@final
class GuestBus:
    def __init__(
        self,
        uc_address: SupportsIndex,
        stop_address: SupportsIndex,
        big_endian: bool,
        page_size: SupportsIndex,
        sync: Callable[[], object],
        record: Callable[[bool, bool, int, int, int], object] | None,
        unmapped: Callable[[bool, int], BaseException],
    ) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def is_inside(self) -> bool: ...
    def update(self, manager: IoManager) -> None: ...
    def request_sync(self) -> None: ...
    def latch(self, error: BaseException) -> None: ...
    def pop_exception(self) -> BaseException | None: ...

@final
class Window:
    def __init__(self, bus: GuestBus, base: SupportsIndex) -> None: ...
    @property
    def address(self) -> int: ...

def entry_point_addresses() -> dict[str, int]: ...
