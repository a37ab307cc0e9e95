/* py_bubble.c - bubbles: goroutines with a clock of their own, for tests.
 *
 * A bubble is the goroutine that runs the body, its *root*, and all that are started in it.
 * They are pinned to one M, that of who has started the bubble, so what belongs to a bubble is
 * touched by one thread and needs no lock.  A goroutine of a bubble is marked in its rt_g
 * (`bubbled`); which bubble that is its seat knows, or it does itself while it is fresh.  The
 * mark is looked at only where a rare case had to be told apart anyhow (foreign threads in
 * py_park(), closed channels, spawning with a context, which goroutines of a bubble always
 * have), so nothing becomes slower by it.
 *
 * The clock stands still while anything can happen without it.  `blocked` counts the goroutines
 * in a *durable* wait: one that only another goroutine of the bubble, or its clock, can end.
 * Just before the M would sleep, because it has nothing to run, it calls py_bubble_quiet().  If
 * all goroutines of a bubble are blocked then, in this order:
 *
 *   - who is in wait() is woken;
 *   - the clock goes to the first timer, and what is due fires, unless the root has ended: then
 *     time stops, as in Go, lest a goroutine with a ticker keeps the bubble alive for ever;
 *   - it is a deadlock: run() returns False to its caller, outside of the bubble, who tells the
 *     world and cancels what is left (runtime._bubble).
 *
 * A goroutine that was woken counts as blocked until it runs.  When the M has nothing to run
 * there are none of these, but for what another thread has claimed (Goroutine.cancel()) and not
 * yet queued.  So before a deadlock is told, and where the M is asked while it is busy with
 * goroutines of others, which shall not hold up a bubble, each goroutine is looked at.
 *
 * Rejected: a lock and a count that is exact at each wake-up, as Go has.  That would cost
 * rt_ready() of all programs; Go pays for it, too, but its bubbles have several threads.
 */
#include "py_bubble.h"

#include "py_chan.h"
#include "py_explore.h"
#include "py_wait.h"

/* ---- who is in it ---- */

py_bubble *
py_bubble_current_slow(py_m *mp)
{
    Goroutine *gp = mp->curg;
    if (gp != NULL)
        return gp->g.bubbled ? gp->seat->bubble : NULL;
    py_bubble *b = mp->bubbles;
    while (b != NULL && !b->firing)
        b = b->next;
    return b;
}

bool
py_bubble_admits(const py_bubble *b)
{
    return b->mp == NULL || py_bubble_current() == b;
}

