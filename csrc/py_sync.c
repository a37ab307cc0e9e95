/* py_sync.c - Mutex and WaitGroup.
 *
 * A mutex is handed over: unlock gives it to the longest waiter, if there is one,
 * so that nobody overtakes and no waiter starves.
 */
#include "py_wait.h"

#include <structmember.h>

/* ---- Mutex ---- */

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards waiters and locked */
    py_waitq waiters;
    bool locked;
    PyObject *weakrefs;
} Mutex;

/* Lock it if that needs no waiting. */
static inline bool
mutex_try(Mutex *m)
{
    py_acquire(&m->lock);
    bool got = !m->locked;
    m->locked = true;
    py_release(&m->lock);
    return got;
}

static int
mutex_acquire(Mutex *m, PyObject *timeout)
{
    if (RT_LIKELY(mutex_try(m)))
        return 0;
    int64_t deadline;
    if (py_deadline(timeout, &deadline) < 0)
        return -1;
    Goroutine *gp = py_current("Mutex.lock()");
    if (gp == NULL)
        return -1;
    rt_g_arm(&gp->g);
    py_acquire(&m->lock);
    bool got = !m->locked;
    m->locked = true;
    if (RT_LIKELY(!got))
        py_waitq_push(&m->waiters, &gp->seat->waiter);
    py_release(&m->lock);
    if (RT_UNLIKELY(got)) {
        py_stay(gp);
        return 0;
    }
    uint32_t why = py_park(gp, PY_WAIT_MUTEX, deadline);
    if (RT_LIKELY(why == RT_WAKE_READY))
        return 0;               /* handed over: still locked, now ours */
    py_acquire(&m->lock);
    py_waitq_remove(&gp->seat->waiter);
    py_release(&m->lock);
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Mutex.lock()");
    return -1;
}

static int
mutex_release(Mutex *m)
{
    py_acquire(&m->lock);
    bool was_locked = m->locked;
    py_waiter *w = py_waitq_claim(&m->waiters, RT_WAKE_READY);
    if (w == NULL)
        m->locked = false;
    py_release(&m->lock);
    if (w != NULL)
        py_ready(w->g, false);
    if (RT_LIKELY(was_locked))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "unlock of a Mutex that is not locked");
    return -1;
}

