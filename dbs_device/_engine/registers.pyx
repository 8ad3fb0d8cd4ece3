"""Register banks: what an access does to the registers that it reaches, without the GIL unless a register has a hook.

A layout belongs to a class and is immutable: rules, ports, index. A bank holds the values, one atomic 64-bit word for
each register. A *port* says what reading or writing means at one offset; the index leads from a granule to its port.
A page is one such index, and selecting a page stores one pointer.

An access that is exactly one register which nothing watches is served at once. All others go through a loop that takes
the access apart by register, lowest address first, and knows hooks, side effects, gaps, pages and interrupt lines.
"""

cimport cython
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from .native cimport NativeDevice
from .platform cimport dbs_integer_of_bytes

import logging
import operator
import threading

from ..errors import LayoutError, RegisterAccessError, format_count, format_range

__all__ = ["EnumBase", "FieldBase", "FieldTarget", "FlagBase", "Hook", "Layout", "RegisterBase", "RegisterFile"]


cdef extern from * nogil:
    """
    #include <stdatomic.h>
    #include <string.h>

    static inline uint64_t word_load(void *words, uint32_t number) {
        return atomic_load_explicit((_Atomic uint64_t *)words + number, memory_order_relaxed);
    }
    static inline void word_store(void *words, uint32_t number, uint64_t value) {
        atomic_store_explicit((_Atomic uint64_t *)words + number, value, memory_order_relaxed);
    }
    static inline int word_replace(void *words, uint32_t number, uint64_t *expected, uint64_t value) {
        return atomic_compare_exchange_weak((_Atomic uint64_t *)words + number, expected, value);
    }
    static inline uint64_t word_exchange(void *words, uint32_t number, uint64_t value) {
        return atomic_exchange((_Atomic uint64_t *)words + number, value);
    }
    static inline uint64_t word_count(void *words, uint32_t number) {
        return atomic_fetch_add_explicit((_Atomic uint64_t *)words + number, 1, memory_order_relaxed);
    }
    /* In the one order of all threads, for words that decide about a page or an interrupt line. */
    static inline uint64_t word_load_ordered(void *words, uint32_t number) {
        return atomic_load((_Atomic uint64_t *)words + number);
    }
    static inline void word_store_ordered(void *words, uint32_t number, uint64_t value) {
        atomic_store((_Atomic uint64_t *)words + number, value);
    }
    static inline void *page_load(void **page) {
        return atomic_load_explicit((_Atomic(void *) *)page, memory_order_relaxed);
    }
    static inline void page_store(void **page, void *index) { atomic_store((_Atomic(void *) *)page, index); }
    static inline uint8_t ram_load(uint8_t *byte) {
        return atomic_load_explicit((_Atomic uint8_t *)byte, memory_order_relaxed);
    }
    static inline void ram_store(uint8_t *byte, uint8_t value) {
        atomic_store_explicit((_Atomic uint8_t *)byte, value, memory_order_relaxed);
    }
    /* Four bytes in the host's order; a port's `fast` is NEVER where the bank's is another one. */
    static inline uint32_t four_bytes_load(const uint8_t *data) { uint32_t v; memcpy(&v, data, 4); return v; }
    static inline void four_bytes_store(uint8_t *data, uint32_t value) { memcpy(data, &value, 4); }

    #if defined(__GNUC__) || defined(__clang__)
    #define OUT_OF_LINE __attribute__((noinline))
    #else
    #define OUT_OF_LINE
    #endif
    """
    uint64_t word_load(void *words, uint32_t number) noexcept
    void word_store(void *words, uint32_t number, uint64_t value) noexcept
    bint word_replace(void *words, uint32_t number, uint64_t *expected, uint64_t value) noexcept
    uint64_t word_exchange(void *words, uint32_t number, uint64_t value) noexcept
    uint64_t word_count(void *words, uint32_t number) noexcept
    uint64_t word_load_ordered(void *words, uint32_t number) noexcept
    void word_store_ordered(void *words, uint32_t number, uint64_t value) noexcept
    void *page_load(void **page) noexcept
    void page_store(void **page, void *index) noexcept
    uint8_t ram_load(uint8_t *byte) noexcept
    void ram_store(uint8_t *byte, uint8_t value) noexcept
    uint32_t four_bytes_load(const uint8_t *data) noexcept
    void four_bytes_store(uint8_t *data, uint32_t value) noexcept


cdef extern from "Python.h":
    const size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    object PyObject_Vectorcall(object function, PyObject *const *arguments, size_t count_and_flags, PyObject *keywords)
    uint64_t PyLong_AsUnsignedLongLongMask(object number) except? 0xDEAD


# ----------------------------------------------------------------------------- the layout of a class


cdef enum:
    CACHE_LINE = 64
    WHOLE_LANES = 1  # side effects that do not depend on what is written reach the whole register
    PLAIN = 2  # every bit becomes what is written
    WATCHED = 4  # something happens after the access, or is counted, or the size of the access matters

cdef enum:
    # Of a register, in the order that `Layout` takes them.
    READ_HOOK = 1
    WRITE_HOOKS = 2
    NATIVE_READ_HOOK = 4
    NATIVE_WRITE_HOOK = 8
    SELECTS_PAGE = 16

# No register begins there: a layout ends before. An access may: it is led to the last granule of the index, whose port
# has 0 instead (see `take_indices`).
cdef uint64_t NEVER = <uint64_t>-1


# Each of the two is a cache line.
cdef struct ReadPort:
    uint64_t fast  # `offset`, where a read of four bytes in the host's order is a load and a mask, else NEVER
    uint64_t offset
    uint64_t mask
    uint64_t clears
    uint64_t sets
    uint32_t register
    uint16_t size
    uint16_t sizes  # bit n: an access of n bytes is allowed
    uint16_t flags
    uint8_t padding[CACHE_LINE - 50]


