/* py_idle.c - what an M does when it has nothing to run: signals, deadlocks, sleep.
 *
 * Signals.  A signal must end a blocking poll of the main thread, and one that
 * comes between looking for pending signals and polling must not be lost: the main
 * thread blocks all signals, looks, and unblocks them atomically with the poll.  A
 * signal may still land on another thread of the program in between, so while
 * there are others a poll is limited to one second.  No thread blocks signals for
 * longer: the threads and processes it starts would inherit that.
 *
 * Deadlock.  Nothing can ever run again when all Ms sleep, without a timer or alarm, a
 * registered descriptor or anything queued, and nobody is left outside who could wake
 * a goroutine: no thread that is not an M, but for the runtime's own service threads
 * while they are parked, and no signal handler of the program's.  A foreign thread
 * counts whatever it does: it may hold a channel's other end.  The main thread
 * decides; the last M to fall asleep wakes it for that.
 *
 * Without a GIL the last release of an object by another thread than the one that made it
 * is left to that one.  An M that sleeps has to look for such releases, too, for they may run
 * finalizers, and does so in a goroutine: finalizers may wait.  If there is no memory for one the
 * scheduler itself looks: a release that is put off keeps a deadlock from being seen.
 */
#include "py_core.h"

#include <errno.h>
#include <signal.h>

/* Python signal handlers; what they raise goes to the main goroutine. */
static void
run_signal_handlers(void)
{
    if (PyErr_CheckSignals() < 0)
        py_interrupt_main(py_take_exception());
}

/* ---- deadlock ---- */

typedef struct {
    uint32_t foreign;           /* threads that are not Ms, without the quiet ones */
    uint32_t threads;           /* all thread states */
} census;

static void
count_threads(void *arg)
{
    census *c = arg;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; ts != NULL; ts = PyThreadState_Next(ts))
        c->threads++;
    uint32_t ours = core->sysmon_tstate != NULL;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++)
        ours += mp->tstate != NULL;
    for (const py_seat *seat = core->foreign; seat != NULL; seat = seat->next)
        ours += seat->service && RT_LOAD(seat->waiter.g->g.status) == RT_G_WAITING;
    c->foreign = c->threads - ours;
}

static bool
foreign_threads(void)
{
    census c = {0};
    py_stop_world(count_threads, &c);
    return c.foreign != 0;
}

/* Do all other Ms sleep, with nothing to wake them?  *ticks sums up what they have run. */
static bool
others_quiet(const py_m *me, uint64_t *ticks)
{
    bool quiet = atomic_load(&core->sched.global.len) == 0;
    *ticks = 0;
    py_m *mp;
    for (uint32_t i = 0; (mp = py_each_m(i)) != NULL; i++) {
        *ticks += RT_LOAD(mp->p.count.ticks);
        quiet = quiet && rt_alarms_next(&mp->p.alarms) == RT_FOREVER;
        if (mp != me && !RT_LOAD(mp->stopping))
            quiet = quiet && atomic_load(&mp->p.sleeping) != RT_AWAKE
                    && !rt_p_has_work(&mp->p) && !py_has_merges(mp->tstate);
    }
    return quiet;
}

/* Call a hook in the scheduler's context; what it returns (owned), or NULL: what it raised
   is on its way to the main goroutine. */
static PyObject *
call_hook(PyObject *fn)
{
    core->hook_under = PyThreadState_GetFrame(PyThreadState_Get());
    PyObject *r = PyObject_CallNoArgs(fn);
    if (r == NULL)
        py_interrupt_main(py_take_exception());
    Py_CLEAR(core->hook_under);
    return r;
}

/* Nothing can ever wake anything: print all stacks and tell the main goroutine.  True if
   it was told, or if there is something to run after all. */
