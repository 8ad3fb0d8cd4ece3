"""Guests of the stress: loops that access the bus from C, on threads that Python knows and on others."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from dbs_device._bus cimport (
    IoManager,
    IoTables,
    NativeDevice,
    c_check_abi,
    c_manager_mmio_load,
    c_manager_mmio_read,
    c_manager_mmio_store,
    c_manager_mmio_write,
    c_manager_pio_in,
    c_mmio_load,
    c_mmio_read,
    c_mmio_store,
    c_pio_in,
    c_pio_in_string,
    c_pio_out,
    c_tables_are_current,
)

c_check_abi()


ctypedef void *(*Start)(void *argument) noexcept nogil


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t *thread, const void *attributes, Start start, void *argument)
    int pthread_join(pthread_t thread, void **result)


cdef extern from "dbs_device.h" nogil:
    ctypedef struct dbs_device_api:
        void *(*create)(PyObject *manager, uint64_t base) except NULL
        void (*destroy)(void *handle) noexcept
        int (*has_exception)(void *handle) noexcept nogil
        uint64_t (*mmio_load)(void *handle, uint64_t addr, unsigned size) noexcept nogil
        void (*mmio_store)(void *handle, uint64_t addr, unsigned size, uint64_t value) noexcept nogil
        uint64_t (*pio_in)(void *handle, uint64_t port, unsigned size) noexcept nogil
    const dbs_device_api *dbs_device_import() except NULL


cdef const dbs_device_api *api = dbs_device_import()


cdef class Token(NativeDevice):
    """Reads as its number, and as something else once it is freed or when it is called with another base."""

    cdef uint64_t number
    cdef uint64_t base

    def __cinit__(self, uint64_t number, uint64_t base):
        self.number = number
        self.base = base

    def __dealloc__(self):
        self.number = self.base = <uint64_t>-1

    cdef int c_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        cdef uint64_t value = self.number if base == self.base else <uint64_t>-1
        memcpy(data, &value, size if size < sizeof(value) else sizeof(value))
        return 0

    cdef int c_pio_read(self, uint64_t base, uint64_t offset, uint8_t *data, size_t size) except -1 nogil:
        return self.c_read(base, offset, data, size)


cdef enum:
    # Where the tests' manager has what: see stress.py.
    TOKEN_PORT = 0x100
    STRING_PORT = 0x200
    MOST_TOKENS = 1 << 30


cdef uint64_t TOKEN = 0x1000
cdef uint64_t BANK = 0x2000
cdef uint64_t PYTHON = 0x3000
cdef uint64_t MEMORY = 0x4000
cdef uint64_t PLUGGED = 0x8000


cdef struct Guest:
    PyObject *manager
    PyObject *tables  # held by a guest that Python knows
    void *handle
    size_t rounds
    size_t python_every  # rounds between accesses to Python devices
    size_t errors
    uint64_t last


cdef inline int check_token(Guest *guest, int result, uint64_t number) noexcept nogil:
    """Count an error unless a token has answered that is not older than the one before."""
    if result != 0 or number < guest.last or number > MOST_TOKENS:
        guest.errors += 1
    else:
        guest.last = number
    return 0


cdef void access_manager(Guest *guest, size_t round) noexcept nogil:
    cdef uint64_t value = 0
    cdef uint8_t data[8]
    check_token(guest, c_manager_mmio_load(<IoManager>guest.manager, TOKEN, 8, &value), value)
    check_token(guest, c_manager_pio_in(<IoManager>guest.manager, TOKEN_PORT, 4, &value), value)
    if c_manager_mmio_store(<IoManager>guest.manager, BANK + 4 * (round & 3), 4, round) != 0:
        guest.errors += 1
    if c_manager_mmio_load(<IoManager>guest.manager, PLUGGED + 0x100 * (round & 7), 4, &value) not in (0, 1):
        guest.errors += 1
    if c_manager_mmio_read(<IoManager>guest.manager, BANK, data, 8) != 0:
        guest.errors += 1
    if round % guest.python_every == 0:
        if c_manager_mmio_load(<IoManager>guest.manager, PYTHON, 4, &value) != 0 or value != 0x5A:
            guest.errors += 1
        if c_manager_mmio_write(<IoManager>guest.manager, PYTHON, data, 8) != 0:
            guest.errors += 1


cdef void access_handle(Guest *guest, size_t round) noexcept nogil:
    check_token(guest, 0, api.mmio_load(guest.handle, TOKEN, 8))
    check_token(guest, 0, api.pio_in(guest.handle, TOKEN_PORT, 4))
    api.mmio_store(guest.handle, BANK + 4 * (round & 3), 4, round)
    api.mmio_load(guest.handle, PLUGGED + 0x100 * (round & 7), 4)
    if round % guest.python_every == 0 and api.mmio_load(guest.handle, PYTHON, 4) != 0x5A:
        guest.errors += 1
    if api.has_exception(guest.handle):
        guest.errors += 1


cdef void access_tables(Guest *guest, IoManager manager, IoTables tables, size_t round) noexcept nogil:
    """Both spaces of held tables have the same token."""
    cdef uint64_t value = 0, same = 0
    cdef size_t done = 0
    cdef uint8_t data[16]
    check_token(guest, c_mmio_load(tables, TOKEN, 8, &value), value)
    if c_pio_in(tables, TOKEN_PORT, 4, &same) != 0 or same != value:
        guest.errors += 1
    if c_mmio_store(tables, BANK + 4 * (round & 3), 4, round) != 0 or c_mmio_read(tables, BANK, data, 16) != 0:
        guest.errors += 1
    if c_mmio_store(tables, MEMORY + 8 * (round & 3), 8, round) != 0 or c_mmio_load(tables, MEMORY, 8, &value) != 0:
        guest.errors += 1
    if c_pio_out(tables, STRING_PORT, 1, round) != 0:
        guest.errors += 1
    if c_pio_in_string(manager, tables, STRING_PORT, 4, data, 4, &done) != 0:
        guest.errors += 1
    if c_mmio_load(tables, PLUGGED + 0x100 * (round & 7), 4, &value) not in (0, 1):
        guest.errors += 1
    if round % guest.python_every == 0 and (c_mmio_load(tables, PYTHON, 4, &value) != 0 or value != 0x5A):
        guest.errors += 1


cdef void *run_unknown(void *argument) noexcept nogil:
    cdef Guest *guest = <Guest *>argument
    cdef size_t round
    for round in range(guest.rounds):
        access_manager(guest, round)
        access_handle(guest, round)
    return NULL


def run_on_unknown_thread(IoManager manager, size_t rounds, size_t python_every):
    """Access the manager, and a handle on it, on a thread that Python does not know; return the number of errors."""
    cdef pthread_t thread
    cdef Guest guest = Guest(<PyObject *>manager, NULL, NULL, rounds, python_every, 0, 0)
    guest.handle = api.create(<PyObject *>manager, 0)
    try:
        with nogil:
            pthread_create(&thread, NULL, run_unknown, &guest)
            pthread_join(thread, NULL)
    finally:
        api.destroy(guest.handle)
    return guest.errors


def run_here(IoManager manager, size_t rounds, size_t python_every):
    """Access the manager and held tables without the GIL; return the number of errors."""
    cdef IoTables tables = manager.tables()
    cdef Guest guest = Guest(<PyObject *>manager, NULL, NULL, rounds, python_every, 0, 0)
    cdef size_t round
    with nogil:
        for round in range(rounds):
            if not c_tables_are_current(manager, tables):
                with gil:
                    tables = manager.tables()
            access_tables(&guest, manager, tables, round)
            # The manager's tables may be newer, and a round with older ones follows.
            access_manager(&guest, round)
            guest.last = 0
    return guest.errors
