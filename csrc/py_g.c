/* py_g.c - goroutines: how they begin, run and end.
 *
 * References.  A goroutine that has not ended is kept alive by one reference that
 * belongs to the scheduler: run queues and wait queues hold no references of
 * their own, the live reference travels along.  py_g_finish() gives it up.
 *
 * The garbage collector sees a goroutine only once it has ended and somebody still
 * has its handle: before that the scheduler makes it reachable by definition, and
 * a goroutine nobody holds dies with its end.  What the frames of a waiting goroutine refer
 * to is counted, and so in use, but for some references of newer free-threaded builds.
 */
#include "py_bubble.h"
#include "py_explore.h"
#include "py_g.h"

#include <stdlib.h>

static const char *const wait_reasons[PY_WAIT_REASONS] = {
    [PY_WAIT_NONE] = "",
    [PY_WAIT_SLEEP] = "sleep",
    [PY_WAIT_CHAN_SEND] = "chan send",
    [PY_WAIT_CHAN_RECV] = "chan receive",
    [PY_WAIT_MUTEX] = "sync.Mutex.Lock",
    [PY_WAIT_GROUP] = "sync.WaitGroup.Wait",
    [PY_WAIT_JOIN] = "join",
    [PY_WAIT_IO] = "IO wait",
    [PY_WAIT_GOEXIT] = "goexit",
    [PY_WAIT_SYSCALL] = "syscall",      /* a call on a thread of the pool */
    [PY_WAIT_FUTURE] = "future",
    [PY_WAIT_SELECT] = "select",
    [PY_WAIT_SELECT_NONE] = "select (no cases)",
    [PY_WAIT_RWMUTEX_LOCK] = "sync.RWMutex.Lock",
    [PY_WAIT_RWMUTEX_RLOCK] = "sync.RWMutex.RLock",
    [PY_WAIT_ONCE] = "sync.Once.Do",
    [PY_WAIT_COND] = "sync.Cond.Wait",
    [PY_WAIT_SEMA] = "semacquire",
    [PY_WAIT_EVENT] = "sync.Event.Wait",
    [PY_WAIT_BUBBLE] = "synctest.Wait",
    [PY_WAIT_RUN_BUBBLE] = "synctest.Run",
};

const char *
py_wait_reason(int reason)
{
    return wait_reasons[reason];
}

#if PY_HAS_UNCOUNTED_REFS
int
py_g_traverse_waiting(PyObject *Py_UNUSED(module), visitproc visit, void *arg)
{
    py_m *mp;
    /* The world is stopped: nobody changes the lists. */
    for (uint32_t i = 0; core != NULL && (mp = py_each_m(i)) != NULL; i++)
        for (const py_seat *seat = mp->seats; seat != NULL; seat = seat->next) {
            int r = py_frames_visit(seat->frames, visit, arg);
            if (r != 0)
                return r;
        }
    return 0;
}
#endif

/* ---- life ---- */

/* Kept by the main M for the next burst: returning the memory of a large one to the system
   and faulting it in again would cost more than running the goroutines.  Other Ms keep
   fewer: what they have run was mostly spawned, and allocated, elsewhere. */
#define MAX_FREE_G 131072
#define MAX_FREE_G_OTHER 8192

#define ID_BATCH 16             /* ids an M takes at a time */

static RT_NOINLINE Goroutine *
alloc_slow(void)
{
    Goroutine *gp = PyObject_GC_New(Goroutine, core->goroutine_type);
    if (gp != NULL)
        memset((char *)gp + sizeof(PyObject), 0, sizeof(*gp) - sizeof(PyObject));
    return gp;
}

Goroutine *
py_g_alloc(void)
{
    py_m *mp = py_tls_m;
    Goroutine *gp;
    if (RT_LIKELY(mp != NULL && mp->free_g != NULL)) {
        gp = py_g_of(mp->free_g);
        mp->free_g = gp->g.link.next;
        mp->nfree_g--;
        _Py_NewReference((PyObject *)gp);
    }
    else {
        gp = alloc_slow();
        if (gp == NULL)
            return NULL;
    }
    py_share_object((PyObject *)gp);
    if (RT_UNLIKELY(mp == NULL))
        gp->id = atomic_fetch_add(&core->next_id, 1) + 1;
    else {
        if (mp->next_id == mp->end_id) {
            mp->next_id = atomic_fetch_add(&core->next_id, ID_BATCH);
            mp->end_id = mp->next_id + ID_BATCH;
        }
        gp->id = ++mp->next_id;
    }
    return gp;
}

