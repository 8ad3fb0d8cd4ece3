"""A bank's native base class, with hooks in Cython."""

from libc.stdint cimport uint32_t, uint64_t

from dbs_device._engine.registers cimport RegisterFile


cdef class NativeEcho(RegisterFile):
    """What is written to DATA is read from it inverted; COUNT counts the writes. A written 0xBAD raises."""

    cdef uint32_t data
    cdef uint32_t count

    def __cinit__(self, *_arguments, **_keywords):
        self.data = self.register_number("DATA")
        self.count = self.register_number("COUNT")

    cdef int c_hook_read(self, uint32_t register, uint64_t *value) except -1 nogil:
        if register == self.data:
            value[0] = ~value[0]
        return 0

    cdef int c_hook_write(self, uint32_t register, uint64_t new, uint64_t old) except -1 nogil:
        if new == 0xBAD:
            with gil:
                raise ArithmeticError(f"{old:#x}")
        self.c_update(self.count, <uint64_t>-1, self.c_value(self.count) + 1)
        return 0

    def out_of_range(self):
        return self.c_value(1000), self.c_update(1000, 1, 1)
