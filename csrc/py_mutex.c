/* py_mutex.c - Mutex.
 *
 * As in Go a mutex has two modes.  Normally unlock wakes the longest waiter, which then
 * competes with whoever comes along: most of the time somebody that runs already takes the
 * mutex several times without a switch in between.  One waiter at most is awake so; if it
 * loses it goes back to the head of the queue.  When it has lost after it has waited for
 * STARVING_NS, the mutex is starving: unlock hands it to the longest waiter and nobody else
 * gets it, until one gets it that has not waited so long, or none waits any more.
 *
 * Unlike in Go a waiter need not run to notice.  Unlock looks how long the one has waited that
 * it woke before, and hands the mutex over to it, awake as it is; for until it runs, the one
 * that runs may take the mutex thousands of times.
 *
 * Invariants, under lock: a starving mutex is locked, and nobody is woken for it.
 */
#include "py_sync.h"
#include "py_waits.h"

#include <structmember.h>

#define LOCKED 1u               /* in word */
#define STARVING_NS 1000000
/* So often a waiter may lose: where time stands still it would starve otherwise. */
#define MAX_LOST 100
#define HANDED (-1)             /* waiter.n of one that has got the mutex; before, since when
                                   it waits */

typedef struct {
    PyObject_HEAD
    py_word word;               /* LOCKED, PY_SLOW */
    bool starving;              /* guarded by lock, as all of the following but weakrefs */
    py_lock lock;
    py_waitq waiters;
    py_waiter *woken;           /* borrowed: competes for the mutex, or NULL */
    uint32_t woken_forks;       /* core->forks then: it has not come along to a child */
    py_holder holder;           /* who has locked it last */
    PyObject *weakrefs;
} Mutex;

static inline py_waiter *
woken(const Mutex *m)
{
    return m->woken_forks == core->forks ? m->woken : NULL;
}

/* Called last by who owns the word: without waiters it is all there is. */
static void
settle_locked(Mutex *m)
{
    if (m->waiters.head != NULL || woken(m) != NULL)
        return;
    m->starving = false;
    py_word_set(&m->word, RT_LOAD(m->word) & LOCKED);
}

static bool
try_locked(Mutex *m)
{
    if (py_word_own(&m->word) & LOCKED)
        return false;
    py_word_set(&m->word, LOCKED | PY_SLOW);
    return true;
}

static RT_NOINLINE bool
try_slow(Mutex *m)
{
    py_acquire(&m->lock);
    bool got = try_locked(m);
    settle_locked(m);
    py_release(&m->lock);
    return got;
}

/* Lock it if that needs no waiting. */
static inline bool
mutex_try(Mutex *m)
{
    if (RT_UNLIKELY(!py_word_flip(&m->word, 0, LOCKED))
        && (RT_LOAD(m->word) & LOCKED || !try_slow(m)))
        return false;
    py_holder_set(&m->holder);
    return true;
}

static void
push_front(py_waitq *q, py_waiter *w)
{
    w->queue = q;
    w->prev = NULL;
    w->next = q->head;
    *(q->head ? &q->head->prev : &q->tail) = w;
    q->head = w;
}

static int
lock_slow(Mutex *m, const py_limits *limits)
{
    py_wait wait;
    Goroutine *gp = py_current("Mutex.lock()");
    if (gp == NULL || py_wait_begin(&wait, limits) < 0)
        return -1;
    py_waiter *w = &gp->seat->waiter;
    int64_t since = py_now();
    rt_g_arm(&gp->g);
    py_acquire(&m->lock);
    bool got = try_locked(m);
    if (RT_UNLIKELY(got))
        settle_locked(m);
    else {
        w->n = since;
        py_waitq_push(&m->waiters, w);
    }
    py_release(&m->lock);
    if (RT_UNLIKELY(got)) {
        RT_STORE(m->holder, gp->id);
        py_stay(gp);
        py_wait_end(&wait);
        return 0;
    }
    uint32_t why;
    for (int lost = 0;; lost++) {
        why = py_wait_park(gp, PY_WAIT_MUTEX, &wait);
        bool late = py_now() - since > STARVING_NS;
        py_acquire(&m->lock);
        py_word_own(&m->word);
        if (RT_UNLIKELY(why != RT_WAKE_READY)) {
            py_waitq_remove(w);
            break;
        }
        if (w->n == HANDED) {
            m->starving = m->starving && late;
            break;
        }
        m->woken = NULL;
        if (try_locked(m))
            break;
        if (late || lost == MAX_LOST)
            m->starving = true;
        rt_g_arm(&gp->g);
        push_front(&m->waiters, w);
        py_release(&m->lock);
    }
    w->n = 0;
    if (RT_LIKELY(why == RT_WAKE_READY))
        RT_STORE(m->holder, gp->id);
    settle_locked(m);
    py_release(&m->lock);
    py_wait_end(&wait);
    if (RT_LIKELY(why == RT_WAKE_READY))
        return 0;
    if (why == RT_WAKE_TIMEOUT)
        py_raise_timeout("Mutex.lock()");
    return -1;
}

