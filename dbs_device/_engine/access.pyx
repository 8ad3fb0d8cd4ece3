"""One access: conversion of Python arguments, calls of devices, errors. ``access.pxd`` has the inlined part."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_Clear, PyErr_Fetch, PyErr_NormalizeException, PyErr_Occurred, PyErr_Restore
from cpython.long cimport PyLong_Check
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from .buffers cimport BounceBuffer, borrow_bounce_buffer, flat_view_of, open_view, return_bounce_buffer
from .platform cimport DBS_BYTES, DBS_FLAT_VIEW, DBS_OTHER, dbs_keep_thread_state, dbs_usual_memory
from .tables cimport (
    BIG_ENDIAN,
    BUS_ORDER,
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

from ..device import Mutex
from ..errors import NoDeviceError, add_access_note, describe_device, format_count, missing_exception


cdef extern from "Python.h":
    const size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    bint PyIndex_Check(object value)
    uint64_t PyLong_AsUnsignedLongLongMask(object value) except? 0xDEAD
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


cdef size_t size_of_any(object value, SpaceId space) except 0:
    """Return an access size in bytes; `ValueError` if no integer has it, `TypeError` if it is not an integer."""
    cdef uint64_t size
    PyErr_Clear()  # what `size_of` may have left
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


cdef RangeTable table_of(IoTables tables, const Ranges *ranges):
    """Return the table that some ranges are part of."""
    if ranges.space == PIO:
        return tables.pio
    return tables.mmio if ranges == &tables.mmio.ranges else tables.background


cdef int raise_unowned(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except -1:
    """Raise the error of an unowned access on a bus that is not open."""
    cdef RangeEntry entry
    cdef size_t index
    if not find_range(ranges, address, &index):
        raise NoDeviceError(space_of(ranges.space), address, size)
    entry = <RangeEntry>table_of(tables, ranges).entries[index]
    owner = (entry.base, entry.last, entry.device)
    raise NoDeviceError(space_of(ranges.space), address, size, owner, owner_name=entry.name)


cdef int unowned_raised(IoTables tables, Ranges *ranges, uint64_t address, size_t size) noexcept with gil:
    dbs_keep_thread_state()
    return (<UnownedCall>raise_unowned)(tables, ranges, address, size)


cdef int add_unowned(IoTables tables, SpaceId space, uint64_t address, size_t size, Direction direction) except -1:
    tables.unowned_accesses.add(space_of(space), address, size, direction == WRITE)
    return 0


cdef int log_unowned(
    IoTables tables, SpaceId space, uint64_t address, size_t size, Direction direction
) noexcept with gil:
    """Count and log an unowned access. Returns 1, or -1 with an exception: a filter's of `logging`, or Ctrl-C."""
    if (<LogCall>add_unowned)(tables, space, address, size, direction) == 0:
        return 1
    dbs_keep_thread_state()
    return -1


cdef int unowned(
    IoTables tables, SpaceId space, uint64_t address, size_t size, Direction direction
) noexcept nogil:
    """Return the result of an unowned access, after logging it if the manager does so."""
    return log_unowned(tables, space, address, size, direction) if tables.options.log_unowned else 1


cdef Ranges *background_of(IoTables tables, SpaceId space, uint64_t address, size_t size) noexcept nogil:
    """Return the table whose one range serves an access that no other range owns; NULL if there is none."""
    cdef Ranges *background = &tables.background.ranges
    cdef size_t index
    if space == MMIO and find_access(tables, background, address, size, &index):
        return background
    return NULL


cdef int load_elsewhere(
    bint has_gil, IoTables tables, SpaceId space, uint64_t address, size_t size, uint64_t *value
) noexcept nogil:
    cdef Ranges *background = background_of(tables, space, address, size)
    if background != NULL:
        return load_by(has_gil, tables, background, address, size, value)
    value[0] = every_place(open_bus_byte(tables), size)
    return unowned(tables, space, address, size, READ)


cdef int store_elsewhere(
    bint has_gil, IoTables tables, SpaceId space, uint64_t address, size_t size, uint64_t value
) noexcept nogil:
    cdef Ranges *background = background_of(tables, space, address, size)
    if background != NULL:
        return store_by(has_gil, tables, background, address, size, value)
    return unowned(tables, space, address, size, WRITE)


