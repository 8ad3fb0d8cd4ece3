"""A disk on virtio.

Specification: Virtual I/O Device (VIRTIO) 1.2, section 5.2. Left out: discard, topology, several queues.
"""

from __future__ import annotations

import logging
import struct
from typing import ClassVar

from .storage import Storage
from .virtio import VirtioDevice
from .virtqueue import Chain, Virtqueue, VirtqueueError

__all__ = ["SECTOR", "VirtioBlock"]

SECTOR = 512
SEG_MAX, RO, BLK_SIZE, FLUSH, WRITE_ZEROES = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 14  # features
IN, OUT, DO_FLUSH, GET_ID, DO_WRITE_ZEROES = 0, 1, 4, 8, 13  # types of requests
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
HEADER = struct.Struct("<IIQ")
RANGE = struct.Struct("<QII")
ID_SIZE = 20
ZEROES = memoryview(bytes(1 << 16))
MAX_ZEROED = 1 << 16  # sectors a request

logger = logging.getLogger("dbs_device.devices.virtio")


class VirtioBlock(VirtioDevice):
    """A disk.

    Requests that reach past its end, or that write to a read-only disk, fail for the guest, as does one for which the
    storage raises an `OSError`, the first of which is logged.

    Parameters
    ----------
    storage : Storage
        The blocks: a `MemoryStorage` or `FileStorage`, say. Bytes after the last whole sector are not used.
    serial : str
        Up to 20 ASCII characters that the guest may ask for.
    queue_size : int
        The most descriptors of its queue.

    Attributes
    ----------
    storage : Storage
        The parameter.
    """

    device_id: ClassVar[int] = 2

    def __init__(self, storage: Storage, *, serial: str = "dbs-device", queue_size: int = 256) -> None:
        self.storage = storage
        self._has_failed = False
        self._serial = serial.encode("ascii")
        if len(self._serial) > ID_SIZE:
            raise ValueError(f"a serial number has up to {ID_SIZE} characters, not {serial!r}")
        self._sectors = storage.size // SECTOR
        segments = max(queue_size - 2, 1)  # without header and status
        # Capacity, size_max, seg_max, geometry, blk_size, 24 bytes of what is not offered; the limits of write zeroes.
        config = struct.pack("<QIIII24xIIB3x", self._sectors, 0, segments, 0, SECTOR, MAX_ZEROED, 1, 0)
        features = SEG_MAX | BLK_SIZE | FLUSH | (RO if storage.read_only else WRITE_ZEROES)
        super().__init__(features=features, queue_sizes=[queue_size], config=config)

    def serve(self, queue: Virtqueue, chain: Chain) -> int:
        header = chain.read(HEADER.size)
        if len(header) < HEADER.size or not chain.writable_size:
            raise VirtqueueError(f"{queue}: a request without a header of {HEADER.size} bytes, or without a status")
        kind, _, sector = HEADER.unpack(header)
        written = chain.writable_size
        data = chain.writable(written - 1)
        try:
            status = self._do(kind, sector, data, chain)
        except OSError as error:
            # Not every time: a hostile guest could fill the host's log.
            level = logging.DEBUG if self._has_failed else logging.WARNING
            self._has_failed = True
            logger.log(level, "%r: request %d at sector %d failed: %s", self, kind, sector, error)
            status = IO_ERROR
        chain.write(bytes([status]))
        return written

    def _do(self, kind: int, sector: int, data: list[memoryview], chain: Chain) -> int:
        if kind == IN:
            return self._read(sector, data)
        if kind == GET_ID:
            identity = self._serial.ljust(ID_SIZE, b"\0")
            if sum(map(len, data)) < ID_SIZE:
                return IO_ERROR
            for view in data:
                view[: len(identity)] = identity[: len(view)]
                identity = identity[len(view) :]
            return OK
        if kind == DO_FLUSH:
            self.storage.flush()
            return OK
        if kind == OUT:
            return self._write(sector, chain)
        if kind == DO_WRITE_ZEROES and self.has_feature(WRITE_ZEROES):
            return self._write_zeroes(chain)
        return UNSUPPORTED

    def _contains(self, sector: int, size: int) -> bool:
        return size % SECTOR == 0 and sector + size // SECTOR <= self._sectors

    def _read(self, sector: int, data: list[memoryview]) -> int:
        if not self._contains(sector, sum(map(len, data))):
            return IO_ERROR
        offset = sector * SECTOR
        for view in data:
            self.storage.read_into(offset, view)
            offset += len(view)
        return OK

    def _write(self, sector: int, chain: Chain) -> int:
        if self.storage.read_only or not self._contains(sector, chain.readable_size):
            return IO_ERROR
        offset = sector * SECTOR
        for view in chain.readable(chain.readable_size):
            self.storage.write(offset, view)
            offset += len(view)
        return OK

    def _write_zeroes(self, chain: Chain) -> int:
        if chain.readable_size != RANGE.size:
            return UNSUPPORTED  # config says that a request has one range
        sector, count, flags = RANGE.unpack(chain.read(RANGE.size))
        if flags & ~1:
            return UNSUPPORTED
        if count > MAX_ZEROED or not self._contains(sector, count * SECTOR):
            return IO_ERROR
        offset, end = sector * SECTOR, (sector + count) * SECTOR
        while offset < end:
            self.storage.write(offset, ZEROES[: end - offset])
            offset += len(ZEROES)
        return OK

    def __repr__(self) -> str:
        return f"<VirtioBlock, {self._sectors} sectors>"
