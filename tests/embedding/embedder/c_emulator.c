/* An emulator in C that takes callbacks, and calls them from a thread that Python does not know. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dbs_device.h>
#include <pthread.h>

static const dbs_device_api *api;

typedef struct {
    void *handle;
    uint64_t address;
    unsigned size;
    unsigned long count;
    uint64_t sum;
} run_t;

static void *run(void *argument) {
    run_t *run = argument;
    for (unsigned long i = 0; i < run->count; i++) {
        api->mmio_store(run->handle, run->address, run->size, i);
        run->sum += api->mmio_load(run->handle, run->address, run->size);
    }
    return NULL;
}

/* run_on_foreign_thread(manager, base, address, size, count) -> (sum of what was read, exception or None) */
static PyObject *run_on_foreign_thread(PyObject *module, PyObject *arguments) {
    PyObject *manager;
    unsigned long long base, address;
    run_t state = {0};
    pthread_t thread;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OKKIk", &manager, &base, &address, &state.size, &state.count)) {
        return NULL;
    }
    state.address = address;
    state.handle = api->create(manager, base);
    if (state.handle == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    if (pthread_create(&thread, NULL, run, &state) == 0) {
        pthread_join(thread, NULL);
    }
    Py_END_ALLOW_THREADS
    int has_exception = api->has_exception(state.handle);
    PyObject *error = api->pop_exception(state.handle);
    if ((error != NULL) != has_exception) {
        PyErr_SetString(PyExc_AssertionError, "has_exception and pop_exception disagree");
        Py_XDECREF(error);
        error = NULL;
    } else if (error == NULL) {
        error = Py_NewRef(Py_None);
    }
    api->destroy(state.handle);
    return error == NULL ? NULL : Py_BuildValue("(KN)", (unsigned long long)state.sum, error);
}

/* record(manager, recorder, base, address, size, value) -> exception or None: one store and one load, recorded */
static PyObject *record(PyObject *module, PyObject *arguments) {
    PyObject *manager, *recorder, *error;
    unsigned long long base, address, value;
    unsigned size;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOKKIK", &manager, &recorder, &base, &address, &size, &value)) {
        return NULL;
    }
    void *handle = api->create(manager, base);
    if (handle == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    api->mmio_store(handle, address, size, value);
    api->record(handle, recorder, 1, 1, address, size, value);
    value = api->mmio_load(handle, address, size);
    api->record(handle, recorder, 1, 0, address, size, value);
    Py_END_ALLOW_THREADS
    error = api->pop_exception(handle);
    while (api->has_exception(handle)) {
        Py_XDECREF(api->pop_exception(handle));
    }
    api->destroy(handle);
    return error == NULL ? Py_NewRef(Py_None) : error;
}

/* load_and_destroy(manager, address) -> int: one load of 4 bytes, after which the handle is destroyed as it is */
static PyObject *load_and_destroy(PyObject *module, PyObject *arguments) {
    PyObject *manager;
    unsigned long long address;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OK", &manager, &address)) {
        return NULL;
    }
    void *handle = api->create(manager, 0);
    if (handle == NULL) {
        return NULL;
    }
    uint64_t value = api->mmio_load(handle, address, 4);
    api->destroy(handle);
    return PyLong_FromUnsignedLongLong(value);
}

static PyMethodDef methods[] = {
    {"run_on_foreign_thread", run_on_foreign_thread, METH_VARARGS, NULL},
    {"record", record, METH_VARARGS, NULL},
    {"load_and_destroy", load_and_destroy, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "c_emulator", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_c_emulator(void) {
    api = dbs_device_import();
    return api == NULL ? NULL : PyModule_Create(&definition);
}
