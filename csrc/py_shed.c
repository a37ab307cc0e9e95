/* py_shed.c - ConcurrencyLimit: so many at once, and a queue that is kept short by its delay.
 *
 * What it guards is as in py_http_gate.c: a place that becomes free is handed to one who waits.
 * Who waits, and for how long, is decided by controlled delay (CoDel; Nichols and Jacobson, ACM
 * Queue 10/5, 2012, and for requests instead of packets Maurer, "Fail at Scale", ACM Queue 13/8,
 * 2015):
 *
 *   - The queue's delay is the time that the first of it has waited; 0 where it is empty.
 *   - A burst makes a long queue that soon is short again.  Where the delay is above the target
 *     for a whole interval, more comes than can be served, and waiting only makes all of them
 *     late.  That is overload, and lasts until somebody finds a free place.
 *   - In overload nobody waits for more than twice the target, and the last to come is served
 *     first: its client still waits, that of the first may have given up.  So those who are
 *     served are served soon, and the others hear at once that they are not.
 *   - Otherwise it is first come, first served, and who waits gives up after max_wait.
 *
 * The delay is looked at when a place becomes free, and when somebody has to wait; nothing else
 * could change anything.  While there are free places no clock is read.
 *
 * Overload does not end when the delay is below the target once: in a short queue served from its
 * end that happens by chance, and each time a long queue would come to be first.
 */
#include "py_sync.h"

typedef struct {
    PyObject_HEAD
    uint32_t max_running, max_waiting;
    int64_t target, interval, max_wait;     /* ns */
    py_lock lock;               /* guards the following */
    uint32_t forks;             /* core->forks when it was last used */
    uint32_t running;           /* max_running while anybody waits */
    uint32_t waiting;           /* in the queue */
    bool overloaded;
    int64_t above_since;        /* since when the delay is above the target, py_now();
                                   RT_FOREVER: it is not */
    uint64_t shed, gone;
    py_waitq waiters;           /* in order of arrival; waiter.n: when it came */
} Limit;

/* In a forked child those that ran and waited are not there. */
static inline void
check_fork_locked(Limit *l)
{
    if (RT_LIKELY(l->forks == core->forks))
        return;
    l->forks = core->forks;
    l->running = l->waiting = 0;
    l->waiters = (py_waitq){0};
}

static void
remove_locked(Limit *l, py_waiter *w)
{
    if (w->queue == NULL)
        return;
    py_waitq_remove(w);
    l->waiting--;
}

/* Take the first, or the last, out of the queue and claim it for `why`; NULL: nobody waits. */
static py_waiter *
claim_locked(Limit *l, bool last, uint32_t why)
{
    py_waiter *w;
    while ((w = last ? l->waiters.tail : l->waiters.head) != NULL) {
        remove_locked(l, w);
        if (rt_g_claim(&w->g->g, why))
            return w;
    }
    return NULL;
}

/* Look at the delay.  out: who has waited too long. */
static void
look_locked(Limit *l, int64_t now, py_waitq *out)
{
    py_waiter *w = l->waiters.head;
    if (w == NULL)
        return;
    /* Since then w, or one before it, has waited for more than the target. */
    int64_t since = w->n + l->target;
    if (since >= now)
        l->above_since = RT_FOREVER;
    else if (since < l->above_since)
        l->above_since = since;
    if (l->above_since <= now - l->interval)
        l->overloaded = true;
    if (!l->overloaded)
        return;
    while ((w = l->waiters.head) != NULL && now - w->n > 2 * l->target) {
        remove_locked(l, w);
        if (rt_g_claim(&w->g->g, RT_WAKE_CLOSED))
            py_waitq_push(out, w);
    }
}

/* There is a free place, so nobody waits. */
static inline void
end_overload_locked(Limit *l)
{
    l->overloaded = false;
    l->above_since = RT_FOREVER;
}

static inline bool
try_locked(Limit *l)
{
    check_fork_locked(l);
    if (l->running >= l->max_running)
        return false;
    l->running++;
    end_overload_locked(l);
    return true;
}

/* 1: in, 0: shed, -1: an exception is set, that of the context if `gone` is. */
static int
enter_slow(Limit *l, const py_limits *limits, bool *gone)
{
    py_wait wait;
    Goroutine *gp = py_current("limit_concurrency()");
    if (gp == NULL)
        return -1;
    if (py_limits_check(limits) < 0 || py_wait_begin(&wait, limits) < 0) {
        *gone = !PyErr_ExceptionMatches(PyExc_TypeError);
        return -1;
    }
    py_waiter *w = &gp->seat->waiter;
    py_waitq out = {0};
    int64_t now = py_now();
    rt_g_arm(&gp->g);
    py_acquire(&l->lock);
    bool in = try_locked(l), waits = false;
    if (!in) {
        look_locked(l, now, &out);
        waits = l->waiting < l->max_waiting;
        int64_t patience = l->overloaded ? 2 * l->target : l->max_wait;
        wait.deadline = patience > RT_FOREVER - now ? RT_FOREVER : now + patience;
        if (waits) {
            w->n = now;
            py_waitq_push(&l->waiters, w);
            l->waiting++;
        }
        else
            l->shed++;
    }
    py_release(&l->lock);
    py_ready_all(&out);
    if (!waits) {
        py_stay(gp);
        py_wait_end(&wait);
        return in;
    }
    uint32_t why = py_wait_park(gp, PY_WAIT_SEMA, &wait);
    *gone = why == RT_WAKE_CONTEXT;
    py_acquire(&l->lock);
    remove_locked(l, w);
    if (why == RT_WAKE_TIMEOUT || why == RT_WAKE_CLOSED)
        l->shed++;
    py_release(&l->lock);
    w->n = 0;
    py_wait_end(&wait);
    return why == RT_WAKE_READY ? 1 : why == RT_WAKE_INTERRUPT || *gone ? -1 : 0;
}