cdef int read_elsewhere(
    IoTables tables, SpaceId space, uint64_t address, uint8_t *data, size_t size
) noexcept nogil:
    cdef Ranges *background = background_of(tables, space, address, size)
    if background != NULL:
        return read_by(tables, background, address, data, size)
    fill(data, size, open_bus_byte(tables))
    return unowned(tables, space, address, size, READ)


cdef int write_elsewhere(
    IoTables tables, SpaceId space, uint64_t address, const uint8_t *data, size_t size
) noexcept nogil:
    cdef Ranges *background = background_of(tables, space, address, size)
    if background != NULL:
        return write_by(tables, background, address, data, size)
    return unowned(tables, space, address, size, WRITE)


cdef int raise_missing_exception(object device) except -1:
    raise missing_exception(device)


cdef int native_failed(
    IoTables tables, Ranges *ranges, uint64_t address, size_t size, Direction direction
) noexcept with gil:
    """Add a note of the access to the exception of a native device; it is a `SystemError` if the device set none."""
    cdef RangeEntry entry
    cdef size_t index
    dbs_keep_thread_state()
    find_range(ranges, address, &index)
    entry = <RangeEntry>table_of(tables, ranges).entries[index]
    if PyErr_Occurred() == NULL:
        (<int (*)(object) noexcept>raise_missing_exception)(entry.device)
    return device_failed(entry, address, size, direction)


cdef int device_failed(RangeEntry entry, uint64_t address, size_t size, Direction direction) noexcept:
    """Add a note of the access to the current exception, unless it has one or takes none. Returns -1."""
    cdef PyObject *type_
    cdef PyObject *error
    cdef PyObject *traceback
    if entry.is_behind_adapter:
        return -1
    PyErr_Fetch(&type_, &error, &traceback)
    PyErr_NormalizeException(&type_, &error, &traceback)
    try:
        add_access_note(
            <object>error,
            describe_device(entry.device, entry.name),
            space_of(entry.space),
            entry.base,
            address,
            size,
            direction == WRITE,
        )
    except BaseException:
        pass
    PyErr_Restore(type_, error, traceback)
    return -1


# ----------------------------------------------------------------------------- calls of devices


cdef int raise_returned_value(object function, object value) except -1:
    handler = getattr(function, "__qualname__", repr(function))
    raise TypeError(
        f"{handler} returned {value!r}: a buffer handler fills `data` and returns None; the handlers that return an "
        f"integer are `load` and `pio_in`"
    )


