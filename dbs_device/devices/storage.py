"""Where the blocks of a disk are: in memory, or in a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["FileStorage", "MemoryStorage", "Storage"]


class Storage(Protocol):
    """What a disk reads and writes. Offsets and lengths lie within `size`: the disk sees to that.

    `MemoryStorage` and `FileStorage` are two; an overlay, or a disk on the network, is another. A device reports an
    `OSError` to its guest as an error of the medium; other exceptions come out of the guest's access.
    """

    @property
    def size(self) -> int:
        """How many bytes there are."""

    @property
    def read_only(self) -> bool:
        """Whether it cannot be written."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of some data."""

    def flush(self) -> None:
        """Return when everything that was written is where it outlives a crash of the host, if that is possible."""


class MemoryStorage:
    """Blocks in a buffer: a `bytearray`, or an `mmap` of a file.

    Parameters
    ----------
    buffer : buffer
        Its bytes. It cannot be resized while the storage exists. A read-only one makes a read-only disk.

    Examples
    --------
    >>> disk = MemoryStorage(bytearray(1024))
    >>> disk.write(512, memoryview(b"second sector"))
    >>> disk.size, bytes(disk.view[512:525])
    (1024, b'second sector')
    """

    def __init__(self, buffer: ReadableBuffer) -> None:
        self._buffer = buffer
        self.view = memoryview(buffer).cast("B")

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.view)

    @property
    def read_only(self) -> bool:
        """Whether the buffer cannot be written."""
        return self.view.readonly

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from an offset on."""
        buffer[:] = self.view[offset : offset + len(buffer)]

    def write(self, offset: int, data: memoryview) -> None:
        """Write data at an offset."""
        self.view[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Flush an `mmap`."""
        flush = getattr(self._buffer, "flush", None)
        if flush is not None and not self.read_only:
            flush()


class FileStorage:
    """Blocks in a file, or on a block device. Closed with its `with` block, or by `close`.

    Parameters
    ----------
    path : path
        The file; its size is that of the disk, and must stay so.
    read_only : bool
        Whether to open it for reading only.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._file = self.path.open("rb" if read_only else "r+b", buffering=0)
        self.size = self._file.seek(0, os.SEEK_END)  # also of a block device, whose st_size is 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from an offset on; `OSError` if the file has become shorter."""
        while buffer:
            count = os.preadv(self._file.fileno(), [buffer], offset)
            if count == 0:
                raise OSError(errno.EIO, f"the file ends before {offset:#x}", str(self.path))
            buffer, offset = buffer[count:], offset + count

    def write(self, offset: int, data: memoryview) -> None:
        """Write data at an offset."""
        while data:
            count = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[count:], offset + count

    def flush(self) -> None:
        """Return when everything is on the medium (fsync)."""
        if not self.read_only:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FileStorage({str(self.path)!r}{', read_only=True' if self.read_only else ''})"