static void
drop_call(Goroutine *gp)
{
    uint32_t n = gp->nargs + gp->nkw;
    gp->nargs = gp->nkw = 0;
    PyObject **args = py_g_args(gp);
    bool heap = gp->heap_args;
    gp->heap_args = false;
    for (uint32_t i = 0; i < n; i++)
        Py_DECREF(args[i]);
    if (RT_UNLIKELY(heap))
        PyMem_Free(args - 1);
    if (gp->cold)
        Py_CLEAR(gp->kwnames);
    Py_CLEAR(gp->fn);
}

int
py_g_clear(Goroutine *gp)
{
    drop_call(gp);
    Py_CLEAR(gp->code);
    if (!gp->cold)
        return 0;
    Py_CLEAR(gp->context);
    Py_CLEAR(gp->outcome);
    Py_CLEAR(gp->name);
    return 0;
}

int
py_g_traverse(Goroutine *gp, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(gp));
    for (uint32_t i = 0; i < gp->nargs + gp->nkw; i++)
        Py_VISIT(py_g_args(gp)[i]);
    Py_VISIT(gp->kwnames);
    Py_VISIT(gp->fn);
    Py_VISIT(gp->context);
    Py_VISIT(gp->outcome);
    return 0;
}

/* Report a failure that nobody will ever ask for. */
static void
report_failure(Goroutine *gp)
{
    if (!gp->failed || gp->asked)
        return;
    gp->asked = true;
    if (core->report_failure == NULL)
        return;
    PyObject *saved = py_take_exception();
    PyObject *r = PyObject_CallFunctionObjArgs(core->report_failure, gp, gp->outcome, NULL);
    if (r == NULL)
        PyErr_WriteUnraisable((PyObject *)gp);
    Py_XDECREF(r);
    if (saved != NULL)
        py_raise(saved);
}

#if PY_VERSION_HEX >= 0x030D0000
typedef struct {
    Goroutine **found;          /* owned, each */
    size_t n, cap;
} failures;

static int
visit_failure(PyObject *op, void *arg)
{
    failures *f = arg;
    Goroutine *gp = (Goroutine *)op;
    if (!Py_IS_TYPE(op, core->goroutine_type) || !gp->failed || gp->asked)
        return 1;
    if (f->n == f->cap) {
        size_t cap = 2 * f->cap + 64;
        Goroutine **found = realloc(f->found, cap * sizeof(*found));
        if (found == NULL)
            return 0;
        f->found = found;
        f->cap = cap;
    }
    f->found[f->n++] = (Goroutine *)Py_NewRef(op);
    return 1;
}

/* These versions clear modules before what a program's globals refer to is finalized: then
   there is nothing any more to report it with. */
void
py_g_report_failures(void)
{
    failures f = {0};
    PyUnstable_GC_VisitObjects(visit_failure, &f);
    for (size_t i = 0; i < f.n; i++) {
        report_failure(f.found[i]);
        Py_DECREF(f.found[i]);
    }
    free(f.found);
}
#else
void
py_g_report_failures(void)
{
}
#endif

void
py_g_finalize(PyObject *self)
{
    report_failure((Goroutine *)self);
}

static void
g_free(Goroutine *gp)
{
    py_m *mp = py_tls_m;
    bool reuse = mp != NULL && !gp->g.foreign
                 && mp->nfree_g < (mp->is_main ? MAX_FREE_G : MAX_FREE_G_OTHER);
    if (RT_UNLIKELY(gp->cold)) {
        if (PyObject_GC_IsTracked((PyObject *)gp))
            PyObject_GC_UnTrack(gp);
        /* A finalized object keeps that mark, and must not be used again. */
        reuse = reuse && !gp->failed && !PyObject_GC_IsFinalized((PyObject *)gp);
    }
    if (RT_UNLIKELY(gp->weakrefs != NULL))
        PyObject_ClearWeakRefs((PyObject *)gp);
    py_g_clear(gp);
    if (RT_UNLIKELY(gp->g.foreign && gp->seat != NULL)) {
        py_acquire(&core->lock);
        py_seat_unlink(&core->foreign, gp->seat);
        py_release(&core->lock);
        rt_parker_fini(gp->seat->parker);
        PyMem_Free(gp->seat->parker);
        PyMem_Free(gp->seat);
    }
    if (RT_LIKELY(reuse)) {
        gp->g.pp = NULL;
        gp->g.started = gp->g.pinned = gp->g.service = gp->g.held = 0;
        gp->failed = gp->asked = gp->cold = false;
        gp->g.link.next = mp->free_g;
        mp->free_g = &gp->g;
        mp->nfree_g++;
    }
    else {
        PyTypeObject *type = Py_TYPE(gp);
        PyObject_GC_Del(gp);
        Py_DECREF(type);
    }
}

