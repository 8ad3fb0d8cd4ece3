from collections.abc import Callable
from typing import Protocol, SupportsIndex, final

from typing_extensions import Buffer

from .._bus import IoManager
from .kvm_exits import Counters, Exit
from .recorder import TraceRecorder

__all__ = ["Vcpu"]

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

class _Lock(Protocol):
    def acquire(self) -> object: ...
    def release(self) -> object: ...

@final
class Vcpu:
    def __new__(
        cls,
        fd: int | _HasFileno,
        run: Buffer,
        manager: IoManager,
        *,
        acknowledge: Callable[[], SupportsIndex] | None = None,
        recorder: TraceRecorder | None = None,
        coalesced_ring: SupportsIndex = 0,
        big_lock: _Lock | None = None,
    ) -> Vcpu: ...
    @property
    def manager(self) -> IoManager: ...
    @property
    def intr(self) -> bool: ...
    @property
    def interrupts_enabled(self) -> bool: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def exit_details(self) -> dict[str, int | tuple[int, ...]]: ...
    def run(self) -> Exit: ...
    def complete(self) -> None: ...
    def kick(self) -> None: ...
    def set_intr(self, level: object) -> None: ...
