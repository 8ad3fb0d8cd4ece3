from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Protocol, Self

from typing_extensions import disjoint_base

from dbs_device import NativeDevice
from dbs_device.clock import Callback, Timer

from .core import Core

__all__ = ["Clint", "GoldfishRtc", "PowerSwitch", "Timebase", "Uart16550"]

@disjoint_base
class Timebase:
    def __new__(cls, core: Core, ns_per_cycle: int) -> Self: ...
    def now(self) -> int: ...
    def set_now(self, now: int) -> None: ...

class _Clock(Protocol):
    timebase: Timebase
    def timer(self, callback: Callback) -> Timer: ...

class _Device(NativeDevice):
    version: ClassVar[int]
    def save_state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...

@disjoint_base
class Uart16550(_Device):
    def __new__(cls, *, sink: Callable[[int], object], irq: Callable[[bool], object] = ...) -> Self: ...
    @property
    def room(self) -> int: ...
    def receive(self, received: Iterable[int]) -> None: ...

@disjoint_base
class Clint(_Device):
    def __new__(
        cls,
        *,
        clock: _Clock,
        frequency: int,
        software_irq: Callable[[bool], object] = ...,
        timer_irq: Callable[[bool], object] = ...,
    ) -> Self: ...
    def expire(self, now: int) -> None: ...

@disjoint_base
class GoldfishRtc(_Device):
    def __new__(cls, *, clock: _Clock, start: datetime, irq: Callable[[bool], object] = ...) -> Self: ...
    def expire(self, now: int) -> None: ...

@disjoint_base
class PowerSwitch(_Device):
    def __new__(cls, *, stop: Callable[[str], object]) -> Self: ...