void
py_g_dealloc(Goroutine *gp)
{
    if (RT_LIKELY(!gp->cold)) {
        g_free(gp);
        return;
    }
    if (gp->failed && !gp->asked && PyObject_CallFinalizerFromDealloc((PyObject *)gp) < 0)
        return;
    if (gp->outcome == NULL || !PyObject_IS_GC(gp->outcome)) {
        g_free(gp);
        return;
    }
    /* The result may be a goroutine whose result is a goroutine, and so on: a long
       chain must not use up the C stack. */
    if (PyObject_GC_IsTracked((PyObject *)gp))
        PyObject_GC_UnTrack(gp);
    Py_TRASHCAN_BEGIN(gp, py_g_dealloc)
    g_free(gp);
    Py_TRASHCAN_END
}

/* ---- running ---- */

void
py_g_run(py_m *mp, Goroutine *gp, py_seat *seat)
{
    PyThreadState *ts = mp->tstate;
    seat->waiter.g = gp;
    seat->nopreempt = 0;
    seat->bubble = gp->bubble;  /* of no meaning if it is not bubbled */
    gp->seat = seat;
    gp->g.started = gp->g.pinned = 1;
    gp->g.pp = &mp->p;
    RT_STORE(gp->g.status, RT_G_RUNNING);
    mp->curg = gp;
    py_reset_recursion(ts);
    PyObject *kwnames = NULL, *result;
    if (gp->cold) {
        if (RT_UNLIKELY(gp->g.bubbled))
            py_bubble_began(mp, seat->bubble);
        if (RT_UNLIKELY(gp->g.held))
            py_points_enter(mp);
        if (RT_UNLIKELY(gp->fn != NULL && py_take_pending(gp) < 0)) {
            result = NULL;              /* cancelled before it has begun */
            goto finish;
        }
        PyObject *context = gp->context;
        gp->context = NULL;
        if (context != NULL)
            Py_XDECREF(py_swap_context(ts, context));
        kwnames = gp->kwnames;
    }
    if (RT_LIKELY(gp->fn != NULL))
        result = PyObject_Vectorcall(gp->fn, py_g_args(gp),
                                     gp->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     kwnames);
    else
        result = gp->call.c.entry(gp);
    if (RT_UNLIKELY(mp->curg != gp))
        rt_throw("the function of a parked goroutine has returned: its greenlet was switched to "
                 "by another goroutine");
    if (ts->context != NULL)
        Py_XDECREF(py_swap_context(ts, NULL));
finish:
    if (RT_UNLIKELY(gp->cold && gp == core->main_g))
        py_m_end_child(result);
    if (RT_UNLIKELY(seat->nlocked != 0))
        py_m_unlock_all(mp, seat);
    py_g_finish(gp, result);
    seat->waiter.g = NULL;
    if (seat->greenlet != NULL)
        Py_CLEAR(seat->greenlet);
}

/* At exit a GoExit strikes anywhere, so code that had just given a lock back, or was about
   to take one, may do that twice: is exc such an accident? */
static bool
struck_at_exit(PyObject *exc)
{
    if (!atomic_load(&py_tls_m->stopping))
        return false;
    bool struck = false;
    Py_INCREF(exc);
    for (int i = 0; exc != NULL && !struck && i < 100; i++) {   /* it may be a ring */
        PyObject *context = PyException_GetContext(exc);
        Py_DECREF(exc);
        exc = context;
        struck = exc != NULL && PyErr_GivenExceptionMatches(exc, core->exc_goexit);
    }
    Py_XDECREF(exc);
    return struck;
}

