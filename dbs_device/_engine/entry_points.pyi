from typing import Self, SupportsIndex, final

from typing_extensions import CapsuleType

from .._bus import IoManager

__all__ = ["CallbackHandle", "entry_point_addresses"]

c_api: CapsuleType

def entry_point_addresses() -> dict[str, int]: ...

@final
class CallbackHandle:
    def __new__(cls, manager: IoManager, base: SupportsIndex = 0) -> Self: ...
    @property
    def address(self) -> int: ...
    def pop_exception(self) -> BaseException | None: ...
