/* py_sema.c - Semaphore, weighted.
 *
 * Served strictly in order: while anybody waits, whoever comes waits behind, also if there is
 * enough for it.  So one that needs much is not starved by many that need little.
 */
#include "py_sync.h"
#include "py_waits.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    int64_t size;
    int64_t held;               /* of it; guarded by lock */
    py_lock lock;
    py_waitq waiters;           /* waiter.n: how much it needs */
    PyObject *weakrefs;
} Semaphore;

PyObject *
py_sema_of_queue(py_waitq *q)
{
    return (PyObject *)RT_CONTAINER_OF(q, Semaphore, waiters);
}

/* Give the first waiters what they need, as far as it goes. */
static void
grant_locked(Semaphore *s, py_waitq *out)
{
    py_waiter *w;
    while ((w = s->waiters.head) != NULL) {
        /* One that something else has woken is only on its way out. */
        bool waits = RT_LOAD(w->g->g.wake) == RT_WAKE_NONE;
        if (waits && w->n > s->size - s->held)
            break;
        py_waitq_remove(w);
        if (waits && rt_g_claim(&w->g->g, RT_WAKE_READY)) {
            s->held += w->n;
            py_waitq_push(out, w);
        }
    }
}

static bool
try_locked(Semaphore *s, int64_t n)
{
    if (s->waiters.head != NULL || n > s->size - s->held)
        return false;
    s->held += n;
    return true;
}

static inline bool
sema_try(Semaphore *s, int64_t n)
{
    py_acquire(&s->lock);
    bool got = try_locked(s, n);
    py_release(&s->lock);
    return got;
}

static int
acquire_slow(Semaphore *s, int64_t n, const py_limits *limits)
{
    py_wait wait;
    Goroutine *gp = py_current("Semaphore.acquire()");
    if (gp == NULL || py_wait_begin(&wait, limits) < 0)
        return -1;
    py_waiter *w = &gp->seat->waiter;
    rt_g_arm(&gp->g);
    py_acquire(&s->lock);
    bool got = try_locked(s, n);
    if (RT_LIKELY(!got)) {
        w->n = n;
        py_waitq_push(&s->waiters, w);
    }
    py_release(&s->lock);
    if (RT_UNLIKELY(got)) {
        py_stay(gp);
        py_wait_end(&wait);
        return 0;
    }
    uint32_t why = py_wait_park(gp, PY_WAIT_SEMA, &wait);
    if (RT_UNLIKELY(why != RT_WAKE_READY)) {
        py_waitq out = {0};
        py_acquire(&s->lock);
        py_waitq_remove(w);
        grant_locked(s, &out);  /* those behind may need less */
        py_release(&s->lock);
        py_ready_all(&out);
    }
    w->n = 0;
    py_wait_end(&wait);
    if (RT_LIKELY(why == RT_WAKE_READY))
        return 0;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Semaphore.acquire()");
    return -1;
}

static int
sema_acquire(Semaphore *s, int64_t n, const py_limits *limits)
{
    return RT_LIKELY(sema_try(s, n)) ? 0 : acquire_slow(s, n, limits);
}

static int
sema_release(Semaphore *s, int64_t n)
{
    py_waitq out = {0};
    py_acquire(&s->lock);
    int64_t held = s->held;
    if (RT_LIKELY(n <= held)) {
        s->held -= n;
        grant_locked(s, &out);
    }
    py_release(&s->lock);
    py_ready_all(&out);
    if (RT_LIKELY(n <= held))
        return 0;
    PyErr_Format(PyExc_RuntimeError, "release(%lld) of a Semaphore of which only %lld are held",
                 (long long)n, (long long)held);
    return -1;
}

/* Can anybody ask for n?  -1 with an exception set. */
static int
check_amount(const Semaphore *s, const char *what, int64_t n)
{
    if (RT_LIKELY(n > 0 && n <= s->size))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s: n must be 1 to %lld, the size of the Semaphore, not %lld",
                 what, (long long)s->size, (long long)n);
    return -1;
}

/* ---- methods ---- */

static PyObject *
semaphore_acquire(Semaphore *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t n;
    py_limits limits;
    if (py_amount_parse(&n, &limits, "acquire(n=1, /, " PY_LIMITS_USAGE ")", args, nargs,
                        kwnames) < 0
        || check_amount(s, "acquire(n)", n) < 0 || sema_acquire(s, n, &limits) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int
parse_amount(const Semaphore *s, const char *what, PyObject *const *args, Py_ssize_t nargs,
             int64_t *n)
{
    *n = 1;
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "%s takes one argument, not %zd", what, nargs);
        return -1;
    }
    if (nargs == 1) {
        *n = PyLong_AsLongLong(args[0]);
        if (*n == -1 && PyErr_Occurred())
            return -1;
    }
    return check_amount(s, what, *n);
}

