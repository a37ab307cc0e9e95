/* py_once.c - Once. */
#include "py_sync.h"
#include "py_waits.h"

#include <structmember.h>

enum {NEW, RUNNING, DONE};      /* Once.state */

typedef struct {
    PyObject_HEAD
    _Atomic uint8_t state;      /* written under lock; DONE is what others may rely on: it is
                                   stored with release */
    py_lock lock;               /* guards waiters and owner */
    py_waitq waiters;
    Goroutine *owner;           /* borrowed: runs the function, or NULL */
    PyObject *weakrefs;
} Once;

static inline bool
once_done(Once *once)
{
    return atomic_load_explicit(&once->state, memory_order_acquire) == DONE;
}

PyObject *
py_once_of_queue(py_waitq *q)
{
    return (PyObject *)RT_CONTAINER_OF(q, Once, waiters);
}

int64_t
py_once_holder(PyObject *op)
{
    const Once *once = (Once *)op;
    return once->owner != NULL ? once->owner->id : 0;
}

static PyObject *
once_run(Once *once, PyObject *fn)
{
    py_waitq woken = {0};
    PyObject *result = PyObject_CallNoArgs(fn);
    py_acquire(&once->lock);
    once->owner = NULL;
    atomic_store_explicit(&once->state, DONE, memory_order_release);
    py_waitq_claim_all(&once->waiters, RT_WAKE_READY, &woken);
    py_release(&once->lock);
    py_ready_all(&woken);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static PyObject *
once_do_slow(Once *once, PyObject *fn, const py_limits *limits)
{
    py_wait wait;
    if (!PyCallable_Check(fn)) {
        PyErr_Format(PyExc_TypeError, "Once.do() needs a callable, got %.200s; write once.do(f), "
                     "not once.do(f())", Py_TYPE(fn)->tp_name);
        return NULL;
    }
    Goroutine *gp = py_current("Once.do()");
    if (gp == NULL || py_wait_begin(&wait, limits) < 0)
        return NULL;
    rt_g_arm(&gp->g);
    py_acquire(&once->lock);
    uint8_t state = RT_LOAD(once->state);
    bool mine = once->owner == gp;
    if (state == NEW) {
        RT_STORE(once->state, RUNNING);
        once->owner = gp;
    }
    else if (state == RUNNING && !mine)
        py_waitq_push(&once->waiters, &gp->seat->waiter);
    py_release(&once->lock);
    if (state != RUNNING || mine) {
        py_stay(gp);
        py_wait_end(&wait);
        if (state == NEW)
            return once_run(once, fn);
        if (state == DONE)
            Py_RETURN_NONE;
        PyErr_SetString(PyExc_RuntimeError, "Once.do() is called by the function that it runs, "
                        "which would wait for itself");
        return NULL;
    }
    uint32_t why = py_wait_park(gp, PY_WAIT_ONCE, &wait);
    if (RT_UNLIKELY(why != RT_WAKE_READY)) {
        py_acquire(&once->lock);
        py_waitq_remove(&gp->seat->waiter);
        py_release(&once->lock);
    }
    py_wait_end(&wait);
    if (RT_LIKELY(why == RT_WAKE_READY))
        Py_RETURN_NONE;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Once.do()");
    return NULL;
}

static PyObject *
once_do(Once *once, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (py_limits_parse(&limits, "do(fn, " PY_LIMITS_USAGE ")", 1, args, nargs, kwnames) < 0)
        return NULL;
    if (RT_LIKELY(once_done(once)))
        Py_RETURN_NONE;
    return once_do_slow(once, args[0], &limits);
}

static PyObject *
once_get_done(Once *once, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(once_done(once));
}

static PyObject *
once_repr(Once *once)
{
    static const char *const names[] = {[NEW] = "new", [RUNNING] = "running", [DONE] = "done"};
    return PyUnicode_FromFormat("<Once %s at %p>", names[RT_LOAD(once->state)], (void *)once);
}

static PyMethodDef once_methods[] = {
    {"do", PY_FASTKW(once_do),
     "do($self, fn, /, timeout=None, *, ctx=None)\n--\n\n"
     "Call fn() if nothing was called yet; otherwise wait until that call has ended.\n\n"
     "A call that raises is the one call, too: its exception is raised here and nowhere else.\n"
     "RuntimeError if fn itself calls do().\n\n"
     "While another call runs, raises TimeoutError after timeout seconds; ctx.err() when the\n"
     "context ctx ends.\n\n"
     "Go: sync.Once.Do."},
    {0},
};
static PyGetSetDef once_getset[] = {
    {"done", (getter)once_get_done, NULL, "True once the call has ended.", NULL},
    {0},
};
static PyMemberDef once_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Once, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot once_slots[] = {
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, once_methods},
    {Py_tp_getset, once_getset},
    {Py_tp_members, once_members},
    {Py_tp_repr, once_repr},
    {Py_tp_doc,
     "Once()\n--\n\n"
     "Makes sure that something is done once, and done before anybody goes on.\n\n"
     "    once.do(connect)\n\n"
     "Go: sync.Once."},
    {0, NULL},
};
static PyType_Spec once_spec = {"runtime.sync.Once", sizeof(Once), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, once_slots};

int
py_once_init_types(PyObject *module)
{
    return py_add_type(module, &once_spec, &core->once_type, true);
}
