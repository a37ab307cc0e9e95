/* py_orphan.c - what worker processes need: the Python side of rt_orphan.h, and a way to find out
 * whether a thread still comes back to the scheduler. */
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

static PyObject *
nothing_main(Goroutine *Py_UNUSED(gp))
{
    Py_RETURN_NONE;
}

/* Give a P's M something to do, which it alone can do: nothing. */
static PyObject *
m_nudge(PyObject *Py_UNUSED(module), PyObject *arg)
{
    unsigned long id = PyLong_AsUnsignedLong(arg);
    if (id == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    rt_p *pp = id <= RT_SPARE_P ? rt_p_by_id(&core->sched, (uint32_t)id) : NULL;
    if (pp == NULL)
        return PyErr_Format(PyExc_ValueError, "there is no P %lu", id);
    if (py_g_spawn_c(py_m_of(pp), nothing_main, py_g_run_at_once, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_watch_parent", m_watch_parent, METH_O, NULL},
    {"_orphan_grace", m_orphan_grace, METH_O, NULL},
    {"_nudge", m_nudge, METH_O, NULL},
    {0},
};

int
py_orphan_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
