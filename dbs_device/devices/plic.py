"""Platform-level interrupt controller of RISC-V machines.

Specification: RISC-V Platform-Level Interrupt Controller Specification 1.0.0.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from ..device import DeviceIo
from ..state import AttributeState
from ._common import Irq, merge, outputs, word_bits

__all__ = ["Plic"]

PENDING, ENABLE, CONTEXT, END = 0x1000, 0x2000, 0x20_0000, 0x400_0000
ENABLE_STRIDE, CONTEXT_STRIDE = 0x80, 0x1000
THRESHOLD, CLAIM = 0, 4
MAX_SOURCES, MAX_CONTEXTS = 1023, 15872
U32_RANGE = range(1 << 32)
SOURCES_RANGE = range(1 << MAX_SOURCES + 1)


class Plic(AttributeState, DeviceIo):
    """The controller, with level-triggered gateways. Any thread may access it, and set the inputs.

    A source whose input is high is forwarded once, and again when it is completed and its input is still high. Of
    sources of equal priority, the one with the lower number comes first.

    Parameters
    ----------
    sources : int
        The highest number of a source; 0 stands for "none".
    priorities : int
        The highest priority, 2**n - 1; higher bits of priorities and thresholds are not kept.
    irqs : sequence of callable
        Of each context, its line: context 0 is usually hart 0 in M-mode.
    contexts : int, optional
        How many there are, if more than `irqs` has.

    Attributes
    ----------
    size : int
        Bytes to register.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> plic, manager = Plic(sources=31, irqs=[lambda level: print("MEIP", level)]), IoManager()
    >>> manager.register_device_io(plic, [Resource.MmioAddressRange(0xC00_0000, plic.size)])
    >>> manager.mmio_store(0xC00_0000 + 4 * 10, 4, 1)  # the priority of source 10
    >>> manager.mmio_store(0xC00_2000, 4, 1 << 10)
    >>> uart_irq = plic.line(10)
    >>> uart_irq(True)
    MEIP True
    >>> manager.mmio_load(0xC20_0004, 4)  # claim
    MEIP False
    10
    """

    saved: ClassVar[Mapping[str, Any]] = {
        "_priorities": U32_RANGE,
        "_thresholds": U32_RANGE,
        "_enabled": SOURCES_RANGE,
        "_inputs": SOURCES_RANGE,
        "_pending": SOURCES_RANGE,
        "_in_service": SOURCES_RANGE,
    }

    def __init__(
        self, *, sources: int = 127, priorities: int = 7, irqs: Sequence[Irq] = (), contexts: int | None = None
    ) -> None:
        contexts = max(len(irqs), 1) if contexts is None else contexts
        if not 1 <= sources <= MAX_SOURCES:
            raise ValueError(f"a PLIC has 1 to {MAX_SOURCES} sources, not {sources}")
        if not 1 <= contexts <= MAX_CONTEXTS:
            raise ValueError(f"a PLIC has 1 to {MAX_CONTEXTS} contexts, not {contexts}")
        if priorities <= 0 or priorities & priorities + 1 or priorities >= 1 << 32:
            raise ValueError(f"the highest priority is 2**n - 1 and has 32 bits at most, not {priorities}")
        self.sources = sources
        self.contexts = contexts
        self.size = max(CONTEXT + contexts * CONTEXT_STRIDE, END)
        self._priority_mask = priorities
        self._source_mask = (1 << sources + 1) - 2
        self._irqs = outputs(irqs, contexts, "contexts")
        self._lock = threading.RLock()
        self._priorities = [0] * (sources + 1)
        self._thresholds = [0] * contexts
        # One bit a source:
        self._enabled = [0] * contexts
        self._inputs = 0
        self._pending = 0
        self._in_service = 0  # claimed, and not completed

    def line(self, source: int) -> Irq:
        """Return the input of a source.

        Parameters
        ----------
        source : int
            1 .. `sources`; a `ValueError` for any other.

        Returns
        -------
        callable
            Called with the level.
        """
        if not 1 <= source <= self.sources:
            raise ValueError(f"this PLIC has sources 1 to {self.sources}, not {source}")
        return partial(self._set_input, 1 << source)

    def _set_input(self, bit: int, level: bool) -> None:
        with self._lock:
            if level:
                self._inputs |= bit
                self._forward()
            else:
                self._inputs &= ~bit

    def _forward(self) -> None:
        """Make the sources pending that are not, and whose inputs are high, and set the lines."""
        self._pending |= self._inputs & ~self._in_service
        self._update()

    def _update(self) -> None:
        for context, irq in enumerate(self._irqs):
            irq.set(self._best(context, self._thresholds[context]) != 0)

    def _best(self, context: int, threshold: int) -> int:
        """Return the pending source of the highest priority above a threshold, or 0."""
        candidates = self._pending & self._enabled[context]
        best, highest = 0, threshold
        while candidates:
            source = (candidates & -candidates).bit_length() - 1
            candidates &= candidates - 1
            if self._priorities[source] > highest:
                best, highest = source, self._priorities[source]
        return best

    def load(self, base: int, offset: int, size: int) -> int:
        """Serve a load. The specification's registers have 32 bits; one of them is read at a time."""
        with self._lock:
            return word_bits(self._load_word(offset & ~3), offset, size, 4)

    def _load_word(self, offset: int) -> int:
        if offset < PENDING:
            source = offset // 4
            return self._priorities[source] if source <= self.sources else 0
        if offset < ENABLE:
            return self._pending >> 8 * (offset - PENDING) & 0xFFFF_FFFF
        if offset < CONTEXT:
            context, first = divmod(offset - ENABLE, ENABLE_STRIDE)
            return self._enabled[context] >> 8 * first & 0xFFFF_FFFF if context < self.contexts else 0
        context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
        if context >= self.contexts:
            return 0
        if register == THRESHOLD:
            return self._thresholds[context]
        return self._claim(context) if register == CLAIM else 0

    def _claim(self, context: int) -> int:
        source = self._best(context, 0)  # the threshold does not affect claims
        if source:
            self._pending &= ~(1 << source)
            self._in_service |= 1 << source
            self._update()
        return source

    def store(self, base: int, offset: int, size: int, value: int) -> None:
        """Serve a store. The specification's registers have 32 bits; one of them is written at a time."""
        with self._lock:
            word = offset & ~3
            old = 0 if word >= CONTEXT and word % CONTEXT_STRIDE == CLAIM else self._load_word(word)
            self._store_word(word, merge(old, offset, min(size, 4), value & 0xFFFF_FFFF, 4))

    def _store_word(self, offset: int, value: int) -> None:
        if offset < PENDING:
            source = offset // 4
            if 1 <= source <= self.sources:
                self._priorities[source] = value & self._priority_mask
        elif offset < ENABLE:
            return  # read-only
        elif offset < CONTEXT:
            context, first = divmod(offset - ENABLE, ENABLE_STRIDE)
            if context < self.contexts:
                cleared = self._enabled[context] & ~(0xFFFF_FFFF << 8 * first)
                self._enabled[context] = (cleared | value << 8 * first) & self._source_mask
        else:
            context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
            if context >= self.contexts:
                return
            if register == THRESHOLD:
                self._thresholds[context] = value & self._priority_mask
            elif register == CLAIM:
                self._complete(context, value)
                return
        self._update()

    def _complete(self, context: int, source: int) -> None:
        # Ignored, says the specification, where the source is not enabled for the context.
        if 1 <= source <= self.sources and self._enabled[context] >> source & 1:
            self._in_service &= ~(1 << source)
            self._forward()

    def state_loaded(self) -> None:
        """Set the lines."""
        self._update()

    def __repr__(self) -> str:
        return f"<Plic, {self.sources} sources, {self.contexts} contexts>"
