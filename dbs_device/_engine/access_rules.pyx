"""Adapters that decide about each access: of which sizes it is, and to which of several devices it goes."""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .adapters cimport Adapter, Inner, new_inner
from .platform cimport dbs_keep_thread_state, set_public_name
from .tables cimport MMIO, PIO, SpaceId, check_device, space_of

import copyreg
import operator

from ..address import Space
from ..errors import AccessRuleError, InvalidRangeError, NoDeviceError, describe_device
from .public import set_attributes

__all__ = ["AccessRule", "PartialDecode"]


# ----------------------------------------------------------------------------- AccessRule

cdef enum Refusal:
    ACCEPTED
    UNALIGNED
    WIDE
    NARROW


@cython.no_gc_clear
cdef class AccessRule(Adapter):
    """Makes every access to a device one of the sizes that it has registers for.

    QEMU states the same as ``valid`` and ``impl`` sizes. A refused access is refused as a whole, before the device sees
    any of it.

    Parameters
    ----------
    device : DeviceIo
        The device.
    sizes : iterable of int
        The sizes, of 1, 2, 4 and 8 bytes, that the device sees.
    unaligned : {"split", "raise", "pass"}
        What becomes of an access of one of these sizes whose offset is not a multiple of it: it is split into aligned
        ones, lowest address first; it raises; or it is passed.
    wide : {"split", "raise"}
        What becomes of an access of more bytes, and of one of a size between: it is split into the largest accesses
        that are aligned, lowest address first; or it raises.
    narrow : {"raise", "widen"}
        What becomes of a piece that is smaller than the smallest size: it raises, or is served by an access of that
        size. A write then reads what is around it, and writes that too.

    Raises
    ------
    TypeError
        `device` is not a `DeviceIo`, or a size is not an integer.
    ValueError
        `sizes` is empty or has another size, or a rule is none of these.

    Examples
    --------
    A device that has registers of 32 bits only, on a bus where firmware copies with 64-bit loads:

    >>> from dbs_device import DeviceIo, IoManager, Resource
    >>> class Registers(DeviceIo):
    ...     def load(self, base, offset, size):
    ...         print(f"load {size} at {offset}")
    ...         return offset
    >>> manager = IoManager()
    >>> manager.register_device_io(AccessRule(Registers(), sizes={4}), [Resource.MmioAddressRange(0, 64)])
    >>> hex(manager.mmio_load(8, 8))
    load 4 at 8
    load 4 at 12
    '0xc00000008'
    >>> manager.mmio_load(8, 1)
    Traceback (most recent call last):
    dbs_device.errors.AccessRuleError: a read of 1 byte at offset 0x8 is too narrow for AccessRule(<...>, sizes={4})
    device access: MMIO read of 1 byte at 0x8, offset 0x8 of AccessRule(<...>, sizes={4})
    """

    def __cinit__(self, *args, **kwargs):
        self._sizes, self._smallest, self._largest = 1 << 1, 1, 1

    def __init__(self, device, sizes=(1, 2, 4), *, unaligned="split", wide="split", narrow="raise"):
        sizes = frozenset([operator.index(each) for each in sizes])
        if not sizes or not sizes <= {1, 2, 4, 8}:
            raise ValueError(f"sizes takes some of 1, 2, 4 and 8 bytes, not {sorted(sizes)}")
        for rule, value, allowed in (
            ("unaligned", unaligned, ("split", "raise", "pass")),
            ("wide", wide, ("split", "raise")),
            ("narrow", narrow, ("raise", "widen")),
        ):
            if value not in allowed:
                raise ValueError(f"{rule} takes {', '.join(map(repr, allowed))}, not {value!r}")
        self.set_device(device)
        self._arguments = (device, sizes, unaligned, wide, narrow)
        self._smallest, self._largest = min(sizes), max(sizes)
        self._sizes = sum([1 << size for size in sizes])
        self._raise_unaligned, self._pass_unaligned = unaligned == "raise", unaligned == "pass"
        self._raise_wide, self._raise_narrow = wide == "raise", narrow == "raise"

    @property
    def device(self):
        """DeviceIo : the device."""
        return self._mmio.entry.device

    @property
    def sizes(self):
        """frozenset of int : the sizes that the device sees."""
        return frozenset([size for size in (1, 2, 4, 8) if self._sizes >> size & 1])

    cdef size_t piece_at(self, uint64_t offset, size_t size) noexcept nogil:
        """Return the size of the access with which one of `size` bytes begins; 0 if all sizes are too large."""
        cdef size_t piece = self._largest
        while piece >= self._smallest:
            if self._sizes >> piece & 1 and piece <= size and (self._pass_unaligned or offset & (piece - 1) == 0):
                return piece
            piece >>= 1
        return 0

    cdef int refusal(self, uint64_t offset, size_t size) noexcept nogil:
        """Return why an access is refused, if it is."""
        cdef size_t piece, done = 0
        if size <= 8 and self._sizes >> size & 1:
            if offset & (size - 1) == 0 or self._pass_unaligned:
                return ACCEPTED
            if self._raise_unaligned:
                return UNALIGNED
        elif size > self._smallest and self._raise_wide:
            return WIDE
        elif self._raise_unaligned and offset & (min(self._largest, size) - 1) != 0:
            return UNALIGNED
        if self._raise_narrow:
            while done < size:
                piece = self.piece_at(offset + done, size - done)
                if piece == 0:
                    return NARROW
                done += piece
        return ACCEPTED

    cdef int read_by_rule(self, Inner inner, uint64_t base, uint64_t offset, uint8_t *data, size_t size) noexcept nogil:
        cdef uint8_t bounce[8]
        cdef uint64_t aligned
        cdef size_t piece, done = 0
        cdef int refused = self.refusal(offset, size)
        if refused != ACCEPTED:
            return access_refused(self, offset, size, False, refused)
        while done < size:
            piece = self.piece_at(offset + done, size - done)
            if piece != 0:
                if inner.read(base, offset + done, data + done, piece) == -1:
                    return -1
            else:
                aligned = (offset + done) & ~<uint64_t>(self._smallest - 1)
                piece = min(size - done, self._smallest - (offset + done - aligned))
                memset(bounce, 0, 8)
                if inner.read(base, aligned, bounce, self._smallest) == -1:
                    return -1
                memcpy(data + done, bounce + (offset + done - aligned), piece)
            done += piece
        return 0

    cdef int write_by_rule(
        self, Inner inner, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) noexcept nogil:
        cdef uint8_t bounce[8]
        cdef uint64_t aligned
        cdef size_t piece, done = 0
        cdef int refused = self.refusal(offset, size)
        if refused != ACCEPTED:
            return access_refused(self, offset, size, True, refused)
        while done < size:
            piece = self.piece_at(offset + done, size - done)
            if piece != 0:
                if inner.write(base, offset + done, data + done, piece) == -1:
                    return -1
            else:
                aligned = (offset + done) & ~<uint64_t>(self._smallest - 1)
                piece = min(size - done, self._smallest - (offset + done - aligned))
                memset(bounce, 0, 8)
                if inner.read(base, aligned, bounce, self._smallest) == -1:
                    return -1
                memcpy(bounce + (offset + done - aligned), data + done, piece)
                if inner.write(base, aligned, bounce, self._smallest) == -1:
                    return -1
            done += piece
        return 0

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.read_by_rule(self._mmio, base, offset, data, size)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.write_by_rule(self._mmio, base, offset, data, size)

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.read_by_rule(self._pio, base, offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.write_by_rule(self._pio, base, offset, data, size)

    def __repr__(self):
        sizes = ", ".join(map(str, sorted(self.sizes)))
        return f"AccessRule({describe_device(self.device)}, sizes={{{sizes}}})"

    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), (self._arguments, self.__getstate__())

    def __setstate__(self, state):
        (device, sizes, unaligned, wide, narrow), attributes = state
        AccessRule.__init__(self, device, sizes, unaligned=unaligned, wide=wide, narrow=narrow)
        set_attributes(self, attributes)


