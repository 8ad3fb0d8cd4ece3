from types import TracebackType
from typing import Self, final

__all__ = ["ReentrantLock"]

def count_fork() -> None: ...

@final
class ReentrantLock:
    def acquire(self) -> None: ...
    def release(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
