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
 * The main thread's M is m0; its main goroutine is the program's own main
 * greenlet.  Goroutines spawned by threads that are not Ms go to `aux`, an M with
 * a thread of its own started on first use: the main thread may be inside a call
 * that never comes back to the scheduler (Thread.join(), input()), and what other
 * threads spawned must run all the same.
 *
 * Signals.  A signal must end a blocking poll of the main thread, and one that
 * comes between looking for pending signals and polling must not be lost: the main
 * thread blocks all signals, looks, and unblocks them atomically with the poll.  A
 * signal may still land on another thread of the program in between, so while
 * there are others a poll is limited to one second.  No thread blocks signals for
 * longer: the threads and processes it starts would inherit that.
 */
#include "py_core.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

py_core *core;
_Thread_local py_m *py_tls_m PY_TLS_MODEL;
void **_PyGreenlet_API;

#define FOREIGN_KEY "gosched.goroutine"

/* ---- switching ---- */

/* Transfer control to `target`; returns when somebody switches back.  -1 with an
   exception set if one was thrown into this greenlet. */
static inline int
switch_greenlet(PyGreenlet *target)
{
    PyObject *r = PyGreenlet_Switch(target, NULL, NULL);
    if (RT_UNLIKELY(r == NULL))
        return -1;
    Py_DECREF(r);
    return 0;
}

