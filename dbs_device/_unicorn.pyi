from collections.abc import Callable
from typing import SupportsIndex, final

from ._bus import IoManager

__all__ = ["GuestBus", "Window", "callback_addresses"]

@final
class GuestBus:
    def __init__(
        self,
        uc_address: SupportsIndex,
        stop_address: SupportsIndex,
        big_endian: bool,
        page_size: SupportsIndex,
        follow: Callable[[], object],
        record: Callable[[bool, bool, int, int, int], object] | None,
        unmapped: Callable[[bool, int], BaseException],
    ) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def is_inside(self) -> bool: ...
    def update(self, manager: IoManager) -> None: ...
    def want_to_follow(self) -> None: ...
    def keep(self, error: BaseException) -> None: ...
    def take_exception(self) -> BaseException | None: ...

@final
class Window:
    def __init__(self, bus: GuestBus, base: SupportsIndex) -> None: ...
    @property
    def address(self) -> int: ...

def callback_addresses() -> dict[str, int]: ...
