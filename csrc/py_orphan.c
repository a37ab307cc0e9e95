/* py_orphan.c - the Python side of rt_orphan.h, for worker processes. */
#include "py_core.h"
#include "rt_orphan.h"

#include <errno.h>

static PyObject *
m_watch_parent(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = (int)PyLong_AsLong(arg);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    int err = rt_orphan_watch(fd);
    if (err < 0) {
        errno = -err;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *
m_orphan_grace(PyObject *Py_UNUSED(module), PyObject *arg)
{
    double seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    rt_orphan_set_grace(seconds < 1e9 ? (int64_t)(seconds * 1e9) : INT64_MAX);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_watch_parent", m_watch_parent, METH_O, NULL},
    {"_orphan_grace", m_orphan_grace, METH_O, NULL},
    {0},
};

int
py_orphan_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
