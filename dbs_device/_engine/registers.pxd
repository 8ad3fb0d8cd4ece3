from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .native cimport NativeDevice


cdef class RegisterFile(NativeDevice):
    # Private: the layout of the class, and the state of this bank. The first four are all that a fast access touches.
    cdef void *_index
    cdef uint64_t _index_mask
    cdef uint64_t _index_scale
    cdef void *_values
    cdef void *_counts
    cdef void *_lines
    cdef uint8_t *_ram
    cdef object _layout
    cdef object _irq_lines
    cdef object _lock

    # For compiled subclasses, which `NativeHooks` names the registers to. The order of the methods of this class is
    # part of the binary interface: new ones go to the end.
    cdef int c_hook_read(self, uint32_t register, uint64_t *value) except -1 nogil
    cdef int c_hook_write(self, uint32_t register, uint64_t new, uint64_t old) except -1 nogil
    cdef uint64_t c_value(self, uint32_t register) noexcept nogil
    cdef int c_update(self, uint32_t register, uint64_t mask, uint64_t value) except -1 nogil