static PyObject *
semaphore_try_acquire(Semaphore *s, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t n;
    if (parse_amount(s, "try_acquire(n)", args, nargs, &n) < 0)
        return NULL;
    return PyBool_FromLong(sema_try(s, n));
}

static PyObject *
semaphore_release(Semaphore *s, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t n;
    if (parse_amount(s, "release(n)", args, nargs, &n) < 0 || sema_release(s, n) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
semaphore_enter(Semaphore *s, PyObject *Py_UNUSED(ignored))
{
    return sema_acquire(s, 1, &PY_NO_LIMITS) < 0 ? NULL : Py_NewRef((PyObject *)s);
}

static PyObject *
semaphore_exit(Semaphore *s, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return sema_release(s, 1) < 0 ? NULL : Py_NewRef(Py_False);
}

static PyObject *
semaphore_get_free(Semaphore *s, void *Py_UNUSED(closure))
{
    py_acquire(&s->lock);
    int64_t n = s->size - s->held;
    py_release(&s->lock);
    return PyLong_FromLongLong(n);
}

static PyObject *
semaphore_repr(Semaphore *s)
{
    py_acquire(&s->lock);
    int64_t held = s->held;
    py_release(&s->lock);
    return PyUnicode_FromFormat("<Semaphore %lld of %lld held at %p>", (long long)held,
                                (long long)s->size, (void *)s);
}

static PyObject *
semaphore_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", NULL};
    long long size = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L:Semaphore", names, &size))
        return NULL;
    if (size < 1) {
        PyErr_Format(PyExc_ValueError, "Semaphore(size): it must be 1 or more, not %lld", size);
        return NULL;
    }
    Semaphore *s = (Semaphore *)type->tp_alloc(type, 0);
    if (s != NULL)
        s->size = size;
    return (PyObject *)s;
}

static PyMethodDef semaphore_methods[] = {
    {"acquire", PY_FASTKW(semaphore_acquire),
     "acquire($self, n=1, /, timeout=None, *, ctx=None)\n--\n\n"
     "Take n, waiting until so much is free and all who came before have got theirs.\n\n"
     "Raises ValueError if n is more than the size, TimeoutError after timeout seconds, or\n"
     "ctx.err() when the context ctx ends.\n\n"
     "Go: semaphore.Weighted.Acquire."},
    {"try_acquire", PY_FAST(semaphore_try_acquire),
     "try_acquire($self, n=1, /)\n--\n\n"
     "Take n if that needs no waiting; True if they were taken.\n\n"
     "Go: semaphore.Weighted.TryAcquire."},
    {"release", PY_FAST(semaphore_release),
     "release($self, n=1, /)\n--\n\n"
     "Give n back.  RuntimeError if not so many are held.\n\n"
     "Go: semaphore.Weighted.Release."},
    {"__enter__", (PyCFunction)semaphore_enter, METH_NOARGS, NULL},
    {"__exit__", PY_FAST(semaphore_exit), NULL},
    {0},
};
static PyGetSetDef semaphore_getset[] = {
    {"free", (getter)semaphore_get_free, NULL, "How much of it nobody holds.", NULL},
    {0},
};
static PyMemberDef semaphore_members[] = {
    {"size", T_LONGLONG, offsetof(Semaphore, size), READONLY, "How much can be held in all."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Semaphore, weakrefs), READONLY, NULL},
    {0},
};
static PyType_Slot semaphore_slots[] = {
    {Py_tp_new, semaphore_new},
    {Py_tp_dealloc, py_sync_dealloc},
    {Py_tp_methods, semaphore_methods},
    {Py_tp_getset, semaphore_getset},
    {Py_tp_members, semaphore_members},
    {Py_tp_repr, semaphore_repr},
    {Py_tp_doc,
     "Semaphore(size=1)\n--\n\n"
     "Of something there is so much; a context manager that takes and returns 1 of it.\n\n"
     "    limit = Semaphore(10)\n"
     "    with limit:         # at most 10 at a time\n"
     "        fetch(url)\n\n"
     "Served in order, also those that need much.\n\n"
     "Go: golang.org/x/sync/semaphore.Weighted."},
    {0, NULL},
};
static PyType_Spec semaphore_spec = {
    "runtime.sync.Semaphore", sizeof(Semaphore), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, semaphore_slots};

int
py_sema_init_types(PyObject *module)
{
    return py_add_type(module, &semaphore_spec, &core->semaphore_type, true);
}
