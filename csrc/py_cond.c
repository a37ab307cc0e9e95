/* py_cond.c - Cond.
 *
 * A caller of wait() is in the queue before it unlocks the locker, and only parks after that:
 * unlocking may run Python, and wait itself.  So it queues with a ticket of its own instead of
 * its seat's waiter.  A signal goes to the first ticket, parked or not, and is used up once a
 * ticket has it: one whose caller is leaving, since its time is up, is passed over.
 *
 * Whatever ends the wait, the locker is locked again before the caller goes on.
 */
#include "py_sync.h"

#include <structmember.h>

/* So often locking again may fail: cancelled each time, or it cannot be done. */
#define MAX_TRIES 100

typedef struct {
    py_waiter waiter;           /* first: see signal_locked() */
    bool parked;                /* its caller may be claimed; guarded by Cond.lock, as: */
    bool signalled;
} ticket;

typedef struct {
    PyObject_HEAD
    PyObject *locker;           /* owned */
    py_lock lock;
    py_waitq waiters;           /* of tickets */
    PyObject *weakrefs;
} Cond;

/* ---- the locker ---- */

static inline bool
has_mutex(const Cond *cond)
{
    return cond->locker != NULL && Py_IS_TYPE(cond->locker, core->mutex_type);
}

static int
call_locker(Cond *cond, const char *method)
{
    PyObject *r = PyObject_CallMethod(cond->locker, method, NULL);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

static int
locker_lock(Cond *cond)
{
    if (RT_LIKELY(has_mutex(cond)))
        return py_mutex_lock(cond->locker, &PY_NO_LIMITS);
    return call_locker(cond, "lock");
}

static int
locker_unlock(Cond *cond)
{
    if (RT_LIKELY(has_mutex(cond)))
        return py_mutex_unlock(cond->locker);
    return call_locker(cond, "unlock");
}

/* Lock again, also if this goroutine is being cancelled.  r is what the wait has come to, -1
   with an exception set; returns that, or -1 for what has happened meanwhile. */
static int
lock_again(Cond *cond, int r)
{
    PyObject *exc = py_take_exception();
    bool final = false;
    for (int i = 0; !final && i < MAX_TRIES && locker_lock(cond) < 0; i++) {
        r = -1;
        final = PyErr_ExceptionMatches(core->exc_deadlock)
                || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
        PyObject *later = py_take_exception();
        if (exc != NULL && exc != later)
            PyException_SetContext(later, exc);
        else
            Py_XDECREF(exc);
        exc = later;
    }
    if (exc != NULL)
        py_raise(exc);
    return r;
}

/* ---- waiting ---- */

/* Give the signal to the first that can take it; *out is whom to ready, or NULL. */
static bool
signal_locked(Cond *cond, py_waiter **out)
{
    py_waiter *w;
    *out = NULL;
    while ((w = cond->waiters.head) != NULL) {
        ticket *t = (ticket *)w;
        py_waitq_remove(w);
        if (t->parked && !rt_g_claim(&w->g->g, RT_WAKE_READY))
            continue;
        t->signalled = true;
        if (t->parked)
            *out = w;
        return true;
    }
    return false;
}

static void
cond_signal_one(Cond *cond)
{
    py_waiter *w;
    py_acquire(&cond->lock);
    signal_locked(cond, &w);
    py_release(&cond->lock);
    if (w != NULL)
        py_ready(w->g, false);
}

/* Unlock, wait for a signal, lock.  -1 with an exception set; then the wait has been ended,
   which may be done again. */
static int
wait_once(Cond *cond, Goroutine *gp, py_wait *wait)
{
    ticket *t = PyMem_Calloc(1, sizeof(*t));
    if (t == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    uint32_t why = RT_WAKE_READY;
    t->waiter.g = gp;
    py_acquire(&cond->lock);
    py_waitq_push(&cond->waiters, &t->waiter);
    py_release(&cond->lock);
    int r = locker_unlock(cond);
    bool unlocked = r == 0;
    if (unlocked) {
        rt_g_arm(&gp->g);
        py_acquire(&cond->lock);
        t->parked = !t->signalled;
        py_release(&cond->lock);
        if (RT_LIKELY(t->parked)) {
            gp->seat->waits_in = cond;
            why = py_wait_park(gp, PY_WAIT_COND, wait);
            gp->seat->waits_in = NULL;
        }
        else
            py_stay(gp);
        r = why == RT_WAKE_READY ? 0 : -1;
    }
    if (RT_UNLIKELY(r < 0)) {
        py_acquire(&cond->lock);
        bool unused = t->signalled;
        py_waitq_remove(&t->waiter);
        py_release(&cond->lock);
        if (unused)
            cond_signal_one(cond);
        py_wait_end(wait);      /* a context's methods may wait themselves */
        if (why == RT_WAKE_TIMEOUT)
            py_raise_timeout("Cond.wait()");
    }
    PyMem_Free(t);
    return unlocked ? lock_again(cond, r) : r;
}

static Goroutine *
begin(py_wait *wait, const char *usage, Py_ssize_t npos, PyObject *const *args,
      Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (py_limits_parse(&limits, usage, npos, args, nargs, kwnames) < 0)
        return NULL;
    Goroutine *gp = py_current("Cond.wait()");
    return gp != NULL && py_wait_begin(wait, &limits) < 0 ? NULL : gp;
}

static PyObject *
cond_wait(Cond *cond, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_wait wait;
    Goroutine *gp = begin(&wait, "wait(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames);
    if (gp == NULL)
        return NULL;
    int r = wait_once(cond, gp, &wait);
    py_wait_end(&wait);
    return r < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
cond_wait_for(Cond *cond, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_wait wait;
    Goroutine *gp = begin(&wait, "wait_for(predicate, " PY_LIMITS_USAGE ")", 1, args, nargs,
                          kwnames);
    if (gp == NULL)
        return NULL;
    PyObject *result;
    for (;;) {
        result = PyObject_CallNoArgs(args[0]);
        int holds = result ? PyObject_IsTrue(result) : -1;
        if (holds == 1)
            break;
        Py_CLEAR(result);
        if (holds < 0 || wait_once(cond, gp, &wait) < 0)
            break;
    }
    py_wait_end(&wait);
    return result;
}

static PyObject *
cond_signal(Cond *cond, PyObject *Py_UNUSED(ignored))
{
    cond_signal_one(cond);
    Py_RETURN_NONE;
}

static PyObject *
cond_broadcast(Cond *cond, PyObject *Py_UNUSED(ignored))
{
    py_waitq out = {0};
    py_waiter *w;
    py_acquire(&cond->lock);
    while (signal_locked(cond, &w))
        if (w != NULL)
            py_waitq_push(&out, w);
    py_release(&cond->lock);
    py_ready_all(&out);
    Py_RETURN_NONE;
}

/* ---- methods ---- */

static PyObject *
cond_enter(Cond *cond, PyObject *Py_UNUSED(ignored))
{
    return locker_lock(cond) < 0 ? NULL : Py_NewRef((PyObject *)cond);
}

static PyObject *
cond_exit(Cond *cond, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return locker_unlock(cond) < 0 ? NULL : Py_NewRef(Py_False);
}

static PyObject *
cond_repr(Cond *cond)
{
    return PyUnicode_FromFormat("<Cond of %R at %p>", cond->locker, (void *)cond);
}

static PyObject *
cond_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"locker", NULL};
    PyObject *locker = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Cond", names, &locker))
        return NULL;
    if (locker == Py_None)
        locker = PyObject_CallNoArgs((PyObject *)core->mutex_type);
    else {
        for (int i = 0; i < 2; i++) {
            PyObject *method = PyObject_GetAttrString(locker, i ? "unlock" : "lock");
            if (method == NULL) {
                if (PyErr_ExceptionMatches(PyExc_AttributeError))
                    PyErr_Format(PyExc_TypeError, "Cond(locker): it must have lock() and "
                                 "unlock(), as Mutex and RWMutex; %.200s has not",
                                 Py_TYPE(locker)->tp_name);
                return NULL;
            }
            Py_DECREF(method);
        }
        Py_INCREF(locker);
    }
    Cond *cond = locker ? (Cond *)type->tp_alloc(type, 0) : NULL;
    if (cond == NULL)
        Py_XDECREF(locker);
    else
        cond->locker = locker;
    return (PyObject *)cond;
}

static int
cond_traverse(Cond *cond, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(cond));
    Py_VISIT(cond->locker);
    return 0;
}

static int
cond_clear(Cond *cond)
{
    Py_CLEAR(cond->locker);
    return 0;
}

static PyMethodDef cond_methods[] = {
    {"wait", PY_FASTKW(cond_wait),
     "wait($self, timeout=None, *, ctx=None)\n--\n\n"
     "Unlock the locker, wait until woken, and lock it again.\n\n"
     "The caller has locked it.  What it waits for need not hold afterwards: look again, or\n"
     "use wait_for().\n\n"
     "Raises TimeoutError after timeout seconds, or ctx.err() when the context ctx ends; the\n"
     "locker is locked then, too.\n\n"
     "Go: sync.Cond.Wait."},
    {"wait_for", PY_FASTKW(cond_wait_for),
     "wait_for($self, predicate, /, timeout=None, *, ctx=None)\n--\n\n"
     "wait() until predicate() is true, and return what it has returned.\n\n"
     "timeout is for all of it.  Raises as wait() does."},
    {"signal", (PyCFunction)cond_signal, METH_NOARGS,
     "signal($self)\n--\n\n"
     "Wake the longest waiter, if there is one.  The locker need not be locked.\n\n"
     "Go: sync.Cond.Signal."},
    {"broadcast", (PyCFunction)cond_broadcast, METH_NOARGS,
     "broadcast($self)\n--\n\n"
     "Wake all waiters.  The locker need not be locked.\n\n"
     "Go: sync.Cond.Broadcast."},
    {"__enter__", (PyCFunction)cond_enter, METH_NOARGS, NULL},
    {"__exit__", PY_FAST(cond_exit), NULL},
    {0},
};
static PyMemberDef cond_members[] = {
    {"locker", T_OBJECT, offsetof(Cond, locker), READONLY, "What it unlocks while it waits."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Cond, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot cond_slots[] = {
    {Py_tp_new, cond_new},
    {Py_tp_dealloc, py_sync_dealloc_gc},
    {Py_tp_traverse, cond_traverse},
    {Py_tp_clear, cond_clear},
    {Py_tp_methods, cond_methods},
    {Py_tp_members, cond_members},
    {Py_tp_repr, cond_repr},
    {Py_tp_doc,
     "Cond(locker=None)\n--\n\n"
     "Where goroutines and threads wait until something has changed that a lock guards.\n\n"
     "locker is a Mutex (by default a new one), an RWMutex, its reader(), or anything with\n"
     "lock() and unlock().  As a context manager it locks the locker.\n\n"
     "    with cond:\n"
     "        cond.wait_for(lambda: queue)\n"
     "        item = queue.popleft()\n\n"
     "Go: sync.Cond."},
    {0, NULL},
};
static PyType_Spec cond_spec = {
    "runtime.sync.Cond", sizeof(Cond), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, cond_slots};

int
py_cond_init_types(PyObject *module)
{
    return py_add_type(module, &cond_spec, &core->cond_type, true);
}