static PyObject *
mutex_lock(Mutex *m, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (RT_UNLIKELY(nargs + nkw > 1
                    || (nkw == 1
                        && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                                            "timeout")))) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: lock(timeout=None)");
        return NULL;
    }
    if (mutex_acquire(m, nargs + nkw ? args[0] : Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
mutex_try_lock(Mutex *m, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(mutex_try(m));
}

static PyObject *
mutex_unlock(Mutex *m, PyObject *Py_UNUSED(ignored))
{
    if (mutex_release(m) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
mutex_enter(Mutex *m, PyObject *Py_UNUSED(ignored))
{
    if (mutex_acquire(m, Py_None) < 0)
        return NULL;
    return Py_NewRef((PyObject *)m);
}

static PyObject *
mutex_exit(Mutex *m, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (mutex_release(m) < 0)
        return NULL;
    Py_RETURN_FALSE;
}

static PyObject *
mutex_get_locked(Mutex *m, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(m->locked);
}

static PyObject *
mutex_repr(Mutex *m)
{
    return PyUnicode_FromFormat("<Mutex %s at %p>", m->locked ? "locked" : "unlocked", (void *)m);
}

/* Shared by both types: neither refers to other objects. */
static void
sync_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_ClearWeakRefs(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef mutex_methods[] = {
    {"lock", (PyCFunction)(void (*)(void))mutex_lock, METH_FASTCALL | METH_KEYWORDS,
     "lock($self, timeout=None)\n--\n\n"
     "Lock, waiting while another holds it; waiters are served in order.\n\n"
     "Raises TimeoutError after timeout seconds.  Not recursive.\n\n"
     "Go: sync.Mutex.Lock."},
    {"try_lock", (PyCFunction)mutex_try_lock, METH_NOARGS,
     "try_lock($self)\n--\n\nLock if that needs no waiting; True if it was locked."},
    {"unlock", (PyCFunction)mutex_unlock, METH_NOARGS,
     "unlock($self)\n--\n\n"
     "Unlock; any goroutine or thread may.  RuntimeError if it is not locked.\n\n"
     "Go: sync.Mutex.Unlock."},
    {"__enter__", (PyCFunction)mutex_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))mutex_exit, METH_FASTCALL, NULL},
    {0},
};
static PyGetSetDef mutex_getset[] = {
    {"locked", (getter)mutex_get_locked, NULL, "True while it is locked.", NULL},
    {0},
};
static PyMemberDef mutex_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Mutex, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot mutex_slots[] = {
    {Py_tp_dealloc, sync_dealloc},
    {Py_tp_methods, mutex_methods},
    {Py_tp_getset, mutex_getset},
    {Py_tp_members, mutex_members},
    {Py_tp_repr, mutex_repr},
    {Py_tp_doc,
     "Mutex()\n--\n\n"
     "A mutual exclusion lock between goroutines and threads; a context manager.\n\n"
     "    with mu:\n"
     "        counter += 1\n\n"
     "Go: sync.Mutex."},
    {0, NULL},
};
static PyType_Spec mutex_spec = {"runtime.Mutex", sizeof(Mutex), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, mutex_slots};

/* ---- WaitGroup ---- */

typedef struct {
    PyObject_HEAD
    py_lock lock;               /* guards waiters and count */
    py_waitq waiters;
    int64_t count;
    PyObject *weakrefs;
} WaitGroup;

static int
waitgroup_add_n(WaitGroup *wg, int64_t n)
{
    py_waitq woken = {0};
    py_acquire(&wg->lock);
    int64_t count = wg->count + n;
    if (RT_LIKELY(count >= 0))
        wg->count = count;
    if (count == 0)
        py_waitq_claim_all(&wg->waiters, RT_WAKE_READY, &woken);
    py_release(&wg->lock);
    py_ready_all(&woken);
    if (RT_LIKELY(count >= 0))
        return 0;
    PyErr_SetString(PyExc_ValueError, "negative WaitGroup counter: more done() than add()");
    return -1;
}

static PyObject *
waitgroup_add(WaitGroup *wg, PyObject *const *args, Py_ssize_t nargs)
{
    long long n = 1;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: add(n=1)");
        return NULL;
    }
    if (nargs == 1 && (n = PyLong_AsLongLong(args[0])) == -1 && PyErr_Occurred())
        return NULL;
    if (n > INT32_MAX || n < INT32_MIN) {
        PyErr_SetString(PyExc_OverflowError, "add(n): n must fit 32 bits");
        return NULL;
    }
    if (waitgroup_add_n(wg, n) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
waitgroup_done(WaitGroup *wg, PyObject *Py_UNUSED(ignored))
{
    if (waitgroup_add_n(wg, -1) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
waitgroup_wait(WaitGroup *wg, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (RT_UNLIKELY(nargs + nkw > 1
                    || (nkw == 1
                        && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                                            "timeout")))) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: wait(timeout=None)");
        return NULL;
    }
    int64_t deadline;
    if (py_deadline(nargs + nkw ? args[0] : Py_None, &deadline) < 0)
        return NULL;
    Goroutine *gp = py_current("WaitGroup.wait()");
    if (gp == NULL)
        return NULL;
    rt_g_arm(&gp->g);
    py_acquire(&wg->lock);
    bool zero = wg->count == 0;
    if (!zero)
        py_waitq_push(&wg->waiters, &gp->seat->waiter);
    py_release(&wg->lock);
    if (zero) {
        py_stay(gp);
        Py_RETURN_NONE;
    }
    uint32_t why = py_park(gp, PY_WAIT_GROUP, deadline);
    if (why == RT_WAKE_READY)
        Py_RETURN_NONE;
    py_acquire(&wg->lock);
    py_waitq_remove(&gp->seat->waiter);
    py_release(&wg->lock);
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("WaitGroup.wait()");
    return NULL;
}

static PyObject *
waitgroup_repr(WaitGroup *wg)
{
    return PyUnicode_FromFormat("<WaitGroup %lld at %p>", (long long)wg->count, (void *)wg);
}

static PyMethodDef waitgroup_methods[] = {
    {"add", (PyCFunction)(void (*)(void))waitgroup_add, METH_FASTCALL,
     "add($self, n=1, /)\n--\n\n"
     "Add n, which may be negative, to the counter.\n\n"
     "ValueError if it would become negative.  Go: sync.WaitGroup.Add."},
    {"done", (PyCFunction)waitgroup_done, METH_NOARGS,
     "done($self)\n--\n\nSubtract one from the counter.  Go: sync.WaitGroup.Done."},
    {"wait", (PyCFunction)(void (*)(void))waitgroup_wait, METH_FASTCALL | METH_KEYWORDS,
     "wait($self, timeout=None)\n--\n\n"
     "Wait until the counter is zero.\n\n"
     "Raises TimeoutError after timeout seconds.  Go: sync.WaitGroup.Wait."},
    {0},
};
static PyMemberDef waitgroup_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(WaitGroup, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot waitgroup_slots[] = {
    {Py_tp_dealloc, sync_dealloc},
    {Py_tp_methods, waitgroup_methods},
    {Py_tp_members, waitgroup_members},
    {Py_tp_repr, waitgroup_repr},
    {Py_tp_doc,
     "WaitGroup()\n--\n\n"
     "Waits for a number of goroutines to finish.\n\n"
     "    wg = WaitGroup()\n"
     "    wg.add(2)           # then each goroutine calls wg.done()\n"
     "    wg.wait()\n\n"
     "Go: sync.WaitGroup."},
    {0, NULL},
};
static PyType_Spec waitgroup_spec = {
    "runtime.WaitGroup", sizeof(WaitGroup), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, waitgroup_slots};

int
py_sync_init_types(PyObject *module)
{
    if (py_add_type(module, &mutex_spec, &core->mutex_type, true) < 0)
        return -1;
    return py_add_type(module, &waitgroup_spec, &core->waitgroup_type, true);
}
