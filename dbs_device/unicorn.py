"""The bus behind the Unicorn CPU emulator (extra ``unicorn``).

A guest's MMIO and, on x86, its IN and OUT instructions go from Unicorn to the bus through C function pointers, without
ctypes in between:

>>> from unicorn import UC_ARCH_X86, UC_MODE_32, Uc
>>> from dbs_device import DeviceIo, IoManager, Resource
>>> from dbs_device.unicorn import attach
>>> class Console(DeviceIo):
...     def pio_write(self, base, offset, data):
...         print(bytes(data))
>>> manager = IoManager()
>>> manager.register_device_io(Console(), [Resource.PioAddressRange(0xE9, 1)])
>>> uc = Uc(UC_ARCH_X86, UC_MODE_32)
>>> uc.mem_map(0x1000, 0x1000)
>>> uc.mem_write(0x1000, bytes.fromhex("b041e6e9"))  # mov al, 'A'; out 0xe9, al
>>> bridge = attach(uc, manager)
>>> bridge.emu_start(0x1000, 0x1004)
b'A'
>>> bridge.detach()

Unicorn's own ways, which a device sees (as of Unicorn 2.1):

* An access wider than 4 bytes arrives as several of 4, the lowest address first.
* An unaligned read arrives as the two aligned ones that cover it: a 4-byte read at offset 1 as reads of 4 bytes at 0
  and 4, a 2-byte read at offset 1 as reads of 2 bytes at 0 and 2. A device thus sees reads of registers beside those
  that the guest has asked for. An unaligned write arrives as single bytes, the lowest address first.
* Ports are not split. INS and OUTS access the port once an item.
* An exception of a device stops the guest at an instruction that accesses MMIO: its registers are as before, and it is
  repeated when the guest is resumed, the parts of a split access that were made already included. After IN and OUT,
  the guest executes the rest of its basic block, in which no device is called, before it stops.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

try:
    from unicorn import unicorn_const as const
    from unicorn import x86_const

    # The loaded library has no public name; `UcError` is that of `unicorn`, whose re-exports type checkers refuse.
    from unicorn.unicorn_py3.unicorn import UcError, uclib
except ModuleNotFoundError as error:
    if error.name != "unicorn":
        raise
    raise ImportError(
        "dbs_device.unicorn needs the package unicorn: pip install 'dbs-device[unicorn]'", name="unicorn"
    ) from None

from ._address_map import MappedRange
from ._bus import IoManager
from ._trace_data import Space
from ._unicorn import GuestBus, Window, callback_addresses
from .errors import DeviceModelError, GuestMemoryError

if TYPE_CHECKING:
    # The name that users have. Type checkers take it for the class of Python 2, whose methods are not typed.
    from unicorn import Uc  # type: ignore[attr-defined]

    from .trace import TraceRecorder

__all__ = ["Bridge", "attach"]

_SMALLEST_PAGE = 0x1000
_CALLBACKS = MappingProxyType(callback_addresses())


def attach(uc: Uc, manager: IoManager, recorder: TraceRecorder | None = None) -> Bridge:
    """Serve a guest's MMIO, and on x86 its ports, from a manager's devices.

    The pages that hold MMIO ranges are mapped, and followed when the ranges change. Addresses in such a page that no
    range owns, and ports that none owns, follow the manager's rule: `NoDeviceError`, or its open bus. Other pages stay
    as they are.

    Parameters
    ----------
    uc : unicorn.Uc
        The engine. It must not be running. Until the bridge is detached, its `emu_start` is the bridge's, so that what
        a device raises comes out of it.
    manager : IoManager
        The bus. Several engines may be attached to one manager.
    recorder : dbs_device.trace.TraceRecorder, optional
        Records each access of the guest that was served.

    Returns
    -------
    Bridge
        To run the guest with, and to detach. It lives as long as the engine, whether or not it is kept.

    Raises
    ------
    GuestMemoryError
        The guest has a page mapped that a range needs. Nothing is left mapped.
    DeviceModelError
        The engine is attached already.
    """
    return Bridge(uc, manager, recorder)


class Bridge:
    """Connects a `unicorn.Uc` with an `IoManager`. Made by `attach`.

    A change of the manager's ranges is followed: at once, or where it is made while the guest runs, by a handler or by
    another thread, before the guest can tell. A page that is no longer needed is unmapped when the guest stops; until
    then an access to it fails as Unicorn's own accesses to unmapped memory do, and nothing else can be mapped there.

    A change that needs a page which the guest has mapped itself cannot be followed. The manager has changed then, so
    that the `GuestMemoryError` stops the guest and comes out of `emu_start`, also the next time, until the ranges or
    the guest's memory have been put right.

    Attributes
    ----------
    uc : unicorn.Uc
        The engine.
    manager : IoManager
        The bus.
    recorder : dbs_device.trace.TraceRecorder or None
        What records the guest's accesses.
    """

    def __init__(self, uc: Uc, manager: IoManager, recorder: TraceRecorder | None) -> None:
        if not isinstance(manager, IoManager):
            raise TypeError(f"attach takes an IoManager, not {type(manager).__name__}")
        if hasattr(uc, "_dbs_device_bridge"):
            raise DeviceModelError("the engine is attached already: detach its bridge first, or share the manager")
        self.uc = uc
        self._uc = cast(Any, uc)
        self.manager = manager
        self.recorder = recorder
        self._uc_emu_start = self._uc.emu_start
        self._lock = threading.RLock()  # of what follows; held for no longer than a change of mappings takes
        self._running = 0
        self._is_attached = True
        self._is_behind = True  # whether the mappings are not yet those that the ranges need
        self._hooks: list[ctypes.c_size_t] = []
        self._windows: dict[tuple[int, int], Window] = {}
        is_big_endian = _is_big_endian(self._uc)
        page_size = max(self._uc.ctl_get_page_size(), _SMALLEST_PAGE)
        self._offset_mask = page_size - 1
        self._bus = GuestBus(
            _address_of(self._uc._uch),
            _address_of(uclib.uc_emu_stop),
            is_big_endian,
            page_size,
            self._map_added_pages,
            None if recorder is None else partial(_record, recorder, is_big_endian),
            _error_of_unmapped_access,
        )
        try:
            self._follow()
            self._add_hooks()
        except BaseException:
            self._remove_everything()
            raise
        attributes = vars(uc)
        self._replaced = {name: value for name, value in attributes.items() if name == "emu_start"}
        # Unicorn holds addresses of this object's parts: it has to live as long as the engine.
        attributes.update(_dbs_device_bridge=self, emu_start=self.emu_start)
        self._unsubscribe = manager.on_change(self._on_change)

    def emu_start(self, begin: int, until: int, timeout: int = 0, count: int = 0) -> None:
        """Run the guest, as `unicorn.Uc.emu_start` does.

        Parameters
        ----------
        begin, until : int
            Address to start at, and address to stop at.
        timeout : int
            Microseconds; 0 for no limit.
        count : int
            Instructions; 0 for no limit.

        Raises
        ------
        BaseException
            The first exception of a device, as it was raised. It has stopped the guest, and no device was called after
            it.
        GuestMemoryError
            The ranges have changed, and a page that they need is the guest's own.
        unicorn.UcError
            As from Unicorn itself.
        """
        error: BaseException | None = None
        with self._lock:
            self._catch_up()
            self._running += 1
        try:
            self._uc_emu_start(begin, until, timeout, count)
        except BaseException as raised:
            error = raised
        with self._lock:
            self._running -= 1
            try:
                self._catch_up()
            except Exception as raised:
                error = error or raised
        # What a device raised has stopped the guest: what Unicorn makes of that comes second. Raised down here and not
        # in an `except` clause, it is not given another exception as its context.
        error = self._take_exception() or error
        try:
            if error is not None:
                raise error
        finally:
            del error  # else it would be in a cycle with its own traceback

    def detach(self) -> None:
        """Unmap the ranges and remove the hooks, so that the engine is as it was before `attach`.

        Nothing happens if that was done already.

        Raises
        ------
        DeviceModelError
            The guest is running.
        """
        with self._lock:
            if self._is_busy():
                raise DeviceModelError("cannot detach while the guest is running")
            if not self._is_attached:
                return
            self._is_attached = False
            self._unsubscribe()
            self._remove_everything()
            attributes = vars(self.uc)
            del attributes["_dbs_device_bridge"]
            # Another one may have put itself before ours since.
            if attributes.get("emu_start") == self.emu_start:
                del attributes["emu_start"]
                attributes.update(self._replaced)

    def _take_exception(self) -> BaseException | None:
        """Return the first exception that was kept, and forget all of them."""
        first = self._bus.take_exception()
        while self._bus.take_exception() is not None:
            pass
        return first

    def _is_busy(self) -> bool:
        return self._running > 0 or self._bus.is_inside

    # -- ranges

    def _on_change(self, added: tuple[MappedRange, ...], removed: tuple[MappedRange, ...]) -> None:
        with self._lock:
            if not self._is_attached:
                return
            self._bus.update(self.manager)
            self._is_behind = True
            # The guest's thread maps what was added when it next comes by; Unicorn is not safe to call from another.
            if self._is_busy():
                self._bus.want_to_follow()
                return
            # The change stands; `emu_start` tries again, and raises what is in the way.
            with suppress(GuestMemoryError, UcError):
                self._follow()

    def _catch_up(self) -> None:
        if self._is_behind and self._is_attached and not self._is_busy():
            self._follow()

    def _follow(self) -> None:
        """Map the pages that the ranges need, and no others. The guest must not be running."""
        self._bus.update(self.manager)
        needed = list(self._needed_runs())
        for part in self._missing_parts(needed):
            self._check_free(part)
        for run in self._windows.keys() - needed:
            self._unmap(run)
        for run in needed:
            if run not in self._windows:
                self._map(run)
        self._is_behind = False

    def _map_added_pages(self) -> None:
        """Map the pages that are needed and not mapped yet; unmap nothing, since the guest may be in a callback."""
        with self._lock:
            missing = list(self._missing_parts(self._needed_runs()))
            for part in missing:
                self._check_free(part)
            for part in missing:
                self._map(part)

    def _needed_runs(self) -> Iterator[tuple[int, int]]:
        """Yield (first address, last address) of each run of pages that hold ranges."""
        run: tuple[int, int] | None = None
        for base, last, _ in self.manager.mmio_bus:
            first, end = base & ~self._offset_mask, last | self._offset_mask
            if run is not None and first <= run[1] + 1:
                run = (run[0], max(run[1], end))
                continue
            if run is not None:
                yield run
            run = (first, end)
        if run is not None:
            yield run

    def _missing_parts(self, needed: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield the parts of some runs that no window covers."""
        mapped = sorted(self._windows)
        for first, last in needed:
            if (first, last) in self._windows:
                continue
            for mapped_first, mapped_last in mapped:
                if mapped_last < first or mapped_first > last:
                    continue
                if first < mapped_first:
                    yield first, mapped_first - 1
                first = mapped_last + 1
            if first <= last:
                yield first, last

    def _check_free(self, run: tuple[int, int]) -> None:
        for region_first, region_last, _ in self._uc.mem_regions():
            if region_first > run[1] or region_last < run[0]:
                continue
            for base, last, device in self.manager.mmio_bus:
                if base & ~self._offset_mask <= region_last and region_first <= last | self._offset_mask:
                    raise GuestMemoryError(base, last, device, region_first, region_last)

    def _map(self, run: tuple[int, int]) -> None:
        first, last = run
        window = Window(self._bus, first)
        load, store = _CALLBACKS["load"], _CALLBACKS["store"]
        _check(uclib.uc_mmio_map(self._uc._uch, first, last - first + 1, load, window.address, store, window.address))
        self._windows[run] = window

    def _unmap(self, run: tuple[int, int]) -> None:
        first, last = run
        _check(uclib.uc_mem_unmap(self._uc._uch, first, last - first + 1))
        del self._windows[run]

    # -- hooks

    def _add_hooks(self) -> None:
        self._add_hook(const.UC_HOOK_MEM_READ_UNMAPPED | const.UC_HOOK_MEM_WRITE_UNMAPPED, "unmapped")
        if self._uc.ctl_get_arch() == const.UC_ARCH_X86:
            self._add_hook(const.UC_HOOK_INSN, "in", ctypes.c_int(x86_const.UC_X86_INS_IN))
            self._add_hook(const.UC_HOOK_INSN, "out", ctypes.c_int(x86_const.UC_X86_INS_OUT))

    def _add_hook(self, kind: int, name: str, *arguments: ctypes.c_int) -> None:
        hook = ctypes.c_size_t()
        # Variadic in C: some platforms pass what follows the named parameters in another way, which ctypes knows
        # because the prototype of `uclib` ends with `begin` and `end`. Begin above end: at every address.
        begin, end = 1, 0
        user_data = self._bus.address
        _check(
            uclib.uc_hook_add(
                self._uc._uch, ctypes.byref(hook), kind, _CALLBACKS[name], user_data, begin, end, *arguments
            )
        )
        self._hooks.append(hook)

    def _remove_everything(self) -> None:
        for hook in self._hooks:
            _check(uclib.uc_hook_del(self._uc._uch, hook))
        self._hooks.clear()
        for run in list(self._windows):
            self._unmap(run)