void
py_bubble_submit(py_bubble *b, Goroutine *gp)
{
    py_m *cur = py_tls_m;
    if (b->explorer != NULL)
        py_explore_add(b->explorer, gp);
    if (b->total++ == 0)
        Py_INCREF(b);
    gp->g.bubbled = 1;
    gp->bubble = b;
    gp->cold = true;
    if (RT_UNLIKELY(RT_LOAD(core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_sysmon_kick();
    if (cur != NULL)
        RT_COUNT(cur->created, 1);
    else
        atomic_fetch_add(&core->created, 1);
    if (gp->g.held && cur == b->mp)
        py_explore_ready(gp);
    else
        rt_p_put_pinned(cur ? &cur->p : NULL, &b->mp->p, &gp->g);
}

void
py_bubble_began(py_m *mp, py_bubble *b)
{
    if (b->listed)
        return;
    b->listed = true;
    b->prev = NULL;
    b->next = mp->bubbles;
    if (b->next != NULL)
        b->next->prev = b;
    mp->bubbles = b;
    mp->p.nbubbles++;
}

/* Wake who is in run(), and say why. */
static void
tell_caller(py_bubble *b, bool *what)
{
    py_acquire(&b->lock);
    *what = true;
    py_waiter *w = py_waitq_claim(&b->callers, RT_WAKE_READY);
    py_release(&b->lock);
    if (w != NULL)
        py_ready(w->g, false);
}

/* What alarms owned whose time never comes. */
static PyObject *
drop_alarms(Goroutine *Py_UNUSED(gp))
{
    py_m *mp = py_tls_m;
    for (py_bubble *b; (b = mp->left_alarms) != NULL;) {
        mp->left_alarms = b->next;
        for (rt_timer *alarm; (alarm = rt_alarms_take(&b->alarms)) != NULL;)
            py_alarm_drop(alarm);
        Py_DECREF(b);
    }
    Py_RETURN_NONE;
}

void
py_bubble_left(py_m *mp, Goroutine *gp)
{
    py_bubble *b = gp->seat->bubble;
    gp->g.bubbled = 0;
    if (gp == b->root)
        b->root = NULL;
    if (--b->total != 0)
        return;
    if (b->listed) {
        *(b->prev ? &b->prev->next : &mp->bubbles) = b->next;
        if (b->next != NULL)
            b->next->prev = b->prev;
        b->listed = false;
        mp->p.nbubbles--;
    }
    if (b->explorer != NULL)
        py_points_over(mp);
    tell_caller(b, &b->ended);
    if (rt_alarms_next(&b->alarms) == RT_FOREVER) {
        Py_DECREF(b);
        return;
    }
    b->next = mp->left_alarms;
    mp->left_alarms = b;
    if (py_g_spawn_service(mp, drop_alarms) < 0)
        PyErr_Clear();          /* the next one does it */
}

static bool
is_member(const py_bubble *b, const Goroutine *gp)
{
    return gp->g.pp == &b->mp->p && gp->g.bubbled && py_bubble_of(gp) == b;
}

bool
py_bubble_is_durable(const py_bubble *b, const Goroutine *gp, int reason)
{
    /* Where others have woken it by now it is in no queue. */
    py_waitq *q = __atomic_load_n(&gp->seat->waiter.queue, __ATOMIC_RELAXED);
    switch (reason) {
    case PY_WAIT_SLEEP:
    case PY_WAIT_GROUP:
    case PY_WAIT_COND:
    case PY_WAIT_SEMA:
    case PY_WAIT_EVENT:
    case PY_WAIT_BUBBLE:
    case PY_WAIT_SELECT:
    case PY_WAIT_SELECT_NONE:
        return true;
    case PY_WAIT_CHAN_SEND:
        return q != NULL && RT_CONTAINER_OF(q, Chan, sendq)->bubbled;
    case PY_WAIT_CHAN_RECV:
        return q != NULL && RT_CONTAINER_OF(q, Chan, recvq)->bubbled;
    case PY_WAIT_JOIN:
        return q != NULL && is_member(b, RT_CONTAINER_OF(q, Goroutine, joiners));
    case PY_WAIT_IO:
    case PY_WAIT_SYSCALL:
    case PY_WAIT_FUTURE:
    case PY_WAIT_RUN_BUBBLE:
        return false;
    default:
        /* What explores has all that it uses to itself, or its schedules mean nothing. */
        return b->explorer != NULL && !(reason & PY_WAIT_OUTSIDE);
    }
}

/* ---- when nothing else can happen ---- */

/* Do all its goroutines wait, with nobody about to wake one? */
static bool
all_wait(const py_bubble *b)
{
    for (const py_seat *seat = b->mp->seats; seat != NULL; seat = seat->next) {
        const Goroutine *gp = seat->waiter.g;
        if (gp != NULL && gp->g.bubbled && seat->bubble == b
            && (RT_LOAD(gp->g.status) != RT_G_WAITING || RT_LOAD(gp->g.wake) != RT_WAKE_NONE))
            return false;
    }
    return true;
}

/* Without memory, with a MemoryError. */
static void
cancel(Goroutine *gp)
{
    PyObject *exc = PyObject_CallNoArgs(core->exc_cancelled);
    if (exc == NULL)
        exc = py_take_exception();
    py_cancel(gp, exc);
    Py_DECREF(exc);
}

/* By the scheduler: nothing is switched meanwhile, so the lists stay as they are. */
static RT_COLD void
cancel_all(py_bubble *b)
{
    py_m *mp = b->mp;
    for (uint32_t i = 0; b->explorer != NULL && i < py_explore_count(b->explorer); i++)
        cancel(py_explore_goroutine(b->explorer, i));
    for (const py_seat *seat = mp->seats; seat != NULL; seat = seat->next) {
        Goroutine *gp = seat->waiter.g;
        if (gp != NULL && gp->g.bubbled && seat->bubble == b)
            cancel(gp);
    }
    /* Those in its inbox have begun, but for the first one. */
    for (rt_g *g = mp->p.pinned.head; g != NULL; g = g->link.next)
        if (g->bubbled && !g->started && py_g_of(g)->bubble == b)
            cancel(py_g_of(g));
}

/* Let b go on if all its goroutines are blocked.  True: there may be something to run. */
static bool
go_on(py_bubble *b, bool busy)
{
    if (RT_UNLIKELY(RT_LOAD(b->doomed))) {
        RT_STORE(b->doomed, false);
        cancel_all(b);
        return true;
    }
    if (b->blocked != b->total || (busy && !all_wait(b)))
        return false;
    Goroutine *waiter = b->waiter;
    if (waiter != NULL) {
        b->waiter = NULL;
        return py_wake(waiter, RT_WAKE_READY, false);
    }
    int64_t next = rt_timers_next(&b->timers), alarm = rt_alarms_next(&b->alarms);
    if (alarm < next)
        next = alarm;
    if (b->root != NULL && next != RT_FOREVER) {
        if (next > b->now)
            b->now = next;
        b->firing = true;
        rt_timers_run(&b->timers, b->now);
        rt_alarms_run(&b->alarms, b->now);
        b->firing = false;
        if (b->explorer != NULL)
            py_explore_go_on(b->explorer);
        return true;
    }
    if (b->stuck || !all_wait(b))
        return false;
    tell_caller(b, &b->stuck);
    return true;
}

bool
py_bubble_quiet(rt_p *pp, bool busy)
{
    bool woken = false;
    for (py_bubble *b = py_m_of(pp)->bubbles, *next; b != NULL; b = next) {
        next = b->next;
        woken |= go_on(b, busy);
    }
    return woken;
}

/* ---- the type ---- */

static PyObject *
bubble_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *explorer = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Bubble", (char *[]){"explorer", NULL},
                                     &explorer))
        return NULL;
    if (explorer != Py_None && !Py_IS_TYPE(explorer, core->explorer_type)) {
        PyErr_Format(PyExc_TypeError, "explorer must be an _Explorer or None, not %.200s",
                     Py_TYPE(explorer)->tp_name);
        return NULL;
    }
    py_bubble *b = (py_bubble *)type->tp_alloc(type, 0);
    if (b == NULL)
        return NULL;
    b->id = atomic_fetch_add(&core->next_bubble_id, 1) + 1;
    rt_timers_init(&b->timers);
    if (explorer != Py_None)
        b->explorer = (py_explorer *)Py_NewRef(explorer);
    rt_alarms_init(&b->alarms, NULL);
    return (PyObject *)b;
}

