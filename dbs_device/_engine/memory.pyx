"""Host memory as a device: `Ram` and `Rom`, served without the GIL.

The bus reads and writes the memory of a buffer, which the device holds: its exporter can neither free nor resize it. An
aligned integer is one load or store of the host, so that a guest's processors on several threads see whole values.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint64_t, uintptr_t

from .buffers cimport plain_view
from .native cimport NativeDevice
from .platform cimport dbs_keep_thread_state, set_public_name

import copyreg
import mmap
import operator
import sys

from ..errors import MemoryBoundsError, RomWriteError, StateError, describe_device, format_count
from .address_map import format_bytes
from .public import set_attributes

__all__ = ["HostMemory", "Ram", "Rom"]


cdef extern from * nogil:
    """
    #include <stdatomic.h>
    #include <string.h>

    /* An aligned integer is copied by one access to the memory, which other threads may use at the same time. The other
       side is the caller's own, and may be unaligned. */
    #define DBS_COPY(type)                                                                                             \
        if (((uintptr_t)memory & (sizeof(type) - 1)) == 0) {                                                           \
            type value = atomic_load_explicit((_Atomic type *)memory, memory_order_relaxed);                           \
            memcpy(data, &value, sizeof value);                                                                        \
        } else {                                                                                                       \
            memcpy(data, memory, sizeof(type));                                                                        \
        }
    static inline void copy_from_memory(uint8_t *data, uint8_t *memory, size_t size) {
        switch (size) {
        case 1: DBS_COPY(uint8_t); break;
        case 2: DBS_COPY(uint16_t); break;
        case 4: DBS_COPY(uint32_t); break;
        case 8: DBS_COPY(uint64_t); break;
        default: memmove(data, memory, size); /* the caller's buffer may be a view of the same memory */
        }
    }
    #undef DBS_COPY

    #define DBS_COPY(type)                                                                                             \
        if (((uintptr_t)memory & (sizeof(type) - 1)) == 0) {                                                           \
            type value;                                                                                                \
            memcpy(&value, data, sizeof value);                                                                        \
            atomic_store_explicit((_Atomic type *)memory, value, memory_order_relaxed);                                \
        } else {                                                                                                       \
            memmove(memory, data, sizeof(type));                                                                       \
        }
    static inline void copy_to_memory(uint8_t *memory, const uint8_t *data, size_t size) {
        switch (size) {
        case 1: DBS_COPY(uint8_t); break;
        case 2: DBS_COPY(uint16_t); break;
        case 4: DBS_COPY(uint32_t); break;
        case 8: DBS_COPY(uint64_t); break;
        default: memmove(memory, data, size);
        }
    }
    #undef DBS_COPY
    """
    void copy_from_memory(uint8_t *data, uint8_t *memory, size_t size) noexcept
    void copy_to_memory(uint8_t *memory, const uint8_t *data, size_t size) noexcept


cdef object allocate(object size):
    """Return zeroed, page-aligned memory: bridges map nothing else into a guest."""
    if size > sys.maxsize:
        raise MemoryError(f"{format_bytes(size)} of memory cannot be allocated")
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        # Private: a child process after fork() has a machine of its own, not half of its parent's.
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{format_bytes(size)} of memory cannot be allocated: {error.strerror}") from None


cdef class HostMemory(NativeDevice):
    """The base class of `Ram` and `Rom`: a device over a buffer of the host.

    It exports the buffer: ``memoryview(ram)``, ``numpy.frombuffer(ram, numpy.uint32)``.

    Attributes
    ----------
    size : int
        Its bytes.
    address : int
        The host's address of the first byte, for code that maps the memory into a guest. Valid while the device lives.
    readonly : bool
        Whether the buffer is read-only.
    """

    version = 1

    def __cinit__(self, *args, **kwargs):
        if type(self) is HostMemory:
            raise TypeError("HostMemory is the base class of Ram and Rom, of which one is to be made")

    def __dealloc__(self):
        PyBuffer_Release(&self._buffer)  # does nothing where no buffer is held

    cdef int hold(self, object contents, bint writable) except -1:
        """Hold the memory of a buffer, in place of another one that is not exported yet."""
        cdef object view = plain_view(contents, writable, type(self).__name__)
        if self._start != NULL:
            raise TypeError(f"{describe_device(self)} has its memory already")
        # Of the view, which cannot be released while its buffer is taken.
        PyObject_GetBuffer(view, &self._buffer, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self._start = <uint8_t *>self._buffer.buf
        self._size = self._buffer.len
        self._readonly = self._buffer.readonly
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._start, <Py_ssize_t>self._size, self._readonly, flags)

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        # Bounds: offset + size <= self._size, without overflow, since size <= self._size.
        if size > self._size or offset > self._size - size:
            return out_of_bounds(self, offset, size, False)
        copy_from_memory(data, self._start + offset, size)
        return 0

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.c_read(base, offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return self.c_write(base, offset, data, size)

    @property
    def size(self):
        """int : its bytes."""
        return self._size

    @property
    def address(self):
        """int : the host's address of the first byte."""
        return <uintptr_t>self._start

    @property
    def readonly(self):
        """bool : whether the buffer is read-only."""
        return self._readonly != 0

    @property
    def view(self):
        """memoryview : the memory, flat, in unsigned bytes. Keeps the device, and so the memory, alive."""
        return memoryview(self)

    def save_state(self):
        """Return the contents, as ``{"contents": bytes}``."""
        return {"contents": bytes(self)}

    def check_state(self, state):
        """Raise `StateError` for a state that `load_state` refuses; change nothing."""
        self.contents_of(state)

    def load_state(self, state):
        """Take over contents that `save_state` has returned.

        Parameters
        ----------
        state : mapping
            With the key "contents": `size` bytes.

        Raises
        ------
        StateError
            The state is not of such a memory, or the memory is read-only and holds other bytes. Nothing is changed.
        """
        cdef bytes contents = self.contents_of(state)
        if not self._readonly:
            copy_to_memory(self._start, contents, self._size)

    cdef bytes contents_of(self, object state):
        try:
            contents = bytes(memoryview(state["contents"]))
        except (KeyError, TypeError, IndexError):
            raise StateError(f"the state is not of a memory such as {describe_device(self)}") from None
        if len(contents) != self.size:
            raise StateError(
                f"the state has {format_count(len(contents), 'byte')}, {describe_device(self)} has {self._size}"
            )
        if self._readonly and contents != memoryview(self):
            raise StateError(f"the state has other contents than {describe_device(self)}, which is read-only")
        return contents

    def __repr__(self):
        return f"<{type(self).__name__}: {format_bytes(self._size)}>"


