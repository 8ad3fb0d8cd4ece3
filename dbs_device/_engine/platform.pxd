"""Code that Cython cannot express: C11 atomics, byte order, the internals of memoryviews, type names.

No file that other packages cimport may cimport this one: C++ has no C11 atomics.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t


cdef extern from * nogil:
    """
    #ifndef DBS_DEVICE_PLATFORM
    #define DBS_DEVICE_PLATFORM
    #include <stdatomic.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    /* A number that threads read and write unordered: values may be stale, but not torn. */
    typedef _Atomic uint32_t dbs_hint;
    static inline uint32_t dbs_hint_load(dbs_hint *hint) {
        return atomic_load_explicit(hint, memory_order_relaxed);
    }
    static inline void dbs_hint_store(dbs_hint *hint, uint32_t value) {
        atomic_store_explicit(hint, value, memory_order_relaxed);
    }

    typedef _Atomic uint64_t dbs_generation;
    static inline uint64_t dbs_generation_load(dbs_generation *generation) {
        return atomic_load_explicit(generation, memory_order_acquire);
    }
    static inline void dbs_generation_store(dbs_generation *generation, uint64_t value) {
        atomic_store_explicit(generation, value, memory_order_release);
    }

    /* An address or a number that threads exchange, in one order for all threads. */
    typedef _Atomic uintptr_t dbs_word;
    static inline uintptr_t dbs_word_load(dbs_word *word) { return atomic_load(word); }
    static inline void dbs_word_store(dbs_word *word, uintptr_t value) { atomic_store(word, value); }
    static inline uintptr_t dbs_word_exchange(dbs_word *word, uintptr_t value) { return atomic_exchange(word, value); }
    static inline int dbs_word_replace(dbs_word *word, uintptr_t expected, uintptr_t value) {
        return atomic_compare_exchange_strong(word, &expected, value);
    }

    /* Aligned so that no two share a cache line, nor two neighbouring lines, which processors fetch together. */
    typedef struct {
        _Alignas(128) dbs_word state;
        PyObject *object;
        const void *thread;
    } dbs_pin;

    /* Held for a handful of instructions only, so that waiters spin. Its value is 0, or 1 plus the number of forks
       before this process when it was taken: if that was before the last fork, by a thread that the child does not
       have, it is free. */
    typedef _Atomic uint32_t dbs_spinlock;
    static inline void dbs_spinlock_init(dbs_spinlock *lock) { atomic_init(lock, 0); }
    static inline void dbs_spinlock_acquire(dbs_spinlock *lock, uint32_t forks) {
        uint32_t holder = 0;
        while (!atomic_compare_exchange_weak_explicit(lock, &holder, forks + 1, memory_order_acquire,
                                                      memory_order_relaxed)) {
            if (holder == forks + 1) {
                holder = 0;
            }
        }
    }
    static inline void dbs_spinlock_release(dbs_spinlock *lock) {
        atomic_store_explicit(lock, 0, memory_order_release);
    }

    /* An integer from `size` (1, 2, 4, 8) bytes, loaded in one piece: a device has most likely written them in one, and
       a wider load than the store before it stalls the processor. The compiler turns the shifts into one load, with a
       byte swap for the other order. */
    static inline uint64_t dbs_integer_of_bytes(const uint8_t *b, size_t size, int big_endian) {
        switch (size) {
        case 1:
            return b[0];
        case 2:
            return big_endian ? (uint16_t)(b[1] | b[0] << 8) : (uint16_t)(b[0] | b[1] << 8);
        case 4:
            return big_endian ? (uint32_t)b[3] | (uint32_t)b[2] << 8 | (uint32_t)b[1] << 16 | (uint32_t)b[0] << 24
                              : (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        default:
            return big_endian ? (uint64_t)b[7] | (uint64_t)b[6] << 8 | (uint64_t)b[5] << 16 | (uint64_t)b[4] << 24 |
                                    (uint64_t)b[3] << 32 | (uint64_t)b[2] << 40 | (uint64_t)b[1] << 48 |
                                    (uint64_t)b[0] << 56
                              : (uint64_t)b[0] | (uint64_t)b[1] << 8 | (uint64_t)b[2] << 16 | (uint64_t)b[3] << 24 |
                                    (uint64_t)b[4] << 32 | (uint64_t)b[5] << 40 | (uint64_t)b[6] << 48 |
                                    (uint64_t)b[7] << 56;
        }
    }
    /* The reverse: all eight bytes are written, of which the first `size` are the integer, masked to its size. */
    static inline void dbs_bytes_of_integer(uint64_t value, size_t size, int big_endian, uint8_t *bytes) {
        int i;
        if (big_endian) {
            value <<= 64 - 8 * size;
            for (i = 0; i < 8; i++) bytes[i] = (uint8_t)(value >> (56 - 8 * i));
        } else {
            for (i = 0; i < 8; i++) bytes[i] = (uint8_t)(value >> (8 * i));
        }
    }

    /* Whether nothing else can reach the memory of a memoryview of which the caller holds the view and the exporter:
       there is no other view of its managed buffer (a slice or a cast), no buffer taken from it, no weak reference, and
       no reference to the exporter but the caller's and the managed buffer's. A released view cannot be reused, nor can
       one that was hashed, since it caches the hash.
       Free-threaded builds have no cheap way to tell: there, the answer is no. */
    static inline int dbs_view_is_unshared(PyObject *view) {
    #ifdef Py_GIL_DISABLED
        (void)view;
        return 0;
    #else
        PyMemoryViewObject *self = (PyMemoryViewObject *)view;
        return Py_REFCNT(view) == 1 && self->exports == 0 && self->weakreflist == NULL && self->hash == -1 &&
               !(self->flags & _Py_MEMORYVIEW_RELEASED) && self->mbuf->exports == 1 && Py_REFCNT(self->mbuf) == 1 &&
               Py_REFCNT(self->mbuf->master.obj) == 2;
    #endif
    }
    /* Make a memoryview that nobody else has one of bytes, so that it can be cast to one dimension whatever its format,
       and on request read-only. Then it does not show the exporter either, through which the memory can be written;
       its managed buffer holds that. */
    static inline void dbs_view_as_bytes(PyObject *view, int read_only) {
        Py_buffer *buffer = PyMemoryView_GET_BUFFER(view);
        buffer->format = (char *)"B";
        if (read_only) {
            buffer->readonly = 1;
            buffer->obj = NULL;
        }
    }

    /* The memory of the usual buffers without the buffer protocol, which takes a third of the time of a small access: a
       memoryview that can be passed to a device unchanged (flat, unsigned bytes, writable for a read and read-only for
       a write, not released), bytes to be written, or a bytearray to be read into. Anything else, or an empty buffer,
       is DBS_OTHER. Until the memory is used, no Python code may run. On free-threaded builds, another thread could
       release or resize it in the meantime, so that they use the protocol. */
    enum { DBS_OTHER, DBS_FLAT_VIEW, DBS_BYTES };
    static inline int dbs_usual_memory(PyObject *object, int for_read, uint8_t **memory, size_t *size) {
    #ifndef Py_GIL_DISABLED
        if (PyMemoryView_Check(object)) {
            PyMemoryViewObject *self = (PyMemoryViewObject *)object;
            *memory = (uint8_t *)self->view.buf;
            *size = (size_t)self->view.len;
            if (self->view.ndim == 1 && self->view.strides[0] == 1 && self->view.suboffsets == NULL &&
                self->view.format[0] == 'B' && self->view.format[1] == 0 && self->view.readonly != for_read &&
                self->view.len > 0 && !(self->flags & _Py_MEMORYVIEW_RELEASED) &&
                !(self->mbuf->flags & _Py_MANAGED_BUFFER_RELEASED)) {
                return DBS_FLAT_VIEW;
            }
        } else if (for_read ? PyByteArray_CheckExact(object) : PyBytes_CheckExact(object)) {
            *memory = (uint8_t *)(for_read ? PyByteArray_AS_STRING(object) : PyBytes_AS_STRING(object));
            *size = (size_t)Py_SIZE(object);
            if (*size > 0) {
                return DBS_BYTES;
            }
        }
    #else
        (void)object; (void)for_read; (void)memory; (void)size;
    #endif
        return DBS_OTHER;
    }

    /* Give `object`, an instance of a subclass of int without attributes, another value, if the caller's reference is
       the only one. Returns whether it did.
       An int is immutable to those who can see it. With one reference, the caller's, nobody else can: CPython has no
       weak references to variable-sized objects, and an int does not store its hash. enumerate and zip reuse their
       tuples by the same rule. What follows the header is copied from an int of the new value, as int.__new__ does for
       a subclass; the memory suffices for the same number of digits. Both values must be above those of small ints. */
    static inline int dbs_replace_int(PyObject *object, uint64_t old_value, uint64_t value) {
    #ifdef Py_GIL_DISABLED
        (void)object; (void)old_value; (void)value;
        return 0;
    #else
        Py_ssize_t digits = 1;
        uint64_t rest = value >> PyLong_SHIFT;
        PyObject *plain;
        for (old_value >>= PyLong_SHIFT; rest != 0 && old_value != 0; digits++) {
            rest >>= PyLong_SHIFT;
            old_value >>= PyLong_SHIFT;
        }
        if (rest != 0 || old_value != 0 || Py_REFCNT(object) != 1) {
            return 0;
        }
        plain = PyLong_FromUnsignedLongLong(value);
        if (plain == NULL) {
            PyErr_Clear();
            return 0;
        }
        memcpy((char *)object + sizeof(PyObject), (char *)plain + sizeof(PyObject),
               (size_t)(PyLong_Type.tp_basicsize + digits * PyLong_Type.tp_itemsize) - sizeof(PyObject));
        Py_DECREF(plain);
        return 1;
    #endif
    }

    /* A critical section of CPython around code that raises nothing; empty on builds with a GIL. */
    #ifdef Py_GIL_DISABLED
    typedef PyCriticalSection dbs_critical_section;
    #define dbs_critical_section_begin(section, object) PyCriticalSection_Begin(section, object)
    #define dbs_critical_section_end(section) PyCriticalSection_End(section)
    #else
    typedef char dbs_critical_section;
    #define dbs_critical_section_begin(section, object) ((void)(section))
    #define dbs_critical_section_end(section) ((void)(section))
    #endif

    /* To be called before an exception leaves a `with gil` function. On a thread that Python does not know, releasing
       the GIL would delete the thread state, and the exception with it: the state is retained for the rest of the
       thread's life, so that the caller finds the exception. Only on such a thread is the count 1: on a thread that
       Python knows it starts at 1, and a `with gil` function adds one. */
    static inline void dbs_keep_thread_state(void) {
        if (PyThreadState_Get()->gilstate_counter == 1) {
            PyGILState_Ensure();
        }
    }

    /* Have the compiler rely on a condition: it is undefined behaviour if that does not hold. */
    static inline void dbs_rely_on(int condition) {
        if (!condition) {
            __builtin_unreachable();
        }
    }

    static inline void dbs_set_type_name(PyTypeObject *type, const char *name) { type->tp_name = name; }
    #endif
    """
    ctypedef struct dbs_hint:
        pass
    uint32_t dbs_hint_load(dbs_hint *hint) noexcept
    void dbs_hint_store(dbs_hint *hint, uint32_t value) noexcept

    ctypedef struct dbs_generation:
        pass
    uint64_t dbs_generation_load(dbs_generation *generation) noexcept
    void dbs_generation_store(dbs_generation *generation, uint64_t value) noexcept

    ctypedef struct dbs_word:
        pass
    uintptr_t dbs_word_load(dbs_word *word) noexcept
    void dbs_word_store(dbs_word *word, uintptr_t value) noexcept
    uintptr_t dbs_word_exchange(dbs_word *word, uintptr_t value) noexcept
    bint dbs_word_replace(dbs_word *word, uintptr_t expected, uintptr_t value) noexcept

    ctypedef struct dbs_pin:
        dbs_word state
        PyObject *object
        const void *thread

    ctypedef struct dbs_spinlock:
        pass
    void dbs_spinlock_init(dbs_spinlock *lock) noexcept
    void dbs_spinlock_acquire(dbs_spinlock *lock, uint32_t forks) noexcept
    void dbs_spinlock_release(dbs_spinlock *lock) noexcept

    void dbs_rely_on(bint condition) noexcept
    uint64_t dbs_integer_of_bytes(const uint8_t *data, size_t size, bint big_endian) noexcept
    void dbs_bytes_of_integer(uint64_t value, size_t size, bint big_endian, uint8_t *data) noexcept


cdef extern from *:
    void dbs_view_as_bytes(object view, bint read_only) noexcept
    bint dbs_view_is_unshared(PyObject *view) noexcept  # a pointer: for an object, Cython would add a reference

    cdef enum:
        DBS_OTHER
        DBS_FLAT_VIEW
        DBS_BYTES
    int dbs_usual_memory(object data, bint for_read, uint8_t **memory, size_t *size) noexcept

    bint dbs_replace_int(PyObject *object, uint64_t old_value, uint64_t value) noexcept

    ctypedef struct dbs_critical_section:
        pass
    void dbs_critical_section_begin(dbs_critical_section *section, PyObject *object) noexcept
    void dbs_critical_section_end(dbs_critical_section *section) noexcept

    void dbs_keep_thread_state() noexcept
    void dbs_set_type_name(PyTypeObject *type, const char *name) noexcept


cdef inline void set_public_name(type cls, const char *name) noexcept:
    """Have a compiled class report the public module that it is imported from, not the private one that defines it.

    Static types derive `__module__` from their name, a literal since the type keeps the pointer, and it cannot be set.
    """
    dbs_set_type_name(<PyTypeObject *>cls, name)