static void
bubble_dealloc(py_bubble *b)
{
    PyTypeObject *type = Py_TYPE(b);
    rt_timers_fini(&b->timers);
    Py_XDECREF(b->explorer);
    rt_timers_fini(&b->alarms.heap);
    type->tp_free(b);
    Py_DECREF(type);
}

static PyObject *
bubble_start(py_bubble *b, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (b->mp != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Bubble can be started only once");
        return NULL;
    }
    if (py_bubble_current() != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a bubble cannot be started within a bubble");
        return NULL;
    }
    py_m *mp = py_this_m();
    if (mp == NULL && (mp = py_spare()) == NULL)
        return NULL;
    Goroutine *gp = py_g_new(args, (size_t)nargs, kwnames);
    if (gp == NULL)
        return NULL;
    Py_INCREF(gp);              /* the scheduler's reference */
    b->mp = mp;
    if (b->explorer != NULL)
        py_explore_begin(b->explorer, mp);
    b->alarms.pp = &mp->p;
    b->root = gp;
    py_bubble_submit(b, gp);
    return (PyObject *)gp;
}

static PyObject *
bubble_run(py_bubble *b, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t deadline;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: run(timeout=None)");
        return NULL;
    }
    Goroutine *gp = py_current("Bubble.run()");
    if (gp == NULL || py_io_deadline(nargs ? args[0] : NULL, &deadline) < 0)
        return NULL;
    if (b->mp == NULL || py_bubble_current() == b) {
        PyErr_SetString(PyExc_RuntimeError, b->mp ? "a bubble cannot wait for its own end"
                                                  : "the Bubble was not started");
        return NULL;
    }
    rt_g_arm(&gp->g);
    py_acquire(&b->lock);
    bool ended = b->ended;
    b->stuck = false;
    if (!ended)
        py_waitq_push(&b->callers, &gp->seat->waiter);
    py_release(&b->lock);
    if (ended) {
        py_stay(gp);
        Py_RETURN_TRUE;
    }
    Py_INCREF(b);
    if (gp->g.foreign || gp->g.pp != &b->mp->p)
        rt_p_wake(&b->mp->p);   /* it may sleep since it was stuck */
    uint32_t why = py_park(gp, PY_WAIT_RUN_BUBBLE, deadline);
    py_acquire(&b->lock);
    py_waitq_remove(&gp->seat->waiter);
    ended = b->ended;
    py_release(&b->lock);
    Py_DECREF(b);
    if (why == RT_WAKE_TIMEOUT)
        return py_raise_timeout("Bubble.run()");
    return why == RT_WAKE_READY ? PyBool_FromLong(ended) : NULL;
}

