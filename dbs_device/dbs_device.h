/* The bus for C and C++: function pointers for emulators that call C functions.
 *
 *     #include <Python.h>
 *     #include <dbs_device.h>            // in the directory that dbs_device.get_include() names
 *
 *     const dbs_device_api *api = dbs_device_import();    // GIL held; NULL with an exception set
 *     void *handle = api->create(manager, 0);             // GIL held; NULL with an exception set
 *     uint64_t value = api->mmio_load(handle, 0xfee00000, 4);    // from any thread, with or without the GIL
 *     if (api->has_exception(handle)) { ... api->pop_exception(handle) ... }
 *     api->destroy(handle);                               // GIL held
 *
 * A handle owns a reference to its IoManager and dispatches on the ranges that the manager has at the moment of each
 * call. Destroy it when no call on it is under way.
 *
 * On a thread that Python does not know, each access takes the GIL, unless the thread has a Python thread state: call
 * PyGILState_Ensure() and PyEval_SaveThread() when it starts, PyEval_RestoreThread() and PyGILState_Release() when it
 * ends. Accesses to native devices then run without the GIL.
 *
 * An access never leaves an exception set. One that a device raises, or that a wrong size raises (sizes are 1, 2, 4 and
 * 8 bytes, for ports 1, 2 and 4), is latched in the handle, with its traceback, and the load gives 0. While one is
 * pending, no device is called through the handle: loads give 0, stores do nothing. pop_exception() removes and returns
 * it. Those that are pending when the handle is destroyed are passed to sys.unraisablehook.
 *
 * When no device owns an address, or `base` takes it past the end of the space, loads give the manager's open-bus byte
 * in every place, or 0 if it has none, and stores do nothing; that is not an exception, unless refuse_unowned() says so.
 * Values to be stored are masked to their size.
 */
#ifndef DBS_DEVICE_H
#define DBS_DEVICE_H

#include <Python.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DBS_DEVICE_ABI_VERSION 1
#define DBS_DEVICE_CAPSULE "dbs_device.c_api"

/* As long as the version is the same, members are added at the end, and nothing else changes. */
typedef struct dbs_device_api {
    uint32_t abi_version; /* DBS_DEVICE_ABI_VERSION of the loaded package */
    uint32_t struct_size; /* sizeof(dbs_device_api) of the loaded package */

    /* These need the GIL. `base` is added to the addresses of mmio_load and mmio_store, and of their uc_ twins. */
    void *(*create)(PyObject *manager, uint64_t base);
    void (*destroy)(void *handle);
    /* Removes the oldest pending exception and returns a new reference to it, or NULL, without an exception set. */
    PyObject *(*pop_exception)(void *handle);

    /* These do not need it, and may be called from any thread. */
    int (*has_exception)(void *handle);
    uint64_t (*mmio_load)(void *handle, uint64_t addr, unsigned size);
    void (*mmio_store)(void *handle, uint64_t addr, unsigned size, uint64_t value);
    uint64_t (*pio_in)(void *handle, uint64_t port, unsigned size);
    void (*pio_out)(void *handle, uint64_t port, unsigned size, uint64_t value);

    /* The same in the shapes of Unicorn's uc_cb_mmio_read_t, uc_cb_mmio_write_t, uc_cb_insn_in_t, uc_cb_insn_out_t,
       with the handle as user data. Create the handle with the address of the mapping as its base. */
    uint64_t (*uc_mmio_load)(void *uc, uint64_t offset, unsigned size, void *handle);
    void (*uc_mmio_store)(void *uc, uint64_t offset, unsigned size, uint64_t value, void *handle);
    uint32_t (*uc_pio_in)(void *uc, uint32_t port, int size, void *handle);
    void (*uc_pio_out)(void *uc, uint32_t port, int size, uint32_t value, void *handle);

    /* `count` items of `size` bytes of one port, as REP INS and REP OUTS access it: the GIL is taken once for all. Each
       item is an access of its own, and goes by the ranges that the manager has then. They return how many items were
       done; fewer than `count` only while an exception is pending, and the rest of `data` is zero then. */
    size_t (*pio_in_string)(void *handle, uint64_t port, unsigned size, uint8_t *data, size_t count);
    size_t (*pio_out_string)(void *handle, uint64_t port, unsigned size, const uint8_t *data, size_t count);

    /* From now on, unowned accesses follow the manager's rule, as those of Python do: unless its bus is open, each
       latches a NoDeviceError. With refuse = 0, the default, none does. Call it while no access is under way. */
    void (*refuse_unowned)(void *handle, int refuse);

    /* Append an access that was made through the handle to a dbs_device.trace.TraceRecorder, a borrowed reference, if
       it is enabled: the value that was loaded or stored, of 1 to 8 bytes. Only accesses that were served belong in a
       trace: call it where no exception is pending. It latches one if it is not a recorder, or without memory.
       While the handle has one, it does nothing. */
    void (*record)(void *handle, PyObject *recorder, int is_mmio, int is_write, uint64_t addr, unsigned size,
                   uint64_t value);
} dbs_device_api;

/* Import the package, with the GIL held. NULL, with an ImportError set, unless the package has the version and all the
   members that this header declares. */
static inline const dbs_device_api *dbs_device_import(void) {
    const dbs_device_api *api = (const dbs_device_api *)PyCapsule_Import(DBS_DEVICE_CAPSULE, 0);
    if (api == NULL) {
        return NULL;
    }
    if (api->abi_version != DBS_DEVICE_ABI_VERSION) {
        PyErr_Format(PyExc_ImportError,
                     "built against version %d of the C interface of dbs_device; the installed package has version %d: "
                     "rebuild",
                     (int)DBS_DEVICE_ABI_VERSION, (int)api->abi_version);
        return NULL;
    }
    if (api->struct_size < sizeof(dbs_device_api)) {
        PyErr_SetString(PyExc_ImportError, "built against a newer dbs_device than the installed one: upgrade it");
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
