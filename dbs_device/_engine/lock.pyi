from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar, TypeVarTuple, final

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

__all__ = ["ReentrantLock"]

def count_fork() -> None: ...

@final
class ReentrantLock:
    def acquire(self) -> None: ...
    def release(self) -> None: ...
    def call(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
