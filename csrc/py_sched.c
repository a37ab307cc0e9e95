/* py_sched.c - Ms, workers and parking: the scheduler's Python side.
 *
 * A *worker* is a greenlet that runs goroutines one after another.  When its
 * goroutine ends it asks rt_sched_find() for the next; if that one is fresh it
 * runs it on the spot, without any switch.  If it is a started goroutine, parked
 * on another worker, the worker goes to the idle list and switches there.
 *
 * A goroutine that parks does the same from inside the blocking call: it finds the
 * next goroutine on its own stack and switches straight to it.  There is no hub.
 * If the next one is itself, nothing is switched at all.
 *
 * A fresh goroutine that is found by a parking one needs another worker: an idle
 * one, or a new one.  Only g0 starts workers, so that each starts at the same, low
 * place of the C stack: that makes the piece of stack to copy per switch small,
 * and it cannot creep deeper with every generation.
 *
 * Promises.  Whoever switches to a goroutine or a worker says so in mp->next, and
 * whoever gets control takes it from there.  Without it control came from outside:
 * user code switched to or threw into a greenlet of ours, or a greenlet it made has
 * died and our worker was its parent.  Control then goes straight back to the
 * goroutine that was running.
 *
 * Each M runs its goroutines on its own thread: py_m.c.
 */
#include "py_bubble.h"
#include "py_explore.h"
#include "py_wait.h"

#include <signal.h>

py_core *core;
_Thread_local py_m *py_tls_m PY_TLS_MODEL;
void **_PyGreenlet_API;

/* ---- switching ---- */

/* Transfer control to `target`; returns when somebody switches back.  -1 with an
   exception set if one was thrown into this greenlet. */
static inline int
switch_greenlet(PyGreenlet *target)
{
    py_stack_hint(true);
    PyObject *r = PyGreenlet_Switch(target, NULL, NULL);
    py_stack_hint(false);
    if (RT_UNLIKELY(r == NULL))
        return -1;
    Py_DECREF(r);
    return 0;
}

/* Leave the current greenlet, which will be switched back to, for gp. */
static int
switch_to(py_m *mp, Goroutine *gp)
{
    RT_COUNT(mp->switches, 1);
    mp->next = gp;
    if (gp->g.started)
        return switch_greenlet(gp->seat->greenlet);
    if (mp->nidle == 0)
        return switch_greenlet(mp->g0);
    PyGreenlet *worker = mp->idle[--mp->nidle];
    int r = switch_greenlet(worker);
    Py_DECREF(worker);
    return r;
}

/* Control came without a promise: back to the goroutine that runs, at the place it
   last switched from.  Returns as switch_greenlet() does. */
static RT_COLD int
give_back(py_m *mp)
{
    Goroutine *gp = mp->curg;
    if (gp == NULL)
        rt_throw("a greenlet of the runtime was switched to by a signal handler or finalizer");
    return switch_greenlet(gp->seat->greenlet != NULL ? gp->seat->greenlet : mp->worker);
}

/* As give_back(), for a greenlet that has no goroutine: r < 0 means that it has got an
   exception, which concerns nobody. */
static RT_COLD int
give_back_idle(py_m *mp, int r)
{
    if (r < 0 && PyErr_ExceptionMatches(PyExc_GreenletExit))
        PyErr_Clear();
    else if (r < 0)
        PyErr_WriteUnraisable(NULL);
    return give_back(mp);
}

static inline Goroutine *
find(py_m *mp)
{
    if (RT_UNLIKELY(RT_LOAD(mp->stopping))) {
        PyEval_SaveThread();
        py_m_pause(mp);
    }
    return py_g_of(rt_sched_find(&mp->p));
}

Goroutine *
py_find(py_m *mp)
{
    return find(mp);
}

/* The worker for gp could not be made: gp fails with the exception set. */
static RT_COLD void
fail_start(Goroutine *gp)
{
    py_seat none = {.bubble = gp->bubble};
    gp->seat = &none;
    gp->g.started = 1;
    if (gp->fn == NULL && gp->call.c.cancel != NULL) {
        PyObject *exc = py_take_exception();
        gp->call.c.cancel(gp);
        py_raise(exc);
    }
    py_g_finish(gp, NULL);
}

