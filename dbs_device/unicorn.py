"""The bus behind the Unicorn CPU emulator (extra ``unicorn``).

A guest's MMIO accesses and, on x86, its IN and OUT instructions reach the bus through C function pointers, without
ctypes:

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

How a device sees accesses depends on Unicorn (as of 2.1):

* An access wider than 4 bytes is split into 4-byte ones, lowest address first.
* An unaligned read becomes the two aligned reads that cover it: 4 bytes at offset 1 are read as 4 bytes at 0 and at 4,
  2 bytes at offset 1 as 2 bytes at 0 and at 2. A device thus sees reads of neighbouring registers, which the guest has
  not asked for. An unaligned write becomes single bytes, lowest address first.
* Port accesses are not split. INS and OUTS access the port once per item.
* If a device raises during an MMIO access, the guest stops at that instruction, with its registers unchanged. When the
  guest is resumed, the instruction is repeated, including the parts of a split access that had succeeded. After IN and
  OUT, the guest executes the rest of its basic block before it stops, without calling devices.
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

    # `uclib` has no public name. `UcError` is that of `unicorn`, whose re-exports type checkers reject.
    from unicorn.unicorn_py3.unicorn import UcError, uclib
except ModuleNotFoundError as error:
    if error.name != "unicorn":
        raise
    raise ImportError(
        "dbs_device.unicorn needs the package unicorn: pip install 'dbs-device[unicorn]'", name="unicorn"
    ) from None

from ._bus import IoManager
from ._engine.address_map import MappedRange
from ._engine.unicorn import GuestBus, Window, entry_point_addresses
from .address import Space
from .errors import DeviceModelError, GuestMemoryError

if TYPE_CHECKING:
    # Type checkers see the class for Python 2 here, whose methods are untyped.
    from unicorn import Uc  # type: ignore[attr-defined]

    from .trace import TraceRecorder

__all__ = ["Bridge", "attach"]

_SMALLEST_PAGE = 0x1000
_ENTRY_POINTS = MappingProxyType(entry_point_addresses())


def attach(uc: Uc, manager: IoManager, recorder: TraceRecorder | None = None) -> Bridge:
    """Serve a guest's MMIO accesses and, on x86, its port accesses from a manager's devices.

    The pages that contain MMIO ranges are mapped, and kept in sync when the ranges change. Unowned addresses in such a
    page, and unowned ports, raise `NoDeviceError` or reach the manager's open bus. Other pages are unchanged.

    Parameters
    ----------
    uc : unicorn.Uc
        The emulator, which must not be running. Until the bridge is detached, its `emu_start` is that of the bridge, so
        that it raises the exceptions of devices.
    manager : IoManager
        The bus. Several emulators may be attached to one manager.
    recorder : dbs_device.trace.TraceRecorder, optional
        Records each access that was served.

    Returns
    -------
    Bridge
        Runs the guest, and can be detached. It lives as long as the emulator, even without a reference to it.

    Raises
    ------
    GuestMemoryError
        The guest has mapped a page that a range needs. Nothing is mapped.
    DeviceModelError
        The emulator is already attached.
    TypeError
        `manager` is not an `IoManager`.
    unicorn.UcError
        Unicorn cannot map a page or add a hook. Nothing is mapped.
    """
    return Bridge(uc, manager, recorder)


class Bridge:
    """Connects a `unicorn.Uc` with an `IoManager`. Made by `attach`.

    The mappings are synced with the manager's ranges: at once or, if the ranges change while the guest runs, before the
    guest's next access to them. A page that is no longer needed is unmapped when the guest stops; until then, accesses
    to it fail like those to unmapped memory, and nothing else can be mapped there.

    If a change needs a page that the guest has mapped itself, the manager's ranges change nevertheless, and the
    mappings cannot be synced: the guest stops and `emu_start` raises `GuestMemoryError`, in later calls too, until the
    ranges or the guest's memory are corrected.

    Attributes
    ----------
    uc : unicorn.Uc
        The emulator.
    manager : IoManager
        The bus.
    recorder : dbs_device.trace.TraceRecorder or None
        Records the guest's accesses.
    """

    def __init__(self, uc: Uc, manager: IoManager, recorder: TraceRecorder | None) -> None:
        if not isinstance(manager, IoManager):
            raise TypeError(f"attach takes an IoManager, not {type(manager).__name__}")
        if hasattr(uc, "_dbs_device_bridge"):
            raise DeviceModelError("the emulator is already attached: detach its bridge first, or share the manager")
        self.uc = uc
        self._uc = cast(Any, uc)
        self.manager = manager
        self.recorder = recorder
        self._uc_emu_start = self._uc.emu_start
        self._lock = threading.RLock()  # guards the fields below; held only while mappings change
        self._active_runs = 0
        self._is_attached = True
        self._needs_sync = True
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
            self._map_missing_pages,
            None if recorder is None else partial(_record, recorder, is_big_endian),
            _unmapped_error,
        )
        try:
            self._sync()
            self._add_hooks()
        except BaseException:
            self._remove_all()
            raise
        attributes = vars(uc)
        self._replaced = {name: value for name, value in attributes.items() if name == "emu_start"}
        # Unicorn holds addresses of parts of this object, which must live as long as the emulator.
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
            The first exception of a device, unchanged. It has stopped the guest; no device was called after it.
        GuestMemoryError
            The ranges have changed, and need a page that the guest has mapped.
        unicorn.UcError
            Raised by Unicorn itself.
        """
        error: BaseException | None = None
        with self._lock:
            self._sync_if_needed()
            self._active_runs += 1
        try:
            self._uc_emu_start(begin, until, timeout, count)
        except BaseException as raised:
            error = raised
        with self._lock:
            self._active_runs -= 1
            try:
                self._sync_if_needed()
            except Exception as raised:
                error = error or raised
        # The exception of a device comes first: it has stopped the guest, which may have made Unicorn fail. Raised
        # outside the `except` clause, it does not get another exception as its context.
        error = self._clear_pending_errors() or error
        try:
            if error is not None:
                raise error
        finally:
            del error  # breaks the reference cycle with its traceback

    def detach(self) -> None:
        """Unmap the ranges and remove the hooks. A detached bridge is left unchanged.

        Raises
        ------
        DeviceModelError
            The guest is running.
        unicorn.UcError
            Unicorn cannot unmap a page or remove a hook.
        """
        with self._lock:
            if self._is_running():
                raise DeviceModelError("cannot detach while the guest is running")
            if not self._is_attached:
                return
            self._is_attached = False
            self._unsubscribe()
            self._remove_all()
            attributes = vars(self.uc)
            del attributes["_dbs_device_bridge"]
            # Other code may have replaced ours meanwhile.
            if attributes.get("emu_start") == self.emu_start:
                del attributes["emu_start"]
                attributes.update(self._replaced)

    def _clear_pending_errors(self) -> BaseException | None:
        """Discard the pending errors, and return the first."""
        first = self._bus.pop_exception()
        while self._bus.pop_exception() is not None:
            pass
        return first

    def _is_running(self) -> bool:
        return self._active_runs > 0 or self._bus.is_inside

    # -- ranges

    def _on_change(self, added: tuple[MappedRange, ...], removed: tuple[MappedRange, ...]) -> None:
        with self._lock:
            if not self._is_attached:
                return
            self._bus.update(self.manager)
            self._needs_sync = True
            # Unicorn is not thread-safe: the guest's thread maps the pages at its next access.
            if self._is_running():
                self._bus.request_sync()
                return
            # The change has been made; `emu_start` tries again, and raises the error.
            with suppress(GuestMemoryError, UcError):
                self._sync()

    def _sync_if_needed(self) -> None:
        if self._needs_sync and self._is_attached and not self._is_running():
            self._sync()

    def _sync(self) -> None:
        """Map exactly the pages that the ranges need. The guest must not be running."""
        self._bus.update(self.manager)
        needed = list(self._needed_runs())
        for part in self._missing_parts(needed):
            self._check_free(part)
        for run in self._windows.keys() - needed:
            self._unmap(run)
        for run in needed:
            if run not in self._windows:
                self._map(run)
        self._needs_sync = False

    def _map_missing_pages(self) -> None:
        """Map the missing pages. The guest may be inside an access, so that none can be unmapped."""
        with self._lock:
            missing = list(self._missing_parts(self._needed_runs()))
            for part in missing:
                self._check_free(part)
            for part in missing:
                self._map(part)

    def _needed_runs(self) -> Iterator[tuple[int, int]]:
        """Yield (first address, last address) of each run of pages that contain ranges."""
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
        """Yield the parts of the needed runs that no window covers."""
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
        load, store = _ENTRY_POINTS["load"], _ENTRY_POINTS["store"]
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
        # Variadic in C: some platforms pass unnamed arguments differently. ctypes knows which these are because the
        # prototype in `uclib` ends with `begin` and `end`. begin > end stands for every address.
        begin, end = 1, 0
        user_data = self._bus.address
        _check(
            uclib.uc_hook_add(
                self._uc._uch, ctypes.byref(hook), kind, _ENTRY_POINTS[name], user_data, begin, end, *arguments
            )
        )
        self._hooks.append(hook)

    def _remove_all(self) -> None:
        for hook in self._hooks:
            _check(uclib.uc_hook_del(self._uc._uch, hook))
        self._hooks.clear()
        for run in list(self._windows):
            self._unmap(run)


def _check(status: int) -> None:
    if status != const.UC_ERR_OK:
        raise UcError(status)


def _unmapped_error(is_write: bool, address: int) -> UcError:
    return UcError(const.UC_ERR_WRITE_UNMAPPED if is_write else const.UC_ERR_READ_UNMAPPED)


def _record(
    recorder: TraceRecorder, is_big_endian: bool, is_mmio: bool, is_write: bool, address: int, size: int, value: int
) -> None:
    if is_big_endian != (recorder.byteorder == "big"):
        # The recorder takes integers in its manager's byte order, which a replay uses.
        value = int.from_bytes(value.to_bytes(size, "little"), "big")
    recorder.record(Space.MMIO if is_mmio else Space.PIO, is_write, address, size, value)


def _address_of(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _is_big_endian(uc: Any) -> bool:
    """Return whether the integers that Unicorn passes are big-endian.

    ARM can change its byte order while it runs. Unicorn's ARM is little-endian whatever the mode: it swaps the bytes of
    a big-endian access itself.
    """
    is_arm = uc.ctl_get_arch() in (const.UC_ARCH_ARM, const.UC_ARCH_ARM64)
    return bool(uc.ctl_get_mode() & const.UC_MODE_BIG_ENDIAN) and not is_arm