static PyObject *
bubble_cancel(py_bubble *b, PyObject *Py_UNUSED(ignored))
{
    RT_STORE(b->doomed, true);
    if (b->mp != NULL && b->mp == py_tls_m)
        rt_p_look_soon(&b->mp->p);
    else if (b->mp != NULL)
        rt_p_wake(&b->mp->p);
    Py_RETURN_NONE;
}

static PyMethodDef bubble_methods[] = {
    {"start", (PyCFunction)(void (*)(void))bubble_start, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"cancel", (PyCFunction)bubble_cancel, METH_NOARGS, NULL},
    {"run", (PyCFunction)(void (*)(void))bubble_run, METH_FASTCALL, NULL},
    {0},
};
static PyObject *
bubble_get_id(py_bubble *b, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(b->id);
}
static PyGetSetDef bubble_getset[] = {
    {"id", (getter)bubble_get_id, NULL, NULL, NULL},
    {0},
};
static PyType_Slot bubble_slots[] = {
    {Py_tp_new, bubble_new},
    {Py_tp_dealloc, bubble_dealloc},
    {Py_tp_methods, bubble_methods},
    {Py_tp_getset, bubble_getset},
    {Py_tp_doc, "Bubble(explorer=None)\n--\n\n"
                "Goroutines with a clock of their own; explorer decides which of them runs.\n\n"
                "start(fn, *args, **kwargs) starts the first one; run(timeout=None) waits until\n"
                "all have ended (True) or none can ever go on (False).  cancel() cancels all that\n"
                "there are when their thread comes to it."},
    {0, NULL},
};
static PyType_Spec bubble_spec = {
    "runtime._core.Bubble", sizeof(py_bubble), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, bubble_slots};

/* ---- functions ---- */

static PyObject *
m_bubble_wait(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Goroutine *gp = py_current("wait()");
    if (gp == NULL)
        return NULL;
    py_bubble *b = py_bubble_current();
    if (b == NULL || b->waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, b ? "another goroutine of the bubble is in wait()"
                        : "wait() is for goroutines of a bubble: see runtime.testing.bubble()");
        return NULL;
    }
    b->waiter = gp;
    rt_g_arm(&gp->g);
    uint32_t why = py_park(gp, PY_WAIT_BUBBLE, RT_FOREVER);
    if (b->waiter == gp)
        b->waiter = NULL;
    if (why != RT_WAKE_READY)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"_bubble_wait", m_bubble_wait, METH_NOARGS, NULL},
    {0},
};

void
py_bubble_after_fork(Goroutine *gp)
{
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        for (py_bubble *b = mp->bubbles; b != NULL; b = b->next) {
            b->mp = NULL;       /* nobody is in it, and its channels are anybody's */
            rt_alarms_after_fork(&b->alarms);
        }
        mp->bubbles = NULL;
    }
    if (gp != NULL)
        gp->g.bubbled = 0;
}

int
py_bubble_init(PyObject *module)
{
    if (py_add_type(module, &bubble_spec, &core->bubble_type, false) < 0
        || PyModule_AddObjectRef(module, "Bubble", (PyObject *)core->bubble_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