/* Run by each worker greenlet.  Returns to g0 when the worker is not needed. */
static PyObject *
worker_main(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    py_m *mp = py_tls_m;
    PyGreenlet *self = PyGreenlet_GetCurrent();
    Goroutine *gp = mp->next;
    mp->next = NULL;
    py_stack_hint(false);
    py_stack_seed(mp->tstate);
    py_seat *seat = PyMem_Calloc(1, sizeof(*seat));
    if (seat == NULL) {
        PyErr_NoMemory();
        fail_start(gp);
        mp->next = find(mp);
        Py_XDECREF(self);
        Py_RETURN_NONE;
    }
    py_seat_link(&mp->seats, seat);
    for (;;) {
        mp->worker = self;
        py_g_run(mp, gp, seat);
        gp = find(mp);
        if (!gp->g.started)
            continue;
        if (mp->nidle == PY_MAX_IDLE_WORKERS) {
            mp->next = gp;
            py_seat_unlink(&mp->seats, seat);
            PyMem_Free(seat);
            Py_DECREF(self);
            Py_RETURN_NONE;
        }
        mp->idle[mp->nidle++] = (PyGreenlet *)Py_NewRef(self);
        int r = switch_to(mp, gp);
        while (RT_UNLIKELY(mp->next == NULL))
            r = give_back_idle(mp, r);
        gp = mp->next;
        mp->next = NULL;
    }
}

/* Switch to mp->next, starting a worker where it needs one.  Called on g0. */
static void
g0_dispatch(py_m *mp)
{
    Goroutine *gp = mp->next;
    int r;
    if (gp->g.started || mp->nidle != 0)
        r = switch_to(mp, gp);
    else {
        PyGreenlet *worker = PyGreenlet_New(core->worker_fn, mp->g0);
        r = worker ? switch_greenlet(worker) : -1;
        if (RT_UNLIKELY(r < 0 && mp->next == gp)) {
            fail_start(gp);
            mp->next = find(mp);
        }
        else
            RT_COUNT(mp->workers, 1);
        Py_XDECREF(worker);
    }
    while (RT_UNLIKELY(mp->next == NULL))
        r = give_back_idle(mp, r);
}

void
py_g0_run(py_m *mp)
{
    for (;;)
        g0_dispatch(mp);
}

/* g0 of the main thread: entered by whoever finds a fresh goroutine and no idle
   worker, and by workers that end; both leave the goroutine to run in mp->next. */
static PyObject *
g0_main(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    py_g0_run(py_tls_m);
}

/* ---- parking ---- */

static void
park_timer_fired(rt_timer *t)
{
    Goroutine *gp = RT_CONTAINER_OF(t, py_seat, timer)->waiter.g;
    if (rt_g_claim(&gp->g, RT_WAKE_TIMEOUT))
        rt_ready(gp->g.pp, &gp->g, false);
}

int
py_take_pending(Goroutine *gp)
{
    py_acquire(&gp->lock);
    PyObject *exc = gp->outcome;
    gp->outcome = NULL;
    py_release(&gp->lock);
    if (exc == NULL)
        return 0;
    if (gp == core->main_g)
        RT_STORE(core->interrupted, false);
    py_raise(exc);
    return -1;
}

/* Post exc (stolen).  False, and nothing is done, if gp has ended, or where `first` is
   set and another is on its way. */
static bool
set_pending(Goroutine *gp, PyObject *exc, bool first)
{
    PyObject *drop = exc;
    py_acquire(&gp->lock);
    bool post = !py_g_ended(gp) && !gp->failed && !(first && gp->outcome != NULL);
    if (post) {
        drop = gp->outcome;
        gp->outcome = exc;
        gp->cold = true;
    }
    py_release(&gp->lock);
    Py_XDECREF(drop);
    return post;
}

/* For Py_AddPendingCall(): called by the eval loop of the main thread, whichever
   goroutine it runs.  If it is another one, py_park() sees to it later. */
