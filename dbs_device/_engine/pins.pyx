"""Pins: what keeps a published object alive for accesses without the GIL, which cannot take a reference to it.

An access writes the address of the object where each publisher looks for it, and then checks that the object is still
published: a hazard pointer (Michael, "Hazard Pointers: Safe Memory Reclamation for Lock-Free Objects", 2004). A
publisher that finds the old object pinned takes a reference for that access, which drops it when it ends. So a
publisher waits for no access, and an object is released when the last access that uses it ends.

An access claims any free pin. It tries the one first that its thread claimed last, so that threads come to use pins of
their own and write to no cache line of another.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uintptr_t

from .platform cimport dbs_pin, dbs_word, dbs_word_exchange, dbs_word_load, dbs_word_replace

import os


cdef extern from * nogil:
    """
    #include <stdlib.h>

    enum { PINS_OF_A_BLOCK = 16, REFERENCED = 1 };

    typedef struct {
        dbs_pin pins[PINS_OF_A_BLOCK];
        dbs_word next;
    } pin_block;

    static pin_block first_block;
    #ifdef __GLIBC__
    /* Spares a call for the address. glibc keeps room for a few such words of libraries that are loaded late. */
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local dbs_pin *last_pin = first_block.pins;

    /* Blocks are never freed. */
    static pin_block *new_block(void) {
        size_t alignment = _Alignof(pin_block);
        char *memory = (char *)calloc(1, sizeof(pin_block) + alignment);
        return memory == NULL ? NULL : (pin_block *)(memory + alignment - (uintptr_t)memory % alignment);
    }

    #ifdef __GNUC__
    #define rarely(condition) __builtin_expect(!!(condition), 0)
    #else
    #define rarely(condition) (condition)
    #endif
    """
    enum:
        PINS_OF_A_BLOCK
        REFERENCED  # added to the state of a pin whose access owns a reference

    ctypedef struct pin_block:
        dbs_pin pins[PINS_OF_A_BLOCK]
        dbs_word next

    pin_block first_block
    dbs_pin *last_pin
    pin_block *new_block()
    bint rarely(bint condition)


ctypedef dbs_pin *(*Pin)(dbs_word *published) noexcept nogil
ctypedef void (*Release)(PyObject *object) noexcept nogil


cdef dbs_pin *pin_object(dbs_word *published) noexcept nogil:
    """Keep the object that `published` points to alive for an access; it is `object` of the pin."""
    cdef dbs_pin **last_of_thread = &last_pin
    cdef dbs_pin *held = last_of_thread[0]
    cdef uintptr_t object = dbs_word_load(published)
    if rarely(not dbs_word_replace(&held.state, 0, object)):
        return pin_slowly(published)
    if rarely(dbs_word_load(published) != object):
        unpin(held)
        return pin_slowly(published)
    held.thread = last_of_thread
    held.object = <PyObject *>object
    return held


cdef dbs_pin *pin_with_another(dbs_word *published) noexcept nogil:
    """Do the same with the first pin that is free, which becomes the thread's last."""
    global last_pin
    cdef pin_block *block = &first_block
    cdef size_t index = 0
    cdef uintptr_t object
    while True:
        last_pin = &block.pins[index]
        object = dbs_word_load(published)
        if dbs_word_load(&last_pin.state) != 0 or not dbs_word_replace(&last_pin.state, 0, object):
            index += 1
            if index == PINS_OF_A_BLOCK:
                index = 0
                block = block_after(block)
        elif dbs_word_load(published) != object:
            unpin(last_pin)
        else:
            break
    last_pin.thread = &last_pin
    last_pin.object = <PyObject *>object
    return last_pin


cdef pin_block *block_after(pin_block *block) noexcept nogil:
    """Return the next block, a new one if there is none. Without memory for one, start again: an access may end."""
    cdef pin_block *made
    if dbs_word_load(&block.next) == 0:
        made = new_block()
        if made == NULL:
            return &first_block
        while not dbs_word_replace(&block.next, 0, <uintptr_t>made):  # another thread has added one
            block = <pin_block *>dbs_word_load(&block.next)
    return <pin_block *>dbs_word_load(&block.next)


cdef void unpin(dbs_pin *held) noexcept nogil:
    cdef uintptr_t state = dbs_word_exchange(&held.state, 0)
    if rarely(state & REFERENCED):
        release_slowly(<PyObject *>(state - REFERENCED))


cdef void release(PyObject *object) noexcept with gil:
    Py_DECREF(<object>object)


# Pointers, so that the compiler does not inline what is called through them: `pin_object` and `unpin` then need not
# save any registers, which is a twentieth of the time of an access.
cdef Pin pin_slowly = pin_with_another
cdef Release release_slowly = <Release>release


cdef void refer_for_pins(PyObject *old) noexcept:
    """Take a reference for each access that has pinned `old`, which is no longer published."""
    cdef pin_block *block = &first_block
    cdef dbs_word *state
    cdef size_t index
    while block != NULL:
        for index in range(<size_t>PINS_OF_A_BLOCK):
            state = &block.pins[index].state
            if dbs_word_load(state) == <uintptr_t>old:
                Py_INCREF(<object>old)
                if not dbs_word_replace(state, <uintptr_t>old, <uintptr_t>old + REFERENCED):
                    Py_DECREF(<object>old)  # the access has ended
        block = <pin_block *>dbs_word_load(&block.next)


def unpin_for_other_threads():
    """End the accesses of the threads that a child process does not have."""
    cdef pin_block *block = &first_block
    cdef size_t index
    while block != NULL:
        for index in range(<size_t>PINS_OF_A_BLOCK):
            if block.pins[index].thread != &last_pin:
                unpin(&block.pins[index])
        block = <pin_block *>dbs_word_load(&block.next)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=unpin_for_other_threads)
