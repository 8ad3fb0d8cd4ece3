"""Devices in RTL simulations under cocotb (extra ``cocotb``).

`DeviceRegion` makes a device, or the whole bus, the target of an AXI, AXI-Lite or APB slave of cocotbext-axi, so that
RTL under test accesses the device that firmware accesses elsewhere. `compare` makes the same accesses to a peripheral
in RTL and to its model, and names the differences by register and field.

A bus of these kinds reads whole words: a slave is not told which bytes of a word are used, so that a device sees a read
of the width of the bus. Of a write it is given the bytes that are enabled, each contiguous run as an access of its own.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, SupportsIndex

try:
    import cocotb
    from cocotbext.axi.address_space import Region
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("cocotb", "cocotbext"):
        raise
    raise ImportError(
        "dbs_device.cocotb needs the packages cocotb and cocotbext-axi: pip install 'dbs-device[cocotb]'",
        name=error.name,
    ) from None

from ._bus import IoManager
from .address import Space
from .device import DeviceIo
from .errors import NoDeviceError, RegisterAccessError, format_count
from .registers import RegisterBank
from .resources import Resource

if TYPE_CHECKING:
    from .registers import Register

__all__ = ["BusAccess", "DeviceRegion", "Difference", "FieldDifference", "compare", "register_accesses"]


# ----------------------------------------------------------------------------- RTL accesses devices


class DeviceRegion(Region):  # type: ignore[misc]  # cocotbext-axi has no types
    """A region of cocotbext-axi whose accesses reach devices, each exactly once.

    It is the ``target`` of an ``AxiSlave``, ``AxiLiteSlave`` or ``ApbSlave``, or part of an ``AddressSpace``.

    Parameters
    ----------
    target : IoManager or DeviceIo
        The bus, or one device.
    size : int, optional
        Bytes. By default a device's `size`, or everything from `base` on for a bus.
    base : int, optional
        Address on the bus of the first byte of the region.

    Attributes
    ----------
    manager : IoManager
        The bus; one that has the device alone, if a device was given.

    Raises
    ------
    TypeError
        `target` is neither, or it is a device without a `size` and none is given.

    Notes
    -----
    The slave answers an access that fails with a bus error (SLVERR). That is all if no device owns the address, or a
    bank refuses the access (`RegisterAccessError`). Any other exception is a defect of the model: it also fails the
    running test, unchanged.

    Examples
    --------
    In a test of cocotb::

        AxiLiteSlave(AxiLiteBus.from_prefix(dut, "m_axil"), dut.clk, dut.rst, target=DeviceRegion(uart))
    """

    def __init__(self, target: IoManager | DeviceIo, size: SupportsIndex | None = None, *, base: SupportsIndex = 0):
        self._first = operator.index(base)
        if isinstance(target, IoManager):
            self.manager = target
            length = Space.MMIO.last_address + 1 - self._first if size is None else operator.index(size)
        else:
            self.manager, length = _bus_of(target, size, self._first)
        super().__init__(length)

    async def _read(self, address: int, length: int, **_: Any) -> bytes:
        data = bytearray(length)
        with self._failing_the_test(address):
            self.manager.mmio_read(self._first + address, data)
        return bytes(data)

    async def _write(self, address: int, data: bytes, **_: Any) -> None:
        with self._failing_the_test(address):
            self.manager.mmio_write(self._first + address, bytes(data))

    @contextmanager
    def _failing_the_test(self, address: int) -> Iterator[None]:
        """Have a defect of the model fail the test: all that a slave makes of an exception is a bus error."""
        try:
            yield
        except Exception as error:
            if not _is_bus_error(error, self._first + address):
                cocotb.start_soon(_fail(error))
            raise


async def _fail(error: Exception) -> None:
    raise error


def _is_bus_error(error: Exception, address: int) -> bool:
    """Return whether hardware would answer an access like that: no device is there, or the bank refuses it.

    An unowned access that the device itself makes has another address.
    """
    return isinstance(error, RegisterAccessError) or (isinstance(error, NoDeviceError) and error.address == address)


def _bus_of(device: DeviceIo, size: SupportsIndex | None, base: int) -> tuple[IoManager, int]:
    """Return a bus that has the device alone, and the bytes of its range."""
    if size is None:
        size = getattr(device, "size", None)
        if size is None:
            raise TypeError(f"{type(device).__name__} does not have a size: give one")
    length = operator.index(size)
    manager = IoManager()
    manager.register_device_io(device, [Resource.MmioAddressRange(base, length)])
    return manager, length


# ----------------------------------------------------------------------------- RTL is compared with its model


class BusAccess(NamedTuple):
    """An access that `compare` makes. The accesses of a trace have the same attributes.

    Attributes
    ----------
    write : bool
        Whether it is a write.
    addr : int
        Address of the first byte.
    size : int
        Bytes.
    value : int
        What is written, lowest byte first; ignored for a read.
    """

    write: bool
    addr: int
    size: int
    value: int = 0

    def __str__(self) -> str:
        text = f"{'write' if self.write else 'read'} of {format_count(self.size, 'byte')} at {self.addr:#x}"
        return f"{text}, value {self.value:#x}" if self.write else text


class FieldDifference(NamedTuple):
    """A field that differs.

    Attributes
    ----------
    name : str
        The field.
    expected, actual : int
        Its value in the model, and in RTL.
    """

    name: str
    expected: int
    actual: int

    def __str__(self) -> str:
        return f"{self.name} {self.actual:#x}, expected {self.expected:#x}"


@dataclass(frozen=True)
class Difference:
    """What RTL and its model answered differently.

    Attributes
    ----------
    index : int
        Number of the access, from 0.
    access : BusAccess
        The access.
    register : str or None
        The register that differs; None for bytes that are not of a register.
    expected, actual : int or None
        The value in the model, and in RTL; None for a bus error. For a write both are 0, or one is None.
    fields : tuple of FieldDifference
        The fields of the register that differ.
    """

    index: int
    access: BusAccess
    register: str | None
    expected: int | None
    actual: int | None
    fields: tuple[FieldDifference, ...] = ()

    def __str__(self) -> str:
        where = f"access {self.index}, {self.access}: {self.register or 'no register'}"
        if self.expected is None:
            return f"{where}: a bus error is expected"
        if self.actual is None:
            return f"{where}: bus error"
        fields = f" ({'; '.join(map(str, self.fields))})" if self.fields else ""
        return f"{where} is {self.actual:#x}, expected {self.expected:#x}{fields}"


class _Access(Protocol):
    """A `BusAccess`, or an access of a trace."""

    @property
    def write(self) -> bool: ...
    @property
    def addr(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def value(self) -> int: ...


async def compare(
    master: Any,
    device: DeviceIo,
    accesses: Iterable[_Access] | None = None,
    *,
    size: SupportsIndex | None = None,
    base: int = 0,
    width: int | None = None,
    ignore: Collection[str] = (),
) -> list[Difference]:
    """Make the same accesses to a peripheral in RTL and to its model, and return the differences.

    Both should be in the same state, as after a reset.

    Parameters
    ----------
    master : AxiMaster, AxiLiteMaster, ApbMaster or Window
        What accesses the peripheral, whose first byte is at address 0: for a peripheral at another address, the window
        ``master.create_window(address, size)``.
    device : DeviceIo
        The model. A `RegisterBank` names what differs.
    accesses : iterable of BusAccess, optional
        What is done; by default the `register_accesses` of a bank. The accesses of a recorded trace will do.
    size : int, optional
        Bytes of the device; by default its `size`.
    base : int, optional
        Address of the device in `accesses`.
    width : int, optional
        Bytes of a word of the bus, by default those of the master, else 4. Each access to several words becomes one to
        each, and each read one of the whole word, as on the bus.
    ignore : collection of str
        Registers and fields that are not compared, such as ``{"COUNT", "SR.BUSY"}``.

    Returns
    -------
    list of Difference
        In order; empty if there are none.

    Raises
    ------
    ValueError
        An access is outside the device, or `ignore` names what the bank does not have.
    BaseException
        An exception of the model, except those that a bus error stands for: `RegisterAccessError`, and `NoDeviceError`
        for an access that leaves the device.
    """
    manager, length = _bus_of(device, size, 0)
    bank = device if isinstance(device, RegisterBank) else None
    if accesses is None:
        if bank is None:
            raise TypeError(f"{type(device).__name__} is not a RegisterBank, whose accesses are known: give them")
        accesses = register_accesses(bank, base=base)
    ignored = _ignored_bits(bank, ignore)
    lanes = _width_of(master) if width is None else width
    differences: list[Difference] = []
    for index, each in enumerate(accesses):
        access = BusAccess(bool(each.write), each.addr, each.size, each.value)
        offset = access.addr - base
        if offset < 0 or offset + access.size > length or getattr(each, "space", Space.MMIO) != Space.MMIO:
            raise ValueError(f"access {index}, {access}: not in the {length:#x} bytes at {base:#x}")
        for first, data in _words(offset, access, lanes):
            word = first // lanes * lanes
            if access.write:
                actual = await _bus_write(master, first, data)
                expected = _model_access(manager, first, data, write=True)
                compared = first, len(data)
            else:
                compared = word, min(lanes, length - word)
                actual = await _bus_read(master, *compared)
                expected = _model_access(manager, compared[0], bytes(compared[1]), write=False)
            if actual != expected:
                differences += _differences(index, access, bank, compared, expected, actual, ignored)
    return differences


def register_accesses(bank: RegisterBank, *, base: int = 0, rounds: int = 8, seed: int = 0) -> Iterator[BusAccess]:
    """Yield accesses that bring out how the registers of a bank behave.

    Each register is read. In each round each register is then written once, in random order, and read: with zeros in
    the first round, ones in the second, later with either or with a random value, also to some of its bytes. Registers
    that are declared unimplemented are left out.

    Parameters
    ----------
    bank : RegisterBank
        Whose registers, on all pages that the accesses select.
    base : int, optional
        Address of the bank.
    rounds : int, optional
        Writes of each register.
    seed : int, optional
        Of the random numbers: the same accesses follow from the same seed.

    Yields
    ------
    BusAccess
        Of the size of the register, or of a part of it that it allows.
    """
    numbers = random.Random(seed)
    places = []
    for place in bank._spec.places:
        declaration, _ = bank._layout.declarations[place.number]
        if not declaration.spec.access.is_unimplemented:
            places.append((place, declaration.spec.access_sizes))
    for place, _ in places:
        if place.readable:
            yield BusAccess(False, base + place.offset, place.size)
    for turn in range(rounds):
        numbers.shuffle(places)
        for place, sizes in places:
            if place.writable:
                size, value = place.size, -(turn & 1)
                if turn >= 2:
                    parts = [each for each in (1, 2, 4, 8) if each < place.size and (not sizes or each in sizes)]
                    size = numbers.choice([place.size, *parts])
                    value = numbers.choice([0, -1, numbers.getrandbits(8 * size)])
                offset = place.offset + size * numbers.randrange(place.size // size)
                yield BusAccess(True, base + offset, size, value & ((1 << 8 * size) - 1))
            if place.readable:
                yield BusAccess(False, base + place.offset, place.size)


def _width_of(master: Any) -> int:
    """Return the bytes of a word of a master's bus, also if the master is seen through windows."""
    while master is not None:
        for part in (master, getattr(master, "read_if", None)):
            lanes = getattr(part, "byte_lanes", None)
            if lanes is not None:
                return int(lanes)
        master = getattr(master, "parent", None)
    return 4


