/* py_g_methods.c - the type Goroutine: what a program can ask of a handle. */
#include "py_g.h"
#include "py_wait.h"

#include <structmember.h>

static PyObject *
take_outcome(Goroutine *gp)
{
    if (gp->failed) {
        gp->asked = true;
        py_raise(Py_NewRef(gp->outcome));
        return NULL;
    }
    return Py_NewRef(gp->outcome ? gp->outcome : Py_None);
}

static PyObject *
g_join(Goroutine *gp, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (py_limits_parse(&limits, "join(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0)
        return NULL;
    if (py_g_ended(gp))
        return take_outcome(gp);
    Goroutine *me = py_current("Goroutine.join()");
    if (me == NULL)
        return NULL;
    if (gp->g.foreign) {
        PyErr_SetString(PyExc_RuntimeError, "this stands for a plain thread, which cannot be "
                        "joined as a goroutine: use Thread.join()");
        return NULL;
    }
    if (me == gp) {
        PyErr_SetString(PyExc_RuntimeError, "a goroutine cannot join itself: it would wait "
                        "for ever");
        return NULL;
    }
    if (gp == core->main_g) {
        PyErr_SetString(PyExc_RuntimeError, "the main goroutine cannot be joined: the program "
                        "ends with it");
        return NULL;
    }
    py_wait wait;
    if (py_wait_begin(&wait, &limits) < 0)
        return NULL;
    py_acquire(&gp->lock);
    if (py_g_ended(gp)) {
        py_release(&gp->lock);
        py_wait_end(&wait);
        return take_outcome(gp);
    }
    rt_g_arm(&me->g);
    py_waitq_push(&gp->joiners, &me->seat->waiter);
    py_release(&gp->lock);
    Py_INCREF(gp);              /* keeps the queue alive */
    uint32_t why = py_wait_park(me, PY_WAIT_JOIN, &wait);
    py_acquire(&gp->lock);
    py_waitq_remove(&me->seat->waiter);
    py_release(&gp->lock);
    py_wait_end(&wait);
    PyObject *result = NULL;
    if (why == RT_WAKE_READY)
        result = take_outcome(gp);
    else if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Goroutine.join()");
    Py_DECREF(gp);
    return result;
}

static PyObject *
g_done(Goroutine *gp, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(py_g_ended(gp));
}

static PyObject *
g_exception(Goroutine *gp, PyObject *Py_UNUSED(ignored))
{
    if (!py_g_ended(gp)) {
        PyErr_SetString(PyExc_RuntimeError, "the goroutine has not ended: join() it first");
        return NULL;
    }
    gp->asked = true;
    return Py_NewRef(gp->failed ? gp->outcome : Py_None);
}

static PyObject *
g_cancel(Goroutine *gp, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *exc = nargs == 1 && args[0] != Py_None ? args[0] : core->exc_cancelled;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "cancel() takes one argument: cancel(exc=None)");
        return NULL;
    }
    if (!PyExceptionInstance_Check(exc) && !PyExceptionClass_Check(exc)) {
        PyErr_Format(PyExc_TypeError, "cancel(exc): exc must be an exception, not %.200s",
                     Py_TYPE(exc)->tp_name);
        return NULL;
    }
    if (gp->g.foreign) {
        PyErr_SetString(PyExc_RuntimeError, "this stands for a plain thread, which cannot be "
                        "cancelled");
        return NULL;
    }
    exc = PyExceptionClass_Check(exc) ? PyObject_CallNoArgs(exc) : Py_NewRef(exc);
    if (exc == NULL)
        return NULL;
    if (!PyExceptionInstance_Check(exc)) {
        Py_DECREF(exc);
        PyErr_SetString(PyExc_TypeError, "cancel(exc): calling exc gave no exception");
        return NULL;
    }
    bool posted = py_cancel(gp, exc);
    Py_DECREF(exc);
    return PyBool_FromLong(posted);
}

PyObject *
py_g_name(Goroutine *gp)
{
    PyObject *name = __atomic_load_n(&gp->name, __ATOMIC_ACQUIRE);
    if (name != NULL)
        return Py_NewRef(name);
    if (gp == core->main_g)
        return PyUnicode_FromString("main");
    return PyUnicode_FromFormat("goroutine-%lld", (long long)gp->id);
}

