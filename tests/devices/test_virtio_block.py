"""The disk on virtio, from the side of its driver."""

import errno
import struct

import pytest
from virtio_driver import Machine

from dbs_device.devices.storage import FileStorage, MemoryStorage
from dbs_device.devices.virtio_block import VirtioBlock

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
SECTORS = 64


def header(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


class Disk:
    def __init__(self, storage=None, **options):
        self.content = bytearray(bytes(range(256)) * 2 * SECTORS)
        self.storage = MemoryStorage(self.content) if storage is None else storage
        self.machine = Machine(VirtioBlock(self.storage), **options).start()
        self.queue = self.machine.queues[0]

    def read(self, sector, *sizes, **options):
        """Status and data."""
        _, buffers = self.queue.send(header(IN, sector), *sizes, 1, **options)
        return buffers[-1][0], b"".join(buffers[:-1])

    def request(self, kind, sector=0, *data):
        _, buffers = self.queue.send(header(kind, sector), *data, 1)
        return buffers[-1][0]


@pytest.fixture(params=[False, True], ids=["modern", "legacy"])
def disk(request):
    return Disk(legacy=request.param)


def test_the_driver_finds_a_disk_of_its_size(disk):
    machine = disk.machine
    assert machine.load(0x0) == 0x74726976
    assert machine.load(0x4) == (1 if machine.legacy else 2)
    assert machine.load(0x8) == 2
    assert machine.load(0x100, 8) == machine.load(0x100) == SECTORS
    assert machine.load(0x100 + 20) == 512


@pytest.mark.parametrize("indirect", [False, True])
def test_sectors_are_read_into_buffers_of_any_sizes(disk, indirect):
    assert disk.read(3, 512, indirect=indirect) == (OK, bytes(disk.content[3 * 512 : 4 * 512]))
    assert disk.read(5, 1, 1022, 1, indirect=indirect) == (OK, bytes(disk.content[5 * 512 : 7 * 512]))
    assert disk.machine.edges[0]


def test_sectors_are_written(disk):
    assert disk.request(OUT, 2, b"a" * 100, b"b" * 412, b"c" * 512) == OK
    assert disk.content[1024:2048] == b"a" * 100 + b"b" * 412 + b"c" * 512
    assert disk.request(FLUSH) == OK


@pytest.mark.parametrize(
    ("sector", "size"), [(SECTORS, 512), (SECTORS - 1, 1024), (0, 511), (2**64 - 1, 512), (2**55, 512)]
)
def test_a_request_outside_the_disk_fails_and_changes_nothing(disk, sector, size):
    before = bytes(disk.content)
    assert disk.read(sector, size)[0] == IO_ERROR
    assert disk.request(OUT, sector, b"x" * size) == IO_ERROR
    assert disk.content == before
    assert disk.read(0, 512)[0] == OK


def test_the_serial_number(disk):
    _, buffers = disk.queue.send(header(GET_ID), 20, 1)
    assert buffers == [b"dbs-device".ljust(20, b"\0"), b"\0"]
    _, buffers = disk.queue.send(header(GET_ID), 19, 1)
    assert buffers[-1] == bytes([IO_ERROR])


def test_requests_that_are_not_offered_are_refused(disk):
    assert disk.request(DISCARD, 0, bytes(16)) == UNSUPPORTED
    assert disk.request(77) == UNSUPPORTED


def test_zeroes_are_written_without_data(disk):
    before = bytes(disk.content)
    assert disk.request(WRITE_ZEROES, 0, struct.pack("<QII", 4, 3, 0)) == OK
    assert disk.content == before[: 4 * 512] + bytes(3 * 512) + before[7 * 512 :]
    assert disk.request(WRITE_ZEROES, 0, struct.pack("<QII", SECTORS - 1, 2, 0)) == IO_ERROR
    assert disk.request(WRITE_ZEROES, 0, struct.pack("<QII", 0, 2, 2)) == UNSUPPORTED
    assert disk.request(WRITE_ZEROES, 0, bytes(32)) == UNSUPPORTED


def test_a_read_only_disk_is_not_written():
    disk = Disk(MemoryStorage(bytes(1024)))
    assert disk.machine.offered() & 1 << 5
    assert disk.request(OUT, 0, bytes(512)) == IO_ERROR
    assert disk.request(FLUSH) == OK


def test_an_error_of_the_medium_is_reported_to_the_guest(caplog):
    class Broken(MemoryStorage):
        def read_into(self, offset, buffer):
            raise OSError(errno.EIO, "bad sector")

    disk = Disk(Broken(bytearray(4096)))
    assert disk.read(3, 512)[0] == IO_ERROR
    assert "sector 3 failed: [Errno 5] bad sector" in caplog.text
    for _ in range(10):
        assert disk.read(3, 512)[0] == IO_ERROR
    assert len(caplog.records) == 1  # a guest cannot fill the log


def test_a_request_whose_storage_raises_can_be_tried_again():
    class Flaky(MemoryStorage):
        fails = True

        def flush(self):
            if self.fails:
                raise RuntimeError("not now")

    storage = Flaky(bytearray(512))
    disk = Disk(storage)
    with pytest.raises(RuntimeError, match="not now"):
        disk.request(FLUSH)
    storage.fails = False
    disk.queue.notify()
    assert disk.queue.used() == [(0, 1)]


@pytest.mark.parametrize("buffers", [(b"short", 1), (header(IN),), (1,), (header(IN), b"data")])
def test_a_request_without_header_or_status_breaks_the_rules(buffers):
    disk = Disk()
    _, head = disk.queue.prepare(*buffers)
    disk.queue.expose(head)
    disk.queue.notify()
    assert disk.machine.needs_reset
    assert disk.queue.used() == []


def test_a_file_is_a_disk(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 8)
    with FileStorage(path) as storage:
        disk = Disk(storage)
        assert disk.read(1, 512) == (OK, bytes(range(256)) * 2)
        assert disk.request(OUT, 3, b"x" * 512) == OK
        assert disk.request(FLUSH) == OK
        assert path.read_bytes()[3 * 512 :] == b"x" * 512
        path.write_bytes(b"")  # it must not become shorter
        assert disk.read(0, 512)[0] == IO_ERROR
    with FileStorage(path, read_only=True) as storage:
        assert VirtioBlock(storage).features & 1 << 5
        storage.flush()


def test_a_disk_checks_what_it_is_made_of(tmp_path):
    with pytest.raises(ValueError, match="up to 20 characters"):
        VirtioBlock(MemoryStorage(bytes(512)), serial="x" * 21)
    with pytest.raises(ValueError, match="not 100"):
        VirtioBlock(MemoryStorage(bytes(512)), queue_size=100)
    with pytest.raises(FileNotFoundError):
        FileStorage(tmp_path / "none")
