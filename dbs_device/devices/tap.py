"""A network card's other end on Linux: a TAP interface of the host.

Specification: Linux, `Documentation/networking/tuntap.rst`.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Tap"]

TUN_DEVICE = "/dev/net/tun"
TUNSETIFF = 0x4004_54CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
REQUEST = struct.Struct("16sH22x")  # struct ifreq
MAX_FRAME = 65550


class Tap:
    """A TAP interface, which the host may bridge, route or give an address. It needs CAP_NET_ADMIN to be made.

    Frames from the host arrive on a thread of the interface's own, from `start` on. Closed with its `with` block, or by
    `close`.

    Parameters
    ----------
    name : str
        Its name, up to 15 characters; a ``%d`` in it becomes a number that is free. One that exists and is persistent
        is used.

    Attributes
    ----------
    name : str
        The name that it has got.
    dropped : int
        Frames to the host that it did not take, because the interface was down, say.

    Raises
    ------
    OSError
        There is no TUN driver, or the interface cannot be made.

    Examples
    --------
    >>> from dbs_device.devices.virtio_net import VirtioNet
    >>> with Tap("guest%d") as tap:  # doctest: +SKIP
    ...     card = VirtioNet(tap.send)
    ...     tap.start(card.receive)
    """

    def __init__(self, name: str = "tap%d") -> None:
        encoded = name.encode()
        if not 1 <= len(encoded) <= 15:
            raise ValueError(f"the name of an interface has 1 to 15 bytes, not {name!r}")
        self.dropped = 0
        self._thread: threading.Thread | None = None
        self._file = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            granted = fcntl.ioctl(self._file, TUNSETIFF, REQUEST.pack(encoded, IFF_TAP | IFF_NO_PI))
            self.name = REQUEST.unpack(granted)[0].rstrip(b"\0").decode()
            self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC)
        except BaseException:
            os.close(self._file)
            raise

    def send(self, frame: bytes) -> None:
        """Pass a frame to the host: what a network card is given as its `send`."""
        try:
            os.write(self._file, frame)
        except OSError:
            self.dropped += 1

    def start(self, receive: Callable[[bytes], object]) -> None:
        """Pass the frames of the host on from now on, on a thread.

        Parameters
        ----------
        receive : callable
            Called with each frame: a network card's `receive`.

        Raises
        ------
        RuntimeError
            It has been started.
        """
        if self._thread is not None:
            raise RuntimeError(f"the interface {self.name} is started once")
        self._thread = threading.Thread(target=self._read, args=(receive,), name=f"tap {self.name}", daemon=True)
        self._thread.start()

    def _read(self, receive: Callable[[bytes], object]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._file, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select()]
                if self._wake_reader in ready:
                    return
                try:
                    frame = os.read(self._file, MAX_FRAME)
                except BlockingIOError:
                    continue
                except OSError:  # the interface was removed
                    return
                receive(frame)

    def close(self) -> None:
        """Stop the thread and give the interface back: it goes unless it is persistent. Once is enough."""
        if self._file < 0:
            return
        if self._thread is not None:
            os.write(self._wake_writer, b"x")
            self._thread.join()
        for file in (self._file, self._wake_reader, self._wake_writer):
            os.close(file)
        self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Tap {self.name}{', closed' if self._file < 0 else ''}>"