/* Leave the current greenlet, which will be switched back to, for gp. */
static int
switch_to(py_m *mp, Goroutine *gp)
{
    mp->switches++;
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

/* The process ends: never touch Python again.  Called without the GIL. */
static _Noreturn RT_COLD void
pause_for_good(py_m *mp)
{
    atomic_store(&mp->paused, true);
    for (;;)
        pause();
}

/* The next goroutine to run. */
static inline Goroutine *
find(py_m *mp)
{
    if (RT_UNLIKELY(atomic_load_explicit(&mp->stopping, memory_order_relaxed))) {
        PyEval_SaveThread();
        pause_for_good(mp);
    }
    return py_g_of(rt_sched_find(&mp->p));
}

/* The worker for gp could not be made: gp fails with the exception set. */
static RT_COLD void
fail_start(Goroutine *gp)
{
    gp->g.started = 1;
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
    py_stack_seed(mp->tstate);
    py_seat *seat = PyMem_Calloc(1, sizeof(*seat));
    if (seat == NULL) {
        PyErr_NoMemory();
        fail_start(gp);
        mp->next = find(mp);
        Py_XDECREF(self);
        Py_RETURN_NONE;
    }
    for (;;) {
        mp->worker = self;
        py_g_run(mp, gp, seat);
        gp = find(mp);
        if (!gp->g.started)
            continue;
        if (mp->nidle == PY_MAX_IDLE_WORKERS) {
            mp->next = gp;
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
            mp->workers++;
        Py_XDECREF(worker);
    }
    while (RT_UNLIKELY(mp->next == NULL))
        r = give_back_idle(mp, r);
}

/* g0 of the main thread: entered by whoever finds a fresh goroutine and no idle
   worker, and by workers that end; both leave the goroutine to run in mp->next. */
static PyObject *
g0_main(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    py_m *mp = py_tls_m;
    for (;;)
        g0_dispatch(mp);
    return NULL;
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
    PyObject *exc = gp->outcome;
    gp->outcome = NULL;
    py_raise(exc);
    return -1;
}

/* For Py_AddPendingCall(): called by the eval loop of the main thread, whichever
   goroutine it runs.  If it is another one, py_park() sees to it later. */
static int
raise_pending(void *Py_UNUSED(arg))
{
    Goroutine *gp = core->main_g;
    if (gp->outcome == NULL || core->m0->curg != gp)
        return 0;
    return py_take_pending(gp);
}

/* The same for a main thread that has not become an M. */
static int
raise_owned(void *exc)
{
    py_raise(exc);
    return -1;
}

/* Find the next goroutine and be away until it is gp's turn again.  gp is in a
   run queue, or will be put there by a waker. */
static void
set_pending(Goroutine *gp, PyObject *exc)
{
    gp->cold = true;
    Py_XSETREF(gp->outcome, exc);
}

static void
schedule(py_m *mp, Goroutine *gp)
{
    mp->curg = NULL;
    Goroutine *next = find(mp);
    if (next != gp) {
        PyGreenlet *here = PyGreenlet_GetCurrent();
        Py_XSETREF(gp->seat->greenlet, here);
        int r = switch_to(mp, next);
        while (RT_UNLIKELY(mp->next != gp)) {
            /* Someone else's greenlet.switch(), or throw(): keep the exception and
               raise it when it is our turn. */
            if (r < 0) {
                set_pending(gp, py_take_exception());
                if (rt_g_claim(&gp->g, RT_WAKE_INTERRUPT))
                    rt_ready(&mp->p, &gp->g, false);
            }
            r = give_back(mp);
        }
        mp->next = NULL;
        if (RT_UNLIKELY(r < 0))
            set_pending(gp, py_take_exception());
    }
    mp->curg = gp;
    gp->g.status = RT_G_RUNNING;
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
    gp->g.status = RT_G_RUNNING;
    uint32_t why = atomic_load_explicit(&gp->g.wake, memory_order_acquire);
    Py_DECREF(gp);
    return why;
}

uint32_t
py_park(Goroutine *gp, int reason, int64_t deadline)
{
    gp->g.reason = (uint8_t)reason;
    gp->g.status = RT_G_WAITING;
    if (RT_UNLIKELY(gp->g.foreign))
        return park_foreign(gp, deadline);
    py_m *mp = py_tls_m;
    if (RT_UNLIKELY(gp->outcome != NULL) && rt_g_claim(&gp->g, RT_WAKE_INTERRUPT)) {
        gp->g.status = RT_G_RUNNING;
        py_take_pending(gp);
        return RT_WAKE_INTERRUPT;
    }
    if (deadline != RT_FOREVER) {
        gp->seat->timer.when = deadline;
        gp->seat->timer.fire = park_timer_fired;
        if (rt_timers_start(&mp->p.timers, &gp->seat->timer) < 0) {
            rt_g_claim(&gp->g, RT_WAKE_INTERRUPT);
            gp->g.status = RT_G_RUNNING;
            PyErr_NoMemory();
            return RT_WAKE_INTERRUPT;
        }
    }
    schedule(mp, gp);
    if (deadline != RT_FOREVER)
        rt_timers_stop(&mp->p.timers, &gp->seat->timer);
    uint32_t why = atomic_load_explicit(&gp->g.wake, memory_order_acquire);
    if (RT_UNLIKELY(gp->outcome != NULL)) {
        if (why == RT_WAKE_INTERRUPT)
            py_take_pending(gp);
        else if (gp == core->main_g)
            Py_AddPendingCall(raise_pending, NULL);     /* it has got a value, too */
    }
    return why;
}

bool
py_wake(Goroutine *gp, uint32_t why, bool next)
{
    if (!rt_g_claim(&gp->g, why))
        return false;
    py_ready(gp, next);
    return true;
}

int
py_yield(Goroutine *gp)
{
    if (RT_UNLIKELY(gp->g.foreign)) {
        Py_BEGIN_ALLOW_THREADS
        sched_yield();
        Py_END_ALLOW_THREADS
        return 0;
    }
    py_m *mp = py_tls_m;
    atomic_store_explicit(&gp->g.wake, RT_WAKE_READY, memory_order_relaxed);
    rt_p_put_yielded(&mp->p, &gp->g);
    schedule(mp, gp);
    if (RT_UNLIKELY(gp->outcome != NULL))
        return py_take_pending(gp);
    return 0;
}

void
py_give_way(py_m *mp)
{
    Goroutine *gp = mp->curg;
    atomic_store_explicit(&gp->g.wake, RT_WAKE_READY, memory_order_relaxed);
    mp->curg = NULL;            /* what the poller calls is nobody's run */
    rt_p_put_preempted(&mp->p, &gp->g);
    schedule(mp, gp);
    if (RT_UNLIKELY(gp->outcome != NULL) && gp == core->main_g)
        Py_AddPendingCall(raise_pending, NULL);
}

bool
py_cancel(Goroutine *gp, PyObject *exc)
{
    if (gp->g.status == RT_G_DEAD || gp->outcome != NULL)
        return false;
    set_pending(gp, Py_NewRef(exc));
    if (gp->g.started && gp->g.status == RT_G_WAITING)
        py_wake(gp, RT_WAKE_INTERRUPT, false);
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
    set_pending(gp, exc);
    if (gp->g.status != RT_G_WAITING || !py_wake(gp, RT_WAKE_INTERRUPT, true))
        Py_AddPendingCall(raise_pending, NULL);
}

/* ---- the host's side of sleeping ---- */

/* Python signal handlers; what they raise goes to the main goroutine. */
static void
run_signal_handlers(void)
{
    if (PyErr_CheckSignals() < 0)
        py_interrupt_main(py_take_exception());
}

static bool
has_work(rt_p *pp)
{
    return pp->runnext != NULL || pp->started.head != NULL || rt_runq_len(&pp->fresh) != 0
           || !rt_inbox_empty(&pp->inbox);
}

/* Are there threads that are not Ms? */
static bool
foreign_threads(py_m *mp)
{
    PyThreadState *ts = PyInterpreterState_ThreadHead(mp->tstate->interp);
    for (; ts != NULL; ts = PyThreadState_Next(ts))
        if (ts != mp->tstate && (core->aux == NULL || ts != core->aux->tstate)
            && ts != atomic_load(&core->preempt.tstate))
            return true;
    return false;
}

/* Can the auxiliary M never wake anything by itself again? */
static bool
aux_quiet(void)
{
    py_m *mp = core->aux;
    return mp == NULL
           || (atomic_load(&mp->p.sleeping) && mp->p.npd == 0 && mp->p.timers.len == 0
               && !has_work(&mp->p));
}

/* Nothing can ever wake anything: tell the main goroutine.  True if it was told. */
static RT_COLD bool
report_deadlock(py_m *mp)
{
    if (foreign_threads(mp) || !aux_quiet() || core->may_deadlock == NULL)
        return false;
    PyObject *r = PyObject_CallNoArgs(core->may_deadlock);
    if (r == NULL) {
        py_interrupt_main(py_take_exception());
        return true;
    }
    bool deadlock = PyObject_IsTrue(r) == 1;
    Py_DECREF(r);
    if (!deadlock || has_work(&mp->p))
        return has_work(&mp->p);
    PyErr_Format(core->exc_deadlock,
                 "all goroutines are asleep: nothing that could wake one is left "
                 "(the main goroutine waits in: %s)",
                 py_wait_reason(core->main_g->g.reason));
    py_interrupt_main(py_take_exception());
    return true;
}

static void
block_main(py_m *mp, int64_t timeout)
{
    rt_p *pp = &mp->p;
    run_signal_handlers();      /* here, so that it is rare below */
    if (has_work(pp))
        return;
    if (timeout == RT_FOREVER && pp->npd == 0 && report_deadlock(mp))
        return;
    if (timeout > 1000000000 && (core->aux != NULL || foreign_threads(mp)))
        timeout = 1000000000;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    run_signal_handlers();
    if (has_work(pp))
        timeout = 0;
    PyThreadState *ts = PyEval_SaveThread();
    int n = rt_p_poll(pp, timeout, &old);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    PyEval_RestoreThread(ts);
    rt_p_dispatch(pp, n < 0 ? 0 : n);
    run_signal_handlers();
}

static void
host_block(rt_p *pp, int64_t timeout)
{
    py_m *mp = py_m_of(pp);
    if (mp->is_main) {
        block_main(mp, timeout);
        return;
    }
    PyThreadState *ts = PyEval_SaveThread();
    int n = rt_p_poll(pp, timeout, NULL);
    if (atomic_load(&mp->stopping))
        pause_for_good(mp);
    PyEval_RestoreThread(ts);
    if (n == -EINTR && core->m0 != NULL)
        rt_p_wake(&core->m0->p);        /* the signal is the main thread's */
    rt_p_dispatch(pp, n < 0 ? 0 : n);
}

static void
host_unpark(rt_g *gp)
{
    rt_parker_unpark(py_g_of(gp)->seat->parker);
}

/* ---- Ms ---- */

static py_m *
m_new(uint32_t id)
{
    py_m *mp = aligned_alloc(64, (sizeof(py_m) + 63) / 64 * 64);
    if (mp == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(mp, 0, sizeof(*mp));
    mp->idle = PyMem_New(PyGreenlet *, PY_MAX_IDLE_WORKERS);
    int err = mp->idle ? rt_p_init(&mp->p, &core->sched, id) : -ENOMEM;
    atomic_store(&core->sched.allp[id], &mp->p);
    if (id >= atomic_load(&core->sched.nallp))
        atomic_store(&core->sched.nallp, id + 1);
    if (err < 0) {
        PyMem_Free(mp->idle);
        free(mp);
        errno = -err;
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    return mp;
}

/* Make the main thread an M, with its main goroutine running. */
static int
start_m0(void)
{
    py_m *mp = m_new(0);
    if (mp == NULL)
        return -1;
    mp->tstate = PyThreadState_Get();
    mp->is_main = true;
    PyGreenlet *root = PyGreenlet_GetCurrent();
    while (root != NULL && !PyGreenlet_MAIN(root)) {
        PyGreenlet *parent = PyGreenlet_GetParent(root);
        Py_SETREF(root, parent);
    }
    mp->g0 = root ? PyGreenlet_New(core->g0_fn, root) : NULL;
    Goroutine *gp = mp->g0 ? py_g_alloc() : NULL;
    if (gp == NULL) {
        Py_XDECREF(root);
        return -1;              /* at import, with an exception: the import fails */
    }
    gp->g.pp = &mp->p;
    gp->g.started = 1;
    gp->g.status = RT_G_RUNNING;
    gp->seat = &mp->seat;
    gp->seat->waiter.g = gp;
    gp->seat->greenlet = root;
    core->main_g = gp;
    mp->curg = gp;
    core->m0 = py_tls_m = mp;
    return 0;
}

py_m *
py_this_m(void)
{
    if (RT_LIKELY(py_tls_m != NULL))
        return py_tls_m;
    if (core->m0 == NULL && PyThread_get_thread_ident() == core->main_ident && start_m0() < 0)
        PyErr_Clear();
    return py_tls_m;
}

/* The thread of the auxiliary M: its own main greenlet is g0. */
static void
aux_main(void *arg)
{
    py_m *mp = arg;
    PyGILState_STATE gil = PyGILState_Ensure();
    mp->tstate = PyThreadState_Get();
    py_tls_m = mp;
    mp->g0 = PyGreenlet_GetCurrent();
    if (mp->g0 == NULL)
        rt_throw("aux_main: no greenlet for the auxiliary thread");
    (void)gil;                  /* kept for good: the thread ends with the process */
    mp->next = find(mp);
    for (;;)
        g0_dispatch(mp);
}

static py_m *
start_aux(void)
{
    py_m *mp = m_new(1);
    if (mp == NULL)
        return NULL;
    mp->p.takes_global = false;
    core->aux = mp;
    if (PyThread_start_new_thread(aux_main, mp) == PYTHREAD_INVALID_THREAD_ID) {
        core->aux = NULL;
        PyErr_SetString(PyExc_RuntimeError, "cannot start the runtime's auxiliary thread");
        return NULL;
    }
    return mp;
}

py_m *
py_aux(void)
{
    return core->aux ? core->aux : start_aux();
}

int
py_submit(Goroutine *gp)
{
    py_m *mp = py_this_m();
    if (RT_UNLIKELY(atomic_load(&core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_preempt_kick();
    if (RT_LIKELY(mp != NULL)) {
        core->created++;
        rt_p_put_fresh(&mp->p, &gp->g, true);
        return 0;
    }
    mp = py_aux();
    if (mp == NULL)
        return -1;
    core->created++;
    gp->g.status = RT_G_RUNNABLE;
    rt_p_submit(&mp->p, &gp->g);
    return 0;
}

/* The Goroutine of a thread that is not an M (borrowed), made on first use.  Only the
   thread state's dict knows it: it dies with the thread, while finalizers of the
   thread's other data may still come here. */
static Goroutine *
foreign_g(void)
{
    PyObject *dict = PyThreadState_GetDict();
    if (dict == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    Goroutine *gp = (Goroutine *)PyDict_GetItemString(dict, FOREIGN_KEY);
    if (gp != NULL)
        return gp;
    /* Any P will do to reach the host; when the main thread has not come here yet
       there may be none. */
    py_m *mp = core->m0 ? core->m0 : core->aux ? core->aux : start_aux();
    gp = mp ? py_g_alloc() : NULL;
    if (gp == NULL)
        return NULL;
    py_seat *seat = PyMem_Calloc(1, sizeof(*seat));
    rt_parker *parker = PyMem_New(rt_parker, 1);
    if (seat == NULL || parker == NULL || rt_parker_init(parker) < 0) {
        PyMem_Free(parker);
        PyMem_Free(seat);
        Py_DECREF(gp);
        PyErr_NoMemory();
        return NULL;
    }
    seat->waiter.g = gp;
    seat->parker = parker;
    gp->seat = seat;
    gp->cold = true;
    gp->g.foreign = 1;
    gp->g.status = RT_G_RUNNING;
    gp->g.pp = &mp->p;
    gp->name = PyUnicode_FromFormat("thread-%lu", PyThread_get_thread_ident());
    if (gp->name == NULL || PyDict_SetItemString(dict, FOREIGN_KEY, (PyObject *)gp) < 0) {
        Py_DECREF(gp);
        return NULL;
    }
    Py_DECREF(gp);
    return gp;
}

Goroutine *
py_current(const char *what)
{
    py_m *mp = py_this_m();
    if (RT_UNLIKELY(mp == NULL))
        return foreign_g();
    if (RT_UNLIKELY(mp->curg == NULL))
        PyErr_Format(PyExc_RuntimeError,
                     "%s cannot be used here: the scheduler itself runs this code (a signal "
                     "handler or finalizer while all goroutines wait); start a goroutine "
                     "with runtime.go() instead", what);
    return mp->curg;
}

/* ---- time ---- */

int
py_deadline(PyObject *timeout, int64_t *deadline)
{
    if (timeout == NULL || timeout == Py_None) {
        *deadline = RT_FOREVER;
        return 0;
    }
    double s = PyFloat_AsDouble(timeout);
    if (s == -1.0 && PyErr_Occurred())
        return -1;
    if (isnan(s)) {
        PyErr_SetString(PyExc_ValueError, "a time in seconds must be a number, not NaN");
        return -1;
    }
    if (s > 9e9)                /* 285 years */
        *deadline = RT_FOREVER;
    else
        *deadline = rt_nanotime() + (s > 0 ? (int64_t)(s * 1e9) : 0);
    return 0;
}

PyObject *
py_raise_timeout(const char *what)
{
    PyErr_Format(PyExc_TimeoutError, "%s: the time is up", what);
    return NULL;
}

static PyObject *
m_sleep(PyObject *Py_UNUSED(module), PyObject *seconds)
{
    int64_t deadline;
    if (py_deadline(seconds, &deadline) < 0)
        return NULL;
    Goroutine *gp = py_current("sleep()");
    if (gp == NULL)
        return NULL;
    if (deadline <= rt_nanotime()) {
        if (py_yield(gp) < 0)
            return NULL;
    }
    else {
        rt_g_arm(&gp->g);
        if (py_park(gp, PY_WAIT_SLEEP, deadline) == RT_WAKE_INTERRUPT)
            return NULL;
    }
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
    return PyLong_FromUnsignedLongLong(core->created - core->finished + 1);
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

/* Called at exit.  A thread that is in the middle of something when the interpreter is
   taken down can bring it down with it (it may hold the lock of sys.stdout), so the
   auxiliary M is stopped where it runs no Python: at once if it sleeps, else when its
   goroutine parks or ends, which a GoExit hastens.  A goroutine that stays in C code
   is not waited for any longer than STOP_WAIT. */
#define STOP_WAIT 250           /* ms */

static PyObject *
m_stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    py_preempt_stop();
    py_m *mp = core->aux;
    if (mp == NULL || mp == py_tls_m)
        Py_RETURN_NONE;
    atomic_store(&mp->stopping, true);
    core->sched.netpoll->wake(mp->p.np);
    if (mp->curg != NULL && mp->tstate != NULL)
        PyThreadState_SetAsyncExc(mp->tstate->thread_id, core->exc_goexit);
    for (int ms = 0; ms < STOP_WAIT && !atomic_load(&mp->paused); ms++) {
        struct timespec one = {0, 1000000};
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&one, NULL);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

/* In the child of a fork.  The poller's descriptor is shared with the parent: what the
   child did there would be done to the parent's connections, too.  It gets a poller
   of its own, in which nothing is registered.  Other Ms did not come along. */
static PyObject *
m_after_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    py_preempt_after_fork();
    core->aux = NULL;
    if (core->m0 != NULL) {
        rt_p *pp = &core->m0->p;
        core->sched.netpoll->close(pp->np);
        int err = core->sched.netpoll->open(&pp->np);
        if (err < 0) {
            errno = -err;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        pp->event = pp->nevents = 0;
        core->main_ident = PyThread_get_thread_ident();
    }
    Py_RETURN_NONE;
}

static PyObject *
p_stats(py_m *mp)
{
    const rt_p_counters *c = &mp->p.count;
    return Py_BuildValue(
        "{sI sI sK sK sK sK sK sK sK sK sK sK sK sK sK sI sI sI}", "id", mp->p.id, "runq",
        (mp->p.runnext != NULL) + mp->p.started.len + rt_runq_len(&mp->p.fresh), "ticks",
        c->ticks, "switches", mp->switches, "workers", mp->workers, "runnext", c->runnext,
        "global", c->global, "inbox", c->inbox, "stolen", c->stolen, "overflows", c->overflows,
        "polls", c->polls, "blocking_polls", c->blocking_polls, "poll_events", c->poll_events,
        "timers_fired", c->timers_fired, "idle_workers", (unsigned long long)mp->nidle,
        "timers", mp->p.timers.len, "descriptors", mp->p.npd, "sleeping",
        (unsigned)atomic_load(&mp->p.sleeping));
}

PyObject *
py_stats(void)
{
    PyObject *ps = PyList_New(0);
    if (ps == NULL)
        return NULL;
    py_m *ms[] = {core->m0, core->aux};
    for (size_t i = 0; i < RT_ARRAY_LEN(ms); i++) {
        PyObject *p = ms[i] ? p_stats(ms[i]) : NULL;
        if (ms[i] != NULL && (p == NULL || PyList_Append(ps, p) < 0)) {
            Py_XDECREF(p);
            Py_DECREF(ps);
            return NULL;
        }
        Py_XDECREF(p);
    }
    return Py_BuildValue(
        "{sK sK sK sI sN s{sK sK sK}}", "goroutines", core->created - core->finished + 1,
        "created", core->created, "finished", core->finished, "global_runq",
        (unsigned)atomic_load(&core->sched.global.len), "ps", ps, "http", "connections",
        core->http.accepted - core->http.closed, "accepted", core->http.accepted, "requests",
        core->http.requests);
}

static PyMethodDef functions[] = {
    {"sleep", m_sleep, METH_O,
     "sleep(seconds, /)\n--\n\n"
     "Park the calling goroutine for at least that long; 0 or less yields.\n\n"
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
     "How many goroutines exist, the main one included.\n\n"
     "Go: runtime.NumGoroutine."},
    {"_on_sigint", m_on_sigint, METH_VARARGS, NULL},
    {"_stop", m_stop, METH_NOARGS, NULL},
    {"_after_fork", m_after_fork, METH_NOARGS, NULL},
    {0},
};
static PyMethodDef worker_def = {"goroutine_worker", worker_main, METH_VARARGS, NULL};
static PyMethodDef g0_def = {"g0", g0_main, METH_VARARGS, NULL};

int
py_sched_init(PyObject *module, const rt_netpoll_ops *ops)
{
    rt_sched_init(&core->sched, ops, (rt_host){.block = host_block, .unpark = host_unpark});
    core->worker_fn = PyCFunction_New(&worker_def, NULL);
    core->g0_fn = PyCFunction_New(&g0_def, NULL);
    if (core->worker_fn == NULL || core->g0_fn == NULL
        || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return PyThread_get_thread_ident() == core->main_ident ? start_m0() : 0;
}