cdef inline int call_handler(object function, object method_self, object base, object offset, object view) except -1:
    """Call a buffer handler."""
    cdef PyObject *arguments[5]
    cdef size_t first = 2
    if method_self is not None:
        first = 1
        arguments[1] = <PyObject *>method_self
    arguments[2] = <PyObject *>base
    arguments[3] = <PyObject *>offset
    arguments[4] = <PyObject *>view
    # The callee may use the place before the first argument while it runs, hence one place more.
    result = PyObject_Vectorcall(function, arguments + first, (5 - first) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
    return 0 if result is None else raise_returned_value(function, result)


cdef inline object call_integer_handler(
    object function, object method_self, object base, object offset, object size, object value
):
    """Call `load` or `pio_in`, for which `value` is None, or `store` or `pio_out`."""
    cdef PyObject *arguments[6]
    cdef size_t first = 2
    cdef size_t end = 5
    if method_self is not None:
        first = 1
        arguments[1] = <PyObject *>method_self
    arguments[2] = <PyObject *>base
    arguments[3] = <PyObject *>offset
    arguments[4] = <PyObject *>size
    if value is not None:
        arguments[5] = <PyObject *>value
        end = 6
    return PyObject_Vectorcall(function, arguments + first, (end - first) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)


cdef int call_locked(RangeEntry entry, object function, object method_self, object offset, object view) except -1:
    entry.lock.lock()
    try:
        return call_handler(function, method_self, entry.base_object, offset, view)
    finally:
        entry.lock.unlock()


cdef object call_integer_handler_locked(
    RangeEntry entry, object function, object method_self, object offset, object size, object value
):
    entry.lock.lock()
    try:
        return call_integer_handler(function, method_self, entry.base_integer, offset, size, value)
    finally:
        entry.lock.unlock()


cdef int call_read(RangeEntry entry, uint64_t address, object view) except -1:
    cdef object offset = address_object(entry.offsets, address - entry.base)
    if entry.lock is None:
        return call_handler(entry.read_function, entry.read_self, entry.base_object, offset, view)
    return call_locked(entry, entry.read_function, entry.read_self, offset, view)


cdef int call_write(RangeEntry entry, uint64_t address, object view) except -1:
    cdef object offset = address_object(entry.offsets, address - entry.base)
    if entry.lock is None:
        return call_handler(entry.write_function, entry.write_self, entry.base_object, offset, view)
    return call_locked(entry, entry.write_function, entry.write_self, offset, view)


cdef inline uint64_t swapped(uint64_t value, size_t size) noexcept:
    cdef uint8_t data[8]
    dbs_bytes_of_integer(value, size, True, data)
    return dbs_integer_of_bytes(data, size, False)


cdef int raise_not_an_integer(RangeEntry entry, object value) except -1:
    handler = "load" if entry.space == MMIO else "pio_in"
    raise TypeError(f"{handler} must return an int, not {type(value).__name__}")


cdef int call_load(RangeEntry entry, uint64_t address, size_t size, uint64_t *value) except -1:
    """Call an integer handler, and mask its result to the size."""
    cdef object result
    if entry.lock is None:
        result = call_integer_handler(
            entry.load_function, entry.load_self, entry.base_integer, address - entry.base, size, None
        )
    else:
        result = call_integer_handler_locked(
            entry, entry.load_function, entry.load_self, address - entry.base, size, None
        )
    if not PyLong_Check(result):
        if not PyIndex_Check(result):
            return raise_not_an_integer(entry, result)
        result = operator.index(result)
    value[0] = PyLong_AsUnsignedLongLongMask(result) & (<uint64_t>-1 >> (64 - 8 * size))
    return 0


cdef int call_store(RangeEntry entry, uint64_t address, size_t size, uint64_t value) except -1:
    if entry.lock is None:
        call_integer_handler(
            entry.store_function, entry.store_self, entry.base_integer, address - entry.base, size, value
        )
    else:
        call_integer_handler_locked(
            entry, entry.store_function, entry.store_self, address - entry.base, size, value
        )
    return 0


# ----------------------------------------------------------------------------- buffers


cdef struct Memory:
    uint8_t *start
    size_t size
    int kind


cdef int raise_integer_for_buffer(SpaceId space, bint for_read, object value) except -1:
    if for_read:
        call = f"{'pio_in' if space == PIO else 'mmio_load'}(address, {value})"
    else:
        call = f"{'pio_out' if space == PIO else 'mmio_store'}(address, size, {value})"
    raise TypeError(f"data must be a buffer, not {type(value).__name__}; for an integer, call {call}")


cdef inline object open_memory(const Ranges *ranges, object data, bint for_read, Memory *memory):
    """Find the memory of an access; `TypeError`, `BufferError` or `ValueError` if `data` does not fit.

    Returns a memoryview that keeps the memory in place, or None for one of the usual buffers, whose memory is safe only
    as long as no Python code runs.
    """
    cdef object view
    memory.kind = dbs_usual_memory(data, for_read, &memory.start, &memory.size)
    if memory.kind != DBS_OTHER:
        return None
    if PyLong_Check(data):
        raise_integer_for_buffer(ranges.space, for_read, data)
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


# Not inlined: they would enlarge the frame of the path to a buffer handler. Each holds the buffer while the device may
# run Python code.

cdef int unowned_buffer(
    IoTables tables, Ranges *ranges, uint64_t address, Memory *memory, Direction direction
) except -1:
    if tables.options.open_bus < 0:
        return raise_unowned(tables, ranges, address, memory.size)
    if direction == READ:
        memset(memory.start, tables.options.open_bus, memory.size)
    return -1 if unowned(tables, ranges.space, address, memory.size, direction) == -1 else 0


cdef int read_native(
    IoTables tables, Ranges *ranges, size_t index, uint64_t address, object data, object view, Memory *memory
) except -1:
    cdef const Slot *slot = &ranges.slots[index]
    cdef uint64_t base = ranges.bases[index]
    cdef Py_buffer held
    cdef int result
    if view is None:
        PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    result = slot.read(slot.target, base, address - base, memory.start, memory.size)
    if view is None:
        PyBuffer_Release(&held)
    return native_failed(tables, ranges, address, memory.size, READ) if result == -1 else 0


cdef int write_native(
    IoTables tables, Ranges *ranges, size_t index, uint64_t address, object data, object view, Memory *memory
) except -1:
    cdef const Slot *slot = &ranges.slots[index]
    cdef uint64_t base = ranges.bases[index]
    cdef Py_buffer held
    cdef int result
    if view is None:
        PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    result = slot.write(slot.target, base, address - base, memory.start, memory.size)
    if view is None:
        PyBuffer_Release(&held)
    return native_failed(tables, ranges, address, memory.size, WRITE) if result == -1 else 0


cdef int read_integers(
    RangeEntry entry, uint64_t address, object data, object view, Memory *memory, bint big
) except -1:
    """Read a buffer from a device that has an integer handler."""
    cdef Py_buffer held
    if entry.has_read and not is_integer_size(memory.size, entry.space):
        return call_read(entry, address, view_for_device(data, view, True, memory.kind))
    if view is not None:
        return load_pieces(entry, address, memory.start, memory.size, big)
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        return load_pieces(entry, address, memory.start, memory.size, big)
    finally:
        PyBuffer_Release(&held)


cdef int write_integers(
    RangeEntry entry, uint64_t address, object data, object view, Memory *memory, bint big
) except -1:
    """Write a buffer to a device that has an integer handler."""
    cdef Py_buffer held
    if entry.has_write and not is_integer_size(memory.size, entry.space):
        return call_write(entry, address, view_for_device(data, view, False, memory.kind))
    if view is not None:
        return store_pieces(entry, address, memory.start, memory.size, big)
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        return store_pieces(entry, address, memory.start, memory.size, big)
    finally:
        PyBuffer_Release(&held)


# For calls as if nothing was raised; a result of -1 tells that something was. A try statement would save and restore
# the exception state on every access.
ctypedef int (*LogCall)(
    IoTables tables, SpaceId space, uint64_t address, size_t size, Direction direction
) noexcept
ctypedef int (*UnownedCall)(IoTables tables, Ranges *ranges, uint64_t address, size_t size) noexcept
ctypedef int (*IntegersCall)(
    RangeEntry entry, uint64_t address, object data, object view, Memory *memory, bint big
) noexcept
ctypedef int (*BufferCall)(RangeEntry entry, uint64_t address, object view) noexcept
ctypedef int (*LoadCall)(RangeEntry entry, uint64_t address, size_t size, bint big, uint64_t *value) noexcept
ctypedef int (*StoreCall)(RangeEntry entry, uint64_t address, size_t size, bint big, uint64_t value) noexcept
ctypedef int (*ReadCall)(RangeEntry entry, uint64_t address, uint8_t *data, size_t size, bint big) noexcept
ctypedef int (*WriteCall)(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size, bint big) noexcept


# `tables` is the caller's own reference, which holds the devices even if one unregisters itself.

cdef int read_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1:
    """Read into a writable buffer; `NoDeviceError` leaves it unchanged."""
    cdef Memory memory
    cdef object view = open_memory(ranges, data, True, &memory)
    cdef const Slot *slot
    cdef PyObject *target
    cdef size_t index
    cdef Ranges *background
    cdef int result
    if not find_access(tables, ranges, address, memory.size, &index):
        background = background_of(tables, ranges.space, address, memory.size)
        if background == NULL:
            return unowned_buffer(tables, ranges, address, &memory, READ)
        ranges = background
        index = 0
    fill(memory.start, memory.size, 0)
    slot = &ranges.slots[index]
    if slot.read != NULL:
        return read_native(tables, ranges, index, address, data, view, &memory)
    target = slot.target
    if (<RangeEntry>target).has_load:
        result = (<IntegersCall>read_integers)(
            <RangeEntry>target, address, data, view, &memory, tables.options.big_endian
        )
    else:
        view = view_for_device(data, view, True, memory.kind)  # and no other: the device may release it
        result = (<BufferCall>call_read)(<RangeEntry>target, address, view)
    return 0 if result == 0 else device_failed(<RangeEntry>target, address, memory.size, READ)


cdef int write_buffer(IoTables tables, Ranges *ranges, uint64_t address, object data) except -1:
    """Write from a buffer."""
    cdef Memory memory
    cdef object view = open_memory(ranges, data, False, &memory)
    cdef const Slot *slot
    cdef PyObject *target
    cdef size_t index
    cdef Ranges *background
    cdef int result
    if not find_access(tables, ranges, address, memory.size, &index):
        background = background_of(tables, ranges.space, address, memory.size)
        if background == NULL:
            return unowned_buffer(tables, ranges, address, &memory, WRITE)
        ranges = background
        index = 0
    slot = &ranges.slots[index]
    if slot.write != NULL:
        return write_native(tables, ranges, index, address, data, view, &memory)
    target = slot.target
    if (<RangeEntry>target).has_store:
        result = (<IntegersCall>write_integers)(
            <RangeEntry>target, address, data, view, &memory, tables.options.big_endian
        )
    else:
        view = view_for_device(data, view, False, memory.kind)  # and no other: the device may release it
        result = (<BufferCall>call_write)(<RangeEntry>target, address, view)
    return 0 if result == 0 else device_failed(<RangeEntry>target, address, memory.size, WRITE)


# ----------------------------------------------------------------------------- integers


cdef inline bint is_big(RangeEntry entry, bint big) noexcept:
    """Return whether a device's registers are big-endian; `big` says whether the bus is."""
    return big if entry.byte_order == BUS_ORDER else entry.byte_order == BIG_ENDIAN


cdef inline size_t largest_integer(SpaceId space) noexcept nogil:
    return 4 if space == PIO else 8


cdef int load_bytes(RangeEntry entry, uint64_t address, uint8_t *data, size_t size, bint big) except -1:
    """Read a buffer of the size of an integer from an integer handler."""
    cdef uint8_t bytes_[8]
    cdef uint64_t value
    call_load(entry, address, size, &value)
    dbs_bytes_of_integer(value, size, is_big(entry, big), bytes_)
    memcpy(data, bytes_, size)
    return 0


cdef int store_bytes(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size, bint big) except -1:
    """Write a buffer of the size of an integer to an integer handler."""
    return call_store(entry, address, size, dbs_integer_of_bytes(data, size, is_big(entry, big)))


cdef int load_each_piece(RangeEntry entry, uint64_t address, uint8_t *data, size_t size, bint big) except -1:
    cdef size_t piece, done = 0
    while done < size:
        piece = aligned_piece(address - entry.base + done, size - done, largest_integer(entry.space))
        load_bytes(entry, address + done, data + done, piece, big)
        done += piece
    return 0


cdef int store_each_piece(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size, bint big) except -1:
    cdef size_t piece, done = 0
    while done < size:
        piece = aligned_piece(address - entry.base + done, size - done, largest_integer(entry.space))
        store_bytes(entry, address + done, data + done, piece, big)
        done += piece
    return 0


# A Mutex is held for the whole of an access that is split, as it is for a buffer handler.

cdef int load_pieces(RangeEntry entry, uint64_t address, uint8_t *data, size_t size, bint big) except -1:
    """Read any number of bytes from an integer handler."""
    if is_integer_size(size, entry.space):
        return load_bytes(entry, address, data, size, big)
    if not isinstance(entry.device, Mutex):
        return load_each_piece(entry, address, data, size, big)
    with entry.device.lock():
        return load_each_piece(entry, address, data, size, big)


cdef int store_pieces(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size, bint big) except -1:
    """Write any number of bytes to an integer handler."""
    if is_integer_size(size, entry.space):
        return store_bytes(entry, address, data, size, big)
    if not isinstance(entry.device, Mutex):
        return store_each_piece(entry, address, data, size, big)
    with entry.device.lock():
        return store_each_piece(entry, address, data, size, big)


cdef inline int device_load(RangeEntry entry, uint64_t address, size_t size, bint big, uint64_t *value) except -1:
    """Load an integer: from an integer handler, or from a buffer handler through a bounce buffer."""
    cdef BounceBuffer bounce
    if entry.has_load:
        call_load(entry, address, size, value)
        if entry.byte_order != BUS_ORDER and is_big(entry, big) != big:
            value[0] = swapped(value[0], size)
        return 0
    bounce = borrow_bounce_buffer(size, True)
    try:
        call_read(entry, address, bounce.view)
        value[0] = dbs_integer_of_bytes(bounce.memory, size, big)
    finally:
        return_bounce_buffer(bounce)
    return 0


cdef inline int device_store(RangeEntry entry, uint64_t address, size_t size, bint big, uint64_t value) except -1:
    """Store an integer: to an integer handler, or to a buffer handler through a bounce buffer."""
    cdef BounceBuffer bounce
    if entry.has_store:
        if entry.byte_order != BUS_ORDER and is_big(entry, big) != big:
            value = swapped(value, size)
        return call_store(entry, address, size, value & (<uint64_t>-1 >> (64 - 8 * size)))
    bounce = borrow_bounce_buffer(size, False)
    dbs_bytes_of_integer(value, size, big, bounce.memory)
    try:
        call_write(entry, address, bounce.view)
    finally:
        return_bounce_buffer(bounce)
    return 0


cdef int python_load(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t *value) noexcept:
    if (<LoadCall>device_load)(<RangeEntry>entry, address, size, big, value) == 0:
        return 0
    value[0] = 0
    return device_failed(<RangeEntry>entry, address, size, READ)


cdef int python_store(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t value) noexcept:
    if (<StoreCall>device_store)(<RangeEntry>entry, address, size, big, value) == 0:
        return 0
    return device_failed(<RangeEntry>entry, address, size, WRITE)


cdef uint64_t load(IoTables tables, Ranges *ranges, uint64_t address, size_t size) except? NOT_AN_INTEGER:
    """Load an integer of a size that `size_of` has checked."""
    cdef uint64_t value
    cdef int result = load_by(True, tables, ranges, address, size, &value)
    if result == 1 and tables.options.open_bus < 0:
        result = (<UnownedCall>raise_unowned)(tables, ranges, address, size)
    return NOT_AN_INTEGER if result == -1 else value


cdef int store(IoTables tables, Ranges *ranges, uint64_t address, size_t size, uint64_t value) except -1:
    """Store an integer of a size that `size_of` has checked."""
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


cdef int load_with_gil(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t *value) noexcept with gil:
    cdef int result = python_load(entry, address, size, big, value)
    if result == -1:
        dbs_keep_thread_state()
    return result


cdef int store_with_gil(PyObject *entry, uint64_t address, size_t size, bint big, uint64_t value) noexcept with gil:
    cdef int result = python_store(entry, address, size, big, value)
    if result == -1:
        dbs_keep_thread_state()
    return result


# A Python device may keep the view that it is given. It therefore gets a copy of the memory of a C caller, which is
# reused only when nothing else can reach it.

cdef int device_read(RangeEntry entry, uint64_t address, uint8_t *data, size_t size, bint big) except -1:
    cdef uint64_t value
    cdef uint8_t bytes_[8]
    cdef bytearray copy
    if is_integer_size(size, entry.space):
        device_load(entry, address, size, big, &value)
        dbs_bytes_of_integer(value, size, big, bytes_)
        memcpy(data, bytes_, size)
        return 0
    if entry.has_load and not entry.has_read:
        return load_pieces(entry, address, data, size, big)
    copy = bytearray(size)
    _export = memoryview(copy)  # prevents resizing, even if the device releases its own view
    call_read(entry, address, memoryview(copy))
    memcpy(data, <char *>copy, size)
    return 0


cdef int device_write(RangeEntry entry, uint64_t address, const uint8_t *data, size_t size, bint big) except -1:
    if is_integer_size(size, entry.space):
        return device_store(entry, address, size, big, dbs_integer_of_bytes(data, size, big))
    if entry.has_store and not entry.has_write:
        return store_pieces(entry, address, data, size, big)
    return call_write(entry, address, memoryview((<const char *>data)[:size]))


cdef int python_read(PyObject *entry, uint64_t address, uint8_t *data, size_t size, bint big) noexcept:
    if (<ReadCall>device_read)(<RangeEntry>entry, address, data, size, big) == 0:
        return 0
    return device_failed(<RangeEntry>entry, address, size, READ)


cdef int python_write(PyObject *entry, uint64_t address, const uint8_t *data, size_t size, bint big) noexcept:
    if (<WriteCall>device_write)(<RangeEntry>entry, address, data, size, big) == 0:
        return 0
    return device_failed(<RangeEntry>entry, address, size, WRITE)


cdef int read_with_gil(PyObject *entry, uint64_t address, uint8_t *data, size_t size, bint big) noexcept with gil:
    cdef int result = python_read(entry, address, data, size, big)
    if result == -1:
        dbs_keep_thread_state()
    return result


cdef int write_with_gil(
    PyObject *entry, uint64_t address, const uint8_t *data, size_t size, bint big
) noexcept with gil:
    cdef int result = python_write(entry, address, data, size, big)
    if result == -1:
        dbs_keep_thread_state()
    return result