cdef int raise_refusal(AccessRule rule, uint64_t offset, size_t size, bint write, int refused) except -1:
    raise AccessRuleError(rule, offset, size, write, {UNALIGNED: "unaligned", WIDE: "wide", NARROW: "narrow"}[refused])


cdef int access_refused(AccessRule rule, uint64_t offset, size_t size, bint write, int refused) noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)(AccessRule, uint64_t, size_t, bint, int) noexcept>raise_refusal)(
        rule, offset, size, write, refused
    )


# ----------------------------------------------------------------------------- PartialDecode


@cython.no_gc_clear
cdef class PartialDecode(Adapter):
    """A range that devices share, each of which looks at some address lines only.

    An access reaches every device for which ``address & mask == match``, `address` being that of its first byte. A
    write goes to all of them, in order. A read is the AND of what they give, as on a bus whose lines are pulled up.
    Where none answers, reads give `open_bus` in every byte, and writes are lost.

    Parameters
    ----------
    *decodes : tuple of (DeviceIo, int, int)
        Device, mask and match of each. The device's base and offset are those of the access in the range.
    open_bus : int, optional
        A byte, 0..255; None to raise `NoDeviceError` instead.

    Raises
    ------
    InvalidRangeError
        A mask or match is not 0..2**64 - 1, or a match has bits that the mask has not, so that nothing can match.
    TypeError
        An argument has another type.
    ValueError
        `open_bus` is not a byte.

    Examples
    --------
    The ULA of a Spectrum answers at every even port, a Kempston joystick where A5 to A7 are low:

    >>> from dbs_device import DeviceIo, IoManager, Resource
    >>> class Ula(DeviceIo):
    ...     def pio_in(self, base, offset, size):
    ...         return 0xBF if offset >> 8 == 0xFE else 0xFF
    >>> class Joystick(DeviceIo):
    ...     def pio_in(self, base, offset, size):
    ...         return 0x10
    >>> ports = PartialDecode((Ula(), 0x0001, 0x0000), (Joystick(), 0x00E1, 0x0001))
    >>> manager = IoManager()
    >>> manager.register_device_io(ports, [Resource.PioAddressRange(0, 0x10000)])
    >>> [hex(manager.pio_in(port, 1)) for port in (0xFEFE, 0x7FFE, 0x001F, 0x00FF)]
    ['0xbf', '0xff', '0x10', '0xff']
    """

    def __cinit__(self, *args, **kwargs):
        self._arguments = ()
        self._open_bus = 0xFF

    def __init__(self, *decodes, open_bus=0xFF):
        cdef Inner mmio, pio
        cdef size_t number
        last_address = Space.MMIO.last_address
        checked = []
        for each in decodes:
            try:
                device, mask, match = each
            except (TypeError, ValueError):
                raise TypeError(f"PartialDecode takes tuples of a device, a mask and a match, not {each!r}") from None
            check_device(device)
            mask, match = operator.index(mask), operator.index(match)
            if not 0 <= mask <= last_address or not 0 <= match <= last_address or match & ~mask:
                raise InvalidRangeError(f"no address matches mask {mask:#x}, match {match:#x}")
            checked.append((device, mask, match))
        if open_bus is not None:
            open_bus = operator.index(open_bus)
            if not 0 <= open_bus <= 0xFF:
                raise ValueError(f"open_bus takes a byte, 0x0..0xff, or None, not {open_bus:#x}")
        self.check_is_new()
        PyMem_Free(self._decodes)
        self._decodes = <Decode *>PyMem_Calloc(max(len(checked), 1), sizeof(Decode))
        if self._decodes == NULL:
            raise MemoryError()
        for number, (device, mask, match) in enumerate(checked):
            mmio, pio = new_inner(MMIO, device), new_inner(PIO, device)
            self._inners += [mmio, pio]
            self._decodes[number] = Decode(mask, match, <void *>mmio, <void *>pio)
        self._count = len(checked)
        self._open_bus = -1 if open_bus is None else open_bus
        self._arguments = tuple(checked)
        self._devices = tuple([each[0] for each in checked])

    def __dealloc__(self):
        PyMem_Free(self._decodes)

    @property
    def decodes(self):
        """tuple of (DeviceIo, int, int) : device, mask and match of each."""
        return self._arguments

    @property
    def open_bus(self):
        """int or None : the byte where no device answers."""
        return None if self._open_bus < 0 else self._open_bus

    cdef int read_all(
        self, SpaceId space, uint64_t base, uint64_t offset, uint8_t *data, size_t size
    ) noexcept nogil:
        cdef uint8_t small[8]
        cdef uint8_t *other = small
        cdef bint is_answered = False
        cdef size_t number, i
        cdef int result = 0
        for number in range(self._count):
            if (base + offset) & self._decodes[number].mask != self._decodes[number].match:
                continue
            if not is_answered:
                is_answered = True
                result = read_decoded(&self._decodes[number], space, base, offset, data, size)
            else:
                if size > sizeof(small) and other == small:
                    other = <uint8_t *>malloc(size)
                    if other == NULL:
                        return out_of_memory()
                memset(other, 0, size)
                result = read_decoded(&self._decodes[number], space, base, offset, other, size)
                for i in range(size):
                    data[i] &= other[i]
            if result == -1:
                break
        if other != small:
            free(other)
        if not is_answered:
            if self._open_bus < 0:
                return no_device_answers(space, base + offset, size)
            memset(data, self._open_bus, size)
        return result

    cdef int write_all(
        self, SpaceId space, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
    ) noexcept nogil:
        cdef bint is_answered = False
        cdef size_t number
        for number in range(self._count):
            if (base + offset) & self._decodes[number].mask == self._decodes[number].match:
                is_answered = True
                if write_decoded(&self._decodes[number], space, base, offset, data, size) == -1:
                    return -1
        if not is_answered and self._open_bus < 0:
            return no_device_answers(space, base + offset, size)
        return 0

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.read_all(MMIO, base, offset, data, size)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.write_all(MMIO, base, offset, data, size)

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.read_all(PIO, base, offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.write_all(PIO, base, offset, data, size)

    def __repr__(self):
        decodes = [f"({describe_device(device)}, {mask:#x}, {match:#x})" for device, mask, match in self._arguments]
        return f"PartialDecode({', '.join(decodes)})"

    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), (self._arguments, self.open_bus, self.__getstate__())

    def __setstate__(self, state):
        decodes, open_bus, attributes = state
        PartialDecode.__init__(self, *decodes, open_bus=open_bus)
        set_attributes(self, attributes)


cdef inline int read_decoded(
    const Decode *decode, SpaceId space, uint64_t base, uint64_t offset, uint8_t *data, size_t size
) noexcept nogil:
    return (<Inner>(decode.pio if space == PIO else decode.mmio)).read(base, offset, data, size)


cdef inline int write_decoded(
    const Decode *decode, SpaceId space, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
) noexcept nogil:
    return (<Inner>(decode.pio if space == PIO else decode.mmio)).write(base, offset, data, size)


cdef int raise_no_device(SpaceId space, uint64_t address, size_t size) except -1:
    raise NoDeviceError(space_of(space), address, size)


cdef int no_device_answers(SpaceId space, uint64_t address, size_t size) noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)(SpaceId, uint64_t, size_t) noexcept>raise_no_device)(space, address, size)


cdef int raise_memory_error() except -1:
    raise MemoryError()


cdef int out_of_memory() noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)() noexcept>raise_memory_error)()


set_public_name(AccessRule, b"dbs_device.memory.AccessRule")
set_public_name(PartialDecode, b"dbs_device.memory.PartialDecode")