static RT_NOINLINE int
unlock_slow(Mutex *m)
{
    py_waiter *w = NULL;
    int64_t now = RT_LOAD(m->word) & PY_SLOW ? py_now() : 0;
    py_acquire(&m->lock);
    bool was_locked = py_word_own(&m->word) & LOCKED, handed = false;
    if (RT_UNLIKELY(!was_locked))
        ;
    else if (woken(m) != NULL) {
        handed = now - m->woken->n > STARVING_NS;
        if (handed) {
            m->woken->n = HANDED;
            RT_STORE(m->holder, m->woken->g->id);
            m->woken = NULL;
            m->starving = true;
        }
    }
    else {
        w = py_waitq_claim(&m->waiters, RT_WAKE_READY);
        handed = w != NULL && m->starving;
        if (handed) {
            w->n = HANDED;
            RT_STORE(m->holder, w->g->id);
        }
        else if (w != NULL) {
            m->woken = w;
            m->woken_forks = core->forks;
        }
    }
    if (!handed)
        py_word_set(&m->word, PY_SLOW);
    settle_locked(m);
    py_release(&m->lock);
    if (w != NULL)
        py_ready(w->g, handed);
    if (RT_LIKELY(was_locked))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "unlock of a Mutex that is not locked");
    return -1;
}

static inline int
mutex_acquire(Mutex *m, const py_limits *limits)
{
    return RT_LIKELY(mutex_try(m)) ? 0 : lock_slow(m, limits);
}

static inline int
mutex_release(Mutex *m)
{
    return RT_LIKELY(py_word_flip(&m->word, LOCKED, 0)) ? 0 : unlock_slow(m);
}

PyObject *
py_mutex_of_queue(py_waitq *q)
{
    return (PyObject *)RT_CONTAINER_OF(q, Mutex, waiters);
}

int64_t
py_mutex_holder(PyObject *op)
{
    const Mutex *m = (Mutex *)op;
    return RT_LOAD(m->word) & LOCKED ? RT_LOAD(m->holder) : 0;
}

int
py_mutex_lock(PyObject *op, const py_limits *limits)
{
    return mutex_acquire((Mutex *)op, limits);
}

int
py_mutex_unlock(PyObject *op)
{
    return mutex_release((Mutex *)op);
}

/* ---- methods ---- */

static PyObject *
mutex_lock(Mutex *m, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (py_limits_parse(&limits, "lock(" PY_LIMITS_USAGE ")", 0, args, nargs, kwnames) < 0
        || mutex_acquire(m, &limits) < 0)
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
    if (mutex_acquire(m, &PY_NO_LIMITS) < 0)
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
    return PyBool_FromLong(RT_LOAD(m->word) & LOCKED);
}

static PyObject *
mutex_repr(Mutex *m)
{
    return PyUnicode_FromFormat("<Mutex %s at %p>",
                                RT_LOAD(m->word) & LOCKED ? "locked" : "unlocked", (void *)m);
}

static PyMethodDef mutex_methods[] = {
    {"lock", PY_FASTKW(mutex_lock),
     "lock($self, timeout=None, *, ctx=None)\n--\n\n"
     "Lock, waiting while another holds it.  Not recursive.\n\n"
     "Waiters are served in order.  One that comes along may overtake them for a\n"
     "millisecond, then the mutex is handed to them one after another.\n\n"
     "Raises TimeoutError after timeout seconds, or ctx.err() when the context ctx ends.\n\n"
     "Go: sync.Mutex.Lock."},
    {"try_lock", (PyCFunction)mutex_try_lock, METH_NOARGS,
     "try_lock($self)\n--\n\n"
     "Lock if that needs no waiting; True if it was locked.\n\nGo: sync.Mutex.TryLock."},
    {"unlock", (PyCFunction)mutex_unlock, METH_NOARGS,
     "unlock($self)\n--\n\n"
     "Unlock; any goroutine or thread may.  RuntimeError if it is not locked.\n\n"
     "Go: sync.Mutex.Unlock."},
    {"__enter__", (PyCFunction)mutex_enter, METH_NOARGS, NULL},
    {"__exit__", PY_FAST(mutex_exit), NULL},
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
    {Py_tp_dealloc, py_sync_dealloc},
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

int
py_mutex_init_types(PyObject *module)
{
    return py_add_type(module, &mutex_spec, &core->mutex_type, true);
}
