from typing import final

import numpy as np
from numpy.typing import NDArray

from .._bus import IoManager
from .recording import AccessLog

__all__ = ["Replay"]

@final
class Replay:
    def __init__(
        self,
        manager: IoManager,
        rows: NDArray[np.uint8],
        long_values: bytes,
        compared: NDArray[np.uint8],
        log: AccessLog | None,
    ) -> None: ...
    @property
    def done(self) -> int: ...
    @property
    def reads_compared(self) -> int: ...
    @property
    def actual(self) -> int | None: ...
    def differences(self) -> tuple[int, ...]: ...
    def run(self, stop_at_first: bool) -> None: ...
