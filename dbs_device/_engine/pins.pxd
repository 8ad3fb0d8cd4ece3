from cpython.object cimport PyObject

from .platform cimport dbs_pin, dbs_word


cdef dbs_pin *pin_object(dbs_word *published) noexcept nogil
cdef void unpin(dbs_pin *held) noexcept nogil
cdef void refer_for_pins(PyObject *old) noexcept