static PyObject *
limit_enter(Limit *l, PyObject *r)
{
    py_acquire(&l->lock);
    bool in = try_locked(l);
    py_release(&l->lock);
    if (RT_LIKELY(in))
        Py_RETURN_TRUE;
    PyObject *ctx = PyObject_GetAttrString(r, "context");
    if (ctx == NULL)
        return NULL;
    py_limits limits = {Py_None, ctx};
    bool gone = false;
    int result = enter_slow(l, &limits, &gone);
    Py_DECREF(ctx);
    if (result >= 0)
        return PyBool_FromLong(result);
    if (!gone)
        return NULL;
    PyErr_Clear();
    py_acquire(&l->lock);
    l->gone++;
    py_release(&l->lock);
    Py_RETURN_FALSE;
}

static PyObject *
limit_leave(Limit *l, PyObject *Py_UNUSED(ignored))
{
    py_waitq out = {0};
    py_waiter *w = NULL;
    py_acquire(&l->lock);
    check_fork_locked(l);
    if (RT_UNLIKELY(l->waiters.head != NULL)) {
        look_locked(l, py_now(), &out);
        w = claim_locked(l, l->overloaded, RT_WAKE_READY);
    }
    if (w == NULL) {
        l->running -= l->running > 0;
        end_overload_locked(l);
    }
    py_release(&l->lock);
    if (w != NULL)
        py_ready(w->g, false);
    py_ready_all(&out);
    Py_RETURN_NONE;
}

static PyObject *
limit_stats(Limit *l, PyObject *Py_UNUSED(ignored))
{
    py_acquire(&l->lock);
    check_fork_locked(l);
    uint32_t running = l->running, waiting = l->waiting;
    uint64_t shed = l->shed, gone = l->gone;
    bool overloaded = l->overloaded;
    py_release(&l->lock);
    return Py_BuildValue("IIKKO", running, waiting, (unsigned long long)shed,
                         (unsigned long long)gone, overloaded ? Py_True : Py_False);
}

static PyObject *
limit_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_running", "max_waiting", "target", "interval", "max_wait", NULL};
    unsigned int running, waiting;
    long long target, interval, max_wait;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IILLL:ConcurrencyLimit", names, &running,
                                     &waiting, &target, &interval, &max_wait))
        return NULL;
    if (running < 1 || target < 1 || target > INT64_MAX / 4 || interval < 1
        || interval > INT64_MAX / 4 || max_wait < 0) {
        PyErr_SetString(PyExc_ValueError, "max_running, target and interval are 1 or more");
        return NULL;
    }
    Limit *l = (Limit *)type->tp_alloc(type, 0);
    if (l == NULL)
        return NULL;
    l->max_running = running;
    l->max_waiting = waiting;
    l->target = target;
    l->interval = interval;
    l->max_wait = max_wait;
    l->above_since = RT_FOREVER;
    l->forks = core->forks;
    return (PyObject *)l;
}

static void
limit_dealloc(PyObject *l)
{
    PyTypeObject *type = Py_TYPE(l);
    type->tp_free(l);
    Py_DECREF(type);
}

static PyMethodDef limit_methods[] = {
    {"enter", (PyCFunction)limit_enter, METH_O,
     "enter($self, r, /)\n--\n\n"
     "A place for the request r, waited for if it must be; False if there is none for it, or its\n"
     "context has ended meanwhile."},
    {"leave", (PyCFunction)limit_leave, METH_NOARGS,
     "leave($self)\n--\n\nGive the place back."},
    {"stats", (PyCFunction)limit_stats, METH_NOARGS,
     "stats($self)\n--\n\nrunning, waiting, shed, gone, overloaded."},
    {0},
};
static PyType_Slot limit_slots[] = {
    {Py_tp_new, limit_new},
    {Py_tp_dealloc, limit_dealloc},
    {Py_tp_methods, limit_methods},
    {Py_tp_doc,
     "ConcurrencyLimit(max_running, max_waiting, target, interval, max_wait)\n--\n\n"
     "So many run at once, others wait, and not for long.  All times in ns."},
    {0, NULL},
};
static PyType_Spec limit_spec = {"runtime._core.ConcurrencyLimit", sizeof(Limit), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, limit_slots};

int
py_shed_init_types(PyObject *module)
{
    return py_add_type(module, &limit_spec, &core->shed_type, true);
}
