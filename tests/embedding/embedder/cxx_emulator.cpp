// An emulator in C++ whose virtual CPUs run on threads of their own and share one handle.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dbs_device.h>

#include <memory>
#include <thread>
#include <vector>

namespace {

const dbs_device_api *api;

struct Destroy {
    void operator()(void *handle) const { api->destroy(handle); }
};
using Handle = std::unique_ptr<void, Destroy>;

// Increments a byte-sized register of its own, as long as no device has raised.
std::uint64_t run_cpu(void *handle, std::uint64_t address, unsigned long count) {
    std::uint64_t done = 0;
    for (; done < count && !api->has_exception(handle); done++) {
        std::uint64_t value = api->mmio_load(handle, address, 1);
        api->mmio_store(handle, address, 1, value + 1);
    }
    return done;
}

// run_cpus(manager, base, cpus, count) -> (increments of each CPU, exception or None); CPU i has the register at i
PyObject *run_cpus(PyObject *, PyObject *arguments) {
    PyObject *manager;
    unsigned long long base;
    unsigned cpus;
    unsigned long count;
    if (!PyArg_ParseTuple(arguments, "OKIk", &manager, &base, &cpus, &count)) {
        return nullptr;
    }
    Handle handle(api->create(manager, base));
    if (!handle) {
        return nullptr;
    }
    std::vector<std::uint64_t> done(cpus);
    PyThreadState *state = PyEval_SaveThread();
    {
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < cpus; i++) {
            threads.emplace_back([&, i] { done[i] = run_cpu(handle.get(), i, count); });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    }
    PyEval_RestoreThread(state);
    PyObject *list = PyList_New(static_cast<Py_ssize_t>(done.size()));
    if (list == nullptr) {
        return nullptr;
    }
    for (std::size_t i = 0; i < done.size(); i++) {
        PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i), PyLong_FromUnsignedLongLong(done[i]));
    }
    PyObject *error = api->pop_exception(handle.get());
    // Other CPUs may have had an access in progress when the first one failed.
    while (PyObject *later = api->pop_exception(handle.get())) {
        Py_DECREF(later);
    }
    return Py_BuildValue("(NN)", list, error == nullptr ? Py_NewRef(Py_None) : error);
}

PyMethodDef methods[] = {
    {"run_cpus", run_cpus, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "cxx_emulator", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit_cxx_emulator() {
    api = dbs_device_import();
    return api == nullptr ? nullptr : PyModule_Create(&definition);
}