static int
raise_pending(void *Py_UNUSED(arg))
{
    Goroutine *gp = core->main_g;
    return RT_LOAD(core->interrupted) && core->m0->curg == gp ? py_take_pending(gp) : 0;
}

/* The same for a main thread that has not become an M. */
static int
raise_owned(void *exc)
{
    py_raise(exc);
    return -1;
}

PyObject *
py_finalizing_error(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "the interpreter is being finalized: other goroutines run no more");
    return py_take_exception();
}

/* The interpreter is being finalized, which an exception says: greenlets switch no more.
   gp alone goes on; what others there are to run is lost. */
static RT_COLD void
go_on_alone(py_m *mp, Goroutine *gp)
{
    PyErr_Clear();
    if (rt_g_claim(&gp->g, RT_WAKE_INTERRUPT)) {
        set_pending(gp, py_finalizing_error(), false);
        rt_ready(&mp->p, &gp->g, false);
    }
    while (find(mp) != gp)
        ;
}

/* Find the next goroutine and be away until it is gp's turn again.  gp is in a
   run queue, or will be put there by a waker. */
static void
schedule(py_m *mp, Goroutine *gp)
{
    mp->curg = NULL;
    mp->parking = gp;
    Goroutine *next = find(mp);
    PyGreenlet *here = next != gp ? PyGreenlet_GetCurrent() : NULL;
    if (next != gp && RT_UNLIKELY(here == NULL))
        go_on_alone(mp, gp);
    else if (next != gp) {
        uintptr_t locks = py_suspend_object_locks(mp->tstate);
        py_tracing tracing = py_leave_tracing(mp->tstate);
        Py_XSETREF(gp->seat->greenlet, here);
#if PY_HAS_UNCOUNTED_REFS
        gp->seat->frames = py_frames_here(mp->tstate);
#endif
        int r = switch_to(mp, next);
        while (RT_UNLIKELY(mp->next != gp)) {
            /* Someone else's greenlet.switch(), or throw(): keep the exception and
               raise it when it is our turn. */
            if (r < 0) {
                set_pending(gp, py_take_exception(), false);
                if (rt_g_claim(&gp->g, RT_WAKE_INTERRUPT))
                    rt_ready(&mp->p, &gp->g, false);
            }
            r = give_back(mp);
        }
        mp->next = NULL;
#if PY_HAS_UNCOUNTED_REFS
        gp->seat->frames = NULL;
#endif
        if (RT_UNLIKELY(r < 0))
            set_pending(gp, py_take_exception(), false);
        py_enter_tracing(mp->tstate, tracing);
        py_resume_object_locks(mp->tstate, locks);
    }
    mp->curg = gp;
    RT_STORE(gp->g.status, RT_G_RUNNING);
}

static uint32_t
park_foreign(Goroutine *gp, int64_t deadline)
{
    bool got;
    /* At exit the interpreter clears the state of daemon threads while they wait here. */
    Py_INCREF(gp);
    Py_BEGIN_ALLOW_THREADS
    got = rt_parker_park(gp->seat->parker, deadline);
    Py_END_ALLOW_THREADS
    if (!got && !rt_g_claim(&gp->g, RT_WAKE_TIMEOUT)) {
        /* A waker was quicker: its token is on the way. */
        Py_BEGIN_ALLOW_THREADS
        rt_parker_park(gp->seat->parker, RT_FOREVER);
        Py_END_ALLOW_THREADS
    }
    RT_STORE(gp->g.status, RT_G_RUNNING);
    uint32_t why = atomic_load_explicit(&gp->g.wake, memory_order_acquire);
    Py_DECREF(gp);
    return why;
}

/* GOSCHED_CHECK_WAITS: is it an error that gp, which is armed, waits here?  Then it is set. */
static RT_COLD bool
must_not_wait(py_m *mp, Goroutine *gp, int reason)
{
    if (reason == PY_WAIT_GOEXIT
        || py_frames_check_wait(&core->preempt.zones, mp->tstate, py_wait_reason(reason)) == 0)
        return false;
    if (rt_g_claim(&gp->g, RT_WAKE_INTERRUPT)) {
        RT_STORE(gp->g.status, RT_G_RUNNING);
        return true;
    }
    PyErr_Clear();              /* it need not wait any more */
    return false;
}

