"""Interrupt lines: a level, and a callback for its edges.

Examples
--------
>>> line = IrqLine(lambda level: print("high" if level else "low"))
>>> line.set(True)
high
>>> line.set(True)
>>> line.pulse()
low
>>> uart, timer = line.shared(), line.shared()
>>> uart(True)
high
>>> timer(True)
>>> uart(False)
>>> timer(False)
low
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["IrqLine"]


class IrqLine:
    """An interrupt line: devices set its level, and its sink is called with each new level, once an edge.

    Any thread may use it. The sink is called on the thread that changed the level, with no lock held; an edge that
    comes while it runs, from another thread or from the sink itself, is passed on by the call under way, so that the
    sink sees every edge, in order, one at a time. An exception of the sink comes out of the call that passed the edge
    on; the line's level stands.

    Parameters
    ----------
    sink : callable, optional
        Called with a bool. Another line is one, since a line is callable; so is an input of an interrupt controller.
        None until `connect` gives one.
    """

    __slots__ = ("__weakref__", "_delivered", "_delivering", "_edges", "_high_inputs", "_lock", "_own", "_sink")

    def __init__(self, sink: Callable[[bool], object] | None = None) -> None:
        if sink is not None and not callable(sink):
            raise TypeError(f"the sink of a line is called with its level, which {type(sink).__name__} cannot be")
        # Re-entrant, since a signal handler or a finaliser may set a line in the middle of anything.
        self._lock = threading.RLock()
        self._sink = sink
        self._own = False  # what `set` has said
        self._high_inputs = 0
        self._edges: deque[bool] = deque()
        self._delivered = False
        self._delivering = False

    @property
    def level(self) -> bool:
        """The level of the line."""
        return self._own or self._high_inputs > 0

    def set(self, level: bool) -> None:
        """Set the level of this source: that of the line, unless an input of `shared` holds it high.

        Parameters
        ----------
        level : bool
            Whether the source asks for an interrupt.
        """
        with self._lock:
            self._own = bool(level)
            self._edges.append(self.level)
        self._deliver()

    __call__ = set

    def pulse(self) -> None:
        """Set the level high, then low: two edges, or one falling edge of a line that was high."""
        with self._lock:
            self._own = True
            self._edges.append(True)
            self._own = False
            self._edges.append(self.level)
        self._deliver()

    def connect(self, sink: Callable[[bool], object] | None) -> None:
        """Give the line another sink, which is called at once if the line is high.

        Parameters
        ----------
        sink : callable or None
            As of the class. None disconnects the line.
        """
        if sink is not None and not callable(sink):
            raise TypeError(f"the sink of a line is called with its level, which {type(sink).__name__} cannot be")
        with self._lock:
            self._sink = sink
            self._delivered = False
            self._edges.append(self.level)
        self._deliver()

    def shared(self) -> IrqLine:
        """Return a new line that is an input of this one: this one is high while any of its inputs is.

        Returns
        -------
        IrqLine
            A line of one source, whose sink is this line. An input that is dropped while it is high stays high.
        """
        return IrqLine(self._set_input)

    def _set_input(self, level: bool) -> None:
        with self._lock:
            self._high_inputs += 1 if level else -1
            self._edges.append(self.level)
        self._deliver()

    def _deliver(self) -> None:
        """Pass the queued edges on, unless a call is doing so already; raise the first exception at the end."""
        error: BaseException | None = None
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._lock:
                if not self._edges:
                    self._delivering = False
                    break
                level, sink = self._edges.popleft(), self._sink
                if level == self._delivered:
                    continue
                self._delivered = level
            if sink is not None:
                try:
                    sink(level)
                except BaseException as raised:
                    if error is None:
                        error = raised
        if error is not None:
            raise error

    def __repr__(self) -> str:
        return f"<IrqLine, {'high' if self.level else 'low'}>"
