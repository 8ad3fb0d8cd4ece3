"""One access: what ``access.pxd`` declares, with the conversions of Python's arguments and the calls of devices."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.long cimport PyLong_Check
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from .buffers cimport BounceBuffer, borrow_bounce_buffer, flat_view_of, open_view, return_bounce_buffer
from .platform cimport DBS_BYTES, DBS_FLAT_VIEW, DBS_OTHER, dbs_keep_thread_state, dbs_usual_memory
from .tables cimport (
    MMIO,
    PIO,
    IoTables,
    RangeEntry,
    RangeTable,
    Ranges,
    Slot,
    SpaceId,
    address_object,
    find_range,
    space_of,
)

import operator

from ..errors import NoDeviceError, describe_device, format_count


cdef extern from "Python.h":
    const size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    object PyObject_Vectorcall(object function, PyObject *const *arguments, size_t count_and_flags, PyObject *keywords)


# ----------------------------------------------------------------------------- arguments


cdef bint try_uint64_of(object value, uint64_t *number) except -1:
    """Convert an integer, and return whether it is 0..2**64 - 1; `TypeError` if it is not an integer."""
    if not PyLong_Check(value):
        value = operator.index(value)  # the conversion would truncate a float
    number[0] = uint64_or_exception(value)
    if number[0] == NOT_AN_INTEGER and PyErr_Occurred() != NULL:
        PyErr_Clear()
        return False
    return True


cdef uint64_t address_of_any(object value, SpaceId space) except? NOT_AN_INTEGER:
    """Return an address or port; `OverflowError` outside its space, `TypeError` if it is not an integer."""
    cdef uint64_t address
    PyErr_Clear()  # what `address_of` may have left
    if not try_uint64_of(value, &address) or (space == PIO and address > 0xFFFF):
        raise outside_space(value, space)
    return address


cdef object outside_space(object address, SpaceId space_id):
    space = space_of(space_id)
    return OverflowError(f"{space} address {operator.index(address):#x} is outside 0x0..{space.last_address:#x}")


cdef size_t size_of(object value, SpaceId space) except 0:
    """Return an access size in bytes; `ValueError` for one that no integer has, `TypeError` if it is not an integer."""
    cdef uint64_t size
    if not try_uint64_of(value, &size) or not is_integer_size(size, space):
        raise wrong_size(value, space)
    return size


cdef object wrong_size(object size, SpaceId space):
    *sizes, largest = space_of(space).integer_sizes
    allowed = f"{', '.join(map(str, sizes))} or {largest}"
    return ValueError(f"{space_of(space)} access size must be {allowed} bytes, not {operator.index(size)}")


cdef uint64_t value_of(object value, size_t size) except? NOT_AN_INTEGER:
    """Return a value to be stored; `ValueError` if it does not fit the size, `TypeError` if it is not an integer."""
    cdef uint64_t number
    if not try_uint64_of(value, &number) or number > <uint64_t>-1 >> (64 - 8 * size):
        raise value_does_not_fit(value, size)
    return number


cdef object value_does_not_fit(object value, size_t size):
    return ValueError(f"value {operator.index(value):#x} does not fit {format_count(size, 'byte')}")


# ----------------------------------------------------------------------------- failures


cdef int raise_unowned(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except -1:
    """Raise the error of an unowned access on a bus that is not open."""
    cdef RangeTable table
    cdef RangeEntry entry
    cdef size_t index
    if not find_range(ranges, address, &index):
        raise NoDeviceError(space_of(ranges.space), address, size)
    table = tables.pio if ranges.space == PIO else tables.mmio
    entry = <RangeEntry>table.entries[index]
    owner = (entry.base, entry.last, entry.device)
    raise NoDeviceError(space_of(ranges.space), address, size, owner)


cdef int raise_missing_exception(object device) except -1:
    raise SystemError(f"{describe_device(device)} returned -1 without setting an exception")


cdef int native_failed(const Slot *slot) noexcept with gil:
    """Leave the exception that a native device has set; one that has set none gets a `SystemError`."""
    dbs_keep_thread_state()
    if PyErr_Occurred() == NULL:
        (<int (*)(object) noexcept>raise_missing_exception)(<object>slot.target)
    return -1


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
    const Slot *slot, uint64_t base, uint64_t address, object data, object view, Memory *memory
) except -1:
    cdef Py_buffer held
    cdef int result
    if view is None:
        PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)  # held, since the device may run Python code
    result = slot.read(slot.target, base, address - base, memory.start, memory.size)
    if view is None:
        PyBuffer_Release(&held)
    if result == -1:
        native_failed(slot)
        return -1
    return 0


cdef int write_native(
    const Slot *slot, uint64_t base, uint64_t address, object data, object view, Memory *memory
) except -1:
    cdef Py_buffer held
    cdef int result
    if view is None:
        PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    result = slot.write(slot.target, base, address - base, memory.start, memory.size)
    if view is None:
        PyBuffer_Release(&held)
    if result == -1:
        native_failed(slot)
        return -1
    return 0


# `tables` is the caller's own reference, which holds the devices even if one unregisters itself.

cdef int read_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1:
    """Read into a writable buffer; `NoDeviceError` leaves it unchanged."""
    cdef Memory memory
    cdef object view = open_memory(data, True, &memory)
    cdef const Slot *slot
    cdef size_t index
    if not find_access(tables, ranges, address, memory.size, &index):
        if tables.options.open_bus < 0:
            return raise_unowned(tables, ranges, address, memory.size)
        memset(memory.start, tables.options.open_bus, memory.size)
        return 0
    fill(memory.start, memory.size, 0)
    slot = &ranges.slots[index]
    if slot.read == NULL:
        view = view_for_device(data, view, True, memory.kind)  # and no other: the device may release it
        return call_read(<RangeEntry>slot.target, address, view)
    return read_native(slot, ranges.bases[index], address, data, view, &memory)


cdef int write_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1:
    """Write from a buffer."""
    cdef Memory memory
    cdef object view = open_memory(data, False, &memory)
    cdef const Slot *slot
    cdef size_t index
    if not find_access(tables, ranges, address, memory.size, &index):
        return 0 if tables.options.open_bus >= 0 else raise_unowned(tables, ranges, address, memory.size)
    slot = &ranges.slots[index]
    if slot.write == NULL:
        view = view_for_device(data, view, False, memory.kind)  # and no other: the device may release it
        return call_write(<RangeEntry>slot.target, address, view)
    return write_native(slot, ranges.bases[index], address, data, view, &memory)


# ----------------------------------------------------------------------------- integers


cdef int bounced_read(PyObject *entry, uint64_t address, uint8_t *data, size_t size) except -1:
    """Read 1, 2, 4 or 8 bytes from a Python device through a bounce buffer; all 8 bytes of `data` are written."""
    cdef BounceBuffer bounce = borrow_bounce_buffer(size, True)
    try:
        call_read(<RangeEntry>entry, address, bounce.view)
        memcpy(data, bounce.memory, 8)
    finally:
        return_bounce_buffer(bounce)
    return 0


cdef int bounced_write(PyObject *entry, uint64_t address, const uint8_t *data, size_t size) except -1:
    """Write 1, 2, 4 or 8 bytes to a Python device through a bounce buffer."""
    cdef BounceBuffer bounce = borrow_bounce_buffer(size, False)
    memcpy(bounce.memory, data, size)
    try:
        call_write(<RangeEntry>entry, address, bounce.view)
    finally:
        return_bounce_buffer(bounce)
    return 0


cdef uint64_t load(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except? NOT_AN_INTEGER:
    """Load an integer of a size that `size_of` has passed."""
    cdef uint64_t value
    cdef int result = load_by(True, tables, ranges, address, size, &value)
    if result == 1 and tables.options.open_bus < 0:
        raise_unowned(tables, ranges, address, size)
    return NOT_AN_INTEGER if result == -1 else value


cdef int store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1:
    """Store an integer of a size that `size_of` has passed."""
    cdef int result = store_by(True, tables, ranges, address, size, value)
    if result == 1:
        return 0 if tables.options.open_bus >= 0 else raise_unowned(tables, ranges, address, size)
    return result


# ----------------------------------------------------------------------------- callers in C


cdef int raise_wrong_size(size_t size, SpaceId space) except -1:
    raise wrong_size(size, space)


cdef int wrong_size_raised(size_t size, SpaceId space) noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)(size_t, SpaceId) noexcept>raise_wrong_size)(size, space)


cdef int raise_empty_access() except -1:
    raise ValueError("an access takes at least 1 byte")


cdef int empty_access_raised() noexcept with gil:
    dbs_keep_thread_state()
    return (<int (*)() noexcept>raise_empty_access)()


# A device may keep the view that it is given, so that it is never given the memory of a C caller: it works on a copy,
# which is used again only when nothing else can reach it.

cdef int copied_read(PyObject *entry, uint64_t address, uint8_t *data, size_t size) except -1:
    cdef uint8_t integer[8]
    cdef bytearray copy
    if is_integer_size(size, MMIO):
        bounced_read(entry, address, integer, size)
        memcpy(data, integer, size)
        return 0
    copy = bytearray(size)
    _export = memoryview(copy)  # keeps the size as it is, even if the device releases its own view
    call_read(<RangeEntry>entry, address, memoryview(copy))
    memcpy(data, <char *>copy, size)
    return 0


cdef int copied_write(PyObject *entry, uint64_t address, const uint8_t *data, size_t size) except -1:
    if is_integer_size(size, MMIO):
        return bounced_write(entry, address, data, size)
    return call_write(<RangeEntry>entry, address, memoryview((<const char *>data)[:size]))


# Called as if they raised nothing, since a try statement would save and restore the exception state on every access.

cdef int read_with_gil(PyObject *entry, uint64_t address, uint8_t *data, size_t size) noexcept with gil:
    cdef int result = (<PythonRead><void *>copied_read)(entry, address, data, size)
    if result == -1:
        dbs_keep_thread_state()
    return result


cdef int write_with_gil(PyObject *entry, uint64_t address, const uint8_t *data, size_t size) noexcept with gil:
    cdef int result = (<PythonWrite><void *>copied_write)(entry, address, data, size)
    if result == -1:
        dbs_keep_thread_state()
    return result
