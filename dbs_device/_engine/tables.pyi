from typing import final

__all__ = ["IoTables"]

@final
class IoTables:
    @property
    def generation(self) -> int: ...
