"""The part of the PC that runs the guest: what the machine asks of an emulated CPU and of a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from .board import Board

__all__ = ["NewProcessor", "Processor"]


class Processor(Protocol):
    """A CPU with its interrupt input, its physical memory and the board's bus."""

    def map_memory(self, base: int, size: int, content: bytes = b"", read_only: bool = False) -> None:
        """Map memory at a physical address, beginning with `content`."""

    def run(self, until: float) -> bool:
        """Run the guest until the machine's time is `until` (ns, or infinity), or `stop` is called.

        Exceptions of devices come out of it. A `stop` while the guest is not running ends the next run at once.

        Returns
        -------
        bool
            Whether the guest has halted, and nothing can wake it.
        """

    def stop(self) -> None:
        """Make `run` return. May be called from a device."""


NewProcessor: TypeAlias = Callable[[Board], Processor]
"""Makes the processor of a board."""