/* py_park() of a goroutine; its time-out is by the clock of b, unless that is NULL.  bubbled:
   it belongs to a bubble. */
static inline __attribute__((always_inline)) uint32_t
park(Goroutine *gp, int reason, int64_t deadline, py_bubble *b, bool bubbled)
{
    py_m *mp = py_tls_m;
    if (RT_UNLIKELY(core->preempt.check_waits) && must_not_wait(mp, gp, reason))
        return RT_WAKE_INTERRUPT;
    if (RT_UNLIKELY(py_g_has_pending(gp)) && rt_g_claim(&gp->g, RT_WAKE_INTERRUPT)) {
        RT_STORE(gp->g.status, RT_G_RUNNING);
        py_take_pending(gp);
        return RT_WAKE_INTERRUPT;
    }
    if (deadline != RT_FOREVER) {
        gp->seat->timer.when = deadline;
        gp->seat->timer.fire = park_timer_fired;
        if (rt_timers_start(b ? &b->timers : &mp->p.timers, &gp->seat->timer) < 0) {
            deadline = RT_FOREVER;      /* of no use if somebody has woken it already */
            if (rt_g_claim(&gp->g, RT_WAKE_INTERRUPT)) {
                RT_STORE(gp->g.status, RT_G_RUNNING);
                PyErr_NoMemory();
                return RT_WAKE_INTERRUPT;
            }
        }
    }
    bool held = bubbled && gp->g.held;
    if (held)
        py_explore_stop(mp, gp, PY_STOP_WAITS);
    schedule(mp, gp);
    if (held)
        py_explore_resume(mp);
    if (deadline != RT_FOREVER)
        rt_timers_stop(b ? &b->timers : &mp->p.timers, &gp->seat->timer);
    uint32_t why = atomic_load_explicit(&gp->g.wake, memory_order_acquire);
    if (RT_UNLIKELY(__atomic_load_n(&gp->outcome, __ATOMIC_RELAXED) != NULL)) {
        if (why == RT_WAKE_INTERRUPT)
            py_take_pending(gp);
        else if (gp == core->main_g)
            Py_AddPendingCall(raise_pending, NULL);     /* it has got a value, too */
    }
    return why;
}

/* The same, of one that belongs to a bubble. */
static RT_NOINLINE uint32_t
park_bubbled(Goroutine *gp, int reason, int64_t deadline)
{
    py_bubble *b = gp->seat->bubble;
    bool durable = py_bubble_is_durable(b, gp, reason);
    reason &= ~PY_WAIT_OUTSIDE;
    b->blocked += durable;
    gp->g.reason = (uint8_t)reason;
    uint32_t why = park(gp, reason, deadline, reason == PY_WAIT_IO ? NULL : b, true);
    b->blocked -= durable;
    return why;
}

uint32_t
py_park(Goroutine *gp, int reason, int64_t deadline)
{
    gp->g.reason = (uint8_t)reason;
    gp->g.since = RT_LOAD(core->sched.coarse_ms);
    if (RT_UNLIKELY(gp->g.foreign || gp->g.bubbled))
        return gp->g.foreign ? park_foreign(gp, deadline) : park_bubbled(gp, reason, deadline);
    return park(gp, reason, deadline, NULL, false);
}

void
py_stay(Goroutine *gp)
{
    if (RT_LIKELY(py_disarm(gp)))
        return;
    if (gp->g.foreign) {
        Py_BEGIN_ALLOW_THREADS
        rt_parker_park(gp->seat->parker, RT_FOREVER);
        Py_END_ALLOW_THREADS
        RT_STORE(gp->g.status, RT_G_RUNNING);
        return;
    }
    py_m *mp = py_tls_m;
    if (gp->g.held)
        py_explore_stop(mp, gp, PY_STOP_WAITS);
    schedule(mp, gp);
    if (gp->g.held)
        py_explore_resume(mp);
}

bool
py_wake(Goroutine *gp, uint8_t why, bool next)
{
    if (!rt_g_claim(&gp->g, why))
        return false;
    py_ready(gp, next);
    return true;
}