cdef struct WritePort:
    uint64_t fast  # `offset`, where a write of four bytes in the host's order is a store, else NEVER
    uint64_t offset
    # What a bit becomes: a where it was 1 and 0 is written, b: 1 and 1, c: 0 and 0, d: 0 and 1.
    uint64_t a
    uint64_t a_xor_b
    uint64_t c
    uint64_t c_xor_d
    uint32_t register
    uint16_t size
    uint16_t sizes
    uint16_t flags
    uint8_t padding[CACHE_LINE - 58]


cdef struct Port:
    ReadPort read
    WritePort write


cdef struct RegisterInfo:
    uint64_t reset
    uint64_t bits  # all that the register has
    uint64_t lines  # bit n: the interrupt line n depends on the register
    uint32_t first_tag
    uint32_t tag_count
    uint32_t flags


# Unimplemented bits of a register; a mask of 0 stands for every access to it.
cdef struct Tag:
    uint64_t mask
    uint32_t counter


# (status >> status_shift) & (enable >> enable_shift) & mask
cdef struct Term:
    uint64_t mask
    uint32_t status
    uint32_t enable  # the status itself, where nothing enables it
    uint8_t status_shift
    uint8_t enable_shift


cdef struct Line:
    uint32_t first_term
    uint32_t term_count


cdef struct Shape:
    uint64_t size
    uint64_t index_length
    Port *ports
    Port **indices  # `index_length` pointers for each page
    RegisterInfo *registers
    Tag *tags
    Term *terms
    Line *lines
    uint32_t granule  # 1, 2, 4 or 8
    uint32_t register_count
    uint32_t counter_count
    uint32_t line_count
    uint32_t page_register
    uint32_t page_shift
    uint64_t page_mask
    bint big_endian
    bint may_refuse  # some access or other raises for where it goes
    bint gap_raises
    bint gap_is_ram
    uint8_t gap_byte


@cython.final
cdef class Hook:
    """A method that an access calls, and for what.

    Parameters
    ----------
    kind : str
        "read", "write" or "change".
    function : callable
        Called with the bank, the index of an array's element if there is one, and one value ("read") or two.
    description : str
        What error messages call it.
    mask, shift : int
        The bits that a "change" is about; the others give whole registers.
    element : int
        Index in an array, or -1.
    """

    cdef object function
    cdef object element
    cdef str description
    cdef uint64_t mask
    cdef uint32_t shift
    cdef bint on_change_only

    def __init__(self, str kind, function, str description, uint64_t mask, uint32_t shift, element):
        self.function = function
        self.element = element
        self.description = description
        self.mask = mask
        self.shift = shift
        self.on_change_only = kind == "change"


