"""A TAP interface of the host. It takes the right to make one."""

import fcntl
import queue
import socket
import struct
import threading

import pytest

from dbs_device.devices.tap import Tap

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
PROTOCOL = 0x88B5  # for experiments


@pytest.fixture
def tap():
    try:
        interface = Tap("dbstest%d")
    except OSError as error:
        pytest.skip(f"no TAP interface can be made here: {error}")
    with interface:
        yield interface


def switch_on(tap):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", tap.name.encode(), IFF_UP))


def frame(text):
    return b"\xff" * 6 + bytes.fromhex("525400123456") + struct.pack("!H", PROTOCOL) + text.ljust(50, b"\0")


def test_frames_go_both_ways(tap):
    assert tap.name.startswith("dbstest")
    received = queue.Queue()
    tap.start(received.put)
    switch_on(tap)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOL)) as host:
        host.settimeout(10)
        host.bind((tap.name, PROTOCOL))
        tap.send(frame(b"from the guest"))
        assert host.recv(2000) == frame(b"from the guest")
        host.send(frame(b"from the host"))
        while (got := received.get(timeout=10)) != frame(b"from the host"):
            assert got[12:14] != struct.pack("!H", PROTOCOL)  # the host's own, as of IPv6
    assert tap.dropped == 0


def test_an_interface_that_is_down_drops_frames(tap):
    tap.send(frame(b"nobody is there"))
    assert tap.dropped == 1


def test_it_ends_with_its_thread(tap):
    tap.start(lambda frame: None)
    with pytest.raises(RuntimeError, match="started once"):
        tap.start(lambda frame: None)
    tap.close()
    tap.close()
    assert f"tap {tap.name}" not in [thread.name for thread in threading.enumerate()]
    assert tap.name not in [name for _, name in socket.if_nameindex()]
    assert "closed" in repr(tap)


@pytest.mark.parametrize("name", ["", "x" * 16])
def test_names_are_checked(name):
    with pytest.raises(ValueError, match="1 to 15 bytes"):
        Tap(name)
