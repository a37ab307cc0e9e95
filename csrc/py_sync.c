/* py_sync.c - see py_sync.h. */
#include "py_sync.h"

void
py_sync_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_ClearWeakRefs(self);
    type->tp_free(self);
    Py_DECREF(type);
}

void
py_sync_dealloc_gc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, py_sync_dealloc_gc)
    PyObject_ClearWeakRefs(self);
    type->tp_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

int
py_amount_parse(int64_t *n, py_limits *limits, const char *usage, PyObject *const *args,
                Py_ssize_t nargs, PyObject *kwnames)
{
    *n = 1;
    if (nargs > 0) {
        *n = PyLong_AsLongLong(args[0]);
        if (*n == -1 && PyErr_Occurred())
            return -1;
    }
    return py_limits_parse(limits, usage, nargs > 0, args, nargs, kwnames);
}

int
py_sync_init_types(PyObject *module)
{
    if (py_mutex_init_types(module) < 0 || py_rwmutex_init_types(module) < 0
        || py_waitgroup_init_types(module) < 0 || py_once_init_types(module) < 0
        || py_cond_init_types(module) < 0 || py_sema_init_types(module) < 0
        || py_event_init_types(module) < 0 || py_atomic_init_types(module) < 0
        || py_map_init_types(module) < 0 || py_shed_init_types(module) < 0)
        return -1;
    return 0;
}