int
py_yield(Goroutine *gp)
{
    bool held = false;
    if (RT_UNLIKELY(gp->g.foreign | gp->g.held)) {
        if (gp->g.foreign) {
            Py_BEGIN_ALLOW_THREADS
            sched_yield();
            Py_END_ALLOW_THREADS
            return 0;
        }
        held = true;
    }
    py_m *mp = py_tls_m;
    if (RT_UNLIKELY(core->preempt.check_waits)
        && py_frames_check_wait(&core->preempt.zones, mp->tstate, "gosched()") < 0)
        return -1;
    atomic_store_explicit(&gp->g.wake, RT_WAKE_READY, memory_order_relaxed);
    if (RT_UNLIKELY(held))
        py_explore_stop(mp, gp, PY_STOP_YIELDS);
    else
        rt_p_put_yielded(&mp->p, &gp->g);
    schedule(mp, gp);
    if (RT_UNLIKELY(held))
        py_explore_resume(mp);
    if (RT_UNLIKELY(__atomic_load_n(&gp->outcome, __ATOMIC_RELAXED) != NULL))
        return py_take_pending(gp);
    return 0;
}

/* An exception was posted: wake gp if it waits. */
static bool
wake_waiting(Goroutine *gp, bool next)
{
#ifdef Py_GIL_DISABLED
    atomic_thread_fence(memory_order_seq_cst);      /* pairs with py_g_has_pending() */
#endif
    return RT_LOAD(gp->g.status) == RT_G_WAITING && py_wake(gp, RT_WAKE_INTERRUPT, next);
}

void
py_give_way(py_m *mp)
{
    Goroutine *gp = mp->curg;
    RT_STORE(gp->g.wake, RT_WAKE_READY);
    if (gp->g.held)
        py_explore_stop(mp, gp, PY_STOP_PREEMPTED);
    else
        rt_p_put_preempted(&mp->p, &gp->g);
    schedule(mp, gp);
    if (gp->g.held)
        py_explore_resume(mp);
    if (gp == core->main_g && RT_UNLIKELY(__atomic_load_n(&gp->outcome, __ATOMIC_RELAXED) != NULL))
        Py_AddPendingCall(raise_pending, NULL);
}

bool
py_cancel(Goroutine *gp, PyObject *exc)
{
    if (!set_pending(gp, Py_NewRef(exc), true))
        return false;
    wake_waiting(gp, false);
    return true;
}

void
py_interrupt_main(PyObject *exc)
{
    Goroutine *gp = core->main_g;
    if (gp == NULL) {
        if (Py_AddPendingCall(raise_owned, exc) < 0)
            Py_DECREF(exc);
        return;
    }
    RT_STORE(core->interrupted, true);
    set_pending(gp, exc, false);
    if (!wake_waiting(gp, true))
        Py_AddPendingCall(raise_pending, NULL);
}

static void
host_unpark(rt_g *g)
{
    /* Once unparked the thread may end, and its Goroutine with it. */
    Goroutine *gp = (Goroutine *)Py_NewRef(py_g_of(g));
    rt_parker_unpark(gp->seat->parker);
    Py_DECREF(gp);
}

/* ---- time ---- */

