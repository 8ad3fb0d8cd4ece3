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
* An aligned write of a `Rom` that is mapped into the guest is not split.
* Port accesses are not split. INS and OUTS access the port once per item.
* If a device raises during an MMIO access, the guest stops at that instruction, with its registers unchanged. When the
  guest is resumed, the instruction is repeated, including the parts of a split access that had succeeded. After IN and
  OUT, the guest executes the rest of its basic block before it stops, without calling devices.
"""

from __future__ import annotations

import bisect
import ctypes
import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
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
from ._engine.address_map import MappedMemory, MappedRange
from ._engine.guest_map import Region, needed_regions, parts_outside
from ._engine.memory import HostMemory
from ._engine.recorder import TraceRecorder, overrides
from ._engine.unicorn import GuestBus, Window
from .address import Space
from .errors import DeviceModelError, GuestMemoryError, RomWriteError, format_range

if TYPE_CHECKING:
    # Type checkers see the class for Python 2 here, whose methods are untyped.
    from unicorn import Uc  # type: ignore[attr-defined]


__all__ = ["Bridge", "attach"]

_SMALLEST_PAGE = 0x1000
_FUNCTIONS = ("uc_emu_stop", "uc_mmio_map", "uc_mem_map_ptr", "uc_mem_protect", "uc_mem_unmap")


def attach(uc: Uc, manager: IoManager, recorder: TraceRecorder | None = None) -> Bridge:
    """Serve a guest's MMIO accesses and, on x86, its port accesses from a manager's devices.

    The pages that contain MMIO ranges are mapped, and kept in sync when the ranges change. Unowned addresses in such a
    page, and unowned ports, raise `NoDeviceError` or reach the manager's open bus. Other pages are unchanged. The guest
    accesses the whole pages of a `Ram` or `Rom` directly, except for the writes of a Rom.

    Parameters
    ----------
    uc : unicorn.Uc
        The emulator, which must not be running. Until the bridge is detached, its `emu_start`, `mem_read`, `mem_write`,
        `mem_protect` and `mem_unmap` are those of the bridge: the first three raise the exceptions of devices, the last
        two refuse pages that are mapped for ranges (`DeviceModelError`).
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

    The mappings are synced with the manager's ranges: at once, if a handler of the guest changes the ranges when it
    returns, if another thread does while the guest runs at the guest's next access to a device. Pages of a window that
    the guest is in are unmapped later; until then, accesses to them fail like those to unmapped memory, and nothing
    else can be mapped there.

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
        self._uc_mem_write = self._uc.mem_write
        self._lock = threading.RLock()  # guards the fields below; held only while mappings change
        self._is_attached = True
        self._needs_sync = True
        self._is_syncing = False
        self._unwritable: list[tuple[MappedMemory, HostMemory]] = []  # what not even the host can write
        self._hooks: list[ctypes.c_size_t] = []
        is_big_endian = _is_big_endian(self._uc)
        self._page_size = max(self._uc.ctl_get_page_size(), _SMALLEST_PAGE)
        log = None if recorder is None or overrides(recorder, TraceRecorder, ("record",)) else recorder
        self._bus = GuestBus(
            manager,
            _address_of(self._uc._uch),
            {name: _address_of(getattr(uclib, name)) for name in _FUNCTIONS},
            is_big_endian,
            bool(self._uc.ctl_get_mode() & const.UC_MODE_BIG_ENDIAN),
            self._page_size,
            self._sync_while_running,
            log,
            log is not None and log.byteorder == "big",
            None if recorder is None or log is not None else partial(_record, recorder, is_big_endian),
            _unmapped_error,
        )
        self._methods: dict[str, Any] = {
            "emu_start": self.emu_start,
            "mem_read": partial(self._access_memory, self._uc.mem_read),
            "mem_write": self._write_memory,
            "mem_protect": partial(self._change_memory, self._uc.mem_protect),
            "mem_unmap": partial(self._change_memory, self._uc.mem_unmap),
        }
        attributes = vars(uc)
        self._replaced = {name: value for name, value in attributes.items() if name in self._methods}
        self._unsubscribe = manager.on_change(self._on_change)
        try:
            self._sync()
            self._add_hooks()
            # Unicorn holds addresses of parts of this object, which must live as long as the emulator.
            attributes.update(self._methods, _dbs_device_bridge=self)
        except BaseException:
            self.detach()
            raise

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
        RecursionError
            A handler of the guest has run it again, whose handler has, 32 deep.
        unicorn.UcError
            Raised by Unicorn itself.

        Notes
        -----
        On the main thread, SIGINT (Ctrl-C) stops the guest. What its handler raises comes out, by default
        KeyboardInterrupt; if it raises nothing, this returns, as after `unicorn.Uc.emu_stop`.
        """
        # The exception of a device comes first: it has stopped the guest, which may have made Unicorn fail. Raised
        # outside an `except` clause, it does not get another exception as its context.
        error = self._bus.run(self._start, begin, until, timeout, count)
        try:
            with self._lock:
                self._sync_if_needed(users=0)
        except Exception as raised:
            if error is None:
                error = raised
        try:
            if error is not None:
                raise error
        finally:
            del error  # breaks the reference cycle with its traceback

    def _start(self, begin: int, until: int, timeout: int, count: int) -> None:
        with self._lock:
            self._sync_if_needed(users=1)
        self._uc_emu_start(begin, until, timeout, count)

    def detach(self) -> None:
        """Unmap the ranges and remove the hooks. A detached bridge is left unchanged.

        Raises
        ------
        DeviceModelError
            The guest is running.
        unicorn.UcError
            Unicorn cannot unmap a page or remove a hook. Everything else is removed.
        """
        with self._lock:
            if self._is_running():
                raise DeviceModelError("cannot detach while the guest is running")
            if not self._is_attached:
                return
            # Interrupted in any of this, it can be called again.
            self._unsubscribe()
            attributes = vars(self.uc)
            for name, method in self._methods.items():
                # Other code may have replaced ours meanwhile.
                if attributes.get(name) is method:
                    del attributes[name]
                    if name in self._replaced:
                        attributes[name] = self._replaced[name]
            status = self._remove_all()
            self._bus.release()
            self._unwritable = []
            self._is_attached = False
            attributes.pop("_dbs_device_bridge", None)
            _check(status)

    def _is_running(self) -> bool:
        return self._bus.users > 0 or self._bus.is_inside

    def _access_memory(self, access: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call `mem_read` or `mem_write`, which may access devices."""
        try:
            return self._bus.access_memory(self._start_access, access, *arguments, **keywords)
        finally:
            if self._needs_sync:
                with self._lock:
                    self._sync_if_possible(users=0)

    def _start_access(self, access: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        with self._lock:
            self._sync_if_possible(users=1)
        return access(*arguments, **keywords)

    def _write_memory(self, address: int, data: bytes) -> None:
        self._access_memory(self._start_write, address, data)

    def _start_write(self, address: int, data: bytes) -> None:
        for mapped, memory in self._unwritable:
            first, last = max(address, mapped.base), min(address + len(data) - 1, mapped.last)
            if first <= last:
                raise RomWriteError(memory, mapped.address - memory.address + first - mapped.base, last - first + 1)
        self._uc_mem_write(address, data)

    def _change_memory(
        self, change: Callable[..., None], address: int, size: int, *arguments: Any, **keywords: Any
    ) -> None:
        """Call `mem_protect` or `mem_unmap`, unless it would split or remove what is mapped for ranges."""
        with self._lock:
            for first, last in self._bus.regions:
                if first < address + size and address <= last:
                    raise DeviceModelError(
                        f"cannot protect or unmap {format_range(address, address + size - 1)}: "
                        f"{format_range(first, last)} is mapped for ranges of the manager"
                    )
            change(address, size, *arguments, **keywords)

    # -- ranges

    def _on_change(self, added: tuple[MappedRange, ...], removed: tuple[MappedRange, ...]) -> None:
        with self._lock:
            if not self._is_attached:
                return
            self._needs_sync = True
            # Unicorn is not thread-safe: if it is in use, the guest's thread maps the pages at its next access.
            self._sync_if_possible(users=0)

    def _sync_if_possible(self, users: int) -> None:
        # The change has been made; `emu_start` tries again, and raises the error.
        with suppress(GuestMemoryError, UcError):
            self._sync_if_needed(users)

    def _sync_if_needed(self, users: int) -> None:
        """Sync unless Unicorn is in use, `users` being the calls of `GuestBus` that have not begun to use it."""
        if self._needs_sync and self._is_attached and self._bus.users == users and not self._bus.is_inside:
            self._sync()

    def _sync(self) -> None:
        """Map exactly the pages that the ranges need. The guest must not be running.

        A signal handler or finaliser that runs in it may change the ranges: they are synced again then.
        """
        if self._is_syncing:
            return
        self._is_syncing = True
        try:
            while self._needs_sync:
                self._needs_sync = False
                try:
                    self._sync_once()
                except BaseException as error:
                    is_outdated = self._needs_sync
                    self._needs_sync = True
                    if not is_outdated or not isinstance(error, (GuestMemoryError, UcError)):
                        raise
        finally:
            self._is_syncing = False

    def _sync_once(self) -> None:
        self._bus.update()
        needed = list(self._needed_regions())
        self._check_free(parts_outside(needed, self._bus.regions))
        wanted = {(region.first, region.last): region.memory for region in needed}
        for place, mapped in list(self._bus.regions.items()):
            if not _is_wanted(wanted, place, mapped):
                _check(self._bus.unmap_region(*place))
        for region in needed:
            if (region.first, region.last) not in self._bus.regions:
                _check(self._bus.map_region(*region))
        self._find_unwritable()

    def _sync_while_running(self, is_ending: bool) -> bool:
        """Map what the ranges need, and unmap what is in its way or not needed, except for windows in use.

        Parameters
        ----------
        is_ending : bool
            Whether the access has been made. An exception would have the guest repeat it: it is raised at the next.

        Returns
        -------
        bool
            Whether everything is mapped.
        """
        with self._lock:
            try:
                return self._replace_regions()
            except (GuestMemoryError, UcError):
                if is_ending:
                    return False
                raise

    def _replace_regions(self) -> bool:
        is_complete = True
        needed = list(self._needed_regions())
        wanted = {(region.first, region.last): region.memory for region in needed}
        windows = [(region.first, region.last) for region in needed if region.memory is None]
        for place, mapped in list(self._bus.regions.items()):
            if isinstance(mapped, Window):
                # Unicorn would use a window that the guest is in after it was unmapped. Its accesses are still served.
                mapped.is_stale = not _is_within(windows, *place)
                if not mapped.is_stale:
                    continue
                if mapped.is_busy:
                    is_complete = False
                    continue
            elif _is_wanted(wanted, place, mapped):
                continue
            _check(self._bus.unmap_region(*place))
        done: list[Region] = []
        for region in list(parts_outside(needed, self._bus.regions)):
            status = self._bus.map_region(*region)
            if status != const.UC_ERR_OK:
                for each in done:  # the guest has not accessed these
                    self._bus.unmap_region(each.first, each.last)
                self._check_free([region])  # not before: it takes longer than everything else
                _check(status)
            done.append(region)
        self._find_unwritable()
        return is_complete

    def _find_unwritable(self) -> None:
        self._unwritable = [
            (mapped, mapped.device)
            for mapped in self._bus.regions.values()
            if isinstance(mapped, MappedMemory) and isinstance(mapped.device, HostMemory) and mapped.device.readonly
        ]

    def _needed_regions(self) -> Iterator[Region]:
        return needed_regions(self.manager.mmio_bus, self._page_size)

    def _check_free(self, parts: Iterable[Region]) -> None:
        missing = list(parts)
        regions = list(self._uc.mem_regions()) if missing else []
        mask = self._page_size - 1
        for part, (region_first, region_last, _) in itertools.product(missing, regions):
            if region_first > part.last or region_last < part.first:
                continue
            for base, range_last, device in self.manager.mmio_bus:
                if base & ~mask <= region_last and region_first <= range_last | mask:
                    raise GuestMemoryError(base, range_last, device, region_first, region_last)

    # -- hooks

    def _add_hooks(self) -> None:
        self._add_hook(const.UC_HOOK_MEM_UNMAPPED, "unmapped")
        self._add_hook(const.UC_HOOK_MEM_WRITE_PROT, "read-only")
        if self._uc.ctl_get_arch() == const.UC_ARCH_X86:
            # Unicorn looks at each hook in this order. OUT, whose callbacks are cheaper, gains more by being the first.
            self._add_hook(const.UC_HOOK_INSN, "out", ctypes.c_int(x86_const.UC_X86_INS_OUT))
            self._add_hook(const.UC_HOOK_INSN, "in", ctypes.c_int(x86_const.UC_X86_INS_IN))

    def _add_hook(self, kind: int, name: str, *arguments: ctypes.c_int) -> None:
        hook = ctypes.c_size_t()
        self._hooks.append(hook)  # first, so that an interrupt does not lose it
        # Variadic in C: some platforms pass unnamed arguments differently. ctypes knows which these are because the
        # prototype in `uclib` ends with `begin` and `end`. begin > end stands for every address.
        begin, end = 1, 0
        function, user_data = self._bus.hooks()[name]
        _check(uclib.uc_hook_add(self._uc._uch, ctypes.byref(hook), kind, function, user_data, begin, end, *arguments))

    def _remove_all(self) -> int:
        """Remove hooks and windows, all that can be; return the status of the last that cannot."""
        failure: int = const.UC_ERR_OK
        for hook in self._hooks:
            # One that was not added, or is removed already, is 0.
            if hook.value and (status := uclib.uc_hook_del(self._uc._uch, hook)) != const.UC_ERR_OK:
                failure = status
            hook.value = 0
        for place in list(self._bus.regions):
            if (status := self._bus.unmap_region(*place)) != const.UC_ERR_OK:
                failure = status
        return failure


def _is_wanted(
    wanted: dict[tuple[int, int], MappedMemory | None], place: tuple[int, int], mapped: Window | MappedMemory
) -> bool:
    return place in wanted and wanted[place] == (None if isinstance(mapped, Window) else mapped)


def _is_within(places: list[tuple[int, int]], first: int, last: int) -> bool:
    """Return whether one of some places, which are in order, contains an address range."""
    index = bisect.bisect_right(places, first, key=operator.itemgetter(0)) - 1
    return index >= 0 and last <= places[index][1]


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