def _words(offset: int, access: BusAccess, lanes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the offset of each part of an access that is in one word of the bus, and its bytes."""
    data = access.value.to_bytes(access.size, "little") if access.write else bytes(access.size)
    done = 0
    while done < access.size:
        part = min(lanes - (offset + done) % lanes, access.size - done)
        yield offset + done, data[done : done + part]
        done += part


async def _bus_read(master: Any, address: int, size: int) -> bytes | None:
    """Return what RTL answers, or None for a bus error."""
    response = await master.read(address, size)
    return None if getattr(response, "resp", 0) else bytes(getattr(response, "data", response))


async def _bus_write(master: Any, address: int, data: bytes) -> bytes | None:
    response = await master.write(address, data)
    return None if getattr(response, "resp", 0) else b""


def _model_access(manager: IoManager, offset: int, data: bytes, write: bool) -> bytes | None:
    """Return what the model answers, or None for a bus error."""
    buffer = bytearray(data)
    try:
        if write:
            manager.mmio_write(offset, data)
            return b""
        manager.mmio_read(offset, buffer)
    except Exception as error:
        if _is_bus_error(error, offset):
            return None
        raise
    return bytes(buffer)


def _differences(
    index: int,
    access: BusAccess,
    bank: RegisterBank | None,
    compared: tuple[int, int],
    expected: bytes | None,
    actual: bytes | None,
    ignored: dict[str, int],
) -> Iterator[Difference]:
    """Yield a difference for each register that differs, and one for the bytes that are of none."""
    first, size = compared
    found = [] if bank is None else bank.registers_at(first, size, write=access.write)
    if expected is None or actual is None:
        names = ", ".join(register._label for _, register in found) or None
        if names not in ignored:
            yield Difference(index, access, names, _integer(expected), _integer(actual))
        return
    rest = [(at, *pair) for at, pair in enumerate(zip(expected, actual, strict=True), first)]
    for offset, register in found:
        own = [each for each in rest if offset <= each[0] < offset + register.spec.size]
        rest = [each for each in rest if each not in own]
        assert bank is not None
        yield from _register_differences(index, access, register, bank._spec.byteorder, offset, own, ignored)
    if any(wanted != got for _, wanted, got in rest):
        wanted, got = (int.from_bytes(bytes(each[side] for each in rest), "little") for side in (1, 2))
        yield Difference(index, access, None, wanted, got)


def _register_differences(
    index: int,
    access: BusAccess,
    register: Register,
    byteorder: str,
    offset: int,
    own: list[tuple[int, int, int]],
    ignored: dict[str, int],
) -> Iterator[Difference]:
    """Yield the difference of one register, of which some bytes were read: (offset, expected, actual) of each."""
    size = register.spec.size
    expected = actual = 0
    for at, wanted, got in own:
        shift = 8 * (at - offset if byteorder == "little" else size - 1 - (at - offset))
        expected |= wanted << shift
        actual |= got << shift
    label = register._label
    differing = (expected ^ actual) & ~ignored.get(label, 0)
    if not differing:
        return
    fields = tuple(
        FieldDifference(name, (expected & field.mask) >> field.lsb, (actual & field.mask) >> field.lsb)
        for name, field in register.spec.fields.items()
        if differing & field.mask
    )
    yield Difference(index, access, label, expected, actual, fields)


def _ignored_bits(bank: RegisterBank | None, names: Collection[str]) -> dict[str, int]:
    """Return the bits of each register, by its label, that are not compared."""
    ignored: dict[str, int] = {}
    if isinstance(names, str):
        raise TypeError(f"ignore is a collection of names: {{{names!r}}}")
    for name in names:
        wanted, _, wanted_field = name.partition(".")
        is_known = False
        for declaration, element in [] if bank is None else bank._layout.declarations:
            spec = declaration.spec
            label = spec.label(element or 0)
            if wanted not in (label, spec.name) or (wanted_field and wanted_field not in spec.fields):
                continue
            is_known = True
            bits = spec.fields[wanted_field].mask if wanted_field else spec.bits
            ignored[label] = ignored.get(label, 0) | bits
        if not is_known:
            raise ValueError(f"{type(bank).__name__ if bank else 'the device'} has no register or field {name}")
    return ignored


def _integer(data: bytes | None) -> int | None:
    return None if data is None else int.from_bytes(data, "little")