static PyObject *
m_sleep(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_limits limits;
    if (nargs != 1) {
        PyErr_SetString(PyExc_TypeError, "wrong arguments: sleep(seconds, *, ctx=None)");
        return NULL;
    }
    if (py_limits_parse(&limits, "sleep(seconds, *, ctx=None)", 1, args, nargs, kwnames) < 0)
        return NULL;
    if (limits.timeout != Py_None || args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, limits.timeout != Py_None
                        ? "wrong arguments: sleep(seconds, *, ctx=None)"
                        : "sleep(seconds): seconds must be a number, not None");
        return NULL;
    }
    limits.timeout = args[0];
    py_wait wait;
    Goroutine *gp = py_current("sleep()");
    if (gp == NULL || py_wait_begin(&wait, &limits) < 0)
        return NULL;
    bool interrupted;
    if (wait.deadline <= py_now())
        interrupted = py_yield(gp) < 0;
    else {
        rt_g_arm(&gp->g);
        interrupted = py_wait_park(gp, PY_WAIT_SLEEP, &wait) != RT_WAKE_TIMEOUT;
    }
    py_wait_end(&wait);
    if (interrupted)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_gosched(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Goroutine *gp = py_current("gosched()");
    if (gp == NULL || py_yield(gp) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_goexit(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Goroutine *gp = py_current("goexit()");
    if (gp == NULL)
        return NULL;
    if (gp->g.foreign) {
        PyErr_SetString(PyExc_RuntimeError, "goexit() ends a goroutine, and this is a plain "
                        "thread: return from its function instead");
        return NULL;
    }
    if (gp != core->main_g) {
        PyErr_SetNone(core->exc_goexit);
        return NULL;
    }
    /* As in Go: the others go on, and the program fails when none can any more. */
    rt_g_arm(&gp->g);
    py_park(gp, PY_WAIT_GOEXIT, RT_FOREVER);
    return NULL;
}

static PyObject *
m_current(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return Py_XNewRef((PyObject *)py_current("current()"));
}

static PyObject *
m_num_goroutine(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(py_num_goroutine(NULL, NULL));
}

/* The SIGINT handler: KeyboardInterrupt belongs to the main goroutine, whichever
   goroutine the signal happens to interrupt. */
static PyObject *
m_on_sigint(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    py_m *mp = py_tls_m;
    if (mp == NULL || mp->curg == core->main_g) {
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        return NULL;
    }
    PyObject *exc = PyObject_CallNoArgs(PyExc_KeyboardInterrupt);
    if (exc == NULL)
        return NULL;
    py_interrupt_main(exc);
    if (mp->curg != NULL)
        PyErr_SetInterruptEx(SIGURG);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"sleep", (PyCFunction)(void (*)(void))m_sleep, METH_FASTCALL | METH_KEYWORDS,
     "sleep(seconds, /, *, ctx=None)\n--\n\n"
     "Park the calling goroutine for at least that long; 0 or less yields.\n\n"
     "Raises ctx.err() when the context ctx ends before.\n\n"
     "Go: time.Sleep."},
    {"gosched", m_gosched, METH_NOARGS,
     "gosched()\n--\n\n"
     "Let other goroutines run: the caller goes to the end of its run queue.\n\n"
     "Go: runtime.Gosched."},
    {"goexit", m_goexit, METH_NOARGS,
     "goexit()\n--\n\n"
     "End the calling goroutine, running its finally blocks; join() returns None.\n\n"
     "In the main goroutine the others go on, and DeadlockError is raised once none can.\n\n"
     "Go: runtime.Goexit."},
    {"current", m_current, METH_NOARGS,
     "current()\n--\n\nThe calling Goroutine; a plain thread gets one that stands for it."},
    {"num_goroutine", m_num_goroutine, METH_NOARGS,
     "num_goroutine()\n--\n\n"
     "How many goroutines exist, the main one included; not what the runtime itself\n"
     "does in one.\n\n"
     "Go: runtime.NumGoroutine."},
    {"_on_sigint", m_on_sigint, METH_VARARGS, NULL},
    {0},
};
/* How long an M that has found nothing looks on before it sleeps: what waking it on another
   core takes. */
#define SPIN_NS 20000

static PyMethodDef worker_def = {"goroutine_worker", worker_main, METH_VARARGS, NULL};
static PyMethodDef g0_def = {"g0", g0_main, METH_VARARGS, NULL};

int
py_sched_init(PyObject *module, const rt_netpoll_ops *ops)
{
    rt_sched_init(&core->sched, ops,
                  (rt_host){.block = py_idle_block, .unpark = host_unpark, .start = py_m_start,
                            .quiet = py_bubble_quiet, .hold = py_explore_hold});
#ifdef Py_GIL_DISABLED
    core->sched.spin_ns = SPIN_NS;
#endif
    core->worker_fn = PyCFunction_New(&worker_def, NULL);
    core->g0_fn = PyCFunction_New(&g0_def, NULL);
    if (core->worker_fn == NULL || core->g0_fn == NULL
        || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return 0;
}