static RT_COLD void
finish_failed(Goroutine *gp)
{
    if (PyErr_ExceptionMatches(core->exc_goexit)) {
        PyErr_Clear();
        return;
    }
    PyObject *exc = py_take_exception();
    if (PyErr_GivenExceptionMatches(exc, PyExc_SystemExit)
        || PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt)) {
        gp->asked = true;
        py_interrupt_main(Py_NewRef(exc));
    }
    else if (PyErr_GivenExceptionMatches(exc, core->exc_cancelled))
        gp->asked = true;       /* somebody wanted that */
    else if (struck_at_exit(exc))
        gp->asked = true;
    py_acquire(&gp->lock);
    PyObject *late = gp->outcome;
    gp->outcome = exc;
    gp->failed = gp->cold = true;
    py_release(&gp->lock);
    Py_XDECREF(late);
    if (Py_REFCNT(gp) == 1)
        report_failure(gp);
}

/* Somebody may hold gp's handle, or wait for its end. */
static RT_NOINLINE void
publish_end(Goroutine *gp, PyObject *result)
{
    py_waitq joiners = {0};
    PyObject *late = NULL;
    gp->cold = true;
    PyObject_GC_Track(gp);
    py_acquire(&gp->lock);
    if (!gp->failed) {
        late = gp->outcome;     /* an exception that came too late */
        gp->outcome = result;
    }
    atomic_store_explicit(&gp->g.status, RT_G_DEAD, memory_order_release);
    py_waitq_claim_all(&gp->joiners, RT_WAKE_READY, &joiners);
    py_release(&gp->lock);
    Py_XDECREF(late);
    py_ready_all(&joiners);
}

static inline void
mark_ended(Goroutine *gp, PyObject *result)
{
    if (Py_REFCNT(gp) != 1)
        publish_end(gp, result);
    else
        RT_STORE(gp->g.status, RT_G_DEAD);
}

static RT_NOINLINE void
finish_special(py_m *mp, Goroutine *gp, PyObject *result)
{
    RT_COUNT(mp->finished, !gp->g.service);
    mark_ended(gp, result);
    if (gp->g.held)
        py_explore_stop(mp, gp, PY_STOP_ENDS);  /* after its joiners are runnable */
    if (gp->g.bubbled)
        py_bubble_left(mp, gp);
}

void
py_g_finish(Goroutine *gp, PyObject *result)
{
    if (RT_UNLIKELY(result == NULL))
        finish_failed(gp);
    /* What is dropped here may run Python, and even park: this is still gp's run. */
    drop_call(gp);
    if (Py_REFCNT(gp) == 1)
        Py_CLEAR(result);
    py_m *mp = py_tls_m;
    mp->curg = NULL;
    if (RT_UNLIKELY(gp->g.service || gp->g.bubbled))
        finish_special(mp, gp, result);
    else {
        RT_COUNT(mp->finished, 1);
        mark_ended(gp, result);
    }
    Py_DECREF(gp);
}

static Goroutine *
g_alloc_c(PyObject *(*entry)(Goroutine *), void (*cancel)(Goroutine *), void *arg)
{
    Goroutine *gp = py_g_alloc();
    if (gp == NULL)
        return NULL;
    gp->call.c.entry = entry;
    gp->call.c.cancel = cancel;
    gp->call.c.arg = arg;
    if (RT_UNLIKELY(RT_LOAD(core->sched.sysmon.state) != RT_SYSMON_AWAKE))
        py_sysmon_kick();
    return gp;
}

int
py_g_spawn_c(py_m *mp, PyObject *(*entry)(Goroutine *), void (*cancel)(Goroutine *), void *arg)
{
    Goroutine *gp = g_alloc_c(entry, cancel, arg);
    if (gp == NULL)
        return -1;
    py_m *cur = py_tls_m;
    if (RT_LIKELY(cur != NULL))
        RT_COUNT(cur->created, 1);
    else
        atomic_fetch_add(&core->created, 1);
    rt_p_put_pinned(cur ? &cur->p : NULL, &mp->p, &gp->g);
    return 0;
}

int
py_g_spawn_service(py_m *mp, PyObject *(*entry)(Goroutine *))
{
    Goroutine *gp = g_alloc_c(entry, NULL, NULL);
    if (gp == NULL)
        return -1;
    gp->g.service = 1;
    rt_p_put_pinned(&mp->p, &mp->p, &gp->g);
    return 0;
}

void
py_g_run_at_once(Goroutine *gp)
{
    Py_XDECREF(gp->call.c.entry(gp));
}
