"""One access from Python, with a buffer or an integer: the look-up, the rules of who answers, the call of the device.

The look-up is done before anything is touched, and a read finds its memory zeroed.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.long cimport PyLong_Check
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from ._buffers cimport Scratch, flat_view_of, lend, open_view, take_back
from ._platform cimport (
    DBS_BYTES,
    DBS_FLAT_VIEW,
    DBS_OTHER,
    dbs_bytes_of_integer,
    dbs_integer_of_bytes,
    dbs_usual_memory,
)
from ._tables cimport MMIO, PIO, IoTables, RangeEntry, RangeTable, Ranges, Slot, Space, address_object, find_range

import operator

from .address import Space as PublicSpace
from .errors import NoDeviceError, format_count


cdef extern from "Python.h":
    const size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    object PyObject_Vectorcall(object function, PyObject *const *arguments, size_t count_and_flags, PyObject *keywords)


cdef str bus_name(Space space):
    return "PIO" if space == PIO else "MMIO"


cdef Space space_of(object name) except *:
    return <Space><int>PublicSpace(name)


# ----------------------------------------------------------------------------- arguments


cdef bint try_uint64_of(object value, uint64_t *number) except -1:
    """Convert an integer, and return whether it is 0..2**64 - 1; `TypeError` if it is no integer."""
    if not PyLong_Check(value):
        value = operator.index(value)  # the conversion would truncate a float
    number[0] = uint64_or_exception(value)
    if number[0] == NOT_AN_INTEGER and PyErr_Occurred() != NULL:
        PyErr_Clear()
        return False
    return True


cdef uint64_t address_of_any(object value, Space space) except? NOT_AN_INTEGER:
    """Return an address or port; `OverflowError` outside its space, `TypeError` if it is no integer."""
    cdef uint64_t address
    PyErr_Clear()  # what `address_of` may have left
    if not try_uint64_of(value, &address) or (space == PIO and address > 0xFFFF):
        raise outside_space(value, space)
    return address


cdef object outside_space(object address, Space space):
    maximum = PublicSpace(space).last_address
    return OverflowError(f"{bus_name(space)} address {operator.index(address):#x} lies outside 0x0..{maximum:#x}")


cdef size_t size_of(object value, Space space) except 0:
    """Return the size of an integer in bytes; `ValueError` if it has another one, `TypeError` if it is no integer."""
    cdef uint64_t size
    if not try_uint64_of(value, &size) or not is_integer_size(size, space):
        raise wrong_size(value, space)
    return size


cdef object wrong_size(object size, Space space):
    sizes = "1, 2 or 4" if space == PIO else "1, 2, 4 or 8"
    return ValueError(f"{bus_name(space)} integers have {sizes} bytes, not {operator.index(size):#x}")


cdef uint64_t value_of(object value, size_t size) except? NOT_AN_INTEGER:
    """Return a value to be stored; `ValueError` if it does not fit the size, `TypeError` if it is no integer."""
    cdef uint64_t number
    if not try_uint64_of(value, &number) or number > <uint64_t>-1 >> (64 - 8 * size):
        raise value_does_not_fit(value, size)
    return number


cdef object value_does_not_fit(object value, size_t size):
    return ValueError(f"value {operator.index(value):#x} does not fit {format_count(size, 'byte')}")


# ----------------------------------------------------------------------------- who answers


cdef int refuse_unless_open(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except -1:
    """Raise the error of an access that nobody answers, unless the bus is open."""
    cdef RangeTable table
    cdef RangeEntry entry
    cdef size_t index
    if tables.open_bus >= 0:
        return 0
    if not find_range(ranges, address, &index):
        raise NoDeviceError(bus_name(ranges.space), address, size)
    table = tables.pio if ranges.space == PIO else tables.mmio
    entry = <RangeEntry>table.entries[index]
    owner = (entry.base, entry.last, entry.device)
    raise NoDeviceError(bus_name(ranges.space), address, size, owner)


# ----------------------------------------------------------------------------- calls of devices


cdef inline int call_handler(object function, object method_self, object base, object offset, object view) except -1:
    cdef PyObject *arguments[5]
    cdef size_t first = 2
    if method_self is not None:
        first = 1
        arguments[1] = <PyObject *>method_self
    arguments[2] = <PyObject *>base
    arguments[3] = <PyObject *>offset
    arguments[4] = <PyObject *>view
    # The callee may use the place before the first argument while it runs, hence one place more.
    PyObject_Vectorcall(function, arguments + first, (5 - first) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
    return 0


cdef int call_locked(RangeEntry entry, object function, object method_self, object offset, object view) except -1:
    entry.acquire()
    try:
        return call_handler(function, method_self, entry.base_object, offset, view)
    finally:
        entry.release()


cdef int call_read(RangeEntry entry, uint64_t address, object view) except -1:
    cdef object offset = address_object(entry.offsets, address - entry.base)
    if entry.acquire is None:
        return call_handler(entry.read_function, entry.read_self, entry.base_object, offset, view)
    return call_locked(entry, entry.read_function, entry.read_self, offset, view)


cdef int call_write(RangeEntry entry, uint64_t address, object view) except -1:
    cdef object offset = address_object(entry.offsets, address - entry.base)
    if entry.acquire is None:
        return call_handler(entry.write_function, entry.write_self, entry.base_object, offset, view)
    return call_locked(entry, entry.write_function, entry.write_self, offset, view)


# ----------------------------------------------------------------------------- buffers


cdef struct Memory:
    uint8_t *start
    size_t size
    int kind


cdef inline object open_memory(object data, bint for_read, Memory *memory):
    """Find the memory of an access; `TypeError`, `BufferError` or `ValueError` if it cannot be one.

    Returns what keeps it where it is: a memoryview, or None for one of the usual buffers, which is safe only as long as
    no Python code runs.
    """
    cdef object view
    memory.kind = dbs_usual_memory(data, for_read, &memory.start, &memory.size)
    if memory.kind != DBS_OTHER:
        return None
    view = open_view(data, for_read)
    memory.start = <uint8_t *>PyMemoryView_GET_BUFFER(view).buf
    memory.size = PyMemoryView_GET_BUFFER(view).len
    return view


cdef inline object view_for_device(object data, object view, bint for_read, int kind):
    if kind == DBS_FLAT_VIEW:
        return data
    if kind == DBS_BYTES:
        return PyMemoryView_FromObject(data)
    return flat_view_of(data, view, for_read)


# Apart from the path of a Python device, whose frame would be larger for them.

cdef int read_native(
    const Slot *slot, object target, uint64_t base, uint64_t address, object data, object view, Memory *memory
) except -1:
    cdef Py_buffer held
    if view is not None:
        return slot.read(<PyObject *>target, base, address - base, memory.start, memory.size)
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)  # held, since the device may run Python code
    try:
        return slot.read(<PyObject *>target, base, address - base, memory.start, memory.size)
    finally:
        PyBuffer_Release(&held)


cdef int write_native(
    const Slot *slot, object target, uint64_t base, uint64_t address, object data, object view, Memory *memory
) except -1:
    cdef Py_buffer held
    if view is not None:
        return slot.write(<PyObject *>target, base, address - base, memory.start, memory.size)
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        return slot.write(<PyObject *>target, base, address - base, memory.start, memory.size)
    finally:
        PyBuffer_Release(&held)


cdef int read_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1:
    """Read into a writable buffer."""
    cdef Memory memory
    cdef object view = open_memory(data, True, &memory)
    cdef const Slot *slot
    cdef object target
    cdef size_t index
    if not find_access(tables, ranges, address, memory.size, &index):
        if tables.open_bus >= 0:
            memset(memory.start, tables.open_bus, memory.size)
        return refuse_unless_open(tables, ranges, address, memory.size)
    clear(memory.start, memory.size)
    slot = &ranges.slots[index]
    target = <object>slot.target  # held, since the device may unregister itself
    if slot.read == NULL:
        view = view_for_device(data, view, True, memory.kind)  # and no other: the device may release it
        return call_read(<RangeEntry>target, address, view)
    return read_native(slot, target, ranges.bases[index], address, data, view, &memory)


cdef int write_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1:
    """Write from a buffer."""
    cdef Memory memory
    cdef object view = open_memory(data, False, &memory)
    cdef const Slot *slot
    cdef object target
    cdef size_t index
    if not find_access(tables, ranges, address, memory.size, &index):
        return refuse_unless_open(tables, ranges, address, memory.size)
    slot = &ranges.slots[index]
    target = <object>slot.target
    if slot.write == NULL:
        view = view_for_device(data, view, False, memory.kind)  # and no other: the device may release it
        return call_write(<RangeEntry>target, address, view)
    return write_native(slot, target, ranges.bases[index], address, data, view, &memory)


# ----------------------------------------------------------------------------- integers


cdef int lent_read(RangeEntry entry, uint64_t address, uint8_t *data, size_t size) except -1:
    """Read 1, 2, 4 or 8 bytes from a Python device through memory lent to it; all 8 bytes of `data` are written."""
    cdef Scratch scratch = lend(size, True)
    try:
        call_read(entry, address, scratch.view)
        memcpy(data, scratch.memory, 8)
    finally:
        take_back(scratch)
    return 0


cdef int lent_write(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size) except -1:
    """Write 1, 2, 4 or 8 bytes to a Python device through memory lent to it."""
    cdef Scratch scratch = lend(size, False)
    memcpy(scratch.memory, data, size)
    try:
        call_write(entry, address, scratch.view)
    finally:
        take_back(scratch)
    return 0


cdef uint64_t load(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except? NOT_AN_INTEGER:
    """Read an integer of a size that `size_of` has passed."""
    cdef uint8_t data[8]
    cdef const Slot *slot
    cdef object target
    cdef size_t index
    if not find_access(tables, ranges, address, size, &index):
        refuse_unless_open(tables, ranges, address, size)
        return open_bus_value(tables, size)
    slot = &ranges.slots[index]
    target = <object>slot.target
    if slot.read == NULL:
        lent_read(<RangeEntry>target, address, data, size)
    else:
        memset(data, 0, 8)
        slot.read(<PyObject *>target, ranges.bases[index], address - ranges.bases[index], data, size)
    return dbs_integer_of_bytes(data, size, tables.big_endian)


cdef int store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1:
    """Write an integer of a size that `size_of` has passed."""
    cdef uint8_t data[8]
    cdef const Slot *slot
    cdef object target
    cdef size_t index
    if not find_access(tables, ranges, address, size, &index):
        return refuse_unless_open(tables, ranges, address, size)
    slot = &ranges.slots[index]
    target = <object>slot.target
    dbs_bytes_of_integer(value, size, tables.big_endian, data)
    if slot.write == NULL:
        return lent_write(<RangeEntry>target, address, data, size)
    return slot.write(<PyObject *>target, ranges.bases[index], address - ranges.bases[index], data, size)