@cython.final
@cython.no_gc_clear
cdef class Layout:
    """All that the banks of one class have in common. Made by `dbs_device.registers`, which has checked it.

    Parameters
    ----------
    size : int
        Bytes.
    granule, big_endian, gap, serialize
        As of a bank's class.
    declarations : list
        By register, what the class body declares: (declaration, element).
    registers : list of tuple
        By register (reset, bits, lines, tags, has a read hook, has write hooks, has a native read hook, has a native
        write hook, selects the page), where tags are (mask, counter).
    counters : list of str
        The names of what is counted.
    ports : list of tuple
        (read, write), each of them None or a tuple: (offset, size, register, sizes, whole lanes, watched), and behind
        that (mask, clears, sets) or (a, b, c, d).
    indices : list of bytes
        By page, the number of the port of each granule, as native unsigned 32-bit integers: at least two, the last of
        which is not the number of another granule.
    page_select : tuple
        (register, shift, mask).
    lines : list of list
        By line its terms: (status, status_shift, enable, enable_shift, mask).
    read_hooks, write_hooks : list
        By register a Hook or None; a tuple of Hook or None.
    line_type : callable
        Makes the object of an interrupt line.
    """

    cdef Shape shape
    cdef void *port_memory
    cdef bint is_complete
    cdef readonly list declarations
    cdef readonly dict numbers
    cdef readonly list counters
    cdef readonly list read_hooks
    cdef readonly list write_hooks
    cdef readonly object line_type
    cdef readonly bint serialize

    def __init__(
        self, size, granule, big_endian, gap, serialize, list declarations, list registers, list counters, list ports,
        list indices, page_select, list lines, list read_hooks, list write_hooks, line_type
    ):
        if self.port_memory != NULL:
            raise TypeError("a Layout is initialised once")
        self.declarations = declarations
        self.numbers = {}
        for number, (declaration, _) in enumerate(declarations):
            self.numbers.setdefault(declaration, number)
        self.counters = counters
        self.read_hooks = read_hooks
        self.write_hooks = write_hooks
        self.line_type = line_type
        self.serialize = serialize
        cdef Shape *shape = &self.shape
        shape.size = size
        shape.granule = granule
        shape.big_endian = big_endian
        shape.gap_raises = shape.may_refuse = gap == "raise"
        shape.gap_is_ram = gap == "ram"
        shape.gap_byte = 0xFF if gap == "ones" else 0
        shape.page_register, shape.page_shift, shape.page_mask = page_select
        self.take_registers(registers)
        self.take_lines(lines)
        self.take_ports(ports)
        self.take_indices(indices)
        self.is_complete = True

    cdef int take_registers(self, list registers) except -1:
        cdef Shape *shape = &self.shape
        cdef RegisterInfo *info
        cdef size_t number, tag = 0
        shape.register_count = len(registers)
        shape.counter_count = len(self.counters)
        shape.registers = <RegisterInfo *>allocated(len(registers), sizeof(RegisterInfo))
        shape.tags = <Tag *>allocated(sum([len(register[3]) for register in registers]), sizeof(Tag))
        for number in range(shape.register_count):
            info = &shape.registers[number]
            info.reset, info.bits, info.lines, tags, *flags = registers[number]
            info.flags = sum([flag << place for place, flag in enumerate(flags)])
            info.first_tag = tag
            info.tag_count = len(tags)
            for mask, counter in tags:
                shape.tags[tag] = Tag(mask, counter)
                tag += 1
        return 0

    cdef int take_lines(self, list lines) except -1:
        cdef Shape *shape = &self.shape
        cdef size_t number, term = 0
        shape.line_count = len(lines)
        shape.lines = <Line *>allocated(len(lines), sizeof(Line))
        shape.terms = <Term *>allocated(sum([len(terms) for terms in lines]), sizeof(Term))
        for number in range(shape.line_count):
            terms = lines[number]
            shape.lines[number] = Line(term, len(terms))
            for status, status_shift, enable, enable_shift, mask in terms:
                shape.terms[term] = Term(mask, status, enable, status_shift, enable_shift)
                term += 1
        return 0

    cdef int take_ports(self, list ports) except -1:
        cdef Shape *shape = &self.shape
        cdef Port *port
        cdef ReadPort *read
        cdef WritePort *write
        cdef Py_ssize_t number
        cdef uint64_t b, d
        self.port_memory = allocated(len(ports) + 1, sizeof(Port))
        shape.ports = <Port *>((<uintptr_t>self.port_memory + CACHE_LINE - 1) & ~<uintptr_t>(CACHE_LINE - 1))
        for number in range(len(ports)):
            port = &shape.ports[number]
            read, write = &port.read, &port.write
            read.fast = read.offset = write.fast = write.offset = NEVER
            given_read, given_write = ports[number]
            if given_read is not None:
                read.offset, read.size, read.register, read.sizes, whole, watched, *masks = given_read
                read.mask, read.clears, read.sets = masks
                read.flags = (WHOLE_LANES if whole else 0) | (WATCHED if watched else 0)
                if read.size == 4 and not read.flags & WATCHED and is_little_host() != shape.big_endian:
                    read.fast = read.offset
                shape.may_refuse |= read.sizes != 0
            if given_write is not None:
                write.offset, write.size, write.register, write.sizes, whole, watched, *masks = given_write
                write.a, b, write.c, d = masks
                write.flags = (WHOLE_LANES if whole else 0) | (WATCHED if watched else 0)
                if not write.a | write.c and b == d == shape.registers[write.register].bits:
                    write.flags |= PLAIN
                write.a_xor_b = write.a ^ b
                write.c_xor_d = write.c ^ d
                is_fast = write.flags & PLAIN and not write.flags & WATCHED
                if write.size == 4 and is_fast and is_little_host() != shape.big_endian:
                    write.fast = write.offset
                shape.may_refuse |= write.sizes != 0
        return 0

    cdef int take_indices(self, list indices) except -1:
        cdef Shape *shape = &self.shape
        cdef const uint32_t *numbers
        cdef Port *last
        cdef Py_ssize_t page
        cdef size_t place
        # A granule may be larger than a pointer is on a host of 32 bits: see the scale of the index.
        cdef size_t repeats = max(shape.granule // sizeof(Port *), 1)
        shape.index_length = len(indices[0]) // 4 * repeats
        shape.indices = <Port **>allocated(len(indices) * shape.index_length, sizeof(Port *))
        for page in range(len(indices)):
            numbers = <const uint32_t *><const char *>(<bytes>indices[page])
            for place in range(shape.index_length):
                shape.indices[page * shape.index_length + place] = &shape.ports[numbers[place // repeats]]
            # A port of its own, and not that of offset 0, which leads to another granule.
            last = shape.indices[(page + 1) * shape.index_length - 1]
            if last.read.fast == NEVER:
                last.read.fast = 0
            if last.write.fast == NEVER:
                last.write.fast = 0
        return 0

    def __dealloc__(self):
        free(self.port_memory)
        free(self.shape.indices)
        free(self.shape.registers)
        free(self.shape.tags)
        free(self.shape.terms)
        free(self.shape.lines)


cdef void *allocated(size_t count, size_t size) except NULL:
    """Return zeroed memory."""
    cdef void *memory = calloc(count + 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef bint is_little_host() noexcept:
    cdef uint32_t one = 1
    return (<uint8_t *>&one)[0] == 1


# ----------------------------------------------------------------------------- one register


cdef struct LineState:
    uint64_t level
    uint64_t busy  # whether some call is telling the line its level


cdef inline Shape *shape_of(RegisterFile bank) noexcept nogil:
    return &(<Layout>bank._layout).shape


cdef inline Port *port_at(RegisterFile bank, uint64_t offset) noexcept nogil:
    """Return the port of the granule; an offset beyond the index gets another one, whose own offset does not fit."""
    cdef uint8_t *index = <uint8_t *>page_load(&bank._index)
    return (<Port **>(index + ((offset * bank._index_scale) & bank._index_mask)))[0]


cdef inline uint64_t written(const WritePort *port, uint64_t old, uint64_t value) noexcept nogil:
    cdef uint64_t x = port.a ^ (value & port.a_xor_b), y = port.c ^ (value & port.c_xor_d)
    return y ^ (old & (x ^ y))


cdef uint64_t change(RegisterFile bank, uint32_t register, uint64_t mask, uint64_t value) noexcept nogil:
    """Give the bits of `mask` a value, in one step; return the register's old value."""
    cdef uint64_t old = word_load(bank._values, register)
    while not word_replace(bank._values, register, &old, (old & ~mask) | (value & mask)):
        pass
    return old


cdef int read_register(RegisterFile bank, const ReadPort *port, uint64_t lanes, uint64_t *value) except -1 nogil:
    """Read a register through those of its bits that the access reaches, with all that this causes."""
    cdef RegisterInfo *info = &shape_of(bank).registers[port.register]
    cdef uint64_t old, new, reached = lanes
    if port.flags & WHOLE_LANES:
        reached = info.bits
    old = new = word_load(bank._values, port.register)
    if port.clears | port.sets:
        new = (old & ~(port.clears & reached)) | (port.sets & reached)
        while not word_replace(bank._values, port.register, &old, new):
            new = (old & ~(port.clears & reached)) | (port.sets & reached)
    value[0] = old & port.mask
    if info.tag_count:
        count_unimplemented(bank, info, 0)
    if new != old and info.flags & SELECTS_PAGE:
        select_page(bank)
    if info.flags & (READ_HOOK | NATIVE_READ_HOOK) or (new != old and info.flags & WRITE_HOOKS):
        try:
            if info.flags & NATIVE_READ_HOOK:
                bank.c_hook_read(port.register, value)
            if info.flags & (READ_HOOK | WRITE_HOOKS):
                run_read_hooks(bank, port.register, old, new, value)
        finally:
            update_lines(bank, info.lines)
        value[0] &= info.bits
        return 0
    return update_lines(bank, info.lines)


cdef int write_register(RegisterFile bank, const WritePort *port, uint64_t lanes, uint64_t value) except -1 nogil:
    """Write those bits of a register that the access reaches, with all that this causes."""
    cdef RegisterInfo *info = &shape_of(bank).registers[port.register]
    cdef uint64_t old, new, reached = lanes
    if port.flags & WHOLE_LANES:
        reached |= info.bits & ~(port.a_xor_b | port.c_xor_d)
    old = word_load(bank._values, port.register)
    new = (old & ~reached) | (written(port, old, value) & reached)
    while not word_replace(bank._values, port.register, &old, new):
        new = (old & ~reached) | (written(port, old, value) & reached)
    if not port.flags & WATCHED:
        return 0
    if info.tag_count:
        count_unimplemented(bank, info, old ^ new)
    if info.flags & SELECTS_PAGE:
        select_page(bank)
    if info.flags & (WRITE_HOOKS | NATIVE_WRITE_HOOK):
        try:
            if info.flags & NATIVE_WRITE_HOOK:
                bank.c_hook_write(port.register, new, old)
            if info.flags & WRITE_HOOKS:
                run_write_hooks(bank, port.register, old, new)
        finally:
            update_lines(bank, info.lines)
        return 0
    return update_lines(bank, info.lines)


cdef int select_page(RegisterFile bank) noexcept nogil:
    """Store the index of the page that the select field names; of two threads the later value wins."""
    cdef Shape *shape = shape_of(bank)
    cdef uint64_t seen, value = word_load_ordered(bank._values, shape.page_register)
    while True:
        seen = value
        page_store(&bank._index, shape.indices + ((value >> shape.page_shift) & shape.page_mask) * shape.index_length)
        value = word_load_ordered(bank._values, shape.page_register)
        if value == seen:
            return 0


# ----------------------------------------------------------------------------- what is not implemented


cdef int count_unimplemented(RegisterFile bank, const RegisterInfo *info, uint64_t changed) except -1 nogil:
    cdef Tag *tag
    cdef uint32_t number
    for number in range(info.first_tag, info.first_tag + info.tag_count):
        tag = &shape_of(bank).tags[number]
        if tag.mask == 0 or tag.mask & changed:
            if word_count(bank._counts, tag.counter) == 0:
                log_unimplemented(bank, tag.counter)
    return 0


cdef int log_unimplemented(RegisterFile bank, uint32_t counter) except -1 with gil:
    name = (<Layout>bank._layout).counters[counter]
    logging.getLogger("dbs_device.registers").warning("%s.%s is not implemented", type(bank).__name__, name)
    return 0


# ----------------------------------------------------------------------------- interrupt lines


cdef uint64_t level_of(RegisterFile bank, uint32_t number) noexcept nogil:
    cdef Shape *shape = shape_of(bank)
    cdef Term *term
    cdef uint64_t enabled
    cdef uint32_t place
    for place in range(shape.lines[number].term_count):
        term = &shape.terms[shape.lines[number].first_term + place]
        enabled = (word_load_ordered(bank._values, term.enable) >> term.enable_shift) & term.mask
        if (word_load_ordered(bank._values, term.status) >> term.status_shift) & enabled:
            return 1
    return 0


cdef inline LineState *line_state(RegisterFile bank, uint32_t number) noexcept nogil:
    return <LineState *>bank._lines + number


cdef inline int update_lines(RegisterFile bank, uint64_t lines) except -1 nogil:
    """Call those of the lines whose level has changed."""
    if lines and a_level_has_changed(bank, lines):
        return call_lines(bank, lines)
    return 0


cdef bint a_level_has_changed(RegisterFile bank, uint64_t lines) noexcept nogil:
    cdef uint32_t number
    for number in range(shape_of(bank).line_count):
        if (lines >> number) & 1:
            if level_of(bank, number) != word_load_ordered(&line_state(bank, number).level, 0):
                return True
    return False


cdef int call_lines(RegisterFile bank, uint64_t lines) except -1 with gil:
    """Call the lines whose level has changed, all of them; raise the first exception of any."""
    error = None
    for number in range(64):
        if (lines >> number) & 1:
            try:
                call_line(bank, number)
            except BaseException as raised:
                if error is None:
                    error = raised
    if error is not None:
        raise error
    return 0


cdef int call_line(RegisterFile bank, uint32_t number) except -1:
    """Tell one line its level until it is right.

    A level that another thread, or the line's own sink, changes meanwhile is told by the call that is under way: it
    looks once more after it has given up being busy, and each who changes a level looks whether it is told.
    """
    cdef LineState *state = line_state(bank, number)
    cdef uint64_t level
    while True:
        level = level_of(bank, number)
        if level == word_load_ordered(&state.level, 0) or word_exchange(&state.busy, 0, 1):
            return 0
        try:
            level = level_of(bank, number)
            if level != word_exchange(&state.level, 0, level):
                (<list>bank._irq_lines)[number].set(bool(level))
        finally:
            word_store_ordered(&state.busy, 0, 0)


# ----------------------------------------------------------------------------- Python hooks


cdef object call_hook(RegisterFile bank, Hook hook, object first, object second):
    cdef PyObject *arguments[5]
    cdef size_t count = 1
    # The callee may use the place before the first argument while it runs, hence one place more.
    arguments[1] = <PyObject *>bank
    if hook.element is not None:
        count += 1
        arguments[count] = <PyObject *>hook.element
    count += 1
    arguments[count] = <PyObject *>first
    if second is not None:
        count += 1
        arguments[count] = <PyObject *>second
    return PyObject_Vectorcall(hook.function, arguments + 1, count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)


cdef int call_write_hooks(RegisterFile bank, tuple hooks, uint64_t old, uint64_t new, bint is_write) except -1:
    cdef Hook hook
    for hook in hooks:
        if (old ^ new) & hook.mask if hook.on_change_only else is_write:
            call_hook(bank, hook, (new & hook.mask) >> hook.shift, (old & hook.mask) >> hook.shift)
    return 0


cdef int call_read_hooks(RegisterFile bank, uint32_t register, uint64_t old, uint64_t new, uint64_t *value) except -1:
    cdef Layout layout = <Layout>bank._layout
    cdef Hook hook = layout.read_hooks[register]
    cdef tuple others = layout.write_hooks[register]
    if hook is not None:
        result = call_hook(bank, hook, value[0], None)
        if result is not None:
            value[0] = value_of_hook(hook, result)
    if others is not None and old != new:
        call_write_hooks(bank, others, old, new, False)
    return 0


cdef uint64_t value_of_hook(Hook hook, object result) except? 0xDEAD:
    if not PyLong_Check(result):
        try:
            result = operator.index(result)
        except TypeError:
            raise TypeError(
                f"{hook.description} must return an int or None, not {type(result).__name__}"
            ) from None
    return PyLong_AsUnsignedLongLongMask(result)


cdef int run_read_hooks(
    RegisterFile bank, uint32_t register, uint64_t old, uint64_t new, uint64_t *value
) except -1 with gil:
    if bank._lock is None:
        return call_read_hooks(bank, register, old, new, value)
    with bank._lock:
        return call_read_hooks(bank, register, old, new, value)


cdef int run_write_hooks(RegisterFile bank, uint32_t register, uint64_t old, uint64_t new) except -1 with gil:
    cdef tuple hooks = (<Layout>bank._layout).write_hooks[register]
    if bank._lock is None:
        return call_write_hooks(bank, hooks, old, new, True)
    with bank._lock:
        return call_write_hooks(bank, hooks, old, new, True)


# ----------------------------------------------------------------------------- an access


cdef inline const ReadPort *read_port(RegisterFile bank, uint64_t offset) noexcept nogil:
    """Return the port that a read of the byte at `offset` goes to, or NULL in a gap."""
    cdef const ReadPort *port = &port_at(bank, offset).read
    return port if port.offset <= offset and offset - port.offset < port.size else NULL


cdef inline const WritePort *write_port(RegisterFile bank, uint64_t offset) noexcept nogil:
    cdef const WritePort *port = &port_at(bank, offset).write
    return port if port.offset <= offset and offset - port.offset < port.size else NULL


cdef inline uint64_t bits_of(size_t size) noexcept nogil:
    return <uint64_t>-1 >> (64 - 8 * size)


cdef inline uint32_t shift_of(bint big_endian, size_t register_size, size_t first, size_t count) noexcept nogil:
    """Return how far the `count` bytes at `first` are from bit 0 of a register."""
    return <uint32_t>(8 * (register_size - first - count if big_endian else first))


cdef void put_bytes(uint64_t value, uint8_t *data, size_t count, bint big_endian) noexcept nogil:
    cdef size_t place
    for place in range(count):
        data[count - 1 - place if big_endian else place] = <uint8_t>(value >> (8 * place))


cdef uint64_t integer_of(const uint8_t *data, size_t count, bint big_endian) noexcept nogil:
    cdef uint64_t value = 0
    cdef size_t place
    for place in range(count):
        value |= <uint64_t>data[count - 1 - place if big_endian else place] << (8 * place)
    return value


cdef int raise_wrong_size(
    RegisterFile bank, uint32_t register, uint64_t offset, size_t size, bint is_write
) except -1 with gil:
    declaration, _ = (<Layout>bank._layout).declarations[register]
    raise RegisterAccessError(bank, offset, size, is_write, declaration.name)


cdef int raise_gap(RegisterFile bank, uint64_t offset, size_t size, bint is_write) except -1 with gil:
    raise RegisterAccessError(bank, offset, size, is_write, None)


cdef int check_access(RegisterFile bank, uint64_t offset, size_t size, bint is_write) except -1 nogil:
    """Refuse, before anything is done, an access of which some part is not allowed."""
    cdef Shape *shape = shape_of(bank)
    cdef const ReadPort *read
    cdef const WritePort *write
    cdef size_t done = 0, first, count, port_size
    cdef uint32_t register = 0
    cdef uint16_t sizes = 0
    while done < size and offset + done >= offset:  # beyond the last address there is nothing
        port_size = 0
        if is_write:
            write = write_port(bank, offset + done)
            if write != NULL:
                first, port_size = offset + done - write.offset, write.size
                register, sizes = write.register, write.sizes
        else:
            read = read_port(bank, offset + done)
            if read != NULL:
                first, port_size = offset + done - read.offset, read.size
                register, sizes = read.register, read.sizes
        if port_size == 0:
            if shape.gap_raises:
                raise_gap(bank, offset + done, size - done, is_write)
            done += 1
            continue
        count = min(port_size - first, size - done)
        if sizes and (not (sizes >> count) & 1 or first % count):
            raise_wrong_size(bank, register, offset + done, count, is_write)
        done += count
    return 0


cdef int read_slowly(
    RegisterFile bank, uint64_t base, uint64_t offset, uint8_t *data, size_t size
) except -1 nogil:
    """Serve any read, register by register."""
    cdef Shape *shape = shape_of(bank)
    cdef const ReadPort *port
    cdef size_t done = 0, first, count
    cdef uint64_t position, value
    cdef uint32_t shift
    if shape.may_refuse:
        check_access(bank, offset, size, False)
    port = &port_at(bank, offset).read
    if port.offset == offset and port.size == size:
        read_register(bank, port, bits_of(size), &value)
        put_bytes(value, data, size, shape.big_endian)
        return 0
    while done < size:
        position = offset + done
        port = read_port(bank, position)
        if port == NULL or position < offset:  # beyond the last address there is nothing
            if shape.gap_is_ram and offset <= position < shape.size:
                data[done] = ram_load(bank._ram + position)
            else:
                data[done] = shape.gap_byte
            done += 1
            continue
        first = position - port.offset
        count = min(port.size - first, size - done)
        shift = shift_of(shape.big_endian, port.size, first, count)
        read_register(bank, port, bits_of(count) << shift, &value)
        put_bytes(value >> shift, data + done, count, shape.big_endian)
        done += count
    return 0


cdef int write_slowly(
    RegisterFile bank, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
) except -1 nogil:
    """Serve any write, register by register."""
    cdef Shape *shape = shape_of(bank)
    cdef const WritePort *port
    cdef size_t done = 0, first, count
    cdef uint64_t position
    cdef uint32_t shift
    if shape.may_refuse:
        check_access(bank, offset, size, True)
    port = &port_at(bank, offset).write
    if port.offset == offset and port.size == size:
        write_register(bank, port, bits_of(size), dbs_integer_of_bytes(data, size, shape.big_endian))
        return 0
    while done < size:
        position = offset + done
        port = write_port(bank, position)
        if port == NULL or position < offset:
            if shape.gap_is_ram and offset <= position < shape.size:
                ram_store(bank._ram + position, data[done])
            done += 1
            continue
        first = position - port.offset
        count = min(port.size - first, size - done)
        shift = shift_of(shape.big_endian, port.size, first, count)
        write_register(
            bank, port, bits_of(count) << shift, integer_of(data + done, count, shape.big_endian) << shift
        )
        done += count
    return 0


# Called through pointers, as if they raised nothing, since the -1 is handed on: else the compiler makes one function of
# the fast path and all that is slow, whose frame every access would pay for. (The base is passed on to leave the
# arguments where they are.)
cdef int (*serve_read)(RegisterFile, uint64_t base, uint64_t, uint8_t *, size_t) noexcept nogil
serve_read = <int (*)(RegisterFile, uint64_t, uint64_t, uint8_t *, size_t) noexcept nogil>read_slowly
cdef int (*serve_write)(RegisterFile, uint64_t base, uint64_t, const uint8_t *, size_t) noexcept nogil
serve_write = <int (*)(RegisterFile, uint64_t, uint64_t, const uint8_t *, size_t) noexcept nogil>write_slowly


cdef inline int read_at(
    RegisterFile bank, uint64_t base, uint64_t offset, uint8_t *data, size_t size
) noexcept nogil:
    cdef const ReadPort *port = &port_at(bank, offset).read
    if size == 4 and port.fast == offset:
        four_bytes_store(data, <uint32_t>(word_load(bank._values, port.register) & port.mask))
        return 0
    # One register whole, which nothing watches.
    if port.offset == offset and port.size == size and not port.flags & WATCHED:
        put_bytes(word_load(bank._values, port.register) & port.mask, data, size, shape_of(bank).big_endian)
        return 0
    return serve_read(bank, base, offset, data, size)


cdef inline int write_at(
    RegisterFile bank, uint64_t base, uint64_t offset, const uint8_t *data, size_t size
) noexcept nogil:
    cdef const WritePort *port = &port_at(bank, offset).write
    cdef uint64_t old, value
    if size == 4 and port.fast == offset:
        word_store(bank._values, port.register, four_bytes_load(data))
        return 0
    if port.offset == offset and port.size == size and not port.flags & WATCHED:
        value = dbs_integer_of_bytes(data, size, shape_of(bank).big_endian)
        if port.flags & PLAIN:
            word_store(bank._values, port.register, value)
            return 0
        old = word_load(bank._values, port.register)
        while not word_replace(bank._values, port.register, &old, written(port, old, value)):
            pass
        return 0
    return serve_write(bank, base, offset, data, size)


# ----------------------------------------------------------------------------- a bank


cdef int restore(RegisterFile bank, list values) except -1:
    """Give every register a value, then select the page and call the lines."""
    cdef Shape *shape = shape_of(bank)
    cdef uint32_t number
    for number in range(shape.register_count):
        word_exchange(bank._values, number, values[number])
    select_page(bank)
    return update_lines(bank, bits_of(8) >> (64 - shape.line_count) if shape.line_count else 0)


cdef list reset_values(RegisterFile bank):
    cdef Shape *shape = shape_of(bank)
    return [shape.registers[number].reset for number in range(shape.register_count)]


@cython.no_gc_clear
cdef class RegisterFile(NativeDevice):
    """The native part of a `RegisterBank`: values, accesses, interrupt lines.

    It is complete as soon as it exists: `__init__` is left to subclasses.
    """

    def __cinit__(self, *_arguments, **_keywords):
        cdef Layout layout = getattr(type(self), "_layout", None)
        cdef Shape *shape
        if layout is None or not layout.is_complete:
            raise TypeError(f"{type(self).__name__} declares no registers: make a subclass that does")
        shape = &layout.shape
        self._layout = layout
        self._values = allocated(shape.register_count, sizeof(uint64_t))
        self._counts = allocated(shape.counter_count, sizeof(uint64_t))
        self._lines = allocated(shape.line_count, sizeof(LineState))
        if shape.gap_is_ram:
            self._ram = <uint8_t *>allocated(shape.size, 1)
        # An offset times the scale is that of a granule's pointer, but for the bits that the mask takes away. (A shift
        # would need the register that the fourth argument is in.)
        self._index_scale = max(sizeof(Port *) // shape.granule, 1)
        self._index_mask = (shape.index_length - 1) * sizeof(Port *)
        self._irq_lines = [layout.line_type() for _ in range(shape.line_count)]
        self._lock = threading.RLock() if layout.serialize else None
        restore(self, reset_values(self))

    def __dealloc__(self):
        free(self._values)
        free(self._counts)
        free(self._lines)
        free(self._ram)

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return read_at(self, base, offset, data, size)

    cdef int c_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return write_at(self, base, offset, data, size)

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return read_at(self, base, offset, data, size)

    cdef int c_pio_write(self, uint64_t base, uint64_t offset, const uint8_t *data, size_t size) except -1 nogil:
        return write_at(self, base, offset, data, size)

    cdef int c_hook_read(self, uint32_t register, uint64_t *value) except -1 nogil:
        """Called after a read of a register that `NativeHooks` names; `value` may be replaced."""
        return 0

    cdef int c_hook_write(self, uint32_t register, uint64_t new, uint64_t old) except -1 nogil:
        """Called after a write to a register that `NativeHooks` names."""
        return 0

    cdef uint64_t c_value(self, uint32_t register) noexcept nogil:
        """Return a register's value; 0 for a number that no register has."""
        return word_load_ordered(self._values, register) if register < shape_of(self).register_count else 0

    cdef int c_update(self, uint32_t register, uint64_t mask, uint64_t value) except -1 nogil:
        """Give the bits of `mask` a value, in one atomic step, as a backend does: without rules and hooks."""
        cdef RegisterInfo *info
        if register >= shape_of(self).register_count:
            return 0
        info = &shape_of(self).registers[register]
        change(self, register, mask & info.bits, value)
        if info.flags & SELECTS_PAGE:
            select_page(self)
        return update_lines(self, info.lines)

    def reset(self):
        """Give every register its reset value, and clear the memory in the gaps.

        No hook is called. Interrupt lines follow.
        """
        cdef uint64_t place
        if self._ram != NULL:
            for place in range(shape_of(self).size):
                ram_store(self._ram + place, 0)
        restore(self, reset_values(self))

    def peek(self, offset, size):
        """Return what a read would give, without hooks, side effects or counting.

        Parameters
        ----------
        offset : int
            First byte.
        size : int
            1, 2, 4 or 8 bytes; `ValueError` for another, and where they are not all inside the bank.

        Returns
        -------
        int
            In the bank's byte order. What cannot be read, and gaps, give what the bank's `gap` says, "raise" zeros.
        """
        cdef Shape *shape = shape_of(self)
        cdef const ReadPort *port
        cdef uint64_t start, position
        cdef size_t place, count
        cdef uint8_t data[8]
        offset, size = operator.index(offset), operator.index(size)
        if size not in (1, 2, 4, 8):
            raise ValueError(f"integers have 1, 2, 4 or 8 bytes, not {size}")
        if not 0 <= offset <= shape.size - size:
            raise ValueError(
                f"{format_count(size, 'byte')} at {offset:#x} are not inside {format_range(0, shape.size - 1)}"
            )
        start, count = offset, size
        for place in range(count):
            position = start + place
            port = read_port(self, position)
            if port != NULL:
                put_bytes(
                    (word_load(self._values, port.register) & port.mask)
                    >> shift_of(shape.big_endian, port.size, position - port.offset, 1),
                    data + place, 1, False,
                )
            else:
                data[place] = ram_load(self._ram + position) if shape.gap_is_ram else shape.gap_byte
        return integer_of(data, count, shape.big_endian)

    def unimplemented_accesses(self):
        """Return how often the guest has used what the bank does not implement.

        Returns
        -------
        dict of str to int
            By name, for each of the bank's `UNIMPLEMENTED` fields, registers and ranges that was used: the accesses to
            a register or range, the writes that changed a field.
        """
        counters = (<Layout>self._layout).counters
        counts = {name: word_load(self._counts, number) for number, name in enumerate(counters)}
        return {name: count for name, count in counts.items() if count}

    def _register_values(self):
        """Return the values of all registers, and the memory in the gaps or None."""
        cdef Shape *shape = shape_of(self)
        values = [word_load_ordered(self._values, number) for number in range(shape.register_count)]
        return values, (<char *>self._ram)[:shape.size] if self._ram != NULL else None

    def _set_register_values(self, list values not None, ram):
        """The reverse; `ValueError` where something does not fit, and nothing is changed."""
        cdef Shape *shape = shape_of(self)
        cdef const uint8_t *memory = NULL
        cdef uint64_t place
        cdef uint32_t number
        if len(values) != shape.register_count or (ram is None) != (self._ram == NULL):
            raise ValueError("not the values of this bank")
        for number in range(shape.register_count):
            check_value(values[number], shape.registers[number].bits, self, number)
        if ram is not None:
            if not isinstance(ram, bytes) or <uint64_t>len(ram) != shape.size:
                raise ValueError(f"the memory of the gaps is not {format_count(shape.size, 'byte')}")
            memory = <const uint8_t *><const char *>(<bytes>ram)
            for place in range(shape.size):
                ram_store(self._ram + place, memory[place])
        restore(self, values)

    def register_number(self, str name not None, int element=0):
        """Return the number that `c_hook_read` and `c_hook_write` of a compiled subclass know a register by.

        Parameters
        ----------
        name : str
            The register's name; `KeyError` if there is none.
        element : int, optional
            Index in an array.

        Returns
        -------
        int
            The same for all banks of a class.
        """
        for number, (declaration, index) in enumerate((<Layout>self._layout).declarations):
            if declaration.name == name and (index or 0) == element:
                return number
        raise KeyError(name)

    def _selected_page(self):
        cdef Shape *shape = shape_of(self)
        return (word_load_ordered(self._values, shape.page_register) >> shape.page_shift) & shape.page_mask

    def _irq_line(self, size_t number):
        return (<list>self._irq_lines)[number]


# ----------------------------------------------------------------------------- registers and fields in Python


cdef uint64_t check_value(object value, uint64_t bits, object bank, uint32_t number) except? 0xDEAD:
    value = operator.index(value)
    if not 0 <= value <= bits:
        declaration, _ = (<Layout>(<RegisterFile>bank)._layout).declarations[number]
        raise ValueError(f"{value:#x} does not fit {declaration.name}, which has the bits {bits:#x}")
    return value


cdef tuple NO_ARGUMENTS = ()
cdef frozenset READ_EFFECTS = frozenset(("clear", "set"))


cdef class RegisterBase:
    """A register as it is declared in the body of a bank's class; and, got from a bank, the register of that bank.

    Attributes
    ----------
    spec : object
        What was declared.
    """

    cdef RegisterFile _bank
    cdef RegisterBase _origin  # the declaration that this one was got from, or None
    cdef uint32_t _number
    cdef object _element
    cdef public object spec

    def __get__(self, instance, owner):
        if instance is None:
            return self
        return self.of_bank(instance, None)

    def __set__(self, instance, value):
        raise AttributeError(f"{self.name} is a register: assign to its value or to a field of it")

    @property
    def name(self):
        """The name that the register has in its class, or None."""
        return self.spec.name

    @property
    def offset(self):
        """The register's first byte in the bank."""
        return self.spec.offset + (self._element or 0) * self.spec.stride

    @property
    def value(self):
        """The whole register, as it is stored: no hook is called and no access rule applies, when it is assigned."""
        self.check_bound()
        return word_load_ordered(self._bank._values, self._number)

    @value.setter
    def value(self, value):
        self.check_bound()
        self._bank.c_update(
            self._number, <uint64_t>-1,
            check_value(value, shape_of(self._bank).registers[self._number].bits, self._bank, self._number),
        )

    def _change(self, uint64_t mask, uint64_t value):
        """Give bits a value, in one atomic step."""
        self.check_bound()
        self._bank.c_update(self._number, mask, value)

    cdef int check_bound(self) except -1:
        if self._bank is None:
            raise AttributeError(f"{self.name} is a declaration, which has no value: take it from a bank")
        return 0

    cdef RegisterBase twin(self, element):
        cdef object cls = type(self)
        cdef RegisterBase twin = <RegisterBase>(<PyTypeObject *>cls).tp_new(<type>cls, <PyObject *>NO_ARGUMENTS, NULL)
        twin._origin = self
        twin._element = element
        twin.spec = self.spec
        return twin

    def _of_bank(self, RegisterFile bank not None, element):
        return self.of_bank(bank, element)

    cdef RegisterBase of_bank(self, RegisterFile bank, element):
        cdef RegisterBase twin
        number = (<Layout>bank._layout).numbers.get(self)
        if number is None:
            raise TypeError(f"{type(bank).__name__} does not have the register {self.name}")
        if not 0 <= (element or 0) < (self.spec.count or 1):
            raise IndexError(f"{self.name} does not have the element {element}")
        twin = self.twin(element)
        twin._bank = bank
        twin._number = number + (element or 0)
        return twin

    def _element_of(self, element):
        """Return an element of an array of this declaration, as the target of a hook."""
        return self.twin(element)

    @property
    def _is_bound(self):
        """Whether this is the register of a bank, not a declaration."""
        return self._bank is not None

    @property
    def _declared(self):
        """The declaration, and the element of an array or None."""
        return self if self._origin is None else self._origin, self._element


@cython.final
cdef class FieldTarget:
    """A field of a declared register, as what a hook, an interrupt or a page is about."""

    cdef readonly object register
    cdef readonly FieldBase field

    def __init__(self, register, FieldBase field not None):
        self.register = register
        self.field = field

    def __repr__(self):
        return f"{self.register.name}.{self.field.name}"


cdef class FieldBase:
    """Some adjacent bits of a register.

    Attributes
    ----------
    name : str or None
        Its name in the class of the register.
    lsb, width : int
        Its lowest bit, and how many bits it has.
    access : Access
        How the guest reads and writes it.
    reset : int
        Its value after a reset.
    on_read : str or None
        "clear" or "set": what a read does to it.
    doc : str
        One line.
    """

    cdef public str name
    cdef readonly uint32_t lsb
    cdef readonly uint32_t width
    cdef readonly object access
    cdef readonly uint64_t reset
    cdef readonly object on_read
    cdef readonly str doc
    cdef readonly object enum
    cdef uint64_t ones

    def __init__(self, lsb, width, access, reset, on_read, str doc, enum=None):
        lsb, width, reset = operator.index(lsb), operator.index(width), operator.index(reset)
        if lsb < 0 or width < 1 or lsb + width > 64:
            raise LayoutError(f"a field of {format_count(width, 'bit')} at bit {lsb} does not fit 64 bits")
        if on_read is not None and on_read not in READ_EFFECTS:
            raise LayoutError(f'on_read is "clear", "set" or None, not {on_read!r}')
        self.lsb, self.width, self.access, self.on_read, self.doc, self.enum = lsb, width, access, on_read, doc, enum
        self.ones = <uint64_t>-1 >> (64 - self.width)
        self.reset = self.encode(reset)

    @property
    def mask(self):
        """The bits that the field has in its register."""
        return self.ones << self.lsb

    def __get__(self, instance, owner):
        cdef RegisterBase register
        if instance is None:
            return self
        register = instance
        if register._bank is None:
            return FieldTarget(register, self)
        return self.decode((word_load_ordered(register._bank._values, register._number) >> self.lsb) & self.ones)

    def __set__(self, instance, value):
        cdef RegisterBase register = instance
        register.check_bound()
        register._bank.c_update(register._number, self.ones << self.lsb, self.encode(value) << self.lsb)

    cdef object decode(self, uint64_t value):
        return value

    cdef uint64_t encode(self, value) except? 0xDEAD:
        number = operator.index(value.value if self.enum is not None and isinstance(value, self.enum) else value)
        if not 0 <= number <= self.ones:
            raise ValueError(f"{number:#x} does not fit {self.name or 'a field'} of {format_count(self.width, 'bit')}")
        return number

    def _set_reset(self, reset):
        self.reset = self.encode(reset)

    def _decoded(self, uint64_t register_value):
        """Return the field's value in a value of the register."""
        return self.decode((register_value >> self.lsb) & self.ones)

    def _encoded(self, value):
        """Return the bits that a value of the field has in the register; `ValueError` if it does not fit."""
        return self.encode(value) << self.lsb


cdef class FlagBase(FieldBase):
    """A field of one bit, which is a bool."""

    cdef object decode(self, uint64_t value):
        return value != 0


cdef class EnumBase(FieldBase):
    """A field whose values are members of an enum, where it has them, else integers."""

    cdef object decode(self, uint64_t value):
        try:
            return self.enum(value)
        except ValueError:
            return value