def _check(status: int) -> None:
    if status != const.UC_ERR_OK:
        raise UcError(status)


def _error_of_unmapped_access(is_write: bool, address: int) -> UcError:
    return UcError(const.UC_ERR_WRITE_UNMAPPED if is_write else const.UC_ERR_READ_UNMAPPED)


def _record(
    recorder: TraceRecorder, is_big_endian: bool, is_mmio: bool, is_write: bool, address: int, size: int, value: int
) -> None:
    if is_big_endian != (recorder.byteorder == "big"):
        # The recorder's integers are in its manager's order, in which a replay takes them.
        value = int.from_bytes(value.to_bytes(size, "little"), "big")
    recorder.record(Space.MMIO if is_mmio else Space.PIO, is_write, address, size, value)


def _address_of(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _is_big_endian(uc: Any) -> bool:
    """Return whether the integers that Unicorn passes have their most significant byte at the lowest address.

    ARM can change its byte order as it runs. Unicorn has little-endian ARM alone, and swaps the bytes of an access that
    is big-endian before it passes them on, whatever the mode.
    """
    is_arm = uc.ctl_get_arch() in (const.UC_ARCH_ARM, const.UC_ARCH_ARM64)
    return bool(uc.ctl_get_mode() & const.UC_MODE_BIG_ENDIAN) and not is_arm