cdef int raise_out_of_bounds(HostMemory memory, uint64_t offset, size_t size, bint write) except -1:
    raise MemoryBoundsError(memory, offset, size, write)


cdef int out_of_bounds(HostMemory memory, uint64_t offset, size_t size, bint write) noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)(HostMemory, uint64_t, size_t, bint) noexcept>raise_out_of_bounds)(memory, offset, size, write)


cdef class Ram(HostMemory):
    """Random-access memory: a native device over a writable buffer of the host.

    It is registered like any device, for `MmioAddressRange` and for `MemAddressRange` resources, the size of a range
    being at most that of the memory. A bridge maps ranges that are aligned to pages into the guest, which then reads
    and writes the memory at full speed.

    An aligned access of 1, 2, 4 or 8 bytes is not torn by another thread's. A pickle or copy has memory of its own.

    Parameters
    ----------
    memory : int or buffer
        A size in bytes: that much zeroed, page-aligned memory is allocated, which the host provides as it is used.
        Or a writable, C-contiguous buffer of plain data, such as an mmap, a bytearray or a numpy array: it is held,
        not copied, and cannot be resized or closed while the device lives.

    Raises
    ------
    TypeError
        `memory` is neither an integer nor a buffer.
    ValueError
        The size is not positive, the buffer is empty, or it is a released memoryview.
    BufferError
        The buffer is read-only, not contiguous, or holds references to objects.
    MemoryError
        So much memory is not available.

    Attributes
    ----------
    view : memoryview
        The memory, flat, in unsigned bytes.
    size : int
        Its bytes.
    address : int
        The host's address of the first byte.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> ram = Ram(0x10000)
    >>> ram.view[:4] = b"boot"
    >>> manager = IoManager()
    >>> manager.register_device_io(ram, [Resource.MemAddressRange(0x8000_0000, ram.size)])
    >>> manager.mmio_load(0x8000_0000, 4).to_bytes(4, "little")
    b'boot'
    >>> manager.mmio_store(0x8000_FFFC, 4, 0xCAFE)
    >>> ram.view[-4:].hex()
    'feca0000'
    """

    def __init__(self, memory):
        try:
            size = operator.index(memory)
        except TypeError:  # an array of numpy too, which has an __index__
            self.hold(memory, True)
            return
        if size <= 0:
            raise ValueError(f"{type(self).__name__} takes at least 1 byte, not {size}")
        self.hold(allocate(size), True)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        # Bounds: as in `c_read`.
        if size > self._size or offset > self._size - size:
            return out_of_bounds(self, offset, size, True)
        copy_to_memory(self._start + offset, data, size)
        return 0

    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), (bytearray(self), self.__getstate__())

    def __setstate__(self, state):
        contents, attributes = state
        Ram.__init__(self, contents)
        set_attributes(self, attributes)


