"""The bus behind the Unicorn CPU emulator (extra ``unicorn``).

A guest's MMIO and, on x86, its IN and OUT instructions go from Unicorn to the engine through C function pointers, without
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

Unicorn's own ways, which a device sees:

* An access wider than 4 bytes arrives as several of 4, the lowest address first.
* Unaligned accesses are split: a 4-byte read at offset 1 arrives as reads of 4 bytes at 0 and 4, a 2-byte read at
  offset 1 as reads of 2 bytes at 0 and 2, and unaligned writes as single bytes.
* It finishes a split access even after it was told to stop, and repeats the instruction when it is resumed. A device
  is not called again after the first exception, but its first half has been called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import MappingProxyType

import unicorn as uc_package
from unicorn import Uc, UcError
from unicorn.unicorn_py3.unicorn import uclib

from ._address_map import MappedRange
from ._bus import IoManager
from ._unicorn import PAGE_SIZE, GuestBus, Window, callback_addresses
from .errors import DeviceModelError, GuestMemoryError

__all__ = ["Bridge", "attach"]

_PAGE_MASK = PAGE_SIZE - 1
_CALLBACKS = MappingProxyType(callback_addresses())
_STOP_ADDRESS = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value


def attach(uc: Uc, manager: IoManager) -> Bridge:
    """Serve a guest's MMIO, and on x86 its ports, from a manager's devices.

    The pages that hold MMIO ranges are mapped, and followed when the ranges change. Addresses in such a page that no
    range owns, and ports that none owns, follow the manager's rule: `NoDeviceError`, or its open bus. Other pages stay
    as they are.

    Parameters
    ----------
    uc : unicorn.Uc
        The engine. It must not be running.
    manager : IoManager
        The bus.

    Returns
    -------
    Bridge
        To run the guest with, and to detach.

    Raises
    ------
    GuestMemoryError
        The guest has a page mapped that a range needs. Nothing is left mapped.
    """
    return Bridge(uc, manager)


class Bridge:
    """Connects a `unicorn.Uc` with an `IoManager`. Made by `attach`.

    A change of the manager's ranges is followed: at once, or where it is made while the guest runs, before the guest can
    tell. A page that is no longer needed is unmapped when the guest stops; until then an access to it fails as Unicorn's
    own accesses to unmapped memory do. A change that needs a page which the guest has mapped itself cannot be followed:
    the manager has changed then, so that the `GuestMemoryError` stops the guest and comes out of `emu_start`.

    Attributes
    ----------
    uc : unicorn.Uc
        The engine.
    manager : IoManager
        The bus.
    """

    def __init__(self, uc: Uc, manager: IoManager) -> None:
        self.uc = uc
        self.manager = manager
        self._running = 0
        self._hooks: list[ctypes.c_size_t] = []
        self._windows: dict[tuple[int, int], Window] = {}
        self._bus = GuestBus(
            uc._uch.value, _STOP_ADDRESS, _is_big_endian(uc), self._map_added_pages, _error_of_unmapped_access
        )
        try:
            self._follow_all()
            self._add_hooks()
        except BaseException:
            self._remove_everything()
            raise
        self._unsubscribe = manager.on_change(self._on_change)
        # Unicorn holds addresses of this object's parts: it has to live as long as the engine.
        uc._dbs_device_bridge = self

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
        self._raise_kept()
        self._running += 1
        try:
            self.uc.emu_start(begin, until, timeout, count)
        except UcError:
            # What a device raised has stopped the guest; what Unicorn makes of that comes second.
            self._raise_kept()
            raise
        finally:
            self._running -= 1
            self._follow_all_or_keep()
        self._raise_kept()

    def detach(self) -> None:
        """Unmap the ranges and remove the hooks, so that the engine is as it was before `attach`.

        Raises
        ------
        DeviceModelError
            The guest is running.
        """
        if self._is_busy():
            raise DeviceModelError("cannot detach while the guest is running")
        self._unsubscribe()
        self._remove_everything()
        if getattr(self.uc, "_dbs_device_bridge", None) is self:
            del self.uc._dbs_device_bridge

    def _raise_kept(self) -> None:
        error = self._bus.take_exception()
        if error is not None:
            while self._bus.take_exception() is not None:
                pass
            raise error

    def _is_busy(self) -> bool:
        return self._running > 0 or self._bus.is_inside

    # -- ranges

    def _on_change(self, added: tuple[MappedRange, ...], removed: tuple[MappedRange, ...]) -> None:
        self._bus.update(self.manager)
        if self._is_busy():
            # The guest's thread maps what was added when it next comes by; Unicorn is not safe to call from another.
            self._bus.want_to_follow()
        else:
            self._follow_all_or_keep()

    def _follow_all_or_keep(self) -> None:
        if self._is_busy():
            return
        try:
            self._follow_all()
        except Exception as error:
            self._bus.keep(error)

    def _follow_all(self) -> None:
        """Map the pages that the ranges need, and no others. The guest must not be running."""
        self._bus.update(self.manager)
        needed = set(self._needed_runs())
        for run in [run for run in self._windows if run not in needed]:
            self._unmap(run)
        self._map_runs(needed - self._windows.keys())

    def _map_added_pages(self) -> None:
        """Map the pages that are needed and not mapped yet; unmap nothing, since the guest may be in a callback."""
        mapped = sorted(self._windows)
        self._map_runs(part for run in self._needed_runs() for part in _subtract(run, mapped))

    def _needed_runs(self) -> Iterator[tuple[int, int]]:
        """Yield (first address, last address) of each run of pages that hold ranges."""
        run: tuple[int, int] | None = None
        for base, last, _ in self.manager.mmio_bus:
            first, end = base & ~_PAGE_MASK, last | _PAGE_MASK
            if run is not None and first <= run[1] + 1:
                run = (run[0], max(run[1], end))
                continue
            if run is not None:
                yield run
            run = (first, end)
        if run is not None:
            yield run

    def _map_runs(self, runs: Iterator[tuple[int, int]] | set[tuple[int, int]]) -> None:
        """Map some runs, or none if one cannot be."""
        mapped = []
        try:
            for run in sorted(runs):
                self._map(run)
                mapped.append(run)
        except BaseException:
            if not self._is_busy():
                for run in mapped:
                    self._unmap(run)
            raise

    def _map(self, run: tuple[int, int]) -> None:
        self._check_free(run)
        window = Window(self._bus, run[0])
        _check(
            uclib.uc_mmio_map(
                self.uc._uch, run[0], run[1] - run[0] + 1,
                _CALLBACKS["load"], window.address, _CALLBACKS["store"], window.address,
            )
        )  # fmt: skip
        self._windows[run] = window

    def _check_free(self, run: tuple[int, int]) -> None:
        for region_first, region_last, _ in self.uc.mem_regions():
            if region_first <= run[1] and run[0] <= region_last:
                for base, last, device in self.manager.mmio_bus:
                    if base & ~_PAGE_MASK <= region_last and region_first <= last | _PAGE_MASK:
                        raise GuestMemoryError(base, last, device, region_first, region_last)

    def _unmap(self, run: tuple[int, int]) -> None:
        _check(uclib.uc_mem_unmap(self.uc._uch, run[0], run[1] - run[0] + 1))
        del self._windows[run]

    # -- hooks

    def _add_hooks(self) -> None:
        unmapped = uc_package.UC_HOOK_MEM_READ_UNMAPPED | uc_package.UC_HOOK_MEM_WRITE_UNMAPPED
        self._add_hook(unmapped, "unmapped")
        if self.uc._arch == uc_package.UC_ARCH_X86:
            for name, instruction in (("in", uc_package.x86_const.UC_X86_INS_IN), ("out", uc_package.x86_const.UC_X86_INS_OUT)):
                self._add_hook(uc_package.UC_HOOK_INSN, name, ctypes.c_int(instruction))

    def _add_hook(self, kind: int, name: str, *arguments: ctypes.c_int) -> None:
        hook = ctypes.c_size_t()
        # Variadic in C: some platforms pass what follows the named parameters in another way, which ctypes knows
        # because the prototype of `uclib` ends with `begin` and `end`. Begin above end: at every address.
        _check(
            uclib.uc_hook_add(
                self.uc._uch, ctypes.byref(hook), kind, _CALLBACKS[name], self._bus.address, 1, 0, *arguments
            )
        )
        self._hooks.append(hook)

    def _remove_everything(self) -> None:
        for hook in self._hooks:
            _check(uclib.uc_hook_del(self.uc._uch, hook))
        self._hooks.clear()
        for run in list(self._windows):
            self._unmap(run)


def _check(status: int) -> None:
    if status != uc_package.UC_ERR_OK:
        raise UcError(status)


def _error_of_unmapped_access(is_write: bool, address: int) -> UcError:
    return UcError(uc_package.UC_ERR_WRITE_UNMAPPED if is_write else uc_package.UC_ERR_READ_UNMAPPED)


def _is_big_endian(uc: Uc) -> bool:
    if uc._arch == uc_package.UC_ARCH_ARM and uc._mode & uc_package.UC_MODE_ARMBE8:
        return True
    return bool(uc._mode & uc_package.UC_MODE_BIG_ENDIAN)


def _subtract(run: tuple[int, int], mapped: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of a run that none of the sorted, disjoint `mapped` runs covers."""
    first, last = run
    for mapped_first, mapped_last in mapped:
        if mapped_last < first or mapped_first > last:
            continue
        if first < mapped_first:
            yield first, mapped_first - 1
        first = mapped_last + 1
    if first <= last:
        yield first, last