static RT_COLD bool
report_deadlock(py_m *mp)
{
    uint64_t before, after;
    if (py_is_finalizing()) {           /* what might have been woken is gone */
        py_interrupt_main(py_finalizing_error());
        return true;
    }
    /* An M seen asleep may have been woken by one seen asleep later: then it has run
       something in between, or has it in its inbox. */
    if (!others_quiet(mp, &before) || foreign_threads() || !others_quiet(mp, &after)
        || before != after || core->may_deadlock == NULL || core->report_deadlock == NULL)
        return false;
    PyObject *r = call_hook(core->may_deadlock);
    bool deadlock = r == Py_True;
    Py_XDECREF(r);
    if (deadlock && !rt_p_runnable(&mp->p))
        Py_XDECREF(call_hook(core->report_deadlock));
    /* Each may have run finalizers and signal handlers. */
    if (!deadlock || rt_p_runnable(&mp->p) || rt_alarms_next(&mp->p.alarms) != RT_FOREVER)
        return rt_p_runnable(&mp->p);
    PyErr_Format(core->exc_deadlock,
                 "all goroutines are asleep: nothing that could wake one is left "
                 "(the main goroutine waits in: %s)",
                 py_wait_reason(core->main_g->g.reason));
    py_interrupt_main(py_take_exception());
    return true;
}

/* ---- sleep ---- */

#define LOOK_WAIT 1000000000    /* ns, longest sleep while signals or releases may come */

static PyObject *
merge_main(Goroutine *Py_UNUSED(gp))
{
    return PyObject_CallNoArgs(core->nothing);
}

/* Have the interpreter look for releases that were left to mp's thread.  True if there is
   something to run for that. */
static bool
merge(py_m *mp)
{
    if (!py_has_merges(mp->tstate))
        return false;
    if (py_g_spawn_service(mp, merge_main) == 0)
        return true;
    PyErr_Clear();
    PyObject *r = merge_main(NULL);
    if (r == NULL)
        PyErr_Clear();                  /* it is tried again, as long as there are any */
    Py_XDECREF(r);
    return rt_p_runnable(&mp->p);
}

static bool
other_threads(void)
{
#ifdef Py_GIL_DISABLED
    return true;                /* the list cannot be looked at without stopping them */
#else
    PyThreadState *first = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    return PyThreadState_Next(first) != NULL;
#endif
}

static void
block_main(py_m *mp, int64_t timeout)
{
    rt_p *pp = &mp->p;
    run_signal_handlers();      /* here, so that it is rare below */
    if (rt_p_runnable(pp))
        return;
    if (timeout == RT_FOREVER && pp->npd == 0 && report_deadlock(mp))
        return;
    if (timeout > LOOK_WAIT && other_threads())
        timeout = LOOK_WAIT;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    run_signal_handlers();
    if (rt_p_runnable(pp))
        timeout = 0;
    PyThreadState *ts = PyEval_SaveThread();
    int n = rt_p_poll(pp, timeout, &old);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    PyEval_RestoreThread(ts);
    rt_p_dispatch(pp, n < 0 ? 0 : n);
    run_signal_handlers();
}

void
py_idle_block(rt_p *pp, int64_t timeout)
{
    py_m *mp = py_m_of(pp), *m0 = core->m0;
    if (merge(mp))
        return;
    if (mp->is_main) {
        block_main(mp, timeout);
        return;
    }
    uint64_t ticks;
    PyThreadState *ts = PyEval_SaveThread();
    if (timeout == RT_FOREVER && pp->npd == 0 && m0 != NULL
        && (py_has_merges(m0->tstate) || others_quiet(mp, &ticks)))
        rt_p_wake(&m0->p);              /* the last to fall asleep: is it a deadlock? */
#ifdef Py_GIL_DISABLED
    if (timeout > LOOK_WAIT)
        timeout = LOOK_WAIT;
#endif
    int n = rt_p_poll(pp, timeout, NULL);
    if (atomic_load(&mp->stopping))
        py_m_pause(mp);
    PyEval_RestoreThread(ts);
    if (n == -EINTR && m0 != NULL)
        rt_p_wake(&m0->p);              /* the signal is the main thread's */
    rt_p_dispatch(pp, n < 0 ? 0 : n);
}