static PyObject *
g_get_name(Goroutine *gp, void *Py_UNUSED(closure))
{
    PyObject *name = py_g_name(gp);
    if (name == NULL || gp->name != NULL)
        return name;
    /* Several threads may come here at once: the first name stays. */
    PyObject *none = NULL;
    gp->cold = true;
    if (__atomic_compare_exchange_n(&gp->name, &none, name, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return Py_NewRef(name);
    Py_DECREF(name);
    return Py_NewRef(none);
}

static PyObject *
g_get_state(Goroutine *gp, void *Py_UNUSED(closure))
{
    static const char *const names[] = {
        [RT_G_RUNNABLE] = "runnable", [RT_G_RUNNING] = "running",
        [RT_G_WAITING] = "waiting", [RT_G_DEAD] = "dead"};
    return PyUnicode_FromString(names[RT_LOAD(gp->g.status)]);
}

static PyObject *
g_get_wait_reason(Goroutine *gp, void *Py_UNUSED(closure))
{
    if (RT_LOAD(gp->g.status) != RT_G_WAITING)
        Py_RETURN_NONE;
    return PyUnicode_FromString(py_wait_reason(gp->g.reason));
}

static PyObject *
g_get_spawned_at(Goroutine *gp, void *Py_UNUSED(closure))
{
    if (gp->code == NULL)
        Py_RETURN_NONE;
    PyCodeObject *code = (PyCodeObject *)gp->code;
    return Py_BuildValue("(OiO)", code->co_filename, PyCode_Addr2Line(code, gp->lasti),
                         code->co_qualname);
}

static PyObject *
g_repr(Goroutine *gp)
{
    PyObject *name = g_get_name(gp, NULL), *state = g_get_state(gp, NULL), *repr = NULL;
    if (name != NULL && state != NULL)
        repr = PyUnicode_FromFormat("<Goroutine %lld %R %U>", (long long)gp->id, name, state);
    Py_XDECREF(name);
    Py_XDECREF(state);
    return repr;
}

static PyMethodDef g_methods[] = {
    {"join", (PyCFunction)(void (*)(void))g_join, METH_FASTCALL | METH_KEYWORDS,
     "join($self, timeout=None, *, ctx=None)\n--\n\n"
     "Wait until the goroutine has ended and return what its function returned.\n\n"
     "timeout is in seconds.  Raises what the function raised, TimeoutError when the\n"
     "time is up, RuntimeError when a goroutine joins itself."},
    {"done", (PyCFunction)g_done, METH_NOARGS,
     "done($self)\n--\n\nTrue once the goroutine has ended."},
    {"exception", (PyCFunction)g_exception, METH_NOARGS,
     "exception($self)\n--\n\n"
     "The exception an ended goroutine failed with, or None.\n\n"
     "Raises RuntimeError while it has not ended."},
    {"cancel", (PyCFunction)(void (*)(void))g_cancel, METH_FASTCALL,
     "cancel($self, exc=None, /)\n--\n\n"
     "Raise exc, by default Cancelled(), in the goroutine at its next blocking point.\n\n"
     "At once if it waits now; if it has not begun, its function never runs.  Its finally\n"
     "blocks run, and join() raises exc unless the goroutine catches it.  True if exc will\n"
     "be raised, False if the goroutine has ended or another exception is on its way."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     "Goroutine[T], for type checkers."},
    {0},
};
static PyGetSetDef g_getset[] = {
    {"name", (getter)g_get_name, NULL, "Its name, by default \"goroutine-<id>\".", NULL},
    {"state", (getter)g_get_state, NULL,
     "\"runnable\", \"running\", \"waiting\" or \"dead\".", NULL},
    {"wait_reason", (getter)g_get_wait_reason, NULL,
     "What a waiting goroutine waits for, in Go's words; None otherwise.", NULL},
    {"spawned_at", (getter)g_get_spawned_at, NULL,
     "(file name, line, function) of the go() that started it, or None.", NULL},
    {0},
};
static PyMemberDef g_members[] = {
    {"id", T_LONGLONG, offsetof(Goroutine, id), READONLY, "Its number, unique in the process."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Goroutine, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot g_slots[] = {
    {Py_tp_dealloc, py_g_dealloc},
    {Py_tp_finalize, py_g_finalize},
    {Py_tp_traverse, py_g_traverse},
    {Py_tp_clear, py_g_clear},
    {Py_tp_methods, g_methods},
    {Py_tp_getset, g_getset},
    {Py_tp_members, g_members},
    {Py_tp_repr, g_repr},
    {Py_tp_doc, "A goroutine, as returned by runtime.go()."},
    {0, NULL},
};
static PyType_Spec g_spec = {
    "runtime.Goroutine", sizeof(Goroutine), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
        | Py_TPFLAGS_IMMUTABLETYPE,
    g_slots};

int
py_g_init_types(PyObject *module)
{
    return py_add_type(module, &g_spec, &core->goroutine_type, true);
}
