from typing import Self, SupportsIndex, final

from typing_extensions import CapsuleType

from ._bus import IoManager

__all__ = ["CallbackHandle", "callback_addresses"]

c_api: CapsuleType

def callback_addresses() -> dict[str, int]: ...

@final
class CallbackHandle:
    def __new__(cls, manager: IoManager, base: SupportsIndex = 0) -> Self: ...
    @property
    def address(self) -> int: ...
    def take_exception(self) -> BaseException | None: ...