cdef class Rom(HostMemory):
    """Read-only memory, for the guest: a native device over a buffer of the host.

    It is registered like `Ram`. Where a bridge maps it into the guest, the guest's writes are still trapped, and reach
    `on_write`. A pickle or copy has memory of its own.

    Parameters
    ----------
    contents : buffer
        Contents of type bytes are copied to page-aligned memory, so that bridges can map them. Any other C-contiguous
        buffer is held, not copied; it may be writable, and change.
    on_write : {"ignore", "raise"} or callable
        What a write of the guest does: nothing; it raises `RomWriteError`; or ``on_write(offset, data)`` is called with
        an int and bytes, lowest address first. What that raises comes out of the access.

    Raises
    ------
    TypeError
        `contents` is not a buffer, or `on_write` cannot be called.
    ValueError
        `contents` is empty or a released memoryview, or `on_write` is another string.
    BufferError
        The buffer is not contiguous, or holds references to objects.

    Attributes
    ----------
    view : memoryview
        The memory, flat, in unsigned bytes; read-only if the buffer is.
    size : int
        Its bytes.
    address : int
        The host's address of the first byte.
    on_write : str or callable
        The parameter.

    Examples
    --------
    >>> from dbs_device import IoManager, Resource
    >>> rom = Rom(b"\\x55\\xaa" + bytes(0x1FE), on_write=lambda offset, data: print(hex(offset), data))
    >>> manager = IoManager()
    >>> manager.register_device_io(rom, [Resource.MemAddressRange(0xC_0000, rom.size)])
    >>> hex(manager.mmio_load(0xC_0000, 2))
    '0xaa55'
    >>> manager.mmio_store(0xC_0010, 2, 0x1234)
    0x10 b'4\\x12'
    """

    def __init__(self, contents, *, on_write="ignore"):
        if isinstance(on_write, str):
            if on_write not in ("ignore", "raise"):
                raise ValueError(f'on_write takes "ignore", "raise" or a callable, not {on_write!r}')
        elif not callable(on_write):
            raise TypeError(f'on_write takes "ignore", "raise" or a callable, not {type(on_write).__name__}')
        if type(contents) is bytes and contents:
            memory = allocate(len(contents))
            memory[:] = contents
            contents = memoryview(memory).toreadonly()
        self.hold(contents, False)
        self._on_write = None if on_write == "ignore" else on_write

    @property
    def on_write(self):
        """str or callable : what a write does."""
        return "ignore" if self._on_write is None else self._on_write

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        if size > self._size or offset > self._size - size:
            return out_of_bounds(self, offset, size, True)
        if <void *>self._on_write == <void *>None:
            return 0
        return rom_written(self, offset, data, size)

    def __reduce__(self):
        contents = bytes(self) if self._readonly else bytearray(self)
        return copyreg.__newobj__, (type(self),), (contents, self.on_write, self.__getstate__())

    def __setstate__(self, state):
        contents, on_write, attributes = state
        Rom.__init__(self, contents, on_write=on_write)
        set_attributes(self, attributes)


cdef int call_on_write(Rom rom, uint64_t offset, const uint8_t *data, size_t size) except -1:
    if isinstance(rom._on_write, str):
        raise RomWriteError(rom, offset, size)
    rom._on_write(offset, (<const char *>data)[:size])
    return 0


cdef int rom_written(Rom rom, uint64_t offset, const uint8_t *data, size_t size) noexcept with gil:
    cdef int result = (<int (*)(Rom, uint64_t, const uint8_t *, size_t) noexcept>call_on_write)(
        rom, offset, data, size
    )
    if result == -1:
        dbs_keep_thread_state()
    return result


# ----------------------------------------------------------------------------- who may use the memory directly

cdef Ram some_ram = Ram(bytearray(1))
cdef void *memory_read = <void *>some_ram.c_read
cdef void *ram_write = <void *>some_ram.c_write


cdef MemoryKind memory_kind(void *read, void *write) noexcept nogil:
    """Tell from a native device's MMIO methods whether they do nothing but access a HostMemory.

    Not those of a subclass that overrides one of them, in Cython or in Python.
    """
    if read != memory_read:
        return NO_MEMORY
    return RAM if write == ram_write else ROM


set_public_name(HostMemory, b"dbs_device.memory.HostMemory")
set_public_name(Ram, b"dbs_device.memory.Ram")
set_public_name(Rom, b"dbs_device.memory.Rom")
