/* An engine in C that takes callbacks, and calls them from a thread that Python does not know. */
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

static PyMethodDef methods[] = {
    {"run_on_foreign_thread", run_on_foreign_thread, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "engine", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_engine(void) {
    api = dbs_device_import();
    return api == NULL ? NULL : PyModule_Create(&definition);
}
